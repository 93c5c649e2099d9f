"""`token_expert_enrichment`: token ids that an expert sees more often than chance.

Readings: N counts every token of the layer, those of unknown id too, which are no pair; rows are sorted by the
leading columns, as all tables are, so by token id within an expert. Probabilities are exact fractions until the end.
"""

from fractions import Fraction
from math import comb

from .notebook_arrays import table
from .routing_run import RoutingRun

LEAST_COUNT = 5
WRITTEN = 50


def upper_tail(population: int, successes: int, draws: int, at_least: int) -> Fraction:
    """P(X >= at_least) of the hypergeometric distribution."""
    ways = sum(
        comb(successes, x) * comb(population - successes, draws - x)
        for x in range(at_least, min(successes, draws) + 1)
        if draws - x <= population - successes
    )
    return Fraction(ways, comb(population, draws))


def benjamini_hochberg(p_values: list[Fraction]) -> list[Fraction]:
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [Fraction(1)] * len(p_values)
    smallest = Fraction(1)
    for rank in range(len(order), 0, -1):
        smallest = min(smallest, p_values[order[rank - 1]] * len(order) / rank)
        adjusted[order[rank - 1]] = smallest
    return adjusted


def token_expert_enrichment(run: RoutingRun, letters: str = "") -> dict:
    """`letters`: the text of token id i is letters[i]."""
    rows = []
    for name, layer in run.layers.items():
        of_token: dict[int, int] = {}
        of_expert = [0] * layer.num_experts
        both: dict[tuple[int, int], int] = {}
        for token in range(run.num_tokens):
            token_id = int(run.token_id[token])
            if token_id != -1:
                of_token[token_id] = of_token.get(token_id, 0) + 1
            for expert in set(layer.ranked_ids(token)):
                of_expert[expert] += 1
                if token_id != -1:
                    both[expert, token_id] = both.get((expert, token_id), 0) + 1
        pairs = sorted(pair for pair, count in both.items() if count >= LEAST_COUNT)
        total = run.num_tokens
        p_values = benjamini_hochberg([upper_tail(total, of_expert[e], of_token[t], both[e, t]) for e, t in pairs])
        for expert in range(layer.num_experts):
            found = []
            for (e, t), p in zip(pairs, p_values, strict=True):
                if e == expert:
                    lift = Fraction(both[e, t], of_token[t]) / Fraction(of_expert[e], total)
                    found.append((p, -lift, t))
            for p, negative_lift, t in sorted(sorted(found)[:WRITTEN], key=lambda row: row[2]):
                text = letters[t] if t < len(letters) else None
                row = (run.component, name, expert, t, text, both[expert, t], float(-negative_lift), float(p))
                rows.append(row)
    columns = ["component", "layer", "expert_id", "token_id", "text", "count", "lift", "p_value"]
    return {"token_expert_enrichment": table(columns, rows)}

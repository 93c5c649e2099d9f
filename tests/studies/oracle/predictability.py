"""`predictability`: the experts of a layer, told from those of the layer before.

Readings: P(x | e) is the share of the tokens that selected e whose next ids hold x; scored tokens have at least one
next id; `recall_token` is a mean over the scored tokens with a known token id; an id that was never counted has no
favourites, so its ties go to the lowest ids. Exact fractions, so that ties are ties.
"""

from fractions import Fraction
from itertools import pairwise

from .notebook_arrays import table
from .routing_run import RoutingRun


def best(scores: list[Fraction], k: int) -> set[int]:
    return set(sorted(range(len(scores)), key=lambda x: (-scores[x], x))[:k])


def mean_recall(recalls: list[Fraction]) -> float | None:
    return float(sum(recalls) / len(recalls)) if recalls else None


def predictability(run: RoutingRun) -> dict:
    rows = []
    names = list(run.layers)
    known = [t for t in range(run.num_tokens) if run.sample[t] >= 0]
    enough = len(run.known_samples()) >= 2
    for name, next_name in pairwise(names):
        here, there = run.layers[name], run.layers[next_name]
        num_next, k = there.num_experts, there.top_k
        popular = [Fraction(0)] * num_next
        tokens_with = [0] * here.num_experts
        pairs = [[0] * num_next for _ in range(here.num_experts)]
        by_token: dict[int, list[Fraction]] = {}
        for token in known:
            if run.sample[token] % 2 == 0:
                ids, next_ids = set(here.ranked_ids(token)), set(there.ranked_ids(token))
                of_token = by_token.setdefault(int(run.token_id[token]), [Fraction(0)] * num_next)
                for x in next_ids:
                    popular[x] += 1
                    of_token[x] += 1
                for e in ids:
                    tokens_with[e] += 1
                    for x in next_ids:
                        pairs[e][x] += 1
        recalls = {"popular": [], "ids": [], "token": []}
        scored = 0
        for token in known:
            next_ids = set(there.ranked_ids(token))
            if run.sample[token] % 2 == 0 or not next_ids:
                continue
            scored += 1
            expected = [
                sum(
                    (Fraction(pairs[e][x], tokens_with[e]) for e in here.ranked_ids(token) if tokens_with[e]),
                    Fraction(0),
                )
                for x in range(num_next)
            ]
            named = {"popular": best(popular, k), "ids": best(expected, k)}
            if run.token_id[token] != -1:
                named["token"] = best(by_token.get(int(run.token_id[token]), [Fraction(0)] * num_next), k)
            for way, experts in named.items():
                recalls[way].append(Fraction(len(experts & next_ids), len(next_ids)))
        values = [mean_recall(recalls[way]) if enough else None for way in ("popular", "ids", "token")]
        rows.append((run.component, name, next_name, scored, *values))
    columns = ["component", "from_layer", "to_layer", "tokens", "recall_popular", "recall_ids", "recall_token"]
    return {"predictability": table(columns, rows)}

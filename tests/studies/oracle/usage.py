"""Usage as metrics.md has it, over a run: how often each expert is chosen, by range, phase and between two runs.

`tokens` of the functions below are the rows that count, by default all.
"""

import numpy as np

from .notebook_arrays import table
from .routing_run import RoutingRun


def in_phase(run: RoutingRun, phase: str) -> list[int]:
    wanted = {"prompt": 0, "generation": 1}[phase]
    return [t for t in range(run.num_tokens) if run.phase[t] == wanted]


def in_range(run: RoutingRun, text: str) -> list[int]:
    """A Python slice over the concatenated rows, `A:B`."""
    start, stop = (int(part) if part else None for part in text.split(":"))
    return list(range(run.num_tokens))[start:stop]


def usage_of(run: RoutingRun, layer: str, tokens=None) -> list[float | None]:
    """c / T"""
    tokens = list(range(run.num_tokens)) if tokens is None else tokens
    return [c / len(tokens) if tokens else None for c in run.layers[layer].counts(tokens)]


def load_cv(counts: list[int]) -> float:
    """The deviation has ddof = 1."""
    if len(counts) == 1 or sum(counts) == 0:
        return 0.0
    return float(np.std(counts, ddof=1) / np.mean(counts))


def gini(counts: list[int]) -> float | None:
    """Mean absolute difference over twice the mean, of all pairs."""
    total = sum(counts)
    if total == 0:
        return None
    n = len(counts)
    return sum(abs(a - b) for a in counts for b in counts) / (2 * n * total)


def jain(counts: list[int]) -> float | None:
    return sum(counts) ** 2 / (len(counts) * sum(c * c for c in counts)) if sum(counts) else None


def usage(run: RoutingRun, tokens=None) -> dict:
    """`usage` and `load_balance`."""
    tokens = list(range(run.num_tokens)) if tokens is None else tokens
    rows, balance = [], []
    for name, layer in run.layers.items():
        counts = layer.counts(tokens)
        mean = sum(counts) / len(counts)
        for expert, used in enumerate(usage_of(run, name, tokens)):
            rows.append((run.component, name, expert, counts[expert], used, counts[expert] / mean if mean else None))
        balance.append(
            (
                *(run.component, name, len(tokens), load_cv(counts), max(counts) / mean - 1 if mean else None),
                *(gini(counts), jain(counts), sum(c > 0 for c in counts), sum(c == 0 for c in counts)),
                sum(c < mean / 2 for c in counts),
            )
        )
    columns = ["component", "layer", "tokens", "load_cv", "max_violation", "gini", "jain", "active_experts"]
    return {
        "usage": table(["component", "layer", "expert_id", "selected_count", "usage", "load_ratio"], rows),
        "load_balance": table([*columns, "dead_experts", "underused_experts"], balance),
    }


def usage_comparison(a: RoutingRun, b: RoutingRun, tokens_a=None, tokens_b=None) -> dict:
    """Dominant is `a`, `b`, or nothing where both use the expert alike."""
    rows = []
    for name in a.layers:
        pairs = zip(usage_of(a, name, tokens_a), usage_of(b, name, tokens_b), strict=True)
        for expert, (x, y) in enumerate(pairs):
            specialization = abs(x - y) / (x + y) if x + y > 0 else 0.0
            rows.append((name, expert, x, y, x - y, specialization, "a" if x > y else "b" if y > x else None))
    columns = ["layer", "expert_id", "a", "b", "diff", "specialization", "dominant"]
    return {"usage_comparison": table(columns, rows)}

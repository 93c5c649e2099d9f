"""`group_usage` and `group_difference`: what is not drawn at random. Bounds and p-values have properties only."""

import math

from .notebook_arrays import table
from .routing_run import RoutingRun


def groups_of(run: RoutingRun, key: str) -> dict[str, list[int]]:
    """Tokens of each group, by name. `phase`, or a field of the samples' `doc`."""
    out: dict[str, list[int]] = {}
    for token in range(run.num_tokens):
        if key == "phase":
            name = ["prompt", "generation"][int(run.phase[token])]
        elif run.sample[token] >= 0 and key in run.docs[int(run.sample[token])]:
            name = str(run.docs[int(run.sample[token])][key])
        else:
            continue
        out.setdefault(name, []).append(token)
    return dict(sorted(out.items()))


def group_usage(run: RoutingRun, key: str) -> dict:
    """Without the bounds."""
    rows = []
    for name, layer in run.layers.items():
        for group, tokens in groups_of(run, key).items():
            samples = len({int(run.sample[t]) for t in tokens})
            for expert, count in enumerate(layer.counts(tokens)):
                rows.append((run.component, name, group, samples, len(tokens), expert, count / len(tokens)))
    columns = ["component", "layer", "group", "samples", "tokens", "expert_id", "usage"]
    return {"group_usage": table(columns, rows)}


def js_divergence(p: list[float], q: list[float]) -> float:
    """Bits."""

    def to_middle(x: list[float], y: list[float]) -> float:
        return sum(a * math.log2(a / ((a + b) / 2)) for a, b in zip(x, y, strict=True) if a > 0)

    return (to_middle(p, q) + to_middle(q, p)) / 2


def group_difference(run: RoutingRun, key: str) -> dict:
    """Without the p-values."""
    rows = []
    for name, layer in run.layers.items():
        groups = groups_of(run, key)
        names = list(groups)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                shares = []
                for group in (a, b):
                    counts = layer.counts(groups[group])
                    shares.append([c / sum(counts) for c in counts])
                rows.append((run.component, name, a, b, js_divergence(*shares)))
    return {"group_difference": table(["component", "layer", "group_a", "group_b", "js_divergence"], rows)}

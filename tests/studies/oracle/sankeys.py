"""The flows that the notebook draws as Sankeys: 2.3, 2.4 (and the bars beside it), 2.5 and 2.17.

A link is (stage, source, target, value); a node is ("position", s), ("expert", e), ("attention", 0), ("group", q),
("region", r) or ("layer_expert", l, e), all counted from 0. `sample` and `layer` are indices. Readings: the
notebook's fixed length is cut to the width of the arrays; the last of its three versions of 2.17 is the notebook's,
and of several residues that it would take for padding the first sample's is.
"""

import numpy as np

from .layers import importance, transition_sums
from .notebook_arrays import NotebookArrays, ranked, table

COLUMNS = ["stage", "source", "target", "value"]
NOTEBOOK_LENGTH = 140
LEGIBLE_LENGTH = 100


def sankey_token_expert(arrays: NotebookArrays, sample: int, layer: int, notebook: bool = False) -> dict:
    n = min(NOTEBOOK_LENGTH, arrays.width) if notebook else arrays.length(sample)
    received = arrays.attention[layer, sample, :n, :n].sum(axis=0)
    links = []
    outflow, tokens_of = {}, {}
    for s in range(n):
        for expert, gate in arrays.slots(layer, sample, s):
            if arrays.tokens[sample, s] != -1:
                links.append((1, ("position", s), ("expert", expert), gate))
            outflow[expert] = outflow.get(expert, 0.0) + gate * received[s]
            tokens_of.setdefault(expert, set()).add(s)
    for expert in sorted(outflow):
        mean = np.mean([received[s] for s in sorted(tokens_of[expert])])
        links.append((2, ("expert", expert), ("attention", 0), mean if notebook else outflow[expert]))
    return {"sankey_token_expert": table(COLUMNS, links)}


def expert_usage_of(arrays: NotebookArrays, sample: int, layer: int, n: int) -> np.ndarray:
    """Sum of gates per expert over the first n positions."""
    used = np.zeros(arrays.num_experts)
    for s in range(n):
        for expert, gate in arrays.slots(layer, sample, s):
            used[expert] += gate
    return used


def most_used(used: np.ndarray, limit: int) -> list[int]:
    return [e for e in ranked(used)[:limit] if used[e] > 0]


def expert_usage_bar(arrays: NotebookArrays, sample: int, layer: int, notebook: bool = False) -> dict:
    used = expert_usage_of(arrays, sample, layer, min(arrays.length(sample), LEGIBLE_LENGTH))
    rows = [(rank, e, used[e]) for rank, e in enumerate(most_used(used, 10), start=1)]
    return {"expert_usage_bar": table(["rank", "expert_id", "usage"], rows)}


def sankey_expert_region(arrays: NotebookArrays, sample: int, layer: int, notebook: bool = False) -> dict:
    n = min(arrays.length(sample), LEGIBLE_LENGTH)
    used = expert_usage_of(arrays, sample, layer, n)
    top = most_used(used, 10)
    size = n // 5
    bounds = [r * size for r in range(6)] if notebook else [r * n // 5 for r in range(6)]
    links, flow = [], {e: np.zeros(5) for e in top}
    for s in range(n):
        row = arrays.attention[layer, sample, s, :n]
        into = np.array([row[bounds[r] : bounds[r + 1]].sum() for r in range(5)])
        seen = set()
        for expert, gate in arrays.slots(layer, sample, s):
            if expert not in top:
                continue
            if gate > 0.1:
                links.append((1, ("position", s), ("expert", expert), 100 * gate if notebook else gate))
            if notebook:
                if expert not in seen:
                    flow[expert] += into
                seen.add(expert)
            elif row.sum() > 0:
                flow[expert] += gate * into / row.sum()
    for expert in top:
        total = flow[expert].sum()
        for r in range(5):
            if flow[expert][r] > 0.05 * total:
                value = 200 * flow[expert][r] / total if notebook else flow[expert][r]
                links.append((2, ("expert", expert), ("region", r), value))
    return {"sankey_expert_region": table(COLUMNS, links)}


def sankey_group_expert_region(arrays: NotebookArrays, sample: int, layer: int, notebook: bool = False) -> dict:
    n = min(NOTEBOOK_LENGTH, arrays.width) if notebook else arrays.length(sample)
    if notebook and n < 8:
        return {"sankey_group_expert_region": table(COLUMNS, [])}
    top = most_used(expert_usage_of(arrays, sample, layer, n), 8)
    starts = [q * n // 8 for q in range(9)]
    bounds = [r * (n // 4) for r in range(5)] if notebook else [r * n // 4 for r in range(5)]
    from_group = {e: np.zeros(8) for e in top}
    into_region = {e: np.zeros(4) for e in top}
    for s in range(n):
        group = min(s // (n // 8), 7) if notebook else next(q for q in range(8) if starts[q] <= s < starts[q + 1])
        row = arrays.attention[layer, sample, s, :n]
        into = np.array([row[bounds[r] : bounds[r + 1]].sum() for r in range(4)])
        for expert, gate in arrays.slots(layer, sample, s):
            if expert in top:
                from_group[expert][group] += gate
                if notebook:
                    into_region[expert] += gate * into
                elif row.sum() > 0:
                    into_region[expert] += gate * into / row.sum()
    links = []
    for q in range(8):
        for expert in top:
            value = from_group[expert][q]
            if value > (0.05 if notebook else 0.01 * from_group[expert].sum()):
                links.append((1, ("group", q), ("expert", expert), 15 * value if notebook else value))
    for expert in top:
        total = into_region[expert].sum()
        for r in range(4):
            value = into_region[expert][r]
            if notebook and value > 0.05 * total:
                links.append((2, ("expert", expert), ("region", r), 20 * value / total))
            elif not notebook and value > 0:
                links.append((2, ("expert", expert), ("region", r), value))
    return {"sankey_group_expert_region": table(COLUMNS, links)}


def guessed_padding(tokens: np.ndarray) -> int:
    """What the notebook's last version takes for padding: a residue that fills the last 10 places of a sample."""
    for line in tokens[:10]:
        if len(set(line[-10:].tolist())) == 1 and line[-1] != -1:
            return int(line[-1])
    return -1


def sankey_evolution(arrays: NotebookArrays, notebook: bool = False) -> dict:
    if notebook:
        padding = guessed_padding(arrays.tokens)
        tokens = np.where(arrays.tokens == padding, -1, 0)
        arrays = NotebookArrays(arrays.gates, arrays.topk, tokens)
    top = [most_used(line, 6) for line in importance(arrays)]
    links = []
    for layer, sums in enumerate(transition_sums(arrays)):
        for x in top[layer]:
            for y in top[layer + 1]:
                value = 100 * sums[x, y] if notebook else sums[x, y] / sums.sum() if sums.sum() > 0 else 0.0
                if sums[x, y] > (0.01 if notebook else 0):
                    links.append((layer + 1, ("layer_expert", layer, x), ("layer_expert", layer + 1, y), value))
    return {"sankey_evolution": table(COLUMNS, links)}

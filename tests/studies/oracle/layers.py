"""Studies of the notebook that need no attention: 2.8 and 2.10 to 2.17.

`notebook` counts padding where the notebook does (usage, importance, transitions, statistics of layers). Readings: a
layer without any assigned slot has entropy 0, its most active expert is 0 and the expert's ratio is undefined.
"""

import math

import numpy as np

from .notebook_arrays import NotebookArrays, ranked, table


def selected_counts(arrays: NotebookArrays, notebook: bool) -> np.ndarray:
    """c [L, E]"""
    counts = np.zeros((arrays.num_layers, arrays.num_experts))
    for layer in range(arrays.num_layers):
        for sample, position in arrays.places(with_padding=notebook):
            for expert, _ in arrays.slots(layer, sample, position):
                counts[layer, expert] += 1
    return counts


def gate_sums(arrays: NotebookArrays, notebook: bool) -> np.ndarray:
    """[L, E]"""
    sums = np.zeros((arrays.num_layers, arrays.num_experts))
    for layer in range(arrays.num_layers):
        for sample, position in arrays.places(with_padding=notebook):
            for expert, gate in arrays.slots(layer, sample, position):
                sums[layer, expert] += gate
    return sums


def normalised(sums: np.ndarray) -> np.ndarray:
    """Each line divided by its sum; 0 where that is 0."""
    out = np.zeros_like(sums)
    for line in range(len(sums)):
        if sums[line].sum() > 0:
            out[line] = sums[line] / sums[line].sum()
    return out


def usage(arrays: NotebookArrays, notebook: bool = False) -> np.ndarray:
    return normalised(selected_counts(arrays, notebook))


def importance(arrays: NotebookArrays, notebook: bool = False) -> np.ndarray:
    return normalised(gate_sums(arrays, notebook))


def layer_statistics(arrays: NotebookArrays, notebook: bool = False) -> dict:
    rows = []
    for layer, counts in enumerate(selected_counts(arrays, notebook)):
        total = counts.sum()
        num_experts = arrays.num_experts
        if notebook:
            p = counts / (total + 1e-10)
            entropy = -sum(x * math.log2(x + 1e-10) for x in p)
            ratio = entropy / math.log2(num_experts) if num_experts > 1 else None
        else:
            entropy = -sum(c / total * math.log2(c / total) for c in counts if c > 0)
            ratio = entropy / math.log2(num_experts) if num_experts > 1 else 0.0
        top = ranked(counts)[0]
        rows.append((layer + 1, int((counts > 0).sum()), entropy, ratio, top, counts[top] / total if total else None))
    columns = ["layer", "active_experts", "entropy", "entropy_ratio", "max_expert", "max_expert_ratio"]
    return {"layer_statistics": table(columns, rows)}


def expert_usage(arrays: NotebookArrays, notebook: bool = False) -> dict:
    """The notebook names no table: layer, expert_id, usage, importance."""
    used, important = usage(arrays, notebook), importance(arrays, notebook)
    rows = [
        (layer + 1, expert, used[layer, expert], important[layer, expert])
        for layer in range(arrays.num_layers)
        for expert in range(arrays.num_experts)
    ]
    return {"expert_usage": table(["layer", "expert_id", "usage", "importance"], rows)}


def layer_changes(arrays: NotebookArrays, notebook: bool = False) -> dict:
    used, important = usage(arrays, notebook), importance(arrays, notebook)
    rows = [
        (
            layer + 1,
            layer + 2,
            sum(abs(used[layer + 1, e] - used[layer, e]) for e in range(arrays.num_experts)),
            sum(abs(important[layer + 1, e] - important[layer, e]) for e in range(arrays.num_experts)),
        )
        for layer in range(arrays.num_layers - 1)
    ]
    return {"layer_changes": table(["from_layer", "to_layer", "change_usage", "change_importance"], rows)}


def top_experts(arrays: NotebookArrays, notebook: bool = False) -> dict:
    rows = []
    for layer, values in enumerate(importance(arrays, notebook)):
        cumulative = 0.0
        for rank, expert in enumerate(ranked(values), start=1):
            cumulative += values[expert]
            rows.append((layer + 1, rank, expert, values[expert], cumulative))
            if cumulative > 0.8:
                break
    return {"top_experts": table(["layer", "rank", "expert_id", "importance", "cumulative"], rows)}


def stability(arrays: NotebookArrays, notebook: bool = False) -> list[float | None]:
    """Per expert; None where it has no importance in any layer. The deviation is the population's."""
    values = importance(arrays, notebook)
    deviation, mean = values.std(axis=0), values.mean(axis=0)
    if notebook:
        raw = 1 / (deviation + 1e-10)
        return list(raw / raw.max())
    return [1 / (1 + d / m) if m > 0 else None for d, m in zip(deviation, mean, strict=True)]


def expert_stability(arrays: NotebookArrays, notebook: bool = False) -> dict:
    """The notebook names no table; as its bars: descending, ties to the lower id, undefined ones last."""
    values = stability(arrays, notebook)
    order = sorted(range(len(values)), key=lambda e: (values[e] is None, -(values[e] or 0), e))
    return {"expert_stability": table(["expert_id", "stability"], [(e, values[e]) for e in order])}


def transition_sums(arrays: NotebookArrays, notebook: bool = False) -> np.ndarray:
    """T [L - 1, E, E]"""
    sums = np.zeros((max(arrays.num_layers - 1, 0), arrays.num_experts, arrays.num_experts))
    for layer in range(arrays.num_layers - 1):
        for sample, position in arrays.places(with_padding=notebook):
            for x, gate in arrays.slots(layer, sample, position):
                for y, next_gate in arrays.slots(layer + 1, sample, position):
                    sums[layer, x, y] += gate * next_gate
    return sums


def expert_transitions(arrays: NotebookArrays, notebook: bool = False) -> dict:
    rows = []
    for layer, sums in enumerate(transition_sums(arrays, notebook)):
        for x in range(arrays.num_experts):
            for y in range(arrays.num_experts):
                if sums[x, y] > 0:
                    rows.append((layer + 1, layer + 2, x, y, sums[x, y], sums[x, y] / sums[x].sum()))
    columns = ["from_layer", "to_layer", "from_expert", "to_expert", "weight", "probability"]
    return {"expert_transitions": table(columns, rows)}


def expert_evolution_stats(arrays: NotebookArrays, notebook: bool = False) -> dict:
    used, important, stable = usage(arrays, notebook), importance(arrays, notebook), stability(arrays, notebook)
    columns = ["expert_id", "stability"]
    for layer in range(arrays.num_layers):
        columns += [f"layer_{layer}_importance", f"layer_{layer}_usage"]
    rows = []
    for expert in range(arrays.num_experts):
        row = [expert, stable[expert]]
        for layer in range(arrays.num_layers):
            row += [important[layer, expert], used[layer, expert]]
        rows.append(tuple(row))
    return {"expert_evolution_stats": table(columns, rows)}


def expert_cooperation(arrays: NotebookArrays, notebook: bool = False) -> dict:
    """Valid tokens in both definitions. Pairs that share no token are not listed.

    The notebook's share is the entry of its own normalised matrix: half of what the pair owns, of a sum with
    the diagonal.
    """
    rows = []
    num_experts = arrays.num_experts
    for layer in range(arrays.num_layers):
        strength = np.zeros((num_experts, num_experts))
        both = np.zeros((num_experts, num_experts))
        containing = np.zeros(num_experts)
        num_tokens = 0
        for sample, position in arrays.places():
            num_tokens += 1
            slots = list(arrays.slots(layer, sample, position))
            for a, (x, gate_a) in enumerate(slots):
                for b, (y, gate_b) in enumerate(slots):
                    if a != b:
                        strength[x, y] += math.sqrt(gate_a * gate_b)
            experts = {expert for expert, _ in slots}
            for x in experts:
                containing[x] += 1
                for y in experts - {x}:
                    both[x, y] += 1
        if notebook:
            share = strength / (strength.sum() + 1e-10)
        else:
            np.fill_diagonal(strength, 0)
            share = 2 * strength / strength.sum() if strength.sum() > 0 else np.zeros_like(strength)
        pairs = [(x, y) for x in range(num_experts) for y in range(x + 1, num_experts) if both[x, y] > 0]
        for x, y in sorted(pairs, key=lambda pair: (-share[pair], pair)):
            lift = both[x, y] * num_tokens / (containing[x] * containing[y])
            rows.append((layer + 1, x, y, strength[x, y], share[x, y], int(both[x, y]), lift))
    columns = ["layer", "expert_a", "expert_b", "strength", "share", "tokens", "lift"]
    return {"expert_cooperation": table(columns, rows)}

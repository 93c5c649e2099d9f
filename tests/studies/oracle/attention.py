"""Studies of the notebook over routing and attention: 2.6, 2.7 and 2.9.

Only queries and keys below n_b are read. Regions are numbered from 1, as all that is shown. Readings: tables list
every expert of every layer; the share of gates is undefined in a layer whose gates sum to 0.
"""

import numpy as np

from .notebook_arrays import NotebookArrays, table

NUM_FLOW_REGIONS = 5
REGIONS = ["diagonal", "long_range", "n_terminal", "c_terminal", "n_to_c", "c_to_n"]


def attended_slots(arrays: NotebookArrays, layer: int):
    """Yields (sample, n_b, position, attention to the keys below n_b, expert, gate)."""
    for sample in range(arrays.num_samples):
        n = arrays.length(sample)
        for position in range(n):
            row = arrays.attention[layer, sample, position, :n]
            for expert, gate in arrays.slots(layer, sample, position):
                yield sample, n, position, row, expert, gate


def gate_mass(arrays: NotebookArrays, layer: int) -> np.ndarray:
    """C [E]"""
    mass = np.zeros(arrays.num_experts)
    for *_, expert, gate in attended_slots(arrays, layer):
        mass[expert] += gate
    return mass


def patterns(arrays: NotebookArrays, layer: int) -> np.ndarray:
    """P [E, S, S] of the recommended definition."""
    sums = np.zeros((arrays.num_experts, arrays.width, arrays.width))
    weights = np.zeros((arrays.num_experts, arrays.width))
    for _, n, position, row, expert, gate in attended_slots(arrays, layer):
        sums[expert, position, :n] += gate * row
        weights[expert, position] += gate
    for expert in range(arrays.num_experts):
        for position in range(arrays.width):
            if weights[expert, position] > 0:
                sums[expert, position] /= weights[expert, position]
    return sums


def notebook_patterns(arrays: NotebookArrays, layer: int) -> np.ndarray:
    """P_nb [E, S, S]: each slot's key profile is added to every row below n_b."""
    sums = np.zeros((arrays.num_experts, arrays.width, arrays.width))
    for _, n, _, row, expert, gate in attended_slots(arrays, layer):
        for query in range(n):
            sums[expert, query, :n] += gate * row
    mass = gate_mass(arrays, layer)
    for expert in range(arrays.num_experts):
        if mass[expert] > 0:
            sums[expert] /= mass[expert]
    return sums


def expert_attention_patterns(arrays: NotebookArrays, notebook: bool = False) -> dict:
    """One table for both definitions: its columns say which is whose."""
    rows = []
    for layer in range(arrays.num_layers):
        mass = gate_mass(arrays, layer)
        distance = np.zeros(arrays.num_experts)
        for _, n, position, row, expert, gate in attended_slots(arrays, layer):
            distance[expert] += gate * sum(row[j] * abs(position - j) for j in range(n))
        strength = notebook_patterns(arrays, layer).mean(axis=(1, 2))
        for e in range(arrays.num_experts):
            share = mass[e] / mass.sum() if mass.sum() > 0 else None
            rows.append((layer + 1, e, mass[e], share, distance[e] / mass[e] if mass[e] > 0 else None, strength[e]))
    columns = ["layer", "expert_id", "gate_mass", "gate_share", "mean_distance", "strength_nb"]
    return {"expert_attention_summary": table(columns, rows)}


def flow_boundaries(n: int, width: int, notebook: bool) -> list[int]:
    if notebook:
        return [min(int(x), n) for x in np.linspace(0, width, NUM_FLOW_REGIONS + 1)]
    return [r * n // NUM_FLOW_REGIONS for r in range(NUM_FLOW_REGIONS + 1)]


def information_flow(arrays: NotebookArrays, notebook: bool = False) -> dict:
    rows = []
    regions = range(NUM_FLOW_REGIONS)
    for layer in range(arrays.num_layers):
        flow = np.zeros((arrays.num_experts, NUM_FLOW_REGIONS, NUM_FLOW_REGIONS))
        for _, n, position, row, expert, gate in attended_slots(arrays, layer):
            bounds = flow_boundaries(n, arrays.width, notebook)
            here = next(r for r in regions if bounds[r] <= position < bounds[r + 1])
            into = np.array([row[bounds[r] : bounds[r + 1]].sum() for r in regions])
            if notebook:
                flow[expert, here] += gate * into / (into.sum() + 1e-10)
            elif row.sum() > 0:
                flow[expert, here] += gate * into / row.sum()
        for expert in range(arrays.num_experts):
            for f in regions:
                weight = flow[expert, f].sum()
                for t in regions:
                    share = flow[expert, f, t] / weight if weight > 0 else 0.0
                    rows.append((layer + 1, expert, f + 1, t + 1, share, weight))
    columns = ["layer", "expert_id", "from_region", "to_region", "share", "weight"]
    return {"information_flow": table(columns, rows)}


def regions_of(i: int, j: int, n: int) -> list[bool]:
    """Which of the six named regions of a plane of n queries and n keys hold (i, j)."""
    q, c = n // 4, 3 * n // 4
    return [
        abs(i - j) <= 5,
        abs(i - j) > n // 2,
        i < q and j < q,
        i >= c and j >= c,
        i < q and j >= c,
        i >= c and j < q,
    ]


def region_masks(n: int) -> np.ndarray:
    """bool [6, n, n]"""
    masks = np.zeros((6, n, n), bool)
    for i in range(n):
        for j in range(n):
            masks[:, i, j] = regions_of(i, j, n)
    return masks


def specialization(arrays: NotebookArrays, layer: int) -> list[list[float | None]]:
    observed = np.zeros((arrays.num_experts, 6))
    expected = np.zeros((arrays.num_experts, 6))
    masks = {n: region_masks(n) for n in {arrays.length(b) for b in range(arrays.num_samples)}}
    for _, n, position, row, expert, gate in attended_slots(arrays, layer):
        if row.sum() > 0:
            for r in range(6):
                inside = masks[n][r, position]
                observed[expert, r] += gate * row[inside].sum() / row.sum()
                expected[expert, r] += gate * inside.sum() / n
    return [
        [observed[e, r] / expected[e, r] if expected[e, r] > 0 else None for r in range(6)]
        for e in range(arrays.num_experts)
    ]


def notebook_specialization(arrays: NotebookArrays, layer: int) -> list[list[float | None]]:
    n = min(100, arrays.width)
    masks = region_masks(n)
    values = []
    for pattern in notebook_patterns(arrays, layer)[:, :n, :n]:
        mean = pattern.mean()
        if mean == 0:  # 0 / 0; a region without cells is 0 all the same
            values.append([None if masks[r].any() else 0.0 for r in range(6)])
        else:
            values.append([pattern[masks[r]].mean() / mean if masks[r].any() else 0.0 for r in range(6)])
    return values


def region_specialization(arrays: NotebookArrays, notebook: bool = False) -> dict:
    rows = []
    for layer in range(arrays.num_layers):
        values = notebook_specialization(arrays, layer) if notebook else specialization(arrays, layer)
        for expert, line in enumerate(values):
            defined = [value for value in line if value is not None]
            span = max(defined) - min(defined) if defined else None
            rows.append((layer + 1, expert, *line, span))
    return {"region_specialization": table(["layer", "expert_id", *REGIONS, "span"], rows)}

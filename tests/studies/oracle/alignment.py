"""`alignment` and `alignment_samples`: the same tokens in two runs.

Readings: two tokens without any expert have the same set and overlap 1, and the same first expert (none); the n-th
row of a key goes with the n-th; the K-th and next best scores are A's `scores`; margins are given where the scores
are known to rank the choice, which the caller says.
"""

import math
import statistics

import numpy as np

from .notebook_arrays import table
from .routing_run import RoutingRun


def joined(a: RoutingRun, b: RoutingRun) -> list[tuple[int, int]]:
    """Pairs of rows with the same sample and position. Rows of unknown samples have no partner."""
    places: dict[tuple, list[int]] = {}
    for row in range(b.num_tokens):
        if b.sample[row] >= 0:
            places.setdefault((int(b.sample[row]), int(b.position[row])), []).append(row)
    pairs = []
    for row in range(a.num_tokens):
        partners = places.get((int(a.sample[row]), int(a.position[row])))
        if partners:
            pairs.append((row, partners.pop(0)))
    return pairs


def mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def alignment(a: RoutingRun, b: RoutingRun, margins: bool = True) -> dict:
    pairs = joined(a, b)
    rows = []
    for name, layer_a in a.layers.items():
        layer_b = b.layers[name]
        same_set, same_first, overlap, weight_l1, kl = [], [], [], [], []
        margin_same, margin_changed = [], []
        for i, j in pairs:
            ids_a, ids_b = layer_a.ranked_ids(i), layer_b.ranked_ids(j)
            set_a, set_b = set(ids_a), set(ids_b)
            same_set.append(float(set_a == set_b))
            same_first.append(float(ids_a[:1] == ids_b[:1]))
            overlap.append(len(set_a & set_b) / max(len(set_a), len(set_b)) if set_a or set_b else 1.0)
            weight_l1.append(float(np.abs(layer_a.weight_of(i) - layer_b.weight_of(j)).sum()))
            if layer_a.logits is not None and layer_b.logits is not None:
                p, q = a.softmax(name, i), b.softmax(name, j)
                kl.append(math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0))
            if margins and layer_a.scores is not None and layer_a.top_k < layer_a.num_experts:
                best = sorted(np.asarray(layer_a.scores[i], np.float64).tolist(), reverse=True)
                margin = best[layer_a.top_k - 1] - best[layer_a.top_k]
                (margin_same if set_a == set_b else margin_changed).append(margin)
        values = [mean(x) for x in (same_set, same_first, overlap, weight_l1, kl)]
        counts = (len(pairs), a.num_tokens - len(pairs), b.num_tokens - len(pairs))
        rows.append((a.component, name, *counts, *values, median(margin_same), median(margin_changed)))
    columns = ["component", "layer", "tokens", "unmatched_a", "unmatched_b", "same_set", "same_first", "overlap"]
    columns += ["weight_l1", "kl", "margin_same", "margin_changed"]
    return {"alignment": table(columns, rows)}


def alignment_samples(a: RoutingRun, b: RoutingRun) -> dict:
    changed: dict[int, list[tuple[int, int]]] = {}  # sample -> (position, number of layers whose set differs)
    for i, j in joined(a, b):
        differing = sum(
            set(layer.ranked_ids(i)) != set(b.layers[name].ranked_ids(j)) for name, layer in a.layers.items()
        )
        changed.setdefault(int(a.sample[i]), []).append((int(a.position[i]), differing))
    rows = []
    for sample in sorted(changed):
        places = [position for position, count in changed[sample] if count > 0]
        counts = [float(count) for _, count in changed[sample]]
        rows.append((a.component, sample, len(counts), mean(counts), min(places) if places else None))
    columns = ["component", "sample", "tokens", "changed_layers_mean", "first_changed_position"]
    return {"alignment_samples": table(columns, rows)}


def equal_places(a: RoutingRun, b: RoutingRun) -> dict[str, float | None]:
    """By layer: the share of slots, in the order of the dump, that hold the same expert; the mean over samples."""
    out = {}
    for name, layer in a.layers.items():
        by_sample: dict[int, list[bool]] = {}
        for i, j in joined(a, b):
            equal = (layer.selected[i] == b.layers[name].selected[j]).tolist()
            by_sample.setdefault(int(a.sample[i]), []).extend(equal)
        out[name] = mean([sum(equal) / len(equal) for equal in by_sample.values()])
    return out

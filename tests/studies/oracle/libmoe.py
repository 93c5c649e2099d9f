"""LibMoE's studies over its own logs, `{"logs": [entry...]}`, for any number of layers, experts and checkpoints.

Readings, from what its toolkit computes: a switch is a place of the flat list of `selected_experts` that differs
between two checkpoints, entries joined by `doc_id`; saturation is the share of places that are as in the last
checkpoint. Both are means over documents; lists of two lengths are not compared. Entropy, margin and diversity are
means over entries, a margin being the mean of its list; the entropy of `dist_experts_top1` is that of each entry,
averaged by category.
"""

import math
from itertools import pairwise

from .notebook_arrays import table


def layers_of(entry: dict) -> dict[str, dict]:
    found = entry["logs_metrics_vision"][0][0]
    return {layer: values for layer, values in found.items() if isinstance(values, dict) and values}


def layer_order(layer: str) -> tuple:
    return (0, int(layer), "") if layer.isdigit() else (1, 0, layer)


def all_layers(log: dict) -> list[str]:
    return sorted({layer for entry in log["logs"] for layer in layers_of(entry)}, key=layer_order)


def mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def values_of(log: dict, layer: str, key: str) -> list:
    return [layers_of(e)[layer][key] for e in log["logs"] if key in layers_of(e).get(layer, {})]


def entropy_and_margin(log: dict) -> dict[str, tuple[float | None, float | None]]:
    """By layer."""
    return {
        layer: (
            mean(values_of(log, layer, "entropy_weight_topk")),
            mean([mean(margins) for margins in values_of(log, layer, "router_magine") if margins]),
        )
        for layer in all_layers(log)
    }


def diversity(log: dict) -> dict[str, float | None]:
    return {layer: mean(values_of(log, layer, "diver_loss")) for layer in all_layers(log)}


def normalised_entropy(counts: list[int]) -> float:
    total = sum(counts)
    if len(counts) < 2 or total == 0:
        return 0.0
    return -sum(c / total * math.log(c / total + 1e-9) for c in counts) / math.log(len(counts))


def category_entropy(log: dict) -> dict[tuple[str, str], float | None]:
    """By (layer, category)."""
    found: dict[tuple[str, str], list[float]] = {}
    for entry in log["logs"]:
        category = entry.get("doc", {}).get("category", "unknown")
        for layer, values in layers_of(entry).items():
            if "dist_experts_top1" in values:
                found.setdefault((layer, category), []).append(normalised_entropy(values["dist_experts_top1"]))
    return {key: mean(values) for key, values in found.items()}


def equal_share(a: dict, b: dict, layer: str) -> float | None:
    """The share of places of `selected_experts` that hold the same expert in both logs: the mean over documents."""
    other = {entry["doc_id"]: layers_of(entry) for entry in b["logs"]}
    shares = []
    for entry in a["logs"]:
        mine = layers_of(entry).get(layer, {}).get("selected_experts")
        theirs = other.get(entry["doc_id"], {}).get(layer, {}).get("selected_experts")
        if mine and theirs and len(mine) == len(theirs):
            shares.append(sum(x == y for x, y in zip(mine, theirs, strict=True)) / len(mine))
    return mean(shares)


def switch_fraction(logs: list[dict]) -> dict[tuple[int, str], float | None]:
    """By (index of the earlier checkpoint, layer)."""
    out = {}
    for step, (a, b) in enumerate(pairwise(logs)):
        for layer in all_layers(a):
            share = equal_share(a, b, layer)
            out[step, layer] = None if share is None else 1 - share
    return out


def saturation(logs: list[dict]) -> dict[tuple[int, str], float | None]:
    """By (index of the checkpoint, layer); the last one is what the others are compared with."""
    return {
        (step, layer): equal_share(log, logs[-1], layer)
        for step, log in enumerate(logs[:-1])
        for layer in all_layers(log)
    }


def category_table(log: dict) -> dict:
    values = category_entropy(log)
    keys = sorted(values, key=lambda key: (layer_order(key[0]), key[1]))
    return table(["layer", "category", "entropy"], [(*key, values[key]) for key in keys])

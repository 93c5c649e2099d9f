"""`placement` and `imbalance`.

Readings: a forward in which nothing was selected has no imbalance; `forwards` of `imbalance` are those that count,
with at least E tokens; fanout is the mean over all tokens of the layer.
"""

from .notebook_arrays import ranked, table
from .routing_run import Layer, RoutingRun, max_over_mean, percentile


def contiguous(num_experts: int, gpus: int) -> list[int]:
    return [e * gpus // num_experts for e in range(num_experts)]


def balanced(counts: list[int], gpus: int) -> list[int]:
    room = [len(counts) // gpus] * gpus
    load = [0] * gpus
    place = [0] * len(counts)
    for expert in ranked(counts):
        gpu = min((g for g in range(gpus) if room[g]), key=lambda g: (load[g], g))
        place[expert] = gpu
        room[gpu] -= 1
        load[gpu] += counts[expert]
    return place


def forwards_of(run: RoutingRun, at_least: int) -> list[list[int]]:
    """Tokens of each forward that has so many."""
    tokens: dict[int, list[int]] = {}
    for token in range(run.num_tokens):
        tokens.setdefault(int(run.forward[token]), []).append(token)
    return [tokens[number] for number in sorted(tokens) if len(tokens[number]) >= at_least]


def gpu_loads(counts: list[int], place: list[int], gpus: int) -> list[int]:
    return [sum(c for e, c in enumerate(counts) if place[e] == g) for g in range(gpus)]


def placement_row(run: RoutingRun, layer: Layer, place: list[int], gpus: int) -> tuple:
    by_forward = [max_over_mean(gpu_loads(layer.counts(tokens), place, gpus)) for tokens in forwards_of(run, 256)]
    by_forward = [value for value in by_forward if value is not None]
    fanout = [len({place[e] for e in layer.ranked_ids(token)}) for token in range(run.num_tokens)]
    return (
        max_over_mean(gpu_loads(layer.counts(), place, gpus)),
        percentile(by_forward, 0.5),
        percentile(by_forward, 0.95),
        max(by_forward) if by_forward else None,
        sum(fanout) / len(fanout) if fanout else None,
    )


def placement(run: RoutingRun) -> dict:
    rows = []
    for name, layer in run.layers.items():
        gpus = 2
        while gpus <= layer.num_experts:
            if layer.num_experts % gpus == 0:
                places = {"balanced": balanced(layer.counts(), gpus), "contiguous": contiguous(layer.num_experts, gpus)}
                for kind, place in places.items():
                    rows.append((run.component, name, gpus, kind, *placement_row(run, layer, place, gpus)))
            gpus *= 2
    columns = ["component", "layer", "gpus", "placement", "imbalance_run", "imbalance_p50", "imbalance_p95"]
    return {"placement": table([*columns, "imbalance_max", "fanout"], rows)}


def imbalance(run: RoutingRun) -> dict:
    rows = []
    for name, layer in run.layers.items():
        values = [max_over_mean(layer.counts(tokens)) for tokens in forwards_of(run, layer.num_experts)]
        values = [value for value in values if value is not None]
        rows.append(
            (
                *(run.component, name, len(values), max_over_mean(layer.counts())),
                *(percentile(values, 0.5), percentile(values, 0.95), max(values) if values else None),
            )
        )
    return {"imbalance": table(["component", "layer", "forwards", "run", "p50", "p95", "max"], rows)}

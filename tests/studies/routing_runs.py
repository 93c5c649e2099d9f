"""Random routing runs, as values and as the directory of a finished run, without running a model."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from arrays import softmax
from oracle.routing_run import Layer, RoutingRun
from safetensors.numpy import save_file


@dataclass
class RunShape:
    """Of a random run: sequences are prompted in batches, then each generates some tokens, one a forward."""

    layers: tuple[tuple[str, int, int], ...] = (("1", 8, 2), ("3", 8, 2), ("10", 6, 3))  # (layer, E, K)
    batches: tuple[tuple[int, int], ...] = ((3, 7), (2, 9), (4, 5))  # (sequences, longest prompt) of a forward
    generated: int = 6
    vocabulary: int = 12
    full: bool = False  # logits and scores
    zero_weights: float = 0.05
    tied_weights: bool = True
    skew: float = 1.0  # how much some experts are preferred
    unknown: bool = False  # one sequence whose sample is not known, and tokens without a text id
    steps_at_zero: bool = False  # a generated token is column 0 of its forward, as with a cache


def random_run(seed: int, shape: RunShape) -> RoutingRun:
    random = np.random.default_rng(seed)
    rows = []  # sample, position, phase, forward
    lengths = []
    forward = 0
    for sequences, longest in shape.batches:
        for _ in range(sequences):
            length = int(random.integers(1, longest + 1))
            rows += [(len(lengths), position, 0, forward) for position in range(length)]
            lengths.append(length)
        forward += 1
    for step in range(shape.generated):
        for sample, length in enumerate(lengths):
            if random.random() < 0.8:  # others have ended
                rows.append((sample, 0 if shape.steps_at_zero else length + step, 1, forward))
        forward += 1
    sample, position, phase, forwards = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    token_id = random.integers(0, shape.vocabulary, len(rows))
    layers = {
        name: random_layer(random, shape, token_id, num_experts, top_k) for name, num_experts, top_k in shape.layers
    }
    if shape.unknown:
        sample = np.where(sample == 1, -1, sample)
        token_id = np.where(random.random(len(rows)) < 0.1, -1, token_id)
    docs = [{"category": ["odd", "even", "prime"][int(random.integers(3))]} for _ in lengths]
    return RoutingRun(sample, position, token_id, phase, forwards, layers, docs=docs)


def random_layer(random, shape: RunShape, token_id: np.ndarray, num_experts: int, top_k: int) -> Layer:
    """Token ids and popularity pull the choice, so that there is something to find."""
    count = len(token_id)
    logits = random.standard_normal((count, num_experts))
    logits += shape.skew * random.standard_normal(num_experts)
    logits += 1.5 * random.standard_normal((shape.vocabulary, num_experts))[token_id]
    logits = logits.astype(np.float32)
    scores = softmax(logits.astype(np.float64)).astype(np.float32)
    selected = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(scores, selected, 1)
    if not shape.full:  # as of other routers: in any order, with ties and slots that do not count
        order = random.permuted(np.broadcast_to(np.arange(top_k), selected.shape), axis=1)
        selected, weights = np.take_along_axis(selected, order, 1), np.take_along_axis(weights, order, 1)
        if shape.tied_weights:
            weights = np.ceil(weights * 4) / 4
        weights = np.where(random.random(weights.shape) < shape.zero_weights, 0, weights)
        weights[:, 0] = np.maximum(weights[:, 0], 0.25)  # every token has an expert
    full = (logits, scores) if shape.full else (None, None)
    return Layer(num_experts, selected, weights.astype(np.float32), *full)


def perturbed(run: RoutingRun, seed: int, share: float) -> RoutingRun:
    """The same tokens, of which a share are routed anew; some rows are missing, the rest in another order."""
    random = np.random.default_rng(seed)
    kept = random.permutation(np.flatnonzero(random.random(run.num_tokens) > 0.1))
    layers = {}
    for name, layer in run.layers.items():
        again = random.random(len(kept)) < share
        source = np.where(again, random.integers(0, run.num_tokens, len(kept)), kept)
        full = [None if x is None else x[source] for x in (layer.logits, layer.scores)]
        layers[name] = Layer(layer.num_experts, layer.selected[source], layer.weights[source], *full)
    columns = [x[kept] for x in (run.sample, run.position, run.token_id, run.phase, run.forward)]
    return RoutingRun(*columns, layers, run.component, run.docs)


def chosen_rows(run: RoutingRun, rows: np.ndarray) -> RoutingRun:
    layers = {}
    for name, layer in run.layers.items():
        full = [None if x is None else x[rows] for x in (layer.logits, layer.scores)]
        layers[name] = Layer(layer.num_experts, layer.selected[rows], layer.weights[rows], *full)
    columns = [x[rows] for x in (run.sample, run.position, run.token_id, run.phase, run.forward)]
    return RoutingRun(*columns, layers, run.component, run.docs)


def as_stored(run: RoutingRun) -> dict[str, np.ndarray]:
    """Columns of the dump."""
    columns = {
        "sample": run.sample.astype(np.int64),
        "position": run.position.astype(np.int32),
        "token_id": run.token_id.astype(np.int32),
        "phase": run.phase.astype(np.uint8),
        "forward": run.forward.astype(np.int64),
    }
    for name, layer in run.layers.items():
        columns[f"{name}.selected"] = layer.selected.astype(np.int16)
        columns[f"{name}.weights"] = layer.weights.astype(np.float32)
        if layer.logits is not None:
            columns[f"{name}.logits"] = layer.logits.astype(np.float32)
            columns[f"{name}.scores"] = layer.scores.astype(np.float32)
    return columns


def save_run(folder: Path, run: RoutingRun, shards: int = 2) -> Path:
    """A finished run of one rank: manifest, summary, log and the shards of its dump."""
    full = all(layer.logits is not None for layer in run.layers.values())
    hooks, summary = [], {}
    for number, (name, layer) in enumerate(run.layers.items()):
        shared = {"num_experts": layer.num_experts, "top_k": layer.top_k, "scoring": "softmax"}
        place = {
            "id": number,
            "layer": name,
            "name": f"model.layers.{name}.gate",
            "kind": "router",
            "method": "forward",
        }
        hooks.append({**place, "component": run.component, **shared, "reported": True, "run_layer": name})
        summary[name] = {"name": place["name"], **shared, "tokens": run.num_tokens, "selected_count": layer.counts()}
    manifest = {
        "schema_version": 1,
        "model": "models/tiny.pt",
        "sha256": "ab" * 32,
        "hooks": hooks,
        "versions": {"moetap": "0.1.0"},
        "config": {"dump": "full" if full else "topk", "task": "log_metrics", "attention": "off"},
        "counters": {"forwards": int(run.forward.max()) + 1, "tokens": run.num_tokens},
        "rank": 0,
        "world_size": 1,
    }
    about = folder / "moetap"
    dump = about / "dump" / "rank0"
    dump.mkdir(parents=True)
    (about / "manifest.json").write_text(json.dumps(manifest))
    (about / "summary.json").write_text(
        json.dumps({"schema_version": 1, "task": "log_metrics", "components": {run.component: summary}})
    )
    entries = [
        {"doc_id": number, "target": "", "doc": doc, "logs_metrics_mlp": [[{}]], "logs_metrics_vision": [[{}]]}
        for number, doc in enumerate(run.docs)
    ]
    log = {"args": {}, "model_configs": {"task": "log_metrics"}, "time": "0101_0000", "logs": entries}
    (folder / "log_metrics.json").write_text(json.dumps(log))
    (folder / "results.json").write_text(json.dumps({"model_configs": {"model_args": "models/tiny/tiny,"}}))
    (folder / "samples.jsonl").write_text(
        "".join(json.dumps({"doc_id": number, "doc": doc}) + "\n" for number, doc in enumerate(run.docs))
    )
    columns = as_stored(run)
    bounds = [run.num_tokens * i // shards for i in range(shards + 1)]
    for number, (first, last) in enumerate(pairwise(bounds)):
        metadata = {"schema_version": "1", "rank": "0", "first_row": str(first), "hooks": "{}"}
        tensors = {name: np.ascontiguousarray(column[first:last]) for name, column in columns.items()}
        save_file(tensors, dump / f"{run.component}-{number:06}.safetensors", metadata)
    (folder / "rank0_metric_eval_done.txt").write_text("rank 0 eval done")
    return folder

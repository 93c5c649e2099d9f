"""Writes the directory of a finished run with a dump, of tokens that name themselves, without running a model."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

NUM_EXPERTS = 8
TOP_K = 2


def columns_of(sample, position, forward, phase=None, token_id=None) -> dict[str, np.ndarray]:
    sample = np.asarray(sample, np.int64)
    return {
        "sample": sample,
        "position": np.asarray(position, np.int32),
        "token_id": np.arange(len(sample), dtype=np.int32) + 100
        if token_id is None
        else np.asarray(token_id, np.int32),
        "phase": np.zeros(len(sample), np.uint8) if phase is None else np.asarray(phase, np.uint8),
        "forward": np.asarray(forward, np.int64),
    }


def routed(layer: str, num_rows: int, seed: int, full: bool = False, experts: int = NUM_EXPERTS, top_k: int = TOP_K):
    """Columns of a layer: distinct ids, weights, and with `full` logits and scores."""
    random = np.random.default_rng(seed)
    logits = random.standard_normal((num_rows, experts)).astype(np.float32)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :top_k].astype(np.int16)
    columns = {
        f"{layer}.selected": ids,
        f"{layer}.weights": np.take_along_axis(scores, ids.astype(np.int64), 1).astype(np.float32),
    }
    return columns | ({f"{layer}.logits": logits, f"{layer}.scores": scores.astype(np.float32)} if full else {})


def write_shard(folder: Path, series: str, number: int, first_row: int, columns: dict, rank: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{series}-{number:06}.safetensors"
    metadata = {"schema_version": "1", "rank": str(rank), "first_row": str(first_row), "hooks": "{}"}
    save_file({name: np.ascontiguousarray(column) for name, column in columns.items()}, path, metadata)
    return path


def write_run(
    run: Path,
    layers: list[str],
    dump: str = "topk",
    ranks: int = 1,
    component: str = "language_model",
    experts=NUM_EXPERTS,
) -> Path:
    """Everything but the dump. Gives the dump's folder of rank 0."""
    tabled = min(experts, 64)  # the table of pairs of 40,000 experts would be gigabytes of JSON
    hooks = [
        {
            "id": number,
            "layer": layer,
            "name": f"model.layers.{layer}.gate",
            "kind": "router",
            "method": "forward",
            "component": component,
            "num_experts": experts,
            "top_k": TOP_K,
            "scoring": "softmax",
            "reported": True,
            "run_layer": layer,
        }
        for number, layer in enumerate(layers)
    ]
    summary = {
        layer: {
            "num_experts": experts,
            "top_k": TOP_K,
            "scoring": "softmax",
            "tokens": 10,
            "entropy_all": 1.5,
            "selected_count": [10 * TOP_K // experts] * experts,
            "top1_count": [1] * experts,
            "coactivation": [[1] * tabled] * tabled,
        }
        for layer in layers
    }
    for rank in range(ranks):
        about = run / "moetap" if rank == 0 else run / "moetap" / f"rank{rank}"
        about.mkdir(parents=True, exist_ok=True)
        manifest = {
            "schema_version": 1,
            "model": "models/tiny.pt",
            "sha256": "ab" * 32,
            "hooks": hooks,
            "versions": {"moetap": "0.1.0"},
            "config": {"dump": dump, "task": "log_metrics", "attention": "off"},
            "rank": rank,
            "world_size": ranks,
        }
        (about / "manifest.json").write_text(json.dumps(manifest))
        (about / "summary.json").write_text(json.dumps({"components": {component: summary}}))
        (run / f"rank{rank}_metric_eval_done.txt").write_text(f"rank {rank} eval done")
    return run / "moetap" / "dump" / "rank0"

"""Random logs as LibMoE's evaluation writes them: some checkpoints of one model over the same documents."""

import json
from pathlib import Path

import numpy as np

CATEGORIES = ["OCR", "count", "scene"]


def random_layer(random, tokens: int, experts: int, top_k: int) -> dict:
    selected = np.argsort(random.random((tokens, experts)), axis=1)[:, :top_k]
    return {
        "entropy_weight_topk": float(random.random()),
        "entropy_weight_all": float(random.random()) + 1,
        "dist_experts_top1": np.bincount(selected[:, 0], minlength=experts).tolist(),
        "dist_experts_top2": np.bincount(selected.ravel(), minlength=experts).tolist(),
        "router_magine": random.random(tokens).tolist(),
        "balance_loss": float(random.random()),
        "router_z_loss": float(random.random()),
        "diver_loss": float(random.random()),
        "selected_experts": selected.ravel().tolist(),
    }


def random_logs(seed: int, checkpoints: int = 3, documents: int = 7, layers: int = 4) -> list[dict]:
    """Documents have some tokens each, the same in every checkpoint; layer `mm_projector` has other experts."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, 9, documents)
    categories = [CATEGORIES[int(random.integers(3))] for _ in range(documents)]
    logs = []
    for _ in range(checkpoints):
        entries = []
        for document in range(documents):
            count = int(tokens[document])
            metrics = {str(layer): random_layer(random, count, 6, 2) for layer in range(layers)}
            metrics["mm_projector"] = random_layer(random, count, 4, 2)
            entry = {"doc_id": document, "target": "", "doc": {"category": categories[document]}}
            entry |= {"logs_metrics_mlp": [[{"balance_loss": 1.0}]]}
            entry["logs_metrics_vision"] = [[{"time_inference": 0.25, **metrics}]]
            entries.append(entry)
        logs.append({"args": {}, "model_configs": {"task": "mme"}, "time": "0101_0000", "logs": entries})
    return logs


def save_logs(folder: Path, logs: list[dict]) -> list[Path]:
    """A folder for each checkpoint, as LibMoE has it."""
    paths = []
    for number, log in enumerate(logs):
        place = folder / f"checkpoint-{number + 1}00"
        place.mkdir(parents=True)
        (place / "mme.json").write_text(json.dumps(log))
        results = {"model_configs": {"model_args": f"pretrained=/models/checkpoint-{number + 1}00/smoe,conv=phi3"}}
        (place / "results.json").write_text(json.dumps(results))
        (place / "rank0_metric_eval_done.txt").write_text("rank 0 eval done")
        paths.append(place / "mme.json")
    return paths

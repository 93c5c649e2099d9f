"""Reads a run directory as other tools do: LibMoE's readers, and the safetensors package."""

from __future__ import annotations

import json
import os
import pathlib
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, safe_open


@pytest.fixture(scope="module")
def run() -> pathlib.Path:
    return pathlib.Path(os.environ["MOETAP_TEST_RUN_DIR"])


@pytest.fixture(scope="module")
def log(run: pathlib.Path) -> dict:
    return json.loads((run / "log_metrics.json").read_text())


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def test_json_is_strict(run: pathlib.Path) -> None:
    for path in run.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=_reject)


def test_every_json_beside_the_log_is_one_of_the_toolkit(run: pathlib.Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "log_metrics.json",
        "results.json",
        "rank0_metric_eval_done.txt",
        "moetap",
    }


def test_the_models_name_is_found(run: pathlib.Path) -> None:
    arguments = json.loads((run / "results.json").read_text())["model_configs"]["model_args"]
    first = arguments.split(",")[0]
    assert first.split("/")[-1] == first.split("/")[-2] == "tiny_moe"


def test_selected_experts_by_layer(log: dict) -> None:
    """Readers find the flat lists by substring, two lists deep; they drop a sample without layers 0 to 9."""
    for entry in log["logs"]:
        for requests in entry["logs_metrics_vision"]:
            for repeat in requests:
                assert isinstance(repeat["time_inference"], float)
                layers = {key for key in repeat if re.fullmatch(r"\d+", key)}
                assert {str(i) for i in range(10)} <= layers
                for layer in layers:
                    matching = [key for key in repeat[layer] if "selected_experts" in key]
                    assert matching == ["selected_experts"]
                    assert len(repeat[layer]["selected_experts"]) == 5 * 2
                    assert all(isinstance(expert, int) for expert in repeat[layer]["selected_experts"])


def test_keys_of_the_projector(log: dict) -> None:
    repeat = log["logs"][0]["logs_metrics_vision"][0][0]
    assert set(repeat) <= {"time_inference", "mm_projector"} | {str(i) for i in range(100)}
    assert len(repeat["mm_projector"]["selected_experts"]) == 10


def test_means_of_margin_and_entropy(log: dict) -> None:
    """As `router_metrics` reads them: the mean of the key that contains the name; exactly one key may contain it."""
    for entry in log["logs"]:
        for name in ("entropy_weight_topk", "router_magine"):
            for layer, values in entry["logs_metrics_vision"][0][0].items():
                if layer == "time_inference":
                    continue
                matching = [value for key, value in values.items() if name in key]
                assert len(matching) == 1
                assert np.isfinite(np.mean(matching[0]))


def test_entropy_of_a_category(log: dict) -> None:
    categories = [entry["doc"]["category"] for entry in log["logs"]]
    assert categories == ["count", "OCR"]  # in the order of doc_id
    assert [entry["doc_id"] for entry in log["logs"]] == [0, 1]
    for entry in log["logs"]:
        layer = entry["logs_metrics_vision"][0][0]["0"]
        assert sum(layer["dist_experts_top1"]) == 5
        assert sum(layer["dist_experts_top2"]) == 10


def test_time_in_the_text_has_a_decimal_point(run: pathlib.Path) -> None:
    found = re.findall(r'"time_inference": ?([0-9.eE+-]+)', (run / "log_metrics.json").read_text())
    assert found == ["4.0", "4.0"]


def test_shard_is_read_by_the_package(run: pathlib.Path, log: dict) -> None:
    path = run / "moetap" / "dump" / "rank0" / "vision_tower-000000.safetensors"
    columns = load_file(path)
    with safe_open(path, "np") as shard:
        metadata = shard.metadata()
    assert metadata["schema_version"] == "1"
    assert json.loads(metadata["hooks"])["3"] == "vision_tower.layers.3.gate"
    assert columns["sample"].tolist() == [0] * 5 + [1] * 5
    assert columns["3.selected"].dtype == np.int16
    assert columns["3.logits"].shape == (10, 4)
    by_sample = {entry["doc_id"]: entry for entry in log["logs"]}
    # Sample 0 has doc_id 1 by the samples file.
    logged = by_sample[1]["logs_metrics_vision"][0][0]["3"]
    assert columns["3.selected"][:5].reshape(-1).tolist() == logged["selected_experts"]
    weights = np.sort(columns["3.weights"][:5], axis=1)
    assert np.allclose(weights[:, 1] - weights[:, 0], logged["router_magine"], atol=1e-6)


def test_probe_holds_probabilities(run: pathlib.Path) -> None:
    probe = load_file(run / "moetap" / "probe.safetensors")
    assert set(probe) == {f"vision_tower.{i}" for i in range(10)} | {"mm_projector.mm_projector"}
    for probabilities in probe.values():
        assert probabilities.shape == (10, 4)
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)

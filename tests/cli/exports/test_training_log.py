"""Seeds of the routing dashboard: an epoch is a run."""

import json

import numpy as np
import pytest
from conftest import CATEGORIES, dump_of


def test_an_epoch_is_a_run(recorded, export):
    folder = export(recorded, recorded, "--to", "training-log")
    lines = [json.loads(line) for line in (folder / "training_log.txt").read_text().splitlines()]
    dump = dump_of(recorded)
    counts = sum(np.bincount(dump[f"{layer}.selected"].ravel(), minlength=4) for layer in "01")
    summary = json.loads((recorded / "moetap/summary.json").read_text())["components"]["language_model"]
    for epoch, line in enumerate(lines, 1):
        assert line["epoch"] == epoch and line["routing_acc"] is None
        assert line["utilization"] == pytest.approx((counts / counts.sum()).tolist())
        assert line["entropy"] == pytest.approx(np.mean([summary[layer]["entropy_all"] for layer in "01"]))


def test_affinity_of_categories(recorded, export):
    folder = export(recorded, "--to", "training-log")
    found = np.loadtxt(folder / "router_affinity_matrix.csv", delimiter=",")
    dump = dump_of(recorded)
    categories = np.array(CATEGORIES)[dump["sample"]]
    for row, name in zip(found, sorted(set(CATEGORIES)), strict=True):
        logits = np.concatenate([dump[f"{layer}.logits"][categories == name] for layer in "01"]).astype(np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert row == pytest.approx(probabilities.mean(0), abs=1e-6)

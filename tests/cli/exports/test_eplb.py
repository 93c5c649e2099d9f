"""The load of each layer's experts, [layers, experts], for load balancers."""

import json

import numpy as np
from conftest import dump_of


def test_the_load_is_that_of_the_dump(recorded, export):
    load = np.load(export(recorded, "--to", "eplb"))
    dump = dump_of(recorded)
    assert load.shape == (2, 4) and load.dtype == np.int64
    for layer in range(2):
        assert load[layer].tolist() == np.bincount(dump[f"{layer}.selected"].ravel(), minlength=4).tolist()
    summary = json.loads((recorded / "moetap/summary.json").read_text())["components"]["language_model"]
    assert load.tolist() == [summary[layer]["selected_count"] for layer in "01"]


def test_it_needs_no_dump(moetap, models, inputs, tmp_path, export):
    assert moetap("run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run").returncode == 0
    assert np.load(export(tmp_path / "run", "--to", "eplb")).sum() == 2 * 2 * (10 + 7 + 6)

"""The table that a run prints at its end."""

import json

import pytest
from conftest import assert_succeeded
from moe_model import NUM_EXPERTS

TOKENS = 2 * 5 + 1 * 7 + 2 * 3  # of the inputs


def test_the_closing_table(moetap, models, inputs, tmp_path):
    run = tmp_path / "run"
    done = moetap("run", models / "moe.pt", "--inputs", inputs, "-o", run)
    assert_succeeded(done)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["component", "layer", "experts", "tokens", "entropy", "balance", "CV", "dead"]
    summary = json.loads((run / "moetap" / "summary.json").read_text())
    for line, layer in zip(lines[1:3], ["0", "1"], strict=True):
        values = summary["components"]["language_model"][layer]
        fields = line.split()
        assert fields[:4] == ["language_model", layer, str(NUM_EXPERTS), str(TOKENS)]
        assert float(fields[4]) == pytest.approx(values["entropy_all"], abs=1e-4)
        assert float(fields[5]) == pytest.approx(values["balance_loss"], abs=1e-4)
        assert float(fields[6]) == pytest.approx(values["load_cv"], abs=1e-4)
        assert int(fields[7]) == values["dead_experts"]

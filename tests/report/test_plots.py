"""scripts/plots.py draws the figures that have data, under their names."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
from synthetic_analysis import write_analysis
from synthetic_run import write_run

PLOTS = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "plots.py"
pytest.importorskip("matplotlib")
pytest.importorskip("networkx")


def plots(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, PLOTS, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_figures_of_an_analysis_a_run_and_a_log(tmp_path):
    write_run(tmp_path / "run", layers=3, attention=True)
    write_analysis(tmp_path / "analysis", layers=3)
    log = tmp_path / "training_log.txt"
    epochs = [
        {"epoch": 1, "entropy": 1.0, "routing_acc": None, "utilization": [0.5, 0.5]},
        {"utilization": [20, "x", 80]},
    ]
    log.write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs) + "no JSON\n")
    inputs = [tmp_path / "run", tmp_path / "analysis", "--training-log", log]
    done = plots(*inputs, "-o", tmp_path / "out", "--format", "svg")
    assert done.returncode == 0, done.stderr
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.svg")}
    assert {str(tmp_path / "out" / name) for name in written} == set(done.stdout.split())
    assert {
        *("expert_usage_heatmap.svg", "expert_utilization.svg", "expert_utilization_by_sum.svg", "router_entropy.svg"),
        *(f"info_flow/expert_attention_patterns_layer{n}_top10.svg" for n in (1, 2, 3)),
        *(f"info_flow/expert_cooperation_network_layer{n}.svg" for n in (0, 1, 2)),
        "expert_evolution/expert_distribution_across_layers.svg",
        "expert_evolution/expert_role_shift_between_layers.svg",
        "expert_evolution/expert_transition_layer0_to_layer1.svg",
    } <= written
    assert "routing_accuracy.svg" not in written  # all null


def test_refusals(tmp_path):
    (tmp_path / "empty").mkdir()
    done = plots(tmp_path / "empty", "-o", tmp_path / "out")
    assert done.returncode == 1 and "holds no analysis, no run and no training log" in done.stderr
    done = plots("-o", tmp_path / "out")
    assert done.returncode == 1 and "nothing to draw" in done.stderr

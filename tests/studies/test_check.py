"""Limits of `moetap check`: what is beyond them fails, by layer."""

import json

import pytest
from oracle import alignment
from routing_runs import RunShape, perturbed, random_run, save_run

CHECKS = {
    "--max-cv": lambda s: s["load_cv"],
    "--min-entropy-ratio": lambda s: s["entropy_ratio"],
    "--max-imbalance": lambda s: s["max_violation"] + 1,
}


@pytest.mark.parametrize("option", CHECKS)
def test_check_fails_the_layers_beyond_a_limit(option, moetap, recorded):
    """Between the values of two layers, the worse one fails and is named."""
    summary = json.loads((recorded / "moetap/summary.json").read_text())["components"]["language_model"]
    values = sorted((CHECKS[option](line), layer) for layer, line in summary.items())
    assert len(values) == 2 and values[0][0] < values[1][0]
    worse = values[0][1] if option.startswith("--min") else values[1][1]
    middle = (values[0][0] + values[1][0]) / 2
    done = moetap("check", recorded, option, middle)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if f"layer {worse}" in line]
    assert done.returncode == 1 and len(lines) == 1, done.stdout + done.stderr
    lenient = values[0][0] - 1e-6 if option.startswith("--min") else values[1][0] + 1e-6
    assert moetap("check", recorded, option, lenient).returncode == 0


def test_dead_experts(moetap, recorded):
    summary = json.loads((recorded / "moetap/summary.json").read_text())["components"]["language_model"]
    dead = any(0 in line["selected_count"] for line in summary.values())
    assert moetap("check", recorded, "--no-dead").returncode == int(dead)


def test_overlap_of_two_runs(moetap, tmp_path):
    """Between the overlaps of two layers, the lower one fails."""
    a = random_run(1, RunShape(layers=(("0", 6, 2), ("2", 5, 2))))
    b = perturbed(a, 11, share=0.3)
    folders = save_run(tmp_path / "a", a), save_run(tmp_path / "b", b)
    table = alignment.alignment(a, b)["alignment"]
    (low, worse), (high, better) = sorted(zip(table["overlap"], table["layer"], strict=True))
    assert low < high
    done = moetap("check", *folders, "--min-overlap", (low + high) / 2)
    failing = [line for line in (done.stdout + done.stderr).splitlines() if "overlap is" in line]
    assert done.returncode == 1 and len(failing) == 1, failing
    assert f"layer {worse}" in failing[0] and f"layer {better}" not in failing[0]
    assert moetap("check", *folders, "--min-overlap", low - 1e-9).returncode == 0
    assert moetap("check", folders[0], folders[0], "--min-overlap", 1).returncode == 0

"""`moetap check`: limits on a run, and on the agreement of two."""

import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file


def layers_of(run: Path) -> dict[str, dict]:
    return json.loads((run / "moetap/summary.json").read_text())["components"]["language_model"]


def load_cv(layer: dict) -> float:
    counts = layer["selected_count"]
    return statistics.stdev(counts) / statistics.mean(counts)


def imbalance(layer: dict) -> float:
    counts = layer["selected_count"]
    return max(counts) / statistics.mean(counts)


@pytest.mark.parametrize(
    ("limit", "value", "is_largest"),
    [
        ("--max-cv", load_cv, True),
        ("--max-imbalance", imbalance, True),
        ("--min-entropy-ratio", lambda layer: layer["entropy_ratio"], False),
    ],
)
def test_a_limit_fails_the_layers_beyond_it(moetap, recorded, limit, value, is_largest):
    values = {layer: value(of) for layer, of in layers_of(recorded).items()}
    worst = (max if is_largest else min)(values, key=values.get)
    passes = values[worst] + (1e-6 if is_largest else -1e-6)
    done = moetap("check", recorded, limit, repr(passes))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{len(values)} layers are within the limits\n"
    fails = values[worst] - (1e-6 if is_largest else -1e-6)
    done = moetap("check", recorded, limit, repr(fails))
    assert done.returncode == 1
    failed = [layer for layer, found in values.items() if (found > fails if is_largest else found < fails)]
    lines = done.stdout.splitlines()
    assert len(lines) == len(failed)
    for layer, line in zip(failed, lines, strict=True):
        assert line.startswith(f"{recorded}: language_model layer {layer}: ")


def test_a_dead_expert_fails(moetap, recorded, tmp_path):
    dead = {layer: of["dead_experts"] for layer, of in layers_of(recorded).items()}
    done = moetap("check", recorded, "--no-dead")
    assert done.returncode == (1 if any(dead.values()) else 0)
    run = tmp_path / "run"
    shutil.copytree(recorded, run)
    summary = json.loads((run / "moetap/summary.json").read_text())
    summary["components"]["language_model"]["1"]["selected_count"][0] = 0
    (run / "moetap/summary.json").write_text(json.dumps(summary))
    done = moetap("check", run, "--no-dead")
    assert done.returncode == 1
    assert any("layer 1: " in line and "never used" in line for line in done.stdout.splitlines())


def test_what_a_run_does_not_have_fails(moetap, recorded, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(recorded, run)
    summary = json.loads((run / "moetap/summary.json").read_text())
    summary["components"]["language_model"]["0"]["entropy_all"] = None
    (run / "moetap/summary.json").write_text(json.dumps(summary))
    done = moetap("check", run, "--min-entropy-ratio", "0.0001")
    assert done.returncode == 1
    assert done.stdout == f"{run}: language_model layer 0: entropy_ratio is not known\n"


def test_overlap_of_two_runs(moetap, recorded, tmp_path):
    done = moetap("check", recorded, recorded, "--min-overlap", "1")
    assert (done.returncode, done.stderr) == (0, "")
    other = tmp_path / "other"
    shutil.copytree(recorded, other)
    (shard,) = (other / "moetap/dump/rank0").glob("language_model-*.safetensors")
    with safe_open(shard, "np") as file:
        metadata = file.metadata()
    columns = load_file(shard)
    ids, weights = columns["1.selected"], columns["1.weights"]
    num_experts = layers_of(recorded)["1"]["num_experts"]
    row = 0
    free = next(e for e in range(num_experts) if e not in ids[row])
    kept = np.count_nonzero(weights[row])
    ids[row, 0] = free
    save_file(columns, shard, metadata)
    shard.chmod(0o600)
    overlap = (len(ids) - 1 + (kept - 1) / kept) / len(ids)
    assert moetap("check", recorded, other, "--min-overlap", str(overlap - 1e-6)).returncode == 0
    done = moetap("check", recorded, other, "--min-overlap", str(overlap + 1e-6))
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{recorded} and {other}: language_model layer 1: overlap is ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "no limit"), (["--min-overlap", "0.5"], "two runs"), (["--max-cv", "much"], "--max-cv")],
)
def test_wrong_usage_is_named(moetap, recorded, arguments, says):
    done = moetap("check", recorded, *arguments)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_without_a_run_is_named(moetap, tmp_path):
    done = moetap("check", tmp_path, "--no-dead")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr

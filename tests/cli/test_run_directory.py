"""Where a run may write, and what it does with what lies there."""

import json

import pytest


@pytest.fixture
def arguments(models, inputs):
    return ["run", models / "moe.pt", "--inputs", inputs / "0.safetensors"]


def test_below_a_file(assert_fails, arguments, tmp_path):
    (tmp_path / "file").write_text("kept")
    assert_fails(1, *arguments, "-o", tmp_path / "file" / "run", parts=[str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "kept"


def test_a_file(assert_fails, arguments, tmp_path):
    (tmp_path / "run").write_text("kept")
    assert_fails(1, *arguments, "-o", tmp_path / "run", parts=[str(tmp_path / "run")])
    assert (tmp_path / "run").read_text() == "kept"


def test_where_the_system_allows_no_files(assert_fails, arguments):
    # Root is not held back by permission bits, but by this.
    assert_fails(1, *arguments, "-o", "/proc/moetap-run", parts=["/proc/moetap-run"])


def test_an_existing_run_is_refused_and_stays(moetap, assert_fails, arguments, tmp_path):
    run = tmp_path / "run"
    assert moetap(*arguments, "-o", run).returncode == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert_fails(1, *arguments, "-o", run, parts=[str(run), "--overwrite"])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_overwrite_replaces_all_of_the_existing_run_and_nothing_else(moetap, models, inputs, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.md").write_text("mine")
    first = [
        "run",
        models / "moe.pt",
        "--inputs",
        inputs,
        "-o",
        run,
        "--task",
        "first",
        "--save-outputs",
        "--dump",
        "topk",
    ]
    assert moetap(*first).returncode == 0
    second = ["run", models / "moe.pt", "--inputs", inputs / "0.safetensors", "-o", run, "--overwrite"]
    assert moetap(*second).returncode == 0
    assert not (run / "first.json").exists()
    assert not (run / "moetap" / "outputs").exists()
    assert not list(run.glob("moetap/dump/**/*.safetensors"))
    assert len(json.loads((run / "log_metrics.json").read_text())["logs"]) == 2
    assert (run / "notes.md").read_text() == "mine"


def test_a_run_that_fails_leaves_an_existing_run_alone(moetap, assert_fails, arguments, tmp_path):
    run = tmp_path / "run"
    assert moetap(*arguments, "-o", run).returncode == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert_fails(2, *arguments, "-o", run, "--overwrite", "--method", "none", parts=["none"])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

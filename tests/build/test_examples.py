"""The examples that are projects of their own, built against the installed package."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from installed_package import ROOT, build_project, run

sys.path.insert(0, str(ROOT / "tests" / "cli"))

from moe_model import moe_inputs

NUM_SAMPLES = 2000


def test_the_session_host_records_a_model(prefix, model, tmp_path):
    build_project(prefix, ROOT / "examples" / "session_host", tmp_path / "build")
    run(tmp_path / "build" / "session_host", model, tmp_path / "run")
    log = json.loads((tmp_path / "run" / "log_metrics.json").read_text())
    assert [entry["doc_id"] for entry in log["logs"]] == list(range(8))


@pytest.fixture(scope="module")
def eval_wrapper(prefix, tmp_path_factory) -> Path:
    build = tmp_path_factory.mktemp("eval_wrapper")
    build_project(prefix, ROOT / "examples" / "eval_wrapper", build)
    return build / "eval_wrapper"


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    lines = []
    for sample in range(NUM_SAMPLES):
        tensors = moe_inputs(1, 3 + sample % 5, seed=sample)
        torch.save((tensors["input_ids"], tensors["attention_mask"], 1.0), folder / f"{sample:05}.pt")
        lines.append(json.dumps({"doc_id": sample, "target": f"answer {sample}"}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def entries(folder: Path) -> list[dict]:
    logs = json.loads((folder / "log_metrics.json").read_text())["logs"]
    for entry in logs:
        entry["logs_metrics_vision"][0][0].pop("time_inference")
    return logs


def kill_midway(command: list, journal: Path, least_bytes: int) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and (not journal.exists() or journal.stat().st_size < least_bytes):
        assert time.monotonic() < deadline, "the journal does not grow"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"


def test_the_eval_wrapper_goes_on_after_a_sample_that_fails(eval_wrapper, model, tmp_path):
    samples = tmp_path / "samples"
    samples.mkdir()
    for sample in range(6):
        tensors = moe_inputs(1, 4, seed=sample)
        torch.save((tensors["input_ids"], tensors["attention_mask"], 1.0), samples / f"{sample}.pt")
    whole = (samples / "4.pt").read_bytes()
    (samples / "4.pt").write_bytes(whole[:100])
    command = [eval_wrapper, model, samples, tmp_path / "run"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1
    assert len(entries(tmp_path / "run")) == 4
    assert not (tmp_path / "run" / "rank0_metric_eval_done.txt").exists()
    (samples / "4.pt").write_bytes(whole)
    assert run(*command).endswith("6 samples, 4 of them from before\n")
    assert [entry["doc_id"] for entry in entries(tmp_path / "run")] == list(range(6))
    assert (tmp_path / "run" / "rank0_metric_eval_done.txt").exists()


def test_the_eval_wrapper_goes_on_after_a_crash(eval_wrapper, model, samples, tmp_path):
    undisturbed = run(eval_wrapper, model, samples, tmp_path / "undisturbed")
    assert undisturbed.endswith(f"{NUM_SAMPLES} samples, 0 of them from before\n")
    command = [eval_wrapper, model, samples, tmp_path / "run"]
    journal = tmp_path / "run" / "moetap" / "journal" / "rank0" / "forwards.frames"
    for least_bytes in (20_000, 150_000):
        kill_midway(command, journal, least_bytes)
    resumed = run(*command)
    from_before = int(resumed.split(", ")[-1].split()[0])
    assert 0 < from_before < NUM_SAMPLES
    assert [entry["target"] for entry in entries(tmp_path / "run")] == [f"answer {i}" for i in range(NUM_SAMPLES)]
    assert entries(tmp_path / "run") == entries(tmp_path / "undisturbed")
    summaries = [(tmp_path / name / "moetap" / "summary.json").read_bytes() for name in ("run", "undisturbed")]
    assert summaries[0] == summaries[1]

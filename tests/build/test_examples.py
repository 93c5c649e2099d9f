"""The examples that are projects of their own, built against the installed package."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from installed_package import ROOT, build_project, run

sys.path.insert(0, str(ROOT / "tests" / "cli"))

from moe_model import WIDTH, MoeBlock, moe_inputs

NUM_SAMPLES = 2000


@pytest.fixture(scope="module")
def session_host(prefix, tmp_path_factory) -> Path:
    build = tmp_path_factory.mktemp("session_host")
    build_project(prefix, ROOT / "examples" / "session_host", build)
    return build / "session_host"


@pytest.fixture(scope="module")
def models_and_inputs(model, tmp_path_factory) -> dict[str, tuple[Path, Path, int]]:
    """Models of different signatures and layers: file, inputs, number of sequences."""
    folder = tmp_path_factory.mktemp("session_host_models")
    torch.save(moe_inputs(2, 5, seed=0), folder / "named.pt")
    instrumented = folder / "moe.tap.pt"
    run(Path(os.environ["MOETAP_BIN_DIR"]) / "moetap", "instrument", model, "-o", instrumented)
    torch.manual_seed(1)
    torch.jit.script(MoeBlock()).save(folder / "block.pt")
    torch.save((torch.randn(3, 4, WIDTH),), folder / "hidden.pt")
    return {
        "plain, inputs by name": (model, folder / "named.pt", 2),
        "instrumented": (instrumented, folder / "named.pt", 2),
        # Its router sees all tokens in one row; the graph shows that they are those of [3, 4] hidden states.
        "one argument, no numbered layer": (folder / "block.pt", folder / "hidden.pt", 3),
    }


@pytest.mark.parametrize("case", ["plain, inputs by name", "instrumented", "one argument, no numbered layer"])
def test_the_session_host_records_any_model(case, session_host, models_and_inputs, tmp_path):
    path, inputs, num_sequences = models_and_inputs[case]
    output = run(session_host, path, tmp_path / "run", inputs, inputs)
    assert output.splitlines()[-1].startswith("2 forwards, ")
    log = json.loads((tmp_path / "run" / "log_metrics.json").read_text())
    assert [entry["doc_id"] for entry in log["logs"]] == list(range(2 * num_sequences))
    assert (tmp_path / "run" / "rank0_metric_eval_done.txt").exists()


def test_the_session_host_says_what_is_wrong(session_host, models_and_inputs, tmp_path):
    model, inputs, _ = models_and_inputs["plain, inputs by name"]
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("no tensors")
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    torch.save({"input_id": torch.zeros(1, 2).long()}, tmp_path / "name.pt")
    for name, said in [
        ("empty.pt", "cannot be read, or is empty"),
        ("text.pt", "is not a file of torch.save"),
        ("tensor.pt", "must hold a tuple or a dict, got Tensor"),
        ("name.pt", "input_id"),
    ]:
        done = subprocess.run(
            [session_host, model, tmp_path / name.split(".")[0], inputs, tmp_path / name],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if "without layers 0 to 9" not in line]
        assert len(lines) == 1, lines
        assert lines[0].startswith("session_host: ") and said in lines[0]
        # The forward before the failure is recorded, and the run is not done.
        assert len(entries(tmp_path / name.split(".")[0])) == 2
        assert not (tmp_path / name.split(".")[0] / "rank0_metric_eval_done.txt").exists()
    usage = subprocess.run([session_host, model], capture_output=True, text=True)
    assert (usage.returncode, usage.stderr) == (2, "usage: session_host MODEL.pt RUN_DIR INPUTS.pt...\n")


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


STOP_BEFORE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Kills the process before the call that is the KILL_AT-th to change a directory's entries; without the variable, says
// at exit how many there were.
static int calls;
static void call(void) {
  const char* kill_at = getenv("KILL_AT");
  if (++calls == (kill_at ? atoi(kill_at) : -1)) kill(getpid(), SIGKILL);
}
#define WRAP(name, parameters, arguments)                                        \\
  int name parameters {                                                          \\
    call();                                                                      \\
    return ((int (*) parameters)dlsym(RTLD_NEXT, #name)) arguments;              \\
  }
WRAP(rename, (const char* from, const char* to), (from, to))
WRAP(unlink, (const char* path), (path))
WRAP(unlinkat, (int folder, const char* path, int flags), (folder, path, flags))
WRAP(rmdir, (const char* path), (path))
WRAP(remove, (const char* path), (path))
WRAP(mkdir, (const char* path, unsigned mode), (path, mode))
__attribute__((destructor)) static void report(void) {
  if (!getenv("KILL_AT")) fprintf(stderr, "calls: %d\\n", calls);
}
"""


def test_the_eval_wrapper_goes_on_wherever_it_was_killed(eval_wrapper, model, tmp_path):
    """Killed before each change of a directory, from the first folder to the last file of the journal."""
    samples = tmp_path / "samples"
    samples.mkdir()
    for sample in range(3):
        tensors = moe_inputs(1, 4, seed=sample)
        torch.save((tensors["input_ids"], tensors["attention_mask"], 1.0), samples / f"{sample}.pt")
    (tmp_path / "stop.c").write_text(STOP_BEFORE)
    run("gcc", "-shared", "-fPIC", "-o", tmp_path / "stop.so", tmp_path / "stop.c", "-ldl")
    preload = os.environ | {"LD_PRELOAD": str(tmp_path / "stop.so")}
    command = [eval_wrapper, model, samples, tmp_path / "undisturbed"]
    counted = subprocess.run(command, capture_output=True, text=True, env=preload)
    num_calls = int(counted.stderr.split("calls: ")[1])
    assert num_calls > 10
    for kill_at in range(1, num_calls + 1):
        command = [eval_wrapper, model, samples, tmp_path / "run"]
        killed = subprocess.run(command, capture_output=True, env=preload | {"KILL_AT": str(kill_at)})
        assert killed.returncode == -signal.SIGKILL
        run(*command)
        assert (tmp_path / "run" / "rank0_metric_eval_done.txt").exists()
        assert entries(tmp_path / "run") == entries(tmp_path / "undisturbed")
        shutil.rmtree(tmp_path / "run")


def test_the_eval_wrapper_says_that_a_run_is_done(eval_wrapper, model, samples, tmp_path):
    command = [eval_wrapper, model, samples, tmp_path / "run"]
    run(*command)
    assert run(*command) == f"{NUM_SAMPLES} samples, the run in {tmp_path / 'run'} is done\n"

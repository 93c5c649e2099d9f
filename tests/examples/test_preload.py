"""LD_PRELOAD and an instrumented model record in hosts that nobody changed, as `moetap run` does."""

import json
import sys
from pathlib import Path

import pytest
from conftest import (
    LIBRARY,
    MOETAP,
    PLAIN_HOST,
    PYTHON_HOST,
    is_whole,
    read_counters,
    read_log,
    run,
    run_python,
)


@pytest.fixture(scope="module")
def reference(models, tmp_path_factory) -> Path:
    """What `moetap run` writes of the same inputs."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    done = run([MOETAP, "run", models.plain, "--inputs", *models.inputs, "-o", folder, "--dump", "topk"], preload=False)
    assert done.status == 0, done.errors
    return folder


def config(tmp_path: Path, **keys) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"output_dir": str(tmp_path / "run"), "dump": "topk"} | keys))
    return path


@pytest.mark.parametrize("host", [[PLAIN_HOST], [sys.executable, PYTHON_HOST]], ids=["cpp", "python"])
def test_a_host_writes_what_run_writes(host, models, reference, tmp_path):
    threads = ["1"] if host[0] == PLAIN_HOST else []
    plain = run([*host, models.plain, *threads, *models.inputs], preload=False)
    done = run([*host, models.instrumented, *threads, *models.inputs], MOETAP_CONFIG=config(tmp_path))
    assert done.errors == []
    assert done.status == 0
    assert done.output == plain.output != ""
    folder = tmp_path / "run"
    assert is_whole(folder)
    assert (folder / "moetap" / "summary.json").read_bytes() == (reference / "moetap" / "summary.json").read_bytes()
    assert read_log(folder) == read_log(reference)
    assert len(read_log(folder)) == 8
    shard = "moetap/dump/rank0/language_model-000000.safetensors"
    assert (folder / shard).read_bytes() == (reference / shard).read_bytes()


def test_worker_threads_share_a_model(models, reference, tmp_path):
    inputs = models.inputs * 25
    done = run([PLAIN_HOST, models.instrumented, 8, *inputs], MOETAP_OUTPUT_DIR=tmp_path / "run")
    assert (done.status, done.errors) == (0, [])
    assert read_counters(tmp_path / "run")["forwards"] == len(inputs)
    counts = [
        json.loads((folder / "moetap" / "summary.json").read_text())["components"]["language_model"]["1"]
        for folder in (tmp_path / "run", reference)
    ]
    assert counts[0]["selected_count"] == [25 * count for count in counts[1]["selected_count"]]
    assert counts[0]["entropy_all"] == pytest.approx(counts[1]["entropy_all"], rel=1e-15)


def test_models_of_one_process_are_kept_apart(models, tmp_path):
    code = """
import copy, sys, torch
first, second = torch.jit.load(sys.argv[1]), torch.jit.load(sys.argv[2])
again = torch.jit.load(sys.argv[1])
arguments = torch.load(sys.argv[3])
for model in (first, second, again, copy.deepcopy(second), first):
    model(*arguments)
"""
    folder = tmp_path / "run"
    done = run_python(code, models.instrumented, models.other, models.inputs[0], MOETAP_OUTPUT_DIR=folder)
    assert done.status == 0
    assert len(done.errors) == 1
    assert f"other.pt is a further model of this process: it records into {folder}-2" in done.errors[0]
    assert read_counters(folder)["forwards"] == 3
    assert read_counters(tmp_path / "run-2")["forwards"] == 2
    assert read_log(folder) != read_log(tmp_path / "run-2")


def test_a_forked_child_leaves_the_run_to_its_parent(models, tmp_path):
    code = """
import os, sys, torch
torch.set_num_threads(1)
model = torch.jit.load(sys.argv[1])
arguments = torch.load(sys.argv[2])
model(*arguments)
child = os.fork()
model(*arguments)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    done = run_python(code, models.instrumented, models.inputs[0], MOETAP_OUTPUT_DIR=tmp_path / "run")
    assert done.status == 0, done.errors
    assert len(done.errors) == 1
    assert "is written by another session (pid " in done.errors[0]
    assert is_whole(tmp_path / "run")
    assert read_counters(tmp_path / "run")["forwards"] == 2


def test_forked_workers_record_for_themselves(models, tmp_path):
    code = """
import os, sys, torch
torch.set_num_threads(1)
model = torch.jit.load(sys.argv[1])  # before the fork, as servers do
arguments = torch.load(sys.argv[2])
workers = []
for number in range(1, 4):
    worker = os.fork()
    if worker == 0:
        for _ in range(number):
            model(*arguments)
        sys.exit()
    workers.append(worker)
print(*workers)
for worker in workers:
    assert os.waitpid(worker, 0)[1] == 0
"""
    done = run_python(code, models.instrumented, models.inputs[0], MOETAP_OUTPUT_DIR=tmp_path / "worker-{pid}")
    assert (done.status, done.errors) == (0, [])
    for number, worker in enumerate(done.output.split(), start=1):
        assert is_whole(tmp_path / f"worker-{worker}")
        assert read_counters(tmp_path / f"worker-{worker}")["forwards"] == number


def test_programs_that_the_host_starts_do_not_load_the_library(tmp_path):
    code = """
import os, subprocess, sys
print('libmoetap' in open('/proc/self/maps').read())
subprocess.run([sys.executable, '-c', "import os; print(os.environ.get('LD_PRELOAD')); "
                "print('libmoetap' in open('/proc/self/maps').read())"], check=True)
"""
    assert run_python(code).output.split() == ["True", "None", "False"]
    others = run_python(code, LD_PRELOAD=f"libm.so.6:{LIBRARY} libdl.so.2")
    assert others.output.split() == ["True", "libm.so.6:libdl.so.2", "False"]

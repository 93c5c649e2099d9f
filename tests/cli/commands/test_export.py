"""What `moetap export` refuses, and that PATH holds a whole export or what it held before."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

MOETAP = Path(os.environ["MOETAP_BIN_DIR"]) / "moetap"


@pytest.fixture(scope="module")
def run_dir(moetap, models, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    assert moetap("run", models / "moe.pt", "--inputs", inputs, "-o", folder, "--dump", "topk").returncode == 0
    return folder


def test_unknown_formats_and_components(run_dir, tmp_path, assert_fails):
    formats = ["npy", "parquet", "flame", "r3", "eplb", "libmoe", "easysteer", "training-log"]
    assert_fails(2, "export", run_dir, "--to", "csv", "-o", tmp_path / "x", parts=['"csv"', *formats])
    options = ["--to", "r3", "--component", "vision_tower", "-o", tmp_path / "x"]
    assert_fails(1, "export", run_dir, *options, parts=["vision_tower", "language_model"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run(tmp_path, assert_fails):
    options = ["--to", "r3", "-o", tmp_path / "x"]
    assert_fails(1, "export", tmp_path / "nothing", *options, parts=["nothing", "no such directory"])
    (tmp_path / "empty").mkdir()
    assert_fails(1, "export", tmp_path / "empty", *options, parts=["empty", "no run"])


def test_a_run_that_did_not_finish(run_dir, tmp_path, assert_fails):
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run/rank0_metric_eval_done.txt").unlink()
    assert_fails(1, "export", tmp_path / "run", "--to", "r3", "-o", tmp_path / "x", parts=["moetap recover"])
    (tmp_path / "run/moetap/journal/rank0").mkdir(parents=True)
    (tmp_path / "run/moetap/journal/rank0/forwards.frames").write_bytes(b"")
    assert_fails(1, "export", tmp_path / "run", "--to", "r3", "-o", tmp_path / "x", parts=["rank0", "moetap recover"])


def test_a_run_without_a_dump_or_without_tokens(moetap, models, inputs, run_dir, tmp_path, assert_fails):
    assert moetap("run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run").returncode == 0
    for format in ("npy", "parquet", "flame", "r3", "easysteer"):
        options = ["--to", format, "-o", tmp_path / "x"]
        assert_fails(1, "export", tmp_path / "run", *options, parts=["has no dump", "--dump"])
    shutil.copytree(run_dir, tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty/moetap/dump")
    assert_fails(1, "export", tmp_path / "empty", "--to", "r3", "-o", tmp_path / "x", parts=["no tokens"])
    for format in ("npy", "easysteer"):
        options = ["--to", format, "-o", tmp_path / "x"]
        assert_fails(1, "export", run_dir, *options, parts=["layer 0", "--dump full"])
    assert not (tmp_path / "x").exists()


def test_a_path_that_is_there_is_replaced_only_with_force(moetap, run_dir, tmp_path, assert_fails):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("kept")
    options = ["--to", "r3", "-o", tmp_path / "mine"]
    assert_fails(1, "export", run_dir, *options, parts=["there already", "--force"])
    assert_fails(1, "export", run_dir, *options, "--force", parts=["no export"])
    assert (tmp_path / "mine/file").read_text() == "kept"
    options = ["--to", "r3", "-o", tmp_path / "new/out/"]
    for force in ([], ["--force"]):
        assert moetap("export", run_dir, *options, *force).returncode == 0
        assert len(list((tmp_path / "new/out").glob("*.npy"))) == 5
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    options = ["--to", "eplb", "-o", tmp_path / "load.npy"]
    assert moetap("export", run_dir, *options).returncode == 0
    assert_fails(1, "export", run_dir, *options, parts=["load.npy", "--force"])
    assert moetap("export", run_dir, *options, "--force").returncode == 0


def test_what_a_killed_export_left_goes_with_the_next(moetap, run_dir, tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    for process in (dead.pid, os.getpid()):
        (tmp_path / f"out.tmp-{process}-0").mkdir()
        (tmp_path / f"out.tmp-{process}-0/half").write_text("")
    assert moetap("export", run_dir, "--to", "r3", "-o", tmp_path / "out").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", f"out.tmp-{os.getpid()}-0"]


def test_of_two_exports_at_once_one_is_refused(run_dir, tmp_path):
    """None of them says that it is done while its files are gone."""
    command = [MOETAP, "export", run_dir, "--to", "parquet", "-o", tmp_path / "out"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes].count(0) == 1, errors
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0 or "is there already" in error
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("format", ["parquet", "r3", "flame"])
def test_a_disk_that_refuses_leaves_nothing(run_dir, tmp_path, format):
    """A limit on the size of files stands for a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    command = [MOETAP, "export", run_dir, "--to", format, "-o", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "cannot write" in done.stderr and "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path):
    layers = [str(layer) for layer in range(40)]
    from_folder = tmp_path / "run/moetap/dump/rank0"
    from_folder.mkdir(parents=True)
    hooks = [
        {
            "kind": "router",
            "component": "language_model",
            "name": f"{i}.gate",
            "run_layer": i,
            "num_experts": 64,
            "top_k": 8,
        }
        for i in layers
    ]
    manifest = {"schema_version": 1, "hooks": hooks, "config": {"dump": "topk", "task": "t"}, "world_size": 1}
    (tmp_path / "run/moetap/manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "run/moetap/summary.json").write_text('{"components": {}}')
    (tmp_path / "run/rank0_metric_eval_done.txt").write_text("")
    rows = 200_000
    columns = {
        "sample": np.arange(rows) // 100,
        "position": (np.arange(rows) % 100).astype(np.int32),
        "token_id": np.zeros(rows, np.int32),
        "phase": np.zeros(rows, np.uint8),
    }
    columns |= {f"{i}.selected": np.random.randint(0, 64, (rows, 8), np.int16) for i in layers}
    metadata = {"schema_version": "1", "rank": "0", "first_row": "0", "hooks": "{}"}
    save_file(columns, from_folder / "language_model-000000.safetensors", metadata)
    command = [MOETAP, "export", tmp_path / "run", "--to", "parquet", "-o", tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out.tmp-*/component=*/layer=0/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.count("\n") == 1 and "interrupted" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["run"]

"""What a killed command left beside its output goes when the next one writes there."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from moe_model import MoeModel
from synthetic_dump import columns_of, write_run, write_shard

MOETAP = Path(os.environ["MOETAP_BIN_DIR"]) / "moetap"


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def leave(path: Path, process: int, number: int) -> Path:
    left = path.with_name(f"{path.name}.tmp-{process}-{number}")
    (left / "inside").mkdir(parents=True)
    (left / "inside/file").write_text("half")
    return left


@pytest.fixture
def commands(recorded, tmp_path):
    torch.jit.script(MoeModel()).save(tmp_path / "model.pt")
    return {
        "analyze": [recorded, "--only", "usage"],
        "export": [recorded, "--to", "eplb"],
        "merge": [recorded],
        "report": [recorded],
        "instrument": [tmp_path / "model.pt"],
    }


@pytest.mark.parametrize("command", ["analyze", "export", "merge", "report", "instrument"])
def test_leftovers_of_dead_processes_go(moetap, commands, command, tmp_path):
    out = tmp_path / "to" / "out"
    gone = [leave(out, dead_process(), number) for number in (0, 3)]
    kept = [leave(out, os.getpid(), 0), leave(tmp_path / "to/other", dead_process(), 0)]
    done = moetap(command, *commands[command], "-o", out)
    assert done.returncode == 0, done.stderr
    assert not any(path.exists() for path in gone)
    assert all((path / "inside/file").exists() for path in kept)


def test_a_killed_analysis_leaves_nothing_to_the_next_one(moetap, tmp_path):
    tokens, layers = 60000, 12
    sample = np.arange(tokens) // 60
    labels = columns_of(sample, np.arange(tokens) % 60, sample // 8, token_id=np.arange(tokens) % 5000)
    ids = np.random.default_rng(0).integers(0, 64, (tokens, 8)).astype(np.int16)
    columns = {f"{layer}.selected": np.roll(ids, layer, 0) for layer in range(layers)}
    folder = write_run(tmp_path / "run", [str(layer) for layer in range(layers)], dump="ids", experts=64)
    write_shard(folder, "language_model", 0, 0, labels | columns)
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen([MOETAP, "analyze", tmp_path / "run", "-o", out / "x", "--threads", "1"])
    while not list(out.iterdir()):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in out.iterdir()] == [f"x.tmp-{process.pid}-0"]
    assert moetap("analyze", tmp_path / "run", "--only", "usage", "-o", out / "x").returncode == 0
    assert [path.name for path in out.iterdir()] == ["x"]


def test_replacing_leaves_the_new_one_alone(moetap, recorded, tmp_path):
    for only in ("usage", "layer_statistics"):
        done = moetap("analyze", recorded, "--only", only, "-o", tmp_path / "out/x", "--force")
        assert done.returncode == 0, done.stderr
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]
        assert (tmp_path / f"out/x/{only}.csv").exists()
    assert not (tmp_path / "out/x/usage.csv").exists()


def test_files_are_for_whom_the_umask_lets(moetap, recorded, tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            assert moetap("analyze", recorded, "-o", tmp_path / f"out{mask}").returncode == 0
            assert moetap("analyze", recorded, "--shard", "0/1", "-o", tmp_path / f"part{mask}").returncode == 0
        finally:
            os.umask(before)
        for folder in (f"out{mask}", f"part{mask}"):
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / folder).iterdir()}
            assert set(modes.values()) == {mode}, modes

"""Ctrl-C during a run."""

import json
import os
import signal
import subprocess
import time

from conftest import MOETAP
from moe_model import moe_inputs
from safetensors.torch import save_file


def test_interrupt_keeps_what_finished(models, tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    for index in range(2000):
        save_file(moe_inputs(4, 64, seed=index), folder / f"{index:04}.safetensors")
    run = tmp_path / "run"
    program = subprocess.Popen(
        [MOETAP, "run", models / "moe.pt", "--inputs", folder, "-o", run, "--save-outputs"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ,
    )
    deadline = time.monotonic() + 60
    while not (run / "moetap" / "outputs" / "000010.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 130, errors
    assert errors.count("\n") == 1
    assert errors.startswith("moetap: run: interrupted; ")
    assert 40 <= len(json.loads((run / "log_metrics.json").read_text())["logs"]) < 8000
    assert not (run / "rank0_metric_eval_done.txt").exists()

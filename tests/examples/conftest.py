"""Hosts that nobody changed, run with and without the library."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "cli"))

import torch  # noqa: E402
from moe_model import MoeModel, moe_inputs  # noqa: E402

LIBRARY = Path(os.environ["MOETAP_LIB_DIR"]) / "libmoetap.so"
MOETAP = Path(os.environ["MOETAP_BIN_DIR"]) / "moetap"
PLAIN_HOST = Path(os.environ["MOETAP_PLAIN_HOST"])
PYTHON_HOST = ROOT / "examples" / "python_host" / "python_host.py"
LAYERS_NOTICE = "without layers 0 to 9"


@dataclass
class Done:
    """How a host ended."""

    status: int
    output: str
    errors: list[str]  # lines of stderr, without the notice that the model has fewer layers than LibMoE's readers want


def run(command: list, preload: bool = True, cwd: Path | None = None, **environment) -> Done:
    names = {"LD_PRELOAD", "MOETAP_CONFIG", "MOETAP_OUTPUT_DIR"}
    variables = {name: value for name, value in os.environ.items() if name not in names}
    if preload:
        variables["LD_PRELOAD"] = str(LIBRARY)
    variables |= {name: str(value) for name, value in environment.items()}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=variables, cwd=cwd)
    errors = [line for line in done.stderr.splitlines() if LAYERS_NOTICE not in line]
    return Done(done.returncode, done.stdout, errors)


def run_python(code: str, *arguments, preload: bool = True, cwd: Path | None = None, **environment) -> Done:
    return run([sys.executable, "-c", code, *arguments], preload=preload, cwd=cwd, **environment)


@dataclass
class Models:
    plain: Path
    instrumented: Path
    other: Path  # another model, instrumented
    inputs: list[Path]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["moe", "other"]):
        torch.manual_seed(seed)
        torch.jit.script(MoeModel()).save(folder / f"{name}.pt")
        done = run([MOETAP, "instrument", folder / f"{name}.pt", "-o", folder / f"{name}.tap.pt"], preload=False)
        assert done.status == 0, done.errors
    inputs = []
    for seed, (batch, length) in enumerate([(2, 5), (1, 7), (2, 3), (3, 4)]):
        tensors = moe_inputs(batch, length, seed)
        inputs.append(folder / f"{seed}.pt")
        torch.save((tensors["input_ids"], tensors["attention_mask"], 1.0), inputs[-1])
    return Models(folder / "moe.pt", folder / "moe.tap.pt", folder / "other.tap.pt", inputs)


def read_log(folder: Path) -> list[dict]:
    """The log's entries without what differs from run to run."""
    logs = json.loads((folder / "log_metrics.json").read_text())["logs"]
    for entry in logs:
        for metrics in entry["logs_metrics_vision"][0]:
            assert metrics.pop("time_inference") >= 0
    return logs


def read_counters(folder: Path) -> dict:
    return json.loads((folder / "moetap" / "manifest.json").read_text())["counters"]


def is_whole(folder: Path) -> bool:
    return (folder / "rank0_metric_eval_done.txt").exists() and not (folder / "moetap" / "journal").exists()

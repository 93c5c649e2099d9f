"""Runs `moetap analyze` of the built program and reads its tables."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from comparison import read_tables

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "cli"))  # models for real runs

MOETAP = Path(os.environ["MOETAP_BIN_DIR"]) / "moetap" if "MOETAP_BIN_DIR" in os.environ else None


@pytest.fixture(scope="session")
def moetap():
    assert MOETAP is not None, "MOETAP_BIN_DIR is not set"

    def run(*arguments) -> subprocess.CompletedProcess:
        return subprocess.run([MOETAP, *map(str, arguments)], capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def analyze(moetap, tmp_path):
    """Gives the folder of the results."""

    def run(*arguments) -> Path:
        folder = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        done = moetap("analyze", *arguments, "-o", folder)
        assert done.returncode == 0, done.stderr
        return folder

    return run


@pytest.fixture
def tables_of(analyze):
    def run(*arguments) -> dict[str, dict[str, list[str]]]:
        return read_tables(analyze(*arguments))

    return run


@pytest.fixture(scope="session")
def recorded(moetap, tmp_path_factory) -> Path:
    """Nine samples in three forwards, some padded at the end."""
    import torch
    from moe_model import MoeModel, moe_inputs
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("recorded")
    torch.manual_seed(3)
    torch.jit.script(MoeModel()).save(folder / "moe.pt")
    (folder / "in").mkdir()
    for index, (batch, length) in enumerate([(4, 15), (1, 7), (4, 12)]):
        inputs = moe_inputs(batch, length, seed=index)
        if batch > 1:
            inputs["attention_mask"][1, 3:] = 0
        save_file(inputs, folder / "in" / f"{index}.safetensors")
    done = moetap("run", folder / "moe.pt", "--inputs", folder / "in", "-o", folder / "run", "--dump", "full")
    assert done.returncode == 0, done.stderr
    return folder / "run"

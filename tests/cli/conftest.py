"""Runs the built program; `assert_fails` states what every error of it must be."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from moe_model import DenseModel, MoeModel, moe_inputs
from safetensors.torch import save_file

MOETAP = Path(os.environ["MOETAP_BIN_DIR"]) / "moetap"


def assert_succeeded(done: subprocess.CompletedProcess) -> None:
    """Nothing on stderr but the notice that the model has fewer layers than LibMoE's readers want."""
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "without layers 0 to 9" not in line] == []


@pytest.fixture(scope="session")
def moetap():
    def run(*arguments, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [MOETAP, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture(scope="session")
def assert_fails(moetap):
    """Exit status, one line on stderr that begins with the program's name, and each of `parts` in it."""

    def run(exit_status: int, *arguments, parts: list[str], **environment: str) -> None:
        done = moetap(*arguments, **environment)
        assert done.returncode == exit_status, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("moetap: "), done.stderr
        for part in parts:
            assert part in done.stderr

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """moe.pt and dense.pt; both were saved in train mode."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    torch.jit.script(MoeModel()).save(folder / "moe.pt")
    torch.jit.script(DenseModel()).save(folder / "dense.pt")
    return folder


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """Three forwards: of 2, 1 and 2 sequences."""
    folder = tmp_path_factory.mktemp("inputs")
    for index, (batch, length) in enumerate([(2, 5), (1, 7), (2, 3)]):
        save_file(moe_inputs(batch, length, seed=index), folder / f"{index}.safetensors")
    return folder


@pytest.fixture
def failing_hooks(tmp_path):
    """A hook spec that takes the scores of layers ("0", or a pattern) for their ids, so that their hooks fail."""

    def write(layers: str) -> Path:
        path = tmp_path / "spec.json"
        path.write_text(json.dumps([{"module": f"layers\\.{layers}", "selected": {"op": "aten::topk", "output": 0}}]))
        return path

    return write

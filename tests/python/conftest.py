"""Paths of the programs under test."""

from __future__ import annotations

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "examples" / "qwen3_vl_moe_digits")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    return ROOT


@pytest.fixture(scope="session")
def moetap() -> pathlib.Path:
    """The built program; its tests fail where there is none."""
    program = pathlib.Path(os.environ.get("MOETAP_PROGRAM", ROOT / "build" / "release" / "bin" / "moetap"))
    assert program.is_file(), f"no program at '{program}': build the preset release or set MOETAP_PROGRAM"
    return program


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)

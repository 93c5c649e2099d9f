"""A recorded run, analyses of it, and their files."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recorded_run import recorded  # noqa: F401 (a fixture)

sys.path.append(str(Path(__file__).resolve().parents[1] / "exports"))  # synthetic_dump


def read_table(path: Path) -> dict[str, list[str]]:
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of an analysis."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def analyze(moetap, tmp_path):
    """Analyses inputs; gives the folder."""

    def run(*arguments) -> Path:
        folder = tmp_path / f"analysis{len(list(tmp_path.iterdir()))}"
        done: subprocess.CompletedProcess = moetap("analyze", *arguments, "-o", folder)
        assert done.returncode == 0, done.stderr
        return folder

    return run


@pytest.fixture
def arrays(tmp_path):
    """Writes the notebook's arrays: softmax gates, the K largest chosen, attention rows that sum to 1, padding."""

    def write(
        layers=3, samples=6, length=12, experts=7, top_k=2, seed=0, folder="arrays", attention=True, dtype=np.float32
    ) -> Path:
        random = np.random.default_rng(seed)
        valid = random.integers(1, length + 1, samples)
        types = random.integers(0, 20, (samples, length))
        types[np.arange(length)[None] >= valid[:, None]] = -1
        logits = random.standard_normal((layers, samples, length, experts))
        gates = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        ids = np.argsort(-gates, axis=-1, kind="stable")[..., :top_k]
        weights = random.random((layers, samples, length, length)) ** 3
        weights *= (types != -1)[None, :, None, :]
        weights /= weights.sum(-1, keepdims=True)
        path = tmp_path / folder
        path.mkdir()
        np.save(path / "token_types.npy", types)
        np.save(path / "topk_idx.npy", ids)
        np.save(path / "gate_scores.npy", gates.astype(dtype))
        if attention:
            np.save(path / "attn_weights.npy", weights.astype(dtype))
        return path

    return write

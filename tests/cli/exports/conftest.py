"""A recorded run for the exports: two layers, padding, full dump; `dump_of` reads its shards as NumPy does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from moe_model import MoeModel, moe_inputs
from safetensors.numpy import load_file
from safetensors.torch import save_file

CATEGORIES = ["odd", "even", "odd", "even", "odd"]


def dump_of(run: Path, series: str = "language_model", rank: int = 0) -> dict[str, np.ndarray]:
    shards = [load_file(path) for path in sorted((run / f"moetap/dump/rank{rank}").glob(f"{series}-*.safetensors"))]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


@pytest.fixture(scope="session")
def recorded(moetap, tmp_path_factory) -> Path:
    """Five samples in three forwards, the first padded at the end."""
    folder = tmp_path_factory.mktemp("recorded")
    torch.manual_seed(0)
    torch.jit.script(MoeModel()).save(folder / "moe.pt")
    (folder / "in").mkdir()
    for index, (batch, length) in enumerate([(2, 5), (1, 7), (2, 3)]):
        inputs = moe_inputs(batch, length, seed=index)
        if index == 0:
            inputs["attention_mask"][1, 3:] = 0
        save_file(inputs, folder / "in" / f"{index}.safetensors")
    lines = [json.dumps({"doc_id": i, "doc": {"category": name}}) for i, name in enumerate(CATEGORIES)]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    done = moetap(
        *("run", folder / "moe.pt", "--inputs", folder / "in", "-o", folder / "run", "--dump", "full"),
        *("--samples", folder / "samples.jsonl"),
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def export(moetap, tmp_path):
    """Exports a run; gives the path of the export. Nothing but `notices` is said on stderr."""

    def run(run_dir: Path, *options: str, notices: tuple[str, ...] = ()) -> Path:
        path = tmp_path / f"export{len(list(tmp_path.iterdir()))}"
        done = moetap("export", run_dir, *options, "-o", path)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == len(notices), done.stderr
        for line, part in zip(lines, notices, strict=True):
            assert part in line
        return path

    return run

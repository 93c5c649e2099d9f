"""The run that the tests of exports and of studies read."""

import json
from pathlib import Path

import pytest
import torch
from moe_model import MoeModel, moe_inputs
from safetensors.torch import save_file

CATEGORIES = ["odd", "even", "odd", "even", "odd"]


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

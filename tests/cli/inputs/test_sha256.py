"""The SHA-256 of a model file, which the manifest holds."""

import hashlib
import json

import pytest
import torch
from conftest import assert_succeeded
from moe_model import MoeModel


@pytest.mark.parametrize("num_bytes", [0, 3_000_001], ids=["small", "larger than a buffer"])
def test_the_manifest_names_the_model(num_bytes, moetap, inputs, tmp_path):
    model = MoeModel()
    model.register_buffer("ballast", torch.zeros(num_bytes, dtype=torch.uint8))
    torch.jit.script(model).save(tmp_path / "model.pt")
    assert_succeeded(moetap("run", tmp_path / "model.pt", "--inputs", inputs, "-o", tmp_path / "run"))
    manifest = json.loads((tmp_path / "run" / "moetap" / "manifest.json").read_text())
    assert manifest["sha256"] == hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()

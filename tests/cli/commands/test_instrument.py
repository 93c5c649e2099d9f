"""The model that instrument writes, and the outputs that it refuses."""

import json
import os

import pytest
import torch
from moe_model import moe_inputs


@pytest.mark.skipif(bool(os.environ.get("MOETAP_SANITIZER")), reason="this Python is not built with the sanitizer")
def test_instrumented_model_is_inspected_as_the_plain_one_and_gives_the_same_bits(moetap, models, tmp_path):
    out = tmp_path / "instrumented.pt"
    done = moetap("instrument", models / "moe.pt", "-o", out)
    assert (done.returncode, done.stderr) == (0, "")
    plain = json.loads(moetap("inspect", models / "moe.pt", "--json").stdout)
    again = json.loads(moetap("inspect", out, "--json").stdout)
    assert again["hooks"] == plain["hooks"]
    assert [path.name for path in tmp_path.iterdir()] == ["instrumented.pt"]

    torch.ops.load_library(os.path.join(os.environ["MOETAP_LIB_DIR"], "libmoetap.so"))
    values = moe_inputs(2, 5, seed=3)
    expected = torch.jit.load(models / "moe.pt").eval()(**values)
    model = torch.jit.load(out).eval()
    for _ in range(3):
        assert torch.equal(model(**values), expected)


@pytest.mark.parametrize("output", ["folder", "none/out.pt", "file/out.pt"])
def test_instrument_refuses_an_output_that_cannot_be(assert_fails, models, tmp_path, output):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert_fails(1, "instrument", models / "moe.pt", "-o", tmp_path / output, parts=[output])

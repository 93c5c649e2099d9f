"""--device."""

import pytest
import torch


def test_what_is_no_device(assert_fails, models, inputs, tmp_path):
    for name in ["tpu", "cuda:x", "", "meta"]:
        arguments = ["run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", "--device", name]
        assert_fails(2, *arguments, parts=["cuda:N", f'"{name}"'])
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(assert_fails, models, inputs, tmp_path):
    arguments = ["run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", "--device", "cuda:0"]
    assert_fails(1, *arguments, parts=["cuda:0"])

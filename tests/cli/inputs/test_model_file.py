"""How every command refuses a file that is no model."""

import os

import pytest
import torch


def commands(model, tmp_path, inputs):
    return [
        ["inspect", model],
        ["instrument", model, "-o", tmp_path / "out.pt"],
        ["run", model, "--inputs", inputs, "-o", tmp_path / "run"],
    ]


@pytest.fixture
def assert_model_refused(assert_fails, tmp_path, inputs):
    def check(model, part):
        for command in commands(model, tmp_path, inputs):
            assert_fails(1, *command, parts=[str(model), part])
        assert not (tmp_path / "out.pt").exists()
        assert not (tmp_path / "run").exists()

    return check


def test_missing(assert_model_refused, tmp_path):
    assert_model_refused(tmp_path / "none.pt", "no such file")


def test_directory(assert_model_refused, models):
    assert_model_refused(models, "is a directory")


def test_empty(assert_model_refused, tmp_path):
    (tmp_path / "empty.pt").touch()
    assert_model_refused(tmp_path / "empty.pt", "is empty")


def test_text(assert_model_refused, tmp_path):
    (tmp_path / "text.pt").write_text("not a model\n" * 100)
    assert_model_refused(tmp_path / "text.pt", "not a TorchScript file")


def test_weights_without_code(assert_model_refused, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    assert_model_refused(tmp_path / "weights.pt", "weights without code")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_truncated(assert_model_refused, tmp_path, models, share):
    whole = (models / "moe.pt").read_bytes()
    path = tmp_path / "truncated.pt"
    path.write_bytes(whole[: max(1, int(len(whole) * share))])
    assert_model_refused(path, str(path))


def test_damaged_in_the_middle(assert_model_refused, tmp_path, models):
    data = bytearray((models / "moe.pt").read_bytes())
    place = data.index(b"data.pkl") + 100
    data[place : place + 64] = os.urandom(64)
    (tmp_path / "damaged.pt").write_bytes(data)
    assert_model_refused(tmp_path / "damaged.pt", "damaged.pt")


def test_unregistered_operator(assert_model_refused, tmp_path):
    library = torch.library.Library("elsewhere", "DEF")
    library.define("route(Tensor x) -> Tensor")

    @torch.jit.script
    def call(x):
        return torch.ops.elsewhere.route(x)

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return call(x)

    torch.jit.script(Model()).save(tmp_path / "foreign.pt")
    assert_model_refused(tmp_path / "foreign.pt", "elsewhere::route")


def test_no_router(assert_model_refused, models):
    assert_model_refused(models / "dense.pt", "no router")

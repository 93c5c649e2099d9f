"""Model files: what inspect and instrument say of them, and how every command refuses those that are none."""

import json
import os

import pytest
import torch
from moe_model import NUM_EXPERTS, TOP_K, moe_inputs


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


def test_inspect_of_a_model_without_routers_still_prints_json(moetap, models):
    done = moetap("inspect", models / "dense.pt", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["hooks"] == []


def test_inspect(moetap, models):
    done = moetap("inspect", models / "moe.pt", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["schema_version"] == 1
    assert report["model"] == str(models / "moe.pt")
    found = [hook for hook in report["hooks"] if hook["method"] == "forward"]
    assert [(hook["name"], hook["layer"], hook["kind"]) for hook in found] == [
        ("layers.0.gate", "0", "router"),
        ("layers.1.gate", "1", "router"),
    ]
    for hook in found:
        assert (hook["top_k"], hook["scoring"], hook["component"]) == (TOP_K, "softmax", "language_model")
        assert hook["num_experts"] in (NUM_EXPERTS, None)
    text = moetap("inspect", models / "moe.pt").stdout
    assert "layers.0.gate" in text
    assert "layers.1.gate" in text


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

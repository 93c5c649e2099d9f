"""Hook specs and methods of submodules, from the command line; the worked example is that of docs/hook_specs.md."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from conftest import assert_succeeded
from moe_model import VOCABULARY, WIDTH, MoeBlock, moe_inputs
from safetensors.torch import load_file, save_file
from torch import nn

DOC = (Path(__file__).parents[3] / "docs" / "hook_specs.md").read_text()


def doc_blocks(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", DOC, re.DOTALL | re.MULTILINE)
    return [text for kind, text in blocks if kind == language]


@pytest.fixture(scope="module")
def mixture_class(tmp_path_factory):
    """The class of the worked example. TorchScript reads its source, so it stands in a file."""
    path = tmp_path_factory.mktemp("doc") / "dense_mixture.py"
    path.write_text("import torch\nfrom torch import nn\n\n\n" + doc_blocks("python")[0])
    namespace = {}
    exec(compile(path.read_text(), path, "exec"), namespace)
    return namespace["DenseMixture"]


class Layer(nn.Module):
    def __init__(self, mixture):
        super().__init__()
        self.mixture = mixture

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mixture(x)


class Model(nn.Module):
    """Two dense mixtures, then a router that discovery finds."""

    def __init__(self, mixture_class):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Layer(mixture_class()), Layer(mixture_class())])
        self.last = MoeBlock()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


@pytest.fixture(scope="module")
def model(mixture_class):
    torch.manual_seed(3)
    return Model(mixture_class).eval()


@pytest.fixture(scope="module", params=["scripted", "traced"])
def model_file(request, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("mixtures") / f"{request.param}.pt"
    values = moe_inputs(2, 5, seed=1)
    made = torch.jit.script(model) if request.param == "scripted" else torch.jit.trace(model, tuple(values.values()))
    made.save(path)
    return path


@pytest.fixture
def spec(tmp_path):
    def write(entries) -> Path:
        path = tmp_path / "spec.json"
        path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
        return path

    return write


@pytest.fixture
def input_file(tmp_path):
    path = tmp_path / "input.safetensors"
    save_file(moe_inputs(2, 5, seed=7), path)
    return path


def inspected(moetap, *arguments):
    done = moetap("inspect", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def dumped(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "moetap" / "dump" / "rank0" / "language_model-000000.safetensors")


def test_the_worked_example_inspects_as_the_doc_says(moetap, model_file, spec):
    plain = inspected(moetap, model_file)
    assert [hook["name"] for hook in plain["hooks"]] == ["last.gate"]
    reasons = [site["reason"] for site in plain["skipped"]]
    assert len(reasons) == 2
    assert all("dense mixture" in reason for reason in reasons)
    found = inspected(moetap, model_file, "--hooks", spec(doc_blocks("json")[0]))
    assert found["skipped"] == []
    assert [hook["name"] for hook in found["hooks"]] == ["layers.0.mixture", "layers.1.mixture", "last.gate"]
    for layer, hook in enumerate(found["hooks"][:2]):
        assert (hook["layer"], hook["num_experts"], hook["top_k"], hook["scoring"]) == (str(layer), 4, 4, "softmax")
    done = moetap("inspect", model_file, "--hooks", spec(doc_blocks("json")[0]))
    assert (done.returncode, done.stderr) == (0, "")
    table = done.stdout
    promised = doc_blocks("")[0]
    assert [line.split() for line in table.splitlines()[:3]] == [line.split() for line in promised.splitlines()]


def test_the_worked_example_records_what_the_model_computes(moetap, model_file, model, spec, input_file, tmp_path):
    run = tmp_path / "run"
    arguments = ["--hooks", spec(doc_blocks("json")[0]), "--dump", "full", "--save-outputs"]
    assert_succeeded(moetap("run", model_file, "--inputs", input_file, "-o", run, *arguments))
    values = load_file(input_file)
    plain = torch.jit.load(model_file).eval()(**values)
    assert torch.equal(load_file(run / "moetap" / "outputs" / "000000.safetensors")["output"], plain)
    dump = dumped(run)
    x = model.embedding(values["input_ids"]) * values["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        for index, layer in enumerate(model.layers):
            logits = layer.mixture.gate(x).reshape(-1, 4)
            weights, ids = torch.softmax(logits, -1).sort(-1, descending=True)
            torch.testing.assert_close(dump[f"{index}.logits"], logits, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(dump[f"{index}.weights"], weights, rtol=1e-5, atol=1e-5)
            assert torch.equal(dump[f"{index}.selected"].long(), ids)
            x = layer(x)
    manifest = json.loads((run / "moetap" / "manifest.json").read_text())
    assert manifest["config"]["hooks"].endswith("spec.json")
    assert [hook["name"] for hook in manifest["hooks"]] == ["layers.0.mixture", "layers.1.mixture", "last.gate"]


def test_the_other_examples_of_the_doc_are_specs(assert_fails, model_file, spec):
    # They are for other models: here they are read without error and match nothing.
    assert_fails(2, "inspect", model_file, "--hooks", spec(doc_blocks("json")[1]), parts=["entry 0", "the nearest"])


def test_a_configuration_holds_the_spec_itself(moetap, model_file, input_file, tmp_path):
    config = tmp_path / "config.json"
    entries = [{"module": "last\\.gate", "layer": "9", "component": "vision_tower"}]
    config.write_text(json.dumps({"hooks": entries}))
    run = tmp_path / "run"
    assert_succeeded(moetap("run", model_file, "--inputs", input_file, "-o", run, "--config", config))
    summary = json.loads((run / "moetap" / "summary.json").read_text())
    assert list(summary["components"]) == ["vision_tower"]
    assert list(summary["components"]["vision_tower"]) == ["9"]
    assert json.loads((run / "moetap" / "manifest.json").read_text())["config"]["hooks"] == entries


def test_skip(moetap, assert_fails, model_file, spec):
    path = spec([*json.loads(doc_blocks("json")[0]), {"module": "last\\..*", "skip": True}])
    found = inspected(moetap, model_file, "--hooks", path)
    assert [hook["name"] for hook in found["hooks"]] == ["layers.0.mixture", "layers.1.mixture"]
    assert [site["reason"] for site in found["skipped"]] == ["skipped by the hook spec"]
    nothing_left = spec([{"module": "last\\..*", "skip": True}])
    assert_fails(1, "inspect", model_file, "--hooks", nothing_left, parts=["no router"])


@pytest.mark.parametrize(
    "entries, parts",
    [
        ([{"module": "layer\\.(\\d+)\\.mixture", "selected": "all"}], ["entry 0", "the nearest: layers.0.mixture"]),
        (
            [{"module": "layers\\.0\\.mixture", "selected": "all", "weights": {"output_of": "gates"}}],
            ["entry 0: weights in layers.0.mixture", "the nearest that it calls: gate"],
        ),
        (
            [{"module": "layers\\.0\\.mixture", "selected": {"op": "topk"}}],
            ["there is no aten::topk in layers.0.mixture", "aten::softmax (1)"],
        ),
        ([{"module": "layers\\.0\\.mixture", "layer": "3"}], ["where no router was found", "last.gate"]),
        ([{"module": "last(", "skip": True}], ["entry 0", "no regular expression"]),
        ([{"module": "last", "leyer": "1"}], ["entry 0", "unknown field", "leyer"]),
        ("[", ["JSON"]),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(assert_fails, model_file, spec, input_file, tmp_path, entries, parts):
    path = spec(entries)
    out, run = tmp_path / "out.pt", tmp_path / "run"
    assert_fails(2, "inspect", model_file, "--hooks", path, parts=[str(path), *parts])
    assert_fails(2, "instrument", model_file, "-o", out, "--hooks", path, parts=[str(path), *parts])
    arguments = ["--inputs", input_file, "-o", run, "--hooks", path]
    assert_fails(2, "run", model_file, *arguments, parts=[str(path), *parts])
    assert not out.exists()
    assert not run.exists()


def test_an_instrumented_model_takes_no_spec(moetap, assert_fails, model_file, spec, input_file, tmp_path):
    out, path = tmp_path / "out.pt", spec(doc_blocks("json")[0])
    assert_succeeded(moetap("instrument", model_file, "-o", out, "--hooks", path))
    names = [hook["name"] for hook in inspected(moetap, out)["hooks"]]
    assert names == ["layers.0.mixture", "layers.1.mixture", "last.gate"]
    run = tmp_path / "run"
    assert_fails(2, "inspect", out, "--hooks", path, parts=["instrumented already"])
    assert_fails(2, "run", out, "--inputs", input_file, "-o", run, "--hooks", path, parts=["instrumented already"])
    assert_succeeded(moetap("run", out, "--inputs", input_file, "-o", run, "--dump", "topk"))
    assert "0.selected" in dumped(run)


class Decoder(MoeBlock):
    """Of a class of its own: TorchScript shares code by class, and the code of MoeBlock is also called elsewhere."""


class Wrapper(nn.Module):
    """A host calls `encoder` itself; the model's own method reaches `decoder` only."""

    def __init__(self, mixture_class):
        super().__init__()
        self.encoder = Model(mixture_class)
        self.decoder = Decoder()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(x)


@pytest.fixture(scope="module")
def wrapper_file(mixture_class, tmp_path_factory):
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("wrapper") / "wrapper.pt"
    torch.jit.script(Wrapper(mixture_class).eval()).save(path)
    return path


def test_a_submodules_method_is_found_and_run(moetap, assert_fails, wrapper_file, input_file, tmp_path):
    hooks = inspected(moetap, wrapper_file)["hooks"]
    found = [(hook["name"], hook["method"]) for hook in hooks]
    assert found == [("decoder.gate", "forward"), ("encoder.last.gate", "encoder.forward")]
    run = tmp_path / "run"
    arguments = ["--method", "encoder.forward", "--dump", "topk", "--save-outputs"]
    assert_succeeded(moetap("run", wrapper_file, "--inputs", input_file, "-o", run, *arguments))
    values = load_file(input_file)
    plain = torch.jit.load(wrapper_file).eval().encoder(**values)
    assert torch.equal(load_file(run / "moetap" / "outputs" / "000000.safetensors")["output"], plain)
    dump = load_file(next((run / "moetap" / "dump" / "rank0").glob("*.safetensors")))
    assert torch.equal(dump["token_id"].long(), values["input_ids"].reshape(-1))  # by the argument's name
    assert_fails(
        2,
        *["run", wrapper_file, "--inputs", input_file, "-o", tmp_path / "none", "--method", "encodr.forward"],
        parts=['no method "encodr.forward"', "encoder.forward"],
    )


def test_a_method_that_is_reached_is_recorded_when_asked_for(moetap, assert_fails, wrapper_file, tmp_path):
    out = tmp_path / "out.pt"
    arguments = ["--method", "decoder.forward", "--method", "encoder.forward"]
    assert_succeeded(moetap("instrument", wrapper_file, "-o", out, *arguments))
    methods = [hook["method"] for hook in inspected(moetap, out)["hooks"]]
    assert methods == ["forward", "encoder.forward", "decoder.forward"]
    assert_fails(
        2,
        *["instrument", wrapper_file, "-o", tmp_path / "none.pt", "--method", "decodr.forward"],
        parts=['no method "decodr.forward"', "decoder.forward"],
    )


def test_a_method_of_a_class_that_others_share_is_refused(assert_fails, models, inputs, tmp_path):
    parts = ["layers.0.forward", "layers.1 has the same class"]
    out, run = tmp_path / "out.pt", tmp_path / "run"
    model = models / "moe.pt"
    assert_fails(2, "instrument", model, "-o", out, "--method", "layers.0.forward", parts=parts)
    assert_fails(2, "run", model, "--inputs", inputs, "-o", run, "--method", "layers.0.forward", parts=parts)
    assert not out.exists()
    assert not run.exists()


@pytest.mark.skipif(bool(os.environ.get("MOETAP_SANITIZER")), reason="this Python is not built with the sanitizer")
def test_an_instrumented_submodule_gives_the_same_bits(moetap, wrapper_file, tmp_path):
    out = tmp_path / "out.pt"
    assert_succeeded(moetap("instrument", wrapper_file, "-o", out))
    torch.ops.load_library(os.path.join(os.environ["MOETAP_LIB_DIR"], "libmoetap.so"))
    values = moe_inputs(2, 5, seed=3)
    expected = torch.jit.load(wrapper_file).eval().encoder(**values)
    model = torch.jit.load(out).eval()
    for _ in range(3):
        assert torch.equal(model.encoder(**values), expected)


class AttentionLayer(nn.Module):
    def __init__(self, attention, mixture):
        super().__init__()
        self.attention = attention
        self.mixture = mixture

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.mixture(x)


class AttentionModel(nn.Module):
    """Two layers of attention that discovery does not see, and routers that it does."""

    def __init__(self, attention_class):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([AttentionLayer(attention_class(), MoeBlock()) for _ in range(2)])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(scope="module", params=["scripted", "traced"])
def attention_file(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attention")
    path = folder / "summed_attention.py"
    path.write_text("import torch\nfrom torch import nn\n\n\n" + doc_blocks("python")[1])
    namespace = {}
    exec(compile(path.read_text(), path, "exec"), namespace)
    torch.manual_seed(4)
    model = AttentionModel(namespace["SummedAttention"]).eval()
    ids = torch.arange(12).reshape(2, 6) % VOCABULARY
    made = torch.jit.script(model) if request.param == "scripted" else torch.jit.trace(model, (ids,))
    made.save(folder / "model.pt")
    save_file({"input_ids": ids}, folder / "input.safetensors")
    return model, folder / "model.pt", folder / "input.safetensors"


ATTENTION_SPECS = [2, 3]  # the blocks of the page


@pytest.mark.parametrize("block", ATTENTION_SPECS)
def test_attention_by_hand_inspects_as_the_doc_says(moetap, attention_file, spec, block):
    _, model, _ = attention_file
    assert [hook["kind"] for hook in inspected(moetap, model)["hooks"]] == ["router", "router"]
    path = spec(doc_blocks("json")[block])
    found = [hook for hook in inspected(moetap, model, "--hooks", path)["hooks"] if hook["kind"] == "attention"]
    assert [(hook["name"], hook["layer"], hook["implementation"]) for hook in found] == [
        ("layers.0.attention", "0", "named"),
        ("layers.1.attention", "1", "named"),
    ]
    table = [line.split()[1:] for line in moetap("inspect", model, "--hooks", path).stdout.splitlines()]
    promised = [line.split()[1:] for line in doc_blocks("")[-1].splitlines()]
    assert all(line in table for line in promised)


@pytest.mark.parametrize("block", ATTENTION_SPECS)
@torch.no_grad()
def test_attention_by_hand_is_measured(moetap, attention_file, spec, tmp_path, block):
    eager, model, inputs = attention_file
    run, path = tmp_path / "run", spec(doc_blocks("json")[block])
    arguments = ["--hooks", path, "--attention", "stats", "--save-outputs"]
    assert_succeeded(moetap("run", model, "--inputs", inputs, "-o", run, *arguments))
    ids = load_file(inputs)["input_ids"]
    plain = torch.jit.load(model).eval()(ids)
    assert torch.equal(load_file(run / "moetap" / "outputs" / "000000.safetensors")["output"], plain)
    layers = json.loads((run / "moetap" / "summary.json").read_text())["attention"]["language_model"]
    x = eager.embedding(ids)
    places = torch.arange(ids.size(1))
    for number, layer in enumerate(eager.layers):
        query, key = layer.attention.heads(layer.attention.query(x)), layer.attention.heads(layer.attention.key(x))
        p = torch.softmax(query @ key.transpose(-2, -1) * 0.5, -1)
        found = layers[str(number)]
        assert found["rows"] == ids.numel() and found["num_heads"] == 2
        entropy = -(p * p.log()).sum(-1)
        assert found["entropy"] == pytest.approx(entropy.mean().item(), abs=1e-5)
        assert found["head_entropy"] == pytest.approx(entropy.mean((0, 2)).tolist(), abs=1e-5)
        distance = (p.mean(1) * (places[:, None] - places).abs()).sum(-1)
        assert found["distance"] == pytest.approx(distance.mean().item(), abs=1e-5)
        assert found["self"] == pytest.approx(p.mean(1).diagonal(dim1=1, dim2=2).mean().item(), abs=1e-5)
        assert sum(found["experts"]["gate_mass"]) > 0
        x = layer(x)


def test_values_that_are_no_probabilities_stop_their_hook(moetap, attention_file, spec, tmp_path):
    _, model, inputs = attention_file
    entries = [
        {
            "module": "layers\\.0\\.attention",
            "kind": "attention",
            "probabilities": {"op": "aten::mul", "occurrence": -1},
        },
        {"module": "layers\\.1\\.attention", "kind": "attention", "probabilities": {"op": "aten::softmax"}},
    ]
    run = tmp_path / "run"
    done = moetap(
        "run", model, "--inputs", inputs, "-o", run, "--hooks", spec(entries), "--attention", "stats", "--save-outputs"
    )
    assert "layers.0.attention" in done.stderr and "probabilities" in done.stderr
    assert json.loads((run / "moetap" / "manifest.json").read_text())["counters"]["failed_hooks"] == 1
    layers = json.loads((run / "moetap" / "summary.json").read_text())["attention"]["language_model"]
    assert layers["0"]["rows"] == 0 and layers["0"]["entropy"] is None
    assert layers["1"]["rows"] == 12


@pytest.mark.parametrize(
    "entry, parts",
    [
        ({"query": {"op": "transpose", "occurrence": 0}}, ["no attention was found", "query and key"]),
        ({"layer": "3"}, ["where no attention was found", "none was found"]),
        ({"probabilities": {"op": "softmax"}, "layout": "bqk"}, ["probabilities in layers.0.attention", "got 4"]),
        ({"probabilities": {"op": "softmax"}, "causal": True}, ["causal and probabilities exclude each other"]),
        (
            {"probabilities": {"op": "sigmoid"}},
            ["there is no aten::sigmoid in layers.0.attention", "aten::softmax (1)"],
        ),
        ({"selected": "all"}, ['selected goes with "kind": "router"']),
    ],
)
@pytest.mark.parametrize("attention", ["off", "stats"])
def test_attention_that_does_not_fit_is_refused(assert_fails, attention_file, spec, tmp_path, entry, parts, attention):
    _, model, inputs = attention_file
    path = spec([{"module": "layers\\.0\\.attention", "kind": "attention", **entry}])
    out, run = tmp_path / "out.pt", tmp_path / "run"
    mode = ["--attention", attention]
    assert_fails(2, "inspect", model, "--hooks", path, parts=[str(path), "entry 0", *parts])
    assert_fails(2, "instrument", model, "-o", out, "--hooks", path, *mode, parts=[str(path), "entry 0", *parts])
    arguments = ["--inputs", inputs, "-o", run, "--hooks", path, *mode]
    assert_fails(2, "run", model, *arguments, parts=[str(path), "entry 0", *parts])
    assert not out.exists()
    assert not run.exists()

"""`moetap verify`: hooks on the right values are proven, hooks that a spec puts on wrong ones are refuted by name."""

import json
from typing import Final

import pytest
import torch
from attention_model import NUM_LAYERS, Decoder, EagerAttention, FusedAttention, no_past
from conftest import assert_succeeded
from moe_model import NUM_EXPERTS, VOCABULARY, WIDTH, moe_inputs
from safetensors.torch import save_file
from torch import nn


class Router(nn.Module):
    """Each step is a module, so that a hook spec can name what it gives."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, NUM_EXPERTS, bias=False)
        self.mask = Mask()
        self.normalise = Normalise()
        self.remap = Remap()

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.softmax(self.mask(self.gate(tokens)), dim=-1)
        weights, selected = torch.topk(scores, 2, dim=-1)
        return self.normalise(weights), self.remap(selected)


class Mask(nn.Module):
    """Some experts are closed for some tokens."""

    num_experts: Final[int] = NUM_EXPERTS

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        experts = torch.arange(self.num_experts)
        closed = experts.unsqueeze(0) == (torch.arange(logits.size(0)) % self.num_experts).unsqueeze(1)
        return logits.masked_fill(closed, -1e9)


class Normalise(nn.Module):
    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        return weights / weights.sum(dim=-1, keepdim=True)


class Remap(nn.Module):
    """Another expert runs than was selected."""

    num_experts: Final[int] = NUM_EXPERTS

    def forward(self, selected: torch.Tensor) -> torch.Tensor:
        return (selected + 1) % self.num_experts


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.router = Router()
        self.experts = nn.Parameter(torch.randn(NUM_EXPERTS, WIDTH, WIDTH))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        tokens = x.flatten(0, 1)
        weights, selected = self.router(tokens)
        outputs = torch.einsum("td,tkdf->tkf", tokens, self.experts[selected])
        return x + (outputs * weights.unsqueeze(-1)).sum(dim=1).reshape(x.shape)


RIGHT = {
    "module": "router",
    "kind": "router",
    "logits": {"output_of": "mask"},
    "selected": {"op": "aten::topk", "output": 1},
    "weights": {"output_of": "normalise"},
}
KINDS = ["logits", "margin", "ids", "weights", "factor", "samples", "positions", "padding"]
BEFORE_THE_MASK = {"output_of": "gate"}
BEFORE_NORMALISING = {"op": "aten::topk", "output": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    torch.manual_seed(0)
    torch.jit.script(Model()).save(folder / "model.pt")
    save_file({"input_ids": moe_inputs(2, 6, seed=0)["input_ids"]}, folder / "x.safetensors")
    return folder


@pytest.fixture
def verify(moetap, model, tmp_path):
    def run(spec: dict):
        path = tmp_path / "spec.json"
        path.write_text(json.dumps([spec]))
        done = moetap("verify", model / "model.pt", "--inputs", model / "x.safetensors", "--hooks", path, "--json")
        assert done.stderr == ""
        result = json.loads(done.stdout)
        assert result["output_identical"] is True
        (hook,) = result["hooks"]
        return done.returncode, hook["verdict"], {check["what"]: check for check in hook["checks"]}

    return run


def test_a_hook_on_the_values_that_the_model_uses_is_proven(moetap, models, inputs):
    done = moetap("verify", models / "moe.pt", "--inputs", inputs)
    assert_succeeded(done)
    lines = done.stdout.splitlines()
    assert lines[0] == "output without interventions: the same bits"
    for number, line in enumerate(lines[1:]):
        assert line.split()[:3] == [str(number), f"layers.{number}.gate", "proven:"], line
        assert "refuted" not in line
    assert len(lines) == 3


def test_json_has_a_verdict_for_each_check(moetap, models, inputs):
    done = moetap("verify", models / "moe.pt", "--inputs", inputs, "--json", "--method", "encode")
    assert_succeeded(done)
    result = json.loads(done.stdout)
    assert result["method"] == "encode"
    assert result["output_identical"] is True
    for hook in result["hooks"]:
        assert hook["verdict"] == "proven"
        assert [check["what"] for check in hook["checks"]] == KINDS
        for check in hook["checks"]:
            assert check["verdict"] in ("proven", "not shown")
            assert bool(check["why"]) == (check["verdict"] == "not shown"), check


def test_ids_and_logits_with_what_selection_reads_are_proven(verify):
    status, verdict, checks = verify(RIGHT)
    for what in ("logits", "margin", "ids", "weights", "factor", "samples", "positions"):
        assert checks[what]["verdict"] == "proven", checks[what]
    assert checks["padding"]["verdict"] == "not shown"
    assert (status, verdict) == (0, "proven")


def test_logits_before_a_mask_are_not_proven(verify):
    """A mask behind the scores looks the same, and is right."""
    _, _, checks = verify({**RIGHT, "logits": BEFORE_THE_MASK})
    assert checks["logits"]["verdict"] == "not shown"
    assert "does not select it: something else takes part" in checks["logits"]["why"]


def test_weights_that_are_normalised_afterwards_are_refuted(verify):
    status, verdict, checks = verify({**RIGHT, "weights": BEFORE_NORMALISING})
    assert (status, verdict, checks["weights"]["verdict"]) == (1, "refuted", "refuted")


class TwoPicks(Router):
    """The ids of the first pick run experts for nothing; what counts are those of the second."""

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scores = torch.softmax(self.gate(tokens), dim=-1)
        weights, selected = torch.topk(scores, 2, dim=-1)
        return self.normalise(weights), selected, torch.argsort(scores, dim=-1, descending=True)[:, :2]


class TwoPicksModel(Model):
    def __init__(self):
        super().__init__()
        self.router = TwoPicks()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        tokens = x.flatten(0, 1)
        weights, selected, other = self.router(tokens)
        unused = torch.einsum("td,tkdf->tkf", tokens, self.experts[selected]) * 0
        used = torch.einsum("td,tkdf->tkf", tokens, self.experts[other])
        return x + ((used + unused) * weights.unsqueeze(-1)).sum(dim=1).reshape(x.shape)


def test_ids_that_the_experts_do_not_get_are_refuted(moetap, model, tmp_path):
    torch.manual_seed(0)
    torch.jit.script(TwoPicksModel()).save(tmp_path / "model.pt")
    spec = {**RIGHT, "logits": {"output_of": "gate"}}
    (tmp_path / "spec.json").write_text(json.dumps([spec]))
    command = ["verify", tmp_path / "model.pt", "--inputs", model / "x.safetensors", "--json"]
    done = moetap(*command, "--hooks", tmp_path / "spec.json")
    assert done.stderr == ""
    checks = {check["what"]: check for hook in json.loads(done.stdout)["hooks"] for check in hook["checks"]}
    assert done.returncode == 1
    assert checks["ids"]["verdict"] == "refuted", checks
    assert "the experts do not get these ids" in checks["ids"]["why"]


def test_a_hook_that_no_input_reaches_is_not_refuted(moetap, tmp_path):
    class Guarded(Model):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            x = self.embedding(input_ids)
            if input_ids.size(1) > 100:
                weights, selected = torch.topk(torch.softmax(self.router.gate(x.flatten(0, 1)), dim=-1), 2, dim=-1)
                outputs = torch.einsum("td,tkdf->tkf", x.flatten(0, 1), self.experts[selected])
                x = x + (outputs * weights.unsqueeze(-1)).sum(dim=1).reshape(x.shape)
            return x

    torch.jit.script(Guarded()).save(tmp_path / "model.pt")
    save_file({"input_ids": moe_inputs(2, 6, seed=0)["input_ids"]}, tmp_path / "x.safetensors")
    done = moetap("verify", tmp_path / "model.pt", "--inputs", tmp_path / "x.safetensors")
    assert done.returncode == 0, done.stderr
    assert "not shown: forward (no input reaches it)" in done.stdout


def test_a_second_input_shows_what_the_first_could_not(moetap, models, tmp_path):
    one, padded = moe_inputs(1, 6, seed=0), moe_inputs(3, 6, seed=1)
    padded["attention_mask"] = torch.ones_like(padded["input_ids"])
    one["attention_mask"] = torch.ones_like(one["input_ids"])
    padded["attention_mask"][1, 4:] = 0
    save_file(one, tmp_path / "a.safetensors")
    save_file(padded, tmp_path / "b.safetensors")

    def verdicts(*files):
        done = moetap("verify", models / "moe.pt", "--json", "--inputs", *[tmp_path / file for file in files])
        assert_succeeded(done)
        checks = json.loads(done.stdout)["hooks"][0]["checks"]
        return {check["what"]: (check["verdict"], check["why"]) for check in checks}

    first = verdicts("a.safetensors")
    assert first["samples"] == ("not shown", "the input has one sample")
    assert first["padding"] == ("not shown", "the input has no padding")
    both = verdicts("a.safetensors", "b.safetensors")
    assert both["samples"] == both["padding"] == ("proven", "")


def test_a_model_without_routers_and_an_instrumented_one(moetap, assert_fails, models, inputs, tmp_path):
    assert_fails(1, "verify", models / "dense.pt", "--inputs", inputs, parts=["no router"])
    assert_succeeded(moetap("instrument", models / "moe.pt", "-o", tmp_path / "instrumented.pt"))
    assert_fails(1, "verify", tmp_path / "instrumented.pt", "--inputs", inputs, parts=["instrumented already"])


def test_wrong_files_and_options_are_one_line(moetap, assert_fails, models, inputs, tmp_path):
    model = models / "moe.pt"
    assert_fails(2, "verify", model, parts=["--inputs"])
    assert_fails(2, "verify", model, "--inputs", inputs, "--method", "nowhere", parts=["nowhere"])
    assert_fails(1, "verify", model, "--inputs", tmp_path / "absent.safetensors", parts=["absent.safetensors"])
    (tmp_path / "empty").mkdir()
    assert_fails(1, "verify", model, "--inputs", tmp_path / "empty", parts=["empty"])
    (tmp_path / "empty.pt").touch()
    assert_fails(1, "verify", tmp_path / "empty.pt", "--inputs", inputs, parts=["empty.pt"])
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    assert_fails(1, "verify", model, "--inputs", tmp_path / "broken.safetensors", parts=["broken.safetensors"])
    save_file({"input_ids": torch.zeros(2, 6)}, tmp_path / "floats.safetensors")
    assert_fails(
        1, "verify", model, "--inputs", tmp_path / "floats.safetensors", parts=["floats.safetensors", "forward"]
    )


@pytest.fixture(scope="module", params=[FusedAttention, EagerAttention])
def decoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    torch.manual_seed(0)
    torch.jit.script(Decoder(request.param)).save(folder / "model.pt")
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    ids = moe_inputs(2, 6, seed=0)["input_ids"]
    torch.save({"input_ids": ids, "attention_mask": mask, "past": no_past(2)}, folder / "x.pt")
    return folder


def test_attention_is_proven_beside_its_routers(moetap, decoder):
    command = ["verify", decoder / "model.pt", "--inputs", decoder / "x.pt"]
    done = moetap(*command, "--json")
    assert_succeeded(done)
    hooks = [hook for hook in json.loads(done.stdout)["hooks"] if hook["kind"] == "attention"]
    assert len(hooks) == NUM_LAYERS
    for hook in hooks:
        verdicts = {check["what"]: check["verdict"] for check in hook["checks"]}
        expected = ["rows", "share", "context", "samples", "padding"]
        assert verdicts == dict.fromkeys(expected, "proven"), hook
        assert hook["verdict"] == "proven"
    lines = moetap(*command).stdout.splitlines()
    assert sum("proven: rows, share, context, samples, padding" in line for line in lines) == NUM_LAYERS


def test_attention_of_wrong_values_is_refuted(moetap, decoder, tmp_path):
    spec = {
        "module": r"layers\.0\.attention",
        "kind": "attention",
        "query": {"input_of": "", "argument": "query"},
        "key": {"input_of": "", "argument": "key"},
        "mask": {"input_of": "", "argument": "keep"},
        "scale": 2.0,
    }
    (tmp_path / "spec.json").write_text(json.dumps([spec]))
    command = ["verify", decoder / "model.pt", "--inputs", decoder / "x.pt", "--hooks", tmp_path / "spec.json"]
    done = moetap(*command, "--json")
    assert done.returncode == 1, done.stderr
    hook = next(hook for hook in json.loads(done.stdout)["hooks"] if hook["kind"] == "attention")
    assert hook["verdict"] == "refuted"
    verdicts = {check["what"]: check["verdict"] for check in hook["checks"]}
    assert verdicts["share"] == verdicts["context"] == "refuted"

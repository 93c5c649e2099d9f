"""Hooks that are pointed at the wrong tensor, by a spec that names it."""

import json

import pytest
import torch
from moe_model import NUM_EXPERTS, VOCABULARY, WIDTH, moe_inputs
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

TOP_K = 2


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, NUM_EXPERTS, bias=False)
        self.noise = nn.Linear(WIDTH, NUM_EXPERTS)
        self.slot = nn.Linear(WIDTH, TOP_K)
        self.experts = nn.Parameter(torch.randn(NUM_EXPERTS, WIDTH, WIDTH) / WIDTH**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, x.size(-1))
        before = self.gate(tokens)
        closed = tokens[:, :4] > 1.5
        added = before + self.noise(tokens)
        logits = added.masked_fill(closed, float("-inf"))
        scores = torch.softmax(logits, dim=-1)
        values, selected = torch.topk(scores, 2, dim=-1)
        best, others = torch.topk(before, 2, dim=-1)
        weights = values / values.sum(dim=-1, keepdim=True)
        scaled = weights * (0.5 + torch.sigmoid(self.slot(tokens)))
        neighbours = torch.roll(weights, 1, 0)
        one = selected[:, 1:]
        shifted = torch.roll(selected, 1, 0)
        outputs = torch.einsum("td,tkdf->tkf", tokens, self.experts[selected])
        decoys = best.sum() + others.sum() + one.sum() + shifted.sum() + scaled.sum() + neighbours.sum()
        return (outputs * weights.unsqueeze(-1)).sum(dim=1).reshape(x.shape) + 0.0 * decoys


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.block = Block()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.block(self.embedding(input_ids))


RIGHT = {"logits": "logits", "scores": "scores", "selected": "selected", "weights": "weights"}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("checks") / "model.pt"
    torch.jit.script(Model().eval()).save(str(path))
    save_file(moe_inputs(2, 24, seed=1), path.with_name("input.safetensors"))
    return path


@pytest.fixture
def record(moetap, model_file, tmp_path):
    """Runs the model with a hook whose values are named by variables; returns the run and what it withholds."""

    def run(*options, **variables: str):
        values = {role: {"variable": name} for role, name in (RIGHT | variables).items()}
        entry = {"module": "block", "scoring": "softmax", "num_experts": NUM_EXPERTS, "form": "slots", **values}
        spec = tmp_path / "spec.json"
        spec.write_text(json.dumps([entry]))
        inputs = model_file.with_name("input.safetensors")
        out = tmp_path / "run"
        done = moetap("run", model_file, "--inputs", inputs, "-o", out, "--hooks", spec, "--dump", "full", *options)
        manifest = out / "moetap" / "manifest.json"
        hook = json.loads(manifest.read_text())["hooks"][0] if manifest.exists() else {}
        return done, out, hook.get("unverified", {})

    return run


def columns(run) -> set[str]:
    shards = list((run / "moetap" / "dump" / "rank0").glob("*.safetensors"))
    assert len(shards) == 1
    with safe_open(str(shards[0]), "pt") as shard:
        return {name.split(".")[1] for name in shard.keys() if "." in name}  # noqa: SIM118


def test_what_fits_is_recorded(record):
    done, run, withheld = record()
    assert done.returncode == 0, done.stderr
    assert withheld == {}
    assert "do not fit" not in done.stderr
    assert columns(run) == {"logits", "scores", "selected", "weights"}


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("logits", "before"),  # from before an addend
        ("logits", "added"),  # from before a mask
        ("weights", "neighbours"),  # of another token
        ("weights", "scaled"),  # other factors of a token's slots
    ],
)
def test_what_does_not_fit_is_left_out_and_named(record, role, name):
    done, run, withheld = record(**{role: name})
    assert done.returncode == 0, done.stderr
    assert set(withheld) == {role}
    assert done.stderr.count(f'"block.gate": its {role} do not fit and are left out: {withheld[role]}') == 1
    assert columns(run) == {"logits", "scores", "selected", "weights"} - {role}
    summary = json.loads((run / "moetap" / "summary.json").read_text())["components"]["language_model"]["0"]
    assert (summary["entropy_all"] is None) == (role == "logits")
    assert (summary["entropy_topk"] is None) == (role == "weights")
    assert sum(summary["selected_count"]) == 2 * 2 * 24


@pytest.mark.parametrize("name", ["others", "shifted"])
def test_without_right_ids_nothing_is_recorded(record, name):
    done, run, _ = record(selected=name)
    assert done.returncode == 1
    assert done.stderr.count('hook "block.gate": its ids do not fit and are left out, and all else of it') == 1
    assert not (run / "moetap" / "dump").exists()


def test_strict_ends_the_run(record):
    done, _, _ = record("--strict", weights="neighbours")
    assert done.returncode == 1
    assert "weights do not fit" in done.stderr

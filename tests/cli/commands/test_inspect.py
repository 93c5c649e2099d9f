"""What inspect says of a model."""

import json

import torch
from moe_model import NUM_EXPERTS, TOP_K, WIDTH, MoeBlock
from torch import nn


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


class AttendingBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.size_of_head = WIDTH // 2
        self.projection = nn.Linear(WIDTH, 3 * WIDTH)
        self.mlp = MoeBlock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.projection(x).unflatten(-1, [3, 2, self.size_of_head])
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(query @ key.transpose(-2, -1) / 2.0, dim=-1)
        return self.mlp((weights @ value).transpose(1, 2).flatten(2))


class AttendingModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([AttendingBlock()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def test_inspect_lists_attention_and_run_does_not(moetap, tmp_path):
    model = tmp_path / "attending.pt"
    torch.jit.script(AttendingModel()).save(model)
    report = json.loads(moetap("inspect", model, "--json").stdout)
    attention, router = report["hooks"]
    assert (attention["kind"], attention["name"], attention["layer"]) == ("attention", "layers.0", "0")
    assert (attention["implementation"], attention["num_heads"]) == ("eager", 2)
    assert "top_k" not in attention
    assert (router["kind"], router["name"], router["layer"]) == ("router", "layers.0.mlp.gate", "0")
    assert "eager" in moetap("inspect", model).stdout
    moetap("instrument", model, "-o", tmp_path / "twin.pt")
    twin = json.loads(moetap("inspect", tmp_path / "twin.pt", "--json").stdout)
    assert [hook["kind"] for hook in twin["hooks"]] == ["router"]

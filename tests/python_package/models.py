"""Small models whose routers are written in different ways, and what is read from a run."""

from __future__ import annotations

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

WIDTH, EXPERTS, TOP_K, VOCABULARY = 16, 8, 2, 50


class Gate(nn.Module):
    """A router that is a module: logits, weights and ids are its results."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(WIDTH, EXPERTS, bias=False)

    def forward(self, rows):
        logits = self.projection(rows)
        weights, ids = F.softmax(logits, -1).topk(TOP_K, -1)
        return logits, weights / weights.sum(-1, keepdim=True), ids


class GatedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = Gate()
        self.experts = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) * 0.1)

    def forward(self, x):
        rows = x.reshape(-1, WIDTH)
        _, weights, ids = self.gate(rows)
        return x + torch.einsum("td,tkdf,tk->tf", rows, self.experts[ids], weights).reshape(x.shape)


class LoopBlock(nn.Module):
    """Ids and weights are no module's results, and the experts run in a loop over those that some token chose."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))

    def forward(self, x):
        rows = x.reshape(-1, WIDTH)
        weights = F.softmax(self.gate(rows), dim=1, dtype=torch.float)
        weights, ids = torch.topk(weights, TOP_K, dim=-1)
        weights /= weights.sum(dim=-1, keepdim=True)
        result = torch.zeros_like(rows)
        for expert in range(EXPERTS):
            token, slot = torch.where(ids == expert)
            if token.numel() > 0:
                result.index_add_(0, token, self.experts[expert](rows[token]) * weights[token, slot, None])
        return x + result.reshape(x.shape)


class Model(nn.Module):
    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(blocks)

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x * attention_mask[..., None]


def model(*kinds: type[nn.Module]) -> Model:
    torch.manual_seed(1)
    return Model(*(kind() for kind in kinds)).eval()


def inputs(batch: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Row 0 is padded on the left by a third, the last row on the right by one."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, : length // 3] = 0
    mask[-1, -1] = 0
    return {
        "input_ids": torch.randint(1, VOCABULARY, (batch, length), generator=generator),
        "attention_mask": mask,
    }


def dump_of(run: pathlib.Path) -> dict[str, torch.Tensor]:
    """All columns of the dump, by COMPONENT/COLUMN."""
    columns = {}
    for shard in sorted((run / "moetap" / "dump" / "rank0").glob("*.safetensors")):
        component = shard.name.rpartition("-")[0]
        for name, values in load_file(shard).items():
            assert f"{component}/{name}" not in columns, "these runs have one shard a component"
            columns[f"{component}/{name}"] = values
    return columns


def assert_same_dump(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], tolerance: float = 0) -> None:
    assert want and got.keys() == want.keys()
    for name, values in want.items():
        torch.testing.assert_close(
            got[name], values, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )

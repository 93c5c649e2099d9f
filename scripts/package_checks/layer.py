"""A layer of a package that is checked, and the small models around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

BATCH, LENGTH, WIDTH, VOCABULARY = 2, 12, 16, 40


@dataclasses.dataclass
class Layer:
    name: str  # in file names and in the table
    build: Callable[[], nn.Module]
    watched: dict[Callable, Callable]  # see recorder.Watcher; empty: a look-alike, in which nothing must be found
    inputs: Callable[[], dict[str, torch.Tensor]] | None = None  # default: input_ids [BATCH, LENGTH]
    routers: int = 1  # calls of routers in a forward
    as_sets: bool = False  # weights are dense: a weight of zero is no choice
    layout: str = "bs"  # of the rows: batch first, `sb` sequence first, `s` one sample, "" not checked
    may_tie: bool = False  # rows that choose nothing are all equal
    refused: str = ""  # the true reason for which moetap may refuse it
    seed: int = 0
    script: bool = True  # whether torch.jit.script is tried


class Model(nn.Module):
    """Token ids to logits, with a layer in the residual stream."""

    __constants__ = ("sequence_first", "flat", "first")  # so that TorchScript leaves out the branches not taken

    def __init__(self, layer: nn.Module, width: int = WIDTH, sequence_first=False, flat=False, first=False):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.norm = nn.LayerNorm(width)
        self.layer = layer
        self.head = nn.Linear(width, VOCABULARY)
        self.sequence_first = sequence_first
        self.flat = flat  # the layer takes tokens of all samples in one dimension
        self.first = first  # the layer gives back several values, the first of which is its output

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        h = self.norm(x)
        if self.sequence_first:
            h = h.transpose(0, 1).contiguous()
        if self.flat:
            h = h.reshape(-1, h.shape[-1])
        y = self.layer(h)[0] if self.first else self.layer(h)
        if self.sequence_first:
            y = y.transpose(0, 1)
        return self.head(x + y.reshape(x.shape))


def token_ids(batch: int = BATCH, length: int = LENGTH) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(0, VOCABULARY, (batch, length))}


def randomize(module: nn.Module, scale: float = 0.3) -> nn.Module:
    """Fills the parameters that a package leaves empty or zero."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=scale)
    return module

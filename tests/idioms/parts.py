"""What the idioms are made of: experts, whole models around one layer, and the list of all idioms."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

# No two of these are equal, nor are their products: a rule that goes by sizes must not be right by chance.
VOCAB, DIM, INNER, EXPERTS, TOP_K, BATCH, LENGTH = 29, 10, 9, 6, 2, 2, 7


@dataclasses.dataclass
class Idiom:
    name: str
    build: Callable[[], nn.Module]
    mode: str  # "script" or "trace"
    inputs: Callable[[], dict[str, torch.Tensor]]
    # What the rows are: "bs", "sb", "b" (samples only), "packed" (no padding), or a function of their number that gives
    # (sample, position) of each; None: not checked.
    layout: str | Callable[[int], list[tuple[int, int]]] | None
    calls: int  # of routers; 0: a look-alike
    as_sets: bool
    batch: int
    low_precision: bool
    may_tie: bool


IDIOMS: dict[str, Idiom] = {}


def idiom(mode="script", *, wrap="tokens", inputs=None, layout="", calls=1, as_sets=False, batch=BATCH, may_tie=False):
    """Puts a class into the list. `wrap`: the model around it, "none" where it is a whole model itself. The layout is
    that of the wrap where none is given."""

    def add(cls):
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        assert name not in IDIOMS, name
        model, own_inputs = WRAPS[wrap]
        low = getattr(cls, "low_precision", False)
        rows = LAYOUTS.get(wrap, "bs") if layout == "" else layout
        IDIOMS[name] = Idiom(
            name, lambda: model(cls()), mode, inputs or own_inputs, rows, calls, as_sets, batch, low, may_tie
        )
        return cls

    return add


def look_alike(mode="script", *, wrap="tokens", inputs=None):
    """A model in which no router may be found."""
    return idiom(mode, wrap=wrap, inputs=inputs, layout=None, calls=0)


class Expert(nn.Module):
    def __init__(self, d: int = DIM, f: int = INNER):
        super().__init__()
        self.w1 = nn.Linear(d, f)
        self.w2 = nn.Linear(f, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(F.relu(self.w1(x)))


class GatedExpert(nn.Module):
    def __init__(self, d: int = DIM, f: int = INNER):
        super().__init__()
        self.gate_proj = nn.Linear(d, f, bias=False)
        self.up_proj = nn.Linear(d, f, bias=False)
        self.down_proj = nn.Linear(f, d, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class ListMoE(nn.Module):
    """A gate and a list of expert modules."""

    close = 1e-5
    expert_class = Expert

    def __init__(self, e: int = EXPERTS, k: int = TOP_K, d: int = DIM):
        super().__init__()
        self.e, self.k, self.d = e, k, d
        self.gate = nn.Linear(d, e, bias=False)
        nn.init.normal_(self.gate.weight, std=0.5)
        self.experts = nn.ModuleList([self.expert_class(d) for _ in range(e)])

    def expert(self, e, x):
        return self.experts[e](x)


class GatedMoE(ListMoE):
    expert_class = GatedExpert


class BankMoE(nn.Module):
    """A gate and stacked weights: w1 [E, D, F], w2 [E, F, D]."""

    close = 1e-5

    def __init__(self, e: int = EXPERTS, k: int = TOP_K, d: int = DIM, f: int = INNER):
        super().__init__()
        self.e, self.k, self.d, self.f = e, k, d, f
        self.gate = nn.Linear(d, e, bias=False)
        nn.init.normal_(self.gate.weight, std=0.5)
        self.w1 = nn.Parameter(torch.randn(e, d, f) * d**-0.5)
        self.w2 = nn.Parameter(torch.randn(e, f, d) * f**-0.5)

    def expert(self, e, x):
        return torch.relu(x @ self.w1[e]) @ self.w2[e]


class TokenModel(nn.Module):
    """Token ids, an embedding, one layer with a residual, a head."""

    def __init__(self, moe: nn.Module):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.norm = nn.LayerNorm(DIM)
        self.moe = moe
        self.head = nn.Linear(DIM, VOCAB)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        x = x + self.moe(self.norm(x))
        return self.head(x)


class HiddenModel(nn.Module):
    """Embeddings as input."""

    def __init__(self, moe: nn.Module):
        super().__init__()
        self.moe = moe

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.moe(hidden_states)


def input_ids() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randperm(VOCAB)[: BATCH * LENGTH].view(BATCH, LENGTH)}


def hidden_states() -> dict[str, torch.Tensor]:
    return {"hidden_states": torch.randn(BATCH, LENGTH, DIM)}


def images(size: int = 6) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(3, 3, size, size)}


LAYOUTS: dict[str, str] = {}  # of the wraps whose rows are not sample by sample
WRAPS = {
    "tokens": (TokenModel, input_ids),
    "hidden": (HiddenModel, hidden_states),
    "none": (lambda model: model, input_ids),
}

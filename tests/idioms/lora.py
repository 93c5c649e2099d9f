"""Low-rank adapters as experts beside a frozen linear layer."""

import torch
import torch.nn.functional as F
from parts import DIM, EXPERTS, idiom
from recorder import on, seen, used
from torch import nn


class LoraBank(nn.Module):
    close = 1e-5

    def __init__(self, e: int = EXPERTS, k: int = 2, r: int = 3):
        super().__init__()
        self.e, self.k, self.d, self.r = e, k, DIM, r
        self.base = nn.Linear(DIM, DIM)
        self.lora_route = nn.Linear(DIM, e, bias=False)
        nn.init.normal_(self.lora_route.weight, std=0.5)
        self.lora_a = nn.ModuleList([nn.Linear(DIM, r, bias=False) for _ in range(e)])
        self.lora_b = nn.ModuleList([nn.Linear(r, DIM, bias=False) for _ in range(e)])
        self.scaling = 2.0

    def expert(self, e, x):
        return self.lora_b[e](self.lora_a[e](x))


@idiom("script")
class LoraTopKLoop(LoraBank):
    """MixLoRA, MoELoRA: a frozen linear and the two best of E adapters, whose weights hold alpha / r."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.lora_route(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        w = w / w.sum(-1, keepdim=True) * self.scaling
        delta = torch.zeros_like(flat)
        for e, (a, b) in enumerate(zip(self.lora_a, self.lora_b)):  # noqa: B905 - TorchScript knows no strict
            token, slot = torch.where(ids == e)
            delta.index_add_(0, token, b(a(flat[token])) * w[token, slot, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, delta)
        return (self.base(flat) + delta).view_as(x)


@idiom("trace")
class LoraScatteredWeights(LoraBank):
    """Dense weights with zeros, scaled before; adapters weighted between A and B."""

    def forward(self, x):
        result = self.base(x)
        logits = self.lora_route(x)
        top, ids = logits.topk(self.k, dim=-1)
        weight = torch.zeros_like(logits).scatter(-1, ids, F.softmax(top, dim=-1, dtype=torch.float32))
        delta = 0
        for i in range(self.e):
            delta = delta + self.lora_b[i](weight[..., i : i + 1] * self.lora_a[i](x))
        if on():
            seen(logits)
            used(self, ids, F.softmax(top, dim=-1), x, delta)
        return result + delta


@idiom("trace")
class LoraStackedEinsum(nn.Module):
    """PEFT-like stacks A [E, r, D] and B [E, D, r], the picked ones gathered."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.k, self.d = EXPERTS, 2, DIM
        self.base = nn.Linear(DIM, DIM)
        self.router = nn.Linear(DIM, EXPERTS)
        self.a = nn.Parameter(torch.randn(EXPERTS, 3, DIM) * 0.3)
        self.b = nn.Parameter(torch.randn(EXPERTS, DIM, 3) * 0.3)

    def expert(self, e, x):
        return x @ self.a[e].t() @ self.b[e].t()

    def forward(self, x):
        logits = self.router(x)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        h = torch.einsum("bskrd,bsd->bskr", self.a[ids], x)
        y = torch.einsum("bskdr,bskr,bsk->bsd", self.b[ids], h, w)
        if on():
            seen(logits)
            used(self, ids, w, x, y)
        return self.base(x) + y

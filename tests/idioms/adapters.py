"""More adapters as experts: ranks, bases shared by all, weights from a hidden gate, several modules by one choice."""

import torch
import torch.nn.functional as F
from lora import LoraBank
from parts import DIM, EXPERTS, idiom
from recorder import on, seen, used, used_dense
from torch import nn


@idiom("script", wrap="padded", as_sets=True)
class SharedDownProjection(nn.Module):
    """HydraLoRA with a pick: one A for all, a B for each expert; the weights multiply the outputs of the Bs."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.k, self.d = EXPERTS, 2, DIM
        self.base, self.a = nn.Linear(DIM, DIM), nn.Linear(DIM, 3, bias=False)
        self.bs = nn.ModuleList([nn.Linear(3, DIM, bias=False) for _ in range(EXPERTS)])
        self.route = nn.Linear(DIM, EXPERTS, bias=False)

    def expert(self, e, x):
        return self.bs[e](self.a(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.route(x)
        top, ids = torch.topk(logits, self.k, dim=-1)
        weight = torch.zeros_like(logits).scatter(-1, ids, torch.softmax(top, dim=-1))
        h = self.a(x)
        delta = torch.zeros_like(x)
        for n, b in enumerate(self.bs):
            delta = delta + torch.unsqueeze(weight[..., n], -1) * b(h)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, torch.softmax(top, dim=-1), x, delta)
        return self.base(x) + delta * 2.0


@idiom("trace", wrap="flat", as_sets=True)
class RanksAreExperts(nn.Module):
    """SMoRA: the adapter's ranks are picked; weights multiply the inner activation."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.k, self.d = 7, 3, DIM
        self.base = nn.Linear(DIM, DIM)
        self.route = nn.Linear(DIM, self.e, bias=False)
        self.a, self.b = nn.Parameter(torch.randn(self.e, DIM) * 0.4), nn.Parameter(torch.randn(DIM, self.e) * 0.4)

    def expert(self, e, x):
        return (x @ self.a[e])[:, None] * self.b[:, e]

    def forward(self, x):
        logits = self.route(x)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        gates = torch.zeros_like(logits).scatter(-1, ids, w)
        delta = F.linear(F.linear(x, self.a) * gates, self.b)
        if on():
            seen(logits)
            used(self, ids, w, x, delta)
        return self.base(x) + delta


@idiom("trace", wrap="positions_first")
class AdaptersOfQueryAndValue(nn.Module):
    """One choice a layer for the adapters of two projections, whose outputs meet in a product."""

    close = 1e9

    def __init__(self):
        super().__init__()
        self.e, self.k, self.d = EXPERTS, 2, DIM
        self.route = nn.Linear(DIM, EXPERTS)
        self.q, self.v = LoraBank(), LoraBank()

    def expert(self, e, x):
        return x

    def apply_to(self, bank, x, w, ids):
        out = bank.base(x)
        for e in range(self.e):
            share = (w * (ids == e).to(w.dtype)).sum(dim=-1, keepdim=True)
            out = out + share * bank.lora_b[e](bank.lora_a[e](x))
        return out

    def forward(self, x):
        logits = self.route(x)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        w = w / w.sum(dim=-1, keepdim=True)
        y = torch.sigmoid(self.apply_to(self.q, x, w, ids)) * self.apply_to(self.v, x, w, ids)
        if on():
            seen(logits)
            used(self, ids, w, x, y)
        return y


@idiom("script", wrap="padded", as_sets=True)
class ThresholdSubtracted(LoraBank):
    """AdaMoLE: what is above a token's threshold counts by how far it is above, normalised."""

    def __init__(self):
        super().__init__()
        self.threshold = nn.Linear(DIM, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.lora_route(flat)
        gates = torch.softmax(logits, dim=-1)
        adapted = gates - torch.sigmoid(self.threshold(flat)) / self.e
        selected = torch.ge(adapted, 0).to(gates.dtype)
        weight = adapted * selected
        total = weight.sum(-1, keepdim=True)
        weight = weight / torch.where(total == 0, torch.ones_like(total), total)
        delta = torch.zeros_like(flat)
        for e, (a, b) in enumerate(zip(self.lora_a, self.lora_b)):  # noqa: B905 - TorchScript knows no strict
            rows = torch.where(selected[:, e] > 0)[0]
            delta[rows] += weight[rows, e, None] * b(a(flat[rows]))
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, weight, flat, delta)
        return (self.base(flat) + delta).view_as(x)


@idiom("trace", wrap="bfloat16", may_tie=True)
class AdapterTopOne(LoraBank):
    """LLaVA-MoLE: one adapter a token, its probability as a factor."""

    def __init__(self):
        super().__init__(k=1)

    def forward(self, x):
        logits = self.lora_route(x)
        probs = F.softmax(logits, dim=-1, dtype=torch.float32).to(x.dtype)
        value, index = torch.max(probs, dim=-1, keepdim=True)
        hot = torch.zeros_like(probs).scatter_(-1, index, 1)
        delta = sum(self.lora_b[e](self.lora_a[e](x)) * hot[..., e : e + 1] for e in range(self.e))
        delta = delta * value
        if on():
            seen(logits)
            used(self, index, value, x, delta)
        return self.base(x) + delta

"""More choices without a fixed number: counts, shrinkage, thresholds of experts, unions."""

import torch
from dynamic import DenseMix
from parts import idiom
from recorder import seen
from scoring import DenseLoop, Routed
from torch import nn


@idiom("script", as_sets=True)
class CountThenArange(Routed):
    """Top-p: how many are needed, then a mask arange < n over sorted slots."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.sort(torch.softmax(logits, dim=-1), dim=-1, descending=True)
        needed = (torch.cumsum(w, dim=-1) < 0.6).sum(dim=-1, keepdim=True) + 1
        w = w * (torch.arange(self.e) < needed).to(w.dtype)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w / w.sum(dim=-1, keepdim=True)


@idiom("script", as_sets=True)
class BelowUniformIsZero(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        probs = torch.softmax(logits, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return probs.masked_fill(probs < 1.0 / self.e, 0.0)


@idiom("script", as_sets=True)
class ThresholdOfEachExpert(DenseLoop):
    """Thresholds kept as a buffer, one an expert; the probability itself is the weight."""

    def __init__(self):
        super().__init__()
        self.register_buffer("thresholds", torch.rand(self.e) * 0.2 + 0.05)

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        probs = torch.softmax(logits, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return torch.where(probs > self.thresholds, probs, torch.zeros_like(probs))


@idiom("script", as_sets=True)
class BestOrOverThreshold(DenseMix):
    """The best one in any case, others when they pass."""

    def weigh(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.gate(x)
        probs = torch.sigmoid(logits)
        best = torch.zeros_like(probs).scatter(-1, probs.argmax(-1, keepdim=True), 1.0)
        mask = torch.maximum(best, (probs > 0.6).to(probs.dtype))
        kept = probs * mask
        if not torch.jit.is_scripting():
            seen(logits)
        return kept / kept.sum(-1, keepdim=True)


@idiom("script", as_sets=True)
class ClampedAtZero(DenseLoop):
    """logits minus a learned threshold, clamped: what is below is off."""

    def __init__(self):
        super().__init__()
        self.t = nn.Parameter(torch.tensor(0.2))

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        if not torch.jit.is_scripting():
            seen(logits - self.t)
        return (logits - self.t).clamp(min=0.0)


@idiom("script", as_sets=True)
class SharedOverCount(DenseLoop):
    """Binary choices, each chosen expert gets an equal share."""

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        on = (torch.sigmoid(logits) > 0.5).to(flat.dtype)
        if not torch.jit.is_scripting():
            seen(logits)
        return on / on.sum(dim=-1, keepdim=True).clamp(min=1.0)


@idiom("script", as_sets=True)
class EntmaxOneAndAHalf(DenseLoop):
    """Entmax with alpha 1.5 by bisection."""

    close = 1e-4

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        z = logits / 2
        low = z.max(dim=-1, keepdim=True)[0] - 1.0
        high = low + 1.0
        for _ in range(30):
            middle = (low + high) / 2
            mass = (z - middle).clamp(min=0.0).pow(2).sum(-1, keepdim=True)
            low = torch.where(mass >= 1.0, middle, low)
            high = torch.where(mass >= 1.0, high, middle)
        p = (z - low).clamp(min=0.0).pow(2)
        if not torch.jit.is_scripting():
            seen(logits)
        return p / p.sum(-1, keepdim=True)


@idiom("script", as_sets=True)
class TopKOfThoseOverThreshold(Routed):
    """At most K, and none whose sigmoid is under 0.5."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(torch.sigmoid(logits), self.k, dim=-1)
        w = w * (w > 0.5)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script", as_sets=True)
class SlotsFilledWithMinusOne(Routed):
    """As before, by ids: masked_fill(-1), weights untouched."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        ids = torch.where(w > 0.25, ids, torch.full_like(ids, -1))
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w

"""What becomes of weights between the pick and the experts, and scores that are made in unusual ways."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from dispatch import Dispatch
from parts import BankMoE, ListMoE, idiom
from recorder import on, seen, used, used_dense
from scoring import DenseLoop, Routed
from torch import nn


@idiom("script")
class TemperatureAfterThePick(Routed):
    """The picked logits are scored at a temperature of their own, then mixed with equal shares."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        top, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, 0.9 * torch.softmax(top / 0.7, dim=-1) + 0.1 / self.k


@idiom("script")
class DividedByTheBest(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(logits.softmax(-1), 3, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w / w.amax(-1, keepdim=True)


@idiom("script")
class WeightsByASecondProjection(Routed):
    """One projection chooses, another weighs the chosen."""

    def __init__(self):
        super().__init__()
        self.value = nn.Linear(self.d, self.e)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        ids = torch.topk(logits, self.k, dim=-1)[1]
        w = torch.sigmoid(self.value(flat)).gather(-1, ids)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class ScaledByATokensGate(Routed):
    """All slots of a token share a learned scale beside the softmax of the picked."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(self.d, 1)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        top, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, F.softmax(top, -1) * F.softplus(self.scale(flat))


@idiom("script")
class BiasAddedInPlace(Routed):
    """A bias for the choice alone, added to a copy in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bias", torch.randn(self.e) * 0.2)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        scores = torch.sigmoid(logits)
        choice = scores.clone()
        choice += self.bias
        ids = torch.topk(choice, self.k, dim=-1, sorted=False)[1]
        w = torch.gather(scores, -1, ids)
        w /= w.sum(-1, keepdim=True) + 1e-20
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w * 2.5


@idiom("script")
class SinkhornWhile(Routed):
    """Balanced by Sinkhorn until it moves no more; the best expert's sigmoid is its weight."""

    def __init__(self):
        super().__init__(k=1)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        cost = torch.exp(logits)
        d0, d1 = torch.ones(cost.size(0)), torch.ones(cost.size(1))
        error, old = 1e9, d1
        while error > 1e-3:
            d0 = 1 / d0.size(0) * 1 / (torch.sum(d1 * cost, 1) + 1e-8)
            d1 = 1 / d1.size(0) * 1 / (torch.sum(d0.unsqueeze(1) * cost, 0) + 1e-8)
            error = float(torch.mean(torch.abs(old - d1)))
            old = d1
        balanced = d1 * cost * d0.unsqueeze(1)
        ids = torch.topk(balanced, 1, dim=1)[1]
        w = torch.gather(torch.sigmoid(logits), 1, ids)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script", as_sets=True)
class TopPInCapacity(ListMoE):
    """Sorted scores until their sum passes a threshold; the mask goes back by scatter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        gates = F.softmax(logits, dim=-1)
        ordered, order = torch.sort(gates, dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        keep = torch.zeros_like(gates).scatter_(-1, order, (before < 0.5).to(gates.dtype))
        gates = gates * keep
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token = torch.where(keep[:, e] > 0)[0]
            out.index_add_(0, token, expert(flat[token]) * gates[token, e, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, gates, flat, out)
        return out.view_as(x)


@idiom("script", as_sets=True)
class BestOfTheWholeBatch(DenseLoop):
    """The best 2 T of all pairs of token and expert."""

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        scores = torch.softmax(logits, dim=-1)
        best = scores.flatten().topk(2 * flat.size(0))[1]
        mask = torch.zeros(scores.numel()).index_fill(0, best, 1.0).view_as(scores)
        if not torch.jit.is_scripting():
            seen(logits)
        return scores * mask


@idiom("script", as_sets=True)
class BestOfTheWholeBatchByKthValue(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        scores = torch.sigmoid(logits)
        limit = scores.flatten().topk(2 * flat.size(0))[0][-1]
        if not torch.jit.is_scripting():
            seen(logits)
        return torch.where(scores >= limit, scores, torch.zeros_like(scores))


@idiom("script")
class EqualGroups(BankMoE):
    """Each group of experts gives its best one; ids over all experts by adding the group's beginning."""

    def __init__(self):
        super().__init__(k=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        scores = torch.softmax(logits, dim=-1)
        w, inner = scores.view(-1, 3, 2).topk(1, dim=-1)
        ids = (inner + torch.arange(0, 6, 2).view(1, 3, 1)).flatten(1)
        w = w.flatten(1)
        w = w / w.sum(-1, keepdim=True)
        h = torch.relu(torch.einsum("td,tkdf->tkf", flat, self.w1[ids]))
        out = (torch.einsum("tkf,tkfd->tkd", h, self.w2[ids]) * w.unsqueeze(-1)).sum(1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script", layout=None)
class HeadsChooseTheirExperts(BankMoE):
    """Each of two heads has scores of its own over three experts of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat).view(-1, 2, 3)
        w, ids = torch.topk(torch.sigmoid(logits), 1, dim=-1)
        ids, w = ids.squeeze(-1), w.squeeze(-1)
        out = torch.zeros_like(flat)
        for h in range(2):
            chosen = ids[:, h]
            hidden = torch.relu(torch.bmm(flat.unsqueeze(1), self.w1[3 * h : 3 * h + 3][chosen]))
            out = out + w[:, h, None] * torch.bmm(hidden, self.w2[3 * h : 3 * h + 3][chosen]).squeeze(1)
        if not torch.jit.is_scripting():
            seen(logits.flatten(1))
            used(self, ids + torch.tensor([0, 3]), w, flat, out)
        return out.view_as(x)


@idiom("trace", as_sets=True)
class DroppedByProbabilityRenormalised(BatchedBank):
    """Each expert keeps its C most probable tokens; what a token has left is normalised."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        probs = torch.zeros_like(logits).scatter(1, ids, w)
        chosen = torch.zeros_like(logits).scatter(1, ids, 1.0).bool()
        best = torch.topk(probs, 4, dim=0)[1]
        fits = torch.zeros_like(logits).scatter(0, best, 1.0).bool()
        final = torch.logical_and(chosen, fits)
        probs = probs * final
        probs = probs / (probs.sum(-1, keepdim=True) + 1e-9)
        out = torch.einsum("te,etd->td", probs, self.run(flat.expand(self.e, -1, -1)))
        if on():
            seen(logits)
            used_dense(self, probs, flat, out)
        return out.view_as(x)


@idiom("script")
class HalfPrecisionWeights(Dispatch):
    """Weights are rounded to bfloat16 before they are normalised."""

    close = 1e-2

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        for e in range(self.e):
            token, slot = torch.where(ids == e)
            out.index_add_(0, token, self.one(flat[token], e) * w[token, slot].unsqueeze(-1))
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        w = w.to(torch.bfloat16)
        w = (w / w.sum(-1, keepdim=True)).to(x.dtype)
        out = self.dispatch(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view(x.shape)


@idiom("trace")
class SumOfScoresMoved(ListMoE):
    """Softmax by hand: the pick reads exponentials, and their sum over all experts divides what was picked."""

    def forward(self, x):
        logits = self.gate(x)
        e = torch.exp(logits - logits.amax(-1, keepdim=True))
        top, ids = e.topk(self.k, -1)
        w = top / e.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            out = out + (w * (ids == i)).sum(-1, keepdim=True) * expert(x)
        if on():
            seen(e)
            used(self, ids, w, x, out)
        return out

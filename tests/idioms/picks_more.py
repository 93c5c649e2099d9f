"""More ways to pick and to use what was picked: masks of booleans, sorts from the end, candidates picked again."""

import torch
import torch.nn.functional as F
from dispatch import Dispatch
from parts import DIM, BankMoE, Expert, ListMoE, idiom
from recorder import on, seen, used
from scoring import Routed
from torch import nn


@idiom("script")
class BooleanRowsAndWeights(ListMoE):
    """A mask [T, K] of each expert picks rows by `any`, and weights by indexing with the mask itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            mask = ids == e
            rows = mask.any(dim=-1)
            out[rows] += expert(flat[rows]) * w[mask].unsqueeze(-1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class WeightsByBatchedProduct(BankMoE):
    """[T, 1, K] times [T, K, D]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        h = torch.relu(torch.matmul(flat[:, None, None, :], self.w1[ids])).squeeze(2)
        outs = torch.matmul(h.unsqueeze(2), self.w2[ids]).squeeze(2)
        out = torch.bmm(w.unsqueeze(1), outs).squeeze(1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class NearestOfAllDistances(Routed):
    """The smallest distances to centroids, weighted by a softmax of what is near."""

    def __init__(self):
        super().__init__()
        self.centroids = nn.Parameter(torch.randn(self.e, self.d))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        distance = torch.cdist(flat, self.centroids)
        near, ids = torch.topk(distance, self.k, dim=-1, largest=False)
        if not torch.jit.is_scripting():
            seen(distance)
        return ids, torch.softmax(-near, dim=-1)


@idiom("script")
class LastOfARisingSort(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        probs, order = torch.sort(torch.softmax(logits, -1), dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return order[:, -2:], probs[:, -2:]


@idiom("script")
class ArgsortFromTheEnd(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        ids = torch.argsort(logits, dim=-1)[..., -3:]
        w = torch.sigmoid(torch.gather(logits, -1, ids))
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w / w.sum(-1, keepdim=True)


@idiom("script")
class CandidatesPickedAgain(Routed):
    """Four candidates by one gate, the best two of them by another."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(self.d, self.e, bias=False)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        candidates = torch.topk(self.gate(flat), 4, dim=-1)[1]
        logits = self.second(flat)
        w, place = torch.topk(torch.softmax(logits.gather(-1, candidates), -1), 2, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return candidates.gather(-1, place), w


@idiom("script")
class SecondByAThreshold(Routed):
    """The second expert counts only where twice its weight is above a number."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, dim=-1)
        w = w / w.sum(-1, keepdim=True)
        keep = torch.stack([torch.ones_like(w[:, 0]), (2 * w[:, 1] > 0.7).to(w.dtype)], dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w * keep


@idiom("script")
class SharedGetsTheRest(ListMoE):
    """A shared expert is weighted by what the routed ones leave of one."""

    def __init__(self):
        super().__init__()
        self.shared = Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        routed = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(ids == e)
            routed.index_add_(0, token, expert(flat[token]) * w[token, slot].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, routed)
        rest = 1.0 - w.sum(-1, keepdim=True)
        return (routed + rest * self.shared(flat)).view_as(x)


@idiom("trace")
class OneRouterManyLinears(BankMoE):
    """One gate chooses the adapters of two linear layers behind each other."""

    def __init__(self):
        super().__init__(f=DIM)
        self.first, self.second = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def expert(self, e, x):
        h = torch.relu(self.first(x))
        return h @ self.w2[e]

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        dense = torch.zeros_like(logits).scatter(1, ids, w)
        h = torch.relu(self.first(flat))
        routed = torch.einsum("te,tef->tf", dense, torch.einsum("td,edf->tef", h, self.w2))
        if on():
            seen(logits)
            used(self, ids, w, flat, routed)
        y = self.second(h) + routed
        y = y + torch.einsum("te,tef->tf", dense, torch.einsum("td,edf->tef", y, self.w1))
        return y.view_as(x)


@idiom("script")
class RoundedWeights(Routed):
    """Weights are rounded to steps of 1 / 64."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.round(w * 64.0) / 64.0


@idiom("script")
class ValuesOfASlice(ListMoE):
    """Top-1 as `topk(..)` of one, its dimension taken off by an index."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        probs = torch.softmax(logits, -1)
        values, indices = torch.topk(probs, 1, dim=-1)
        gate, index = values[..., 0], indices[..., 0]
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            rows = (index == e).nonzero().squeeze(1)
            if rows.numel() > 0:
                out[rows] = gate[rows].unsqueeze(-1) * expert(flat[rows])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, indices, values, flat, out)
        return out.view_as(x)


@idiom("script")
class LogProbabilitiesGathered(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        log_probs = F.log_softmax(logits, dim=-1)
        ids = log_probs.topk(self.k, dim=-1)[1]
        w = torch.exp(log_probs.gather(-1, ids) - torch.logsumexp(log_probs.gather(-1, ids), -1, keepdim=True))
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class SlotsInAWhileLoop(Dispatch):
    """One slot after another, by a counter; the weight's column is taken anew in each turn."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        k = 0
        while k < self.k:
            chosen = ids[:, k]
            h = torch.relu(torch.bmm(flat.unsqueeze(1), self.w1[chosen]))
            out = out + torch.bmm(h, self.w2[chosen]).squeeze(1) * w[:, k].unsqueeze(-1)
            k += 1
        return out


@idiom("script")
class OutputDividedByTheSum(Dispatch):
    """The sum of the outputs is divided by the sum of the weights: none of their factors."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        logits = self.gate(flat)
        w, ids = torch.topk(torch.sigmoid(logits), self.k, dim=-1)
        out = torch.zeros_like(flat)
        for e in range(self.e):
            token, slot = torch.where(ids == e)
            out.index_add_(0, token, self.one(flat[token], e) * w[token, slot].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return (out / w.sum(-1, keepdim=True)).view(x.shape)

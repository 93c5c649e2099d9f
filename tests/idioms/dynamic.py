"""How many experts a token gets is no constant: thresholds, shares, ranks, comparisons instead of a top-k."""

import torch
import torch.nn.functional as F
from parts import ListMoE, idiom
from recorder import on, seen, used, used_dense
from scoring import DenseLoop, Routed
from torch import nn


class DenseMix(ListMoE):
    """`weigh(x)` gives weights [.., E]; all experts run, their outputs are multiplied."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.weigh(x)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            out = out + weights[..., e].unsqueeze(-1) * expert(x)
        if not torch.jit.is_scripting():
            used_dense(self, weights, x, out)
        return out


@idiom("script", as_sets=True)
class ShareOfTheBest(DenseLoop):
    """Every expert at least half as probable as the best one."""

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        probs = torch.softmax(logits, dim=-1)
        best = probs.max(dim=-1, keepdim=True)[0]
        kept = torch.where(probs >= 0.5 * best, probs, torch.zeros_like(probs))
        if not torch.jit.is_scripting():
            seen(logits)
        return kept / kept.sum(dim=-1, keepdim=True)


@idiom("script", as_sets=True)
class SigmoidOverHalf(DenseLoop):
    """Each expert decides by itself; the gate is one or nothing."""

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        gate = torch.sigmoid(logits)
        if not torch.jit.is_scripting():
            seen(logits)
        return (gate > 0.5).to(flat.dtype)


@idiom("script", as_sets=True)
class OneOrTwo(Routed):
    """The second expert only where the first is not far ahead."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), 2, dim=-1)
        alone = (w[:, 0] - w[:, 1]) > 0.2
        second = torch.where(alone, torch.zeros_like(w[:, 1]), w[:, 1])
        w = torch.stack([w[:, 0], second], dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w / w.sum(-1, keepdim=True)


@idiom("script", as_sets=True)
class MaskedSoftmaxOverPositive(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        best = F.one_hot(logits.argmax(-1), self.e) > 0
        mask = (logits > 0.3) | best
        if not torch.jit.is_scripting():
            seen(logits)
        return torch.softmax(logits.masked_fill(~mask, -1e9), dim=-1)


@idiom("script", as_sets=True)
class AboveMean(DenseMix):
    def weigh(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.gate(x)
        probs = torch.softmax(logits, dim=-1)
        mask = (probs > probs.mean(dim=-1, keepdim=True)).to(probs.dtype)
        if not torch.jit.is_scripting():
            seen(logits)
        return probs * mask


@idiom("script", as_sets=True)
class ReluNormalised(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        gate = F.relu(logits)
        if not torch.jit.is_scripting():
            seen(logits)
        return gate / (gate.sum(dim=-1, keepdim=True) + 1e-6)


@idiom("script", as_sets=True)
class LearnedThreshold(DenseMix):
    def __init__(self):
        super().__init__()
        self.threshold = nn.Parameter(torch.rand(self.e) * 0.3 + 0.3)

    def weigh(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.gate(x)
        if not torch.jit.is_scripting():
            seen(logits)
        return F.relu(torch.sigmoid(logits) - self.threshold)


@idiom("script", as_sets=True)
class PairsOfWhere(ListMoE):
    """Pairs (token, expert) above a threshold, one flat list."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        logits = self.gate(flat)
        probs = logits.softmax(-1)
        active = probs > 0.2
        token, chosen = torch.where(active)
        gates = probs[token, chosen]
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            mine = chosen == e
            rows = token[mine]
            out.index_add_(0, rows, expert(flat[rows]) * gates[mine].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, probs * active, flat, out)
        return out.view_as(x)


@idiom("script", as_sets=True)
class TokenPredictsK(Routed):
    """A second head says how many of the slots count."""

    def __init__(self):
        super().__init__(k=3)
        self.count = nn.Linear(self.d, 3)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        number = self.count(flat).argmax(dim=-1) + 1
        inside = torch.arange(self.k).unsqueeze(0) < number.unsqueeze(1)
        w = w * inside.to(w.dtype)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w / w.sum(-1, keepdim=True)


@idiom("script", as_sets=True)
class TopPSlotsMinusOne(Routed):
    """A sorted top-p whose surplus slots get the id -1."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.sort(F.softmax(logits, dim=-1), dim=-1, descending=True)
        before = w.cumsum(-1) - w
        ids = ids.masked_fill(before >= 0.55, -1)
        w = w.masked_fill(before >= 0.55, 0.0)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script", as_sets=True)
class KthValueMask(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        probs = logits.softmax(dim=-1)
        kth = torch.kthvalue(probs, self.e - self.k + 1, dim=-1, keepdim=True)[0]
        if not torch.jit.is_scripting():
            seen(logits)
        return probs * (probs >= kth)


@idiom("script", as_sets=True)
class DoubleArgsortRank(DenseLoop):
    """The rank of each expert by two argsorts."""

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        rank = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
        masked = logits.masked_fill(rank >= self.k, float("-inf"))
        if not torch.jit.is_scripting():
            seen(logits)
        return masked.softmax(dim=-1)


@idiom("trace", as_sets=True)
class PairwiseRank(DenseMix):
    """How many experts are better, by comparing all pairs."""

    def weigh(self, x):
        logits = self.gate(x)
        better = (logits.unsqueeze(-2) > logits.unsqueeze(-1)).sum(-1)
        probs = logits.softmax(-1) * (better < self.k)
        seen(logits)
        return probs / probs.sum(-1, keepdim=True)


@idiom("script", as_sets=True)
class EqualsTheMax(DenseLoop):
    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        probs = logits.softmax(dim=-1)
        hit = probs == probs.max(dim=-1, keepdim=True)[0]
        if not torch.jit.is_scripting():
            seen(logits)
        return probs * hit.to(probs.dtype)


@idiom("script", as_sets=True)
class GeLastColumn(DenseMix):
    def weigh(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.gate(x)
        probs = torch.sigmoid(logits)
        last = torch.topk(probs, self.k, dim=-1)[0][..., -1:]
        mask = probs.ge(last).to(probs.dtype)
        if not torch.jit.is_scripting():
            seen(logits)
        return probs * mask


@idiom("trace", as_sets=True)
class BoolScatterMask(DenseMix):
    def weigh(self, x):
        logits = self.gate(x)
        ids = logits.topk(self.k, dim=-1).indices
        mask = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, 1)
        seen(logits)
        return logits.masked_fill(~mask, float("-inf")).softmax(-1)


@idiom("trace")
class EyeRows(ListMoE):
    """One-hot rows of an identity matrix."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        dense = torch.einsum("tk,tke->te", w, torch.eye(self.e)[ids])
        outs = torch.stack([expert(flat) for expert in self.experts], 1)
        y = torch.bmm(dense.unsqueeze(1), outs).squeeze(1)
        if on():
            seen(logits)
            used(self, ids, w, flat, y)
        return y.view_as(x)


@idiom("script")
class EqualsArange(ListMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(logits.softmax(-1), self.k, dim=-1)
        hot = (ids.unsqueeze(-1) == torch.arange(self.e)).to(w.dtype)
        combine = (w.unsqueeze(-1) * hot).sum(dim=1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            rows = (combine[:, e] != 0).nonzero().squeeze(-1)
            out[rows] = out[rows] + combine[rows, e].unsqueeze(-1) * expert(flat[rows])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script", as_sets=True)
class FunctionalThreshold(DenseMix):
    """F.threshold: what is not above becomes zero."""

    def weigh(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.gate(x)
        probs = F.softmax(logits, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return F.threshold(probs, 0.18, 0.0)

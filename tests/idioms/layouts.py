"""Logits in other layouts and of other makes: experts first, convolutions, hierarchies, heads, keys, several inputs."""

import torch
import torch.nn.functional as F
from parts import DIM, EXPERTS, BankMoE, ListMoE, idiom
from recorder import on, seen, used
from scoring import Routed
from torch import nn


@idiom("trace")
class ExpertsFirstLogits(ListMoE):
    """weight @ x.T: logits [E, T], the pick over dimension 0."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate.weight @ flat.t()
        probs = logits.softmax(dim=0)
        w, ids = probs.topk(self.k, dim=0)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            slot, token = torch.where(ids == e)
            out = out.index_add(0, token, expert(flat[token]) * w[slot, token].unsqueeze(-1))
        if on():
            seen(logits.t())
            used(self, ids.t(), w.t(), flat, out)
        return out.view_as(x)


@idiom("script")
class EinsumExpertsSecond(BankMoE):
    """'bsd,ed->bes' and a top-k over dimension 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.einsum("bsd,ed->bes", x, self.gate.weight)
        probs = torch.softmax(logits, dim=1)
        w, ids = torch.topk(probs, self.k, dim=1)
        dense = torch.zeros_like(probs).scatter(1, ids, w)
        h = torch.relu(torch.einsum("bsd,edf->besf", x, self.w1))
        y = torch.einsum("besf,efd,bes->bsd", h, self.w2, dense)
        if not torch.jit.is_scripting():
            seen(logits.transpose(1, 2))
            used(self, ids.transpose(1, 2), w.transpose(1, 2), x, y)
        return y


@idiom("trace")
class ConvOneDRouter(ListMoE):
    """Channels first: a Conv1d with kernel 1 over [B, D, S]."""

    def __init__(self):
        super().__init__()
        self.router = nn.Conv1d(self.d, self.e, 1)

    def forward(self, x):
        logits = self.router(x.transpose(1, 2)).transpose(1, 2) * 2
        w, ids = logits.softmax(-1).topk(self.k, -1)
        hot = F.one_hot(ids, self.e).to(w.dtype)
        dense = torch.matmul(w.unsqueeze(-2), hot).squeeze(-2)
        y = sum(dense[..., e : e + 1] * expert(x) for e, expert in enumerate(self.experts))
        if on():
            seen(logits)
            used(self, ids, w, x, y)
        return y


@idiom("script")
class GroupThenExpert(Routed):
    """A group by one gate, the expert inside by another; the id is group * 3 + inner."""

    def __init__(self):
        super().__init__(e=6, k=1)
        self.outer = nn.Linear(self.d, 2)
        self.inner = nn.Linear(self.d, 6)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        group_p, group = torch.max(F.softmax(self.outer(flat), dim=-1), dim=-1, keepdim=True)
        logits = self.inner(flat).view(-1, 2, 3)
        inner = logits.gather(1, group.unsqueeze(-1).expand(-1, 1, 3)).squeeze(1)
        inner_p, index = torch.max(F.softmax(inner, dim=-1), dim=-1, keepdim=True)
        return group * 3 + index, group_p * inner_p


@idiom("script")
class ProductOfTwoSoftmaxes(Routed):
    """Probability of the group times probability inside it, then one top-k over all."""

    def __init__(self):
        super().__init__()
        self.outer = nn.Linear(self.d, 2)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        group = F.softmax(self.outer(flat), dim=-1)
        inner = F.softmax(self.gate(flat).view(-1, 2, 3), dim=-1)
        probs = (group.unsqueeze(-1) * inner).flatten(1)
        w, ids = torch.topk(probs, self.k, dim=-1)
        return ids, w


@idiom("trace", layout=None)
class MultiHeadSubTokens(BankMoE):
    """MH-MoE: each token is split in two sub-tokens that are routed on their own."""

    def __init__(self):
        super().__init__(d=5)
        self.split, self.merge = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, x):
        b, s, d = x.shape
        h = self.split(x).reshape(b * s * 2, d // 2)
        logits = self.gate(h) * 3
        w, ids = logits.softmax(-1).topk(self.k, -1)
        y = torch.relu(torch.einsum("td,tkdf->tkf", h, self.w1[ids]))
        y = torch.einsum("tkf,tkfd,tk->td", y, self.w2[ids], w)
        if on():
            seen(logits)
            used(self, ids, w, h, y)
        return self.merge(y.reshape(b, s, d))


@idiom("script")
class LowRankRouter(Routed):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(self.d, 4, bias=False), nn.Linear(4, self.e, bias=False)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.up(self.down(flat)) * 4.0
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("trace")
class TaskEmbeddingConcatenated(ListMoE):
    """Mod-Squad-like: the gate sees the token beside a task's embedding."""

    def __init__(self):
        super().__init__()
        self.task = nn.Parameter(torch.randn(4))
        self.router = nn.Linear(self.d + 4, self.e)

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.router(torch.cat([flat, self.task.expand(flat.shape[0], -1)], dim=-1)) * 2
        top, ids = logits.topk(self.k, dim=-1)
        w = top.softmax(-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            t, s = (ids == e).nonzero(as_tuple=True)
            out[t] += expert(flat[t]) * w[t, s].unsqueeze(-1)
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class QueryAgainstExpertKeys(Routed):
    """Attention-like scores of a projected query and projected expert embeddings."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(self.d, 4), nn.Linear(3, 4)
        self.expert_embeddings = nn.Parameter(torch.randn(self.e, 3))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = self.key(self.expert_embeddings)
        logits = torch.matmul(self.query(flat), keys.transpose(0, 1)) * 2.0
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class YuanAttentionRouter(Routed):
    """Query, key and value of E columns each; attention among experts, then a top-k."""

    def __init__(self):
        super().__init__()
        self.query_key_value = nn.Linear(self.d, 3 * self.e, bias=False)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mixed = self.query_key_value(flat) * 2.0
        q, k, v = mixed.split(self.e, dim=-1)
        attn = torch.softmax(q.unsqueeze(-1) * k.unsqueeze(1), dim=-1)
        logits = torch.matmul(attn, v.unsqueeze(-1)).squeeze(-1)
        probs = F.softmax(logits, dim=-1)
        w, ids = torch.topk(probs, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w / w.sum(-1, keepdim=True)


@idiom("script")
class NormalisedGateWeight(Routed):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = F.linear(flat, F.normalize(self.gate.weight, dim=-1)) * self.scale
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class MeanOfTwoGates(Routed):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(self.d, self.e)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = (self.gate(flat) + self.second(flat)) / 2
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class GateAsParameterWithBias(Routed):
    """torch.addmm of a bias and two parameters."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(self.d, self.e) * 0.5)
        self.b = nn.Parameter(torch.randn(self.e) * 0.3)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.addmm(self.b, flat, self.w)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("trace")
class MultiplyAndSum(ListMoE):
    """Logits by an elementwise product and a sum."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = (flat.unsqueeze(1) * self.gate.weight.unsqueeze(0)).sum(-1)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            t, s = torch.where(ids == e)
            out = out.index_add(0, t, expert(flat[t]) * w[t, s, None])
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class StandardisedLogits(Routed):
    """Logits minus their mean over standard deviation, a learned gain."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.3))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raw = self.gate(flat)
        logits = (raw - raw.mean(-1, keepdim=True)) / (raw.std(-1, keepdim=True) + 1e-5) * self.gain
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class JitterMultiplied(Routed):
    """Switch's jitter: noise multiplies the router's input in training only; the gate is fp32."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = flat.to(torch.float32)
        if self.training:
            h = h * torch.empty_like(h).uniform_(0.99, 1.01)
        logits = self.gate(h)
        logits = logits.clamp(min=-4.0, max=4.0)
        w, ids = torch.max(torch.softmax(logits, dim=-1), dim=-1, keepdim=True)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class BankOfGatesByLayer(Routed):
    """The gates of all layers stacked in one parameter; this layer's is indexed."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Parameter(torch.randn(3, self.e, self.d) * 0.5)
        self.layer = 1

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = F.linear(flat, self.gates[self.layer])
        w, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.softmax(w, dim=-1)


@idiom("trace")
class SigmoidPerGroupGreedy(ListMoE):
    """The best expert of every group: a max inside each, all groups are used (ids over all experts)."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        scores = logits.sigmoid()
        w, inner = scores.view(-1, 3, self.e // 3).max(dim=-1)
        ids = inner + torch.arange(3) * (self.e // 3)
        w = w / w.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            t, s = torch.where(ids == e)
            out = out.index_add(0, t, expert(flat[t]) * w[t, s, None])
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class SharedBiasInLogits(Routed):
    """An expert bias that is part of the logits, for choice and weights alike."""

    def __init__(self):
        super().__init__()
        self.expert_bias = nn.Parameter(torch.randn(EXPERTS) * 0.3)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat) + self.expert_bias
        w, ids = torch.topk(torch.sigmoid(logits), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w

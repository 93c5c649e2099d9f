"""Projections shared with other things, balanced assignments, ids in place, domains instead of gates."""

import torch
import torch.nn.functional as F
from dispatch import Dispatch
from parts import BATCH, DIM, VOCAB, BankMoE, Expert, ListMoE, idiom, input_ids
from recorder import on, seen, used
from scoring import Routed
from torch import nn


@idiom("script")
class SharedGateColumn(ListMoE):
    """One projection of E + 1 columns: the last is the sigmoid gate of the shared expert."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(self.d, self.e + 1, bias=False)
        nn.init.normal_(self.router.weight, std=0.5)
        self.shared = Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        both = self.router(flat)
        logits = both[:, : self.e]
        shared_gate = torch.sigmoid(both[:, self.e :])
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            t, s = torch.where(ids == e)
            out.index_add_(0, t, expert(flat[t]) * w[t, s, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return (out + shared_gate * self.shared(flat)).view_as(x)


@idiom("script")
class GateAndHiddenInOne(Routed):
    """The gate's logits and a bottleneck come from one linear layer."""

    def __init__(self):
        super().__init__()
        self.fused = nn.Linear(self.d, self.e + 4)
        self.mix = nn.Linear(4, self.e)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raw, h = torch.split(self.fused(flat), [6, 4], dim=-1)
        logits = raw * 2.0 + self.mix(torch.tanh(h))
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class SinkhornAssignment(Routed):
    """Megatron's Sinkhorn: ids from balanced logits, weights are the sigmoid of the raw ones."""

    def __init__(self):
        super().__init__(k=1)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        cost = torch.exp(logits)
        d0 = torch.ones(cost.size(0))
        d1 = torch.ones(cost.size(1))
        for _ in range(8):
            d0 = (1 / d0.size(0)) * 1 / (torch.sum(d1 * cost, 1) + 1e-8)
            d1 = (1 / d1.size(0)) * 1 / (torch.sum(d0.unsqueeze(1) * cost, 0) + 1e-8)
        norm_logits = d1 * cost * d0.unsqueeze(1)
        ids = torch.topk(norm_logits, self.k, dim=1)[1]
        w = torch.gather(torch.sigmoid(logits), 1, ids)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("trace")
class SigmaMoE(BankMoE):
    """Sigmoid scores are not normalised; each slot's product is added in a loop over slots."""

    def forward(self, x):
        flat = x.flatten(0, -2)
        sel = F.linear(flat, self.gate.weight)
        val, index = torch.sigmoid(sel).topk(self.k, dim=-1, sorted=False)
        out = 0
        for h in range(val.shape[-1]):
            up = torch.einsum("td,tdf->tf", flat, self.w1[index[:, h]])
            out = out + torch.einsum("tf,tfd->td", F.relu(up) * val[:, h, None], self.w2[index[:, h]])
        if on():
            seen(sel)
            used(self, index, val, flat, out)
        return out.view_as(x)


@idiom("script")
class LaterSlotsDamped(Routed):
    """A slice of the weights is changed in place."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        w[:, 1:] *= 0.5
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class GatheredBiases(Dispatch):
    """gpt-oss: matrices and biases of the picked experts gathered, weights last."""

    def __init__(self):
        super().__init__()
        self.b1 = nn.Parameter(torch.randn(self.e, self.f) * 0.2)
        self.b2 = nn.Parameter(torch.randn(self.e, self.d) * 0.2)

    def expert(self, e, x):
        return torch.relu(x @ self.w1[e] + self.b1[e]) @ self.w2[e] + self.b2[e]

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        h = torch.einsum("bd,bedf->bef", flat, self.w1[ids]) + self.b1[ids]
        h = torch.einsum("bef,befd->bed", torch.relu(h), self.w2[ids]) + self.b2[ids]
        return torch.einsum("bed,be->bd", h, w)


@idiom("script")
class NearestCentroidOnly(ListMoE):
    """The nearest centroid's expert with weight one."""

    def __init__(self):
        super().__init__(k=1)
        self.register_buffer("centroids", torch.randn(self.e, self.d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        distance = torch.cdist(flat, self.centroids)
        nearest = distance.argmin(dim=-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            mine = (nearest == e).nonzero().squeeze(-1)
            out[mine] = expert(flat[mine])
        if not torch.jit.is_scripting():
            seen(distance)
            used(self, nearest.unsqueeze(-1), None, flat, out)
        return out.view_as(x)


@idiom("script")
class ClusterTrainMerge(Routed):
    """c-BTM: weights exp(-d^2 / T) of the nearest clusters, normalised over them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centres", torch.randn(self.e, self.d))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = -torch.cdist(flat, self.centres).pow(2) / 4.0
        top, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.softmax(top, dim=-1)


def with_domain() -> dict[str, torch.Tensor]:
    return {**input_ids(), "domain": torch.tensor([4, 1])[:BATCH]}


@idiom("script", wrap="none", inputs=with_domain, layout="b")
class DomainExperts(BankMoE):
    """DEMix: the domain of each sequence is an argument and picks its expert."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)

    def forward(self, input_ids: torch.Tensor, domain: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        h = torch.relu(torch.bmm(x, self.w1[domain]))
        y = torch.bmm(h, self.w2[domain])
        if not torch.jit.is_scripting():
            used(self, domain.unsqueeze(-1), None)
        return x + y


@idiom("script", calls=1)
class WeightsOfRawLogits(Routed):
    """Ids by probabilities with a bias, weights are a softmax over the picked raw logits."""

    def __init__(self):
        super().__init__()
        self.register_buffer("balance", torch.randn(6) * 0.1)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        ids = torch.topk(logits + self.balance, self.k, dim=-1)[1]
        w = torch.softmax(torch.gather(logits, -1, ids), dim=-1)
        return ids, w


@idiom("trace")
class InputScaledByWeight(BankMoE):
    """Linear experts whose input, not output, is multiplied."""

    def expert(self, e, x):
        return x @ self.w1[e] @ self.w2[e]

    def forward(self, x):
        flat = x.flatten(0, 1)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        scaled = flat.unsqueeze(1) * w.unsqueeze(-1)
        h = torch.einsum("tkd,tkdf->tkf", scaled, self.w1[ids])
        y = torch.einsum("tkf,tkfd->td", h, self.w2[ids])
        if on():
            seen(logits)
            used(self, ids, w, flat, y)
        return y.view_as(x)


@idiom("script")
class ReturnedThroughList(ListMoE):
    """The router returns a list of [weights, ids]; ids as int32."""

    def route(self, flat: torch.Tensor) -> list[torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return [w, ids.to(torch.int32)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        routing = self.route(flat)
        w, ids = routing[0], routing[1]
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            t, s = torch.where(ids == e)
            out.index_add_(0, t, expert(flat[t]) * w[t, s, None])
        if not torch.jit.is_scripting():
            used(self, ids.long(), w, flat, out)
        return out.view_as(x)

"""Gates and mixtures as small public repositories spell them."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from parts import DIM, BankMoE, ListMoE, idiom
from recorder import on, seen, used, used_dense
from scoring import Routed
from torch import nn


class VectorWeights(Routed):
    """Top-1 of a low-rank gate; each expert's own vector says how much it counts."""

    def __init__(self):
        super().__init__(k=1)
        self.down = nn.Linear(DIM, 4, bias=False)
        self.keys = nn.Parameter(torch.randn(6, 4))
        self.vectors = nn.Parameter(torch.randn(6, DIM) * 0.5)


@idiom("trace")
class VectorWeightsEinsum(VectorWeights):
    def route(self, flat):
        logits = F.linear(self.down(flat), self.keys)
        ids = logits.argmax(dim=-1)
        alpha = torch.einsum("td,td->t", flat, self.vectors[ids]).sigmoid()
        if on():
            seen(logits)
        return ids.unsqueeze(-1), alpha.unsqueeze(-1)


@idiom("trace")
class VectorWeightsBatchedProduct(VectorWeights):
    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = F.linear(self.down(flat), self.keys)
        ids = logits.max(dim=-1).indices
        alpha = torch.bmm(self.vectors[ids].unsqueeze(1), flat.unsqueeze(2)).squeeze(-1).sigmoid()
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token = (ids == e).nonzero().flatten()
            out = out.index_copy(0, token, alpha[token] * expert(flat[token]))
        if on():
            seen(logits)
            used(self, ids.unsqueeze(1), alpha, flat, out)
        return out.view_as(x)


@idiom("trace")
class VectorWeightsOfTwo(Routed):
    """Two experts a token, each weighed by its own vector, normalised over the two."""

    def __init__(self):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(6, DIM) * 0.5)

    def route(self, flat):
        logits = self.gate(flat)
        ids = logits.topk(self.k, dim=-1).indices
        w = (self.vectors[ids] * flat.unsqueeze(1)).sum(dim=-1).softmax(dim=-1)
        if on():
            seen(logits)
        return ids, w


class OneNeuronExperts(nn.Module):
    """Experts of one neuron, all slots of which count the same."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.k, self.d = 6, 2, DIM
        self.gate = nn.Linear(DIM, 6, bias=False)
        nn.init.normal_(self.gate.weight, std=0.5)
        self.down = nn.Embedding(6, DIM)
        self.up = nn.Embedding(6, DIM)

    def expert(self, e, x):
        return torch.relu((x * self.down.weight[e]).sum(-1, keepdim=True)) * self.up.weight[e]


@idiom("trace")
class OneNeuronExpertsOfEqualWeight(OneNeuronExperts):
    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        ids = logits.topk(self.k, dim=-1).indices
        h = torch.relu(torch.einsum("td,tkd->tk", flat, self.down(ids)))
        out = torch.einsum("tk,tkd->td", h, self.up(ids))
        if on():
            seen(logits)
            used(self, ids, None, flat, out)
        return out.view_as(x)


@idiom("trace")
class FloorOfTheGates(ListMoE):
    """Every expert keeps a small share, spelled as a convex sum with the uniform."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top, ids = logits.softmax(-1).topk(self.k)
        sparse = torch.zeros_like(logits).scatter_(1, ids, top)
        uniform = torch.full_like(sparse, 1 / self.e)
        w = torch.add(sparse * 0.8, uniform, alpha=0.2)
        out = torch.stack([w[:, e, None] * self.experts[e](flat) for e in range(self.e)]).sum(0)
        if on():
            seen(logits)
            used_dense(self, w, flat, out)
        return out.view_as(x)


@idiom("trace")
class RestGoesToAll(ListMoE):
    """What the best two leave is given to all experts alike."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top, ids = logits.softmax(-1).topk(self.k)
        sparse = torch.zeros_like(logits).scatter(1, ids, top)
        w = sparse + (1 - sparse.sum(-1, keepdim=True)) / self.e
        out = torch.stack([expert(flat) for expert in self.experts], 1).mul(w.unsqueeze(-1)).sum(1)
        if on():
            seen(logits)
            used_dense(self, w, flat, out)
        return out.view_as(x)


@idiom("trace")
class NoiseBehindTheMask(ListMoE):
    """Closed experts get a bias, too, before the softmax: they keep no weight."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(6) * 0.1)

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top, ids = logits.topk(self.k, dim=-1)
        closed = torch.full_like(logits, float("-inf")).scatter(-1, ids, top)
        w = (closed + self.bias).softmax(-1)
        out = torch.stack([expert(flat) for expert in self.experts], 1).mul(w.unsqueeze(-1)).sum(1)
        if on():
            seen(logits)
            used(self, ids, w.gather(1, ids), flat, out)
        return out.view_as(x)


@idiom("trace", as_sets=True)
class ExpertsChooseByMask(BatchedBank):
    """T5X's masked form for one group: [e, c, t] moved to [t, e, c], multiplied out of place."""

    def forward(self, x):
        logits = self.gate(x)
        gate, index = logits.softmax(-1).transpose(-1, -2).topk(3, dim=-1)
        dispatch = F.one_hot(index, x.shape[1]).type_as(x).permute(0, 3, 1, 2)
        combine = gate.unsqueeze(1) * dispatch
        sent = torch.einsum("gtm,gtec->egcm", x, dispatch)
        y = torch.einsum("egcm,gtec->gtm", self.run(sent), combine)
        if on():
            seen(logits)
            used_dense(self, combine.sum(-1), x, y)
        return y


@idiom("trace", as_sets=True)
class ExpertsChooseAndTokensNormalise(BatchedBank):
    """Experts choose; each token's weights are divided by their sum."""

    def forward(self, x):
        logits = self.gate(x)
        gate, index = logits.softmax(-1).transpose(1, 2).topk(4, dim=-1)
        dispatch = F.one_hot(index, x.shape[1]).to(x.dtype).permute(0, 3, 1, 2)
        combine = torch.einsum("gec,gtec->gtec", gate, dispatch)
        combine = combine / combine.sum(dim=(2, 3), keepdim=True).clamp_min(1e-9)
        sent = torch.einsum("gtm,gtec->egcm", x, dispatch)
        y = torch.einsum("egcm,gtec->gtm", self.run(sent), combine)
        if on():
            seen(logits)
            used_dense(self, combine.sum(-1), x, y)
        return y


@idiom("trace")
class MarginOfTheBestTwo(Routed):
    """Top-1, weighed by how much better it is than the second."""

    def route(self, flat):
        logits = self.gate(flat)
        values, order = logits.softmax(-1).topk(2, dim=-1)
        first, second = values.unbind(-1)
        margin = first - second
        if on():
            seen(logits)
        return order[:, :1], margin.unsqueeze(-1)


@idiom("trace")
class ShareOfTheFirst(Routed):
    """Two experts; the first's share is the sigmoid of the difference of logits."""

    def route(self, flat):
        logits = self.gate(flat)
        top, ids = logits.topk(2, dim=-1)
        share = torch.sigmoid(top[:, 0] - top[:, 1])
        w = torch.stack([share, 1 - share], dim=-1)
        if on():
            seen(logits)
        return ids, w


@idiom("trace")
class WeightsFilledIn(ListMoE):
    """Weights are written into zeros by index, then the outputs of all experts are contracted."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top, ids = torch.topk(logits, self.k)
        full = torch.zeros_like(logits)
        full[torch.arange(flat.shape[0]).unsqueeze(-1), ids] = top.softmax(-1)
        outs = torch.stack([expert(flat) for expert in self.experts], dim=2)
        out = torch.matmul(outs, full.unsqueeze(-1)).squeeze(-1)
        if on():
            seen(logits)
            used(self, ids, top.softmax(-1), flat, out)
        return out.view_as(x)


@idiom("trace")
class HeadsOfOneLinear(Routed):
    """One Linear(D, 1) an expert, joined by hstack."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(DIM, 1) for _ in range(6)])

    def route(self, flat):
        logits = torch.hstack([head(flat) for head in self.heads])
        top, ids = logits.topk(self.k)
        w = top.softmax(-1)
        if on():
            seen(logits)
        return ids, w


@idiom("trace")
class TemperatureByEntropy(Routed):
    """Logits are divided by a number of each token made of their own softmax."""

    def route(self, flat):
        raw = self.gate(flat)
        p = raw.softmax(-1)
        h = -(p * p.clamp_min(1e-9).log()).sum(-1, keepdim=True)
        logits = raw / (0.5 + h)
        w, ids = logits.softmax(-1).topk(self.k)
        if on():
            seen(logits)
        return ids, w


@idiom("trace")
class ExpertsFirstWeights(BankMoE):
    """All experts run; weights [E, T, 1] multiply [E, T, D]."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top, ids = logits.topk(self.k, dim=-1)
        w = torch.zeros_like(logits).scatter(1, ids, top.softmax(-1))
        h = torch.relu(torch.matmul(flat.unsqueeze(0), self.w1)) @ self.w2
        out = (h * w.T.unsqueeze(-1)).sum(0)
        if on():
            seen(logits)
            used(self, ids, top.softmax(-1), flat, out)
        return out.view_as(x)

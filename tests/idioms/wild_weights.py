"""Weights of experts that were not picked, and weights that the gate does not give."""

import torch
from parts import DIM, ListMoE, idiom
from recorder import on, seen, used, used_dense
from scoring import Routed
from torch import nn


class All(ListMoE):
    def share(self, sparse, logits):
        return sparse

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top, ids = logits.softmax(-1).topk(self.k)
        w = self.share(torch.zeros_like(logits).scatter(1, ids, top), logits)
        out = torch.stack([expert(flat) for expert in self.experts], 1).mul(w.unsqueeze(-1)).sum(1)
        if on():
            seen(logits)
            used_dense(self, w, flat, out)
        return out.view_as(x)


@idiom("trace")
class LeastShareByClamp(All):
    def share(self, sparse, logits):
        return sparse.clamp_min(0.02)


@idiom("trace")
class MeanOfSparseAndDense(All):
    def share(self, sparse, logits):
        return 0.5 * sparse + 0.5 * logits.softmax(-1)


@idiom("trace")
class ScaleOfTheExpert(ListMoE):
    """Top-1 without a gate weight; each expert has a number of its own."""

    def __init__(self):
        super().__init__(k=1)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        ids = logits.argmax(-1)
        w = self.scale[ids].unsqueeze(-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token = (ids == e).nonzero().flatten()
            out = out.index_copy(0, token, expert(flat[token]))
        out = out * w
        if on():
            seen(logits)
            used(self, ids.unsqueeze(-1), w, flat, out)
        return out.view_as(x)


@idiom("trace")
class OwnLinearWeighs(Routed):
    """Top-1 by the gate, weighed by a second head's sigmoid: one number a token."""

    def __init__(self):
        super().__init__(k=1)
        self.sure = nn.Linear(DIM, 1)

    def route(self, flat):
        logits = self.gate(flat)
        ids = logits.argmax(-1, keepdim=True)
        w = torch.sigmoid(self.sure(flat))
        if on():
            seen(logits)
        return ids, w

"""More gates as small public repositories spell them: masks, thresholds, groups, constants, slots by hand."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from parts import DIM, BankMoE, idiom
from recorder import on, seen, used
from scoring import Routed
from torch import nn


@idiom("trace")
class ScoresByColumnStack(Routed):
    """Keys of the experts, one parameter each; dot products side by side."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(DIM, 1, bias=False) for _ in range(6)])

    def route(self, flat):
        logits = torch.column_stack([head(flat) for head in self.heads])
        w, ids = torch.sigmoid(logits).topk(self.k)
        if on():
            seen(logits)
        return ids, w


@idiom("trace")
class CombineCastToDispatch(BatchedBank):
    """The dispatch mask is where the combine tensor is not zero."""

    def forward(self, x):
        logits = self.gate(x)
        w, ids = logits.softmax(-1).topk(self.k, dim=-1)
        hot = F.one_hot(ids, self.e)
        place = hot.flatten(1, 2).cumsum(1).view_as(hot) * hot - 1
        fits = F.one_hot(place.clamp_min(0), 9).to(x.dtype) * (place >= 0).unsqueeze(-1)
        combine = torch.einsum("gtk,gtkec->gtec", w, fits)
        dispatch = combine.to(torch.bool).to(x.dtype)
        sent = torch.einsum("gtm,gtec->egcm", x, dispatch)
        y = torch.einsum("egcm,gtec->gtm", self.run(sent), combine)
        if on():
            seen(logits)
            used(self, ids, w, x, y)
        return y


@idiom("trace")
class ThreeOperands(BankMoE):
    """One einsum of mask, weights and outputs."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k)
        hot = F.one_hot(ids, self.e).to(flat.dtype)
        outs = torch.relu(torch.einsum("td,edf->tef", flat, self.w1))
        outs = torch.einsum("tef,efd->ted", outs, self.w2)
        out = torch.einsum("tke,tk,ted->td", hot, w, outs)
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("trace")
class ArgmaxTwiceInLists(Routed):
    """Two picks one behind the other, kept in lists."""

    def route(self, flat):
        logits = self.gate(flat)
        left = logits.softmax(-1)
        all_ids, all_w = [], []
        for _ in range(2):
            best = left.argmax(-1, keepdim=True)
            all_ids.append(best)
            all_w.append(left.gather(-1, best))
            left = left.scatter(-1, best, 0.0)
        ids, w = torch.cat(all_ids, -1), torch.cat(all_w, -1)
        if on():
            seen(logits)
        return ids, w


@idiom("trace")
class LowestScores(Routed):
    """Distances: the nearest experts, by topk of the smallest."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(6, DIM))

    def route(self, flat):
        logits = torch.cdist(flat, self.centres)
        near, ids = logits.topk(self.k, largest=False)
        w = (-near).softmax(-1)
        if on():
            seen(logits)
        return ids, w


@idiom("trace")
class DampedByConfidence(Routed):
    """All of a token's weights are multiplied by one minus the entropy of its gate."""

    def route(self, flat):
        logits = self.gate(flat)
        p = logits.softmax(-1)
        top, ids = p.topk(self.k)
        sure = 1 - 0.3 * torch.special.entr(p).sum(-1, keepdim=True)
        w = top * sure
        if on():
            seen(logits)
        return ids, w

"""Experts left out, merged, split over processes or sharing slots: what becomes of ids and weights behind the pick."""

import surroundings  # noqa: F401 - the wraps
import torch
import torch.nn.functional as F
from parts import BankMoE, Expert, ListMoE, idiom
from recorder import on, seen, used, used_dense
from scoring import Routed
from torch import nn


@idiom("script", wrap="padded", as_sets=True)
class OneHotOfPositiveWeights(BankMoE):
    """Pruned slots are taken out of the one-hot; what is left is permuted and asked for rows."""

    def __init__(self):
        super().__init__(k=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        w = w * (w > 0.55 * w[:, 0:1])
        w = w / w.sum(dim=-1, keepdim=True)
        mask = F.one_hot(ids, self.e) * w.gt(0).unsqueeze(-1)
        mask = mask.permute(2, 1, 0)
        hit = torch.greater(mask.sum(dim=[-1, -2]), 0).nonzero()
        out = torch.zeros_like(flat)
        for n in range(hit.size(0)):
            e = int(hit[n])
            slot, token = torch.where(mask[e] > 0)
            y = torch.relu(flat[token] @ self.w1[e]) @ self.w2[e]
            out.index_add_(0, token, y * w[token, slot, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script", wrap="padded")
class MergedExperts(Routed):
    """MC-SMoE: a table sends the router's experts to fewer merged ones."""

    def __init__(self):
        super().__init__()
        self.register_buffer("group", torch.tensor([0, 1, 1, 0, 2, 2]))
        self.merged = nn.ModuleList([Expert() for _ in range(3)])

    def expert(self, e, x):
        return self.merged[int(self.group[e])](x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        w = w / w.sum(-1, keepdim=True)
        place = self.group[ids]
        out = torch.zeros_like(flat)
        for n, expert in enumerate(self.merged):
            share = (w * (place == n)).sum(-1)
            rows = torch.nonzero(share).squeeze(-1)
            out[rows] += expert(flat[rows]) * share[rows].unsqueeze(-1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("trace", wrap="padded_left")
class HalvesOfTheExperts(BankMoE):
    """Expert parallelism in one process: each half subtracts its first number and masks what is not its own."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        out = torch.zeros_like(flat)
        for start in (0, 3):
            mine = (ids >= start) & (ids < start + 3)
            local = torch.where(mine, ids - start, torch.zeros_like(ids))
            local_w = torch.where(mine, w, torch.zeros_like(w))
            w1, w2 = self.w1[start : start + 3], self.w2[start : start + 3]
            h = torch.relu(torch.einsum("td,tkdf->tkf", flat, w1[local]))
            out = out + torch.einsum("tkf,tkfd,tk->td", h, w2[local], local_w)
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("trace", wrap="padded", as_sets=True)
class ExpertsFirstMasks(BankMoE):
    """Experts lead everywhere: logits [E, T], pick and mask along dimension -2, weights by masks, combined by bmm."""

    def forward(self, x):
        logits = torch.einsum("ed,bsd->bes", self.gate.weight, x)
        z = logits / logits.norm(dim=-2, keepdim=True).clamp_min(1e-6)
        scores = F.relu(z) * self.e**0.5
        total = scores.sum(dim=-2, keepdim=True)
        probs = torch.where(total > 0, scores / total.clamp_min(1e-9), torch.full_like(scores, 1 / self.e))
        index = torch.topk(scores, k=self.k, dim=-2)[1]
        mask = torch.zeros_like(logits, dtype=torch.bool).scatter_(-2, index, 1)
        selected = probs * mask.to(probs.dtype)
        w = selected / selected.sum(dim=-2, keepdim=True).clamp_min(1e-9)
        h = torch.relu(torch.einsum("bsd,edf->besf", x, self.w1))
        y = torch.einsum("besf,efd,bes->bsd", h, self.w2, w)
        if on():
            seen(z.transpose(1, 2))
            used_dense(self, w.transpose(1, 2), x, y)
        return y


@idiom("script", wrap="padded")
class SlotOfTheSharedExpert(Routed):
    """A shared expert's id E is concatenated behind the slots with a constant weight, and runs as one of the bank."""

    def __init__(self):
        super().__init__()
        self.shared = Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        all_ids = torch.cat([ids, torch.full_like(ids[:, :1], self.e)], dim=-1)
        all_w = torch.cat([w, torch.full_like(w[:, :1], 0.4)], dim=-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(all_ids == e)
            out.index_add_(0, token, expert(flat[token]) * all_w[token, slot, None])
        routed = out.clone()
        token, slot = torch.where(all_ids == self.e)
        out.index_add_(0, token, self.shared(flat[token]) * all_w[token, slot, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, routed)
        return out.view_as(x)


@idiom("script", wrap="padded", as_sets=True)
class CopyExpertByWeights(ListMoE):
    """MoE++: the last two columns are a zero and a copy expert; the copy adds the token times its weight."""

    def __init__(self):
        super().__init__(e=6, k=2)
        self.wide = nn.Linear(self.d, 8, bias=False)
        nn.init.normal_(self.wide.weight, std=0.5)
        self.e = 8

    def expert(self, e, x):
        if e < 6:
            return self.experts[e](x)
        return x if e == 7 else torch.zeros_like(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.wide(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(ids == e)
            out[token] += expert(flat[token]) * w[token, slot, None]
        copied = torch.where(ids == 7, w, torch.zeros_like(w)).sum(-1, keepdim=True)
        out = out + copied * flat
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script", wrap="positions_first")
class DroppedTokensSkipTheLayer(ListMoE):
    """A null column: whose best is the last column passes by, others are multiplied by their probability."""

    def __init__(self):
        super().__init__(k=1)
        self.wide = nn.Linear(self.d, self.e + 1, bias=False)
        nn.init.normal_(self.wide.weight, std=0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.wide(flat)
        prob, ids = torch.max(torch.softmax(logits, dim=-1), dim=-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            rows = torch.nonzero(ids == e).squeeze(-1)
            out = out.index_copy(0, rows, expert(flat[rows]) * prob[rows].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids.unsqueeze(1), prob.unsqueeze(1), flat, out)
        return out.view_as(x)

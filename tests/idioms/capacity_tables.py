"""Capacity by tables of slots, sentinels and padding rows."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from dispatch import Dispatch
from parts import ListMoE, idiom
from recorder import on, seen, used, used_dense


@idiom("trace", as_sets=True)
class OneHotCutAtCapacity(BatchedBank):
    """No mask at all: the one-hot of the position is longer than C and cut."""

    def forward(self, x):
        cap = 3
        logits = self.gate(x)
        gates = logits.softmax(-1)
        gate, index = gates.max(-1)
        mask = F.one_hot(index, self.e).float()
        position = ((mask.cumsum(1) - mask) * mask).sum(-1).long()
        slots = F.one_hot(position, x.shape[1])[..., :cap].float()
        combine = gate[..., None, None] * mask[..., None] * slots[..., None, :]
        dispatch = combine.bool().float()
        inputs = torch.einsum("bnd,bnec->ebcd", x, dispatch)
        y = torch.einsum("ebcd,bnec->bnd", self.run(inputs), combine)
        if on():
            seen(logits)
            used_dense(self, combine.sum(-1), x, y)
        return y


@idiom("script", as_sets=True)
class SlotToToken(Dispatch):
    """A table of E * C slots holds each slot's token, -1 where it is empty."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        cap = 4
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        hot = F.one_hot(ids.flatten(), self.e)
        position = (hot.cumsum(0) * hot).sum(-1) - 1
        keep = position < cap
        slot = (ids.flatten() * cap + position)[keep]
        token = torch.arange(flat.size(0)).repeat_interleave(self.k)[keep]
        table = torch.full([self.e * cap], -1)
        table[slot] = token
        gate = torch.zeros([self.e * cap])
        gate[slot] = w.flatten()[keep]
        inputs = flat[table.clamp(min=0)].view(self.e, cap, -1)
        y = torch.bmm(torch.relu(torch.bmm(inputs, self.w1)), self.w2).view(self.e * cap, -1)
        filled = table >= 0
        out = torch.zeros_like(flat).index_add(0, table[filled], y[filled] * gate[filled].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w * keep.view_as(w), flat, out)
        return out.view_as(x)


@idiom("trace", as_sets=True)
class BestOfTheAssigned(BatchedBank):
    """Sparse gates, then each expert's best C of its column; unassigned ones have a gate of zero."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        sparse = torch.zeros_like(logits).scatter(1, ids, w)
        gate, token = sparse.t().topk(4, dim=1)
        y = self.run(flat[token]) * gate.unsqueeze(-1)
        out = torch.zeros_like(flat).index_add(0, token.reshape(-1), y.reshape(-1, self.d))
        if on():
            seen(logits)
            used_dense(self, torch.zeros_like(sparse.t()).scatter(1, token, gate).t(), flat, out)
        return out.view_as(x)


@idiom("trace", as_sets=True)
class SentinelColumn(ListMoE):
    """What does not fit gets the id E, whose column of the one-hot is cut off."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        hot = F.one_hot(ids, self.e)
        place = hot.view(-1, self.e).cumsum(0).view_as(hot).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        final = torch.where(place <= 4, ids, torch.full_like(ids, self.e))
        dense = (F.one_hot(final, self.e + 1)[..., : self.e] * w.unsqueeze(-1)).sum(1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            out = out + dense[:, e : e + 1] * expert(flat)
        if on():
            seen(logits)
            used_dense(self, dense, flat, out)
        return out.view_as(x)


@idiom("script", as_sets=True)
class MinusOneAfterDrop(Dispatch):
    """Ids of dropped slots become -1; the loop compares ids."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        hot = F.one_hot(ids, self.e).view(-1, self.e)
        keep = ((hot.cumsum(0) * hot).sum(-1) <= 4).view_as(ids)
        ids = ids.masked_fill(~keep, -1)
        out = torch.zeros_like(flat)
        for e in range(self.e):
            t, s = torch.where(ids == e)
            out.index_add_(0, t, self.one(flat[t], e) * w[t, s, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, torch.where(keep, w, torch.zeros_like(w)), flat, out)
        return out.view_as(x)


@idiom("trace", as_sets=True)
class PaddingRowTable(BatchedBank):
    """A table [E, C] of token numbers, T for none, over tokens with one more row of zeros (top-1)."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        n, cap = flat.shape[0], 3
        logits = self.gate(flat)
        gate, ids = logits.softmax(-1).max(-1)
        hot = F.one_hot(ids, self.e)
        number = torch.where(hot.bool(), torch.arange(n).unsqueeze(1), n)
        table = number.sort(dim=0).values[:cap].t()  # [E, C]: the first tokens of each expert
        padded = torch.cat([flat, flat.new_zeros(1, self.d)])
        outs = self.run(padded[table])
        back = torch.zeros(n + 1, self.d).index_add(0, table.reshape(-1), outs.reshape(-1, self.d))[:n]
        y = back * gate.unsqueeze(-1)
        if on():
            seen(logits)
            served = torch.zeros(n + 1).index_fill(0, table.reshape(-1), 1.0)[:n]
            used(self, ids.unsqueeze(-1), (gate * served).unsqueeze(-1), flat, y)
        return y.view_as(x)


@idiom("script", as_sets=True)
class CapacityPerExpert(Dispatch):
    """Each expert has a capacity of its own, in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("capacity", torch.tensor([2, 3, 4, 5, 2, 3]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        hot = F.one_hot(ids, self.e).view(-1, self.e)
        place = (hot.cumsum(0) * hot).sum(-1).view_as(ids)
        w = torch.where(place <= self.capacity[ids], w, torch.zeros_like(w))
        out = torch.zeros_like(flat)
        for e in range(self.e):
            t, s = torch.where((ids == e) & (w > 0))
            out.index_add_(0, t, self.one(flat[t], e) * w[t, s, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("trace", as_sets=True)
class GroupsInsideSequence(BatchedBank):
    """Tokens in groups of seven, capacity within each; the dispatch is a boolean tensor."""

    def forward(self, x):
        groups = x.reshape(-1, 7, self.d)
        cap = 2
        logits = self.gate(groups)
        probs = logits.softmax(-1)
        w, ids = probs.topk(self.k, -1)
        hot = F.one_hot(ids, self.e)  # g s k e
        order = hot.transpose(1, 2).reshape(groups.shape[0], -1, self.e)
        place = (order.cumsum(1) - 1).view(groups.shape[0], self.k, -1, self.e).transpose(1, 2)
        inside = hot.bool() & (place < cap)
        slot = F.one_hot(place.clamp(0, cap - 1), cap).bool() & inside.unsqueeze(-1)
        dispatch = slot.any(2)
        combine = (w[..., None, None] * slot).sum(2)
        y = torch.einsum("gsec,egcd->gsd", combine, self.run(torch.einsum("gsec,gsd->egcd", dispatch.float(), groups)))
        if on():
            seen(logits)
            used_dense(self, combine.sum(-1), groups, y)
        return y.reshape(x.shape)

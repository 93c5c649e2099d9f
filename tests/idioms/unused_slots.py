"""Slots without an expert hold -1 or E, and places in the experts' buffers are computed with them all the same."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from models import padded
from parts import DIM, VOCAB, idiom
from recorder import on, seen, used
from torch import nn


class Dropping(BatchedBank):
    """Softmax, top-k, a capacity: what does not fit gets the id -1. `apply` gives the routed output."""

    def __init__(self, cap: int = 4):
        super().__init__()
        self.cap = cap

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        logits = self.gate(flat)
        w, picked = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        hot = F.one_hot(picked, self.e).view(-1, self.e)
        place = ((hot.cumsum(0) - 1) * hot).sum(-1).view_as(picked)
        keep = place < self.cap
        ids = torch.where(keep, picked, torch.full_like(picked, -1))
        out = self.apply(flat, w, ids, place, keep)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, torch.where(keep, w, torch.zeros_like(w)), flat, out)
        return out.view(x.shape)

    def through(self, flat: torch.Tensor, slots: torch.Tensor, first: int) -> torch.Tensor:
        """Rows of the experts' outputs for `slots` [T, K]. Experts' rows begin at `first`, all others are zeros."""
        rows = first + self.e * self.cap + 1
        source = torch.full([rows], flat.size(0))
        token = torch.arange(flat.size(0)).unsqueeze(1).expand_as(slots)
        source.scatter_(0, slots.reshape(-1), token.reshape(-1))
        source[:first] = flat.size(0)
        source[rows - 1] = flat.size(0)
        padded = torch.cat([flat, flat.new_zeros([1, flat.size(1)])])
        buffer = padded.index_select(0, source[first : rows - 1]).view(self.e, self.cap, -1)
        y = torch.bmm(torch.relu(torch.bmm(buffer, self.w1)), self.w2).view(self.e * self.cap, -1)
        none = y.new_zeros([1, y.size(1)])
        y = torch.cat([none.expand(first, -1), y, none])
        return y.index_select(0, slots.reshape(-1)).view(slots.size(0), slots.size(1), -1)


@idiom("script", as_sets=True)
class ScratchRow(Dropping):
    """DeepSpeed: a comparison of the ids sends the others to a row behind the experts'."""

    def apply(
        self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor, place: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        slots = ids * self.cap + place
        slots = torch.where(ids >= 0, slots, torch.full_like(slots, self.e * self.cap))
        return (self.through(flat, slots, 0) * w.unsqueeze(-1)).sum(1)


@idiom("trace", as_sets=True)
class ScratchRowByFill(Dropping):
    def apply(self, flat, w, ids, place, keep):
        slots = (ids * self.cap + place).masked_fill(ids == -1, self.e * self.cap)
        return (self.through(flat, slots, 0) * w.unsqueeze(-1)).sum(1)


@idiom("script", as_sets=True)
class ScratchRowByKeptMask(Dropping):
    """The mask that wrote the -1 says which slots these are."""

    def apply(
        self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor, place: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        slots = ids * self.cap + place
        slots[~keep] = self.e * self.cap
        return (self.through(flat, slots, 0) * w.unsqueeze(-1)).sum(1)


@idiom("script", as_sets=True)
class ScratchRowInFront(Dropping):
    """Rows are counted from 1; a product with the mask makes row 0 of those that are left out."""

    def apply(
        self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor, place: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        valid = ids.ne(-1)
        slots = (ids * self.cap + place + 1) * valid
        return (self.through(flat, slots, 1) * w.unsqueeze(-1)).sum(1)


@idiom("trace", as_sets=True)
class ScratchExpertInFront(Dropping):
    """An expert in front of the others takes what is left out: its places begin at 0."""

    def apply(self, flat, w, ids, place, keep):
        slots = (ids + 1) * self.cap + place.clamp(max=self.cap - 1)
        return (self.through(flat, slots, self.cap) * w.unsqueeze(-1)).sum(1)


@idiom("script", as_sets=True)
class ClampedRowsOfNoWeight(Dropping):
    """What is left out reads the first row, with the weight 0."""

    def apply(
        self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor, place: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        valid = ids > -1
        slots = ids * self.cap + place
        y = self.rows_kept(flat, slots, valid).index_select(0, slots.clamp(min=0).reshape(-1))
        return (y.view(w.size(0), w.size(1), -1) * (w * valid).unsqueeze(-1)).sum(1)

    def rows_kept(self, flat: torch.Tensor, slots: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        token = torch.arange(flat.size(0)).unsqueeze(1).expand_as(slots)
        buffer = torch.zeros([self.e * self.cap, flat.size(1)])
        buffer[slots[valid]] = flat[token[valid]]
        buffer = buffer.view(self.e, self.cap, -1)
        return torch.bmm(torch.relu(torch.bmm(buffer, self.w1)), self.w2).view(self.e * self.cap, -1)


@idiom("script", as_sets=True)
class MaskedRowsOfWraps(ClampedRowsOfNoWeight):
    """What is left out reads from the end, and a mask makes zeros of it."""

    def apply(
        self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor, place: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        valid = ids >= 0
        slots = ids * self.cap + place
        y = self.rows_kept(flat, slots, valid)[slots.clamp(-self.cap, self.e * self.cap - 1)]
        return (y * w.unsqueeze(-1) * valid.to(y.dtype).unsqueeze(-1)).sum(1)


@idiom("script", as_sets=True)
class RowsByMask(ClampedRowsOfNoWeight):
    """Only the slots that are kept are indexed at all."""

    def apply(
        self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor, place: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        valid = ids >= 0
        slots = ids * self.cap + place
        token = torch.arange(flat.size(0)).unsqueeze(1).expand_as(slots)[valid]
        y = self.rows_kept(flat, slots, valid)[slots[valid]] * w[valid].unsqueeze(-1)
        return torch.zeros_like(flat).index_add(0, token, y)


@idiom("script", as_sets=True)
class ZeroWeightsByWhere(ClampedRowsOfNoWeight):
    def apply(
        self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor, place: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        valid = torch.logical_not(ids.lt(0))
        slots = torch.clamp_min(ids * self.cap + place, 0)
        w = torch.where(keep, w, torch.zeros_like(w))
        y = self.rows_kept(flat, slots, valid).index_select(0, slots.flatten()).view(w.size(0), w.size(1), -1)
        return torch.einsum("tk,tkd->td", w, y)


@idiom("script", as_sets=True)
class OneBehindTheExperts(Dropping):
    """E in place of -1: its places lie behind those of the experts, and are cut off."""

    def apply(
        self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor, place: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        slots = ids * self.cap + place
        slots = torch.where(keep.logical_not(), torch.full_like(slots, self.e * self.cap), slots)
        return (self.through(flat, slots, 0) * w.unsqueeze(-1)).sum(1)


@idiom("trace", as_sets=True)
class DeepspeedRoutes(BatchedBank):
    """DeepSpeed top-2: one pick after the other, [K, T] routes whose -1 stands beside the ids, one row for the rest."""

    cap = 4

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        gates = F.softmax(logits, dim=1)
        first = torch.argmax(gates, dim=1)
        mask1 = F.one_hot(first, num_classes=self.e)
        second = torch.argmax(logits.masked_fill(mask1.bool(), float("-inf")), dim=1)
        mask2 = F.one_hot(second, num_classes=self.e)
        locations1 = torch.cumsum(mask1, dim=0) - 1
        locations2 = torch.cumsum(mask2, dim=0) - 1
        locations2 += torch.sum(mask1, dim=0, keepdim=True)
        mask1 *= torch.lt(locations1, self.cap)
        mask2 *= torch.lt(locations2, self.cap)
        gates1 = torch.einsum("se,se->s", gates, mask1.float())
        gates2 = torch.einsum("se,se->s", gates, mask2.float())
        total = torch.clamp(gates1 + gates2, min=torch.finfo(gates.dtype).eps)
        gates1 /= total
        gates2 /= total
        first = torch.where(mask1.any(dim=1), first, torch.full_like(first, -1))
        second = torch.where(mask2.any(dim=1), second, torch.full_like(second, -1))
        ids = torch.stack([first, second]).to(torch.int32)
        places = torch.stack([(locations1 * mask1).sum(1), (locations2 * mask2).sum(1)]).to(torch.int32)
        weights = torch.stack([gates1, gates2])
        y = self.routed(flat, ids, places, weights)
        if on():
            seen(logits)
            used(self, ids.t().long(), weights.t(), flat, y)
        return y.reshape(x.shape)

    def routed(self, flat, ids, places, weights):
        rows = self.e * self.cap
        slots = ids.long() * self.cap + places.long()
        slots = torch.where(ids >= 0, slots, torch.full_like(slots, rows))
        source = torch.full((rows + 1,), flat.size(0), dtype=torch.long)
        source.scatter_(0, slots.reshape(-1), torch.arange(flat.size(0)).expand_as(slots).reshape(-1))
        padded = torch.cat([flat, flat.new_zeros(1, self.d)])
        y = self.run(padded.index_select(0, source[:-1]).view(self.e, self.cap, self.d)).reshape(rows, self.d)
        y = torch.cat([y, y.new_zeros(1, self.d)]).index_select(0, slots.reshape(-1))
        return (y.view(slots.size(0), flat.size(0), self.d) * weights.unsqueeze(-1)).sum(0)


@idiom("trace", as_sets=True)
class DeepspeedRoutesOfTopK(DeepspeedRoutes):
    """DeepSpeed top-k: the best of each expert's column are kept; routes are gathered from the masks."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        gates = F.softmax(logits, dim=1)
        top, ids = torch.topk(gates, k=3, dim=1)
        mask = torch.zeros_like(gates, dtype=torch.bool).scatter_(1, ids, torch.ones_like(ids, dtype=torch.bool))
        kept = torch.topk(torch.zeros_like(gates).scatter(1, ids, top), k=self.cap, dim=0, sorted=False)[1]
        mask &= torch.zeros_like(gates).scatter_(0, kept, 1.0) > 0
        locations = torch.cumsum(mask, dim=0) - 1
        masked = gates * mask
        masked = masked / torch.clamp(masked.sum(dim=-1, keepdim=True), min=torch.finfo(gates.dtype).eps)
        kept = mask.gather(1, ids)
        routes = torch.where(kept, ids, torch.full_like(ids, -1))
        places = locations.gather(1, ids) * kept
        weights = masked.gather(1, ids).t().contiguous()
        routes = routes.t().contiguous().to(torch.int32)
        y = self.routed(flat, routes, places.t().contiguous().to(torch.int32), weights)
        if on():
            seen(logits)
            used(self, routes.t().long(), weights.t(), flat, y)
        return y.reshape(x.shape)


@idiom("script", wrap="none", inputs=padded, as_sets=True)
class PaddingHasNoExpert(nn.Module):
    """Tokens of padding get the id -1, and a row behind the experts' by the same mask."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = ScratchRow(cap=14)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, x.size(-1))
        real = attention_mask.reshape(-1, 1) != 0
        logits = self.moe.gate(flat)
        w, picked = torch.topk(torch.softmax(logits, dim=-1), self.moe.k, dim=-1)
        ids = picked.masked_fill(~real, -1)
        hot = F.one_hot(picked, self.moe.e).view(-1, self.moe.e)
        place = ((hot.cumsum(0) - 1) * hot).sum(-1).view_as(picked)
        slots = torch.where(real, ids * self.moe.cap + place, self.moe.e * self.moe.cap)
        out = (self.moe.through(flat, slots, 0) * w.unsqueeze(-1)).sum(1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids, w, flat, out)
        return x + out.view_as(x)

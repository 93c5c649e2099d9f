"""Capacity: tokens that come too late for an expert are dropped. Dispatch and combine tensors in several orders."""

import math

import torch
import torch.nn.functional as F
from parts import EXPERTS, BankMoE, ListMoE, idiom
from recorder import on, seen, used, used_dense


class BatchedBank(BankMoE):
    def run(self, x: torch.Tensor) -> torch.Tensor:  # [E, .., D]
        return torch.einsum("e...f,efd->e...d", torch.relu(torch.einsum("e...d,edf->e...f", x, self.w1)), self.w2)


@idiom("trace", as_sets=True)
class SwitchCumsumEinsum(BatchedBank):
    capacity = 3

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        gates = F.softmax(logits, dim=1)
        indices = torch.argmax(gates, dim=1)
        mask = F.one_hot(indices, self.e)
        locations = torch.cumsum(mask, dim=0) - 1
        mask = mask * torch.lt(locations, self.capacity)
        locations_s = torch.sum(locations * mask, dim=1)
        gates = gates * mask.float()
        locations_sc = F.one_hot(locations_s, self.capacity).float()
        combine = torch.einsum("se,sc->sec", gates, locations_sc)
        dispatch = combine.bool()
        dispatched = torch.einsum("sec,sm->ecm", dispatch.type_as(x), flat)
        out = self.run(dispatched)
        y = torch.einsum("sec,ecm->sm", combine.type_as(x), out)
        if on():
            seen(logits)
            used_dense(self, gates, flat, y)
        return y.reshape(x.shape)


@idiom("trace", as_sets=True)
class GshardTopTwo(BatchedBank):
    """fairscale's second pick: the first is filled with -inf."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        gates = F.softmax(logits, dim=1, dtype=torch.float)
        n = gates.shape[0]
        capacity = 2 * n // self.e
        i1 = torch.argmax(gates, dim=1)
        m1 = F.one_hot(i1, num_classes=self.e)
        rest = logits.masked_fill(m1.bool(), float("-inf"))
        i2 = torch.argmax(rest, dim=1)
        m2 = F.one_hot(i2, num_classes=self.e)
        l1 = torch.cumsum(m1, dim=0) - 1
        l2 = torch.cumsum(m2, dim=0) - 1
        l2 += torch.sum(m1, dim=0, keepdim=True)
        m1 = m1 * torch.lt(l1, capacity)
        m2 = m2 * torch.lt(l2, capacity)
        l1s = torch.sum(l1 * m1, dim=1)
        l2s = torch.sum(l2 * m2, dim=1)
        g1 = (gates * m1).sum(dim=1)
        g2 = (gates * m2).sum(dim=1)
        denominator = torch.clamp(g1 + g2, min=torch.finfo(g1.dtype).eps)
        g1 = g1 / denominator
        g2 = g2 / denominator
        gg1 = torch.einsum("s,se->se", g1, m1.float())
        gg2 = torch.einsum("s,se->se", g2, m2.float())
        c1 = torch.einsum("se,sc->sec", gg1, F.one_hot(l1s, num_classes=capacity).float())
        c2 = torch.einsum("se,sc->sec", gg2, F.one_hot(l2s, num_classes=capacity).float())
        combine = c1 + c2
        dispatch = combine.bool()
        inputs = torch.einsum("sec,sm->ecm", dispatch.float(), flat)
        y = torch.einsum("sec,ecm->sm", combine, self.run(inputs))
        if on():
            seen(logits)
            used_dense(self, gg1 + gg2, flat, y)
        return y.reshape(x.shape)


@idiom("trace", as_sets=True)
class TopTwoGatingPerBatch(BatchedBank):
    """Per sample, combine [b, n, e, c], the second gate from raw gates times (1 - first mask)."""

    def forward(self, x):
        logits = torch.einsum("...bnd,...de->...bne", x, self.gate.weight.t())
        raw = logits.softmax(dim=-1)
        capacity = 3
        index_1 = raw.topk(k=1, dim=-1).indices.squeeze(-1)
        gate_1 = raw.topk(k=1, dim=-1).values.squeeze(-1)
        mask_1 = F.one_hot(index_1, self.e).float()
        without = raw * (1.0 - mask_1)
        gate_2, index_2 = without.max(dim=-1)
        mask_2 = F.one_hot(index_2, self.e).float()
        denom = gate_1 + gate_2 + 1e-9
        gate_1 = gate_1 / denom
        gate_2 = gate_2 / denom
        position_1 = (mask_1.cumsum(dim=-2) - mask_1) * mask_1
        mask_1 = mask_1 * (position_1 < float(capacity)).float()
        mask_1_count = mask_1.sum(dim=-2, keepdim=True)
        mask_1_flat = mask_1.sum(dim=-1)
        position_1 = position_1.sum(dim=-1)
        gate_1 = gate_1 * mask_1_flat
        position_2 = ((mask_2.cumsum(dim=-2) - mask_2) + mask_1_count) * mask_2
        mask_2 = mask_2 * (position_2 < float(capacity)).float()
        mask_2_flat = mask_2.sum(dim=-1)
        position_2 = position_2.sum(dim=-1)
        gate_2 = gate_2 * mask_2_flat

        def part(gate, flat, index, position):
            slots = F.one_hot(position.long().clamp(max=capacity - 1), capacity)
            return (
                gate[..., None, None]
                * flat[..., None, None]
                * F.one_hot(index, self.e)[..., None]
                * slots[..., None, :]
            )

        combine = part(gate_1, mask_1_flat, index_1, position_1) + part(gate_2, mask_2_flat, index_2, position_2)
        dispatch = combine.bool().to(combine)
        inputs = torch.einsum("bnd,bnec->ebcd", x, dispatch)
        y = torch.einsum("ebcd,bnec->bnd", self.run(inputs), combine)
        if on():
            seen(logits)
            used(self, torch.stack([index_1, index_2], -1), torch.stack([gate_1, gate_2], -1), x, y)
        return y


@idiom("script", as_sets=True)
class SwitchTokenPriority(ListMoE):
    """HF Switch: expert index as one-hot times a priority mask; the loop indexes by column."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        logits = self.gate(hidden_states)
        router_probs = torch.softmax(logits, dim=-1)
        expert_index = torch.argmax(router_probs, dim=-1)
        expert_index = F.one_hot(expert_index, num_classes=self.e)
        token_priority = torch.cumsum(expert_index, dim=-2)
        expert_capacity_mask = token_priority <= 2
        router_mask = expert_index * expert_capacity_mask
        probs = torch.max(router_probs, dim=-1)[0].unsqueeze(-1)
        next_states = torch.zeros_like(hidden_states)
        for idx, expert in enumerate(self.experts):
            token_indices = router_mask[:, :, idx].to(torch.bool)
            next_states[token_indices] = expert(hidden_states[token_indices]).to(next_states.dtype)
        out = probs * next_states
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, probs * router_mask, hidden_states, out)
        return out


@idiom("trace", as_sets=True)
class NllbTopTwoDense(ListMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        probs = F.softmax(logits, dim=-1, dtype=torch.float)
        top_1 = torch.argmax(probs, dim=-1)
        m1 = F.one_hot(top_1, num_classes=self.e)
        rest = logits.masked_fill(m1.bool(), float("-inf"))
        top_2 = torch.argmax(rest, dim=-1)
        m2 = F.one_hot(top_2, num_classes=self.e)
        p1 = (m1 * probs).sum(dim=1)
        p2 = (m2 * probs).sum(dim=1)
        denom = torch.clamp(p1 + p2, min=1.1920928955078125e-07)
        p1 = p1 / denom
        p2 = p2 / denom
        l1 = torch.cumsum(m1, dim=0) - 1
        l2 = torch.cumsum(m2, dim=0) - 1
        l2 += torch.sum(m1, dim=0, keepdim=True)
        m1 = m1 * torch.lt(l1, 4)
        m2 = m2 * torch.lt(l2, 4)
        gates1 = p1[:, None] * m1
        gates2 = p2[:, None] * m2
        router_probs = gates1 + gates2
        router_mask = router_probs.bool()
        masked = torch.einsum("bm,be->ebm", flat, router_mask.to(flat.dtype))
        for idx, expert in enumerate(self.experts):
            token_indices = router_mask[:, idx]
            combining = router_probs[token_indices, idx]
            expert_output = expert(masked[idx, token_indices])
            masked[idx, token_indices] = torch.einsum("b,be->be", combining, expert_output)
        y = masked.sum(dim=0)
        if on():
            seen(logits)
            used_dense(self, router_probs, flat, y)
        return y.view_as(x)


@idiom("trace", as_sets=True)
class FlatSlotsCumsum(BatchedBank):
    """Slots before tokens in one cumulative sum, trash row for what is dropped."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        n, k, cap = flat.shape[0], self.k, 4
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(k, -1)
        one_hot = F.one_hot(ids.t().reshape(-1), self.e)
        position = (one_hot.cumsum(0) * one_hot).sum(-1) - 1
        keep = position < cap
        slot = torch.where(keep, ids.t().reshape(-1) * cap + position, self.e * cap)
        buffer = flat.new_zeros(self.e * cap + 1, self.d)
        buffer = buffer.index_copy(0, slot, flat.repeat(k, 1))
        outs = self.run(buffer[:-1].view(self.e, cap, self.d)).reshape(-1, self.d)
        outs = torch.cat([outs, outs.new_zeros(1, self.d)])
        picked = outs[slot].view(k, n, self.d)
        y = (picked * w.t().unsqueeze(-1)).sum(0)
        if on():
            seen(logits)
            used(self, ids, w * keep.view(k, n).t(), flat, y)
        return y.view_as(x)


@idiom("trace", as_sets=True)
class BatchPriority(BatchedBank):
    """V-MoE: tokens with the largest first gate are served first."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        cap = 3
        logits = self.gate(flat)
        gates = logits.softmax(-1)
        w, ids = gates.topk(self.k, -1)
        order = torch.argsort(w[:, 0], descending=True)
        hot = F.one_hot(ids[order], self.e).transpose(0, 1).reshape(-1, self.e)
        position = hot.cumsum(0) * hot - 1
        position = position.view(self.k, -1, self.e).transpose(0, 1)
        position = position[torch.argsort(order)]
        slots = F.one_hot(position.clamp(-1, cap) + 1, cap + 2)[..., 1 : cap + 1].float()
        dispatch = slots.sum(1)
        combine = torch.einsum("tk,tkec->tec", w, slots)
        expert_in = torch.einsum("tec,td->ecd", dispatch, flat)
        y = torch.einsum("ecd,tec->td", self.run(expert_in), combine)
        if on():
            seen(logits)
            used_dense(self, combine.sum(-1), flat, y)
        return y.view_as(x)


@idiom("script", as_sets=True)
class RankInSorted(BankMoE):
    """A token's rank within its expert from a stable sort and the experts' starts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        cap = 4
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        w = w / w.sum(-1, keepdim=True)
        flat_ids = ids.reshape(-1)
        sorted_ids, order = torch.sort(flat_ids, stable=True)
        starts = torch.searchsorted(sorted_ids, torch.arange(self.e))
        rank_sorted = torch.arange(flat_ids.numel()) - starts[sorted_ids]
        rank = torch.empty_like(rank_sorted)
        rank[order] = rank_sorted
        keep = (rank < cap).view_as(ids)
        w = w * keep.to(w.dtype)
        out = torch.zeros_like(flat)
        for e in range(self.e):
            token, slot = torch.where((ids == e) & keep)
            y = torch.relu(flat[token] @ self.w1[e]) @ self.w2[e]
            out.index_add_(0, token, y * w[token, slot, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("trace", as_sets=True)
class PerSlotCapacity(BatchedBank):
    """Each of the slots has a capacity of its own, combined with einsum over k."""

    def forward(self, x):
        cap = math.ceil(x.shape[1] * 1.25 * self.k / self.e)
        logits = self.gate(x)
        gates, ids = logits.softmax(-1).topk(self.k, -1)
        hot = F.one_hot(ids, self.e).float()  # b s k e
        position = torch.cumsum(hot, dim=1) - hot
        inside = (position < cap).float() * hot
        where = (position * inside).sum(-1).long()
        slot = F.one_hot(where, cap).float() * inside.sum(-1, keepdim=True)
        dispatch = torch.einsum("bske,bskc->bskec", inside, slot)
        inputs = torch.einsum("bskec,bsd->ebkcd", dispatch, x)
        outs = self.run(inputs)
        y = torch.einsum("bskec,bsk,ebkcd->bsd", dispatch, gates, outs)
        if on():
            seen(logits)
            used(self, ids, gates * inside.sum(-1), x, y)
        return y


@idiom("trace", as_sets=True)
class TutelEncodeDecode(BatchedBank):
    """Tutel: index and location of each slot, scatter to [E*C, D], gather back."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        cap = 4
        logits = self.gate(flat)
        gates = logits.softmax(dim=1)
        topk_indices = torch.topk(gates, self.k, dim=1).indices
        indices_s = [i.view(-1) for i in topk_indices.chunk(self.k, dim=1)]
        masks_se = [F.one_hot(i, self.e).type_as(gates) for i in indices_s]
        gates_s = [(gates * m).sum(dim=1) for m in masks_se]
        locations1 = torch.cumsum(masks_se[0], 0) - 1
        locations_s = [torch.sum(locations1 * masks_se[0], dim=1).long()]
        acc = None
        for k in range(1, self.k):
            acc = masks_se[k - 1].sum(0, keepdim=True) if acc is None else acc + masks_se[k - 1].sum(0, keepdim=True)
            locations2 = torch.cumsum(masks_se[k], 0) - 1 + acc
            locations_s.append(torch.sum(locations2 * masks_se[k], dim=1).long())
        denom = sum(gates_s).clamp(min=torch.finfo(gates.dtype).eps)
        gates_s = [g / denom for g in gates_s]
        buffer = torch.zeros(self.e * cap, self.d)
        for i, loc in zip(indices_s, locations_s, strict=True):
            fits = (loc < cap).to(flat.dtype).unsqueeze(-1)
            buffer = buffer.index_add(0, i * cap + loc.clamp(max=cap - 1), flat * fits)
        out = self.run(buffer.view(self.e, cap, self.d)).view(-1, self.d)
        y = torch.zeros_like(flat)
        for i, loc, g in zip(indices_s, locations_s, gates_s, strict=True):
            fits = (loc < cap).to(flat.dtype)
            y = y + out[i * cap + loc.clamp(max=cap - 1)] * (g * fits).unsqueeze(-1)
        if on():
            seen(logits)
            fit = torch.stack([(loc < cap).float() for loc in locations_s], 1)
            used(self, topk_indices, torch.stack(gates_s, 1) * fit, flat, y)
        return y.view_as(x)


@idiom("trace", as_sets=True)
class StMoeTopN(BatchedBank):
    """Top-n gating with slots first: gates [k, b, n], masks one after another."""

    def forward(self, x):
        cap = 3
        logits = self.gate(x)
        raw = logits.softmax(-1)
        gates, index = raw.topk(self.k, dim=-1)
        gates, index = gates.movedim(-1, 0), index.movedim(-1, 0)
        hot = F.one_hot(index, EXPERTS).float()  # k b n e
        gates = gates / gates.sum(0, keepdim=True).clamp(min=1e-9)
        kept, masks, positions = 0.0, [], []
        for mask in hot.unbind(0):
            position = (mask.cumsum(-2) - mask + kept) * mask
            mask = mask * (position < cap).float()
            kept = kept + mask.sum(-2, keepdim=True)
            masks.append(mask)
            positions.append((position * mask).sum(-1))
        masks, positions = torch.stack(masks), torch.stack(positions)
        flat = masks.sum(-1)
        gates = gates * flat
        n_hot = F.one_hot(positions.long(), cap).float()
        combine = torch.einsum("kbn,kbn,kbne,kbnc->bnec", gates, flat, F.one_hot(index, EXPERTS).float(), n_hot)
        dispatch = combine.bool().type_as(combine)
        inputs = torch.einsum("bnd,bnec->ebcd", x, dispatch)
        y = torch.einsum("ebcd,bnec->bnd", self.run(inputs), combine)
        if on():
            seen(logits)
            used(self, index.movedim(0, -1), gates.movedim(0, -1), x, y)
        return y

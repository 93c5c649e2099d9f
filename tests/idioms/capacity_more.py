"""Capacity again: positions by loops, by sorts, by thresholds; groups; where dropped tokens go."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from dispatch import Dispatch
from parts import BankMoE, ListMoE, idiom
from recorder import on, seen, used, used_dense


@idiom("script", as_sets=True)
class CumsumInExpertLoop(Dispatch):
    """Position by a cumulative sum of each expert's own mask, inside the loop (top-1)."""

    def __init__(self):
        super().__init__(k=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        logits = self.gate(flat)
        prob, ids = torch.max(torch.softmax(logits, dim=-1), dim=-1)
        out = torch.zeros_like(flat)
        applied = torch.zeros_like(prob)
        for e in range(self.e):
            mask = ids == e
            keep = mask & (torch.cumsum(mask.to(torch.int64), 0) <= 3)
            out[keep] = self.one(flat[keep], e) * prob[keep].unsqueeze(-1)
            if not torch.jit.is_scripting():
                applied[keep] = prob[keep]
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids.unsqueeze(-1), applied.unsqueeze(-1), flat, out)
        return out.view_as(x)


@idiom("trace", as_sets=True)
class DeepspeedTopIdx(BatchedBank):
    """DeepSpeed top-1 without random token selection: the best C of each expert's column."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        cap = 3
        logits = self.gate(flat)
        gates = F.softmax(logits, dim=1)
        indices1_s = torch.argmax(gates, dim=1)
        mask1 = F.one_hot(indices1_s, num_classes=self.e)
        top_idx = torch.topk(mask1 * gates, k=cap, dim=0)[1]
        mask1 = mask1 * torch.zeros_like(mask1).scatter_(0, top_idx, 1)
        locations1 = torch.cumsum(mask1, dim=0) - 1
        locations1_s = torch.sum(locations1 * mask1, dim=1)
        gates = gates * mask1.float()
        combine = torch.einsum("se,sc->sec", gates, F.one_hot(locations1_s, num_classes=cap).float())
        dispatch = combine.bool()
        out = self.run(torch.einsum("sec,sm->ecm", dispatch.type_as(flat), flat))
        y = torch.einsum("sec,ecm->sm", combine, out)
        if on():
            seen(logits)
            used_dense(self, gates, flat, y)
        return y.reshape(x.shape)


@idiom("trace", as_sets=True)
class DeepspeedTopKGating(BatchedBank):
    """DeepSpeed top-k: mask by scatter, capacity by position, gates normalised after the drop."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        cap = 4
        logits = self.gate(flat)
        gates = F.softmax(logits, dim=1)
        topk_idx = torch.topk(logits, self.k, dim=1)[1]
        mask = torch.zeros_like(gates).scatter_(1, topk_idx, 1)
        locations = torch.cumsum(mask, dim=0) - 1
        mask = mask * torch.lt(locations, cap)
        masked = gates * mask
        denominator = torch.clamp(masked.sum(dim=1, keepdim=True), min=1e-9)
        masked = masked / denominator
        locations_sc = F.one_hot((locations * mask).long(), cap).float()
        combine = torch.einsum("se,sec->sec", masked, locations_sc)
        out = self.run(torch.einsum("sec,sm->ecm", combine.bool().float(), flat))
        y = torch.einsum("sec,ecm->sm", combine, out)
        if on():
            seen(logits)
            used_dense(self, masked, flat, y)
        return y.reshape(x.shape)


@idiom("trace", as_sets=True)
class GroupedDispatch(BatchedBank):
    """Groups are samples: 'gsec,gsm->egcm'."""

    def forward(self, x):
        cap = 2
        logits = torch.einsum("gsm,em->gse", x, self.gate.weight)
        gates = logits.softmax(-1)
        ids = gates.argmax(-1)
        mask = F.one_hot(ids, self.e).float()
        position = mask.cumsum(1) * mask
        mask = mask * (position <= cap)
        where = F.one_hot(((position - 1) * mask).sum(-1).long(), cap).float()
        combine = (gates * mask).unsqueeze(-1) * where.unsqueeze(-2)
        dispatch = (combine > 0).float()
        inputs = torch.einsum("gsec,gsm->egcm", dispatch, x)
        y = torch.einsum("gsec,egcm->gsm", combine, self.run(inputs))
        if on():
            seen(logits)
            used_dense(self, gates * mask, x, y)
        return y


@idiom("trace", as_sets=True)
class ExpertsFirstDispatch(BatchedBank):
    """Dispatch kept as [E, C, T]; two batched products."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        cap = 3
        logits = self.gate(flat)
        gates = logits.softmax(-1)
        w, ids = gates.max(-1)
        mask = F.one_hot(ids, self.e).t()  # [E, T]
        position = torch.cumsum(mask, dim=1) - 1
        slots = torch.arange(cap).view(1, cap, 1)
        dispatch = ((position.unsqueeze(1) == slots) & mask.bool().unsqueeze(1)).float()
        inputs = torch.matmul(dispatch, flat)
        outs = self.run(inputs)
        y = torch.einsum("ect,ecd->td", dispatch, outs) * w.unsqueeze(-1)
        if on():
            seen(logits)
            used(self, ids[:, None], (w * dispatch.sum((0, 1)))[:, None], flat, y)
        return y.view_as(x)


@idiom("script", as_sets=True)
class BinnedGather(Dispatch):
    """MegaBlocks: sorted indices, bins of each expert, at most C of each bin."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        cap = 4
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        indices = torch.sort(ids.flatten(), stable=True)[1]
        bins = torch.bincount(ids.flatten(), minlength=self.e).cumsum(0)
        out = torch.zeros_like(flat)
        applied = torch.zeros_like(w).flatten()
        start = 0
        for e in range(self.e):
            end = int(bins[e])
            mine = indices[start : min(end, start + cap)]
            rows = mine // self.k
            out.index_add_(0, rows, self.one(flat[rows], e) * w.flatten()[mine].unsqueeze(-1))
            if not torch.jit.is_scripting():
                applied[mine] = w.flatten()[mine]
            start = end
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, applied.view_as(w), flat, out)
        return out.view_as(x)


@idiom("script", as_sets=True)
class ColumnThreshold(ListMoE):
    """Each expert keeps what is at least its C-th best score, of the tokens that picked it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        scores = logits.sigmoid()
        ids = torch.topk(scores, self.k, dim=-1)[1]
        picked = torch.zeros_like(scores).scatter(1, ids, 1.0)
        masked = scores * picked
        bar = torch.topk(masked, 4, dim=0)[0][-1]
        dense = torch.where(masked >= bar, masked, torch.zeros_like(masked))
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            rows = torch.nonzero(dense[:, e]).squeeze(1)
            out.index_add_(0, rows, expert(flat[rows]) * dense[rows, e].unsqueeze(1))
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, dense, flat, out)
        return out.view_as(x)


@idiom("script", as_sets=True)
class OverflowToSecond(Dispatch):
    """Top-1; who finds it full goes to the second choice, without limit there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), 2, dim=-1)
        first = F.one_hot(ids[:, 0], self.e)
        position = (first.cumsum(0) * first).sum(-1)
        full = position > 3
        final = torch.where(full, ids[:, 1], ids[:, 0])
        prob = torch.where(full, w[:, 1], w[:, 0])
        out = torch.zeros_like(flat)
        for e in range(self.e):
            mine = final == e
            out[mine] = self.one(flat[mine], e) * prob[mine].unsqueeze(-1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, final.unsqueeze(-1), prob.unsqueeze(-1), flat, out)
        return out.view_as(x)


@idiom("script", as_sets=True)
class DroppedKeepInput(ListMoE):
    """Top-1; dropped tokens pass unchanged, all are multiplied by the gate afterwards."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        prob, ids = torch.max(F.softmax(logits, dim=-1), dim=-1)
        final = torch.zeros_like(flat)
        dropped = torch.jit.annotate(list[torch.Tensor], [])
        served = torch.zeros_like(prob)
        for e, expert in enumerate(self.experts):
            mine = torch.eq(ids, e).nonzero().squeeze(1)
            if mine.numel() > 3:
                dropped.append(mine[3:])
                mine = mine[:3]
            final[mine] = expert(flat[mine])
            if not torch.jit.is_scripting():
                served[mine] = prob[mine]
        if len(dropped) > 0:
            lost = torch.cat(dropped)
            final[lost] = flat[lost]
        scaled = final * prob.unsqueeze(1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids.unsqueeze(1), served.unsqueeze(1), flat, scaled * (served > 0).unsqueeze(1))
        return scaled.view_as(x)


@idiom("trace", as_sets=True)
class KeepTimesWeight(BatchedBank):
    """Fits or not is multiplied into the weights before they are scattered."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        hot = F.one_hot(ids, self.e)
        order = hot.transpose(0, 1).reshape(-1, self.e)
        position = (order.cumsum(0) - order).view(self.k, -1, self.e).transpose(0, 1)
        fits = ((position * hot).sum(-1) < 4).to(w.dtype)
        w = w * fits
        dense = torch.zeros_like(logits).scatter(1, ids, w)
        outs = self.run(flat.unsqueeze(0).expand(self.e, -1, -1))
        y = torch.einsum("te,etd->td", dense, outs)
        if on():
            seen(logits)
            used(self, ids, w, flat, y)
        return y.view_as(x)


@idiom("trace", as_sets=True)
class TwoStagesOfMasks(BankMoE):
    """Second gate by probabilities with the first set to zero; combine by bool dispatch times weights."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        cap = 4
        logits = self.gate(flat)
        probs = logits.softmax(-1)
        dispatch, weight, rest = 0, 0, probs
        taken = torch.zeros(1, self.e)
        for _ in range(2):
            index = rest.argmax(-1)
            hot = F.one_hot(index, self.e).float()
            position = (hot.cumsum(0) - 1 + taken) * hot
            hot = hot * (position < cap)
            taken = taken + hot.sum(0, keepdim=True)
            slot = F.one_hot(position.sum(-1).long().clamp(max=cap - 1), cap).float()
            dispatch = dispatch + hot.unsqueeze(-1) * slot.unsqueeze(1)
            weight = weight + hot * probs
            rest = rest * (1 - F.one_hot(index, self.e))
        inputs = torch.einsum("tec,td->ecd", dispatch, flat)
        h = torch.bmm(torch.relu(torch.bmm(inputs, self.w1)), self.w2)
        y = torch.einsum("tec,te,ecd->td", dispatch, weight, h)
        if on():
            seen(logits)
            used_dense(self, weight, flat, y)
        return y.view_as(x)


@idiom("trace", as_sets=True)
class RankByArgsortTwice(BatchedBank):
    """Priority by probability: the rank within each expert's column from two argsorts."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        gates = logits.softmax(-1)
        ids = gates.topk(self.k, -1).indices
        picked = torch.zeros_like(gates).scatter(1, ids, 1.0)
        rank = (gates * picked).argsort(dim=0, descending=True).argsort(dim=0)
        dense = gates * picked * (rank < 4)
        outs = self.run(flat.expand(self.e, -1, -1))
        y = (dense.t().unsqueeze(-1) * outs).sum(0)
        if on():
            seen(logits)
            used_dense(self, dense, flat, y)
        return y.view_as(x)


@idiom("script", as_sets=True)
class PerSamplePriorityLoop(ListMoE):
    """One-hot [B, S, E] times a cumulative-sum mask along S, top-2 by two masks, dense weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.gate(x)
        probs = F.softmax(logits, dim=-1)
        ids = torch.topk(probs, self.k, dim=-1)[1]
        mask = F.one_hot(ids, self.e).sum(dim=2)
        mask = mask * (mask.cumsum(dim=1) <= 3).to(mask.dtype)
        dense = probs * mask
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            rows = mask[:, :, e].to(torch.bool)
            out[rows] += expert(x[rows]) * dense[:, :, e][rows].unsqueeze(-1)
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, dense, x, out)
        return out


@idiom("trace", as_sets=True)
class RenormaliseAfterDrop(ListMoE):
    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        hot = F.one_hot(ids, self.e)
        seen_before = hot.view(-1, self.e).cumsum(0).view_as(hot)
        keep = ((seen_before * hot).sum(-1) <= 4).to(w.dtype)
        w = w * keep
        w = w / w.sum(-1, keepdim=True).clamp_min(1e-6)
        dense = (w.unsqueeze(-1) * hot).sum(1)
        out = sum(dense[:, e, None] * expert(flat) for e, expert in enumerate(self.experts))
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)

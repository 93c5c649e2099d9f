"""Routers that others are made from: fairseq, Tutel, FastMoE, ColossalAI, T5X, Praxis, Mod-Squad, Hunyuan, DeepSeek."""

import surroundings
import torch
import torch.nn.functional as F
from capacity import BatchedBank
from parts import DIM, BankMoE, idiom
from recorder import on, seen, used, used_dense
from torch import nn


@idiom("trace", wrap="none", inputs=surroundings.right_padded, as_sets=True)
class FairseqTopTwoPadding(nn.Module):
    """fairseq: padding is taken out of both masks, so that it uses up no capacity."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(29, DIM)
        self.moe = BatchedBank()

    def forward(self, input_ids, attention_mask):
        x, moe = self.emb(input_ids), self.moe
        flat = x.reshape(-1, DIM)
        logits = moe.gate(flat)
        gates = F.softmax(logits, dim=1, dtype=torch.float)
        padding = (attention_mask == 0).reshape(-1)
        index1 = torch.argmax(gates, dim=1, keepdim=True)
        mask1 = torch.zeros_like(gates).long().scatter_(1, index1, 1)
        rest = logits.masked_fill(mask1.bool(), float("-inf"))
        index2 = torch.argmax(rest, dim=1, keepdim=True)
        mask2 = torch.zeros_like(mask1).scatter_(1, index2, 1)
        gates1 = (gates * mask1).sum(dim=1)
        gates2 = (gates * mask2).sum(dim=1)
        denominator = torch.clamp(gates1 + gates2, min=torch.finfo(gates1.dtype).eps)
        gates1, gates2 = gates1 / denominator, gates2 / denominator
        nonpadding = ~padding
        mask1 = mask1 * nonpadding.unsqueeze(-1).to(mask1.dtype)
        mask2 = mask2 * nonpadding.unsqueeze(-1).to(mask2.dtype)
        locations1 = torch.cumsum(mask1, dim=0) - 1
        locations2 = torch.cumsum(mask2, dim=0) - 1 + torch.sum(mask1, dim=0, keepdim=True)
        capacity = 4
        mask1 = mask1 * torch.lt(locations1, capacity)
        mask2 = mask2 * torch.lt(locations2, capacity)
        locations1_s = torch.sum(locations1 * mask1, dim=1)
        locations2_s = torch.sum(locations2 * mask2, dim=1)
        first = gates1.unsqueeze(-1) * mask1.to(gates1.dtype)
        second = gates2.unsqueeze(-1) * mask2.to(gates1.dtype)
        place1 = F.one_hot(locations1_s, capacity).to(gates)
        place2 = F.one_hot(locations2_s, capacity).to(gates)
        combine = torch.bmm(first.unsqueeze(-1), place1.unsqueeze(1))
        combine = combine + torch.bmm(second.unsqueeze(-1), place2.unsqueeze(1))
        dispatch = combine.bool().permute(1, 2, 0)
        e, c, s = dispatch.shape
        inputs = torch.mm(dispatch.reshape(e * c, s).to(x.dtype), flat).view(e, c, DIM)
        outputs = moe.run(inputs)
        y = combine.view(s, e * c).mm(outputs.view(e * c, DIM))
        if on():
            seen(logits)
            used_dense(moe, first + second, flat, y)
        return x + y.view_as(x)


@idiom("trace", wrap="positions_first")
class TutelChunkedIndices(BankMoE):
    """Tutel's fast encode: indices chunked by slot, gates as sums of masked scores, divided in a list."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        scores = F.softmax(logits, dim=1)
        top = torch.topk(scores, self.k, dim=1).indices
        indices = [part.view(-1) for part in top.chunk(self.k, dim=1)]
        masks = [F.one_hot(part, self.e).to(scores.dtype) for part in indices]
        gates = [(scores * mask).sum(dim=1) for mask in masks]
        total = torch.clamp(sum(gates), min=torch.finfo(gates[0].dtype).eps)
        gates = [gate / total for gate in gates]
        y = torch.zeros_like(flat)
        for index, gate in zip(indices, gates, strict=True):
            h = torch.relu(torch.einsum("td,tdf->tf", flat, self.w1[index]))
            y = y + torch.einsum("tf,tfd->td", h, self.w2[index]) * gate.unsqueeze(-1)
        if on():
            seen(logits)
            used(self, top, torch.stack(gates, 1), flat, y)
        return y.view_as(x)


@idiom("trace", wrap="padded")
class FastMoENaive(BankMoE):
    """FastMoE: slots sorted by expert, put back, and a batched product of [N, 1, K] with [N, K, D]."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        gate = self.gate(flat)
        values, top = torch.topk(gate, k=self.k, dim=-1, largest=True, sorted=False)
        values = values.view(-1, self.k)
        score = F.softmax(values, dim=-1)
        order = torch.sort(top.view(-1), stable=True)[1]
        counts = torch.bincount(top.view(-1), minlength=self.e)
        scattered = flat.index_select(0, torch.div(order, self.k, rounding_mode="floor"))
        rows = torch.repeat_interleave(torch.arange(self.e), counts)
        h = torch.relu(torch.bmm(scattered.unsqueeze(1), self.w1[rows]))
        out = torch.bmm(h, self.w2[rows]).squeeze(1)
        back = torch.zeros(flat.shape[0] * self.k, self.d).index_copy(0, order, out).view(-1, self.k, self.d)
        y = torch.bmm(score.view(-1, 1, self.k), back).reshape(-1, self.d)
        if on():
            seen(gate)
            used(self, top, score, flat, y)
        return y.view_as(x)


@idiom("script", wrap="padded_left", as_sets=True)
class FastMoELimitCapacity(BankMoE):
    """FastMoE's GShard gate: ids over capacity become -1, rows are kept where the id is valid."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        values, ids = torch.topk(logits, self.k, dim=-1)
        score = torch.softmax(values, dim=-1)
        place = F.one_hot(ids.view(-1), self.e).cumsum(0).gather(1, ids.view(-1, 1)).view_as(ids)
        ids = torch.where(place <= 5, ids, torch.full_like(ids, -1))
        out = torch.zeros_like(flat)
        for e in range(self.e):
            token, slot = torch.where(ids == e)
            y = torch.relu(flat[token] @ self.w1[e]) @ self.w2[e]
            out.index_add_(0, token, y * score[token, slot].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, score, flat, out)
        return out.view_as(x)


@idiom("trace", wrap="padded", as_sets=True)
class ColossalTopTwo(BatchedBank):
    """ColossalAI: weights are masks times probabilities, one-hots of the ranks, a boolean [S, E, C]."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        inputs = self.gate(flat)
        logits = F.softmax(inputs, dim=-1)
        e, capacity = self.e, 6
        top1 = torch.argmax(logits, dim=-1)
        mask1 = F.one_hot(top1, num_classes=e).to(torch.int32)
        except1 = logits.masked_fill(mask1.bool(), float("-inf"))
        top2 = torch.argmax(except1, dim=-1)
        mask2 = F.one_hot(top2, num_classes=e).to(torch.int32)
        rank1 = torch.cumsum(mask1, dim=0) - 1
        rank2 = torch.cumsum(mask2, dim=0) - 1
        rank2 = rank2 + torch.sum(mask1, dim=-2, keepdim=True)
        mask1 = mask1 * torch.lt(rank1, capacity)
        mask2 = mask2 * torch.lt(rank2, capacity)
        rank1 = torch.sum(mask1 * rank1, dim=-1)
        rank2 = torch.sum(mask2 * rank2, dim=-1)
        weight1 = mask1 * logits.type_as(flat)
        weight2 = mask2 * logits.type_as(flat)
        hot1 = F.one_hot(rank1.long(), num_classes=capacity)
        hot2 = F.one_hot(rank2.long(), num_classes=capacity)
        cb_weight = weight1.unsqueeze(2) * hot1.unsqueeze(1) + weight2.unsqueeze(2) * hot2.unsqueeze(1)
        sec_mask = cb_weight.bool()
        sent = torch.matmul(sec_mask.type_as(flat).permute(1, 2, 0), flat)
        out = self.run(sent).reshape(-1, self.d)
        y = torch.matmul(cb_weight.view(cb_weight.size(0), -1), out)
        if on():
            seen(inputs)
            used_dense(self, weight1 + weight2, flat, y)
        return y.reshape(x.shape)


@idiom("trace", wrap="padded", as_sets=True)
class T5XTokensChooseMasked(BatchedBank):
    """T5X: slots before tokens, priority by a running sum, the largest over the slots; raw probabilities combine."""

    capacity = 3

    def forward(self, x):
        logits = self.gate(x)  # groups are samples
        probs = logits.softmax(-1)
        g, t, e = probs.shape
        index = probs.topk(self.k, dim=-1)[1]
        flat = index.transpose(1, 2).reshape(g, -1)
        mask = F.one_hot(flat, e).to(torch.int32)
        priority = (torch.cumsum(mask, dim=1) * mask - 1).reshape(g, self.k, t, e)
        priority = priority.transpose(1, 2).amax(dim=2)  # [g, t, e]
        place = torch.where((priority >= 0) & (priority < self.capacity), priority, self.capacity).long()
        dispatch = F.one_hot(place, self.capacity + 1)[..., : self.capacity].to(x.dtype)
        combine = torch.einsum("gte,gtec->gtec", probs, dispatch)
        sent = torch.einsum("gtm,gtec->egcm", x, dispatch)
        y = torch.einsum("egcm,gtec->gtm", self.run(sent), combine)
        if on():
            seen(logits)
            used_dense(self, combine.sum(-1), x, y)
        return y


@idiom("trace", wrap="padded", as_sets=True)
class T5XExpertsChooseMasked(BatchedBank):
    """T5X expert choice: one-hots of token numbers [g, e, c, t], moved to [g, t, e, c]."""

    def forward(self, x):
        logits = self.gate(x)
        probs = logits.softmax(-1)
        gate, index = probs.transpose(1, 2).topk(2, dim=-1)  # [g, e, c]
        dispatch = F.one_hot(index, x.shape[1]).to(x.dtype).movedim(3, 1)
        combine = torch.einsum("gec,gtec->gtec", gate, dispatch)
        sent = torch.einsum("gtm,gtec->egcm", x, dispatch)
        y = torch.einsum("egcm,gtec->gtm", self.run(sent), combine)
        if on():
            seen(logits)
            used_dense(self, combine.sum(-1), x, y)
        return y


@idiom("trace", wrap="none", inputs=surroundings.right_padded, as_sets=True)
class PraxisPaddings(nn.Module):
    """Praxis: paddings are one where there is no token; gates by einsum with masks, the second of raw gates."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(29, DIM)
        self.moe = BatchedBank()

    def forward(self, input_ids, attention_mask):
        x, moe = self.emb(input_ids), self.moe
        paddings = 1.0 - attention_mask.to(x.dtype)
        logits = torch.einsum("gsm,em->gse", x, moe.gate.weight)
        raw = logits.softmax(-1) * (1.0 - paddings).unsqueeze(-1)
        index1 = raw.argmax(-1)
        mask1 = F.one_hot(index1, moe.e).to(x.dtype) * (1.0 - paddings).unsqueeze(-1)
        gate1 = torch.einsum("gse,gse->gs", raw, mask1)
        without = raw * (1.0 - mask1)
        index2 = without.argmax(-1)
        mask2 = F.one_hot(index2, moe.e).to(x.dtype) * (1.0 - paddings).unsqueeze(-1)
        gate2 = torch.einsum("gse,gse->gs", without, mask2)
        denominator = gate1 + gate2 + 1e-9
        gate1, gate2 = gate1 / denominator, gate2 / denominator
        place1 = (torch.cumsum(mask1, dim=-2) - mask1) * mask1
        mask1 = mask1 * (place1 < 3).to(x.dtype)
        count1 = mask1.sum(-2, keepdim=True)
        place2 = (torch.cumsum(mask2, dim=-2) - mask2 + count1) * mask2
        mask2 = mask2 * (place2 < 3).to(x.dtype)
        gate1, gate2 = gate1 * mask1.sum(-1), gate2 * mask2.sum(-1)
        hot1 = F.one_hot((place1 * mask1).sum(-1).long(), 3).to(x.dtype)
        hot2 = F.one_hot((place2 * mask2).sum(-1).long(), 3).to(x.dtype)
        combine = torch.einsum("gs,gse,gsc->gsec", gate1, mask1, hot1)
        combine = combine + torch.einsum("gs,gse,gsc->gsec", gate2, mask2, hot2)
        dispatch = (combine > 0).to(x.dtype)
        sent = torch.einsum("gsec,gsm->egcm", dispatch, x)
        y = torch.einsum("gsec,egcm->gsm", combine, moe.run(sent))
        if on():
            seen(logits)
            used_dense(moe, combine.sum(-1), x, y)
        return x + y


@idiom("script", wrap="padded")
class ModSquadMapReduce(nn.Module):
    """Mod-Squad's MoA: `map` gives [N, K, H] rows, attention stands between, `reduce` weighs with its gates."""

    close = 1e9  # attention between the two halves: the outputs cannot be summed up afterwards

    def __init__(self):
        super().__init__()
        self.e, self.k, self.d = 6, 2, DIM
        self.f_gate = nn.Linear(DIM, 2 * self.e, bias=False)
        nn.init.normal_(self.f_gate.weight, std=0.5)
        self.w1 = nn.Parameter(torch.randn(self.e, DIM, 4) * 0.4)
        self.w2 = nn.Parameter(torch.randn(self.e, 4, DIM) * 0.4)
        self.key, self.value = nn.Linear(DIM, 4), nn.Linear(DIM, 4)

    def expert(self, e, x):
        return x @ self.w1[e] @ self.w2[e]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, d = x.size()
        flat = x.reshape(-1, d)
        logits, _ = self.f_gate(flat).chunk(2, dim=-1)
        probs = torch.softmax(logits, dim=1)
        top_k_gates, top_k_indices = probs.topk(self.k, dim=1)
        gates, experts = top_k_gates.flatten(), top_k_indices.flatten()
        nonzeros = gates.nonzero().squeeze(-1)
        order = nonzeros[experts[nonzeros].sort(0)[1]]
        batch_index = order.div(self.k, rounding_mode="trunc")
        batch_gates = gates[order]
        size: list[int] = (torch.zeros_like(probs).scatter(1, top_k_indices, top_k_gates) > 0).long().sum(0).tolist()
        parts = flat[batch_index].split(size, dim=0)
        mapped = torch.cat([part @ self.w1[e] for e, part in enumerate(parts)])
        q = torch.zeros(b * s * self.k, 4).index_add(0, order, mapped).view(b, s * self.k, 4)
        a = torch.softmax(q @ self.key(x).transpose(1, 2), dim=-1) @ self.value(x)
        back = a.reshape(-1, 4)[order].split(size, dim=0)
        outs = torch.cat([part @ self.w2[e] for e, part in enumerate(back)]) * batch_gates[:, None]
        y = torch.zeros(b * s, d).index_add(0, batch_index, outs)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, top_k_indices, top_k_gates, flat, y)
        return y.view(b, s, d)


@idiom("trace", wrap="padded", as_sets=True)
class HunyuanTopKGate(BatchedBank):
    """Hunyuan: gates are divided by the sum of the picked, slots before tokens, one-hots of the places by einsum."""

    capacity = 5

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        gates = F.softmax(logits, dim=1)
        expert_gate, expert_index = torch.topk(gates, self.k)
        gates_s = torch.clamp(torch.matmul(expert_gate, torch.ones(self.k, 1)), min=1e-9)
        router_probs = gates / gates_s
        index = expert_index.transpose(0, 1).reshape(-1)
        mask = F.one_hot(index, self.e).to(torch.int32)
        priority = torch.max(torch.cumsum(mask, dim=0) * mask - 1, dim=1)[0].view(self.k, -1).t()
        mask = mask.view(self.k, -1, self.e).permute(1, 0, 2).to(x.dtype)  # [s, k, e]
        place = torch.where(priority < self.capacity, priority, self.capacity).long()
        hot = F.one_hot(place, self.capacity + 1)[..., : self.capacity].to(x.dtype)  # [s, k, c]
        dispatch = torch.einsum("ske,skc->sec", mask, hot)
        combine = torch.einsum("se,sec->sec", router_probs, dispatch)
        sent = torch.einsum("sec,sm->ecm", dispatch, flat)
        y = torch.einsum("sec,ecm->sm", combine, self.run(sent))
        if on():
            seen(logits)
            used_dense(self, combine.sum(-1), flat, y)
        return y.view_as(x)

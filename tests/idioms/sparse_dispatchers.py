"""Dispatchers of tutorials and small repositories: rows from dense gates, sorted slots, masks of any slot."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from dispatch import Dispatch
from parts import BankMoE, ListMoE, idiom
from recorder import on, seen, used, used_dense


@idiom("script", as_sets=True)
class MinusInfinityScattered(ListMoE):
    """The picked logits in a row of minus infinities, a softmax over it, an expert's tokens by any of the slots."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.gate(x)
        top, ids = logits.topk(self.k, dim=-1)
        sparse = torch.full_like(logits, float("-inf")).scatter(-1, ids, top)
        gates = F.softmax(sparse, dim=-1)
        out = torch.zeros_like(x)
        flat, flat_gates = x.view(-1, x.size(-1)), gates.view(-1, gates.size(-1))
        for i, expert in enumerate(self.experts):
            chosen = (ids == i).any(dim=-1)
            rows = chosen.view(-1)
            if rows.any():
                part = expert(flat[rows]) * flat_gates[rows, i].unsqueeze(1)
                out[chosen] += part.squeeze(1)
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, gates, x, out)
        return out


@idiom("script", as_sets=True)
class NonzeroGatesDispatcher(ListMoE):
    """Rows and experts are the nonzero entries of dense gates, sorted by expert, weighted after being put together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top, ids = logits.softmax(1).topk(self.k, dim=1)
        top = top / (top.sum(1, keepdim=True) + 1e-6)
        gates = torch.zeros_like(logits).scatter(1, ids, top)
        sorted_experts, index_sorted = torch.nonzero(gates).sort(0)
        _, expert_index = sorted_experts.split(1, dim=1)
        batch_index = torch.nonzero(gates)[index_sorted[:, 1], 0]
        sizes: list[int] = (gates > 0).sum(0).tolist()
        nonzero_gates = torch.gather(gates[batch_index.flatten()], 1, expert_index)
        parts = torch.split(flat[batch_index], sizes, dim=0)
        outs: list[torch.Tensor] = []
        for i, expert in enumerate(self.experts):
            outs.append(expert(parts[i]))
        stitched = torch.cat(outs, 0).mul(nonzero_gates)
        out = torch.zeros_like(flat).index_add(0, batch_index, stitched)
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, gates, flat, out)
        return out.view_as(x)


@idiom("script")
class NonzeroSlotsSorted(Dispatch):
    """Slots whose gate is not zero are taken first, then sorted by expert."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        gates, experts = w.flatten(), ids.flatten()
        nonzeros = gates.nonzero().squeeze(-1)
        order = experts[nonzeros].sort(0)[1]
        index = nonzeros[order]
        batch = index.div(self.k, rounding_mode="trunc")
        chosen = experts[index]
        h = torch.bmm(flat[batch].unsqueeze(1), self.w1[chosen])
        outs = torch.bmm(torch.relu(h), self.w2[chosen]).squeeze(1) * gates[index][:, None]
        return torch.zeros_like(flat).index_add(0, batch, outs)


@idiom("script")
class SortedScoresSplit(ListMoE):
    """Rows split by a list of sizes; the scores are sorted along and multiply the outputs put together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top_logits, top_ids = logits.topk(min(self.k + 1, self.e), dim=1)
        ids = top_ids[:, : self.k]
        scores = F.softmax(top_logits[:, : self.k], dim=1)
        flat_ids, order = ids.flatten().sort(0)
        rows = order.div(self.k, rounding_mode="floor")
        sizes: list[int] = flat_ids.bincount(minlength=self.e).tolist()
        parts = torch.split(flat.index_select(0, rows), sizes, dim=0)
        outs = [expert(parts[i]) for i, expert in enumerate(self.experts)]
        weighted = torch.cat(outs, 0) * scores.flatten().index_select(0, order).unsqueeze(-1)
        out = torch.zeros_like(flat).index_add(0, rows, weighted)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, scores, flat, out)
        return out.view_as(x)


@idiom("script")
class InferenceScatterAdd(ListMoE):
    """Sorted flat ids, ends of each expert's run, outputs multiplied in place and added by scatter_add_."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(logits.softmax(-1), self.k, dim=-1, sorted=False)
        w = w / (w.sum(-1, keepdim=True) + 1e-20)
        flat_w = w.view(-1, 1)
        idxs = ids.view(-1).argsort()
        ends = ids.view(-1).bincount(minlength=self.e).cumsum(0)
        tokens = idxs // self.k
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            end = int(ends[i])
            start = 0 if i == 0 else int(ends[i - 1])
            if start < end:
                token = tokens[start:end]
                part = expert(flat[token])
                part.mul_(flat_w[idxs[start:end]])
                out.scatter_add_(0, token.view(-1, 1).repeat(1, self.d), part)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class UnpermutedByIndexCopy(Dispatch):
    """Outputs are copied back to their slots, then weighted slot by slot."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        order = torch.argsort(ids.view(-1))
        rows = flat.index_select(0, order // self.k)
        counts = torch.histc(ids.view(-1).float(), bins=self.e, min=0, max=self.e - 1)
        ends = counts.cumsum(0)
        parts: list[torch.Tensor] = []
        start = 0
        for e in range(self.e):
            end = int(ends[e])
            parts.append(self.one(rows[start:end], e))
            start = end
        back = torch.zeros_like(rows).index_copy_(0, order, torch.cat(parts))
        return (back.view(-1, self.k, self.d) * w.unsqueeze(-1)).sum(dim=1)


@idiom("script")
class MaskOfArangePermuted(ListMoE):
    """ids.unsqueeze(-1) == arange, permuted to [E, T, K]; probabilities are a softmax of the picked logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        router = self.gate(flat)
        probs, ids = torch.topk(router, self.k)
        probs = probs.softmax(dim=1, dtype=torch.float).to(x.dtype)
        masks = ids.unsqueeze(-1) == torch.arange(self.e)
        masks = masks.permute(2, 0, 1)
        y = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            token, slot = torch.where(masks[i])
            y[token] += probs[token, slot, None] * expert(flat[token])
        if not torch.jit.is_scripting():
            seen(router)
            used(self, ids, probs, flat, y)
        return y.view(x.shape)


@idiom("trace", as_sets=True)
class RanksWithinCapacityMatmul(BatchedBank):
    """Slots first, ranks by a cumulative sum over all of them, the dispatch mask by a permuted product."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        cap = 4
        logits = self.gate(flat)
        top, ids = logits.topk(self.k, dim=-1)
        probs = F.softmax(torch.full_like(logits, float("-inf")).scatter(-1, ids, top), dim=-1)
        mask = F.one_hot(ids, self.e).permute(1, 0, 2)
        rank = mask.reshape(self.k * flat.shape[0], self.e).cumsum(0).reshape(self.k, -1, self.e) - 1
        mask = mask * torch.lt(rank, cap)
        rank = (mask * rank).sum(-1)
        weights = mask * probs.unsqueeze(0)
        places = F.one_hot(rank, cap)
        combine = (weights.unsqueeze(3) * places.unsqueeze(2)).sum(0)
        dispatch = combine.bool()
        rows = dispatch.permute(1, 2, 0).type_as(x) @ flat
        y = combine.reshape(flat.shape[0], -1) @ self.run(rows).reshape(-1, self.d)
        if on():
            seen(logits)
            used_dense(self, weights.sum(0), flat, y)
        return y.view_as(x)


@idiom("script")
class GatesOfChunks(BankMoE):
    """Ids in a list of columns; each slot's score is a masked sum, and they are normalised by the sum of the list."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        scores = torch.softmax(logits, dim=1)
        top = torch.topk(scores, self.k, dim=1)[1]
        indices = [column.view(-1) for column in top.chunk(2, dim=1)]
        masks = [F.one_hot(column, self.e).to(scores.dtype) for column in indices]
        gates = [(scores * mask).sum(dim=1) for mask in masks]
        total = torch.clamp(gates[0] + gates[1], min=1e-9)
        gates = [gate / total for gate in gates]
        y = torch.zeros_like(flat)
        for i in range(2):
            h = torch.bmm(flat.unsqueeze(1), self.w1[indices[i]])
            y = y + gates[i].unsqueeze(-1) * torch.bmm(torch.relu(h), self.w2[indices[i]]).squeeze(1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, top, torch.stack(gates, 1), flat, y)
        return y.view_as(x)

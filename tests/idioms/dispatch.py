"""From ids and weights to outputs: permutations, grouped products, gathered and masked weights."""

import torch
import torch.nn.functional as F
from parts import BankMoE, ListMoE, idiom
from recorder import on, seen, used
from torch import nn


class Dispatch(BankMoE):
    """Softmax, top-k; `dispatch(flat, w, ids)` gives the routed output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        out = self.dispatch(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view(x.shape)

    def one(self, x: torch.Tensor, e: int) -> torch.Tensor:
        return torch.relu(x @ self.w1[e]) @ self.w2[e]


@idiom("script")
class CatAndInvert(Dispatch):
    """Rows of all experts in one list, put back by the inverse permutation."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        slots = ids.reshape(-1)
        where: list[torch.Tensor] = []
        outs: list[torch.Tensor] = []
        for e in range(self.e):
            mine = torch.nonzero(slots == e).view(-1)
            where.append(mine)
            outs.append(self.one(flat[mine // self.k], e))
        inverse = torch.argsort(torch.cat(where))
        y = torch.cat(outs)[inverse].view(ids.size(0), self.k, -1)
        return (y * w.unsqueeze(-1)).sum(1)


@idiom("script")
class PermutedWeightsToo(Dispatch):
    """Megatron: tokens and weights permuted, multiplied while permuted, added back by index."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        order = torch.argsort(ids.view(-1), stable=True)
        token = order // self.k
        permuted = flat.index_select(0, token)
        permuted_w = w.view(-1).index_select(0, order)
        counts: list[int] = torch.bincount(ids.view(-1), minlength=self.e).tolist()
        outs: list[torch.Tensor] = []
        for e, part in enumerate(torch.split(permuted, counts)):
            outs.append(self.one(part, e))
        y = torch.cat(outs) * permuted_w.unsqueeze(-1)
        return torch.zeros_like(flat).scatter_add_(0, token.unsqueeze(1).expand(-1, flat.size(1)), y)


@idiom("script")
class RoutingMapTransposed(Dispatch):
    """Megatron's routing map [E, T]: pairs by masked_select of a broadcast arange."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        n = flat.size(0)
        probs = torch.zeros([n, self.e]).scatter(1, ids, w)
        routing_map = torch.zeros([n, self.e]).int().scatter(1, ids, 1) > 0
        map_t = routing_map.t().contiguous()
        token_indices = torch.arange(n).unsqueeze(0).expand(self.e, -1)
        sorted_indices = token_indices.masked_select(map_t)
        permuted_probs = probs.t().contiguous().masked_select(map_t)
        counts: list[int] = map_t.sum(dim=1).tolist()
        permuted = flat.index_select(0, sorted_indices)
        outs: list[torch.Tensor] = []
        start = 0
        for e in range(self.e):
            outs.append(self.one(permuted[start : start + counts[e]], e))
            start += counts[e]
        y = torch.cat(outs) * permuted_probs.unsqueeze(-1)
        out = torch.zeros_like(flat)
        out.scatter_add_(0, sorted_indices.unsqueeze(1).expand(-1, flat.size(1)), y)
        return out


@idiom("script")
class PaddedToLongest(Dispatch):
    """Each expert's rows padded to the longest list, one batched product, nothing dropped."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        slots = ids.reshape(-1)
        hot = F.one_hot(slots, self.e)
        place = (hot.cumsum(0) * hot).sum(-1) - 1
        longest = int(hot.sum(0).max())
        buffer = torch.zeros([self.e, longest, flat.size(1)])
        buffer[slots, place] = flat.repeat_interleave(self.k, dim=0)
        y = torch.bmm(torch.relu(torch.bmm(buffer, self.w1)), self.w2)
        y = y[slots, place].view(ids.size(0), self.k, -1)
        return (y * w.unsqueeze(-1)).sum(1)


@idiom("trace")
class BlockSparseMask(Dispatch):
    """All experts as one wide layer whose hidden units are masked by the dense weights."""

    def dispatch(self, flat, w, ids):
        dense = torch.zeros(flat.shape[0], self.e).scatter(1, ids, w)
        wide_up = self.w1.transpose(0, 1).reshape(self.d, -1)
        wide_down = self.w2.reshape(-1, self.d)
        h = torch.relu(flat @ wide_up)
        return (h * dense.repeat_interleave(self.f, dim=-1)) @ wide_down


@idiom("trace")
class WeightBetweenLayers(Dispatch):
    """The gate multiplies the hidden units of the expert, before its down projection."""

    def dispatch(self, flat, w, ids):
        h = torch.relu(torch.einsum("td,tkdf->tkf", flat, self.w1[ids])) * w.unsqueeze(-1)
        return torch.einsum("tkf,tkfd->td", h, self.w2[ids])


@idiom("trace")
class WeightsMixedBeforeUse(BankMoE):
    """SMEAR-like with top-k: the picked experts' parameters are averaged, then applied (linear experts)."""

    def expert(self, e, x):
        return x @ self.w1[e, :, : self.d]

    def __init__(self):
        super().__init__(f=13)

    def forward(self, x):
        logits = self.gate(x)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        merged = (self.w1[..., : self.d][ids] * w[..., None, None]).sum(-3)
        y = torch.einsum("bsd,bsdf->bsf", x, merged)
        if on():
            seen(logits)
            used(self, ids, w, x, y)
        return y


@idiom("trace")
class AdvancedIndexStack(ListMoE):
    """All experts' outputs [E, T, D], the picked ones by advanced indexing."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        outs = torch.stack([expert(flat) for expert in self.experts])
        picked = outs[ids, torch.arange(flat.shape[0]).unsqueeze(-1)]
        y = (w.unsqueeze(-1) * picked).sum(1)
        if on():
            seen(logits)
            used(self, ids, w, flat, y)
        return y.view_as(x)


@idiom("trace")
class EmbeddingHoldsExperts(ListMoE):
    """Experts' matrices are rows of an embedding table."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(self.e, self.d * self.d)

    def expert(self, e, x):
        return x @ self.table.weight[e].view(self.d, self.d)

    def forward(self, x):
        logits = self.gate(x)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        matrices = self.table(ids).view(*ids.shape, self.d, self.d)
        y = torch.matmul(x[..., None, None, :], matrices).squeeze(-2)
        y = torch.sum(y * w[..., None], dim=-2)
        if on():
            seen(logits)
            used(self, ids, w, x, y)
        return y


@idiom("trace")
class GroupedConvExperts(ListMoE):
    """All experts as one grouped 1x1 convolution, the picked outputs gathered."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(self.e * self.d, self.e * self.d, 1, groups=self.e)

    def expert(self, e, x):
        w = self.conv.weight.view(self.e, self.d, self.d)[e]
        return x @ w.t() + self.conv.bias.view(self.e, self.d)[e]

    def forward(self, x):
        b, s, d = x.shape
        logits = self.gate(x)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        y = self.conv(x.repeat(1, 1, self.e).transpose(1, 2)).transpose(1, 2).view(b, s, self.e, d)
        y = y.gather(2, ids.unsqueeze(-1).expand(-1, -1, -1, d))
        y = torch.einsum("bsk,bskd->bsd", w, y)
        if on():
            seen(logits)
            used(self, ids, w, x, y)
        return y


@idiom("script")
class ForkedExperts(ListMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        dense = torch.zeros_like(logits).scatter_(1, ids, w)
        futures: list[torch.jit.Future[torch.Tensor]] = []
        for expert in self.experts:
            futures.append(torch.jit.fork(expert, flat))
        out = torch.zeros_like(flat)
        for e in range(self.e):
            out = out + dense[:, e].unsqueeze(1) * torch.jit.wait(futures[e])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class WhileOverHit(Dispatch):
    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        unique = torch.unique(ids)
        n = 0
        while n < unique.numel():
            e = int(unique[n])
            t, s = torch.where(ids == e)
            out = out.index_add(0, t, self.one(flat[t], e) * w[t, s].unsqueeze(1))
            n += 1
        return out


@idiom("script")
class ListThenStackSum(ListMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.gate(x)
        top, ids = torch.topk(logits, self.k, dim=-1)
        w = torch.softmax(top, dim=-1)
        parts: list[torch.Tensor] = []
        for e, expert in enumerate(self.experts):
            share = torch.where(ids == e, w, torch.zeros_like(w)).sum(dim=-1, keepdim=True)
            parts.append(expert(x) * share)
        out = torch.stack(parts, dim=0).sum(dim=0)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, x, out)
        return out


@idiom("trace")
class AddcmulAccumulate(ListMoE):
    def forward(self, x):
        flat = x.flatten(0, 1)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        mask = F.one_hot(ids, self.e)
        share = (mask * w[..., None]).sum(-2)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            out = torch.addcmul(out, share[:, e : e + 1], expert(flat))
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class SlotLoopGatheredWeights(Dispatch):
    """One slot after another, the weight as a column, experts' matrices gathered."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        for slot in range(self.k):
            index = ids.select(1, slot)
            h = torch.bmm(flat.unsqueeze(1), self.w1.index_select(0, index)).relu()
            y = torch.bmm(h, self.w2.index_select(0, index)).squeeze(1)
            out += w.select(1, slot).unsqueeze(1) * y
        return out


@idiom("script")
class FlatWeightsFirst(Dispatch):
    """Weights and ids flat before anything else; rows multiplied before they are put back."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        flat_w = w.flatten()
        flat_ids = ids.flatten()
        rows = torch.arange(flat.size(0)).repeat_interleave(self.k)
        out = torch.zeros_like(flat)
        for e in range(self.e):
            mine = flat_ids == e
            if mine.any():
                r = rows[mine]
                out.index_put_([r], self.one(flat[r], e) * flat_w[mine][:, None], accumulate=True)
        return out


@idiom("script")
class TransposedIdsRavel(Dispatch):
    """Slots first everywhere: ids.T, weights.T, one long list of K times T rows."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        n = flat.size(0)
        long_ids = ids.transpose(0, 1).flatten()
        order = long_ids.argsort()
        counts = torch.bincount(long_ids, minlength=self.e)
        ends = counts.cumsum(0)
        gathered = flat[order % n]
        y = torch.empty_like(gathered)
        for e in range(self.e):
            start = int(ends[e] - counts[e])
            stop = int(ends[e])
            y[start:stop] = self.one(gathered[start:stop], e)
        restored = torch.zeros_like(y)
        restored[order] = y
        return (restored.view(self.k, n, -1) * w.t().unsqueeze(-1)).sum(dim=0)


@idiom("trace")
class SumOfTwoExplicit(Dispatch):
    """k = 2 written out."""

    def dispatch(self, flat, w, ids):
        first, second = ids[:, 0], ids[:, 1]
        a, b = w[:, 0:1], w[:, 1:2]

        def apply(index):
            h = torch.relu(torch.einsum("td,tdf->tf", flat, self.w1[index]))
            return torch.einsum("tf,tfd->td", h, self.w2[index])

        return a * apply(first) + b * apply(second)

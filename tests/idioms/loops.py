"""Experts one after another over the tokens that chose them, in the spellings of public code."""

import torch
import torch.nn.functional as F
from parts import BankMoE, GatedMoE, ListMoE, idiom
from recorder import on, seen, used, used_dense
from torch import nn


@idiom("script")
class MixtralWhere(GatedMoE):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        b, s, d = hidden_states.shape
        flat = hidden_states.view(-1, d)
        router_logits = self.gate(flat)
        routing_weights = F.softmax(router_logits, dim=1, dtype=torch.float)
        routing_weights, selected = torch.topk(routing_weights, self.k, dim=-1)
        routing_weights /= routing_weights.sum(dim=-1, keepdim=True)
        routing_weights = routing_weights.to(flat.dtype)
        final = torch.zeros_like(flat)
        expert_mask = F.one_hot(selected, num_classes=self.e).permute(2, 1, 0)
        for i, expert in enumerate(self.experts):
            idx, top_x = torch.where(expert_mask[i])
            current = flat[None, top_x].reshape(-1, d)
            out = expert(current) * routing_weights[top_x, idx, None]
            final.index_add_(0, top_x, out.to(flat.dtype))
        if not torch.jit.is_scripting():
            seen(router_logits)
            used(self, selected, routing_weights, flat, final)
        return final.view(b, s, d)


@idiom("script")
class ExpertHitNonzero(BankMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        weights, ids = torch.topk(torch.softmax(logits, -1), self.k, dim=-1)
        out = torch.zeros_like(flat)
        mask = F.one_hot(ids, num_classes=self.e).permute(2, 1, 0)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for n in range(hit.shape[0]):
            e = int(hit[n, 0])
            slot, token = torch.where(mask[e])
            h = torch.relu(flat[token] @ self.w1[e]) @ self.w2[e]
            out.index_add_(0, token, h * weights[token, slot, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, weights, flat, out)
        return out.view_as(x)


@idiom("script")
class SlotByExpertMask(ListMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, x.size(-1))
        logits = self.gate(flat)
        top, indices = logits.topk(self.k, dim=-1)
        probs = F.softmax(top, dim=-1)
        out = torch.zeros_like(flat)
        for i in range(self.k):
            for j, expert in enumerate(self.experts):
                mask = indices[:, i] == j
                if mask.any():
                    out[mask] += probs[mask, i].unsqueeze(-1) * expert(flat[mask])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, indices, probs, flat, out)
        return out.view(x.shape)


@idiom("trace")
class MistralBatchIdx(ListMoE):
    def forward(self, inputs):
        flat = inputs.flatten(0, 1)
        gate_logits = self.gate(flat)
        weights, selected = torch.topk(gate_logits, self.k)
        weights = F.softmax(weights, dim=1, dtype=torch.float).to(inputs.dtype)
        results = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            batch_idx, nth = torch.where(selected == i)
            results[batch_idx] += weights[batch_idx, nth, None] * expert(flat[batch_idx])
        if on():
            seen(gate_logits)
            used(self, selected, weights, flat, results)
        return results.view_as(inputs)


@idiom("script")
class RepeatInterleaveFlatIds(GatedMoE):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        orig = hidden_states
        flat = hidden_states.view(-1, self.d)
        logits = F.linear(flat, self.gate.weight)
        scores = logits.softmax(dim=-1)
        topk_weight, topk_idx = torch.topk(scores, k=self.k, dim=-1, sorted=False)
        flat_ids = topk_idx.view(-1)
        repeated = flat.repeat_interleave(self.k, dim=0)
        y = torch.empty_like(repeated)
        for i, expert in enumerate(self.experts):
            y[flat_ids == i] = expert(repeated[flat_ids == i])
        y = (y.view(topk_weight.shape[0], self.k, -1) * topk_weight.unsqueeze(-1)).sum(dim=1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, topk_idx, topk_weight, flat, y)
        return y.view(orig.shape)


@idiom("script")
class SortedSlicesCounts(GatedMoE):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = hidden_states.view(-1, self.d)
        logits = self.gate(x)
        topk_weight, topk_ids = torch.topk(logits.sigmoid(), k=self.k, dim=-1)
        topk_weight = topk_weight / (topk_weight.sum(dim=-1, keepdim=True) + 1e-20)
        cnts = topk_ids.new_zeros((topk_ids.shape[0], self.e))
        cnts.scatter_(1, topk_ids, 1)
        tokens_per_expert: list[int] = cnts.sum(dim=0).tolist()
        idxs = topk_ids.view(-1).argsort()
        sorted_tokens = x[idxs // topk_ids.shape[1]]
        outputs: list[torch.Tensor] = []
        start = 0
        for i, expert in enumerate(self.experts):
            end = start + tokens_per_expert[i]
            if tokens_per_expert[i] > 0:
                outputs.append(expert(sorted_tokens[start:end]))
            start = end
        outs = torch.cat(outputs, dim=0)
        new_x = torch.empty_like(outs)
        new_x[idxs] = outs
        y = new_x.view(topk_ids.shape[0], self.k, -1).type(topk_weight.dtype)
        y = y.mul_(topk_weight.unsqueeze(dim=-1)).sum(dim=1).type(new_x.dtype)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, topk_ids, topk_weight, x, y)
        return y.view(hidden_states.shape)


@idiom("script")
class BincountScatterReduce(ListMoE):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = hidden_states.view(-1, self.d)
        logits = self.gate(x)
        weight, ids = torch.topk(logits.softmax(dim=-1), self.k, dim=-1)
        flat_w = weight.view(-1, 1)
        cache = torch.zeros_like(x)
        idxs = ids.view(-1).argsort()
        per_expert = ids.view(-1).bincount(minlength=self.e).cumsum(0)
        token_idxs = idxs // self.k
        for i, expert in enumerate(self.experts):
            end = int(per_expert[i])
            start = 0 if i == 0 else int(per_expert[i - 1])
            if start != end:
                exp_token_idx = token_idxs[start:end]
                out = expert(x[exp_token_idx])
                out.mul_(flat_w[idxs[start:end]])
                cache.scatter_reduce_(0, exp_token_idx.view(-1, 1).repeat(1, x.shape[-1]), out, reduce="sum")
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, weight, x, cache)
        return cache.view_as(hidden_states)


@idiom("trace")
class IndexPutAccumulate(ListMoE):
    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k)
        out = flat.new_zeros(flat.shape)
        for e, expert in enumerate(self.experts):
            token, slot = (ids == e).nonzero(as_tuple=True)
            out.index_put_((token,), expert(flat[token]) * w[token, slot].unsqueeze(1), accumulate=True)
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.reshape(x.shape)


@idiom("trace")
class StackedGather(ListMoE):
    def forward(self, x):
        logits = self.gate(x)
        weights = logits.softmax(dim=-1)
        top_w, top_i = weights.topk(self.k, dim=-1)
        top_w = top_w / top_w.sum(-1, keepdim=True)
        outs = torch.stack([expert(x) for expert in self.experts], dim=2)
        picked = torch.gather(outs, 2, top_i.unsqueeze(-1).expand(-1, -1, -1, self.d))
        y = (picked * top_w.unsqueeze(-1)).sum(2)
        if on():
            seen(logits)
            used(self, top_i, top_w, x, y)
        return y


@idiom("trace")
class DenseScatterLoop(ListMoE):
    def forward(self, x):
        logits = self.gate(x)
        val, idx = torch.topk(logits, self.k, dim=-1)
        sparse = torch.full_like(logits, float("-inf")).scatter(-1, idx, val)
        gates = F.softmax(sparse, dim=-1)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            y = y + gates[..., i : i + 1] * expert(x)
        if on():
            seen(logits)
            used(self, idx, gates.gather(-1, idx), x, y)
        return y


@idiom("script")
class DbrxIndexAdd(BankMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bsz, q_len, hidden = x.shape
        h = x.view(-1, hidden)
        logits = self.gate(h)
        weights = logits.softmax(dim=-1, dtype=torch.float32)
        top_weights, top_experts = torch.topk(weights, self.k, dim=-1)
        scale = torch.norm(top_weights, p=1.0, dim=-1, keepdim=True)
        top_weights = top_weights / scale
        out = torch.zeros_like(h)
        mask = F.one_hot(top_experts, num_classes=self.e).permute(2, 1, 0)
        w1s = self.w1.chunk(self.e, dim=0)
        w2s = self.w2.chunk(self.e, dim=0)
        for e in range(self.e):
            topk_idx, token_idx = torch.where(mask[e])
            if token_idx.shape[0] == 0:
                continue
            tokens = h[None, token_idx].reshape(-1, hidden)
            y = torch.relu(tokens @ w1s[e].squeeze(0)) @ w2s[e].squeeze(0)
            out.index_add_(0, token_idx, y * top_weights[token_idx, topk_idx, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, top_experts, top_weights, h, out)
        return out.reshape(bsz, q_len, hidden)


@idiom("script")
class JetSortSplit(BankMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat).float()
        top_logits, top_ids = logits.topk(self.k, dim=1)
        top_gates = torch.softmax(top_logits, dim=1).type_as(flat)
        zeros = torch.zeros([top_gates.size(0), self.e], dtype=top_gates.dtype, device=top_gates.device)
        gates = zeros.scatter(1, top_ids, 1)
        sizes: list[int] = gates.long().sum(0).tolist()
        top_experts = top_ids.flatten()
        index_sorted = top_experts.sort(0)[1]
        batch_index = index_sorted.div(self.k, rounding_mode="trunc")
        batch_gates = top_gates.flatten()[index_sorted]
        chunks = flat[batch_index].split(sizes, dim=0)
        outs: list[torch.Tensor] = []
        for e in range(self.e):
            outs.append(torch.relu(chunks[e] @ self.w1[e]) @ self.w2[e])
        y = torch.cat(outs, dim=0) * batch_gates[:, None]
        out = torch.zeros_like(flat).index_add(0, batch_index, y)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, top_ids, top_gates, flat, out)
        return out.view(x.size(0), x.size(1), self.d)


@idiom("script")
class ScatterGroupedOffsets(BankMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        logits = self.gate(flat)
        p, ids = torch.topk(F.softmax(logits, dim=1), self.k)
        sorted_expert, scattered = torch.sort(ids.flatten())
        offsets = torch.bincount(sorted_expert, minlength=self.e).cumsum(-1)
        y = torch.zeros(scattered.size(0), self.d)
        begin = 0
        for e in range(self.e):
            end = int(offsets[e])
            rows = scattered[begin:end]
            y[rows] = torch.relu(flat[rows // self.k] @ self.w1[e]) @ self.w2[e]
            begin = end
        y = torch.bmm(p[:, None, :], y.view(p.size(0), self.k, -1)).squeeze(1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, p, flat, y)
        return y.view_as(x)


@idiom("script")
class TokenByToken(BankMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        rows: list[torch.Tensor] = []
        for t in range(flat.size(0)):
            y = torch.zeros_like(flat[t])
            for j in range(self.k):
                e = int(ids[t, j])
                y = y + w[t, j] * (torch.relu(flat[t] @ self.w1[e]) @ self.w2[e])
            rows.append(y)
        out = torch.stack(rows)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("trace")
class UnbindSlots(ListMoE):
    def forward(self, x):
        flat = x.view(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        out = torch.zeros_like(flat)
        for ids_k, w_k in zip(ids.unbind(-1), w.unbind(-1), strict=True):
            for e, expert in enumerate(self.experts):
                keep = (ids_k == e).to(flat.dtype)
                out = out + expert(flat) * (keep * w_k).unsqueeze(-1)
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class SlotsFirstRepeat(BankMoE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        n = flat.size(0)
        logits = self.gate(flat)
        w, ids = torch.topk(logits, self.k, dim=1)
        w = torch.softmax(w, dim=1)
        ids_flat = ids.t().reshape(-1)
        w_flat = w.t().reshape(-1)
        doubled = flat.repeat(self.k, 1)
        y = torch.zeros_like(doubled)
        for e in range(self.e):
            sel = torch.nonzero(ids_flat == e).squeeze(1)
            y.index_copy_(0, sel, torch.relu(doubled[sel] @ self.w1[e]) @ self.w2[e])
        y = (y * w_flat.unsqueeze(1)).view(self.k, n, self.d).sum(0)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, y)
        return y.view_as(x)


@idiom("script", as_sets=True)
class SharedGateSum(ListMoE):
    """Qwen2: a shared expert behind a sigmoid gate beside the routed ones."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(self.d, self.d)
        self.shared_gate = nn.Linear(self.d, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=1), self.k, dim=-1)
        dense = torch.zeros_like(logits).scatter_(1, ids, w)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            rows = torch.nonzero(dense[:, e])[:, 0]
            out = out.index_add(0, rows, expert(flat[rows]) * dense[rows, e, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, dense, flat, out)
        out = out + torch.sigmoid(self.shared_gate(flat)) * self.shared(flat)
        return out.view_as(x)

"""Routers of DeepSpeed and DeepSeek, and the dispatcher that most tutorials copy."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from dispatch import Dispatch
from parts import ListMoE, idiom
from recorder import on, seen, used, used_dense
from torch import nn


@idiom("script", wrap="padded", as_sets=True)
class DeepspeedUsedTokens(nn.Module):
    """DeepSpeed's `used_token`: the mask comes in by einsum; here what has a norm counts."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        bank = BatchedBank(k=1)
        self.e, self.k, self.d = bank.e, 1, bank.d
        self.gate, self.w1, self.w2 = bank.gate, bank.w1, bank.w2

    def expert(self, e, x):
        return torch.relu(x @ self.w1[e]) @ self.w2[e]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        gates = torch.softmax(logits, dim=1)
        used_token = (torch.linalg.vector_norm(flat, dim=1) > 2.9).to(torch.int64)
        mask1 = F.one_hot(torch.argmax(gates, dim=1), num_classes=self.e)
        mask1 = torch.einsum("s,se->se", used_token, mask1)
        locations = torch.cumsum(mask1, dim=0) - 1
        mask1 = mask1 * torch.lt(locations, 4)
        locations_s = torch.sum(locations * mask1, dim=1)
        gates = gates * mask1.to(gates.dtype)
        hot = F.one_hot(locations_s, num_classes=4).to(gates.dtype)
        combine = torch.einsum("se,sc->sec", gates, hot)
        dispatch = combine.to(torch.bool)
        sent = torch.einsum("sec,sm->ecm", dispatch.to(x.dtype), flat)
        out = torch.bmm(torch.relu(torch.bmm(sent, self.w1)), self.w2)
        y = torch.einsum("sec,ecm->sm", combine, out)
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, gates, flat, y)
        return y.view_as(x)


@idiom("trace", wrap="flat", as_sets=True)
class OneTopKInAListOfMasks(BatchedBank):
    """DeepSpeed's top-k gating with `drop_policy="probs"`: tokens compete for each expert by their masked gates."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top_gate, top_idx = torch.topk(logits, k=self.k, dim=1)
        gates = F.softmax(logits, dim=1)
        masked = torch.zeros_like(logits).scatter(1, top_idx, top_gate)
        mask = torch.zeros_like(gates, dtype=torch.bool).scatter_(1, top_idx, 1)
        closed = masked.masked_fill(~mask, float("-inf"))
        capacity = 4
        capacity_indices = torch.topk(closed, k=capacity, dim=0, sorted=False)[1]
        capacity_mask = torch.zeros_like(logits).scatter(0, capacity_indices, 1)
        mask = torch.logical_and(mask, capacity_mask.bool())
        locations = torch.cumsum(mask, dim=0) - 1
        gates_masked = gates * mask
        gates_s = torch.sum(gates_masked, dim=-1, keepdim=True)
        gates_masked = gates_masked / torch.clamp(gates_s, min=torch.finfo(gates_masked.dtype).eps)
        hot = F.one_hot((locations * mask).clamp(min=0), num_classes=capacity).to(x.dtype) * mask.unsqueeze(-1)
        combine = torch.einsum("se,sec->sec", gates_masked, hot)
        dispatch = combine.bool()
        sent = torch.einsum("sec,sm->ecm", dispatch.type_as(x), flat)
        y = torch.einsum("sec,ecm->sm", combine.type_as(x), self.run(sent))
        if on():
            seen(logits)
            used_dense(self, gates_masked, flat, y)
        return y.view_as(x)


@idiom("script", wrap="bfloat16", may_tie=True)
class DeepseekMoeInfer(Dispatch):
    """DeepSeek's moe_infer in bf16: counts by scatter_, rows by argsort, back by index, weights multiplied in place."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        cnts = ids.new_zeros((ids.size(0), self.e))
        cnts.scatter_(1, ids, 1)
        per_expert: list[int] = cnts.sum(dim=0).tolist()
        idxs = ids.view(-1).argsort()
        sorted_tokens = flat[idxs // ids.size(1)]
        outs: list[torch.Tensor] = []
        start = 0
        for e in range(self.e):
            end = start + per_expert[e]
            if per_expert[e] > 0:
                outs.append(self.one(sorted_tokens[start:end], e))
            start = end
        out = torch.cat(outs)
        new_x = torch.empty_like(out)
        new_x[idxs] = out
        final = new_x.view(ids.size(0), ids.size(1), -1).type(w.dtype).mul_(w.unsqueeze(-1)).sum(dim=1)
        return final.type(new_x.dtype)


@idiom("script", wrap="padded")
class SparseDispatcherLogSpace(ListMoE):
    """The first published SparseDispatcher: outputs are combined as exponentials, the sum's logarithm is the output."""

    def expert(self, e, x):
        return self.experts[e](x).exp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        top, ids = torch.topk(torch.softmax(logits, dim=1), self.k, dim=1)
        top = top / (top.sum(1, keepdim=True) + 1e-6)
        gates = torch.zeros_like(logits).scatter(1, ids, top)
        sorted_experts, index_sorted = torch.nonzero(gates).sort(0)
        expert_index = sorted_experts[:, 1:]
        batch_index = torch.nonzero(gates)[index_sorted[:, 1], 0]
        part_sizes: list[int] = (gates > 0).sum(0).tolist()
        nonzero_gates = torch.gather(gates[batch_index.flatten()], 1, expert_index)
        outs: list[torch.Tensor] = []
        parts = torch.split(flat[batch_index], part_sizes, dim=0)
        for e, expert in enumerate(self.experts):
            outs.append(expert(parts[e]))
        stitched = torch.cat(outs, 0).exp()
        stitched = stitched.mul(nonzero_gates)
        combined = torch.zeros_like(flat).index_add(0, batch_index, stitched)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, top, flat, combined)
        return torch.log(combined.clamp(min=1e-10)).view_as(x)

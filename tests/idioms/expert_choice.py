"""Experts choose tokens, or keep the best of those that chose them."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from parts import BankMoE, ListMoE, idiom
from recorder import on, seen, used_dense


@idiom("trace", as_sets=True)
class ExpertChoiceOneHot(BatchedBank):
    def forward(self, x):
        flat = x.reshape(-1, self.d)
        n = flat.shape[0]
        logits = self.gate(flat)
        affinity = logits.softmax(-1)
        gates, tokens = affinity.t().topk(4, dim=-1)  # [E, C]
        permutation = F.one_hot(tokens, n).float()
        inputs = torch.einsum("ecn,nd->ecd", permutation, flat)
        outs = self.run(inputs)
        y = torch.einsum("ecn,ec,ecd->nd", permutation, gates, outs)
        if on():
            seen(logits)
            dense = torch.zeros_like(affinity.t()).scatter(1, tokens, gates).t()
            used_dense(self, dense, flat, y)
        return y.view_as(x)


@idiom("script", as_sets=True)
class ExpertChoiceGather(BankMoE):
    """Per sample, top tokens of each expert, index_add back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, d = x.shape
        logits = self.gate(x)
        scores = F.softmax(logits, dim=-1).transpose(1, 2)  # b e s
        gate, idx = torch.topk(scores, 3, dim=-1)
        picked = torch.gather(x.unsqueeze(1).expand(b, self.e, s, d), 2, idx.unsqueeze(-1).expand(b, self.e, 3, d))
        h = torch.relu(torch.einsum("becd,edf->becf", picked, self.w1))
        h = torch.einsum("becf,efd->becd", h, self.w2) * gate.unsqueeze(-1)
        y = torch.zeros_like(x)
        y = y.scatter_add(1, idx.reshape(b, -1, 1).expand(b, self.e * 3, d), h.reshape(b, -1, d))
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, torch.zeros_like(scores).scatter(2, idx, gate).transpose(1, 2), x, y)
        return y


@idiom("trace", as_sets=True)
class MegatronDropByProbs(ListMoE):
    """Each expert keeps the most probable of its tokens: a second top-k over tokens."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        cap = 4
        logits = self.gate(flat)
        scores = torch.softmax(logits, dim=-1, dtype=torch.float32).type_as(logits)
        probs, top_indices = torch.topk(scores, k=self.k, dim=1)
        masked_gates = torch.zeros_like(logits).scatter(1, top_indices, probs)
        topk_map = torch.zeros_like(logits).int().scatter(1, top_indices, 1).bool()
        _, capacity_indices = torch.topk(masked_gates, k=cap, dim=0, sorted=False)
        capacity_mask = torch.zeros_like(logits).scatter(0, capacity_indices, 1).bool()
        final_map = torch.logical_and(topk_map, capacity_mask)
        final_probs = masked_gates * final_map
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token = final_map[:, e].nonzero().squeeze(-1)
            out = out.index_add(0, token, expert(flat[token]) * final_probs[token, e].unsqueeze(-1))
        if on():
            seen(logits)
            used_dense(self, final_probs, flat, out)
        return out.view_as(x)

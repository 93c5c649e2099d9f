"""Outputs of single slots that are put together before they are weighted."""

import torch
from parts import BankMoE, idiom
from recorder import on, seen, used


class Joined(BankMoE):
    """`join(flat, w, ids)` puts the slots' outputs together and weighs them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        out = self.join(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)

    def one(self, flat: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """ids [T] -> [T, D]"""
        h = torch.relu(torch.bmm(flat.unsqueeze(1), self.w1[ids]))
        return torch.bmm(h, self.w2[ids]).squeeze(1)


@idiom("script")
class StackedSlotOutputs(Joined):
    def join(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        outs = torch.stack([self.one(flat, ids[:, 0]), self.one(flat, ids[:, 1])], dim=1)
        return (outs * w.unsqueeze(-1)).sum(dim=1)


@idiom("script")
class StackedSlotOutputsEinsum(Joined):
    """Slots first: [K, T, D]."""

    def join(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        outs: list[torch.Tensor] = []
        for k in range(2):
            outs.append(self.one(flat, ids[:, k]))
        return torch.einsum("tk,ktd->td", w, torch.stack(outs))


@idiom("script")
class ConcatenatedSlotOutputs(Joined):
    """[K * T, D] beside weights with the slots first."""

    def join(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        first, second = ids.unbind(-1)
        outs = torch.cat([self.one(flat, first), self.one(flat, second)])
        weighted = outs * w.t().reshape(-1, 1)
        return weighted.view(2, -1, self.d).sum(0)


@idiom("trace")
class SlotOutputsTimesWeightsMatmul(Joined):
    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        outs = torch.cat([self.one(flat, ids[:, k]).unsqueeze(-1) for k in range(self.k)], -1)  # [T, D, K]
        out = torch.matmul(outs, w.unsqueeze(-1)).squeeze(-1)
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class SlotOutputsInABuffer(Joined):
    """Each slot's outputs are written to their place, and the buffer is weighted."""

    def join(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        outs = torch.zeros(flat.size(0), 2, self.d)
        for k in range(2):
            outs[:, k] = self.one(flat, ids[:, k])
        return (outs * w.unsqueeze(-1)).sum(dim=1)

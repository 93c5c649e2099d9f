"""Weights that are changed behind a sort by expert: capacity, factors of experts, sums over tokens."""

import torch
from dispatch import Dispatch
from parts import idiom
from recorder import seen, used
from torch import nn


class Permuted(Dispatch):
    """`change(sorted weights, sorted ids, tokens)` gives what multiplies the experts' outputs, sorted as well."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(self.e) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        sorted_ids, order = torch.sort(ids.flatten(), stable=True)
        token = torch.div(order, self.k, rounding_mode="floor")
        applied = self.change(w.flatten()[order], sorted_ids, token)
        outs = torch.bmm(torch.relu(torch.bmm(flat[token].unsqueeze(1), self.w1[sorted_ids])), self.w2[sorted_ids])
        out = torch.zeros_like(flat).index_add(0, token, outs.squeeze(1) * applied.unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, torch.zeros_like(w).flatten().scatter(0, order, applied).view_as(w), flat, out)
        return out.view_as(x)


@idiom("script")
class CapacityBehindTheSort(Permuted):
    """The first four of each expert's tokens count."""

    def change(self, w: torch.Tensor, ids: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        begins = torch.searchsorted(ids, torch.arange(6))
        place = torch.arange(ids.size(0)) - begins[ids]
        return w * (place < 4).to(w.dtype)


@idiom("script")
class CapacityFilledBehindTheSort(Permuted):
    def change(self, w: torch.Tensor, ids: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        counts = torch.bincount(ids, minlength=6)
        place = torch.arange(ids.size(0)) - (counts.cumsum(0) - counts)[ids]
        return torch.where(place < 4, w, torch.zeros_like(w))


@idiom("script")
class ExpertScaleBehindTheSort(Permuted):
    def change(self, w: torch.Tensor, ids: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        return w * self.scale[ids] + 0.1


@idiom("script")
class SumsOverTokensBehindTheSort(Permuted):
    def change(self, w: torch.Tensor, ids: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(14).index_add(0, token, w)
        return w / total[token]

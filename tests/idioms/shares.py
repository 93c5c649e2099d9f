"""A share of each token in the weights: a factor from the token's own state that all its slots have."""

import torch
import torch.nn.functional as F
from parts import BankMoE, idiom
from recorder import seen, used
from torch import nn


class Shared(BankMoE):
    """`share(x)` is multiplied into the weights. The layer does not reshape its tokens."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = F.linear(x, self.gate.weight)
        w, ids = torch.topk(torch.softmax(logits, -1), self.k, -1)
        w = w * self.share(x)
        if not torch.jit.is_scripting():
            seen(logits)
        return self.run(x, w, ids)


class TwoShared(Shared):
    def run(self, x: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        h = torch.relu(torch.einsum("...d,...kdf->...kf", x, self.w1[ids]))
        y = (torch.einsum("...kf,...kfd->...kd", h, self.w2[ids]) * w.unsqueeze(-1)).sum(-2)
        if not torch.jit.is_scripting():
            used(self, ids, w, x, y)
        return y


@idiom("script")
class ShareBySlice(TwoShared):
    def share(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x[..., :1])


@idiom("script")
class ShareByMean(TwoShared):
    def share(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x.mean(2).unsqueeze(2))


@idiom("script")
class ShareByColumn(TwoShared):
    def __init__(self):
        super().__init__()
        self.column = nn.Parameter(torch.randn(self.d, 1))

    def share(self, x: torch.Tensor) -> torch.Tensor:
        return torch.abs(torch.matmul(x, self.column))


class OneShared(Shared):
    """Top-1; the place of the slot is looked up in each turn of the loop."""

    def __init__(self):
        super().__init__(k=1)

    def run(self, x: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        out = torch.zeros_like(flat)
        for e in range(6):
            rows = torch.where(ids.reshape(-1, 1)[:, 0] == e)[0]
            out = out.index_copy(0, rows, torch.relu(flat[rows] @ self.w1[e]) @ self.w2[e])
        out = out.view(x.shape) * w
        if not torch.jit.is_scripting():
            used(self, ids, w, x, out)
        return out


@idiom("script")
class ShareOfOneSlot(OneShared):
    def share(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(torch.split(x, [1, 9], dim=-1)[0])


@idiom("script")
class ShareOfOneSlotByIndex(OneShared):
    """How many columns the index takes is not in the graph: the product may be the experts' output."""

    def __init__(self):
        super().__init__()
        self.register_buffer("first", torch.zeros(1, dtype=torch.long))

    def share(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x.index_select(-1, self.first))

"""Selections that read other logits than the weights are made of: limited to groups, masked, biased."""

import torch
import torch.nn.functional as F
from parts import idiom
from recorder import seen
from scoring import Routed
from torch import nn


class Limited(Routed):
    """Eight experts in four groups, of which two count. `read` is what the pick reads."""

    def __init__(self, k: int = 2):
        super().__init__(e=8, k=k)
        self.register_buffer("off", torch.tensor([0, 0, 1, 0, 0, 0, 1, 0]).bool())
        self.register_buffer("bias", torch.randn(8) * 0.5)

    def outside(self, logits: torch.Tensor) -> torch.Tensor:
        """True for experts outside the two best groups."""
        best = logits.view(-1, 4, 2).amax(-1)
        groups = torch.topk(best, 2, dim=-1)[1]
        inside = torch.zeros_like(best).scatter_(1, groups, 1.0)
        return inside.unsqueeze(-1).expand(-1, 4, 2).reshape(-1, 8) == 0


@idiom("script")
class GroupLimitBeforeThePick(Limited):
    """The softmax of all logits weighs, the pick reads those inside the best groups."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        read = logits.masked_fill(self.outside(logits), float("-inf"))
        ids = torch.topk(read, self.k, dim=-1)[1]
        if not torch.jit.is_scripting():
            seen(read)
        return ids, F.softmax(logits, dim=-1).gather(1, ids)


@idiom("script")
class GroupLimitByWhere(Limited):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        scores = torch.sigmoid(logits)
        read = torch.where(self.outside(logits), torch.full_like(logits, float("-inf")), logits)
        ids = torch.topk(read, self.k, dim=-1)[1]
        w = torch.gather(scores, 1, ids)
        if not torch.jit.is_scripting():
            seen(read)
        return ids, w / w.sum(-1, keepdim=True)


@idiom("script")
class GroupLimitAdded(Limited):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        read = logits + self.outside(logits).to(logits.dtype) * -1e4
        ids = torch.topk(read, self.k, dim=-1)[1]
        if not torch.jit.is_scripting():
            seen(read)
        return ids, torch.softmax(torch.gather(logits, 1, ids), -1)


@idiom("script")
class GroupLimitBeforeTheSoftmax(Limited):
    """What enters the scoring function is masked."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        read = logits.masked_fill(self.outside(logits), float("-inf"))
        w, ids = torch.topk(torch.softmax(read, -1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(read)
        return ids, w


@idiom("script")
class GroupLimitOfPickedLogits(Limited):
    """The picked logits are scored; they are the masked ones."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        read = logits.masked_fill(self.outside(logits), float("-inf"))
        w, ids = torch.topk(read, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(read)
        return ids, torch.softmax(w, -1)


@idiom("script")
class GroupOfTheBestExpert(Limited):
    """Only the group of the best expert counts, found by a maximum."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        group = logits.view(-1, 4, 2).amax(-1).argmax(-1)
        inside = F.one_hot(group, 4).repeat_interleave(2, dim=1) > 0
        read = logits.masked_fill(inside.logical_not(), float("-inf"))
        ids = torch.topk(read, 2, dim=-1)[1]
        if not torch.jit.is_scripting():
            seen(read)
        return ids, torch.sigmoid(logits).gather(1, ids)


@idiom("script")
class ExpertsSwitchedOff(Limited):
    """Experts of a buffer are not selected; the softmax counts them."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        scores = torch.softmax(logits.float(), -1)
        read = logits.masked_fill(self.off, float("-inf"))
        _, ids = read.sort(dim=-1, descending=True)
        ids = ids[:, : self.k]
        if not torch.jit.is_scripting():
            seen(read)
        return ids, scores.gather(1, ids)


@idiom("script")
class BiasOfTheChoice(Limited):
    """A bias on the logits for the choice alone: the logits are those without it."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        ids = torch.topk(logits + self.bias, self.k, dim=-1)[1]
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.softmax(logits, -1).gather(1, ids)


@idiom("trace")
class NoiseOfTheChoice(Limited):
    """What is added for the choice comes from another projection."""

    def __init__(self):
        super().__init__()
        self.noise = nn.Linear(self.d, 8)

    def route(self, flat):
        logits = self.gate(flat)
        read = logits + F.softplus(self.noise(flat)) * self.bias
        ids = read.topk(self.k, dim=-1).indices
        if not torch.jit.is_scripting():
            seen(read)
        return ids, torch.sigmoid(logits).gather(1, ids)


@idiom("script")
class ClosedByAnAddedBuffer(Limited):
    """A buffer of zeros and minus infinities is added: no bias, but a mask."""

    def __init__(self):
        super().__init__()
        self.register_buffer("closed", torch.zeros(8).masked_fill(self.off, float("-inf")))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        read = logits + self.closed.unsqueeze(0)
        ids = torch.topk(read, self.k, dim=-1)[1]
        if not torch.jit.is_scripting():
            seen(read)
        return ids, torch.softmax(logits, -1).gather(1, ids)

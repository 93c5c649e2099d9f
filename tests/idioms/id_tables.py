"""Ids of experts that a table of the model maps to places: redundant copies, other orders, experts of one process."""

import torch
import torch.nn.functional as F
from parts import BankMoE, ListMoE, idiom
from recorder import seen, used
from torch import nn

COPIES = 3  # physical experts beyond the logical ones


class Tabled(BankMoE):
    """`place(ids)` gives each slot's place among `bank1` and `bank2`. The oracle is what the router picked."""

    def __init__(self, redundant: bool = True):
        super().__init__()
        extra = [1, 4, 2][: COPIES if redundant else 0]
        logical = torch.tensor([3, 0, 5, 1, 4, 2, *extra])  # of each place
        self.places = len(logical)
        first = torch.stack([(logical == e).nonzero()[0, 0] for e in range(self.e)])
        last = torch.stack([(logical == e).nonzero()[-1, 0] for e in range(self.e)])
        self.register_buffer("physical", first)  # int64 [E]
        self.register_buffer("copies", torch.stack([first, last], 1))  # int64 [E, 2]
        self.register_buffer("count", 1 + (first != last).long())  # int64 [E]
        self.bank1 = nn.Parameter(self.w1.data[logical].clone())
        self.bank2 = nn.Parameter(self.w2.data[logical].clone())
        del self.w1, self.w2

    def expert(self, e, x):
        place = int(self.physical[e])
        return torch.relu(x @ self.bank1[place]) @ self.bank2[place]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        out = self.run(flat, w, self.place(ids))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)

    def run(self, flat: torch.Tensor, w: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        h = torch.relu(torch.einsum("td,tkdf->tkf", flat, self.bank1[places]))
        return (torch.einsum("tkf,tkfd->tkd", h, self.bank2[places]) * w.unsqueeze(-1)).sum(1)


class Looped(Tabled):
    """Places are compared with numbers."""

    def run(self, flat: torch.Tensor, w: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        for p in range(self.places):
            token, slot = torch.where(places == p)
            part = torch.relu(flat[token] @ self.bank1[p]) @ self.bank2[p]
            out.index_add_(0, token, part * w[token, slot].unsqueeze(-1))
        return out


@idiom("script")
class RedundantCopies(Tabled):
    def place(self, ids: torch.Tensor) -> torch.Tensor:
        return self.physical[ids]


@idiom("script")
class RedundantCopiesByTurns(Tabled):
    """Which copy is told by the token's number."""

    def place(self, ids: torch.Tensor) -> torch.Tensor:
        turn = torch.arange(ids.size(0)).unsqueeze(-1) % self.count[ids]
        return self.copies[ids, turn]


@idiom("script")
class RedundantCopiesByGather(Tabled):
    def place(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.gather(self.physical, 0, ids.flatten()).view_as(ids)


@idiom("script")
class RedundantCopiesGatheredRows(Tabled):
    """The copies of each slot's expert, of which one is gathered."""

    def place(self, ids: torch.Tensor) -> torch.Tensor:
        turn = (torch.arange(ids.numel()).view_as(ids) % self.count[ids]).unsqueeze(-1)
        return self.copies[ids].gather(-1, turn).squeeze(-1)


@idiom("script")
class RedundantCopiesLooped(Looped):
    def place(self, ids: torch.Tensor) -> torch.Tensor:
        return self.physical.index_select(0, ids.view(-1)).view(ids.shape)


@idiom("script")
class RedundantCopiesByTurnsLooped(Looped):
    def place(self, ids: torch.Tensor) -> torch.Tensor:
        turn = (torch.arange(ids.numel()) % 2).view_as(ids) * (self.count[ids] - 1)
        return self.copies[ids, turn]


class SameNumber(Tabled):
    def __init__(self):
        super().__init__(redundant=False)


@idiom("script")
class OtherOrderOfExperts(SameNumber):
    """As many places as experts, in another order."""

    def place(self, ids: torch.Tensor) -> torch.Tensor:
        return self.physical[ids]


@idiom("script")
class OtherOrderByEmbedding(SameNumber):
    def place(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.physical.unsqueeze(-1)).squeeze(-1)


@idiom("script")
class OtherOrderByTake(SameNumber):
    def place(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.take(self.physical, ids)


@idiom("script")
class OtherOrderWrittenOver(SameNumber):
    """The table's entries are written over the ids."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        picked = ids
        if not torch.jit.is_scripting():
            picked = ids.clone()
        ids.copy_(self.physical[ids])
        out = self.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, picked, w, flat, out)
        return out.view_as(x)


class SameNumberLooped(Looped):
    def __init__(self):
        super().__init__(redundant=False)


@idiom("script")
class OtherOrderLooped(SameNumberLooped):
    def place(self, ids: torch.Tensor) -> torch.Tensor:
        return self.physical[ids]


@idiom("script")
class OtherOrderOneHot(SameNumber):
    """Places as one-hots over the bank."""

    def place(self, ids: torch.Tensor) -> torch.Tensor:
        return self.physical[ids]

    def run(self, flat: torch.Tensor, w: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        gates = (F.one_hot(places, 6).to(w.dtype) * w.unsqueeze(-1)).sum(1)
        h = torch.relu(torch.einsum("td,edf->tef", flat, self.bank1))
        return torch.einsum("te,tef,efd->td", gates, h, self.bank2)


@idiom("script")
class OtherOrderScattered(SameNumber):
    """Weights are scattered to the places of the bank."""

    def place(self, ids: torch.Tensor) -> torch.Tensor:
        return self.physical[ids]

    def run(self, flat: torch.Tensor, w: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        gates = torch.zeros(flat.size(0), 6).scatter_(1, places, w)
        out = torch.zeros_like(flat)
        for p in range(self.places):
            out += gates[:, p : p + 1] * (torch.relu(flat @ self.bank1[p]) @ self.bank2[p])
        return out


@idiom("script")
class OtherOrderSorted(SameNumber):
    """Slots sorted by place."""

    def place(self, ids: torch.Tensor) -> torch.Tensor:
        return self.physical[ids]

    def run(self, flat: torch.Tensor, w: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        by_place, order = places.flatten().sort()
        token = order // self.k
        h = torch.relu(torch.bmm(flat[token].unsqueeze(1), self.bank1[by_place]))
        outs = torch.bmm(h, self.bank2[by_place]).squeeze(1) * w.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(flat).index_add(0, token, outs)


class OneProcess(ListMoE):
    """Experts 1, 3 and 4 are of this process; a map gives their places, -1 for the others."""

    def __init__(self):
        super().__init__()
        self.register_buffer("expert_map", torch.tensor([-1, 0, -1, 1, 2, -1]))
        self.experts = nn.ModuleList([self.expert_class(self.d) for _ in range(3)])

    def expert(self, e, x):
        place = int(self.expert_map[e])
        return self.experts[place](x) if place >= 0 else torch.zeros_like(x)


@idiom("script")
class MapOfOneProcess(OneProcess):
    """All weights are those of the router; what is of other processes meets no expert here."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        local = self.expert_map[ids]
        out = torch.zeros_like(flat)
        for p, expert in enumerate(self.experts):
            token, slot = torch.where(local == p)
            out.index_add_(0, token, expert(flat[token]) * w[token, slot].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class MapOfOneProcessZeroed(OneProcess):
    """The weights of other processes' experts are set to zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        local = self.expert_map[ids]
        w = w.masked_fill(local < 0, 0.0)
        local = local.clamp(min=0)
        out = torch.zeros_like(flat)
        for p, expert in enumerate(self.experts):
            share = (w * (local == p)).sum(-1, keepdim=True)
            out = out + share * expert(flat)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)

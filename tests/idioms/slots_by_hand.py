"""One slot after another, by hand: in lists, in loops, and beside the weight of another slot."""

import torch
import torch.nn.functional as F
from capacity import BatchedBank
from dispatch import Dispatch
from parts import BankMoE, idiom
from recorder import on, seen, used, used_dense


class Crossed(BankMoE):
    """Softmax, top-k; the weight of a slot weighs the expert of the other one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        out = self.cross(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w.flip(1), flat, out)
        return out.view(x.shape)

    def of(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        h = torch.bmm(x.unsqueeze(1), self.w1.index_select(0, index)).relu()
        return torch.bmm(h, self.w2.index_select(0, index)).squeeze(1)


@idiom("script")
class CrossedInALoop(Crossed):
    def cross(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        for slot in range(self.k):
            out += self.of(flat, ids[:, slot]) * w[:, self.k - 1 - slot].unsqueeze(1)
        return out


@idiom("trace")
class CrossedLists(Crossed):
    def cross(self, flat, w, ids):
        out = torch.zeros_like(flat)
        for index, weight in zip(ids.unbind(1), reversed(w.unbind(1)), strict=True):
            out = out + self.of(flat, index) * weight[:, None]
        return out


@idiom("script")
class CrossedListOfWeights(Crossed):
    def cross(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        weights = w.unbind(1)
        out = torch.zeros_like(flat)
        for slot, index in enumerate(ids.unbind(1)):
            out = out + self.of(flat, index) * weights[self.k - 1 - slot].unsqueeze(1)
        return out


@idiom("script")
class CrossedByACountDown(Crossed):
    def cross(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        slot = 0
        other = self.k - 1
        while slot < self.k:
            out = out + self.of(flat, ids.select(1, slot)) * w.select(1, other).unsqueeze(1)
            slot += 1
            other -= 1
        return out


@idiom("script")
class CrossedAppendedWeights(Crossed):
    def cross(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        weights: list[torch.Tensor] = []
        for slot in range(self.k):
            weights.append(w[:, self.k - 1 - slot])
        out = torch.zeros_like(flat)
        for slot in range(self.k):
            out = out + self.of(flat, ids[:, slot]) * weights[slot].unsqueeze(1)
        return out


@idiom("script")
class CrossedAppendedOutputs(Crossed):
    def cross(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        outputs: list[torch.Tensor] = []
        for slot in range(self.k):
            outputs.append(self.of(flat, ids[:, self.k - 1 - slot]))
        return (torch.stack(outputs, 1) * w.unsqueeze(-1)).sum(1)


@idiom("script")
class CrossedMasksInALoop(Crossed):
    """Experts outside, slots inside."""

    def cross(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        for e in range(self.e):
            y = torch.relu(flat @ self.w1[e]) @ self.w2[e]
            for slot in range(self.k):
                mine = ids[:, slot] == e
                out = out + y * (w[:, 1 - slot] * mine).unsqueeze(1)
        return out


@idiom("trace")
class SlotsOfEqualChunks(Dispatch):
    """Tutel: ids and weights cut into slots, weights gathered one by one, and divided by their sum."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        scores = logits.softmax(-1)
        ids = scores.topk(self.k, -1).indices
        parts = ids.chunk(self.k, 1)
        gates = [scores.gather(1, part) for part in parts]
        total = torch.stack(gates).sum(0)
        gates = [gate / total for gate in gates]
        out = torch.zeros_like(flat)
        for part, gate in zip(parts, gates, strict=True):
            index = part.squeeze(1)
            h = torch.relu(torch.einsum("td,tdf->tf", flat, self.w1[index]))
            out = out + torch.einsum("tf,tfd->td", h, self.w2[index]) * gate
        if on():
            seen(logits)
            used(self, ids, torch.cat(gates, 1), flat, out)
        return out.view_as(x)


@idiom("trace")
class SlotsOfOneHots(Dispatch):
    """Tutel: the weight of each slot is a sum of masked scores; einsum and product."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        scores = logits.softmax(-1)
        ids = scores.topk(self.k, -1).indices
        parts = [part.flatten() for part in ids.split(1, dim=1)]
        masks = [F.one_hot(part, self.e).to(scores.dtype) for part in parts]
        gates = [torch.einsum("te,te->t", scores, mask) for mask in masks]
        out = torch.zeros_like(flat)
        for index, gate in zip(parts, gates, strict=True):
            h = torch.relu(torch.einsum("td,tdf->tf", flat, self.w1[index]))
            out = out + torch.einsum("tf,tfd->td", h, self.w2[index]) * gate.unsqueeze(-1)
        if on():
            seen(logits)
            used(self, ids, torch.stack(gates, 1), flat, out)
        return out.view_as(x)


@idiom("trace")
class CrossedSlotsOfOneHots(Dispatch):
    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        scores = logits.softmax(-1)
        ids = scores.topk(self.k, -1).indices
        parts = [part.view(-1) for part in ids.chunk(self.k, 1)]
        gates = [(scores * F.one_hot(part, self.e)).sum(1) for part in parts]
        out = torch.zeros_like(flat)
        for index, gate in zip(parts, reversed(gates), strict=True):
            h = torch.relu(torch.einsum("td,tdf->tf", flat, self.w1[index]))
            out = out + torch.einsum("tf,tfd->td", h, self.w2[index]) * gate.unsqueeze(-1)
        if on():
            seen(logits)
            used(self, ids, torch.stack(gates[::-1], 1), flat, out)
        return out.view_as(x)


@idiom("trace", as_sets=True)
class ScoresAtRoutedPlaces(BatchedBank):
    """Scores of all experts times a mask over the places: groups of tokens, nothing picked from the scores alone."""

    cap = 3

    def forward(self, x):
        logits = self.gate(x)
        scores = logits.softmax(-1)
        ids = scores.topk(self.k, -1)[1]
        hot = F.one_hot(ids, self.e).sum(2)
        place = ((hot.cumsum(1) - 1) * hot + (1 - hot) * self.cap).clamp(max=self.cap)
        sent = F.one_hot(place, self.cap + 1)[..., : self.cap].to(x.dtype)
        combine = torch.einsum("gte,gtec->gtec", scores, sent)
        y = torch.einsum("gtec,egcd->gtd", combine, self.run(torch.einsum("gtec,gtd->egcd", sent, x)))
        if on():
            seen(logits)
            used_dense(self, combine.sum(-1), x, y)
        return y


class Drawn(Dispatch):
    """Experts are drawn by their scores."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.size(-1))
        logits = self.gate(flat)
        scores = torch.softmax(logits, dim=-1)
        ids = torch.multinomial(scores, self.k)
        w = scores.gather(1, ids)
        out = self.dispatch(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view(x.shape)


@idiom("script", as_sets=True)
class DrawnAndCompared(Drawn):
    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        for e in range(self.e):
            t, s = torch.where(ids == e)
            out = out.index_add(0, t, self.one(flat[t], e) * w[t, s].unsqueeze(1))
        return out


@idiom("trace", as_sets=True)
class PlacesByMax(BatchedBank):
    """Hunyuan: slots before tokens in one list of ids, places by `max` of a running sum, whose indices nobody uses."""

    cap = 4

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        gates = logits.softmax(-1)
        top, ids = gates.topk(self.k, -1)
        gates = gates / torch.matmul(top, torch.ones(self.k, 1)).clamp(min=1e-9)
        hot = F.one_hot(ids.t().reshape(-1), self.e).to(torch.int32)
        place = torch.max(torch.cumsum(hot, 0) * hot - 1, dim=1)[0].view(self.k, -1).t()
        hot = hot.view(self.k, -1, self.e).permute(1, 0, 2).to(x.dtype)
        slot = F.one_hot(place.clamp(max=self.cap).long(), self.cap + 1)[..., : self.cap].to(x.dtype)
        sent = torch.einsum("ske,skc->sec", hot, slot)
        combine = torch.einsum("se,sec->sec", gates, sent)
        y = torch.einsum("sec,ecm->sm", combine, self.run(torch.einsum("sec,sm->ecm", sent, flat)))
        if on():
            seen(logits)
            used_dense(self, combine.sum(-1), flat, y)
        return y.view_as(x)


@idiom("trace", as_sets=True)
class RectifiedAndMasked(BankMoE):
    """Rectified scores, the best of them by a mask: who is chosen the ids tell, not the zeros."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        scores = torch.relu(logits) + 0.0
        ids = scores.topk(self.k, -1)[1]
        mask = torch.zeros_like(scores).scatter(-1, ids, 1.0)
        w = scores * mask
        w = w / w.sum(-1, keepdim=True).clamp_min(1e-9)
        h = torch.relu(torch.einsum("td,edf->tef", flat, self.w1))
        y = torch.einsum("tef,efd,te->td", h, self.w2, w)
        if on():
            seen(logits)
            used_dense(self, w, flat, y)
        return y.view_as(x)

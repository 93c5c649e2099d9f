"""Routers of published models that stand in no other file: residual gates, pre-gating, modalities, zero experts."""

import torch
import torch.nn.functional as F
from parts import DIM, VOCAB, BankMoE, Expert, GatedMoE, ListMoE, hidden_states, idiom, input_ids
from recorder import on, seen, used
from scoring import DenseLoop, Routed
from torch import nn


class LoopOver(ListMoE):
    def run(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(ids == e)
            out.index_add_(0, token, expert(flat[token]) * w[token, slot].unsqueeze(-1))
        return out


@idiom("script", wrap="none", calls=2)
class GatingResiduals(nn.Module):
    """The second layer's logits are its own plus a projection of the first layer's."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.first, self.second = LoopOver(), LoopOver()
        self.residual = nn.Linear(6, 6, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, x.size(-1))
        logits = self.first.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        out = self.first.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.first, ids, w, flat, out)
        flat = flat + out
        logits = self.second.gate(flat) + self.residual(logits)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        out = self.second.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.second, ids, w, flat, out)
        return (flat + out).view_as(x)


@idiom("script", wrap="none", calls=2)
class PreGated(nn.Module):
    """The experts of the second layer are chosen by the first layer's input."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.first, self.second = LoopOver(), LoopOver()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, x.size(-1))
        logits, next_logits = self.first.gate(flat), self.second.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        out = self.first.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.first, ids, w, flat, out)
        flat = flat + out
        w, ids = torch.topk(torch.softmax(next_logits, -1), 2, -1)
        out = self.second.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(next_logits)
            used(self.second, ids, w, flat, out)
        return (flat + out).view_as(x)


@idiom("script", wrap="none", calls=2)
class RecurrentRouterState(nn.Module):
    """A GRU cell carries the router's state from layer to layer."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList([LoopOver() for _ in range(2)])
        self.inward = nn.ModuleList([nn.Linear(DIM, 8) for _ in range(2)])
        self.cell = nn.GRUCell(8, 8)
        self.outward = nn.ModuleList([nn.Linear(8, 6, bias=False) for _ in range(2)])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, x.size(-1))
        state = torch.zeros(flat.size(0), 8)
        for layer, inward, outward in zip(self.layers, self.inward, self.outward):  # noqa: B905 - TorchScript
            state = self.cell(inward(flat), state)
            logits = outward(state) * 3.0
            w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
            out = layer.run(flat, w, ids)
            if not torch.jit.is_scripting():
                seen(logits)
                used(layer, ids, w, flat, out)
            flat = flat + out
        return flat.view_as(x)


@idiom("script")
class ZeroExpertsIdentity(ListMoE):
    """The gate has two columns more than there are experts: those give the token itself back."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(self.d, self.e + 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.classifier(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), 3, -1)
        zero = ids >= self.e
        kept = w.masked_fill(zero, 0.0)
        identity = w.masked_fill(~zero, 0.0).sum(-1, keepdim=True) * flat
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(ids == e)
            out.index_add_(0, token, expert(flat[token]) * kept[token, slot].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, kept, flat, out)
        return (out + identity).view_as(x)


@idiom("script")
class SharedInTheLastSlot(Routed):
    """A shared expert's id is written over the last slot, with the sum of the others' weights."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        scores = logits.sigmoid()
        ids = torch.topk(scores, 3, dim=-1)[1]
        w = scores.gather(1, ids)
        ids[:, -1] = 6
        w[:, -1] = w[:, :-1].sum(dim=-1) / 2.5
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class SecondSkippedWhenSmall(Routed):
    """The second expert is left out where its weight is far below the first's."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=1, dtype=torch.float), self.k, dim=-1)
        skip = w[:, 1] < 0.45 * w[:, 0]
        w[skip, 1] = 0.0
        w /= w.sum(dim=-1, keepdim=True)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class ExpertEmbeddings(Routed):
    """The gate is an embedding of experts, scaled by the root of the width."""

    def __init__(self):
        super().__init__()
        self.expert_emb = nn.Embedding(self.e, self.d)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.matmul(flat, self.expert_emb.weight.t()) / self.d**0.5
        w, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.softmax(w, dim=-1)


@idiom("script")
class LogPriorAdded(Routed):
    def __init__(self):
        super().__init__()
        self.prior = nn.Parameter(torch.rand(self.e) + 0.2)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat) + torch.log(self.prior / self.prior.sum())
        w, ids = torch.topk(F.softmax(logits, -1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, F.normalize(w, p=1.0, dim=-1)


@idiom("script")
class StraightThroughOne(Routed):
    """Top-1 whose weight is one with the gradient of its probability."""

    def __init__(self):
        super().__init__(k=1)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        p, ids = torch.softmax(logits, -1).max(-1, keepdim=True)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, p + (1.0 - p).detach()


@idiom("script", wrap="none", inputs=lambda: {**input_ids(), "token_type_ids": torch.arange(14).view(2, 7) % 3 // 2})
class ModalityMasked(nn.Module):
    """Text tokens choose among the first six experts, others among the last four, by a mask of the token's kind."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = LoopOver(e=10)
        self.text, self.image = nn.Linear(DIM, 6, bias=False), nn.Linear(DIM, 4, bias=False)
        self.register_buffer("of_text", torch.arange(10) < 6)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, x.size(-1))
        logits = torch.cat([self.text(flat), self.image(flat)], dim=-1)
        is_text = (token_type_ids == 0).view(-1, 1)
        logits = logits.masked_fill(is_text != self.of_text, float("-inf"))
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        out = self.moe.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids, w, flat, out)
        return x + out.view_as(x)


@idiom(
    "script",
    wrap="none",
    calls=2,
    layout=None,
    inputs=lambda: {**input_ids(), "token_type_ids": torch.arange(14).view(2, 7) % 3 // 2},
)
class ModalitiesApart(nn.Module):
    """Rows of text and of images are taken out, each kind has a gate and experts of its own."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.text, self.image = LoopOver(), LoopOver(e=4)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat, kinds = x.view(-1, x.size(-1)), token_type_ids.view(-1)
        out = torch.zeros_like(flat)
        rows = flat[kinds == 0]
        logits = self.text.gate(rows)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        part = self.text.run(rows, w, ids)
        out[kinds == 0] = part
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.text, ids, w, rows, part)
        rows = flat[kinds == 1]
        logits = self.image.gate(rows)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        part = self.image.run(rows, w, ids)
        out[kinds == 1] = part
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.image, ids, w, rows, part)
        return x + out.view_as(x)


@idiom("trace")
class ResidualMoE(ListMoE):
    """A dense MLP beside the experts; two learned shares of each token mix them."""

    def __init__(self):
        super().__init__(k=1)
        self.mlp = Expert()
        self.coefficient = nn.Linear(self.d, 2)

    def forward(self, x):
        logits = self.gate(x)
        prob, ids = logits.softmax(-1).topk(1, -1)
        routed = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            routed = routed + expert(x) * (prob * (ids == e))
        if on():
            seen(logits)
            used(self, ids, prob, x, routed)
        coef = F.softmax(self.coefficient(x), dim=-1)
        return routed * coef[..., 0:1] + self.mlp(x) * coef[..., 1:]


@idiom("script", as_sets=True)
class AdaptiveThresholdLora(DenseLoop):
    """A threshold of each token from a second projection; what is above it is normalised."""

    def __init__(self):
        super().__init__()
        self.threshold = nn.Linear(self.d, 1)

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = self.gate(flat)
        gates = F.softmax(logits, dim=-1)
        limit = torch.sigmoid(self.threshold(flat)) / self.e
        adapted = torch.clamp(gates - limit, min=0.0)
        total = adapted.sum(-1, keepdim=True)
        if not torch.jit.is_scripting():
            seen(logits)
        return adapted / torch.where(total == 0, torch.ones_like(total), total)


@idiom("script", wrap="hidden", inputs=hidden_states)
class MixtureOfHeads(BankMoE):
    """Heads are experts: each token uses the best two of them; the outputs of the heads are weighted before `o`."""

    def __init__(self):
        super().__init__(f=4)
        self.q, self.kk, self.v = (nn.Linear(self.d, 6 * 4) for _ in range(3))
        self.o = nn.Parameter(torch.randn(6, 4, self.d) * 0.3)

    def expert(self, e, x):
        return self.outputs[:, e] @ self.o[e]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s = x.size(0), x.size(1)
        q, k = self.q(x).view(b, s, 6, 4).transpose(1, 2), self.kk(x).view(b, s, 6, 4).transpose(1, 2)
        v = self.v(x).view(b, s, 6, 4).transpose(1, 2)
        heads = (torch.softmax(q @ k.transpose(-1, -2) / 2.0, -1) @ v).transpose(1, 2)  # [B, S, H, 4]
        logits = self.gate(x)
        top, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        w = top / top.sum(-1, keepdim=True)
        gates = torch.zeros_like(logits).scatter_(-1, ids, w)
        out = torch.einsum("bshf,hfd->bsd", heads * gates.unsqueeze(-1), self.o)
        if not torch.jit.is_scripting():
            seen(logits)
            self.outputs = heads.reshape(-1, 6, 4)
            used(self, ids, w, x, out)
        return out


@idiom("script")
class GroupLimitAmax(GatedMoE):
    """Groups by their largest score, kept by a mask that is multiplied; weights are renormalised and scaled."""

    def __init__(self):
        super().__init__(e=8, k=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        scores = logits.softmax(dim=-1, dtype=torch.float32)
        groups = scores.view(-1, 4, 2).amax(dim=-1)
        kept = torch.zeros_like(groups).scatter_(1, groups.topk(2, dim=-1)[1], 1.0)
        limited = (scores.view(-1, 4, 2) * kept.unsqueeze(-1)).flatten(1)
        w, ids = torch.topk(limited, self.k, dim=-1)
        w = 2.5 * (w / w.sum(dim=-1, keepdim=True))
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(ids == e)
            out.index_add_(0, token, expert(flat[token]) * w[token, slot].unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)

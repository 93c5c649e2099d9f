"""Choices that serve several layers, or a whole sequence, and biases of the sample."""

import surroundings
import torch
import torch.nn.functional as F
from families_more import LoopOver
from parts import BATCH, DIM, EXPERTS, VOCAB, BankMoE, Expert, idiom, input_ids
from recorder import on, seen, used
from torch import nn


@idiom("script", wrap="none", layout="b", inputs=surroundings.right_padded)
class FirstTokenDecides(nn.Module):
    """The first position's state chooses for the whole sequence."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe = BankMoE()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids) * (0.5 + 0.5 * attention_mask.unsqueeze(-1))
        logits = self.moe.gate(x[:, 0])
        w, ids = torch.topk(torch.softmax(logits, dim=-1), 2, dim=-1)
        h = torch.relu(torch.einsum("bsd,bkdf->bskf", x, self.moe.w1[ids]))
        y = torch.einsum("bskf,bkfd,bk->bsd", h, self.moe.w2[ids], w)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids, w)
        return x + y


@idiom("script", wrap="none", calls=2, layout=None, inputs=input_ids)
class StickyChoice(nn.Module):
    """The second layer's logits get a bonus where the first layer's experts were."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.first, self.second = LoopOver(), LoopOver()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, x.size(-1))
        logits = self.first.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        y = self.first.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.first, ids, w, flat, y)
        flat = flat + y
        again = self.second.gate(flat) + 0.7 * F.one_hot(ids, self.second.e).sum(1).to(flat.dtype)
        w, ids = torch.topk(torch.softmax(again, -1), 2, -1)
        y = self.second.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(again)
            used(self.second, ids, w, flat, y)
        return (flat + y).view_as(x)


@idiom("script", wrap="none", calls=2, layout=None, inputs=input_ids)
class ChoiceOfTheLayerBelow(nn.Module):
    """The second layer takes the first layer's ids, its own gate weighs them."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.first, self.second = LoopOver(), LoopOver()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, x.size(-1))
        logits = self.first.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        y = self.first.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.first, ids, w, flat, y)
        flat = flat + y
        again = self.second.gate(flat).gather(1, ids)
        w = torch.softmax(again, -1)
        y = self.second.run(flat, w, ids)
        if not torch.jit.is_scripting():
            used(self.second, ids, w, flat, y)
        return (flat + y).view_as(x)


@idiom("script", wrap="none", inputs=lambda: {**surroundings.right_padded(), "language": torch.tensor([1, 2])})
class BiasOfTheLanguage(nn.Module):
    """A learned bias of the sample's language is added to the logits."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.lang_bias = nn.Embedding(3, EXPERTS)
        self.moe = LoopOver()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, language: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids) * (0.5 + 0.5 * attention_mask.unsqueeze(-1))
        logits = self.moe.gate(x) + self.lang_bias(language)[:, None]
        flat, logits = x.reshape(-1, x.size(-1)), logits.flatten(0, 1)
        w, ids = torch.topk(torch.softmax(logits, -1), 2, -1)
        y = self.moe.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids, w, flat, y)
        return x + y.view_as(x)


@idiom(
    "trace", wrap="none", layout="b", batch=4, inputs=lambda: {"x": torch.randn(4, 5, DIM), "task": torch.randn(4, 3)}
)
class ConditionBesidePooledState(nn.Module):
    """A policy: pooled state and the task's vector are concatenated, one choice an episode."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(DIM + 3, 8), nn.Tanh(), nn.Linear(8, EXPERTS))
        nn.init.normal_(self.gate[2].weight, std=1.0)
        self.experts = nn.ModuleList([Expert() for _ in range(EXPERTS)])

    def forward(self, x, task):
        logits = self.gate(torch.cat([x.mean(1), task], dim=-1))
        top, ids = logits.topk(2, dim=-1)
        w = top.softmax(-1)
        outs = torch.stack([expert(x) for expert in self.experts], dim=1)
        picked = outs.gather(1, ids[:, :, None, None].expand(-1, -1, x.shape[1], DIM))
        if on():
            seen(logits)
            used(self, ids, w)
        return x + (picked * w[:, :, None, None]).sum(1)


@idiom("script", wrap="none", layout=None, calls=2, inputs=input_ids)
class SameGateTwoSelections(nn.Module):
    """One gate's logits are picked from twice: two best for one bank, the best for another."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.moe, self.other = LoopOver(), LoopOver()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, x.size(-1))
        probs = torch.softmax(self.moe.gate(flat), dim=-1)
        w, ids = torch.topk(probs, 2, -1)
        y = self.moe.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(self.moe.gate(flat))
            used(self.moe, ids, w, flat, y)
        w, ids = torch.topk(probs, 1, -1)
        z = self.other.run(flat, w, ids)
        if not torch.jit.is_scripting():
            seen(self.moe.gate(flat))
            used(self.other, ids, w, flat, z)
        return x + (y + z).view_as(x)


@idiom(
    "trace",
    wrap="none",
    layout="bs",
    inputs=lambda: {
        "inputs_embeds": torch.randn(BATCH, 7, DIM),
        "attention_mask": surroundings.left_padded()["attention_mask"],
    },
)
class EmbedsWithMask(nn.Module):
    """No token ids: embeddings and a mask."""

    def __init__(self):
        super().__init__()
        self.moe = LoopOver()

    def forward(self, inputs_embeds, attention_mask):
        flat = inputs_embeds.view(-1, DIM)
        logits = self.moe.gate(flat)
        w, ids = logits.softmax(-1).topk(2, -1)
        dense = torch.zeros_like(logits).scatter(1, ids, w)
        y = sum(expert(flat) * dense[:, e, None] for e, expert in enumerate(self.moe.experts))
        if on():
            seen(logits)
            used(self.moe, ids, w, flat, y)
        return (inputs_embeds + y.view_as(inputs_embeds)) * attention_mask.unsqueeze(-1)

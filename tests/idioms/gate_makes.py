"""Where logits come from: hypernetworks, magnitudes, similarities, recurrences, several gates, padded columns."""

import surroundings
import torch
import torch.nn.functional as F
from parts import DIM, VOCAB, BankMoE, ListMoE, idiom
from recorder import on, seen, used
from scoring import Routed
from torch import nn


@idiom("script", wrap="padded")
class HyperRouter(Routed):
    """HyperRouter: the gate's matrix comes out of a fixed network over a router embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(4))
        self.hyper = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, self.e * self.d))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.hyper(self.embedding).view(self.e, self.d) * 4.0
        logits = F.linear(flat, F.normalize(weight, dim=-1) * 2.0)
        top, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, F.softmax(top, dim=-1)


@idiom("trace", wrap="padded_left")
class CosineSimilarityCall(Routed):
    """F.cosine_similarity of tokens and prototypes over a broadcast dimension."""

    def route(self, flat):
        logits = F.cosine_similarity(flat.unsqueeze(1), self.gate.weight.unsqueeze(0), dim=-1)
        w, ids = (logits / 0.1).softmax(-1).topk(self.k, dim=-1)
        if on():
            seen(logits / 0.1)
        return ids, w


@idiom("script", wrap="positions_first")
class ArrowPrototypes(Routed):
    """Arrow: the magnitude of a projection on each adapter's principal direction."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.abs(F.linear(flat, self.gate.weight))
        top, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.softmax(top, dim=-1)


@idiom("script", wrap="flat")
class PhatgooseStandardised(Routed):
    """PHATGOOSE: tokens and gate vectors are standardised, their product over the root of the width."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = (flat - flat.mean(-1, keepdim=True)) / (flat.std(-1, keepdim=True) + 1e-6)
        v = self.gate.weight
        v = (v - v.mean(-1, keepdim=True)) / (v.std(-1, keepdim=True) + 1e-6)
        logits = torch.matmul(x, v.transpose(0, 1)) / self.d**0.5
        top, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.softmax(top, dim=-1, dtype=torch.float32).to(flat.dtype)


@idiom("trace", wrap="padded")
class NormOfOwnActivation(BankMoE):
    """Autonomy of experts: the norm of what each expert's first factor makes of a token is its logit."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.randn(self.e, self.d, 4) * 0.5)

    def expert(self, e, x):
        return x @ self.factor[e] @ self.w1[e, :4] @ self.w2[e]

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        cache = torch.einsum("td,edr->ter", flat, self.factor)
        logits = cache.norm(dim=-1)
        top, ids = logits.topk(self.k, dim=-1)
        w = top.softmax(-1)
        out = torch.zeros_like(flat)
        for e in range(self.e):
            token, slot = torch.where(ids == e)
            y = cache[token, e] @ self.w1[e, :4] @ self.w2[e]
            out = out.index_add(0, token, y * w[token, slot, None])
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("trace", wrap="padded")
class BestOfTheOutputs(ListMoE):
    """CompeteSMoE: all experts answer, those with the largest mean response win."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        outs = torch.stack([expert(flat) for expert in self.experts], dim=1)
        affinity = F.softplus(outs).mean(dim=-1)
        w, ids = affinity.softmax(-1).topk(self.k, dim=-1)
        w = w / w.sum(-1, keepdim=True)
        y = (outs.gather(1, ids.unsqueeze(-1).expand(-1, -1, self.d)) * w.unsqueeze(-1)).sum(1)
        if on():
            seen(affinity)
            used(self, ids, w, flat, y)
        return y.view_as(x)


@idiom("script", wrap="padded")
class RecurrentGate(ListMoE):
    """A GRU runs over the sequence, its states are projected."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(self.d, 8, batch_first=True)
        self.proj = nn.Linear(8, self.e)
        nn.init.normal_(self.proj.weight, std=1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(x)
        logits = self.proj(states)
        w, ids = torch.topk(logits.softmax(dim=-1), self.k, dim=-1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            out = out + expert(x) * torch.sum(w * (ids == e), dim=-1, keepdim=True)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, x, out)
        return out


@idiom("script", wrap="flat")
class TwoGatesByWhere(Routed):
    """A learned switch of the token says which of two gates' logits count."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(self.d, self.e, bias=False)
        nn.init.normal_(self.other.weight, std=0.7)
        self.switch = nn.Linear(self.d, 1)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.where(self.switch(flat) > 0, self.gate(flat), self.other(flat))
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script", wrap="padded")
class GatesTimesEachOther(Routed):
    """The product of two gates' sigmoids is picked from and weighs."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(self.d, self.e)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        product = torch.sigmoid(self.gate(flat)) * torch.sigmoid(self.other(flat))
        w, ids = torch.topk(product, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(product)
        return ids, w


@idiom("script", wrap="padded")
class SampledExperts(Routed):
    """Experts are drawn from the probabilities; the seed decides."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        probs = torch.softmax(logits, dim=-1)
        ids = torch.multinomial(probs, self.k)
        w = probs.gather(1, ids)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w / w.sum(-1, keepdim=True)


@idiom("trace", wrap="padded")
class GumbelHard(Routed):
    """F.gumbel_softmax(hard=True) at inference: the noise is in what is picked from."""

    def __init__(self):
        super().__init__(k=1)

    def route(self, flat):
        logits = self.gate(flat)
        noise = -torch.empty_like(logits).exponential_().log()
        noisy = (logits + noise) / 0.7
        soft = noisy.softmax(-1)
        index = soft.max(-1, keepdim=True)[1]
        hard = torch.zeros_like(logits).scatter_(-1, index, 1.0)
        gate = hard - soft.detach() + soft
        ids = index
        if on():
            seen(noisy)
        return ids, gate.gather(-1, ids)


@idiom("trace", wrap="padded")
class AutocastGate(Routed):
    """The gate runs under autocast, its scores are fp32."""

    def route(self, flat):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.gate(flat)
        logits = logits.float()
        w, ids = logits.softmax(-1).topk(self.k, -1)
        if on():
            seen(logits)
        return ids, w / w.sum(-1, keepdim=True)


@idiom("script", wrap="padded")
class MeanOfExpertKeys(Routed):
    """Each expert has three keys; the best of its similarities is its logit."""

    def __init__(self):
        super().__init__()
        self.keys = nn.Parameter(torch.randn(self.e, 3, self.d) * 0.5)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.einsum("td,ekd->tek", flat, self.keys).amax(dim=-1)
        top, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.softmax(top, dim=-1)


@idiom("trace", wrap="padded")
class BilinearCondition(ListMoE):
    """nn.Bilinear of the token and the sample's summary."""

    def __init__(self):
        super().__init__()
        self.bilinear = nn.Bilinear(self.d, self.d, self.e)

    def forward(self, x):
        summary = x.mean(1, keepdim=True).expand_as(x).contiguous()
        logits = self.bilinear(x, summary) * 3
        w, ids = logits.softmax(-1).topk(self.k, -1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            out = out + (w * (ids == e)).sum(-1, keepdim=True) * expert(x)
        if on():
            seen(logits)
            used(self, ids, w, x, out)
        return out


@idiom("script", wrap="none", inputs=surroundings.right_padded)
class StableMoEDistilled(nn.Module):
    """StableMoE's second stage: embeddings of their own against centroids, weights by the hidden state."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.route_emb = nn.Embedding(VOCAB, 5)
        self.route_centroids = nn.Parameter(torch.randn(6, 5))
        self.centroids = nn.Parameter(torch.randn(6, DIM) * 0.5)
        self.moe = ListMoE(k=1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids) * attention_mask.unsqueeze(-1)
        flat = x.reshape(-1, x.size(-1))
        logits = F.linear(self.route_emb(input_ids.reshape(-1)), self.route_centroids)
        ids = torch.argmax(logits, dim=1)
        gate = torch.sigmoid((flat * self.centroids[ids]).sum(-1))
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.moe.experts):
            token = torch.where(ids == e)[0]
            out[token] = expert(flat[token]) * gate[token].unsqueeze(-1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self.moe, ids.unsqueeze(1), gate.unsqueeze(1), flat, out)
        return x + out.view_as(x)

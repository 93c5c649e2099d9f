"""Layers of whole families: null and copy experts, LoRA experts, vision, recommenders, attention experts, hash."""

import torch
import torch.nn.functional as F
from parts import DIM, EXPERTS, VOCAB, BankMoE, Expert, ListMoE, idiom, images
from recorder import on, seen, used, used_dense
from scoring import Routed
from torch import nn


@idiom("script", as_sets=True)
class NullExperts(ListMoE):
    """AdaMoE: the last two columns are experts that do nothing; weights are normalised over the true ones."""

    def __init__(self):
        super().__init__(e=6, k=3)
        self.router = nn.Linear(self.d, 8, bias=False)
        nn.init.normal_(self.router.weight, std=0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        logits = self.router(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        real = ids < self.e
        w = w * real.to(w.dtype)
        w = w / w.sum(-1, keepdim=True).clamp(min=1e-9)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(ids == e)
            out.index_add_(0, token, expert(flat[token]) * w[token, slot, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, torch.where(real, ids, torch.full_like(ids, -1)), w, flat, out)
        return out.view_as(x)


@idiom("script")
class ZeroCopyConstant(nn.Module):
    """MoE++: experts 4, 5 and 6 are zero, copy and a constant vector mixed with the input."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.k, self.d = 7, 2, DIM
        self.gate = nn.Linear(DIM, 7, bias=False)
        nn.init.normal_(self.gate.weight, std=0.5)
        self.experts = nn.ModuleList([Expert() for _ in range(4)])
        self.constant = nn.Parameter(torch.randn(DIM))
        self.wc = nn.Linear(DIM, 2, bias=False)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.softmax(self.wc(x), dim=-1)
        return a[:, 0:1] * x + a[:, 1:2] * self.constant

    def expert(self, e, x):
        if e < 4:
            return self.experts[e](x)
        return [torch.zeros_like(x), x, self.mix(x)][e - 4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(F.softmax(logits, dim=1), self.k, dim=-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(ids == e)
            out[token] += w[token, slot, None] * expert(flat[token])
        token, slot = torch.where(ids == 5)
        out[token] += w[token, slot, None] * flat[token]
        token, slot = torch.where(ids == 6)
        out[token] += w[token, slot, None] * self.mix(flat[token])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("trace", wrap="none", inputs=images, layout="b", batch=3)
class ConvRouterImage(nn.Module):
    """A 1x1 convolution scores each pixel; experts are convolutions over the whole map."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.k = EXPERTS, 2
        self.stem = nn.Conv2d(3, DIM, 3, padding=1)
        self.router = nn.Conv2d(DIM, EXPERTS, 1)
        self.experts = nn.ModuleList([nn.Conv2d(DIM, DIM, 1) for _ in range(EXPERTS)])

    def expert(self, e, x):
        return self.experts[e](x[..., None, None]).flatten(1)

    def forward(self, pixel_values):
        x = torch.tanh(self.stem(pixel_values))
        logits = self.router(x)
        top, ids = logits.topk(self.k, dim=1)
        gates = torch.zeros_like(logits).scatter(1, ids, top.softmax(dim=1))
        out = sum(gates[:, e : e + 1] * expert(x) for e, expert in enumerate(self.experts))
        if on():
            seen(logits.movedim(1, -1))
            used(self, ids.movedim(1, -1), top.softmax(1).movedim(1, -1), x.movedim(1, -1), out.movedim(1, -1))
        return x + out


@idiom("trace", wrap="none", inputs=images, layout="b", batch=3)
class PatchTokensVision(nn.Module):
    """V-MoE: patches, a router without bias, tokens of all images in one row."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, 2, stride=2)
        self.pos = nn.Parameter(torch.randn(1, 9, DIM))
        self.moe = Patches()
        self.head = nn.Linear(DIM, 4)

    def forward(self, pixel_values):
        x = self.patch(pixel_values).flatten(2).transpose(1, 2) + self.pos
        x = x + self.moe(x)
        return self.head(x.mean(1))


class Patches(Routed):
    def route(self, flat):
        logits = self.gate(flat)
        w, ids = logits.softmax(-1).topk(self.k, -1)
        seen(logits)
        return ids, w


@idiom("trace", wrap="none", inputs=images, layout="b", batch=3)
class PooledImageRouter(nn.Module):
    """One choice an image from its mean; the expert works on all of its pixels."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.k = 5, 2
        self.stem = nn.Conv2d(3, DIM, 3, padding=1)
        self.fc = nn.Linear(DIM, 5)
        self.weight = nn.Parameter(torch.randn(5, DIM, DIM) * 0.3)

    def forward(self, pixel_values):
        x = torch.relu(self.stem(pixel_values))
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits = self.fc(pooled) * 4
        w, ids = logits.softmax(-1).topk(self.k, -1)
        chosen = self.weight[ids]
        y = torch.einsum("bkoc,bchw->bkohw", chosen, x)
        y = (y * w[:, :, None, None, None]).sum(1)
        if on():
            seen(logits)
            used(self, ids, w)
        return x + y


@idiom("script", layout="b")
class SequenceLevelRouter(ListMoE):
    """One choice a sequence (mean of its tokens); experts work on whole sequences."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean(dim=1)
        logits = self.gate(pooled) * 3.0
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            sample, slot = torch.where(ids == e)
            out.index_add_(0, sample, expert(x[sample]) * w[sample, slot, None, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w)
        return out


@idiom("trace", calls=2)
class SparseMultiGate(nn.Module):
    """Two tasks share experts, each with a top-k gate of its own."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.k = 5, 2
        self.experts = nn.ModuleList([Expert() for _ in range(5)])
        self.gates = nn.ModuleList([nn.Linear(DIM, 5) for _ in range(2)])
        self.towers = nn.ModuleList([nn.Linear(DIM, DIM) for _ in range(2)])

    def expert(self, e, x):
        return self.experts[e](x)

    def forward(self, x):
        outs = torch.stack([expert(x) for expert in self.experts], dim=-2)
        y = 0
        for gate, tower in zip(self.gates, self.towers, strict=True):
            logits = gate(x)
            top, ids = logits.topk(self.k, dim=-1)
            g = torch.zeros_like(logits).scatter(-1, ids, top.softmax(-1))
            mixed = torch.einsum("bse,bsed->bsd", g, outs)
            if on():
                seen(logits)
                used(self, ids, top.softmax(-1), x, mixed)
            y = y + tower(mixed)
        return y


@idiom("script")
class DiffusionTimestepGate(ListMoE):
    """DiT-MoE with a gate that sees the token and the condition of its sample."""

    def __init__(self):
        super().__init__()
        self.cond = nn.Linear(self.d, self.d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, d = x.shape
        c = torch.tanh(self.cond(x.mean(1)))
        h = (x + c.unsqueeze(1)).reshape(-1, d)
        logits = self.gate(h)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1, sorted=False)
        flat = x.reshape(-1, d)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            t, k = torch.where(ids == e)
            out.index_add_(0, t, expert(flat[t]) * w[t, k, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view(b, s, d)


@idiom("trace")
class MixtureOfAttentionHeads(nn.Module):
    """MoA: each token picks query and output projections; keys and values are shared."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.k, self.h = EXPERTS, 2, 5
        self.gate = nn.Linear(DIM, EXPERTS, bias=False)
        nn.init.normal_(self.gate.weight, std=0.5)
        self.wq = nn.Parameter(torch.randn(EXPERTS, DIM, 5) * 0.3)
        self.wo = nn.Parameter(torch.randn(EXPERTS, 5, DIM) * 0.3)
        self.wk, self.wv = nn.Linear(DIM, 5), nn.Linear(DIM, 5)

    def forward(self, x):
        logits = self.gate(x)
        w, ids = logits.softmax(-1).topk(self.k, dim=-1)
        q = torch.einsum("bsd,bskdh->bksh", x, self.wq[ids])
        key, value = self.wk(x), self.wv(x)
        a = torch.softmax(torch.einsum("bksh,bth->bkst", q, key) * 5**-0.5, dim=-1)
        o = torch.einsum("bkst,bth->bksh", a, value)
        y = torch.einsum("bksh,bskhd,bsk->bsd", o, self.wo[ids], w)
        if on():
            seen(logits)
            used(self, ids, w)
        return y


@idiom("script", wrap="none")
class HashTableLayer(nn.Module):
    """Hash layer: a buffer tells each token id's expert."""

    close = 1e-5

    def __init__(self):
        super().__init__()
        self.e, self.d = EXPERTS, DIM
        self.emb = nn.Embedding(VOCAB, DIM)
        self.register_buffer("table", torch.randint(0, EXPERTS, (VOCAB,)))
        self.experts = nn.ModuleList([Expert() for _ in range(EXPERTS)])

    def expert(self, e, x):
        return self.experts[e](x)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        flat = x.view(-1, self.d)
        ids = self.table[input_ids].view(-1)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            mine = ids == e
            out[mine] = expert(flat[mine])
        if not torch.jit.is_scripting():
            used(self, ids.unsqueeze(-1), None, flat, out)
        return x + out.view_as(x)


@idiom("trace", wrap="none")
class HashModuloBank(BankMoE):
    """The id modulo E indexes stacked weights."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)

    def forward(self, input_ids):
        x = self.emb(input_ids)
        ids = input_ids % self.e
        h = torch.relu(torch.einsum("bsd,bsdf->bsf", x, self.w1[ids]))
        y = torch.einsum("bsf,bsfd->bsd", h, self.w2[ids])
        if on():
            used(self, ids.unsqueeze(-1), None, x, y)
        return x + y


@idiom("script")
class BtxUpcycled(ListMoE):
    """Branch-train-mix: top-2 with softmax of the chosen logits, experts are whole blocks with a norm."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(self.d) for _ in range(self.e)])

    def expert(self, e, x):
        return self.experts[e](self.norms[e](x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(0, 1)
        logits = self.gate(flat)
        top, ids = torch.topk(logits, self.k, dim=-1)
        w = torch.softmax(top.float(), dim=-1).type_as(flat)
        out = torch.zeros_like(flat)
        for e, (norm, expert) in enumerate(zip(self.norms, self.experts)):  # noqa: B905 - TorchScript knows no strict
            hit = ids == e
            token = hit.any(dim=-1).nonzero().flatten()
            factor = (w * hit.to(w.dtype)).sum(dim=-1)[token]
            out.index_add_(0, token, expert(norm(flat[token])) * factor.unsqueeze(-1))
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script", as_sets=True)
class SharedExpertsFirst(ListMoE):
    """The first expert is always on with weight one, two of the others by the gate (ids shifted by one)."""

    def __init__(self):
        super().__init__(e=7, k=2)
        self.router = nn.Linear(self.d, 6, bias=False)
        nn.init.normal_(self.router.weight, std=0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        logits = self.router(flat)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        dense = torch.zeros_like(logits).scatter(1, ids, w)
        routed = torch.zeros_like(flat)
        shared = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            if e == 0:
                shared = expert(flat)
            else:
                token = torch.nonzero(dense[:, e - 1]).flatten()
                routed.index_add_(0, token, expert(flat[token]) * dense[token, e - 1].unsqueeze(1))
        if not torch.jit.is_scripting():
            seen(logits)
            used_dense(self, dense)
        return (shared + routed).view_as(x)

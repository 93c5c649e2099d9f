"""Mixtures that pick nothing, and attention that picks keys: nothing may be found here."""

import torch
import torch.nn.functional as F
from parts import DIM, EXPERTS, BankMoE, images, look_alike
from torch import nn

D = DIM


@look_alike("trace", wrap="none", inputs=images)
class CondConvDense(nn.Module):
    """Kernels mixed by sigmoid routing weights of the pooled image: all experts, always."""

    def __init__(self):
        super().__init__()
        self.routing = nn.Linear(3, 4)
        self.weight = nn.Parameter(torch.randn(4, D, 3, 3, 3))

    def forward(self, pixel_values):
        r = torch.sigmoid(self.routing(pixel_values.mean((2, 3))))
        kernel = torch.einsum("be,eoihw->boihw", r, self.weight)
        b, c, h, w = pixel_values.shape
        x = F.conv2d(pixel_values.reshape(1, b * c, h, w), kernel.reshape(-1, c, 3, 3), padding=1, groups=b)
        return x.view(b, D, h, w)


@look_alike("trace")
class SoftMoE(BankMoE):
    def forward(self, x):
        logits = torch.einsum("bsd,edp->bsep", x, self.w1[..., :2])
        dispatch = logits.softmax(1)
        combine = logits.flatten(2).softmax(-1).view_as(logits)
        slots = torch.einsum("bsep,bsd->bepd", dispatch, x)
        h = torch.relu(torch.einsum("bepd,edf->bepf", slots, self.w1))
        out = torch.einsum("bepf,efd->bepd", h, self.w2)
        return torch.einsum("bsep,bepd->bsd", combine, out)


@look_alike("script")
class MultiGateDense(nn.Module):
    """MMoE: a dense softmax gate a task."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(D, D) for _ in range(5)])
        self.gates = nn.ModuleList([nn.Linear(D, 5) for _ in range(2)])
        self.towers = nn.ModuleList([nn.Linear(D, D) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outs = torch.stack([F.relu(e(x)) for e in self.experts], dim=-1)
        y = torch.zeros_like(x)
        for gate, tower in zip(self.gates, self.towers):  # noqa: B905 - TorchScript knows no strict
            g = F.softmax(gate(x), dim=-1)
            y = y + tower((outs * g.unsqueeze(-2)).sum(-1))
        return y


@look_alike("trace")
class MixtureOfSoftmaxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.prior = nn.Linear(D, 4, bias=False)
        self.latent = nn.Linear(D, 4 * D)
        self.decoder = nn.Linear(D, 13)
        self.back = nn.Linear(13, D)

    def forward(self, x):
        prior = self.prior(x).softmax(-1)
        latent = torch.tanh(self.latent(x)).view(*x.shape[:2], 4, D)
        probs = self.decoder(latent).softmax(-1)
        return self.back((probs * prior.unsqueeze(-1)).sum(-2))


@look_alike("script")
class LightningIndexer(nn.Module):
    """Sparse attention whose keys an indexer with its own heads picks."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.iq, self.ik, self.w = nn.Linear(D, 8), nn.Linear(D, 4), nn.Linear(D, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, _ = x.shape
        iq = self.iq(x).view(b, s, 2, 4)
        score = torch.einsum("bshd,btd,bsh->bst", iq, self.ik(x), self.w(x))
        idx = torch.topk(score, 3, dim=-1)[1]
        mask = torch.full([b, s, s], float("-inf")).scatter(-1, idx, 0.0)
        a = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) * 0.3 + mask, dim=-1)
        return a @ self.v(x)


@look_alike("trace")
class HeadGates(nn.Module):
    """Attention whose heads are scaled by a sigmoid gate of the token."""

    def __init__(self):
        super().__init__()
        self.qkv, self.gate, self.out = nn.Linear(D, 3 * D), nn.Linear(D, 2), nn.Linear(D, D)

    def forward(self, x):
        b, s, _ = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, 2, D // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        y = y * torch.sigmoid(self.gate(x)).unsqueeze(-1)
        return self.out(y.reshape(b, s, D))


@look_alike("script")
class MixtureOfTokens(BankMoE):
    """Experts work on mixtures of the tokens of a group: nothing is picked."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        merge = torch.softmax(self.gate(x), dim=1)
        mixed = torch.einsum("bse,bsd->ebd", merge, x)
        h = torch.bmm(torch.relu(torch.bmm(mixed, self.w1)), self.w2)
        return torch.einsum("ebd,bse->bsd", h, merge)


@look_alike("script")
class SlotAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.slots = nn.Parameter(torch.randn(1, 4, D))
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.gru = nn.GRUCell(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, d = x.size(0), x.size(-1)
        slots = self.slots.expand(b, -1, -1)
        for _ in range(2):
            a = torch.softmax(self.k(x) @ self.q(slots).transpose(1, 2), dim=-1) + 1e-8
            a = a / a.sum(dim=1, keepdim=True)
            updates = a.transpose(1, 2) @ self.v(x)
            slots = self.gru(updates.reshape(-1, d), slots.reshape(-1, d)).view(b, -1, d)
        return x + slots.mean(1, keepdim=True)


@look_alike("script")
class HardAttention(nn.Module):
    """Each token attends to its two best keys only."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        top, idx = torch.topk(scores, 2, dim=-1)
        masked = torch.full_like(scores, float("-inf")).scatter(-1, idx, top)
        return torch.softmax(masked, dim=-1) @ self.v(x)


@look_alike("script")
class AttentionPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(D, EXPERTS)
        self.value = nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.softmax(self.score(x), dim=1)
        pooled = torch.einsum("bsn,bsd->bnd", a, self.value(x))
        return x + pooled.mean(1, keepdim=True)

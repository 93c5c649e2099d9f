"""More spellings of what other files hold once: flat indices, masks of counts, sticky and shared choices, pixels."""

import torch
import torch.nn.functional as F
from dispatch import Dispatch
from parts import DIM, EXPERTS, BankMoE, Expert, ListMoE, idiom, images
from recorder import on, seen, used, used_dense
from scoring import DenseLoop, Routed
from torch import nn


@idiom("script", wrap="padded")
class FlatRowOfAllOutputs(ListMoE):
    """All outputs in one list of E * T rows; a slot's row is id * T + token."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        outs: list[torch.Tensor] = []
        for expert in self.experts:
            outs.append(expert(flat))
        n = flat.size(0)
        rows = ids * n + torch.arange(n).unsqueeze(1)
        picked = torch.cat(outs).index_select(0, rows.flatten()).view(n, self.k, -1)
        y = torch.bmm(w.unsqueeze(1), picked).squeeze(1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, y)
        return y.view_as(x)


@idiom("script", wrap="padded", as_sets=True)
class ThresholdsOrTheBest(DenseLoop):
    """DynMoE: sigmoids over learned thresholds, equal shares; a token whom none takes goes to its best."""

    def __init__(self):
        super().__init__()
        self.thresholds = nn.Parameter(torch.randn(self.e) * 0.2 + 0.5)

    def weigh(self, flat: torch.Tensor) -> torch.Tensor:
        logits = torch.sigmoid(F.linear(F.normalize(flat, dim=-1), F.normalize(self.gate.weight, dim=-1)) * 2.0)
        gates = (logits > torch.sigmoid(self.thresholds)).to(flat.dtype)
        best = torch.zeros_like(gates).scatter_(1, logits.argmax(dim=1, keepdim=True), 1.0)
        gates = torch.where(gates.sum(dim=1, keepdim=True) == 0, best, gates)
        if not torch.jit.is_scripting():
            seen(torch.logit(logits))
        return gates / gates.sum(dim=1, keepdim=True)


@idiom("trace", wrap="none", layout=None, batch=3, inputs=images)
class UpsampledGates(nn.Module):
    """A coarse gate map: the weights are repeated to the pixels of the features (nearest)."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate = nn.Conv2d(3, DIM, 1), nn.Conv2d(DIM, EXPERTS, 2, stride=2)
        self.experts = nn.ModuleList([nn.Conv2d(DIM, DIM, 1) for _ in range(EXPERTS)])

    def forward(self, pixel_values):
        x = self.stem(pixel_values)
        logits = self.gate(x)
        w, ids = logits.softmax(1).topk(2, dim=1)
        dense = torch.zeros_like(logits).scatter(1, ids, w)
        dense = F.interpolate(dense, scale_factor=2.0, mode="nearest")
        y = sum(expert(x) * dense[:, e : e + 1] for e, expert in enumerate(self.experts))
        if on():
            seen(logits.permute(0, 2, 3, 1))
            used(self, ids.permute(0, 2, 3, 1), w.permute(0, 2, 3, 1))
        return x + y


@idiom("script", wrap="padded")
class BankByIndexSelect(Dispatch):
    """The picked matrices by index_select of flat ids, accumulated by baddbmm, slot by slot."""

    def dispatch(self, flat: torch.Tensor, w: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        n, k = ids.shape
        up = self.w1.index_select(0, ids.reshape(-1)).view(n, k, self.d, -1)
        down = self.w2.index_select(0, ids.reshape(-1)).view(n, k, -1, self.d)
        out = torch.zeros([n, 1, self.d])
        for slot in range(k):
            h = torch.relu(flat.unsqueeze(1) @ up[:, slot]) * w[:, slot].view(-1, 1, 1)
            out = torch.baddbmm(out, h, down[:, slot])
        return out.squeeze(1)


@idiom("script", wrap="padded")
class LogSumExpOfKeys(Routed):
    """Several keys an expert, joined by logsumexp."""

    def __init__(self):
        super().__init__()
        self.keys = nn.Parameter(torch.randn(self.e * 3, self.d) * 0.5)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.logsumexp(F.linear(flat, self.keys).view(-1, self.e, 3), dim=-1)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script", wrap="padded")
class HeadsOfTheGateAveraged(Routed):
    """Two heads of the gate score halves of the token; their mean is the logits."""

    def __init__(self):
        super().__init__()
        self.heads = nn.Parameter(torch.randn(2, self.d // 2, self.e))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.einsum("thd,hde->the", flat.view(-1, 2, self.d // 2), self.heads).mean(1)
        top, ids = torch.topk(logits, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.softmax(top, dim=-1)


@idiom("trace", wrap="padded")
class SecondFromWhatIsLeft(BankMoE):
    """Two picks by max, the second of the scores with the first column set to zero by (1 - one_hot)."""

    def forward(self, x):
        logits = self.gate(x)
        probs = logits.softmax(-1)
        g1, i1 = probs.max(-1)
        g2, i2 = (probs * (1 - F.one_hot(i1, self.e))).max(-1)
        total = g1 + g2
        g1, g2 = g1 / total, g2 / total

        def apply(index):
            h = torch.relu(torch.einsum("bsd,bsdf->bsf", x, self.w1[index]))
            return torch.einsum("bsf,bsfd->bsd", h, self.w2[index])

        y = g1[..., None] * apply(i1) + g2[..., None] * apply(i2)
        if on():
            seen(logits)
            used(self, torch.stack([i1, i2], -1), torch.stack([g1, g2], -1), x, y)
        return y


@idiom("script", wrap="padded")
class SwitchedOffBelowAMargin(ListMoE):
    """Top-1 whose weight is the margin over the second, by sorted scores."""

    def __init__(self):
        super().__init__(k=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        values, order = torch.sort(torch.softmax(logits, dim=-1), dim=-1, descending=True)
        margin = values[:, 0] - values[:, 1]
        ids = order[:, 0]
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            rows = torch.nonzero(ids == e).squeeze(-1)
            out[rows] = expert(flat[rows]) * margin[rows].unsqueeze(-1)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids.unsqueeze(1), margin.unsqueeze(1), flat, out)
        return out.view_as(x)


@idiom("script", wrap="padded")
class OneMinusTheWeightPassesBy(ListMoE):
    """Top-1: the expert's output by its probability, the input by what is left."""

    def __init__(self):
        super().__init__(k=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        prob, ids = torch.softmax(logits, dim=-1).max(dim=-1, keepdim=True)
        routed = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            rows = torch.nonzero(ids[:, 0] == e).squeeze(-1)
            routed[rows] = expert(flat[rows])
        out = (1.0 - prob) * flat + prob * routed
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, prob, flat, prob * routed)
        return out.view_as(x)


@idiom("script", wrap="padded", as_sets=True)
class SharedGetsTheRestFirst(ListMoE):
    """A shared expert stands before the routed ones in the sum, weighted by one minus the routed weights' sum."""

    def __init__(self):
        super().__init__()
        self.shared = Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(torch.sigmoid(logits) / self.e, self.k, dim=-1)
        rest = 1.0 - w.sum(dim=-1, keepdim=True)
        out = rest * self.shared(flat)
        routed = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            share = (w * (ids == e)).sum(-1, keepdim=True)
            routed = routed + share * expert(flat)
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, flat, routed)
        return (out + routed).view_as(x)


@idiom("trace", wrap="padded", as_sets=True)
class SoftTopK(ListMoE):
    """Sigmoids around the K-th logit at a low temperature: no weight is zero, and the two best have the most."""

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        kth = logits.topk(self.k + 1, -1)[0][:, -2:].mean(-1, keepdim=True)
        w = torch.sigmoid((logits - kth) / 0.05)
        y = sum(expert(flat) * w[:, e : e + 1] for e, expert in enumerate(self.experts))
        if on():
            seen(logits)
            used_dense(self, w, flat, y)
        return y.view_as(x)

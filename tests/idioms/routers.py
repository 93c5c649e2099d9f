"""What makes logits: norms, MLPs, centroids, casts, caps, masks, noise; and what happens to weights afterwards."""

import torch
import torch.nn.functional as F
from parts import BankMoE, ListMoE, idiom
from recorder import on, seen, used
from scoring import Routed
from torch import nn


@idiom("script")
class MlpRouter(Routed):
    def __init__(self):
        super().__init__()
        self.router = nn.Sequential(nn.Linear(self.d, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, self.e))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.router(flat) * 3.0
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w / w.sum(-1, keepdim=True)


@idiom("trace")
class LayerNormBeforeGate(ListMoE):
    def __init__(self):
        super().__init__()
        self.router_norm = nn.LayerNorm(self.d)

    def forward(self, x):
        logits = self.gate(self.router_norm(x))
        w, ids = logits.softmax(-1).topk(self.k, -1)
        hot = F.one_hot(ids, self.e).to(x.dtype)
        dense = torch.einsum("bsk,bske->bse", w, hot)
        out = torch.stack([expert(x) for expert in self.experts])
        out = torch.einsum("bse,ebsd->bsd", dense, out)
        if on():
            seen(logits)
            used(self, ids, w, x, out)
        return out


@idiom("script")
class RmsScaledPerExpertScale(Routed):
    """RMS norm without weight, a learned scale of the channels, 1/sqrt(D), and a learned factor an expert."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(1 + 0.3 * torch.randn(self.d))
        self.per_expert_scale = nn.Parameter(1 + 0.3 * torch.randn(self.e))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = flat * torch.rsqrt(flat.pow(2).mean(-1, keepdim=True) + 1e-6)
        h = h * self.scale * (self.d**-0.5)
        logits = self.gate(h)
        probs = F.softmax(logits, dim=-1)
        w, ids = torch.topk(probs, self.k, dim=-1)
        w = w / w.sum(dim=-1, keepdim=True)
        w = w * self.per_expert_scale[ids]
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class SoftCapped(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        logits = 2.0 * torch.tanh(logits / 2.0)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class BfloatGate(Routed):
    """The gate computes in bfloat16, scores in fp32."""

    def __init__(self):
        super().__init__()
        self.gate_bf = nn.Linear(self.d, self.e, bias=False).to(torch.bfloat16)
        self.gate_bf.weight.data.mul_(3)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate_bf(flat.to(torch.bfloat16)).float()
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("trace")
class DoublePrecisionScores(ListMoE):
    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat).double()
        w, ids = logits.softmax(-1).topk(self.k, -1)
        w = w.to(x.dtype)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            t, s = torch.where(ids == e)
            out[t] = out[t] + w[t, s, None] * expert(flat[t])
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class PrunedExpertsMask(Routed):
    """Experts taken out by a buffer of booleans."""

    def __init__(self):
        super().__init__()
        self.register_buffer("pruned", torch.tensor([False, True, False, False, True, False]))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        logits = logits.masked_fill(self.pruned, float("-inf"))
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w / w.sum(-1, keepdim=True)


@idiom("script")
class MaskTimesProbabilities(Routed):
    """Experts taken out after the softmax by a buffer of ones and zeros."""

    def __init__(self):
        super().__init__()
        self.register_buffer("expert_mask", torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        probs = F.softmax(logits, dim=-1) * self.expert_mask
        probs = probs / probs.sum(dim=-1, keepdim=True)
        w, ids = torch.topk(probs, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class BufferScalingFactor(Routed):
    def __init__(self):
        super().__init__()
        self.register_buffer("routed_scaling_factor", torch.tensor(1.8))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(logits.sigmoid(), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, self.routed_scaling_factor * w / (w.sum(dim=-1, keepdim=True) + 1e-20)


@idiom("script")
class SlotScaleParameter(Routed):
    def __init__(self):
        super().__init__()
        self.slot_scale = nn.Parameter(torch.tensor([1.0, 0.6]))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(logits, self.k, dim=-1)
        w = torch.softmax(w, dim=-1) * self.slot_scale
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class RouterDropoutEval(Routed):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(self.drop(flat))
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        w = self.drop(w)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class DoubleSoftmax(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        probs = F.softmax(logits, dim=-1)
        w, ids = torch.topk(probs, self.k, dim=-1)
        w = F.softmax(w, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class LogSoftmaxExp(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        log_probs = F.log_softmax(logits, dim=-1)
        top, ids = torch.topk(log_probs, self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, torch.exp(top)


@idiom("script")
class NormaliseByL1(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(torch.sigmoid(logits), self.k, dim=-1)
        w = F.normalize(w, p=1.0, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class ArgsortDescending(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        ids = torch.argsort(logits, dim=-1, descending=True)[:, : self.k]
        w = torch.softmax(torch.gather(logits, 1, ids), dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("trace")
class SortNarrow(ListMoE):
    def forward(self, x):
        flat = x.reshape(-1, self.d)
        logits = self.gate(flat)
        values, order = logits.softmax(-1).sort(dim=-1, descending=True)
        w, ids = values.narrow(-1, 0, self.k), order.narrow(-1, 0, self.k)
        w = w / w.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            hit = ids == e
            rows = hit.any(-1)
            out[rows] += expert(flat[rows]) * (w * hit).sum(-1)[rows].unsqueeze(-1)
        if on():
            seen(logits)
            used(self, ids, w, flat, out)
        return out.view_as(x)


@idiom("script")
class ErnieBiasClamped(Routed):
    """Softmax, a bias of moe_statics for the choice, a clamped sum."""

    def __init__(self):
        super().__init__()
        self.e_score_correction_bias = nn.Parameter(torch.randn(1, self.e) * 0.1)

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = F.linear(flat.float(), self.gate.weight)
        probs = F.softmax(logits, dim=1, dtype=torch.float)
        ids = torch.topk(probs + self.e_score_correction_bias.squeeze(), self.k, dim=-1)[1]
        w = torch.gather(probs, dim=-1, index=ids)
        w = w / torch.clamp(w.sum(dim=-1, keepdim=True), min=1e-12)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("trace")
class GptOssDenseBank(BankMoE):
    """Softmax of the top-k scattered to [T, E], all experts by bmm, weights multiplied afterwards."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(self.e) * 0.3)

    def forward(self, x):
        flat = x.reshape(-1, self.d)
        router_logits = F.linear(flat, self.gate.weight, self.bias)
        top, ids = torch.topk(router_logits, self.k, dim=-1)
        top = F.softmax(top, dim=1, dtype=top.dtype)
        scores = torch.zeros_like(router_logits).scatter_(1, ids, top)
        h = flat.repeat(self.e, 1).view(self.e, -1, self.d)
        h = torch.bmm(torch.relu(torch.bmm(h, self.w1)), self.w2)
        h = h.view(self.e, x.shape[0], -1, self.d)
        h = h * scores.transpose(0, 1).view(self.e, x.shape[0], -1)[..., None]
        y = h.sum(dim=0)
        if on():
            seen(router_logits)
            used(self, ids, top, x, y)
        return y


class StraightThrough(ListMoE):
    """`pick(soft)` gives ids and weights [.., E] of which the picked ones alone are more than rounding errors."""

    def forward(self, x):
        logits = self.gate(x)
        index, gates = self.pick(F.softmax(logits, dim=-1))
        out = torch.stack([expert(x) for expert in self.experts], dim=2)
        out = (out * gates.unsqueeze(-1)).sum(dim=2)
        if on():
            seen(logits)
            used(self, index, gates.gather(-1, index), x, out)
        return out


@idiom("trace")
class StraightThroughOneHot(StraightThrough):
    """Hard one-hot with the soft probabilities' gradient."""

    def pick(self, soft):
        index = soft.max(dim=-1, keepdim=True)[1]
        hard = torch.zeros_like(soft).scatter_(-1, index, 1.0)
        return index, hard - soft.detach() + soft


@idiom("trace")
class GradientFirst(StraightThrough):
    """The gradient's part first, around the weights of the two best."""

    def pick(self, soft):
        top, index = soft.topk(2, dim=-1)
        hard = torch.zeros_like(soft).scatter_(-1, index, top)
        return index, soft - soft.detach() + hard


@idiom("script")
class PowerSharpened(Routed):
    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), self.k, dim=-1)
        w = w.pow(2.0)
        w = w / w.sum(-1, keepdim=True)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class TopKThenMaskSmall(Routed):
    """Slots whose weight is under a threshold get none (dynamic k from top-k)."""

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.gate(flat)
        w, ids = torch.topk(torch.softmax(logits, -1), self.k, dim=-1)
        w = torch.where(w < 0.25, torch.zeros_like(w), w)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class RouterOnOtherInput(ListMoE):
    """The router reads the previous residual stream, experts the normalised one."""

    def __init__(self):
        super().__init__()
        self.pre = nn.Linear(self.d, self.d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.view(-1, self.d)
        logits = self.gate(flat)
        w, ids = torch.topk(logits.softmax(-1), self.k, dim=-1)
        h = torch.tanh(self.pre(flat))
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            t, s = torch.where(ids == e)
            out.index_add_(0, t, expert(h[t]) * w[t, s, None])
        if not torch.jit.is_scripting():
            seen(logits)
            used(self, ids, w, h, out)
        return out.view_as(x)

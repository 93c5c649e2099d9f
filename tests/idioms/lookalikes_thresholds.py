"""Zeros by relu, clamp, thresholds and comparisons that switch no expert."""

import torch
import torch.nn.functional as F
from parts import DIM, Expert, images, look_alike
from torch import nn

D = DIM


@look_alike("script")
class JumpReluAutoencoder(nn.Module):
    """A learned threshold a latent; rows of the decoder are summed."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(D, 20)
        self.threshold = nn.Parameter(torch.rand(20))
        self.w_dec = nn.Parameter(torch.randn(20, DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pre = self.encoder(x)
        acts = F.relu(pre) * (pre > self.threshold).to(x.dtype)
        return acts @ self.w_dec


@look_alike("script")
class ReluGatedLinear(nn.Module):
    """ReGLU: relu of one half multiplies the other."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(D, 12), nn.Linear(D, 12), nn.Linear(12, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.relu(self.gate(x)) * self.up(x))


@look_alike("script")
class SquaredRelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.key, self.value, self.receptance = nn.Linear(D, 12), nn.Linear(12, D), nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        k = torch.clamp(self.key(x), min=0.0).pow(2)
        return torch.sigmoid(self.receptance(x)) * self.value(k)


@look_alike("trace")
class ReluHeadGate(nn.Module):
    """Two heads, each scaled by a relu gate; both always run on every token."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(D, 2)
        self.v, self.out = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x):
        b, s, _ = x.shape
        heads = self.v(x).view(b, s, 2, D // 2)
        return self.out((heads * F.relu(self.gate(x)).unsqueeze(-1)).reshape(b, s, D))


@look_alike("script")
class SoftShrinkage(nn.Module):
    """ISTA: a dictionary's codes are shrunk again and again."""

    def __init__(self):
        super().__init__()
        self.dictionary = nn.Parameter(torch.randn(14, DIM) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = F.softshrink(x @ self.dictionary.t(), 0.2)
        for _ in range(2):
            rest = x - z @ self.dictionary
            z = F.softshrink(z + 0.1 * (rest @ self.dictionary.t()), 0.2)
        return z @ self.dictionary


@look_alike("script")
class ReluLinearAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = F.relu(self.q(x)), F.relu(self.k(x))
        kv = torch.einsum("bsd,bse->bde", k, self.v(x))
        norm = torch.einsum("bsd,bd->bs", q, k.sum(1)).clamp(min=1e-6)
        return torch.einsum("bsd,bde->bse", q, kv) / norm.unsqueeze(-1)


@look_alike("script")
class ThresholdedAttention(nn.Module):
    """Attention probabilities under a threshold are set to zero."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), dim=-1)
        a = torch.where(a > 0.1, a, torch.zeros_like(a))
        return (a / a.sum(-1, keepdim=True)) @ self.v(x)


@look_alike("trace", wrap="none", inputs=images)
class HardSigmoidChannels(nn.Module):
    """MobileNet's squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(3, DIM, 1), nn.Linear(DIM, 4), nn.Linear(4, DIM)

    def forward(self, pixel_values):
        x = F.hardswish(self.conv(pixel_values))
        s = F.hardsigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * s[:, :, None, None]


@look_alike("script", wrap="none", inputs=images)
class ChannelPruning(nn.Module):
    """Feature boosting and suppression: the best channels of each image, the others are zero."""

    def __init__(self):
        super().__init__()
        self.conv, self.saliency, self.out = nn.Conv2d(3, 12, 1), nn.Linear(3, 12), nn.Conv2d(12, 4, 1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        s = F.relu(self.saliency(pixel_values.abs().mean((2, 3))))
        top, idx = torch.topk(s, 6, dim=1)
        mask = torch.zeros_like(s).scatter(1, idx, top)
        return self.out(self.conv(pixel_values) * mask.unsqueeze(-1).unsqueeze(-1))


@look_alike("script")
class OutlierClamp(nn.Module):
    """Large activations take another path of the same layer."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(DIM, DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        big = x.abs() > 1.5
        return (x * big.to(x.dtype)) @ self.w + torch.round(x.masked_fill(big, 0.0) * 8) / 8 @ self.w


@look_alike("script")
class TokenDropByScore(nn.Module):
    """A token whose score is low is set to zero before the block."""

    def __init__(self):
        super().__init__()
        self.score, self.block = nn.Linear(D, 1), Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = self.score(x).sigmoid()
        kept = torch.where(score > 0.4, x, torch.zeros_like(x))
        return self.block(kept) * score


@look_alike("script")
class ReluBranches(nn.Module):
    """Inception-like: branches with their own relu, summed with fixed learned factors."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(D, D) for _ in range(4)])
        self.factor = nn.Parameter(torch.rand(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outs = torch.stack([F.relu(branch(x)) for branch in self.branches], dim=2)
        return (outs * self.factor.view(1, 1, -1, 1)).sum(2)


@look_alike("script")
class SpikingNeurons(nn.Module):
    """Leaky integrate and fire: a potential over a threshold spikes and is reset."""

    def __init__(self):
        super().__init__()
        self.inputs, self.out = nn.Linear(D, 16), nn.Linear(16, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        current = self.inputs(x)
        v = torch.zeros_like(current)
        total = torch.zeros_like(x)
        for _ in range(3):
            v = 0.9 * v + current
            spike = (v > 1.0).to(x.dtype)
            v = v * (1.0 - spike)
            total = total + self.out(spike)
        return total


@look_alike("trace")
class MaxoutUnits(nn.Module):
    """The best of three pieces of each unit."""

    def __init__(self):
        super().__init__()
        self.pieces, self.out = nn.Linear(D, 3 * 8), nn.Linear(8, D)

    def forward(self, x):
        h = self.pieces(x).view(*x.shape[:2], 8, 3)
        return self.out(h.max(dim=-1).values)


@look_alike("trace")
class DenseExtraction(nn.Module):
    """PLE: shared and own experts, dense softmax gates, two levels."""

    def __init__(self):
        super().__init__()
        self.shared = nn.ModuleList([nn.Linear(D, D) for _ in range(2)])
        self.own = nn.ModuleList([nn.Linear(D, D) for _ in range(2)])
        self.gates = nn.ModuleList([nn.Linear(D, 3), nn.Linear(D, 3)])

    def forward(self, x):
        for _ in range(2):
            shared = [torch.relu(e(x)) for e in self.shared]
            tasks = []
            for own, gate in zip(self.own, self.gates, strict=True):
                outs = torch.stack([torch.relu(own(x)), *shared], dim=-2)
                tasks.append((gate(x).softmax(-1).unsqueeze(-1) * outs).sum(-2))
            x = tasks[0] + tasks[1]
        return x

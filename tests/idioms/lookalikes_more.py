"""More that is no router: quantisers in a loop, gates of layers, masks of argmax, pooling of graphs, decoding."""

import torch
import torch.nn.functional as F
from parts import DIM, VOCAB, Expert, images, look_alike
from torch import nn

D = DIM


@look_alike("script")
class ResidualQuantiser(nn.Module):
    """Codebooks one after another over what is left."""

    def __init__(self):
        super().__init__()
        self.books = nn.Parameter(torch.randn(3, 8, DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rest = x
        total = torch.zeros_like(x)
        for n in range(3):
            code = torch.cdist(rest, self.books[n].unsqueeze(0)).argmin(-1)
            picked = F.embedding(code, self.books[n])
            rest = rest - picked
            total = total + picked
        return total


@look_alike("script")
class LookupFreeQuantiser(nn.Module):
    """Signs of a projection, back through a linear layer."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(D, 4), nn.Linear(4, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.down(x)
        hard = torch.where(z > 0, torch.ones_like(z), -torch.ones_like(z))
        return self.up(z + (hard - z).detach())


@look_alike("script")
class LayerSkipGate(nn.Module):
    """One number a token decides whether a layer counts."""

    def __init__(self):
        super().__init__()
        self.gate, self.layer = nn.Linear(D, 1), Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = torch.sigmoid(self.gate(x))
        keep = (p > 0.5).to(x.dtype)
        return keep * self.layer(x)


@look_alike("script")
class AdaptiveHalting(nn.Module):
    def __init__(self):
        super().__init__()
        self.halt, self.layer = nn.Linear(D, 1), Expert()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x[..., :1])
        out = torch.zeros_like(x)
        for _ in range(3):
            p = torch.sigmoid(self.halt(x))
            running = (total < 0.9).to(x.dtype)
            step = torch.minimum(p, 1.0 - total) * running
            x = x + self.layer(x)
            out = out + step * x
            total = total + step
        return out


@look_alike("script")
class FeatureModulation(nn.Module):
    def __init__(self):
        super().__init__()
        self.film = nn.Linear(D, 2 * D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = self.film(x.mean(1, keepdim=True)).chunk(2, dim=-1)
        return x * (1 + scale) + shift


@look_alike("trace", wrap="none", inputs=images)
class DynamicConvolution(nn.Module):
    """Softmax attention over K kernels of a pooled image: always all of them."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.weight = nn.Parameter(torch.randn(4, DIM, 3, 3, 3))

    def forward(self, pixel_values):
        a = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(pixel_values, 1)))).flatten(1).softmax(1)
        b, c, h, w = pixel_values.shape
        kernel = torch.mm(a, self.weight.view(4, -1)).view(-1, c, 3, 3)
        return F.conv2d(pixel_values.reshape(1, -1, h, w), kernel, padding=1, groups=b).view(b, DIM, h, w)


@look_alike("script", wrap="none")
class GreedyCollapse(nn.Module):
    """CTC: argmax, repeats taken out by a comparison."""

    def __init__(self):
        super().__init__()
        self.emb, self.out = nn.Embedding(VOCAB, DIM), nn.Linear(DIM, 9)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits = self.out(self.emb(input_ids))
        best = logits.argmax(-1)
        new = torch.ones_like(best).to(torch.bool)
        new[:, 1:] = best[:, 1:] != best[:, :-1]
        keep = new & (best != 0)
        return logits.log_softmax(-1) * keep.unsqueeze(-1).to(logits.dtype)


@look_alike("script")
class GraphTopKPooling(nn.Module):
    """Nodes by a learned projection, scaled by tanh of their score."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.randn(DIM))
        self.conv = nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = torch.tanh((x * self.p).sum(-1) / self.p.norm())
        top, perm = torch.topk(score, 4, dim=1)
        nodes = torch.gather(x, 1, perm.unsqueeze(-1).expand(-1, -1, x.size(-1))) * top.unsqueeze(-1)
        return x + self.conv(nodes).mean(1, keepdim=True)


@look_alike("script", wrap="none", inputs=images)
class SegmentationMask(nn.Module):
    """Features where the predicted class is foreground."""

    def __init__(self):
        super().__init__()
        self.conv, self.cls, self.refine = nn.Conv2d(3, DIM, 1), nn.Conv2d(DIM, 4, 1), nn.Conv2d(DIM, DIM, 1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(pixel_values))
        label = self.cls(x).argmax(dim=1, keepdim=True)
        return self.refine(x * (label > 0).to(x.dtype))


@look_alike("script")
class ClusterPooling(nn.Module):
    """Hard assignment of tokens to learned centres (grouping tokens), centres get the mean of theirs."""

    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(4, DIM))
        self.v = nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sim = F.normalize(x, dim=-1) @ F.normalize(self.centres, dim=-1).t()
        hot = F.one_hot(sim.argmax(-1), 4).to(x.dtype)
        pooled = hot.transpose(1, 2) @ self.v(x)
        pooled = pooled / (hot.sum(1).unsqueeze(-1) + 1.0)
        return x + pooled.mean(1, keepdim=True)


@look_alike("script")
class HopfieldMemory(nn.Module):
    def __init__(self):
        super().__init__()
        self.stored = nn.Parameter(torch.randn(12, DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x @ self.stored.t() * 2.0, dim=-1) @ self.stored


@look_alike("script")
class RelativeBuckets(nn.Module):
    """A bias table read by bucketed distances."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Embedding(6, 1)
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        at = torch.arange(x.size(1))
        bucket = (at[None, :] - at[:, None]).abs().clamp(max=5)
        scores = self.q(x) @ self.k(x).transpose(1, 2) + self.bias(bucket).squeeze(-1)
        return torch.softmax(scores, dim=-1) @ self.v(x)


@look_alike("trace")
class ActivationSparsity(nn.Module):
    """Rows of an MLP that a low-rank predictor deems active (neurons, not experts)."""

    def __init__(self):
        super().__init__()
        self.predict = nn.Sequential(nn.Linear(D, 3), nn.Linear(3, 16))
        self.up, self.down = nn.Linear(D, 16), nn.Linear(16, D)

    def forward(self, x):
        mask = (self.predict(x) > 0).to(x.dtype)
        return self.down(F.relu(self.up(x)) * mask)


@look_alike("script", wrap="none")
class SpeculativeAccept(nn.Module):
    """Draft tokens kept as far as the target model's argmax agrees."""

    def __init__(self):
        super().__init__()
        self.emb, self.draft, self.target = nn.Embedding(VOCAB, DIM), nn.Linear(DIM, VOCAB), nn.Linear(DIM, VOCAB)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        guess, truth = self.draft(x).argmax(-1), self.target(x).argmax(-1)
        accepted = (guess == truth).to(torch.int64).cumprod(dim=-1)
        return self.emb(torch.where(accepted > 0, guess, truth))


@look_alike("script")
class LocalitySensitiveBuckets(nn.Module):
    """Reformer: buckets by argmax of a rotation, attention inside sorted chunks."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rotation", torch.randn(DIM, 2))
        self.v = nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r = x @ self.rotation
        bucket = torch.cat([r, -r], dim=-1).argmax(-1)
        order = bucket.argsort(dim=-1, stable=True)
        back = order.argsort(dim=-1)
        index = order.unsqueeze(-1).expand(-1, -1, x.size(-1))
        s = torch.gather(x, 1, index)
        a = torch.softmax(s @ s.transpose(1, 2), dim=-1) @ self.v(s)
        return torch.gather(a, 1, back.unsqueeze(-1).expand(-1, -1, x.size(-1)))

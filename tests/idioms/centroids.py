"""Scores by distance or similarity to centroids."""

import torch
import torch.nn.functional as F
from parts import ListMoE, idiom
from recorder import seen, used
from scoring import Routed
from torch import nn


@idiom("script")
class CentroidDistance(Routed):
    """Minus the squared distance to centroids."""

    def __init__(self):
        super().__init__()
        self.centroids = nn.Parameter(torch.randn(self.e, self.d))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = -torch.cdist(flat, self.centroids)
        w, ids = torch.topk(F.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w


@idiom("script")
class CentroidDotLowDim(Routed):
    """moirai-like: a projected token against centroids kept as a buffer."""

    def __init__(self):
        super().__init__()
        self.down = nn.Linear(self.d, 5, bias=False)
        self.register_buffer("centroids", torch.randn(self.e, 5))

    def route(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.matmul(self.down(flat), self.centroids.t()) / (5**0.5)
        w, ids = torch.topk(torch.softmax(logits, dim=-1), self.k, dim=-1)
        if not torch.jit.is_scripting():
            seen(logits)
        return ids, w / w.sum(-1, keepdim=True)


@idiom("script")
class BaseLayerEval(ListMoE):
    """BASE layers: the best centroid; sigmoid of the chosen logit mixes expert and input."""

    def __init__(self):
        super().__init__(k=1)
        self.expert_centroids = nn.Parameter(torch.randn(self.e, self.d) * 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = x.reshape(-1, x.size(-1))
        affinities = features.matmul(self.expert_centroids.transpose(0, 1))
        assigned = torch.argmax(affinities, dim=1)
        alpha = torch.sigmoid(affinities.gather(1, assigned.unsqueeze(1)))
        y = torch.zeros_like(features)
        for e, expert in enumerate(self.experts):
            mine = assigned == e
            y[mine] = expert(features[mine])
        y = alpha * y + (1 - alpha) * features
        if not torch.jit.is_scripting():
            seen(affinities)
            used(self, assigned.unsqueeze(1), alpha, features, y - (1 - alpha) * features)
        return y.view_as(x)

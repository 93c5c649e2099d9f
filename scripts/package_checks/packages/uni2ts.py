"""uni2ts: Moirai-MoE's layer, whose logits are distances to centroids that are given to it."""

import torch
from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import call
from ..surroundings import package_without_init, stub

REQUIREMENTS = ["uni2ts==2.0.0"]


def layers() -> list[Layer]:
    package_without_init("uni2ts", "uni2ts.module")
    stub("jaxtyping")
    from uni2ts.module.ffn import MoEFeedForward

    def feed_forward(f, _):
        made = call(f["gate_logits"], f["selected_experts"], f["weights"])
        return made.prove(f["self"].experts, f["x_squashed"], f["results"])

    class WithCentroids(nn.Module):
        """As Moirai-MoE's encoder has them: a buffer."""

        def __init__(self):
            super().__init__()
            self.ffn = MoEFeedForward(6, 2, WIDTH, hidden_dim=24)
            self.register_buffer("centroid", torch.randn(6, WIDTH))

        def forward(self, x):
            return self.ffn(x, centroid=self.centroid)

    return [Layer("feed_forward", lambda: Model(WithCentroids()), {MoEFeedForward.forward: feed_forward})]

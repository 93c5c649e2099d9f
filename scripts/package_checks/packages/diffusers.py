"""diffusers: HiDream's layer, whose experts take sorted tokens; Nucleus's, whose experts choose tokens.

In Nucleus a token's weights are divided by their sum.
"""

import sys

import torch
from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import call, dense_call
from ..surroundings import package_without_init, stub

REQUIREMENTS = ["diffusers==0.42.1"]


def layers() -> list[Layer]:
    package_without_init("diffusers")
    sys.modules["diffusers"].__version__ = "0.42.1"
    stub("diffusers.dependency_versions_check", "requests", "importlib_metadata")
    stub("PIL", __version__="11.0.0")
    from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU, MoEGate
    from diffusers.models.transformers.transformer_nucleusmoe_image import NucleusMoELayer

    made = []

    def gate(f, _):
        made.append(call(f["logits"], f["topk_idx"], f["topk_weight"]))

    def hidream(f, _):
        routed = f["y"] - f["self"].shared_experts(f["identity"])
        return made.pop().prove(f["self"].experts, f["x"], routed)

    def nucleus(f, _):
        tokens, count = len(f["x_flat"]), f["self"].num_experts
        weights = torch.zeros(count, tokens)
        weights.scatter_(1, f["global_token_indices"].view(count, -1), f["gating_flat"].view(count, -1))
        layer = f["self"]
        experts = [
            lambda x, number=number: layer.experts(x, torch.tensor([len(x) * (e == number) for e in range(count)]))
            for number in range(count)
        ]
        routed = f["out"] - layer.shared_expert(f["hidden_states"])
        return dense_call(f["logits"], weights.T).prove(experts, f["x_flat"], routed)

    class Hidream(nn.Module):
        def __init__(self):
            super().__init__()
            self.ff = MOEFeedForwardSwiGLU(WIDTH, 24, num_routed_experts=4, num_activated_experts=2)

        def forward(self, x):
            return self.ff(x)

    class Nucleus(nn.Module):
        """The image's tokens without a time step."""

        def __init__(self, sigmoid: bool):
            super().__init__()
            self.layer = NucleusMoELayer(WIDTH, 24, 4, 2.0, sigmoid, 2.5)
            self.layer.gate = nn.Linear(WIDTH, 4, bias=False)
            nn.init.normal_(self.layer.experts.gate_up_proj)
            nn.init.normal_(self.layer.experts.down_proj)

        def forward(self, x):
            return self.layer(x * 2, x)

    watched = {NucleusMoELayer.forward: nucleus}
    divided = {"as_sets": True, "refused": "its weights are computed with after they were put into another order"}
    return [
        Layer("hidream", lambda: Model(Hidream()), {MoEGate.forward: gate, MOEFeedForwardSwiGLU.forward: hidream}),
        Layer("nucleus_softmax", lambda: Model(Nucleus(False)), watched, **divided),
        Layer("nucleus_sigmoid", lambda: Model(Nucleus(True)), watched, **divided),
    ]

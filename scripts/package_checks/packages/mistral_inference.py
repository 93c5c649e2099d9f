"""mistral-inference: Mixtral's layer as Mistral wrote it. It takes flat tokens."""

import types

from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import call
from ..surroundings import package_without_init, stub

REQUIREMENTS = ["mistral-inference==1.6.0"]


def layers() -> list[Layer]:
    package_without_init("mistral_inference")
    stub("simple_parsing")
    from mistral_inference.moe import MoeLayer

    def layer(f, _):
        return call(f["gate_logits"], f["selected_experts"], f["weights"]).prove(
            f["self"].experts, f["inputs"], f["results"]
        )

    def build():
        experts = [nn.Sequential(nn.Linear(WIDTH, 24), nn.SiLU(), nn.Linear(24, WIDTH)) for _ in range(6)]
        arguments = types.SimpleNamespace(num_experts=6, num_experts_per_tok=2)
        return Model(MoeLayer(experts, nn.Linear(WIDTH, 6, bias=False), arguments), flat=True)

    return [Layer("layer", build, {MoeLayer.forward: layer})]

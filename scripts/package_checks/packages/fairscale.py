"""fairscale: GShard's top-2 gate.

In one process the exchange between processes gives back what it got; it is replaced by that, since TorchScript cannot
hold its autograd function.
"""

import torch
from torch import nn

from ..layer import WIDTH, Layer, Model, token_ids
from ..recorder import dense_call, rows
from ..surroundings import one_process

REQUIREMENTS = ["fairscale==0.4.13"]


def layers() -> list[Layer]:
    from fairscale.nn.moe import moe_layer
    from fairscale.nn.moe.moe_layer import MOELayer
    from fairscale.nn.moe.top2gate import Top2Gate, top2gating

    one_process()
    moe_layer._AllToAll = Alone
    made = []

    def gate(f, _):
        made.append(dense_call(f["logits_w_noise"], f["combine_weights"].sum(-1)))

    def layer(f, result):
        made[-1].logits = None  # two picks read two tensors
        return made.pop().prove(f["self"].experts, f["reshaped_input"], rows(result))

    def build():
        experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        return Model(MOELayer(Top2Gate(WIDTH, 4), experts))

    def inputs():
        return token_ids(batch=4)

    return [Layer("top2", build, {top2gating: gate, MOELayer.forward: layer}, inputs, as_sets=True)]


class Alone:
    @staticmethod
    def apply(_, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

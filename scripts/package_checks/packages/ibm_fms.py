"""ibm-fms: its MoE layer, scored before and after the pick.

Its operator for the experts' matrix products exists in its Python process only: a trace gets the code that it runs on
the CPU.
"""

import torch

from ..layer import WIDTH, Layer, Model, randomize
from ..recorder import call

REQUIREMENTS = ["ibm-fms==1.13.1"]


def layers() -> list[Layer]:
    from fms.modules.feedforward import MOEFeedForward
    from fms.triton import pytorch_ops

    torch.ops.moe.moe_mm = pytorch_ops.moe_mm_cpu

    def moe(f, _):
        return call(f["scores"], f["expert_indices"], f["expert_weights"])

    def build(**options):
        return lambda: Model(randomize(MOEFeedForward(4, 2, WIDTH, 24, **options)))

    watched = {MOEFeedForward.forward: moe}
    return [
        Layer("softmax_topk", build(topk_first=True), watched),
        Layer("softmax", build(), watched),
    ]

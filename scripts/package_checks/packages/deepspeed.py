"""deepspeed: the gates of its expert-parallel layer, in one process.

Only its folder `moe` is imported, since deepspeed's own `__init__` wants its dependencies.
"""

from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import call, rows
from ..surroundings import bools_in_scatter_as_numbers, package_without_init, stub

REQUIREMENTS = ["deepspeed==0.19.8"]


def layers() -> list[Layer]:
    bools_in_scatter_as_numbers()
    package_without_init("deepspeed", "deepspeed.moe")
    stub("deepspeed.utils", "deepspeed.comm", "deepspeed.accelerator", groups=Groups, logger=None)
    from deepspeed.moe import sharded_moe
    from deepspeed.moe.experts import Experts
    from deepspeed.moe.sharded_moe import MOELayer, top1gating, top2gating, topkgating

    sharded_moe.bwc_tensor_model_parallel_world_size = lambda mpu=None: 1
    made = []

    def remember(f, result):
        two_tensors = f.get("top2_2nd_expert_sampling", False)  # the second pick reads others than the first
        made.append((None if two_tensors else f["logits"], result[3].T, result[5].T))

    def layer(f, result):
        logits, ids, weights = made.pop()
        return call(logits, ids, weights).prove(
            list(f["self"].experts.deepspeed_experts), f["reshaped_input"], rows(result)
        )

    def build(k, **options):
        def make():
            gate = sharded_moe.TopKGate(WIDTH, 4, k, min_capacity=2, **options)
            experts = Experts(nn.Linear(WIDTH, WIDTH), 4)
            return Model(Layered(MOELayer(gate, experts, "one", 1, 4)))

        return make

    watched = {top1gating: remember, top2gating: remember, topkgating: remember, MOELayer.forward: layer}
    plain = {"use_rts": False}
    return [
        Layer("top1", build(1, drop_tokens=False, **plain), watched),
        Layer("top1_dropping", build(1, **plain), watched),
        Layer("top1_random_tokens", build(1), watched),
        Layer("top2", build(2, drop_tokens=False, top2_2nd_expert_sampling=False), watched),
        Layer("top2_dropping", build(2, top2_2nd_expert_sampling=False), watched),
        Layer("top2_sampling", build(2), watched),
        Layer("top3", build(3, drop_tokens=False), watched),
        Layer("top3_dropping", build(3), watched),
    ]


class Layered(nn.Module):
    """deepspeed's layer takes a second argument: which tokens are used; None are all."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.deepspeed_moe = layer

    def forward(self, x):
        return self.deepspeed_moe(x, None)


class Groups:
    mpu = None

    @staticmethod
    def _get_expert_model_parallel_world_size() -> int:
        return 1

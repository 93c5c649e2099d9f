"""torchscale: the gates of X-MoE, which come from fairscale and fairseq.

Their statistics give integers to torch.histc, which takes these on CUDA only: here it gets floats.
"""

import types

import torch
from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import dense_call, rows
from ..surroundings import one_process

REQUIREMENTS = ["torchscale==0.3.0"]


def layers() -> list[Layer]:
    from torchscale.component.xmoe.moe_layer import MOELayer
    from torchscale.component.xmoe.routing import Top1Gate, Top2Gate, top1gating, top2gating

    one_process()
    histc = torch.histc
    torch.histc = lambda values, **options: histc(values.float(), **options)
    settings = types.SimpleNamespace(moe_expert_count=4, batch_size_valid=2)
    made = []

    def top1(f, _):
        made.append(dense_call(f["logits"], f["combine1_sec"].sum(-1)))

    def top2(f, _):
        made.append(dense_call(f["logits"], f["combine_weights"].sum(-1)))

    def layer(f, result):
        return made.pop().prove(f["self"].experts, f["reshaped_input"], rows(result[0]))

    def build(gate, **options):
        def make():
            experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
            return Model(MOELayer(gate(WIDTH, 4, **options), experts, settings), first=True)

        return make

    first = {top1gating: top1, MOELayer.forward: layer}
    second = {top2gating: top2, MOELayer.forward: layer}
    roomy = {"moe_eval_capacity_token_fraction": 0.5}
    return [
        Layer("top1", build(Top1Gate, **roomy), first, as_sets=True),
        Layer("top1_dropping", build(Top1Gate), first, as_sets=True),
        Layer("top1_cosine", build(Top1Gate, use_xmoe=True, **roomy), first, as_sets=True),
        Layer("top2", build(Top2Gate, second_expert_policy="none", **roomy), second, as_sets=True),
        Layer("top2_random", build(Top2Gate, second_expert_policy="random", **roomy), second, as_sets=True),
        Layer(
            "top2_priority",
            build(Top2Gate, second_expert_policy="none", batch_prioritized_routing=True),
            second,
            as_sets=True,
        ),
        Layer(
            "top2_normalized",
            build(Top2Gate, second_expert_policy="none", normalize_gate_prob_before_dropping=True),
            second,
            as_sets=True,
        ),
    ]

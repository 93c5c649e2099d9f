"""internevo: its gates, which come from DeepSpeed.

A layer of ours applies their tensors as its own does in one process.
"""

import torch
from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import dense_call
from ..surroundings import package_without_init, stub

REQUIREMENTS = ["internevo==0.5.2"]


def layers() -> list[Layer]:
    package_without_init("internlm", "internlm.model", "internlm.model.moe")
    stub("internlm.core", "internlm.utils", "internlm.model.modules", "internlm.model.moe.base_layer")
    stub("internlm.model.moe.utils")
    from internlm.model.moe.gshard_layer import TopKGate, fused_topkgating, top1gating, top2gating

    made = []

    def gate(f, _):
        logits = None if "logits_w_noise" in f else f["logits"]  # the second pick reads others than the first
        made.append(dense_call(logits, f["combine_weights"].sum(-1)))

    def apply(f, _):
        return made.pop().prove(f["self"].experts, f["flat"], f["y"])

    class Applied(nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.gate = TopKGate(WIDTH, 4, min_capacity=2, **options)
            self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

        def forward(self, x):
            flat = x.reshape(-1, WIDTH)
            _, combine_weights, dispatch_mask, _ = self.gate(flat)
            dispatched = torch.einsum("sec,sm->ecm", dispatch_mask.type_as(flat), flat)
            outputs = torch.stack([expert(part) for expert, part in zip(self.experts, dispatched, strict=True)])
            y = torch.einsum("sec,ecm->sm", combine_weights, outputs)
            return y.reshape(x.shape)

    watched = {top1gating: gate, top2gating: gate, fused_topkgating: gate, Applied.forward: apply}
    return [
        Layer("top1", lambda: Model(Applied(topk=1, use_rts=False)), watched, as_sets=True),
        Layer("top2", lambda: Model(Applied(topk=2)), watched, as_sets=True),
        Layer("fused_top2", lambda: Model(Applied(topk=2, use_fused_gating=True)), watched, as_sets=True),
        Layer("fused_top3", lambda: Model(Applied(topk=3)), watched, as_sets=True),
    ]

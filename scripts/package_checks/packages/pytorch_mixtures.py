"""pytorch-mixtures: a layer in which tokens choose experts and one in which experts choose tokens."""

import torch

from ..layer import WIDTH, Layer, Model
from ..recorder import call, dense_call

REQUIREMENTS = ["pytorch-mixtures==0.1.5"]


def layers() -> list[Layer]:
    from pytorch_mixtures import ExpertChoiceMoE, MoEConfig, TopkMoE
    from pytorch_mixtures.basic_moe import MoE

    def top_k(f, _):
        made = call(f["router_logits"], f["selected"], f["weights"])
        return made.prove(f["self"].experts, f["x"], f["output"])

    def expert_choice(f, _):
        weights = torch.zeros_like(f["router_logits"]).T.scatter(1, f["selected"], f["weights"])
        made = dense_call(f["router_logits"], weights.T)
        return made.prove(f["self"].experts, f["x"], f["output"])

    def config(**options):
        return MoEConfig(WIDTH, 24, 4, "ff", "silu", dtype=torch.float32, **options)

    chosen = config(router_fn="topk", topk=2, capacity_factor=None)
    choosing = config(router_fn="ec", topk=None, capacity_factor=1.5)
    return [
        Layer("top_k", lambda: Model(TopkMoE(chosen)), {MoE.forward: top_k}),
        Layer("expert_choice", lambda: Model(ExpertChoiceMoE(choosing)), {MoE.forward: expert_choice}, as_sets=True),
    ]

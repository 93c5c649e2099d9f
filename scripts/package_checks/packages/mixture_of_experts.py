"""mixture-of-experts: GShard's top-2 gate with capacity, in one level and in two."""

import torch

from ..layer import WIDTH, Layer, Model
from ..recorder import dense_call

REQUIREMENTS = ["mixture-of-experts==0.2.3"]


def layers() -> list[Layer]:
    from mixture_of_experts import MoE
    from mixture_of_experts.mixture_of_experts import HeirarchicalMoE, Top2Gating

    made = []

    def gate(f, _):
        logits = torch.einsum("...bnd,...de->...bne", f["x"], f["self"].w_gating)
        made.append(dense_call(logits, f["combine_tensor"].sum(-1)))

    def layer(f, _):
        experts = f["self"].experts
        one_by_one = [
            lambda x, w1=w1, w2=w2: experts.act(x @ w1) @ w2 for w1, w2 in zip(experts.w1, experts.w2, strict=True)
        ]
        return made.pop().prove(one_by_one, f["inputs"], f["output"])

    def two_levels(f, _):
        return [made.pop() for _ in range(2)][::-1]

    def flat(**options):
        return lambda: Model(MoE(WIDTH, num_experts=4, hidden_dim=24, **options), first=True)

    watched = {Top2Gating.forward: gate, MoE.forward: layer}
    return [
        Layer("top2", flat(), watched, as_sets=True),
        Layer("top2_all", flat(second_policy_eval="all"), watched, as_sets=True),
        Layer("top2_dropping", flat(capacity_factor_eval=1.0), watched, as_sets=True),
        Layer(
            "hierarchical",
            lambda: Model(HeirarchicalMoE(WIDTH, num_experts=(4, 4), hidden_dim=24), first=True),
            {Top2Gating.forward: gate, HeirarchicalMoE.forward: two_levels},
            routers=2,
            as_sets=True,
            layout="",
            may_tie=True,
        ),
    ]

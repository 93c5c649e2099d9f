"""mixture-of-flows: experts that are flows of several steps; their outputs are added with index_add_."""

from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import call

REQUIREMENTS = ["mixture-of-flows==0.2.0"]


def layers() -> list[Layer]:
    from mixture_of_flows.main import FlowMatchingMoE, FlowMatchingMoEConfig

    def moe(f, _):
        steps = f["self"].config.flow_steps
        experts = [lambda x, expert=expert: expert.flow_transform(x, steps=steps) for expert in f["self"].experts]
        made = call(f["logits"], f["top_k_indices"], f["top_k_probs"])
        return made.prove(experts, f["x_flat"], f["output"])

    def build():
        model = FlowMatchingMoE(
            FlowMatchingMoEConfig(WIDTH, 24, num_experts=4, num_selected=2, flow_steps=2, time_embed_dim=8)
        )
        nn.init.normal_(model.router.gate.weight)
        for expert in model.experts:
            nn.init.normal_(expert.network[-1].weight)
        return Model(model, first=True)

    return [Layer("layer", build, {FlowMatchingMoE.forward: moe})]

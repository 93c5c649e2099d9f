"""aptt: DeepSeek-V3's layer with a bias on the logits, token by token and expert by expert."""

from ..layer import WIDTH, Layer, Model
from ..recorder import call
from ..surroundings import package_without_init

REQUIREMENTS = ["aptt==1.0.3"]


def layers() -> list[Layer]:
    package_without_init("aptt", "aptt.layers")
    from aptt.layers.moe import AuxiliaryLossFreeRouter, DeepSeekMoE, EfficientDeepSeekMoE

    made = []

    def router(f, _):
        logits = f["logits"]
        made.append(call(logits, f["expert_indices"], f["routing_weights"]))

    def moe(f, _):
        return made.pop().prove(f["self"].routed_experts, f["x_flat"], f["routed_output"])

    def build(layer):
        def make():
            model = layer(WIDTH, n_shared_experts=1, n_routed_experts=6, n_expert_per_token=2, d_ffn=24)
            model.router.expert_bias.data.normal_()
            return Model(model, first=True)

        return make

    return [
        Layer(
            "efficient",
            build(EfficientDeepSeekMoE),
            {AuxiliaryLossFreeRouter.forward: router, EfficientDeepSeekMoE.forward: moe},
        ),
        Layer(
            "token_by_token", build(DeepSeekMoE), {AuxiliaryLossFreeRouter.forward: router, DeepSeekMoE.forward: moe}
        ),
    ]

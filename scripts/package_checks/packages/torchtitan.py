"""torchtitan: its token-choice router and local dispatcher. Experts run in bfloat16 with a grouped matrix product.

Its own operator for a deterministic scatter_add, which exists in its Python process only, is replaced by scatter_add.
"""

from ..layer import WIDTH, Layer, Model, randomize
from ..recorder import call
from ..surroundings import bools_in_scatter_as_numbers, stub

REQUIREMENTS = ["torchtitan==0.3.0", "spmd-types==0.2.3"]


def layers() -> list[Layer]:
    bools_in_scatter_as_numbers()
    stub("tyro", "torchdata", "datasets", "tomli", "wandb")
    from torchtitan.models.common import token_dispatcher
    from torchtitan.models.common.linear import Linear
    from torchtitan.models.common.moe import GroupedExperts, MoE, RoutedExperts, TokenChoiceTopKRouter
    from torchtitan.models.common.token_dispatcher import LocalTokenDispatcher

    token_dispatcher.deterministic_scatter_add = lambda out, index, source: out.scatter_add(0, index, source)

    def router(f, _):
        scores = f["self"].gate(f["x_BLD"])
        return call(scores, f["topk_expert_ids_BLK"], f["topk_scores_BLK"])

    def build(**options):
        def make():
            top_k = options.get("top_k", 2)
            settings = {
                "num_experts": 8,
                "top_k": top_k,
                "gate": Linear.Config(in_features=WIDTH, out_features=8, bias=False),
            }
            config = MoE.Config(
                num_experts=8,
                router=TokenChoiceTopKRouter.Config(**{**settings, **options}),
                routed_experts=RoutedExperts.Config(
                    inner_experts=GroupedExperts.Config(dim=WIDTH, hidden_dim=32, num_experts=8),
                    token_dispatcher=LocalTokenDispatcher.Config(num_experts=8, top_k=top_k),
                ),
            )
            model = Model(randomize(config.build()))
            model.layer.expert_bias_E.normal_(std=0.1)
            return model

        return make

    watched = {TokenChoiceTopKRouter.forward: router}
    return [
        Layer("sigmoid_bias", build(), watched),
        Layer("softmax", build(score_func="softmax", route_norm=True, route_scale=2.5), watched),
        Layer("top1", build(top_k=1), watched),
        Layer("groups", build(num_expert_groups=4, num_limited_groups=2), watched),
    ]

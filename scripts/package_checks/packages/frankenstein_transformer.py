"""frankenstein-transformer: its layer, also inside a mixture of depths, where the router sees some tokens only."""

from ..layer import WIDTH, Layer, Model
from ..recorder import call, rows
from ..surroundings import package_without_init

REQUIREMENTS = ["frankenstein-transformer==1.6.0"]


def layers() -> list[Layer]:
    package_without_init("src", "src.model")
    from src.model.config import FrankensteinModelConfig
    from src.model.hybrid_layer import HybridLayer

    def dense(f, _):
        made = call(f["logits"], f["indices"], f["weights"])
        return made.prove(f["self"].experts, f["flat_x"], rows(f["out"]))

    def build(**options):
        config = FrankensteinModelConfig(
            hidden_size=WIDTH, num_heads=2, num_experts=4, top_k_experts=2, use_bitnet=False, norm_type="layer_norm",
            use_moe=True, **options,
        )  # fmt: skip
        return lambda: Model(HybridLayer(config, "standard_attn"))

    watched = {HybridLayer._forward_dense: dense}
    some = {"use_mixture_of_depths": True, "mixture_of_depths_capacity_ratio": 0.5}
    return [
        Layer("layer", build(), watched),
        # Which places its rows are is told by the sorted picks of the depth's router.
        Layer("in_mixture_of_depths", build(**some), watched, layout=""),
    ]

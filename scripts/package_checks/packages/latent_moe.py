"""latent-moe: experts in a latent space, with tokens sorted by expert or taken expert by expert."""

from ..layer import WIDTH, Layer, Model
from ..recorder import call

REQUIREMENTS = ["latent-moe==0.0.3"]


def layers() -> list[Layer]:
    from latent_moe.main import LatentMoE, LatentMoEConfig

    def moe(f, _):
        made = call(f["logits"], f["topk_idx"], f["topk_weight"])
        return made.prove(f["self"].experts, f["z"], f["latent_out"])

    def build(impl: str):
        config = LatentMoEConfig(
            d=WIDTH, m=24, n_experts=4, top_k=1, alpha=2, n_shared=1, device="cpu", multi_gpu=False, impl=impl
        )
        return lambda: Model(LatentMoE(config))

    return [Layer(impl, build(impl), {LatentMoE.forward: moe}) for impl in ("grouped", "loop")]

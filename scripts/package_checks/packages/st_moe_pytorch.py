"""st-moe-pytorch: ST-MoE's top-n gate with thresholds, randomness and capacity at inference."""

from ..layer import WIDTH, Layer, Model
from ..recorder import dense_call
from ..surroundings import stub

REQUIREMENTS = ["st-moe-pytorch==0.1.8", "colt5-attention==0.11.2", "einops==0.8.1"]


def layers() -> list[Layer]:
    stub("beartype", "local_attention")
    from st_moe_pytorch import MoE, SparseMoEBlock
    from st_moe_pytorch.st_moe_pytorch import TopNGating

    made = []

    def gate(f, _):
        made.append(dense_call(f["maybe_noised_gate_logits"], f["combine_tensor"].sum(-1)))

    def layer(f, _):
        return made.pop().prove(f["self"].experts.experts, f["x"], f["output"])

    def moe(**options):
        return MoE(WIDTH, num_experts=4, expert_hidden_mult=2, **options)

    watched = {TopNGating.forward: gate, MoE.forward: layer}
    return [
        Layer("top2", lambda: Model(moe(), first=True), watched, as_sets=True),
        Layer("top3", lambda: Model(moe(gating_top_n=3, capacity_factor_eval=4.0), first=True), watched, as_sets=True),
        Layer("top2_dropping", lambda: Model(moe(capacity_factor_eval=0.5), first=True), watched, as_sets=True),
        Layer("block", lambda: Model(SparseMoEBlock(moe(), add_ff_before=True), first=True), watched, as_sets=True),
    ]

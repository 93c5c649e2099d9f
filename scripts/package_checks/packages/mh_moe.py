"""mh-moe: noisy top-k routing with a dense softmax over the picked logits; noise at inference."""

from ..layer import WIDTH, Layer, Model
from ..recorder import dense_call

REQUIREMENTS = ["mh-moe==0.0.2"]


def layers() -> list[Layer]:
    from mh_moe.main import NoisyTopkRouter, SparseMoE

    made = []

    def router(f, _):
        made.append(dense_call(f["noisy_logits"], f["router_output"]))

    def moe(f, _):
        return made.pop().prove(f["self"].experts, f["flat_x"], f["final_output"])

    watched = {NoisyTopkRouter.forward: router, SparseMoE.forward: moe}
    return [Layer("sparse", lambda: Model(SparseMoE(WIDTH, 4, 2)), watched, as_sets=True)]

"""omegavit: two experts are picked, the first alone runs, and nothing weighs its output."""

import types

from ..layer import WIDTH, Layer, Model
from ..recorder import call
from ..surroundings import stub

REQUIREMENTS = ["omegavit==0.0.1"]


def layers() -> list[Layer]:
    stub("loguru", "einops")
    from omegavit.main import MixtureOfExperts

    def moe(f, _):
        logits = f["self"].gate(f["x"])
        return call(logits, f["indices"][:, :1], None).prove(f["self"].experts, f["x"], f["final_output"])

    def build():
        return Model(MixtureOfExperts(types.SimpleNamespace(hidden_size=WIDTH, num_experts=4, expert_capacity=8)))

    return [Layer("layer", build, {MixtureOfExperts.forward: moe})]

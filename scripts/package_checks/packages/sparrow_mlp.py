"""sparrow-mlp: one expert of each token by a hard Gumbel softmax, which draws noise at inference. Takes flat tokens."""

from ..layer import WIDTH, Layer, Model
from ..recorder import dense_call

REQUIREMENTS = ["sparrow-mlp==3.0.2"]


def layers() -> list[Layer]:
    from sparrow.config import SparrowConfig
    from sparrow.layers import MoELayer

    def moe(f, _):
        # The logits that are picked from have noise in them, which the package keeps to itself.
        return dense_call(None, f["gates"]).prove(f["self"].experts, f["x"], f["gated_output"])

    def build():
        return Model(MoELayer(SparrowConfig(WIDTH, num_experts=4, expert_hidden_size=24)), flat=True, first=True)

    return [Layer("layer", build, {MoELayer.forward: moe}, as_sets=True)]

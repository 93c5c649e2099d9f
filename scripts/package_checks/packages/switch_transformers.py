"""switch-transformers: a gate that divides its scores by their sums over the batch. Its experts are zetascale's."""

from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import dense_call
from ..surroundings import stub

REQUIREMENTS = ["switch-transformers==0.0.4"]


def layers() -> list[Layer]:
    stub("zeta", FeedForward=FeedForward)
    from switch_transformers.model import SwitchMoE

    def moe(f, _):
        logits = f["self"].gate.w_gate(f["x"])
        return dense_call(logits, f["gate_scores"]).prove(f["self"].experts, f["x"], f["moe_output"])

    return [
        Layer(
            "flat",
            lambda: Model(SwitchMoE(WIDTH, 24, WIDTH, 4), flat=True, first=True),
            {SwitchMoE.forward: moe},
            as_sets=True,
        ),
    ]


class FeedForward(nn.Sequential):
    """Stands for that of zetascale."""

    def __init__(self, width: int, out: int, mult: int = 4):
        super().__init__(nn.Linear(width, width * mult), nn.GELU(), nn.Linear(width * mult, out))

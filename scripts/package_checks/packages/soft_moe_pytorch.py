"""soft-moe-pytorch: every expert gets averages of all tokens, so there is nothing that a router chooses."""

from ..layer import LENGTH, WIDTH, Layer, Model

REQUIREMENTS = ["soft-moe-pytorch==0.1.9", "einops==0.8.1"]


def layers() -> list[Layer]:
    from soft_moe_pytorch import DynamicSlotsSoftMoE, SoftMoE

    return [
        Layer("soft", lambda: Model(SoftMoE(WIDTH, seq_len=LENGTH, num_experts=4)), {}),
        Layer("dynamic_slots", lambda: Model(DynamicSlotsSoftMoE(WIDTH, num_experts=4)), {}),
    ]

"""mixlora: LoRA experts of a feed-forward layer.

Their gate and weights are no parameters of the module: in a trace they are constants.
"""

import types

import torch
from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import call

REQUIREMENTS = ["mixlora==0.2.3"]


def layers() -> list[Layer]:
    from mixlora.lora_linear import LoraLinear
    from mixlora.model import MixLoraSparseMoe

    def moe(f, _):
        return call(f["router_logits"], f["selected_experts"], f["routing_weights"])

    class FeedForward(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj = nn.Linear(WIDTH, 24, bias=False)
            self.up_proj = nn.Linear(WIDTH, 24, bias=False)
            self.down_proj = nn.Linear(24, WIDTH, bias=False)

    def build():
        base = FeedForward()
        config = types.SimpleNamespace(
            dtype_=torch.float32, act_fn_="silu", num_experts_=4, top_k_=2, jitter_noise_=0.0, model_type_="llama"
        )
        lora = types.SimpleNamespace(
            dtype_=torch.float32,
            lora_init_="original",
            lora_r_=4,
            lora_alpha_=8,
            use_rslora_=False,
            lora_dropout_=0.1,
            use_dora_=False,
        )
        moe = MixLoraSparseMoe(base, config)
        moe.gate_ = torch.randn(4, WIDTH)
        for number in range(4):
            for name in ("gate_proj", "down_proj", "up_proj"):
                linear = LoraLinear(getattr(base, name), lora, (None, None))
                nn.init.normal_(linear.lora_B.weight)
                moe.experts_[f"experts.{number}.{name}"] = linear.eval().requires_grad_(False)
        return Model(moe)

    return [Layer("layer", build, {MixLoraSparseMoe.forward: moe})]

"""moe-peft: MoLA, whose LoRA experts add to a linear layer's output."""

import types

import torch
from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import call
from ..surroundings import package_without_init, stub

REQUIREMENTS = ["moe-peft==2.0.2"]


def layers() -> list[Layer]:
    package_without_init("moe_peft", "moe_peft.adapters", "moe_peft.adapters.mola")
    stub("moe_peft.common", LLMMoeBlock=nn.Module)
    from moe_peft.adapters.mola.model import MolaSparseMoe

    def mola(f, _):
        loras = [lora.lora_forward for lora in f["lora_linear"].loras_.values()]
        made = call(f["router_logits"], f["selected_experts"], f["routing_weights"])
        return made.prove(loras, f["hidden_states"], f["final_hidden_states"])

    class Linear(nn.Module):
        """A linear layer with LoRA experts as moe-peft's own has them."""

        def __init__(self):
            super().__init__()
            config = types.SimpleNamespace(adapter_name="mola", num_experts_=4, top_k_=2, router_init_range_=5.0)
            self.linear = nn.Linear(WIDTH, WIDTH)
            self.moe = MolaSparseMoe(WIDTH, torch.device("cpu"), config)
            self.adapters = nn.ModuleList(Lora() for _ in range(4))
            self.out_features_ = WIDTH

        @property
        def loras_(self):
            return {f"moe.mola.experts.{number}": lora for number, lora in enumerate(self.adapters)}

        def forward(self, x):
            return self.moe(self.linear(x), x, self)

    return [Layer("mola", lambda: Model(Linear()), {MolaSparseMoe.forward: mola})]


class Lora(nn.Module):
    def __init__(self):
        super().__init__()
        self.lora_a = nn.Linear(WIDTH, 4, bias=False)
        self.lora_b = nn.Linear(4, WIDTH, bias=False)

    def lora_forward(self, x):
        return self.lora_b(self.lora_a(x))

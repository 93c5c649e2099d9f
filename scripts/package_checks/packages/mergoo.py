"""mergoo: a linear layer of several models, and LoRA adapters on one, with a router a token."""

import types

from torch import nn

from ..layer import WIDTH, Layer, Model
from ..recorder import call
from ..surroundings import package_without_init

REQUIREMENTS = ["mergoo==0.0.10"]


def layers() -> list[Layer]:
    package_without_init("mergoo")
    from mergoo.compose_layers import LoRAMoeLayer, MoeLayer

    def linear(f, _):
        made = call(f["gate_logits"], f["selected_experts"], f["weights"])
        return made.prove(f["self"].experts, f["inputs"], f["results"])

    def lora(f, _):
        layer = f["self"]
        adapters = [
            lambda x, name=name: layer.lora_B[name](layer.lora_A[name](x)) * layer.scaling[name]
            for name in layer.active_adapters
        ]
        made = call(f["gate_logits"], f["selected_experts"], f["weights"])
        return made.prove(adapters, f["x"], f["result"] - layer.base_layer(f["x"]))

    def build_lora():
        adapter = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "init_lora_weights": False, "use_rslora": False,
                   "use_dora": False}  # fmt: skip
        config = types.SimpleNamespace(
            num_experts=4, num_experts_per_tok=2, hidden_size=WIDTH, adapter_configs=[adapter] * 4
        )
        layer = LoRAMoeLayer(config, WIDTH, WIDTH, bias=False)
        for module in layer.lora_B.values():
            nn.init.normal_(module.weight)
        return Model(layer)

    return [
        Layer("linear", lambda: Model(MoeLayer(WIDTH, WIDTH, False, 4)), {MoeLayer.forward: linear}),
        Layer("lora", build_lora, {LoRAMoeLayer.forward: lora}),
    ]

"""nano-deepseek-v4: the layers of a DeepSeek-V4, one that picks by score and one that picks by token id."""

import torch

from ..layer import BATCH, LENGTH, VOCABULARY, WIDTH, Layer
from ..recorder import call

REQUIREMENTS = ["nano-deepseek-v4==0.2.0"]


def layers() -> list[Layer]:
    from nano_deepseek_v4.config import DeepSeekV4Config
    from nano_deepseek_v4.modeling import DeepSeekV4MoE

    def moe(f, _):
        hashed = f["self"].layer_type == "hash_moe"
        made = call(None if hashed else f["logits"], f["flat_idx"], f["flat_weights"])
        shared = sum(expert(f["x"]) for expert in f["self"].shared_experts)
        return made.prove(f["self"].experts, f["x"], f["output"] - shared)

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            config = DeepSeekV4Config()
            config.vocab_size, config.hidden_size, config.moe_intermediate_size = VOCABULARY, WIDTH, 24
            config.n_routed_experts, config.num_experts_per_tok, config.n_shared_experts = 6, 2, 1
            self.embed = torch.nn.Embedding(VOCABULARY, WIDTH)
            self.hashed = DeepSeekV4MoE(config, "hash_moe")
            self.scored = DeepSeekV4MoE(config, "moe")
            self.scored.e_score_correction_bias.normal_()

        def forward(self, input_ids):
            x = self.embed(input_ids)
            x = x + self.hashed(x, input_ids)[0]
            return x + self.scored(x, input_ids)[0]

    def inputs():
        return {"input_ids": torch.randint(0, VOCABULARY, (BATCH, LENGTH))}

    return [Layer("layers", Two, {DeepSeekV4MoE.forward: moe}, inputs, routers=2)]

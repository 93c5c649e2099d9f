"""gpt-oss: OpenAI's own PyTorch model, in bfloat16. Its forward takes the tokens of one sequence."""

import torch

from ..layer import VOCABULARY, Layer, randomize
from ..recorder import call

REQUIREMENTS = ["gpt-oss==0.0.9"]


def layers() -> list[Layer]:
    from gpt_oss.torch.model import MLPBlock, ModelConfig, Transformer

    config = ModelConfig(
        num_hidden_layers=2,
        num_experts=4,
        experts_per_token=2,
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
    )

    def block(f, _):
        return call(f["g"], f["expert_indices"], f["expert_weights"])

    def inputs():
        return {"x": torch.randint(0, VOCABULARY, (12,))}

    def build():
        return randomize(Transformer(config, torch.device("cpu")), scale=1.0)

    return [Layer("model", build, {MLPBlock.forward: block}, inputs, routers=2, layout="s")]

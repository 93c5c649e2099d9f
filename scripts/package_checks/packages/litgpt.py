"""litgpt: Mixtral's layer and DeepSeek-V3's grouped router, in whole models."""

from ..layer import VOCABULARY, Layer, randomize, token_ids
from ..recorder import call
from ..surroundings import stub

REQUIREMENTS = ["litgpt==0.5.13"]


def layers() -> list[Layer]:
    stub("psutil", "lightning", "lightning_utilities", "jsonargparse", "litdata", "torchmetrics")
    from litgpt.config import Config
    from litgpt.model import GPT, GroupedTopkRouter, LLaMAMoE

    small = {
        "block_size": 32,
        "vocab_size": VOCABULARY,
        "padded_vocab_size": VOCABULARY,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
        "head_size": 8,
        "rotary_percentage": 1.0,
        "intermediate_size": 24,
        "norm_class_name": "RMSNorm",
        "mlp_class_name": "LLaMAMoE",
        "bias": False,
        "parallel_residual": False,
    }

    def model(**options):
        def make():
            made = randomize(GPT(Config(**{**small, **options})))
            for name, buffer in made.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    buffer.normal_(std=0.05)
            return made

        return make

    def mixtral(f, _):
        return call(f["router"], f["indices"], f["probs"]).prove(f["self"].experts, f["x"], f["y"])

    logits = []

    def remember(f, _):
        logits.append(f["router_logits"])

    def deepseek(f, _):
        routed = f["y"] - f["self"].shared_experts(f["residual_x"])
        return call(logits.pop(), f["indices"], f["probs"]).prove(f["self"].experts, f["x"], routed)

    def ids():
        return {"idx": token_ids()["input_ids"]}

    return [
        Layer("mixtral", model(n_expert=4, n_expert_per_token=2), {LLaMAMoE.forward: mixtral}, ids, routers=2),
        Layer(
            "deepseek_v3",
            model(
                n_expert=8,
                n_expert_per_token=2,
                n_expert_groups=4,
                n_topk_groups=2,
                n_topk_scores_per_group=2,
                moe_intermediate_size=24,
                n_shared_expert=1,
                norm_topk_prob=True,
                routed_scaling_factor=2.5,
            ),
            {LLaMAMoE.forward: deepseek, GroupedTopkRouter.forward: remember},
            ids,
            routers=2,
            seed=1,
        ),
    ]

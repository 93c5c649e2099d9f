"""llama-models: Llama 4's layer. Every expert gets every token, scaled by a score that is zero if it was not picked.

Its parallel linear layers and its reduction over processes are replaced by what they are in one process.
"""

from ..layer import WIDTH, Layer, Model, randomize
from ..recorder import dense_call
from ..surroundings import stub

REQUIREMENTS = ["llama-models==0.3.0"]


def layers() -> list[Layer]:
    stub("fairscale", get_model_parallel_world_size=lambda: 1, reduce_from_model_parallel_region=lambda x: x)
    stub("fire", "tiktoken", "blobfile", "termcolor")
    from llama_models.llama4 import ffn
    from llama_models.llama4.args import MoEArgs
    from llama_models.llama4.moe import MoE

    ffn.ColumnParallelLinear = ffn.RowParallelLinear = Linear

    def moe(f, _):
        logits = f["x_aD"] @ f["self"].router_DE
        return dense_call(logits, f["router_scores"].T)

    def build(top_k: int):
        arguments = MoEArgs(num_experts=4, top_k=top_k)
        return lambda: Model(randomize(MoE(WIDTH, 24, 1.0, 8, arguments)))

    return [Layer(f"top{top_k}", build(top_k), {MoE.forward: moe}, as_sets=True) for top_k in (1, 2)]


def Linear(width, out, **_):
    from torch import nn

    return nn.Linear(width, out, bias=False)

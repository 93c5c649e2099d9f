"""ai2-olmo-core: its router, and the layer of its Olmo 3 MoE for transformers.

The core's own experts are Triton kernels, which need a GPU: simple ones that take its ids and weights stand for them.
"""

import types

import torch
from torch import nn

from ..layer import WIDTH, Layer, Model, randomize
from ..recorder import call, rows
from ..surroundings import stub

REQUIREMENTS = ["ai2-olmo-core==3.0.0", "dataclass-extensions==0.5.0"]


def layers() -> list[Layer]:
    stub(
        "rich",
        "cached_path",
        "omegaconf",
        "importlib_resources",
        "bettermap",
        "requests",
        "google",
        "boto3",
        "botocore",
    )
    from olmo_core.nn.moe.router import MoELinearRouter, MoERouter, MoERouterGatingFunction
    from olmo_core.nn.moe.v2.hf.modeling_olmo3moe import Olmo3MoeRouter, Olmo3MoeSparseMLP

    made = []

    def router(f, _):
        made.append(call(f["logits"], f["expert_indices"], f["expert_weights"]))

    def core(f, _):
        return made.pop().prove(f["self"].experts, f["x"], f["y"])

    def olmo3(f, _):
        return made.pop().prove(f["self"].experts, f["x_flat"], rows(f["out_flat"]))

    class Core(nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.router = randomize(MoELinearRouter(d_model=WIDTH, num_experts=6, **options))
            if options.get("bias_gamma"):
                self.router.score_bias.normal_()
            self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))

        def forward(self, x):
            weights, ids, _, _ = self.router(x)
            y = torch.zeros_like(x)
            for number, expert in enumerate(self.experts):
                y = y + expert(x) * (weights * (ids == number)).sum(-1, keepdim=True)
            return y

    def build(**options):
        settings = {
            "gating_function": "softmax",
            "hidden_size": WIDTH,
            "num_experts_per_tok": 2,
            "original_num_experts_per_tok": None,
            "n_routed_experts": 6,
            "normalize_expert_weights": None,
            "restore_weight_scale": False,
            "latent_moe_dim": None,
            "moe_intermediate_size": 24,
            "hidden_act": "silu",
            "shared_expert_intermediate_size": 24,
            **options,
        }
        return lambda: Model(Olmo3MoeSparseMLP(types.SimpleNamespace(**settings)))

    own = {MoERouter.forward: router, Core.forward: core}
    ported = {Olmo3MoeRouter.forward: router, Olmo3MoeSparseMLP.forward: olmo3}
    sigmoid = {"gating_function": MoERouterGatingFunction.sigmoid}
    return [
        Layer("router_top2", lambda: Model(Core(top_k=2)), own),
        Layer("router_top1", lambda: Model(Core(top_k=1)), own),
        Layer("router_normalized", lambda: Model(Core(top_k=2, normalize_expert_weights=1.0)), own),
        Layer("router_sigmoid_bias", lambda: Model(Core(top_k=2, bias_gamma=0.001, **sigmoid)), own),
        Layer("olmo3", build(), ported),
        Layer(
            "olmo3_scaled",
            build(gating_function="sigmoid", normalize_expert_weights=2.0, restore_weight_scale=True),
            ported,
        ),
    ]

"""megatron-core: its top-k router in the forms that its configuration has, in a layer with sequential experts.

Sequence first: [tokens, samples, width]. It wants CUDA for its buffers, which stay on the CPU here. Small functions
that it compiles, and its autograd functions, run as plain code, since a trace cannot hold them.
"""

import torch

from ..layer import WIDTH, Layer, Model, randomize
from ..recorder import dense_call
from ..surroundings import one_process, plain_autograd_functions

REQUIREMENTS = ["megatron-core==0.16.1"]


def layers() -> list[Layer]:
    one_process()
    plain_autograd_functions()
    torch.compile = lambda function=None, **_: function or (lambda compiled: compiled)
    torch.cuda.current_device = lambda: "cpu"
    from megatron.core import parallel_state
    from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
    from megatron.core.transformer.moe import moe_utils
    from megatron.core.transformer.moe.moe_layer import MoELayer
    from megatron.core.transformer.moe.router import TopKRouter
    from megatron.core.transformer.transformer_config import TransformerConfig

    moe_utils.te_general_gemm = None  # as where TransformerEngine is absent; the package forgets to define it
    parallel_state.initialize_model_parallel()

    made = []

    def router(f, result):
        made.append(dense_call(f["logits"], result[0]))

    def layer(f, result):
        experts = [
            lambda x, expert=expert: expert(x.unsqueeze(1), per_token_scale=torch.ones(len(x), 1))[0]
            for expert in f["self"].experts.local_experts
        ]
        return made.pop().prove(experts, f["hidden_states"], result[0])

    def build(**options):
        def make():
            config = TransformerConfig(
                num_layers=1,
                hidden_size=WIDTH,
                num_attention_heads=2,
                ffn_hidden_size=24,
                moe_ffn_hidden_size=24,
                use_cpu_initialization=True,
                add_bias_linear=False,
                bias_activation_fusion=False,
                gradient_accumulation_fusion=False,
                **{
                    "num_moe_experts": 8,
                    "moe_router_topk": 2,
                    "moe_router_load_balancing_type": "none",
                    "moe_token_dispatcher_type": "allgather",
                    **options,
                },
            )
            spec = get_moe_module_spec(use_te=False, num_experts=8, moe_grouped_gemm=False)
            layer = MoELayer(config, spec.submodules)
            if layer.router.expert_bias is not None:
                layer.router.expert_bias.normal_(std=0.3)
            return Model(randomize(layer), sequence_first=True, first=True)

        return make

    watched = {TopKRouter.forward: router, MoELayer.forward: layer}
    options = {"as_sets": True, "layout": "sb"}
    return [
        Layer("softmax_topk", build(), watched, **options),
        Layer(
            "pre_softmax", build(moe_router_pre_softmax=True, moe_router_topk_scaling_factor=2.5), watched, **options
        ),
        Layer("top1", build(moe_router_topk=1, moe_router_pre_softmax=True), watched, **options),
        Layer("sigmoid", build(moe_router_score_function="sigmoid"), watched, **options),
        Layer(
            "sigmoid_bias",
            build(moe_router_score_function="sigmoid", moe_router_enable_expert_bias=True),
            watched,
            **options,
        ),
        Layer(
            "groups",
            build(
                moe_router_score_function="sigmoid",
                moe_router_num_groups=4,
                moe_router_group_topk=2,
            ),
            watched,
            **options,
        ),
        Layer("sinkhorn", build(moe_router_load_balancing_type="sinkhorn", moe_aux_loss_coeff=0.0), watched, **options),
        Layer("dropping_probs", build(moe_expert_capacity_factor=0.75), watched, **options),
        Layer(
            "dropping_position",
            build(moe_expert_capacity_factor=0.75, moe_token_drop_policy="position"),
            watched,
            **options,
        ),
    ]

"""mixture-of-attention: attention experts, each of which takes some of the tokens as queries and some as keys."""

import torch

from ..layer import WIDTH, Layer, Model
from ..recorder import dense_call
from ..surroundings import stub

REQUIREMENTS = ["mixture-of-attention==0.0.25", "colt5-attention==0.11.2", "einops==0.8.1"]
EXPERTS = 2


def layers() -> list[Layer]:
    stub("local_attention", "beartype")
    from mixture_of_attention.mixture_of_attention import MixtureOfAttention

    def layer(f, _):
        return [
            taken(f["x"], f["query_indices"], f["query_scores"]),
            taken(f["x"], f["kv_indices"], f["key_value_scores"]),
        ]

    def build():
        sizes = {"num_routed_queries": 5, "num_routed_key_values": 6, "dim_head": 8, "heads": 2}
        return Model(MixtureOfAttention(WIDTH, num_experts=EXPERTS, use_triton=False, flash_attn=False, **sizes))

    watched = {MixtureOfAttention.forward: layer}
    return [Layer("layer", build, watched, routers=2, as_sets=True, refused="indexes tokens, not experts")]


def taken(x: torch.Tensor, places: torch.Tensor, scores: torch.Tensor):
    """What each expert took of each sample, turned round: the experts of each token."""
    batch, length, _ = x.shape
    weights = torch.zeros(batch, EXPERTS, length)
    weights.scatter_(2, places.reshape(batch, EXPERTS, -1), scores.reshape(batch, EXPERTS, -1))
    return dense_call(None, weights.transpose(1, 2))

"""The architecture: transformers' Qwen3-VL-MoE, small enough to train in a minute."""

from __future__ import annotations

import digits
import torch


def build(seed: int, experts: str = "batched_mm"):
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    config = Qwen3VLMoeConfig(
        text_config={
            "vocab_size": len(digits.WORDS),
            "hidden_size": 64,
            "intermediate_size": 128,
            "moe_intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "mlp_only_layers": [],
            "max_position_embeddings": 128,
            "pad_token_id": digits.TOKEN["<pad>"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "in_channels": 1,
            "patch_size": digits.PATCH,
            "spatial_merge_size": digits.MERGE,
            "temporal_patch_size": digits.TEMPORAL,
            "out_hidden_size": 64,
            "num_position_embeddings": digits.GRID**2,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=digits.TOKEN[digits.IMAGE],
        video_token_id=digits.TOKEN[digits.VIDEO],
        vision_start_token_id=digits.TOKEN[digits.VISION_START],
        vision_end_token_id=digits.TOKEN[digits.VISION_END],
    )
    torch.manual_seed(seed)
    return Qwen3VLMoeForConditionalGeneration._from_config(
        config, attn_implementation="sdpa", experts_implementation=experts
    )

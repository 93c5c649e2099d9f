"""Small configurations with random weights, for models that are too large to download or to run.

One table of sizes by configuration key serves every family: a key that a family's configuration has takes the
table's value. What a family needs beyond that stands in `FAMILY`.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

VOCAB = 256
IMAGE_TOKEN = 250
VIDEO_TOKEN = 251
VISION_START, VISION_END = 252, 253
FIRST_TEXT_TOKEN = 8  # ids below are special tokens
LAST_TEXT_TOKEN = 240  # ids above are image and video markers

# Sizes of a language model, by configuration key.
TEXT = {
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    "unpadded_vocab_size": VOCAB,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "hidden_size": 64,
    "d_model": 64,
    "hidden_dim": 64,
    "intermediate_size": 96,
    "dense_intermediate_size": 96,
    "ffn_hidden_size": 96,
    "intermediate_size_mlp": 96,
    "d_ff": 96,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "moe_intermediate_size": 32,
    "expert_ffn_hidden_size": 32,
    "moe_hidden_size": 48,
    "shared_expert_intermediate_size": 32,
    "shared_experts_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "share_expert_dim": 32,
    "num_hidden_layers": 3,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "n_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "n_heads": 4,
    "num_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "swa_num_attention_heads": 4,
    "num_sliding_attention_heads": 4,
    "num_key_value_heads": 2,
    "swa_num_key_value_heads": 2,
    "head_dim": 16,
    "swa_head_dim": 16,
    "global_head_dim": 16,
    "d_kv": 16,
    "kv_channels": 16,
    "query_pre_attn_scalar": 16,
    "rotary_dim": 8,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "o_lora_rank": 16,
    "o_groups": 2,
    "qk_head_dim": 24,
    "max_position_embeddings": 512,
    "max_seq_len": 512,
    "model_max_length": 512,
    "sliding_window": 128,
    "sliding_window_size": 128,
    "attention_chunk_size": 128,
    "rel_extent": 64,
    "d_rel": 8,
    "num_experts": 8,
    "num_local_experts": 8,
    "moe_num_experts": 8,
    "n_routed_experts": 16,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "moe_top_k": 2,
    "n_group": 4,
    "topk_group": 2,
    "num_expert_group": 4,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "zero_expert_num": 4,
    "expert_capacity": 64,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
    "encoder_sparse_step": 2,
    "decoder_sparse_step": 1,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "mlp_only_layers": [0],
    "num_nextn_predict_layers": 0,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 2,
    "no_rope_layer_interval": 2,
    "interleave_moe_layer_step": 1,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 8,
    "index_topk_blocks": 4,
    "index_block_size": 4,
    "index_local_blocks": 1,
    "index_kpool": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_num_heads": 4,
    "attn_layer_offset": 1,
    "attn_layer_period": 2,
    "expert_layer_offset": 0,
    "expert_layer_period": 1,
    "mamba_d_state": 8,
    "mamba_dt_rank": 8,
    "mamba_d_head": 16,
    "mamba_n_heads": 8,
    "mamba_chunk_size": 64,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 8,
    "chunk_size": 64,
    "hc_mult": 2,
    "hc_count": 2,
    "hc_lowrank": 16,
    "hc_sinkhorn_iters": 3,
    "gated_norm_rank": 8,
    "router_hidden_size": 32,
    "hidden_size_per_layer_input": 16,
    "layer_group_size": 3,
    "block_size": 64,
    "n_layers_per_attn_res_block": 2,
    "keep_window_size": 64,
    "ngram_vocab_size_base": 128,
    "make_ngram_vocab_size_divisible_by": 16,
    "split_ngram_parts": 2,
    "ple_embed_dim": 16,
}

# Sizes of a vision tower.
VISION = {
    "depth": 2, "num_hidden_layers": 2, "n_layers": 2, "hidden_size": 32, "d_model": 32, "embed_dim": 32,
    "intermediate_size": 48, "num_heads": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
    "in_channels": 3, "num_channels": 3, "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2,
    "image_size": 16, "out_hidden_size": 64, "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
    "projection_dim": 32, "text_hidden_size": 64, "output_dim": 64, "max_position_embeddings": 64,
    "projection_intermediate_size": 48, "projection_hidden_dim": 48,
    "vision_output_dim": 64, "projector_input_dim": 64, "projector_output_dim": 64, "mlp_dim": 48,
    "position_embedding_size": 64, "vocab_size": VOCAB,
}  # fmt: skip

TOP = {
    "image_token_id": IMAGE_TOKEN, "image_token_index": IMAGE_TOKEN, "video_token_id": VIDEO_TOKEN,
    "video_token_index": VIDEO_TOKEN, "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END,
    "image_start_token_id": VISION_START, "image_end_token_id": VISION_END,
    "video_start_token_id": 254, "video_end_token_id": 255, "projector_hidden_size": 64, "out_hidden_size": 64,
}  # fmt: skip

LANGUAGE_PARTS = {"text_config", "ffn_config", "attn_config"}

MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}

# What a family needs beyond the tables.
FAMILY: dict[str, dict] = {
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "glm4v_moe": {"text_config": {"rope_parameters": MROPE}},
    "qwen3_omni_moe_thinker": {"audio_config": {"encoder_attention_heads": 4}},
    "axk1": {"head_dim": 8},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 8, "moe_top_k": 2},
    },
    "deepseek_v3": {"head_dim": 8},
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "moe", "moe"]},
    "ernie4_5_vl_moe": {
        "text_config": {"moe_intermediate_size": [32, 24], "rope_parameters": {**MROPE, "mrope_section": [3, 3, 2]}}
    },
    "doge": {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 4},
    "gemma4_text": {"enable_moe_block": True, "top_k_experts": 2},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"head_dim": 8},
    "mistral4": {"head_dim": 8},
    "nllb-moe": {"moe_eval_capacity_token_fraction": -1.0},
    "llava": {"text_config": {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}},
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(family: str):
    """The family's configuration with small sizes. Raises ValueError for a family that transformers does not know."""
    if family not in CONFIG_MAPPING:
        raise ValueError(f"family must be a model_type of transformers, got '{family}': see --list")
    config_class = CONFIG_MAPPING[family]
    default = config_class()
    table = TOP if "text_config" in (getattr(default, "sub_configs", None) or {}) else TEXT
    return config_class(**_merge(_values(default, table), FAMILY.get(family, {})))


def _values(config, table: dict[str, Any]) -> dict[str, Any]:
    """Small values for a configuration and the ones nested in it."""
    values = _sizes(config, table)
    for name in getattr(config, "sub_configs", None) or {}:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            values[name] = _values(part, TEXT if name in LANGUAGE_PARTS else VISION)
            values[name]["model_type"] = part.model_type
    return values


def _merge(values: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in extra.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else copy.deepcopy(value)
    return merged


def _sizes(config, table: dict[str, Any]) -> dict[str, Any]:
    present = config.to_dict()
    aliases = set(getattr(config, "attribute_map", {}) or {})
    sizes = {key: copy.copy(value) for key, value in table.items() if key in present and key not in aliases}
    if "kv_lora_rank" in sizes and "num_key_value_heads" in sizes:  # latent attention has a key head per query head
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    return sizes

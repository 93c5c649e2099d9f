"""Families that are known to export with --tiny: language and vision-language models."""

# fmt: off
KNOWN: tuple[str, ...] = (
    "afmoe", "aria", "aria_text", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "dbrx", "deepseek_v2",
    "deepseek_v3", "deepseek_v32", "deepseek_v4", "doge", "dots1", "dots3_note_text", "ernie4_5_moe", "ernie4_5_vl_moe",
    "exaone_moe",
    "flex_olmo", "flint", "gemma4_text", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "gpt_oss",
    "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "hunyuan_v1_moe", "hy_v3", "hy_v4",
    "inkling2_text", "inkling_text", "jamba", "jetmoe", "kimi_linear", "kolibri1", "laguna", "lfm2_moe",
    "llama4_text", "llava", "longcat_flash", "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3_vl",
    "minimax_m3_vl_text", "mistral4", "mixtral", "muse_spark_text", "nemotron_h", "nllb-moe", "olmoe",
    "openai_privacy_filter", "phimoe", "qwen2_moe", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next",
    "qwen3_vl_moe", "qwen4_exp", "qwen4_exp_text", "solar_open", "step3p7", "switch_transformers", "zaya",
)
# fmt: on

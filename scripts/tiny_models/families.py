"""The families whose weights are a formula: their configurations.

Shapes are awkward on purpose: hardly anything is a multiple of 8, widths that a runtime sums in
leaves of 256 are a little more than 256 in some family, the original positions of YaRN and the
windows are far below the longest prompt.
"""

import dataclasses

from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    Glm4MoeConfig,
    GptOssConfig,
    MiniMaxM2Config,
    Mistral4Config,
    MixtralConfig,
    SarvamMLAConfig,
    SarvamMoEConfig,
)

ORIGINAL = 32  # positions before YaRN's stretching


def yarn(theta, factor, **more):
    return {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": ORIGINAL,
    } | more


def plain(theta, **more):
    return {"rope_type": "default", "rope_theta": theta} | more


COMMON = {"max_position_embeddings": 1280, "tie_word_embeddings": False}


def deepseek_v3():
    return DeepseekV3Config(
        vocab_size=83,
        hidden_size=36,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=6,
        q_lora_rank=22,
        kv_lora_rank=26,
        qk_nope_head_dim=10,
        qk_rope_head_dim=12,
        v_head_dim=46,  # heads of 46 are 276 values: six heads are one leaf, and some
        n_routed_experts=12,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        n_shared_experts=1,
        moe_intermediate_size=14,
        intermediate_size=262,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        rms_norm_eps=1e-6,
        num_nextn_predict_layers=1,
        rope_parameters=yarn(
            100.0, 40.0, beta_fast=4.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=0.7
        ),
        bos_token_id=0,
        eos_token_id=1,
        **COMMON,
    )


def deepseek_v2():
    return DeepseekV2Config(
        vocab_size=71,
        hidden_size=27,  # transformers asks for a multiple of the heads
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        q_lora_rank=None,
        kv_lora_rank=18,
        qk_nope_head_dim=6,
        qk_rope_head_dim=8,
        v_head_dim=10,
        n_routed_experts=7,
        num_experts_per_tok=3,
        n_group=1,
        topk_group=1,
        topk_method="greedy",
        n_shared_experts=2,
        moe_intermediate_size=18,
        intermediate_size=50,
        first_k_dense_replace=1,
        norm_topk_prob=False,
        routed_scaling_factor=1.0,
        rms_norm_eps=1e-6,
        rope_parameters=yarn(
            1000.0, 40.0, beta_fast=32.0, beta_slow=1.0, mscale=0.707, mscale_all_dim=0.707
        ),
        bos_token_id=0,
        eos_token_id=1,
        **COMMON,
    )


def deepseek_v2_groups():
    """DeepSeek-V2 of full size: a compressed query, and groups by their best expert."""
    config = deepseek_v2()
    config.q_lora_rank = 16
    config.n_routed_experts = 12
    config.n_group = 4
    config.topk_group = 2
    config.topk_method = "group_limited_greedy"
    config.routed_scaling_factor = 4.0
    return config


def kimi_k2():
    return DeepseekV3Config(
        vocab_size=67,
        hidden_size=44,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=14,
        kv_lora_rank=20,
        qk_nope_head_dim=8,
        qk_rope_head_dim=18,
        v_head_dim=6,
        n_routed_experts=13,
        num_experts_per_tok=4,
        n_group=1,
        topk_group=1,
        n_shared_experts=1,
        moe_intermediate_size=22,
        intermediate_size=74,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        routed_scaling_factor=2.827,
        rms_norm_eps=1e-5,
        num_nextn_predict_layers=0,
        rope_parameters=yarn(
            50000.0, 32.0, beta_fast=1.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0
        ),
        bos_token_id=64,
        eos_token_id=65,
        **COMMON,
    )


def sarvam_mla():
    return SarvamMLAConfig(
        vocab_size=89,
        hidden_size=34,
        num_hidden_layers=3,
        num_attention_heads=5,
        q_lora_rank=None,
        kv_lora_rank=30,
        qk_nope_head_dim=14,
        qk_rope_head_dim=10,
        v_head_dim=12,
        n_routed_experts=11,
        num_experts_per_tok=4,
        n_shared_experts=1,
        moe_intermediate_size=26,
        intermediate_size=66,
        first_k_dense_replace=1,
        routed_scaling_factor=2.5,
        rms_norm_eps=1e-6,
        rope_parameters=yarn(
            10000.0, 40.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0
        ),
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        **COMMON,
    )


def sarvam_moe():
    return SarvamMoEConfig(
        vocab_size=79,
        hidden_size=30,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=14,  # 6 heads of 14 are not the hidden size
        n_routed_experts=17,
        num_experts_per_tok=5,
        n_shared_experts=1,
        moe_intermediate_size=12,
        intermediate_size=58,
        first_k_dense_replace=1,
        routed_scaling_factor=2.5,
        rms_norm_eps=1e-6,
        rope_parameters=plain(8000000.0),
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        **COMMON,
    )


def mistral_large_3():
    """Mistral Large 3 in the words of transformers' mistral4."""
    return Mistral4Config(
        vocab_size=73,
        hidden_size=38,
        num_hidden_layers=3,
        num_attention_heads=5,
        num_key_value_heads=5,
        q_lora_rank=18,
        kv_lora_rank=22,
        qk_nope_head_dim=6,
        qk_rope_head_dim=14,
        v_head_dim=10,
        n_routed_experts=9,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        n_shared_experts=1,
        moe_intermediate_size=258,  # wider than one leaf
        intermediate_size=62,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        rms_norm_eps=1e-6,
        rope_parameters=yarn(
            10000.0,
            36.0,
            beta_fast=32.0,
            beta_slow=1.0,
            attention_factor=1.0,
            llama_4_scaling_beta=0.1,
        ),
        pad_token_id=11,
        bos_token_id=1,
        eos_token_id=2,
        **(COMMON | {"max_position_embeddings": 36 * ORIGINAL}),
    )


def gpt_oss():
    return GptOssConfig(
        vocab_size=77,
        hidden_size=26,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=14,
        num_local_experts=7,
        num_experts_per_tok=3,
        intermediate_size=20,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention"] * 2,
        attention_bias=True,
        swiglu_limit=2.25,  # the published 7 would clamp next to nothing here
        rms_norm_eps=1e-5,
        rope_parameters=yarn(150.0, 32.0, beta_fast=32.0, beta_slow=1.0, truncate=False),
        pad_token_id=70,
        bos_token_id=None,
        eos_token_id=71,
        **COMMON,
    )


def glm4_moe():
    return Glm4MoeConfig(
        vocab_size=81,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=12,
        partial_rotary_factor=0.5,
        n_routed_experts=10,
        num_experts_per_tok=3,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=18,
        intermediate_size=54,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        use_qk_norm=True,
        attention_bias=True,
        rms_norm_eps=1e-5,
        rope_parameters=plain(1000000.0, partial_rotary_factor=0.5),
        num_nextn_predict_layers=1,
        pad_token_id=78,
        bos_token_id=None,
        eos_token_id=[78, 80],
        **COMMON,
    )


def glm4_moe_air():
    config = glm4_moe()
    config.use_qk_norm = False
    config.routed_scaling_factor = 1.0
    return config


def minimax_m2():
    return MiniMaxM2Config(
        vocab_size=61,
        hidden_size=42,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=20,
        num_local_experts=11,
        num_experts_per_tok=4,
        intermediate_size=22,
        rms_norm_eps=1e-6,
        rotary_dim=10,
        rope_parameters=plain(5000000.0, partial_rotary_factor=0.5),
        bos_token_id=58,
        eos_token_id=59,
        **COMMON,
    )


def mixtral_window():
    return MixtralConfig(
        vocab_size=69,
        hidden_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=18,
        num_local_experts=5,
        num_experts_per_tok=2,
        intermediate_size=46,
        sliding_window=50,
        rms_norm_eps=1e-5,
        rope_parameters=plain(1000000.0),
        bos_token_id=1,
        eos_token_id=2,
        **COMMON,
    )


@dataclasses.dataclass(frozen=True)
class Family:
    make_config: object
    seed: int
    # Published tensors beside those of the model: layers for predicting further tokens, buffers.
    mtp_layers: int = 0
    stale_frequencies: int = 0  # width of rotary_emb.inv_freq in each layer; 0: none
    native: bool = False  # Mistral's own names and params.json
    f32_router: bool = False  # router weights are published in float32


FAMILIES = {
    "deepseek_v3": Family(deepseek_v3, 6, mtp_layers=1, stale_frequencies=11),
    "deepseek_v2": Family(deepseek_v2, 1),
    "deepseek_v2_groups": Family(deepseek_v2_groups, 14),
    "kimi_k2": Family(kimi_k2, 5, stale_frequencies=7),
    "sarvam_mla": Family(sarvam_mla, 1),
    "sarvam_moe": Family(sarvam_moe, 13),
    "mistral_large_3": Family(mistral_large_3, 4, native=True),
    "gpt_oss": Family(gpt_oss, 32),
    "glm4_moe": Family(glm4_moe, 8, mtp_layers=1),
    "glm4_moe_air": Family(glm4_moe_air, 15, mtp_layers=1),
    "minimax_m2": Family(minimax_m2, 6, f32_router=True),
    "mixtral_window": Family(mixtral_window, 5),
}

"""Configuration files of the seeded families: config.json as transformers 5 writes it, the
spelling in which the models were published, Mistral's params.json, and Kimi K2.5's wrapper."""

import json
import tempfile
from pathlib import Path

from transformers import AutoConfig

from .spec import spec_of

DROPPED = ("rope_parameters", "output_router_logits", "qk_head_dim", "rope_interleave", "dtype")


def v4(c, **more):
    """A configuration as transformers 4 wrote it: rope_theta and rope_scaling at the top."""
    rope = dict(c["rope_parameters"])
    out = {k: v for k, v in c.items() if k not in DROPPED}
    out["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    out["rope_scaling"] = None if kind == "default" else rope | {"type": kind}
    return out | {"torch_dtype": "bfloat16", "transformers_version": "4.57.1"} | more


def without(c, *keys):
    return {k: v for k, v in c.items() if k not in keys}


def deepseek_v3(c):
    routing = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}
    return without(v4(c, **routing, ep_size=1, seq_aux=True), "head_dim")


def deepseek_v2(c):
    return without(v4(c, scoring_func="softmax", moe_layer_freq=1, ep_size=1), "head_dim")


def kimi_k2(c):
    return deepseek_v3(c) | {"model_type": "kimi_k2"}


def sarvam_mla(c):
    out = v4(
        c,
        architectures=["SarvamMLAForCausalLM"],
        num_experts=c["n_routed_experts"],
        num_shared_experts=c["n_shared_experts"],
        head_dim=c["kv_lora_rank"] + c["qk_rope_head_dim"],  # the width of a cache entry
        q_head_dim=c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
        use_qk_norm=True,  # published so; there is no such norm
    )
    out["rope_scaling"]["type"] = "deepseek_yarn"
    named = ("n_routed_experts", "n_shared_experts", "n_group", "topk_group", "q_lora_rank")
    return without(out, *named, "num_nextn_predict_layers", "attention_bias")


def sarvam_moe(c):
    out = v4(
        c,
        architectures=["SarvamMoEForCausalLM"],
        num_experts=c["n_routed_experts"],
        num_shared_experts=c["n_shared_experts"],
        use_qkv_bias=False,
        max_window_layers=c["num_hidden_layers"],
    )
    named = ("n_routed_experts", "n_shared_experts", "n_group", "topk_group")
    return without(out, *named, "num_nextn_predict_layers", "attention_bias")


def gpt_oss(c):
    out = v4(
        c,
        experts_per_token=c["num_experts_per_tok"],
        initial_context_length=c["rope_parameters"]["original_max_position_embeddings"],
    )
    out["rope_scaling"]["rope_type"] = out["rope_scaling"].pop("type")
    return without(out, "swiglu_alpha", "torch_dtype")


def glm4_moe(c):
    return v4(c, partial_rotary_factor=c["rope_parameters"]["partial_rotary_factor"])


def minimax_m2(c):
    return v4(
        c,
        architectures=["MiniMaxM2ForCausalLM"],
        attn_type_list=[1] * c["num_hidden_layers"],
        scoring_func="sigmoid",
        use_routing_bias=True,
        use_qk_norm=True,
        qk_norm_type="per_layer",
        shared_intermediate_size=0,
        use_mtp=True,
        num_mtp_modules=3,
        mtp_transformer_layers=1,
    )


PUBLISHED = {
    "deepseek_v3": deepseek_v3,
    "deepseek_v2": deepseek_v2,
    "deepseek_v2_groups": deepseek_v2,
    "kimi_k2": kimi_k2,
    "sarvam_mla": sarvam_mla,
    "sarvam_moe": sarvam_moe,
    "gpt_oss": gpt_oss,
    "glm4_moe": glm4_moe,
    "glm4_moe_air": glm4_moe,
    "minimax_m2": minimax_m2,
    "mixtral_window": v4,
}


def params_json(c):
    """Mistral Large 3's params.json."""
    rope = c["rope_parameters"]
    original = rope["original_max_position_embeddings"]
    return {
        "dim": c["hidden_size"],
        "n_layers": c["num_hidden_layers"],
        "head_dim": c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
        "hidden_dim": c["intermediate_size"],
        "n_heads": c["num_attention_heads"],
        "n_kv_heads": c["num_attention_heads"],
        "rope_theta": rope["rope_theta"],
        "norm_eps": c["rms_norm_eps"],
        "vocab_size": c["vocab_size"],
        "tied_embeddings": False,
        "max_position_embeddings": c["max_position_embeddings"],
        "q_lora_rank": c["q_lora_rank"],
        "kv_lora_rank": c["kv_lora_rank"],
        "qk_nope_head_dim": c["qk_nope_head_dim"],
        "qk_rope_head_dim": c["qk_rope_head_dim"],
        "v_head_dim": c["v_head_dim"],
        "llama_4_scaling": {
            "original_max_position_embeddings": original,
            "beta": rope["llama_4_scaling_beta"],
        },
        "yarn": {
            "original_max_position_embeddings": original,
            "factor": rope["factor"],
            "apply_scale": False,
            "beta": rope["beta_fast"],
            "alpha": rope["beta_slow"],
        },
        "moe": {
            "expert_parallel": 1,
            "expert_model_parallel": 1,
            "route_every_n": 1,
            "first_k_dense_replace": c["first_k_dense_replace"],
            "num_experts": c["n_routed_experts"],
            "num_experts_per_tok": c["num_experts_per_tok"],
            "num_expert_groups": 1,
            "num_expert_groups_per_tok": 1,
            "routed_scale": c["routed_scaling_factor"],
            "expert_hidden_dim": c["moe_intermediate_size"],
            "num_shared_experts": c["n_shared_experts"],
        },
    }


def kimi_k25(text_config):
    """Kimi K2.5: the text model under text_config. The image part is as small as can be."""
    return {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "model_type": "kimi_k25",
        "media_placeholder_token_id": 60,
        "text_config": text_config,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
        },
        "tie_word_embeddings": False,
        "transformers_version": "4.57.1",
    }


def same_model(c, config):
    """Whether transformers takes a configuration text for the same model. It knows kimi_k2 by the
    name of deepseek_v3 alone."""
    c = c | {"model_type": config.model_type}
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(c))
        return spec_of(AutoConfig.from_pretrained(directory)) == spec_of(config)

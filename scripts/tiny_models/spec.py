"""A transformers config resolved into what the layers compute (forward.py reads nothing else).

Formulas that transformers and this file should agree on are written out here from their
published sources; reference.py's data show whether they do.
"""

import dataclasses
import math

import torch


@dataclasses.dataclass(frozen=True)
class Latent:
    """Sizes of multi-head latent attention; q_rank None: the query is projected directly."""

    nope: int
    rope: int
    value: int
    rank: int
    q_rank: int | None
    eps: float = 1e-6  # transformers never passes the config's eps to these norms
    normed: bool = True


@dataclasses.dataclass(frozen=True)
class Rope:
    dim: int
    theta: float
    interleaved: bool = False
    factor: float = 0.0  # of YaRN; 0: plain frequencies
    original: float = 0.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    def frequencies(self):
        """float64 [dim / 2]"""
        i = torch.arange(self.dim // 2, dtype=torch.float64)
        plain = self.theta ** (-2 * i / self.dim)
        if not self.factor:
            return plain

        def turns(r):  # the pair that turns r times over the original positions
            return (
                self.dim * math.log(self.original / (2 * math.pi * r)) / (2 * math.log(self.theta))
            )

        low, high = turns(self.beta_fast), turns(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dim - 1)
        if low == high:
            high += 0.001
        ramp = ((i - low) / (high - low)).clamp(0, 1)
        return (1 - ramp) * plain + ramp * plain / self.factor


@dataclasses.dataclass(frozen=True)
class Spec:
    vocab: int
    layers: int
    eps: float
    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    scale: float  # of the softmax
    windows: tuple  # per layer; None: all tokens are seen
    dense: frozenset  # layers without experts
    experts: int
    top_k: int
    score: str  # "softmax", "sigmoid", or "chosen": softmax over the chosen logits
    latent: Latent | None = None
    qk_norm: str | None = None  # "head" or "vector"
    clip: float | None = None
    temperature: tuple | None = None  # (beta, positions)
    sinks: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    choice_bias: bool = False
    groups: int = 1
    groups_kept: int = 1
    group_score: str = "top2"
    renorm: bool = True
    renorm_eps: float = 0.0
    routed_scale: float = 1.0
    clamp: tuple | None = None  # (alpha, limit) of gpt-oss's activation
    interleaved_experts: bool = False  # [E, H, 2I] with gate and up in turn
    # Switches that only deliberate mistakes set (measure.py).
    off: frozenset = frozenset()
    bias_in_weights: bool = False
    masked_score: float = -math.inf
    position_shift: int = 0

    def but(self, **changes):
        return dataclasses.replace(self, **changes)


def magnitude(factor, mscale):
    """YaRN's growth of attention with the factor (DeepSeek's yarn_get_mscale)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rope_of(config, dim, interleaved):
    p = config.rope_parameters
    plain = Rope(dim=dim, theta=p["rope_theta"], interleaved=interleaved)
    if p["rope_type"] == "default":
        return plain
    assert p["rope_type"] == "yarn"
    factor = p["factor"]
    if p.get("attention_factor") is not None:
        attention_factor = p["attention_factor"]
    elif p.get("mscale") and p.get("mscale_all_dim"):
        attention_factor = magnitude(factor, p["mscale"]) / magnitude(factor, p["mscale_all_dim"])
    else:
        attention_factor = magnitude(factor, 1)
    return dataclasses.replace(
        plain,
        factor=factor,
        original=p["original_max_position_embeddings"],
        beta_fast=p.get("beta_fast") or 32.0,
        beta_slow=p.get("beta_slow") or 1.0,
        truncate=p.get("truncate", True),
        attention_factor=attention_factor,
    )


def latent_part(config):
    latent = Latent(
        nope=config.qk_nope_head_dim,
        rope=config.qk_rope_head_dim,
        value=config.v_head_dim,
        rank=config.kv_lora_rank,
        q_rank=config.q_lora_rank,
    )
    scale = (latent.nope + latent.rope) ** -0.5
    p = config.rope_parameters
    if p.get("mscale_all_dim"):
        scale *= magnitude(p["factor"], p["mscale_all_dim"]) ** 2
    beta = p.get("llama_4_scaling_beta")
    return {
        "latent": latent,
        "head_dim": latent.nope + latent.rope,
        "kv_heads": config.num_attention_heads,
        "scale": scale,
        "rope": rope_of(config, latent.rope, True),
        "temperature": beta and (beta, p["original_max_position_embeddings"]),
    }


def grouped_part(config):
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    share = config.rope_parameters.get("partial_rotary_factor", 1.0)
    return {
        "head_dim": head_dim,
        "kv_heads": config.num_key_value_heads,
        "scale": head_dim**-0.5,
        "rope": rope_of(config, int(head_dim * share), False),
    }


def sigmoid_router(config):
    return {
        "score": "sigmoid",
        "choice_bias": True,
        "groups": config.n_group,
        "groups_kept": config.topk_group,
        "renorm": config.norm_topk_prob,
        "renorm_eps": 1e-20,
        "routed_scale": config.routed_scaling_factor,
        "dense": frozenset(range(config.first_k_dense_replace)),
    }


def family_part(config):
    """What the model_type adds or changes."""
    layers = config.num_hidden_layers
    kind = config.model_type
    if kind in ("deepseek_v3", "sarvam_mla"):
        return sigmoid_router(config) | latent_part(config)
    if kind == "deepseek_v2":
        grouped = config.topk_method == "group_limited_greedy"
        return latent_part(config) | {
            "groups": config.n_group if grouped else 1,
            "groups_kept": config.topk_group if grouped else 1,
            "group_score": "max",
            "renorm": False,
            "routed_scale": config.routed_scaling_factor,
            "dense": frozenset(range(config.first_k_dense_replace)),
        }
    if kind == "mistral4":
        return latent_part(config) | {
            "renorm": config.norm_topk_prob,
            "renorm_eps": 1e-20,
            "routed_scale": config.routed_scaling_factor,
            "dense": frozenset(range(config.first_k_dense_replace)),
        }
    if kind in ("glm4_moe", "sarvam_moe"):
        return sigmoid_router(config) | {
            "qk_norm": "head" if config.use_qk_norm else None,
            "qkv_bias": config.attention_bias,
        }
    if kind == "minimax_m2":
        return {"score": "sigmoid", "choice_bias": True, "qk_norm": "vector"}
    if kind == "gpt_oss":
        sliding = [t == "sliding_attention" for t in config.layer_types]
        return {
            "score": "chosen",
            "renorm": False,
            "windows": tuple(config.sliding_window if s else None for s in sliding),
            "sinks": True,
            "qkv_bias": True,
            "o_bias": True,
            "router_bias": True,
            "expert_bias": True,
            "interleaved_experts": True,
            "clamp": (config.swiglu_alpha, config.swiglu_limit),
        }
    if kind == "mixtral":
        return {"windows": (config.sliding_window,) * layers}
    if kind == "qwen3_moe":
        return {
            "qk_norm": "head",
            "renorm": config.norm_topk_prob,
            "dense": frozenset(config.mlp_only_layers),
        }
    assert kind == "olmoe"
    return {"qk_norm": "vector", "clip": config.clip_qkv, "renorm": config.norm_topk_prob}


def spec_of(config):
    layers = config.num_hidden_layers
    parts = {
        "vocab": config.vocab_size,
        "layers": layers,
        "eps": config.rms_norm_eps,
        "heads": config.num_attention_heads,
        "windows": (None,) * layers,
        "dense": frozenset(),
        "experts": getattr(config, "num_local_experts", None) or config.n_routed_experts,
        "top_k": config.num_experts_per_tok,
        "score": "softmax",
    }
    if not hasattr(config, "kv_lora_rank"):
        parts |= grouped_part(config)
    return Spec(**(parts | family_part(config)))

"""The families whose checkpoints are files: qwen3_moe (in four variants with equal values),
mixtral and olmoe. Their weights are normal numbers from numpy's frozen RandomState."""

import copy
import json
import math

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from . import reference
from .expected import write_json
from .families import plain

SEEDS = {"qwen3_moe": 1, "mixtral": 5, "olmoe": 2}
SMALLEST = 2.0**-13  # smaller weights become zero; float16 is exact from 2^-14 on


def qwen3_moe_config():
    return Qwen3MoeConfig(
        vocab_size=151,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=6,  # 6 heads of 6 are 36, not the hidden size
        num_experts=11,
        num_experts_per_tok=3,
        moe_intermediate_size=10,
        mlp_only_layers=[1],  # one dense layer
        intermediate_size=88,  # its width
        norm_topk_prob=True,
        rms_norm_eps=1e-6,
        max_position_embeddings=512,
        rope_parameters=plain(100000.0),
        bos_token_id=148,
        eos_token_id=150,
    )


def mixtral_config():
    return MixtralConfig(
        vocab_size=113,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_local_experts=5,
        num_experts_per_tok=2,
        intermediate_size=516,  # wide on purpose: two full blocks of 256 and a rest of 4
        sliding_window=None,
        rms_norm_eps=1e-5,
        max_position_embeddings=512,
        rope_parameters=plain(1000000.0),
        bos_token_id=1,
        eos_token_id=2,
    )


def olmoe_config():
    return OlmoeConfig(
        vocab_size=131,
        hidden_size=36,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        num_experts=13,
        num_experts_per_tok=4,
        intermediate_size=6,  # the width of an expert
        norm_topk_prob=False,
        clip_qkv=1.5,  # q and k have a mean square near 1 here, so this clips
        rms_norm_eps=1e-5,
        max_position_embeddings=512,
        rope_parameters=plain(10000.0),
        pad_token_id=1,
        bos_token_id=None,
        eos_token_id=130,
    )


# name: (model class, config maker, end-of-sequence ids in generation_config.json)
FAMILIES = {
    "qwen3_moe": (Qwen3MoeForCausalLM, qwen3_moe_config, [150, 148]),
    "mixtral": (MixtralForCausalLM, mixtral_config, 2),
    "olmoe": (OlmoeForCausalLM, olmoe_config, 130),
}

# family: {directory: dtype}; the first one is what the expected data are computed from.
VARIANTS = {
    "qwen3_moe": {
        "qwen3_moe": torch.bfloat16,
        "qwen3_moe_f32_sharded": torch.float32,
        "qwen3_moe_f16": torch.float16,
        "qwen3_moe_fused": torch.bfloat16,
    },
    "mixtral": {"mixtral": torch.bfloat16},
    "olmoe": {"olmoe": torch.float32},
}

# Standard deviation of a weight, as a multiple of 1/sqrt(inputs). The first name part found
# counts. Chosen so that activations stay near 1 and every block adds its share to them.
GAINS = (
    ("embed_tokens", None),  # standard deviation 1 whatever the shape
    ("lm_head", 4.0),
    ("q_proj", 1.4),
    ("k_proj", 1.4),
    ("v_proj", 1.2),
    ("o_proj", 1.6),
    ("down_proj", 2.0),
    ("gate_up_proj", 1.5),
    ("gate_proj", 1.5),
    ("up_proj", 1.5),
    ("gate.weight", 1.5),  # the router
)


def exact_in_both(array):
    """Round to values that bfloat16 and float16 both hold, and prove it."""
    w = torch.from_numpy(array.astype(np.float32)).bfloat16().float()
    w[w.abs() < SMALLEST] = 0.0
    assert torch.equal(w, w.bfloat16().float()) and torch.equal(w, w.half().float())
    return w


def build(family, seed):
    """The model of a family in float32, weights drawn from the seed."""
    cls, make_config, eos_ids = FAMILIES[family]
    config = make_config()
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = cls(config).float().eval()
    draw = np.random.RandomState(seed)
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name in sorted(params):
            param = params[name]
            values = draw.standard_normal(tuple(param.shape))
            if "norm" in name:
                values = 1.0 + 0.2 * values
            else:
                gain = next(g for part, g in GAINS if part in name)
                if gain is not None:
                    values *= gain / math.sqrt(param.shape[-1])
            param.copy_(exact_in_both(values))
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=eos_ids, do_sample=False
    )
    return model


def old_spelling(config):
    """config.json of a qwen3_moe model as transformers 4 wrote it."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_token_id,
        "decoder_sparse_step": config.decoder_sparse_step,
        "eos_token_id": config.eos_token_id,
        "head_dim": config.head_dim,
        "hidden_act": config.hidden_act,
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "max_window_layers": config.num_hidden_layers,
        "mlp_only_layers": config.mlp_only_layers,
        "model_type": "qwen3_moe",
        "moe_intermediate_size": config.moe_intermediate_size,
        "norm_topk_prob": config.norm_topk_prob,
        "num_attention_heads": config.num_attention_heads,
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "output_router_logits": False,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": config.rope_parameters["rope_theta"],
        "router_aux_loss_coef": config.router_aux_loss_coef,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }


def save_variant(model, directory, dtype):
    """Write one checkpoint directory from the float32 model."""
    name = directory.name
    stored = copy.deepcopy(model).to(dtype)
    stored.config.dtype = dtype
    options = {}
    if name.endswith("_sharded"):
        total = sum(p.numel() * p.element_size() for p in stored.parameters())
        options["max_shard_size"] = int(total / 3 * 1.05)
    stored.save_pretrained(directory, **options)
    if name.endswith("_fused"):
        # The in-memory names and shapes: experts.gate_up_proj [E, 2I, H], gate rows first,
        # and experts.down_proj [E, H, I].
        tensors = {n: t.contiguous() for n, t in stored.state_dict().items()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    if name.endswith("_f16"):
        write_json(directory / "config.json", old_spelling(model.config), indent=2)
        path = directory / "generation_config.json"
        generation = json.loads(path.read_text())
        generation["transformers_version"] = "4.51.0"
        write_json(path, generation, indent=2)
    for path in directory.iterdir():
        path.chmod(0o644)


def read_tensors(directory):
    """All tensors of a checkpoint directory; checks the index of a sharded one."""
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        part = load_file(path)
        assert not set(part) & set(tensors), f"{path}: a tensor is in two shards"
        tensors.update(part)
    index = directory / "model.safetensors.index.json"
    if index.exists():
        index = json.loads(index.read_text())
        where = index["weight_map"]
        assert set(where) == set(tensors) and len(set(where.values())) == 3
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        assert index["metadata"]["total_size"] == size
        for shard in set(where.values()):
            assert set(load_file(directory / shard)) == {n for n in where if where[n] == shard}
    return tensors


def published_names(tensors):
    """Fused experts cut into the published per-expert tensors, without the library."""
    out = {}
    for name, t in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for e, w in enumerate(t):
                gate, up = w.chunk(2)
                stem = name.replace("gate_up_proj", str(e))
                out[f"{stem}.gate_proj.weight"], out[f"{stem}.up_proj.weight"] = gate, up
        elif name.endswith("experts.down_proj"):
            for e, w in enumerate(t):
                out[name.replace("down_proj", f"{e}.down_proj.weight")] = w
        else:
            out[name] = t
    return out


def check_names(family, tensors):
    """The published names are there, and nothing of another style."""
    parts = {
        "qwen3_moe": ("mlp.experts.10.gate_proj.weight", "mlp.gate.weight"),
        "mixtral": ("block_sparse_moe.experts.4.w1.weight", "block_sparse_moe.gate.weight"),
        "olmoe": ("mlp.experts.12.gate_proj.weight", "mlp.gate.weight"),
    }[family]
    for part in parts:
        assert f"model.layers.0.{part}" in tensors, f"no {part}"
    assert not any("gate_up_proj" in n for n in tensors)


def verify(family, data, out, tolerance):
    """Read every variant from disk and compare values and logits; returns the facts found."""
    lines = []
    base = None
    for name, dtype in VARIANTS[family].items():
        tensors = read_tensors(out / name)
        assert all(t.dtype == dtype for t in tensors.values()), f"{name}: dtype"
        if name.endswith("_fused"):
            assert any(n.endswith("experts.gate_up_proj") for n in tensors)
            tensors = published_names(tensors)
        check_names(family, tensors)
        if base is None:
            base = tensors
        assert set(base) == set(tensors)
        assert all(torch.equal(base[n].float(), tensors[n].float()) for n in base), name

        model = AutoModelForCausalLM.from_pretrained(out / name, **reference.EXACT).eval()
        worst = 0.0
        for prompt, wanted in zip(data.prompts, data.logits):
            off = (reference.logits(model, prompt) - wanted).abs().max() / wanted.abs().max()
            worst = max(worst, off.item())
        assert worst < tolerance / 10, f"{name}: logits off by {worst:.1e}"
        count = sum(t.numel() for t in tensors.values())
        lines.append(f"{name}: {count} parameters, {dtype}, reloaded logits off by {worst:.1e}")
    return lines

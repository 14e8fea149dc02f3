"""The tensors that a published checkpoint of a family holds, with the formulas of their values."""

import json
import re
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, Mistral4ForCausalLM

from . import families, formula
from .weights import common_name

# Gain of a matrix by the first name part found, as in stored.py.
GAINS = (
    ("lm_head", 4.0),
    ("q_a_proj", 1.2),
    ("q_b_proj", 1.4),
    ("q_proj", 1.4),
    ("k_proj", 1.4),
    ("qkv_proj", 1.3),
    ("v_proj", 1.2),
    ("kv_a_proj", 1.2),
    ("kv_b_proj", 1.3),
    ("o_proj", 1.6),
    ("down_proj", 2.0),
    ("gate_up_proj", 1.5),
    ("gate_proj", 1.5),
    ("up_proj", 1.5),
    ("eh_proj", 1.0),
    ("gate.weight", 1.5),
    ("shared_head.head", 4.0),
)


def saved(config):
    """config.json, and {name: shape} of the tensors, as transformers writes them."""
    if config.model_type == "mistral4":
        model = Mistral4ForCausalLM(config)
    else:
        model = AutoModelForCausalLM.from_config(config)
    model.config.dtype = torch.bfloat16
    shapes = {}
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        text = json.loads((Path(directory) / "config.json").read_text())
        for path in Path(directory).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    shapes[name] = tuple(file.get_slice(name).get_shape())
    return text, shapes


# transformers' names of mistral4 -> those of Mistral's own files.
NATIVE = [
    (r"^model\.embed_tokens\.", "tok_embeddings."),
    (r"^model\.norm\.", "norm."),
    (r"^lm_head\.", "output."),
    (r"^model\.layers\.", "layers."),
    (r"\.input_layernorm\.", ".attention_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.self_attn\.q_a_proj\.", ".attention.wq_a."),
    (r"\.self_attn\.q_a_layernorm\.", ".attention.q_a_norm."),
    (r"\.self_attn\.q_b_proj\.", ".attention.wq_b."),
    (r"\.self_attn\.kv_a_proj_with_mqa\.", ".attention.wkv_a_with_mqa."),
    (r"\.self_attn\.kv_a_layernorm\.", ".attention.kv_a_norm."),
    (r"\.self_attn\.kv_b_proj\.", ".attention.wkv_b."),
    (r"\.self_attn\.o_proj\.", ".attention.wo."),
    (r"\.mlp\.(gate|experts|shared_experts)\.", r".\1."),
    (r"\.mlp\.", ".feed_forward."),
    (r"\.gate_proj\.", ".w1."),
    (r"\.up_proj\.", ".w3."),
    (r"\.down_proj\.", ".w2."),
]


def native_tensors(shapes):
    """The same tensors in Mistral's names, experts one by one."""
    out = {}
    for name, shape in shapes.items():
        per_expert = {}
        if name.endswith("experts.gate_up_proj"):
            _, width, inputs = shape
            per_expert = {"gate_proj": (width // 2, inputs), "up_proj": (width // 2, inputs)}
        elif name.endswith("experts.down_proj"):
            per_expert = {"down_proj": shape[1:]}
        stem = name.rsplit(".", 1)[0]
        for e in range(shape[0] if per_expert else 0):
            for part, size in per_expert.items():
                out[f"{stem}.{e}.{part}.weight"] = size
        if not per_expert:
            out[name] = shape
    for pattern, replacement in NATIVE:
        out = {re.sub(pattern, replacement, n): s for n, s in out.items()}
    return out


def further_tensors(family, config, shapes):
    """Tensors of a published checkpoint that are no part of the model."""
    out = {}
    last, hidden, vocab = config.num_hidden_layers - 1, config.hidden_size, config.vocab_size
    for name, shape in shapes.items():
        if family.mtp_layers and name.startswith(f"model.layers.{last}."):
            out[name.replace(f"layers.{last}.", f"layers.{last + 1}.")] = shape
    if family.mtp_layers:
        stem = f"model.layers.{last + 1}."
        out |= {
            stem + "embed_tokens.weight": (vocab, hidden),
            stem + "enorm.weight": (hidden,),
            stem + "hnorm.weight": (hidden,),
            stem + "eh_proj.weight": (hidden, 2 * hidden),
            stem + "shared_head.norm.weight": (hidden,),
            stem + "shared_head.head.weight": (vocab, hidden),
        }
    if family.stale_frequencies:
        for i in range(last + 1):
            name = f"model.layers.{i}.self_attn.rotary_emb.inv_freq"
            out[name] = (family.stale_frequencies,)
    return out


def entry(name, shape):
    """The formula of a tensor, by what it is."""
    common = common_name(name)
    if "norm" in common:
        return formula.tensor(name, shape, 7, limit=32, offset=1.0)
    if "e_score_correction_bias" in common:
        # All entries are negative and most are larger than 1 in size, not exact in bfloat16.
        return formula.tensor(name, shape, 9, offset=-1.25, dtype="F32")
    if common.endswith(("bias", "sinks", "inv_freq")):
        return formula.tensor(name, shape, 6 if "sinks" in common else 8)
    if "embed_tokens" in common:
        return formula.tensor(name, shape, 6)  # standard deviation about 1
    gain = next(g for part, g in GAINS if part in common + ".weight")
    # gpt-oss keeps experts as [E, inputs, outputs].
    transposed = len(shape) == 3 and not common.endswith(".weight")
    return formula.matrix(name, shape, gain, shape[-2] if transposed else shape[-1])


def natural(name):
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]


def checkpoint(name):
    """config.json of a family, and what its tensors.json lists: all tensors of a published
    checkpoint."""
    family = families.FAMILIES[name]
    config = family.make_config()
    text, shapes = saved(config)
    more = further_tensors(family, config, shapes)
    if family.native:
        shapes = native_tensors(shapes)
    everything = shapes | more
    entries = [entry(n, everything[n]) for n in sorted(everything, key=natural)]
    for e in entries:
        if family.f32_router and e["name"].endswith(".gate.weight"):
            e["dtype"] = "F32"
    return text, entries

"""Tensors under any family's names, in memory or on disk, brought under one set of names."""

import re

import torch

# Applied in order.
RENAMES = [
    (r"^language_model\.", ""),
    # Sarvam-30B
    (r"^model\.word_embeddings\.", "model.embed_tokens."),
    (r"\.attention\.query_layernorm\.", ".self_attn.q_norm."),
    (r"\.attention\.key_layernorm\.", ".self_attn.k_norm."),
    (r"\.attention\.dense\.", ".self_attn.o_proj."),
    (r"\.attention\.query_key_value\.", ".self_attn.qkv_proj."),
    (r"\.expert_bias$", ".e_score_correction_bias"),
    # Mistral's own names
    (r"^tok_embeddings\.", "model.embed_tokens."),
    (r"^norm\.", "model.norm."),
    (r"^output\.", "lm_head."),
    (r"^layers\.(\d+)\.(gate|experts|shared_experts)\.", r"model.layers.\1.mlp.\2."),
    (r"^layers\.(\d+)\.feed_forward\.", r"model.layers.\1.mlp."),
    (r"^layers\.", "model.layers."),
    (r"\.attention_norm\.", ".input_layernorm."),
    (r"\.ffn_norm\.", ".post_attention_layernorm."),
    (r"\.attention\.wq_a\.", ".self_attn.q_a_proj."),
    (r"\.attention\.q_a_norm\.", ".self_attn.q_a_layernorm."),
    (r"\.attention\.wq_b\.", ".self_attn.q_b_proj."),
    (r"\.attention\.wkv_a_with_mqa\.", ".self_attn.kv_a_proj_with_mqa."),
    (r"\.attention\.kv_a_norm\.", ".self_attn.kv_a_layernorm."),
    (r"\.attention\.wkv_b\.", ".self_attn.kv_b_proj."),
    (r"\.attention\.wo\.", ".self_attn.o_proj."),
    # Mixtral, MiniMax
    (r"\.block_sparse_moe\.e_score", ".mlp.gate.e_score"),
    (r"\.mlp\.e_score", ".mlp.gate.e_score"),
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"\.w1\.", ".gate_proj."),
    (r"\.w3\.", ".up_proj."),
    (r"\.w2\.", ".down_proj."),
    # gpt-oss
    (r"\.mlp\.router\.", ".mlp.gate."),
]


def common_name(name):
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


class Weights:
    """Looks tensors up by their common name; a name that was never asked for is reported."""

    def __init__(self, tensors, spec):
        self.tensors = {common_name(n): t for n, t in tensors.items()}
        self.spec = spec
        self.layers = [self.layer(i) for i in range(spec.layers)]
        self.embed = self.tensors["model.embed_tokens.weight"]
        self.norm = self.tensors["model.norm.weight"]
        self.head = self.tensors["lm_head.weight"]

    def to(self, dtype):
        other = object.__new__(Weights)
        other.spec = self.spec
        other.embed, other.norm, other.head = (
            t.to(dtype) for t in (self.embed, self.norm, self.head)
        )
        other.layers = [{k: t.to(dtype) for k, t in layer.items()} for layer in self.layers]
        return other

    def layer(self, index):
        stem = f"model.layers.{index}."
        found = {n.removeprefix(stem): t for n, t in self.tensors.items() if n.startswith(stem)}
        layer = {}
        for name, tensor in found.items():
            if not re.match(r"mlp\.experts\.", name) and "inv_freq" not in name:
                layer[name.removesuffix(".weight")] = tensor
        if "self_attn.qkv_proj" in layer:
            self.split_qkv(layer)
        if index not in self.spec.dense:
            layer |= self.experts(found)
        return layer

    def split_qkv(self, layer):
        """Rows: all of q, then k, then v."""
        s = self.spec
        sizes = [n * s.head_dim for n in (s.heads, s.kv_heads, s.kv_heads)]
        parts = layer.pop("self_attn.qkv_proj").split(sizes)
        for name, part in zip("qkv", parts):
            layer[f"self_attn.{name}_proj"] = part

    def experts(self, found):
        """gate, up [E, I, H] and down [E, H, I], with biases where there are any."""
        out = {}
        if "mlp.experts.gate_up_proj" in found:
            both, down = found["mlp.experts.gate_up_proj"], found["mlp.experts.down_proj"]
            if self.spec.interleaved_experts:
                both, down = both.transpose(1, 2), down.transpose(1, 2)
                out["gate"], out["up"] = both[:, 0::2], both[:, 1::2]
                bias = found["mlp.experts.gate_up_proj_bias"]
                out["gate_bias"], out["up_bias"] = bias[:, 0::2], bias[:, 1::2]
                out["down_bias"] = found["mlp.experts.down_proj_bias"]
            else:
                out["gate"], out["up"] = both.chunk(2, dim=1)
            out["down"] = down
        else:
            for part in ("gate", "up", "down"):
                name = "mlp.experts.{}." + part + "_proj.weight"
                rows = [found[name.format(e)] for e in range(self.spec.experts)]
                out[part] = torch.stack(rows)
        return {f"experts.{n}": t.contiguous() for n, t in out.items()}

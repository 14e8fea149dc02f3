"""README.md of the data, from what was measured while they were made."""

import sys

import numpy as np
import safetensors
import torch
import transformers

from . import families, measure, quantised, stored

TEXT = """# Tiny checkpoints with known answers

Written by `python3 scripts/make_tiny_models.py`; do not edit by hand. Made with Python
{python}, torch {torch}, transformers {transformers}, safetensors {safetensors}, numpy {numpy}.

Models of two to four layers with random weights and awkward shapes. Every weight is exact in
bfloat16 and in float16, but for correction biases, which are float32 in every checkpoint, and for
quantised weights. The script's head comment lists all that it asserts.

## Stored checkpoints

{stored}

`max_position_embeddings` is 512. Bytes by directory:

{stored_sizes}

* `qwen3_moe`: one `model.safetensors`, published per-expert names; its variants hold equal numbers.
* `qwen3_moe_f32_sharded`: three shards and `model.safetensors.index.json`.
* `qwen3_moe_f16`: `config.json` in the spelling of transformers 4 (`torch_dtype`,
  `num_experts`, top-level `rope_theta`, `rope_scaling` null); the others are as transformers 5
  writes them (`dtype`, `num_local_experts`, `rope_parameters`).
* `qwen3_moe_fused`: experts as `mlp.experts.gate_up_proj` [E, 2I, H] (gate rows first) and
  `mlp.experts.down_proj` [E, H, I], no `.weight` suffix.
* `mixtral`: `block_sparse_moe` names; experts wider than 512.

`generation_config.json` of qwen3_moe lists two end-of-sequence ids, the others have one.

## Checkpoints from a formula

{seeded}

A directory holds `tensors.json` and the configuration files. Value i of a tensor is
`offset + q * 2^-shift`, where q is the upper half of hash(key, i) scaled to -range..range, and key
is the hash of seed and name (without `unhashed_prefix`); the hashes are those of `base/hash.h`.
`hashes` holds that of all tensors' bytes, in the order of the list, for each dtype.
`tests/seeded_checkpoint.h` writes such a checkpoint as safetensors files.

* `config.json` is as transformers 5 writes it, `config_v4.json` in the spelling in which such
  models were published. kimi_k2 has only the latter: transformers knows it as deepseek_v3.
* `kimi_k25`: the text model of kimi_k2 within a wrapper, tensors behind `language_model.`, and a
  few of an image part; what kimi_k2 expects holds for it.
* `mistral_large_3`: `params.json` and the names of Mistral's own files, `consolidated.safetensors`.
* Beside the model's tensors there are those of a layer for predicting further tokens
  (deepseek_v3, glm4_moe, glm4_moe_air) and stale `rotary_emb.inv_freq` (deepseek_v3, kimi_k2).
* Windows: mixtral_window on every layer, gpt_oss on even ones. YaRN's original positions are
  {original}; a long prompt goes far beyond.

## Checkpoints with quantised weights

{quantised}

The codes are those of compressed-tensors {compressed} where it has the format, of torch's
float8 casts, or of numpy (AWQ, GPTQ, q8); see `tiny_models/formats.py`. That AWQ and GPTQ are
packed as AutoAWQ and AutoGPTQ pack them, bit for bit, `tiny_models/compare_packers.py` shows; what
those packed is `../packed_by_tools.json`. `quantised_gptq` has the zero points of version 1 (less
one), `quantised_gptq_v2` as they are. `quantised_fp8_block_mistral` has the layout of Mistral
Large 3, `quantised_fp8_tensor_mistral` that of Mistral Small 4: `params.json` and Mistral's own
names. `quantised_fp8_stacked` is the latter in transformers' names, experts in stacks.
`quantised_int8` announces 8-bit activations too, which are not part of what is expected;
`quantised_q8` is docs/formats.md's format, encoded and decoded apart from the runtime.

## Expected data

`expected/<family>/`, computed by transformers in float32 with the eager attention and the
eager experts, from the weights above (the dequantised ones); i is the prompt.

* `ids.json`: the prompts.
* `rows.json`: for each prompt, the rows of logits that are stored, ascending.
* `logits_i.npy`: float32 [rows, vocab].
* `greedy_i.json`: the greedy tokens that follow the prompt, without an end-of-sequence id.
* `bf16.json`: what rounding to bfloat16 does to the logits of each prompt, relative to the largest
  |logit|. `deviation`: each operand of a matrix product (normed x, q, k, P, v, attention output, h
  in each layer, and the last normed x; with latent attention, in its absorbed form, the latents
  of q and kv, the rotary key, both parts of q, q of the latent, P, output of the latent, output
  of the heads: `sites` in all) is rounded alone in an otherwise float32 run with the same experts
  chosen; the squares of what they do to a row of logits are added up, the worst row counts. `rms`:
  the smallest and the largest root mean square over the stored rows, in several draws of rounding
  errors with all operands rounded.
* `routes_i.json`: `{{"version": 1, "top_k": K, "layers": [{{"layer": l, "experts": [...]}}]}}`;
  per MoE layer one list per prompt token with the K experts in falling order of what chose them.

Compare logits with a tolerance of {tolerance:g} x the largest |logit|. Greedy tokens must match
exactly in float32. The smallest gaps, over prompts and greedy tokens, are given relative to the
largest |logit| of the sequence, and between the worst chosen and the best not chosen expert (or
group of experts), for softmax scores relative to the former. Float32 noise is the largest
difference from a float64 run; "second pass" is how far a forward pass written without the library
is off. Both are relative to the largest |logit|.

To run these checkpoints in transformers pass `experts_implementation="eager"`: the grouped
matrix product it takes by default refuses rows that are not a multiple of 16 bytes.

{facts}

How far mistakes move the stored logits of the last prompt, relative to the largest |logit|:

{effects}
"""


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def attention(s):
    if not s.latent:
        return f"{s.heads}/{s.kv_heads}/{s.head_dim}"
    m = s.latent
    q = m.q_rank or "-"
    return f"{s.heads} heads, ranks {q} and {m.rank}, {m.nope}+{m.rope}, {m.value}"


def switches(s):
    """What sets a family apart, in words."""
    out = []
    if s.qk_norm:
        out.append({"head": "per-head q/k norm", "vector": "whole-vector q/k norm"}[s.qk_norm])
    if s.clip:
        out.append(f"clip_qkv {s.clip}")
    if not s.latent and s.rope.dim < s.head_dim:
        out.append(f"{s.rope.dim} of {s.head_dim} rotate")
    if s.rope.factor:
        out.append(f"YaRN {s.rope.factor:g}")
    out.append(f"theta {s.rope.theta:g}")
    if s.temperature:
        out.append("query temperature")
    windows = {w for w in s.windows if w}
    if windows:
        out.append(f"window {max(windows)}")
    if s.sinks:
        out.append("sinks")
    if s.qkv_bias:
        out.append("biases of q, k, v" + (", o" if s.o_bias else ""))
    score = {"chosen": "softmax over the chosen"}.get(s.score, s.score)
    out.append(score + (" + correction bias" if s.choice_bias else ""))
    if s.groups > 1:
        out.append(f"{s.groups_kept} of {s.groups} groups")
    if not s.renorm and s.score != "chosen":
        out.append("weights not normalised")
    if s.routed_scale != 1:
        out.append(f"scale {s.routed_scale:g}")
    if s.clamp:
        out.append(f"clamp {s.clamp[1]:g}")
    return ", ".join(out) + f", eps {s.eps:g}"


def shapes(results, names):
    head = [
        "family",
        "vocab",
        "hidden",
        "layers (dense)",
        "heads/kv/head_dim, or latent",
        "experts/top k/width",
        "switches",
    ]
    rows = []
    for name in names:
        s, width = results[name].spec, results[name].facts["expert width"]
        hidden = results[name].facts["hidden"]
        layers = f"{s.layers} ({len(s.dense)})"
        experts = f"{s.experts}/{s.top_k}/{width}"
        rows.append([name, s.vocab, hidden, layers, attention(s), experts, switches(s)])
    return table(head, rows)


def bytes_of(path):
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def stored_sizes(out):
    rows = [
        [variant, str(dtype).removeprefix("torch."), bytes_of(out / variant)]
        for variants in stored.VARIANTS.values()
        for variant, dtype in variants.items()
    ]
    return table(["directory", "dtype", "bytes"], rows)


def facts(results):
    head = [
        "family",
        "logit gap",
        "router gap",
        "float32 noise",
        "second pass",
        "logit std",
        "choices changed by the bias",
    ]
    rows = []
    for name, data in results.items():
        f = data.facts
        share = f.get("choices changed by the bias")
        rows.append(
            [
                name,
                f"{f['logit gap']:.1e}",
                f"{f['router gap']:.1e}",
                f"{f['noise']:.0e}",
                f"{f['off']:.0e}",
                f"{f['logit std']:.2f}",
                "-" if share is None else f"{share:.0%}",
            ]
        )
    return table(head, rows)


def effects(results, names):
    mistakes = []
    for name in names:
        mistakes += [m for m in results[name].facts["effects"] if m not in mistakes]
    rows = []
    for mistake in mistakes:
        cells = [results[name].facts["effects"].get(mistake) for name in names]
        rows.append([mistake, *("-" if c is None else f"{c:.2g}" for c in cells)])
    return table(["mistake", *names], rows)


def write(out, results, compressed):
    groups = [list(stored.FAMILIES), list(families.FAMILIES), list(quantised.VARIANTS)]
    text = TEXT.format(
        python=sys.version.split()[0],
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        safetensors=safetensors.__version__,
        numpy=np.__version__,
        compressed=compressed,
        stored=shapes(results, groups[0]),
        stored_sizes=stored_sizes(out),
        seeded=shapes(results, groups[1]),
        quantised=shapes(results, groups[2]),
        original=families.ORIGINAL,
        tolerance=measure.TOLERANCE,
        facts=facts(results),
        effects="\n\n".join(effects(results, names) for names in groups),
    )
    (out / "README.md").write_text(text)

"""Tiny checkpoints with quantised weights. They are stored: the codes are those of an independent
tool (formats.py), applied to weights that a formula gives. What a runtime should compute is what
transformers computes in float32 from the dequantised weights.
"""

import dataclasses
import math
import re

import torch
from safetensors.torch import save_file
from transformers import (
    DeepseekV3Config,
    GptOssConfig,
    Mistral4Config,
    Qwen3MoeConfig,
    SarvamMLAConfig,
)

from . import (
    expected,
    families,
    format_mistakes,
    formats,
    formula,
    forward,
    measure,
    published,
    reference,
    tensors,
)
from .families import plain, yarn
from .spec import spec_of
from .weights import Weights

LENGTHS, TOKENS = (12, 70), 16


def latent(cls, **more):
    """A small model with latent attention: one dense layer and one with experts."""
    sizes = {
        "vocab_size": 48,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "q_lora_rank": 20,
        "kv_lora_rank": 24,
        "qk_nope_head_dim": 10,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "n_routed_experts": 5,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "moe_intermediate_size": 18,
        "intermediate_size": 136,  # two blocks of 128, the second of 8
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "rms_norm_eps": 1e-6,
        "num_nextn_predict_layers": 0,
        "rope_parameters": yarn(10000.0, 40.0, mscale=1.0, mscale_all_dim=1.0),
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return cls(**(families.COMMON | sizes | more))


def grouped(moe_intermediate_size=64, intermediate_size=96, num_experts=5):
    """A small qwen3_moe with every width a multiple of 32, unless told otherwise."""
    return Qwen3MoeConfig(
        vocab_size=48,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=num_experts,
        num_experts_per_tok=2,
        moe_intermediate_size=moe_intermediate_size,
        mlp_only_layers=[0],
        intermediate_size=intermediate_size,
        norm_topk_prob=True,
        rms_norm_eps=1e-6,
        rope_parameters=plain(100000.0),
        bos_token_id=46,
        eos_token_id=47,
        **families.COMMON,
    )


def clamped():
    """A small gpt_oss, inputs of experts in groups of 32."""
    return GptOssConfig(
        vocab_size=48,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=12,
        num_local_experts=5,
        num_experts_per_tok=2,
        intermediate_size=64,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention"],
        attention_bias=True,
        swiglu_limit=2.25,
        rms_norm_eps=1e-5,
        rope_parameters=yarn(150.0, 32.0, beta_fast=32.0, beta_slow=1.0, truncate=False),
        pad_token_id=45,
        bos_token_id=None,
        eos_token_id=46,
        **families.COMMON,
    )


LINEAR = r"(self_attn\..*_proj.*|mlp\..*_proj)\.weight$"  # all but router, embedding and head
EXPERTS = r"mlp\.experts\..*\.weight$"
FFN = r"mlp\..*_proj\.weight$"


def group_config(weights, kind, ignore=("lm_head",), inputs=None):
    """quantization_config of compressed-tensors; inputs: how activations are quantised."""
    return {
        "config_groups": {
            "group_0": {
                "format": kind,
                "input_activations": inputs,
                "output_activations": None,
                "targets": ["Linear"],
                "weights": weights.model_dump(mode="json"),
            }
        },
        "format": kind,
        "global_compression_ratio": None,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def modelopt_config(algorithm, weights):
    return {
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head", "model.layers.*.mlp.gate"],
        "producer": {"name": "modelopt", "version": "0.37.0"},
        "quant_algo": algorithm,
        "quant_method": "modelopt",
    }


def gptq_config(version, symmetric):
    return {
        "bits": 4,
        "checkpoint_format": version,
        "damp_percent": 0.1,
        "desc_act": False,
        "group_size": formats.GROUP,
        "quant_method": "gptq",
        "static_groups": False,
        "sym": symmetric,
        "true_sequential": True,
    }


INPUTS_INT8 = {
    "dynamic": True,
    "num_bits": 8,
    "observer": None,
    "strategy": "token",
    "symmetric": True,
    "type": "int",
}
FP8_BLOCK = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
MXFP4 = {
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
    "quant_method": "mxfp4",
}
FP8_BLOCK_E8M0 = FP8_BLOCK | {"scale_fmt": "ue8m0"}
FP8_STACKED = {
    "activation_scheme": "static",
    "modules_to_not_convert": ["lm_head", "gate"],
    "quant_method": "fp8",
    "weight_block_size": None,
}
FP8_MISTRAL = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
FP8_TENSOR = {"dynamic": False, "num_bits": 8, "type": "float"}
NVFP4_MODELOPT = {"dynamic": False, "group_size": 16, "num_bits": 4, "type": "float"}
AWQ = {
    "bits": 4,
    "group_size": formats.GROUP,
    "modules_to_not_convert": ["gate"],
    "quant_method": "awq",
    "version": "gemm",
    "zero_point": True,
}


Q8 = {
    "group_size": formats.Q8_GROUP,
    "modules_to_not_convert": ["lm_head", "model.layers.1.mlp.gate"],
    "quant_method": "switchyard_q8",
}


@dataclasses.dataclass(frozen=True)
class Variant:
    make_config: object
    seed: int
    matrices: str  # pattern of the names that are quantised
    quantization: dict
    spelling: object = None  # of the configuration; None: as transformers 5 writes it
    native: bool = False  # Mistral's own names and params.json


def kimi():
    """Widths of experts in whole groups of 32."""
    return latent(
        DeepseekV3Config,
        vocab_size=40,
        q_lora_rank=12,
        kv_lora_rank=16,
        n_routed_experts=4,
        moe_intermediate_size=64,
        intermediate_size=16,
    )


def mistral(**more):
    """Mistral Large 3's function; no factor on the softmax, and a query temperature."""
    rope = yarn(
        10000.0,
        36.0,
        beta_fast=32.0,
        beta_slow=1.0,
        attention_factor=1.0,
        llama_4_scaling_beta=0.1,
    )
    return latent(
        Mistral4Config,
        vocab_size=40,
        n_routed_experts=4,
        routed_scaling_factor=1.0,
        rope_parameters=rope,
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )


VARIANTS = {
    "fp8_block": Variant(
        lambda: latent(DeepseekV3Config), 19, LINEAR, FP8_BLOCK, published.deepseek_v3
    ),
    "fp8_block_mistral": Variant(
        mistral,
        3,
        r"(attention\.(wq_b|wkv_b|wo)|\.w[123])\.weight$",
        group_config(formats.BLOCK, "float-quantized"),
        native=True,
    ),
    "fp8_channel": Variant(
        lambda: grouped(38, 50), 20, LINEAR, group_config(formats.CHANNEL, "float-quantized")
    ),
    "fp8_tensor": Variant(
        lambda: latent(SarvamMLAConfig, q_lora_rank=None, intermediate_size=40),
        14,
        LINEAR,
        modelopt_config("FP8", FP8_TENSOR),
        published.sarvam_mla,
    ),
    "fp8_block_e8m0": Variant(lambda: grouped(24, 136), 5, LINEAR, FP8_BLOCK_E8M0),
    "fp8_tensor_mistral": Variant(
        lambda: mistral(intermediate_size=24),
        11,
        r"(attention\.w[a-z_]*|\.w[123])\.weight$",
        FP8_MISTRAL,
        native=True,
    ),
    "fp8_stacked": Variant(
        lambda: mistral(intermediate_size=24),
        12,
        r"(self_attn\..*_proj.*\.weight|mlp\..*_proj\.weight|experts\.(gate_up|down)_proj)$",
        FP8_STACKED,
    ),
    "mxfp4": Variant(clamped, 11, r"experts\.(gate_up|down)_proj$", MXFP4, published.gpt_oss),
    "nvfp4": Variant(grouped, 10, LINEAR, group_config(formats.NVFP4, "nvfp4-pack-quantized")),
    "nvfp4_modelopt": Variant(
        kimi, 3, FFN, modelopt_config("NVFP4", NVFP4_MODELOPT), published.deepseek_v3
    ),
    "mxfp4_packed": Variant(
        grouped, 3, FFN, group_config(formats.MXFP4, "mxfp4-pack-quantized")
    ),
    "int4": Variant(
        kimi,
        8,
        EXPERTS,
        group_config(
            formats.INT4,
            "pack-quantized",
            ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]
            + [r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"],
        ),
        published.kimi_k2,
    ),
    "int4_zeros": Variant(grouped, 3, LINEAR, group_config(formats.INT4_ZEROS, "pack-quantized")),
    "awq": Variant(grouped, 22, LINEAR, AWQ),
    "gptq": Variant(grouped, 12, LINEAR, gptq_config("gptq", True)),
    "gptq_v2": Variant(grouped, 30, LINEAR, gptq_config("gptq_v2", False)),
    "int8": Variant(
        lambda: grouped(22, 34, 3),
        8,
        LINEAR,
        group_config(formats.INT8, "int-quantized", inputs=INPUTS_INT8),
    ),
    "q8": Variant(lambda: grouped(34, 34, 3), 1, LINEAR, Q8),
}


def prepare(name):
    """What does not depend on the seed: configuration, its text, entries of the tensors."""
    config = VARIANTS[name].make_config()
    text, shapes = tensors.saved(config)
    if VARIANTS[name].native:
        shapes = tensors.native_tensors(shapes)
    return config, text, [tensors.entry(n, shapes[n]) for n in shapes]


def uneven(w):
    """Every 16 rows and every 16 columns in another size, so that scales differ."""
    sizes = torch.tensor([1.5, 0.75, 1.25, 1.0, 0.6])
    rows, columns = (sizes[(torch.arange(n) // 16) % len(sizes)] for n in w.shape[-2:])
    return w * rows[:, None] * columns


def quantised_names(name, entries):
    return [e["name"] for e in entries if re.search(VARIANTS[name].matrices, e["name"])]


def tensors_of(name, seed, entries):
    """(tensors of the checkpoint, float32 tensors by their usual names before quantisation)."""
    encode = getattr(formats, name)
    stored, full = {}, {}
    for entry in entries:
        full[entry["name"]] = torch.from_numpy(formula.values(entry, seed))
        pinned = entry.get("dtype") == "F32"
        stored[entry["name"]] = full[entry["name"]].to(torch.float32 if pinned else torch.bfloat16)
    for matrix in quantised_names(name, entries):
        full[matrix] = uneven(full[matrix])
        del stored[matrix]
        stored |= encode(matrix.removesuffix(".weight"), full[matrix])
    return stored, full


def decoded(name, entries, stored, full, decode):
    """The float32 tensors with the quantised ones replaced by what decode reads."""
    read = {n: decode(n.removesuffix(".weight"), stored) for n in quantised_names(name, entries)}
    return full | read


def check_mistakes(name, entries, stored, full, spec, data):
    """Each wrong reading of the format moves the stored logits of the last prompt."""
    for mistake, decode in format_mistakes.MISTAKES[name].items():
        weights = Weights(decoded(name, entries, stored, full, decode), spec)
        wrong = forward.run(spec, weights, data.prompts[-1]).logits
        off = (wrong - data.logits[-1])[data.rows[-1]].abs().max() / data.logits[-1].abs().max()
        by = off.item() if math.isfinite(off.item()) else math.inf
        measure.require(by > measure.MIN_EFFECT, f"'{mistake}' moves the logits by {by:.1e} only")
        data.facts["effects"][mistake] = by


def compute(name, seed, prepared):
    config, _, entries = prepared
    stored, full = tensors_of(name, seed, entries)
    decode = getattr(formats, f"from_{name}")
    exact = decoded(name, entries, stored, full, decode)
    spec = spec_of(config)
    ends = {config.eos_token_id}
    data = expected.compute(
        lambda: reference.load(config, exact, VARIANTS[name].native),
        spec,
        Weights(exact, spec),
        seed,
        ends,
        LENGTHS,
        TOKENS,
    )
    check_mistakes(name, entries, stored, full, spec, data)
    return stored, data


def write_config(variant, config, text, directory):
    if variant.native:
        params = published.params_json(text) | {"quantization": variant.quantization}
        expected.write_json(directory / "params.json", params, indent=1)
        return
    text["dtype"] = "bfloat16"
    if variant.spelling:
        text = variant.spelling(text)
    assert published.same_model(text, config)
    text["quantization_config"] = variant.quantization
    expected.write_json(directory / "config.json", text, indent=1)


def make(name, out):
    variant = VARIANTS[name]
    prepared = prepare(name)
    stored, data = compute(name, variant.seed, prepared)
    config, text, _ = prepared
    directory = out / f"quantised_{name}"
    directory.mkdir()
    write_config(variant, config, text, directory)
    stem = "consolidated" if variant.native else "model"
    save_file(
        {n: t.contiguous() for n, t in stored.items()},
        directory / f"{stem}.safetensors",
        metadata={"format": "pt"},
    )
    for path in directory.iterdir():
        path.chmod(0o644)
    expected.save(data, out / "expected" / directory.name)
    return data

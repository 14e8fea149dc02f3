"""Formats of quantised weights: from a float32 matrix to the tensors of a checkpoint, and back.

What can be had from the compressed-tensors package or from transformers comes from there, so that
the bytes are those of an independent tool; the rest is written out in numpy. Every decoder gives
the exact float32 value that the format defines, up to one rounding of a product of scales.
"""

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

E4M3_MAX, E2M1_MAX = 448.0, 6.0


def compressor(name):
    return BaseCompressor.get_value_from_registry(name)


def args_scheme(**args):
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    return scheme.weights, scheme


def grouped_range(w, size):
    groups = w.reshape(len(w), -1, size)
    return groups.amin(-1), groups.amax(-1)


# FP8 in blocks of 128 x 128 (DeepSeek), the last ones smaller.


def block_scales(w, block=128):
    rows, cols = (-(-n // block) for n in w.shape)
    scales = torch.zeros(rows, cols)
    for r in range(rows):
        for c in range(cols):
            part = w[r * block : (r + 1) * block, c * block : (c + 1) * block]
            scales[r, c] = part.abs().max() / E4M3_MAX
    return scales


def spread(scales, shape, block=128):
    wide = scales.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return wide[: shape[0], : shape[1]]


def fp8_block(name, w):
    scales = block_scales(w)
    codes = (w / spread(scales, w.shape)).to(torch.float8_e4m3fn)
    return {f"{name}.weight": codes, f"{name}.weight_scale_inv": scales}


def from_fp8_block(name, t):
    codes, scales = t[f"{name}.weight"], t[f"{name}.weight_scale_inv"]
    return codes.float() * spread(scales, codes.shape)


# The same with powers of two as scales, stored as such (DeepSeek-V3.2's "ue8m0").


def fp8_block_e8m0(name, w):
    scales = torch.exp2(torch.ceil(torch.log2(block_scales(w))))
    codes = (w / spread(scales, w.shape)).to(torch.float8_e4m3fn)
    return {
        f"{name}.weight": codes,
        f"{name}.weight_scale_inv": scales.to(torch.float8_e8m0fnu),
    }


def from_fp8_block_e8m0(name, t):
    codes, scales = t[f"{name}.weight"], t[f"{name}.weight_scale_inv"].float()
    return codes.float() * spread(scales, codes.shape)


# The same blocks as compressed-tensors has them (Mistral Large 3).

BLOCK, BLOCK_SCHEME = args_scheme(
    num_bits=8, type="float", symmetric=True, strategy="block", block_structure=[128, 128]
)


def fp8_block_mistral(name, w):
    state = {"weight": w, "weight_scale": block_scales(w)}
    out = compressor("float-quantized").compress(state, BLOCK_SCHEME)
    return {f"{name}.{k}": t for k, t in out.items()}


def from_fp8_block_mistral(name, t):
    codes, scales = t[f"{name}.weight"], t[f"{name}.weight_scale"]
    return codes.float() * spread(scales, codes.shape)


# FP8 with a scale for each output (compressed-tensors), in bfloat16.

CHANNEL, CHANNEL_SCHEME = args_scheme(num_bits=8, type="float", symmetric=True, strategy="channel")


def fp8_channel(name, w):
    half = w.bfloat16()
    scale, zero = calculate_qparams(
        half.amin(-1, keepdim=True), half.amax(-1, keepdim=True), CHANNEL
    )
    state = {"weight": half, "weight_scale": scale, "weight_zero_point": zero}
    out = compressor("float-quantized").compress(state, CHANNEL_SCHEME)
    return {f"{name}.{k}": t for k, t in out.items()}


def from_fp8_channel(name, t):
    state = {"weight": t[f"{name}.weight"], "weight_scale": t[f"{name}.weight_scale"].float()}
    return compressor("float-quantized").decompress(state, CHANNEL_SCHEME)["weight"]


# FP8 with one scale, and one for activations that a weight-only runtime has no use for (ModelOpt).


def fp8_tensor(name, w):
    scale = w.abs().max() / E4M3_MAX
    return {
        f"{name}.weight": (w / scale).to(torch.float8_e4m3fn),
        f"{name}.weight_scale": scale,
        f"{name}.input_scale": torch.tensor(3.0 / E4M3_MAX),
    }


def from_fp8_tensor(name, t):
    return t[f"{name}.weight"].float() * t[f"{name}.weight_scale"]


# The same in Mistral's own names.


def fp8_tensor_mistral(name, w):
    scale = w.abs().max() / E4M3_MAX
    return {
        f"{name}.weight": (w / scale).to(torch.float8_e4m3fn),
        f"{name}.qscale_weight": scale,
        f"{name}.qscale_act": torch.tensor(3.0 / E4M3_MAX),
    }


def from_fp8_tensor_mistral(name, t):
    return t[f"{name}.weight"].float() * t[f"{name}.qscale_weight"]


# FP8 as transformers writes Mistral Small 4: matrices with one scale, in bfloat16, and experts in
# stacks with one scale an expert.


def fp8_stacked(name, w):
    if w.dim() == 3:  # experts in different sizes, so that their scales differ
        w = w * torch.tensor([1.0, 0.7, 1.6, 0.5]).repeat(len(w))[: len(w), None, None]
    largest = w.abs().amax((-2, -1), keepdim=w.dim() == 3)
    scale = (largest / E4M3_MAX).bfloat16()
    codes = (w / scale.float()).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    if w.dim() == 3:
        acts = torch.full((len(w),), 3.0 / E4M3_MAX)
        return {name: codes, f"{name}_scale_inv": scale, f"{name}_activation_scale": acts}
    return {
        f"{name}.weight": codes,
        f"{name}.weight_scale_inv": scale,
        f"{name}.activation_scale": torch.tensor(3.0 / E4M3_MAX),
    }


def from_fp8_stacked(name, t):
    codes, scale = (name, f"{name}_scale_inv")
    if codes not in t:
        codes, scale = (f"{name}.weight", f"{name}.weight_scale_inv")
    return t[codes].float() * t[scale].float()


# NVFP4: E2M1 with an E4M3 scale for 16 inputs and a float32 one for all.

NVFP4, NVFP4_SCHEME = args_scheme(
    num_bits=4,
    type="float",
    symmetric=True,
    strategy="tensor_group",
    group_size=16,
    scale_dtype=torch.float8_e4m3fn,
)


def nvfp4(name, w):
    overall = generate_gparam(w.amin(), w.amax())
    scale, _ = calculate_qparams(*grouped_range(w, 16), NVFP4, global_scale=overall)
    state = {"weight": w, "weight_scale": scale.float(), "weight_global_scale": overall}
    out = compressor("nvfp4-pack-quantized").compress(state, NVFP4_SCHEME)
    out["input_global_scale"] = torch.tensor([E4M3_MAX * E2M1_MAX / 3.0])
    return {f"{name}.{k}": t for k, t in out.items()}


def from_nvfp4(name, t):
    packed = t[f"{name}.weight_packed"]
    codes = unpack_fp4_from_uint8(packed, len(packed), 2 * packed.shape[1], torch.float32)
    return dequantize(
        x_q=codes,
        scale=t[f"{name}.weight_scale"].float(),
        args=NVFP4,
        global_scale=t[f"{name}.weight_global_scale"],
        dtype=torch.float32,
    )


def nvfp4_modelopt(name, w):
    """The same codes under ModelOpt's names: the scale of all is a factor there."""
    other = nvfp4(name, w)
    return {
        f"{name}.weight": other[f"{name}.weight_packed"],
        f"{name}.weight_scale": other[f"{name}.weight_scale"],
        f"{name}.weight_scale_2": 1 / other[f"{name}.weight_global_scale"][0],
        f"{name}.input_scale": torch.tensor(3.0 / (E4M3_MAX * E2M1_MAX)),
    }


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
E2M1 = np.concatenate((E2M1, -E2M1))


def from_nvfp4_modelopt(name, t):
    packed = t[f"{name}.weight"].numpy()
    codes = np.stack((packed & 15, packed >> 4), axis=-1).reshape(len(packed), -1)
    scale = t[f"{name}.weight_scale"].float().repeat_interleave(16, 1)
    return torch.from_numpy(E2M1[codes]) * scale * t[f"{name}.weight_scale_2"]


# MXFP4 of gpt-oss: stacked experts, E2M1 with an E8M0 scale for 32 inputs.

MXFP4, MXFP4_SCHEME = args_scheme(
    num_bits=4,
    type="float",
    symmetric=True,
    strategy="group",
    group_size=32,
    scale_dtype=torch.uint8,
)


def mxfp4(name, w):
    """w [E, inputs, outputs], as gpt-oss has it unquantised."""
    blocks, scales = [], []
    for expert in w.transpose(1, 2):
        scale, _ = calculate_qparams(*grouped_range(expert, 32), MXFP4)
        state = {"weight": expert.contiguous(), "weight_scale": scale}
        out = compressor("mxfp4-pack-quantized").compress(state, MXFP4_SCHEME)
        blocks.append(out["weight_packed"].reshape(*out["weight_scale"].shape, 16))
        scales.append(out["weight_scale"])
    return {f"{name}_blocks": torch.stack(blocks), f"{name}_scales": torch.stack(scales)}


def from_mxfp4(name, t):
    return convert_moe_packed_tensors(t[f"{name}_blocks"], t[f"{name}_scales"], dtype=torch.float32)


# The same codes as compressed-tensors has them.


def mxfp4_packed(name, w):
    scale, _ = calculate_qparams(*grouped_range(w, 32), MXFP4)
    state = {"weight": w.contiguous(), "weight_scale": scale}
    out = compressor("mxfp4-pack-quantized").compress(state, MXFP4_SCHEME)
    return {f"{name}.{k}": t for k, t in out.items()}


def from_mxfp4_packed(name, t):
    packed = t[f"{name}.weight_packed"].numpy()
    codes = np.stack((packed & 15, packed >> 4), axis=-1).reshape(len(packed), -1)
    scale = torch.exp2(t[f"{name}.weight_scale"].float() - 127).repeat_interleave(32, 1)
    return torch.from_numpy(E2M1[codes]) * scale


# INT4 of compressed-tensors, with and without zero points.

INT4, INT4_SCHEME = args_scheme(
    num_bits=4, type="int", symmetric=True, strategy="group", group_size=32
)
INT4_ZEROS, INT4_ZEROS_SCHEME = args_scheme(
    num_bits=4, type="int", symmetric=False, strategy="group", group_size=32
)


def int4(name, w, args=INT4, scheme=INT4_SCHEME):
    half = w.bfloat16()
    scale, zero = calculate_qparams(*grouped_range(half, 32), args)
    state = {"weight": half, "weight_scale": scale, "weight_zero_point": zero}
    out = compressor("pack-quantized").compress(state, scheme)
    return {f"{name}.{k}": t for k, t in out.items()}


def from_int4(name, t, scheme=INT4_SCHEME):
    stem = f"{name}."
    state = {n.removeprefix(stem): x for n, x in t.items() if n.startswith(stem)}
    state["weight_scale"] = state["weight_scale"].float()
    return compressor("pack-quantized").decompress(state, scheme)["weight"]


def int4_zeros(name, w):
    return int4(name, w, INT4_ZEROS, INT4_ZEROS_SCHEME)


def from_int4_zeros(name, t):
    return from_int4(name, t, INT4_ZEROS_SCHEME)


# INT8 of compressed-tensors, with a scale for each output in bfloat16; it makes codes of -128 too.

INT8, INT8_SCHEME = args_scheme(num_bits=8, type="int", symmetric=True, strategy="channel")


def int8(name, w):
    half = w.bfloat16()
    scale, zero = calculate_qparams(half.amin(-1, keepdim=True), half.amax(-1, keepdim=True), INT8)
    state = {"weight": half, "weight_scale": scale, "weight_zero_point": zero}
    out = compressor("int-quantized").compress(state, INT8_SCHEME)
    return {f"{name}.{k}": t for k, t in out.items()}


def from_int8(name, t):
    state = {"weight": t[f"{name}.weight"], "weight_scale": t[f"{name}.weight_scale"].float()}
    return compressor("int-quantized").decompress(state, INT8_SCHEME)["weight"]


# q8, Switchyard's own (docs/formats.md): a bfloat16 scale for 32 inputs, the last group shorter.

Q8_GROUP = 32


def q8(name, w):
    rows, inputs = w.shape
    groups = np.pad(w.numpy(), ((0, 0), (0, -inputs % Q8_GROUP))).reshape(rows, -1, Q8_GROUP)
    scale = torch.from_numpy(np.abs(groups).max(-1) / 127).bfloat16()
    step = np.maximum(scale.float().numpy(), np.finfo(np.float32).tiny)  # groups of zeros
    codes = np.round(groups / step[..., None]).clip(-127, 127).astype(np.int8)
    codes = codes.reshape(rows, -1)[:, :inputs]
    return {f"{name}.weight": torch.from_numpy(codes.copy()), f"{name}.weight_scale": scale}


def from_q8(name, t):
    codes = t[f"{name}.weight"].numpy().astype(np.float32)
    scale = np.repeat(t[f"{name}.weight_scale"].float().numpy(), Q8_GROUP, axis=1)
    return torch.from_numpy(codes * scale[:, : codes.shape[1]])


# AWQ and GPTQ: unsigned nibbles in 32-bit words, inputs along the rows.

GROUP = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def rounded_to_nearest(w, symmetric):
    """Codes [in, out], float16 scales and zero points [groups, out] of w [out, in]."""
    groups = w.T.numpy().reshape(-1, GROUP, len(w))
    if symmetric:
        scale = np.abs(groups).max(1) / 7
        zero = np.full_like(scale, 8)
    else:
        low, high = np.minimum(groups.min(1), 0), np.maximum(groups.max(1), 0)
        scale = (high - low) / 15
        zero = np.round(-low / scale)
    scale = scale.astype(np.float16)
    codes = np.round(groups / scale[:, None].astype(np.float32) + zero[:, None]).clip(0, 15)
    return (
        codes.reshape(-1, len(w)).astype(np.uint32),
        scale,
        zero.astype(np.uint32),
    )


def packed_columns(values, order):
    """[rows, n] -> [rows, n / 8]: nibble i of a word is column order[i]."""
    parts = values.reshape(len(values), -1, 8)
    return sum(parts[..., column] << (4 * i) for i, column in enumerate(order)).astype(np.int32)


def unpacked_columns(words, order):
    parts = np.empty((*words.shape, 8), dtype=np.uint32)
    for i, column in enumerate(order):
        parts[..., column] = (words.astype(np.uint32) >> (4 * i)) & 15
    return parts.reshape(len(words), -1)


def dequantised(codes, scale, zero):
    """float32 [out, in]"""
    whole = codes.astype(np.float32) - np.repeat(zero, GROUP, axis=0).astype(np.float32)
    wide = np.repeat(scale.astype(np.float32), GROUP, axis=0)
    return torch.from_numpy((whole * wide).T.copy())


def awq(name, w):
    codes, scale, zero = rounded_to_nearest(w, symmetric=False)
    return {
        f"{name}.qweight": torch.from_numpy(packed_columns(codes, AWQ_ORDER)),
        f"{name}.qzeros": torch.from_numpy(packed_columns(zero, AWQ_ORDER)),
        f"{name}.scales": torch.from_numpy(scale),
    }


def from_awq(name, t):
    codes, zero = (
        unpacked_columns(t[f"{name}.{part}"].numpy(), AWQ_ORDER) for part in ("qweight", "qzeros")
    )
    return dequantised(codes, t[f"{name}.scales"].numpy(), zero)


def gptq(name, w, symmetric=True, less=1):
    """less: what is taken from a zero point before it is stored, 1 in version 1."""
    codes, scale, zero = rounded_to_nearest(w, symmetric)
    inputs = w.shape[1]
    in_order = range(8)
    return {
        f"{name}.qweight": torch.from_numpy(packed_columns(codes.T.copy(), in_order).T.copy()),
        f"{name}.qzeros": torch.from_numpy(packed_columns((zero - less) & 15, in_order)),
        f"{name}.scales": torch.from_numpy(scale),
        f"{name}.g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP,
    }


def from_gptq(name, t, less=1):
    codes = unpacked_columns(t[f"{name}.qweight"].numpy().T, range(8)).T
    zero = (unpacked_columns(t[f"{name}.qzeros"].numpy(), range(8)) + less) & 15
    return dequantised(codes, t[f"{name}.scales"].numpy(), zero)


def gptq_v2(name, w):
    return gptq(name, w, symmetric=False, less=0)


def from_gptq_v2(name, t):
    return from_gptq(name, t, less=0)

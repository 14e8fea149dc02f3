"""Wrong readings of quantised weights. quantised.py requires that each moves the logits."""

import numpy as np
import torch

from . import formats


def renamed(decode, **changes):
    """A decoder that changes tensors first: {last part of a name: function of the tensor}."""

    def wrong(name, tensors):
        changed = dict(tensors)
        for part, change in changes.items():
            for full in tensors:
                if full in (f"{name}.{part}", f"{name}{part}"):
                    changed[full] = change(tensors[full])
        return decode(name, changed)

    return wrong


def halves_exchanged(bytes_):
    return (bytes_ >> 4) | ((bytes_ & 15) << 4)


def first(scales):
    return scales.flatten()[0].expand(scales.shape)


def last_group_first(scales):
    if scales.element_size() > 1:
        return scales.flip(1)
    return scales.view(torch.uint8).flip(1).view(scales.dtype)


def unsigned(codes):
    return codes.view(torch.uint8)


def awq_in_order(name, t):
    codes, zero = (
        formats.unpacked_columns(t[f"{name}.{part}"].numpy(), range(8))
        for part in ("qweight", "qzeros")
    )
    return formats.dequantised(codes, t[f"{name}.scales"].numpy(), zero)


def no_zero_points(decode):
    return renamed(decode, weight_zero_point=torch.zeros_like)


def eight_as_zero(name, t):
    codes = formats.unpacked_columns(t[f"{name}.qweight"].numpy(), formats.AWQ_ORDER)
    scale = t[f"{name}.scales"].numpy()
    return formats.dequantised(codes, scale, np.full(scale.shape, 8, dtype=np.uint32))


MISTAKES = {
    "fp8_block": {
        "the first block's scale everywhere": renamed(
            formats.from_fp8_block, weight_scale_inv=first
        ),
        "scales as divisors": renamed(formats.from_fp8_block, weight_scale_inv=torch.reciprocal),
    },
    "fp8_block_e8m0": {
        "the first block's scale everywhere": renamed(
            formats.from_fp8_block_e8m0, weight_scale_inv=lambda s: first(s.float())
        ),
        "exponents off by one": renamed(
            formats.from_fp8_block_e8m0, weight_scale_inv=lambda s: 2 * s.float()
        ),
    },
    "fp8_block_mistral": {
        "the first block's scale everywhere": renamed(
            formats.from_fp8_block_mistral, weight_scale=first
        ),
    },
    "fp8_channel": {
        "the first scale everywhere": renamed(formats.from_fp8_channel, weight_scale=first)
    },
    "fp8_tensor": {
        "no scale": renamed(formats.from_fp8_tensor, weight_scale=torch.ones_like),
        "the activations' scale": lambda name, t: formats.from_fp8_tensor(name, t)
        * t[f"{name}.input_scale"],
    },
    "fp8_tensor_mistral": {
        "no scale": renamed(formats.from_fp8_tensor_mistral, qscale_weight=torch.ones_like),
        "the activations' scale": lambda name, t: formats.from_fp8_tensor_mistral(name, t)
        * t[f"{name}.qscale_act"],
    },
    "fp8_stacked": {
        "the first scale everywhere": renamed(formats.from_fp8_stacked, _scale_inv=first),
        "the scale of the expert before": renamed(
            formats.from_fp8_stacked, _scale_inv=lambda s: s.roll(1, 0)
        ),
    },
    "mxfp4_packed": {
        "halves of bytes exchanged": renamed(
            formats.from_mxfp4_packed, weight_packed=halves_exchanged
        ),
        "exponents off by one": renamed(
            formats.from_mxfp4_packed, weight_scale=lambda s: s + 1
        ),
        "groups backwards": renamed(formats.from_mxfp4_packed, weight_scale=last_group_first),
    },
    "mxfp4": {
        "halves of bytes exchanged": renamed(formats.from_mxfp4, _blocks=halves_exchanged),
        "exponents off by one": renamed(formats.from_mxfp4, _scales=lambda s: s + 1),
    },
    "nvfp4": {
        "halves of bytes exchanged": renamed(formats.from_nvfp4, weight_packed=halves_exchanged),
        "the overall scale as a factor": renamed(
            formats.from_nvfp4, weight_global_scale=torch.reciprocal
        ),
        "groups backwards": renamed(formats.from_nvfp4, weight_scale=last_group_first),
    },
    "nvfp4_modelopt": {
        "the overall scale as a divisor": renamed(
            formats.from_nvfp4_modelopt, weight_scale_2=torch.reciprocal
        )
    },
    "int4": {
        "no offset of 8": renamed(formats.from_int4, weight_packed=lambda w: w ^ -0x77777778),
        "groups backwards": renamed(formats.from_int4, weight_scale=last_group_first),
    },
    "int4_zeros": {"other zero points": no_zero_points(formats.from_int4_zeros)},
    "awq": {"columns in order": awq_in_order, "8 as the zero point": eight_as_zero},
    "gptq": {"zero points as in version 2": formats.from_gptq_v2},
    "gptq_v2": {"zero points as in version 1": formats.from_gptq},
    "int8": {
        "the first scale everywhere": renamed(formats.from_int8, weight_scale=first),
        "codes without a sign": renamed(formats.from_int8, weight=unsigned),
    },
    "q8": {
        "groups backwards": renamed(formats.from_q8, weight_scale=last_group_first),
        "codes without a sign": renamed(formats.from_q8, weight=unsigned),
    },
}

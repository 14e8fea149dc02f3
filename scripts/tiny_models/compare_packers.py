"""Packs one matrix with AutoAWQ and with AutoGPTQ, as their exporters do, and requires that
formats.py packs the same bits. What they made is kept for the tests, since it comes from tools that
publish such weights:

    python3 -m tiny_models.compare_packers OUTPUT.json     (in scripts/)

Needs autoawq and auto-gptq beside what make_tiny_models.py needs; their kernels are not used.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

from . import formats

OUTPUTS, INPUTS = 32, 64


def without_init(package):
    """Lets modules of a package be imported though its __init__ needs more than is there."""
    for depth in range(1, package.count(".") + 2):
        name = ".".join(package.split(".")[:depth])
        if name in sys.modules:
            continue
        parent, _, child = name.rpartition(".")
        if parent:
            paths = [str(Path(p) / child) for p in sys.modules[parent].__path__]
        else:
            paths = list(importlib.util.find_spec(name).submodule_search_locations)
        module = types.ModuleType(name)
        module.__path__ = paths
        sys.modules[name] = module


def matrix():
    """float32 [out, in] of every size of group, and no two groups alike."""
    draw = np.random.RandomState(7)
    sizes = np.exp(draw.standard_normal((OUTPUTS, INPUTS // formats.GROUP)))
    values = draw.standard_normal((OUTPUTS, INPUTS)) + 0.3
    return torch.from_numpy((values * sizes.repeat(formats.GROUP, 1)).astype(np.float32))


def linear(codes, scale, zero):
    """What such tools pack: a layer whose weights are on the grid already."""
    layer = torch.nn.Linear(INPUTS, OUTPUTS, bias=False)
    layer.weight.data = formats.dequantised(codes, scale, zero)
    return layer


def packed_by_autoawq(codes, scale, zero):
    without_init("awq.modules.linear")
    without_init("awq.utils")
    gemm = importlib.import_module("awq.modules.linear.gemm")
    packed = gemm.WQLinear_GEMM.from_linear(
        linear(codes, scale, zero),
        4,
        formats.GROUP,
        scales=torch.from_numpy(scale.astype(np.float32)),
        zeros=torch.from_numpy(zero.astype(np.float32)),
    )
    return {part: getattr(packed, part) for part in ("qweight", "qzeros", "scales")}


def packed_by_autogptq(codes, scale, zero):
    without_init("auto_gptq.nn_modules.qlinear")
    module = importlib.import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda_old")
    packed = module.QuantLinear(4, formats.GROUP, INPUTS, OUTPUTS, bias=False)
    packed.pack(
        linear(codes, scale, zero),
        torch.from_numpy(scale.astype(np.float32).T.copy()),
        torch.from_numpy(zero.astype(np.float32).T.copy()),
        None,
    )
    packed.scales = packed.scales.half()  # the layer's dtype until it is saved
    return {part: getattr(packed, part) for part in ("qweight", "qzeros", "scales", "g_idx")}


# format: (tool, its packing, ours, whether zero points are all 8)
PACKERS = {
    "awq": ("autoawq", packed_by_autoawq, formats.awq, False),
    "gptq": ("auto-gptq", packed_by_autogptq, formats.gptq, True),
    "gptq_zeros": (
        "auto-gptq",
        packed_by_autogptq,
        lambda name, w: formats.gptq(name, w, symmetric=False),
        False,
    ),
}


def compare(name):
    tool, pack, ours, symmetric = PACKERS[name]
    w = matrix()
    codes, scale, zero = formats.rounded_to_nearest(w, symmetric)
    theirs, mine = pack(codes, scale, zero), ours("m", w)
    for part, tensor in theirs.items():
        same = tensor.dtype == mine[f"m.{part}"].dtype and torch.equal(tensor, mine[f"m.{part}"])
        assert same, f"{name}: {part} differs from that of {tool}"
    words = {torch.int32: np.uint32, torch.float16: np.uint16}
    tensors = {p: t.numpy().view(words[t.dtype]).flatten().tolist() for p, t in theirs.items()}
    return {
        "tool": f"{tool} {importlib.metadata.version(tool)}",
        "outputs": OUTPUTS,
        "inputs": INPUTS,
        "group": formats.GROUP,
        "tensors": tensors,
        "codes": ["".join(f"{c:x}" for c in row) for row in codes.T],
        "zeros": ["".join(f"{z:x}" for z in row) for row in zero.T],
        "scales": scale.view(np.uint16).T.tolist(),
    }


def main(path):
    found = {name: compare(name) for name in PACKERS}
    lines = [f'"{n}": ' + json.dumps(f, separators=(",", ":")) for n, f in found.items()]
    Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for name, facts in found.items():
        print(f"{name}: the same bits as {facts['tool']}")


if __name__ == "__main__":
    main(sys.argv[1])

"""Weights that are not stored: value i of a tensor is offset + q * 2^-shift, where q is a hash of
(seed, name, i) brought into -range..range.

The hash is that of base/hash.h, so that tests/seeded_checkpoint.c makes the same values. With
range <= 127 and offset 0 (or 1 with range 32 and shift 7) a value is exact in bfloat16, float16
and float32.
"""

import json
import math

import numpy as np

MASK = (1 << 64) - 1
RANGE = 127


def mix64(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def hash_add(h, word):
    return mix64((h + 0x9E3779B97F4A7C15 + mix64((word + 0x632BE59BD9B4E019) & MASK)) & MASK)


def hash_bytes(h, data):
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return hash_add(h, len(data))


def mix64_all(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def numbers(key, n, limit):
    """n whole numbers of -limit..limit."""
    words = mix64_all(np.arange(n, dtype=np.uint64) + np.uint64(0x632BE59BD9B4E019))
    hashes = mix64_all(np.uint64((key + 0x9E3779B97F4A7C15) & MASK) + words)
    # The upper half of the hash, scaled to 0..2*limit.
    scaled = ((hashes >> np.uint64(32)) * np.uint64(2 * limit + 1)) >> np.uint64(32)
    return scaled.astype(np.int64) - limit


def tensor(name, shape, shift, limit=RANGE, offset=0.0, dtype=None):
    """An entry of tensors.json. dtype: where it is not that of the other weights."""
    entry = {"name": name, "shape": list(shape), "range": limit, "shift": shift}
    if offset:
        entry["offset"] = offset
    if dtype:
        entry["dtype"] = dtype
    return entry


def matrix(name, shape, gain, inputs):
    """An entry whose values have a standard deviation of about gain / sqrt(inputs)."""
    spread = RANGE / math.sqrt(3)
    return tensor(name, shape, round(math.log2(spread * math.sqrt(inputs) / gain)))


def values(entry, seed, unhashed_prefix=""):
    """float32 values of an entry, in its shape."""
    name = entry["name"].removeprefix(unhashed_prefix)
    key = hash_bytes(seed, name.encode())
    q = numbers(key, math.prod(entry["shape"]), entry["range"])
    exact = entry.get("offset", 0.0) + q * 2.0 ** -entry["shift"]
    out = exact.astype(np.float32)
    assert (out == exact).all()
    return out.reshape(entry["shape"])


def encoded(array, dtype):
    """Little-endian bytes in a dtype that holds the values exactly."""
    if dtype == "F32":
        return array.astype("<f4").tobytes()
    if dtype == "F16":
        half = array.astype("<f2")
        assert (half == array).all()
        return half.tobytes()
    bits = array.astype("<f4").view("<u4")
    assert dtype == "BF16" and not (bits & 0xFFFF).any()
    return (bits >> 16).astype("<u2").tobytes()


def table(entries, seed, file_stem="model", unhashed_prefix=""):
    """The content of tensors.json. The hashes are over the tensors' bytes, one tensor behind the
    other in the order of the list."""
    hashes = {}
    for dtype in ("F32", "BF16", "F16"):
        data = b"".join(
            encoded(values(e, seed, unhashed_prefix), e.get("dtype", dtype)) for e in entries
        )
        hashes[dtype] = f"{hash_bytes(0, data):016x}"
    head = {"version": 1, "seed": seed, "file": file_stem}
    if unhashed_prefix:
        head["unhashed_prefix"] = unhashed_prefix
    head["hashes"] = hashes
    lines = ",\n".join(" " + json.dumps(e, separators=(",", ":")) for e in entries)
    return json.dumps(head)[:-1] + ', "tensors": [\n' + lines + "\n]}\n"

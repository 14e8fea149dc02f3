/* What choosing experts and choosing tokens share on the device: a warp's largest key, and the
 * elementary functions of the CPU's tables, so that the same logits lead to the same choice. */
#ifndef SY_KERNELS_CUDA_CHOOSE_H
#define SY_KERNELS_CUDA_CHOOSE_H

#include <float.h>

#include "kernels/cuda/ptx.h"

/* Denormals are zero (and zero is positive), as everywhere in the CPU's tables. */
SY_DEVICE float sy_flush(float x) {
    return fabsf(x) < FLT_MIN ? 0.0f : x;
}

/* e^x, the formula and the bits of sy_exp_f32 (kernels/cpu/exact_math.h, which tells why): x is
 * clamped to [-87.3, 88], beyond 88 the result is infinity. */
SY_DEVICE float sy_exact_exp(float x) {
    const float magic = 12582912.0f;
    float v = x < -87.3f ? -87.3f : x;
    v = v > 88.0f ? 88.0f : v;
    float shifted = fmaf(v, 1.44269504088896341f, magic);
    float n = shifted - magic;
    float r = fmaf(n, -0.693359375f, v);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    uint32_t n_bits = __float_as_uint(shifted) - 0x4b400000u;
    float y = p * __uint_as_float((n_bits + 127u) << 23);
    return x > 88.0f ? __uint_as_float(0x7f800000u) : y;
}

/* Order of floats as an order of integers, denormals as zero: a < b exactly if key(a) < key(b).
 * NaN is 0, below every number. */
SY_DEVICE uint32_t sy_ordered(float x) {
    if (x != x) return 0;
    uint32_t bits = __float_as_uint(sy_flush(x));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* A key and an index as one number: of two the larger key is larger, or else the lower index. */
SY_DEVICE unsigned long long sy_candidate(uint32_t key, uint32_t index) {
    return (unsigned long long)key << 32 | (0xffffffffu - index);
}

SY_DEVICE uint32_t sy_candidate_index(unsigned long long c) {
    return 0xffffffffu - (uint32_t)c;
}

/* The largest of a warp, given to every lane. */
SY_DEVICE unsigned long long sy_warp_largest(unsigned long long c) {
    for (int distance = 16; distance > 0; distance /= 2) {
        unsigned long long other = __shfl_xor_sync(0xffffffffu, c, distance);
        c = other > c ? other : c;
    }
    return c;
}

#endif

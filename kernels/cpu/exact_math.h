/* Elementary functions by formula: only additions, multiplications, fused multiply-adds where
 * written, comparisons and integer operations, so that every instruction set and every libm
 * version gives the same bits. */
#ifndef SY_KERNELS_CPU_EXACT_MATH_H
#define SY_KERNELS_CPU_EXACT_MATH_H

#include <stdint.h>

#include "base/dtype.h"

/* sy_bf16_from_f32 without branches, so that loops over it become vector code. */
static inline uint16_t sy_bf16_round(float f) {
    uint32_t u = sy_bits_from_f32(f);
    uint32_t magnitude = u & 0x7fffffffu;
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    uint32_t quiet_nan = (u >> 16) | 0x40u;
    uint32_t signed_zero = (u >> 16) & 0x8000u;
    rounded = magnitude > 0x7f800000u ? quiet_nan : rounded;
    rounded = magnitude < 0x00800000u ? signed_zero : rounded;
    return (uint16_t)rounded;
}

/* e^x within 1.1 ulp. x below -87.3 counts as -87.3 (the result is about 1.2e-38, the smallest
 * normal number, not 0); x above 88 gives infinity; NaN gives NaN.
 *
 * x = n ln 2 + r with n rounded by adding and subtracting 1.5 * 2^23, which leaves n in the low
 * bits of the sum; ln 2 in two parts, the first with few enough bits that n times it is exact;
 * e^r by the degree-6 polynomial of the Cephes library (expf); 2^n from its exponent field. */
static inline float sy_exp_f32(float x) {
    const float magic = 12582912.0f;
    float v = x < -87.3f ? -87.3f : x;
    v = v > 88.0f ? 88.0f : v;
    float shifted = __builtin_fmaf(v, 1.44269504088896341f, magic);
    float n = shifted - magic;
    float r = __builtin_fmaf(n, -0.693359375f, v);
    r = __builtin_fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = __builtin_fmaf(p, r, 1.3981999507e-3f);
    p = __builtin_fmaf(p, r, 8.3334519073e-3f);
    p = __builtin_fmaf(p, r, 4.1665795894e-2f);
    p = __builtin_fmaf(p, r, 1.6666665459e-1f);
    p = __builtin_fmaf(p, r, 5.0000001201e-1f);
    p = __builtin_fmaf(p, r * r, r) + 1.0f;
    /* n in [-126, 127], so the exponent field is that of a normal number. */
    uint32_t n_bits = sy_bits_from_f32(shifted) - 0x4b400000u;
    float y = p * sy_f32_from_bits((n_bits + 127u) << 23);
    return x > 88.0f ? __builtin_inff() : y;
}

#endif

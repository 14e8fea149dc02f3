/* The kernels of quantised panels in plain C, compiled with every table's instruction set.
 *
 * An instruction set that has better ones defines QUANT_HAS_UNPACK, QUANT_HAS_SCALES or
 * QUANT_HAS_GROUPS_BF16 and these kernels before it includes this file, and QUANT_DIRECT_BF16 if
 * it has one. */
#include <string.h>

#include "base/checked.h"
#include "base/dtype.h"

static void add_scaled(int64_t rows,
                       const float *sum,
                       int64_t lds,
                       const float *scale,
                       float *y,
                       int64_t ldy,
                       bool first) {
    for (int64_t r = 0; r < rows; r++, sum += lds, y += ldy)
        for (int o = 0; o < SY_PANEL; o++)
            y[o] = __builtin_fmaf(sum[o], scale[o], first ? 0.0f : y[o]);
}

#if !defined(QUANT_HAS_UNPACK) || !defined(QUANT_HAS_SCALES)
/* Upper half of the float32 that an E4M3 code stands for, without branches. */
static inline uint16_t bf16_from_e4m3(uint8_t code) {
    uint32_t magnitude = code & 0x7fu, sign = (uint32_t)(code & 0x80u) << 8;
    uint32_t normal = (magnitude << 4) + (120u << 7);
    uint32_t small = sy_bits_from_f32((float)(int32_t)magnitude * 0x1p-9f) >> 16;
    uint32_t bits = magnitude < 8 ? small : normal;
    return (uint16_t)(sign | (magnitude == 0x7f ? 0x7fc0u : bits));
}
#endif

#ifndef QUANT_HAS_UNPACK
/* Integers of at most 8 bits are exact in BF16. */
static inline uint16_t bf16_from_integer(int32_t value) {
    return (uint16_t)(sy_bits_from_f32((float)value) >> 16);
}
static inline uint16_t bf16_from_i8(uint8_t code) {
    return bf16_from_integer((int8_t)code);
}

#define UNPACK_8BIT(name, value)                                                               \
    static void name(int64_t k_pairs, const uint8_t *codes, uint16_t *panel) {                 \
        for (int64_t i = 0; i < k_pairs * 2; i++, codes += 64, panel += 64)                    \
            for (int lane = 0; lane < 4; lane++)                                               \
                for (int half = 0; half < 2; half++)                                           \
                    for (int j = 0; j < 8; j++)                                                \
                        panel[half * 32 + lane * 8 + j] =                                      \
                            value(codes[lane * 16 + half * 8 + j]);                            \
    }
UNPACK_8BIT(unpack_e4m3, bf16_from_e4m3)
UNPACK_8BIT(unpack_i8, bf16_from_i8)
#undef UNPACK_8BIT

static inline uint16_t bf16_from_e2m1(uint32_t code) {
    uint32_t magnitude = code & 7u, sign = (code & 8u) << 12;
    uint32_t normal = (magnitude << 6) + (126u << 7), half = 0x3f00u;
    return (uint16_t)(sign | (magnitude < 2 ? magnitude * half : normal));
}

static void unpack_e2m1(int64_t octets, const uint16_t *codes, uint16_t *panel) {
    for (int64_t b = 0; b < octets; b++, codes += 128)
        for (int shift = 0; shift < 16; shift += 4, panel += 128)
            for (int i = 0; i < 128; i++)
                panel[i] = bf16_from_e2m1((uint32_t)codes[i] >> shift & 15u);
}

static void
unpack_u4(int64_t octets, const uint16_t *codes, const uint8_t *zeros, uint16_t *panel) {
    int32_t zero[128];
    for (int i = 0; i < 128; i++)
        zero[i] = zeros == NULL ? 8 : zeros[i / 2];
    for (int64_t b = 0; b < octets; b++, codes += 128)
        for (int shift = 0; shift < 16; shift += 4, panel += 128)
            for (int i = 0; i < 128; i++)
                panel[i] =
                    bf16_from_integer((int32_t)((uint32_t)codes[i] >> shift & 15u) - zero[i]);
}
#endif

#ifndef QUANT_HAS_SCALES
/* A loop for each type, so that it becomes vector code. A zero E8M0 is a denormal: flushed. */
#define WIDEN(type, value)                                                                     \
    {                                                                                          \
        const type *code = scales;                                                             \
        for (int o = 0; o < n; o++)                                                            \
            out[o] = value(code[o]);                                                           \
        break;                                                                                 \
    }
#define FROM_E8M0(code) sy_f32_from_bits((uint32_t)(code) << 23)
#define FROM_E4M3(code) sy_f32_from_bits((uint32_t)bf16_from_e4m3(code) << 16)

static void widen_scales(sy_dtype dtype, bool each, const void *scales, float *out) {
    int n = each ? SY_PANEL : 1;
    switch (dtype) {
    case SY_F8_E8M0:
        WIDEN(uint8_t, FROM_E8M0)
    case SY_F8_E4M3:
        WIDEN(uint8_t, FROM_E4M3)
    case SY_BF16:
        WIDEN(uint16_t, sy_f32_from_bf16)
    case SY_F16:
        WIDEN(uint16_t, sy_f32_from_f16)
    default: /* SY_F32 */
        memcpy(out, scales, (size_t)n * sizeof *out);
    }
    for (int o = n; o < SY_PANEL; o++)
        out[o] = out[0];
}
#undef WIDEN
#undef FROM_E8M0
#undef FROM_E4M3
#endif

/* A group's chain, then its scale, a few rows at a time so that their sums stay near. */
enum { GROUP_ROWS = 12 };

#define GROUPS_KERNEL(name, chain, type)                                                       \
    static void name(int64_t rows, const uint16_t *panel, const type *x, int64_t ldx,          \
                     int64_t k_pairs, int64_t group_pairs, const float *scales, float *y,      \
                     int64_t ldy, bool first) {                                                \
        _Alignas(64) float sum[GROUP_ROWS * SY_PANEL];                                         \
        for (int64_t r = 0; r < rows; r += GROUP_ROWS) {                                       \
            int64_t n_rows = sy_min(rows - r, GROUP_ROWS);                                     \
            for (int64_t p = 0, g = 0; p < k_pairs; p += group_pairs, g++) {                   \
                chain(n_rows, panel + p * 2 * SY_PANEL, x + r * ldx + 2 * p, ldx,              \
                      sy_min(k_pairs - p, group_pairs), sum, SY_PANEL, true);                  \
                add_scaled(n_rows, sum, SY_PANEL, scales + g * SY_PANEL, y + r * ldy, ldy,     \
                           first && g == 0);                                                   \
            }                                                                                  \
        }                                                                                      \
    }

#ifndef QUANT_HAS_GROUPS_BF16
GROUPS_KERNEL(groups_bf16, bf16_bf16, uint16_t)
#endif
GROUPS_KERNEL(groups_f32, bf16_f32, float)

#ifndef QUANT_DIRECT_BF16
#define QUANT_DIRECT_BF16 NULL
#define QUANT_DIRECT_ROWS_8BIT 0
#endif

#define SY_QUANT_KERNELS                                                                       \
    {                                                                                          \
        .unpack_e4m3 = unpack_e4m3, .unpack_i8 = unpack_i8, .unpack_e2m1 = unpack_e2m1,        \
        .unpack_u4 = unpack_u4, .widen_scales = widen_scales, .add_scaled = add_scaled,        \
        .groups_bf16 = groups_bf16, .groups_f32 = groups_f32,                                  \
        .direct_rows_8bit = QUANT_DIRECT_ROWS_8BIT, .direct_bf16 = QUANT_DIRECT_BF16           \
    }

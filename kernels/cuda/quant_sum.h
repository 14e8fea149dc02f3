/* How a product of quantised matrices is summed: what its two forms share, so that their bits are
 * equal. The layout is in quant.h.
 *
 * K is cut into leaves as in fragment.h, and leaves into slices that begin at multiples of 256 k,
 * so that a slice holds whole scale groups, but for those that a leaf cuts. Codes become bf16,
 * exactly. Within a group a chain of mma steps starts from zero; at the group's end
 * sum = fma(chain, scale, sum), from sum = 0 at the slice's begin. Slices of a leaf are added in
 * ascending order. Then the factor: sum * factor or sum / factor; then the leaves are joined.
 * Where all of K shares a scale, groups of 128 k take 1 for it, and the scale itself multiplies
 * the leaf's sum, before the factor. */
#ifndef SY_KERNELS_CUDA_QUANT_SUM_H
#define SY_KERNELS_CUDA_QUANT_SUM_H

#include "kernels/cuda/product.h"
#include "kernels/cuda/quant.h"

/* Steps of mma that 512 bytes of codes hold, and how many such units a slice has. */
template <sy_dtype CODE> struct quant_unit {
    enum {
        STEPS = CODE == SY_F4 || CODE == SY_U4 ? 4 : 2,
        COUNT = SY_SLICE_STEPS / STEPS,
    };
};

/* ---- codes to bf16 ---- */

enum : uint32_t {
    BF16_ONES = 0x3f803f80u, /* 1.0, twice */
    BF16_MINUS_ZEROS = 0x80008000u,
    BF16_128S = 0x43004300u, /* where the last digit is worth 1 */
    BF16_MINUS_128S = 0xc300c300u
};

/* E4M3 in the upper bytes of the halves, whose lower ones may hold anything. The code's exponent
 * goes to the end of bf16's and is too small by 120: subnormals come out right, too. One digit
 * more than 0x7f carries out of the exponent; fifteen such carries make it bf16's of NaN. */
SY_DEVICE uint32_t sy_e4m3_pair(uint32_t w) {
    uint32_t magnitude = w >> 4 & 0x07f007f0u;
    magnitude += ((magnitude + 0x00100010u) & 0x08000800u) * 15;
    return sy_fma_bf16x2((w & 0x80008000u) | magnitude, 0x7b807b80u, BF16_MINUS_ZEROS);
}

/* 8-bit integers in the lower bytes of the halves: 128 + the lower 7 bits, less 128 or 256. */
SY_DEVICE uint32_t sy_i8_pair(uint32_t w) {
    return sy_fma_bf16x2((w & 0x007f007fu) | BF16_128S, BF16_ONES,
                         (w & 0x00800080u) | BF16_MINUS_128S);
}

/* E2M1 in 4-bit field `field` of the halves: as E4M3, the exponent too small by 126. */
SY_DEVICE uint32_t sy_e2m1_pair(uint32_t w, int field) {
    int up = 6 - 4 * field;
    uint32_t magnitude = (up > 0 ? w << up : w >> -up) & 0x01c001c0u;
    return sy_fma_bf16x2((w << (12 - 4 * field) & 0x80008000u) | magnitude, 0x7e807e80u,
                         BF16_MINUS_ZEROS);
}

/* 4-bit integers less a zero point, which is given as sy_minus_zero makes it. */
SY_DEVICE uint32_t sy_u4_pair(uint32_t w, int field, uint32_t minus_zero) {
    return sy_fma_bf16x2((w >> 4 * field & 0x000f000fu) | BF16_128S, BF16_ONES, minus_zero);
}

SY_DEVICE uint32_t sy_minus_zero(uint32_t zero) {
    return BF16_MINUS_128S | zero * 0x00010001u;
}

enum { SY_MIDDLE = 8 }; /* the zero point of 4-bit integers without one */

/* Operand A of step `step` of a unit. minus_zero: of outputs g and g + 8; SY_U4 alone. */
template <sy_dtype CODE>
SY_DEVICE void
sy_decode(const uint4 &unit, int step, const uint32_t minus_zero[2], uint32_t a[4]) {
    bool second = CODE == SY_F4 || CODE == SY_U4 ? step / 2 == 1 : step == 1;
    uint32_t words[2] = {second ? unit.z : unit.x, second ? unit.w : unit.y};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t w = words[r];
#pragma unroll
        for (int half = 0; half < 2; half++) { /* of the step's k */
            int field = step % 2 * 2 + half;
            if (CODE == SY_F8_E4M3) a[r + 2 * half] = sy_e4m3_pair(half == 0 ? w << 8 : w);
            if (CODE == SY_I8) a[r + 2 * half] = sy_i8_pair(half == 0 ? w : w >> 8);
            if (CODE == SY_F4) a[r + 2 * half] = sy_e2m1_pair(w, field);
            if (CODE == SY_U4) a[r + 2 * half] = sy_u4_pair(w, field, minus_zero[r]);
        }
    }
}

/* ---- scales ---- */

SY_DEVICE int sy_scale_size(sy_dtype type) {
    return type == SY_F32 ? 4 : type == SY_BF16 || type == SY_F16 ? 2 : 1;
}

/* Scale i of an array, as the bits of its type. */
SY_DEVICE uint32_t sy_scale_bits(sy_dtype type, const char *scales, int64_t i) {
    if (type == SY_F32) return ((const uint32_t *)(const void *)scales)[i];
    if (type == SY_BF16 || type == SY_F16) return ((const uint16_t *)(const void *)scales)[i];
    return ((const uint8_t *)scales)[i];
}

/* What such bits stand for; exact, denormals included. */
SY_DEVICE float sy_scale_float(sy_dtype type, uint32_t bits) {
    if (type == SY_F16) return sy_f16_float((uint16_t)bits);
    if (type == SY_F8_E4M3) /* the exponent is too small by 120 */
        return __uint_as_float((bits & 0x80u) << 24 | (bits & 0x7fu) << 20) * 0x1p120f;
    if (type == SY_F8_E8M0) return __uint_as_float(bits == 0 ? 0x00400000u : bits << 23);
    return __uint_as_float(type == SY_BF16 ? bits << 16 : bits);
}

/* The same as it multiplies sums: denormals are 0. */
SY_DEVICE float sy_scale_value(sy_dtype type, uint32_t bits) {
    float f = sy_scale_float(type, bits);
    return fabsf(f) < 0x1p-126f ? 0.0f : f;
}

/* The scales and zero points of one tile. */
typedef struct sy_quant_tile {
    const char *scales;
    const uint8_t *zeros;
    const float *factors;
    int64_t up; /* from a scale of gate to that of up, where they are shared by outputs */
} sy_quant_tile;

SY_DEVICE sy_quant_tile sy_quant_tile_of(const sy_product &p, int slot, int tile) {
    const sy_product_quant &q = p.quant;
    sy_quant_tile out = {q.scales[0], q.zeros[0], q.factors[0], q.blocks[0]};
    int64_t own = tile, bytes = slot * p.stride * 16;
#pragma unroll
    for (int i = 1; i < SY_PRODUCT_MATRICES; i++)
        if (i < p.n_matrices && tile >= p.tile_first[i]) {
            out = {q.scales[i], q.zeros[i], q.factors[i], q.blocks[i]};
            own = tile - p.tile_first[i];
        }
    int outputs = p.epilogue == SY_SWIGLU ? SY_TILE_N / 2 : SY_TILE_N;
    int64_t each = own * q.groups * SY_TILE_N, first = each;
    if (q.shared) first = out.up == 1 ? 0 : own * outputs / SY_BLOCK_OUTPUTS * q.groups;
    out.scales += bytes + first * sy_scale_size(q.scale);
    out.zeros += bytes + each;
    out.factors = (const float *)(const void *)((const char *)out.factors + bytes);
    out.up = q.shared && p.epilogue == SY_SWIGLU ? out.up * q.groups : 0;
    return out;
}

/* Bits of the scale of a group and of output `place` of the tile in the order of quant.h. */
SY_DEVICE uint32_t sy_quant_scale_bits(const sy_product &p,
                                       const sy_quant_tile &tile,
                                       int group,
                                       int place) {
    int64_t at = p.quant.shared ? group + place % 2 * tile.up : group * SY_TILE_N + place;
    return sy_scale_bits(p.quant.scale, tile.scales, at);
}

/* The zero point of a group and such an output. */
SY_DEVICE uint32_t sy_quant_zero(const sy_product &p,
                                 const sy_quant_tile &tile,
                                 int group,
                                 int place) {
    if (!p.quant.has_zeros) return SY_MIDDLE;
    return tile.zeros[group * SY_TILE_N + place];
}

/* What a lane needs at the end of a leaf: of outputs g and g + 8. */
typedef struct sy_leaf_end {
    float scale[2], factor[2];
} sy_leaf_end;

SY_DEVICE sy_leaf_end sy_leaf_end_of(const sy_product &p, const sy_quant_tile &tile) {
    sy_leaf_end end = {{1.0f, 1.0f}, {1.0f, 1.0f}};
    int g = (int)threadIdx.x % 32 / 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (p.quant.whole)
            end.scale[r] =
                sy_scale_value(p.quant.scale, sy_quant_scale_bits(p, tile, 0, 2 * g + r));
        if (p.quant.use_factor != SY_FACTOR_NONE)
            end.factor[r] = tile.factors[p.epilogue == SY_SWIGLU ? r : 0];
    }
    return end;
}

/* Sum v of output g + 8 r of a leaf, scale and factor applied. */
SY_DEVICE float sy_end_leaf(const sy_product &p, const sy_leaf_end &end, int r, float v) {
    if (p.quant.whole) v *= end.scale[r];
    if (p.quant.use_factor == SY_FACTOR_TIMES) v *= end.factor[r];
    if (p.quant.use_factor == SY_FACTOR_OVER) v /= end.factor[r];
    return v;
}

/* sum = fma(chain, scale, sum) for operand C of the mma; the chain starts anew. */
SY_DEVICE void sy_end_group(float sum[4], float chain[4], float2 scale) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum[i] = fmaf(chain[i], i < 2 ? scale.x : scale.y, sum[i]);
        chain[i] = 0.0f;
    }
}

#endif

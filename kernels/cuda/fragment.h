/* How a matrix lies in device memory, and in which order a product is summed: what the two forms
 * of the product (matrix_few.cu, matrix_many.cu) share, so that their bits are equal.
 *
 * Layout. [tiles of 16 outputs][steps of 16 k] fragments of 512 bytes; lane l = 4 g + t of a warp
 * holds 16 bytes, operand A of one mma: rows g and g + 8 at columns 2 t and + 1, then the same
 * rows at columns + 8. A tile of a matrix of two parts is 8 gate outputs (rows 0..7) and the same
 * 8 up outputs (rows 8..15). What lies beyond n or k is zero.
 *
 * Sum. K is cut into leaves, a leaf into slices of 16 steps (256 k) from its first step on. A
 * slice is a chain of mma steps from zero; the slices of a leaf are added in ascending order; the
 * leaves are joined by recursive halving of their index (left half: ceil(n / 2)). A step that two
 * leaves share is taken twice, with the other leaf's columns of x put to zero. Nothing here
 * depends on the number of rows. Quantised matrices: quant.h, quant_sum.h. */
#ifndef SY_KERNELS_CUDA_FRAGMENT_H
#define SY_KERNELS_CUDA_FRAGMENT_H

#include "kernels/cuda/ptx.h"

enum {
    SY_STEP_K = 16,         /* k of one mma */
    SY_SLICE_STEPS = 16,    /* mma steps of one chain */
    SY_TILE_N = 16,         /* outputs of a tile, both parts together */
    SY_FRAGMENT_LANES = 32, /* 16-byte pieces of a fragment */
    SY_JOIN_LEVELS = 8,     /* sums that wait for their right neighbour, at most */
    SY_MAX_LEAVES = 1 << SY_JOIN_LEVELS
};

typedef struct sy_sums {
    int k, steps; /* steps = ceil(k / 16) */
    int leaf;     /* k of a leaf, at least 1 */
    int n_leaves; /* at least 1 */
    int align;    /* steps; slices begin at multiples of them */
    int slices;   /* of every leaf; the last ones may be empty */
} sy_sums;

/* Steps [begin, end) of one slice; x counts for k in [lo, hi) only. */
typedef struct sy_segment {
    int begin, end, lo, hi;
} sy_segment;

SY_DEVICE sy_segment sy_segment_of(const sy_sums &s, int index) {
    int leaf = index / s.slices, slice = index - leaf * s.slices;
    int lo = leaf * s.leaf, hi = min(lo + s.leaf, s.k);
    int begin = lo / (SY_STEP_K * s.align) * s.align + slice * SY_SLICE_STEPS;
    int end = min(begin + SY_SLICE_STEPS, (hi + SY_STEP_K - 1) / SY_STEP_K);
    return {begin, end, lo, hi};
}

/* How many waiting sums are joined once leaf i of n is there: how often the path from the root to
 * it ends in turns to the right. */
SY_DEVICE int sy_joins_after(int i, int n) {
    int joins = 0;
    while (n > 1) {
        int left = (n + 1) / 2;
        bool right = i >= left;
        joins = right ? joins + 1 : 0;
        i = right ? i - left : i;
        n = right ? n - left : left;
    }
    return joins;
}

/* Two values in half precision as two bf16 pairs whose sums they are, exactly: the upper eight of
 * a value's eleven digits, and the rest. */
SY_DEVICE void sy_split_f16(uint32_t two, uint32_t *upper, uint32_t *rest) {
    uint32_t high[2], low[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float v = sy_f16_float((uint16_t)(two >> 16 * i));
        high[i] = __float_as_uint(v) & 0xffff0000u;
        bool finite = (high[i] & 0x7f800000u) != 0x7f800000u;
        low[i] = finite ? __float_as_uint(v - __uint_as_float(high[i])) : 0;
    }
    *upper = high[0] >> 16 | high[1];
    *rest = low[0] >> 16 | (low[1] & 0xffff0000u);
}

/* c += one fragment of weights times 16 k of 8 rows. */
template <bool F16>
SY_DEVICE void sy_multiply(float c[4], const uint4 &w, const uint32_t b[2]) {
    uint32_t a[4] = {w.x, w.y, w.z, w.w};
    if (F16) {
        uint32_t rest[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            sy_split_f16(a[i], &a[i], &rest[i]);
        sy_mma_bf16(c, a, b);
        sy_mma_bf16(c, rest, b);
    } else {
        sy_mma_bf16(c, a, b);
    }
}

#endif

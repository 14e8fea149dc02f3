/* One product of packed matrices with rows of x, as its two forms take it: matrix_few.cu for a
 * handful of rows, bound by memory, and matrix_many.cu for many, bound by arithmetic. Both give
 * the same bits, so that the choice is the host's, by the number of rows that it expects. So do
 * matrix_few_quant.cu and matrix_many_quant.cu, which multiply quantised matrices. */
#ifndef SY_KERNELS_CUDA_PRODUCT_H
#define SY_KERNELS_CUDA_PRODUCT_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/fragment.h"

enum { SY_PRODUCT_MATRICES = 3 };

typedef enum sy_epilogue {
    SY_STORE, /* out f32 = y */
    SY_ADD,   /* out f32 += y */
    SY_ROUND, /* out bf16 = y */
    SY_SWIGLU /* out bf16 = the activation of gate and up */
} sy_epilogue;

/* silu(gate) * up, or the clamped form, see sy_ffn_act. */
typedef struct sy_activation {
    bool clamped;
    float alpha, limit;
} sy_activation;

/* What quantised matrices add (quant.h). */
typedef struct sy_product_quant {
    sy_dtype scale; /* their type */
    bool whole;     /* all of K shares a scale, which comes at the end of each leaf */
    bool shared;    /* scales are of blocks of outputs, not of each */
    bool has_zeros;
    sy_factor use_factor;
    int group_shift; /* a group is 1 << group_shift mma steps, 1..8; 8 where all of K shares a scale */
    int groups; /* of K */
    const char *scales[SY_PRODUCT_MATRICES];
    const uint8_t *zeros[SY_PRODUCT_MATRICES];
    const float *factors[SY_PRODUCT_MATRICES];
    int blocks[SY_PRODUCT_MATRICES]; /* of outputs of a part, where scales are shared */
} sy_product_quant;

typedef struct sy_product {
    /* The matrices share k and format; their tiles are counted through. */
    int n_matrices;
    sy_dtype dtype;
    int fragments; /* of 512 bytes, of a tile */
    sy_product_quant quant;
    int tile_first[SY_PRODUCT_MATRICES + 1];
    const uint4 *w[SY_PRODUCT_MATRICES];
    int64_t n[SY_PRODUCT_MATRICES]; /* outputs of one part */
    void *out[SY_PRODUCT_MATRICES]; /* [rows, ld] */
    int64_t ld[SY_PRODUCT_MATRICES];
    sy_epilogue epilogue;
    sy_activation activation; /* of SY_SWIGLU */
    const float *bias; /* NULL, or added to y first: [slots][parts][n] of the only matrix */
    sy_sums sums;

    /* Row p of the product reads row row[p] of x [., k], or row p if row is NULL. */
    const uint16_t *x; /* bf16 */
    bool aligned;      /* x may be read 16 bytes at a time, and leaves end at multiples of 8 */
    const int32_t *row;

    /* In place of x, for at most SY_FUSED_ROWS rows and the form for few: rows whose RMS norm is
     * taken on the way, and stored in xn [rows, k] unless that is NULL. */
    const float *raw, *norm;
    float eps;
    uint16_t *xn;

    /* Rows [0, rows); or grouped by slots whose matrices lie stride units of 16 bytes apart, as
     * sy_device_rows says, `rows` and `slots` being upper bounds of rows and of slots in use. */
    int rows, slots;
    const int32_t *first, *active;
    int64_t stride;
    /* Or, if not 0, as many slots that take every row each: row r of slot s reads row
     * r * heads + s of x and makes that row of out. */
    int heads;
} sy_product;

enum { SY_FUSED_ROWS = 4 };

static inline sy_activation sy_activation_of(const sy_ffn_spec *ffn) {
    sy_activation a = {ffn->act == SY_ACT_SWIGLU_CLAMPED, ffn->act_alpha, ffn->act_limit};
    return a;
}

/* One tile of 16 outputs: which matrix it belongs to, and where. */
typedef struct sy_tile {
    const uint4 *w; /* its first fragment, of lane 0 */
    void *out;
    int64_t ld, n;
    int64_t tile; /* within the matrix */
} sy_tile;

SY_DEVICE sy_tile sy_tile_of(const sy_product &p, int slot, int tile) {
    sy_tile out = {p.w[0], p.out[0], p.ld[0], p.n[0], tile};
#pragma unroll
    for (int i = 1; i < SY_PRODUCT_MATRICES; i++)
        if (i < p.n_matrices && tile >= p.tile_first[i])
            out = {p.w[i], p.out[i], p.ld[i], p.n[i], tile - p.tile_first[i]};
    out.w += slot * p.stride + out.tile * p.fragments * SY_FRAGMENT_LANES;
    return out;
}

/* The exponential is the device's, good to 2^-22. Limits are comparisons that a NaN passes. */
SY_DEVICE float sy_swiglu(const sy_activation &act, float gate, float up) {
    float slope = 1.44269504088896341f;
    if (act.clamped) {
        gate = gate > act.limit ? act.limit : gate;
        up = up < -act.limit ? -act.limit : up;
        up = (up > act.limit ? act.limit : up) + 1.0f;
        slope *= act.alpha;
    }
    return gate / (1.0f + sy_exp2(gate * -slope)) * up;
}

/* Row r of a slot, as rows of x and of out are counted where p.heads says how. */
SY_DEVICE int64_t sy_head_row(const sy_product &p, int slot, int64_t r) {
    return p.heads == 0 ? r : r * p.heads + slot;
}

/* One output. */
SY_DEVICE void sy_store_output(const sy_product &p,
                               const float *bias,
                               void *out,
                               int64_t at,
                               int64_t n,
                               float v) {
    if (bias != NULL) v += bias[n];
    if (p.epilogue == SY_ROUND) {
        ((uint16_t *)out)[at + n] = sy_float_bf16(v);
        return;
    }
    float *to = (float *)out + at + n;
    *to = p.epilogue == SY_ADD ? *to + v : v;
}

/* Stores what a lane holds of a tile and 8 rows (operand C of the mma): outputs g and g + 8 of
 * rows 2 t and 2 t + 1. `row` is the first of the eight, of which `rows` are there. */
SY_DEVICE void sy_store_outputs(const sy_product &p,
                                int slot,
                                const sy_tile &tile,
                                int64_t row,
                                int rows,
                                const float v[4]) {
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    bool pairs = p.epilogue == SY_SWIGLU;
    const float *bias = p.bias;
    if (bias != NULL) bias += slot * (pairs ? 2 : 1) * tile.n;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (2 * t + i >= rows) continue;
        int64_t at = sy_head_row(p, slot, row + 2 * t + i) * tile.ld;
        if (pairs) {
            int64_t n = tile.tile * (SY_TILE_N / 2) + g;
            if (n >= tile.n) continue;
            float gate = v[i], up = v[i + 2];
            if (bias != NULL) {
                gate += bias[n];
                up += bias[tile.n + n];
            }
            ((uint16_t *)tile.out)[at + n] = sy_float_bf16(sy_swiglu(p.activation, gate, up));
            continue;
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int64_t n = tile.tile * SY_TILE_N + g + 8 * half;
            if (n < tile.n) sy_store_output(p, bias, tile.out, at, n, v[i + 2 * half]);
        }
    }
}

#ifdef __cplusplus
extern "C" {
#endif
sy_status sy_cuda_multiply_few(sy_cuda *cu, const sy_product *p);
sy_status sy_cuda_multiply_many(sy_cuda *cu, const sy_product *p);
/* Of quantised matrices. */
sy_status sy_cuda_multiply_few_quant(sy_cuda *cu, const sy_product *p);
sy_status sy_cuda_multiply_many_quant(sy_cuda *cu, const sy_product *p);
#ifdef __cplusplus
}
#endif
#endif

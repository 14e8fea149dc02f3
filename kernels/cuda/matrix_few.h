/* What the forms for few rows share (matrix_few.cu, matrix_few_quant.cu): how a warp stages its
 * rows of x, the norm on the way, and how leaves meet in shared memory. */
#ifndef SY_KERNELS_CUDA_MATRIX_FEW_H
#define SY_KERNELS_CUDA_MATRIX_FEW_H

#include "kernels/cuda/norm.h"
#include "kernels/cuda/product.h"

enum {
    SY_FEW_WARPS = 8, /* of a block, at most */
    SY_FEW_ROWS = 8   /* of x, a group: columns of one mma */
};

SY_DEVICE int sy_warps_of_block(void) {
    return (int)blockDim.x / 32;
}

/* Columns [k0, k0 + COLUMNS) of n rows of x into a warp's shared memory, zero outside [lo, hi);
 * copies that the caller commits and waits for. */
template <int COLUMNS, int PITCH>
SY_DEVICE void sy_stage_rows(const sy_product &p,
                             const int32_t *row,
                             int n,
                             int k0,
                             const sy_segment &s,
                             uint16_t (*to)[PITCH]) {
    int lane = (int)threadIdx.x % 32;
    if (p.aligned) {
#pragma unroll 1
        for (int i = lane; i < n * (COLUMNS / 8); i += 32) {
            int r = i / (COLUMNS / 8), at = i % (COLUMNS / 8) * 8, k = k0 + at;
            bool inside = k >= s.lo && k < s.hi;
            const uint16_t *x = inside ? p.x + (int64_t)row[r] * p.sums.k + k : p.x;
            sy_cp_async16<true>(&to[r][at], x, inside ? 16 : 0); /* every tile again */
        }
    } else {
#pragma unroll 1
        for (int i = lane; i < n * COLUMNS; i += 32) {
            int r = i / COLUMNS, at = i % COLUMNS, k = k0 + at;
            bool inside = k >= s.lo && k < s.hi;
            to[r][at] = inside ? p.x[(int64_t)row[r] * p.sums.k + k] : (uint16_t)0;
        }
    }
}

/* The same of rows of float32 on their way through the norm; AHEAD loads are asked for at once. */
template <int COLUMNS, int PITCH, int AHEAD = 4>
SY_DEVICE void sy_stage_raw_rows(const sy_product &p,
                                 const int32_t *row,
                                 const float *inverse,
                                 int n,
                                 int k0,
                                 const sy_segment &s,
                                 uint16_t (*to)[PITCH]) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll 1
    for (int r = 0; r < n; r++) {
        const float *x = p.raw + (int64_t)row[r] * p.sums.k;
#pragma unroll AHEAD
        for (int i = 0; i < COLUMNS / 32; i++) {
            int at = 32 * i + lane, k = k0 + at;
            bool inside = k >= s.lo && k < s.hi;
            float value = inside ? sy_norm_value(x[k], inverse[r], p.norm[k]) : 0.0f;
            to[r][at] = sy_float_bf16(value);
        }
    }
}

/* The scales of the rows, by every block for itself; and the normed rows, by all together. */
SY_DEVICE void
sy_take_norms(const sy_product &p, float (*share)[SY_NORM_WARPS], float *inverse) {
    int thread = (int)threadIdx.x, warps = sy_warps_of_block(), k = p.sums.k;
    for (int r = 0; r < p.rows; r++) {
        int64_t row = p.row == NULL ? r : p.row[r];
        for (int i = thread / 32; i < SY_NORM_WARPS; i += warps) {
            float own = sy_norm_share(p.raw + row * k, k, i);
            if (thread % 32 == 0) share[r][i] = own;
        }
    }
    __syncthreads();
    if (thread < p.rows) inverse[thread] = sy_norm_inverse(share[thread], k, p.eps);
    __syncthreads();
    if (p.xn == NULL) return;
    for (int r = 0; r < p.rows; r++) {
        const float *x = p.raw + (p.row == NULL ? r : p.row[r]) * (int64_t)k;
        for (int i = (int)(blockIdx.x * blockDim.x) + thread; i < k;
             i += (int)(gridDim.x * blockDim.x))
            p.xn[(int64_t)r * k + i] =
                sy_float_bf16(sy_norm_value(x[i], inverse[r], p.norm[i]));
    }
}

/* Leaf `at` of more than one is there: it takes up its left neighbours, and waits for the next on
 * the right. A thread has a place of its own in each row of `waiting`. */
template <int PLACES>
SY_DEVICE float4 sy_join_leaf(const sy_sums &sums,
                              int at,
                              float4 leaf,
                              float4 (*waiting)[PLACES],
                              int *n_waiting) {
    int own = (int)threadIdx.x;
    for (int joins = sy_joins_after(at, sums.n_leaves); joins > 0; joins--) {
        float4 v = sy_load_float4(&waiting[--*n_waiting][own]);
        leaf = make_float4(v.x + leaf.x, v.y + leaf.y, v.z + leaf.z, v.w + leaf.w);
    }
    if (at + 1 < sums.n_leaves) sy_store_float4(&waiting[(*n_waiting)++][own], leaf);
    return leaf;
}

/* Of a grid's task: which slot, which tile of it, which rows. */
typedef struct sy_few_task {
    int slot, tile, first, rows;
} sy_few_task;

SY_DEVICE int sy_few_tasks(const sy_product &p) {
    int slots = p.heads > 0 ? p.heads : p.first == NULL ? 1 : p.active[0];
    return p.tile_first[p.n_matrices] * slots;
}

SY_DEVICE sy_few_task sy_few_task_of(const sy_product &p, int task) {
    int tiles = p.tile_first[p.n_matrices];
    sy_few_task t = {p.heads > 0 ? task / tiles : 0, task % tiles, 0, p.rows};
    if (p.first == NULL) return t;
    t.slot = p.active[1 + task / tiles];
    t.first = p.first[t.slot];
    t.rows = p.first[t.slot + 1] - t.first;
    return t;
}

/* The same on the host, at most. */
static inline int64_t sy_few_tasks_bound(const sy_product *p) {
    int slots = p->heads > 0 ? p->heads : p->first == NULL ? 1 : p->slots;
    return (int64_t)p->tile_first[p->n_matrices] * slots;
}

/* As many warps as share the slices evenly, at most `most`, and as many as hold the sums of
 * `groups` groups of rows. */
static inline int sy_few_warps(const sy_sums *sums, int groups, int most) {
    int slices = sums->n_leaves * sums->slices;
    int rounds = (slices + most - 1) / most;
    int warps = (slices + rounds - 1) / rounds;
    return warps > groups ? warps : groups;
}

#endif

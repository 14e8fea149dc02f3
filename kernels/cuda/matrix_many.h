/* What the forms for many rows share (matrix_many.cu, matrix_many_quant.cu): a block of four warps
 * and its rows, which pass through three stages of shared memory, 64 k each; and how leaves meet in
 * registers. */
#ifndef SY_KERNELS_CUDA_MATRIX_MANY_H
#define SY_KERNELS_CUDA_MATRIX_MANY_H

#include "kernels/cuda/launch.h"
#include "kernels/cuda/product.h"

enum {
    SY_MANY_WARPS = 4,
    SY_STAGES = 3,
    SY_STAGE_STEPS = 4,
    SY_STAGE_K = SY_STAGE_STEPS * SY_STEP_K,
    SY_STAGES_PER_SLICE = SY_SLICE_STEPS / SY_STAGE_STEPS,
    SY_MANY_PITCH = SY_STAGE_K + 8 /* bf16; neither cp.async nor ldmatrix meets a bank twice */
};

template <int ROWS> struct sy_many_shared {
    uint16_t x[SY_STAGES][ROWS][SY_MANY_PITCH];
    int32_t row[ROWS];
};
static_assert(sizeof(sy_many_shared<64>) <= 48 * 1024,
              "more than a launch takes without asking");

/* Steps [begin, end) of one stage, x counting in [lo, hi). */
SY_DEVICE sy_segment sy_stage_of(const sy_sums &sums, int stage) {
    sy_segment s = sy_segment_of(sums, stage / SY_STAGES_PER_SLICE);
    s.begin += stage % SY_STAGES_PER_SLICE * SY_STAGE_STEPS;
    s.end = min(s.end, s.begin + SY_STAGE_STEPS);
    return s;
}

/* The columns of one stage of all rows of the block into shared memory. */
template <int ROWS>
SY_DEVICE void sy_stage_x(const sy_product &p, sy_many_shared<ROWS> *sh, int stage, int rows) {
    sy_segment s = sy_stage_of(p.sums, stage);
    if (s.begin >= s.end) return;
    uint16_t(*to)[SY_MANY_PITCH] = sh->x[stage % SY_STAGES];
    int piece = (int)threadIdx.x % (SY_STAGE_K / 8), k = s.begin * SY_STEP_K + 8 * piece;
#pragma unroll
    for (int i = 0; i < ROWS * SY_STAGE_K / 8 / (SY_MANY_WARPS * 32); i++) {
        int r =
            (int)threadIdx.x / (SY_STAGE_K / 8) + i * (SY_MANY_WARPS * 32 / (SY_STAGE_K / 8));
        const uint16_t *x = p.x + (int64_t)sh->row[r] * p.sums.k;
        if (p.aligned) {
            bool inside = r < rows && k >= s.lo && k < s.hi;
            sy_cp_async16(&to[r][8 * piece], inside ? x + k : p.x, inside ? 16 : 0);
            continue;
        }
#pragma unroll 1
        for (int j = 0; j < 8; j++) {
            bool inside = r < rows && k + j >= s.lo && k + j < s.hi;
            to[r][8 * piece + j] = inside ? x[k + j] : (uint16_t)0;
        }
    }
}

/* The sums of a thread: TILES x GROUPS operands C. */
template <int TILES, int GROUPS> struct sy_outputs { float v[TILES * GROUPS * 4]; };

template <int TILES, int GROUPS>
SY_DEVICE void sy_add_outputs(sy_outputs<TILES, GROUPS> &to,
                              const sy_outputs<TILES, GROUPS> &a,
                              const sy_outputs<TILES, GROUPS> &b) {
#pragma unroll
    for (int i = 0; i < TILES * GROUPS * 4; i++)
        to.v[i] = a.v[i] + b.v[i];
}

/* Leaf `at` is there: it takes up its left neighbours, and waits for the next on the right. The
 * places of those that wait are registers, so each is asked for by its number. */
template <int TILES, int GROUPS, int LEVELS>
SY_DEVICE void sy_join_outputs(const sy_sums &sums,
                               int at,
                               sy_outputs<TILES, GROUPS> &leaf,
                               sy_outputs<TILES, GROUPS> *waiting,
                               int *n_waiting) {
    for (int joins = sy_joins_after(at, sums.n_leaves); joins > 0; joins--) {
        --*n_waiting;
#pragma unroll
        for (int level = 0; level < LEVELS; level++)
            if (level == *n_waiting) sy_add_outputs(leaf, waiting[level], leaf);
    }
    if (at + 1 == sums.n_leaves) return;
#pragma unroll
    for (int level = 0; level < LEVELS; level++)
        if (level == *n_waiting) waiting[level] = leaf;
    ++*n_waiting;
}

/* Which slot and which of its rows the row_tile-th piece of at most ROWS rows of all slots is.
 * The same on all lanes; false if there are not so many. */
SY_DEVICE bool sy_find_rows(const sy_product &p,
                            int row_tile,
                            int rows_of_tile,
                            int *slot,
                            int64_t *first,
                            int *rows) {
    int lane = (int)threadIdx.x % 32, n_active = p.active[0];
    for (int base = 0; base < n_active; base += 32) {
        int own = base + lane < n_active ? p.active[1 + base + lane] : -1;
        int begin = own < 0 ? 0 : p.first[own], n = own < 0 ? 0 : p.first[own + 1] - begin;
        int tiles = (n + rows_of_tile - 1) / rows_of_tile, up_to = tiles;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            int left = __shfl_up_sync(0xffffffffu, up_to, distance);
            if (lane >= distance) up_to += left;
        }
        unsigned beyond = __ballot_sync(0xffffffffu, row_tile < up_to);
        if (beyond != 0) {
            int from = __ffs((int)beyond) - 1;
            int skip =
                (row_tile - __shfl_sync(0xffffffffu, up_to - tiles, from)) * rows_of_tile;
            *slot = __shfl_sync(0xffffffffu, own, from);
            *first = __shfl_sync(0xffffffffu, begin, from) + skip;
            *rows = min(__shfl_sync(0xffffffffu, n, from) - skip, rows_of_tile);
            return true;
        }
        row_tile -= __shfl_sync(0xffffffffu, up_to, 31);
    }
    return false;
}

/* What a block works on. */
typedef struct sy_many_place {
    int column; /* of blocks, along the outputs */
    int slot, rows;
    int64_t first; /* row of the product */
} sy_many_place;

/* The place of this block, `columns` of them along the outputs, and its rows into sh->row. Blocks
 * count through the outputs first, so that those that run together share rows of x. The same on
 * all threads; false if there is nothing to do. */
template <int ROWS>
SY_DEVICE bool
sy_take_place(const sy_product &p, sy_many_shared<ROWS> *sh, int columns, sy_many_place *out) {
    int thread = (int)threadIdx.x, row_tile = (int)blockIdx.x / columns, slot = 0;
    int64_t first = (int64_t)row_tile * ROWS;
    if (p.heads > 0) {
        int tiles_of_slot = (p.rows + ROWS - 1) / ROWS;
        slot = row_tile / tiles_of_slot;
        first = (int64_t)(row_tile % tiles_of_slot) * ROWS;
    }
    int rows = min(p.rows - (int)first, (int)ROWS);
    if (p.first != NULL && !sy_find_rows(p, row_tile, ROWS, &slot, &first, &rows)) return false;
    if (thread < ROWS) {
        int64_t row = first + min(thread, rows - 1);
        sh->row[thread] = p.row == NULL ? (int32_t)sy_head_row(p, slot, row) : p.row[row];
    }
    *out = {(int)blockIdx.x % columns, slot, rows, first};
    return true;
}

/* Blocks of a launch; the same on the host. */
template <int ROWS> static int64_t sy_many_blocks(const sy_product *p, int64_t columns) {
    int64_t row_tiles = p->first == NULL ? ((int64_t)p->rows + ROWS - 1) / ROWS
                                         : (int64_t)p->rows / ROWS + p->slots;
    if (p->heads > 0) row_tiles *= p->heads;
    return columns * row_tiles;
}

#endif

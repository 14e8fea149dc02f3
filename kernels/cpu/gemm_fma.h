/* The matrix kernels of an instruction set that multiplies in float32: BF16 and F16 weights are
 * widened in registers, BF16 x before the product.
 *
 * The including file defines `vec`, LANES, v_zero, v_load, v_store, v_splat (of a float in
 * memory), v_fma, load_bf16 and load_f16 (pairs of LANES outputs: odd and even elements),
 * load_f32, and VECS_OF_1 .. VECS_OF_4: how many vectors a tile of that many rows has side by
 * side, so that its accumulators fit the registers. */
#include <string.h>

#include "base/checked.h"
#include "base/dtype.h"

enum { FMA_ROWS = 4 };

#define TILE_WEIGHT uint16_t
#define TILE_STEP 2
#define TILE_LOAD load_bf16
#define TILE_NAME bf16_tile_1
#define TILE_ROWS 1
#define TILE_VECS VECS_OF_1
#include "kernels/cpu/gemm_tile.h"
#define TILE_NAME bf16_tile_2
#define TILE_ROWS 2
#define TILE_VECS VECS_OF_2
#include "kernels/cpu/gemm_tile.h"
#define TILE_NAME bf16_tile_3
#define TILE_ROWS 3
#define TILE_VECS VECS_OF_3
#include "kernels/cpu/gemm_tile.h"
#define TILE_NAME bf16_tile_4
#define TILE_ROWS 4
#define TILE_VECS VECS_OF_4
#include "kernels/cpu/gemm_tile.h"
#undef TILE_LOAD

#define TILE_LOAD load_f16
#define TILE_NAME f16_tile_1
#define TILE_ROWS 1
#define TILE_VECS VECS_OF_1
#include "kernels/cpu/gemm_tile.h"
#define TILE_NAME f16_tile_2
#define TILE_ROWS 2
#define TILE_VECS VECS_OF_2
#include "kernels/cpu/gemm_tile.h"
#define TILE_NAME f16_tile_3
#define TILE_ROWS 3
#define TILE_VECS VECS_OF_3
#include "kernels/cpu/gemm_tile.h"
#define TILE_NAME f16_tile_4
#define TILE_ROWS 4
#define TILE_VECS VECS_OF_4
#include "kernels/cpu/gemm_tile.h"
#undef TILE_LOAD
#undef TILE_STEP
#undef TILE_WEIGHT

#define TILE_WEIGHT float
#define TILE_STEP 1
#define TILE_LOAD load_f32
#define TILE_NAME f32_tile_1
#define TILE_ROWS 1
#define TILE_VECS VECS_OF_1
#include "kernels/cpu/gemm_tile.h"
#define TILE_NAME f32_tile_2
#define TILE_ROWS 2
#define TILE_VECS VECS_OF_2
#include "kernels/cpu/gemm_tile.h"
#define TILE_NAME f32_tile_3
#define TILE_ROWS 3
#define TILE_VECS VECS_OF_3
#include "kernels/cpu/gemm_tile.h"
#define TILE_NAME f32_tile_4
#define TILE_ROWS 4
#define TILE_VECS VECS_OF_4
#include "kernels/cpu/gemm_tile.h"
#undef TILE_LOAD
#undef TILE_STEP
#undef TILE_WEIGHT

typedef void (*tile16)(const uint16_t *panel,
                       const float *x,
                       int64_t ldx,
                       int64_t steps,
                       float *y,
                       int64_t ldy,
                       bool first);
typedef void (*tile32)(const float *panel,
                       const float *x,
                       int64_t ldx,
                       int64_t steps,
                       float *y,
                       int64_t ldy,
                       bool first);
static const tile16 bf16_tiles[FMA_ROWS] = {bf16_tile_1, bf16_tile_2, bf16_tile_3, bf16_tile_4};
static const tile16 f16_tiles[FMA_ROWS] = {f16_tile_1, f16_tile_2, f16_tile_3, f16_tile_4};
static const tile32 f32_tiles[FMA_ROWS] = {f32_tile_1, f32_tile_2, f32_tile_3, f32_tile_4};

/* Rows of the next tile when `left` remain: tiles of nearly equal height, none above `most`. */
static inline int64_t tile_height(int64_t left, int64_t most) {
    return sy_ceil_div(left, sy_ceil_div(left, most));
}

static void bf16_f32(int64_t rows,
                     const uint16_t *panel,
                     const float *x,
                     int64_t ldx,
                     int64_t k_pairs,
                     float *y,
                     int64_t ldy,
                     bool first) {
    for (int64_t m = 0, height; m < rows; m += height) {
        height = tile_height(rows - m, FMA_ROWS);
        bf16_tiles[height - 1](panel, x + m * ldx, ldx, k_pairs, y + m * ldy, ldy, first);
    }
}

static void f16_f32(int64_t rows,
                    const uint16_t *panel,
                    const float *x,
                    int64_t ldx,
                    int64_t k_pairs,
                    float *y,
                    int64_t ldy,
                    bool first) {
    for (int64_t m = 0, height; m < rows; m += height) {
        height = tile_height(rows - m, FMA_ROWS);
        f16_tiles[height - 1](panel, x + m * ldx, ldx, k_pairs, y + m * ldy, ldy, first);
    }
}

static void f32_f32(int64_t rows,
                    const float *panel,
                    const float *x,
                    int64_t ldx,
                    int64_t k,
                    float *y,
                    int64_t ldy,
                    bool first) {
    for (int64_t m = 0, height; m < rows; m += height) {
        height = tile_height(rows - m, FMA_ROWS);
        f32_tiles[height - 1](panel, x + m * ldx, ldx, k, y + m * ldy, ldy, first);
    }
}

/* The product for many rows, bound by arithmetic. A block of four warps takes 64 or 128 outputs of
 * 32 or 64 rows. A fragment of weights is needed by one warp alone and goes from memory straight
 * to its registers, four steps ahead; x passes through three stages of shared memory, 64 k each. */
#include "kernels/cuda/matrix_many.h"

/* Weights of one step of the warp's tiles; zero where there is no tile or no step. */
template <int TILES>
SY_DEVICE void load_step(const sy_tile tile[TILES],
                         const bool there[TILES],
                         int step,
                         int end,
                         uint4 a[TILES]) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < TILES; i++)
        a[i] = there[i] && step < end ? sy_load16(tile[i].w + step * SY_FRAGMENT_LANES + lane)
                                      : make_uint4(0, 0, 0, 0);
}

/* acc += one step of the warp's tiles times columns [k, k + 16) of all rows of a stage. */
template <int TILES, int GROUPS, bool F16>
SY_DEVICE void multiply_step(sy_outputs<TILES, GROUPS> &acc,
                             const uint4 a[TILES],
                             const uint16_t (*x)[SY_MANY_PITCH],
                             int k) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int group = 0; group < GROUPS; group += 2) {
        uint32_t b[4];
        sy_ldmatrix_x4(b, &x[group * 8 + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                sy_multiply<F16>(&acc.v[(i * GROUPS + group + j) * 4], a[i], b + 2 * j);
    }
}

/* The sums of the warp's tiles over all of K, for the rows that sh->row names. */
template <int TILES, int GROUPS, int LEVELS, bool F16>
SY_DEVICE void sum_stages(const sy_product &p,
                          sy_many_shared<GROUPS * 8> *sh,
                          const sy_tile tile[TILES],
                          const bool there[TILES],
                          int rows,
                          sy_outputs<TILES, GROUPS> &leaf) {
    int n = p.sums.n_leaves * p.sums.slices * SY_STAGES_PER_SLICE, n_waiting = 0;
    for (int i = 0; i < SY_STAGES - 1; i++) {
        if (i < n) sy_stage_x(p, sh, i, rows);
        sy_cp_async_commit();
    }
    uint4 a[SY_STAGE_STEPS][TILES];
    sy_segment now = sy_stage_of(p.sums, 0);
#pragma unroll
    for (int j = 0; j < SY_STAGE_STEPS; j++)
        load_step<TILES>(tile, there, now.begin + j, now.end, a[j]);
    sy_outputs<TILES, GROUPS> acc = {}, waiting[LEVELS > 0 ? LEVELS : 1] = {};
#pragma unroll 1
    for (int stage = 0; stage < n; stage++) {
        sy_cp_async_wait<SY_STAGES - 2>();
        __syncthreads();
        if (stage + SY_STAGES - 1 < n) sy_stage_x(p, sh, stage + SY_STAGES - 1, rows);
        sy_cp_async_commit();
        sy_segment next = {0, 0, 0, 0};
        if (stage + 1 < n) next = sy_stage_of(p.sums, stage + 1);
        const uint16_t(*x)[SY_MANY_PITCH] = sh->x[stage % SY_STAGES];
#pragma unroll
        for (int j = 0; j < SY_STAGE_STEPS; j++) {
            if (now.begin + j < now.end)
                multiply_step<TILES, GROUPS, F16>(acc, a[j], x, j * SY_STEP_K);
            load_step<TILES>(tile, there, next.begin + j, next.end, a[j]);
        }
        now = next;
        if (stage % SY_STAGES_PER_SLICE != SY_STAGES_PER_SLICE - 1) continue;
        sy_add_outputs(leaf, leaf, acc);
        acc = {};
        int slice = stage / SY_STAGES_PER_SLICE, at = slice / p.sums.slices;
        if (LEVELS == 0 || (slice + 1) % p.sums.slices != 0) continue;
        sy_join_outputs<TILES, GROUPS, LEVELS>(p.sums, at, leaf, waiting, &n_waiting);
        if (at + 1 < p.sums.n_leaves) leaf = {};
    }
}

/* TILES x 16 outputs per warp, GROUPS x 8 rows, up to 2^LEVELS leaves. */
template <int TILES, int GROUPS, int LEVELS, bool F16>
__global__ void __launch_bounds__(SY_MANY_WARPS * 32, 2)
    multiply_many(const __grid_constant__ sy_product p) {
    enum { ROWS = GROUPS * 8 };
    SY_SHARED_STRUCT(sy_many_shared<ROWS>, sh);
    int thread = (int)threadIdx.x, tiles = p.tile_first[p.n_matrices];
    int columns = (tiles + SY_MANY_WARPS * TILES - 1) / (SY_MANY_WARPS * TILES);
    sy_many_place at;
    if (!sy_take_place(p, sh, columns, &at)) return;
    sy_tile tile[TILES];
    bool there[TILES];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        int own = (at.column * SY_MANY_WARPS + thread / 32) * TILES + i;
        there[i] = own < tiles;
        tile[i] = sy_tile_of(p, at.slot, there[i] ? own : 0);
    }
    __syncthreads();
    sy_outputs<TILES, GROUPS> sum = {};
    sum_stages<TILES, GROUPS, LEVELS, F16>(p, sh, tile, there, at.rows, sum);
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int group = 0; group < GROUPS; group++)
            if (there[i])
                sy_store_outputs(p, at.slot, tile[i], at.first + group * 8, at.rows - group * 8,
                                 &sum.v[(i * GROUPS + group) * 4]);
}

template <int TILES, int GROUPS, int LEVELS>
static sy_status launch(sy_cuda *cu, const sy_product *p) {
    enum { ROWS = GROUPS * 8 };
    int64_t columns =
        (p->tile_first[p->n_matrices] + SY_MANY_WARPS * TILES - 1) / (SY_MANY_WARPS * TILES);
    int64_t blocks = sy_many_blocks<ROWS>(p, columns);
    sy_status st = sy_check_blocks(blocks, "product of many rows");
    if (st != SY_OK) return st;
    cudaLaunchConfig_t config =
        sy_launch(cu, blocks, SY_MANY_WARPS * 32, sizeof(sy_many_shared<ROWS>));
    return p->dtype == SY_F16
               ? SY_CUDA(cu, cudaLaunchKernelEx(&config,
                                                multiply_many<TILES, GROUPS, LEVELS, true>, *p))
               : SY_CUDA(cu, cudaLaunchKernelEx(
                                 &config, multiply_many<TILES, GROUPS, LEVELS, false>, *p));
}

sy_status sy_cuda_multiply_many(sy_cuda *cu, const sy_product *p) {
    if (p->rows == 0 || p->tile_first[p->n_matrices] == 0) return SY_OK;
    if (p->sums.n_leaves == 1) return launch<2, 8, 0>(cu, p);
    if (p->sums.n_leaves <= 4) return launch<1, 8, 2>(cu, p);
    return launch<1, 4, SY_JOIN_LEVELS>(cu, p);
}

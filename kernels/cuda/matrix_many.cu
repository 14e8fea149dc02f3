/* The product for many rows, bound by arithmetic. A block of four warps takes 64 or 128 outputs of
 * 32 or 64 rows. A fragment of weights is needed by one warp alone and goes from memory straight
 * to its registers, four steps ahead; x passes through three stages of shared memory, 64 k each. */
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product.h"

enum {
    WARPS = 4,
    STAGES = 3,
    STAGE_STEPS = 4,
    STAGE_K = STAGE_STEPS * SY_STEP_K,
    STAGES_PER_SLICE = SY_SLICE_STEPS / STAGE_STEPS,
    PITCH = STAGE_K + 8 /* bf16; neither cp.async nor ldmatrix meets a bank twice */
};

template <int ROWS> struct many_shared {
    uint16_t x[STAGES][ROWS][PITCH];
    int32_t row[ROWS];
};
static_assert(sizeof(many_shared<64>) <= 48 * 1024, "more than a launch takes without asking");

/* Steps [begin, end) of one stage, x counting in [lo, hi). */
SY_DEVICE sy_segment stage_of(const sy_sums &sums, int stage) {
    sy_segment s = sy_segment_of(sums, stage / STAGES_PER_SLICE);
    s.begin += stage % STAGES_PER_SLICE * STAGE_STEPS;
    s.end = min(s.end, s.begin + STAGE_STEPS);
    return s;
}

/* The columns of one stage of all rows of the block into shared memory. */
template <int ROWS>
SY_DEVICE void stage_x(const sy_product &p, many_shared<ROWS> *sh, int stage, int rows) {
    sy_segment s = stage_of(p.sums, stage);
    if (s.begin >= s.end) return;
    uint16_t(*to)[PITCH] = sh->x[stage % STAGES];
    int piece = (int)threadIdx.x % (STAGE_K / 8), k = s.begin * SY_STEP_K + 8 * piece;
#pragma unroll
    for (int i = 0; i < ROWS * STAGE_K / 8 / (WARPS * 32); i++) {
        int r = (int)threadIdx.x / (STAGE_K / 8) + i * (WARPS * 32 / (STAGE_K / 8));
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
template <int TILES, int GROUPS> struct outputs { float v[TILES * GROUPS * 4]; };

template <int TILES, int GROUPS>
SY_DEVICE void add_outputs(outputs<TILES, GROUPS> &to,
                           const outputs<TILES, GROUPS> &a,
                           const outputs<TILES, GROUPS> &b) {
#pragma unroll
    for (int i = 0; i < TILES * GROUPS * 4; i++)
        to.v[i] = a.v[i] + b.v[i];
}

/* Leaf `at` is there: it takes up its left neighbours, and waits for the next on the right. The
 * places of those that wait are registers, so each is asked for by its number. */
template <int TILES, int GROUPS, int LEVELS>
SY_DEVICE void join_leaf(const sy_sums &sums,
                         int at,
                         outputs<TILES, GROUPS> &leaf,
                         outputs<TILES, GROUPS> *waiting,
                         int *n_waiting) {
    for (int joins = sy_joins_after(at, sums.n_leaves); joins > 0; joins--) {
        --*n_waiting;
#pragma unroll
        for (int level = 0; level < LEVELS; level++)
            if (level == *n_waiting) add_outputs(leaf, waiting[level], leaf);
    }
    if (at + 1 == sums.n_leaves) return;
#pragma unroll
    for (int level = 0; level < LEVELS; level++)
        if (level == *n_waiting) waiting[level] = leaf;
    ++*n_waiting;
}

/* Which slot and which of its rows the row_tile-th piece of at most ROWS rows of all slots is.
 * The same on all lanes; false if there are not so many. */
SY_DEVICE bool find_rows(const sy_product &p,
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
SY_DEVICE void multiply_step(outputs<TILES, GROUPS> &acc,
                             const uint4 a[TILES],
                             const uint16_t (*x)[PITCH],
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
                          many_shared<GROUPS * 8> *sh,
                          const sy_tile tile[TILES],
                          const bool there[TILES],
                          int rows,
                          outputs<TILES, GROUPS> &leaf) {
    int n = p.sums.n_leaves * p.sums.slices * STAGES_PER_SLICE, n_waiting = 0;
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < n) stage_x(p, sh, i, rows);
        sy_cp_async_commit();
    }
    uint4 a[STAGE_STEPS][TILES];
    sy_segment now = stage_of(p.sums, 0);
#pragma unroll
    for (int j = 0; j < STAGE_STEPS; j++)
        load_step<TILES>(tile, there, now.begin + j, now.end, a[j]);
    outputs<TILES, GROUPS> acc = {}, waiting[LEVELS > 0 ? LEVELS : 1] = {};
#pragma unroll 1
    for (int stage = 0; stage < n; stage++) {
        sy_cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (stage + STAGES - 1 < n) stage_x(p, sh, stage + STAGES - 1, rows);
        sy_cp_async_commit();
        sy_segment next = {0, 0, 0, 0};
        if (stage + 1 < n) next = stage_of(p.sums, stage + 1);
        const uint16_t(*x)[PITCH] = sh->x[stage % STAGES];
#pragma unroll
        for (int j = 0; j < STAGE_STEPS; j++) {
            if (now.begin + j < now.end)
                multiply_step<TILES, GROUPS, F16>(acc, a[j], x, j * SY_STEP_K);
            load_step<TILES>(tile, there, next.begin + j, next.end, a[j]);
        }
        now = next;
        if (stage % STAGES_PER_SLICE != STAGES_PER_SLICE - 1) continue;
        add_outputs(leaf, leaf, acc);
        acc = {};
        int slice = stage / STAGES_PER_SLICE, at = slice / p.sums.slices;
        if (LEVELS == 0 || (slice + 1) % p.sums.slices != 0) continue;
        join_leaf<TILES, GROUPS, LEVELS>(p.sums, at, leaf, waiting, &n_waiting);
        if (at + 1 < p.sums.n_leaves) leaf = {};
    }
}

/* TILES x 16 outputs per warp, GROUPS x 8 rows, up to 2^LEVELS leaves. Blocks count through the
 * outputs first, so that those that run together share rows of x. */
template <int TILES, int GROUPS, int LEVELS, bool F16>
__global__ void __launch_bounds__(WARPS * 32, 2)
    multiply_many(const __grid_constant__ sy_product p) {
    enum { ROWS = GROUPS * 8 };
    SY_SHARED_STRUCT(many_shared<ROWS>, sh);
    int thread = (int)threadIdx.x, tiles = p.tile_first[p.n_matrices];
    int columns = (tiles + WARPS * TILES - 1) / (WARPS * TILES);
    int row_tile = (int)blockIdx.x / columns, column = (int)blockIdx.x % columns, slot = 0;
    int64_t first = (int64_t)row_tile * ROWS;
    if (p.heads > 0) {
        int tiles_of_slot = (p.rows + ROWS - 1) / ROWS;
        slot = row_tile / tiles_of_slot;
        first = (int64_t)(row_tile % tiles_of_slot) * ROWS;
    }
    int rows = min(p.rows - (int)first, (int)ROWS);
    if (p.first != NULL && !find_rows(p, row_tile, ROWS, &slot, &first, &rows)) return;
    if (thread < ROWS) {
        int64_t row = first + min(thread, rows - 1);
        sh->row[thread] = p.row == NULL ? (int32_t)sy_head_row(p, slot, row) : p.row[row];
    }
    sy_tile tile[TILES];
    bool there[TILES];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        int at = (column * WARPS + thread / 32) * TILES + i;
        there[i] = at < tiles;
        tile[i] = sy_tile_of(p, slot, there[i] ? at : 0);
    }
    __syncthreads();
    outputs<TILES, GROUPS> sum = {};
    sum_stages<TILES, GROUPS, LEVELS, F16>(p, sh, tile, there, rows, sum);
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int group = 0; group < GROUPS; group++)
            if (there[i])
                sy_store_outputs(p, slot, tile[i], first + group * 8, rows - group * 8,
                                 &sum.v[(i * GROUPS + group) * 4]);
}

template <int TILES, int GROUPS, int LEVELS>
static sy_status launch(sy_cuda *cu, const sy_product *p) {
    enum { ROWS = GROUPS * 8 };
    int64_t columns = (p->tile_first[p->n_matrices] + WARPS * TILES - 1) / (WARPS * TILES);
    int64_t row_tiles = p->first == NULL ? ((int64_t)p->rows + ROWS - 1) / ROWS
                                         : (int64_t)p->rows / ROWS + p->slots;
    if (p->heads > 0) row_tiles *= p->heads;
    sy_status st = sy_check_blocks(columns * row_tiles, "product of many rows");
    if (st != SY_OK) return st;
    cudaLaunchConfig_t config =
        sy_launch(cu, columns * row_tiles, WARPS * 32, sizeof(many_shared<ROWS>));
    return p->f16 ? SY_CUDA(cu, cudaLaunchKernelEx(
                                    &config, multiply_many<TILES, GROUPS, LEVELS, true>, *p))
                  : SY_CUDA(cu, cudaLaunchKernelEx(
                                    &config, multiply_many<TILES, GROUPS, LEVELS, false>, *p));
}

sy_status sy_cuda_multiply_many(sy_cuda *cu, const sy_product *p) {
    if (p->rows == 0 || p->tile_first[p->n_matrices] == 0) return SY_OK;
    if (p->sums.n_leaves == 1) return launch<2, 8, 0>(cu, p);
    if (p->sums.n_leaves <= 4) return launch<1, 8, 2>(cu, p);
    return launch<1, 4, SY_JOIN_LEVELS>(cu, p);
}

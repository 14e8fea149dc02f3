/* The core of latent attention (MLA, absorbed): all heads of a token see the same keys, latents of
 * c values with a rotary part behind them, and the values are the latents. What a row does to its
 * splits is what attention_core.cu does; only the products and their order are others.
 *
 * A block takes a tile of 16 query rows, (token, head) pairs: 16 heads of one token, or all heads
 * of some. Its keys pass through shared memory 32 at a time, once for both products, the next 32
 * under way meanwhile. Eight warps share the work:
 *
 *     scores   each warp a quarter of the key's values for 16 keys, its part of the queries in
 *              registers; the quarters are added as (0 + 1) + (2 + 3)
 *     softmax  two rows each, a lane for a key; it owns the state (m, l) of its rows
 *     values   each an eighth of the value columns, operand A being p
 *
 * With few rows each split has its own block and the last one joins the states; with many a block
 * walks all splits and joins in registers. Both give equal bits. */
#include <limits.h>

#include "kernels/cuda/attention_state.h"
#include "kernels/cuda/launch.h"

enum {
    WARPS = 8,
    THREADS = 32 * WARPS,
    TILE = 16,         /* query rows, M of the mma */
    STAGE = 32,        /* keys that arrive together */
    QUARTERS = 4,      /* of a key, as the warps share them */
    PAD = 8,           /* values behind a row in shared memory: no bank conflicts */
    ROWS_OF_WARP = 2,  /* in the softmax */
    MOST_BLOCKS = 128, /* rows times tiles for which splits run side by side */
    PAGE_STAGES = SY_PAGE_TOKENS / STAGE
};
static_assert(STAGE == 32 && TILE == WARPS * ROWS_OF_WARP && WARPS == 2 * QUARTERS,
              "a lane for each key, a warp for each two rows, two warps for each quarter");

typedef struct latent_job {
    const uint16_t *q;                                                    /* [rows, A, key] */
    const int32_t *position, *span_of_row, *span_row, *page_first, *page; /* step record */
    const char *pages;                                                    /* [64][stride] */
    int64_t page_bytes;
    uint16_t *o; /* [rows, A, d] */
    /* Partial states, if splits are apart. */
    float2 *state;    /* m and l, [splits][rows][A] */
    float *state_o;   /* [splits][rows][A][d] */
    int32_t *arrived; /* [rows][tiles] blocks of a tile that are done; 0 between launches */
    int rows;         /* bound of the step */
    int heads, key, stride, d;
    int tokens; /* of a tile's piece, and the tiles that its query rows make */
    int tiles;
    float scale;        /* of the softmax, times log2(e) */
    int window;         /* keys that a row sees, itself the last; INT_MAX: all */
    const float *sinks; /* [A] or NULL */
} latent_job;

/* The query rows [first, first + TILE) of some consecutive tokens, of n in all; row r is head
 * r % A of token r / A, and stands in q and o at number + r. */
typedef struct latent_tile {
    int row, position; /* of the first token */
    int n, first;
    int64_t number;
    const int32_t *page;
} latent_tile;

template <int DK> struct __align__(16) latent_shared {
    uint16_t kv[2][STAGE][DK + PAD];
    float score[QUARTERS][TILE][STAGE + PAD];
    uint16_t p[TILE][STAGE + PAD];
    float decay[TILE]; /* of the stage's o */
    float keep[TILE], add[TILE];
    float scale[TILE]; /* 1 / l in the end */
};

SY_DEVICE int position_of(const latent_job &job, const latent_tile &t, int r) {
    return t.position + min(t.first + r, t.n - 1) / job.heads;
}

/* Keys [32 stage, + 32) of the sequence; those behind `last` and columns behind the key become
 * zero, as what they hold may be anything. */
template <int DK>
SY_DEVICE void load_stage(const latent_job &job,
                          latent_shared<DK> *sh,
                          const latent_tile &t,
                          int stage,
                          int last) {
    constexpr int PIECES = DK / 8;
    static_assert(STAGE * PIECES % THREADS == 0, "equal shares");
    const char *page = job.pages + t.page[stage / PAGE_STAGES] * job.page_bytes;
    const uint16_t *from = (const uint16_t *)(const void *)page;
    from += stage % PAGE_STAGES * STAGE * job.stride;
#pragma unroll 3
    for (int i = 0; i < STAGE * PIECES / THREADS; i++) {
        int at = i * THREADS + (int)threadIdx.x, token = at / PIECES, c = at % PIECES * 8;
        bool there = stage * STAGE + token <= last && c < job.stride;
        sy_cp_async16(&sh->kv[stage % 2][token][c],
                      there ? from + token * job.stride + c : from, there ? 16 : 0);
    }
    sy_cp_async_commit();
}

/* Values k and k + 1 of a row of n, zero behind its end. */
SY_DEVICE uint32_t pair_of_row(const uint16_t *row, int k, int n) {
    if (k >= n) return 0;
    if (n % 2 == 0) return *(const bf16_pair *)(const void *)(row + k);
    return row[k] | (k + 1 < n ? (uint32_t)row[k + 1] << 16 : 0);
}

/* The tile's queries as operand A: the warp's quarter, DK / 64 steps. */
template <int DK>
SY_DEVICE void load_queries(const latent_job &job, const latent_tile &t, uint32_t (*q)[4]) {
    int lane = (int)threadIdx.x % 32, quarter = (int)threadIdx.x / 64;
#pragma unroll
    for (int step = 0; step < DK / 64; step++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = t.first + lane / 4 + i % 2 * 8;
            int k = quarter * (DK / 4) + 16 * step + lane % 4 * 2 + i / 2 * 8;
            q[step][i] =
                r < t.n ? pair_of_row(job.q + (t.number + r) * job.key, k, job.key) : 0;
        }
}

/* The warp's quarter of the scores of 16 keys, into shared memory. */
template <int DK>
SY_DEVICE void score_stage(latent_shared<DK> *sh, int stage, const uint32_t (*q)[4]) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int quarter = warp / 2, key = warp % 2 * 16;
    float s[2][4] = {};
    const uint16_t *own = &sh->kv[stage % 2][key + lane / 16 * 8 + lane % 8]
                                 [quarter * (DK / 4) + lane / 8 % 2 * 8];
#pragma unroll
    for (int step = 0; step < DK / 64; step++) {
        uint32_t b[4];
        sy_ldmatrix_x4(b, own + 16 * step);
        sy_mma_bf16(s[0], q[step], b);
        sy_mma_bf16(s[1], q[step], b + 2);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float *to = &sh->score[quarter][lane / 4 + 8 * half][key + 8 * i + lane % 4 * 2];
            sy_store8(to, make_uint2(__float_as_uint(s[i][2 * half]),
                                     __float_as_uint(s[i][2 * half + 1])));
        }
}

/* The (m, l) of the warp's two rows, alike on all lanes. */
typedef struct row_sums {
    float m[ROWS_OF_WARP], l[ROWS_OF_WARP];
} row_sums;

SY_DEVICE void clear(row_sums *s) {
    s->m[0] = s->m[1] = minus_infinity();
    s->l[0] = s->l[1] = 0.0f;
}

/* Scores to p; the state takes up the stage. */
template <int DK>
SY_DEVICE void soften_stage(const latent_job &job,
                            latent_shared<DK> *sh,
                            const latent_tile &t,
                            int stage,
                            row_sums *state) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < ROWS_OF_WARP; i++) {
        int row = (int)threadIdx.x / 32 * ROWS_OF_WARP + i;
        float s = (sh->score[0][row][lane] + sh->score[1][row][lane]) +
                  (sh->score[2][row][lane] + sh->score[3][row][lane]);
        int back = position_of(job, t, row) - (stage * STAGE + lane); /* < 0: too large below */
        s = (unsigned)back < (unsigned)job.window ? s * job.scale : minus_infinity();
        float decay = raise_max(&state->m[i], sy_warp_max(s));
        float p = sy_exp2(s - finite_max(state->m[i]));
        state->l[i] = fmaf(state->l[i], decay, sy_warp_sum(p));
        sh->p[row][lane] = sy_float_bf16(p);
        if (lane == 0) sh->decay[row] = decay;
    }
}

/* o = o decay + P V for the warp's 8 * TILES columns. */
template <int DK, int TILES>
SY_DEVICE void add_stage(const latent_shared<DK> *sh, int stage, float (*o)[4]) {
    int lane = (int)threadIdx.x % 32, column = (int)threadIdx.x / 32 * 8 * TILES;
    float decay[2] = {sh->decay[lane / 4], sh->decay[lane / 4 + 8]};
    uint32_t a[2][4];
    sy_ldmatrix_x4(a[0], &sh->p[lane % 16][lane / 16 * 8]);
    sy_ldmatrix_x4(a[1], &sh->p[lane % 16][16 + lane / 16 * 8]);
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        uint32_t b[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            o[i][j] *= decay[j / 2];
        sy_ldmatrix_x4_trans(b, &sh->kv[stage % 2][lane][column + 8 * i]);
        sy_mma_bf16(o[i], a[0], b);
        sy_mma_bf16(o[i], a[1], b + 2);
    }
}

/* ---- what becomes of a state ---- */

SY_DEVICE bool only_in(const latent_job &job, int position, int split) {
    return first_split_of<true>(job.window, position) == split &&
           last_split_of<true>(position) == split;
}

/* The final factors of the rows whose whole state this is. */
template <int DK>
SY_DEVICE void show_scales(const latent_job &job,
                           latent_shared<DK> *sh,
                           const latent_tile &t,
                           const row_sums *s) {
    if (threadIdx.x % 32 != 0) return;
#pragma unroll
    for (int i = 0; i < ROWS_OF_WARP; i++) {
        int row = (int)threadIdx.x / 32 * ROWS_OF_WARP + i;
        int head = (t.first + row) % job.heads;
        sh->scale[row] = final_scale(job.sinks, head, s->m[i], s->l[i]);
    }
}

/* o of the tile's rows, those that see no other split if `only` is not negative. */
template <int DK, int TILES>
SY_DEVICE void store_output(const latent_job &job,
                            const latent_shared<DK> *sh,
                            const latent_tile &t,
                            int only,
                            const float (*o)[4]) {
    int lane = (int)threadIdx.x % 32, column = (int)threadIdx.x / 32 * 8 * TILES;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = lane / 4 + 8 * half;
        if (t.first + row >= t.n) continue;
        if (only >= 0 && !only_in(job, position_of(job, t, row), only)) continue;
        float scale = sh->scale[row];
        uint16_t *to = job.o + (t.number + t.first + row) * job.d;
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            int c = column + 8 * i + lane % 4 * 2;
            uint32_t two = final_pair(o[i][2 * half], o[i][2 * half + 1], scale);
            if (job.d % 2 == 0 && c < job.d) *(bf16_pair *)(void *)(to + c) = two;
            if (job.d % 2 != 0 && c < job.d) to[c] = (uint16_t)two;
            if (job.d % 2 != 0 && c + 1 < job.d) to[c + 1] = (uint16_t)(two >> 16);
        }
    }
}

/* The state of the rows that see this split and others, into scratch. */
template <int TILES>
SY_DEVICE void store_state(const latent_job &job,
                           const latent_tile &t,
                           int split,
                           const row_sums *s,
                           const float (*o)[4]) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int64_t base = split * ((int64_t)job.rows * job.heads) + t.number + t.first;
#pragma unroll
    for (int i = 0; i < ROWS_OF_WARP; i++) {
        int row = warp * ROWS_OF_WARP + i;
        if (lane == 0 && t.first + row < t.n)
            job.state[base + row] = make_float2(s->m[i], s->l[i]);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = lane / 4 + 8 * half, position = position_of(job, t, row);
        if (t.first + row >= t.n || only_in(job, position, split)) continue;
        if (split < first_split_of<true>(job.window, position) ||
            split > last_split_of<true>(position))
            continue;
        float *to = job.state_o + (base + row) * job.d;
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int c = (warp * TILES + i) * 8 + lane % 4 * 2 + j;
                if (c < job.d) to[c] = o[i][2 * half + j];
            }
    }
}

/* Joins the states of the tile's rows that have more than one, ascending. */
SY_DEVICE void join_splits(const latent_job &job, const latent_tile &t) {
    enum { AHEAD = 8 }; /* states under way at a time */
    int64_t stride = (int64_t)job.rows * job.heads;
    int n = min((int)TILE, t.n - t.first) * job.d;
#pragma unroll 1
    for (int item = (int)threadIdx.x; item < n; item += THREADS) {
        int row = item / job.d, c = item - row * job.d, position = position_of(job, t, row);
        int begin = first_split_of<true>(job.window, position);
        int last = last_split_of<true>(position);
        if (begin == last) continue;
        int64_t number = t.number + t.first + row;
        float m = minus_infinity(), l = 0.0f, o = 0.0f;
#pragma unroll 1
        for (int first = begin; first <= last; first += AHEAD) {
            float2 state[AHEAD];
            float value[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                int64_t at = min(first + i, last) * stride + number;
                state[i] = job.state[at];
                value[i] = job.state_o[at * job.d + c];
            }
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                float keep, add;
                if (first + i > last) break;
                join_states(&m, &l, state[i].x, state[i].y, &keep, &add);
                o = join_value(o, keep, value[i], add);
            }
        }
        float scale = final_scale(job.sinks, (t.first + row) % job.heads, m, l);
        job.o[number * job.d + c] = (uint16_t)final_pair(o, 0.0f, scale);
    }
}

/* ---- the walk ---- */

/* The tile over stages [begin, end) of its sequence. ONE_SPLIT: they are of `split`, whose state
 * is stored; otherwise they are all, and the output is stored. Three barriers a stage: the keys
 * are there, and all are done with the last ones and with p; the scores are there; p is there. */
template <int DK, int DV, bool ONE_SPLIT>
SY_DEVICE void walk(const latent_job &job,
                    latent_shared<DK> *sh,
                    const latent_tile &t,
                    int begin,
                    int end,
                    int split) {
    constexpr int TILES = DV / 8 / WARPS;
    int last = position_of(job, t, TILE - 1), row0 = (int)threadIdx.x / 32 * ROWS_OF_WARP;
    int lane = (int)threadIdx.x % 32;
    uint32_t q[DK / 64][4];
    float o[TILES][4] = {}, total_o[ONE_SPLIT ? 1 : TILES][4] = {};
    row_sums state, total;
    clear(&state);
    clear(&total);
    load_stage(job, sh, t, begin, last);
    load_queries<DK>(job, t, q);
#pragma unroll 1
    for (int stage = begin; stage < end; stage++) {
        bool closes = stage + 1 == end || split_of_page<true>((stage + 1) / PAGE_STAGES) !=
                                              split_of_page<true>(stage / PAGE_STAGES);
        sy_cp_async_wait<0>();
        __syncthreads();
        if (stage + 1 < end) load_stage(job, sh, t, stage + 1, last);
        score_stage(sh, stage, q);
        __syncthreads();
        soften_stage(job, sh, t, stage, &state);
        if (!ONE_SPLIT && closes) {
#pragma unroll
            for (int i = 0; i < ROWS_OF_WARP; i++) {
                float keep, add;
                join_states(&total.m[i], &total.l[i], state.m[i], state.l[i], &keep, &add);
                if (lane == 0) sh->keep[row0 + i] = keep;
                if (lane == 0) sh->add[row0 + i] = add;
            }
            clear(&state);
        }
        if (stage + 1 == end) show_scales(job, sh, t, ONE_SPLIT ? &state : &total);
        __syncthreads();
        add_stage<DK, TILES>(sh, stage, o);
        if (!ONE_SPLIT && closes) {
            float keep[2] = {sh->keep[lane / 4], sh->keep[lane / 4 + 8]};
            float add[2] = {sh->add[lane / 4], sh->add[lane / 4 + 8]};
#pragma unroll
            for (int i = 0; i < TILES; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float *sum = &total_o[ONE_SPLIT ? 0 : i][j];
                    *sum = join_value(*sum, keep[j / 2], o[i][j], add[j / 2]);
                    o[i][j] = 0.0f;
                }
        }
    }
    if constexpr (ONE_SPLIT) {
        store_output<DK, TILES>(job, sh, t, split, o);
        store_state<TILES>(job, t, split, &state, o);
    } else {
        store_output<DK, TILES>(job, sh, t, -1, total_o);
    }
}

/* o = 0 for a row behind the batch's: the tile's heads of it. */
SY_DEVICE void clear_output(const latent_job &job, int64_t row, int first) {
    int n = min((int)TILE, job.heads - first) * job.d;
    uint16_t *o = job.o + (row * job.heads + first) * job.d;
    for (int i = (int)threadIdx.x; i < n; i += THREADS)
        o[i] = 0;
}

/* The tile of a block, which is (row, tile) with the last rows first, since they have the most
 * keys. False if no piece begins at the block's row, or it has not so many tiles. */
SY_DEVICE bool find_tile(const latent_job &job, latent_tile *t) {
    t->row = job.rows - 1 - (int)blockIdx.x / job.tiles;
    t->first = (int)blockIdx.x % job.tiles * TILE;
    t->position = job.position[t->row];
    int span = job.span_of_row[t->row];
    if (t->position < 0) {
        if (blockIdx.y == 0) clear_output(job, t->row, t->first);
        return false;
    }
    int begin = job.span_row[span], end = job.span_row[span + 1], pages = job.page_first[span];
    if ((t->row - begin) % job.tokens != 0) return false;
    t->n = min(job.tokens, end - t->row) * job.heads;
    t->number = (int64_t)t->row * job.heads;
    t->page = job.page + pages;
    return true;
}

/* Grid: x as find_tile says. */
template <int DK, int DV>
static __global__ void __launch_bounds__(THREADS, 1)
    attend_latent_whole(const __grid_constant__ latent_job job) {
    static_assert(sizeof(latent_shared<DK>) <= SY_CUDA_MAX_SHARED, "shared memory");
    SY_SHARED_STRUCT(latent_shared<DK>, sh);
    latent_tile t;
    if (!find_tile(job, &t)) return;
    int begin = first_page_of(job.window, t.position + t.first / job.heads) * PAGE_STAGES;
    walk<DK, DV, false>(job, sh, t, begin, position_of(job, t, TILE - 1) / STAGE + 1, 0);
}

/* Grid: x as find_tile says, y splits, taken in turns where a tile has more. A block without a
 * split does not arrive. */
template <int DK, int DV>
static __global__ void __launch_bounds__(THREADS, 1)
    attend_latent_split(const __grid_constant__ latent_job job) {
    SY_SHARED_STRUCT(latent_shared<DK>, sh);
    latent_tile t;
    if (!find_tile(job, &t)) return;
    int first_page = first_page_of(job.window, t.position + t.first / job.heads);
    int last = position_of(job, t, TILE - 1), first_split = split_of_page<true>(first_page);
    int n_splits = last_split_of<true>(last) - first_split + 1;
    if ((int)blockIdx.y >= n_splits) return;
    for (int i = (int)blockIdx.y; i < n_splits; i += (int)gridDim.y) {
        int split = first_split + i;
        int begin = max(split_first_page<true>(split), first_page) * PAGE_STAGES;
        int end = min(split_first_page<true>(split + 1) * PAGE_STAGES, last / STAGE + 1);
        if (i >= (int)gridDim.y) __syncthreads();
        walk<DK, DV, true>(job, sh, t, begin, end, split);
    }
    int32_t *arrived = job.arrived + (int64_t)t.row * job.tiles + t.first / TILE;
    if (n_splits > 1 && last_to_arrive(arrived, min(n_splits, (int)gridDim.y)))
        join_splits(job, t);
}

/* ---- on the host ---- */

static int64_t tiles_of(int64_t heads) {
    return sy_ceil_div(sy_max(heads, 1), TILE);
}

/* Steps of at most this many rows run their splits side by side. */
static int64_t split_rows(const sy_limits *l) {
    int64_t n_splits = attend_splits<true>(l->max_context);
    if (n_splits == 1 || l->mla.kv_rank == 0) return 0;
    uint64_t bytes = sy_cuda_attend_bytes(n_splits, 1, l->heads, l->mla.kv_rank);
    int64_t rows =
        bytes > MAX_STATE_BYTES ? 1 : (int64_t)(MAX_STATE_BYTES / sy_max((int64_t)bytes, 1));
    rows = sy_min(rows, sy_max(MOST_BLOCKS / tiles_of(l->heads), 1));
    return sy_min(sy_min(rows, MAX_SPLIT_ROWS), l->max_rows);
}

uint64_t sy_cuda_attend_latent_scratch(const sy_limits *l) {
    return sy_cuda_attend_bytes(attend_splits<true>(l->max_context), split_rows(l), l->heads,
                                l->mla.kv_rank);
}

uint64_t sy_cuda_attend_latent_counters(const sy_limits *l) {
    return (uint64_t)split_rows(l) * (uint64_t)tiles_of(l->heads) * sizeof(int32_t);
}

template <int DK, int DV>
static sy_status launch(sy_cuda *cu, const latent_job *job, bool apart, int64_t n_splits) {
    int64_t blocks = (int64_t)job->rows * job->tiles;
    sy_status st = sy_check_blocks(blocks, "latent attention");
    if (st != SY_OK) return st;
    cudaLaunchConfig_t config = sy_launch(cu, blocks, THREADS, sizeof(latent_shared<DK>));
    if (!apart)
        return SY_CUDA(cu, cudaLaunchKernelEx(&config, attend_latent_whole<DK, DV>, *job));
    /* Enough blocks for two on each multiprocessor, and no more turns than needed. */
    int64_t wanted = 2 * sy_max(cu->properties.multiProcessorCount, 1);
    int64_t y = sy_max(sy_min(sy_ceil_div(wanted, blocks), n_splits), 1);
    config.gridDim.y = (unsigned)y;
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, attend_latent_split<DK, DV>, *job));
}

template <int DK, int DV> static sy_status allow_shared(const sy_cuda *cu) {
    sy_status st = SY_OK;
    int bytes = (int)sizeof(latent_shared<DK>);
    SY_TRY(
        SY_CUDA(cu, cudaFuncSetAttribute(attend_latent_whole<DK, DV>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)));
    SY_TRY(
        SY_CUDA(cu, cudaFuncSetAttribute(attend_latent_split<DK, DV>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)));
done:
    return st;
}

sy_status sy_cuda_attend_latent_prepare(sy_cuda *cu) {
    sy_status st = SY_OK;
    SY_TRY((allow_shared<320, 256>(cu)));
    SY_TRY((allow_shared<SY_CUDA_MAX_LATENT_KEY, SY_CUDA_MAX_LATENT>(cu)));
done:
    return st;
}

/* Splits that a tile of up to 16 tokens and the window before them can touch. */
static int64_t most_splits(const sy_cuda *cu, int window) {
    int64_t pages = sy_min((int64_t)window + TILE, cu->limits.max_context) / SY_PAGE_TOKENS + 2;
    return sy_min(pages, attend_splits<true>(cu->limits.max_context));
}

sy_status sy_cuda_attend_latent(sy_cuda *cu,
                                const sy_attn_spec *attn,
                                const void *q,
                                const sy_kv_layer *kv,
                                const float *sinks,
                                void *o) {
    const sy_cuda_step *step = &cu->step;
    const sy_mla_spec *mla = &attn->mla;
    int64_t rows = step->rows_bound, n_splits = attend_splits<true>(cu->limits.max_context);
    bool apart = rows <= split_rows(&cu->limits);
    uint64_t bytes = sy_cuda_attend_bytes(n_splits, rows, attn->heads, mla->kv_rank);
    uint64_t counters = (uint64_t)(rows * tiles_of(attn->heads)) * sizeof *cu->attend_counter;
    int64_t key = (int64_t)mla->kv_rank + mla->rope;
    if (mla->kv_rank < 1 || mla->kv_rank > SY_CUDA_MAX_LATENT || mla->rope < 0 ||
        key > SY_CUDA_MAX_LATENT_KEY || attn->heads < 1)
        return sy_fail(SY_ERR_INTERNAL, "attend: %d heads of latents of %d + %d", attn->heads,
                       mla->kv_rank, mla->rope);
    if (apart && (bytes > cu->scratch_bytes || counters > cu->attend_counter_bytes))
        return sy_fail(SY_ERR_INTERNAL,
                       "attend: %lld rows of %d heads, latents of %d, but memory was reserved "
                       "for %d of %d",
                       (long long)rows, attn->heads, mla->kv_rank, cu->limits.heads,
                       cu->limits.mla.kv_rank);
    latent_job job = {};
    job.q = (const uint16_t *)q;
    job.position = step->position;
    job.span_of_row = step->span_of_row;
    job.span_row = step->span_row;
    job.page_first = step->page_first;
    job.page = step->page;
    job.pages = (const char *)kv->data;
    job.page_bytes = kv->page_bytes;
    job.o = (uint16_t *)o;
    job.state = (float2 *)(void *)cu->scratch;
    job.state_o = (float *)(void *)cu->scratch + 2 * n_splits * rows * attn->heads;
    job.arrived = cu->attend_counter;
    job.rows = (int)rows;
    job.heads = attn->heads;
    job.key = (int)key;
    job.stride = (int)latent_stride(mla);
    job.d = mla->kv_rank;
    job.tokens = attn->heads < TILE ? TILE / attn->heads : 1;
    job.tiles = (int)tiles_of(attn->heads);
    job.scale = attn->softmax_scale * 1.44269504088896341f;
    job.window = attn->window > 0 && attn->window < INT_MAX ? (int)attn->window : INT_MAX;
    job.sinks = sinks;
    int64_t most = most_splits(cu, job.window);
    if (key <= 64) return launch<64, 64>(cu, &job, apart, most);
    if (key <= 320 && job.d <= 256) return launch<320, 256>(cu, &job, apart, most);
    return launch<SY_CUDA_MAX_LATENT_KEY, SY_CUDA_MAX_LATENT>(cu, &job, apart, most);
}

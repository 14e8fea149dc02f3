/* The core of latent attention (MLA, absorbed): all heads of a token see the same keys, latents of
 * c values with a rotary part behind them, and the values are the latents. What a row does to its
 * splits is what attention_core.cu does; only the products and their order are others.
 *
 * A block takes a tile of 16 query rows, (token, head) pairs: 16 heads of one token, or all heads
 * of some. Its keys pass through shared memory once for both products, a page in two halves: each
 * half of the next page is under way from when this page's is done with. Eight warps share the
 * work of a page:
 *
 *     scores   each warp a quarter of the key's values for 16 keys of a half, its part of the
 *              queries in registers; the quarters are added as (0 + 1) + (2 + 3)
 *     softmax  two rows each, a lane for a key of each half; it owns the state (m, l) of its rows
 *     values   each an eighth of the value columns, operand A being p
 *
 * With few rows each split has its own block and the last one joins the states; with many a block
 * walks all splits and joins in registers. Both give equal bits. */
#include <limits.h>

#include "kernels/cuda/attention_latent.h"
#include "kernels/cuda/launch.h"

/* The state of a split is joined to the total: what the vectors are multiplied by, for all. */
template <int DK>
SY_DEVICE void join_rows(latent_shared<DK> *sh, row_sums *total, row_sums *state) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < ROWS_OF_WARP; i++) {
        int row = (int)threadIdx.x / 32 * ROWS_OF_WARP + i;
        float keep, add;
        join_states(&total->m[i], &total->l[i], state->m[i], state->l[i], &keep, &add);
        if (lane == 0) sh->keep[row] = keep;
        if (lane == 0) sh->add[row] = add;
    }
    clear(state);
}

/* The vectors likewise; that of the next split begins at 0. */
template <int DK, int TILES>
SY_DEVICE void join_outputs(const latent_shared<DK> *sh, float (*total)[4], float (*o)[4]) {
    int lane = (int)threadIdx.x % 32;
    float keep[2] = {sh->keep[lane / 4], sh->keep[lane / 4 + 8]};
    float add[2] = {sh->add[lane / 4], sh->add[lane / 4 + 8]};
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            total[i][j] = join_value(total[i][j], keep[j / 2], o[i][j], add[j / 2]);
            o[i][j] = 0.0f;
        }
}

/* The tile over pages [begin, end) of its sequence. ONE_SPLIT: they are of `split`, whose state
 * is stored; otherwise they are all, and the output is stored. Five barriers a page: the first
 * half is there, and all are done with the last page's second; the second half is there; the
 * scores are there; p is there; all are done with the first half. */
template <int DK, int DV, bool ONE_SPLIT>
SY_DEVICE void walk(const latent_job &job,
                    latent_shared<DK> *sh,
                    const latent_tile &t,
                    int begin,
                    int end,
                    int split) {
    constexpr int TILES = DV / 8 / WARPS;
    int last = position_of(job, t, TILE - 1);
    uint32_t q[DK / 64][4];
    float o[TILES][4] = {}, total_o[ONE_SPLIT ? 1 : TILES][4] = {};
    row_sums state, total;
    clear(&state);
    clear(&total);
    load_half(job, sh, t, begin, 0, last);
    load_queries<DK>(job, t, q);
#pragma unroll 1
    for (int page = begin; page < end; page++) {
        bool closes =
            page + 1 == end || split_of_page<true>(page + 1) != split_of_page<true>(page);
        sy_cp_async_wait<0>();
        __syncthreads();
        load_half(job, sh, t, page, 1, last);
        score_half(sh, 0, q);
        sy_cp_async_wait<0>();
        __syncthreads();
        score_half(sh, 1, q);
        __syncthreads();
        soften_page(job, sh, t, page, &state);
        if (!ONE_SPLIT && closes) join_rows(sh, &total, &state);
        if (page + 1 == end) show_scales(job, sh, t, ONE_SPLIT ? &state : &total);
        __syncthreads();
        decay_output<DK, TILES>(sh, o);
        add_half<DK, TILES>(sh, 0, o);
        __syncthreads();
        if (page + 1 < end) load_half(job, sh, t, page + 1, 0, last);
        add_half<DK, TILES>(sh, 1, o);
        if constexpr (!ONE_SPLIT)
            if (closes) join_outputs<DK, TILES>(sh, total_o, o);
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
    int begin = first_page_of(job.window, t.position + t.first / job.heads);
    walk<DK, DV, false>(job, sh, t, begin, position_of(job, t, TILE - 1) / PAGE + 1, 0);
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
        int begin = max(split_first_page<true>(split), first_page);
        int end = min(split_first_page<true>(split + 1), last / PAGE + 1);
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

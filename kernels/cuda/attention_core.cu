/* Causal attention over the pages. The rows of a tile are 16 query rows: (token, head) pairs
 * of one span and one kv head, token = row / G. A row walks the splits of its sequence
 * upwards (attention.h), and within a split the pages of 64 tokens:
 *
 *     s = scale log2(e) q K^T, keys behind the row's position or before its window: -inf
 *     m' = max(m, max s)       a = 2^(m - m')       p = 2^(s - m')
 *     l = l a + sum p          o = o a + bf16(p) V
 *
 * and the state (m, l, o) of a split is joined to those before it by join_states. A split none of
 * whose keys a row sees leaves an empty state, which joins without a trace: whether it is walked
 * for the sake of other rows does not matter. Both forms do just this, so they give equal bits:
 *
 *     few rows   one block per (tile, kv head, split): states go to scratch, and the block
 *                that is done last joins them. Bound by memory: a page passes once through
 *                shared memory.
 *     many rows  one block per (64 query rows, kv head) walks all splits and joins in
 *                registers.
 *
 * The warps of a tile, PARTS = 2 or 4, share its work: each takes 64 / PARTS keys of a page
 * in the first product and its part of the value columns in the second. Maxima, sums and p
 * pass through shared memory. PARTS changes no chain of additions: the sum over 64 keys takes
 * 16 keys at a time and joins these by halves. mma m16n8k16: Q as A and K as B, P as A and V
 * as B.
 *
 * Grids are made for bounds: a block looks into the step record for whether a tile begins at
 * its row, so that a recorded launch serves every step of that bound. */
#include <limits.h>

#include "kernels/cuda/attention_tile.h"

/* Query rows [r0, r0 + 16 WARPS / PARTS) of the piece over pages [begin, end) of its
 * sequence. ONE_SPLIT: the pages are those of `split`, and its state is stored; otherwise
 * they are all, and the output is stored.
 *
 * Keys and values of a page arrive apart from each other: the next keys are under way during
 * the softmax and the second product, the next values during the first product. Three
 * barriers a page: keys arrived, and all are done with the last values and weights; all are
 * done with the keys, and the maxima are there; values arrived, and the weights are there. */
template <int DK, int WARPS, int PARTS, bool ONE_SPLIT, class shared>
SY_DEVICE void
walk(const attend_job &job, shared *sh, const piece &p, int r0, int begin, int end, int split) {
    constexpr int KEY_TILES = PAGE / 8 / PARTS, OUT_TILES = width<DK>::DV / 8 / PARTS;
    constexpr int ROWS = TILE * WARPS / PARTS, THREADS = 32 * WARPS;
    constexpr bool OWN_Q = sizeof sh->q / sizeof sh->q[0] >= ROWS;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int tile = warp / PARTS, part = warp % PARTS;
    int key0 = 8 * KEY_TILES * part, column = 8 * OUT_TILES * part;
    int last = p.position + (min(r0 + ROWS, p.n) - 1) / job.group;
    int position[2]; /* of the lane's rows; one behind the last row goes along with that */
    for (int r = 0; r < 2; r++)
        position[r] =
            p.position + min(r0 + TILE * tile + lane / 4 + 8 * r, p.n - 1) / job.group;

    uint16_t(*q)[DK + PAD] = OWN_Q ? sh->q : sh->k;
    uint32_t kept[width<DK>::Q_KEPT ? DK / 16 : 1][4];
    if constexpr (OWN_Q) {
        load_keys<DK, THREADS>(job, sh, p, begin, last);
        load_values<DK, THREADS>(job, sh, p, begin, last);
    }
    load_queries<DK, THREADS>(job, q, p, r0, ROWS);
    q += TILE * tile;
    if constexpr (width<DK>::Q_KEPT) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < DK / 16; i++)
            sy_ldmatrix_x4(kept[i], &q[lane % 16][16 * i + lane / 16 * 8]);
    }
    if constexpr (!OWN_Q) {
        __syncthreads();
        load_keys<DK, THREADS>(job, sh, p, begin, last);
        load_values<DK, THREADS>(job, sh, p, begin, last);
    }

    row_state<OUT_TILES> state, total;
    if constexpr (!ONE_SPLIT) clear(&total);
    int page = begin;
    do {
        int split_end =
            ONE_SPLIT ? end : min(split_first_page<false>(split_of_page<false>(page) + 1), end);
        clear(&state);
        do {
            float s[KEY_TILES][4], mx[2], decay[2], share[2];
            uint32_t weight[KEY_TILES][2], a[4][4];
            if (page == begin)
                sy_cp_async_wait<1>();
            else
                sy_cp_async_wait<0>();
            __syncthreads();
            if (page > begin) load_values<DK, THREADS>(job, sh, p, page, last);
            scores<DK, KEY_TILES>(s, kept, q, sh->k, key0);
            mask<KEY_TILES>(s, job.scale, job.window, page * PAGE + key0 + lane % 4 * 2,
                            position, mx);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                mx[r] = quad_max(mx[r]);
                if (lane % 4 == 0) sh->max[warp][lane / 4 + 8 * r] = mx[r];
            }
            __syncthreads();
            if (page + 1 < end) load_keys<DK, THREADS>(job, sh, p, page + 1, last);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                for (int w = 0; w < PARTS; w++)
                    mx[r] = fmaxf(mx[r], sh->max[PARTS * tile + w][lane / 4 + 8 * r]);
                decay[r] = raise_max(&state.m[r], mx[r]);
            }
            weights<KEY_TILES>(s, state.m, weight, share);
            share_weights<KEY_TILES>(sh, tile, part, weight, share);
            if (page + 1 < end)
                sy_cp_async_wait<1>();
            else
                sy_cp_async_wait<0>();
            __syncthreads();
            gather_weights<PARTS>(sh, tile, a, share);
#pragma unroll
            for (int r = 0; r < 2; r++)
                state.l[r] = fmaf(state.l[r], decay[r], quad_sum(share[r]));
            add_values<DK, OUT_TILES>(&state, decay, a, sh->v, column);
        } while (++page < split_end);
        if constexpr (!ONE_SPLIT) join(&total, &state);
    } while (page < end);
    int r = r0 + TILE * tile, c = p.column + column;
    if constexpr (ONE_SPLIT) {
        store_output(job, p, r, c, split, &state);
        store_state(job, p, r, c, split, &state);
    } else {
        store_output(job, p, r, c, -1, &total);
    }
}

/* o = 0 for a row behind the batch's: the block's heads of it. */
SY_DEVICE void clear_output(const attend_job &job, int64_t row, int kv_head) {
    uint16_t *o = job.o + (row * job.heads + (int64_t)kv_head * job.group) * job.d;
    for (int i = threadIdx.x; i < job.group * job.d; i += (int)blockDim.x)
        o[i] = 0;
}

/* The piece of a block, which is (row, kv head, columns) with the last rows first, since they
 * have the most pages: tokens are taken together so that they have at most max_rows query
 * rows. False if no piece begins at the block's row. */
template <int DK> SY_DEVICE bool find_piece(const attend_job &job, int max_rows, piece *p) {
    constexpr int SLICES = width<DK>::SLICES;
    int per_row = job.kv_heads * SLICES, tokens = max(max_rows / job.group, 1);
    p->row = job.rows - 1 - (int)blockIdx.x / per_row;
    p->kv_head = (int)blockIdx.x % per_row / SLICES;
    p->column = (int)blockIdx.x % SLICES * width<DK>::DV;
    p->position = job.position[p->row];
    int span =
        job.span_of_row[p->row]; /* loads that do not wait for each other stand together */
    if (p->position < 0) {
        if (p->column == 0 && blockIdx.y == 0) clear_output(job, p->row, p->kv_head);
        return false;
    }
    int begin = job.span_row[span], end = job.span_row[span + 1], pages = job.page_first[span];
    if ((p->row - begin) % tokens != 0) return false;
    p->n = min(tokens, end - p->row) * job.group;
    p->page = job.page + pages;
    return true;
}

template <int DK>
struct whole_shared
    : attend_shared<DK, WHOLE_WARPS, WHOLE_ROWS / TILE, width<DK>::Q_KEPT ? 0 : WHOLE_ROWS> {};
template <int DK> struct split_shared : attend_shared<DK, SPLIT_WARPS, 1, TILE> {};

/* Grid: x as find_piece says. */
template <int DK>
static __global__ void __launch_bounds__(32 * WHOLE_WARPS, 1)
    attend_whole(const attend_job job) {
    static_assert(sizeof(whole_shared<DK>) <= SY_CUDA_MAX_SHARED, "shared memory");
    SY_SHARED_STRUCT(whole_shared<DK>, sh);
    piece p;
    if (!find_piece<DK>(job, WHOLE_ROWS, &p)) return;
    for (int r0 = 0; r0 < p.n; r0 += WHOLE_ROWS) {
        int last = p.position + (min(r0 + WHOLE_ROWS, p.n) - 1) / job.group;
        int begin = first_page_of(job.window, p.position + r0 / job.group);
        if (r0 > 0) __syncthreads();
        if (p.n - r0 <= WHOLE_ROWS / 2)
            walk<DK, WHOLE_WARPS, 4, false>(job, sh, p, r0, begin, last / PAGE + 1, 0);
        else
            walk<DK, WHOLE_WARPS, 2, false>(job, sh, p, r0, begin, last / PAGE + 1, 0);
    }
}

/* Joins the states of the piece's rows that have more than one, ascending. A thread takes the
 * columns {c, c + 1} and {c2, c2 + 1} of a row; where the row's pairs are odd, the last thread
 * has c2 = c. */
SY_DEVICE void join_splits(const attend_job &job, const piece &p) {
    enum { AHEAD = 8 }; /* states under way at a time */
    int64_t stride = (int64_t)job.rows * job.heads;
    int per_row = (job.d / 2 + 1) / 2;
#pragma unroll 1
    for (int item = threadIdx.x; item < p.n * per_row; item += 32 * SPLIT_WARPS) {
        int r = item / per_row, c = 2 * (item % per_row);
        int c2 = c + 2 * per_row < job.d ? c + 2 * per_row : c;
        int position = p.position + r / job.group;
        int first_split = first_split_of<false>(job.window, position),
            last_split = last_split_of<false>(position);
        if (first_split == last_split) continue;
        int64_t row_head = query_number(job, p, r);
        float m = minus_infinity(), l = 0.0f, o[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
        for (int first = first_split; first <= last_split; first += AHEAD) {
            float2 state[AHEAD], value[AHEAD][2];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                int64_t at = min(first + i, last_split) * stride + row_head;
                const float *from = job.state_o + at * job.d;
                state[i] = job.state[at];
                value[i][0] = *(const float2 *)(const void *)(from + c);
                value[i][1] = *(const float2 *)(const void *)(from + c2);
            }
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                float keep, add;
                if (first + i > last_split) break;
                join_states(&m, &l, state[i].x, state[i].y, &keep, &add);
                for (int j = 0; j < 2; j++) {
                    o[2 * j] = join_value(o[2 * j], keep, value[i][j].x, add);
                    o[2 * j + 1] = join_value(o[2 * j + 1], keep, value[i][j].y, add);
                }
            }
        }
        int head = p.kv_head * job.group + r % job.group;
        float inverse = final_scale(job.sinks, head, m, l);
        uint16_t *to = job.o + row_head * job.d;
        *(bf16_pair *)(void *)(to + c) = final_pair(o[0], o[1], inverse);
        *(bf16_pair *)(void *)(to + c2) = final_pair(o[2], o[3], inverse);
    }
}

/* Grid: x as find_piece says, y splits, taken in turns where a piece has more. A piece of several
 * tiles is one token with more than 16 heads to a kv head, so all its rows have the same splits.
 * A block without a split does not arrive. */
template <int DK>
static __global__ void __launch_bounds__(32 * SPLIT_WARPS, DK > 64 ? 3 : 4)
    attend_split(const attend_job job) {
    static_assert(sizeof(split_shared<DK>) <= SY_CUDA_MAX_SHARED, "shared memory");
    SY_SHARED_STRUCT(split_shared<DK>, sh);
    piece p;
    if (!find_piece<DK>(job, TILE, &p)) return;
    int last = p.position + (p.n - 1) / job.group,
        first_page = first_page_of(job.window, p.position);
    int first_split = split_of_page<false>(first_page);
    int n_splits = last_split_of<false>(last) - first_split + 1;
    if ((int)blockIdx.y >= n_splits) return;
    for (int r0 = 0; r0 < p.n; r0 += TILE) {
        for (int i = (int)blockIdx.y; i < n_splits; i += (int)gridDim.y) {
            int split = first_split + i,
                begin = max(split_first_page<false>(split), first_page);
            int end = min(split_first_page<false>(split + 1), last / PAGE + 1);
            if (r0 > 0 || i >= (int)gridDim.y) __syncthreads();
            walk<DK, SPLIT_WARPS, 4, true>(job, sh, p, r0, begin, end, split);
        }
    }
    int blocks = width<DK>::SLICES * min(n_splits, (int)gridDim.y); /* for all columns */
    int32_t *arrived = job.arrived + (int64_t)p.row * job.kv_heads + p.kv_head;
    if (n_splits > 1 && last_to_arrive(arrived, blocks)) join_splits(job, p);
}

int64_t sy_cuda_attend_split_rows(const sy_limits *l) {
    int64_t n_splits = attend_splits<false>(l->max_context);
    if (n_splits == 1) return 0;
    uint64_t bytes = sy_cuda_attend_bytes(n_splits, 1, l->heads, l->head_dim);
    int64_t rows =
        bytes > MAX_STATE_BYTES ? 1 : (int64_t)(MAX_STATE_BYTES / sy_max((int64_t)bytes, 1));
    return sy_min(sy_min(rows, MAX_SPLIT_ROWS), l->max_rows);
}

uint64_t
sy_cuda_attend_bytes(int64_t n_splits, int64_t n_rows, int64_t heads, int64_t head_dim) {
    uint64_t bytes = sizeof(float) * ((uint64_t)head_dim + 2);
    if (!sy_mul_u64(bytes, (uint64_t)heads, &bytes) ||
        !sy_mul_u64(bytes, (uint64_t)n_rows, &bytes) ||
        !sy_mul_u64(bytes, (uint64_t)n_splits, &bytes))
        return UINT64_MAX;
    return bytes;
}

static cudaLaunchConfig_t
config_of(const sy_cuda *cu, int64_t x, int64_t y, int threads, size_t shared) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)x, (unsigned)y);
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = shared;
    config.stream = cu->stream;
    return config;
}

/* Enough blocks for several on each multiprocessor, and no more turns than needed. */
static int64_t split_blocks(const sy_cuda *cu, int64_t blocks_per_split, int64_t n_splits) {
    int64_t wanted = 8 * sy_max(cu->properties.multiProcessorCount, 1);
    return sy_max(sy_min(sy_ceil_div(wanted, blocks_per_split), n_splits), 1);
}

template <int DK> static sy_status launch(sy_cuda *cu, const attend_job *job, bool apart) {
    int64_t blocks = (int64_t)job->rows * job->kv_heads * width<DK>::SLICES;
    /* A piece of up to 16 tokens and a window before them; a split is no shorter than a page. */
    int64_t seen = sy_min((int64_t)job->window + TILE, cu->limits.max_context) / PAGE + 2;
    int64_t y =
        split_blocks(cu, blocks, sy_min(seen, attend_splits<false>(cu->limits.max_context)));
    cudaLaunchConfig_t whole =
        config_of(cu, blocks, 1, 32 * WHOLE_WARPS, sizeof(whole_shared<DK>));
    cudaLaunchConfig_t split =
        config_of(cu, blocks, y, 32 * SPLIT_WARPS, sizeof(split_shared<DK>));
    if (!apart) return SY_CUDA(cu, cudaLaunchKernelEx(&whole, attend_whole<DK>, *job));
    return SY_CUDA(cu, cudaLaunchKernelEx(&split, attend_split<DK>, *job));
}

static sy_status launch_width(sy_cuda *cu, const attend_job *job, bool apart) {
    if (job->d <= 32) return launch<32>(cu, job, apart);
    if (job->d <= 64) return launch<64>(cu, job, apart);
    if (job->d <= 96) return launch<96>(cu, job, apart);
    if (job->d <= 128) return launch<128>(cu, job, apart);
    if (job->d <= 192) return launch<192>(cu, job, apart);
    return launch<256>(cu, job, apart);
}

template <int DK> static sy_status allow_shared(const sy_cuda *cu) {
    sy_status st = SY_OK;
    int whole = (int)sizeof(whole_shared<DK>), split = (int)sizeof(split_shared<DK>);
    SY_TRY(
        SY_CUDA(cu, cudaFuncSetAttribute(attend_whole<DK>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, whole)));
    SY_TRY(
        SY_CUDA(cu, cudaFuncSetAttribute(attend_split<DK>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, split)));
done:
    return st;
}

/* Heads wider than 128 need more shared memory than a kernel gets unasked. */
sy_status sy_cuda_attention_prepare(sy_cuda *cu) {
    sy_status st = SY_OK;
    SY_TRY(allow_shared<192>(cu));
    SY_TRY(allow_shared<256>(cu));
    SY_TRY(sy_cuda_attend_latent_prepare(cu));
done:
    return st;
}

sy_status sy_cuda_attend(sy_backend *be,
                         const sy_layer_spec *spec,
                         const sy_batch *b,
                         const void *q,
                         const sy_kv_layer *kv,
                         const float *sinks,
                         void *o,
                         sy_stream *s) {
    (void)s;
    sy_cuda *cu = sy_cuda_of(be);
    const sy_attn_spec *attn = &spec->attn;
    const sy_cuda_step *step = &cu->step;
    int64_t rows = step->rows_bound, n_splits = attend_splits<false>(cu->limits.max_context);
    bool apart = rows <= sy_cuda_attend_split_rows(&cu->limits);
    uint64_t bytes = sy_cuda_attend_bytes(n_splits, rows, attn->heads, attn->head_dim);
    uint64_t counters = (uint64_t)rows * (uint64_t)attn->kv_heads * sizeof *cu->attend_counter;
    if (rows == 0) return SY_OK;
    for (int i = 0; i < b->n_spans; i++) {
        int64_t end = b->span[i].position + b->span[i].n_rows;
        if (end > cu->limits.max_context)
            return sy_fail(SY_ERR_INTERNAL, "attend: position %lld of a context of %lld",
                           (long long)end - 1, (long long)cu->limits.max_context);
    }
    if (b->n_rows > rows)
        return sy_fail(SY_ERR_INTERNAL, "attend: %d rows in a step of %lld", b->n_rows,
                       (long long)rows);
    if (attn->kind == SY_ATTN_MLA) return sy_cuda_attend_latent(cu, attn, q, kv, sinks, o);
    if (attn->head_dim < 2 || attn->head_dim > ATTN_MAX_HEAD_DIM || attn->head_dim % 2 != 0)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "heads of width %d; this backend takes even widths to %d",
                       attn->head_dim, (int)ATTN_MAX_HEAD_DIM);
    if (apart && (bytes > cu->scratch_bytes || counters > cu->attend_counter_bytes))
        return sy_fail(SY_ERR_INTERNAL,
                       "attend: %lld rows, %d heads (%d of k and v) of %d, but "
                       "memory was reserved for %d (%d) of %d",
                       (long long)rows, attn->heads, attn->kv_heads, attn->head_dim,
                       cu->limits.heads, cu->limits.kv_heads, cu->limits.head_dim);
    attend_job job = {};
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
    job.kv_heads = attn->kv_heads;
    job.group = attn->heads / attn->kv_heads;
    job.d = attn->head_dim;
    job.scale = attn->softmax_scale * 1.44269504088896341f;
    job.window = attn->window > 0 && attn->window < INT_MAX ? (int)attn->window : INT_MAX;
    job.sinks = sinks;
    return launch_width(cu, &job, apart);
}

/* Choosing the next token from a row of logits: the rules of the CPU's table (kernels/cpu/sample.c
 * tells how one search serves all filters), without sorting and without float64.
 *
 * Candidates have one order: falling probability, lowest id first among equals. What a filter
 * keeps is a prefix of that order, so it is known by its last candidate. Probabilities are
 * p = exp((logit - max) / temperature), with the bits that the CPU gives them, and never stored:
 * each walk over the row computes them again, which costs less than reading them.
 *
 * Sums of p are sums of integers, floor(2^40 p), so that their order does not matter and
 * histograms may be made by atomic additions. Each term is below its true value by less than
 * 2^-40 (the largest p is 1), so a sum over V candidates is off by less than V 2^-40: 1.4e-7 for
 * V = 152,000, where the uniform number has steps of 6e-8 of the mass. The token can differ from
 * the CPU's only where the draw, or the edge of top-p, falls that near to a boundary between two
 * candidates. Vocabularies of up to 2^23 fit into 64 bits.
 *
 * Two launches: many blocks look for the largest logit of their piece of a row, then one block per
 * row takes the largest of those and, unless the row is greedy, searches. A search reads the row
 * four times from L2 (three digits of 10 bits, then the ids of the value found), and a row is
 * searched once for each filter in use and once for the draw. */
#include "base/checked.h"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/draw.h"
#include "kernels/cuda/launch.h"

enum { PIECE_THREADS = 256, PIECE = 8192 }; /* logits per block of the first launch */
enum { ROW_WARPS = 32, ROW_THREADS = 32 * ROW_WARPS };
enum { DIGIT_BITS = 10, BINS = 1 << DIGIT_BITS, TOP_SHIFT = 2 * DIGIT_BITS };
static_assert((int)BINS == (int)ROW_THREADS, "a thread per bin");
enum { BATCH_ROWS = 64 }; /* rows of a launch: what the tables of the host are made for */
enum { MAX_VOCAB = 1 << 23 };

/* ---- the largest logit, as a candidate (choose.h); 0 if all are NaN ---- */

/* The largest of a block, given to every thread. */
template <int WARPS> SY_DEVICE unsigned long long block_largest(unsigned long long best) {
    __shared__ unsigned long long of_warp[WARPS];
    int lane = (int)threadIdx.x % 32;
    best = sy_warp_largest(best);
    if (lane == 0) of_warp[threadIdx.x / 32] = best;
    __syncthreads();
    best = sy_warp_largest(lane < WARPS ? of_warp[lane] : 0);
    __syncthreads(); /* the shared memory may be used again */
    return best;
}

static __global__ void __launch_bounds__(PIECE_THREADS, 4)
    find_largest(int64_t vocab,
                 int n_valid,
                 int pieces,
                 const float *logits,
                 unsigned long long *largest) {
    int row = (int)(blockIdx.x / (unsigned)pieces);
    int begin = (int)(blockIdx.x % (unsigned)pieces) * PIECE;
    int end = min(begin + (int)PIECE, n_valid);
    const float *l = logits + row * vocab;
    unsigned long long best = 0;
#pragma unroll 4
    for (int i = begin + (int)threadIdx.x; i < end; i += PIECE_THREADS) {
        unsigned long long c = sy_candidate(sy_ordered(l[i]), (uint32_t)i);
        best = c > best ? c : best;
    }
    best = block_largest<PIECE_THREADS / 32>(best);
    if (threadIdx.x == 0) largest[blockIdx.x] = best;
}

/* ---- the search ---- */

/* A row of logits, and the prefix of the candidates that is kept: those of larger p than
 * last_bits, and those of this p up to last_id. */
struct row_state {
    const float *logits;
    int n;                  /* ids below this */
    float top, temperature; /* top: the largest logit */
    uint32_t last_bits;     /* bits of a p */
    int last_id;
};

struct search_shared {
    unsigned low[BINS], high[BINS]; /* halves of 64-bit sums */
    unsigned long long of_warp[ROW_WARPS];
    unsigned long long total, before; /* of all bins; in front of the bin found */
    unsigned long long mass;          /* of the bin found */
    int bin;
    int id;
};

/* Bits of p of a token, 0 if it is no candidate: below e^-87 of the largest, NaN, or not kept.
 * Bits of positive floats order as the floats do. */
SY_DEVICE uint32_t kept_bits(const row_state &r, int id) {
    float logit = r.logits[id];
    logit = logit > FLT_MAX ? FLT_MAX : logit;
    float x = (logit - r.top) / r.temperature;
    if (!(x >= -87.0f)) return 0;
    uint32_t bits = __float_as_uint(sy_exact_exp(sy_flush(x)));
    bool kept = bits > r.last_bits || (bits == r.last_bits && id <= r.last_id);
    return kept ? bits : 0;
}

/* What a candidate adds to a running sum: its p, or 1. */
SY_DEVICE unsigned long long worth(uint32_t bits, bool by_count) {
    return by_count ? 1 : (unsigned long long)(__uint_as_float(bits) * 1099511627776.0f);
}

/* Adds to a 64-bit number in two halves; every carry is counted once, whatever the order. */
SY_DEVICE void add_to_bin(search_shared *s, uint32_t bin, unsigned long long v) {
    unsigned low = (unsigned)v, before = atomicAdd(&s->low[bin], low);
    unsigned high = (unsigned)(v >> 32) + (before + low < before ? 1u : 0u);
    if (high > 0) atomicAdd(&s->high[bin], high);
}

/* Sums of the kept candidates whose bits above the digit are those of `prefix`, by the digit. */
SY_DEVICE void
fill_bins(const row_state &r, search_shared *s, int shift, uint32_t prefix, bool by_count) {
    s->low[threadIdx.x] = 0;
    s->high[threadIdx.x] = 0;
    __syncthreads();
    for (int id = (int)threadIdx.x; id < r.n; id += ROW_THREADS) {
        uint32_t bits = kept_bits(r, id);
        if (bits > 0 && bits >> (shift + DIGIT_BITS) == prefix)
            add_to_bin(s, bits >> shift & (BINS - 1), worth(bits, by_count));
    }
    __syncthreads();
}

/* Finds the bin at which the sum over the bins from the top reaches `need`, if any does; its
 * mass, what lies above it, and the sum of all. Thread t has bin BINS - 1 - t. */
SY_DEVICE void find_bin(search_shared *s, unsigned long long need) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int bin = BINS - 1 - (int)threadIdx.x;
    unsigned long long own = (unsigned long long)s->high[bin] << 32 | s->low[bin], sum = own;
    for (unsigned distance = 1; distance < 32; distance *= 2) {
        unsigned long long other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= (int)distance) sum += other;
    }
    if (lane == 31) s->of_warp[warp] = sum;
    __syncthreads();
    for (int w = 0; w < warp; w++)
        sum += s->of_warp[w];
    if (sum >= need && sum - own < need) {
        s->bin = bin;
        s->mass = own;
        s->before = sum - own;
    }
    if (threadIdx.x == ROW_THREADS - 1) s->total = sum;
    __syncthreads();
}

/* The id of the rank-th (from 1) kept candidate whose p has these bits. Each warp has a
 * contiguous run of ids, so that ids are counted in order. */
SY_DEVICE int find_equal(const row_state &r, search_shared *s, uint32_t bits, long long rank) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int run = (r.n + ROW_WARPS - 1) / ROW_WARPS, begin = warp * run,
        end = min(begin + run, r.n);
    int n = 0;
    for (int first = begin; first < end; first += 32) {
        int id = first + lane;
        bool equal = id < end && kept_bits(r, id) == bits;
        n += __popc(__ballot_sync(0xffffffffu, equal));
    }
    if (lane == 0) s->of_warp[warp] = (unsigned long long)n;
    __syncthreads();
    long long before = 0;
    for (int w = 0; w < warp; w++)
        before += (long long)s->of_warp[w];
    if (rank > before && rank <= before + n) { /* one warp */
        for (int first = begin; first < end; first += 32) {
            int id = first + lane;
            bool equal = id < end && kept_bits(r, id) == bits;
            unsigned who = __ballot_sync(0xffffffffu, equal);
            long long at = before + __popc(who & ((2u << lane) - 1u));
            if (equal && at == rank) s->id = id;
            before += __popc(who);
        }
    }
    __syncthreads();
    return s->id;
}

/* What a search looks for: the candidate at which the running sum reaches `need`. */
enum search_kind { BY_COUNT, BY_SHARE, BY_DRAW };

/* need > 0 from the sum of all, exactly: by share the first integer >= share * total, by draw the
 * first > uniform * total. */
SY_DEVICE unsigned long long
need_of(search_kind kind, unsigned long long parameter, unsigned long long total) {
    if (kind == BY_COUNT) return parameter;
    int bits = kind == BY_SHARE ? 32 : 24;
    unsigned long long mask = (1ull << bits) - 1;
    unsigned long long low = parameter * (total & mask), high = parameter * (total >> bits);
    if (kind == BY_DRAW) return high + (low >> bits) + 1;
    unsigned long long need = high + (low >> bits) + ((low & mask) > 0 ? 1 : 0);
    return need > 0 ? need : 1;
}

/* Moves the end of the prefix to the candidate that is found; leaves it if the sum of all does
 * not reach what is needed. */
SY_DEVICE void
search(row_state *r, search_shared *s, search_kind kind, unsigned long long parameter) {
    bool by_count = kind == BY_COUNT;
    unsigned long long need = 0, worth_of_one;
    uint32_t prefix = 0;
    for (int shift = TOP_SHIFT; shift >= 0; shift -= DIGIT_BITS) {
        fill_bins(*r, s, shift, prefix, by_count);
        if (shift == TOP_SHIFT) {
            find_bin(s, ~0ull); /* for the sum of all; no bin reaches this */
            need = need_of(kind, parameter, s->total);
            if (need > s->total) return;
        }
        find_bin(s, need);
        need -= s->before;
        prefix = prefix << DIGIT_BITS | (uint32_t)s->bin;
        __syncthreads(); /* all have read what was found */
    }
    worth_of_one = worth(prefix, by_count);
    int id = find_equal(*r, s, prefix, (long long)((need + worth_of_one - 1) / worth_of_one));
    r->last_bits = prefix;
    r->last_id = id;
    __syncthreads();
}

static __global__ void __launch_bounds__(ROW_THREADS, 1)
    choose_tokens(int64_t vocab,
                  int n_valid,
                  int pieces,
                  const float *logits,
                  const unsigned long long *largest,
                  const sy_draw *draw,
                  int32_t *token) {
    __shared__ search_shared shared;
    int row = (int)blockIdx.x;
    sy_draw d = draw[row];
    unsigned long long best = 0;
    for (int i = (int)threadIdx.x; i < pieces; i += ROW_THREADS) {
        unsigned long long c = largest[(int64_t)row * pieces + i];
        best = c > best ? c : best;
    }
    best = block_largest<ROW_WARPS>(best);
    uint32_t key = (uint32_t)(best >> 32);
    int id = key == 0 ? -1 : (int)sy_candidate_index(best);
    if (key > sy_ordered(__uint_as_float(0xff800000u)) && d.temperature > 0.0f) {
        row_state r = {logits + row * vocab, n_valid, 0.0f, d.temperature, 0, -1};
        float top = r.logits[id];
        r.top = top > FLT_MAX ? FLT_MAX : top;
        if (d.top_k > 0) search(&r, &shared, BY_COUNT, (unsigned long long)d.top_k);
        if (d.top_p < SY_DRAW_ALL_MASS) search(&r, &shared, BY_SHARE, d.top_p);
        uint32_t least = __float_as_uint(d.min_p);
        if (least > r.last_bits) {
            r.last_bits = least;
            r.last_id = n_valid;
        }
        search(&r, &shared, BY_DRAW, d.uniform);
        id = r.last_id;
    }
    if (threadIdx.x == 0) token[row] = id;
}

/* ---- the host's side ---- */

static int64_t pieces_of(int64_t vocab) {
    return sy_max(sy_ceil_div(vocab, PIECE), 1);
}

/* A batch's tokens, then the largest logits of the pieces. */
enum { TOKEN_BYTES = BATCH_ROWS * sizeof(int32_t) };

static uint64_t scratch_of(int64_t vocab) {
    return TOKEN_BYTES + BATCH_ROWS * sizeof(uint64_t) * (uint64_t)pieces_of(vocab);
}

extern "C" void sy_cuda_sample_scratch(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes) {
    (void)cu;
    *bytes = scratch_of(sy_max(l->vocab, 0));
}

static sy_status sample_batch(sy_cuda *cu,
                              int n,
                              int64_t vocab,
                              int n_valid,
                              const float *logits,
                              const sy_sample_params *params,
                              int32_t *token) {
    sy_status st = SY_OK;
    sy_draw draw[BATCH_ROWS];
    const sy_draw *device_draw;
    int32_t *device_token = (int32_t *)(void *)cu->scratch;
    unsigned long long *largest = (unsigned long long *)(void *)(cu->scratch + TOKEN_BYTES);
    int pieces = (int)pieces_of(n_valid);
    cudaLaunchConfig_t config;
    for (int i = 0; i < n; i++)
        draw[i] = sy_draw_of(&params[i]);
    SY_TRY(sy_cuda_upload(cu, draw, (uint64_t)n * sizeof *draw, &device_draw));
    config = sy_launch(cu, (int64_t)n * pieces, PIECE_THREADS, 0);
    SY_TRY(SY_CUDA(cu, cudaLaunchKernelEx(&config, find_largest, vocab, n_valid, pieces, logits,
                                          largest)));
    config = sy_launch(cu, n, ROW_THREADS, 0);
    SY_TRY(SY_CUDA(cu, cudaLaunchKernelEx(&config, choose_tokens, vocab, n_valid, pieces,
                                          logits, (const unsigned long long *)largest,
                                          device_draw, device_token)));
    SY_TRY(SY_CUDA(cu, cudaMemcpyAsync(token, device_token, (size_t)n * sizeof *token,
                                       cudaMemcpyDeviceToHost, cu->stream)));
done:
    return st;
}

extern "C" sy_status sy_cuda_sample(sy_backend *be,
                                    int64_t n,
                                    int64_t vocab,
                                    int64_t n_valid,
                                    const float *logits,
                                    const sy_sample_params *params,
                                    int32_t *token,
                                    sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    n_valid = sy_min(n_valid, vocab);
    if (n_valid < 1)
        SY_FAIL(SY_ERR_INTERNAL, "sample: no token may be chosen (of %lld logits)",
                (long long)vocab);
    if (vocab > cu->limits.vocab || vocab > MAX_VOCAB || scratch_of(vocab) > cu->scratch_bytes)
        SY_FAIL(SY_ERR_INTERNAL, "sample: %lld logits, but scratch was reserved for %d",
                (long long)vocab, cu->limits.vocab);
    if (n <= 0) return SY_OK;
    for (int64_t i = 0; i < n; i += BATCH_ROWS)
        SY_TRY(sample_batch(cu, (int)sy_min(n - i, BATCH_ROWS), vocab, (int)n_valid,
                            logits + i * vocab, params + i, token + i));
    st = SY_CUDA(cu, cudaStreamSynchronize(cu->stream));
done:
    return st;
}

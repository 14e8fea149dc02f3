/* Attention in front of its core: norm and the q, k, v products (matrix.cu), then one kernel
 * for q/k norm, clip, rotary, the rounding to bf16 and the append to the pages. The core is
 * attention_core.cu.
 *
 * A page of a layer: K [kv_heads][64 tokens][D] bf16, then V the same. */
#include "kernels/cuda/attention.h"

enum {
    FINISH_WARPS = 8, /* heads of a block, one each */
    FINISH_THREADS = 32 * FINISH_WARPS,
    PAIRS_PER_LANE = ATTN_MAX_HEAD_DIM / 2 / 32
};

uint64_t sy_cuda_kv_page_bytes(const sy_backend *be, const sy_attn_spec *attn) {
    (void)be;
    uint64_t bytes;
    if (!sy_mul_u64((uint64_t)attn->kv_heads, (uint64_t)attn->head_dim, &bytes) ||
        !sy_mul_u64(bytes, 2 * SY_PAGE_TOKENS * sizeof(uint16_t), &bytes) ||
        bytes > UINT64_MAX - 255)
        return UINT64_MAX;
    return (bytes + 255) / 256 * 256;
}

typedef struct finish_job {
    const float *qkv; /* [rows, width]: q A*D, k kv*D, v kv*D of each row */
    int64_t width;
    const float *q_norm, *k_norm, *cos, *sin;
    const int32_t *position, *span_of_row, *page_first, *page; /* of the step record */
    uint16_t *q;                                               /* [rows, A*D] */
    char *pages;
    int64_t page_bytes;
    int heads, kv_heads, d, half; /* half = rotary_dim / 2 */
    sy_qk_norm norm;
    float eps, clip;
} finish_job;

/* 1 / sqrt(mean(x^2) + eps) of x [n] by the whole block: each thread adds up its own strided
 * share, lanes meet in a butterfly, warps are added ascending. */
SY_DEVICE float block_inverse_rms(const float *x, int n, float eps) {
    __shared__ float of_warp[FINISH_WARPS];
    float sum = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x; i < n; i += FINISH_THREADS)
        sum = fmaf(x[i], x[i], sum);
    sum = sy_warp_sum(sum);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < FINISH_WARPS; i++)
        sum += of_warp[i];
    return 1.0f / sqrtf(sum / (float)n + eps);
}

/* Values outside +-limit become +-limit; a NaN stays a NaN. */
SY_DEVICE float clamp(float v, float limit) {
    v = v < -limit ? -limit : v;
    return v > limit ? limit : v;
}

/* A lane holds pairs of elements of its head: pair j < half is (j, j + half), which rotary
 * turns; behind the rotary part pairs are neighbours. */
SY_DEVICE int first_of_pair(int j, int half) {
    return j < half ? j : 2 * j;
}

SY_DEVICE int second_of_pair(int j, int half) {
    return j < half ? j + half : 2 * j + 1;
}

/* x [D] is one head; out [D] its final values. weight: NULL, or the norm's [D] of this head,
 * in which case `inverse` is 1 / rms of the whole row, or negative if each head has its own.
 */
SY_DEVICE void finish_head(const finish_job &job,
                           const float *x,
                           const float *weight,
                           float inverse,
                           int half,
                           int position,
                           uint16_t *out) {
    int lane = threadIdx.x % 32;
    float a[PAIRS_PER_LANE], b[PAIRS_PER_LANE], sum = 0.0f;
#pragma unroll
    for (int u = 0; u < PAIRS_PER_LANE; u++) {
        int j = lane + 32 * u;
        bool real = 2 * j < job.d;
        a[u] = real ? x[first_of_pair(j, half)] : 0.0f;
        b[u] = real ? x[second_of_pair(j, half)] : 0.0f;
        sum = fmaf(b[u], b[u], fmaf(a[u], a[u], sum));
    }
    if (weight != NULL && inverse < 0.0f)
        inverse = 1.0f / sqrtf(sy_warp_sum(sum) / (float)job.d + job.eps);
#pragma unroll
    for (int u = 0; u < PAIRS_PER_LANE; u++) {
        int j = lane + 32 * u;
        if (2 * j >= job.d) continue;
        int first = first_of_pair(j, half), second = second_of_pair(j, half);
        if (weight != NULL) {
            a[u] = a[u] * inverse * weight[first];
            b[u] = b[u] * inverse * weight[second];
        }
        if (job.clip > 0.0f) {
            a[u] = clamp(a[u], job.clip);
            b[u] = clamp(b[u], job.clip);
        }
        if (j < half) {
            float c = job.cos[(int64_t)position * half + j];
            float s = job.sin[(int64_t)position * half + j];
            float low = a[u] * c - b[u] * s;
            b[u] = b[u] * c + a[u] * s;
            a[u] = low;
        }
        out[first] = sy_float_bf16(a[u]);
        out[second] = sy_float_bf16(b[u]);
    }
}

/* Where k (part 0) or v (part 1) of a kv head of a row lies in the pages. */
SY_DEVICE uint16_t *
kv_slot(const finish_job &job, int64_t row, int position, int part, int head) {
    int64_t first = job.page_first[job.span_of_row[row]];
    int64_t page = job.page[first + position / SY_PAGE_TOKENS];
    int64_t at = (int64_t)(part * job.kv_heads + head) * SY_PAGE_TOKENS;
    at = (at + position % SY_PAGE_TOKENS) * job.d;
    return (uint16_t *)(void *)(job.pages + page * job.page_bytes) + at;
}

/* Grid: x the row, y eight heads of one part (q, k or v), one warp per head. A row behind the
 * batch's has position -1: its q is 0, and it goes into no page. */
static __global__ void __launch_bounds__(FINISH_THREADS, 4) finish_qkv(const finish_job job) {
    int64_t row = blockIdx.x;
    int q_blocks = (job.heads + FINISH_WARPS - 1) / FINISH_WARPS;
    int kv_blocks = (job.kv_heads + FINISH_WARPS - 1) / FINISH_WARPS;
    int block = blockIdx.y, part = 0, n_heads = job.heads;
    int64_t column = 0;
    if (block >= q_blocks) {
        block -= q_blocks;
        part = 1 + block / kv_blocks;
        block %= kv_blocks;
        n_heads = job.kv_heads;
        column = (job.heads + (int64_t)(part - 1) * job.kv_heads) * job.d;
    }
    int position = job.position[row];
    const float *x = job.qkv + row * job.width + column;
    const float *weight = part == 0 ? job.q_norm : part == 1 ? job.k_norm : NULL;
    float inverse = -1.0f;
    if (weight != NULL && job.norm == SY_QK_NORM_WHOLE && position >= 0)
        inverse = block_inverse_rms(x, n_heads * job.d, job.eps);
    int head = block * FINISH_WARPS + threadIdx.x / 32;
    if (head >= n_heads) return;
    if (weight != NULL && job.norm == SY_QK_NORM_WHOLE) weight += (int64_t)head * job.d;
    uint16_t *q = job.q + (row * job.heads + head) * job.d; /* if part is 0 */
    if (position < 0) {
        for (int i = threadIdx.x % 32; i < job.d && part == 0; i += 32)
            q[i] = 0;
        return;
    }
    uint16_t *out = part == 0 ? q : kv_slot(job, row, position, part - 1, head);
    finish_head(job, x + (int64_t)head * job.d, weight, inverse, part < 2 ? job.half : 0,
                position, out);
}

static sy_status check_attn_in(const sy_cuda *cu,
                               const sy_attn_spec *attn,
                               const sy_rope_table *rope,
                               const sy_batch *b) {
    if (attn->head_dim < 2 || attn->head_dim > ATTN_MAX_HEAD_DIM || attn->head_dim % 2 != 0)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "heads of width %d; this backend takes even widths to %d",
                       attn->head_dim, (int)ATTN_MAX_HEAD_DIM);
    if (attn->rope.dim > attn->head_dim || attn->rope.dim % 2 != 0)
        return sy_fail(SY_ERR_INTERNAL, "attn_in: rotary_dim %d of %d", attn->rope.dim,
                       attn->head_dim);
    for (int i = 0; i < b->n_spans && attn->rope.dim > 0; i++) {
        int64_t end = b->span[i].position + b->span[i].n_rows;
        if (end > rope->n_positions)
            return sy_fail(SY_ERR_INTERNAL,
                           "attn_in: position %lld, but the rotary table ends at %lld",
                           (long long)end - 1, (long long)rope->n_positions);
    }
    uint64_t floats = (uint64_t)cu->step.rows_bound *
                      (uint64_t)(attn->heads + 2 * (int64_t)attn->kv_heads) *
                      (uint64_t)attn->head_dim;
    if (b->n_rows > cu->step.rows_bound || floats > cu->scratch_bytes / sizeof(float))
        return sy_fail(SY_ERR_INTERNAL,
                       "attn_in: %d rows in a step of %d, scratch reserved for %lld", b->n_rows,
                       cu->step.rows_bound, (long long)cu->limits.max_rows);
    return SY_OK;
}

static sy_status launch_finish(sy_cuda *cu, const finish_job *job) {
    int q_blocks = (job->heads + FINISH_WARPS - 1) / FINISH_WARPS;
    int kv_blocks = (job->kv_heads + FINISH_WARPS - 1) / FINISH_WARPS;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)cu->step.rows_bound, (unsigned)(q_blocks + 2 * kv_blocks));
    config.blockDim = dim3(FINISH_THREADS);
    config.stream = cu->stream;
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, finish_qkv, *job));
}

sy_status sy_cuda_attn_in(sy_backend *be,
                          const sy_layer_spec *spec,
                          const sy_layer_weights *w,
                          const sy_rope_table *rope,
                          const sy_batch *b,
                          const float *x,
                          void *q,
                          const sy_kv_layer *kv,
                          sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    const sy_attn_spec *attn = &spec->attn;
    finish_job job = {};
    if (cu->step.rows_bound == 0) return SY_OK;
    SY_TRY(check_attn_in(cu, attn, rope, b));
    job.width = (attn->heads + 2 * (int64_t)attn->kv_heads) * attn->head_dim;
    {
        float *qkv = (float *)(void *)cu->scratch;
        const sy_matrix *const matrix[3] = {&w->q, &w->k, &w->v};
        float *const out[3] = {qkv, qkv + w->q.n, qkv + w->q.n + w->k.n};
        const int64_t ld[3] = {job.width, job.width, job.width};
        SY_TRY(sy_cuda_norm_product(cu, w->attn_norm, spec->norm_eps, 3, matrix,
                                    cu->step.rows_bound, x, NULL, out, ld, 0));
        job.qkv = qkv;
    }
    job.q_norm = attn->qk_norm == SY_QK_NORM_NONE ? NULL : w->q_norm;
    job.k_norm = attn->qk_norm == SY_QK_NORM_NONE ? NULL : w->k_norm;
    job.cos = attn->rope.dim > 0 ? rope->cos : NULL;
    job.sin = attn->rope.dim > 0 ? rope->sin : NULL;
    job.position = cu->step.position;
    job.span_of_row = cu->step.span_of_row;
    job.page_first = cu->step.page_first;
    job.page = cu->step.page;
    job.q = (uint16_t *)q;
    job.pages = (char *)kv->data;
    job.page_bytes = kv->page_bytes;
    job.heads = attn->heads;
    job.kv_heads = attn->kv_heads;
    job.d = attn->head_dim;
    job.half = attn->rope.dim / 2;
    job.norm = attn->qk_norm;
    job.eps = spec->norm_eps;
    job.clip = attn->qk_clip;
    SY_TRY(launch_finish(cu, &job));
done:
    return st;
}

/* q, k and v before they are rounded, and later in the layer the partial states of attend,
 * take the same place. */
void sy_cuda_attention_scratch(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes) {
    (void)cu;
    uint64_t width = ((uint64_t)l->heads + 2 * (uint64_t)l->kv_heads) * (uint64_t)l->head_dim;
    if (!sy_mul_u64(width * sizeof(float), (uint64_t)l->max_rows, bytes)) *bytes = UINT64_MAX;
    uint64_t states = sy_cuda_attend_bytes(attend_splits(l->max_context),
                                           sy_cuda_attend_split_rows(l), l->heads, l->head_dim);
    if (states > *bytes) *bytes = states;
}

/* One for each piece that a split step can have: its first row, and a kv head. */
uint64_t sy_cuda_attention_counters(const sy_limits *l) {
    return (uint64_t)sy_cuda_attend_split_rows(l) * (uint64_t)l->kv_heads * sizeof(int32_t);
}

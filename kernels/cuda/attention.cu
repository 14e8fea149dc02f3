/* Attention in front of its core: norm and the q, k, v products (matrix.cu), then one kernel
 * for biases, q/k norm, clip, rotary, the query's temperature, the rounding to bf16 and the append
 * to the pages. The core is attention_core.cu.
 *
 * A page of a layer: K [kv_heads][64 tokens][D] bf16, then V the same. Latent attention:
 * [64 tokens][c + rope], zeros up to whole pieces of 16 bytes (attention_mla.cu). */
#include "kernels/cuda/attention_rows.h"

enum { PAIRS_PER_LANE = ATTN_MAX_HEAD_DIM / 2 / 32 };

uint64_t sy_cuda_kv_page_bytes(const sy_backend *be, const sy_attn_spec *attn) {
    (void)be;
    uint64_t bytes;
    if (attn->kind == SY_ATTN_MLA) {
        bytes = (uint64_t)latent_stride(&attn->mla) * SY_PAGE_TOKENS * sizeof(uint16_t);
        return (bytes + 255) / 256 * 256;
    }
    if (!sy_mul_u64((uint64_t)attn->kv_heads, (uint64_t)attn->head_dim, &bytes) ||
        !sy_mul_u64(bytes, 2 * SY_PAGE_TOKENS * sizeof(uint16_t), &bytes) ||
        bytes > UINT64_MAX - 255)
        return UINT64_MAX;
    return (bytes + 255) / 256 * 256;
}

typedef struct finish_job {
    const float *qkv;  /* [rows, width]: q A*D, k kv*D, v kv*D of each row of the pass */
    int64_t first_row; /* of the pass within the step */
    int64_t width;
    const float *q_bias, *k_bias, *v_bias; /* NULL: none */
    const float *q_norm, *k_norm, *cos, *sin;
    token_places place;
    uint16_t *q;                  /* [rows, A*D] */
    int heads, kv_heads, d, half; /* half = rotary_dim / 2 */
    bool interleaved;
    sy_qk_norm norm;
    float eps, clip;
    temperature warmth;
} finish_job;

/* Values outside +-limit become +-limit; a NaN stays a NaN. */
SY_DEVICE float clamp(float v, float limit) {
    v = v < -limit ? -limit : v;
    return v > limit ? limit : v;
}

/* A lane holds pairs of elements of its head: pair j < apart is (j, j + apart), which rotary
 * turns where its pairs are halves; all other pairs are neighbours. */
SY_DEVICE int first_of_pair(int j, int apart) {
    return j < apart ? j : 2 * j;
}

SY_DEVICE int second_of_pair(int j, int apart) {
    return j < apart ? j + apart : 2 * j + 1;
}

/* x [D] is one head; out [D] its final values. bias: NULL or [D]. weight: NULL, or the norm's [D]
 * of this head, in which case `inverse` is 1 / rms of the whole row, or negative if each head has
 * its own. half: pairs that rotary turns. */
SY_DEVICE void finish_head(const finish_job &job,
                           const float *x,
                           const float *bias,
                           const float *weight,
                           float inverse,
                           int half,
                           float scale,
                           int position,
                           uint16_t *out) {
    int lane = threadIdx.x % 32, apart = job.interleaved ? 0 : half;
    float a[PAIRS_PER_LANE], b[PAIRS_PER_LANE], sum = 0.0f;
#pragma unroll
    for (int u = 0; u < PAIRS_PER_LANE; u++) {
        int j = lane + 32 * u;
        bool real = 2 * j < job.d;
        int first = first_of_pair(j, apart), second = second_of_pair(j, apart);
        a[u] = real ? x[first] : 0.0f;
        b[u] = real ? x[second] : 0.0f;
        if (real && bias != NULL) {
            a[u] += bias[first];
            b[u] += bias[second];
        }
        sum = fmaf(b[u], b[u], fmaf(a[u], a[u], sum));
    }
    if (weight != NULL && inverse < 0.0f)
        inverse = 1.0f / sqrtf(sy_warp_sum(sum) / (float)job.d + job.eps);
#pragma unroll
    for (int u = 0; u < PAIRS_PER_LANE; u++) {
        int j = lane + 32 * u;
        if (2 * j >= job.d) continue;
        int first = first_of_pair(j, apart), second = second_of_pair(j, apart);
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
            turn(&a[u], &b[u], c, s);
        }
        out[first] = sy_float_bf16(a[u] * scale);
        out[second] = sy_float_bf16(b[u] * scale);
    }
}

/* Where k (part 0) or v (part 1) of a kv head of a row lies in the pages. */
SY_DEVICE uint16_t *
kv_slot(const finish_job &job, int64_t row, int position, int part, int head) {
    int64_t at = (int64_t)(part * job.kv_heads + head) * SY_PAGE_TOKENS;
    at = (at + position % SY_PAGE_TOKENS) * job.d;
    return (uint16_t *)(void *)page_of_row(job.place, row, position) + at;
}

/* Grid: x the row of the pass, y eight heads of one part (q, k or v), one warp per head. A row behind the
 * batch's has position -1: its q is 0, and it goes into no page. */
static __global__ void __launch_bounds__(FINISH_THREADS, 4)
    finish_qkv(const __grid_constant__ finish_job job) {
    int64_t row = job.first_row + blockIdx.x;
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
    int position = job.place.position[row];
    const float *x = job.qkv + blockIdx.x * job.width + column;
    const float *weight = part == 0 ? job.q_norm : part == 1 ? job.k_norm : NULL;
    const float *bias = part == 0 ? job.q_bias : part == 1 ? job.k_bias : job.v_bias;
    float inverse = -1.0f;
    if (weight != NULL && job.norm == SY_QK_NORM_WHOLE && position >= 0)
        inverse = block_inverse_rms(x, bias, n_heads * job.d, job.eps);
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
    if (bias != NULL) bias += (int64_t)head * job.d;
    finish_head(job, x + (int64_t)head * job.d, bias, weight, inverse, part < 2 ? job.half : 0,
                part == 0 ? query_scale(job.warmth, position) : 1.0f, position, out);
}

/* Of either form. */
static sy_status check_attn_in(const sy_cuda *cu,
                               const sy_attn_spec *attn,
                               const sy_rope_table *rope,
                               const sy_batch *b) {
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
    if (b->n_rows > cu->step.rows_bound)
        return sy_fail(SY_ERR_INTERNAL, "attn_in: %d rows in a step of %d", b->n_rows,
                       cu->step.rows_bound);
    return SY_OK;
}

/* Rows of a pass: all at once, but few where the layers with latents are what needs the memory. */
static int64_t grouped_rows(const sy_limits *l) {
    enum { FEW_ROWS = 64 };
    return l->mla.kv_rank > 0 ? sy_min(l->max_rows, FEW_ROWS) : l->max_rows;
}

static sy_status check_grouped_in(const sy_cuda *cu, const sy_attn_spec *attn) {
    if (attn->head_dim < 2 || attn->head_dim > ATTN_MAX_HEAD_DIM || attn->head_dim % 2 != 0)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "heads of width %d; this backend takes even widths to %d",
                       attn->head_dim, (int)ATTN_MAX_HEAD_DIM);
    uint64_t floats = (uint64_t)sy_min(cu->step.rows_bound, grouped_rows(&cu->limits)) *
                      (uint64_t)(attn->heads + 2 * (int64_t)attn->kv_heads) *
                      (uint64_t)attn->head_dim;
    if (floats > cu->scratch_bytes / sizeof(float))
        return sy_fail(SY_ERR_INTERNAL, "attn_in: a step of %d, scratch reserved for %lld",
                       cu->step.rows_bound, (long long)cu->limits.max_rows);
    return SY_OK;
}

static sy_status launch_finish(sy_cuda *cu, const finish_job *job, int64_t n_rows) {
    int q_blocks = (job->heads + FINISH_WARPS - 1) / FINISH_WARPS;
    int kv_blocks = (job->kv_heads + FINISH_WARPS - 1) / FINISH_WARPS;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)n_rows, (unsigned)(q_blocks + 2 * kv_blocks));
    config.blockDim = dim3(FINISH_THREADS);
    config.stream = cu->stream;
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, finish_qkv, *job));
}

static finish_job finish_of(const sy_cuda *cu,
                            const sy_layer_spec *spec,
                            const sy_layer_weights *w,
                            const sy_rope_table *rope,
                            void *q,
                            const sy_kv_layer *kv) {
    const sy_attn_spec *attn = &spec->attn;
    finish_job job = {};
    job.width = (attn->heads + 2 * (int64_t)attn->kv_heads) * attn->head_dim;
    job.q_bias = attn->qkv_bias ? w->q_bias : NULL;
    job.k_bias = attn->qkv_bias ? w->k_bias : NULL;
    job.v_bias = attn->qkv_bias ? w->v_bias : NULL;
    job.q_norm = attn->qk_norm == SY_QK_NORM_NONE ? NULL : w->q_norm;
    job.k_norm = attn->qk_norm == SY_QK_NORM_NONE ? NULL : w->k_norm;
    job.cos = attn->rope.dim > 0 ? rope->cos : NULL;
    job.sin = attn->rope.dim > 0 ? rope->sin : NULL;
    job.place = token_places_of(cu, kv);
    job.q = (uint16_t *)q;
    job.heads = attn->heads;
    job.kv_heads = attn->kv_heads;
    job.d = attn->head_dim;
    job.half = attn->rope.dim / 2;
    job.interleaved = attn->rope.layout == SY_ROPE_INTERLEAVED;
    job.warmth = temperature_of(attn);
    job.norm = attn->qk_norm;
    job.eps = spec->norm_eps;
    job.clip = attn->qk_clip;
    return job;
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
    float *qkv = (float *)(void *)cu->scratch;
    const sy_matrix *const matrix[3] = {&w->q, &w->k, &w->v};
    float *const out[3] = {qkv, qkv + w->q.n, qkv + w->q.n + w->k.n};
    int64_t rows = cu->step.rows_bound, pass = sy_max(grouped_rows(&cu->limits), 1);
    finish_job job = {};
    if (cu->step.rows_bound == 0) return SY_OK;
    SY_TRY(check_attn_in(cu, attn, rope, b));
    if (attn->kind == SY_ATTN_MLA) return sy_cuda_latent_in(cu, spec, w, rope, x, q, kv);
    SY_TRY(check_grouped_in(cu, attn));
    job = finish_of(cu, spec, w, rope, q, kv);
    for (int64_t row = 0; row < rows; row += pass) {
        const int64_t ld[3] = {job.width, job.width, job.width}, n = sy_min(rows - row, pass);
        SY_TRY(sy_cuda_norm_product(cu, w->attn_norm, spec->norm_eps, 3, matrix, n,
                                    x + row * w->q.k, NULL, out, ld, 0));
        job.qkv = qkv;
        job.first_row = row;
        SY_TRY(launch_finish(cu, &job, n));
    }
done:
    return st;
}

/* q, k and v before they are rounded, and later in the layer the partial states of attend,
 * take the same place. */
void sy_cuda_attention_scratch(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes) {
    (void)cu;
    uint64_t width = ((uint64_t)l->heads + 2 * (uint64_t)l->kv_heads) * (uint64_t)l->head_dim;
    if (!sy_mul_u64(width * sizeof(float), (uint64_t)grouped_rows(l), bytes))
        *bytes = UINT64_MAX;
    uint64_t states = sy_cuda_attend_bytes(attend_splits<false>(l->max_context),
                                           sy_cuda_attend_split_rows(l), l->heads, l->head_dim);
    if (states > *bytes) *bytes = states;
    if (l->mla.kv_rank == 0) return;
    uint64_t latent = sy_cuda_latent_scratch(l),
             latent_states = sy_cuda_attend_latent_scratch(l);
    if (latent > *bytes) *bytes = latent;
    if (latent_states > *bytes) *bytes = latent_states;
}

/* One for each piece that a split step can have: its first row, and a kv head or, in latent
 * attention, a tile of heads. */
uint64_t sy_cuda_attention_counters(const sy_limits *l) {
    uint64_t bytes =
        (uint64_t)sy_cuda_attend_split_rows(l) * (uint64_t)l->kv_heads * sizeof(int32_t);
    uint64_t latent = sy_cuda_attend_latent_counters(l);
    return latent > bytes ? latent : bytes;
}

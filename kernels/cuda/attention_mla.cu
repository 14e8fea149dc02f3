/* Latent attention (MLA) in its absorbed form, before and behind its core (attention_latent.cu).
 *
 * Before: norm and the products of the compressed query and of the latent (matrix.cu); the query's
 * norm and its second product; one kernel that norms the latent, turns what is rotary and appends
 * the token to its page; last each head's nope part times its k_up, which makes it a query of
 * latents. Behind: each head's latent times its v_up, then the output projection. Rows are taken
 * some hundred at a time, so that the heads' vectors need little memory.
 *
 * A page of a layer: [64 tokens][c + rope] bf16, each token zeros up to whole 16 bytes. */
#include "kernels/cuda/attention_rows.h"
#include "kernels/cuda/matrix.h"

enum { LATENT_ROWS = 512 }; /* of a pass */

typedef struct latent_finish {
    const float *q;    /* [rows, A, nope + rope] */
    const float *kv_a; /* [rows, c + rope] */
    const float *norm, *cos, *sin;
    token_places place;
    int64_t first_row; /* of the pass within the step */
    uint16_t *nope;    /* [rows, A, nope] */
    uint16_t *q_out;   /* [rows, A, c + rope]: the rotary part of each */
    sy_mla_spec mla;
    int heads, stride, half; /* half = rotary_dim / 2 */
    bool interleaved;
    temperature warmth;
} latent_finish;

/* The pass's pointers moved to one row of the block. */
typedef struct turned {
    const float *cos, *sin; /* of the row's position */
    int half, begin;        /* rotary values begin here, of `rope` */
    bool interleaved;
    float scale;
} turned;

/* Values of x [rope] with the last 2 half of them turned, times the scale. Value i and its
 * partner belong to one lane each; every lane reads both. */
SY_DEVICE float turned_value(const turned &t, const float *x, int i) {
    int at = i - t.begin;
    if (at < 0) return x[i] * t.scale;
    int pair = t.interleaved ? at / 2 : at % t.half;
    bool second = t.interleaved ? at % 2 != 0 : at >= t.half;
    const float *low = x + t.begin + (t.interleaved ? 2 * pair : pair);
    float a = low[0], b = low[t.interleaved ? 1 : t.half];
    turn(&a, &b, t.cos[pair], t.sin[pair]);
    return (second ? b : a) * t.scale;
}

/* The latent of a row: norm, rotary key, zeros behind, into its page. */
SY_DEVICE void
finish_latent(const latent_finish &job, int64_t row, int position, const turned &t) {
    int c = job.mla.kv_rank, key = c + job.mla.rope;
    const float *x = job.kv_a + row * key;
    float inverse = block_inverse_rms(x, NULL, c, job.mla.norm_eps);
    char *page = page_of_row(job.place, job.first_row + row, position);
    uint16_t *out = (uint16_t *)(void *)page + position % SY_PAGE_TOKENS * job.stride;
    for (int i = (int)threadIdx.x; i < job.stride; i += FINISH_THREADS) {
        float v = 0.0f;
        if (i < c) v = x[i] * inverse * job.norm[i];
        if (i >= c && i < key) v = turned_value(t, x + c, i - c);
        out[i] = sy_float_bf16(v);
    }
}

/* Grid: x the row of the pass, y = 0 its latent, then eight heads each, a warp per head. A row
 * behind the batch's has position -1: its q is 0, and it goes into no page. */
static __global__ void __launch_bounds__(FINISH_THREADS, 4)
    finish_latent_rows(const __grid_constant__ latent_finish job) {
    int64_t row = blockIdx.x;
    int position = job.place.position[job.first_row + row], lane = (int)threadIdx.x % 32;
    int nope = job.mla.nope, rope = job.mla.rope, c = job.mla.kv_rank;
    turned t = {job.cos + (int64_t)position * job.half,
                job.sin + (int64_t)position * job.half,
                job.half,
                rope - 2 * job.half,
                job.interleaved,
                1.0f};
    if (blockIdx.y == 0) {
        if (position >= 0) finish_latent(job, row, position, t);
        return;
    }
    int head = ((int)blockIdx.y - 1) * FINISH_WARPS + (int)threadIdx.x / 32;
    if (head >= job.heads) return;
    int64_t number = row * job.heads + head;
    const float *x = job.q + number * (nope + rope);
    uint16_t *to = job.nope + number * nope, *to_rope = job.q_out + number * (c + rope) + c;
    t.scale = position < 0 ? 0.0f : query_scale(job.warmth, position);
    for (int i = lane; i < nope; i += 32)
        to[i] = position < 0 ? (uint16_t)0 : sy_float_bf16(x[i] * t.scale);
    for (int i = lane; i < rope; i += 32)
        to_rope[i] = position < 0 ? (uint16_t)0 : sy_float_bf16(turned_value(t, x + nope, i));
}

/* ---- scratch ---- */

/* Where a pass has its vectors; bytes from the beginning of the backend's scratch. */
typedef struct latent_scratch {
    uint64_t q, q_a, kv_a,
        nope;       /* f32 [rows, A, nope + rope], [rows, q_rank], [rows, c + rope];
                                  * bf16 [rows, A, nope] */
    uint64_t value; /* of attn_out: bf16 [rows, A, value] */
    uint64_t total;
} latent_scratch;

/* Room for n values of some bytes each on each row, aligned to 256; UINT64_MAX stays. */
static uint64_t
take(uint64_t *total, int64_t rows, int64_t n, int64_t times, uint64_t value_bytes) {
    uint64_t at = *total, bytes;
    if (rows < 0 || n < 0 || times < 0 || at == UINT64_MAX ||
        !sy_mul_u64((uint64_t)n * (uint64_t)times, value_bytes, &bytes) ||
        !sy_mul_u64(bytes, (uint64_t)rows, &bytes) || !sy_add_u64(bytes, 255, &bytes) ||
        !sy_add_u64(at, bytes / 256 * 256, total))
        *total = UINT64_MAX;
    return at;
}

static latent_scratch lay_out(int64_t rows, int64_t heads, const sy_mla_spec *mla) {
    latent_scratch s = {};
    uint64_t in = 0, out = 0;
    rows = sy_min(rows, LATENT_ROWS);
    s.q = take(&in, rows, heads, (int64_t)mla->nope + mla->rope, sizeof(float));
    s.q_a = take(&in, rows, mla->q_rank, 1, sizeof(float));
    s.kv_a = take(&in, rows, (int64_t)mla->kv_rank + mla->rope, 1, sizeof(float));
    s.nope = take(&in, rows, heads, mla->nope, sizeof(uint16_t));
    s.value = take(&out, rows, heads, mla->value, sizeof(uint16_t));
    s.total = in > out ? in : out;
    return s;
}

uint64_t sy_cuda_latent_scratch(const sy_limits *l) {
    return lay_out(l->max_rows, l->heads, &l->mla).total;
}

static sy_status
find_scratch(const sy_cuda *cu, int64_t n_rows, const sy_attn_spec *attn, latent_scratch *out) {
    *out = lay_out(n_rows, attn->heads, &attn->mla);
    if (out->total <= sy_cuda_latent_scratch(&cu->limits) && out->total <= cu->scratch_bytes)
        return SY_OK;
    return sy_fail(SY_ERR_INTERNAL,
                   "latent attention: %lld rows of %d heads, but scratch was reserved for %lld "
                   "of %d",
                   (long long)n_rows, attn->heads, (long long)cu->limits.max_rows,
                   cu->limits.heads);
}

/* ---- in ---- */

static sy_status launch_finish(sy_cuda *cu, const latent_finish *job, int64_t n_rows) {
    int64_t head_blocks = sy_ceil_div(job->heads, FINISH_WARPS);
    if (head_blocks > 65534) return sy_fail(SY_ERR_INTERNAL, "attn_in: %d heads", job->heads);
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)n_rows, (unsigned)(1 + head_blocks));
    config.blockDim = dim3(FINISH_THREADS);
    config.stream = cu->stream;
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, finish_latent_rows, *job));
}

/* q [rows, A, nope + rope] and kv_a of some rows of x. */
static sy_status project(sy_cuda *cu,
                         const sy_layer_spec *spec,
                         const sy_layer_weights *w,
                         int64_t n_rows,
                         const float *x,
                         float *q,
                         float *q_a,
                         float *kv_a) {
    sy_status st = SY_OK;
    const sy_mla_spec *mla = &spec->attn.mla;
    bool compressed = mla->q_rank > 0;
    const sy_matrix *const first[2] = {compressed ? &w->q_a : &w->q, &w->kv_a};
    const sy_matrix *const second[1] = {&w->q};
    float *const out[2] = {compressed ? q_a : q, kv_a};
    const int64_t ld[2] = {first[0]->n, w->kv_a.n};
    SY_TRY(sy_cuda_norm_product(cu, w->attn_norm, spec->norm_eps, 2, first, n_rows, x, NULL,
                                out, ld, 0));
    if (compressed)
        SY_TRY(sy_cuda_norm_product(cu, w->q_a_norm, mla->norm_eps, 1, second, n_rows, q_a,
                                    NULL, &q, &w->q.n, 0));
done:
    return st;
}

/* The sizes of the matrices are those of the spec. */
static sy_status check_latent(const sy_attn_spec *attn, const sy_layer_weights *w) {
    const sy_mla_spec *m = &attn->mla;
    int64_t q_k = m->q_rank > 0 ? m->q_rank : w->kv_a.k;
    bool fits = m->kv_rank >= 1 && m->nope >= 0 && m->rope >= 0 && m->value >= 0 &&
                attn->heads >= 1 && attn->rope.dim <= m->rope && w->k_up != NULL;
    fits = fits && w->kv_a.n == (int64_t)m->kv_rank + m->rope && w->q.k == q_k &&
           w->q.n == attn->heads * ((int64_t)m->nope + m->rope) &&
           (m->q_rank <= 0 || (w->q_a.n == m->q_rank && w->q_a.k == w->kv_a.k));
    fits = fits && w->k_up[0].n == m->kv_rank && w->k_up[0].k == m->nope;
    if (fits) return SY_OK;
    return sy_fail(SY_ERR_INTERNAL, "attn_in: matrices of other sizes than the latent's");
}

sy_status sy_cuda_latent_in(sy_cuda *cu,
                            const sy_layer_spec *spec,
                            const sy_layer_weights *w,
                            const sy_rope_table *rope,
                            const float *x,
                            void *q,
                            const sy_kv_layer *kv) {
    sy_status st = SY_OK;
    const sy_attn_spec *attn = &spec->attn;
    int64_t rows = cu->step.rows_bound, key = (int64_t)attn->mla.kv_rank + attn->mla.rope;
    latent_scratch s;
    latent_finish job = {};
    SY_TRY(check_latent(attn, w));
    SY_TRY(find_scratch(cu, rows, attn, &s));
    job.q = (const float *)(void *)(cu->scratch + s.q);
    job.kv_a = (const float *)(void *)(cu->scratch + s.kv_a);
    job.nope = (uint16_t *)(void *)(cu->scratch + s.nope);
    job.norm = w->kv_a_norm;
    job.cos = attn->rope.dim > 0 ? rope->cos : NULL;
    job.sin = attn->rope.dim > 0 ? rope->sin : NULL;
    job.place = token_places_of(cu, kv);
    job.mla = attn->mla;
    job.heads = attn->heads;
    job.stride = (int)latent_stride(&attn->mla);
    job.half = attn->rope.dim / 2;
    job.interleaved = attn->rope.layout == SY_ROPE_INTERLEAVED;
    job.warmth = temperature_of(attn);
    for (int64_t row = 0; row < rows; row += LATENT_ROWS) {
        int64_t n = sy_min(rows - row, LATENT_ROWS);
        job.first_row = row;
        job.q_out = (uint16_t *)q + row * attn->heads * key;
        SY_TRY(project(cu, spec, w, n, x + row * w->kv_a.k, (float *)job.q,
                       (float *)(void *)(cu->scratch + s.q_a), (float *)job.kv_a));
        SY_TRY(launch_finish(cu, &job, n));
        SY_TRY(sy_cuda_multiply_heads(cu, w->k_up, attn->heads, n, job.nope, job.q_out, key));
    }
done:
    return st;
}

/* ---- out ---- */

sy_status sy_cuda_latent_out(sy_cuda *cu,
                             const sy_layer_spec *spec,
                             const sy_layer_weights *w,
                             int64_t n_rows,
                             const void *o,
                             float *x) {
    sy_status st = SY_OK;
    const sy_attn_spec *attn = &spec->attn;
    const sy_mla_spec *mla = &attn->mla;
    latent_scratch s;
    if (w->v_up == NULL || w->v_up[0].n != mla->value || w->v_up[0].k != mla->kv_rank ||
        mla->value < 1 || w->o.k != (int64_t)attn->heads * mla->value)
        return sy_fail(SY_ERR_INTERNAL, "attn_out: matrices of other sizes than the latent's");
    SY_TRY(find_scratch(cu, n_rows, attn, &s));
    for (int64_t row = 0; row < n_rows; row += LATENT_ROWS) {
        int64_t n = sy_min(n_rows - row, LATENT_ROWS);
        const uint16_t *latent = (const uint16_t *)o + row * attn->heads * mla->kv_rank;
        void *value = cu->scratch + s.value;
        SY_TRY(sy_cuda_multiply_heads(cu, w->v_up, attn->heads, n, latent, value, mla->value));
        SY_TRY(sy_cuda_project_out(cu, w, mla->value, n, value, x + row * w->o.n));
    }
done:
    return st;
}

/* The steps that are products: what each multiplies, in which order it sums, and which form of the
 * product it takes, or whether fast numerics hands it to cuBLAS. The scratch of this family lies at
 * the end of the backend's: normed rows, then what dense_fast.c needs. */
#include <stdlib.h>

#include "base/checked.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/dense_fast.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/quant.h"

/* Up to so many rows, or so many for each expert, the weights' memory decides, not arithmetic. */
enum { FEW_ROWS = 32, FEW_ROWS_OF_SLOT = 16 };

/* The inputs of m in leaves of `leaf`; 0: in one. */
static sy_status set_sums(sy_product *p, const sy_matrix *m, int64_t leaf) {
    int64_t k = m->k, align = sy_is_quantised(m->dtype) ? SY_SLICE_STEPS : 1;
    if (k < 0 || k > SY_CUDA_MAX_K || leaf < 0)
        return sy_fail(SY_ERR_INTERNAL, "product: %lld inputs in leaves of %lld", (long long)k,
                       (long long)leaf);
    bool whole = leaf == 0 || leaf >= k;
    int64_t width = whole ? sy_max(k, 1) : leaf, leaves = whole ? 1 : sy_ceil_div(k, leaf);
    if (leaves > SY_MAX_LEAVES)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "product: %lld inputs are more than %d leaves of %lld", (long long)k,
                       SY_MAX_LEAVES, (long long)leaf);
    /* A leaf may begin and end within what is aligned. */
    int64_t unit = SY_STEP_K * align;
    bool even = leaves == 1 || width % unit == 0;
    int64_t steps = (sy_ceil_div(width, unit) + (even ? 0 : 1)) * align;
    p->sums.k = (int)k;
    p->sums.steps = (int)sy_ceil_div(k, SY_STEP_K);
    p->sums.leaf = (int)width;
    p->sums.n_leaves = (int)leaves;
    p->sums.align = (int)align;
    p->sums.slices = (int)sy_ceil_div(steps, SY_SLICE_STEPS);
    return SY_OK;
}

/* What the product of quantised matrices has to know of the first one, and where m has it. */
static void add_quantised(sy_product *p, const sy_matrix *m) {
    const sy_quant *q = &m->quant;
    sy_cuda_quant_layout l = sy_cuda_quant_layout_of(m);
    int i = p->n_matrices;
    const char *data = (const char *)m->data;
    p->fragments = (int)l.units;
    p->quant.scale = q->scale;
    p->quant.whole = q->group == 0;
    p->quant.shared = q->outputs != 1;
    p->quant.has_zeros = q->zeros;
    p->quant.use_factor = q->use_factor;
    p->quant.group_shift = q->group == 16 ? 0 : q->group == 32 ? 1 : q->group == 64 ? 2 : 3;
    p->quant.groups = (int)l.groups;
    p->quant.scales[i] = data + l.scales;
    p->quant.zeros[i] = (const uint8_t *)data + l.zeros;
    p->quant.factors[i] = (const float *)(const void *)(data + l.factors);
    p->quant.blocks[i] = (int)l.blocks;
}

static sy_status
add_matrix(sy_product *p, const sy_matrix *m, int64_t slots, void *out, int64_t ld) {
    int64_t first = p->tile_first[p->n_matrices], tiles = sy_cuda_tiles(m), all;
    if (m->k != p->sums.k || m->parts != (p->epilogue == SY_SWIGLU ? 2 : 1) ||
        sy_cuda_matrix_bytes(NULL, m) == UINT64_MAX || p->n_matrices == SY_PRODUCT_MATRICES)
        return sy_fail(SY_ERR_INTERNAL, "product: a matrix of %d parts of %lld %s, %d expected",
                       m->parts, (long long)m->k, sy_dtype_name(m->dtype), p->sums.k);
    if (!sy_mul_i64(first + tiles, slots, &all) || all > INT32_MAX / 2)
        return sy_fail(SY_ERR_UNSUPPORTED, "product: %lld tiles of weights at once",
                       (long long)(first + tiles));
    p->dtype = m->dtype;
    p->fragments = p->sums.steps;
    if (sy_is_quantised(m->dtype)) add_quantised(p, m);
    p->w[p->n_matrices] = (const uint4 *)m->data;
    p->n[p->n_matrices] = m->n;
    p->out[p->n_matrices] = out;
    p->ld[p->n_matrices] = ld;
    p->tile_first[++p->n_matrices] = (int)(first + tiles);
    return SY_OK;
}

static sy_status set_rows(sy_product *p, int64_t n_rows, const void *x) {
    if (n_rows < 0 || n_rows > INT32_MAX / 2)
        return sy_fail(SY_ERR_INTERNAL, "product: %lld rows", (long long)n_rows);
    p->rows = (int)n_rows;
    p->x = (const uint16_t *)x;
    bool even = p->sums.n_leaves == 1 || p->sums.leaf % 8 == 0;
    p->aligned = even && p->sums.k % 8 == 0 && (uintptr_t)x % 16 == 0;
    return SY_OK;
}

static sy_status multiply(sy_cuda *cu, const sy_product *p) {
    bool few = p->rows <= FEW_ROWS;
    if (p->first != NULL) few = few || p->rows / FEW_ROWS_OF_SLOT <= p->slots;
    if (sy_is_quantised(p->dtype))
        return few ? sy_cuda_multiply_few_quant(cu, p) : sy_cuda_multiply_many_quant(cu, p);
    return few ? sy_cuda_multiply_few(cu, p) : sy_cuda_multiply_many(cu, p);
}

/* out = x m^T by one matrix, every row. bias: NULL or [n]. */
static sy_status multiply_rows(sy_cuda *cu,
                               const sy_matrix *m,
                               int64_t leaf,
                               sy_epilogue epilogue,
                               const float *bias,
                               int64_t n_rows,
                               const void *x,
                               void *out) {
    sy_product p = {};
    sy_status st = SY_OK;
    if (sy_cuda_fast_takes(cu, m, n_rows)) {
        SY_TRY(sy_cuda_fast_multiply(cu, m, n_rows, x, (float *)out, m->n, epilogue == SY_ADD));
        if (bias != NULL) SY_TRY(sy_cuda_add_to_rows(cu, n_rows, m->n, bias, (float *)out));
        return SY_OK;
    }
    p.epilogue = epilogue;
    p.bias = bias;
    SY_TRY(set_sums(&p, m, leaf));
    SY_TRY(add_matrix(&p, m, 1, out, m->n));
    SY_TRY(set_rows(&p, n_rows, x));
    SY_TRY(multiply(cu, &p));
done:
    return st;
}

/* h bf16 = the activation of the two parts of a matrix, every row. */
static sy_status multiply_gate_up(sy_cuda *cu,
                                  const sy_ffn_spec *ffn,
                                  const sy_matrix *m,
                                  int64_t n_rows,
                                  const void *x,
                                  void *h) {
    sy_product p = {};
    sy_status st = SY_OK;
    if (sy_cuda_fast_takes(cu, m, n_rows)) return sy_cuda_fast_swiglu(cu, ffn, m, n_rows, x, h);
    p.epilogue = SY_SWIGLU;
    p.activation = sy_activation_of(ffn);
    SY_TRY(set_sums(&p, m, 0));
    SY_TRY(add_matrix(&p, m, 1, h, m->n));
    SY_TRY(set_rows(&p, n_rows, x));
    SY_TRY(multiply(cu, &p));
done:
    return st;
}

/* ---- products of normed rows ---- */

/* Bytes of normed rows, a multiple of 256; UINT64_MAX on overflow. */
static uint64_t normed_bytes(const sy_limits *l) {
    uint64_t rows = (uint64_t)sy_max(l->max_rows, 1), bytes;
    int widest = sy_max(sy_max(l->hidden, l->mla.q_rank), 0);
    if (!sy_mul_u64(rows, 2 * (uint64_t)widest, &bytes) || !sy_add_u64(bytes, 255, &bytes))
        return UINT64_MAX;
    return bytes - bytes % 256;
}

void sy_cuda_matrix_scratch(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes) {
    if (!sy_add_u64(normed_bytes(l), sy_cuda_fast_scratch(cu, l), bytes)) *bytes = UINT64_MAX;
}

/* Scratch for n_rows rows of k bf16 from the end of the backend's. */
static sy_status normed_rows(const sy_cuda *cu, int64_t n_rows, int64_t k, void **out) {
    uint64_t own, bytes;
    sy_cuda_matrix_scratch(cu, &cu->limits, &own);
    if (!sy_mul_u64((uint64_t)n_rows, 2 * (uint64_t)k, &bytes) ||
        bytes > normed_bytes(&cu->limits) || own > cu->scratch_bytes)
        return sy_fail(
            SY_ERR_INTERNAL, "norm: %lld rows of %lld, but scratch was reserved for %lld of %d",
            (long long)n_rows, (long long)k, (long long)cu->limits.max_rows, cu->limits.hidden);
    *out = cu->scratch + (cu->scratch_bytes - own) / 256 * 256;
    return SY_OK;
}

typedef struct normed {
    const float *norm;
    float eps;
    int64_t n_rows;
    const int32_t *row; /* NULL: all rows of x in turn */
    const float *x;
    void *xn;
} normed;

static sy_status multiply_normed(sy_cuda *cu,
                                 const normed *in,
                                 int n_matrices,
                                 const sy_matrix *const *w,
                                 float *const *out,
                                 const int64_t *ld,
                                 int leaf) {
    sy_status st = SY_OK;
    bool fused = in->n_rows <= SY_FUSED_ROWS;
    void *xn = in->xn;
    int64_t k = w[0]->k;
    if (!fused) {
        if (xn == NULL) SY_TRY(normed_rows(cu, in->n_rows, k, &xn));
        SY_TRY(sy_cuda_norm_rows(cu, in->norm, in->eps, in->n_rows, k, in->row, in->x, xn));
    }
    for (int i = 0; i < n_matrices;) { /* those of one format together */
        /* Leaves: the router, whose choices fast numerics leaves alone. */
        if (!fused && leaf == 0 && sy_cuda_fast_takes(cu, w[i], in->n_rows)) {
            SY_TRY(sy_cuda_fast_multiply(cu, w[i], in->n_rows, xn, out[i], ld[i], false));
            i++;
            continue;
        }
        sy_product p = {};
        SY_TRY(set_sums(&p, w[i], leaf));
        SY_TRY(set_rows(&p, in->n_rows, fused ? NULL : xn));
        if (fused) {
            p.raw = in->x;
            p.norm = in->norm;
            p.eps = in->eps;
            p.row = in->row;
            p.xn = i == 0 ? (uint16_t *)xn : NULL;
        }
        int first = i;
        for (; i < n_matrices && sy_cuda_same_format(w[i], w[first]); i++)
            SY_TRY(add_matrix(&p, w[i], 1, out[i], ld[i]));
        SY_TRY(multiply(cu, &p));
    }
done:
    return st;
}

sy_status sy_cuda_norm_product(sy_cuda *cu,
                               const float *norm,
                               float eps,
                               int n_matrices,
                               const sy_matrix *const *w,
                               int64_t n_rows,
                               const float *x,
                               void *xn,
                               float *const *out,
                               const int64_t *ld,
                               int leaf) {
    normed in = {norm, eps, n_rows, NULL, x, xn};
    if (n_matrices < 1 || n_rows < 0)
        return sy_fail(SY_ERR_INTERNAL, "product: %d matrices, %lld rows", n_matrices,
                       (long long)n_rows);
    return multiply_normed(cu, &in, n_matrices, w, out, ld, leaf);
}

sy_status sy_cuda_head(sy_backend *be,
                       const float *norm,
                       float norm_eps,
                       const sy_matrix *lm_head,
                       int64_t n,
                       const int32_t *row,
                       const float *x,
                       float *logits,
                       sy_stream *s) {
    (void)row; /* the step's record has them on the device */
    (void)s;
    sy_cuda *cu = sy_cuda_of(be);
    if (n < 0 || n > cu->step.outputs_bound)
        return sy_fail(SY_ERR_INTERNAL, "head: %lld rows in a step made for %d", (long long)n,
                       cu->step.outputs_bound);
    normed in = {norm, norm_eps, n, cu->step.output_row, x, NULL};
    return multiply_normed(cu, &in, 1, &lm_head, &logits, &lm_head->n, 0);
}

sy_status sy_cuda_ffn_in(sy_backend *be,
                         const sy_layer_spec *spec,
                         const sy_layer_weights *w,
                         int64_t n_rows,
                         const float *x,
                         void *xn,
                         sy_stream *s) {
    (void)s;
    return sy_cuda_norm_rows(sy_cuda_of(be), w->ffn_norm, spec->norm_eps, n_rows,
                             w->ffn_gate_up.k, NULL, x, xn);
}

/* ---- products of rows as they are ---- */

sy_status sy_cuda_attn_out(sy_backend *be,
                           const sy_layer_spec *spec,
                           const sy_layer_weights *w,
                           int64_t n_rows,
                           const void *o,
                           float *x,
                           sy_stream *s) {
    (void)s;
    sy_cuda *cu = sy_cuda_of(be);
    if (spec->attn.kind == SY_ATTN_MLA) return sy_cuda_latent_out(cu, spec, w, n_rows, o, x);
    int64_t group = (int64_t)spec->attn.heads / spec->attn.kv_heads * spec->attn.head_dim;
    return sy_cuda_project_out(cu, w, group, n_rows, o, x);
}

sy_status sy_cuda_project_out(sy_cuda *cu,
                              const sy_layer_weights *w,
                              int64_t group,
                              int64_t n_rows,
                              const void *o,
                              float *x) {
    return multiply_rows(cu, &w->o, sy_round_up(SY_LEAF, group), SY_ADD, w->o_bias, n_rows, o,
                         x);
}

sy_status sy_cuda_dense_ffn(sy_backend *be,
                            const sy_layer_spec *spec,
                            const sy_layer_weights *w,
                            int64_t n_rows,
                            const void *xn,
                            void *h,
                            float *y,
                            sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    SY_TRY(multiply_gate_up(cu, &spec->ffn, &w->ffn_gate_up, n_rows, xn, h));
    SY_TRY(multiply_rows(cu, &w->ffn_down, SY_LEAF, SY_STORE, NULL, n_rows, h, y));
done:
    return st;
}

/* ---- experts ---- */

/* The matrices of all slots as one, `stride` units of 16 bytes apart. */
static sy_status check_slots(const sy_matrix *m, int n_slots, int64_t *stride) {
    *stride = 0;
    if (n_slots > 1) *stride = ((const char *)m[1].data - (const char *)m[0].data) / 16;
    for (int i = 0; i < n_slots; i++)
        if (m[i].n != m[0].n || m[i].k != m[0].k || !sy_cuda_same_format(&m[i], &m[0]) ||
            m[i].parts != m[0].parts ||
            (const char *)m[i].data != (const char *)m[0].data + i * *stride * 16)
            return sy_fail(SY_ERR_INTERNAL, "experts: slot %d is not laid out as the first", i);
    return SY_OK;
}

sy_status sy_cuda_multiply_heads(sy_cuda *cu,
                                 const sy_matrix *m,
                                 int heads,
                                 int64_t n_rows,
                                 const void *x,
                                 void *out,
                                 int64_t ld) {
    sy_product p = {};
    sy_status st = SY_OK;
    int64_t all_rows;
    if (heads < 1 || !sy_mul_i64(n_rows, heads, &all_rows) || all_rows > INT32_MAX / 2)
        SY_FAIL(SY_ERR_INTERNAL, "product: %lld rows of %d heads", (long long)n_rows, heads);
    p.epilogue = SY_ROUND;
    p.heads = heads;
    SY_TRY(check_slots(m, heads, &p.stride));
    SY_TRY(set_sums(&p, m, 0));
    SY_TRY(add_matrix(&p, m, heads, out, ld));
    SY_TRY(set_rows(&p, n_rows, x));
    SY_TRY(multiply(cu, &p));
done:
    return st;
}

/* The rows of each slot, and which slots have any, from the host to the device. */
static sy_status upload_rows(sy_cuda *cu, const sy_expert_rows *rows, sy_product *p) {
    sy_status st = SY_OK;
    int n = rows->n_slots, n_active = 0;
    const int32_t *on_device = NULL;
    int32_t *table = (int32_t *)calloc(2 * ((size_t)n + 1), sizeof *table);
    if (table == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the rows of %d experts", n);
    for (int i = 0; i <= n; i++) {
        bool ordered = i == 0 ? rows->first[0] == 0 : rows->first[i] >= rows->first[i - 1];
        if (!ordered || rows->first[i] > rows->n_pairs)
            SY_FAIL(SY_ERR_INTERNAL, "experts: rows of slot %d begin at %lld of %lld", i,
                    (long long)rows->first[i], (long long)rows->n_pairs);
        table[i] = (int32_t)rows->first[i];
        if (i > 0 && table[i] > table[i - 1]) table[n + 1 + ++n_active] = i - 1;
    }
    table[n + 1] = n_active;
    SY_TRY(sy_cuda_upload(cu, table, 2 * ((uint64_t)n + 1) * sizeof *table, &on_device));
    p->first = on_device;
    p->active = on_device + n + 1;
    p->slots = n_active;
done:
    free(table);
    return st;
}

/* `like` says what becomes of the sums. */
static sy_status multiply_experts(sy_cuda *cu,
                                  const sy_product *like,
                                  const sy_matrix *m,
                                  int n_slots,
                                  int64_t leaf,
                                  const sy_expert_rows *rows,
                                  bool gathered,
                                  const void *x,
                                  void *out) {
    sy_product p = *like;
    sy_status st = SY_OK;
    if (rows->n_slots < 0 || rows->n_slots > n_slots)
        SY_FAIL(SY_ERR_INTERNAL, "experts: rows of %d slots of %d", rows->n_slots, n_slots);
    if (rows->n_slots == 0 || rows->n_pairs == 0) return SY_OK;
    SY_TRY(check_slots(m, rows->n_slots, &p.stride));
    SY_TRY(set_sums(&p, m, leaf));
    SY_TRY(add_matrix(&p, m, rows->n_slots, out, m->n));
    SY_TRY(set_rows(&p, rows->n_pairs, x));
    if (rows->device == NULL) {
        SY_TRY(upload_rows(cu, rows, &p));
    } else {
        p.first = rows->device->first;
        p.active = rows->device->active;
        p.row = gathered ? rows->device->row : NULL;
        p.slots = (int)sy_min(rows->n_slots, rows->n_pairs);
    }
    if (p.slots > 0) SY_TRY(multiply(cu, &p));
done:
    return st;
}

sy_status sy_cuda_experts_up(sy_backend *be,
                             const sy_layer_spec *spec,
                             const sy_layer_weights *w,
                             const sy_expert_rows *rows,
                             void *h,
                             sy_stream *s) {
    (void)s;
    sy_product like = {};
    if (spec->ffn.expert_bias && w->gate_up_bias == NULL && rows->n_pairs > 0)
        return sy_fail(SY_ERR_INTERNAL, "experts_up: the biases are missing");
    like.epilogue = SY_SWIGLU;
    like.activation = sy_activation_of(&spec->ffn);
    like.bias = spec->ffn.expert_bias ? w->gate_up_bias : NULL;
    return multiply_experts(sy_cuda_of(be), &like, w->gate_up, w->n_slots, 0, rows, true,
                            rows->x, h);
}

/* The bias comes behind the leaves, so that the router's weight multiplies it too. */
sy_status sy_cuda_experts_down(sy_backend *be,
                               const sy_layer_spec *spec,
                               const sy_layer_weights *w,
                               const sy_expert_rows *rows,
                               const void *h,
                               float *y,
                               sy_stream *s) {
    (void)s;
    sy_product like = {};
    if (spec->ffn.expert_bias && w->down_bias == NULL && rows->n_pairs > 0)
        return sy_fail(SY_ERR_INTERNAL, "experts_down: the biases are missing");
    like.epilogue = SY_STORE;
    like.bias = spec->ffn.expert_bias ? w->down_bias : NULL;
    return multiply_experts(sy_cuda_of(be), &like, w->down, w->n_slots, SY_LEAF, rows, false, h,
                            y);
}

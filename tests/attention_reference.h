/* Attention in float64 from the definitions: plain loops over row-major weights, latent attention
 * in its naive form (keys and values of each head are expanded). In bf16 only the normed x is
 * rounded, as the products see it. */
#ifndef SY_TESTS_ATTENTION_REFERENCE_H
#define SY_TESTS_ATTENTION_REFERENCE_H

#include "tests/attention_fixture.h"

static inline void norm_f64(double *x, int n, const float *w, double eps) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    double inverse = 1 / sqrt(sum / n + eps);
    for (int i = 0; i < n; i++)
        x[i] *= inverse * (double)w[i];
}

/* out = W x (+ bias) */
static inline void
multiply_f64(const test_matrix *m, const double *x, const float *bias, double *out) {
    for (int64_t r = 0; r < m->m.n; r++) {
        out[r] = bias != NULL ? (double)bias[r] : 0;
        for (int64_t i = 0; i < m->m.k; i++)
            out[r] += x[i] * (double)weight_value(m, 0, r, i);
    }
}

/* xn of a row: the product's input, so it is rounded to act. */
static inline void
norm_row_f64(const sy_backend *be, const layer *l, const float *x, double *xn) {
    for (int i = 0; i < l->hidden; i++)
        xn[i] = (double)x[i];
    norm_f64(xn, l->hidden, l->w.attn_norm, (double)l->spec.norm_eps);
    for (int i = 0; i < l->hidden && be->act == SY_BF16; i++)
        xn[i] = (double)sy_f32_from_bf16(sy_bf16_from_f32((float)xn[i]));
}

static inline void rotate_f64(const layer *l, int64_t position, double *x) {
    const sy_rope_spec *rope = &l->spec.attn.rope;
    int half = rope->dim / 2;
    for (int i = 0; i < half; i++) {
        bool pairs = rope->layout == SY_ROPE_INTERLEAVED;
        double *a = x + (pairs ? 2 * i : i), *b = x + (pairs ? 2 * i + 1 : i + half);
        double c = (double)l->rope->cos[position * half + i];
        double s = (double)l->rope->sin[position * half + i], u = *a, v = *b;
        *a = u * c - v * s;
        *b = v * c + u * s;
    }
}

/* Norm, clip and rotary of the heads of q or k. */
static inline void
finish_f64(const layer *l, double *x, int heads, const float *norm, int64_t position) {
    const sy_attn_spec *a = &l->spec.attn;
    int d = a->head_dim;
    if (a->qk_norm == SY_QK_NORM_WHOLE) norm_f64(x, heads * d, norm, (double)l->spec.norm_eps);
    for (int h = 0; h < heads; h++, x += d) {
        if (a->qk_norm == SY_QK_NORM_PER_HEAD) norm_f64(x, d, norm, (double)l->spec.norm_eps);
        for (int i = 0; i < d && a->qk_clip > 0; i++)
            x[i] = fmax(-(double)a->qk_clip, fmin((double)a->qk_clip, x[i]));
        rotate_f64(l, position, x);
    }
}

static inline double temperature_f64(const sy_attn_spec *a, int64_t position) {
    if (a->query_beta == 0) return 1;
    return 1 + (double)a->query_beta *
                   log(1 + floor((double)position / (double)a->query_positions));
}

/* q, k and v of every head and position. */
typedef struct projected {
    double *q, *k, *v; /* [n][A][D], [n][kv][D], [n][kv][value] */
    int kv_heads, d, value;
} projected;

static inline void
project_grouped(const sy_backend *be, const layer *l, const float *x, int64_t t, projected *p) {
    const sy_attn_spec *a = &l->spec.attn;
    double *xn = malloc(sizeof(double) * (size_t)l->hidden);
    int64_t n_q = (int64_t)a->heads * p->d, n_kv = (int64_t)p->kv_heads * p->d;
    double *q = p->q + t * n_q, *k = p->k + t * n_kv, *v = p->v + t * n_kv;
    norm_row_f64(be, l, x, xn);
    multiply_f64(&l->q, xn, l->w.q_bias, q);
    multiply_f64(&l->k, xn, l->w.k_bias, k);
    multiply_f64(&l->v, xn, l->w.v_bias, v);
    finish_f64(l, q, a->heads, l->w.q_norm, t);
    finish_f64(l, k, a->kv_heads, l->w.k_norm, t);
    for (int64_t i = 0; i < n_kv && a->qk_clip > 0; i++)
        v[i] = fmax(-(double)a->qk_clip, fmin((double)a->qk_clip, v[i]));
    for (int64_t i = 0; i < n_q; i++)
        q[i] *= temperature_f64(a, t);
    free(xn);
}

/* The latent of key and value, normed, and the shared rotary key. */
static inline void
latent_f64(const sy_backend *be, const layer *l, const float *x, int64_t t, double *latent) {
    const sy_mla_spec *m = &l->spec.attn.mla;
    double *xn = malloc(sizeof(double) * (size_t)l->hidden);
    norm_row_f64(be, l, x, xn);
    multiply_f64(&l->kv_a, xn, NULL, latent);
    norm_f64(latent, m->kv_rank, l->w.kv_a_norm, (double)m->norm_eps);
    rotate_f64(l, t, latent + m->kv_rank);
    free(xn);
}

static inline void
latent_q_f64(const sy_backend *be, const layer *l, const float *x, int64_t t, double *q) {
    const sy_attn_spec *a = &l->spec.attn;
    double *xn = malloc(sizeof(double) * (size_t)(l->hidden + a->mla.q_rank));
    double *compressed = xn + l->hidden;
    norm_row_f64(be, l, x, xn);
    if (a->mla.q_rank > 0) {
        multiply_f64(&l->q_a, xn, NULL, compressed);
        norm_f64(compressed, a->mla.q_rank, l->w.q_a_norm, (double)a->mla.norm_eps);
    }
    multiply_f64(&l->q, a->mla.q_rank > 0 ? compressed : xn, NULL, q);
    for (int h = 0; h < a->heads; h++)
        rotate_f64(l, t, q + h * a->head_dim + a->mla.nope);
    for (int i = 0; i < a->heads * a->head_dim; i++)
        q[i] *= temperature_f64(a, t);
    free(xn);
}

static inline void
project_latent(const sy_backend *be, const layer *l, const float *x, int64_t t, projected *p) {
    const sy_attn_spec *a = &l->spec.attn;
    const sy_mla_spec *m = &a->mla;
    double *latent = malloc(sizeof(double) * (size_t)(m->kv_rank + m->rope));
    latent_f64(be, l, x, t, latent);
    latent_q_f64(be, l, x, t, p->q + t * a->heads * p->d);
    for (int h = 0; h < a->heads; h++) {
        double *k = p->k + (t * a->heads + h) * p->d;
        for (int i = 0; i < m->nope; i++) {
            k[i] = 0;
            for (int j = 0; j < m->kv_rank; j++)
                k[i] += (double)weight_value(&l->k_up[h], 0, j, i) * latent[j];
        }
        memcpy(k + m->nope, latent + m->kv_rank, sizeof(double) * (size_t)m->rope);
        multiply_f64(&l->v_up[h], latent, NULL, p->v + (t * a->heads + h) * p->value);
    }
    free(latent);
}

/* Attention of one head of one position. */
static inline void
attend_f64(const layer *l, const projected *p, int64_t t, int head, double *score, double *o) {
    const sy_attn_spec *a = &l->spec.attn;
    int kv = head / (a->heads / p->kv_heads);
    int64_t begin = a->window > 0 ? sy_max(0, t - a->window + 1) : 0;
    double max = l->w.sinks != NULL ? (double)l->w.sinks[head] : -INFINITY;
    for (int64_t j = begin; j <= t; j++) {
        const double *q = p->q + (t * a->heads + head) * p->d;
        const double *k = p->k + (j * p->kv_heads + kv) * p->d;
        score[j] = 0;
        for (int i = 0; i < p->d; i++)
            score[j] += q[i] * k[i];
        score[j] *= (double)a->softmax_scale;
        max = fmax(max, score[j]);
    }
    double sum = l->w.sinks != NULL ? exp((double)l->w.sinks[head] - max) : 0;
    for (int i = 0; i < p->value; i++)
        o[i] = 0;
    for (int64_t j = begin; j <= t; j++) {
        double weight = exp(score[j] - max);
        const double *v = p->v + (j * p->kv_heads + kv) * p->value;
        sum += weight;
        for (int i = 0; i < p->value; i++)
            o[i] += weight * v[i];
    }
    for (int i = 0; i < p->value; i++)
        o[i] /= sum;
}

/* x [n, H] after attention over one sequence from position 0, without the residual. */
static inline double *
attention_f64(const sy_backend *be, const layer *l, const float *x, int64_t n) {
    const sy_attn_spec *a = &l->spec.attn;
    bool latent = a->kind == SY_ATTN_MLA;
    projected p = {.kv_heads = latent ? a->heads : a->kv_heads,
                   .d = a->head_dim,
                   .value = latent ? a->mla.value : a->head_dim};
    p.q = malloc(sizeof(double) * (size_t)(n * a->heads * p.d));
    p.k = malloc(sizeof(double) * (size_t)(n * p.kv_heads * p.d));
    p.v = malloc(sizeof(double) * (size_t)(n * p.kv_heads * p.value));
    double *score = malloc(sizeof(double) * (size_t)n);
    double *o = malloc(sizeof(double) * (size_t)(a->heads * p.value));
    double *y = malloc(sizeof(double) * (size_t)(n * l->hidden));
    for (int64_t t = 0; t < n; t++) {
        if (latent)
            project_latent(be, l, x + t * l->hidden, t, &p);
        else
            project_grouped(be, l, x + t * l->hidden, t, &p);
        for (int h = 0; h < a->heads; h++)
            attend_f64(l, &p, t, h, score, o + h * p.value);
        multiply_f64(&l->o, o, l->w.o_bias, y + t * l->hidden);
    }
    free(p.q), free(p.k), free(p.v), free(score), free(o);
    return y;
}

/* Compares every element of a run by the schedule, which goes: |error| <= share times the largest
 * output of its row in size. */
static inline void expect_run_near_f64(const sy_layer_spec *spec,
                                       const schedule *how,
                                       double share,
                                       float *found) {
    float *input = make_input();
    sy_backend *be = open_cpu(how->act, 1, NULL);
    layer l = make_layer(be, spec, how->weights, HIDDEN, CONTEXT);
    assert_non_null(found);
    for (int s = 0; s < N_SEQUENCES; s++) {
        const float *x = input + (int64_t)s * CONTEXT * HIDDEN;
        const float *f = found + (int64_t)s * CONTEXT * HIDDEN;
        double *y = attention_f64(be, &l, x, sequence_length[s]);
        for (int t = 0; t < sequence_length[s]; t++) {
            double largest = 0;
            for (int i = t * HIDDEN; i < (t + 1) * HIDDEN; i++)
                largest = fmax(largest, fabs(y[i]));
            for (int i = t * HIDDEN; i < (t + 1) * HIDDEN; i++) {
                double error = fabs((double)f[i] - (double)x[i] - y[i]) / largest;
                if (!(error <= share))
                    fail_msg("sequence %d, position %d, element %d: %.9g, expected %.9g", s, t,
                             i % HIDDEN, (double)f[i] - (double)x[i], y[i]);
            }
        }
        free(y);
    }
    free_layer(be, &l);
    close_cpu(be);
    free(found), free(input);
}

static inline void
expect_near_f64(const sy_layer_spec *spec, const schedule *how, double share) {
    expect_run_near_f64(spec, how, share, run_schedule(spec, how));
}

#endif

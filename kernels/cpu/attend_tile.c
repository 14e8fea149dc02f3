/* Causal attention of one tile over its pages: flash attention whose unit is the page of 64
 * tokens.
 *
 * What happens to a row (one query head of one token) depends on its own position alone: the
 * pages that it sees a key of, in ascending order, each of them
 *
 *     s  = scale * q K^T, keys behind the row's position or before its window: -inf
 *     m' = max(m, max s)      a = exp(m - m')      p = exp(s - m')
 *     l  = l a + sum p        o = o a + act(p) V
 *
 * where the sum takes p before it is rounded to act. The state (m, l, o) starts afresh in every
 * leaf of SY_ATTEND_LEAF tokens, and leaves are merged in ascending order; a sink joins at the
 * end. How rows are grouped into tiles, spans, steps and threads only changes what is computed
 * side by side: a row takes part in a page only if it sees one of its keys, and P = 0 outside of
 * what it sees adds nothing but the sign of a zero, which the last step removes. */
#include <string.h>

#include "kernels/cpu/attend.h"

/* Rows [begin, end) of a tile see a key of some range of positions, those from `fresh` on none
 * before it. */
typedef struct rows {
    int begin, fresh, end;
} rows;

static rows
rows_that_see(const sy_attend_core *a, const sy_attend_tile *t, int64_t from, int64_t to) {
    int64_t n = t->end - t->position;
    int64_t begin = sy_max(from - t->position, 0);
    int64_t end = sy_max(begin, sy_min(n, to - 1 + a->window - t->position));
    int64_t fresh = from == 0 ? begin : from + a->window - 1 - t->position;
    fresh = sy_min(sy_max(fresh, begin), end);
    return (rows){(int)begin * a->group, (int)fresh * a->group, (int)end * a->group};
}

/* Where row r of the tile begins in q or o, in elements: a head of a token. */
static int64_t row_begin(const sy_attend_core *a,
                         const sy_attend_tile *t,
                         int r,
                         int64_t stride,
                         int64_t dim) {
    return (t->row + r / a->group) * stride + (t->head * a->group + r % a->group) * dim;
}

void sy_attend_gather(const sy_attend_core *a,
                      const sy_attend_tile *t,
                      const sy_attend_workspace *w) {
    int64_t act_bytes = sy_act_bytes(&a->cpu->base);
    int64_t bytes = a->layout.key_dim * act_bytes, stride = a->layout.key_stride * act_bytes;
    for (int r = 0; r < t->n_rows; r++) {
        int64_t at = row_begin(a, t, r, a->q_stride, a->layout.key_dim);
        char *q = w->q + r * stride;
        memcpy(q, a->q + at * act_bytes, (size_t)bytes);
        memset(q + bytes, 0, (size_t)(stride - bytes));
    }
}

/* score[r] = q[r] K^T for rows [begin, begin + n) of the tile. */
static void scores_of_page(const sy_attend_core *a,
                           const sy_attend_workspace *w,
                           const char *keys,
                           int begin,
                           int n) {
    const sy_gemm_kernels *gemm = &a->cpu->isa->gemm;
    int64_t d = a->layout.key_stride;
    float *score = w->score + begin * SY_PAGE_TOKENS;
    const void *q = w->q + begin * d * sy_act_bytes(&a->cpu->base);
    if (a->cpu->base.act == SY_F32)
        gemm->f32_f32(n, (const void *)keys, q, d, d, score, SY_PAGE_TOKENS, true);
    else
        gemm->bf16_bf16(n, (const void *)keys, q, d, d / 2, score, SY_PAGE_TOKENS, true);
}

/* The panels of a page's values. */
static const char *
values_of_page(const sy_attend_core *a, const sy_attend_workspace *w, const char *keys) {
    const sy_vector_kernels *vec = &a->cpu->isa->vec;
    if (!a->layout.values_in_keys) return keys + a->layout.k_bytes;
    if (a->cpu->base.act == SY_F32)
        vec->values_of_keys_f32(a->layout.value_dim, (const void *)keys, (void *)w->values);
    else
        vec->values_of_keys_bf16(sy_ceil_div(a->layout.value_dim, 2), (const void *)keys,
                                 (void *)w->values);
    return w->values;
}

/* o[r] = (first ? 0 : o[r]) + P[r] V for rows [begin, end). */
static void add_values(const sy_attend_core *a,
                       const sy_attend_workspace *w,
                       const char *values,
                       int begin,
                       int end,
                       float *o,
                       bool first) {
    const sy_gemm_kernels *gemm = &a->cpu->isa->gemm;
    int64_t n_columns = a->layout.n_columns, at = begin * (int64_t)SY_PAGE_TOKENS;
    if (begin == end) return;
    for (int64_t c = 0; c < n_columns; c += SY_PANEL, values += a->layout.panel_bytes) {
        float *out = o + begin * n_columns + c;
        if (a->cpu->base.act == SY_F32)
            gemm->f32_f32(end - begin, (const void *)values, w->score + at, SY_PAGE_TOKENS,
                          SY_PAGE_TOKENS, out, n_columns, first);
        else
            gemm->bf16_bf16(end - begin, (const void *)values, w->p + at, SY_PAGE_TOKENS,
                            SY_PAGE_TOKENS / 2, out, n_columns, first);
    }
}

static float join_max(float a, float b) {
    return a > b ? a : b;
}

/* A state with maximum `old` decays by exp of this when the maximum becomes `joined`. One that
 * has seen no finite score decays to 0, where -inf - -inf would be NaN. */
static float decay_exponent(float old, float joined) {
    return old == -__builtin_inff() ? old : old - joined;
}

/* Scores of slots that a row at `position` does not see become -inf. */
static void
mask(const sy_attend_core *a, int64_t position, int64_t page_position, float *score) {
    int64_t seen_end = position - page_position + 1, seen_begin = seen_end - a->window;
    for (int64_t k = 0; k < seen_begin; k++)
        score[k] = -__builtin_inff();
    for (int64_t k = seen_end; k < SY_PAGE_TOKENS; k++)
        score[k] = -__builtin_inff();
}

/* Scores of a page to P, and the state without its values. */
static void softmax_page(const sy_attend_core *a,
                         const sy_attend_tile *t,
                         const sy_attend_workspace *w,
                         int64_t base,
                         const rows *see,
                         const sy_attend_state *s) {
    const sy_vector_kernels *vec = &a->cpu->isa->vec;
    int64_t at = see->begin * (int64_t)SY_PAGE_TOKENS;
    int n = see->end - see->begin;
    vec->scale(n * (int64_t)SY_PAGE_TOKENS, a->scale, w->score + at, w->score + at);
    for (int r = see->begin; r < see->end; r++) {
        float *score = w->score + r * SY_PAGE_TOKENS;
        mask(a, t->position + r / a->group, base, score);
        float old = r >= see->fresh ? -__builtin_inff() : s->m[r];
        s->m[r] = join_max(old, vec->max(SY_PAGE_TOKENS, score));
        w->decay[r] = decay_exponent(old, s->m[r]);
    }
    vec->exp_sum(n, w->decay + see->begin, 0.0f);
    for (int r = see->begin; r < see->end; r++) {
        bool first = r >= see->fresh;
        float sum = vec->exp_sum(SY_PAGE_TOKENS, w->score + r * SY_PAGE_TOKENS, s->m[r]);
        s->l[r] = first ? sum : s->l[r] * w->decay[r] + sum;
        float *o = s->o + r * a->layout.n_columns;
        if (!first && w->decay[r] != 1.0f) vec->scale(a->layout.n_columns, w->decay[r], o, o);
    }
    if (a->cpu->base.act != SY_F32)
        vec->round_bf16(n * (int64_t)SY_PAGE_TOKENS, w->score + at, w->p + at);
}

/* One page for the rows that see a key of it. */
static void attend_page(const sy_attend_core *a,
                        const sy_attend_tile *t,
                        const sy_attend_workspace *w,
                        int64_t base,
                        const rows *see,
                        const char *keys,
                        const char *values,
                        const sy_attend_state *s) {
    scores_of_page(a, w, keys, see->begin, see->end - see->begin);
    softmax_page(a, t, w, base, see, s);
    add_values(a, w, values, see->begin, see->fresh, s->o, false);
    add_values(a, w, values, see->fresh, see->end, s->o, true);
}

void sy_attend_expanded(const sy_attend_core *a,
                        const sy_attend_tile *t,
                        const sy_attend_workspace *w,
                        int64_t base,
                        const char *keys,
                        const char *values,
                        const sy_attend_state *s) {
    rows see = rows_that_see(a, t, base, base + SY_PAGE_TOKENS);
    if (see.begin < see.end) attend_page(a, t, w, base, &see, keys, values, s);
}

void sy_attend_leaf(const sy_attend_core *a,
                    const sy_attend_tile *t,
                    const sy_attend_workspace *w,
                    int64_t leaf,
                    const sy_attend_state *s) {
    int64_t begin = leaf * SY_ATTEND_LEAF, end = sy_min(begin + SY_ATTEND_LEAF, t->end);
    int64_t seen = sy_max(t->position - a->window + 1, 0);
    int64_t base = sy_max(begin, seen / SY_PAGE_TOKENS * SY_PAGE_TOKENS);
    for (; base < end; base += SY_PAGE_TOKENS) {
        rows see = rows_that_see(a, t, base, base + SY_PAGE_TOKENS);
        if (base == begin) see.fresh = see.begin;
        if (see.begin == see.end) continue;
        const char *keys = sy_kv_page(a->kv, t->span, base) + t->head * a->layout.head_bytes;
        attend_page(a, t, w, base, &see, keys, values_of_page(a, w, keys), s);
    }
}

void sy_attend_merge(const sy_attend_core *a,
                     const sy_attend_tile *t,
                     const sy_attend_workspace *w,
                     int64_t leaf,
                     const sy_attend_state *total,
                     const sy_attend_state *s) {
    const sy_vector_kernels *vec = &a->cpu->isa->vec;
    int64_t n_columns = a->layout.n_columns, base = leaf * SY_ATTEND_LEAF;
    rows see = rows_that_see(a, t, base, base + SY_ATTEND_LEAF);
    for (int r = see.begin; r < see.fresh; r++) {
        float joined = join_max(total->m[r], s->m[r]);
        w->decay[r] = decay_exponent(total->m[r], joined);
        w->other[r] = decay_exponent(s->m[r], joined);
        total->m[r] = joined;
    }
    vec->exp_sum(see.fresh - see.begin, w->decay + see.begin, 0.0f);
    vec->exp_sum(see.fresh - see.begin, w->other + see.begin, 0.0f);
    for (int r = see.begin; r < see.fresh; r++) {
        float *o = total->o + r * n_columns, *other = s->o + r * n_columns;
        total->l[r] = total->l[r] * w->decay[r] + s->l[r] * w->other[r];
        vec->scale(n_columns, w->decay[r], o, o);
        vec->scale(n_columns, w->other[r], other, other);
        vec->add(n_columns, other, o);
    }
    for (int r = see.fresh; r < see.end; r++) {
        total->m[r] = s->m[r];
        total->l[r] = s->l[r];
        memcpy(total->o + r * n_columns, s->o + r * n_columns,
               (size_t)n_columns * sizeof(float));
    }
}

/* A sink is one more score, of a key without a value. */
static void join_sinks(const sy_attend_core *a,
                       const sy_attend_tile *t,
                       const sy_attend_workspace *w,
                       const sy_attend_state *s) {
    const sy_vector_kernels *vec = &a->cpu->isa->vec;
    for (int r = 0; r < t->n_rows; r++) {
        float sink = a->sinks[t->head * a->group + r % a->group];
        float joined = join_max(s->m[r], sink);
        w->decay[r] = decay_exponent(s->m[r], joined);
        w->other[r] = decay_exponent(sink, joined);
    }
    vec->exp_sum(t->n_rows, w->decay, 0.0f);
    vec->exp_sum(t->n_rows, w->other, 0.0f);
    for (int r = 0; r < t->n_rows; r++) {
        float *o = s->o + r * a->layout.n_columns;
        s->l[r] = s->l[r] * w->decay[r] + w->other[r];
        vec->scale(a->layout.value_dim, w->decay[r], o, o);
    }
}

/* o times 1 / l, rounded to act. Adding 0 turns -0 into +0: the sign of a zero is the one thing
 * that the values of tokens that a row does not see may change. */
void sy_attend_store(const sy_attend_core *a,
                     const sy_attend_tile *t,
                     const sy_attend_workspace *w,
                     const sy_attend_state *s) {
    const sy_vector_kernels *vec = &a->cpu->isa->vec;
    int64_t d = a->layout.value_dim;
    if (a->sinks != NULL) join_sinks(a, t, w, s);
    for (int r = 0; r < t->n_rows; r++) {
        float *o = s->o + r * a->layout.n_columns;
        int64_t at = row_begin(a, t, r, a->o_stride, d);
        vec->scale(d, 1.0f / s->l[r], o, o);
        for (int64_t i = 0; i < d; i++)
            o[i] += 0.0f;
        if (a->cpu->base.act == SY_F32)
            memcpy((float *)(void *)a->o + at, o, (size_t)d * sizeof *o);
        else
            vec->round_bf16(d, o, (uint16_t *)(void *)a->o + at);
    }
}

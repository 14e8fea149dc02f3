/* Causal attention over the pages: flash attention whose unit is the page of 64 tokens.
 *
 * What happens to a row (one query head of one token) depends on its own position alone: pages
 * in ascending order, each of them
 *
 *     s  = scale * q K^T, keys behind the row's position: -inf
 *     m' = max(m, max s)      a = exp(m - m')      p = exp(s - m')
 *     l  = l a + sum p        o = o a + act(p) V
 *
 * where the sum takes p before it is rounded to act. The state (m, l, o) starts afresh in every
 * leaf of SY_ATTEND_LEAF tokens, and leaves are merged in ascending order. How rows are grouped
 * into tiles, spans, steps and threads only changes what is computed side by side: a row takes
 * part in a page only if it sees one of its keys, and P = 0 behind its position adds nothing but
 * the sign of a zero, which the last step removes. */
#include <stdatomic.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/cpu/kv_page.h"

/* Rows of a tile, unless one token has more query heads for a kv head: enough to keep the gemm
 * kernels busy on a page that stays in the level-1 cache. */
enum { TILE_ROWS = 64 };

/* The softmax state of a tile's rows. */
typedef struct state {
    float *m, *l; /* [rows] */
    float *o;     /* [rows, n_columns] */
} state;

typedef struct attend_job {
    const sy_cpu *cpu;
    const sy_attn_spec *attn;
    const sy_batch *b;
    const sy_kv_layer *kv;
    sy_kv_layout layout;
    const char *q;   /* act [T, A*D] */
    char *o;         /* act [T, A*D] */
    int group;       /* G */
    int tile_tokens; /* tokens of a tile; its rows are [token][G] */
    int64_t n_tiles;
    /* With fewer tiles than threads can use, the leaves of a tile are units of their own, whose
     * states meet in shared scratch; 0 otherwise. */
    int64_t leaves_per_tile;
    int64_t leaf_floats; /* of one such state */
    _Atomic int64_t next_unit, next_tile;
} attend_job;

/* Some consecutive tokens of a span, and one kv head. */
typedef struct tile {
    const sy_span *span;
    int head, n_rows;
    int64_t row;      /* of the first token in the batch */
    int64_t position; /* of the first token              */
    int64_t end;      /* position behind the last token  */
} tile;

/* The scratch of a thread. */
typedef struct workspace {
    char *q;      /* act [rows, D]: the tile's queries side by side */
    float *score; /* [rows, 64], then p */
    uint16_t *p;  /* [rows, 64] p in BF16 */
    float *decay; /* [rows] exp(m - m') */
    float *other; /* [rows] the same for the second state of a merge */
    state total, leaf;
} workspace;

static void carve_state(sy_arena *arena, int64_t rows, int64_t n_columns, state *s) {
    s->m = sy_arena_take(arena, (uint64_t)rows, sizeof(float));
    s->l = sy_arena_take(arena, (uint64_t)rows, sizeof(float));
    s->o = sy_arena_take(arena, (uint64_t)rows, (uint64_t)n_columns * sizeof(float));
}

static void carve(sy_arena *arena,
                  int64_t rows,
                  int64_t head_dim,
                  int64_t n_columns,
                  int64_t act_bytes,
                  workspace *w) {
    w->q = sy_arena_take(arena, (uint64_t)rows, (uint64_t)(head_dim * act_bytes));
    w->score = sy_arena_take(arena, (uint64_t)rows, SY_PAGE_TOKENS * sizeof(float));
    w->p = sy_arena_take(arena, (uint64_t)rows, SY_PAGE_TOKENS * sizeof(uint16_t));
    w->decay = sy_arena_take(arena, (uint64_t)rows, sizeof(float));
    w->other = sy_arena_take(arena, (uint64_t)rows, sizeof(float));
    carve_state(arena, rows, n_columns, &w->total);
    carve_state(arena, rows, n_columns, &w->leaf);
}

/* Floats of a state kept in shared scratch. */
static int64_t state_floats(int64_t rows, int64_t n_columns) {
    return sy_round_up(rows * (n_columns + 2), SY_CACHE_LINE / (int64_t)sizeof(float));
}

static int64_t n_leaves(int64_t end) {
    return sy_ceil_div(end, SY_ATTEND_LEAF);
}

void sy_cpu_attend_scratch(const sy_cpu *cpu,
                           const sy_limits *l,
                           uint64_t *thread,
                           uint64_t *shared) {
    sy_arena own = {0}, states = {0};
    workspace unused;
    int64_t n_columns = sy_kv_layout_of(&cpu->base, l->head_dim).n_columns;
    int64_t group = sy_max(l->heads / sy_max(l->kv_heads, 1), 1);
    carve(&own, sy_max(TILE_ROWS, group), l->head_dim, n_columns, sy_act_bytes(&cpu->base),
          &unused);
    *thread = own.used;
    /* The leaves of one token, which is when they are split most often. */
    sy_arena_take(&states, (uint64_t)n_leaves(l->max_context) * (uint64_t)l->kv_heads,
                  (uint64_t)state_floats(group, n_columns) * sizeof(float));
    *shared = states.used;
}

/* Finds tiles by their number. Numbers only grow, so the search goes on where it stopped. */
typedef struct cursor {
    int span;
    int64_t first; /* number of the span's first tile */
} cursor;

static tile tile_at(const attend_job *job, cursor *c, int64_t number) {
    for (;; c->span++) {
        const sy_span *span = &job->b->span[c->span];
        int64_t pieces = sy_ceil_div(span->n_rows, job->tile_tokens);
        int64_t n = pieces * job->attn->kv_heads;
        if (number >= c->first + n) {
            c->first += n;
            continue;
        }
        int64_t i = number - c->first, token = i / job->attn->kv_heads * job->tile_tokens;
        int64_t tokens = sy_min(job->tile_tokens, span->n_rows - token);
        return (tile){.span = span,
                      .head = (int)(i % job->attn->kv_heads),
                      .n_rows = (int)tokens * job->group,
                      .row = span->first_row + token,
                      .position = span->position + token,
                      .end = span->position + token + tokens};
    }
}

/* Where the tile's heads of its token i begin in q and o, in act elements. */
static int64_t token_offset(const attend_job *job, const tile *t, int64_t i) {
    int64_t d = job->attn->head_dim;
    return (t->row + i) * job->attn->heads * d + (int64_t)t->head * job->group * d;
}

static void gather_queries(const attend_job *job, const tile *t, char *q) {
    int64_t act_bytes = sy_act_bytes(&job->cpu->base);
    int64_t bytes = job->group * (int64_t)job->attn->head_dim * act_bytes;
    for (int64_t i = 0; i < t->end - t->position; i++)
        memcpy(q + i * bytes, job->q + token_offset(job, t, i) * act_bytes, (size_t)bytes);
}

/* score[r] = q[r] K^T for n rows of the tile from `begin`. */
static void
scores_of_page(const attend_job *job, const workspace *w, const char *keys, int begin, int n) {
    const sy_gemm_kernels *gemm = &job->cpu->isa->gemm;
    int64_t d = job->attn->head_dim;
    float *score = w->score + begin * SY_PAGE_TOKENS;
    const void *q = w->q + begin * d * sy_act_bytes(&job->cpu->base);
    if (job->cpu->base.act == SY_F32)
        gemm->f32_f32(n, (const void *)keys, q, d, d, score, SY_PAGE_TOKENS, true);
    else
        gemm->bf16_bf16(n, (const void *)keys, q, d, d / 2, score, SY_PAGE_TOKENS, true);
}

/* o[r] = (first ? 0 : o[r]) + P[r] V for n rows from `begin`. */
static void add_values(const attend_job *job,
                       const workspace *w,
                       const char *values,
                       int begin,
                       int n,
                       float *o,
                       bool first) {
    const sy_gemm_kernels *gemm = &job->cpu->isa->gemm;
    int64_t n_columns = job->layout.n_columns, at = begin * (int64_t)SY_PAGE_TOKENS;
    for (int64_t c = 0; c < n_columns; c += SY_PANEL, values += job->layout.panel_bytes) {
        float *out = o + begin * n_columns + c;
        if (job->cpu->base.act == SY_F32)
            gemm->f32_f32(n, (const void *)values, w->score + at, SY_PAGE_TOKENS,
                          SY_PAGE_TOKENS, out, n_columns, first);
        else
            gemm->bf16_bf16(n, (const void *)values, w->p + at, SY_PAGE_TOKENS,
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

/* One page for rows [begin, n_rows) of the tile, those that see at least its first key. */
static void attend_page(const attend_job *job,
                        const tile *t,
                        const workspace *w,
                        int64_t base,
                        bool first,
                        const state *s) {
    const sy_vector_kernels *vec = &job->cpu->isa->vec;
    int begin = (int)(sy_max(base - t->position, 0) * job->group), n = t->n_rows - begin;
    const char *keys = sy_kv_page(job->kv, t->span, base) + t->head * job->layout.head_bytes;
    scores_of_page(job, w, keys, begin, n);
    float *scores = w->score + begin * SY_PAGE_TOKENS;
    vec->scale(n * (int64_t)SY_PAGE_TOKENS, job->attn->softmax_scale, scores, scores);
    for (int r = begin; r < t->n_rows; r++) {
        float *score = w->score + r * SY_PAGE_TOKENS;
        for (int64_t k = t->position + r / job->group - base + 1; k < SY_PAGE_TOKENS; k++)
            score[k] = -__builtin_inff();
        float old = first ? -__builtin_inff() : s->m[r];
        s->m[r] = join_max(old, vec->max(SY_PAGE_TOKENS, score));
        w->decay[r] = decay_exponent(old, s->m[r]);
    }
    vec->exp_sum(n, w->decay + begin, 0.0f);
    for (int r = begin; r < t->n_rows; r++) {
        float sum = vec->exp_sum(SY_PAGE_TOKENS, w->score + r * SY_PAGE_TOKENS, s->m[r]);
        s->l[r] = first ? sum : s->l[r] * w->decay[r] + sum;
        float *o = s->o + r * job->layout.n_columns;
        if (!first && w->decay[r] != 1.0f) vec->scale(job->layout.n_columns, w->decay[r], o, o);
    }
    if (job->cpu->base.act != SY_F32)
        vec->round_bf16(n * (int64_t)SY_PAGE_TOKENS, scores, w->p + begin * SY_PAGE_TOKENS);
    add_values(job, w, keys + job->layout.k_bytes, begin, n, s->o, first);
}

/* The state of a leaf for the rows that reach it. */
static void attend_leaf(const attend_job *job,
                        const tile *t,
                        const workspace *w,
                        int64_t leaf,
                        const state *s) {
    int64_t begin = leaf * SY_ATTEND_LEAF, end = sy_min(begin + SY_ATTEND_LEAF, t->end);
    for (int64_t base = begin; base < end; base += SY_PAGE_TOKENS)
        attend_page(job, t, w, base, base == begin, s);
}

/* total = total joined with a leaf, for the rows that reach the leaf. */
static void merge_leaf(const attend_job *job,
                       const tile *t,
                       const workspace *w,
                       int64_t leaf,
                       const state *total,
                       const state *s) {
    const sy_vector_kernels *vec = &job->cpu->isa->vec;
    int64_t n_columns = job->layout.n_columns;
    int begin = (int)(sy_max(leaf * SY_ATTEND_LEAF - t->position, 0) * job->group);
    for (int r = begin; r < t->n_rows; r++) {
        float joined = join_max(total->m[r], s->m[r]);
        w->decay[r] = decay_exponent(total->m[r], joined);
        w->other[r] = decay_exponent(s->m[r], joined);
        total->m[r] = joined;
    }
    vec->exp_sum(t->n_rows - begin, w->decay + begin, 0.0f);
    vec->exp_sum(t->n_rows - begin, w->other + begin, 0.0f);
    for (int r = begin; r < t->n_rows; r++) {
        float *o = total->o + r * n_columns, *other = s->o + r * n_columns;
        total->l[r] = total->l[r] * w->decay[r] + s->l[r] * w->other[r];
        vec->scale(n_columns, w->decay[r], o, o);
        vec->scale(n_columns, w->other[r], other, other);
        vec->add(n_columns, other, o);
    }
}

/* o times 1 / l, rounded to act. Adding 0 turns -0 into +0: the sign of a zero is the one thing that
 * the values of tokens behind a row's position may change. */
static void store_rows(const attend_job *job, const tile *t, const state *s) {
    const sy_vector_kernels *vec = &job->cpu->isa->vec;
    int64_t d = job->attn->head_dim;
    for (int r = 0; r < t->n_rows; r++) {
        float *o = s->o + r * job->layout.n_columns;
        int64_t at = token_offset(job, t, r / job->group) + r % job->group * d;
        vec->scale(d, 1.0f / s->l[r], o, o);
        for (int64_t i = 0; i < d; i++)
            o[i] += 0.0f;
        if (job->cpu->base.act == SY_F32)
            memcpy((float *)(void *)job->o + at, o, (size_t)d * sizeof *o);
        else
            vec->round_bf16(d, o, (uint16_t *)(void *)job->o + at);
    }
}

static void attend_tile(const attend_job *job, const tile *t, const workspace *w) {
    gather_queries(job, t, w->q);
    attend_leaf(job, t, w, 0, &w->total);
    for (int64_t leaf = 1; leaf < n_leaves(t->end); leaf++) {
        attend_leaf(job, t, w, leaf, &w->leaf);
        merge_leaf(job, t, w, leaf, &w->total, &w->leaf);
    }
    store_rows(job, t, &w->total);
}

static state shared_state(const attend_job *job, int64_t number, int64_t leaf, int64_t n_rows) {
    float *f = (float *)(void *)job->cpu->shared;
    f += (number * job->leaves_per_tile + leaf) * job->leaf_floats;
    return (state){.o = f,
                   .m = f + n_rows * job->layout.n_columns,
                   .l = f + n_rows * job->layout.n_columns + n_rows};
}

static void attend_leaves_apart(attend_job *job, const workspace *w) {
    cursor c = {0};
    int64_t n_units = job->n_tiles * job->leaves_per_tile, unit, number;
    while ((unit = atomic_fetch_add(&job->next_unit, 1)) < n_units) {
        number = unit / job->leaves_per_tile;
        int64_t leaf = unit % job->leaves_per_tile;
        tile t = tile_at(job, &c, number);
        if (leaf >= n_leaves(t.end)) continue;
        gather_queries(job, &t, w->q);
        state s = shared_state(job, number, leaf, t.n_rows);
        attend_leaf(job, &t, w, leaf, &s);
    }
    sy_pool_barrier(job->cpu->pool);
    c = (cursor){0};
    while ((number = atomic_fetch_add(&job->next_tile, 1)) < job->n_tiles) {
        tile t = tile_at(job, &c, number);
        state total = shared_state(job, number, 0, t.n_rows);
        for (int64_t leaf = 1; leaf < n_leaves(t.end); leaf++) {
            state s = shared_state(job, number, leaf, t.n_rows);
            merge_leaf(job, &t, w, leaf, &total, &s);
        }
        store_rows(job, &t, &total);
    }
}

static void attend_share(void *arg, int thread, int n_threads) {
    (void)n_threads;
    attend_job *job = arg;
    const sy_cpu *cpu = job->cpu;
    workspace w;
    sy_arena arena = {.base = cpu->scratch + thread * cpu->scratch_bytes,
                      .size = cpu->scratch_bytes};
    carve(&arena, (int64_t)job->tile_tokens * job->group, job->attn->head_dim,
          job->layout.n_columns, sy_act_bytes(&cpu->base), &w);
    if (job->leaves_per_tile > 0) {
        attend_leaves_apart(job, &w);
        return;
    }
    cursor c = {0};
    int64_t number;
    while ((number = atomic_fetch_add(&job->next_tile, 1)) < job->n_tiles) {
        tile t = tile_at(job, &c, number);
        attend_tile(job, &t, &w);
    }
}

/* Counts the tiles, and splits their leaves if the tiles are too few to occupy the threads and
 * the states fit. The result has the same bits either way. */
static void plan_units(attend_job *job) {
    int64_t most_leaves = 0;
    for (int i = 0; i < job->b->n_spans; i++) {
        const sy_span *span = &job->b->span[i];
        if (span->n_rows == 0) continue;
        job->n_tiles += sy_ceil_div(span->n_rows, job->tile_tokens) * job->attn->kv_heads;
        most_leaves = sy_max(most_leaves, n_leaves(span->position + span->n_rows));
    }
    int n_threads = sy_pool_threads(job->cpu->pool);
    int64_t rows = sy_min(job->tile_tokens, job->b->n_rows) * job->group;
    int64_t floats = state_floats(rows, job->layout.n_columns), bytes;
    if (n_threads == 1 || most_leaves < 2 || job->n_tiles >= 2 * (int64_t)n_threads) return;
    if (!sy_mul_i64(job->n_tiles * most_leaves, floats * (int64_t)sizeof(float), &bytes) ||
        (uint64_t)bytes > job->cpu->shared_bytes)
        return;
    job->leaves_per_tile = most_leaves;
    job->leaf_floats = floats;
}

sy_status sy_cpu_attend(sy_backend *be,
                        const sy_layer_spec *spec,
                        const sy_batch *b,
                        const void *q,
                        const sy_kv_layer *kv,
                        const float *sinks,
                        void *o,
                        sy_stream *stream) {
    (void)sinks;
    (void)stream;
    const sy_attn_spec *attn = &spec->attn;
    if (b->n_rows == 0) return SY_OK;
    int group = attn->heads / attn->kv_heads;
    attend_job job = {.cpu = sy_cpu_of(be),
                      .attn = attn,
                      .b = b,
                      .kv = kv,
                      .layout = sy_kv_layout_of(be, attn->head_dim),
                      .q = q,
                      .o = o,
                      .group = group,
                      .tile_tokens = (int)sy_max(TILE_ROWS / group, 1)};
    sy_arena need = {0};
    workspace unused;
    carve(&need, (int64_t)job.tile_tokens * group, attn->head_dim, job.layout.n_columns,
          sy_act_bytes(be), &unused);
    if (need.used > job.cpu->scratch_bytes)
        return sy_fail(SY_ERR_INTERNAL,
                       "attend: %d heads of %d, but scratch was reserved for %d "
                       "of %d",
                       attn->heads, attn->head_dim, job.cpu->limits.heads,
                       job.cpu->limits.head_dim);
    plan_units(&job);
    sy_pool_run(job.cpu->pool, attend_share, &job);
    return SY_OK;
}

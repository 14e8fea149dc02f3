/* Attention over the pages: cuts a batch into tiles of some tokens and one kv head, and shares
 * the tiles, or their leaves where tiles are few, among the threads. What happens to a tile is
 * attend_tile.c; how tiles are cut never changes a bit. */
#include <stdatomic.h>

#include "base/memory.h"
#include "kernels/cpu/attend.h"

/* Rows of a tile, unless one token has more query heads for a kv head: enough to keep the gemm
 * kernels busy on a page that stays in the level-1 cache; for latent attention enough to be worth
 * the panels of values that are made once a page. */
enum { TILE_ROWS = 64, LATENT_TILE_ROWS = 128 };

static int tile_tokens_of(const sy_kv_layout *layout, int group) {
    return (int)sy_max((layout->values_in_keys ? LATENT_TILE_ROWS : TILE_ROWS) / group, 1);
}

typedef struct attend_job {
    sy_naive_job naive; /* the spans that are no tiles */
    sy_attend_core core;
    const sy_attn_spec *attn;
    const sy_batch *b;
    int tile_tokens;
    int64_t n_tiles;
    /* With fewer tiles than threads can use, the leaves of a tile are units of their own, whose
     * states meet in shared scratch; 0 otherwise. */
    int64_t leaves_per_tile;
    int64_t leaf_floats; /* of one such state */
    _Atomic int64_t next_unit, next_tile;
} attend_job;

static void carve_state(sy_arena *arena, int64_t rows, int64_t n_columns, sy_attend_state *s) {
    s->m = sy_arena_take(arena, (uint64_t)rows, sizeof(float));
    s->l = sy_arena_take(arena, (uint64_t)rows, sizeof(float));
    s->o = sy_arena_take(arena, (uint64_t)rows, (uint64_t)n_columns * sizeof(float));
}

static void carve(sy_arena *arena,
                  const sy_backend *be,
                  const sy_kv_layout *layout,
                  int group,
                  sy_attend_workspace *w) {
    int64_t rows = (int64_t)tile_tokens_of(layout, group) * group;
    int64_t q_bytes = layout->key_stride * sy_act_bytes(be);
    int64_t panels = layout->values_in_keys ? layout->n_columns / SY_PANEL : 0;
    w->q = sy_arena_take(arena, (uint64_t)rows, (uint64_t)q_bytes);
    w->values = sy_arena_take(arena, (uint64_t)panels, (uint64_t)layout->panel_bytes);
    w->score = sy_arena_take(arena, (uint64_t)rows, SY_PAGE_TOKENS * sizeof(float));
    w->p = sy_arena_take(arena, (uint64_t)rows, SY_PAGE_TOKENS * sizeof(uint16_t));
    w->decay = sy_arena_take(arena, (uint64_t)rows, sizeof(float));
    w->other = sy_arena_take(arena, (uint64_t)rows, sizeof(float));
    carve_state(arena, rows, layout->n_columns, &w->total);
    carve_state(arena, rows, layout->n_columns, &w->leaf);
}

/* Floats of a state kept in shared scratch. */
static int64_t state_floats(int64_t rows, int64_t n_columns) {
    return sy_round_up(rows * (n_columns + 2), SY_CACHE_LINE / (int64_t)sizeof(float));
}

static void scratch_of(const sy_cpu *cpu,
                       const sy_limits *l,
                       const sy_attn_spec *attn,
                       uint64_t *thread,
                       uint64_t *shared) {
    sy_arena own = {0}, states = {0};
    sy_attend_workspace unused;
    sy_kv_layout layout = sy_kv_layout_of(&cpu->base, attn);
    int group = (int)sy_max(attn->heads / sy_max(layout.n_heads, 1), 1);
    carve(&own, &cpu->base, &layout, group, &unused);
    /* The leaves of one token, which is when they are split most often. */
    sy_arena_take(&states,
                  (uint64_t)sy_attend_leaves(l->max_context) * (uint64_t)layout.n_heads,
                  (uint64_t)state_floats(group, layout.n_columns) * sizeof(float));
    *thread = own.used > *thread ? own.used : *thread;
    *shared = states.used > *shared ? states.used : *shared;
}

void sy_cpu_attend_scratch(const sy_cpu *cpu,
                           const sy_limits *l,
                           uint64_t *thread,
                           uint64_t *shared) {
    sy_attn_spec attn = {.heads = l->heads, .kv_heads = l->kv_heads, .head_dim = l->head_dim};
    *thread = *shared = 0;
    scratch_of(cpu, l, &attn, thread, shared);
    if (l->mla.kv_rank == 0) return;
    attn.kind = SY_ATTN_MLA;
    attn.mla = l->mla;
    scratch_of(cpu, l, &attn, thread, shared);
    if (!cpu->fast) return;
    uint64_t naive = sy_naive_scratch(cpu, &attn, l->max_rows);
    *thread = naive > *thread ? naive : *thread;
}

/* Finds tiles by their number. Numbers only grow, so the search goes on where it stopped. */
typedef struct cursor {
    int span;
    int64_t first; /* number of the span's first tile */
} cursor;

static int64_t tiles_of(const attend_job *job, const sy_span *span) {
    if (sy_cpu_takes_naive_form(job->core.cpu, job->attn, span)) return 0;
    return sy_ceil_div(span->n_rows, job->tile_tokens) * job->core.layout.n_heads;
}

static sy_attend_tile tile_at(const attend_job *job, cursor *c, int64_t number) {
    int n_heads = job->core.layout.n_heads;
    for (;; c->span++) {
        const sy_span *span = &job->b->span[c->span];
        int64_t n = tiles_of(job, span);
        if (number >= c->first + n) {
            c->first += n;
            continue;
        }
        int64_t i = number - c->first, token = i / n_heads * job->tile_tokens;
        int64_t tokens = sy_min(job->tile_tokens, span->n_rows - token);
        return (sy_attend_tile){.span = span,
                                .head = (int)(i % n_heads),
                                .n_rows = (int)tokens * job->core.group,
                                .row = span->first_row + token,
                                .position = span->position + token,
                                .end = span->position + token + tokens};
    }
}

static void
attend_tile(const attend_job *job, const sy_attend_workspace *w, cursor *c, int64_t number) {
    const sy_attend_core *core = &job->core;
    sy_attend_tile t = tile_at(job, c, number);
    int64_t leaf = sy_attend_first_leaf(core, &t);
    sy_attend_gather(core, &t, w);
    sy_attend_leaf(core, &t, w, leaf, &w->total);
    for (leaf++; leaf < sy_attend_leaves(t.end); leaf++) {
        sy_attend_leaf(core, &t, w, leaf, &w->leaf);
        sy_attend_merge(core, &t, w, leaf, &w->total, &w->leaf);
    }
    sy_attend_store(core, &t, w, &w->total);
}

/* The state of the tile's leaf number `i`, counted from the first that it sees. */
static sy_attend_state
shared_state(const attend_job *job, int64_t number, int64_t i, int64_t n_rows) {
    float *f = (float *)(void *)job->core.cpu->shared;
    f += (number * job->leaves_per_tile + i) * job->leaf_floats;
    return (sy_attend_state){.o = f,
                             .m = f + n_rows * job->core.layout.n_columns,
                             .l = f + n_rows * job->core.layout.n_columns + n_rows};
}

static void attend_leaves_apart(attend_job *job, const sy_attend_workspace *w) {
    const sy_attend_core *core = &job->core;
    cursor c = {0};
    int64_t n_units = job->n_tiles * job->leaves_per_tile, unit, number;
    while ((unit = atomic_fetch_add(&job->next_unit, 1)) < n_units) {
        number = unit / job->leaves_per_tile;
        sy_attend_tile t = tile_at(job, &c, number);
        int64_t i = unit % job->leaves_per_tile, leaf = sy_attend_first_leaf(core, &t) + i;
        if (leaf >= sy_attend_leaves(t.end)) continue;
        sy_attend_gather(core, &t, w);
        sy_attend_state s = shared_state(job, number, i, t.n_rows);
        sy_attend_leaf(core, &t, w, leaf, &s);
    }
    sy_pool_barrier(core->cpu->pool);
    c = (cursor){0};
    while ((number = atomic_fetch_add(&job->next_tile, 1)) < job->n_tiles) {
        sy_attend_tile t = tile_at(job, &c, number);
        int64_t first = sy_attend_first_leaf(core, &t);
        sy_attend_state total = shared_state(job, number, 0, t.n_rows);
        for (int64_t i = 1; first + i < sy_attend_leaves(t.end); i++) {
            sy_attend_state s = shared_state(job, number, i, t.n_rows);
            sy_attend_merge(core, &t, w, first + i, &total, &s);
        }
        sy_attend_store(core, &t, w, &total);
    }
}

static void attend_share(void *arg, int thread, int n_threads) {
    (void)n_threads;
    attend_job *job = arg;
    const sy_cpu *cpu = job->core.cpu;
    sy_attend_workspace w;
    sy_arena arena = {.base = cpu->scratch + thread * cpu->scratch_bytes,
                      .size = cpu->scratch_bytes};
    sy_naive_share(&job->naive, thread);
    carve(&arena, &cpu->base, &job->core.layout, job->core.group, &w);
    if (job->leaves_per_tile > 0) {
        attend_leaves_apart(job, &w);
        return;
    }
    cursor c = {0};
    int64_t number;
    while ((number = atomic_fetch_add(&job->next_tile, 1)) < job->n_tiles)
        attend_tile(job, &w, &c, number);
}

/* Leaves that a tile of the span can see. */
static int64_t most_leaves_of(const attend_job *job, const sy_span *span) {
    int64_t window = job->core.window, leaves = sy_attend_leaves(span->position + span->n_rows);
    int64_t keys = window + sy_min(job->tile_tokens, span->n_rows) - 1;
    return sy_min(leaves, sy_attend_leaves(keys) + 1);
}

/* Counts the tiles, and splits their leaves if the tiles are too few to occupy the threads and
 * the states fit. The result has the same bits either way. */
static void plan_units(attend_job *job) {
    int64_t most_leaves = 0;
    for (int i = 0; i < job->b->n_spans; i++) {
        const sy_span *span = &job->b->span[i];
        int64_t n = tiles_of(job, span);
        if (n == 0) continue;
        job->n_tiles += n;
        most_leaves = sy_max(most_leaves, most_leaves_of(job, span));
    }
    int n_threads = sy_pool_threads(job->core.cpu->pool);
    int64_t rows = sy_min(job->tile_tokens, job->b->n_rows) * job->core.group;
    int64_t floats = state_floats(rows, job->core.layout.n_columns), bytes;
    if (n_threads == 1 || most_leaves < 2 || job->n_tiles >= 2 * (int64_t)n_threads) return;
    if (!sy_mul_i64(job->n_tiles * most_leaves, floats * (int64_t)sizeof(float), &bytes) ||
        (uint64_t)bytes > job->core.cpu->shared_bytes)
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
    (void)stream;
    const int64_t unlimited = INT64_C(1) << 40; /* beyond every position */
    const sy_attn_spec *attn = &spec->attn;
    if (b->n_rows == 0) return SY_OK;
    attend_job job = {.core = {.cpu = sy_cpu_of(be),
                               .kv = kv,
                               .layout = sy_kv_layout_of(be, attn),
                               .q = q,
                               .o = o,
                               .sinks = sinks,
                               .q_stride = sy_attn_q_width(attn),
                               .o_stride = sy_attn_o_width(attn),
                               .scale = attn->softmax_scale,
                               .heads = attn->heads},
                      .attn = attn,
                      .b = b};
    bool windowed = attn->window > 0 && attn->window < unlimited;
    job.core.window = windowed ? attn->window : unlimited;
    job.core.group = attn->heads / job.core.layout.n_heads;
    job.tile_tokens = tile_tokens_of(&job.core.layout, job.core.group);
    sy_arena need = {0};
    sy_attend_workspace unused;
    carve(&need, be, &job.core.layout, job.core.group, &unused);
    if (need.used > job.core.cpu->scratch_bytes)
        return sy_fail(SY_ERR_INTERNAL,
                       "attend: %d heads of %lld values do not fit the scratch reserved",
                       attn->heads, (long long)job.core.layout.key_dim);
    sy_status st = sy_naive_plan(&job.core, attn, b, &job.naive);
    if (st != SY_OK) return st;
    plan_units(&job);
    sy_pool_run(job.core.cpu->pool, attend_share, &job);
    return SY_OK;
}

/* Attention of prompts in the naive form of latent attention, for fast numerics: from the latents
 * of a page the keys and values of a head are made,
 *
 *     K = [latent k_up | rotary key]      V = latent v_up^T      both rounded to act
 *
 * and attention runs over nope + rope and `value` values a key instead of c + rope and c. A page
 * is expanded once for a head and all rows of a strip, which is what a span's rows are cut into
 * for the sake of scratch and threads. Softmax is that of attend_tile.c with one state for all
 * pages. How strips are cut changes no bit, but the form does, and it depends on how a prompt is
 * cut into steps: exact numerics never comes here. */
#include <stdatomic.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/cpu/attend.h"

enum {
    STRIP_ROWS = 1024,  /* of a strip, at most */
    THREAD_ROWS = 256,  /* at least, where strips are short to give work to threads */
    STRIP_TILE = 64,    /* rows that pass over a page at once, while their scores are near */
    EXPANDED_ROWS = 64, /* of a product before it is rounded; even */
    GATHER_TOKENS = 20  /* that are expanded in the time of gathering k_up and v_up (Zen 5) */
};

/* By multiply-adds of one head. Absorbed: those of k_up and v_up for each row, and 2 c + rope for
 * each key that a row sees. Naive: those of k_up and v_up for each token of the pages that a strip
 * sees, and nope + rope + value for each key that a row sees. The strip and the row in the middle
 * stand for all. With V3's sizes naive is cheaper from about 170 rows on far from the beginning of
 * a sequence, and from about 80 at it. */
bool sy_cpu_takes_naive_form(const sy_cpu *cpu, const sy_attn_spec *attn, const sy_span *span) {
    const sy_mla_spec *m = &attn->mla;
    if (!cpu->fast || attn->kind != SY_ATTN_MLA || span->n_rows < 2) return false;
    if (m->nope > m->kv_rank || m->value > m->kv_rank) return false; /* rows too narrow */
    int64_t n = span->n_rows, strips = sy_ceil_div(n, STRIP_ROWS);
    int64_t rows = sy_ceil_div(n, strips);
    int64_t begin = span->position + (n - rows) / 2, before = begin;
    int64_t keys = span->position + n / 2 + 1;
    if (attn->window > 0) {
        before = sy_min(before, attn->window - 1);
        keys = sy_min(keys, attn->window);
    }
    int64_t pages =
        sy_ceil_div(begin + rows, SY_PAGE_TOKENS) - (begin - before) / SY_PAGE_TOKENS;
    double tokens = (double)strips * ((double)pages * SY_PAGE_TOKENS + GATHER_TOKENS);
    double up = (double)m->kv_rank * ((double)m->nope + m->value);
    double saved = (double)keys * (2.0 * m->kv_rank - m->nope - m->value);
    return tokens * up < (double)n * (saved + up);
}

bool sy_cpu_any_naive_form(const sy_cpu *cpu, const sy_attn_spec *attn, const sy_batch *b) {
    for (int i = 0; i < b->n_spans; i++)
        if (sy_cpu_takes_naive_form(cpu, attn, &b->span[i])) return true;
    return false;
}

/* What a thread works on: a strip of rows and one head. */
typedef struct strip {
    const sy_span *span;
    int head, n_rows;
    int64_t row, position; /* of the first token in the batch, and in its sequence */
} strip;

/* The scratch of a thread. */
typedef struct workspace {
    char *up;         /* [nope + value, c padded], see sy_naive_rows */
    float *product;   /* [EXPANDED_ROWS, 64 tokens] */
    char *keys;       /* panel of a page's keys   */
    char *value_rows; /* its values in the layout of keys */
    char *values;     /* its values in panels     */
    char *q;          /* act [strip, key_stride]  */
    sy_attend_workspace tile;
    sy_attend_state state; /* of the strip */
} workspace;

static void carve(sy_arena *arena,
                  const sy_backend *be,
                  const sy_kv_layout *layout,
                  const sy_mla_spec *m,
                  int64_t strip_rows,
                  workspace *w) {
    uint64_t rows = (uint64_t)strip_rows, act_bytes = (uint64_t)sy_act_bytes(be);
    uint64_t panels = (uint64_t)(layout->n_columns / SY_PANEL);
    uint64_t up_bytes = (uint64_t)sy_round_up(m->kv_rank, 2) * sizeof(float);
    w->up = sy_arena_take(arena, (uint64_t)m->nope + (uint64_t)m->value, up_bytes);
    w->product = sy_arena_take(arena, EXPANDED_ROWS, SY_PAGE_TOKENS * sizeof(float));
    w->keys = sy_arena_take(arena, 1, (uint64_t)layout->k_bytes);
    w->value_rows =
        sy_arena_take(arena, (uint64_t)sy_round_up(m->value, 2), SY_PAGE_TOKENS * act_bytes);
    w->values = sy_arena_take(arena, panels, (uint64_t)layout->panel_bytes);
    w->q = sy_arena_take(arena, rows, (uint64_t)layout->key_stride * act_bytes);
    w->tile = (sy_attend_workspace){
        .score = sy_arena_take(arena, STRIP_TILE, SY_PAGE_TOKENS * sizeof(float)),
        .p = sy_arena_take(arena, STRIP_TILE, SY_PAGE_TOKENS * sizeof(uint16_t)),
        .decay = sy_arena_take(arena, STRIP_TILE, sizeof(float)),
        .other = sy_arena_take(arena, STRIP_TILE, sizeof(float))};
    w->state.m = sy_arena_take(arena, rows, sizeof(float));
    w->state.l = sy_arena_take(arena, rows, sizeof(float));
    w->state.o = sy_arena_take(arena, rows, (uint64_t)layout->n_columns * sizeof(float));
}

uint64_t sy_naive_scratch(const sy_cpu *cpu, const sy_attn_spec *attn, int64_t max_rows) {
    sy_kv_layout layout = sy_kv_expanded_layout(&cpu->base, attn);
    sy_arena arena = {0};
    workspace unused;
    carve(&arena, &cpu->base, &layout, &attn->mla, sy_min(max_rows, STRIP_ROWS), &unused);
    return arena.used;
}

/* Two rows of 64 tokens to pairs, rounded; where `second` is missing it is 0. */
static void put_pair(const sy_cpu *cpu, const float *first, bool second, uint16_t *to) {
    uint16_t code[2 * SY_PAGE_TOKENS] = {0};
    cpu->isa->vec.round_bf16(second ? 2 * SY_PAGE_TOKENS : SY_PAGE_TOKENS, first, code);
    for (int t = 0; t < SY_PAGE_TOKENS; t++) {
        to[2 * t] = code[t];
        to[2 * t + 1] = code[SY_PAGE_TOKENS + t];
    }
}

/* Rows [begin, begin + n) of w->up times the latents of a page: n values of each token, in the
 * layout of keys. */
static void expand(const sy_naive_job *job,
                   const workspace *w,
                   const char *latents,
                   int64_t begin,
                   int64_t n,
                   char *to) {
    const sy_cpu *cpu = job->core.cpu;
    const sy_gemm_kernels *gemm = &cpu->isa->gemm;
    int64_t c = job->attn->mla.kv_rank, row = sy_round_up(c, 2);
    const float *wide = (const float *)(const void *)w->up + begin * row;
    const uint16_t *narrow = (const uint16_t *)(const void *)w->up + begin * row;
    if (cpu->base.act == SY_F32) {
        gemm->f32_f32(n, (const void *)latents, wide, row, c, (void *)to, SY_PAGE_TOKENS, true);
        return;
    }
    for (int64_t r = 0; r < n; r += EXPANDED_ROWS) {
        int64_t rows = sy_min(n - r, EXPANDED_ROWS);
        if (job->narrow)
            gemm->bf16_bf16(rows, (const void *)latents, narrow + r * row, row, row / 2,
                            w->product, SY_PAGE_TOKENS, true);
        else
            gemm->bf16_f32(rows, (const void *)latents, wide + r * row, row, row / 2,
                           w->product, SY_PAGE_TOKENS, true);
        for (int64_t i = 0; i < rows; i += 2)
            put_pair(cpu, w->product + i * SY_PAGE_TOKENS, i + 1 < rows,
                     (uint16_t *)(void *)to + (r + i) * SY_PAGE_TOKENS);
    }
}

/* The rotary key, which is behind the latent, to behind the nope part. */
static void copy_rotary(const sy_naive_job *job, const char *latents, char *keys) {
    const sy_mla_spec *m = &job->attn->mla;
    const sy_backend *be = &job->core.cpu->base;
    int64_t from = m->kv_rank, to = m->nope, n = m->rope;
    int64_t row_bytes = SY_PAGE_TOKENS * sy_act_bytes(be);
    if (be->act == SY_F32 || (from % 2 == 0 && to % 2 == 0 && n % 2 == 0)) {
        memcpy(keys + to * row_bytes, latents + from * row_bytes, (size_t)(n * row_bytes));
        return;
    }
    const uint16_t *source = (const uint16_t *)(const void *)latents;
    uint16_t *target = (uint16_t *)(void *)keys;
    for (int64_t i = 0; i < n; i++, from++, to++)
        for (int64_t t = 0; t < SY_PAGE_TOKENS; t++)
            target[(to / 2 * SY_PAGE_TOKENS + t) * 2 + to % 2] =
                source[(from / 2 * SY_PAGE_TOKENS + t) * 2 + from % 2];
    for (int64_t t = 0; t < SY_PAGE_TOKENS && to % 2 != 0; t++)
        target[(to / 2 * SY_PAGE_TOKENS + t) * 2 + 1] = 0;
}

static void expand_page(const sy_naive_job *job, const workspace *w, const char *latents) {
    const sy_mla_spec *m = &job->attn->mla;
    const sy_vector_kernels *vec = &job->core.cpu->isa->vec;
    expand(job, w, latents, 0, m->nope, w->keys);
    copy_rotary(job, latents, w->keys);
    expand(job, w, latents, m->nope, m->value, w->value_rows);
    if (job->core.cpu->base.act == SY_F32)
        vec->values_of_keys_f32(m->value, (void *)w->value_rows, (void *)w->values);
    else
        vec->values_of_keys_bf16(sy_ceil_div(m->value, 2), (void *)w->value_rows,
                                 (void *)w->values);
}

/* The rows [row, row + n) of a strip, and their part of the scratch. */
static sy_attend_tile part_of(const sy_naive_job *job,
                              const strip *s,
                              const workspace *all,
                              int64_t row,
                              workspace *part) {
    const sy_kv_layout *layout = &job->core.layout;
    int64_t n = sy_min(s->n_rows - row, STRIP_TILE);
    *part = *all;
    part->tile.q = all->q + row * layout->key_stride * sy_act_bytes(&job->core.cpu->base);
    part->state.m += row;
    part->state.l += row;
    part->state.o += row * layout->n_columns;
    return (sy_attend_tile){.span = s->span,
                            .head = s->head,
                            .n_rows = (int)n,
                            .row = s->row + row,
                            .position = s->position + row,
                            .end = s->position + row + n};
}

static void attend_strip(const sy_naive_job *job, const workspace *w, const strip *s) {
    const sy_attend_core *core = &job->core;
    workspace part;
    int64_t first = sy_max(s->position - core->window + 1, 0) / SY_PAGE_TOKENS;
    sy_naive_rows(&job->w->k_up[s->head], &job->w->v_up[s->head], job->narrow, w->up);
    for (int64_t r = 0; r < s->n_rows; r += STRIP_TILE) {
        sy_attend_tile t = part_of(job, s, w, r, &part);
        sy_attend_gather(core, &t, &part.tile);
    }
    for (int64_t base = first * SY_PAGE_TOKENS; base < s->position + s->n_rows;
         base += SY_PAGE_TOKENS) {
        expand_page(job, w, sy_kv_page(core->kv, s->span, base));
        for (int64_t r = 0; r < s->n_rows; r += STRIP_TILE) {
            sy_attend_tile t = part_of(job, s, w, r, &part);
            sy_attend_expanded(core, &t, &part.tile, base, w->keys, w->values, &part.state);
        }
    }
    for (int64_t r = 0; r < s->n_rows; r += STRIP_TILE) {
        sy_attend_tile t = part_of(job, s, w, r, &part);
        sy_attend_store(core, &t, &part.tile, &part.state);
    }
}

static int64_t strips_of(const sy_naive_job *job, const sy_span *span) {
    bool naive = sy_cpu_takes_naive_form(job->core.cpu, job->attn, span);
    return naive ? sy_ceil_div(span->n_rows, job->strip_rows) : 0;
}

/* The heads of a strip follow one another, so that they find its pages in the cache. */
static strip strip_at(const sy_naive_job *job, int64_t number) {
    const sy_span *span = job->b->span;
    for (int64_t n; number >= (n = strips_of(job, span) * job->core.heads); span++)
        number -= n;
    int64_t row = number / job->core.heads * job->strip_rows;
    return (strip){.span = span,
                   .head = (int)(number % job->core.heads),
                   .n_rows = (int)sy_min(span->n_rows - row, job->strip_rows),
                   .row = span->first_row + row,
                   .position = span->position + row};
}

/* Short strips expand pages more often, so only as many are made as threads ask for. */
static int64_t strip_rows_for(const sy_naive_job *job, int64_t n_rows) {
    int64_t strips = sy_ceil_div(2 * (int64_t)sy_pool_threads(job->core.cpu->pool),
                                 sy_max(job->core.heads, 1));
    int64_t rows = sy_round_up(sy_ceil_div(n_rows, strips), STRIP_TILE);
    return sy_min(sy_min(sy_max(rows, THREAD_ROWS), STRIP_ROWS), n_rows);
}

sy_status sy_naive_plan(const sy_attend_core *core,
                        const sy_attn_spec *attn,
                        const sy_batch *b,
                        sy_naive_job *job) {
    const sy_cpu *cpu = core->cpu;
    int64_t n_rows = 0;
    *job = (sy_naive_job){.core = *core, .attn = attn, .w = cpu->naive_weights, .b = b};
    for (int i = 0; i < b->n_spans; i++)
        if (sy_cpu_takes_naive_form(cpu, attn, &b->span[i])) n_rows += b->span[i].n_rows;
    if (n_rows == 0) return SY_OK;
    if (cpu->naive_batch != b)
        return sy_fail(SY_ERR_INTERNAL, "attend: another batch than that of attn_in before it");
    job->core.layout = sy_kv_expanded_layout(&cpu->base, attn);
    job->core.group = 1;
    job->narrow = cpu->base.act == SY_BF16 && job->w->k_up->dtype == SY_BF16 &&
                  job->w->v_up->dtype == SY_BF16;
    job->strip_rows = strip_rows_for(job, n_rows);
    for (int i = 0; i < b->n_spans; i++)
        job->n_units += strips_of(job, &b->span[i]) * attn->heads;
    if (sy_naive_scratch(cpu, attn, job->strip_rows) > cpu->scratch_bytes)
        return sy_fail(SY_ERR_INTERNAL,
                       "attend: %d heads of %lld values do not fit the scratch reserved",
                       attn->heads, (long long)job->core.layout.key_dim);
    return SY_OK;
}

void sy_naive_share(sy_naive_job *job, int thread) {
    const sy_cpu *cpu = job->core.cpu;
    workspace w;
    sy_arena arena = {.base = cpu->scratch + thread * cpu->scratch_bytes,
                      .size = cpu->scratch_bytes};
    if (job->n_units == 0) return;
    carve(&arena, &cpu->base, &job->core.layout, &job->attn->mla, job->strip_rows, &w);
    int64_t unit;
    while ((unit = atomic_fetch_add(&job->next_unit, 1)) < job->n_units) {
        strip s = strip_at(job, unit);
        attend_strip(job, &w, &s);
    }
}

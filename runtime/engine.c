#include "runtime/engine.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/hash.h"
#include "kernels/device.h"
#include "runtime/rope_set.h"
#include "runtime/stepper.h"

/* A sequence as its own rank sees it. */
typedef struct sequence {
    int64_t n_prompt, position; /* rows that have gone through the model */
    int64_t number;             /* for the profile */
    sy_sample_params sampling;
    int32_t *id;   /* [max_context]: the prompt, then what was sampled */
    int32_t *page; /* [pages of max_context] */
    int64_t n_pages;
} sequence;

/* What a rank reports for each row it sampled, in the order of its work. */
typedef struct sampled {
    int32_t id;
    int32_t is_nan; /* the row held no number */
    uint64_t logits_hash;
} sampled;

struct sy_engine {
    sy_engine_parts parts;
    sy_engine_options options;
    sy_runner runner;
    sy_rope_set *rope;
    sy_stepper *stepper;
    sy_step_record *record;
    sequence *sequence; /* [per_rank] of this rank */
    int32_t *sequence_ids, *sequence_pages;

    /* One step's batch, filled from the record. */
    sy_span *span;              /* [per_rank] */
    int32_t *batch_ids;         /* [chunk] */
    int32_t *output_row;        /* [max_outputs] */
    sy_sample_params *sampling; /* [max_outputs] */
    int32_t *token;             /* [max_outputs] */
    float *row;                 /* [V], for hashing logits */
    sampled *mine;              /* [max_outputs] */
    sampled *all;               /* [R * max_outputs], rank 0 */
};

static int64_t pages_per_sequence(const sy_engine_options *o) {
    return sy_kv_pages(o->max_context);
}

/* Prompt ids that one step's record may carry: the longest prompt, or many short ones. */
static int64_t most_prompt_ids(const sy_engine_options *o) {
    return sy_max(o->max_context, 65536);
}

/* Host bytes of the engine's own tables that grow with the context: ids, and the cosines and
 * sines of one kind of rotary layer. */
static uint64_t table_bytes(const sy_model_spec *spec, const sy_engine_options *o) {
    uint64_t ids = (uint64_t)o->per_rank * (uint64_t)o->max_context;
    uint64_t angles = (uint64_t)o->max_context * (uint64_t)spec->layer[0].attn.rope.dim;
    return (ids + (uint64_t)most_prompt_ids(o)) * sizeof(int32_t) + angles * sizeof(float);
}

static int most_slots(const sy_engine_parts *p) {
    int most = 0;
    for (int l = 0; l < p->spec->n_layers; l++) {
        const sy_placement_layer *layer = &p->placement->layer[l];
        for (int r = 0; layer->n_experts > 0 && r < layer->n_ranks; r++)
            most = (int)sy_max(most, sy_placement_slots(layer, r));
    }
    return most;
}

/* Rows of the largest recorded step. With several ranks only the exact sum has the fixed form of
 * the exchange that a recording needs. */
static int64_t capacity_of(const sy_engine_parts *p, const sy_engine_options *o) {
    bool fixed = o->combine == SY_COMBINE_EXACT || sy_comm_size(p->comm) == 1;
    return sy_stepper_capacity(p->be, o->chunk, fixed && !o->no_graphs && !o->profile.on);
}

static sy_exchange_shape exchange_shape(const sy_engine_parts *p, const sy_engine_options *o) {
    sy_exchange_shape shape = {.max_rows = o->chunk,
                               .hidden = p->spec->hidden,
                               .act = p->be->act,
                               .max_slots = most_slots(p),
                               .combine = o->combine,
                               .device = p->be->ops->device != NULL,
                               .placement = p->placement,
                               .max_capacity = capacity_of(p, o),
                               .deadline = o->exchange_deadline};
    for (int l = 0; l < p->spec->n_layers; l++) {
        const sy_ffn_spec *f = &p->spec->layer[l].ffn;
        shape.top_k = (int)sy_max(shape.top_k, f->top_k);
        shape.experts = (int)sy_max(shape.experts, f->experts);
    }
    return shape;
}

static sy_limits limits_of(const sy_engine_parts *p, const sy_engine_options *o) {
    sy_exchange_shape shape = exchange_shape(p, o);
    sy_limits limits = {.max_rows = o->chunk,
                        .max_pairs = sy_exchange_max_pairs(p->comm, &shape),
                        .max_context = o->max_context,
                        .max_spans = o->per_rank,
                        .hidden = p->spec->hidden,
                        .experts = shape.experts,
                        .top_k = shape.top_k,
                        .vocab = p->spec->vocab};
    for (int l = 0; l < p->spec->n_layers; l++) {
        const sy_layer_spec *layer = &p->spec->layer[l];
        limits.heads = (int)sy_max(limits.heads, layer->attn.heads);
        limits.kv_heads = (int)sy_max(limits.kv_heads, layer->attn.kv_heads);
        limits.head_dim = (int)sy_max(limits.head_dim, layer->attn.head_dim);
        if (layer->attn.kind == SY_ATTN_MLA) limits.mla = layer->attn.mla; /* equal in all */
        limits.max_inter = (int)sy_max(limits.max_inter, layer->ffn.inter);
        limits.max_inter = (int)sy_max(limits.max_inter, layer->ffn.shared_inter);
    }
    return limits;
}

static sy_profile_parts profile_parts(const sy_engine_parts *p, const sy_engine_options *o) {
    return (sy_profile_parts){.comm = p->comm,
                              .live = p->live,
                              .be = p->be,
                              .spec = p->spec,
                              .placement = p->placement,
                              .max_rows = o->chunk,
                              .max_context = o->max_context,
                              .max_spans = o->per_rank};
}

uint64_t sy_engine_bytes(const sy_engine_parts *p, const sy_engine_options *o) {
    sy_profile_parts profile = profile_parts(p, o);
    sy_exchange_shape shape = exchange_shape(p, o);
    sy_limits limits = limits_of(p, o);
    uint64_t total = sy_kv_bytes(p->be, p->spec, o->max_pages);
    bool ok =
        sy_add_u64(total, table_bytes(p->spec, o), &total) &&
        sy_add_u64(total, sy_exchange_bytes(p->comm, &shape), &total) &&
        sy_add_u64(total, sy_workspace_bytes(p->be, p->spec, &limits, o->max_outputs), &total);
    if (ok && o->profile.on && p->be->ops->device == NULL) /* on the host, whatever the device */
        ok = sy_add_u64(total, sy_profile_bytes(&profile, &o->profile), &total);
    if (ok && p->be->ops->device != NULL)
        ok = sy_add_u64(total, p->be->ops->device->reserve_bytes(p->be, &limits), &total);
    else if (ok)
        ok = sy_add_u64(total, sy_cpu_reserve_bytes(p->be, &limits), &total);
    return ok ? total : UINT64_MAX;
}

static sy_status create_step_buffers(sy_engine *e) {
    sy_status st = SY_OK;
    const sy_engine_options *o = &e->options;
    size_t n = (size_t)o->per_rank, outputs = (size_t)o->max_outputs;
    size_t R = (size_t)sy_comm_size(e->parts.comm);
    int64_t pages = pages_per_sequence(o);

    e->sequence = calloc(n, sizeof *e->sequence);
    e->sequence_ids = calloc(n * (size_t)o->max_context, sizeof *e->sequence_ids);
    e->sequence_pages = calloc(n * (size_t)pages, sizeof *e->sequence_pages);
    e->span = calloc(n, sizeof *e->span);
    e->batch_ids = calloc((size_t)o->chunk, sizeof *e->batch_ids);
    e->output_row = calloc(outputs, sizeof *e->output_row);
    e->sampling = calloc(outputs, sizeof *e->sampling);
    e->token = calloc(outputs, sizeof *e->token);
    e->row = calloc((size_t)e->parts.spec->vocab, sizeof *e->row);
    e->mine = calloc(outputs, sizeof *e->mine);
    e->all = calloc(R * outputs, sizeof *e->all);
    if (e->sequence == NULL || e->sequence_ids == NULL || e->sequence_pages == NULL ||
        e->span == NULL || e->batch_ids == NULL || e->output_row == NULL ||
        e->sampling == NULL || e->token == NULL || e->row == NULL || e->mine == NULL ||
        e->all == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for the step's tables");
    for (size_t i = 0; i < n; i++) {
        e->sequence[i].id = e->sequence_ids + i * (size_t)o->max_context;
        e->sequence[i].page = e->sequence_pages + i * (size_t)pages;
    }
    int n_slots = (int)R * o->per_rank;
    SY_TRY(sy_record_create(n_slots, most_prompt_ids(o), &e->record));
done:
    return st;
}

/* One exchange serves all MoE layers, and its tables of choices have one width. */
static sy_status check_top_k(const sy_model_spec *spec, int top_k) {
    for (int l = 0; l < spec->n_layers; l++) {
        const sy_ffn_spec *f = &spec->layer[l].ffn;
        if (f->kind == SY_FFN_MOE && f->top_k != top_k)
            return sy_fail(SY_ERR_UNSUPPORTED,
                           "layer %d takes %d experts per token, another takes %d: layers that "
                           "differ in this are not implemented",
                           l, f->top_k, top_k);
    }
    return SY_OK;
}

/* What each rank makes on its own, without the others. */
static sy_status create_local(sy_engine *e) {
    sy_status st = SY_OK;
    const sy_engine_parts *p = &e->parts;
    sy_limits limits = limits_of(p, &e->options);
    if (e->options.per_rank < 1 || e->options.chunk < e->options.per_rank ||
        e->options.max_outputs < e->options.per_rank || e->options.max_context < 1)
        SY_FAIL(SY_ERR_INTERNAL, "engine options contradict each other");
    SY_TRY(check_top_k(p->spec, limits.top_k));
    SY_TRY(p->be->ops->reserve(p->be, &limits));
    SY_TRY(sy_kv_create(p->be, p->spec, e->options.max_pages, &e->runner.kv));
    SY_TRY(sy_workspace_create(p->be, p->spec, &limits, e->options.max_outputs, &e->runner.ws));
    SY_TRY(sy_loads_create(p->spec, p->placement, sy_comm_rank(p->comm), &e->runner.loads));
    SY_TRY(sy_rope_set_create(p->be, p->spec, e->options.max_context, &e->rope));
    e->runner.rope = e->rope->layer;
    SY_TRY(create_step_buffers(e));
done:
    return st;
}

/* Collective. */
static sy_status create_profile(sy_engine *e) {
    sy_profile_parts parts = profile_parts(&e->parts, &e->options);
    if (!e->options.profile.on) return SY_OK;
    parts.loads = e->runner.loads;
    parts.exchange = e->runner.exchange;
    return sy_profile_create(&parts, &e->options.profile, &e->runner.profile);
}

sy_status sy_engine_create(const sy_engine_parts *parts,
                           const sy_engine_options *options,
                           sy_engine **out) {
    sy_status st = SY_OK;
    *out = NULL;
    sy_engine *e = calloc(1, sizeof *e);
    if (e != NULL) {
        e->parts = *parts;
        e->options = *options;
        e->runner = (sy_runner){.be = parts->be,
                                .spec = parts->spec,
                                .weights = parts->weights,
                                .placement = parts->placement,
                                .live = parts->live};
        st = create_local(e);
    } else {
        st = sy_fail(SY_ERR_MEMORY, "no memory for the engine");
    }
    SY_TRY(sy_comm_agree(parts->comm, st));
    sy_exchange_shape shape = exchange_shape(parts, options);
    SY_TRY(sy_exchange_create(parts->comm, parts->be, &shape, &e->runner.exchange));
    sy_stepper_options steps = {.max_rows = options->chunk,
                                .max_outputs = options->max_outputs,
                                .record = shape.max_capacity > 0};
    SY_TRY(sy_stepper_create(&e->runner, parts->comm, &steps, &e->stepper));
    SY_TRY(create_profile(e));
    *out = e;
    e = NULL;
done:
    sy_engine_destroy(e);
    return st;
}

void sy_engine_destroy(sy_engine *e) {
    if (e == NULL) return;
    sy_profile_destroy(e->runner.profile);
    sy_stepper_destroy(e->stepper);
    sy_exchange_destroy(e->runner.exchange);
    sy_rope_set_destroy(e->rope);
    sy_loads_destroy(e->runner.loads);
    sy_workspace_free(e->parts.be, &e->runner.ws);
    sy_kv_destroy(e->runner.kv);
    sy_record_destroy(e->record);
    free(e->sequence);
    free(e->sequence_ids);
    free(e->sequence_pages);
    free(e->span);
    free(e->batch_ids);
    free(e->output_row);
    free(e->sampling);
    free(e->token);
    free(e->row);
    free(e->mine);
    free(e->all);
    free(e);
}

void sy_engine_step_stats(const sy_engine *e, sy_stepper_stats *out) {
    sy_stepper_get_stats(e->stepper, out);
}

sy_runner *sy_engine_runner(sy_engine *e) {
    return &e->runner;
}

/* This rank's sequence in a slot, or NULL if the slot is another rank's. */
static sequence *own_sequence(sy_engine *e, int slot) {
    int local = slot - sy_comm_rank(e->parts.comm) * e->options.per_rank;
    return local >= 0 && local < e->options.per_rank ? &e->sequence[local] : NULL;
}

static sy_status follow_record(sy_engine *e, const sy_step_record *record) {
    sy_status st = SY_OK;
    for (int i = 0; i < record->n_retire; i++) {
        sequence *s = own_sequence(e, record->retire[i]);
        if (s == NULL) continue;
        sy_kv_give_back(e->runner.kv, s->n_pages, s->page);
        s->n_pages = 0;
    }
    const int32_t *ids = record->prompt_ids;
    for (int i = 0; i < record->n_admit; i++) {
        const sy_step_admit *admit = &record->admit[i];
        int64_t number = sy_profile_admit(e->runner.profile);
        sequence *s = own_sequence(e, admit->slot);
        if (s != NULL) {
            s->number = number;
            s->n_prompt = admit->n_prompt;
            s->position = 0;
            s->sampling = admit->sampling;
            s->n_pages = sy_kv_pages(admit->n_total);
            SY_TRY(sy_kv_take(e->runner.kv, s->n_pages, s->page));
            memcpy(s->id, ids, (size_t)admit->n_prompt * sizeof *ids);
        }
        ids += admit->n_prompt;
    }
done:
    return st;
}

/* Most rows and outputs that any rank has in a step; every rank computes the same numbers. */
static void
find_most(const sy_engine *e, const sy_step_record *record, int64_t *rows, int64_t *outputs) {
    int64_t n_rows = 0, n_outputs = 0;
    int rank = -1;
    *rows = *outputs = 0;
    for (int i = 0; i < record->n_work; i++) { /* ascending slots: rank by rank */
        int r = record->work[i].slot / e->options.per_rank;
        if (r != rank) n_rows = n_outputs = 0;
        rank = r;
        n_rows += record->work[i].n_rows;
        n_outputs += record->work[i].output;
        *rows = sy_max(*rows, n_rows);
        *outputs = sy_max(*outputs, n_outputs);
    }
}

/* The batch of this rank from the record's work. */
static void build_step(sy_engine *e, const sy_step_record *record, sy_step *step) {
    *step = (sy_step){.hash = record->hash,
                      .output_row = e->output_row,
                      .batch = {.span = e->span, .ids = e->batch_ids}};
    for (int i = 0; i < record->n_work; i++) {
        const sy_step_work *work = &record->work[i];
        sequence *s = own_sequence(e, work->slot);
        if (s == NULL) continue;
        sy_batch *b = &step->batch;
        sy_profile_span(e->runner.profile, b->n_spans, s->number);
        e->span[b->n_spans++] = (sy_span){b->n_rows, work->n_rows, s->position, s->page};
        memcpy(e->batch_ids + b->n_rows, s->id + s->position,
               (size_t)work->n_rows * sizeof *s->id);
        b->n_rows += work->n_rows;
        s->position += work->n_rows;
        if (!work->output) continue;
        sy_sample_params *p = &e->sampling[step->n_outputs];
        *p = s->sampling;
        p->position = (uint64_t)s->position;
        e->output_row[step->n_outputs++] = b->n_rows - 1;
    }
    find_most(e, record, &step->most_rows, &step->most_outputs);
}

static sy_status hash_row(sy_engine *e, int64_t row, uint64_t *out) {
    sy_status st = SY_OK;
    size_t V = (size_t)e->parts.spec->vocab;
    SY_TRY(e->parts.be->ops->read(e->parts.be, e->row, e->runner.ws.logits + (size_t)row * V,
                                  V * sizeof *e->row, e->runner.stream));
    *out = sy_hash_bytes(0, e->row, V * sizeof *e->row);
done:
    return st;
}

/* Samples this rank's output rows and appends the tokens to their sequences. */
static sy_status
sample_outputs(sy_engine *e, const sy_step_record *record, const sy_step *step) {
    sy_status st = SY_OK;
    SY_TRY(e->parts.be->ops->sample(e->parts.be, step->n_outputs, e->parts.spec->vocab,
                                    e->options.n_valid, e->runner.ws.logits, e->sampling,
                                    e->token, e->runner.stream));
    int64_t at = 0;
    for (int i = 0; i < record->n_work; i++) {
        sequence *s = own_sequence(e, record->work[i].slot);
        if (s == NULL || !record->work[i].output) continue;
        e->mine[at] = (sampled){.id = e->token[at], .is_nan = e->token[at] < 0};
        if (e->options.hash_logits) SY_TRY(hash_row(e, at, &e->mine[at].logits_hash));
        if (s->position < e->options.max_context) s->id[s->position] = e->token[at];
        at++;
    }
done:
    return st;
}

static bool is_end_token(const sy_model_spec *spec, int32_t id) {
    for (int i = 0; i < spec->n_eos; i++)
        if (spec->eos[i] == id) return true;
    return false;
}

/* State of a generation on rank 0. */
typedef struct generation {
    const sy_request *requests;
    const sy_engine_events *events;
    sy_schedule *schedule;
    int64_t *n_generated; /* [n] */
    int64_t prompt_rows, prompt_rows_done;
    sy_engine_stats *stats;
} generation;

/* Hands the step's tokens to the caller and the schedule. */
static void
deliver_tokens(sy_engine *e, generation *g, const sy_step_record *record, int64_t stride) {
    int64_t n = 0;
    int rank = -1;
    for (int i = 0; i < record->n_work; i++) {
        int slot = record->work[i].slot, r = slot / e->options.per_rank;
        if (r != rank) n = 0;
        rank = r;
        if (!record->work[i].output) continue;
        const sampled *s = &e->all[r * stride + n++];
        int request = sy_schedule_request(g->schedule, slot);
        g->n_generated[request]++;
        sy_token token = {.id = s->id, .is_nan = s->is_nan, .logits_hash = s->logits_hash};
        token.is_end = !e->options.ignore_eos && is_end_token(e->parts.spec, s->id);
        token.is_last = token.is_end || token.is_nan ||
                        g->n_generated[request] >= g->requests[request].max_tokens;
        bool stop = g->events->token(g->events->context, request, &token);
        sy_schedule_token(g->schedule, slot, stop || token.is_last);
    }
}

static void count_step(generation *g, const sy_step_record *record, double seconds) {
    int64_t prefill = sy_schedule_prefill_rows(g->schedule);
    g->stats->steps++;
    if (prefill > 0) {
        g->stats->prefill_tokens += prefill;
        for (int i = 0; i < record->n_work; i++)
            g->stats->mixed_tokens += record->work[i].n_rows;
        g->stats->mixed_tokens -= prefill;
        g->stats->prefill_seconds += seconds;
        g->prompt_rows_done += prefill;
        if (g->events->prefill != NULL)
            g->events->prefill(g->events->context, g->prompt_rows_done, g->prompt_rows);
    } else {
        g->stats->decode_tokens += record->n_work;
        g->stats->decode_seconds += seconds;
    }
}

/* One step after its record is known: forward, sample, tokens to rank 0. */
static sy_status run_step(sy_engine *e, const sy_step_record *record, int64_t *outputs) {
    sy_status st = SY_OK;
    sy_step step;
    sy_profile *profile = e->runner.profile;
    sy_profile_step_begin(profile);
    SY_TRY(follow_record(e, record));
    build_step(e, record, &step);
    e->runner.loads->tokens += (uint64_t)step.batch.n_rows;
    SY_TRY(sy_stepper_run(e->stepper, &step));
    SY_TRY(sy_phase(profile, -1, SY_PHASE_SAMPLE));
    SY_TRY(sample_outputs(e, record, &step));
    *outputs = step.most_outputs;
    if (*outputs > 0) {
        SY_TRY(sy_phase(profile, -1, SY_PHASE_REPORT));
        sy_progress_wait(e->parts.live); /* or rank 0 would be blamed for a rank that hangs */
        SY_TRY(sy_comm_gather(e->parts.comm, e->mine, (size_t)*outputs * sizeof *e->mine,
                              e->all, 0));
        sy_progress_resume(e->parts.live);
    }
    SY_TRY(sy_profile_step_end(profile, step.batch.n_rows, step.most_rows));
done:
    return st;
}

static bool interrupted(const generation *g) {
    return g->events->interrupted != NULL && g->events->interrupted(g->events->context);
}

static sy_status create_generation(sy_engine *e,
                                   const sy_request *requests,
                                   int n,
                                   const sy_engine_events *events,
                                   sy_engine_stats *stats,
                                   generation *g) {
    sy_status st = SY_OK;
    *g = (generation){.requests = requests, .events = events, .stats = stats};
    memset(stats, 0, sizeof *stats);
    sy_schedule_shape shape = {.n_ranks = sy_comm_size(e->parts.comm),
                               .per_rank = e->options.per_rank,
                               .chunk = e->options.chunk,
                               .pages_per_rank = e->options.max_pages};
    shape.max_prompt_ids = most_prompt_ids(&e->options);
    for (int i = 0; i < n; i++) {
        if (requests[i].n_prompt + requests[i].max_tokens > e->options.max_context)
            SY_FAIL(SY_ERR_USAGE,
                    "prompt %d has %lld tokens; with %lld more to generate that is beyond the "
                    "context of %lld",
                    i + 1, (long long)requests[i].n_prompt, (long long)requests[i].max_tokens,
                    (long long)e->options.max_context);
        g->prompt_rows += requests[i].n_prompt;
    }
    g->n_generated = calloc((size_t)n + 1, sizeof *g->n_generated);
    if (g->n_generated == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %d requests", n);
    SY_TRY(sy_schedule_create(&shape, requests, n, &g->schedule));
done:
    return st;
}

sy_status sy_engine_generate(sy_engine *e,
                             const sy_request *requests,
                             int n,
                             const sy_engine_events *events,
                             sy_engine_stats *stats) {
    sy_status st = SY_OK;
    generation g = {0};
    bool root = sy_comm_rank(e->parts.comm) == 0;
    sy_step_record *record = e->record;
    if (root) st = create_generation(e, requests, n, events, stats, &g);
    SY_TRY(sy_comm_agree(e->parts.comm, st));

    for (;;) {
        if (root) {
            sy_schedule_next(g.schedule, record);
            if (!record->stop && interrupted(&g)) record->stop = stats->interrupted = true;
        }
        sy_progress_wait(e->parts.live); /* rank 0 may be writing to a slow terminal */
        SY_TRY(sy_record_broadcast(e->parts.comm, record));
        sy_progress_resume(e->parts.live);
        if (record->stop) break;
        double begin = sy_now();
        int64_t outputs;
        SY_TRY(run_step(e, record, &outputs));
        if (!root) continue;
        count_step(&g, record, sy_now() - begin);
        sy_progress_wait(e->parts.live); /* a reader of the text may be slow: no rank's fault */
        deliver_tokens(e, &g, record, outputs);
        sy_progress_resume(e->parts.live);
    }
    SY_TRY(sy_stepper_loads(e->stepper));
    /* An interrupted run leaves sequences behind; a next run starts clean. */
    for (int i = 0; i < e->options.per_rank; i++) {
        sequence *s = &e->sequence[i];
        sy_kv_give_back(e->runner.kv, s->n_pages, s->page);
        s->n_pages = 0;
    }
done:
    sy_schedule_destroy(g.schedule);
    free(g.n_generated);
    return st;
}

sy_status sy_engine_logits(sy_engine *e,
                           const int32_t *ids,
                           int64_t n,
                           const int32_t *const *forced,
                           sy_logits_sink rows,
                           void *context) {
    sy_status st = SY_OK;
    bool root = sy_comm_rank(e->parts.comm) == 0;
    int K = limits_of(&e->parts, &e->options).top_k;
    size_t V = (size_t)e->parts.spec->vocab;
    const int32_t *at[SY_MAX_LAYERS]; /* of each MoE layer: the routes of this chunk */
    sequence *s = &e->sequence[0];
    float *host = NULL;
    int64_t chunk = sy_min(e->options.chunk, e->options.max_outputs);
    int n_moe = 0;
    for (int l = 0; l < e->parts.spec->n_layers; l++)
        n_moe += e->parts.spec->layer[l].ffn.kind == SY_FFN_MOE;

    if (root) {
        host = calloc((size_t)chunk * V, sizeof *host);
        if (host == NULL)
            st = sy_fail(SY_ERR_MEMORY, "no memory for logits");
        else if (n > e->options.max_context)
            st = sy_fail(SY_ERR_USAGE, "%lld ids are beyond the context of %lld", (long long)n,
                         (long long)e->options.max_context);
        else
            st = sy_kv_take(e->runner.kv, sy_kv_pages(n), s->page);
        s->n_pages = st == SY_OK ? sy_kv_pages(n) : 0;
    }
    SY_TRY(sy_comm_agree(e->parts.comm, st));
    for (int64_t begin = 0; begin < n; begin += chunk) {
        int64_t most = sy_min(chunk, n - begin);
        int rows_here = root ? (int)most : 0;
        sy_span span = {0, rows_here, begin, s->page};
        sy_step step = {.batch = {rows_here, root, &span, ids + begin},
                        .n_outputs = rows_here,
                        .output_row = e->output_row,
                        .hash = sy_hash_add((uint64_t)n, (uint64_t)begin),
                        .most_rows = most,
                        .most_outputs = most,
                        .replayed = forced != NULL};
        for (int i = 0; i < rows_here; i++)
            e->output_row[i] = i;
        for (int l = 0; root && forced != NULL && l < n_moe; l++)
            at[l] = forced[l] + begin * K;
        if (root && forced != NULL) step.forced = at;
        e->runner.loads->tokens += (uint64_t)rows_here;
        SY_TRY(sy_stepper_run(e->stepper, &step));
        if (root) {
            SY_TRY(e->parts.be->ops->read(e->parts.be, host, e->runner.ws.logits,
                                          (size_t)rows_here * V * sizeof *host,
                                          e->runner.stream));
            st = rows(context, rows_here, host);
        }
        /* A full disk on rank 0 ends the others too. */
        SY_TRY(sy_comm_agree(e->parts.comm, st));
    }
    SY_TRY(sy_stepper_loads(e->stepper));
done:
    if (root) {
        sy_kv_give_back(e->runner.kv, s->n_pages, s->page);
        s->n_pages = 0;
    }
    free(host);
    return st;
}

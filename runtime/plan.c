#include "runtime/plan.h"

#include <stdlib.h>

#include "base/checked.h"
#include "topology/routing.h"

enum { MOST_EXPERTS = 1 << 20 }; /* of all layers: more would take longer than a second */

/* Experts of each layer, [n_layers]. */
static sy_status list_experts(const sy_model_spec *spec, int **out) {
    int64_t all = 0;
    int *experts = calloc((size_t)spec->n_layers, sizeof *experts);
    *out = experts;
    if (experts == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a plan");
    for (int l = 0; l < spec->n_layers; l++)
        all += experts[l] = spec->layer[l].ffn.experts;
    if (all > MOST_EXPERTS)
        return sy_fail(SY_ERR_UNSUPPORTED, "plan: %lld experts in all layers, the most is %d",
                       (long long)all, MOST_EXPERTS);
    return SY_OK;
}

/* Bytes of an exchange's worst case that even routing leaves untouched where all ranks step with
 * `rows` of T rows. Rows for experts: [T R min(K, slots)] are reserved, [rows K] are computed. Rows
 * home: as many are reserved in the own block, and by MPI T min(K, slots) from each peer. */
static sy_status count_untouched(const sy_model_spec *spec,
                                 const sy_comm *comm,
                                 int64_t chunk,
                                 int64_t rows,
                                 uint64_t *out) {
    sy_status st = SY_OK;
    int ranks = sy_comm_size(comm), inter = 0, by_mpi = 0;
    double H = spec->hidden, T = (double)chunk, t = (double)rows, home;
    const sy_ffn_spec *f = NULL;
    *out = 0;
    for (int l = 0; l < spec->n_layers; l++) {
        if (spec->layer[l].ffn.experts == 0) continue;
        f = &spec->layer[l].ffn;
        inter = (int)sy_max(inter, f->inter);
    }
    if (f == NULL || ranks == 1) return SY_OK;
    for (int r = 0; r < ranks; r++)
        by_mpi += !sy_comm_shares_memory(comm, sy_comm_rank(comm), r);
    SY_TRY(sy_routing_rows_home(f->experts, f->top_k, ranks, NULL, &home));
    double most = (double)sy_min(f->top_k, sy_ceil_div(f->experts, ranks));
    /* x and h in 2 bytes, y in 4; rows home in 4 */
    double bytes = (T * ranks * most - t * f->top_k) * (6 * H + 2.0 * inter) +
                   (T * ranks * most - t * home) * 4 * H +
                   by_mpi * (T * most - t * home / ranks) * 4 * H;
    *out = bytes > 0 ? (uint64_t)bytes : 0;
done:
    return st;
}

static sy_engine_options
engine_options(const sy_model_spec *spec, const sy_plan_wish *wish, int ranks) {
    int64_t per_rank = sy_ceil_div(wish->batch, ranks);
    return (sy_engine_options){.max_context = wish->context,
                               .max_pages = per_rank * sy_kv_pages(wish->context),
                               .per_rank = (int)per_rank,
                               .chunk = sy_max(wish->chunk, per_rank),
                               .max_outputs = per_rank,
                               .n_valid = spec->vocab};
}

/* The parts of one rank under two precisions: of the routed experts, and of all else. */
static sy_status count_parts(const sy_plan_precision *precision,
                             sy_engine_parts *parts,
                             const sy_engine_options *options,
                             sy_memory_parts *out) {
    sy_status st = SY_OK;
    sy_memory_parts experts;
    parts->spec = &precision->experts;
    SY_TRY(sy_budget_count(parts, NULL, options, &experts));
    parts->spec = &precision->rest;
    SY_TRY(sy_budget_count(parts, NULL, options, out));
    out->experts = experts.experts;
done:
    return st;
}

/* The parts of the rank that holds most under a placement. */
static sy_status count_fullest(const sy_plan_precision *precision,
                               sy_engine_parts *parts,
                               const sy_cluster *cluster,
                               const sy_engine_options *options,
                               int ranks,
                               sy_memory_parts *out) {
    sy_status st = SY_OK;
    *out = (sy_memory_parts){0};
    for (int rank = 0; rank < ranks; rank++) {
        sy_memory_parts mine;
        sy_comm_destroy(parts->comm);
        parts->comm = NULL;
        SY_TRY(sy_comm_create_planned(rank, ranks, cluster->devices_per_host, &parts->comm));
        SY_TRY(count_parts(precision, parts, options, &mine));
        if (sy_budget_total(&mine) > sy_budget_total(out)) *out = mine;
    }
done:
    return st;
}

/* The memory of the fullest rank, with a chunk that fits if one does. */
static sy_status count_memory(const sy_plan_precision *precision,
                              sy_backend *be,
                              const sy_placement *placement,
                              bool contiguous,
                              const sy_cluster *cluster,
                              const sy_plan_wish *wish,
                              sy_plan_row *row) {
    sy_status st = SY_OK;
    const sy_model_spec *spec = &precision->rest;
    sy_engine_parts parts = {.be = be, .placement = placement};
    sy_engine_options wished = engine_options(spec, wish, row->ranks), options = wished;
    uint64_t untouched;
    row->usable = (uint64_t)cluster->usable.value;
    row->reserve = (uint64_t)(cluster->memory.value - cluster->usable.value);
    SY_TRY(sy_comm_create_planned(row->ranks - 1, row->ranks, cluster->devices_per_host,
                                  &parts.comm));
    if (contiguous) /* the last rank has most */
        SY_TRY(count_parts(precision, &parts, &options, &row->memory));
    else
        SY_TRY(count_fullest(precision, &parts, cluster, &options, row->ranks, &row->memory));
    while (sy_budget_total(&row->memory) > row->usable && sy_budget_shrink(&options))
        sy_budget_count_engine(&parts, &options, &row->memory);
    row->fits = sy_budget_total(&row->memory) <= row->usable;
    if (!row->fits) options = wished;
    sy_budget_count_engine(&parts, &options, &row->memory);
    row->total = sy_budget_total(&row->memory);
    row->chunk = options.chunk;
    int64_t rows = sy_min(options.chunk, options.per_rank * wish->context);
    SY_TRY(count_untouched(spec, parts.comm, options.chunk, rows, &untouched));
    row->expected = row->total;
    if (untouched < row->memory.buffers) row->expected -= untouched;
done:
    sy_comm_destroy(parts.comm);
    return st;
}

static sy_status forecast(const sy_plan_model *model,
                          const sy_forecast_machine *machine,
                          const sy_plan_wish *wish,
                          sy_plan_row *row) {
    sy_status st = SY_OK;
    sy_forecast_job job = {.mode = SY_PARALLEL_SPREAD,
                           .ranks = row->ranks,
                           .batch = wish->batch,
                           .context = wish->context,
                           .prompt = wish->context,
                           .chunk = row->chunk};
    SY_TRY(sy_forecast_decode(&model->forecast, machine, &job, &row->decode));
    SY_TRY(sy_forecast_prefill(&model->forecast, machine, &job, &row->prefill));
    job.mode = SY_PARALLEL_SHARD;
    SY_TRY(sy_forecast_decode(&model->forecast, machine, &job, &row->shard_decode));
    SY_TRY(sy_forecast_prefill(&model->forecast, machine, &job, &row->shard_prefill));
done:
    return st;
}

static void choose(sy_plan_table *t) {
    t->best = t->fastest = t->smallest = -1;
    for (int i = 0; i < t->n; i++) {
        const sy_plan_row *row = &t->row[i];
        if (!row->fits) continue;
        if (t->smallest < 0) t->smallest = i;
        if (row->is_there && (t->fastest < 0 || row->decode.tokens_per_s >
                                                    t->row[t->fastest].decode.tokens_per_s))
            t->fastest = i;
    }
    for (int i = 0; i < t->n && t->fastest >= 0 && t->best < 0; i++)
        if (t->row[i].fits && t->row[i].is_there &&
            t->row[i].decode.tokens_per_s * (1 + SY_PLAN_WORTH) >=
                t->row[t->fastest].decode.tokens_per_s)
            t->best = i;
}

/* Whether so many devices are linked, as far as the description says. */
static bool is_linked(const sy_cluster *c, int ranks) {
    return ranks <= c->devices_per_host || c->between_hosts.bandwidth.source != NULL;
}

sy_status sy_plan_make(const sy_plan_precision *precision,
                       sy_backend *be,
                       const sy_cluster *cluster,
                       const sy_plan_wish *wish,
                       const sy_plan_loads *loads,
                       const sy_placement *placement,
                       sy_plan_table *out) {
    sy_status st = SY_OK;
    int *experts = NULL, most = (int)sy_max(SY_PLAN_RANKS, cluster->n_devices);
    sy_plan_model *model = NULL;
    sy_placement *dealt = NULL;
    sy_forecast_machine machine;
    *out = (sy_plan_table){.best = -1};
    SY_TRY(list_experts(&precision->rest, &experts));
    SY_TRY(sy_plan_model_create(precision, loads, placement, &model));
    sy_plan_machine(cluster, model, &machine);
    for (int ranks = 1; ranks <= most; ranks++) {
        bool whole = ranks == cluster->n_devices;
        if (!whole && (ranks > SY_PLAN_RANKS || !is_linked(cluster, ranks))) continue;
        sy_plan_row *row = &out->row[out->n];
        *row = (sy_plan_row){.ranks = ranks, .is_there = ranks <= cluster->n_devices};
        bool placed = whole && placement != NULL;
        if (!placed)
            SY_TRY(sy_placement_contiguous(precision->rest.n_layers, experts, ranks, &dealt));
        st = count_memory(precision, be, placed ? placement : dealt, !placed, cluster, wish,
                          row);
        sy_placement_destroy(dealt);
        dealt = NULL;
        SY_TRY(st);
        SY_TRY(forecast(model, &machine, wish, row));
        if (whole) out->whole = out->n;
        out->n++;
    }
    choose(out);
done:
    sy_plan_model_destroy(model);
    free(experts);
    return st;
}

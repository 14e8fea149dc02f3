/* switchyard plan MODEL --cluster C: does it fit, and how fast would it be. One plain process, from
 * config.json alone. */
#include "launcher/cmd_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "launcher/commands.h"
#include "launcher/output.h"
#include "launcher/plan_report.h"
#include "topology/placement_file.h"

enum { DEFAULT_CONTEXT = 4096 };

const char sy_plan_help[] =
    "Says whether a model fits, what each rank would hold, and how fast it would be, from its\n"
    "config.json (or params.json) alone: nothing is started, no weights are read. "
    "docs/plan.md\n"
    "has the cost model, its limits, and how its forecasts compare with published figures.\n"
    "\n"
    "--cluster takes the name of a built-in description, NAME:N for N of them, or a file.\n"
    "`plan --cluster list` prints what is built in, with the source of every constant; with\n"
    "--json in the form of such a file.\n"
    "\n"
    "Memory is what `run`, `bench` and `logits` would check before they load; see --memory\n"
    "there. Decode is of one token for every sequence behind --ctx positions, prefill of\n"
    "prompts of --ctx tokens. An asterisk marks more ranks than the cluster has. --placement\n"
    "is one for all devices of the cluster; other numbers of ranks have contiguous experts.\n"
    "\n"
    "--json prints one object:\n"
    "  model, family, precision, ctx, batch, loads, placement\n"
    "  cluster       the description, in the form of its file\n"
    "  ranks, fits   of the whole cluster\n"
    "  rows          by number of ranks: ranks, available (the cluster has so many), fits,\n"
    "                chunk, memory (bytes of the fullest rank: experts, rest, kv, workspace,\n"
    "                process, total; expected: what a run on CPUs touches of it; usable and\n"
    "                reserve of its device), mode, decode, prefill and shard (built, decode,\n"
    "                prefill)\n"
    "  decode, prefill of a row    tokens_per_s, bound_tokens_per_s, share_of_bound, seconds\n"
    "                (of a step; of all prompts), rest_s, experts_s, kv_s, compute_s,\n"
    "                exchange_s, latency_s, overhead_s, rest_bytes, experts_bytes, kv_bytes,\n"
    "                exchange_bytes, imbalance\n"
    "  recommended   ranks (null: nothing fits), mode, text";

static sy_status make_wish(const sy_options *o, const sy_model_spec *spec, sy_plan_wish *out) {
    int64_t most = spec->max_position;
    if (o->plan_ctx > most)
        return sy_fail(SY_ERR_USAGE, "--ctx: %lld is beyond the model's context of %lld",
                       (long long)o->plan_ctx, (long long)most);
    *out =
        (sy_plan_wish){.context = o->plan_ctx > 0 ? o->plan_ctx : sy_min(DEFAULT_CONTEXT, most),
                       .batch = o->plan_batch,
                       .chunk = o->chunk};
    return SY_OK;
}

/* --placement, which must be one for all devices of the cluster; NULL if it was not given. */
static sy_status
read_placement(const sy_options *o, const sy_model_spec *spec, int ranks, sy_placement **out) {
    sy_status st = SY_OK;
    sy_placement_list *list = NULL;
    int *experts = NULL;
    *out = NULL;
    if (o->placement == NULL) return SY_OK;
    experts = calloc((size_t)spec->n_layers, sizeof *experts);
    if (experts == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    for (int l = 0; l < spec->n_layers; l++)
        experts[l] = spec->layer[l].ffn.experts;
    const sy_placement_target target = {spec->family, spec->n_layers, experts, ranks};
    SY_TRY(sy_placement_read(o->placement, SY_PLACEMENT_ANY, &list));
    SY_TRY(sy_placement_list_place(list, o->placement, &target, out));
done:
    sy_placement_list_destroy(list);
    free(experts);
    return st;
}

static sy_status plan(const sy_options *o, const sy_cluster *cluster, sy_backend *be) {
    sy_status st = SY_OK;
    sy_model_spec *spec = NULL;
    sy_plan_loads *loads = NULL;
    sy_placement *placement = NULL;
    sy_plan_table table;
    sy_plan_precision precision;
    sy_plan_report report = {
        .model = o->model, .precision = o->precision, .cluster = cluster, .table = &table};
    SY_TRY(sy_spec_load(o->model, &spec));
    SY_TRY(sy_plan_precision_make(spec, o->precision, &precision));
    SY_TRY(make_wish(o, spec, &report.wish));
    if (o->plan_loads != NULL) SY_TRY(sy_plan_loads_read(o->plan_loads, spec, &loads));
    SY_TRY(read_placement(o, spec, cluster->n_devices, &placement));
    SY_TRY(sy_plan_make(&precision, be, cluster, &report.wish, loads, placement, &table));
    report.weights = &precision;
    report.has_loads = loads != NULL;
    report.has_placement = placement != NULL;
    SY_TRY(o->json ? sy_plan_print_json(&report) : sy_plan_print_text(&report));
done:
    sy_placement_destroy(placement);
    sy_plan_loads_destroy(loads);
    sy_spec_destroy(spec);
    return st;
}

sy_status sy_cmd_plan(const sy_options *o) {
    sy_status st = SY_OK;
    sy_cluster *cluster = NULL;
    sy_pool *pool = NULL;
    sy_backend *be = NULL;
    if (o->cluster == NULL)
        SY_FAIL(SY_ERR_USAGE, "plan needs --cluster; `plan --cluster list` prints what is "
                              "built in");
    if (strcmp(o->cluster, "list") == 0) {
        SY_TRY(sy_plan_list_clusters(o->json));
        goto flush;
    }
    if (o->model == NULL) SY_FAIL(SY_ERR_USAGE, "plan needs a MODEL");
    SY_TRY(sy_cluster_load(o->cluster, &cluster));
    /* Sizes are those of the CPU's layouts on every cluster: a device's own table cannot be opened
     * where there is no such device. */
    SY_TRY(sy_pool_create(1, false, &pool));
    SY_TRY(sy_cpu_open(SY_BF16, pool, NULL, &be));
    SY_TRY(plan(o, cluster, be));
flush:
    SY_TRY(sy_out_flush());
done:
    if (be != NULL) be->ops->close(be);
    sy_pool_destroy(pool);
    sy_cluster_destroy(cluster);
    return st;
}

/* A plan as one JSON object; its keys are in the help text of cmd_plan.c. */
#include <jansson.h>
#include <stdlib.h>

#include "launcher/output.h"
#include "launcher/plan_report.h"

static json_t *json_bytes(uint64_t n) {
    return n <= INT64_MAX ? json_integer((json_int_t)n) : json_real((double)n);
}

static json_t *json_memory(const sy_plan_row *row) {
    json_t *o = json_object();
    const struct {
        const char *key;
        uint64_t bytes;
    } part[] = {{"experts", row->memory.experts}, {"rest", row->memory.rest},
                {"kv", row->memory.kv},           {"workspace", row->memory.buffers},
                {"process", row->memory.process}, {"total", row->total},
                {"expected", row->expected},      {"usable", row->usable},
                {"reserve", row->reserve}};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        json_object_set_new(o, part[i].key, json_bytes(part[i].bytes));
    return o;
}

static json_t *json_forecast(const sy_forecast *f) {
    json_t *o = json_object();
    const struct {
        const char *key;
        double value;
    } term[] = {{"tokens_per_s", f->tokens_per_s},
                {"bound_tokens_per_s", f->bound_per_s},
                {"share_of_bound", f->tokens_per_s / f->bound_per_s},
                {"seconds", f->seconds},
                {"rest_s", f->rest_s},
                {"experts_s", f->experts_s},
                {"kv_s", f->kv_s},
                {"compute_s", f->compute_s},
                {"exchange_s", f->exchange_s},
                {"latency_s", f->latency_s},
                {"overhead_s", f->overhead_s},
                {"rest_bytes", f->rest_bytes},
                {"experts_bytes", f->experts_bytes},
                {"kv_bytes", f->kv_bytes},
                {"exchange_bytes", f->exchange_bytes},
                {"imbalance", f->imbalance}};
    for (size_t i = 0; i < sizeof term / sizeof *term; i++)
        json_object_set_new(o, term[i].key, json_real(term[i].value));
    return o;
}

static json_t *json_row(const sy_plan_row *row) {
    json_t *o = json_object(), *shard = json_object();
    json_object_set_new(o, "ranks", json_integer(row->ranks));
    json_object_set_new(o, "available", json_boolean(row->is_there));
    json_object_set_new(o, "fits", json_boolean(row->fits));
    json_object_set_new(o, "chunk", json_integer(row->chunk));
    json_object_set_new(o, "memory", json_memory(row));
    json_object_set_new(o, "mode", json_string(row->ranks > 1 ? "spread" : "single"));
    json_object_set_new(o, "decode", json_forecast(&row->decode));
    json_object_set_new(o, "prefill", json_forecast(&row->prefill));
    json_object_set_new(shard, "built", json_false());
    json_object_set_new(shard, "decode", json_forecast(&row->shard_decode));
    json_object_set_new(shard, "prefill", json_forecast(&row->shard_prefill));
    json_object_set_new(o, "shard", shard);
    return o;
}

static json_t *json_recommended(const sy_plan_table *t) {
    char advice[SY_PLAN_ADVICE_MAX];
    json_t *o = json_object();
    sy_plan_advise(t, advice);
    int ranks = t->best < 0 ? 0 : t->row[t->best].ranks;
    json_object_set_new(o, "ranks", ranks > 0 ? json_integer(ranks) : json_null());
    json_object_set_new(
        o, "mode", ranks == 0 ? json_null() : json_string(ranks > 1 ? "spread" : "single"));
    json_object_set_new(o, "text", json_string(advice));
    return o;
}

static json_t *json_report(const sy_plan_report *r) {
    const sy_plan_table *t = r->table;
    json_t *o = json_object(), *rows = json_array();
    for (int i = 0; i < t->n; i++)
        json_array_append_new(rows, json_row(&t->row[i]));
    json_object_set_new(o, "model", json_string(r->model));
    json_object_set_new(o, "family", json_string(r->weights->rest.family));
    json_object_set_new(o, "precision",
                        json_string(r->precision == NULL ? "published" : r->precision));
    json_object_set_new(o, "ctx", json_integer(r->wish.context));
    json_object_set_new(o, "batch", json_integer(r->wish.batch));
    json_object_set_new(o, "loads", json_boolean(r->has_loads));
    json_object_set_new(o, "placement", json_boolean(r->has_placement));
    json_object_set_new(o, "cluster", sy_cluster_describe(r->cluster));
    json_object_set_new(o, "ranks", json_integer(r->cluster->n_devices));
    json_object_set_new(o, "fits", json_boolean(t->row[t->whole].fits));
    json_object_set_new(o, "rows", rows);
    json_object_set_new(o, "recommended", json_recommended(t));
    return o;
}

sy_status sy_plan_print_json(const sy_plan_report *report) {
    json_t *object = json_report(report);
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    sy_status st = text != NULL ? sy_out_printf("%s\n", text)
                                : sy_fail(SY_ERR_MEMORY, "no memory for the JSON text");
    free(text);
    json_decref(object);
    return st;
}

#include "launcher/place_report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "launcher/output.h"

/* Tokens that are drawn for the traffic of a layer: the mean of rows per token is then good to
 * about one part in a hundred, and over all layers to one in several hundred. */
enum { TOKENS = 512 };

sy_status sy_place_measure(const sy_balance_problem *problem,
                           const double *mean_load,
                           const int32_t *host,
                           const sy_placement_layer *layer,
                           sy_place_figures *out) {
    *out = (sy_place_figures){.imbalance = sy_balance_imbalance(problem, layer),
                              .slots = layer->slot_first[layer->n_ranks]};
    out->extra = out->slots - layer->n_experts;
    return sy_token_traffic_measure(layer, problem->top_k, mean_load, host, TOKENS,
                                    &out->traffic);
}

/* ---- all layers together ---- */

/* Layers run one after the other, each as long as its slowest rank: their times add up. Means per
 * layer, so that max/mean of all is the sum of the largest times over the sum of the mean ones. */
typedef struct summary {
    double imbalance, worst;
    int worst_layer;
    sy_token_traffic traffic;
    int64_t slots, extra;
} summary;

static const sy_place_figures *figures(const sy_place_layer *layer, bool after) {
    return after ? &layer->after : &layer->before;
}

static summary summarise(const sy_place_report *r, bool after) {
    summary s = {0};
    double n = r->n_layers;
    for (int i = 0; i < r->n_layers; i++) {
        const sy_place_figures *f = figures(&r->layer[i], after);
        s.imbalance += f->imbalance / n;
        if (f->imbalance > s.worst) {
            s.worst = f->imbalance;
            s.worst_layer = r->layer[i].layer;
        }
        s.traffic.copies += f->traffic.copies / n;
        s.traffic.rows += f->traffic.rows / n;
        s.traffic.host_copies += f->traffic.host_copies / n;
        s.traffic.host_rows += f->traffic.host_rows / n;
        s.traffic.host_pairs += f->traffic.host_pairs / n;
        s.slots += f->slots;
        s.extra += f->extra;
    }
    return s;
}

static double mean_bound(const sy_place_report *r) {
    double sum = 0;
    for (int i = 0; i < r->n_layers; i++)
        sum += r->layer[i].bound;
    return sum / r->n_layers;
}

/* In percent. */
static double gap(double value, double bound) {
    return 100 * (value / bound - 1);
}

/* ---- text ---- */

static sy_status print_layers(const sy_place_report *r) {
    sy_status st = SY_OK;
    SY_TRY(
        sy_out_printf("       max/mean                           rows per token\n"
                      "layer    before   after   bound     gap   before   after   copies\n"));
    for (int i = 0; i < r->n_layers; i++) {
        const sy_place_layer *l = &r->layer[i];
        SY_TRY(sy_out_printf("%5d  %8.3f%8.3f%8.3f%7.2f %%%9.2f%8.2f%9d\n", l->layer,
                             l->before.imbalance, l->after.imbalance, l->bound,
                             gap(l->after.imbalance, l->bound), l->before.traffic.rows,
                             l->after.traffic.rows, l->after.extra));
    }
done:
    return st;
}

static sy_status print_pair(const char *what, double before, double after) {
    return sy_out_printf("  %-42s%10.3f%10.3f\n", what, before, after);
}

static sy_status print_summary(const sy_place_report *r) {
    sy_status st = SY_OK;
    summary a = summarise(r, false), b = summarise(r, true);
    double bound = mean_bound(r);
    SY_TRY(sy_out_printf("\n%-44s%10s%10s\n", "all layers", "before", "after"));
    SY_TRY(print_pair("max/mean of the ranks' times", a.imbalance, b.imbalance));
    SY_TRY(print_pair("(max - mean)/mean", a.imbalance - 1, b.imbalance - 1));
    SY_TRY(print_pair("balancedness, mean/max", 1 / a.imbalance, 1 / b.imbalance));
    SY_TRY(sy_out_printf("  %-42s%10.3f%10.3f  (layers %d, %d)\n", "worst layer, max/mean",
                         a.worst, b.worst, a.worst_layer, b.worst_layer));
    SY_TRY(print_pair("ranks that a token is sent to", a.traffic.copies, b.traffic.copies));
    SY_TRY(print_pair("rows per token of the exact combine", a.traffic.rows, b.traffic.rows));
    if (r->n_hosts > 1) {
        SY_TRY(print_pair("pairs per token that leave the host", a.traffic.host_pairs,
                          b.traffic.host_pairs));
        SY_TRY(print_pair("copies of a token that leave the host", a.traffic.host_copies,
                          b.traffic.host_copies));
        SY_TRY(print_pair("rows per token between hosts", a.traffic.host_rows,
                          b.traffic.host_rows));
    }
    SY_TRY(
        sy_out_printf("  %-42s%10" PRId64 "%10" PRId64 "\n", "slots in use", a.slots, b.slots));
    SY_TRY(sy_out_printf("  %-42s%10" PRId64 "%10" PRId64 "\n", "of them further copies",
                         a.extra, b.extra));
    SY_TRY(sy_out_printf("no placement in these slots is below %.3f; the gap is %.2f %%\n",
                         bound, gap(b.imbalance, bound)));
done:
    return st;
}

sy_status sy_place_print_text(const sy_place_report *r) {
    sy_status st = SY_OK;
    SY_TRY(
        sy_out_printf("%s: %d layers with experts, %" PRIu64 " tokens in %d %s\n", r->model,
                      r->n_layers, r->tokens, r->n_profiles,
                      r->n_profiles == 1 ? "profile" : "profiles, the worst of which counts"));
    SY_TRY(sy_out_printf("%d %s on %d %s, at most %d slots on a rank and %d %s of an expert\n",
                         r->n_ranks, r->n_ranks == 1 ? "rank" : "ranks", r->n_hosts,
                         r->n_hosts == 1 ? "host" : "hosts", r->max_slots, r->max_copies,
                         r->max_copies == 1 ? "copy" : "copies"));
    SY_TRY(
        sy_out_printf("before: %s\n\n", r->before != NULL ? r->before : "contiguous experts"));
    SY_TRY(print_layers(r));
    SY_TRY(print_summary(r));
    if (r->out != NULL) SY_TRY(sy_out_printf("written to %s\n", r->out));
done:
    return st;
}

/* ---- JSON ---- */

static json_t *traffic_json(const sy_token_traffic *t) {
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "copies", t->copies, "rows", t->rows,
                     "host_pairs", t->host_pairs, "host_copies", t->host_copies, "host_rows",
                     t->host_rows);
}

static json_t *
state_json(double imbalance, const sy_token_traffic *traffic, int64_t slots, int64_t extra) {
    return json_pack("{s:f, s:f, s:f, s:o, s:I, s:I}", "max_over_mean", imbalance,
                     "max_minus_mean_over_mean", imbalance - 1, "balancedness", 1 / imbalance,
                     "per_token", traffic_json(traffic), "slots", (json_int_t)slots,
                     "extra_copies", (json_int_t)extra);
}

static json_t *figures_json(const sy_place_figures *f) {
    return state_json(f->imbalance, &f->traffic, f->slots, f->extra);
}

static json_t *summary_json(const summary *s) {
    json_t *object = state_json(s->imbalance, &s->traffic, s->slots, s->extra);
    json_t *worst = json_pack("{s:i, s:f}", "layer", s->worst_layer, "max_over_mean", s->worst);
    if (object == NULL || json_object_set_new(object, "worst_layer", worst) == 0) return object;
    json_decref(object);
    return NULL;
}

static json_t *layers_json(const sy_place_report *r) {
    json_t *list = json_array();
    for (int i = 0; list != NULL && i < r->n_layers; i++) {
        const sy_place_layer *l = &r->layer[i];
        json_t *one = json_pack("{s:i, s:i, s:i, s:f, s:f, s:o, s:o}", "layer", l->layer,
                                "experts", l->experts, "top_k", l->top_k, "bound", l->bound,
                                "gap", l->after.imbalance / l->bound - 1, "before",
                                figures_json(&l->before), "after", figures_json(&l->after));
        if (json_array_append_new(list, one) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

sy_status sy_place_print_json(const sy_place_report *r) {
    sy_status st = SY_OK;
    summary a = summarise(r, false), b = summarise(r, true);
    double bound = mean_bound(r);
    char *text = NULL;
    json_t *root = json_pack(
        "{s:s, s:i, s:I, s:i, s:i, s:i, s:i, s:s?, s:s?, s:f, s:f, s:o, s:o, s:o}", "model",
        r->model, "profiles", r->n_profiles, "tokens", (json_int_t)r->tokens, "ranks",
        r->n_ranks, "hosts", r->n_hosts, "max_slots", r->max_slots, "max_copies", r->max_copies,
        "against", r->before, "out", r->out, "bound", bound, "gap", b.imbalance / bound - 1,
        "before", summary_json(&a), "after", summary_json(&b), "layers", layers_json(r));
    if (root != NULL) text = json_dumps(root, JSON_REAL_PRECISION(10));
    if (text == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the report, or a name is no UTF-8");
    SY_TRY(sy_out_printf("%s\n", text));
done:
    free(text);
    json_decref(root);
    return st;
}

#include "launcher/report_gain.h"

#include <math.h>

#include "base/checked.h"
#include "topology/balance.h"

/* Layers x experts x ranks: half a minute of searching. */
enum { MOST_WORK = 1 << 25 };

static int
fullest_rank_slots(const sy_report_layer *layer, const sy_report *r, int32_t *count) {
    int most = 0;
    for (int i = 0; i < r->n_ranks; i++)
        count[i] = 0;
    for (int i = 0; i < layer->n_slots; i++) {
        int n = ++count[layer->slot_rank[i]];
        if (n > most) most = n;
    }
    return (int)sy_max(most, sy_ceil_div(layer->n_experts, r->n_ranks));
}

static sy_status
imbalance_with(const sy_report_layer *layer, int n_ranks, int slots, int copies, double *out) {
    sy_balance_result result = {0};
    sy_balance_problem problem = {.n_experts = layer->n_experts,
                                  .n_ranks = n_ranks,
                                  .top_k = layer->top_k,
                                  .max_slots = slots,
                                  .max_copies = copies,
                                  .n_profiles = 1,
                                  .load = layer->load.expert};
    sy_status st = sy_balance_layer(&problem, &result);
    *out = result.imbalance;
    sy_balance_free(&result);
    if (st != SY_OK) sy_status_context("placing layer %d", layer->layer);
    return st;
}

static sy_status find_layer(const sy_report *r, int l, int32_t *count, sy_report_gain *out) {
    sy_status st = SY_OK;
    const sy_report_layer *layer = &r->layer[l];
    out->now[l] = out->same[l] = out->extra[l] = NAN;
    out->load[l] = layer->load.all / r->n_ranks;
    if (!(layer->load.all > 0)) goto done;
    double most = 0;
    for (int i = 0; i < r->n_ranks; i++)
        most = fmax(most, layer->load.rank[i]);
    out->now[l] = most / out->load[l];
    int slots = fullest_rank_slots(layer, r, count);
    bool copies = layer->n_slots > layer->n_experts;
    out->copies = out->copies || copies;
    SY_TRY(imbalance_with(layer, r->n_ranks, slots, copies ? r->n_ranks : 1, &out->same[l]));
    SY_TRY(imbalance_with(layer, r->n_ranks, slots + 1, r->n_ranks, &out->extra[l]));
    out->extra[l] = fmin(out->extra[l], out->same[l]); /* nobody has to use the room */
    out->now_all += out->now[l] * out->load[l];
    out->same_all += out->same[l] * out->load[l];
    out->extra_all += out->extra[l] * out->load[l];
done:
    return st;
}

sy_status sy_report_gain_find(sy_report *r, sy_report_gain *out, bool *known) {
    sy_status st = SY_OK;
    int32_t *count;
    double all = 0;
    uint64_t L = (uint64_t)r->n_layers;
    *out = (sy_report_gain){0};
    *known = false;
    if (r->n_ranks < 2) goto done;
    if ((int64_t)r->n_layers * r->most_experts > MOST_WORK / r->n_ranks) goto done;
    SY_TRY(sy_report_take(r, L, sizeof(double), &out->now));
    SY_TRY(sy_report_take(r, L, sizeof(double), &out->same));
    SY_TRY(sy_report_take(r, L, sizeof(double), &out->extra));
    SY_TRY(sy_report_take(r, L, sizeof(double), &out->load));
    SY_TRY(sy_report_take(r, (uint64_t)r->n_ranks, sizeof *count, &count));
    for (int l = 0; l < r->n_layers; l++) {
        SY_TRY(find_layer(r, l, count, out));
        all += out->load[l];
    }
    *known = all > 0;
    if (!*known) goto done;
    out->now_all /= all;
    out->same_all /= all;
    out->extra_all /= all;
done:
    return st;
}

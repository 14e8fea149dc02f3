#include "topology/balance.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "topology/balance_traffic.h"

/* Changes looked at per layer: a few milliseconds for 256 experts on 144 ranks. */
enum { EXPLORE_BUDGET = 300000, ALIGN_BUDGET = 12000 };

/* Room for rounding where values are compared with a limit that one of them equals. */
#define ROUNDING 1e-12

static sy_status check_problem(const sy_balance_problem *p) {
    assert(p->n_experts > 0 && p->n_ranks > 0 && p->n_profiles > 0 && p->max_copies > 0);
    if ((int64_t)p->max_slots * p->n_ranks < p->n_experts)
        return sy_fail(SY_ERR_USAGE,
                       "%d experts do not fit into %d slots on each of %d ranks: at least %d "
                       "are needed",
                       p->n_experts, p->max_slots, p->n_ranks,
                       (int)sy_ceil_div(p->n_experts, p->n_ranks));
    return SY_OK;
}

static double value_of(const sy_balance_state *s) {
    return s->value[sy_balance_slowest(s)];
}

/* ---- two ways to a placement ---- */

typedef struct layer_search {
    const sy_balance_problem *problem;
    sy_balance_search search;
    sy_balance_traffic traffic;
    sy_balance_state even; /* found by the search for balance */
    sy_balance_state work;
    sy_balance_state best; /* the result, in the end */
    double least;          /* its traffic */
    double limit;          /* imbalance that the result may have */
    double bound;
} layer_search;

static void close_search(layer_search *g) {
    sy_balance_search_destroy(&g->search);
    sy_balance_traffic_destroy(&g->traffic);
    sy_balance_state_destroy(&g->even);
    sy_balance_state_destroy(&g->work);
    sy_balance_state_destroy(&g->best);
}

static sy_status open_search(const sy_balance_problem *problem, layer_search *g) {
    sy_status st = SY_OK;
    *g = (layer_search){.problem = problem};
    SY_TRY(sy_balance_search_create(problem->n_profiles, &g->search));
    SY_TRY(sy_balance_traffic_create(problem, &g->traffic));
    SY_TRY(sy_balance_state_create(problem, &g->even));
    SY_TRY(sy_balance_state_create(problem, &g->work));
    SY_TRY(sy_balance_state_create(problem, &g->best));
done:
    return st;
}

static sy_status start_published(layer_search *g, sy_balance_state *s, double *claimed) {
    sy_status st = SY_OK;
    const sy_balance_problem *p = g->problem;
    double *sum = calloc((size_t)p->n_experts, sizeof *sum);
    if (sum == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a search");
    for (int k = 0; k < p->n_profiles; k++)
        for (int e = 0; e < p->n_experts; e++)
            sum[e] += p->load[(size_t)k * (size_t)p->n_experts + (size_t)e];
    SY_TRY(sy_balance_published(s, sum, claimed));
done:
    free(sum);
    return st;
}

/* The best balance, and from it what the result may be worse. */
static sy_status search_balance(layer_search *g) {
    sy_status st = SY_OK;
    sy_balance_state *published = &g->work;
    double claimed;
    SY_TRY(start_published(g, published, &claimed));
    /* What it counts on is out of reach for us now and then; nothing is given away then. */
    double peer = value_of(published);
    if (g->problem->n_profiles == 1) peer = fmin(peer, claimed);
    SY_TRY(sy_balance_greedy(&g->even));
    sy_balance_descend(&g->search, published);
    sy_balance_descend(&g->search, &g->even);
    if (value_of(published) < value_of(&g->even)) sy_balance_state_copy(&g->even, published);
    sy_balance_explore(&g->search, &g->even, &g->best, g->bound, EXPLORE_BUDGET);
    double best = value_of(&g->even);
    double given = fmin(best * SY_BALANCE_TOLERANCE, (peer - best) * SY_BALANCE_GIVEN);
    g->limit = (best + fmax(given, 0)) * (1 + ROUNDING);
done:
    return st;
}

/* The rank with room and without the expert that would be done first; -1: none. */
static int rank_with_room(const sy_balance_state *s, int e) {
    double least = INFINITY;
    int best = -1;
    for (int r = 0; r < s->R; r++) {
        if (sy_balance_full(s, r) || sy_balance_holds(s, r, e)) continue;
        double value = sy_balance_value_with(s, r, NULL, sy_balance_share(s, e));
        if (value >= least) continue;
        least = value;
        best = r;
    }
    return best;
}

/* Contiguous experts, and of each as many further copies as the other state has. */
static void start_contiguous(sy_balance_state *s, const sy_balance_state *other) {
    sy_balance_state_clear(s);
    for (int64_t r = 0; r < s->R; r++)
        for (int64_t e = (int64_t)s->E * r / s->R; e < (int64_t)s->E * (r + 1) / s->R; e++)
            sy_balance_add(s, (int)e, (int)r);
    for (int e = 0; e < s->E; e++) {
        while (s->n_copies[e] < other->n_copies[e] && !sy_balance_stopped(s)) {
            int r = rank_with_room(s, e);
            if (r < 0) break;
            sy_balance_add(s, e, r);
        }
    }
}

/* Keeps the state under work if its traffic, at the costs that were asked for, is the least. */
static void judge(layer_search *g) {
    sy_balance_traffic_set_cost(&g->traffic, g->problem->cost);
    double traffic = sy_balance_traffic_total(&g->traffic, &g->work);
    if (traffic >= g->least) return;
    g->least = traffic;
    sy_balance_state_copy(&g->best, &g->work);
}

/* Searches with these costs: from the even placement, and from contiguous experts. */
static void search_aligned(layer_search *g, const double *cost) {
    bool drop = !g->problem->fill;
    sy_balance_state_copy(&g->work, &g->even);
    sy_balance_traffic_set_cost(&g->traffic, cost);
    sy_balance_traffic_count(&g->traffic, &g->work);
    sy_balance_align(&g->traffic, &g->work, g->limit, drop, ALIGN_BUDGET);
    judge(g);

    start_contiguous(&g->work, &g->best);
    sy_balance_traffic_set_cost(&g->traffic, cost);
    sy_balance_traffic_count(&g->traffic, &g->work);
    if (!sy_balance_even_out(&g->traffic, &g->work, g->limit)) {
        sy_balance_descend(&g->search, &g->work);
        if (value_of(&g->work) > g->limit) return;
        sy_balance_traffic_count(&g->traffic, &g->work);
    }
    sy_balance_align(&g->traffic, &g->work, g->limit, drop, ALIGN_BUDGET);
    judge(g);
}

/* A search that minds unequal costs is not always the better one: both are made. */
static void search_traffic(layer_search *g) {
    const double *cost = g->problem->cost;
    bool unequal = false;
    for (int r = 1; cost != NULL && r < g->problem->n_ranks; r++)
        unequal = unequal || cost[r] != cost[0];
    g->least = INFINITY;
    search_aligned(g, NULL);
    if (unequal) search_aligned(g, cost);
}

/* A copy for each empty slot, of the expert that slows its rank the least. */
static void fill_slots(sy_balance_state *s) {
    for (int r = 0; r < s->R; r++) {
        while (!sy_balance_full(s, r) && !sy_balance_stopped(s)) {
            int best = -1;
            double least = INFINITY;
            for (int e = 0; e < s->E; e++) {
                if (sy_balance_holds(s, r, e) || s->n_copies[e] >= s->most) continue;
                double load = 0;
                for (int p = 0; p < s->P; p++)
                    load = fmax(load, s->weight[(size_t)e * (size_t)s->P + (size_t)p]);
                if (load / (s->n_copies[e] + 1) >= least) continue;
                least = load / (s->n_copies[e] + 1);
                best = e;
            }
            if (best < 0) break;
            sy_balance_add(s, best, r);
        }
    }
    sy_balance_recount(s);
}

/* ---- the result ---- */

static sy_status write_result(const sy_balance_state *s, sy_balance_result *out) {
    sy_status st = SY_OK;
    size_t total = 0;
    for (int r = 0; r < s->R; r++)
        total += (size_t)s->n_held[r];
    out->n_slots = calloc((size_t)s->R, sizeof *out->n_slots);
    out->slot_expert = calloc(total, sizeof *out->slot_expert);
    if (out->n_slots == NULL || out->slot_expert == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    int32_t *next = out->slot_expert;
    for (int r = 0; r < s->R; r++) {
        out->n_slots[r] = s->n_held[r];
        for (int e = 0; e < s->E; e++)
            if (sy_balance_holds(s, r, e)) *next++ = e;
    }
    out->imbalance = value_of(s);
done:
    return st;
}

static sy_status
bound_of(const sy_balance_problem *problem, const sy_balance_state *s, double *out) {
    size_t n = 2 * (size_t)problem->n_experts + (size_t)problem->n_ranks + 1;
    double *scratch = calloc(n, sizeof *scratch);
    if (scratch == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a bound");
    *out = sy_balance_state_bound(s, scratch);
    free(scratch);
    return SY_OK;
}

sy_status sy_balance_layer(const sy_balance_problem *problem, sy_balance_result *out) {
    sy_status st = SY_OK;
    layer_search g = {0};
    memset(out, 0, sizeof *out);
    SY_TRY(check_problem(problem));
    SY_TRY(open_search(problem, &g));
    SY_TRY(bound_of(problem, &g.even, &g.bound));
    SY_TRY(search_balance(&g));
    search_traffic(&g);
    if (problem->fill) fill_slots(&g.best);
    if (sy_balance_stopped(&g.even)) SY_FAIL(SY_ERR_INTERRUPTED, "interrupted");
    SY_TRY(write_result(&g.best, out));
    out->bound = fmin(g.bound, out->imbalance); /* they may differ by rounding */
done:
    close_search(&g);
    return st;
}

void sy_balance_free(sy_balance_result *result) {
    free(result->n_slots);
    free(result->slot_expert);
    memset(result, 0, sizeof *result);
}

double sy_balance_imbalance(const sy_balance_problem *p, const sy_placement_layer *layer) {
    double worst = 0, speeds = 0;
    for (int r = 0; r < p->n_ranks; r++)
        speeds += p->speed != NULL ? p->speed[r] : 1;
    for (int profile = 0; profile < p->n_profiles; profile++) {
        const double *load = p->load + (size_t)profile * (size_t)p->n_experts;
        double sum = 0;
        for (int e = 0; e < p->n_experts; e++)
            sum += load[e];
        for (int r = 0; r < p->n_ranks; r++) {
            double mine = 0;
            for (int s = layer->slot_first[r]; s < layer->slot_first[r + 1]; s++) {
                int e = layer->slot_expert[s];
                int n = layer->home_first[e + 1] - layer->home_first[e];
                mine += (sum > 0 ? load[e] / sum : 1.0 / p->n_experts) / n;
            }
            worst = fmax(worst, mine * speeds / (p->speed != NULL ? p->speed[r] : 1));
        }
    }
    return worst;
}

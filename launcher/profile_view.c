#include "launcher/profile_view.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "launcher/output.h"

enum { MOST_CELLS = 32, MOST_RANKS_SHOWN = 64 };

typedef struct view {
    sy_profile_data *d;
    const sy_comm *comm;
    bool colored;
    double *x; /* [larger of E and R] */
} view;

/* ---- shading ---- */

/* How a cell of `ratio` times the mean looks: steps of about 1.5 around 1. */
static int shade_of(double ratio) {
    static const double above[] = {0.0, 0.1, 0.3, 0.6, 0.9, 1.4, 2.0, 3.0, 4.5};
    int n = 0;
    while (n < 9 && ratio > above[n])
        n++;
    return n;
}

static sy_status print_cell(const view *v, double ratio) {
    static const char shapes[] = " .:-=+*#%@";
    /* Of the palette of 256 colours: from dark blue over white to dark red. */
    static const int colors[] = {235, 17, 19, 26, 74, 252, 222, 208, 196, 124};
    int shade = shade_of(ratio);
    if (!v->colored) return sy_out_write(&shapes[shade], 1);
    return sy_out_printf("\033[48;5;%dm ", colors[shade]);
}

/* A layer's experts, several to a cell where there are many. */
static sy_status print_cells(const view *v, int n_experts, int n_cells) {
    sy_status st = SY_OK;
    double sum = 0;
    for (int e = 0; e < n_experts; e++)
        sum += v->x[e];
    double mean = sum / n_experts;
    SY_TRY(sy_out_printf(v->colored ? " " : "["));
    for (int c = 0; c < n_cells; c++) {
        int64_t begin = (int64_t)n_experts * c / n_cells;
        int64_t end = (int64_t)n_experts * (c + 1) / n_cells;
        double cell = 0;
        for (int64_t e = begin; e < end; e++)
            cell += v->x[e];
        SY_TRY(print_cell(v, mean > 0 ? cell / (double)(end - begin) / mean : 0));
    }
    SY_TRY(sy_out_printf(v->colored ? "\033[0m " : "]"));
done:
    return st;
}

/* ---- layers ---- */

static int cells_of(const sy_profile_data *d) {
    return (int)sy_min(d->n_experts, MOST_CELLS);
}

static sy_status print_layer_titles(const view *v, const char *name, uint64_t tokens) {
    sy_status st = SY_OK;
    int width = (int)sy_max(cells_of(v->d), 7);
    SY_TRY(sy_out_printf("\n%s: %" PRIu64 " tokens\n", name, tokens));
    SY_TRY(sy_out_printf("layer  %-*s  %-15s %-15s %-15s %-15s %-15s %s\n", width, "experts",
                         "max/mean", "(max-mean)/mean", "balancedness", "entropy", "unused",
                         "ranks max/mean"));
done:
    return st;
}

static sy_status print_beside(double value, double uniform) {
    char text[48];
    snprintf(text, sizeof text, "%.3g (%.3g)", value, uniform);
    return sy_out_printf(" %-15s", text);
}

static sy_status print_layer(const view *v, const sy_profile_label *label, int moe) {
    sy_status st = SY_OK;
    sy_profile_balance b;
    int n_experts = v->d->placement->layer[v->d->layer[moe]].n_experts;
    SY_TRY(sy_profile_balance_of(v->d, label, moe, &b));
    sy_profile_expert_counts(v->d, label, moe, v->x);
    SY_TRY(sy_out_printf("%5d ", v->d->layer[moe]));
    SY_TRY(print_cells(v, n_experts, (int)sy_min(n_experts, MOST_CELLS)));
    SY_TRY(print_beside(b.experts.max_over_mean, b.uniform_experts.max_over_mean));
    SY_TRY(print_beside(b.experts.excess_over_mean, b.uniform_experts.excess_over_mean));
    SY_TRY(print_beside(b.experts.balancedness, b.uniform_experts.balancedness));
    SY_TRY(print_beside(b.experts.entropy, b.uniform_experts.entropy));
    SY_TRY(print_beside(b.experts.unused, b.uniform_experts.unused));
    SY_TRY(print_beside(b.ranks.max_over_mean, b.uniform_ranks.max_over_mean));
    SY_TRY(sy_out_printf("\n"));
done:
    return st;
}

static sy_status print_label(const view *v, const char *name, const sy_profile_label *label) {
    sy_status st = SY_OK;
    SY_TRY(print_layer_titles(v, name, label->tokens));
    for (int moe = 0; moe < v->d->n_moe; moe++)
        SY_TRY(print_layer(v, label, moe));
done:
    return st;
}

/* ---- labels beside one another ---- */

static sy_status
print_overlap(const view *v, const sy_profile_label *a, const sy_profile_label *b, int moe) {
    sy_status st = SY_OK;
    double by_chance, *y = calloc((size_t)v->d->n_experts, sizeof *y);
    int n = v->d->placement->layer[v->d->layer[moe]].n_experts;
    if (y == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a comparison");
    sy_profile_expert_counts(v->d, a, moe, v->x);
    sy_profile_expert_counts(v->d, b, moe, y);
    SY_TRY(sy_balance_uniform_overlap(v->x, y, n, &by_chance));
    SY_TRY(sy_out_printf("%5d  %.3f (%.3f)\n", v->d->layer[moe], sy_balance_overlap(v->x, y, n),
                         by_chance));
done:
    free(y);
    return st;
}

static sy_status print_comparisons(const view *v) {
    sy_status st = SY_OK;
    for (int i = 0; i < v->d->n_labels; i++) {
        for (int k = i + 1; k < v->d->n_labels; k++) {
            const sy_profile_label *a = &v->d->label[i], *b = &v->d->label[k];
            SY_TRY(sy_out_printf("\n%s and %s: share of the load on the same experts "
                                 "(if both were one kind of text)\n",
                                 a->name, b->name));
            for (int moe = 0; moe < v->d->n_moe; moe++)
                SY_TRY(print_overlap(v, a, b, moe));
        }
    }
done:
    return st;
}

/* ---- ranks ---- */

static double seconds(uint64_t ns) {
    return (double)ns * 1e-9;
}

static double phases(const view *v, int rank, sy_profile_phase first, sy_profile_phase last) {
    uint64_t sum = 0;
    for (int i = first; i <= (int)last; i++)
        sum += sy_profile_phase_total(v->d, rank, i);
    return seconds(sum);
}

static sy_status print_rank(const view *v, int r, double pairs, double all_pairs) {
    const sy_profile_data *d = v->d;
    double step = seconds(d->times[r].step_ns), wait = seconds(sy_profile_wait_total(d, r));
    double experts = phases(v, r, SY_PHASE_EXPERTS_UP, SY_PHASE_EXPERTS_DOWN);
    double exchange = phases(v, r, SY_PHASE_DISPATCH, SY_PHASE_DISPATCH) +
                      phases(v, r, SY_PHASE_GATHER, SY_PHASE_GATHER) +
                      phases(v, r, SY_PHASE_COMBINE, SY_PHASE_COMBINE) +
                      phases(v, r, SY_PHASE_HOME_SUM, SY_PHASE_HOME_SUM);
    return sy_out_printf("%5d  %7.1f %%  %9.3f  %9.3f  %5.1f %%  %9.3f  %9.3f  %9.3f\n", r,
                         all_pairs > 0 ? 100 * pairs / all_pairs : 0, step, wait,
                         step > 0 ? 100 * wait / step : 0,
                         phases(v, r, SY_PHASE_ATTN_IN, SY_PHASE_ATTN_OUT), experts, exchange);
}

static sy_status print_ranks(const view *v) {
    sy_status st = SY_OK;
    sy_profile_data *d = v->d;
    double all = 0, *pairs = calloc((size_t)d->n_ranks, sizeof *pairs);
    if (pairs == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the ranks' load");
    for (int moe = 0; moe < d->n_moe; moe++) {
        sy_profile_rank_counts(d, &d->total, moe, v->x);
        for (int r = 0; r < d->n_ranks; r++) {
            pairs[r] += v->x[r];
            all += v->x[r];
        }
    }
    SY_TRY(sy_out_printf("\n rank  load       seconds    waiting            attention  "
                         "experts    exchange\n"));
    for (int r = 0; r < d->n_ranks && r < MOST_RANKS_SHOWN; r++)
        SY_TRY(print_rank(v, r, pairs[r], all));
    if (d->n_ranks > MOST_RANKS_SHOWN)
        SY_TRY(sy_out_printf("  ... %d more ranks\n", d->n_ranks - MOST_RANKS_SHOWN));
done:
    free(pairs);
    return st;
}

static sy_status print_links(const view *v) {
    const sy_profile_data *d = v->d;
    uint64_t rows[3] = {0}, bytes[3] = {0};
    char host[32], between[32];
    for (int a = 0; a < d->n_ranks; a++) {
        for (int b = 0; b < d->n_ranks; b++) {
            const sy_exchange_peer *p = &d->link[(size_t)a * (size_t)d->n_ranks + (size_t)b];
            int kind = a == b                                                 ? 0
                       : sy_comm_host(v->comm, a) == sy_comm_host(v->comm, b) ? 1
                                                                              : 2;
            rows[kind] += p->dispatch_sent.rows;
            bytes[kind] += p->dispatch_sent.bytes + p->combine_sent.bytes;
        }
    }
    return sy_out_printf("\ntokens to experts: %" PRIu64 " stay on their rank, %" PRIu64
                         " to others of the host (%s both ways), %" PRIu64
                         " to other hosts (%s)\n",
                         rows[0], rows[1], sy_format_bytes(host, sizeof host, bytes[1]),
                         rows[2], sy_format_bytes(between, sizeof between, bytes[2]));
}

sy_status sy_profile_show(sy_profile_data *d, const sy_comm *comm, bool colored) {
    sy_status st = SY_OK;
    size_t n = (size_t)sy_max(sy_max(d->n_experts, d->n_ranks), 1);
    view v = {d, comm, colored, calloc(n, sizeof(double))};
    if (v.x == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the table");
    for (int i = 0; i < d->n_labels; i++)
        SY_TRY(print_label(&v, d->label[i].name, &d->label[i]));
    if (d->n_labels > 1) SY_TRY(print_label(&v, "all together", &d->total));
    SY_TRY(print_comparisons(&v));
    SY_TRY(print_ranks(&v));
    SY_TRY(print_links(&v));
    SY_TRY(sy_out_printf("in brackets: a router that chooses at random, for as many tokens\n"));
done:
    free(v.x);
    return st;
}

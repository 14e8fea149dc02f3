#include "topology/token_traffic.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

void sy_token_ranks(const sy_placement_layer *layer,
                    int home,
                    int64_t row,
                    int top_k,
                    const int32_t *expert,
                    int32_t *rank) {
    for (int i = 0; i < top_k; i++) {
        int32_t first = layer->home_first[expert[i]];
        int64_t n_copies = layer->home_first[expert[i] + 1] - first;
        rank[i] = layer->home[first + (home + row) % n_copies].rank;
    }
}

/* Within [lo, lo + n), of n_chosen experts. */
static void
mark(int lo, int n, int n_chosen, const int32_t *e, const int32_t *rank, bool *opens) {
    bool same = true;
    if (n_chosen == 0) return;
    for (int i = 1; i < n_chosen && same; i++)
        same = rank[i] == rank[0];
    for (int i = 0; same && i < n_chosen; i++)
        opens[i] = i == 0;
    if (same) return;
    int n_left = (n + 1) / 2, at = 0;
    while (at < n_chosen && e[at] < lo + n_left)
        at++;
    mark(lo, n_left, at, e, rank, opens);
    mark(lo + n_left, n - n_left, n_chosen - at, e + at, rank + at, opens + at);
}

void sy_token_segments(int n_experts,
                       int top_k,
                       const int32_t *expert,
                       const int32_t *rank,
                       bool *opens) {
    mark(0, n_experts, top_k, expert, rank, opens);
}

void sy_token_chances(int n_experts, int top_k, const double *load, double *chosen) {
    double sum = 0, all = 0;
    for (int e = 0; e < n_experts; e++)
        sum += load[e];
    /* Experts without load fill up where fewer than K have any. */
    double least = sum > 0 ? sum * 1e-12 : 1;
    for (int e = 0; e < n_experts; e++) {
        chosen[e] = load[e] > least ? load[e] : least;
        all += chosen[e];
    }
    for (int e = 0; e < n_experts; e++)
        chosen[e] *= top_k / all;
    /* What is above 1 becomes 1, and the others share what is left, until none is above. */
    for (int before = 0;;) {
        int n_certain = 0;
        double rest = 0;
        for (int e = 0; e < n_experts; e++) {
            if (chosen[e] >= 1) chosen[e] = 1;
            n_certain += chosen[e] >= 1;
            rest += chosen[e] < 1 ? chosen[e] : 0;
        }
        if (n_certain == before || rest <= 0) return;
        before = n_certain;
        for (int e = 0; e < n_experts; e++)
            if (chosen[e] < 1) chosen[e] *= (top_k - n_certain) / rest;
    }
}

static void insert_ascending(int32_t *list, int n, int32_t e) {
    for (; n > 0 && list[n - 1] > e; n--)
        list[n] = list[n - 1];
    list[n] = e;
}

static bool contains(const int32_t *list, int n, int32_t e) {
    for (int i = 0; i < n; i++)
        if (list[i] == e) return true;
    return false;
}

void sy_token_draw(int n_experts,
                   int top_k,
                   const double *chosen,
                   uint64_t number,
                   int32_t *order,
                   int32_t *expert) {
    uint64_t key = sy_hash_add(number, 0x70c5);
    for (int e = 0; e < n_experts; e++)
        order[e] = e;
    for (int e = n_experts - 1; e > 0; e--) {
        int other = (int)(sy_mix64(key + (uint64_t)e) % ((uint64_t)e + 1));
        int32_t kept = order[e];
        order[e] = order[other];
        order[other] = kept;
    }
    /* The chances lie side by side on a line of length K; every point u + i takes the expert on
     * which it falls. None is longer than 1, so none is taken twice. */
    double next = sy_uniform(key, 0), end = 0;
    int n = 0;
    for (int i = 0; i < n_experts && n < top_k; i++) {
        end += chosen[order[i]];
        if (end <= next) continue;
        insert_ascending(expert, n++, order[i]);
        next += 1;
    }
    /* Rounding may have left out the last. */
    for (int i = n_experts - 1; n < top_k; i--)
        if (!contains(expert, n, order[i])) insert_ascending(expert, n++, order[i]);
}

/* ---- counting ---- */

typedef struct counting {
    const sy_placement_layer *layer;
    const int32_t *host;
    int top_k;
    double *chosen;
    int32_t *order, *expert, *rank;
    bool *opens;
    int64_t copies, rows, host_copies, host_rows, host_pairs;
} counting;

static bool leaves_host(const counting *c, int home, int rank) {
    return c->host != NULL && c->host[home] != c->host[rank];
}

static void count_token(counting *c, int home, int64_t row, uint64_t number) {
    int E = c->layer->n_experts, K = c->top_k;
    sy_token_draw(E, K, c->chosen, number, c->order, c->expert);
    sy_token_ranks(c->layer, home, row, K, c->expert, c->rank);
    sy_token_segments(E, K, c->expert, c->rank, c->opens);
    for (int i = 0; i < K; i++) {
        int r = c->rank[i];
        if (r == home) continue;
        bool leaves = leaves_host(c, home, r), first = !contains(c->rank, i, r);
        c->copies += first;
        c->rows += c->opens[i];
        c->host_copies += first && leaves;
        c->host_rows += c->opens[i] && leaves;
        c->host_pairs += leaves;
    }
}

sy_status sy_token_traffic_measure(const sy_placement_layer *layer,
                                   int top_k,
                                   const double *load,
                                   const int32_t *host,
                                   int n_tokens,
                                   sy_token_traffic *out) {
    sy_status st = SY_OK;
    size_t E = (size_t)layer->n_experts, K = (size_t)top_k;
    counting c = {.layer = layer,
                  .host = host,
                  .top_k = top_k,
                  .chosen = calloc(E, sizeof *c.chosen),
                  .order = calloc(E, sizeof *c.order),
                  .expert = calloc(K, sizeof *c.expert),
                  .rank = calloc(K, sizeof *c.rank),
                  .opens = calloc(K, sizeof *c.opens)};
    memset(out, 0, sizeof *out);
    if (c.chosen == NULL || c.order == NULL || c.expert == NULL || c.rank == NULL ||
        c.opens == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for counting traffic");
    sy_token_chances(layer->n_experts, top_k, load, c.chosen);
    for (int i = 0; i < n_tokens; i++)
        count_token(&c, i % layer->n_ranks, i / layer->n_ranks, (uint64_t)i);
    double n = n_tokens;
    *out =
        (sy_token_traffic){(double)c.copies / n, (double)c.rows / n, (double)c.host_copies / n,
                           (double)c.host_rows / n, (double)c.host_pairs / n};
done:
    free(c.chosen);
    free(c.order);
    free(c.expert);
    free(c.rank);
    free(c.opens);
    return st;
}

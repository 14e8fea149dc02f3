/* Less traffic at equal balance: aligned runs of experts are brought together. */
#include <math.h>

#include "topology/balance_traffic.h"

/* Traffic must fall by more than rounding. */
#define LEAST_GAIN 1e-9

/* ---- nodes as units that move ---- */

static bool node_on(const sy_balance_traffic *t, const sy_balance_state *s, int v, int r) {
    for (int e = t->first[v]; e < t->first[v] + t->count[v]; e++)
        if (!sy_balance_holds(s, r, e)) return false;
    return true;
}

static bool node_off(const sy_balance_traffic *t, const sy_balance_state *s, int v, int r) {
    for (int e = t->first[v]; e < t->first[v] + t->count[v]; e++)
        if (sy_balance_holds(s, r, e)) return false;
    return true;
}

/* The node of n experts whose first is e; -1: there is none. */
static int node_from(const sy_balance_traffic *t, int e, int n) {
    int v = t->leaf[e];
    while (t->count[v] < n && t->parent[v] >= 0)
        v = t->parent[v];
    return t->count[v] == n && t->first[v] == e ? v : -1;
}

static const double *load_of(const sy_balance_traffic *t, int v) {
    return v < 0 ? NULL : t->sum + (size_t)v * (size_t)t->P;
}

void sy_balance_exchange_apply(sy_balance_traffic *t,
                               sy_balance_state *s,
                               const sy_balance_exchange *x) {
    int a = x->rank, b = x->other_rank;
    for (int i = 0; i < t->count[x->node]; i++) {
        int e = t->first[x->node] + i;
        if (x->other_node >= 0)
            sy_balance_swap(s, e, a, t->first[x->other_node] + i, b);
        else
            sy_balance_move(s, e, a, b);
    }
    for (int i = 0; i < t->count[x->node]; i++) {
        sy_balance_traffic_update(t, s, t->first[x->node] + i, a);
        sy_balance_traffic_update(t, s, t->first[x->node] + i, b);
        if (x->other_node < 0) continue;
        sy_balance_traffic_update(t, s, t->first[x->other_node] + i, a);
        sy_balance_traffic_update(t, s, t->first[x->other_node] + i, b);
    }
}

static sy_balance_exchange reverse(const sy_balance_exchange *x) {
    return (sy_balance_exchange){x->node, x->other_rank, x->other_node, x->rank};
}

static double
pair_traffic(const sy_balance_traffic *t, const sy_balance_state *s, int a, int b) {
    return sy_balance_traffic_of(t, s, a) + sy_balance_traffic_of(t, s, b);
}

/* By how much an exchange lessens the traffic; the state is as before. */
static double saving(sy_balance_traffic *t, sy_balance_state *s, const sy_balance_exchange *x) {
    sy_balance_exchange back = reverse(x);
    double before = pair_traffic(t, s, x->rank, x->other_rank);
    sy_balance_exchange_apply(t, s, x);
    double after = pair_traffic(t, s, x->rank, x->other_rank);
    sy_balance_exchange_apply(t, s, &back);
    return before - after;
}

/* The value of the rank that gives the node, after an exchange; and of the other. */
static double value_here(const sy_balance_traffic *t,
                         const sy_balance_state *s,
                         const sy_balance_exchange *x) {
    return sy_balance_value_with(s, x->rank, load_of(t, x->node), load_of(t, x->other_node));
}

static double value_there(const sy_balance_traffic *t,
                          const sy_balance_state *s,
                          const sy_balance_exchange *x) {
    return sy_balance_value_with(s, x->other_rank, load_of(t, x->other_node),
                                 load_of(t, x->node));
}

/* ---- alignment ---- */

typedef struct alignment {
    sy_balance_traffic *t;
    sy_balance_state *s;
    double limit;
    int64_t left;  /* exchanges that may still be tried */
    int64_t looks; /* pairs of nodes that may still be looked at */
} alignment;

static void
try_exchange(alignment *g, sy_balance_exchange x, double *best, sy_balance_exchange *out) {
    if (value_here(g->t, g->s, &x) > g->limit || value_there(g->t, g->s, &x) > g->limit) return;
    g->left -= g->t->count[x.node];
    double gain = saving(g->t, g->s, &x);
    if (gain <= *best) return;
    *best = gain;
    *out = x;
}

/* Node v moves from rank a to rank b, for whatever of b it may change places with. */
static void
try_rank(alignment *g, int v, int a, int b, double *best, sy_balance_exchange *out) {
    const sy_balance_traffic *t = g->t;
    const sy_balance_state *s = g->s;
    int n = t->count[v];
    if (!node_off(t, s, v, b)) return;
    if (s->n_held[b] + n <= s->cap)
        try_exchange(g, (sy_balance_exchange){v, a, -1, b}, best, out);
    g->looks -= s->n_held[b];
    for (int i = 0; i < s->n_held[b] && g->left > 0; i++) {
        int u = node_from(t, s->held[(size_t)b * (size_t)s->cap + (size_t)i], n);
        if (u < 0 || t->parent[u] == t->parent[v]) continue;
        if (!node_on(t, s, u, b) || !node_off(t, s, u, a)) continue;
        try_exchange(g, (sy_balance_exchange){v, a, u, b}, best, out);
    }
}

/* Brings node v, which is on rank a, to its sibling, or to a part of it. */
static bool align_node(alignment *g, int v, int a) {
    const sy_balance_traffic *t = g->t;
    int up = t->parent[v], sibling = t->left[up] == v ? t->right[up] : t->left[up];
    double best = LEAST_GAIN;
    sy_balance_exchange x = {0};
    for (int b = 0; b < t->R && g->left > 0; b++) {
        double only = t->only[(size_t)b * (size_t)t->n_nodes + (size_t)sibling];
        if (b != a && only > t->none[sibling]) try_rank(g, v, a, b, &best, &x);
    }
    if (best <= LEAST_GAIN) return false;
    sy_balance_exchange_apply(g->t, g->s, &x);
    return true;
}

/* All nodes of n experts, once. */
static bool align_size(alignment *g, int n) {
    const sy_balance_traffic *t = g->t;
    bool changed = false;
    for (int v = 1; v < t->n_nodes && g->left > 0 && g->looks > 0; v++) {
        if (t->count[v] != n) continue;
        if (sy_balance_stopped(g->s)) return false;
        int e = t->first[v];
        for (int i = 0; i < g->s->n_copies[e]; i++) {
            int a = g->s->holder[(size_t)e * (size_t)g->s->most + (size_t)i];
            if (node_on(t, g->s, v, a) && align_node(g, v, a)) changed = true;
        }
    }
    return changed;
}

/* Takes a copy of e off rank r if no other becomes too slow and the traffic does not grow. */
static void drop_copy(alignment *g, int e, int r) {
    sy_balance_traffic *t = g->t;
    sy_balance_state *s = g->s;
    double before = sy_balance_traffic_of(t, s, r), after = 0, slowest = 0;
    const int32_t *holder = s->holder + (size_t)e * (size_t)s->most;
    for (int i = 0; i < s->n_copies[e]; i++)
        if (holder[i] != r) before += sy_balance_traffic_of(t, s, holder[i]);
    sy_balance_remove(s, e, r);
    sy_balance_traffic_update(t, s, e, r);
    after = sy_balance_traffic_of(t, s, r);
    for (int i = 0; i < s->n_copies[e]; i++) {
        sy_balance_traffic_update(t, s, e, holder[i]);
        after += sy_balance_traffic_of(t, s, holder[i]);
        slowest = fmax(slowest, s->value[holder[i]]);
    }
    if (slowest <= g->limit && after <= before) return;
    sy_balance_add(s, e, r);
    for (int i = 0; i < s->n_copies[e]; i++)
        sy_balance_traffic_update(t, s, e, holder[i]);
}

static void drop_copies(alignment *g) {
    sy_balance_state *s = g->s;
    int64_t left = SY_BALANCE_MOST_LOOKS; /* at experts of ranks */
    for (int e = 0; e < s->E && left > 0 && !sy_balance_stopped(s); e++) {
        for (int r = 0; r < s->R && s->n_copies[e] > 1 && left > 0; r++) {
            if (!sy_balance_holds(s, r, e)) continue;
            left -= 2 * (int64_t)s->n_copies[e] * s->cap;
            drop_copy(g, e, r);
        }
    }
    sy_balance_traffic_count(g->t, s);
}

void sy_balance_align(sy_balance_traffic *t,
                      sy_balance_state *s,
                      double limit,
                      bool drop,
                      int64_t budget) {
    alignment g = {t, s, limit, budget, SY_BALANCE_MOST_LOOKS};
    if (drop) drop_copies(&g);
    for (bool changed = true; changed && g.left > 0 && g.looks > 0;) {
        changed = false;
        for (int n = 1; n <= s->cap && n <= (t->E + 1) / 2; n++)
            if (align_size(&g, n)) changed = true;
    }
    sy_balance_recount(s);
}

/* ---- balance from alignment ---- */

enum { MOST_PRICED = 128 }; /* exchanges of one round whose traffic is looked at */

static double excess(double value, double limit) {
    return value > limit ? value - limit : 0;
}

typedef struct evening {
    sy_balance_traffic *t;
    sy_balance_state *s;
    double limit;
    double least;  /* relief that counts */
    double relief; /* the most found */
    int priced;    /* exchanges priced so far; -1: only the relief is looked for */
    double saved;  /* the largest saving found, mostly negative */
    int64_t looks; /* pairs of nodes that may still be looked at */
    sy_balance_exchange best;
} evening;

/* By how much an exchange lessens what is beyond the limit on its two ranks; at most `least`, if it
 * cannot be more. */
static double relief(const evening *w, const sy_balance_exchange *x, double least) {
    const sy_balance_state *s = w->s;
    double relief = excess(s->value[x->rank], w->limit) +
                    excess(s->value[x->other_rank], w->limit) -
                    excess(value_here(w->t, s, x), w->limit);
    if (relief <= least) return relief;
    return relief - excess(value_there(w->t, s, x), w->limit);
}

static void look_at(evening *w, sy_balance_exchange x) {
    if (w->priced < 0) {
        w->relief = fmax(w->relief, relief(w, &x, w->relief));
        return;
    }
    if (w->priced >= MOST_PRICED || relief(w, &x, w->least) <= w->least) return;
    w->priced++;
    double saved = saving(w->t, w->s, &x);
    if (saved <= w->saved) return;
    w->saved = saved;
    w->best = x;
}

/* All exchanges of the nodes of rank a that begin with its expert e. */
static void look_at_expert(evening *w, int a, int e) {
    const sy_balance_traffic *t = w->t;
    const sy_balance_state *s = w->s;
    for (int v = t->leaf[e]; v > 0 && t->first[v] == e && node_on(t, s, v, a);
         v = t->parent[v]) {
        int n = t->count[v];
        for (int b = 0; b < t->R && w->priced < MOST_PRICED; b++) {
            if (b == a || !node_off(t, s, v, b)) continue;
            if (s->n_held[b] + n <= s->cap) look_at(w, (sy_balance_exchange){v, a, -1, b});
            w->looks -= s->n_held[b];
            for (int i = 0; i < s->n_held[b]; i++) {
                int u = node_from(t, s->held[(size_t)b * (size_t)s->cap + (size_t)i], n);
                if (u >= 0 && node_on(t, s, u, b) && node_off(t, s, u, a))
                    look_at(w, (sy_balance_exchange){v, a, u, b});
            }
        }
    }
}

/* By number: pricing a move puts the rank's list into another order. */
static void look_at_rank(evening *w, int a) {
    for (int e = 0; e < w->s->E && w->priced < MOST_PRICED && w->looks > 0; e++) {
        if (!sy_balance_holds(w->s, a, e)) continue;
        if (sy_balance_stopped(w->s)) return;
        look_at_expert(w, a, e);
    }
}

/* The exchange of rank a that costs the least traffic among those (the first MOST_PRICED) that bring
 * it half of the relief it needs; if there is none, half of the most that any brings. */
static bool find_exchange(evening *w, int a) {
    w->saved = -INFINITY;
    w->least = excess(w->s->value[a], w->limit) / 2;
    look_at_rank(w, a);
    if (w->priced > 0) return true;
    w->priced = -1;
    look_at_rank(w, a);
    if (w->relief < 1e-9) return false;
    w->priced = 0;
    w->least = w->relief / 2;
    look_at_rank(w, a);
    return w->priced > 0;
}

bool sy_balance_even_out(sy_balance_traffic *t, sy_balance_state *s, double limit) {
    int64_t looks = SY_BALANCE_MOST_LOOKS;
    for (int64_t rounds = 64 + 4 * ((int64_t)s->E + s->R); rounds > 0 && looks > 0; rounds--) {
        int a = sy_balance_slowest(s);
        if (s->value[a] <= limit) return true;
        evening w = {.t = t, .s = s, .limit = limit, .looks = looks};
        if (!find_exchange(&w, a)) return false;
        looks = w.looks;
        sy_balance_exchange_apply(t, s, &w.best);
    }
    return false;
}

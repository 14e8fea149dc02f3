#include "topology/balance_search.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* A change counts as an improvement from here on: less is rounding. */
#define LEAST_GAIN 1e-12

sy_status sy_balance_search_create(int n_profiles, sy_balance_search *out) {
    size_t P = (size_t)n_profiles;
    *out = (sy_balance_search){.more = calloc(3 * P, sizeof(double))};
    if (out->more == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a search");
    out->less = out->more + P;
    out->rise = out->less + P;
    return SY_OK;
}

void sy_balance_search_destroy(sy_balance_search *search) {
    free(search->more);
    *search = (sy_balance_search){0};
}

static double largest(const double *v, int n) {
    double most = v[0];
    for (int i = 1; i < n; i++)
        most = v[i] > most ? v[i] : most;
    return most;
}

/* ---- the greedy beginning ---- */

typedef struct heavy {
    double load; /* of one copy, in the profile where it weighs most */
    int32_t expert, order;
} heavy;

static int by_falling_load(const void *a, const void *b) {
    const heavy *x = a, *y = b;
    if (x->load != y->load) return x->load < y->load ? 1 : -1;
    return x->order - y->order;
}

/* A packing on its way. Its times are those of the end, when all copies are placed. */
typedef struct packing {
    const sy_balance_state *s;
    const double *weight; /* [E, P] */
    int P;
    double *time;      /* [R, P] */
    int32_t *n_copies; /* [E] */
    int32_t *n_held;   /* [R] */
    heavy *item;
    size_t n_items;
} packing;

static double load_of_copy(const packing *g, int e) {
    return largest(g->weight + (size_t)e * (size_t)g->P, g->P) / g->n_copies[e];
}

static void add_item(packing *g, int e) {
    g->n_copies[e]++;
    g->item[g->n_items] = (heavy){.expert = e, .order = (int32_t)g->n_items};
    g->n_items++;
}

/* Of two experts the one whose next copy comes first. */
static bool comes_first(const double *load, int32_t a, int32_t b) {
    return load[a] != load[b] ? load[a] > load[b] : a < b;
}

/* The expert at place i of a heap goes down to where it belongs. */
static void sift_down(int32_t *heap, int n, const double *load, int i) {
    for (int child; (child = 2 * i + 1) < n;) {
        if (child + 1 < n && comes_first(load, heap[child + 1], heap[child])) child++;
        if (!comes_first(load, heap[child], heap[i])) return;
        int32_t other = heap[child];
        heap[child] = heap[i];
        heap[i] = other;
        i = child;
    }
}

/* One copy each, then one more for the heaviest copies while slots and copies last. */
static sy_status make_items(packing *g, int most_copies) {
    int n = g->s->E;
    int64_t spare = (int64_t)g->s->R * g->s->cap - n;
    double *load = calloc((size_t)n, sizeof *load); /* of a copy */
    int32_t *heap = calloc((size_t)n, sizeof *heap);
    if (load == NULL || heap == NULL) {
        free(load);
        free(heap);
        return sy_fail(SY_ERR_MEMORY, "no memory for a search");
    }
    for (int e = 0; e < n; e++) {
        add_item(g, e);
        load[e] = load_of_copy(g, e);
        heap[e] = e;
    }
    for (int i = n / 2 - 1; i >= 0; i--)
        sift_down(heap, n, load, i);
    for (; spare > 0 && n > 0; spare--) {
        int e = heap[0];
        if (g->n_copies[e] < most_copies) {
            add_item(g, e);
            load[e] = load_of_copy(g, e);
        }
        if (g->n_copies[e] >= most_copies) heap[0] = heap[--n];
        sift_down(heap, n, load, 0);
    }
    free(load);
    free(heap);
    return SY_OK;
}

static void packing_close(packing *g) {
    free(g->time);
    free(g->n_copies);
    free(g->n_held);
    free(g->item);
}

static sy_status packing_open(const sy_balance_state *s,
                              const double *weight,
                              int n_profiles,
                              int most_copies,
                              packing *g) {
    size_t E = (size_t)s->E, R = (size_t)s->R;
    *g = (packing){.s = s,
                   .weight = weight,
                   .P = n_profiles,
                   .time = calloc(R * (size_t)n_profiles, sizeof *g->time),
                   .n_copies = calloc(E, sizeof *g->n_copies),
                   .n_held = calloc(R, sizeof *g->n_held),
                   .item = calloc(R * (size_t)s->cap, sizeof *g->item)};
    if (g->time == NULL || g->n_copies == NULL || g->n_held == NULL || g->item == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for a search");
    sy_status st = make_items(g, most_copies);
    if (st != SY_OK) return st;
    for (size_t i = 0; i < g->n_items; i++)
        g->item[i].load = load_of_copy(g, g->item[i].expert);
    qsort(g->item, g->n_items, sizeof *g->item, by_falling_load);
    return SY_OK;
}

static double time_with(const packing *g, int r, int e, int p) {
    double load = g->weight[(size_t)e * (size_t)g->P + (size_t)p] / g->n_copies[e];
    return g->time[(size_t)r * (size_t)g->P + (size_t)p] + load / g->s->speed[r];
}

/* The rank with an empty slot that is done first with one copy more; -1: none. Unless `twice`, it
 * must not have the expert yet. */
static int first_done(const packing *g, int e, bool twice) {
    double least = INFINITY;
    int best = -1;
    for (int r = 0; r < g->s->R; r++) {
        if (g->n_held[r] >= g->s->cap || (!twice && sy_balance_holds(g->s, r, e))) continue;
        double value = 0;
        for (int p = 0; p < g->P; p++)
            value = fmax(value, time_with(g, r, e, p));
        if (value >= least) continue;
        least = value;
        best = r;
    }
    return best;
}

/* Packs all items, and adds each copy to the state unless its rank has one already. */
static sy_status pack_all(packing *g, bool twice, sy_balance_state *s) {
    for (size_t i = 0; i < g->n_items; i++) {
        if (sy_balance_stopped(s)) return sy_fail(SY_ERR_INTERRUPTED, "interrupted");
        int e = g->item[i].expert, r = first_done(g, e, twice);
        if (r < 0) continue; /* all ranks with room have it: one copy less */
        for (int p = 0; p < g->P; p++)
            g->time[(size_t)r * (size_t)g->P + (size_t)p] = time_with(g, r, e, p);
        g->n_held[r]++;
        if (!sy_balance_holds(s, r, e)) sy_balance_add(s, e, r);
    }
    sy_balance_recount(s);
    return SY_OK;
}

sy_status sy_balance_greedy(sy_balance_state *s) {
    packing g;
    sy_balance_state_clear(s);
    sy_status st = packing_open(s, s->weight, s->P, s->most, &g);
    if (st == SY_OK) st = pack_all(&g, false, s);
    packing_close(&g);
    return st;
}

sy_status sy_balance_published(sy_balance_state *s, const double *sum, double *claimed) {
    packing g;
    double loads = 0, speeds = 0;
    *claimed = 1;
    sy_balance_state_clear(s);
    /* It knows no bound of an expert's copies but the slots; where we have one, so has it. */
    sy_status st = packing_open(s, sum, 1, s->most < s->R ? s->most : INT_MAX, &g);
    if (st == SY_OK) st = pack_all(&g, true, s);
    if (st == SY_OK) {
        for (int e = 0; e < s->E; e++)
            loads += sum[e];
        for (int r = 0; r < s->R; r++)
            speeds += s->speed[r];
        if (loads > 0) *claimed = largest(g.time, s->R) / loads * speeds;
    }
    packing_close(&g);
    return st;
}

/* ---- single changes ---- */

typedef enum change_kind { NONE, MOVE, SWAP, ADD, REPLACE, DROP } change_kind;

/* Of the slowest rank's expert e; rank b and its expert f are the other side. */
typedef struct change {
    change_kind kind;
    int e, a, f, b;
    double value; /* the largest of the ranks that it touches */
} change;

static void consider(change *best, change_kind kind, int e, int a, int f, int b, double value) {
    if (value < best->value) *best = (change){kind, e, a, f, b, value};
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

/* Fills more = load of a copy of e if there were n, and less = what the present ones lose. */
static void redivide(sy_balance_search *q, const sy_balance_state *s, int e, int n) {
    const double *share = sy_balance_share(s, e);
    const double *weight = s->weight + (size_t)e * (size_t)s->P;
    for (int p = 0; p < s->P; p++) {
        q->more[p] = weight[p] / n;
        q->less[p] = share[p] - q->more[p];
    }
}

/* What the other copies of f gain when one goes. */
static void rise_without_one(sy_balance_search *q, const sy_balance_state *s, int f) {
    const double *share = sy_balance_share(s, f);
    for (int p = 0; p < s->P; p++)
        q->rise[p] = share[p] / (s->n_copies[f] - 1);
}

/* The largest value among the holders of f other than `except`, if one of its copies goes; those
 * that hold e have q->less taken off (e < 0: none). Stops at `limit`. */
static double value_of_others(const sy_balance_search *q,
                              const sy_balance_state *s,
                              int f,
                              int except,
                              int e,
                              double limit) {
    double value = 0;
    for (int i = 0; i < s->n_copies[f] && value < limit; i++) {
        int h = s->holder[(size_t)f * (size_t)s->most + (size_t)i];
        if (h == except) continue;
        const double *less = e >= 0 && sy_balance_holds(s, h, e) ? q->less : NULL;
        value = larger(value, sy_balance_value_with(s, h, less, q->rise));
    }
    return value;
}

/* The rank b, which has no copy of e, against the slowest rank a. q->more and q->less are e's. */
static void consider_rank(sy_balance_search *q,
                          const sy_balance_state *s,
                          int e,
                          int a,
                          int b,
                          change *best) {
    const double *share = sy_balance_share(s, e);
    bool may_add = s->n_copies[e] < s->most;
    double a_added = may_add ? sy_balance_value_with(s, a, q->less, NULL) : 0;
    if (!sy_balance_full(s, b)) {
        double moved = larger(sy_balance_value_with(s, a, share, NULL),
                              sy_balance_value_with(s, b, NULL, share));
        consider(best, MOVE, e, a, -1, b, moved);
        if (may_add)
            consider(best, ADD, e, a, -1, b,
                     larger(a_added, sy_balance_value_with(s, b, NULL, q->more)));
        q->n_tried += 2;
    }
    for (int i = 0; i < s->n_held[b]; i++) {
        int f = s->held[(size_t)b * (size_t)s->cap + (size_t)i];
        const double *other = sy_balance_share(s, f);
        q->n_tried++;
        if (!sy_balance_holds(s, a, f)) {
            double here = sy_balance_value_with(s, a, share, other);
            if (here < best->value)
                consider(best, SWAP, e, a, f, b,
                         larger(here, sy_balance_value_with(s, b, other, share)));
        }
        if (!may_add || s->n_copies[f] < 2) continue;
        double there = sy_balance_value_with(s, b, other, q->more);
        if (there >= best->value || a_added >= best->value) continue;
        rise_without_one(q, s, f);
        double others = value_of_others(q, s, f, b, e, best->value);
        q->n_tried += s->n_copies[f];
        double value = larger(others, there);
        if (!sy_balance_holds(s, a, f)) value = larger(value, a_added);
        consider(best, REPLACE, e, a, f, b, value);
    }
}

/* Of the changes that may still be looked at. */
static change best_change(sy_balance_search *q, const sy_balance_state *s, int a, int64_t end) {
    change best = {.kind = NONE, .value = s->value[a] * (1 - LEAST_GAIN)};
    for (int i = 0; i < s->n_held[a] && q->n_tried < end; i++) {
        if (sy_balance_stopped(s)) break;
        int e = s->held[(size_t)a * (size_t)s->cap + (size_t)i];
        redivide(q, s, e, s->n_copies[e] + 1);
        for (int b = 0; b < s->R; b++)
            if (!sy_balance_holds(s, b, e)) consider_rank(q, s, e, a, b, &best);
        if (s->n_copies[e] < 2) continue;
        double here = sy_balance_value_with(s, a, sy_balance_share(s, e), NULL);
        rise_without_one(q, s, e);
        double others = value_of_others(q, s, e, a, -1, best.value);
        q->n_tried += s->n_copies[e];
        consider(&best, DROP, e, a, -1, -1, larger(here, others));
    }
    return best;
}

static void apply(sy_balance_state *s, const change *c) {
    switch (c->kind) {
    case MOVE:
        sy_balance_move(s, c->e, c->a, c->b);
        break;
    case SWAP:
        sy_balance_swap(s, c->e, c->a, c->f, c->b);
        break;
    case REPLACE:
        sy_balance_remove(s, c->f, c->b);
        sy_balance_add(s, c->e, c->b);
        break;
    case ADD:
        sy_balance_add(s, c->e, c->b);
        break;
    case DROP:
        sy_balance_remove(s, c->e, c->a);
        break;
    case NONE:
        break;
    }
}

void sy_balance_descend(sy_balance_search *q, sy_balance_state *s) {
    /* Each change makes the slowest rank faster and none as slow as it was, so this ends; the
     * limits only bound the time. */
    int64_t end = q->n_tried + SY_BALANCE_MOST_LOOKS;
    for (int64_t left = 64 + 8 * ((int64_t)s->E + s->R); left > 0; left--) {
        change best = best_change(q, s, sy_balance_slowest(s), end);
        if (best.kind == NONE) break;
        apply(s, &best);
    }
    sy_balance_recount(s);
}

/* ---- disturbances ---- */

/* A random expert of the rank changes places with one of another, or moves there. */
static void disturb(sy_balance_state *s, int a, uint64_t draw) {
    int b = (int)(sy_hash_add(draw, 1) % (uint64_t)s->R);
    if (a == b || s->n_held[a] == 0) return;
    uint64_t i = sy_hash_add(draw, 2) % (uint64_t)s->n_held[a];
    int e = s->held[(size_t)a * (size_t)s->cap + i];
    if (sy_balance_holds(s, b, e)) return;
    if (s->n_held[b] == 0 || (!sy_balance_full(s, b) && sy_hash_add(draw, 3) % 4 == 0)) {
        sy_balance_move(s, e, a, b);
        return;
    }
    uint64_t j = sy_hash_add(draw, 4) % (uint64_t)s->n_held[b];
    int f = s->held[(size_t)b * (size_t)s->cap + j];
    if (!sy_balance_holds(s, a, f)) sy_balance_swap(s, e, a, f, b);
}

/* A random expert loses a copy, or gets one where there is room. */
static void disturb_copies(sy_balance_state *s, uint64_t draw) {
    int e = (int)(sy_hash_add(draw, 1) % (uint64_t)s->E);
    int r = (int)(sy_hash_add(draw, 2) % (uint64_t)s->R);
    if (s->n_copies[e] > 1 && sy_hash_add(draw, 3) % 2 == 0) {
        uint64_t i = sy_hash_add(draw, 4) % (uint64_t)s->n_copies[e];
        sy_balance_remove(s, e, s->holder[(size_t)e * (size_t)s->most + i]);
    } else if (s->n_copies[e] < s->most && !sy_balance_full(s, r) &&
               !sy_balance_holds(s, r, e)) {
        sy_balance_add(s, e, r);
    }
}

void sy_balance_explore(sy_balance_search *q,
                        sy_balance_state *s,
                        sy_balance_state *spare,
                        double goal,
                        int64_t budget) {
    int64_t end = q->n_tried + budget;
    double best = s->value[sy_balance_slowest(s)];
    sy_balance_state_copy(spare, s);
    for (uint64_t round = 0; q->n_tried < end && best > goal * (1 + LEAST_GAIN); round++) {
        if (sy_balance_stopped(s)) break;
        uint64_t draw = sy_hash_add(round, 17);
        disturb(s, sy_balance_slowest(s), draw);
        if (s->most > 1 && round % 2 == 1) disturb_copies(s, sy_hash_add(draw, 13));
        for (uint64_t i = 0; i < draw % 3; i++)
            disturb(s, (int)(sy_hash_add(draw, 5 + i) % (uint64_t)s->R),
                    sy_hash_add(draw, 9 + i));
        q->n_tried += 64; /* what the copies below cost */
        sy_balance_descend(q, s);
        double value = s->value[sy_balance_slowest(s)];
        if (value < best * (1 - LEAST_GAIN)) {
            best = value;
            sy_balance_state_copy(spare, s);
        } else {
            sy_balance_state_copy(s, spare);
        }
    }
}

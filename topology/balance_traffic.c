#include "topology/balance_traffic.h"

#include <string.h>

#include "base/memory.h"

/* Bytes of a value on its way out and home. */
#define BYTES_OUT 2.0
#define BYTES_HOME 4.0

static void carve(sy_arena *arena, sy_balance_traffic *t) {
    uint64_t nodes = (uint64_t)t->n_nodes, R = (uint64_t)t->R, E = (uint64_t)t->E;
    t->parent = sy_arena_take(arena, nodes, sizeof(int32_t));
    t->left = sy_arena_take(arena, nodes, sizeof(int32_t));
    t->right = sy_arena_take(arena, nodes, sizeof(int32_t));
    t->first = sy_arena_take(arena, nodes, sizeof(int32_t));
    t->count = sy_arena_take(arena, nodes, sizeof(int32_t));
    t->leaf = sy_arena_take(arena, E, sizeof(int32_t));
    t->chosen = sy_arena_take(arena, E, sizeof(double));
    t->none = sy_arena_take(arena, nodes, sizeof(double));
    t->only = sy_arena_take(arena, R, nodes * sizeof(double));
    t->joined = sy_arena_take(arena, R, sizeof(double));
    t->rows = sy_arena_take(arena, R, sizeof(double));
    t->cost = sy_arena_take(arena, R, sizeof(double));
    t->sum = sy_arena_take(arena, nodes, (uint64_t)t->P * sizeof(double));
}

/* Numbers the nodes of [lo, lo + n) in preorder, children behind parents. */
static int build_tree(sy_balance_traffic *t, int node, int parent, int lo, int n) {
    int next = node + 1, n_left = (n + 1) / 2;
    t->parent[node] = parent;
    t->first[node] = lo;
    t->count[node] = n;
    t->left[node] = t->right[node] = -1;
    if (n == 1) {
        t->leaf[lo] = node;
        return next;
    }
    t->left[node] = next;
    next = build_tree(t, next, node, lo, n_left);
    t->right[node] = next;
    return build_tree(t, next, node, lo + n_left, n - n_left);
}

/* The mean over the profiles of K load / sum, at most 1. */
static void set_chosen(const sy_balance_problem *problem, sy_balance_traffic *t) {
    for (int p = 0; p < problem->n_profiles; p++) {
        const double *load = problem->load + (size_t)p * (size_t)t->E;
        double sum = 0;
        for (int e = 0; e < t->E; e++)
            sum += load[e];
        for (int e = 0; e < t->E; e++) {
            double chosen = problem->top_k * (sum > 0 ? load[e] / sum : 1.0 / t->E);
            t->chosen[e] += (chosen < 1 ? chosen : 1) / problem->n_profiles;
        }
    }
}

sy_status sy_balance_traffic_create(const sy_balance_problem *problem, sy_balance_traffic *t) {
    sy_status st = SY_OK;
    sy_arena arena = {0};
    memset(t, 0, sizeof *t);
    t->E = problem->n_experts;
    t->R = problem->n_ranks;
    t->P = problem->n_profiles;
    t->n_nodes = 2 * t->E - 1;
    carve(&arena, t);
    arena.size = t->bytes = arena.used;
    arena.used = 0;
    SY_TRY(sy_mem_alloc(&t->block, t->bytes, "a search for a placement"));
    arena.base = t->block;
    carve(&arena, t);
    build_tree(t, 0, -1, 0, t->E);
    set_chosen(problem, t);
    sy_balance_traffic_set_cost(t, NULL);
    for (int v = t->n_nodes - 1; v >= 0; v--)
        t->none[v] = t->left[v] < 0 ? 1 - t->chosen[t->first[v]]
                                    : t->none[t->left[v]] * t->none[t->right[v]];
done:
    return st;
}

void sy_balance_traffic_destroy(sy_balance_traffic *t) {
    sy_mem_free(t->block, t->bytes);
    memset(t, 0, sizeof *t);
}

void sy_balance_traffic_set_cost(sy_balance_traffic *t, const double *cost) {
    for (int r = 0; r < t->R; r++)
        t->cost[r] = cost != NULL ? cost[r] : 1;
}

/* Z(leaf, r): the expert is not chosen, or its copy on r is. */
static double leaf_only(const sy_balance_traffic *t, const sy_balance_state *s, int e, int r) {
    double elsewhere = sy_balance_holds(s, r, e) ? 1 - 1.0 / s->n_copies[e] : 1;
    return 1 - t->chosen[e] * elsewhere;
}

/* The probability that a node saves rank r a row. */
static double joins(const sy_balance_traffic *t, const double *only, int v) {
    int a = t->left[v], b = t->right[v];
    return (only[a] - t->none[a]) * (only[b] - t->none[b]);
}

static void count_sums(sy_balance_traffic *t, const sy_balance_state *s) {
    for (int v = t->n_nodes - 1; v >= 0; v--) {
        double *sum = t->sum + (size_t)v * (size_t)t->P;
        bool leaf = t->left[v] < 0;
        const double *a = leaf ? sy_balance_share(s, t->first[v])
                               : t->sum + (size_t)t->left[v] * (size_t)t->P;
        const double *b = leaf ? NULL : t->sum + (size_t)t->right[v] * (size_t)t->P;
        for (int p = 0; p < t->P; p++)
            sum[p] = a[p] + (leaf ? 0 : b[p]);
    }
}

void sy_balance_traffic_count(sy_balance_traffic *t, const sy_balance_state *s) {
    count_sums(t, s);
    for (int r = 0; r < t->R; r++) {
        double *only = t->only + (size_t)r * (size_t)t->n_nodes;
        t->joined[r] = t->rows[r] = 0;
        for (int v = t->n_nodes - 1; v >= 0; v--) {
            if (t->left[v] < 0) {
                only[v] = leaf_only(t, s, t->first[v], r);
                continue;
            }
            only[v] = only[t->left[v]] * only[t->right[v]];
            t->joined[r] += joins(t, only, v);
        }
        for (int i = 0; i < s->n_held[r]; i++) {
            int e = s->held[(size_t)r * (size_t)s->cap + (size_t)i];
            t->rows[r] += t->chosen[e] / s->n_copies[e];
        }
    }
}

void sy_balance_traffic_update(sy_balance_traffic *t, const sy_balance_state *s, int e, int r) {
    double *only = t->only + (size_t)r * (size_t)t->n_nodes;
    int v = t->leaf[e];
    double now = leaf_only(t, s, e, r), change = 0;
    t->rows[r] += now - only[v];
    for (;;) {
        int up = t->parent[v];
        if (up >= 0) change -= joins(t, only, up);
        only[v] = now;
        if (up < 0) break;
        change += joins(t, only, up);
        now = only[t->left[up]] * only[t->right[up]];
        v = up;
    }
    t->joined[r] += change;
}

/* Rank r receives nothing if no chosen expert is computed there. */
static double idle(const sy_balance_traffic *t, const sy_balance_state *s, int r) {
    double none = 1;
    for (int i = 0; i < s->n_held[r]; i++) {
        int e = s->held[(size_t)r * (size_t)s->cap + (size_t)i];
        none *= 1 - t->chosen[e] / s->n_copies[e];
    }
    return none;
}

double sy_balance_traffic_of(const sy_balance_traffic *t, const sy_balance_state *s, int r) {
    double home = BYTES_HOME * (t->rows[r] - t->joined[r]);
    return t->cost[r] * (home + BYTES_OUT * (1 - idle(t, s, r)));
}

double sy_balance_traffic_total(const sy_balance_traffic *t, const sy_balance_state *s) {
    double sum = 0;
    for (int r = 0; r < t->R; r++)
        sum += sy_balance_traffic_of(t, s, r);
    return sum;
}

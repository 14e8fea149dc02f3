#include "topology/balance_state.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static void carve(sy_arena *arena, sy_balance_state *s) {
    uint64_t E = (uint64_t)s->E, R = (uint64_t)s->R, P = (uint64_t)s->P;
    s->weight = sy_arena_take(arena, E, P * sizeof(double));
    s->speed = sy_arena_take(arena, R, sizeof(double));
    s->share = sy_arena_take(arena, E, P * sizeof(double));
    s->time = sy_arena_take(arena, R, P * sizeof(double));
    s->value = sy_arena_take(arena, R, sizeof(double));
    s->n_held = sy_arena_take(arena, R, sizeof(int32_t));
    s->held = sy_arena_take(arena, R, (uint64_t)s->cap * sizeof(int32_t));
    s->at = sy_arena_take(arena, R, E * sizeof(int32_t));
    s->n_copies = sy_arena_take(arena, E, sizeof(int32_t));
    s->holder = sy_arena_take(arena, E, (uint64_t)s->most * sizeof(int32_t));
}

/* Loads in units of the mean time: they sum to the sum of the speeds. A profile without any load
 * counts every expert alike. */
static void set_weights(const sy_balance_problem *problem, sy_balance_state *s) {
    double speeds = 0;
    for (int r = 0; r < s->R; r++) {
        s->speed[r] = problem->speed != NULL ? problem->speed[r] : 1;
        speeds += s->speed[r];
    }
    for (int p = 0; p < s->P; p++) {
        const double *load = problem->load + (size_t)p * (size_t)s->E;
        double sum = 0;
        for (int e = 0; e < s->E; e++)
            sum += load[e];
        for (int e = 0; e < s->E; e++)
            s->weight[(size_t)e * (size_t)s->P + (size_t)p] =
                sum > 0 ? load[e] / sum * speeds : speeds / s->E;
    }
}

sy_status sy_balance_state_create(const sy_balance_problem *problem, sy_balance_state *s) {
    sy_status st = SY_OK;
    sy_arena arena = {0};
    memset(s, 0, sizeof *s);
    s->E = problem->n_experts;
    s->R = problem->n_ranks;
    s->P = problem->n_profiles;
    s->cap = problem->max_slots < s->E ? problem->max_slots : s->E;
    s->most = problem->max_copies < s->R ? problem->max_copies : s->R;
    s->stop = problem->stop;
    s->stop_context = problem->stop_context;
    carve(&arena, s);
    arena.size = s->bytes = arena.used;
    arena.used = 0;
    SY_TRY(sy_mem_alloc(&s->block, s->bytes, "a search for a placement"));
    arena.base = s->block;
    carve(&arena, s);
    set_weights(problem, s);
    sy_balance_state_clear(s);
done:
    return st;
}

void sy_balance_state_destroy(sy_balance_state *s) {
    sy_mem_free(s->block, s->bytes);
    memset(s, 0, sizeof *s);
}

void sy_balance_state_copy(sy_balance_state *to, const sy_balance_state *from) {
    assert(to->bytes == from->bytes);
    memcpy(to->block, from->block, from->bytes);
}

void sy_balance_state_clear(sy_balance_state *s) {
    size_t R = (size_t)s->R, E = (size_t)s->E, P = (size_t)s->P;
    memset(s->time, 0, R * P * sizeof *s->time);
    memset(s->value, 0, R * sizeof *s->value);
    memset(s->n_held, 0, R * sizeof *s->n_held);
    memset(s->at, 0xff, R * E * sizeof *s->at);
    memset(s->n_copies, 0, E * sizeof *s->n_copies);
    memcpy(s->share, s->weight, E * P * sizeof *s->share);
}

/* Adds sign x share of an expert to the times of one rank. */
static void charge(sy_balance_state *s, int rank, const double *share, double sign) {
    double *time = s->time + (size_t)rank * (size_t)s->P;
    double factor = sign / s->speed[rank], value = 0;
    for (int p = 0; p < s->P; p++) {
        time[p] += share[p] * factor;
        if (time[p] > value) value = time[p];
    }
    s->value[rank] = value;
}

static void charge_holders(sy_balance_state *s, int expert, double sign) {
    const double *share = sy_balance_share(s, expert);
    for (int i = 0; i < s->n_copies[expert]; i++)
        charge(s, s->holder[(size_t)expert * (size_t)s->most + (size_t)i], share, sign);
}

static void divide(sy_balance_state *s, int expert) {
    size_t first = (size_t)expert * (size_t)s->P;
    int n = s->n_copies[expert] > 1 ? s->n_copies[expert] : 1;
    for (size_t p = first; p < first + (size_t)s->P; p++)
        s->share[p] = s->weight[p] / n;
}

static void hold(sy_balance_state *s, int expert, int rank) {
    int i = s->n_held[rank]++;
    assert(i < s->cap);
    s->held[(size_t)rank * (size_t)s->cap + (size_t)i] = expert;
    s->at[(size_t)rank * (size_t)s->E + (size_t)expert] = i;
}

static void release(sy_balance_state *s, int expert, int rank) {
    int32_t *held = s->held + (size_t)rank * (size_t)s->cap;
    int32_t *at = s->at + (size_t)rank * (size_t)s->E;
    int i = at[expert], last = held[--s->n_held[rank]];
    held[i] = last;
    at[last] = i;
    at[expert] = -1;
}

static int32_t *find_holder(sy_balance_state *s, int expert, int rank) {
    int32_t *holder = s->holder + (size_t)expert * (size_t)s->most;
    while (*holder != rank)
        holder++;
    return holder;
}

void sy_balance_add(sy_balance_state *s, int expert, int rank) {
    assert(s->n_copies[expert] < s->most);
    charge_holders(s, expert, -1);
    s->holder[(size_t)expert * (size_t)s->most + (size_t)s->n_copies[expert]++] = rank;
    hold(s, expert, rank);
    divide(s, expert);
    charge_holders(s, expert, 1);
}

void sy_balance_remove(sy_balance_state *s, int expert, int rank) {
    charge_holders(s, expert, -1);
    int32_t *gone = find_holder(s, expert, rank);
    *gone = s->holder[(size_t)expert * (size_t)s->most + (size_t)--s->n_copies[expert]];
    release(s, expert, rank);
    divide(s, expert);
    charge_holders(s, expert, 1);
}

void sy_balance_move(sy_balance_state *s, int expert, int from, int to) {
    const double *share = sy_balance_share(s, expert);
    *find_holder(s, expert, from) = to;
    release(s, expert, from);
    hold(s, expert, to);
    charge(s, from, share, -1);
    charge(s, to, share, 1);
}

void sy_balance_swap(sy_balance_state *s, int e, int a, int f, int b) {
    int32_t *held_a = s->held + (size_t)a * (size_t)s->cap;
    int32_t *held_b = s->held + (size_t)b * (size_t)s->cap;
    int32_t *at_a = s->at + (size_t)a * (size_t)s->E, *at_b = s->at + (size_t)b * (size_t)s->E;
    *find_holder(s, e, a) = b;
    *find_holder(s, f, b) = a;
    held_a[at_a[e]] = f;
    at_a[f] = at_a[e];
    at_a[e] = -1;
    held_b[at_b[f]] = e;
    at_b[e] = at_b[f];
    at_b[f] = -1;
    charge(s, a, sy_balance_share(s, e), -1);
    charge(s, a, sy_balance_share(s, f), 1);
    charge(s, b, sy_balance_share(s, f), -1);
    charge(s, b, sy_balance_share(s, e), 1);
}

int sy_balance_slowest(const sy_balance_state *s) {
    int slowest = 0;
    for (int r = 1; r < s->R; r++)
        if (s->value[r] > s->value[slowest]) slowest = r;
    return slowest;
}

void sy_balance_recount(sy_balance_state *s) {
    memset(s->time, 0, (size_t)s->R * (size_t)s->P * sizeof *s->time);
    memset(s->value, 0, (size_t)s->R * sizeof *s->value);
    for (int e = 0; e < s->E; e++)
        charge_holders(s, e, 1);
}

double sy_balance_value_with(const sy_balance_state *s,
                             int rank,
                             const double *less,
                             const double *more) {
    const double *time = sy_balance_time(s, rank);
    double factor = 1 / s->speed[rank], value = 0;
    for (int p = 0; p < s->P; p++) {
        double change = (more != NULL ? more[p] : 0) - (less != NULL ? less[p] : 0);
        double t = time[p] + change * factor;
        if (t > value) value = t;
    }
    return value;
}

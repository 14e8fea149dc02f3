/* What no placement can be better than. All in units of the mean time, per profile. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "topology/balance_state.h"

typedef struct bounding {
    const sy_balance_state *s;
    double *load;  /* [E] of one profile, falling */
    double *speed; /* [R], falling */
} bounding;

static int falling(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Whether the spare slots suffice for the copies without which some expert takes longer than
 * `limit`. n copies of w are on n ranks, the slowest of which is at best the n-th fastest. */
static bool copies_suffice(const bounding *b, double limit) {
    const sy_balance_state *s = b->s;
    int64_t spare = (int64_t)s->R * s->cap - s->E;
    for (int e = 0; e < s->E && b->load[e] > limit * b->speed[0]; e++) {
        int n = 2;
        while (n <= s->most && b->load[e] / n > limit * b->speed[n - 1])
            n++;
        spare -= n - 1;
        if (n > s->most || spare < 0) return false;
    }
    return true;
}

static double bound_by_copies(const bounding *b) {
    double low = 0, high = b->load[0] / b->speed[b->s->R - 1];
    if (high <= 0) return 0;
    for (int i = 0; i < 60; i++) {
        double middle = low + (high - low) / 2;
        if (copies_suffice(b, middle))
            high = middle;
        else
            low = middle;
    }
    return low;
}

/* At most `spare` experts are divided; of the others, n R + 1 make one rank take n + 1. */
static double bound_by_counting(const bounding *b) {
    const sy_balance_state *s = b->s;
    int64_t spare = s->most > 1 ? (int64_t)s->R * s->cap - s->E : 0;
    double most = 0;
    if (spare >= s->E) return 0;
    const double *load = b->load + spare;
    int64_t n_whole = s->E - spare;
    for (int64_t n = 1; n * s->R < n_whole; n++) {
        double sum = 0;
        for (int64_t i = n * s->R - n; i <= n * s->R; i++)
            sum += load[i];
        most = sum > most ? sum : most;
    }
    return most / b->speed[0];
}

/* The j experts of the largest loads are on q ranks, for some q. With x copies beyond one of each
 * expert there are spare - x empty slots, so these ranks hold others in at least
 * q slots - spare - j + y slots, y of x being copies of others. If an expert has k copies, l of them
 * there, it puts l / k of its load there, which is at least l - k + 1 of it; so the others count at
 * least as much as the q slots - spare - j smallest experts do. The q ranks share all that. */
static double bound_by_company(const bounding *b, double *tail) {
    const sy_balance_state *s = b->s;
    int64_t spare = (int64_t)s->R * s->cap - s->E;
    double most = 0, hot = 0;
    tail[0] = 0; /* tail[m]: the m smallest */
    for (int m = 1; m <= s->E; m++)
        tail[m] = tail[m - 1] + b->load[s->E - m];
    for (int64_t j = 1; j <= s->E; j++) {
        hot += b->load[j - 1];
        double least = INFINITY, speeds = 0;
        for (int64_t q = 1; q <= s->R && q <= spare + j && q <= j * s->most; q++) {
            int64_t others = q * s->cap - spare - j;
            speeds += b->speed[q - 1];
            least = fmin(least, (hot + tail[others > 0 ? others : 0]) / speeds);
        }
        most = fmax(most, least);
    }
    return most;
}

static double bound_of_profile(const bounding *b, double *tail) {
    double bounds[] = {1, bound_by_copies(b), bound_by_counting(b), bound_by_company(b, tail)};
    double most = 0;
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        most = fmax(most, bounds[i]);
    return most;
}

double sy_balance_state_bound(const sy_balance_state *s, double *scratch) {
    bounding b = {.s = s, .load = scratch, .speed = scratch + s->E};
    double most = 1;
    memcpy(b.speed, s->speed, (size_t)s->R * sizeof *b.speed);
    qsort(b.speed, (size_t)s->R, sizeof *b.speed, falling);
    for (int p = 0; p < s->P; p++) {
        for (int e = 0; e < s->E; e++)
            b.load[e] = s->weight[(size_t)e * (size_t)s->P + (size_t)p];
        qsort(b.load, (size_t)s->E, sizeof *b.load, falling);
        most = fmax(most, bound_of_profile(&b, b.speed + s->R));
    }
    return most;
}

/* The routers of all families: every combination of score, biases, groups and renormalisation
 * against float64, with equal bits from every instruction set, thread count and batch.
 * timeout: 120 */
#include <math.h>

#include "tests/route_fixture.h"

/* The definition in float64: repeated search for the best that is left. */
static int best_left(const double *score, const bool *out, int n) {
    int best = -1;
    for (int i = 0; i < n; i++)
        if (!out[i] && (best < 0 || score[i] > score[best])) best = i;
    return best;
}

/* The k best in order, the lowest index first among equals. False if a float32 run might rank two
 * of nearly the same score the other way round. `terms` is the size of the biases that are part of
 * the scores and may cancel there; scores that are sums of BF16 numbers are exact: -1. */
static bool
ranked(const double *score, double terms, bool *out, int n, int k, int32_t *chosen) {
    bool clear = true;
    for (int i = 0; i < k; i++) {
        chosen[i] = best_left(score, out, n);
        assert_true(chosen[i] >= 0);
        out[chosen[i]] = true;
        int next = best_left(score, out, n);
        if (next < 0 || terms < 0) continue;
        double size = fmax(fabs(score[chosen[i]]), fabs(score[next])) + terms;
        clear &= score[chosen[i]] - score[next] > 1e-6 * size;
    }
    return clear;
}

static double define_group_score(const sy_ffn_spec *f, const double *choice, int size) {
    bool out[MAX_EXPERTS] = {0};
    int first = best_left(choice, out, size);
    if (f->group_score == SY_GROUP_MAX) return choice[first];
    out[first] = true;
    return choice[first] + choice[best_left(choice, out, size)];
}

static bool define_choice(const sy_ffn_spec *f, const double *choice, int32_t *expert) {
    bool out[MAX_EXPERTS] = {0}, group_out[MAX_EXPERTS] = {0}, clear = true;
    double terms = f->choice_bias ? 1 : 0;
    if (f->score == SY_SCORE_SOFTMAX_CHOSEN) terms = f->router_bias || f->choice_bias ? 1 : -1;
    if (f->n_groups > 1) {
        double group[MAX_EXPERTS];
        int32_t kept[MAX_EXPERTS];
        int size = f->experts / f->n_groups;
        for (int g = 0; g < f->n_groups; g++)
            group[g] = define_group_score(f, choice + g * size, size);
        clear &= ranked(group, terms, group_out, f->n_groups, f->groups_kept, kept);
        for (int e = 0; e < f->experts; e++)
            out[e] = !group_out[e / size];
    }
    return ranked(choice, terms, out, f->experts, f->top_k, expert) && clear;
}

/* One row; `expert` is read if it was forced, else written. False if the choice is not clear. */
static bool define_row(const sy_ffn_spec *f,
                       biases b,
                       const float *logit,
                       int column,
                       bool forced,
                       int32_t *expert,
                       double *weight) {
    int n = f->experts, k = f->top_k;
    double score[MAX_EXPERTS], choice[MAX_EXPERTS], total = 0, sum = 0;
    for (int e = 0; e < n; e++) {
        score[e] = (double)logit[e * HIDDEN + column];
        if (f->router_bias) score[e] += (double)b.router[e];
        total += exp(score[e]);
    }
    for (int e = 0; e < n; e++) {
        if (f->score == SY_SCORE_SOFTMAX) score[e] = exp(score[e]) / total;
        if (f->score == SY_SCORE_SIGMOID) score[e] = 1 / (1 + exp(-score[e]));
        choice[e] = score[e] + (f->choice_bias ? (double)b.choice[e] : 0.0);
    }
    if (!forced && !define_choice(f, choice, expert)) return false;
    for (int i = 0; i < k; i++) {
        weight[i] = score[expert[i]];
        if (f->score == SY_SCORE_SOFTMAX_CHOSEN) weight[i] = exp(weight[i]);
        sum += weight[i];
    }
    for (int i = 0; i < k && f->score == SY_SCORE_SOFTMAX_CHOSEN; i++)
        weight[i] /= sum;
    if (f->score == SY_SCORE_SOFTMAX_CHOSEN) sum = 1;
    for (int i = 0; i < k; i++)
        weight[i] *= (double)f->routed_scale / (f->renorm ? sum + (double)f->renorm_eps : 1);
    return true;
}

typedef struct size_case {
    int experts, top_k, n_groups, groups_kept;
} size_case;
static const size_case sizes[] = {{5, 2, 5, 3},    {12, 6, 4, 2},    {160, 6, 8, 3},
                                  {256, 8, 8, 4},  {384, 8, 16, 2},  {12, 1, 2, 1},
                                  {12, 6, 12, 12}, {160, 8, 160, 8}, {384, 7, 3, 2}};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

/* Number `i` of the kinds over one size: score, both biases, groups, renorm. */
enum { N_KINDS = 3 * 2 * 2 * 3 * 2 };
static sy_ffn_spec kind_of(const size_case *size, int i) {
    sy_ffn_spec f = {.kind = SY_FFN_MOE,
                     .experts = size->experts,
                     .top_k = size->top_k,
                     .score = (sy_router_score)(i % 3),
                     .router_bias = i / 3 % 2,
                     .choice_bias = i / 6 % 2,
                     .renorm = i / 12 % 2,
                     .routed_scale = i % 5 == 0 ? 1.0f : 2.827f};
    int groups = i / 24;
    f.n_groups = groups == 0 ? i % 2 : size->n_groups; /* none: 0 or 1 */
    f.groups_kept = groups == 0 ? i % 2 : size->groups_kept;
    /* A group of one has no second best to add. */
    bool top2 = groups == 1 && size->n_groups < size->experts;
    f.group_score = top2 ? SY_GROUP_TOP2 : SY_GROUP_MAX;
    if (f.renorm) f.renorm_eps = i % 7 == 0 ? 0.25f : 1e-20f;
    return f;
}

/* Levels a fixed step apart in random order, each a BF16 number; biases of the choice reach
 * beyond -1, the lower half of them below every score. */
typedef struct size_data {
    float logit[MAX_EXPERTS * HIDDEN], router[MAX_EXPERTS], choice[MAX_EXPERTS];
    int32_t forced[HIDDEN * MAX_K];
} size_data;

static void shuffle(int32_t *order, int n) {
    for (int i = 0; i < n; i++)
        order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int64_t j = random_in(0, i);
        int32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

static void draw(const size_case *size, size_data *d) {
    int n = size->experts;
    int32_t order[MAX_EXPERTS];
    for (int t = 0; t < HIDDEN; t++) {
        shuffle(order, n);
        for (int e = 0; e < n; e++)
            d->logit[e * HIDDEN + t] = (float)(order[e] - n / 2) / (n > 100 ? 32.0f : 4.0f);
        shuffle(order, n);
        memcpy(d->forced + t * size->top_k, order, (size_t)size->top_k * sizeof *order);
    }
    for (int e = 0; e < n; e++) {
        d->router[e] = (float)random_in(-(1 << 22), 1 << 22) * 0x1p-22f;
        d->choice[e] = (float)random_in(-3 * (1 << 21), 1 << 21) * 0x1p-21f;
    }
}

/* Returns the number of rows whose choice is clear. */
static int check_against_float64(const sy_ffn_spec *f,
                                 const size_data *d,
                                 biases b,
                                 bool forced,
                                 const int32_t *expert,
                                 const float *weight,
                                 const char *what) {
    int clear = 0;
    for (int t = 0; t < HIDDEN; t++) {
        int32_t exact_expert[MAX_K];
        double exact[MAX_K];
        memcpy(exact_expert, expert + t * f->top_k, (size_t)f->top_k * sizeof *expert);
        if (!define_row(f, b, d->logit, t, forced, exact_expert, exact)) continue;
        clear++;
        for (int i = 0; i < f->top_k; i++) {
            int at = t * f->top_k + i;
            if (expert[at] != exact_expert[i])
                fail_msg("%s: row %d, choice %d is expert %d, expected %d", what, t, i,
                         expert[at], exact_expert[i]);
            /* Rounding of a logit as large as 7 after its bias, exp, and six more roundings. */
            if (!(fabs((double)weight[at] - exact[i]) <= 3e-6 * exact[i]))
                fail_msg("%s: row %d, weight %d is %.9g, expected %.9g", what, t, i,
                         (double)weight[at], exact[i]);
        }
    }
    return clear;
}

/* All routers in one batch, then the rows alone on some, bit for bit as the first. Returns the
 * number of rows whose choice is clear. */
static int check_kind(const logit_router *r,
                      int n_routers,
                      const sy_ffn_spec *f,
                      const size_data *d,
                      bool forced,
                      const char *what) {
    enum { PAIRS = HIDDEN * MAX_K };
    int k = f->top_k;
    int32_t expert[PAIRS], other_expert[PAIRS];
    float weight[PAIRS], other_weight[PAIRS];
    biases b = {f->router_bias ? d->router : NULL, f->choice_bias ? d->choice : NULL};
    const int32_t *force = forced ? d->forced : NULL;
    assert_int_equal(run_route(&r[0], f, b, 0, HIDDEN, force, expert, weight), SY_OK);
    if (forced) assert_memory_equal(expert, d->forced, (size_t)(HIDDEN * k) * sizeof *expert);
    int clear = check_against_float64(f, d, b, forced, expert, weight, what);
    for (int i = 1; i < n_routers; i++) {
        assert_int_equal(run_route(&r[i], f, b, 0, HIDDEN, force, other_expert, other_weight),
                         SY_OK);
        assert_memory_equal(other_expert, expert, (size_t)(HIDDEN * k) * sizeof *expert);
        assert_same_bits(other_weight, weight, HIDDEN * k, what);
    }
    for (int t = 0; t < HIDDEN; t++) {
        const int32_t *force_row = forced ? d->forced + t * k : NULL;
        assert_int_equal(
            run_route(&r[t % n_routers], f, b, t, 1, force_row, other_expert, other_weight),
            SY_OK);
        assert_memory_equal(other_expert, expert + t * k, (size_t)k * sizeof *expert);
        assert_same_bits(other_weight, weight + t * k, k, what);
    }
    return clear;
}

static void every_kind_equals_float64_with_the_same_bits_everywhere(void **state) {
    (void)state;
    static size_data d;
    random_state = 21;
    for (int act = 0; act < 2; act++) {
        logit_router r[3 * N_ISA];
        int n = 0, clear = 0;
        for (int threads = 1; threads <= 3; threads++)
            for (int i = 0; i < N_ISA; i++)
                n += open_router(&r[n], act == 0 ? SY_BF16 : SY_F32, threads, isa_names[i]);
        for (int s = 0; s < N_SIZES; s++) {
            draw(&sizes[s], &d);
            for (int i = 0; i < n; i++)
                set_logits(&r[i], sizes[s].experts, d.logit);
            for (int i = 0; i < 2 * N_KINDS; i++) {
                char what[96];
                snprintf(what, sizeof what, "E %d, K %d, %d groups, kind %d, act %d%s",
                         sizes[s].experts, sizes[s].top_k, sizes[s].n_groups, i / 2, act,
                         i % 2 ? ", forced" : "");
                sy_ffn_spec f = kind_of(&sizes[s], i / 2);
                clear += check_kind(r, n, &f, &d, i % 2, what);
            }
        }
        if (!(clear > 99 * (N_SIZES * 2 * N_KINDS * HIDDEN) / 100))
            fail_msg("only %d rows have a clear choice", clear);
        for (int i = 0; i < n; i++)
            close_router(&r[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_equals_float64_with_the_same_bits_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Sampling: filters and draw against a sorted reference, the distribution, and odd rows. */
#include <float.h>
#include <math.h>

#include "tests/matrix_fixture.h"

static sy_backend *open_reserved(int n_threads, const char *isa, int vocab) {
    sy_backend *be = open_cpu(SY_BF16, n_threads, isa);
    if (be == NULL) return NULL;
    sy_limits l = {.max_rows = 1,
                   .max_pairs = 1,
                   .max_context = 64,
                   .hidden = 64,
                   .heads = 1,
                   .kv_heads = 1,
                   .head_dim = 2,
                   .max_inter = 1,
                   .experts = 1,
                   .top_k = 1,
                   .vocab = vocab};
    assert_int_equal(be->ops->reserve(be, &l), SY_OK);
    return be;
}

static int32_t sample_one(sy_backend *be,
                          int64_t vocab,
                          int64_t n_valid,
                          const float *logits,
                          sy_sample_params p) {
    int32_t token = -2; /* as long as nothing is written */
    assert_int_equal(be->ops->sample(be, 1, vocab, n_valid, logits, &p, &token, NULL), SY_OK);
    if (token < -1 || token >= n_valid) fail_msg("token %d of %lld", token, (long long)n_valid);
    return token;
}

/* The reference: all tokens sorted by falling logit (NaN dropped), float64 throughout. */
typedef struct ranked {
    float logit;
    int32_t id;
} ranked;

static int by_rank(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Fills p by rank and returns how many candidates remain; *margin: the distance, relative to
 * the mass, of the nearest filter decision from flipping. */
static int plain_filter(const float *logits,
                        int n,
                        const sy_sample_params *s,
                        ranked *order,
                        double *p,
                        double *margin) {
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (!isnan(logits[i])) order[kept++] = (ranked){logits[i], i};
    qsort(order, (size_t)kept, sizeof *order, by_rank);
    for (int i = 0; i < kept; i++)
        p[i] = exp(((double)order[i].logit - (double)order[0].logit) / (double)s->temperature);
    if (s->top_k > 0 && s->top_k < kept) kept = s->top_k;
    double total = 0, sum = 0;
    for (int i = 0; i < kept; i++)
        total += p[i];
    *margin = 1;
    if (s->top_p < 1) {
        int i = 0;
        for (; i < kept; i++) {
            sum += p[i];
            *margin = fmin(*margin, fabs(sum / total - (double)s->top_p));
            if (sum >= (double)s->top_p * total) break;
        }
        kept = i < kept ? i + 1 : kept;
    }
    int last = kept;
    for (kept = 0; kept < last && (kept == 0 || p[kept] >= (double)s->min_p); kept++)
        *margin = fmin(*margin, fabs(p[kept] - (double)s->min_p));
    if (kept < last) *margin = fmin(*margin, fabs(p[kept] - (double)s->min_p));
    return kept;
}

static double uniform_of(const sy_sample_params *s) {
    return (double)sy_uniform(sy_hash_add(sy_hash_add(0, s->seed), s->sample), s->position);
}

/* Compares with the reference, unless a float32 rounding could flip one of its decisions. */
static bool
check_against_reference(sy_backend *be, const float *logits, int n, const sy_sample_params *s) {
    static ranked order[5000];
    static double p[5000];
    double margin, total = 0, sum = 0;
    int kept = plain_filter(logits, n, s, order, p, &margin), i = 0;
    for (int j = 0; j < kept; j++)
        total += p[j];
    for (; i < kept - 1; i++) {
        sum += p[i];
        margin = fmin(margin, fabs(sum / total - uniform_of(s)));
        if (sum > uniform_of(s) * total) break;
    }
    int32_t found = sample_one(be, n, n, logits, *s);
    if (margin < 1e-5) return false;
    if (found != order[i].id)
        fail_msg(
            "V %d, T %g, top_k %d, top_p %g, min_p %g: token %d, expected %d (rank %d of %d)",
            n, (double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p, found,
            order[i].id, i, kept);
    return true;
}

static void every_filter_equals_the_sorted_reference(void **state) {
    (void)state;
    static const int vocabs[] = {1, 2, 10, 1000, 5000}, top_ks[] = {0, 1, 2, 7, 50, 100000};
    static const float temperatures[] = {0.1f, 0.7f, 1.0f, 3.0f};
    static const float top_ps[] = {1, 0.95f, 0.5f, 0.01f}, min_ps[] = {0, 0.02f, 0.3f};
    static float logits[5000];
    random_state = 3;
    int compared = 0, all = 0;
    for (int v = 0; v < 5; v++) {
        sy_backend *be = open_reserved(1, NULL, vocabs[v]);
        for (int round = 0; round < 1500; round++) {
            bool coarse = round % 3 == 0; /* many ties */
            for (int i = 0; i < vocabs[v] && round % 50 == 0; i++) {
                float a = (float)random_in(-1000000, 1000000) * 1e-6f;
                logits[i] = coarse ? (float)random_in(-4, 4) : a * fabsf(a) * 12;
                if (i > 0 && random_in(1, 40) == 1) logits[i] = NAN;
            }
            sy_sample_params s = {.temperature = temperatures[random_in(0, 3)],
                                  .top_k = top_ks[random_in(0, 5)],
                                  .top_p = top_ps[random_in(0, 3)],
                                  .min_p = min_ps[random_in(0, 2)],
                                  .seed = random64(),
                                  .sample = random64() % 3,
                                  .position = random64() % 1000};
            all++;
            compared += check_against_reference(be, logits, vocabs[v], &s);
        }
        close_cpu(be);
    }
    if (compared < all * 8 / 10)
        fail_msg("only %d of %d cases could be compared", compared, all);
}

static void frequencies_follow_the_softmax(void **state) {
    (void)state;
    enum { V = 20, DRAWS = 100000 };
    sy_backend *be = open_reserved(1, NULL, V);
    float logits[V];
    double p[V], sum = 0, chi = 0;
    int count[V] = {0};
    for (int i = 0; i < V; i++)
        logits[i] = (float)((i * 7) % V) / 6.0f;
    for (int i = 0; i < V; i++)
        sum += p[i] = exp((double)logits[i] / 0.8);
    for (int n = 0; n < DRAWS; n++)
        count[sample_one(
            be, V, V, logits,
            (sy_sample_params){
                .temperature = 0.8f, .top_p = 1, .seed = 42, .position = (uint64_t)n})]++;
    for (int i = 0; i < V; i++) {
        double expected = DRAWS * p[i] / sum;
        chi += (count[i] - expected) * (count[i] - expected) / expected;
    }
    /* 19 degrees of freedom: above 43.8 with probability 0.001, below 5.4 likewise. */
    if (!(chi > 5.4 && chi < 43.8)) fail_msg("chi-square %.1f", chi);
    close_cpu(be);
}

static void seed_sample_and_position_each_change_the_draw(void **state) {
    (void)state;
    enum { V = 1000 };
    sy_backend *be = open_reserved(1, NULL, V);
    float logits[V] = {0};
    int same[3] = {0};
    for (uint64_t i = 0; i < 200; i++) {
        sy_sample_params s = {
            .temperature = 1, .top_p = 1, .seed = i, .sample = 2 * i, .position = 3 * i};
        sy_sample_params other[3] = {s, s, s};
        other[0].seed++, other[1].sample++, other[2].position++;
        int32_t token = sample_one(be, V, V, logits, s);
        assert_int_equal(token, sample_one(be, V, V, logits, s));
        for (int j = 0; j < 3; j++)
            same[j] += token == sample_one(be, V, V, logits, other[j]);
    }
    for (int j = 0; j < 3; j++)
        assert_true(same[j] < 5);
    close_cpu(be);
}

static void greedy_takes_the_lowest_id_of_the_largest(void **state) {
    (void)state;
    sy_backend *be = open_reserved(1, NULL, 8);
    sy_sample_params greedy = {.top_p = 1};
    float a[8] = {1, 5, NAN, 5, 4, 5, 0, 2};
    assert_int_equal(sample_one(be, 8, 8, a, greedy), 1);
    float b[8] = {NAN, NAN, -INFINITY, -INFINITY, NAN, -INFINITY, NAN, NAN};
    assert_int_equal(sample_one(be, 8, 8, b, greedy), 2);
    float c[8] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    assert_int_equal(sample_one(be, 8, 8, c, greedy), -1);
    float d[8] = {1, INFINITY, 2, INFINITY, 0, 0, 0, 0};
    assert_int_equal(sample_one(be, 8, 8, d, greedy), 1);
    float e[8] = {-0.0f, 0.0f, -1, -1, -1, -1, -1, -1};
    assert_int_equal(sample_one(be, 8, 8, e, greedy), 0);
    greedy.temperature = -1;
    assert_int_equal(sample_one(be, 8, 8, a, greedy), 1);
    greedy.temperature = NAN;
    assert_int_equal(sample_one(be, 8, 8, a, greedy), 1);
    close_cpu(be);
}

static void extreme_parameters_and_logits_are_sampled_sanely(void **state) {
    (void)state;
    enum { V = 8 };
    sy_backend *be = open_reserved(1, NULL, V);
    float a[V] = {1, 5, NAN, 5.5f, 4, 5, 0, 2}, only[V],
          infinite[V] = {0, INFINITY, 1, INFINITY, -INFINITY, NAN, 3, 2};
    for (int i = 0; i < V; i++)
        only[i] = i == 6 ? -3.0f : -INFINITY;
    float nothing[V] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    bool seen[V] = {0}, hot[V] = {0};
    for (uint64_t i = 0; i < 500; i++) {
        sy_sample_params s = {.temperature = 1, .top_p = 1, .seed = i};
        assert_int_equal(sample_one(be, V, V, only, s), 6);
        assert_int_equal(sample_one(be, V, V, nothing, s), -1);
        seen[sample_one(be, V, V, infinite, s)] = true;
        sy_sample_params t = s;
        t.temperature = 1e-30f;
        assert_int_equal(sample_one(be, V, V, a, t), 3);
        t.temperature = 1e-44f;
        assert_int_equal(sample_one(be, V, V, a, t), 3);
        t.temperature = INFINITY;
        hot[sample_one(be, V, V, a, t)] = true;
        t = s, t.top_p = 0;
        assert_int_equal(sample_one(be, V, V, a, t), 3);
        t.top_p = -1;
        assert_int_equal(sample_one(be, V, V, a, t), 3);
        t = s, t.min_p = 1;
        assert_int_equal(sample_one(be, V, V, a, t), 3);
        t.min_p = 7;
        assert_int_equal(sample_one(be, V, V, a, t), 3);
        t = s, t.top_k = 1;
        assert_int_equal(sample_one(be, V, V, a, t), 3);
        t = s, t.top_k = V + 100, t.top_p = NAN, t.min_p = NAN;
        assert_int_equal(sample_one(be, V, V, a, t), sample_one(be, V, V, a, s));
    }
    for (int i = 0; i < V; i++)
        assert_true(seen[i] == (i == 1 || i == 3));
    for (int i = 0; i < V; i++)
        assert_true(hot[i] == (i != 2));
    close_cpu(be);
}

static void ties_at_a_cut_keep_the_lowest_ids(void **state) {
    (void)state;
    enum { V = 3000 };
    sy_backend *be = open_reserved(1, NULL, V);
    static float logits[V];
    bool by_k[V] = {0}, by_p[V] = {0};
    for (int i = 0; i < V; i++)
        logits[i] = i % 2 == 0 ? 1.0f : -50.0f;
    for (uint64_t i = 0; i < 500; i++) {
        sy_sample_params s = {.temperature = 1, .top_p = 1, .top_k = 5, .seed = i};
        by_k[sample_one(be, V, V, logits, s)] = true;
        s.top_k = 0, s.top_p = 0.0029f; /* 1500 equal ones: 4.35 of them, so 5 */
        by_p[sample_one(be, V, V, logits, s)] = true;
    }
    for (int i = 0; i < V; i++) {
        assert_true(by_k[i] == (i < 10 && i % 2 == 0));
        assert_true(by_p[i] == (i < 10 && i % 2 == 0));
    }
    close_cpu(be);
}

static void ids_beyond_the_valid_ones_are_never_chosen(void **state) {
    (void)state;
    enum { V = 100 };
    sy_backend *be = open_reserved(1, NULL, V);
    float logits[V], copy[V];
    for (int i = 0; i < V; i++)
        logits[i] = (float)i;
    memcpy(copy, logits, sizeof copy);
    for (int n_valid = 1; n_valid <= V; n_valid += 9) {
        assert_int_equal(sample_one(be, V, n_valid, logits, (sy_sample_params){.top_p = 1}),
                         n_valid - 1);
        for (uint64_t i = 0; i < 100; i++)
            sample_one(be, V, n_valid, logits,
                       (sy_sample_params){.temperature = 100, .top_p = 1, .seed = i});
    }
    assert_memory_equal(logits, copy, sizeof copy);
    int32_t token;
    sy_sample_params s = {.top_p = 1};
    assert_int_equal(be->ops->sample(be, 1, V, 0, logits, &s, &token, NULL), SY_ERR_INTERNAL);
    assert_int_equal(be->ops->sample(be, 1, 1000000, 5, logits, &s, &token, NULL),
                     SY_ERR_INTERNAL);
    assert_int_equal(be->ops->sample(be, 0, V, V, NULL, NULL, NULL, NULL), SY_OK);
    close_cpu(be);
}

static void rows_threads_and_tables_do_not_change_a_token(void **state) {
    (void)state;
    enum { V = 30000, ROWS = 7 };
    float *logits = malloc(sizeof(float) * V * ROWS);
    sy_sample_params s[ROWS];
    int32_t expected[ROWS], found[ROWS];
    random_state = 21;
    for (int i = 0; i < V * ROWS; i++)
        logits[i] = (float)random_in(-100000, 100000) * 1e-4f;
    for (int i = 0; i < ROWS; i++)
        s[i] = (sy_sample_params){.temperature = i == 3 ? 0 : 0.5f + (float)i,
                                  .top_k = i * 10,
                                  .top_p = 1 - 0.05f * (float)i,
                                  .seed = random64()};
    for (int a = 0; a < N_ISA; a++)
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            sy_backend *be = open_reserved(n_threads, isa_names[a], V);
            if (be == NULL) continue;
            if (a == 0 && n_threads == 1)
                for (int i = 0; i < ROWS; i++)
                    expected[i] = sample_one(be, V, V, logits + i * V, s[i]);
            assert_int_equal(be->ops->sample(be, ROWS, V, V, logits, s, found, NULL), SY_OK);
            assert_memory_equal(found, expected, sizeof found);
            close_cpu(be);
        }
    free(logits);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_filter_equals_the_sorted_reference),
        cmocka_unit_test(frequencies_follow_the_softmax),
        cmocka_unit_test(seed_sample_and_position_each_change_the_draw),
        cmocka_unit_test(greedy_takes_the_lowest_id_of_the_largest),
        cmocka_unit_test(extreme_parameters_and_logits_are_sampled_sanely),
        cmocka_unit_test(ties_at_a_cut_keep_the_lowest_ids),
        cmocka_unit_test(ids_beyond_the_valid_ones_are_never_chosen),
        cmocka_unit_test(rows_threads_and_tables_do_not_change_a_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

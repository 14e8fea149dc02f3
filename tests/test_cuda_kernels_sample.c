/* The CUDA table's sampler: the CPU's tokens on the same logits, except where a float32 rounding
 * may decide.
 * timeout: 240 */
#include <float.h>

#include "tests/cuda_fixture.h"

enum { MOST_VOCAB = 33000, BATCH = 16 };

static void reserve_vocab(int vocab) {
    reserve_both(&(sy_limits){.max_rows = 2 * BATCH,
                              .max_pairs = 1,
                              .max_context = 64,
                              .hidden = 64,
                              .heads = 1,
                              .kv_heads = 1,
                              .head_dim = 2,
                              .max_inter = 1,
                              .experts = 1,
                              .top_k = 1,
                              .vocab = vocab});
}

/* One row of logits; kinds: spread out, many ties, some no numbers. */
static void make_logits(float *logits, int vocab, int kind) {
    for (int i = 0; i < vocab; i++) {
        float a = uniform(1);
        logits[i] = kind == 1 ? (float)random_in(-4, 4) : a * fabsf(a) * 12;
        if (kind == 2 && random_in(1, 30) == 1) logits[i] = i % 3 == 0 ? NAN : -INFINITY;
    }
}

/* Samples rows on both; logits [n, vocab] stay as they were. */
static void sample_both(int n,
                        int vocab,
                        int n_valid,
                        const float *logits,
                        const sy_sample_params *params,
                        int32_t *cuda,
                        int32_t *cpu) {
    output device = make_output(logits, (int64_t)n * vocab * 4);
    MUST(cuda_be->ops->sample(cuda_be, n, vocab, n_valid, device.device, params, cuda, NULL));
    MUST(cpu_be->ops->sample(cpu_be, n, vocab, n_valid, logits, params, cpu, NULL));
    assert_equal_bytes(read_output(device), logits, n, (int64_t)vocab * 4, "logits");
    output_hash = sy_hash_bytes(output_hash, cuda, (size_t)n * sizeof *cuda);
}

/* The candidates in their order, in float64. */
typedef struct ranked {
    float logit;
    int32_t id;
} ranked;

static int by_rank(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* The distance, relative to the mass, of the nearest of the row's decisions from flipping: what
 * top-p keeps, what min-p keeps, and whom the draw hits. */
static double decision_margin(const float *logits, int n, const sy_sample_params *s) {
    ranked *order = malloc((size_t)n * sizeof *order);
    double *p = malloc((size_t)n * sizeof *p), margin = 1, total = 0, sum = 0;
    int kept = 0, i;
    for (i = 0; i < n; i++)
        if (!isnan(logits[i])) order[kept++] = (ranked){logits[i], i};
    qsort(order, (size_t)kept, sizeof *order, by_rank);
    for (i = 0; i < kept; i++)
        p[i] = exp(((double)order[i].logit - (double)order[0].logit) / (double)s->temperature);
    if (s->top_k > 0 && s->top_k < kept) kept = s->top_k;
    for (i = 0; i < kept; i++)
        total += p[i];
    for (i = 0; i < kept && s->top_p < 1; i++) {
        sum += p[i];
        margin = fmin(margin, fabs(sum / total - (double)s->top_p));
        if (sum >= (double)s->top_p * total) kept = i + 1;
    }
    for (i = 0; i < kept; i++) {
        margin = fmin(margin, fabs(p[i] - (double)s->min_p));
        if (p[i] < (double)s->min_p) kept = i > 0 ? i : 1;
    }
    double u = (double)sy_uniform(sy_hash_add(sy_hash_add(0, s->seed), s->sample), s->position);
    for (total = 0, i = 0; i < kept; i++)
        total += p[i];
    for (sum = 0, i = 0; i < kept; i++) {
        sum += p[i];
        if (i + 1 < kept) margin = fmin(margin, fabs(sum / total - u));
    }
    free(order), free(p);
    return margin;
}

static sy_sample_params random_params(void) {
    static const float temperatures[] = {0.1f, 0.7f, 1.0f, 3.0f};
    static const float top_ps[] = {1, 0.95f, 0.5f, 0.01f}, min_ps[] = {0, 0, 0.02f, 0.3f};
    static const int top_ks[] = {0, 0, 1, 2, 7, 50, 100000};
    return (sy_sample_params){.temperature = temperatures[random_in(0, 3)],
                              .top_k = top_ks[random_in(0, 6)],
                              .top_p = top_ps[random_in(0, 3)],
                              .min_p = min_ps[random_in(0, 3)],
                              .seed = random64(),
                              .sample = random64() % 3,
                              .position = random64() % 1000};
}

static void every_filter_draws_the_tokens_of_the_cpu(void **state) {
    (void)state;
    static const int vocabs[] = {1, 2, 11, 1000, 5003, MOST_VOCAB};
    static const int rounds[] = {3, 8, 20, 30, 8, 2};
    static float logits[BATCH * MOST_VOCAB];
    int compared = 0, all = 0, other = 0;
    random_state = 81;
    for (int v = 0; v < 6; v++) {
        int vocab = vocabs[v];
        reserve_vocab(vocab);
        for (int round = 0; round < rounds[v]; round++) {
            sy_sample_params s[BATCH];
            int32_t cuda[BATCH], cpu[BATCH];
            int n = (int)random_in(1, BATCH);
            snprintf(where, sizeof where, "sample, vocab %d, %d rows", vocab, n);
            for (int i = 0; i < n; i++) {
                make_logits(logits + i * vocab, vocab, round % 3);
                s[i] = random_params();
            }
            sample_both(n, vocab, vocab, logits, s, cuda, cpu);
            for (int i = 0; i < n; i++) {
                bool close = cuda[i] != cpu[i] &&
                             decision_margin(logits + i * vocab, vocab, &s[i]) < 1e-5;
                all++, compared += !close, other += close;
                if (cuda[i] != cpu[i] && !close)
                    fail_msg("%s: T %g, top_k %d, top_p %g, min_p %g: token %d (%.9g), CPU %d "
                             "(%.9g)",
                             where, (double)s[i].temperature, s[i].top_k, (double)s[i].top_p,
                             (double)s[i].min_p, cuda[i], (double)logits[i * vocab + cuda[i]],
                             cpu[i], (double)logits[i * vocab + cpu[i]]);
            }
            end_case();
        }
    }
    print_message("%d draws, %d other tokens, all within 1e-5 of a boundary\n", all, other);
    assert_true(compared + other == all && other * 100 <= all);
}

/* A thousand draws from one row: equal tokens draw by draw, so equal frequencies. */
static void many_draws_of_one_row_are_the_cpus(void **state) {
    (void)state;
    enum { V = 20, DRAWS = 1024, AT_ONCE = 2 * BATCH };
    float logits[AT_ONCE * V];
    int count[2][V] = {{0}}, other = 0;
    random_state = 82;
    reserve_vocab(V);
    snprintf(where, sizeof where, "many draws");
    make_logits(logits, V, 0);
    for (int i = 1; i < AT_ONCE; i++)
        memcpy(logits + i * V, logits, V * sizeof *logits);
    for (int draw = 0; draw < DRAWS; draw += AT_ONCE) {
        sy_sample_params s[AT_ONCE];
        int32_t cuda[AT_ONCE], cpu[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++)
            s[i] = (sy_sample_params){
                .temperature = 4, .top_p = 1, .seed = 5, .position = (uint64_t)(draw + i)};
        sample_both(AT_ONCE, V, V, logits, s, cuda, cpu);
        for (int i = 0; i < AT_ONCE; i++) {
            assert_true(cuda[i] >= 0 && cuda[i] < V);
            count[0][cuda[i]]++, count[1][cpu[i]]++;
            other += cuda[i] != cpu[i];
            if (cuda[i] != cpu[i]) assert_true(decision_margin(logits, V, &s[i]) < 1e-5);
        }
        end_case();
    }
    assert_true(other <= DRAWS / 100);
    for (int i = 0; i < V; i++)
        assert_true(abs(count[0][i] - count[1][i]) <= other);
}

static void greedy_takes_the_lowest_id_of_the_largest(void **state) {
    (void)state;
    static const int vocabs[] = {1, 11, 1000, 4099};
    static float logits[BATCH * 4099];
    random_state = 83;
    for (int v = 0; v < 4; v++) {
        int vocab = vocabs[v];
        sy_sample_params s[BATCH];
        int32_t cuda[BATCH], cpu[BATCH];
        reserve_vocab(vocab);
        snprintf(where, sizeof where, "greedy, vocab %d", vocab);
        for (int round = 0; round < 6; round++) {
            for (int i = 0; i < BATCH; i++) {
                make_logits(logits + i * vocab, vocab, (i + round) % 3);
                s[i] = (sy_sample_params){.top_p = 1, .top_k = i};
            }
            for (int i = 0; i < vocab; i++) { /* rows of one value only */
                logits[i] = round == 0 ? NAN : round == 1 ? -INFINITY : INFINITY;
                if (round == 3) logits[i] = i == vocab - 1 ? -FLT_MAX : NAN;
                if (round == 4) logits[i] = i % 2 == 0 ? -0.0f : 0.0f;
                if (round == 5) logits[i] = i == vocab / 2 ? -INFINITY : NAN;
            }
            int n_valid = round % 2 == 0 ? vocab : (vocab + 1) / 2;
            sample_both(BATCH, vocab, n_valid, logits, s, cuda, cpu);
            for (int i = 0; i < BATCH; i++)
                if (cuda[i] != cpu[i])
                    fail_msg("%s: row %d of round %d: token %d, CPU %d", where, i, round,
                             cuda[i], cpu[i]);
            end_case();
        }
    }
}

/* The same odd rows under a temperature: infinities, no numbers, all equal. */
static void extreme_rows_and_parameters_are_sampled_as_on_the_cpu(void **state) {
    (void)state;
    enum { V = 100 };
    static const float temperatures[] = {1e-30f, 1e-38f, 1e-3f, 1, 1e30f};
    float logits[BATCH * V];
    random_state = 84;
    reserve_vocab(V);
    for (int t = 0; t < 5; t++) {
        sy_sample_params s[BATCH];
        int32_t cuda[BATCH], cpu[BATCH];
        snprintf(where, sizeof where, "sample, odd rows, temperature %g",
                 (double)temperatures[t]);
        for (int i = 0; i < BATCH; i++) {
            for (int j = 0; j < V; j++)
                logits[i * V + j] = i % 8 == 0   ? NAN
                                    : i % 8 == 1 ? -INFINITY
                                    : i % 8 == 2 ? (j == 7 || j == 9 ? INFINITY : 1)
                                    : i % 8 == 3 ? (j < 90 ? NAN : -5)
                                    : i % 8 == 4 ? 3
                                    : i % 8 == 5 ? (j == 50 ? FLT_MAX : -FLT_MAX)
                                    : i % 8 == 6 ? (j == 3 ? -FLT_MAX : -INFINITY)
                                                 : uniform(1e-30f);
            s[i] = (sy_sample_params){.temperature = temperatures[t],
                                      .top_k = i < 8 ? 0 : 5,
                                      .top_p = i % 3 == 0 ? 0.6f : 1,
                                      .min_p = i % 5 == 4 ? 2.0f : 0,
                                      .seed = random64()};
        }
        sample_both(BATCH, V, V - 5, logits, s, cuda, cpu);
        for (int i = 0; i < BATCH; i++)
            if (cuda[i] != cpu[i] && decision_margin(logits + i * V, V - 5, &s[i]) >= 1e-5)
                fail_msg("%s: row %d: token %d, CPU %d", where, i, cuda[i], cpu[i]);
        end_case();
    }
}

static void a_row_alone_gets_the_token_it_gets_in_a_batch(void **state) {
    (void)state;
    enum { V = 1000 };
    static float logits[BATCH * V];
    sy_sample_params s[BATCH];
    int32_t together[BATCH], cpu[BATCH], alone;
    random_state = 85;
    reserve_vocab(V);
    snprintf(where, sizeof where, "sample alone");
    for (int i = 0; i < BATCH; i++) {
        make_logits(logits + i * V, V, i % 3);
        s[i] = random_params();
    }
    sample_both(BATCH, V, V, logits, s, together, cpu);
    for (int i = 0; i < BATCH; i++) {
        sample_both(1, V, V, logits + i * V, s + i, &alone, cpu);
        assert_int_equal(alone, together[i]);
    }
    end_case();
}

static void bad_calls_are_refused_and_none_is_fine(void **state) {
    (void)state;
    float logits[10] = {0};
    int32_t token = 5;
    sy_sample_params s = {.top_p = 1};
    reserve_vocab(10);
    void *device = device_copy(logits, sizeof logits);
    const sy_ops *ops = cuda_be->ops;
    assert_int_equal(ops->sample(cuda_be, 1, 10, 0, device, &s, &token, NULL), SY_ERR_INTERNAL);
    assert_int_equal(ops->sample(cuda_be, 1, 1000000, 5, device, &s, &token, NULL),
                     SY_ERR_INTERNAL);
    MUST(ops->sample(cuda_be, 0, 10, 10, NULL, NULL, NULL, NULL));
    assert_int_equal(token, 5);
    end_case();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_filter_draws_the_tokens_of_the_cpu),
        cmocka_unit_test(many_draws_of_one_row_are_the_cpus),
        cmocka_unit_test(greedy_takes_the_lowest_id_of_the_largest),
        cmocka_unit_test(extreme_rows_and_parameters_are_sampled_as_on_the_cpu),
        cmocka_unit_test(a_row_alone_gets_the_token_it_gets_in_a_batch),
        cmocka_unit_test(bad_calls_are_refused_and_none_is_fine),
    };
    return cuda_main("sampling", tests, sizeof tests / sizeof *tests);
}

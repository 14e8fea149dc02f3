/* The choice of experts where implementations are known to go wrong: masked groups, ties, NaN,
 * biases that must or must not reach the weights, forced experts. */
#include <math.h>

#include "tests/route_fixture.h"

/* One row of logits on a fresh backend. */
static void route_logits(const sy_ffn_spec *f,
                         const float *logit,
                         biases b,
                         const int32_t *forced,
                         int32_t *expert,
                         float *weight) {
    logit_router r;
    float column[MAX_EXPERTS * HIDDEN] = {0};
    for (int e = 0; e < f->experts; e++)
        column[e * HIDDEN] = logit[e];
    assert_true(open_router(&r, SY_F32, 2, NULL));
    set_logits(&r, f->experts, column);
    assert_int_equal(run_route(&r, f, b, 0, 1, forced, expert, weight), SY_OK);
    close_router(&r);
}

static sy_ffn_spec router_spec(sy_router_score score, int experts, int top_k) {
    return (sy_ffn_spec){.experts = experts, .top_k = top_k, .score = score, .routed_scale = 1};
}

static void assert_experts(const int32_t *found, const int32_t *expected, int k) {
    for (int i = 0; i < k; i++)
        if (found[i] != expected[i])
            fail_msg("choice %d is expert %d, expected %d", i, found[i], expected[i]);
}

static const biases no_bias = {NULL, NULL};

static void masked_groups_stay_out_when_every_choice_score_is_negative(void **state) {
    (void)state;
    float logit[8] = {3, -3, 2, 1, 0, 0.5f, -1, -2};
    float bias[8] = {-4, -4, -2, -2, -1.5f, -1.5f, -9, -9}, weight[4];
    int32_t expert[4], expected[4] = {5, 4, 2, 3};
    sy_ffn_spec f = router_spec(SY_SCORE_SIGMOID, 8, 4);
    f.choice_bias = true;
    f.n_groups = 4;
    f.groups_kept = 2;
    route_logits(&f, logit, (biases){NULL, bias}, NULL, expert, weight);
    assert_experts(expert, expected, 4);
}

static void two_good_experts_beat_the_best_one_in_top2_but_not_in_max(void **state) {
    (void)state;
    float logit[6] = {5, -9, 2, 2, -1, 0}, weight[2];
    int32_t expert[2], pair[2] = {2, 3}, best[2] = {0, 1};
    sy_ffn_spec f = router_spec(SY_SCORE_SIGMOID, 6, 2);
    f.n_groups = 3;
    f.groups_kept = 1;
    route_logits(&f, logit, no_bias, NULL, expert, weight);
    assert_experts(expert, pair, 2);
    f.group_score = SY_GROUP_MAX;
    route_logits(&f, logit, no_bias, NULL, expert, weight);
    assert_experts(expert, best, 2);
}

static void equal_groups_keep_the_lowest_and_equal_experts_too(void **state) {
    (void)state;
    float logit[8] = {0, 0, 1, 1, 0, 0, 0, 0}, weight[4];
    int32_t expert[4], expected[4] = {2, 3, 0, 1};
    for (int score = 0; score < 3; score++)
        for (int group_score = 0; group_score < 2; group_score++) {
            sy_ffn_spec f = router_spec((sy_router_score)score, 8, 4);
            f.n_groups = 4;
            f.groups_kept = 2;
            f.group_score = (sy_group_score)group_score;
            route_logits(&f, logit, no_bias, NULL, expert, weight);
            assert_experts(expert, expected, 4);
        }
}

static void equal_choice_scores_choose_the_lowest_index(void **state) {
    (void)state;
    float logit[6] = {0}, bias[6] = {-2, 1, 1, -2, 1, 1}, weight[5];
    int32_t expert[5], expected[5] = {1, 2, 4, 5, 0};
    for (int score = 0; score < 3; score++) {
        sy_ffn_spec f = router_spec((sy_router_score)score, 6, 5);
        f.choice_bias = true;
        route_logits(&f, logit, (biases){NULL, bias}, NULL, expert, weight);
        assert_experts(expert, expected, 5);
    }
}

static void choice_bias_chooses_and_leaves_the_weights_alone(void **state) {
    (void)state;
    float logit[5] = {0}, bias[5] = {0.25f, -7, 3, 0.5f, 0}, weight[3];
    int32_t expert[3], expected[3] = {2, 3, 0};
    sy_ffn_spec f = router_spec(SY_SCORE_SIGMOID, 5, 3);
    f.choice_bias = true;
    f.routed_scale = 2.5f;
    route_logits(&f, logit, (biases){NULL, bias}, NULL, expert, weight);
    assert_experts(expert, expected, 3);
    for (int i = 0; i < 3; i++)
        assert_true(weight[i] == 1.25f);
    f.renorm = true;
    f.renorm_eps = 0.5f;
    route_logits(&f, logit, (biases){NULL, bias}, NULL, expert, weight);
    for (int i = 0; i < 3; i++)
        assert_true(weight[i] == 0.5f / 2.0f * 2.5f);
}

static void router_bias_is_part_of_logit_and_weight(void **state) {
    (void)state;
    float logit[5] = {1, 2, 3, 4, 5}, bias[5] = {4, 0, 2, 0, -9}, sum[5] = {5, 2, 5, 4, -4};
    for (int score = 0; score < 3; score++) {
        float weight[3], expected_weight[3];
        int32_t expert[3], expected[3] = {0, 2, 3};
        sy_ffn_spec f = router_spec((sy_router_score)score, 5, 3);
        route_logits(&f, sum, no_bias, NULL, expert, expected_weight);
        f.router_bias = true;
        route_logits(&f, logit, (biases){bias, NULL}, NULL, expert, weight);
        assert_experts(expert, expected, 3);
        assert_same_bits(weight, expected_weight, 3, "weights");
    }
}

static void nan_does_not_let_a_masked_expert_in(void **state) {
    (void)state;
    float logit[6] = {9, NAN, -4, -4, 7, 7}, weight[2];
    int32_t expert[2], expected[2] = {0, 1};
    for (int score = 0; score < 3; score++) {
        sy_ffn_spec f = router_spec((sy_router_score)score, 6, 2);
        f.n_groups = 3;
        f.groups_kept = 1;
        f.group_score = SY_GROUP_MAX;
        route_logits(&f, logit, no_bias, NULL, expert, weight);
        assert_experts(expert, expected, 2);
        assert_true(weight[0] > 0 && weight[1] == 0.0f);
    }
}

static void nan_is_last_whatever_its_choice_bias(void **state) {
    (void)state;
    float logit[6] = {NAN, 1, 0, -1, NAN, 2};
    float bias[6] = {INFINITY, NAN, -8, 0, 100, -INFINITY}, weight[6];
    /* Of the -inf ones the lowest index is first, and a NaN of the bias is one of them. */
    int32_t expert[6], expected[6] = {3, 2, 0, 1, 4, 5};
    for (int score = 0; score < 3; score++) {
        sy_ffn_spec f = router_spec((sy_router_score)score, 6, 6);
        f.choice_bias = true;
        f.renorm = true;
        route_logits(&f, logit, (biases){NULL, bias}, NULL, expert, weight);
        assert_experts(expert, expected, 6);
        assert_true(weight[2] == 0.0f && weight[4] == 0.0f);
        assert_true(weight[0] > 0 && weight[1] > 0 && weight[3] > 0 && weight[5] > 0);
        float sum = 0;
        for (int i = 0; i < 6; i++)
            sum += weight[i];
        assert_true(fabsf(sum - 1) < 1e-6f);
    }
}

static void nan_alone_weighs_nothing_and_infinity_is_a_number(void **state) {
    (void)state;
    float nan[5] = {NAN, NAN, NAN, NAN, NAN}, logit[5] = {0, INFINITY, -INFINITY, NAN, 1};
    float weight[5];
    /* Beside the infinity all numbers have the same score in a softmax, -inf the score 0. */
    int32_t expert[5], ascending[3] = {0, 1, 2};
    int32_t by_score[3] = {1, 4, 0}, by_index[3] = {1, 0, 4};
    for (int score = 0; score < 3; score++)
        for (int groups = 1; groups <= 5; groups += 4) {
            sy_ffn_spec f = router_spec((sy_router_score)score, 5, 3);
            f.renorm = true;
            f.n_groups = groups;
            f.groups_kept = groups == 1 ? 1 : 3;
            route_logits(&f, nan, no_bias, NULL, expert, weight);
            assert_experts(expert, ascending, 3);
            for (int i = 0; i < 3; i++)
                assert_true(weight[i] == 0.0f);
            route_logits(&f, logit, no_bias, NULL, expert, weight);
            assert_experts(expert, score == SY_SCORE_SOFTMAX ? by_index : by_score, 3);
            assert_true(fabsf(weight[0] + weight[1] + weight[2] - 1) < 1e-6f);
            if (score != SY_SCORE_SIGMOID) assert_true(weight[0] == 1.0f && weight[1] < 1e-30f);
        }
}

static void forced_experts_share_the_softmax_of_their_own_logits(void **state) {
    (void)state;
    float logit[6] = {NAN, 30, 2, 2, -5, 2}, weight[4];
    int32_t expert[4], forced[4] = {5, 2, 4, 3}, outside[4] = {-1, 3, 6, 2};
    int32_t none[4] = {-1, 0, 6, INT32_MAX};
    sy_ffn_spec f = router_spec(SY_SCORE_SOFTMAX_CHOSEN, 6, 4);
    route_logits(&f, logit, no_bias, forced, expert, weight);
    assert_experts(expert, forced, 4);
    double third = 1 / (3 + exp(-7));
    assert_true(weight[0] == weight[1] && weight[1] == weight[3]);
    assert_true(fabs((double)weight[0] - third) < 1e-7);
    assert_true(fabs((double)weight[2] - exp(-7) * third) < 1e-9);
    route_logits(&f, logit, no_bias, outside, expert, weight);
    assert_true(weight[0] == 0.0f && weight[2] == 0.0f);
    assert_true(weight[1] == 0.5f && weight[3] == 0.5f);
    route_logits(&f, logit, no_bias, none, expert, weight);
    for (int i = 0; i < 4; i++)
        assert_true(weight[i] == 0.0f);
}

static void a_spec_that_cannot_be_routed_is_refused(void **state) {
    (void)state;
    static const struct {
        int n_groups, groups_kept;
        bool router_bias, choice_bias;
    } wrong[] = {{5, 1, 0, 0}, {4, 0, 0, 0},  {4, 5, 0, 0}, {4, -1, 0, 0},
                 {4, 1, 0, 0}, {24, 2, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}};
    logit_router r;
    float logit[12 * HIDDEN] = {0}, weight[4];
    int32_t expert[4];
    assert_true(open_router(&r, SY_BF16, 1, NULL));
    set_logits(&r, 12, logit);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        sy_ffn_spec f = router_spec(SY_SCORE_SIGMOID, 12, 4);
        f.n_groups = wrong[i].n_groups;
        f.groups_kept = wrong[i].groups_kept;
        f.router_bias = wrong[i].router_bias;
        f.choice_bias = wrong[i].choice_bias;
        assert_int_equal(run_route(&r, &f, no_bias, 0, 1, NULL, expert, weight),
                         SY_ERR_INTERNAL);
        assert_int_equal(run_route(&r, &f, no_bias, 0, 0, NULL, expert, weight), SY_OK);
    }
    close_router(&r);
}

/* As the steps run kernels: with denormals flushed. */
static void check_sigmoid(void *arg, int thread, int n_threads) {
    (void)arg;
    (void)thread;
    (void)n_threads;
    enum { N = 20003 };
    static float expected[N], found[N];
    double worst = 0;
    for (int a = 0; a < N_ISA; a++) {
        const sy_cpu_isa *isa = sy_cpu_isa_find(isa_names[a]);
        if (isa == NULL) continue;
        for (int i = 0; i < N; i++)
            found[i] = (float)(i - N / 2) / 100.0f;
        isa->vec.sigmoid(N, found);
        if (a == 0) memcpy(expected, found, sizeof found);
        assert_same_bits(found, expected, N, isa->name);
        float edge[5] = {NAN, INFINITY, -INFINITY, -1e30f, 0};
        isa->vec.sigmoid(5, edge);
        assert_true(isnan(edge[0]) && edge[1] == 1.0f && edge[2] == 0.0f);
        assert_true(edge[3] == 0.0f && edge[4] == 0.5f);
        isa->vec.sigmoid(0, NULL);
    }
    for (int i = 0; i < N; i++) {
        double x = (double)((float)(i - N / 2) / 100.0f), exact = 1 / (1 + exp(-x));
        if (x >= -87) worst = fmax(worst, fabs((double)expected[i] - exact) / exact);
        if (x < -88.5) assert_true(expected[i] == 0.0f);
    }
    /* exp 1.1 ulp, at most double across a power of two, and two roundings. */
    if (!(worst < 3.2 * 0x1p-24 * 2)) fail_msg("sigmoid is off by %g", worst);
}

static void sigmoid_matches_float64_in_every_table(void **state) {
    (void)state;
    sy_pool_run_alone(check_sigmoid, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masked_groups_stay_out_when_every_choice_score_is_negative),
        cmocka_unit_test(two_good_experts_beat_the_best_one_in_top2_but_not_in_max),
        cmocka_unit_test(equal_groups_keep_the_lowest_and_equal_experts_too),
        cmocka_unit_test(equal_choice_scores_choose_the_lowest_index),
        cmocka_unit_test(choice_bias_chooses_and_leaves_the_weights_alone),
        cmocka_unit_test(router_bias_is_part_of_logit_and_weight),
        cmocka_unit_test(nan_does_not_let_a_masked_expert_in),
        cmocka_unit_test(nan_is_last_whatever_its_choice_bias),
        cmocka_unit_test(nan_alone_weighs_nothing_and_infinity_is_a_number),
        cmocka_unit_test(forced_experts_share_the_softmax_of_their_own_logits),
        cmocka_unit_test(a_spec_that_cannot_be_routed_is_refused),
        cmocka_unit_test(sigmoid_matches_float64_in_every_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

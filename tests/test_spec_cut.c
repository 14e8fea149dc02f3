/* Cutting and stretching a model for dummy weights. */
#include "tests/spec_fixture.h"

static void cut_takes_layers_of_each_kind(void **state) {
    (void)state;
    sy_model_spec *s =
        accepted(QWEN, "mlp_only_layers=[1];eos_token_id=[10,60];bos_token_id=50;"
                       "intermediate_size=40");
    for (int l = 0; l < 4; l++)
        s->layer[l].ffn.inter = 10 + l; /* 11 is dense */
    static const int width[] = {11, 11, 10, 12, 13, 10, 12};
    assert_int_equal(sy_spec_cut(s, 2, 5, 50, 4), SY_OK);
    assert_int_equal(s->n_layers, 7);
    for (int l = 0; l < 7; l++) {
        assert_int_equal(s->layer[l].ffn.kind, l < 2 ? SY_FFN_DENSE : SY_FFN_MOE);
        assert_int_equal(s->layer[l].ffn.inter, width[l]);
        assert_int_equal(s->layer[l].ffn.experts, l < 2 ? 0 : 4);
    }
    assert_int_equal(s->vocab, 50);
    assert_int_equal(s->n_eos, 1);
    assert_int_equal(s->bos, -1);
    assert_int_equal(sy_spec_cut(s, 0, 1, 0, 0), SY_OK);
    assert_int_equal(s->n_layers, 1);
    assert_int_equal(s->layer[0].ffn.experts, 4);
    assert_int_equal(sy_spec_cut(s, 0, 0, 0, 0), SY_OK);
    assert_int_equal(s->n_layers, 1);
    assert_int_equal(s->vocab, 50);
    sy_spec_destroy(s);
}

static void impossible_cut_is_refused_and_changes_nothing(void **state) {
    (void)state;
    static const struct {
        int n_dense, n_moe, vocab, experts;
        const char *refusal;
    } cases[] = {{1, 1, 0, 0, "no dense layer"},
                 {0, SY_MAX_LAYERS + 1, 0, 0, "at most 1024"},
                 {0, -1, 0, 0, "at most 1024"},
                 {2, 0, 0, 0, "at least one MoE"},
                 {0, 0, -1, 0, "vocabulary"},
                 {0, 0, 1 << 25, 0, "vocabulary"},
                 {0, 0, 0, 1, "experts: expected 2"},
                 {0, 0, 0, -1, "experts: expected 2"},
                 {0, 0, 0, 65536, "to 65535, found 65536"}};
    sy_model_spec *s = accepted(QWEN, NULL);
    sy_model_spec before = *s;
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(
            sy_spec_cut(s, cases[i].n_dense, cases[i].n_moe, cases[i].vocab, cases[i].experts),
            SY_ERR_USAGE);
        if (strstr(sy_last_error(), cases[i].refusal) == NULL)
            fail_msg("expected %s, found %s", cases[i].refusal, sy_last_error());
        assert_memory_equal(s, &before, sizeof before);
    }
    sy_spec_destroy(s);
    s = load("configs/deepseek-v3-v4.json"); /* its first layers are dense */
    assert_int_equal(sy_spec_cut(s, 0, 0, 0, 7), SY_ERR_USAGE);
    assert_non_null(strstr(sy_last_error(), "experts: expected 8 "));
    sy_spec_destroy(s);
    s = load("configs/qwen3-235b-a22b-v4.json");
    assert_int_equal(sy_spec_cut(s, 0, 1024, 0, 65535), SY_ERR_USAGE);
    assert_non_null(strstr(sy_last_error(), "2^48"));
    sy_spec_destroy(s);
}

/* 8 groups of which 4 are kept, 8 experts a token: what another number of experts makes of it. */
static void cut_experts_stay_in_groups_that_fit(void **state) {
    (void)state;
    static const struct {
        int experts, groups, kept;
    } cases[] = {
        {256, 8, 4}, {16, 8, 4}, {20, 5, 3},
        {66, 6, 3},  {12, 3, 2}, /* 3 of 6 groups, and 2 of 4, would hold but 6 experts */
        {9, 1, 1},   {8, 1, 1},  {1000, 8, 4}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = load("configs/deepseek-v3-v4.json");
        if (sy_spec_cut(s, 1, 1, 0, cases[i].experts) != SY_OK) fail_msg("%s", sy_last_error());
        const sy_ffn_spec *f = &s->layer[1].ffn;
        assert_int_equal(f->experts, cases[i].experts);
        if (f->n_groups != cases[i].groups || f->groups_kept != cases[i].kept)
            fail_msg("%d experts: expected %d of %d groups, found %d of %d", cases[i].experts,
                     cases[i].kept, cases[i].groups, f->groups_kept, f->n_groups);
        assert_int_equal(s->layer[0].ffn.experts, 0); /* dense */
        sy_spec_destroy(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_takes_layers_of_each_kind),
        cmocka_unit_test(impossible_cut_is_refused_and_changes_nothing),
        cmocka_unit_test(cut_experts_stay_in_groups_that_fit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

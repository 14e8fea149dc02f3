/* Keys that change what a layer computes: windows, biases, rotary, wrappers, dense layers. */
#include <math.h>

#include "tests/spec_fixture.h"

static void small_config_of_each_family_is_read(void **state) {
    (void)state;
    static const struct {
        const char *base, *family;
        sy_attn_kind kind;
        uint64_t total; /* by hand, from the shapes */
    } cases[] = {
        {QWEN, "qwen3_moe", SY_ATTN_GQA, 3200 + 16 + 4 * (768 + 8 + 32 + 128 + 9216)},
        {DEEPSEEK_V2, "deepseek_v2", SY_ATTN_MLA,
         3200 + 16 + 4 * (640 + 256 + 12 + 672 + 512 + 32) + 1920 + 3 * (128 + 9216 + 2304)},
        {DEEPSEEK_V3, "deepseek_v3", SY_ATTN_MLA,
         3200 + 16 + 4 * (160 + 10 + 400 + 256 + 12 + 672 + 512 + 32) + 1920 +
             3 * (128 + 8 + 9216 + 1152)},
        {GPT_OSS, "gpt_oss", SY_ATTN_GQA,
         3200 + 16 + 4 * (768 + 32 + 16 + 4 + 32 + 128 + 8 + 9216 + 8 * 64)},
        {PARAMS, "mistral4", SY_ATTN_MLA,
         3200 + 16 + 4 * (160 + 10 + 400 + 256 + 12 + 672 + 512 + 32) + 1920 +
             3 * (128 + 9216 + 1152)}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = accepted(cases[i].base, NULL);
        sy_param_counts c;
        sy_spec_count(s, &c);
        assert_string_equal(s->family, cases[i].family);
        assert_int_equal(s->layer[0].attn.kind, cases[i].kind);
        if (c.total != cases[i].total)
            fail_msg("%s: expected %llu parameters, found %llu", cases[i].family,
                     (unsigned long long)cases[i].total, (unsigned long long)c.total);
        sy_spec_destroy(s);
    }
}

static void windows_go_to_the_layers_that_slide(void **state) {
    (void)state;
    static const struct {
        const char *base, *changes;
        int64_t window[4];
    } cases[] = {
        {MIXTRAL, "sliding_window=100", {100, 100, 100, 100}},
        {QWEN, "use_sliding_window=true;sliding_window=100", {100, 100, 100, 100}},
        {QWEN,
         "use_sliding_window=true;sliding_window=100;max_window_layers=3",
         {0, 0, 0, 100}},
        {QWEN, "use_sliding_window=true;sliding_window=100;max_window_layers=4", {0, 0, 0, 0}},
        {QWEN,
         "sliding_window=7;layer_types=[\"full_attention\",\"sliding_attention\","
         "\"full_attention\",\"sliding_attention\"]",
         {0, 7, 0, 7}},
        {GPT_OSS, NULL, {32, 0, 32, 0}},
        {GPT_OSS, "sliding_window=1", {1, 0, 1, 0}},
        {GPT_OSS, "sliding_window=512", {0, 0, 0, 0}},
        {GPT_OSS, "sliding_window=511", {511, 0, 511, 0}},
        {GPT_OSS,
         "layer_types=[\"full_attention\",\"full_attention\",\"sliding_attention\","
         "\"sliding_attention\"]",
         {0, 0, 32, 32}},
        {GPT_OSS,
         "sliding_window;layer_types=[\"full_attention\",\"full_attention\","
         "\"full_attention\",\"full_attention\"]",
         {0, 0, 0, 0}}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = accepted(cases[i].base, cases[i].changes);
        for (int l = 0; l < 4; l++)
            if (s->layer[l].attn.window != cases[i].window[l])
                fail_msg("case %zu, layer %d: expected %lld, found %lld", i, l,
                         (long long)cases[i].window[l], (long long)s->layer[l].attn.window);
        sy_spec_destroy(s);
    }
}

static void biases_are_those_of_the_family(void **state) {
    (void)state;
    static const struct {
        const char *base, *changes;
        bool qkv, o;
    } cases[] = {{QWEN, NULL, false, false},
                 {QWEN, "attention_bias=true", true, true},
                 {OLMOE, "attention_bias=true", true, true},
                 {GLM, "attention_bias=true", true, false},
                 {SARVAM_MOE, "use_qkv_bias=true", true, false},
                 {SARVAM_MOE, "attention_bias=true", true, false},
                 {GPT_OSS, NULL, true, true},
                 {GPT_OSS, "attention_bias=false", false, false}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = accepted(cases[i].base, cases[i].changes);
        assert_int_equal(s->layer[3].attn.qkv_bias, cases[i].qkv);
        assert_int_equal(s->layer[3].attn.o_bias, cases[i].o);
        sy_spec_destroy(s);
    }
}

/* 0.1 ln 4 + 1 = 1.138629436; heads of nope + rope = 10. */
static void yarn_resolves_both_of_its_corrections(void **state) {
    (void)state;
    static const double g = 1.1386294361119891;
    static const struct {
        const char *base, *changes;
        double factor, original, attention, scale; /* scale times sqrt(width) */
    } cases[] = {
        {DEEPSEEK_V3, NULL, 4, 128, 1, 1.2964770},
        {DEEPSEEK_V3, "rope_scaling.type=\"deepseek_yarn\"", 4, 128, 1, 1.2964770},
        {DEEPSEEK_V3, "rope_scaling.mscale=0;rope_scaling.mscale_all_dim=0", 4, 128, g, 1},
        {DEEPSEEK_V3, "rope_scaling.mscale", 4, 128, g, 1.2964770},
        {DEEPSEEK_V3, "rope_scaling.mscale_all_dim", 4, 128, g, 1},
        {DEEPSEEK_V3, "rope_scaling.mscale_all_dim=2", 4, 128, g / 1.2772588722, 1.6313902},
        {DEEPSEEK_V3, "rope_scaling.attention_factor=0.75", 4, 128, 0.75, 1.2964770},
        {DEEPSEEK_V3, "rope_scaling.factor=1", 1, 128, 1, 1},
        /* A missing factor is the ratio of lengths; a stated one holds against it. */
        {DEEPSEEK_V3, "rope_scaling.factor", 4, 128, 1, 1.2964770},
        {DEEPSEEK_V3, "rope_scaling.original_max_position_embeddings", 4, 512, 1, 1.2964770},
        {DEEPSEEK_V3, "original_max_position_embeddings=64", 4, 64, 1, 1.2964770},
        {DEEPSEEK_V3, "rope_scaling={\"type\":\"default\"}", 0, 0, 1, 1},
        {SARVAM_MLA, "rope_scaling.type=\"deepseek_yarn\"", 4, 128, 1, 1.2964770},
        {MISTRAL4, NULL, 4, 128, 1, 1},
        {MISTRAL4,
         "rope_parameters.attention_factor;rope_parameters.mscale=1;"
         "rope_parameters.mscale_all_dim=1",
         4, 128, 1, 1},
        {PARAMS, NULL, 4, 128, 1, 1}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = accepted(cases[i].base, cases[i].changes);
        const sy_attn_spec *a = &s->layer[2].attn;
        assert_true(a->rope.factor == cases[i].factor);
        if (a->rope.factor != 0) assert_true(a->rope.original_positions == cases[i].original);
        if (fabs(a->rope.attention_factor - cases[i].attention) > 1e-9 ||
            fabs((double)a->softmax_scale * sqrt(10) - cases[i].scale) > 3e-7)
            fail_msg("case %zu: expected %.9g and %.9g, found %.9g and %.9g", i,
                     cases[i].attention, cases[i].scale, a->rope.attention_factor,
                     (double)a->softmax_scale * sqrt(10));
        sy_spec_destroy(s);
    }
}

static void grouped_families_take_yarn_on_cos_and_sin_alone(void **state) {
    (void)state;
    sy_model_spec *s = accepted(
        QWEN, "rope_scaling={\"rope_type\":\"yarn\",\"factor\":4.0,\"truncate\":false,"
              "\"original_max_position_embeddings\":128,\"beta_fast\":16,\"beta_slow\":2}");
    const sy_attn_spec *a = &s->layer[0].attn;
    assert_true(a->rope.factor == 4 && a->rope.original_positions == 128);
    assert_true(a->rope.beta_fast == 16 && a->rope.beta_slow == 2);
    assert_false(a->rope.truncate);
    assert_true(fabs(a->rope.attention_factor - 1.1386294361119891) < 1e-12);
    assert_true(a->softmax_scale == 0.5f);
    sy_spec_destroy(s);
}

static void rotary_width_follows_either_spelling(void **state) {
    (void)state;
    static const struct {
        const char *base, *changes;
        int dim;
        sy_rope_layout layout;
    } cases[] = {
        {GLM, NULL, 2, SY_ROPE_HALF},
        {GLM, "partial_rotary_factor=1.0", 4, SY_ROPE_HALF},
        {GLM, "head_dim=16;rope_parameters={\"partial_rotary_factor\":0.25}", 4, SY_ROPE_HALF},
        {SARVAM_MOE, NULL, 4, SY_ROPE_HALF},
        {SARVAM_MOE, "partial_rotary_factor=0.5", 2, SY_ROPE_HALF},
        {MINIMAX, NULL, 2, SY_ROPE_HALF},
        {MINIMAX, "partial_rotary_factor=0.5", 2, SY_ROPE_HALF},
        {MINIMAX, "rotary_dim;partial_rotary_factor=0.5", 2, SY_ROPE_HALF},
        {DEEPSEEK_V3, NULL, 4, SY_ROPE_INTERLEAVED},
        {DEEPSEEK_V3, "rope_interleave=false", 4, SY_ROPE_HALF},
        {MISTRAL4, "rope_parameters.partial_rotary_factor=0.4", 4, SY_ROPE_INTERLEAVED}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = accepted(cases[i].base, cases[i].changes);
        assert_int_equal(s->layer[0].attn.rope.dim, cases[i].dim);
        assert_int_equal(s->layer[0].attn.rope.layout, cases[i].layout);
        sy_spec_destroy(s);
    }
}

static void router_switches_follow_their_keys(void **state) {
    (void)state;
    sy_model_spec *s = accepted(DEEPSEEK_V3, "norm_topk_prob=false;routed_scaling_factor=1.5");
    assert_false(s->layer[3].ffn.renorm);
    assert_true(s->layer[3].ffn.renorm_eps == 0);
    assert_true(s->layer[3].ffn.routed_scale == 1.5f);
    assert_int_equal(s->layer[3].ffn.n_groups, 4);
    assert_int_equal(s->layer[3].ffn.groups_kept, 2);
    sy_spec_destroy(s);
    s = accepted(DEEPSEEK_V2, "topk_method=\"group_limited_greedy\";n_group=8;topk_group=3");
    assert_int_equal(s->layer[3].ffn.group_score, SY_GROUP_MAX);
    assert_int_equal(s->layer[3].ffn.n_groups, 8);
    sy_spec_destroy(s);
    s = accepted(DEEPSEEK_V2, "topk_method=\"greedy\";n_group=8;topk_group=3");
    assert_int_equal(s->layer[3].ffn.n_groups, 1);
    sy_spec_destroy(s);
    s = accepted(SARVAM_MLA, "n_group=4;topk_group=2");
    assert_int_equal(s->layer[3].ffn.n_groups, 4);
    sy_spec_destroy(s);
    s = accepted(MINIMAX, "use_routing_bias=false");
    assert_false(s->layer[3].ffn.choice_bias);
    sy_spec_destroy(s);
    s = accepted(GPT_OSS, "swiglu_limit=5.5;swiglu_alpha=1.5");
    assert_true(s->layer[3].ffn.act_limit == 5.5f && s->layer[3].ffn.act_alpha == 1.5f);
    sy_spec_destroy(s);
    s = accepted(SARVAM_MOE, "moe_shared_expert_intermediate_size=7;use_qk_norm=false");
    assert_int_equal(s->layer[3].ffn.shared_inter, 7);
    assert_int_equal(s->layer[3].attn.qk_norm, SY_QK_NORM_NONE);
    sy_spec_destroy(s);
}

static void dense_layers_are_where_the_keys_say(void **state) {
    (void)state;
    static const struct {
        const char *base, *changes;
        int width[4]; /* 40: dense, 24: experts */
    } cases[] = {{QWEN,
                  "decoder_sparse_step=2;mlp_only_layers=[3];intermediate_size=40",
                  {40, 24, 40, 40}},
                 {DEEPSEEK_V3, NULL, {40, 24, 24, 24}},
                 {DEEPSEEK_V3, "first_k_dense_replace=0;intermediate_size", {24, 24, 24, 24}},
                 {DEEPSEEK_V3, "moe_layer_freq=2", {40, 40, 24, 40}},
                 {GLM, "first_k_dense_replace=3", {40, 40, 40, 24}},
                 {PARAMS, "moe.first_k_dense_replace=2", {40, 40, 24, 24}}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = accepted(cases[i].base, cases[i].changes);
        for (int l = 0; l < 4; l++) {
            assert_int_equal(s->layer[l].ffn.inter, cases[i].width[l]);
            assert_int_equal(s->layer[l].ffn.kind == SY_FFN_DENSE, cases[i].width[l] == 40);
        }
        sy_spec_destroy(s);
    }
}

static void text_config_of_a_wrapper_is_the_model(void **state) {
    (void)state;
    char *inner = edited(QWEN, "tie_word_embeddings=true;eos_token_id=2");
    char changes[2048];
    snprintf(changes, sizeof changes, "text_config=%s", inner);
    sy_model_spec *spec =
        accepted("{\"model_type\":\"some_vision_wrapper\",\"eos_token_id\":[3,1]}", changes);
    assert_string_equal(spec->family, "qwen3_moe");
    assert_true(spec->tied);
    assert_int_equal(spec->n_eos, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(spec->eos[i], i + 1);
    sy_param_counts c;
    sy_spec_count(spec, &c);
    assert_int_equal(c.embedding, 1600);
    assert_int_equal(c.lm_head, 0);
    sy_spec_destroy(spec);
    free(inner);
}

static void architecture_alone_names_the_family(void **state) {
    (void)state;
    sy_model_spec *s =
        accepted(DEEPSEEK_V3, "model_type;architectures=[\"x.DeepseekV3ForCausalLM\"]");
    assert_string_equal(s->family, "deepseek_v3");
    sy_spec_destroy(s);
    s = accepted(DEEPSEEK_V3,
                 "model_type=\"kimi_k2\";architectures=[\"DeepseekV3ForCausalLM\"]");
    assert_string_equal(s->family, "kimi_k2");
    sy_spec_destroy(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_config_of_each_family_is_read),
        cmocka_unit_test(windows_go_to_the_layers_that_slide),
        cmocka_unit_test(biases_are_those_of_the_family),
        cmocka_unit_test(yarn_resolves_both_of_its_corrections),
        cmocka_unit_test(grouped_families_take_yarn_on_cos_and_sin_alone),
        cmocka_unit_test(rotary_width_follows_either_spelling),
        cmocka_unit_test(router_switches_follow_their_keys),
        cmocka_unit_test(dense_layers_are_where_the_keys_say),
        cmocka_unit_test(text_config_of_a_wrapper_is_the_model),
        cmocka_unit_test(architecture_alone_names_the_family)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

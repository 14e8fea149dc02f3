/* The published configs: parameter counts, derived numbers and switches of each family, equal in
 * the spellings of transformers 4 and 5. */
#include <math.h>

#include "tests/spec_fixture.h"
#include "runtime/spec_shapes.h"

/* Totals from shapes alone, as published; active in units of 10 million, with embeddings. */
static const struct {
    const char *name;
    uint64_t total, total_10m, active_10m; /* total 0: known in units of 10 million only */
} models[] = {{"mixtral-8x7b", 46702792704, 4670, 1288},
              {"mixtral-8x22b", 0, 14063, 3916},
              {"qwen3-30b-a3b", 30532122624, 3053, 335},
              {"qwen3-235b-a22b", 0, 23509, 2219},
              {"olmoe-1b-7b", 6919161856, 692, 128},
              {"deepseek-v3", 671026419200, 67103, 3755},
              {"deepseek-v2-lite", 15706484224, 1571, 266},
              {"deepseek-v2", 0, 23574, 2138},
              {"kimi-k2", 0, 102641, 3286},
              {"sarvam-105b", 106031767424, 10603, 1241},
              {"sarvam-30b", 32152650368, 3215, 452},
              {"gpt-oss-20b", 20914757184, 2091, 419},
              {"gpt-oss-120b", 116829156672, 11683, 571},
              {"glm-4.5-air", 0, 10685, 1342},
              {"glm-4.5", 0, 35280, 3363},
              {"minimax-m2", 228689764864, 22869, 1103}};

static void expect_counts(const sy_model_spec *spec, size_t i) {
    sy_param_counts c;
    sy_spec_count(spec, &c);
    if (models[i].total != 0 && c.total != models[i].total)
        fail_msg("%s: expected %llu parameters, found %llu", models[i].name,
                 (unsigned long long)models[i].total, (unsigned long long)c.total);
    assert_int_equal((c.total + 5000000) / 10000000, models[i].total_10m);
    assert_int_equal((c.active + 5000000) / 10000000, models[i].active_10m);
    assert_int_equal(c.total, c.embedding + c.lm_head + c.attention + c.dense_ffn + c.router +
                                  c.shared + c.routed + c.norms);
}

static void published_models_have_published_counts_in_both_spellings(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(models); i++) {
        char v4[128], v5[128];
        snprintf(v4, sizeof v4, "configs/%s-v4.json", models[i].name);
        snprintf(v5, sizeof v5, "configs/%s-v5.json", models[i].name);
        sy_model_spec *a = load(v4), *b = load(v5);
        expect_counts(a, i);
        expect_counts(b, i);
        same_layers(a, b);
        assert_string_equal(a->family, b->family);
        assert_int_equal(a->n_mtp_layers, b->n_mtp_layers);
        sy_spec_destroy(a);
        sy_spec_destroy(b);
    }
}

static void qwen3_has_its_shapes(void **state) {
    (void)state;
    sy_model_spec *s = load("configs/qwen3-30b-a3b-v4.json");
    assert_string_equal(s->family, "qwen3_moe");
    assert_int_equal(s->hidden, 2048);
    assert_int_equal(s->vocab, 151936);
    assert_int_equal(s->n_layers, 48);
    assert_int_equal(s->max_position, 40960);
    assert_false(s->tied);
    assert_true(s->final_norm_eps == 1e-6f);
    const sy_layer_spec *l = &s->layer[47];
    assert_int_equal(l->attn.heads, 32);
    assert_int_equal(l->attn.kv_heads, 4);
    assert_int_equal(l->attn.head_dim, 128); /* not hidden / heads, which is 64 */
    assert_int_equal(l->attn.rope.dim, 128);
    assert_int_equal(l->attn.rope.layout, SY_ROPE_HALF);
    assert_int_equal(l->attn.qk_norm, SY_QK_NORM_PER_HEAD);
    assert_true(l->attn.qk_clip == 0);
    assert_true(l->attn.rope.theta == 1e6);
    assert_true(l->attn.rope.factor == 0);
    assert_true(l->attn.softmax_scale == 0.088388347648318447f); /* 128^-0.5 */
    assert_int_equal(l->ffn.kind, SY_FFN_MOE);
    assert_int_equal(l->ffn.experts, 128);
    assert_int_equal(l->ffn.top_k, 8);
    assert_int_equal(l->ffn.inter, 768);
    assert_int_equal(l->ffn.shared_inter, 0);
    assert_true(l->ffn.renorm);
    assert_true(l->ffn.renorm_eps == 0);
    assert_true(l->ffn.routed_scale == 1);
    assert_int_equal(s->n_eos, 1);
    assert_int_equal(s->eos[0], 151645);
    assert_int_equal(s->bos, 151643);
    sy_spec_destroy(s);
}

static void mixtral_and_olmoe_have_their_shapes(void **state) {
    (void)state;
    sy_model_spec *s = load("configs/mixtral-8x7b-v5.json");
    assert_int_equal(s->layer[0].attn.head_dim, 128); /* null: hidden / heads */
    assert_int_equal(s->layer[0].attn.qk_norm, SY_QK_NORM_NONE);
    assert_int_equal(s->layer[0].attn.window, 0);
    assert_true(s->layer[0].ffn.renorm);
    assert_true(s->layer[0].norm_eps == 1e-5f);
    sy_spec_destroy(s);
    s = load("configs/olmoe-1b-7b-v4.json");
    assert_int_equal(s->layer[15].attn.qk_norm, SY_QK_NORM_WHOLE);
    assert_true(s->layer[15].attn.qk_clip == 0);
    assert_false(s->layer[15].ffn.renorm);
    assert_int_equal(s->bos, -1);
    sy_spec_destroy(s);
}

/* The scale is (nope + rope)^-0.5 (0.1 m ln(factor) + 1)^2; Mistral's is without the square. */
static void latent_models_have_their_scales(void **state) {
    (void)state;
    static const struct {
        const char *file;
        double scale, attention_factor, factor;
        int q_rank, kv_rank, nope;
    } cases[] = {{"configs/deepseek-v3-v4.json", 0.13523378, 1, 40, 1536, 512, 128},
                 {"configs/deepseek-v2-lite-v5.json", 0.11472139, 1, 40, 0, 512, 128},
                 {"configs/sarvam-105b-v4.json", 0.13523378, 1, 40, 0, 512, 128},
                 {"configs/kimi-k2-v4.json", 0.1308608, 1, 32, 1536, 512, 128},
                 {"configs/kimi-k2.6.json", 0.1446796, 1, 64, 1536, 512, 128},
                 {"configs/mistral-large-3-params.json", 0.07216878, 1, 36, 1536, 512, 128},
                 {"configs/mistral-small-4.json", 0.08838835, 1, 128, 1024, 256, 64}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = load(cases[i].file);
        const sy_attn_spec *a = &s->layer[s->n_layers - 1].attn;
        if (fabs((double)a->softmax_scale - cases[i].scale) > 5e-8)
            fail_msg("%s: expected %.8g, found %.8g", cases[i].file, cases[i].scale,
                     (double)a->softmax_scale);
        assert_int_equal(a->kind, SY_ATTN_MLA);
        assert_int_equal(a->kv_heads, 1);
        assert_int_equal(a->head_dim, cases[i].nope + 64);
        assert_int_equal(a->mla.q_rank, cases[i].q_rank);
        assert_int_equal(a->mla.kv_rank, cases[i].kv_rank);
        assert_int_equal(a->mla.nope, cases[i].nope);
        assert_int_equal(a->mla.rope, 64);
        assert_int_equal(a->mla.value, 128);
        assert_true(a->mla.norm_eps == 1e-6f);
        assert_int_equal(a->rope.dim, 64);
        assert_int_equal(a->rope.layout, SY_ROPE_INTERLEAVED);
        assert_true(a->rope.factor == cases[i].factor);
        assert_true(a->rope.truncate);
        assert_true(a->rope.attention_factor == cases[i].attention_factor);
        assert_int_equal(sy_attn_cache_width(a), cases[i].kv_rank + 64);
        sy_spec_destroy(s);
    }
}

static void routers_are_those_of_the_families(void **state) {
    (void)state;
    static const struct {
        const char *file;
        int dense, shared;
        sy_router_score score;
        bool choice_bias;
        int groups, kept;
        sy_group_score group_score;
        bool renorm;
        double eps, scale;
        int mtp;
    } cases[] = {
        {"deepseek-v3-v4", 3, 2048, SY_SCORE_SIGMOID, true, 8, 4, SY_GROUP_TOP2, true, 1e-20,
         2.5, 1},
        {"kimi-k2-v5", 1, 2048, SY_SCORE_SIGMOID, true, 1, 1, SY_GROUP_TOP2, true, 1e-20, 2.827,
         0},
        {"kimi-k2.6", 1, 2048, SY_SCORE_SIGMOID, true, 1, 1, SY_GROUP_TOP2, true, 1e-20, 2.827,
         0},
        {"deepseek-v2-lite-v4", 1, 2816, SY_SCORE_SOFTMAX, false, 1, 1, SY_GROUP_TOP2, false, 0,
         1, 0},
        {"deepseek-v2-v4", 1, 3072, SY_SCORE_SOFTMAX, false, 8, 3, SY_GROUP_MAX, false, 0, 16,
         0},
        {"sarvam-105b-v4", 1, 2048, SY_SCORE_SIGMOID, true, 1, 1, SY_GROUP_TOP2, true, 1e-20,
         2.5, 0},
        {"sarvam-30b-v5", 1, 1024, SY_SCORE_SIGMOID, true, 1, 1, SY_GROUP_TOP2, true, 1e-20,
         2.5, 0},
        {"mistral-large-3-params", 3, 4096, SY_SCORE_SOFTMAX, false, 1, 1, SY_GROUP_TOP2, true,
         1e-20, 1, 0},
        {"mistral-small-4", 0, 2048, SY_SCORE_SOFTMAX, false, 1, 1, SY_GROUP_TOP2, true, 1e-20,
         1, 0},
        {"gpt-oss-20b-v4", 0, 0, SY_SCORE_SOFTMAX_CHOSEN, false, 1, 1, SY_GROUP_TOP2, false, 0,
         1, 0},
        {"glm-4.5-air-v4", 1, 1408, SY_SCORE_SIGMOID, true, 1, 1, SY_GROUP_TOP2, true, 1e-20, 1,
         1},
        {"glm-4.5-v5", 3, 1536, SY_SCORE_SIGMOID, true, 1, 1, SY_GROUP_TOP2, true, 1e-20, 2.5,
         1},
        {"minimax-m2-v4", 0, 0, SY_SCORE_SIGMOID, true, 1, 1, SY_GROUP_TOP2, true, 0, 1, 3}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char file[128];
        snprintf(file, sizeof file, "configs/%s.json", cases[i].file);
        sy_model_spec *s = load(file);
        for (int l = 0; l < s->n_layers; l++)
            assert_int_equal(s->layer[l].ffn.kind,
                             l < cases[i].dense ? SY_FFN_DENSE : SY_FFN_MOE);
        const sy_ffn_spec *f = &s->layer[s->n_layers - 1].ffn;
        assert_int_equal(f->shared_inter, cases[i].shared);
        assert_int_equal(f->score, cases[i].score);
        assert_int_equal(f->choice_bias, cases[i].choice_bias);
        assert_int_equal(f->n_groups, cases[i].groups);
        assert_int_equal(f->groups_kept, cases[i].kept);
        if (f->n_groups > 1) assert_int_equal(f->group_score, cases[i].group_score);
        assert_int_equal(f->renorm, cases[i].renorm);
        assert_true(f->renorm_eps == (float)cases[i].eps);
        assert_true(f->routed_scale == (float)cases[i].scale);
        assert_int_equal(s->n_mtp_layers, cases[i].mtp);
        sy_spec_destroy(s);
    }
}

static void gpt_oss_has_windows_sinks_and_biases(void **state) {
    (void)state;
    sy_model_spec *s = load("configs/gpt-oss-20b-v5.json");
    for (int l = 0; l < s->n_layers; l++) {
        const sy_attn_spec *a = &s->layer[l].attn;
        assert_int_equal(a->window, l % 2 == 0 ? 128 : 0);
        assert_true(a->sinks && a->qkv_bias && a->o_bias);
        assert_true(a->softmax_scale == 0.125f);
        assert_false(a->rope.truncate);
        assert_true(fabs(a->rope.attention_factor - 1.3465736) < 5e-8);
    }
    const sy_ffn_spec *f = &s->layer[0].ffn;
    assert_int_equal(f->act, SY_ACT_SWIGLU_CLAMPED);
    assert_true(f->act_alpha == 1.702f && f->act_limit == 7.0f);
    assert_true(f->expert_bias && f->router_bias);
    sy_spec_destroy(s);
}

static void glm_sarvam_and_minimax_have_their_attention(void **state) {
    (void)state;
    static const struct {
        const char *file;
        int head_dim, rotary;
        sy_qk_norm norm;
        bool qkv_bias;
        double theta;
    } cases[] = {{"configs/glm-4.5-air-v4.json", 128, 64, SY_QK_NORM_NONE, true, 1e6},
                 {"configs/glm-4.5-v5.json", 128, 64, SY_QK_NORM_PER_HEAD, true, 1e6},
                 {"configs/sarvam-30b-v4.json", 64, 64, SY_QK_NORM_PER_HEAD, false, 8e6},
                 {"configs/minimax-m2-v4.json", 128, 64, SY_QK_NORM_WHOLE, false, 5e6},
                 {"configs/minimax-m2-v5.json", 128, 64, SY_QK_NORM_WHOLE, false, 5e6}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = load(cases[i].file);
        const sy_attn_spec *a = &s->layer[0].attn;
        assert_int_equal(a->kind, SY_ATTN_GQA);
        assert_int_equal(a->head_dim, cases[i].head_dim);
        assert_int_equal(a->rope.dim, cases[i].rotary);
        assert_int_equal(a->rope.layout, SY_ROPE_HALF);
        assert_int_equal(a->qk_norm, cases[i].norm);
        assert_int_equal(a->qkv_bias, cases[i].qkv_bias);
        assert_false(a->o_bias);
        assert_true(a->rope.theta == cases[i].theta);
        sy_spec_destroy(s);
    }
}

/* Mistral's own file and the spelling of transformers are one function; the latter's
 * mscale_all_dim does not change the scale. */
static void mistral_has_its_query_temperature(void **state) {
    (void)state;
    static const char *const files[] = {"configs/mistral-large-3-params.json",
                                        "configs/mistral-small-4.json"};
    for (size_t i = 0; i < COUNT(files); i++) {
        sy_model_spec *s = load(files[i]);
        assert_string_equal(s->family, "mistral4");
        assert_true(s->layer[0].attn.query_beta == 0.1f);
        assert_int_equal(s->layer[0].attn.query_positions, 8192);
        sy_spec_destroy(s);
    }
    sy_model_spec *s = load(files[0]);
    sy_param_counts c;
    sy_spec_count(s, &c);
    assert_int_equal(c.total, 673421089792);
    assert_int_equal(s->max_position, 294912);
    sy_spec_destroy(s);
}

static void kimi_wrapper_is_read_from_its_text_config(void **state) {
    (void)state;
    sy_model_spec *wrapped = load("configs/kimi-k2.6.json"),
                  *flat = load("configs/kimi-k2-v4.json");
    assert_string_equal(wrapped->family, "kimi_k2");
    assert_int_equal(wrapped->quant.method, SY_QUANT_COMPRESSED_TENSORS);
    assert_int_equal(wrapped->max_position, 262144);
    assert_int_equal(wrapped->n_eos, 2);
    assert_true(wrapped->layer[0].attn.rope.beta_fast == 32);
    assert_true(flat->layer[0].attn.rope.beta_fast == 1);
    same_ffn(&wrapped->layer[60].ffn, &flat->layer[60].ffn);
    sy_spec_destroy(wrapped);
    sy_spec_destroy(flat);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_models_have_published_counts_in_both_spellings),
        cmocka_unit_test(qwen3_has_its_shapes),
        cmocka_unit_test(mixtral_and_olmoe_have_their_shapes),
        cmocka_unit_test(latent_models_have_their_scales),
        cmocka_unit_test(routers_are_those_of_the_families),
        cmocka_unit_test(gpt_oss_has_windows_sinks_and_biases),
        cmocka_unit_test(glm_sarvam_and_minimax_have_their_attention),
        cmocka_unit_test(mistral_has_its_query_temperature),
        cmocka_unit_test(kimi_wrapper_is_read_from_its_text_config)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

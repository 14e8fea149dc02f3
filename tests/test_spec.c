/* config.json and its companions: what models of the three families become, their parameter
 * counts, and what is refused by name. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "runtime/spec.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static sy_model_spec *load(const char *file) {
    char path[4096];
    const char *data = getenv("SY_TEST_DATA");
    sy_model_spec *spec = NULL;
    assert_non_null(data);
    snprintf(path, sizeof path, "%s/%s", data, file);
    if (sy_spec_load(path, &spec) != SY_OK) fail_msg("%s", sy_last_error());
    return spec;
}

static void same_layers(const sy_model_spec *a, const sy_model_spec *b) {
    assert_int_equal(a->n_layers, b->n_layers);
    for (int l = 0; l < a->n_layers; l++) {
        const sy_attn_spec *p = &a->layer[l].attn, *q = &b->layer[l].attn;
        const sy_ffn_spec *f = &a->layer[l].ffn, *g = &b->layer[l].ffn;
        assert_int_equal(p->heads, q->heads);
        assert_int_equal(p->kv_heads, q->kv_heads);
        assert_int_equal(p->head_dim, q->head_dim);
        assert_int_equal(p->rope.dim, q->rope.dim);
        assert_int_equal(p->qk_norm, q->qk_norm);
        assert_true(p->rope.theta == q->rope.theta);
        assert_true(p->softmax_scale == q->softmax_scale);
        assert_int_equal(f->kind, g->kind);
        assert_int_equal(f->inter, g->inter);
        assert_int_equal(f->experts, g->experts);
        assert_int_equal(f->top_k, g->top_k);
        assert_int_equal(f->renorm, g->renorm);
        assert_true(a->layer[l].norm_eps == b->layer[l].norm_eps);
    }
}

/* Totals from shapes; active in units of 10 million, as published figures are rounded. */
static void published_models_have_published_counts_in_both_spellings(void **state) {
    (void)state;
    static const struct {
        const char *v4, *v5;
        uint64_t total, total_10m, active_10m;
    } models[] = {
        {"configs/mixtral-8x7b-v4.json", "configs/mixtral-8x7b-v5.json", 46702792704, 4670,
         1288},
        {"configs/mixtral-8x22b-v4.json", "configs/mixtral-8x22b-v5.json", 0, 14063, 3916},
        {"configs/qwen3-30b-a3b-v4.json", "configs/qwen3-30b-a3b-v5.json", 30532122624, 3053,
         335},
        {"configs/qwen3-235b-a22b-v4.json", "configs/qwen3-235b-a22b-v5.json", 0, 23509, 2219},
        {"configs/olmoe-1b-7b-v4.json", "configs/olmoe-1b-7b-v5.json", 6919161856, 692, 128}};
    for (size_t i = 0; i < COUNT(models); i++) {
        sy_model_spec *v4 = load(models[i].v4), *v5 = load(models[i].v5);
        sy_param_counts a, b;
        sy_spec_count(v4, &a);
        sy_spec_count(v5, &b);
        same_layers(v4, v5);
        assert_memory_equal(&a, &b, sizeof a);
        if (models[i].total != 0) assert_int_equal(a.total, models[i].total);
        assert_int_equal((a.total + 5000000) / 10000000, models[i].total_10m);
        assert_int_equal((a.active + 5000000) / 10000000, models[i].active_10m);
        assert_int_equal(a.total, a.embedding + a.lm_head + a.attention + a.dense_ffn +
                                      a.router + a.shared + a.routed + a.norms);
        sy_spec_destroy(v4);
        sy_spec_destroy(v5);
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
    assert_int_equal(l->attn.qk_norm, SY_QK_NORM_PER_HEAD);
    assert_true(l->attn.qk_clip == 0);
    assert_true(l->attn.rope.theta == 1e6);
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

static void tiny_checkpoints_load_with_their_companion_files(void **state) {
    (void)state;
    sy_model_spec *s = load("tiny/qwen3_moe");
    assert_int_equal(s->n_layers, 3);
    assert_int_equal(s->layer[0].ffn.kind, SY_FFN_MOE);
    assert_int_equal(s->layer[1].ffn.kind, SY_FFN_DENSE);
    assert_int_equal(s->layer[1].ffn.inter, 88);
    assert_int_equal(s->layer[1].ffn.experts, 0);
    assert_int_equal(s->layer[2].ffn.experts, 11);
    assert_int_equal(s->n_eos,
                     2); /* config.json names 150, generation_config.json 150 and 148 */
    assert_int_equal(s->eos[0], 148);
    assert_int_equal(s->eos[1], 150);
    assert_int_equal(s->sampling.do_sample, 0);
    assert_true(s->sampling.temperature < 0);
    sy_param_counts c;
    sy_spec_count(s, &c);
    assert_int_equal(c.total, 37068);
    assert_int_equal(c.dense_ffn, 3 * 88 * 24);
    sy_model_spec *v4 = load("tiny/qwen3_moe_f16");
    same_layers(s, v4);
    sy_spec_destroy(v4);
    sy_spec_destroy(s);
    s = load("tiny/olmoe");
    assert_true(s->layer[0].attn.qk_clip == 1.5f);
    sy_spec_count(s, &c);
    assert_int_equal(c.total, 52128);
    sy_spec_destroy(s);
    s = load("tiny/mixtral");
    sy_spec_count(s, &c);
    assert_int_equal(c.total, 282768);
    sy_spec_destroy(s);
}

/* A small config of each family; EXTRA overrides by being put in front of what it replaces. */
#define SIZES                                                                                  \
    "\"hidden_size\":16,\"num_hidden_layers\":4,\"vocab_size\":100,\"num_key_value_heads\":2," \
    "\"rms_norm_eps\":1e-6,\"max_position_embeddings\":512"
#define QWEN                                                                                   \
    "\"model_type\":\"qwen3_moe\"," SIZES ",\"num_experts\":8,\"num_experts_per_tok\":2,"      \
    "\"moe_intermediate_size\":24,\"num_attention_heads\":4,\"rope_theta\":10000"
#define MIXTRAL                                                                                \
    "\"model_type\":\"mixtral\"," SIZES ",\"num_local_experts\":8,\"num_experts_per_tok\":2,"  \
    "\"intermediate_size\":24,\"num_attention_heads\":4,\"rope_theta\":10000"
#define OLMOE                                                                                  \
    "\"model_type\":\"olmoe\"," SIZES ",\"num_experts\":8,\"num_experts_per_tok\":2,"          \
    "\"intermediate_size\":24,\"num_attention_heads\":4,\"rope_theta\":10000"
/* QWEN without one of its parts. */
#define QWEN_BARE "\"model_type\":\"qwen3_moe\"," SIZES ",\"moe_intermediate_size\":24"

static sy_status parse(const char *text, sy_model_spec **out) {
    return sy_spec_parse(text, strlen(text), "config.json", out);
}

typedef struct text_case {
    const char *text;
    const char *refusal;
} text_case;

static void expect_refused(const text_case *cases, size_t n, sy_status expected) {
    for (size_t i = 0; i < n; i++) {
        sy_model_spec *spec = NULL;
        sy_status st = parse(cases[i].text, &spec);
        const char *text = sy_last_error();
        if (st != expected || strstr(text, cases[i].refusal) == NULL ||
            strstr(text, "config.json") == NULL)
            fail_msg("case %zu %s: expected %s \"...%s\", found %s \"%s\"", i, cases[i].text,
                     sy_status_name(expected), cases[i].refusal, sy_status_name(st), text);
        assert_null(spec);
    }
}

static sy_model_spec *expect_accepted(const char *text) {
    sy_model_spec *spec = NULL;
    if (parse(text, &spec) != SY_OK) fail_msg("%s: %s", text, sy_last_error());
    return spec;
}

static void value_that_is_not_implemented_is_refused_by_name(void **state) {
    (void)state;
    static const text_case cases[] = {
        {"{\"model_type\":\"deepseek_v3\"}",
         "\"deepseek_v3\" is not implemented; implemented are qwen3_moe, mixtral, olmoe"},
        {"{}", "model_type \"(none)\" is not implemented"},
        {"{\"architectures\":[\"GptOssForCausalLM\"]}", "architecture \"GptOssForCausalLM\""},
        {"{" QWEN ",\"architectures\":[\"Qwen3MoeForSequenceClassification\"]}",
         "architecture \"Qwen3MoeForSequenceClassification\""},
        {"{\"model_type\":\"a\\u001b[0m\"}", "\"a?[0m\""},
        {"{\"model_type\":\"kimi_k25\",\"text_config\":{\"model_type\":\"kimi_k2\"}}",
         "wrapper \"kimi_k25\": config.json: model_type of \"text_config\" \"kimi_k2\""},
        {"{" QWEN ",\"hidden_act\":\"gelu\"}", "\"hidden_act\" is \"gelu\""},
        {"{" QWEN ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}", "rope type \"yarn\""},
        {"{" QWEN ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4}}", "\"linear\""},
        {"{" QWEN ",\"rope_parameters\":{\"rope_type\":\"llama3\"}}", "\"llama3\""},
        {"{" QWEN ",\"rope_scaling\":{\"type\":\"default\"},\"rope_parameters\":{\"rope_type\":"
         "\"yarn\"}}",
         "\"yarn\""},
        {"{" QWEN ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"yarn\"}}}",
         "\"yarn\""},
        {"{" QWEN ",\"rope_parameters\":{\"full_attention\":null}}",
         "\"full_attention\" is null"},
        {"{" QWEN ",\"partial_rotary_factor\":0.5}", "\"partial_rotary_factor\" is 0.5"},
        {"{" QWEN ",\"rope_parameters\":{\"partial_rotary_factor\":0.25}}", "is 0.25"},
        {"{" QWEN ",\"use_sliding_window\":true,\"sliding_window\":4096}",
         "\"use_sliding_window\""},
        {"{" MIXTRAL ",\"sliding_window\":511}", "\"sliding_window\" is 511"},
        {"{" QWEN ",\"attention_bias\":true}", "\"attention_bias\" is set"},
        {"{" QWEN ",\"swiglu_limit\":7.0}", "\"swiglu_limit\" is set"},
        {"{" QWEN ",\"quantization_config\":{\"quant_method\":\"fp8\"}}", "method \"fp8\""},
        {"{" QWEN ",\"quantization_config\":{\"quant_algo\":\"NVFP4\"}}", "method \"NVFP4\""},
        {"{" QWEN ",\"quantization_config\":{}}", "method \"unnamed\""},
        {"{" QWEN ",\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\","
         "\"sliding_attention\"]}",
         "\"layer_types\"[3] is \"sliding_attention\""},
        {"{" QWEN ",\"mlp_only_layers\":[0,1,2,3],\"intermediate_size\":8}",
         "no layer has experts"}};
    expect_refused(cases, COUNT(cases), SY_ERR_UNSUPPORTED);
}

static void malformed_or_contradicting_config_is_refused(void **state) {
    (void)state;
    static const text_case cases[] = {
        {"[]", "expected an object, found array"},
        {"{\"model_type\":7}", "\"model_type\": expected a string"},
        {"{\"model_type\":\"qwen3_moe\"}", "expected \"hidden_size\", found none"},
        {"{" QWEN ",\"architectures\":[\"MixtralForCausalLM\"]}", "names MixtralForCausalLM"},
        {"{" QWEN ",\"architectures\":[7]}", "\"architectures\"[0]: expected a string"},
        {"{" QWEN ",\"architectures\":\"x\"}", "expected an array"},
        {"{" QWEN ",\"num_local_experts\":9}",
         "\"num_experts\" is 8 and \"num_local_experts\" is 9"},
        {"{" QWEN ",\"head_dim\":5}", "even width of heads"},
        {"{" QWEN ",\"head_dim\":0}", "\"head_dim\": expected 1 to"},
        {"{" QWEN ",\"rope_parameters\":{\"rope_theta\":20000}}", "expected equal values"},
        {"{" QWEN ",\"rope_scaling\":[]}", "\"rope_scaling\": expected an object"},
        {"{" QWEN ",\"layer_types\":[\"full_attention\"]}", "expected 4 entries, found 1"},
        {"{" QWEN ",\"layer_types\":{}}", "expected an array"},
        {"{" QWEN ",\"layer_types\":[1,2,3,4]}", "[0]: expected a string, found integer"},
        {"{" QWEN ",\"mlp_only_layers\":[4]}", "expected 0 to 3, found 4"},
        {"{" QWEN ",\"mlp_only_layers\":[-1]}", "expected 0 to 3, found -1"},
        {"{" QWEN ",\"mlp_only_layers\":[\"1\"]}", "expected a whole number, found string"},
        {"{" QWEN ",\"mlp_only_layers\":[1]}", "expected \"intermediate_size\", found none"},
        {"{" QWEN ",\"decoder_sparse_step\":0}", "\"decoder_sparse_step\": expected 1"},
        {"{" QWEN ",\"norm_topk_prob\":1}", "expected true or false, found integer"},
        {"{" QWEN ",\"tie_word_embeddings\":\"no\"}", "expected true or false, found string"},
        {"{" QWEN ",\"eos_token_id\":100}", "0 to 99, found 100"},
        {"{" QWEN ",\"eos_token_id\":[1,-1]}", "0 to 99, found -1"},
        {"{" QWEN ",\"eos_token_id\":\"</s>\"}", "\"eos_token_id\": expected a whole number"},
        {"{" QWEN ",\"bos_token_id\":100}", "\"bos_token_id\": expected 0 to 99"},
        {"{" OLMOE ",\"clip_qkv\":0}", "\"clip_qkv\" from"},
        {"{" OLMOE ",\"clip_qkv\":-2}", "\"clip_qkv\" from"},
        {"{" QWEN_BARE ",\"num_experts\":8,\"num_experts_per_tok\":9,\"num_attention_heads\":4,"
         "\"rope_theta\":1e4}",
         "at most 8, the number of experts, found 9"},
        {"{" QWEN_BARE
         ",\"num_experts\":100,\"num_experts_per_tok\":65,\"num_attention_heads\":4,"
         "\"rope_theta\":1e4}",
         "\"num_experts_per_tok\": expected 1 to 64"},
        {"{" QWEN_BARE ",\"num_experts\":true,\"num_attention_heads\":4,\"rope_theta\":1e4}",
         "\"num_experts\": expected a whole number, found true"},
        {"{" QWEN_BARE ",\"num_experts\":8.5,\"num_attention_heads\":4,\"rope_theta\":1e4}",
         "expected a whole number, found real"},
        {"{" QWEN_BARE ",\"num_attention_heads\":3,\"head_dim\":4,\"rope_theta\":1e4}",
         "\"num_attention_heads\" (3) to be a multiple"},
        {"{" QWEN_BARE ",\"num_attention_heads\":6,\"rope_theta\":1e4}",
         "\"hidden_size\" (16) to be a multiple"},
        {"{" QWEN_BARE ",\"num_attention_heads\":16384,\"head_dim\":4096,\"rope_theta\":1e4}",
         "values together"},
        {"{" QWEN_BARE ",\"num_attention_heads\":4}", "expected \"rope_theta\", found none"},
        {"{" QWEN_BARE ",\"num_attention_heads\":4,\"rope_theta\":-5}", "found -5"},
        {"{" QWEN_BARE ",\"num_attention_heads\":4,\"rope_theta\":0}",
         "from 1 to 1e30, found 0"},
        {"{" QWEN_BARE ",\"num_attention_heads\":4,\"rope_theta\":\"1\"}", "expected a number"},
        {"{\"model_type\":\"olmoe\",\"hidden_size\":16,\"num_hidden_layers\":1025}",
         "\"num_hidden_layers\": expected 1 to 1024, found 1025"},
        {"{\"model_type\":\"olmoe\",\"hidden_size\":-16}", "\"hidden_size\": expected 1 to"},
        {"{\"model_type\":\"olmoe\",\"hidden_size\":16,\"num_hidden_layers\":1,\"vocab_size\":"
         "9}",
         "expected \"max_position_embeddings\""},
        {"{\"model_type\":\"olmoe\",\"hidden_size\":16,\"num_hidden_layers\":1,\"vocab_size\":"
         "9,"
         "\"max_position_embeddings\":8,\"rms_norm_eps\":0}",
         "\"rms_norm_eps\" from"},
        {"{\"model_type\":\"olmoe\",\"hidden_size\":262144,\"num_hidden_layers\":1024,"
         "\"vocab_size\":9,\"max_position_embeddings\":8,\"rms_norm_eps\":1e-5,"
         "\"num_attention_heads\":1,\"head_dim\":2,\"rope_theta\":1,\"num_experts\":65535,"
         "\"num_experts_per_tok\":1,\"intermediate_size\":4194304}",
         "at most 2^48 parameters"}};
    expect_refused(cases, COUNT(cases), SY_ERR_FORMAT);
}

static void null_and_harmless_values_count_as_absent(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{" QWEN ",\"head_dim\":null,\"rope_scaling\":null,\"sliding_window\":null,"
        "\"mlp_only_layers\":null,\"layer_types\":null,\"quantization_config\":null,"
        "\"eos_token_id\":null,\"bos_token_id\":null,\"hidden_act\":null,\"unknown\":{\"x\":[1]"
        "}}",
        "{" QWEN ",\"use_sliding_window\":true,\"sliding_window\":null}",
        "{" QWEN ",\"use_sliding_window\":false,\"sliding_window\":4096}",
        "{" MIXTRAL ",\"sliding_window\":512}",
        "{" MIXTRAL ",\"router_jitter_noise\":0.1,\"attention_dropout\":0.5}",
        "{" QWEN ",\"rope_scaling\":{},\"rope_parameters\":{\"rope_type\":\"default\"}}",
        "{" QWEN ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}",
        "{" QWEN ",\"architectures\":[\"remote.Qwen3MoeForCausalLM\"]}",
        "{" QWEN ",\"architectures\":[]}",
        "{" QWEN ",\"num_local_experts\":8.0,\"big\":1000000000000000019884624838656}",
        "{" OLMOE ",\"clip_qkv\":null,\"attention_bias\":false}"};
    for (size_t i = 0; i < COUNT(texts); i++) {
        sy_model_spec *spec = expect_accepted(texts[i]);
        assert_int_equal(spec->layer[3].attn.head_dim, 4);
        assert_true(spec->layer[3].attn.rope.theta == 10000);
        assert_int_equal(spec->n_eos, 0);
        assert_int_equal(spec->bos, -1);
        sy_spec_destroy(spec);
    }
}

static void text_config_of_a_wrapper_is_the_model(void **state) {
    (void)state;
    sy_model_spec *spec = expect_accepted("{\"model_type\":\"some_vision_wrapper\","
                                          "\"eos_token_id\":[3,1],\"text_config\":{" QWEN
                                          ",\"tie_word_embeddings\":true,\"eos_token_id\":2}}");
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
    static const text_case inside[] = {
        {"{\"model_type\":\"w\",\"text_config\":{" QWEN
         ",\"quantization_config\":{\"quant_method\":\"awq\"}}}",
         "\"awq\""},
        {"{\"model_type\":\"w\",\"quantization_config\":{\"quant_method\":\"gptq\"},"
         "\"text_config\":{" QWEN "}}",
         "\"gptq\""}};
    expect_refused(inside, COUNT(inside), SY_ERR_UNSUPPORTED);
}

static void sparse_step_makes_the_other_layers_dense(void **state) {
    (void)state;
    sy_model_spec *s = expect_accepted("{" QWEN ",\"decoder_sparse_step\":2,"
                                       "\"mlp_only_layers\":[3],\"intermediate_size\":40}");
    static const sy_ffn_kind kinds[] = {SY_FFN_DENSE, SY_FFN_MOE, SY_FFN_DENSE, SY_FFN_DENSE};
    for (int l = 0; l < 4; l++) {
        assert_int_equal(s->layer[l].ffn.kind, kinds[l]);
        assert_int_equal(s->layer[l].ffn.inter, kinds[l] == SY_FFN_MOE ? 24 : 40);
    }
    sy_spec_destroy(s);
}

/* A directory with the given files; the caller removes it with drop_directory. */
typedef struct named_text {
    const char *name, *text;
} named_text;

static void make_directory(char path[64], const named_text *files, size_t n) {
    snprintf(path, 64, "/tmp/sy_test_spec_XXXXXX");
    assert_non_null(mkdtemp(path));
    for (size_t i = 0; i < n; i++) {
        char file[128];
        snprintf(file, sizeof file, "%s/%s", path, files[i].name);
        FILE *f = fopen(file, "w");
        assert_non_null(f);
        fputs(files[i].text, f);
        assert_int_equal(fclose(f), 0);
    }
}

static void drop_directory(const char *path, const named_text *files, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char file[128];
        snprintf(file, sizeof file, "%s/%s", path, files[i].name);
        unlink(file);
    }
    assert_int_equal(rmdir(path), 0);
}

static sy_status load_files(const named_text *files, size_t n, sy_model_spec **out) {
    char path[64];
    make_directory(path, files, n);
    sy_status st = sy_spec_load(path, out);
    drop_directory(path, files, n);
    return st;
}

static void end_tokens_and_sampling_come_from_three_files(void **state) {
    (void)state;
    static const named_text files[] = {
        {"config.json", "{" QWEN ",\"eos_token_id\":7,\"bos_token_id\":null}"},
        {"generation_config.json",
         "{\"eos_token_id\":[9,7],\"bos_token_id\":5,\"temperature\":0.6,"
         "\"top_p\":0.95,\"top_k\":20,\"min_p\":0,\"do_sample\":true}"},
        {"tokenizer_config.json", "{\"model_max_length\":1000000000000000019884624838656,\"eos_"
                                  "token\":{\"content\":\"<e>\"},"
                                  "\"added_tokens_decoder\":{\"3\":{\"content\":\"<b>\"},\"8\":"
                                  "{\"content\":\"<e>\"}}}"}};
    sy_model_spec *s = NULL;
    if (load_files(files, 3, &s) != SY_OK) fail_msg("%s", sy_last_error());
    assert_int_equal(s->n_eos, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(s->eos[i], 7 + i);
    assert_string_equal(s->eos_token, "");
    assert_int_equal(s->bos, 5);
    assert_true(s->sampling.temperature == 0.6);
    assert_true(s->sampling.top_p == 0.95);
    assert_true(s->sampling.min_p == 0);
    assert_int_equal(s->sampling.top_k, 20);
    assert_int_equal(s->sampling.do_sample, 1);
    sy_spec_destroy(s);
}

static void end_token_known_by_content_only_is_handed_on(void **state) {
    (void)state;
    static const named_text files[] = {
        {"config.json", "{" MIXTRAL "}"},
        {"tokenizer_config.json", "{\"eos_token\":\"</s>\",\"added_tokens_decoder\":{\"x\":{"
                                  "\"content\":\"</s>\"}}}"}};
    sy_model_spec *s = NULL;
    if (load_files(files, 2, &s) != SY_OK) fail_msg("%s", sy_last_error());
    assert_int_equal(s->n_eos, 0);
    assert_string_equal(s->eos_token, "</s>");
    assert_int_equal(s->sampling.do_sample, -1);
    assert_int_equal(s->sampling.top_k, -1);
    sy_spec_destroy(s);
}

static void broken_companion_file_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        named_text file;
        sy_status status;
        const char *refusal;
    } cases[] = {
        {{"generation_config.json", "{\"eos_token_id\":100}"}, SY_ERR_FORMAT, "found 100"},
        {{"generation_config.json", "{\"top_p\":1.5}"},
         SY_ERR_FORMAT,
         "\"top_p\": expected 0 to 1"},
        {{"generation_config.json", "{\"temperature\":\"hot\"}"},
         SY_ERR_FORMAT,
         "expected a number"},
        {{"generation_config.json", "{\"do_sample\":1}"},
         SY_ERR_FORMAT,
         "expected true or false"},
        {{"generation_config.json", "7"}, SY_ERR_FORMAT, "expected an object"},
        {{"generation_config.json", "{"}, SY_ERR_FORMAT, "line 1"},
        {{"tokenizer_config.json", "{\"eos_token\":7}"}, SY_ERR_FORMAT, "\"eos_token\""},
        {{"tokenizer_config.json", "[]"}, SY_ERR_FORMAT, "expected an object"},
        {{"tokenizer_config.json", "{\"eos_token\":\"e\",\"added_tokens_decoder\":{\"100\":{"
                                   "\"content\":\"e\"}}}"},
         SY_ERR_FORMAT,
         "found 100"},
        {{"hf_quant_config.json", "{\"quantization\":{\"quant_algo\":\"NVFP4\"}}"},
         SY_ERR_UNSUPPORTED,
         "method \"NVFP4\""}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        named_text files[] = {{"config.json", "{" QWEN "}"}, cases[i].file};
        sy_model_spec *s = NULL;
        sy_status st = load_files(files, 2, &s);
        if (st != cases[i].status || strstr(sy_last_error(), cases[i].refusal) == NULL ||
            strstr(sy_last_error(), cases[i].file.name) == NULL)
            fail_msg("%s %s: expected %s, found %s \"%s\"", cases[i].file.name,
                     cases[i].file.text, cases[i].refusal, sy_status_name(st), sy_last_error());
        assert_null(s);
    }
}

static void too_many_end_tokens_are_refused(void **state) {
    (void)state;
    char text[2048];
    for (int n = SY_MAX_EOS; n <= SY_MAX_EOS + 1; n++) {
        sy_model_spec *s = NULL;
        int used = snprintf(text, sizeof text, "{" QWEN ",\"eos_token_id\":[0,0");
        for (int i = n - 1; i > 0; i--)
            used += snprintf(text + used, sizeof text - (size_t)used, ",%d", i);
        snprintf(text + used, sizeof text - (size_t)used, "]}");
        assert_int_equal(parse(text, &s), n <= SY_MAX_EOS ? SY_OK : SY_ERR_FORMAT);
        if (s != NULL) assert_int_equal(s->n_eos, n);
        sy_spec_destroy(s);
    }
    assert_non_null(strstr(sy_last_error(), "at most 32 end tokens"));
}

static void missing_path_is_an_io_error(void **state) {
    (void)state;
    sy_model_spec *s = NULL;
    assert_int_equal(sy_spec_load("/nonexistent/model", &s), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "/nonexistent/model"));
    char path[64];
    make_directory(path, NULL, 0);
    assert_int_equal(sy_spec_load(path, &s), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "config.json"));
    drop_directory(path, NULL, 0);
}

static void cut_takes_layers_of_each_kind(void **state) {
    (void)state;
    sy_model_spec *s =
        expect_accepted("{" QWEN ",\"mlp_only_layers\":[1],\"eos_token_id\":[10,60],"
                        "\"bos_token_id\":50,\"intermediate_size\":40}");
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
    sy_model_spec *s = expect_accepted("{" QWEN "}");
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
    s = load("configs/qwen3-235b-a22b-v4.json");
    assert_int_equal(sy_spec_cut(s, 0, 1024, 0, 65535), SY_ERR_USAGE);
    assert_non_null(strstr(sy_last_error(), "2^48"));
    sy_spec_destroy(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_models_have_published_counts_in_both_spellings),
        cmocka_unit_test(qwen3_has_its_shapes),
        cmocka_unit_test(mixtral_and_olmoe_have_their_shapes),
        cmocka_unit_test(tiny_checkpoints_load_with_their_companion_files),
        cmocka_unit_test(value_that_is_not_implemented_is_refused_by_name),
        cmocka_unit_test(malformed_or_contradicting_config_is_refused),
        cmocka_unit_test(null_and_harmless_values_count_as_absent),
        cmocka_unit_test(text_config_of_a_wrapper_is_the_model),
        cmocka_unit_test(sparse_step_makes_the_other_layers_dense),
        cmocka_unit_test(end_tokens_and_sampling_come_from_three_files),
        cmocka_unit_test(end_token_known_by_content_only_is_handed_on),
        cmocka_unit_test(broken_companion_file_is_refused_by_name),
        cmocka_unit_test(too_many_end_tokens_are_refused),
        cmocka_unit_test(missing_path_is_an_io_error),
        cmocka_unit_test(cut_takes_layers_of_each_kind),
        cmocka_unit_test(impossible_cut_is_refused_and_changes_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Small configs of each family, changed key by key, and what the reader makes of them. */
#ifndef SY_TESTS_SPEC_FIXTURE_H
#define SY_TESTS_SPEC_FIXTURE_H

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/spec.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

#define SIZES                                                                                  \
    "\"hidden_size\":16,\"num_hidden_layers\":4,\"vocab_size\":100,\"rms_norm_eps\":1e-6,"     \
    "\"max_position_embeddings\":512,\"num_attention_heads\":4,\"rope_theta\":10000,"          \
    "\"num_experts_per_tok\":2,"
#define GROUPED SIZES "\"num_key_value_heads\":2,"
#define LATENT                                                                                 \
    SIZES                                                                                      \
    "\"kv_lora_rank\":12,\"qk_nope_head_dim\":6,\"qk_rope_head_dim\":4,\"v_head_dim\":8,"      \
    "\"moe_intermediate_size\":24,\"intermediate_size\":40,\"first_k_dense_replace\":1,"
#define YARN                                                                                   \
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":"   \
    "128,\"mscale\":1,\"mscale_all_dim\":1}"

#define QWEN                                                                                   \
    "{\"model_type\":\"qwen3_moe\"," GROUPED "\"num_experts\":8,\"moe_intermediate_size\":24}"
#define MIXTRAL                                                                                \
    "{\"model_type\":\"mixtral\"," GROUPED "\"num_local_experts\":8,\"intermediate_size\":24}"
#define OLMOE "{\"model_type\":\"olmoe\"," GROUPED "\"num_experts\":8,\"intermediate_size\":24}"
#define GPT_OSS                                                                                \
    "{\"model_type\":\"gpt_oss\"," GROUPED "\"num_local_experts\":8,\"intermediate_size\":24," \
    "\"sliding_window\":32}"
#define GLM                                                                                    \
    "{\"model_type\":\"glm4_moe\"," GROUPED "\"n_routed_experts\":8,\"n_shared_experts\":1,"   \
    "\"moe_intermediate_size\":24,\"intermediate_size\":40,\"first_k_dense_replace\":1}"
#define SARVAM_MOE                                                                             \
    "{\"model_type\":\"sarvam_moe\"," GROUPED "\"num_experts\":8,\"num_shared_experts\":1,"    \
    "\"moe_intermediate_size\":24,\"intermediate_size\":40,\"first_k_dense_replace\":1}"
#define MINIMAX                                                                                \
    "{\"model_type\":\"minimax_m2\"," GROUPED "\"num_local_experts\":8,"                       \
    "\"intermediate_size\":24,\"rotary_dim\":2}"
#define DEEPSEEK_V2                                                                            \
    "{\"model_type\":\"deepseek_v2\"," LATENT "\"n_routed_experts\":8,\"n_shared_experts\":2}"
#define DEEPSEEK_V3                                                                            \
    "{\"model_type\":\"deepseek_v3\"," LATENT "\"n_routed_experts\":8,\"n_shared_experts\":1," \
    "\"q_lora_rank\":10,\"n_group\":4,\"topk_group\":2," YARN "}"
#define SARVAM_MLA                                                                             \
    "{\"model_type\":\"sarvam_mla\"," LATENT                                                   \
    "\"num_experts\":8,\"num_shared_experts\":1," YARN "}"
#define MISTRAL4                                                                               \
    "{\"model_type\":\"mistral4\"," LATENT "\"n_routed_experts\":8,\"n_shared_experts\":1,"    \
    "\"q_lora_rank\":10,\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4,"             \
    "\"original_max_position_embeddings\":128,\"attention_factor\":1,"                         \
    "\"llama_4_scaling_beta\":0.1}}"
#define PARAMS                                                                                 \
    "{\"dim\":16,\"n_layers\":4,\"vocab_size\":100,\"norm_eps\":1e-6,\"n_heads\":4,"           \
    "\"hidden_dim\":40,\"kv_lora_rank\":12,\"q_lora_rank\":10,\"qk_nope_head_dim\":6,"         \
    "\"qk_rope_head_dim\":4,\"v_head_dim\":8,\"rope_theta\":10000,\"max_seq_len\":512,"        \
    "\"yarn\":{\"factor\":4,\"original_max_position_embeddings\":128,\"beta\":32,\"alpha\":1," \
    "\"apply_scale\":false},"                                                                  \
    "\"llama_4_scaling\":{\"beta\":0.1,\"original_max_position_embeddings\":128},"             \
    "\"moe\":{\"num_experts\":8,\"num_experts_per_tok\":2,\"expert_hidden_dim\":24,"           \
    "\"num_shared_experts\":1,\"first_k_dense_replace\":1}}"

/* One change: "key=json", "outer.inner=json", or "key" alone to take it out. */
static inline void edit(json_t *object, const char *change) {
    char key[128];
    const char *equals = strchr(change, '='), *end = equals ? equals : change + strlen(change);
    snprintf(key, sizeof key, "%.*s", (int)(end - change), change);
    char *dot = strchr(key, '.'), *last = key;
    if (dot != NULL) {
        *dot = '\0';
        object = json_object_get(object, key);
        assert_non_null(object);
        last = dot + 1;
    }
    if (equals == NULL) {
        assert_int_equal(json_object_del(object, last), 0);
        return;
    }
    json_t *value = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
    if (value == NULL) fail_msg("not JSON: %s", equals + 1);
    assert_int_equal(json_object_set_new(object, last, value), 0);
}

/* The text of `base` after changes that are separated by ';'; the caller frees it. */
static inline char *edited(const char *base, const char *changes) {
    json_t *object = json_loads(base, 0, NULL);
    char *list = strdup(changes != NULL ? changes : ""), *rest = NULL;
    assert_non_null(object);
    for (char *one = strtok_r(list, ";", &rest); one != NULL; one = strtok_r(NULL, ";", &rest))
        edit(object, one);
    char *text = json_dumps(object, 0);
    free(list);
    json_decref(object);
    assert_non_null(text);
    return text;
}

static inline sy_status parse(const char *text, sy_model_spec **out) {
    return sy_spec_parse(text, strlen(text), "config.json", out);
}

static inline sy_model_spec *accepted(const char *base, const char *changes) {
    sy_model_spec *spec = NULL;
    char *text = edited(base, changes);
    if (parse(text, &spec) != SY_OK) fail_msg("%s: %s", text, sy_last_error());
    free(text);
    return spec;
}

typedef struct refusal {
    const char *base, *changes, *text;
} refusal;

/* Each must fail with this status and a text that holds the refusal's and the file's name. */
static inline void expect_refused(const refusal *cases, size_t n, sy_status expected) {
    for (size_t i = 0; i < n; i++) {
        sy_model_spec *spec = NULL;
        char *text = edited(cases[i].base, cases[i].changes);
        sy_status st = parse(text, &spec);
        const char *error = st != SY_OK ? sy_last_error() : "";
        if (st != expected || strstr(error, cases[i].text) == NULL ||
            strstr(error, "config.json") == NULL)
            fail_msg("case %zu %s: expected %s \"...%s\", found %s \"%s\"", i, text,
                     sy_status_name(expected), cases[i].text, sy_status_name(st), error);
        assert_null(spec);
        free(text);
    }
}

static inline sy_model_spec *load(const char *file) {
    char path[4096];
    const char *data = getenv("SY_TEST_DATA");
    sy_model_spec *spec = NULL;
    assert_non_null(data);
    snprintf(path, sizeof path, "%s/%s", data, file);
    if (sy_spec_load(path, &spec) != SY_OK) fail_msg("%s", sy_last_error());
    return spec;
}

#define SAME_INT(field) assert_int_equal(p->field, q->field)
#define SAME_REAL(field) assert_true(p->field == q->field)

static inline void same_attention(const sy_attn_spec *p, const sy_attn_spec *q) {
    SAME_INT(kind), SAME_INT(heads), SAME_INT(kv_heads), SAME_INT(head_dim);
    SAME_INT(mla.q_rank), SAME_INT(mla.kv_rank), SAME_INT(mla.nope), SAME_INT(mla.rope);
    SAME_INT(mla.value), SAME_REAL(mla.norm_eps);
    SAME_INT(qkv_bias), SAME_INT(o_bias), SAME_INT(qk_norm), SAME_REAL(qk_clip);
    SAME_INT(rope.layout), SAME_INT(rope.dim), SAME_REAL(rope.theta), SAME_REAL(rope.factor);
    SAME_REAL(rope.original_positions), SAME_REAL(rope.beta_fast), SAME_REAL(rope.beta_slow);
    SAME_INT(rope.truncate), SAME_REAL(rope.attention_factor);
    SAME_REAL(query_beta), SAME_INT(query_positions), SAME_REAL(softmax_scale);
    SAME_INT(window), SAME_INT(sinks);
}

static inline void same_ffn(const sy_ffn_spec *p, const sy_ffn_spec *q) {
    SAME_INT(kind), SAME_INT(act), SAME_REAL(act_alpha), SAME_REAL(act_limit), SAME_INT(inter);
    SAME_INT(experts), SAME_INT(top_k), SAME_INT(shared_inter), SAME_INT(expert_bias);
    SAME_INT(score), SAME_INT(router_bias), SAME_INT(choice_bias);
    SAME_INT(n_groups), SAME_INT(groups_kept), SAME_INT(group_score);
    SAME_INT(renorm), SAME_REAL(renorm_eps), SAME_REAL(routed_scale);
}

static inline void same_layers(const sy_model_spec *a, const sy_model_spec *b) {
    assert_int_equal(a->n_layers, b->n_layers);
    for (int l = 0; l < a->n_layers; l++) {
        same_attention(&a->layer[l].attn, &b->layer[l].attn);
        same_ffn(&a->layer[l].ffn, &b->layer[l].ffn);
        assert_true(a->layer[l].norm_eps == b->layer[l].norm_eps);
    }
}

#endif

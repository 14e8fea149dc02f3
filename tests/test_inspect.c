/* Bytes by part, dtype and rank, from files and from shapes alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "runtime/inspect.h"
#include "topology/placement.h"

static sy_model_facts *inspect(const char *name, int n_ranks) {
    char path[4096];
    sy_model_facts *f = NULL;
    snprintf(path, sizeof path, "%s/%s", getenv("SY_TEST_DATA"), name);
    if (sy_inspect(path, n_ranks, NULL, &f) != SY_OK) fail_msg("%s", sy_last_error());
    return f;
}

static void part_bytes_match_the_parameter_counts(void **state) {
    (void)state;
    static const struct {
        const char *name;
        sy_dtype dtype;
        int bytes;
    } models[] = {{"tiny/qwen3_moe", SY_BF16, 2},
                  {"tiny/qwen3_moe_f16", SY_F16, 2},
                  {"tiny/qwen3_moe_f32_sharded", SY_F32, 4},
                  {"tiny/qwen3_moe_fused", SY_BF16, 2},
                  {"tiny/mixtral", SY_BF16, 2},
                  {"tiny/olmoe", SY_F32, 4},
                  {"tiny/olmoe/config.json", SY_F32, 4},
                  {"configs/glm-4.5-air-v4.json", SY_BF16, 2},
                  {"configs/sarvam-105b-v5.json", SY_BF16, 2},
                  {"configs/qwen3-235b-a22b-v5.json", SY_BF16, 2}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        sy_model_facts *f = inspect(models[i].name, 1);
        const sy_param_counts *p = &f->params;
        const uint64_t expected[SY_PART_COUNT] = {p->embedding, p->lm_head, p->attention,
                                                  p->dense_ffn, p->router,  p->shared,
                                                  p->routed,    p->norms,   0};
        for (int part = 0; part < SY_PART_COUNT; part++)
            if (f->part[part].bytes != expected[part] * (uint64_t)models[i].bytes)
                fail_msg("%s, %s: expected %llu values, found %llu bytes", models[i].name,
                         sy_part_name((sy_part)part), (unsigned long long)expected[part],
                         (unsigned long long)f->part[part].bytes);
        assert_int_equal(f->elements, p->total);
        assert_int_equal(f->all.bytes, p->total * (uint64_t)models[i].bytes);
        assert_int_equal(f->dtype[models[i].dtype].bytes, f->all.bytes);
        assert_int_equal(f->rank_bytes[0], f->all.bytes);
        assert_int_equal(f->from_files, strstr(models[i].name, ".json") == NULL);
        assert_false(f->has_tokenizer);
        sy_inspect_free(f);
    }
}

/* The routed bytes of a rank, by the placement that a run would use. */
static uint64_t placed_bytes(const sy_model_spec *spec, int n_ranks, int rank, uint64_t bytes) {
    int experts[SY_MAX_LAYERS];
    uint64_t sum = 0;
    sy_placement *placement = NULL;
    for (int l = 0; l < spec->n_layers; l++)
        experts[l] = spec->layer[l].ffn.experts;
    assert_int_equal(sy_placement_contiguous(spec->n_layers, experts, n_ranks, &placement),
                     SY_OK);
    for (int l = 0; l < spec->n_layers; l++)
        if (experts[l] > 0)
            sum += (uint64_t)sy_placement_slots(&placement->layer[l], rank) * bytes * 3 *
                   (uint64_t)spec->layer[l].ffn.inter * (uint64_t)spec->hidden;
    sy_placement_destroy(placement);
    return sum;
}

static void rank_bytes_follow_the_contiguous_placement(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint64_t bytes;
    } models[] = {{"tiny/qwen3_moe", 2},
                  {"tiny/qwen3_moe_fused", 2},
                  {"tiny/olmoe", 4},
                  {"configs/qwen3-30b-a3b-v4.json", 2},
                  {"configs/mixtral-8x7b-v4.json", 2}};
    static const int ranks[] = {1, 2, 3, 5, 7, 16};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (size_t k = 0; k < sizeof ranks / sizeof *ranks; k++) {
            sy_model_facts *f = inspect(models[i].name, ranks[k]);
            uint64_t rest = f->all.bytes - f->part[SY_PART_ROUTED].bytes;
            assert_int_equal(f->n_ranks, ranks[k]);
            for (int r = 0; r < ranks[k]; r++)
                assert_int_equal(f->rank_bytes[r],
                                 rest + placed_bytes(f->spec, ranks[k], r, models[i].bytes));
            sy_inspect_free(f);
        }
}

static void tensors_and_files_are_counted(void **state) {
    (void)state;
    sy_model_facts *f = inspect("tiny/qwen3_moe_f32_sharded", 2);
    assert_int_equal(f->n_files, 3);
    assert_int_equal(f->file_bytes, 52912 + 54072 + 51680);
    assert_int_equal(f->part[SY_PART_ROUTED].tensors, 2 * 11 * 3);
    assert_int_equal(f->part[SY_PART_ATTENTION].tensors, 3 * 4);
    assert_int_equal(f->part[SY_PART_NORMS].tensors, 3 * 4 + 1);
    assert_int_equal(f->part[SY_PART_ROUTER].tensors, 2);
    assert_int_equal(f->part[SY_PART_DENSE_FFN].tensors, 3);
    assert_int_equal(f->all.tensors, 66 + 12 + 13 + 2 + 3 + 2);
    assert_int_equal(f->kv_bytes, 3 * 2 * 6 * 2 * 2);
    sy_inspect_free(f);
}

static void names_tell_the_part(void **state) {
    (void)state;
    static const struct {
        const char *name;
        sy_part part;
        int layer, expert;
    } cases[] = {
        {"model.embed_tokens.weight", SY_PART_EMBEDDING, -1, -1},
        {"lm_head.weight", SY_PART_LM_HEAD, -1, -1},
        {"model.norm.weight", SY_PART_NORMS, -1, -1},
        {"model.layers.7.input_layernorm.weight", SY_PART_NORMS, 7, -1},
        {"model.layers.7.self_attn.q_norm.weight", SY_PART_NORMS, 7, -1},
        {"model.layers.7.self_attn.o_proj.weight", SY_PART_ATTENTION, 7, -1},
        {"model.layers.10.mlp.gate.weight", SY_PART_ROUTER, 10, -1},
        {"model.layers.10.block_sparse_moe.gate.weight", SY_PART_ROUTER, 10, -1},
        {"model.layers.10.mlp.gate_proj.weight", SY_PART_DENSE_FFN, 10, -1},
        {"model.layers.10.mlp.shared_experts.up_proj.weight", SY_PART_SHARED, 10, -1},
        {"model.layers.10.block_sparse_moe.experts.63.w2.weight", SY_PART_ROUTED, 10, 63},
        {"model.layers.10.mlp.experts.down_proj", SY_PART_ROUTED, 10, -1},
        {"model.layers.99999999999.mlp.experts.1.w1", SY_PART_OTHER, -1, 1},
        {"rotary.inv_freq", SY_PART_OTHER, -1, -1},
        {"model.layers.3.self_attn.q_a_layernorm.weight", SY_PART_NORMS, 3, -1},
        {"model.layers.3.mlp.router.bias", SY_PART_ROUTER, 3, -1},
        {"model.layers.3.block_sparse_moe.e_score_correction_bias", SY_PART_ROUTER, 3, -1},
        {"model.layers.3.mlp.experts.gate_up_proj_blocks", SY_PART_ROUTED, 3, -1},
        {"model.word_embeddings.weight", SY_PART_EMBEDDING, -1, -1},
        {"model.layers.3.attention.query_key_value.weight", SY_PART_ATTENTION, 3, -1},
        {"tok_embeddings.weight", SY_PART_EMBEDDING, -1, -1},
        {"output.weight", SY_PART_LM_HEAD, -1, -1},
        {"layers.3.attention.wkv_a_with_mqa.weight", SY_PART_ATTENTION, 3, -1},
        {"layers.3.attention_norm.weight", SY_PART_NORMS, 3, -1},
        {"layers.3.feed_forward.w1.weight", SY_PART_DENSE_FFN, 3, -1},
        {"layers.3.experts.5.w1.weight", SY_PART_ROUTED, 3, 5},
        {"layers.3.gate.weight", SY_PART_ROUTER, 3, -1},
        {"", SY_PART_OTHER, -1, -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int layer, expert;
        assert_int_equal(sy_part_of(cases[i].name, &layer, &expert), cases[i].part);
        assert_int_equal(layer, cases[i].layer);
        assert_int_equal(expert, cases[i].expert);
    }
}

/* Of DeepSeek-V3 what is FP8 has a float32 scale for each 128 x 128, edges included. */
static void quantised_config_has_bytes_of_its_precision(void **state) {
    (void)state;
    sy_model_facts *f = inspect("configs/deepseek-v3-v4.json", 4);
    const sy_param_counts *p = &f->params;
    const uint64_t expert = 3 * 2048 * 7168, scales = 3 * 16 * 56 * 4;
    assert_int_equal(f->part[SY_PART_ROUTED].bytes, 58ull * 256 * (expert + scales));
    assert_int_equal(f->part[SY_PART_ROUTER].bytes, 2 * p->router);
    assert_int_equal(f->part[SY_PART_EMBEDDING].bytes, 2 * p->embedding);
    const uint64_t attention = 1536 * 7168 + 12 * 56 * 4 +   /* q_a */
                               24576 * 1536 + 192 * 12 * 4 + /* q_b */
                               576 * 7168 + 5 * 56 * 4 + /* kv_a: four and a half blocks high */
                               32768 * 512 + 256 * 4 * 4 +     /* kv_b */
                               7168ull * 16384 + 56 * 128 * 4; /* o */
    assert_int_equal(f->part[SY_PART_ATTENTION].bytes, 61 * attention);
    uint64_t sum = 0;
    for (int i = 0; i < SY_DTYPE_COUNT; i++)
        sum += f->dtype[i].bytes;
    assert_int_equal(sum, f->all.bytes);
    assert_int_equal(f->kv_bytes, 61 * 576 * 2);
    uint64_t rest = f->all.bytes - f->part[SY_PART_ROUTED].bytes;
    for (int r = 0; r < 4; r++)
        assert_int_equal(f->rank_bytes[r], rest + f->part[SY_PART_ROUTED].bytes / 4);
    for (int i = 0; i < SY_SPLIT_COUNT; i++) {
        assert_int_equal(f->split[i].ranks, 2 << i);
        assert_int_equal(f->split[i].bytes, rest + f->part[SY_PART_ROUTED].bytes / (2u << i));
    }
    sy_inspect_free(f);
}

static void config_without_weights_is_counted_by_shapes(void **state) {
    (void)state;
    char directory[] = "/tmp/sy_test_inspect_XXXXXX", path[64], command[8192];
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/params.json", directory);
    snprintf(command, sizeof command, "cp '%s/configs/mistral-large-3-params.json' '%s'",
             getenv("SY_TEST_DATA"), path);
    assert_int_equal(system(command), 0);
    sy_model_facts *f = NULL;
    if (sy_inspect(directory, 1, NULL, &f) != SY_OK) fail_msg("%s", sy_last_error());
    assert_false(f->from_files);
    assert_int_equal(f->params.total, 673421089792);
    /* The projections to latents stay in BF16. */
    assert_int_equal(f->dtype[SY_BF16].bytes,
                     2 * (f->params.embedding + f->params.lm_head + f->params.router +
                          f->params.norms + 61ull * (1536 + 576) * 7168));
    sy_inspect_free(f);
    unlink(path);
    assert_int_equal(rmdir(directory), 0);
}

static void bad_arguments_are_refused(void **state) {
    (void)state;
    sy_model_facts *f = NULL;
    assert_int_equal(sy_inspect("/nonexistent/model", 1, NULL, &f), SY_ERR_IO);
    assert_int_equal(sy_inspect("/nonexistent/model", 0, NULL, &f), SY_ERR_USAGE);
    assert_null(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(part_bytes_match_the_parameter_counts),
        cmocka_unit_test(rank_bytes_follow_the_contiguous_placement),
        cmocka_unit_test(tensors_and_files_are_counted),
        cmocka_unit_test(names_tell_the_part),
        cmocka_unit_test(quantised_config_has_bytes_of_its_precision),
        cmocka_unit_test(config_without_weights_is_counted_by_shapes),
        cmocka_unit_test(bad_arguments_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

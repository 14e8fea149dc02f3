/* Checkpoints that --to q8 wrote, loaded: they compute what docs/formats.md says they mean.
 * ranks: 1 2
 * timeout: 120 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/log.h"
#include "tests/convert_fixture.h"
#include "tests/seeded_checkpoint.h"

enum { N_IDS = 40, Q8_GROUP = 32 };

static sy_comm *comm;

typedef struct source {
    const char *name;
    bool seeded;
} source;

static const source sources[] = {
    {"demo", false},
    {"tiny/qwen3_moe", false},
    {"tiny/olmoe", false},
    {"tiny/deepseek_v3", true},
};
enum { N_SOURCES = sizeof sources / sizeof *sources };

static void open_source(const source *s, char path[PATH_CHARS]) {
    char formula[PATH_CHARS];
    data_path(path, PATH_CHARS, "%s", s->name);
    if (!s->seeded) return;
    memcpy(formula, path, PATH_CHARS);
    in_scratch(path, "source");
    assert_int_equal(mkdir(path, 0777), 0);
    MUST(sy_seeded_write(formula, path, &(sy_seeded_options){SY_BF16, 1, NULL}));
}

typedef struct logits {
    float *value;
    int64_t n, vocab;
} logits;

static sy_status keep(void *context, int64_t n_rows, const float *rows) {
    logits *l = context;
    memcpy(l->value + l->n, rows, (size_t)(n_rows * l->vocab) * sizeof *rows);
    l->n += n_rows * l->vocab;
    return SY_OK;
}

/* Loads a checkpoint with float32 activations and runs one prompt. */
static logits run(fixture *f, const char *directory) {
    int32_t ids[N_IDS];
    fixture_open(f, comm, directory, SY_F32, 2);
    sy_engine_options o = {.max_context = 128,
                           .max_pages = 2,
                           .per_rank = 1,
                           .chunk = 16,
                           .max_outputs = 16,
                           .n_valid = f->spec->vocab};
    fixture_engine(f, &o);
    for (int i = 0; i < N_IDS; i++)
        ids[i] = (int32_t)(sy_hash_add(5, (uint64_t)i) % (uint64_t)f->spec->vocab);
    logits l = {.vocab = f->spec->vocab};
    l.value = calloc((size_t)(N_IDS * l.vocab), sizeof *l.value);
    MUST(sy_engine_logits(f->engine, ids, N_IDS, NULL, keep, &l));
    return l;
}

/* The largest difference over the largest magnitude; not a number where one of them is none. */
static double distance(const logits *a, const logits *b) {
    double worst = 0, largest = 0;
    assert_int_equal(a->n, N_IDS * a->vocab);
    assert_int_equal(a->n, b->n);
    for (int64_t i = 0; i < a->n; i++) {
        double off = fabs((double)a->value[i] - (double)b->value[i]);
        if (isnan(off)) return NAN;
        worst = fmax(worst, off);
        largest = fmax(largest, fabs((double)b->value[i]));
    }
    return worst / largest;
}

/* weight[i][j] = code[i][j] * scale[i][j / 32], exact in float32. */
static void decode(edited_tensor *codes, const edited_tensor *scales) {
    int64_t n = codes->shape[0], k = codes->shape[1], groups = (k + Q8_GROUP - 1) / Q8_GROUP;
    assert_int_equal(scales->dtype, SY_BF16);
    assert_true(scales->rank == 2 && scales->shape[0] == n && scales->shape[1] == groups);
    float *plain = malloc((size_t)(n * k) * sizeof *plain);
    for (int64_t i = 0; i < n * k; i++) {
        uint16_t scale;
        memcpy(&scale, scales->data + 2 * (i / k * groups + i % k / Q8_GROUP), sizeof scale);
        plain[i] = (float)(int8_t)codes->data[i] * sy_f32_from_bf16(scale);
    }
    codes->dtype = SY_F32;
    edited_resize(codes);
    memcpy(codes->data, plain, codes->bytes);
    free(plain);
}

/* The same model with its weights written out in float32. Returns how many were in q8. */
static int write_plain(const char *directory, const char *config_file, edited_model *m) {
    char name[PATH_CHARS];
    int n = 0;
    edited_open_with(m, directory, config_file);
    for (int i = 0; i < m->n; i++) {
        if (m->tensor[i].dtype != SY_I8) continue;
        snprintf(name, sizeof name, "%s_scale", m->tensor[i].name);
        decode(&m->tensor[i], edited_find(m, name));
        n++;
    }
    for (int i = m->n - 1; i >= 0; i--)
        if (strstr(m->tensor[i].name, "weight_scale") != NULL) {
            snprintf(name, sizeof name, "%s", m->tensor[i].name);
            edited_drop(m, name);
        }
    json_object_del(m->config, "quantization_config");
    json_object_del(m->config, "quantization"); /* of Mistral's */
    edited_write(m);
    return n;
}

static void check_kept_in_codes(const fixture *f, bool all) {
    for (int l = 0; l < f->spec->n_layers; l++) {
        const sy_layer_weights *w = &f->weights->layer[l];
        const sy_attn_spec *a = &f->spec->layer[l].attn;
        const sy_matrix *m = w->n_slots > 0 ? &w->down[0] : NULL;
        if (m != NULL && (m->dtype != SY_I8 || m->quant.group != Q8_GROUP))
            fail_msg("layer %d: an expert is %s in groups of %d", l, sy_dtype_name(m->dtype),
                     m->quant.group);
        assert_true((w->o.dtype == SY_I8) == all);
        if (a->kind == SY_ATTN_MLA) /* cut into heads at load */
            assert_true(w->k_up[0].dtype != SY_I8);
    }
}

static void check_source(const source *s, bool all) {
    char path[PATH_CHARS], coded[PATH_CHARS];
    edited_model plain;
    fixture f[3];
    make_scratch(NULL);
    open_source(s, path);
    in_scratch(coded, "coded");
    sy_convert_options o = wish(path, coded, SY_CONVERT_Q8);
    o.all = all;
    MUST(convert(&o));
    assert_true(write_plain(coded, "config.json", &plain) > 0);
    logits found = run(&f[0], coded), expected = run(&f[1], plain.directory);
    logits before = run(&f[2], path);
    check_kept_in_codes(&f[0], all);
    if (sy_comm_rank(comm) == 0) {
        double off = distance(&found, &expected), moved = distance(&found, &before);
        print_message("%s%s: off by %.1e; q8 itself moves logits by %.1e\n", s->name,
                      all ? ", all" : "", off, moved);
        assert_true(off < 1e-4);
        assert_true(moved > 1e-4); /* much, where a token gets another expert */
    }
    free(found.value);
    free(expected.value);
    free(before.value);
    for (int i = 0; i < 3; i++)
        fixture_close(&f[i]);
    edited_close(&plain);
    remove_scratch(NULL);
}

static void q8_computes_what_its_definition_says(void **state) {
    (void)state;
    for (int i = 0; i < N_SOURCES; i++)
        for (int all = 0; all < 2; all++)
            check_source(&sources[i], all == 1);
}

/* Between the names that edited_write knows and those of Mistral's layout. */
static void rename_written(const edited_model *m, bool to_mistral) {
    static const char *const files[2][2] = {{"config.json", "params.json"},
                                            {"model.safetensors", "consolidated.safetensors"}};
    for (int i = 0; i < 2; i++) {
        char from[128], to[128];
        edited_path(m, files[i][!to_mistral], from);
        edited_path(m, files[i][to_mistral], to);
        assert_int_equal(rename(from, to), 0);
    }
}

/* params.json says it under another key. The bound is that of the other layouts: both models have
 * the same weights, and differ in the order of roundings to float32 alone. */
static void q8_in_the_layout_of_mistral_loads(void **state) {
    (void)state;
    const source s = {"tiny/mistral_large_3", true};
    char path[PATH_CHARS], coded[PATH_CHARS];
    fixture f[3];
    edited_model plain;
    make_scratch(NULL);
    open_source(&s, path);
    in_scratch(coded, "coded");
    sy_convert_options o = wish(path, coded, SY_CONVERT_Q8);
    o.all = true;
    MUST(convert(&o));
    assert_true(write_plain(coded, "params.json", &plain) > 0);
    rename_written(&plain, true);
    logits found = run(&f[0], coded), before = run(&f[1], path);
    logits expected = run(&f[2], plain.directory);
    assert_int_equal(f[0].spec->quant.method, SY_QUANT_SWITCHYARD_Q8);
    check_kept_in_codes(&f[0], true);
    if (sy_comm_rank(comm) == 0) {
        assert_true(distance(&found, &expected) < 1e-4);
        assert_true(distance(&found, &before) > 1e-4);
    }
    free(found.value);
    free(before.value);
    free(expected.value);
    for (int i = 0; i < 3; i++)
        fixture_close(&f[i]);
    rename_written(&plain, false);
    edited_close(&plain);
    remove_scratch(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(q8_computes_what_its_definition_says),
        cmocka_unit_test(q8_in_the_layout_of_mistral_loads),
    };
    sy_log_set_level(SY_LOG_ERROR); /* short groups are told of */
    MUST(sy_comm_create(&(sy_comm_options){.threads_per_rank = 2}, &comm));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed != 0) sy_comm_abort(comm, 1);
    sy_comm_destroy(comm);
    return 0;
}

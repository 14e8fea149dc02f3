/* Conversion of checkpoints: what is written for each layout of tensors, that it reads back as
 * what it was, and what is refused. timeout: 120 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/log.h"
#include "runtime/inspect.h"
#include "tests/convert_fixture.h"
#include "tests/seeded_checkpoint.h"

/* The root mean square of the difference over that of the first. */
static double distance(const sy_checkpoint *a,
                       const sy_tensor_entry *t,
                       const sy_checkpoint *b,
                       const sy_tensor_entry *u) {
    double error = 0, size = 0;
    uint64_t n = t->bytes * 8 / (uint64_t)sy_dtype_bits(t->dtype);
    assert_int_equal(t->rank, u->rank);
    assert_memory_equal(t->shape, u->shape, (size_t)t->rank * sizeof *t->shape);
    char *of_t = read_tensor(a, t), *of_u = read_tensor(b, u);
    for (uint64_t i = 0; i < n; i++) {
        double x = value_of(t->dtype, of_t, i), y = value_of(u->dtype, of_u, i);
        error += (x - y) * (x - y);
        size += x * x;
    }
    free(of_t);
    free(of_u);
    return size > 0 ? sqrt(error / size) : error;
}

/* ---- all layouts ---- */

typedef struct layout {
    const char *name, *twin; /* the twin has the same weights expert by expert */
    bool seeded;
    sy_dtype dtype;
} layout;

static const layout sources[] = {
    {"qwen3_moe", NULL, false, SY_BF16}, {"qwen3_moe_fused", "qwen3_moe", false, SY_BF16},
    {"mixtral", NULL, false, SY_BF16},   {"olmoe", NULL, false, SY_BF16},
    {"deepseek_v3", NULL, true, SY_F32}, {"deepseek_v2", NULL, true, SY_BF16},
    {"kimi_k25", NULL, true, SY_BF16},   {"sarvam_mla", NULL, true, SY_BF16},
    {"sarvam_moe", NULL, true, SY_F16},  {"mistral_large_3", NULL, true, SY_BF16},
    {"gpt_oss", NULL, true, SY_BF16},    {"gpt_oss", NULL, true, SY_F32},
    {"glm4_moe", NULL, true, SY_BF16},   {"minimax_m2", NULL, true, SY_BF16}};
enum { N_SOURCES = sizeof sources / sizeof *sources };

static void open_source(const layout *s, char path[PATH_CHARS]) {
    data_path(path, PATH_CHARS, "tiny/%s", s->name);
    if (!s->seeded) return;
    char formula[PATH_CHARS];
    memcpy(formula, path, PATH_CHARS);
    in_scratch(path, "source");
    assert_int_equal(mkdir(path, 0777), 0);
    MUST(sy_seeded_write(formula, path, &(sy_seeded_options){s->dtype, 2, NULL}));
}

static void close_source(const layout *s, const char *path) {
    char command[PATH_CHARS + 16];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    if (s->seeded) assert_int_equal(system(command), 0);
}

static bool has_word(const char *name, const char *word) {
    return strstr(name, word) != NULL;
}

/* What must never be encoded. */
static bool stays(const char *name) {
    static const char *const words[] = {
        "norm",        "embed", "lm_head", "mlp.gate.", "output.",
        "router",      "bias",  "kv_b",    ".sinks",    "block_sparse_moe.gate",
        ".gate.weight"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (has_word(name, words[i])) return true;
    return false;
}

/* A layer for predicting several tokens, which a conversion leaves out. */
static bool is_extra(const sy_model_spec *spec, const char *name) {
    int of, expert;
    sy_part_of(name, &of, &expert);
    return of >= spec->n_layers && spec->n_mtp_layers > 0;
}

/* All tensors of the source, read back: those that may be encoded within `bound`, all others bit
 * by bit. Tensors that were encoded are counted. */
static int check_read_back(const char *source_path, const char *back_path, double bound) {
    sy_checkpoint *a, *b;
    sy_model_spec *spec;
    int n_other = 0, n_extra = 0;
    MUST(sy_spec_load(source_path, &spec));
    MUST(sy_checkpoint_open(source_path, &a));
    MUST(sy_checkpoint_open(back_path, &b));
    for (int i = 0; i < a->n_tensors; i++) {
        const sy_tensor_entry *t = &a->tensor[i], *u = sy_checkpoint_find(b, t->name);
        if (is_extra(spec, t->name)) {
            assert_null(u);
            n_extra++;
            continue;
        }
        if (u == NULL) fail_msg("%s: %s is missing", back_path, t->name);
        double d = distance(a, t, b, u);
        n_other += d > 0;
        if (stays(t->name) ? d != 0 || t->dtype != u->dtype : d > bound)
            fail_msg("%s: %s (%s) is off by %g, bound %g", source_path, t->name,
                     sy_dtype_name(u->dtype), d, bound);
    }
    assert_int_equal(a->n_tensors, b->n_tensors + n_extra);
    sy_spec_destroy(spec);
    sy_checkpoint_close(a);
    sy_checkpoint_close(b);
    return n_other;
}

/* Relative errors of random weights are 0.026, 0.005, 0.11 and 0.09. */
static const struct {
    sy_convert_format to;
    double bound;
} targets[] = {{SY_CONVERT_BF16, 0.005},
               {SY_CONVERT_FP8, 0.035},
               {SY_CONVERT_Q8, 0.008},
               {SY_CONVERT_MXFP4, 0.16},
               {SY_CONVERT_NVFP4, 0.13}};
enum { N_TARGETS = sizeof targets / sizeof *targets };

/* Readers that map a file look at a tensor where it lies. */
static void check_aligned(const char *path) {
    sy_checkpoint *c;
    MUST(sy_checkpoint_open(path, &c));
    for (int i = 0; i < c->n_tensors; i++)
        assert_int_equal(
            c->tensor[i].offset % (uint64_t)(sy_dtype_bits(c->tensor[i].dtype) / 8), 0);
    sy_checkpoint_close(c);
}

static void round_trip(const layout *s, const char *path, int target, bool all) {
    char coded[PATH_CHARS], back[PATH_CHARS], twin[PATH_CHARS];
    in_scratch(coded, "coded");
    in_scratch(back, "back");
    sy_convert_options o = wish(path, coded, targets[target].to);
    o.all = all;
    bool oss = has_word(s->name, "oss");
    if (oss && o.to != SY_CONVERT_BF16) {
        bool no_blocks = o.to == SY_CONVERT_MXFP4 && !all; /* rows of 26 and 20 values */
        check_error(convert(&o), SY_ERR_UNSUPPORTED, no_blocks ? "no blocks of 32" : "layout");
        assert_false(exists(coded));
        return;
    }
    MUST(convert(&o));
    check_aligned(coded);
    o = wish(coded, back, SY_CONVERT_BF16);
    MUST(convert(&o));
    data_path(twin, sizeof twin, "tiny/%s", s->twin != NULL ? s->twin : "");
    int n = check_read_back(s->twin != NULL ? twin : path, back, targets[target].bound);
    bool exact = targets[target].to == SY_CONVERT_BF16; /* as all these values are */
    if (exact && n > 0) fail_msg("%s: %d tensors changed in bf16", s->name, n);
    if (!exact && n == 0) fail_msg("%s: nothing was encoded", s->name);
    close_source(&(layout){.seeded = true}, coded);
    close_source(&(layout){.seeded = true}, back);
}

static void every_layout_reads_back_as_what_it_was(void **state) {
    (void)state;
    for (int i = 0; i < N_SOURCES; i++) {
        char path[PATH_CHARS];
        open_source(&sources[i], path);
        for (int t = 0; t < N_TARGETS; t++)
            for (int all = 0; all < 2; all++)
                round_trip(&sources[i], path, t, all == 1);
        close_source(&sources[i], path);
    }
}

/* gpt-oss of another width, whose rows are whole blocks. */
static void open_wide_oss(edited_model *m) {
    static const int64_t from[] = {26, 20, 40}, to[] = {64, 32, 64};
    char path[PATH_CHARS];
    json_t *formula, *entry, *extent;
    size_t i, d;
    *m = (edited_model){.directory = "/tmp/sy_model_XXXXXX"};
    assert_non_null(mkdtemp(m->directory));
    MUST(sy_json_load(data_path(path, sizeof path, "tiny/gpt_oss/config.json"),
                      SY_JSON_MAX_CONFIG, &m->config));
    MUST(sy_json_load(data_path(path, sizeof path, "tiny/gpt_oss/tensors.json"),
                      SY_JSON_MAX_CONFIG, &formula));
    json_object_set_new(m->config, "hidden_size", json_integer(64));
    json_object_set_new(m->config, "intermediate_size", json_integer(32));
    json_array_foreach(json_object_get(formula, "tensors"), i, entry) {
        int64_t shape[4];
        const json_t *dims = json_object_get(entry, "shape");
        json_array_foreach(dims, d, extent) {
            shape[d] = json_integer_value(extent);
            for (int j = 0; j < 3; j++)
                if (json_integer_value(extent) == from[j]) shape[d] = to[j];
        }
        edited_tensor *t = edited_add(m, json_string_value(json_object_get(entry, "name")),
                                      SY_BF16, (int)json_array_size(dims), shape);
        for (uint64_t v = 0; v < t->bytes / 2; v++) {
            float x = sy_uniform(i + 1, v) - 0.5f;
            uint16_t half = sy_bf16_from_f32(x);
            memcpy(t->data + 2 * v, &half, sizeof half);
        }
    }
    json_decref(formula);
    edited_write(m);
}

#define OSS "model.layers.2.mlp.experts."

static void stacked_experts_of_gpt_oss_become_blocks_and_back(void **state) {
    (void)state;
    char path[4][PATH_CHARS];
    edited_model m;
    sy_checkpoint *c;
    const sy_tensor_entry *t;
    open_wide_oss(&m);
    const char *from = m.directory;
    for (int i = 0; i < 4; i++) { /* to blocks, back, to blocks, back */
        in_scratch(path[i], "step%d", i);
        sy_convert_options o =
            wish(from, path[i], i % 2 == 0 ? SY_CONVERT_MXFP4 : SY_CONVERT_BF16);
        o.n_threads = 1 + i;
        MUST(convert(&o));
        from = path[i];
    }
    MUST(sy_checkpoint_open(path[0], &c));
    t = sy_checkpoint_find(c, OSS "gate_up_proj_blocks");
    assert_true(t != NULL && t->dtype == SY_U8 && t->rank == 4);
    assert_memory_equal(t->shape, ((int64_t[]){7, 64, 2, 16}), 4 * sizeof(int64_t));
    t = sy_checkpoint_find(c, OSS "down_proj_scales");
    assert_true(t != NULL && t->dtype == SY_U8 && t->rank == 3);
    assert_memory_equal(t->shape, ((int64_t[]){7, 64, 1}), 3 * sizeof(int64_t));
    assert_non_null(sy_checkpoint_find(c, OSS "down_proj_bias"));
    sy_checkpoint_close(c);
    assert_true(check_read_back(m.directory, path[1], 0.16) == 8); /* two of each layer */
    /* The values of blocks are blocks' values, exactly. */
    assert_int_equal(check_read_back(path[1], path[3], 0), 0);
    edited_close(&m);
}

/* What the tensors of one module are called and in which shape. */
static void check_tensor(const sy_checkpoint *c,
                         const char *name,
                         sy_dtype dtype,
                         int rank,
                         int64_t first,
                         int64_t second) {
    const sy_tensor_entry *t = sy_checkpoint_find(c, name);
    if (t == NULL) fail_msg("%s is missing", name);
    assert_int_equal(t->dtype, dtype);
    assert_int_equal(t->rank, rank);
    assert_int_equal(t->shape[0], first);
    if (rank > 1) assert_int_equal(t->shape[1], second);
}

#define EXPERT "model.layers.1.mlp.experts.3.down_proj."

static void each_format_has_the_published_tensors(void **state) {
    (void)state;
    char path[PATH_CHARS], out[PATH_CHARS];
    data_path(path, sizeof path, "demo"); /* down: [160, 96] */
    for (int to = 0; to < SY_CONVERT_FORMATS; to++) {
        sy_checkpoint *c;
        in_scratch(out, "out%d", to);
        sy_convert_options o = wish(path, out, (sy_convert_format)to);
        MUST(convert(&o));
        MUST(sy_checkpoint_open(out, &c));
        if (to == SY_CONVERT_BF16) check_tensor(c, EXPERT "weight", SY_BF16, 2, 160, 96);
        if (to == SY_CONVERT_FP8) {
            check_tensor(c, EXPERT "weight", SY_F8_E4M3, 2, 160, 96);
            check_tensor(c, EXPERT "weight_scale_inv", SY_F32, 2, 2, 1);
        }
        if (to == SY_CONVERT_Q8) {
            check_tensor(c, EXPERT "weight", SY_I8, 2, 160, 96);
            check_tensor(c, EXPERT "weight_scale", SY_BF16, 2, 160, 3);
        }
        if (to == SY_CONVERT_MXFP4) {
            check_tensor(c, EXPERT "weight_packed", SY_U8, 2, 160, 48);
            check_tensor(c, EXPERT "weight_scale", SY_U8, 2, 160, 3);
        }
        if (to == SY_CONVERT_NVFP4) {
            check_tensor(c, EXPERT "weight_packed", SY_U8, 2, 160, 48);
            check_tensor(c, EXPERT "weight_scale", SY_F8_E4M3, 2, 160, 6);
            check_tensor(c, EXPERT "weight_global_scale", SY_F32, 1, 1, 0);
        }
        check_tensor(c, "model.layers.1.self_attn.q_proj.weight", SY_BF16, 2, 256, 160);
        sy_checkpoint_close(c);
    }
}

/* Value by value, with the definition of docs/formats.md. */
static void q8_weights_are_within_half_a_step(void **state) {
    (void)state;
    char path[PATH_CHARS], out[PATH_CHARS];
    sy_checkpoint *a, *b;
    data_path(path, sizeof path, "demo");
    in_scratch(out, "out");
    sy_convert_options o = wish(path, out, SY_CONVERT_Q8);
    MUST(convert(&o));
    MUST(sy_checkpoint_open(path, &a));
    MUST(sy_checkpoint_open(out, &b));
    char *x = read_tensor(a, sy_checkpoint_find(a, EXPERT "weight"));
    char *codes = read_tensor(b, sy_checkpoint_find(b, EXPERT "weight"));
    char *scales = read_tensor(b, sy_checkpoint_find(b, EXPERT "weight_scale"));
    int largest = 0;
    for (uint64_t i = 0; i < 160 * 96; i++) {
        double scale = value_of(SY_BF16, scales, i / 32), code = (double)(int8_t)codes[i];
        assert_true(fabs(value_of(SY_BF16, x, i) - code * scale) <= scale * 0.500001);
        if (fabs(code) > largest) largest = (int)fabs(code);
    }
    assert_true(largest == 127 || largest == 126);
    free(x);
    free(codes);
    free(scales);
    sy_checkpoint_close(a);
    sy_checkpoint_close(b);
}

static void gate_and_up_share_an_nvfp4_factor(void **state) {
    (void)state;
    char path[PATH_CHARS], out[PATH_CHARS];
    sy_checkpoint *c;
    data_path(path, sizeof path, "demo");
    in_scratch(out, "out");
    sy_convert_options o = wish(path, out, SY_CONVERT_NVFP4);
    MUST(convert(&o));
    MUST(sy_checkpoint_open(out, &c));
    static const char *const names[] = {
        "model.layers.0.mlp.experts.0.gate_proj.weight_global_scale",
        "model.layers.0.mlp.experts.0.up_proj.weight_global_scale",
        "model.layers.0.mlp.experts.0.down_proj.weight_global_scale"};
    double factor[3];
    for (int i = 0; i < 3; i++) {
        char *bytes = read_tensor(c, sy_checkpoint_find(c, names[i]));
        factor[i] = value_of(SY_F32, bytes, 0);
        free(bytes);
    }
    assert_true(factor[0] == factor[1] && factor[0] != factor[2] && factor[0] > 1);
    sy_checkpoint_close(c);
}

static void what_is_in_the_format_already_is_kept_bit_by_bit(void **state) {
    (void)state;
    char path[PATH_CHARS], once[PATH_CHARS], twice[PATH_CHARS];
    data_path(path, sizeof path, "demo");
    for (int to = 0; to < SY_CONVERT_FORMATS; to++) {
        in_scratch(once, "once%d", to);
        in_scratch(twice, "twice%d", to);
        sy_convert_options o = wish(path, once, (sy_convert_format)to);
        MUST(convert(&o));
        o.source = once;
        o.target = twice;
        MUST(convert(&o));
        check_same_directories(once, twice);
        /* Another precision of the others, the experts untouched. */
        in_scratch(twice, "all%d", to);
        o.all = true;
        MUST(convert(&o));
        sy_checkpoint *a, *b;
        MUST(sy_checkpoint_open(once, &a));
        MUST(sy_checkpoint_open(twice, &b));
        for (int i = 0; i < a->n_tensors; i++) {
            const sy_tensor_entry *t = &a->tensor[i];
            if (!has_word(t->name, "experts")) continue;
            char *x = read_tensor(a, t), *y = read_tensor(b, sy_checkpoint_find(b, t->name));
            assert_memory_equal(x, y, t->bytes);
            free(x);
            free(y);
        }
        sy_checkpoint_close(a);
        sy_checkpoint_close(b);
    }
}

static void the_configuration_names_what_stayed_plain(void **state) {
    (void)state;
    char path[PATH_CHARS], out[PATH_CHARS], file[PATH_CHARS + 32];
    json_t *config;
    data_path(path, sizeof path, "demo");
    in_scratch(out, "out");
    sy_convert_options o = wish(path, out, SY_CONVERT_FP8);
    MUST(convert(&o));
    snprintf(file, sizeof file, "%s/config.json", out);
    MUST(sy_json_load(file, SY_JSON_MAX_CONFIG, &config));
    const json_t *q = json_object_get(config, "quantization_config");
    const json_t *plain = json_object_get(q, "modules_to_not_convert");
    assert_string_equal(json_string_value(json_object_get(q, "quant_method")), "fp8");
    bool has_q = false, has_head = false;
    for (size_t i = 0; i < json_array_size(plain); i++) {
        const char *name = json_string_value(json_array_get(plain, i));
        assert_false(has_word(name, "experts") || has_word(name, "embed"));
        has_q = has_q || strcmp(name, "model.layers.2.self_attn.q_proj") == 0;
        has_head = has_head || strcmp(name, "lm_head") == 0;
    }
    assert_true(has_q && has_head);
    json_decref(config);
    /* Back to bf16 there is none. */
    char back[PATH_CHARS];
    in_scratch(back, "back");
    o = wish(out, back, SY_CONVERT_BF16);
    MUST(convert(&o));
    snprintf(file, sizeof file, "%s/config.json", back);
    MUST(sy_json_load(file, SY_JSON_MAX_CONFIG, &config));
    assert_null(json_object_get(config, "quantization_config"));
    json_decref(config);
}

static void the_number_of_threads_changes_nothing(void **state) {
    (void)state;
    char path[PATH_CHARS], out[2][PATH_CHARS];
    data_path(path, sizeof path, "demo");
    for (int i = 0; i < 2; i++) {
        in_scratch(out[i], "out%d", i);
        sy_convert_options o = wish(path, out[i], SY_CONVERT_NVFP4);
        o.n_threads = i == 0 ? 1 : 5;
        MUST(convert(&o));
    }
    check_same_directories(out[0], out[1]);
}

static void a_dry_run_writes_nothing(void **state) {
    (void)state;
    char path[PATH_CHARS], out[PATH_CHARS];
    sy_convert_report dry, wet;
    data_path(path, sizeof path, "demo");
    in_scratch(out, "out");
    sy_convert_options o = wish(path, out, SY_CONVERT_MXFP4);
    o.dry_run = true;
    MUST(sy_convert(&o, &dry));
    assert_int_equal(count_files(scratch), 0);
    o.dry_run = false;
    MUST(sy_convert(&o, &wet));
    assert_int_equal(dry.target_bytes, wet.target_bytes);
    assert_int_equal(dry.n_tensors, wet.n_tensors);
    assert_true(dry.n_encoded == 192 && dry.target_bytes < dry.source_bytes);
}

/* ---- values and tensors that cannot be converted ---- */

static void check_refused(const edited_model *m,
                          sy_convert_format to,
                          sy_status expected,
                          const char *text) {
    char out[PATH_CHARS];
    in_scratch(out, "refused");
    edited_write(m);
    sy_convert_options o = wish(m->directory, out, to);
    check_error(convert(&o), expected, text);
    assert_false(exists(out));
    in_scratch(out, "refused.partial");
    close_source(&(layout){.seeded = true}, out);
}

static void a_value_that_is_no_number_is_named(void **state) {
    (void)state;
    static const uint16_t bad[] = {0x7fc0, 0x7f80, 0xff80}; /* NaN and both infinities */
    edited_model m;
    edited_open(&m, "tiny/mixtral");
    edited_tensor *t = edited_find(&m, "model.layers.1.block_sparse_moe.experts.2.w2.weight");
    int64_t k = t->shape[1];
    for (int to = SY_CONVERT_FP8; to < SY_CONVERT_FORMATS; to++) {
        char text[256];
        snprintf(text, sizeof text, "\"%s\", row 5, column 3", t->name);
        memcpy(t->data + 2 * (5 * k + 3), &bad[to % 3], 2);
        check_refused(&m, (sy_convert_format)to, SY_ERR_FORMAT, text);
    }
    edited_close(&m);
}

static void a_value_beyond_bf16_is_refused(void **state) {
    (void)state;
    edited_model m;
    edited_open(&m, "tiny/mixtral");
    edited_tensor *t = edited_find(&m, "model.layers.1.block_sparse_moe.experts.2.w2.weight");
    float huge = 3.4e38f;
    t->dtype = SY_F32;
    edited_resize(t);
    memcpy(t->data + 4, &huge, sizeof huge);
    check_refused(&m, SY_CONVERT_BF16, SY_ERR_FORMAT, "row 0, column 1");
    edited_close(&m);
}

static void tensors_that_do_not_fit_are_refused(void **state) {
    (void)state;
    edited_model m;
    edited_open(&m, "tiny/mixtral");
    edited_tensor *t = edited_find(&m, "model.layers.1.block_sparse_moe.experts.2.w2.weight");
    /* A second weight, and a tensor that this conversion does not know beside one. */
    static const char name[] = "model.layers.1.block_sparse_moe.experts.2.w2.weight_packed";
    edited_add(&m, name, SY_U8, 1, (int64_t[]){3});
    check_refused(&m, SY_CONVERT_MXFP4, SY_ERR_UNSUPPORTED, "is not part of a weight");
    edited_drop(&m, name);
    static const char extra[] = "model.layers.1.block_sparse_moe.experts.2.w2.weight_g_idx";
    edited_add(&m, extra, SY_I32, 1, (int64_t[]){3});
    check_refused(&m, SY_CONVERT_FP8, SY_ERR_UNSUPPORTED, extra);
    edited_drop(&m, extra);
    t = edited_find(&m, "model.layers.1.block_sparse_moe.experts.2.w2.weight");
    t->shape[1]--;
    edited_resize(t);
    check_refused(&m, SY_CONVERT_FP8, SY_ERR_FORMAT, "expected shape");
    edited_drop(&m, "model.layers.1.block_sparse_moe.experts.2.w2.weight");
    check_refused(&m, SY_CONVERT_FP8, SY_ERR_FORMAT, "is missing");
    edited_close(&m);
}

static void an_expert_that_is_there_twice_is_refused(void **state) {
    (void)state;
    static const char name[] = "model.layers.0.mlp.experts.2.up_proj.weight";
    edited_model m;
    edited_open(&m, "tiny/qwen3_moe_fused");
    edited_add(&m, name, SY_BF16, 1, (int64_t[]){3});
    check_refused(&m, SY_CONVERT_BF16, SY_ERR_FORMAT, "would be written twice");
    edited_close(&m);
}

/* A source in 4-bit integers, and scales of activations that belong to it. */
static void integers_become_plain_and_their_scales_vanish(void **state) {
    (void)state;
    static const char *const gone[] = {"weight_packed", "weight_shape", "weight_scale",
                                       "input_scale"};
    static const char module[] = "model.layers.1.block_sparse_moe.experts.2.w2";
    char name[160], out[PATH_CHARS];
    edited_model m;
    sy_checkpoint *c;
    edited_open(&m, "tiny/mixtral");
    snprintf(name, sizeof name, "%s.weight", module);
    int64_t n = edited_find(&m, name)->shape[0], k = edited_find(&m, name)->shape[1];
    int64_t words = (k + 7) / 8, groups = (k + 31) / 32;
    edited_drop(&m, name);
    snprintf(name, sizeof name, "%s.weight_packed", module);
    edited_tensor *t = edited_add(&m, name, SY_I32, 2, (int64_t[]){n, words});
    for (uint64_t i = 0; i < t->bytes; i++)
        t->data[i] = (char)(i * 37);
    char first_codes = t->data[1]; /* inputs 2 and 3 of output 0 */
    snprintf(name, sizeof name, "%s.weight_scale", module);
    t = edited_add(&m, name, SY_BF16, 2, (int64_t[]){n, groups});
    for (int64_t i = 0; i < n * groups; i++)
        memcpy(t->data + 2 * i, &(uint16_t){0x3f00}, 2); /* 0.5 */
    snprintf(name, sizeof name, "%s.weight_shape", module);
    t = edited_add(&m, name, SY_I64, 1, (int64_t[]){2});
    memcpy(t->data, ((int64_t[]){n, k}), 2 * sizeof(int64_t));
    snprintf(name, sizeof name, "%s.input_scale", module);
    edited_add(&m, name, SY_F32, 1, (int64_t[]){1});
    json_object_set_new(m.config, "quantization_config",
                        json_pack("{s:s, s:s, s:{s:{s:[s], s:{s:i, s:s, s:s, s:i, s:b}}}}",
                                  "quant_method", "compressed-tensors", "format",
                                  "pack-quantized", "config_groups", "g", "targets", "Linear",
                                  "weights", "num_bits", 4, "type", "int", "strategy", "group",
                                  "group_size", 32, "symmetric", 1));
    edited_write(&m);
    in_scratch(out, "out");
    sy_convert_options o = wish(m.directory, out, SY_CONVERT_BF16);
    MUST(convert(&o));
    MUST(sy_checkpoint_open(out, &c));
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) {
        snprintf(name, sizeof name, "%s.%s", module, gone[i]);
        assert_null(sy_checkpoint_find(c, name));
    }
    snprintf(name, sizeof name, "%s.weight", module);
    char *x = read_tensor(c, sy_checkpoint_find(c, name));
    assert_true(value_of(SY_BF16, x, 2) == 0.5 * ((first_codes & 15) - 8));
    assert_true(value_of(SY_BF16, x, 3) == 0.5 * ((first_codes >> 4 & 15) - 8));
    free(x);
    sy_checkpoint_close(c);
    edited_close(&m);
}

/* AWQ: rows of inputs, which are read as a whole. */
static void a_source_with_rows_of_inputs_is_turned(void **state) {
    (void)state;
    static const char module[] = "model.layers.1.mlp.experts.3.down_proj";
    enum { N = 160, K = 96, GROUP = 32 };
    static const struct {
        const char *part;
        int64_t rows, columns;
        uint32_t word;
    } tensors[] = {{"qweight", K, N / 8, 0x75316420}, /* output o has code o % 8 */
                   {"qzeros", K / GROUP, N / 8, 0x33333333}};
    char name[160], out[PATH_CHARS];
    edited_model m;
    sy_checkpoint *c;
    edited_open(&m, "demo");
    snprintf(name, sizeof name, "%s.weight", module);
    edited_drop(&m, name);
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.%s", module, tensors[i].part);
        edited_tensor *t =
            edited_add(&m, name, SY_I32, 2, (int64_t[]){tensors[i].rows, tensors[i].columns});
        for (uint64_t at = 0; at < t->bytes; at += 4)
            memcpy(t->data + at, &tensors[i].word, 4);
    }
    snprintf(name, sizeof name, "%s.scales", module);
    edited_tensor *scales = edited_add(&m, name, SY_F16, 2, (int64_t[]){K / GROUP, N});
    for (int g = 0; g < K / GROUP; g++)
        for (int o = 0; o < N; o++) /* 1, 2 and 4 */
            memcpy(scales->data + 2 * (g * N + o), &(uint16_t){(uint16_t)(0x3c00 + 0x400 * g)},
                   2);
    json_object_set_new(m.config, "quantization_config",
                        json_pack("{s:s, s:i, s:i, s:b, s:s}", "quant_method", "awq", "bits", 4,
                                  "group_size", GROUP, "zero_point", 1, "version", "gemm"));
    edited_write(&m);
    in_scratch(out, "out");
    sy_convert_options o = wish(m.directory, out, SY_CONVERT_BF16);
    MUST(convert(&o));
    MUST(sy_checkpoint_open(out, &c));
    snprintf(name, sizeof name, "%s.weight", module);
    char *x = read_tensor(c, sy_checkpoint_find(c, name));
    for (uint64_t i = 0; i < N * K; i++) {
        double expected = (double)((int)(i / K % 8) - 3) * (1 << i % K / GROUP);
        if (value_of(SY_BF16, x, i) != expected)
            fail_msg("value %d is %g, expected %g", (int)i, value_of(SY_BF16, x, i), expected);
    }
    free(x);
    sy_checkpoint_close(c);
    edited_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(every_layout_reads_back_as_what_it_was),
        TEST(stacked_experts_of_gpt_oss_become_blocks_and_back),
        TEST(each_format_has_the_published_tensors),
        TEST(q8_weights_are_within_half_a_step),
        TEST(gate_and_up_share_an_nvfp4_factor),
        TEST(what_is_in_the_format_already_is_kept_bit_by_bit),
        TEST(the_configuration_names_what_stayed_plain),
        TEST(the_number_of_threads_changes_nothing),
        TEST(a_dry_run_writes_nothing),
        TEST(a_value_that_is_no_number_is_named),
        TEST(a_value_beyond_bf16_is_refused),
        TEST(tensors_that_do_not_fit_are_refused),
        TEST(an_expert_that_is_there_twice_is_refused),
        TEST(integers_become_plain_and_their_scales_vanish),
        TEST(a_source_with_rows_of_inputs_is_turned),
    };
    sy_log_set_level(SY_LOG_ERROR); /* short groups and changed sources are told of */
    return cmocka_run_group_tests(tests, NULL, NULL);
}

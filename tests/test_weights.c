/* Loading: which rank reads which bytes, that all layouts give the same weights, and what is said
 * about checkpoints that do not fit their config. Ranks are simulated one after the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "runtime/weights.h"
#include "tests/checkpoint_fixture.h"

/* A model opened without comm: one backend, any number of simulated ranks. */
typedef struct opened {
    sy_pool *pool;
    sy_backend *be;
    sy_model_spec *spec;
    sy_checkpoint *checkpoint;
} opened;

static void open_model(opened *m, const char *path, sy_dtype act) {
    MUST(sy_pool_create(2, false, &m->pool));
    MUST(sy_cpu_open(act, m->pool, NULL, &m->be));
    MUST(sy_spec_load(path, &m->spec));
    MUST(sy_checkpoint_open(path, &m->checkpoint));
}

static void open_tiny(opened *m, const char *name, sy_dtype act) {
    char path[512];
    open_model(m, data_path(path, sizeof path, "tiny/%s", name), act);
}

static void close_model(opened *m) {
    sy_checkpoint_close(m->checkpoint);
    sy_spec_destroy(m->spec);
    m->be->ops->close(m->be);
    sy_pool_destroy(m->pool);
}

static sy_weights *
load(const opened *m, const sy_placement *p, int rank, sy_load_report *report) {
    sy_weights *w;
    uint64_t bytes;
    MUST(sy_weights_load(m->be, m->spec, p, rank, m->checkpoint, 3, NULL, NULL, report, &w));
    MUST(sy_weights_bytes(m->be, m->spec, p, rank, m->checkpoint, &bytes));
    assert_int_equal(bytes, w->bytes);
    return w;
}

static uint64_t routed_bytes_of_layer(const opened *m, int layer) {
    char prefix[64];
    uint64_t sum = 0;
    snprintf(prefix, sizeof prefix, "model.layers.%d.", layer);
    for (int i = 0; i < m->checkpoint->n_tensors; i++) {
        const sy_tensor_entry *t = &m->checkpoint->tensor[i];
        if (strncmp(t->name, prefix, strlen(prefix)) == 0 &&
            strstr(t->name, ".experts.") != NULL)
            sum += t->bytes;
    }
    return sum;
}

static void check_matrix(const opened *m, const sy_matrix *a, const sy_matrix *b) {
    assert_int_equal(a->dtype, b->dtype);
    assert_int_equal(m->be->ops->matrix_bytes(m->be, a), m->be->ops->matrix_bytes(m->be, b));
    assert_memory_equal(a->data, b->data, m->be->ops->matrix_bytes(m->be, a));
}

/* Every slot of a rank holds what the same expert has on a single rank. */
static void check_experts(const opened *m,
                          const sy_placement *p,
                          int rank,
                          const sy_weights *w,
                          const sy_weights *alone) {
    for (int l = 0; l < m->spec->n_layers; l++) {
        const sy_layer_weights *mine = &w->layer[l], *all = &alone->layer[l];
        if (m->spec->layer[l].ffn.kind != SY_FFN_MOE) continue;
        assert_int_equal(mine->n_slots, sy_placement_slots(&p->layer[l], rank));
        for (int s = 0; s < mine->n_slots; s++) {
            int e = p->layer[l].slot_expert[p->layer[l].slot_first[rank] + s];
            check_matrix(m, &mine->gate_up[s], &all->gate_up[e]);
            check_matrix(m, &mine->down[s], &all->down[e]);
        }
    }
}

/* Loads all ranks of a placement; checks each rank's routed bytes and returns their sum. */
static uint64_t load_ranks(const opened *m,
                           const sy_placement *p,
                           int R,
                           const sy_weights *alone,
                           uint64_t fixed_bytes) {
    uint64_t sum = 0;
    for (int r = 0; r < R; r++) {
        sy_load_report report;
        sy_weights *w = load(m, p, r, &report);
        uint64_t share = 0;
        for (int l = 0; l < m->spec->n_layers; l++)
            if (m->spec->layer[l].ffn.kind == SY_FFN_MOE)
                share += routed_bytes_of_layer(m, l) / (uint64_t)p->layer[l].n_experts *
                         (uint64_t)sy_placement_slots(&p->layer[l], r);
        assert_int_equal(report.routed_bytes, share);
        assert_int_equal(report.bytes_read - report.routed_bytes, fixed_bytes);
        check_experts(m, p, r, w, alone);
        sum += report.routed_bytes;
        sy_weights_destroy(w);
    }
    return sum;
}

static void each_routed_byte_is_read_by_exactly_one_rank(void **state) {
    (void)state;
    static const char *const models[] = {"mixtral", "qwen3_moe", "qwen3_moe_fused",
                                         "qwen3_moe_f32_sharded"};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        opened m;
        sy_load_report report;
        uint64_t routed = 0;
        open_tiny(&m, models[i], SY_BF16);
        for (int l = 0; l < m.spec->n_layers; l++)
            routed += routed_bytes_of_layer(&m, l);
        sy_placement *one = contiguous(m.spec, 1);
        sy_weights *alone = load(&m, one, 0, &report);
        assert_int_equal(report.routed_bytes, routed);
        assert_int_equal(report.bytes_read, m.checkpoint->tensor_bytes);
        for (int R = 2; R <= 8; R++) {
            sy_placement *p = contiguous(m.spec, R);
            assert_int_equal(load_ranks(&m, p, R, alone, report.bytes_read - routed), routed);
            sy_placement_destroy(p);
        }
        sy_weights_destroy(alone);
        sy_placement_destroy(one);
        close_model(&m);
    }
}

static void copies_are_read_once_more_each_and_no_other_byte(void **state) {
    (void)state;
    opened m;
    sy_load_report report;
    open_tiny(&m, "mixtral", SY_BF16); /* 5 experts */
    /* Rank 0: 4 1 0, rank 1: 2 3, rank 2: 0 4, out of order, with two copies a layer. */
    static const int32_t n_slots[] = {3, 2, 2}, slots[] = {4, 1, 0, 2, 3, 0, 4};
    const int32_t *all_n[2] = {n_slots, n_slots}, *all[2] = {slots, slots};
    sy_placement *one = contiguous(m.spec, 1), *p;
    MUST(sy_placement_from_slots(2, (int[]){5, 5}, 3, all_n, all, &p));
    sy_weights *alone = load(&m, one, 0, &report);
    assert_int_equal(load_ranks(&m, p, 3, alone, report.bytes_read - report.routed_bytes),
                     report.routed_bytes / 5 * 7);
    sy_weights_destroy(alone);
    sy_placement_destroy(one);
    sy_placement_destroy(p);
    close_model(&m);
}

static void all_layouts_give_the_same_memory_in_bf16(void **state) {
    (void)state;
    opened single, other;
    sy_load_report report;
    open_tiny(&single, "qwen3_moe", SY_BF16);
    for (int R = 1; R <= 3; R++) {
        sy_placement *p = contiguous(single.spec, R);
        for (int r = 0; r < R; r++) {
            sy_weights *a = load(&single, p, r, &report), *b;
            assert_int_equal(report.rounded, 0);
            open_tiny(&other, "qwen3_moe_fused", SY_BF16);
            b = load(&other, p, r, &report);
            assert_int_equal(a->bytes, b->bytes);
            assert_memory_equal(a->block, b->block, a->bytes);
            sy_weights_destroy(b);
            close_model(&other);
            /* Float32, rounded when packed; the values are exact in BF16. */
            open_tiny(&other, "qwen3_moe_f32_sharded", SY_BF16);
            b = load(&other, p, r, &report);
            assert_true(report.rounded > 0);
            assert_int_equal(a->bytes, b->bytes);
            assert_memory_equal(a->block, b->block, a->bytes);
            sy_weights_destroy(b);
            close_model(&other);
            sy_weights_destroy(a);
        }
        sy_placement_destroy(p);
    }
    close_model(&single);
}

/* All rows of the embedding as float32 [V, H]. */
static float *embed_all(const opened *m) {
    sy_placement *p = contiguous(m->spec, 1);
    sy_weights *w = load(m, p, 0, NULL);
    size_t V = (unsigned)m->spec->vocab, H = (unsigned)m->spec->hidden;
    int32_t *ids = calloc(V, sizeof *ids);
    float *x = calloc(V * H, sizeof *x);
    sy_limits limits = {.max_rows = (int64_t)V,
                        .max_pairs = (int64_t)V,
                        .max_context = 64,
                        .hidden = (int)H,
                        .heads = 6,
                        .kv_heads = 2,
                        .head_dim = 6,
                        .max_inter = 88,
                        .experts = 11,
                        .top_k = 3,
                        .vocab = (int)V};
    for (size_t i = 0; i < V; i++)
        ids[i] = (int32_t)i;
    MUST(m->be->ops->reserve(m->be, &limits));
    sy_batch batch = {.n_rows = m->spec->vocab, .ids = ids};
    MUST(m->be->ops->embed(m->be, &w->embed, &batch, x, NULL));
    free(ids);
    sy_weights_destroy(w);
    sy_placement_destroy(p);
    return x;
}

static void every_stored_format_widens_to_the_same_values_in_f32(void **state) {
    (void)state;
    static const char *const variants[] = {"qwen3_moe_fused", "qwen3_moe_f32_sharded",
                                           "qwen3_moe_f16"};
    opened m;
    open_tiny(&m, "qwen3_moe", SY_F32);
    size_t bytes = (size_t)m.spec->vocab * (size_t)m.spec->hidden * sizeof(float);
    float *expected = embed_all(&m);
    close_model(&m);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        open_tiny(&m, variants[i], SY_F32);
        float *got = embed_all(&m);
        assert_memory_equal(expected, got, bytes);
        free(got);
        close_model(&m);
    }
    free(expected);
}

enum { WIDE = 90000 }; /* rows of 24 bytes: more than one read of 2 MB */

/* One layer of mixtral with two experts that are WIDE, of made-up finite values. */
static void open_wide(edited_model *e) {
    static const char *const ffn[] = {"w1", "w3", "w2"};
    char name[160];
    edited_open(e, "tiny/mixtral");
    for (int i = e->n - 1; i >= 0; i--) {
        snprintf(name, sizeof name, "%s", e->tensor[i].name);
        bool other_layer = strstr(name, "layers.") != NULL && strstr(name, "layers.0.") == NULL;
        if (other_layer || strstr(name, "experts.") != NULL || strstr(name, "moe.gate") != NULL)
            edited_drop(e, name);
    }
    const char *const prefix = "model.layers.0.block_sparse_moe";
    snprintf(name, sizeof name, "%s.gate.weight", prefix);
    edited_add(e, name, SY_BF16, 2, (int64_t[]){2, 12});
    for (int i = 0; i < 6; i++) {
        bool down = i % 3 == 2;
        snprintf(name, sizeof name, "%s.experts.%d.%s.weight", prefix, i / 3, ffn[i % 3]);
        edited_tensor *t =
            edited_add(e, name, SY_BF16, 2, (int64_t[]){down ? 12 : WIDE, down ? WIDE : 12});
        uint16_t *value = (uint16_t *)(void *)t->data;
        for (uint64_t k = 0; k < t->bytes / 2; k++)
            value[k] = (uint16_t)(sy_hash_add((uint64_t)i, k) & 0xbfff); /* below 2 in size */
    }
    json_object_set_new(e->config, "num_hidden_layers", json_integer(1));
    json_object_set_new(e->config, "num_local_experts", json_integer(2));
    json_object_set_new(e->config, "intermediate_size", json_integer(WIDE));
    edited_write(e);
}

/* The matrix against the tensors of its parts, packed in one go. */
static void check_packed(const opened *m,
                         edited_model *e,
                         const sy_matrix *got,
                         const char *const names[2]) {
    sy_matrix whole = *got;
    uint64_t bytes = m->be->ops->matrix_bytes(m->be, got);
    MUST(sy_mem_alloc(&whole.data, bytes, "a test"));
    for (int part = 0; part < got->parts; part++)
        MUST(m->be->ops->pack(
            m->be, &whole, part, 0, got->n,
            &(sy_weight_source){.dtype = SY_BF16, .codes = edited_find(e, names[part])->data}));
    assert_memory_equal(whole.data, got->data, bytes);
    sy_mem_free(whole.data, bytes);
}

static void a_tensor_longer_than_one_read_is_read_once_and_packed_whole(void **state) {
    (void)state;
    edited_model e;
    opened m;
    sy_load_report report;
    open_wide(&e);
    open_model(&m, e.directory, SY_BF16);
    sy_placement *p = contiguous(m.spec, 2);
    sy_weights *w = load(&m, p, 1, &report);
    assert_int_equal(report.routed_bytes, 3 * WIDE * 12 * 2);
    check_packed(&m, &e, &w->layer[0].gate_up[0],
                 (const char *const[]){"model.layers.0.block_sparse_moe.experts.1.w1.weight",
                                       "model.layers.0.block_sparse_moe.experts.1.w3.weight"});
    check_packed(
        &m, &e, &w->layer[0].down[0],
        (const char *const[]){"model.layers.0.block_sparse_moe.experts.1.w2.weight", ""});
    sy_weights_destroy(w);
    sy_placement_destroy(p);
    close_model(&m);
    edited_close(&e);
}

/* ---- checkpoints that do not fit ---- */

/* Tries to load rank `rank` of R from the edited model; the text of a refusal. */
static sy_status try_load(const edited_model *e, int rank, int R) {
    opened m;
    sy_weights *w;
    uint64_t bytes;
    edited_write(e);
    open_model(&m, e->directory, SY_BF16);
    sy_placement *p = contiguous(m.spec, R);
    sy_status st =
        sy_weights_load(m.be, m.spec, p, rank, m.checkpoint, 2, NULL, NULL, NULL, &w);
    if (st != SY_OK) {
        sy_error_text text;
        assert_null(w);
        sy_status_save(&text);
        assert_int_equal(sy_weights_bytes(m.be, m.spec, p, rank, m.checkpoint, &bytes), st);
        assert_string_equal(text.text, sy_last_error());
    }
    sy_weights_destroy(w);
    sy_placement_destroy(p);
    close_model(&m);
    return st;
}

static void expect_text(const char *const *parts) {
    for (; *parts != NULL; parts++)
        if (strstr(sy_last_error(), *parts) == NULL)
            fail_msg("expected \"%s\" in \"%s\"", *parts, sy_last_error());
}
#define EXPECT_TEXT(...) expect_text((const char *const[]){__VA_ARGS__, NULL})

static void a_missing_tensor_is_named_on_every_rank(void **state) {
    (void)state;
    static const char *const names[] = {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.2.self_attn.k_norm.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.2.mlp.experts.10.down_proj.weight",
        "model.layers.0.mlp.experts.0.gate_proj.weight",
        "model.layers.2.post_attention_layernorm.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        edited_model e;
        edited_open(&e, "tiny/qwen3_moe");
        edited_drop(&e, names[i]);
        for (int r = 0; r < 3;
             r++) { /* the rank that would read it, and those that would not */
            assert_int_equal(try_load(&e, r, 3), SY_ERR_FORMAT);
            EXPECT_TEXT(e.directory, names[i], "is missing");
        }
        edited_close(&e);
    }
}

static void a_wrong_shape_is_told_with_the_expected_one(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int rank;
        int64_t shape[2];
        const char *expected, *found;
    } table[] = {
        {"model.embed_tokens.weight", 2, {150, 24}, "[151, 24]", "[150, 24]"},
        {"model.norm.weight", 2, {24, 1}, "[24]", "[24, 1]"},
        {"model.layers.0.self_attn.k_proj.weight", 2, {24, 12}, "[12, 24]", "[24, 12]"},
        {"model.layers.0.self_attn.q_norm.weight", 1, {36}, "[6]", "[36]"},
        {"model.layers.0.mlp.gate.weight", 2, {10, 24}, "[11, 24]", "[10, 24]"},
        {"model.layers.1.mlp.down_proj.weight", 2, {24, 10}, "[24, 88]", "[24, 10]"},
        {"model.layers.2.mlp.experts.7.up_proj.weight", 2, {20, 12}, "[10, 24]", "[20, 12]"},
        {"model.layers.2.mlp.experts.0.down_proj.weight", 1, {0}, "[24, 10]", "[0]"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        edited_model e;
        edited_open(&e, "tiny/qwen3_moe");
        edited_tensor *t = edited_find(&e, table[i].name);
        t->rank = table[i].rank;
        memcpy(t->shape, table[i].shape, sizeof table[i].shape);
        edited_resize(t);
        assert_int_equal(try_load(&e, 2, 3), SY_ERR_FORMAT);
        EXPECT_TEXT(e.directory, "model.safetensors", table[i].name, "expected shape",
                    table[i].expected, "found", table[i].found);
        edited_close(&e);
    }
}

static void a_wrong_shape_of_fused_experts_is_told(void **state) {
    (void)state;
    static const char name[] = "model.layers.0.mlp.experts.gate_up_proj";
    edited_model e;
    edited_open(&e, "tiny/qwen3_moe_fused");
    edited_tensor *t = edited_find(&e, name);
    t->shape[0] = 10;
    edited_resize(t);
    assert_int_equal(try_load(&e, 0, 2), SY_ERR_FORMAT);
    EXPECT_TEXT(name, "expected shape [11, 20, 24]", "found [10, 20, 24]");
    edited_close(&e);
}

static void a_dtype_that_no_kernel_reads_is_refused_by_name(void **state) {
    (void)state;
    static const sy_dtype dtypes[] = {SY_I16, SY_F8_E5M2, SY_F64, SY_I64, SY_BOOL};
    static const char *const names[] = {"model.norm.weight", "lm_head.weight",
                                        "model.layers.0.mlp.experts.3.down_proj.weight"};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
            edited_model e;
            edited_open(&e, "tiny/qwen3_moe");
            edited_tensor *t = edited_find(&e, names[k]);
            t->dtype = dtypes[i];
            edited_resize(t);
            assert_int_equal(try_load(&e, 1, 2), SY_ERR_UNSUPPORTED);
            EXPECT_TEXT(e.directory, names[k], sy_dtype_name(dtypes[i]), "expected F32, F16");
            edited_close(&e);
        }
    }
}

static void gate_and_up_of_different_dtypes_are_refused(void **state) {
    (void)state;
    edited_model e;
    edited_open(&e, "tiny/qwen3_moe");
    edited_tensor *t = edited_find(&e, "model.layers.0.mlp.experts.3.up_proj.weight");
    t->dtype = SY_F32;
    edited_resize(t);
    for (int r = 0; r < 2; r++) {
        assert_int_equal(try_load(&e, r, 2), SY_ERR_UNSUPPORTED);
        EXPECT_TEXT(e.directory, "model.safetensors", "experts.3.up_proj",
                    "experts.3.gate_proj.weight\" (BF16)", "found F32");
    }
    edited_close(&e);
}

static void a_tensor_that_the_config_does_not_explain_is_refused(void **state) {
    (void)state;
    static const char *const names[] = {
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.3.self_attn.q_proj.weight",
        "model.layers.0.mlp.experts.11.down_proj.weight",
        "model.layers.0.mlp.experts.down_proj",
        "inv_freq",
        "model.layers.1.mlp.gate.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        edited_model e;
        edited_open(&e, "tiny/qwen3_moe");
        edited_add(&e, names[i], SY_BF16, 1, (int64_t[]){3});
        assert_int_equal(try_load(&e, 0, 2), SY_ERR_UNSUPPORTED);
        EXPECT_TEXT(e.directory, "model.safetensors", names[i], "qwen3_moe", "1 such tensor");
        edited_add(&e, "zzz", SY_BF16, 1, (int64_t[]){3});
        assert_int_equal(try_load(&e, 0, 2), SY_ERR_UNSUPPORTED);
        EXPECT_TEXT("2 such tensors");
        edited_close(&e);
    }
}

static void a_layer_without_router_is_told(void **state) {
    (void)state;
    edited_model e;
    edited_open(&e, "tiny/mixtral");
    edited_drop(&e, "model.layers.1.block_sparse_moe.gate.weight");
    assert_int_equal(try_load(&e, 0, 1), SY_ERR_FORMAT);
    EXPECT_TEXT(e.directory, "\"model.layers.1.block_sparse_moe.gate.weight\" is missing");
    edited_close(&e);
}

static void a_file_that_shrinks_after_open_is_an_error_that_names_the_tensor(void **state) {
    (void)state;
    edited_model e;
    opened m;
    sy_weights *w;
    char path[128];
    edited_open(&e, "tiny/qwen3_moe");
    edited_write(&e);
    open_model(&m, e.directory, SY_BF16);
    edited_path(&e, "model.safetensors", path);
    /* Cut within the data of the last tensor in the file. */
    const edited_tensor *last = &e.tensor[e.n - 1];
    sy_placement *p = contiguous(m.spec, 1);
    assert_int_equal(truncate(path, (off_t)(m.checkpoint->file_bytes[0] - 1)), 0);
    assert_int_equal(sy_weights_load(m.be, m.spec, p, 0, m.checkpoint, 4, NULL, NULL, NULL, &w),
                     SY_ERR_IO);
    assert_null(w);
    EXPECT_TEXT("model.safetensors", last->name);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(sy_weights_load(m.be, m.spec, p, 0, m.checkpoint, 1, NULL, NULL, NULL, &w),
                     SY_ERR_IO);
    sy_placement_destroy(p);
    close_model(&m);
    edited_close(&e);
}

static void inv_freq_and_a_tied_lm_head_are_not_needed_and_accepted(void **state) {
    (void)state;
    edited_model e;
    edited_open(&e, "tiny/qwen3_moe");
    edited_add(&e, "model.layers.0.self_attn.rotary_emb.inv_freq", SY_F32, 1, (int64_t[]){3});
    edited_add(&e, "model.layers.2.self_attn.rotary_emb.inv_freq", SY_I8, 1, (int64_t[]){7});
    assert_int_equal(try_load(&e, 0, 2), SY_OK);
    /* Tied: lm_head may lie there, whatever it holds, or be absent; it is the embedding. */
    json_object_set_new(e.config, "tie_word_embeddings", json_true());
    assert_int_equal(try_load(&e, 0, 2), SY_OK);
    edited_drop(&e, "lm_head.weight");
    edited_write(&e);
    opened m;
    open_model(&m, e.directory, SY_BF16);
    sy_placement *p = contiguous(m.spec, 1);
    sy_weights *w = load(&m, p, 0, NULL);
    assert_ptr_equal(w->lm_head.data, w->embed.data);
    sy_weights_destroy(w);
    sy_placement_destroy(p);
    close_model(&m);
    edited_close(&e);
}

typedef struct progress {
    double last;
    uint64_t bytes;
    bool stop;
} progress;

static bool note_progress(void *context, double share, uint64_t bytes) {
    progress *p = context;
    assert_true(share >= p->last && share <= 1);
    p->last = share;
    p->bytes = bytes;
    return !p->stop;
}

static void progress_grows_to_one_and_may_end_the_loading(void **state) {
    (void)state;
    opened m;
    sy_weights *w;
    sy_load_report report;
    progress p = {0};
    open_tiny(&m, "mixtral", SY_F32);
    sy_placement *one = contiguous(m.spec, 1);
    MUST(
        sy_weights_load(m.be, m.spec, one, 0, m.checkpoint, 2, note_progress, &p, &report, &w));
    assert_true(p.last == 1);
    assert_int_equal(p.bytes, report.bytes_read);
    sy_weights_destroy(w);
    p = (progress){.stop = true};
    assert_int_equal(
        sy_weights_load(m.be, m.spec, one, 0, m.checkpoint, 2, note_progress, &p, &report, &w),
        SY_ERR_INTERRUPTED);
    assert_null(w);
    assert_int_equal(sy_weights_dummy(m.be, m.spec, one, 0, 1, 2, note_progress, &p, &w),
                     SY_ERR_INTERRUPTED);
    assert_null(w);
    sy_placement_destroy(one);
    close_model(&m);
}

static void dummy_weights_of_an_expert_do_not_depend_on_rank_or_makers(void **state) {
    (void)state;
    opened m;
    sy_weights *alone, *w, *other;
    open_tiny(&m, "qwen3_moe", SY_BF16);
    sy_placement *one = contiguous(m.spec, 1);
    MUST(sy_weights_dummy(m.be, m.spec, one, 0, 5, 1, NULL, NULL, &alone));
    for (int R = 2; R <= 4; R++) {
        sy_placement *p = contiguous(m.spec, R);
        for (int r = 0; r < R; r++) {
            MUST(sy_weights_dummy(m.be, m.spec, p, r, 5, 3, NULL, NULL, &w));
            check_experts(&m, p, r, w, alone);
            check_matrix(&m, &w->embed, &alone->embed);
            sy_weights_destroy(w);
        }
        sy_placement_destroy(p);
    }
    MUST(sy_weights_dummy(m.be, m.spec, one, 0, 6, 1, NULL, NULL, &other));
    assert_memory_not_equal(alone->embed.data, other->embed.data, 1000);
    assert_memory_not_equal(alone->layer[0].gate_up[0].data, alone->layer[0].gate_up[1].data,
                            100);
    sy_weights_destroy(other);
    sy_weights_destroy(alone);
    sy_placement_destroy(one);
    close_model(&m);
}

/* Made-up weights of the formats that checkpoints of integers announce have variance 1 / k, too. */
static void dummy_weights_of_integers_have_the_size_of_plain_ones(void **state) {
    (void)state;
    static const struct {
        const char *model;
        sy_dtype codes;
        int group;
    } cases[] = {{"quantised_q8", SY_I8, 32},
                 {"quantised_int8", SY_I8, 0},
                 {"quantised_int4", SY_U4, 32}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        opened m;
        sy_weights *w;
        double sum = 0, n = 0;
        open_tiny(&m, cases[i].model, SY_BF16);
        sy_placement *one = contiguous(m.spec, 1);
        MUST(sy_weights_dummy(m.be, m.spec, one, 0, 5, 2, NULL, NULL, &w));
        const sy_layer_weights *layer = &w->layer[1];
        for (int s = 0; s < layer->n_slots; s++) {
            const sy_matrix *down = &layer->down[s];
            float row[64];
            assert_int_equal(down->dtype, cases[i].codes);
            assert_int_equal(down->quant.group, cases[i].group);
            assert_true(down->k <= 64);
            for (int32_t o = 0; o < down->n; o++) {
                const sy_batch batch = {.n_rows = 1, .ids = &o};
                MUST(m.be->ops->embed(m.be, down, &batch, row, NULL));
                for (int64_t k = 0; k < down->k; k++, n++)
                    sum += (double)row[k] * (double)row[k] * (double)down->k;
            }
        }
        if (!(sum / n > 0.9 && sum / n < 1.1))
            fail_msg("%s: a variance of %g of what it should be", cases[i].model, sum / n);
        sy_weights_destroy(w);
        sy_placement_destroy(one);
        close_model(&m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_routed_byte_is_read_by_exactly_one_rank),
        cmocka_unit_test(copies_are_read_once_more_each_and_no_other_byte),
        cmocka_unit_test(all_layouts_give_the_same_memory_in_bf16),
        cmocka_unit_test(every_stored_format_widens_to_the_same_values_in_f32),
        cmocka_unit_test(a_tensor_longer_than_one_read_is_read_once_and_packed_whole),
        cmocka_unit_test(a_missing_tensor_is_named_on_every_rank),
        cmocka_unit_test(a_wrong_shape_is_told_with_the_expected_one),
        cmocka_unit_test(a_wrong_shape_of_fused_experts_is_told),
        cmocka_unit_test(a_dtype_that_no_kernel_reads_is_refused_by_name),
        cmocka_unit_test(gate_and_up_of_different_dtypes_are_refused),
        cmocka_unit_test(a_tensor_that_the_config_does_not_explain_is_refused),
        cmocka_unit_test(a_layer_without_router_is_told),
        cmocka_unit_test(a_file_that_shrinks_after_open_is_an_error_that_names_the_tensor),
        cmocka_unit_test(inv_freq_and_a_tied_lm_head_are_not_needed_and_accepted),
        cmocka_unit_test(progress_grows_to_one_and_may_end_the_loading),
        cmocka_unit_test(dummy_weights_of_an_expert_do_not_depend_on_rank_or_makers),
        cmocka_unit_test(dummy_weights_of_integers_have_the_size_of_plain_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

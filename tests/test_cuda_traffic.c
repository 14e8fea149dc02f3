/* What the kernels ask of memory, as the emulation's access checker counts it: every weight once,
 * whole sectors, no bank twice, no races. Prints a table of each step's kernels.
 * labels: cuda-check
 * timeout: 300 */
#ifdef SY_CUDA_EMULATED
#include "tests/cuda_traffic_fixture.h"
#include "tests/format_fixture.h"

enum { MOST_HEADS = 128 };

/* ---- the steps ---- */

static sy_device_round round_of(const layer *l) {
    return (sy_device_round){.placement = &l->placement,
                             .capacity = l->n_rows,
                             .segments = 1,
                             .top_k = l->of->top_k,
                             .hidden = l->of->hidden,
                             .x = l->xn,
                             .expert = l->expert,
                             .weight = l->weight,
                             .first = l->first,
                             .active = l->active,
                             .row = l->row,
                             .pair = l->pair,
                             .y = l->y,
                             .returned = l->returned,
                             .received = l->returned,
                             .shared = l->shared,
                             .residual = l->x};
}

static sy_status run_embed(layer *l) {
    return cuda_be->ops->embed(cuda_be, &l->table, &l->batch, l->x, NULL);
}
static sy_status run_attn_in(layer *l) {
    return cuda_be->ops->attn_in(cuda_be, &l->spec, &l->w, &l->rope, &l->batch, l->x, l->q,
                                 &l->kv, NULL);
}
static sy_status run_attend(layer *l) {
    return cuda_be->ops->attend(cuda_be, &l->spec, &l->batch, l->q, &l->kv, NULL, l->o, NULL);
}
static sy_status run_attn_out(layer *l) {
    return cuda_be->ops->attn_out(cuda_be, &l->spec, &l->w, l->n_rows, l->o, l->x, NULL);
}
static sy_status run_route(layer *l) {
    return cuda_be->ops->route(cuda_be, &l->spec, &l->w, l->n_rows, l->x, l->xn, NULL,
                               l->expert, l->weight, NULL);
}
static sy_status run_plan(layer *l) {
    sy_device_round r = round_of(l);
    return cuda_be->ops->device->plan(cuda_be, &r, NULL);
}
static sy_status run_experts(layer *l, bool up) {
    sy_device_rows device = {l->first, l->active, l->row};
    sy_expert_rows rows = {l->of->experts, (int64_t)l->n_rows * l->of->top_k, NULL,
                           up ? l->xn : NULL, &device};
    if (up) return cuda_be->ops->experts_up(cuda_be, &l->spec, &l->w, &rows, l->h, NULL);
    return cuda_be->ops->experts_down(cuda_be, &l->spec, &l->w, &rows, l->h, l->y, NULL);
}
static sy_status run_experts_up(layer *l) {
    return run_experts(l, true);
}
static sy_status run_experts_down(layer *l) {
    return run_experts(l, false);
}
static sy_status run_combine_alone(layer *l) {
    sy_device_round r = round_of(l);
    return cuda_be->ops->device->combine_alone(cuda_be, &r, NULL);
}
static sy_status run_local_sums(layer *l) {
    sy_device_round r = round_of(l);
    return cuda_be->ops->device->local_sums(cuda_be, &r, NULL);
}
static sy_status run_home_sums(layer *l) {
    sy_device_round r = round_of(l);
    return cuda_be->ops->device->home_sums(cuda_be, &r, NULL);
}
static sy_status run_ffn_in(layer *l) {
    return cuda_be->ops->ffn_in(cuda_be, &l->spec, &l->w, l->n_rows, l->x, l->xn, NULL);
}
static sy_status run_dense_ffn(layer *l) {
    return cuda_be->ops->dense_ffn(cuda_be, &l->spec, &l->w, l->n_rows, l->xn, l->h, l->shared,
                                   NULL);
}
static sy_status run_add(layer *l) {
    return cuda_be->ops->add(cuda_be, l->n_rows, l->of->hidden, l->shared, l->x, NULL);
}
static sy_status run_head(layer *l) {
    return cuda_be->ops->head(cuda_be, l->w.ffn_norm, l->spec.norm_eps, &l->lm_head, l->n_rows,
                              l->output_row, l->x, l->logits, NULL);
}
/* Rows of all kinds: greedy, plain, and with each filter. */
static sy_status run_sample(layer *l) {
    sy_sample_params p[MOST_ROWS];
    int32_t token[MOST_ROWS];
    for (int i = 0; i < l->n_rows; i++) {
        p[i] = (sy_sample_params){.temperature = i % 4 == 0 ? 0 : 0.8f, .top_p = 1, .seed = 5};
        if (i % 4 == 1 || l->n_rows == 1) p[i].temperature = 0.8f, p[i].top_k = 20;
        if (i % 4 == 2) p[i].top_p = 0.7f;
        if (i % 4 == 3) p[i].min_p = 0.05f;
        p[i].position = (uint64_t)i;
    }
    return cuda_be->ops->sample(cuda_be, l->n_rows, l->of->vocab, l->of->vocab, l->logits, p,
                                token, NULL);
}

static uint64_t bytes_of(const sy_matrix *m) {
    return cuda_be->ops->matrix_bytes(cuda_be, m);
}

static uint64_t no_weights(const layer *l) {
    (void)l;
    return 0;
}
static uint64_t table_rows(const layer *l) {
    return (uint64_t)l->n_rows * (uint64_t)l->of->hidden * 2;
}
static uint64_t attn_in_weights(const layer *l) {
    return bytes_of(&l->w.q) + bytes_of(&l->w.k) + bytes_of(&l->w.v);
}
static uint64_t attn_out_weights(const layer *l) {
    return bytes_of(&l->w.o);
}
static uint64_t router_weights(const layer *l) {
    return bytes_of(&l->w.router);
}
static uint64_t of_active(const layer *l, const sy_matrix *of_expert) {
    int32_t n;
    MUST(cuda_be->ops->read(cuda_be, &n, l->active, sizeof n, NULL));
    assert_in_range(n, l->of->top_k, l->of->experts);
    return (uint64_t)n * bytes_of(of_expert);
}
static uint64_t up_weights(const layer *l) {
    return of_active(l, l->gate_up);
}
static uint64_t down_weights(const layer *l) {
    return of_active(l, l->down);
}
static uint64_t ffn_weights(const layer *l) {
    return bytes_of(&l->w.ffn_gate_up) + bytes_of(&l->w.ffn_down);
}
static uint64_t head_weights(const layer *l) {
    return bytes_of(&l->lm_head);
}

/* OTHER: not in a decode step of a model without dense FFN, or not on one rank. */
typedef enum place { ENDS, LAYER, OTHER } place;
static const struct step {
    const char *name;
    sy_status (*run)(layer *l);
    uint64_t (*weights)(const layer *l);
    place place;
} steps[] = {{"embed", run_embed, table_rows, ENDS},
             {"attn_in", run_attn_in, attn_in_weights, LAYER},
             {"attend", run_attend, no_weights, LAYER},
             {"attn_out", run_attn_out, attn_out_weights, LAYER},
             {"route", run_route, router_weights, LAYER},
             {"plan", run_plan, no_weights, LAYER},
             {"experts_up", run_experts_up, up_weights, LAYER},
             {"experts_down", run_experts_down, down_weights, LAYER},
             {"combine_alone", run_combine_alone, no_weights, LAYER},
             {"local_sums", run_local_sums, no_weights, OTHER},
             {"home_sums", run_home_sums, no_weights, OTHER},
             {"ffn_in", run_ffn_in, no_weights, OTHER},
             {"dense_ffn", run_dense_ffn, ffn_weights, OTHER},
             {"add", run_add, no_weights, OTHER},
             {"head", run_head, head_weights, ENDS},
             {"sample", run_sample, no_weights, ENDS}};

static void
expect_bytes(const char *step, const char *what, uint64_t n, uint64_t low, uint64_t high) {
    if (n < low || n > high)
        fail_msg("%s: %s: %s: %llu bytes, expected %llu to %llu", where, step, what,
                 (unsigned long long)n, (unsigned long long)low, (unsigned long long)high);
}

/* Up to 32 rows, and 32 of each expert, read every weight and every key and value once; more rows
 * read the weights again for each 32. */
static void check_bytes(const layer *l, const struct step *s, const total *t, bool decode) {
    const sy_attn_spec *a = &l->spec.attn;
    uint64_t weights = s->weights(l), again = (uint64_t)sy_ceil_div(l->n_rows, 32);
    uint64_t of_token = (uint64_t)a->kv_heads * (uint64_t)a->head_dim * 4;
    uint64_t pages = of_token * (uint64_t)l->of->context * (uint64_t)l->n_spans;
    expect_bytes(s->name, "weights read", t->weights, weights,
                 s->run == run_embed ? weights : weights * again);
    bool attends = s->run == run_attend, appends = s->run == run_attn_in;
    uint64_t tiles = (uint64_t)l->n_rows * (uint64_t)(a->heads / a->kv_heads);
    expect_bytes(s->name, "keys and values read", t->pages, attends ? pages : 0,
                 !attends ? 0
                 : decode ? pages
                          : pages * (uint64_t)sy_ceil_div((int64_t)tiles, 16));
    uint64_t written = appends ? of_token * (uint64_t)l->n_rows : 0;
    expect_bytes(s->name, "keys and values written", t->pages_written, written, written);
}

/* A decode step is bound by the memory of weights, keys and values if the rest is little, and by
 * launches if a layer has many of them. */
static void check_budget(const total *layer_total, bool wide) {
    uint64_t needed = layer_total->weights + layer_total->pages;
    assert_in_range(layer_total->launches, 1, 12);
    if (wide)
        expect_bytes("a layer", "all that is read", layer_total->read, needed,
                     needed + needed * 35 / 100);
}

static void check_steps(const shape *s, int n_rows, bool decode) {
    layer l;
    total of_layer = {0}, of_all = {0};
    make_layer(&l, s, n_rows, decode);
    print_head();
    begin_step(&l.batch, n_rows, n_rows, l.output_row);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        begin_count(&l);
        MUST(steps[i].run(&l));
        total t = end_count(steps[i].name);
        check_bytes(&l, &steps[i], &t, decode);
        if (steps[i].place == LAYER) add_total(&of_layer, &t);
        if (steps[i].place != OTHER) add_total(&of_all, &t);
    }
    print_total("attn_in to combine_alone", "", &of_layer);
    printf(" | | | |\n");
    print_total("the same with embed, head and sample", "", &of_all);
    printf(" | | | |\n");
    if (decode) check_budget(&of_layer, s->hidden >= 2048);
    end_case();
}

static const shape narrow = {"narrow", 256, 128, 8, 2, 64, 16, 4, 1024, 192};
static const shape wide = {"Qwen3-30B-A3B's widths, 16 experts, 4096 tokens known",
                           2048,
                           768,
                           32,
                           4,
                           128,
                           16,
                           8,
                           4096,
                           512};

static void decode_reads_each_weight_once_in_whole_sectors(void **state) {
    (void)state;
    random_state = 1;
    check_steps(&narrow, 1, true);
    check_steps(&narrow, 8, true);
    check_steps(&narrow, 24, true);
    check_steps(&wide, 1, true);
    check_steps(&wide, 8, true);
}

static void prefill_reads_whole_sectors(void **state) {
    (void)state;
    random_state = 2;
    check_steps(&narrow, 64, false);
    check_steps(&narrow, MOST_ROWS, false);
}

/* ---- latent attention ---- */

/* Decode rows, each of a sequence of its own, or the last rows of one. */
typedef struct latent_layer {
    layer l;
    sy_matrix k_up[MOST_HEADS], v_up[MOST_HEADS];
    int64_t attn_in_weights, attn_out_weights;
} latent_layer;

static void lay_out_latent(latent_layer *t) {
    layer *l = &t->l;
    const sy_attn_spec *a = &l->spec.attn;
    const sy_mla_spec *m = &a->mla;
    l->weight_bytes = 0;
    l->w.q_a = matrix_of(l, 1, m->q_rank, l->of->hidden);
    l->w.kv_a = matrix_of(l, 1, (int64_t)m->kv_rank + m->rope, l->of->hidden);
    l->w.q = matrix_of(l, 1, (int64_t)a->heads * a->head_dim, m->q_rank);
    for (int h = 0; h < a->heads; h++)
        t->k_up[h] = matrix_of(l, 1, m->kv_rank, m->nope);
    t->attn_in_weights = l->weight_bytes;
    for (int h = 0; h < a->heads; h++)
        t->v_up[h] = matrix_of(l, 1, m->value, m->kv_rank);
    l->w.o = matrix_of(l, 1, l->of->hidden, (int64_t)a->heads * m->value);
    t->attn_out_weights = l->weight_bytes - t->attn_in_weights;
}

static void make_latent(latent_layer *t, const shape *s, int n_rows, bool decode) {
    layer *l = &t->l;
    *l = (layer){.of = s};
    snprintf(where, sizeof where, "%s, %d rows", s->name, n_rows);
    l->spec = (sy_layer_spec){.attn = {.kind = SY_ATTN_MLA,
                                       .heads = s->heads,
                                       .kv_heads = 1,
                                       .head_dim = s->head_dim,
                                       .mla = {256, 512, 128, 64, 128, 1e-6f},
                                       .rope.dim = 64,
                                       .rope.layout = SY_ROPE_INTERLEAVED,
                                       .softmax_scale = 0.1f},
                              .norm_eps = 1e-6f};
    MUST(cuda_be->ops->reserve(cuda_be, &(sy_limits){.max_rows = MOST_ROWS,
                                                     .max_pairs = 1,
                                                     .max_context = s->context,
                                                     .hidden = s->hidden,
                                                     .heads = s->heads,
                                                     .kv_heads = 1,
                                                     .head_dim = s->head_dim,
                                                     .mla = l->spec.attn.mla,
                                                     .max_inter = 1,
                                                     .experts = 1,
                                                     .top_k = 1,
                                                     .vocab = s->vocab}));
    lay_out_latent(t);
    l->weights = device_copy(random_bf16(l->weight_bytes / 2, 0.1f), l->weight_bytes);
    lay_out_latent(t);
    l->w.k_up = t->k_up;
    l->w.v_up = t->v_up;
    l->w.attn_norm = room_of_floats(s->hidden, 1, 0.5f);
    l->w.q_a_norm = room_of_floats(256, 1, 0.5f);
    l->w.kv_a_norm = room_of_floats(512, 1, 0.5f);
    make_batch(l, n_rows, decode);
    l->x = room((int64_t)n_rows * s->hidden * 4);
    l->q = room(n_rows * sy_attn_q_width(&l->spec.attn) * 2);
    l->o = room(n_rows * sy_attn_o_width(&l->spec.attn) * 2);
}

/* Up to 32 rows read every weight once; 16 heads read each of their token's keys once, and no
 * values, for these are the keys. */
static void check_latent(const shape *s, int n_rows, bool decode) {
    latent_layer t;
    make_latent(&t, s, n_rows, decode);
    layer *l = &t.l;
    uint64_t token = (uint64_t)sy_attn_cache_width(&l->spec.attn) * 2, seen = 0;
    for (int i = 0; i < n_rows; i++)
        seen += (uint64_t)(s->context - (decode ? 0 : n_rows - 1 - i));
    uint64_t again = (uint64_t)sy_ceil_div(n_rows, 32);
    print_head();
    begin_step(&l->batch, n_rows, 0, NULL);
    begin_count(l);
    MUST(run_attn_in(l));
    total in = end_count("latent in");
    begin_count(l);
    MUST(run_attend(l));
    total core = end_count("latent core");
    begin_count(l);
    MUST(run_attn_out(l));
    total out = end_count("latent out");
    uint64_t tiles = (uint64_t)s->heads / 16;
    expect_bytes("latent in", "weights read", in.weights, (uint64_t)t.attn_in_weights,
                 (uint64_t)t.attn_in_weights * again);
    expect_bytes("latent in", "latents written", in.pages_written, token * (uint64_t)n_rows,
                 token * (uint64_t)n_rows);
    expect_bytes("latent core", "latents read", core.pages, seen * token * tiles,
                 seen * token * tiles);
    expect_bytes("latent out", "weights read", out.weights, (uint64_t)t.attn_out_weights,
                 (uint64_t)t.attn_out_weights * again);
    end_case();
}

static void latent_attention_reads_a_latent_once_for_16_heads(void **state) {
    (void)state;
    static const shape v2_lite = {
        "DeepSeek-V2-Lite's latents", 256, 1, 16, 1, 192, 1, 1, 64, 600};
    static const shape v3 = {"DeepSeek-V3's latents", 256, 1, 128, 1, 192, 1, 1, 64, 300};
    random_state = 3;
    check_latent(&v2_lite, 1, true);
    check_latent(&v2_lite, 8, true);
    check_latent(&v2_lite, MOST_ROWS, false);
    check_latent(&v3, 1, true);
}

/* ---- quantised weights ---- */

/* Codes, scales and zero points once; of blocks of outputs each of the block's tiles reads the
 * scales for itself, and each tile its factors. */
static void check_quantised(const format_case *f, int n_rows) {
    enum { HIDDEN = 512, HEADS = 16, HEAD_DIM = 128, K = HEADS * HEAD_DIM };
    layer l = {.n_rows = n_rows};
    l.spec.attn = (sy_attn_spec){.heads = HEADS, .kv_heads = HEADS, .head_dim = HEAD_DIM};
    l.w.o = (sy_matrix){.dtype = f->dtype, .parts = 1, .n = HIDDEN, .k = K, .quant = f->quant};
    l.weight_bytes = (int64_t)bytes_of(&l.w.o);
    l.weights = l.w.o.data = room(l.weight_bytes);
    l.o = room(n_rows * (int64_t)K * 2);
    l.x = room(n_rows * (int64_t)HIDDEN * 4);
    snprintf(where, sizeof where, "%s, %d x %d, %d rows", f->name, (int)HIDDEN, (int)K, n_rows);
    print_head();
    begin_count(&l);
    MUST(run_attn_out(&l));
    total t = end_count("attn_out");
    uint64_t again = (uint64_t)sy_ceil_div(n_rows, 32), all = (uint64_t)l.weight_bytes;
    expect_bytes("attn_out", "weights read", t.weights, all - 128,
                 n_rows <= 32 ? all + all / 100 : again * (all + all / 16));
    end_case();
}

static void quantised_weights_are_read_once(void **state) {
    (void)state;
    static const int rows[] = {1, 8, 32, 64};
    for (int f = 0; f < N_FORMATS; f++)
        for (int i = 0; i < 4; i++)
            check_quantised(&formats[f], rows[i]);
}

/* ---- steps that a decode step does not have ---- */

static void check_pack(int parts) {
    enum { N = 128, K = 256 };
    layer l = {.n_rows = N};
    sy_matrix m = {.dtype = SY_BF16, .parts = parts, .n = N, .k = K};
    uint16_t *source = random_bf16(N * K, 1);
    snprintf(where, sizeof where, "a matrix of %d parts, %d x %d", parts, N, K);
    m.data = room((int64_t)bytes_of(&m));
    print_head();
    for (int part = 0; part < parts; part++) {
        begin_count(&l);
        MUST(cuda_be->ops->pack(cuda_be, &m, part, 0, N,
                                &(sy_weight_source){.dtype = SY_BF16, .codes = source}));
        total t = end_count("pack");
        expect_bytes("pack", "read", t.read, N * K * 2, N * K * 2);
        expect_bytes("pack", "written", t.written, N * K * 2, N * K * 2);
    }
    end_case();
}

static void packing_touches_each_byte_once(void **state) {
    (void)state;
    check_pack(1);
    check_pack(2);
}

static void check_rows_moved(int n_rows, int width) {
    layer l = {.n_rows = n_rows};
    int64_t bytes = (int64_t)n_rows * width * 4;
    sy_row_ref *ref = host_block(n_rows * (int64_t)sizeof *ref);
    int64_t *first = host_block((n_rows + 1) * 8);
    sy_tree_leaf *leaf = host_block(2 * n_rows * (int64_t)sizeof *leaf);
    const void *from = room(bytes);
    const float *chunk = from;
    void *to = room(bytes);
    snprintf(where, sizeof where, "%d rows of %d floats", n_rows, width);
    for (int i = 0; i < n_rows; i++) {
        ref[i] = (sy_row_ref){0, n_rows - 1 - i};
        leaf[2 * i] = (sy_tree_leaf){{0, i}, 1, 0.5f};
        leaf[2 * i + 1] = (sy_tree_leaf){{0, n_rows - 1 - i}, 5, 0.25f};
        first[i] = 2 * i;
    }
    first[n_rows] = 2 * n_rows;
    print_head();
    begin_count(&l);
    MUST(cuda_be->ops->pack_rows(cuda_be, n_rows, width * 4, ref, &from, to, NULL));
    total t = end_count("pack_rows");
    expect_bytes("pack_rows", "written", t.written, (uint64_t)bytes, (uint64_t)bytes);
    sy_tree_job job = {n_rows, width, 8, first, leaf, &chunk, true, NULL, to, false};
    begin_count(&l);
    MUST(cuda_be->ops->unpack(cuda_be, &job, NULL));
    t = end_count("unpack");
    expect_bytes("unpack", "written", t.written, (uint64_t)bytes, (uint64_t)bytes);
    end_case();
}

static void rows_move_in_whole_sectors(void **state) {
    (void)state;
    check_rows_moved(1, 2048);
    check_rows_moved(13, 256);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_reads_each_weight_once_in_whole_sectors),
        cmocka_unit_test(prefill_reads_whole_sectors),
        cmocka_unit_test(latent_attention_reads_a_latent_once_for_16_heads),
        cmocka_unit_test(quantised_weights_are_read_once),
        cmocka_unit_test(packing_touches_each_byte_once),
        cmocka_unit_test(rows_move_in_whole_sectors)};
    if (!emu_checks_accesses()) {
        printf("skipped: the access checker is not linked (SY_EMULATION_CHECK)\n");
        return 77;
    }
    sy_status st = open_cuda(&cuda_be);
    if (st != SY_OK) {
        printf("%s\n", sy_last_error());
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    end_case(); /* what a test that failed left behind */
    cuda_be->ops->close(cuda_be);
    return failed != 0;
}

#else
#include <stdio.h>

int main(void) {
    printf("skipped: only the emulated device counts accesses (SY_CUDA=EMULATED)\n");
    return 77;
}

#endif

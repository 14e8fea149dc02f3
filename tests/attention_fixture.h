/* A layer's attention with random weights, and runs of it over some sequences, cut into steps in
 * any way. What a run must equal is in attention_reference.h. */
#ifndef SY_TESTS_ATTENTION_FIXTURE_H
#define SY_TESTS_ATTENTION_FIXTURE_H

#include <math.h>

#include "kernels/cpu/kv_page.h"
#include "tests/matrix_fixture.h"

/* A value of the act type, uniform in [-range, range). */
static inline float uniform(const sy_backend *be, float range) {
    float f = ((float)(random64() >> 40) * 0x1p-23f - 1.0f) * range;
    return be->act == SY_F32 ? f : sy_f32_from_bf16(sy_bf16_from_f32(f));
}

static inline void store(const sy_backend *be, void *to, int64_t i, float f) {
    if (be->act == SY_F32)
        ((float *)to)[i] = f;
    else
        ((uint16_t *)to)[i] = sy_bf16_from_f32(f);
}

/* Where element d of token `slot` lies in the keys (or values) of a kv head, from the header's
 * description of a page. */
static inline int64_t key_index(const sy_backend *be, int d, int slot) {
    return be->act == SY_F32 ? d * 64 + slot : (d / 2 * 64 + slot) * 2 + d % 2;
}

static inline int64_t value_index(const sy_backend *be, int d, int slot) {
    int64_t panel = (int64_t)(d / 64) * 64 * 64;
    return be->act == SY_F32 ? panel + slot * 64 + d % 64
                             : panel + (slot / 2 * 64 + d % 64) * 2 + slot % 2;
}

static inline int64_t padded_head(int d) { /* elements of one kv head in a page */
    return 64 * (int64_t)d + 64 * sy_round_up(d, 64);
}

/* The pages of a sequence, not in the order of their positions. */
static inline int32_t *make_page_ids(int n, int first_id) {
    int32_t *id = malloc((size_t)n * sizeof *id);
    for (int i = 0; i < n; i++)
        id[i] = first_id + (n - 1 - i);
    return id;
}

static inline sy_limits limits_of(const sy_attn_spec *attn, int hidden, int rows, int context) {
    return (sy_limits){.max_rows = rows,
                       .max_pairs = 1,
                       .max_context = context,
                       .hidden = hidden,
                       .heads = attn->heads,
                       .kv_heads = attn->kv_heads,
                       .head_dim = attn->head_dim,
                       .max_inter = 1,
                       .experts = 1,
                       .top_k = 1,
                       .vocab = 1,
                       .mla = attn->mla};
}

static inline sy_backend *open_reserved(sy_dtype act,
                                        int n_threads,
                                        const char *isa,
                                        const sy_attn_spec *attn,
                                        int hidden,
                                        int rows,
                                        int context) {
    sy_backend *be = open_cpu(act, n_threads, isa);
    if (be == NULL) return NULL;
    sy_limits l = limits_of(attn, hidden, rows, context);
    assert_int_equal(be->ops->reserve(be, &l), SY_OK);
    return be;
}

/* Everything that the three steps of attention need, with random weights. */
typedef struct layer {
    sy_layer_spec spec;
    sy_layer_weights w;
    test_matrix q, o;
    test_matrix k, v;         /* grouped queries */
    test_matrix q_a, kv_a;    /* latent attention */
    test_matrix *k_up, *v_up; /* [A] each */
    sy_matrix *heads;         /* [2 A], what w.k_up and w.v_up point to */
    float *vectors;           /* one block of all norms, biases and sinks */
    int64_t n_vectors;
    sy_rope_table *rope;
    int hidden;
} layer;

/* n values of the block, uniform in [low, high). */
static inline const float *draw_vector(layer *l, int64_t n, float low, float high) {
    float *v = l->vectors + l->n_vectors;
    for (int64_t i = 0; i < n; i++)
        v[i] = low + (float)(random64() >> 40) * 0x1p-24f * (high - low);
    l->n_vectors += n;
    return v;
}

static inline void make_latent_weights(sy_backend *be, layer *l, sy_dtype dtype) {
    const sy_attn_spec *a = &l->spec.attn;
    const sy_mla_spec *m = &a->mla;
    int64_t q_inputs = m->q_rank > 0 ? m->q_rank : l->hidden;
    l->q = make_matrix(be, dtype, 1, a->heads * a->head_dim, q_inputs, ORDINARY);
    l->kv_a = make_matrix(be, dtype, 1, m->kv_rank + m->rope, l->hidden, ORDINARY);
    l->o = make_matrix(be, dtype, 1, l->hidden, (int64_t)a->heads * m->value, ORDINARY);
    l->k_up = calloc((size_t)a->heads, sizeof *l->k_up);
    l->v_up = calloc((size_t)a->heads, sizeof *l->v_up);
    l->heads = calloc(2 * (size_t)a->heads, sizeof *l->heads);
    for (int h = 0; h < a->heads; h++) {
        l->k_up[h] = make_matrix(be, dtype, 1, m->kv_rank, m->nope, ORDINARY);
        l->v_up[h] = make_matrix(be, dtype, 1, m->value, m->kv_rank, ORDINARY);
        l->heads[h] = l->k_up[h].m;
        l->heads[a->heads + h] = l->v_up[h].m;
    }
    l->w = (sy_layer_weights){.q = l->q.m,
                              .kv_a = l->kv_a.m,
                              .k_up = l->heads,
                              .v_up = l->heads + a->heads,
                              .o = l->o.m,
                              .attn_norm = draw_vector(l, l->hidden, 0.5f, 1.5f),
                              .kv_a_norm = draw_vector(l, m->kv_rank, 0.5f, 1.5f)};
    if (m->q_rank == 0) return;
    l->q_a = make_matrix(be, dtype, 1, m->q_rank, l->hidden, ORDINARY);
    l->w.q_a = l->q_a.m;
    l->w.q_a_norm = draw_vector(l, m->q_rank, 0.5f, 1.5f);
}

static inline void make_grouped_weights(sy_backend *be, layer *l, sy_dtype dtype) {
    const sy_attn_spec *a = &l->spec.attn;
    int n_q = a->heads * a->head_dim, n_kv = a->kv_heads * a->head_dim;
    l->q = make_matrix(be, dtype, 1, n_q, l->hidden, ORDINARY);
    l->k = make_matrix(be, dtype, 1, n_kv, l->hidden, ORDINARY);
    l->v = make_matrix(be, dtype, 1, n_kv, l->hidden, ORDINARY);
    l->o = make_matrix(be, dtype, 1, l->hidden, n_q, ORDINARY);
    l->w = (sy_layer_weights){.attn_norm = draw_vector(l, l->hidden, 0.5f, 1.5f),
                              .q_norm = draw_vector(l, n_q, 0.5f, 1.5f),
                              .k_norm = draw_vector(l, n_kv, 0.5f, 1.5f),
                              .q = l->q.m,
                              .k = l->k.m,
                              .v = l->v.m,
                              .o = l->o.m};
    if (!a->qkv_bias) return;
    l->w.q_bias = draw_vector(l, n_q, -20, 20);
    l->w.k_bias = draw_vector(l, n_kv, -20, 20);
    l->w.v_bias = draw_vector(l, n_kv, -20, 20);
}

/* The layer's matrices as a file of `dtype` has them. */
static inline layer
make_layer(sy_backend *be, const sy_layer_spec *spec, sy_dtype dtype, int hidden, int context) {
    const sy_attn_spec *a = &spec->attn;
    layer l = {.spec = *spec, .hidden = hidden};
    size_t widest = (size_t)(3 * hidden + 4 * a->heads * a->head_dim + a->heads +
                             a->mla.kv_rank + a->mla.q_rank);
    l.vectors = malloc(2 * widest * sizeof(float));
    random_state = 5;
    if (a->kind == SY_ATTN_MLA)
        make_latent_weights(be, &l, dtype);
    else
        make_grouped_weights(be, &l, dtype);
    if (a->o_bias) l.w.o_bias = draw_vector(&l, hidden, -50, 50);
    if (a->sinks) l.w.sinks = draw_vector(&l, a->heads, -4, 8);
    assert_int_equal(sy_rope_table_create(context, &a->rope, &l.rope), SY_OK);
    return l;
}

static inline void free_layer(sy_backend *be, layer *l) {
    test_matrix *all[] = {&l->q, &l->o, &l->k, &l->v, &l->q_a, &l->kv_a};
    for (int i = 0; i < 6; i++)
        free_matrix(be, all[i]);
    for (int h = 0; l->k_up != NULL && h < l->spec.attn.heads; h++)
        free_matrix(be, &l->k_up[h]), free_matrix(be, &l->v_up[h]);
    free(l->k_up), free(l->v_up), free(l->heads), free(l->vectors);
    sy_rope_table_destroy(l->rope);
}

enum { CONTEXT = 704, N_SEQUENCES = 3, HIDDEN = 80 };
static const int sequence_length[N_SEQUENCES] = {700, 131, 64};

static inline sy_layer_spec small_spec(void) {
    return (sy_layer_spec){.norm_eps = 1e-5f,
                           .attn = {.heads = 6,
                                    .kv_heads = 2,
                                    .head_dim = 24,
                                    .qk_norm = SY_QK_NORM_PER_HEAD,
                                    .qk_clip = 2.5f,
                                    .rope.dim = 16,
                                    .rope.attention_factor = 1,
                                    .rope.theta = 10000.0,
                                    .softmax_scale = 0.2f}};
}

/* How a run is cut into steps. */
typedef struct schedule {
    sy_dtype act, weights;
    const char *isa;
    int n_threads;
    int chunk;               /* tokens of a sequence in a step */
    bool together;           /* the sequences share each step, else one after the other */
    unsigned char page_fill; /* what pages held before */
} schedule;

/* x of all sequences, [sequence][position][H]. */
static inline float *make_input(void) {
    float *input = malloc(sizeof(float) * (size_t)N_SEQUENCES * CONTEXT * HIDDEN);
    random_state = 77;
    for (int i = 0; i < N_SEQUENCES * CONTEXT * HIDDEN; i++)
        input[i] = random_float(ORDINARY);
    return input;
}

/* The pages that a step from position `begin` may touch: those behind the window have gone. */
static inline int32_t *pages_left(const sy_attn_spec *a, const int32_t *ids, int begin) {
    int32_t *left = malloc(CONTEXT / 64 * sizeof *left);
    int64_t seen = a->window > 0 ? sy_max(begin - a->window + 1, 0) : 0;
    for (int p = 0; p < CONTEXT / 64; p++)
        left[p] = p < seen / 64 ? INT32_MIN : ids[p];
    return left;
}

/* The three steps for one batch, in place. */
static inline void run_attention(sy_backend *be,
                                 const layer *l,
                                 const sy_kv_layer *kv,
                                 const sy_batch *b,
                                 float *rows) {
    const sy_attn_spec *a = &l->spec.attn;
    char *q = malloc((size_t)(b->n_rows * sy_attn_q_width(a) * sy_act_bytes(be)));
    char *o = malloc((size_t)(b->n_rows * sy_attn_o_width(a) * sy_act_bytes(be)));
    assert_int_equal(be->ops->attn_in(be, &l->spec, &l->w, l->rope, b, rows, q, kv, NULL),
                     SY_OK);
    assert_int_equal(be->ops->attend(be, &l->spec, b, q, kv, l->w.sinks, o, NULL), SY_OK);
    assert_int_equal(be->ops->attn_out(be, &l->spec, &l->w, b->n_rows, o, rows, NULL), SY_OK);
    free(q), free(o);
}

/* The tokens [begin, begin + n) of some sequences in one step; out: x after attn_out. */
static inline void run_step(sy_backend *be,
                            const layer *l,
                            const sy_kv_layer *kv,
                            int32_t *const *ids,
                            int first,
                            int last,
                            int begin,
                            int chunk,
                            float *const *x,
                            float *const *out) {
    sy_span span[N_SEQUENCES];
    int sequence[N_SEQUENCES];
    sy_batch b = {.span = span};
    for (int s = first; s < last; s++) {
        int n = (int)sy_max(0, sy_min(chunk, sequence_length[s] - begin));
        if (n == 0) continue;
        sequence[b.n_spans] = s;
        span[b.n_spans++] =
            (sy_span){b.n_rows, n, begin, pages_left(&l->spec.attn, ids[s], begin)};
        b.n_rows += n;
    }
    if (b.n_rows == 0) return;
    size_t row_bytes = sizeof(float) * (size_t)l->hidden;
    float *rows = malloc(row_bytes * (size_t)b.n_rows);
    for (int i = 0; i < b.n_spans; i++)
        memcpy(rows + (int64_t)span[i].first_row * l->hidden,
               x[sequence[i]] + begin * l->hidden, row_bytes * (size_t)span[i].n_rows);
    run_attention(be, l, kv, &b, rows);
    for (int i = 0; i < b.n_spans; i++) {
        memcpy(out[sequence[i]] + begin * l->hidden,
               rows + (int64_t)span[i].first_row * l->hidden,
               row_bytes * (size_t)span[i].n_rows);
        free((void *)span[i].pages);
    }
    free(rows);
}

/* Runs all sequences in exact or fast numerics and returns x after attention,
 * [sequence][position][H] in one block; NULL if this machine lacks the instruction set. */
static inline float *run_numerics(const sy_layer_spec *spec, const schedule *how, bool fast) {
    sy_backend *be = open_cpu(how->act, how->n_threads, how->isa);
    if (be == NULL) return NULL;
    sy_limits limits = limits_of(&spec->attn, HIDDEN, N_SEQUENCES * CONTEXT, CONTEXT);
    sy_cpu_set_fast(be, fast);
    assert_int_equal(be->ops->reserve(be, &limits), SY_OK);
    const sy_cpu *cpu = sy_cpu_of(be); /* steps before may have left anything in scratch */
    memset(cpu->scratch, 0xff, (size_t)how->n_threads * cpu->scratch_bytes);
    memset(cpu->shared, 0xff, cpu->shared_bytes);
    layer l = make_layer(be, spec, how->weights, HIDDEN, CONTEXT);
    sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, &spec->attn)};
    int pages_each = CONTEXT / 64;
    size_t kv_bytes = (size_t)(kv.page_bytes * pages_each * N_SEQUENCES);
    assert_int_equal(sy_mem_alloc(&kv.data, kv_bytes, "pages"), SY_OK);
    memset(kv.data, how->page_fill, kv_bytes);
    float *result = calloc((size_t)N_SEQUENCES * CONTEXT * HIDDEN, sizeof(float));
    float *input = make_input();
    float *x[N_SEQUENCES], *out[N_SEQUENCES];
    int32_t *ids[N_SEQUENCES];
    for (int s = 0; s < N_SEQUENCES; s++) {
        x[s] = input + (int64_t)s * CONTEXT * HIDDEN;
        out[s] = result + (int64_t)s * CONTEXT * HIDDEN;
        ids[s] = make_page_ids(pages_each, s * pages_each);
    }
    for (int begin = 0; begin < CONTEXT; begin += how->chunk) {
        if (how->together)
            run_step(be, &l, &kv, ids, 0, N_SEQUENCES, begin, how->chunk, x, out);
        else
            for (int s = 0; s < N_SEQUENCES; s++)
                run_step(be, &l, &kv, ids, s, s + 1, begin, how->chunk, x, out);
    }
    for (int s = 0; s < N_SEQUENCES; s++)
        free(ids[s]);
    free(input);
    sy_mem_free(kv.data, kv_bytes);
    free_layer(be, &l);
    close_cpu(be);
    return result;
}

static inline float *run_schedule(const sy_layer_spec *spec, const schedule *how) {
    return run_numerics(spec, how, false);
}

/* `found` is a run by the schedule, and goes; NULL: there was none. */
static inline void expect_equal_runs(float *found, const float *expected, const schedule *how) {
    if (found == NULL) return;
    char what[120];
    snprintf(what, sizeof what, "%s on %s, %d threads, chunks of %d, %s, pages of %02x",
             sy_dtype_name(how->act), how->isa, how->n_threads, how->chunk,
             how->together ? "together" : "alone", how->page_fill);
    assert_same_bits(found, expected, (int64_t)N_SEQUENCES * CONTEXT * HIDDEN, what);
    free(found);
}

static inline void
expect_same(const sy_layer_spec *spec, const float *expected, const schedule *how) {
    expect_equal_runs(run_schedule(spec, how), expected, how);
}

/* One row at a time, in chunks, alone or in a batch, on any threads and instruction set, in pages
 * that were clean or not: the same bits. */
static inline void expect_same_in_every_cut(const sy_layer_spec *spec, sy_dtype act) {
    float *expected =
        run_schedule(spec, &(schedule){act, SY_BF16, "auto", 1, CONTEXT, false, 0});
    expect_same(spec, expected, &(schedule){act, SY_BF16, "auto", 2, 1, true, 0xff});
    expect_same(spec, expected, &(schedule){act, SY_BF16, "auto", 3, 1, false, 0});
    expect_same(spec, expected, &(schedule){act, SY_BF16, "auto", 1, 7, false, 0x7f});
    expect_same(spec, expected, &(schedule){act, SY_BF16, "auto", 3, 64, false, 0});
    expect_same(spec, expected, &(schedule){act, SY_BF16, "auto", 2, 100, true, 0xff});
    for (int j = 0; j < N_ISA; j++)
        expect_same(spec, expected, &(schedule){act, SY_BF16, isa_names[j], 2, 90, true, 0xbf});
    free(expected);
}

/* The run's bits in one number. A number that a test keeps changes with SY_NUMERICS_VERSION only. */
static inline void expect_bits(const sy_layer_spec *spec, sy_dtype act, uint64_t expected) {
    float *found = run_schedule(spec, &(schedule){act, SY_BF16, "auto", 2, 100, true, 0});
    uint64_t hash = 0;
    for (int i = 0; i < N_SEQUENCES * CONTEXT * HIDDEN; i++)
        hash = sy_hash_add(hash, sy_bits_from_f32(found[i]));
    free(found);
    if (hash != expected)
        fail_msg("%s: 0x%016llx, expected 0x%016llx", sy_dtype_name(act),
                 (unsigned long long)hash, (unsigned long long)expected);
}

#endif

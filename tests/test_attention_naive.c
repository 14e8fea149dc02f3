/* Latent attention in fast numerics: prompts in the naive form against the absorbed form and
 * against float64, which spans take it, and what stays as in exact numerics.
 * timeout: 240 */
#include <unistd.h>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/attention.h"
#include "tests/attention_reference.h"
#include "tests/seeded_checkpoint.h"

/* Rounding to BF16 changes a value by 2^-8 of it at most. Between q, latents and a head's output
 * the absorbed form rounds four times (q of the latent, P, o of the latent, output) and so does the
 * naive form (k, P, v, output). With scores of about 1 in size an error of q or k is one of the
 * same size in P, so the forms may be 8 * 2^-8 of the outputs apart if all errors add up; that
 * they do not makes it about half. */
static const double FORMS_APART = 8 * 0x1p-8;

static sy_layer_spec latent_spec(int heads, sy_mla_spec mla) {
    return (sy_layer_spec){.norm_eps = 1e-5f,
                           .attn = {.kind = SY_ATTN_MLA,
                                    .heads = heads,
                                    .kv_heads = 1,
                                    .head_dim = mla.nope + mla.rope,
                                    .mla = mla,
                                    .rope.layout = SY_ROPE_INTERLEAVED,
                                    .rope.dim = mla.rope,
                                    .rope.theta = 10000,
                                    .rope.attention_factor = 1}};
}

/* Latents of an even and an odd width and of whole panels, an odd nope or rotary part, outputs of
 * less than a panel, a whole one and more, one head and several, and with 1 to 4 what latent
 * attention may be combined with. */
enum { N_SHAPES = 7 };
static sy_layer_spec shape(int i) {
    static const struct {
        int heads;
        sy_mla_spec mla;
        float scale; /* that makes scores of about 1 */
    } shapes[N_SHAPES] = {
        {3, {20, 24, 10, 6, 14, 1e-6f}, 0.0015f},   {3, {0, 38, 10, 6, 14, 1e-3f}, 0.0005f},
        {5, {7, 65, 9, 7, 6, 0.1f}, 0.0015f},       {2, {32, 128, 16, 8, 64, 1e-6f}, 0.0005f},
        {1, {20, 256, 30, 2, 70, 1e-6f}, 0.00035f}, {4, {16, 66, 1, 6, 2, 1e-6f}, 0.0015f},
        {2, {12, 33, 8, 8, 4, 1e-3f}, 0.0015f},
    };
    sy_layer_spec spec = latent_spec(shapes[i].heads, shapes[i].mla);
    sy_attn_spec *a = &spec.attn;
    a->softmax_scale = shapes[i].scale;
    if (i == 1) {
        a->rope.layout = SY_ROPE_HALF;
        a->query_beta = 0.3f;
        a->query_positions = 100;
    }
    if (i == 2) a->rope.dim = 0;
    if (i == 3) a->window = 100;
    if (i == 4) {
        a->rope.factor = 40;
        a->rope.original_positions = 64;
        a->rope.beta_fast = 32;
        a->rope.beta_slow = 1;
        a->rope.truncate = true;
        a->window = 70;
        a->sinks = true;
        a->o_bias = true;
    }
    return spec;
}

static bool takes_naive(const sy_attn_spec *a, bool fast, int64_t position, int n_rows) {
    sy_cpu cpu = {.fast = fast};
    sy_span span = {.position = position, .n_rows = n_rows};
    return sy_cpu_takes_naive_form(&cpu, a, &span);
}

/* Tokens that a run in steps of `chunk` takes in the naive form. */
static int naive_tokens(const sy_attn_spec *a, int chunk) {
    int n = 0;
    for (int s = 0; s < N_SEQUENCES; s++)
        for (int begin = 0; begin < sequence_length[s]; begin += chunk) {
            int rows = (int)sy_min(chunk, sequence_length[s] - begin);
            if (takes_naive(a, true, begin, rows)) n += rows;
        }
    return n;
}

/* The largest difference of two runs, as a share of the largest output of its row. */
static double largest_share(const float *a, const float *b) {
    float *input = make_input();
    double share = 0;
    for (int t = 0; t < N_SEQUENCES * CONTEXT; t++) {
        double largest = 0, apart = 0;
        if (t % CONTEXT >= sequence_length[t / CONTEXT]) continue;
        for (int i = t * HIDDEN; i < (t + 1) * HIDDEN; i++) {
            largest = fmax(largest, fabs((double)b[i] - (double)input[i]));
            double error = fabs((double)a[i] - (double)b[i]);
            apart = isnan(error) ? INFINITY : fmax(apart, error);
        }
        share = fmax(share, apart / largest);
    }
    free(input);
    return share;
}

static float *run_fast(const sy_layer_spec *spec, const schedule *how) {
    return run_numerics(spec, how, true);
}

static void compare_forms(const sy_layer_spec *spec, schedule how, double tolerance) {
    float *absorbed = run_schedule(spec, &how), *naive = run_fast(spec, &how);
    double share = largest_share(naive, absorbed);
    if (!(share <= tolerance) || share == 0)
        fail_msg("%s, weights %s, chunks of %d: %.3g apart, expected up to %.3g, but not 0",
                 sy_dtype_name(how.act), sy_dtype_name(how.weights), how.chunk, share,
                 tolerance);
    free(absorbed), free(naive);
}

static void naive_and_absorbed_forms_agree(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        sy_layer_spec spec = shape(i);
        assert_true(naive_tokens(&spec.attn, 200) >= 600);
        const sy_dtype weights[] = {SY_F32, SY_BF16, SY_F16};
        for (int j = 0; j < 3; j++) {
            if (weights[j] == SY_F16) spec.attn.softmax_scale *= 1e-8f; /* weights are larger */
            schedule how = {SY_F32, weights[j], "auto", 2, 200, true, 0xff};
            compare_forms(&spec, how, 1e-5);
            how.act = SY_BF16;
            compare_forms(&spec, how, FORMS_APART);
        }
    }
}

static void forms_agree_with_the_sizes_of_deepseek_v3(void **state) {
    (void)state;
    sy_layer_spec spec = latent_spec(128, (sy_mla_spec){24, 512, 128, 64, 128, 1e-6f});
    spec.attn.softmax_scale = 0.0002f;
    assert_int_equal(naive_tokens(&spec.attn, CONTEXT), 700);
    schedule how = {SY_F32, SY_BF16, "auto", 2, CONTEXT, true, 0xff};
    compare_forms(&spec, how, 1e-5);
    how.act = SY_BF16;
    compare_forms(&spec, how, FORMS_APART);
}

static void naive_form_equals_float64(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        sy_layer_spec spec = shape(i);
        sy_dtype weights = i % 2 == 0 ? SY_F32 : SY_BF16;
        schedule how = {SY_F32, weights, "auto", 2, 200, true, 0xff};
        expect_run_near_f64(&spec, &how, 1e-5, run_fast(&spec, &how));
        how.act = SY_BF16; /* as far as the absorbed form, in which q has roundings too */
        expect_run_near_f64(&spec, &how, 0.05, run_fast(&spec, &how));
    }
}

/* V3: 768 multiply-adds are saved for each key that a row sees, 131072 spent on each token. */
static void form_is_chosen_by_what_it_costs(void **state) {
    (void)state;
    sy_layer_spec spec = latent_spec(128, (sy_mla_spec){1536, 512, 128, 64, 128, 1e-6f});
    sy_attn_spec v3 = spec.attn, windowed = v3, wide_v = v3, wide_k = v3, grouped = v3;
    assert_false(takes_naive(&v3, true, 100000, 160));
    assert_true(takes_naive(&v3, true, 100000, 180));
    assert_false(takes_naive(&v3, true, 0, 64));
    assert_true(takes_naive(&v3, true, 0, 128));
    for (int64_t position = 0; position < INT64_C(1) << 40; position = position * 3 + 1)
        for (int rows = 0; rows <= 16; rows++)
            assert_false(takes_naive(&v3, true, position, rows));
    assert_true(takes_naive(&v3, true, INT64_C(1) << 40, INT32_MAX));
    windowed.window = 128; /* each row sees few of the keys that 2000 rows see together */
    assert_true(takes_naive(&windowed, true, 100000, 2000));
    windowed.window = 1;
    assert_false(takes_naive(&windowed, true, 100000, 200));
    wide_v.mla.value = wide_k.mla.nope = 514; /* do not fit the rows of o and q */
    wide_v.mla.nope = wide_k.mla.value = 2;
    assert_false(takes_naive(&wide_v, true, 0, 4096));
    assert_false(takes_naive(&wide_k, true, 0, 4096));
    grouped.kind = SY_ATTN_GQA;
    assert_false(takes_naive(&grouped, true, 0, 4096));
    for (int rows = 0; rows <= 4096; rows++)
        assert_false(takes_naive(&v3, false, 0, rows));
    /* 3716 rows would pay for their expansion, but they are several strips. */
    spec = latent_spec(8, (sy_mla_spec){0, 512, 500, 64, 400, 1e-6f});
    assert_false(takes_naive(&spec.attn, true, 1000000, 4000));
    assert_false(takes_naive(&spec.attn, true, 1000000, 1000000));
}

static void runs_of_a_form_end_where_rows_or_forms_change(void **state) {
    (void)state;
    sy_cpu cpu = {.fast = true};
    sy_attn_spec a = shape(0).attn;
    /* Absorbed are rows 305 to 307, in two spans, and 0 to 4; naive the others, in two spans. */
    const sy_span span[] = {
        {.first_row = 305, .n_rows = 1}, {.first_row = 306, .n_rows = 2},
        {.first_row = 0, .n_rows = 5},   {.first_row = 5, .n_rows = 0},
        {.first_row = 5, .n_rows = 100}, {.first_row = 105, .n_rows = 200},
    };
    sy_batch b = {.n_rows = 308, .n_spans = 6, .span = span};
    sy_form_run run;
    int i = 0;
    assert_true(sy_attn_next_run(&cpu, &a, &b, &i, &run));
    assert_true(run.row == 305 && run.n_rows == 3 && !run.naive && i == 2);
    assert_true(sy_attn_next_run(&cpu, &a, &b, &i, &run));
    assert_true(run.row == 0 && run.n_rows == 5 && !run.naive && i == 4);
    assert_true(sy_attn_next_run(&cpu, &a, &b, &i, &run));
    assert_true(run.row == 5 && run.n_rows == 300 && run.naive && i == 6);
    assert_false(sy_attn_next_run(&cpu, &a, &b, &i, &run));
}

static void
expect_same_fast(const sy_layer_spec *spec, const float *expected, const schedule *how) {
    expect_equal_runs(run_fast(spec, how), expected, how);
}

/* Fast numerics, but nothing that is worth the naive form: single tokens, a few, and heads whose
 * outputs are wider than latents. */
static void absorbed_spans_keep_the_bits_of_exact_numerics(void **state) {
    (void)state;
    sy_layer_spec plain = shape(0), windowed = shape(4), wide = shape(0);
    wide.attn.mla.value = 30;
    for (int act = 0; act < 2; act++) {
        sy_dtype type = act == 0 ? SY_BF16 : SY_F32;
        schedule how = {type, SY_BF16, "auto", 1, CONTEXT, false, 0};
        float *exact = run_schedule(&plain, &how);
        float *exact_windowed = run_schedule(&windowed, &how);
        float *exact_wide = run_schedule(&wide, &how);
        expect_same_fast(&plain, exact, &(schedule){type, SY_BF16, "auto", 2, 1, true, 0xff});
        expect_same_fast(&plain, exact, &(schedule){type, SY_BF16, "auto", 3, 5, true, 0xff});
        expect_same_fast(&windowed, exact_windowed,
                         &(schedule){type, SY_BF16, "auto", 3, 1, true, 0xff});
        expect_same_fast(&wide, exact_wide,
                         &(schedule){type, SY_BF16, "auto", 2, 200, true, 0xff});
        free(exact), free(exact_windowed), free(exact_wide);
    }
}

/* The second step has 120 tokens that are worth the naive form and 11 that are not, and gives each
 * sequence what it gets alone. Nor do threads, which get strips of their own, instruction sets or
 * what pages held change a bit. */
static void steps_of_both_forms_give_each_sequence_its_own(void **state) {
    (void)state;
    enum { CHUNK = 120 };
    for (int i = 0; i <= 3; i += 3) {
        sy_layer_spec spec = shape(i);
        assert_true(takes_naive(&spec.attn, true, CHUNK, CHUNK));
        assert_false(takes_naive(&spec.attn, true, CHUNK, sequence_length[1] - CHUNK));
        for (int act = 0; act < 2; act++) {
            sy_dtype type = act == 0 ? SY_BF16 : SY_F32;
            schedule how = {type, SY_BF16, "auto", 1, CHUNK, false, 0};
            float *alone = run_fast(&spec, &how);
            for (int j = 0; j < N_ISA; j++) {
                how = (schedule){type, SY_BF16, isa_names[j], 2, CHUNK, true, 0xff};
                expect_same_fast(&spec, alone, &how);
            }
            free(alone);
            how = (schedule){type, SY_BF16, "auto", 1, CONTEXT, true, 0};
            float *whole = run_fast(&spec, &how);
            how.n_threads = 3; /* 3 strips of 256 rows and less */
            expect_same_fast(&spec, whole, &how);
            free(whole);
        }
    }
}

/* A backend whose switch is off again, or never was on, is that of exact numerics in every cut;
 * the bits themselves are kept by test_attention_mla. */
static void exact_numerics_never_takes_the_naive_form(void **state) {
    (void)state;
    sy_layer_spec spec = shape(3);
    expect_same_in_every_cut(&spec, SY_BF16);
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    sy_span span = {.n_rows = 700};
    sy_batch b = {.n_rows = 700, .n_spans = 1, .span = &span};
    assert_false(sy_cpu_any_naive_form(sy_cpu_of(be), &spec.attn, &b));
    sy_cpu_set_fast(be, true);
    assert_true(sy_cpu_any_naive_form(sy_cpu_of(be), &spec.attn, &b));
    sy_cpu_set_fast(be, false);
    assert_false(sy_cpu_any_naive_form(sy_cpu_of(be), &spec.attn, &b));
    close_cpu(be);
}

/* One sequence of some rows through the steps, and what they need. */
typedef struct one_step {
    sy_backend *be;
    layer l;
    sy_kv_layer kv;
    uint64_t kv_bytes;
    int32_t ids[4];
    sy_span span;
    sy_batch b;
    float *x;
    char *q, *o;
} one_step;

enum { STEP_ROWS = 200 };

static void open_step(one_step *s, const sy_layer_spec *spec, bool fast) {
    const sy_attn_spec *a = &spec->attn;
    sy_limits limits = limits_of(a, HIDDEN, STEP_ROWS, CONTEXT);
    *s = (one_step){.be = open_cpu(SY_BF16, 2, NULL), .ids = {3, 1, 2, 0}};
    sy_cpu_set_fast(s->be, fast);
    assert_int_equal(s->be->ops->reserve(s->be, &limits), SY_OK);
    s->l = make_layer(s->be, spec, SY_BF16, HIDDEN, CONTEXT);
    s->kv.page_bytes = (int64_t)s->be->ops->kv_page_bytes(s->be, a);
    s->kv_bytes = 4 * (uint64_t)s->kv.page_bytes;
    assert_int_equal(sy_mem_alloc(&s->kv.data, s->kv_bytes, "pages"), SY_OK);
    s->span = (sy_span){0, STEP_ROWS, 0, s->ids};
    s->b = (sy_batch){.n_rows = STEP_ROWS, .n_spans = 1, .span = &s->span};
    s->x = calloc((size_t)STEP_ROWS * HIDDEN, sizeof *s->x);
    for (int i = 0; i < STEP_ROWS * HIDDEN; i++)
        s->x[i] = random_float(ORDINARY);
    s->q = malloc((size_t)(STEP_ROWS * sy_attn_q_width(a) * 2));
    s->o = malloc((size_t)(STEP_ROWS * sy_attn_o_width(a) * 2));
}

static void close_step(one_step *s) {
    free(s->x), free(s->q), free(s->o);
    sy_mem_free(s->kv.data, s->kv_bytes);
    free_layer(s->be, &s->l);
    close_cpu(s->be);
}

static sy_status attn_in(one_step *s) {
    return s->be->ops->attn_in(s->be, &s->l.spec, &s->l.w, s->l.rope, &s->b, s->x, s->q, &s->kv,
                               NULL);
}

static sy_status attend(one_step *s, const sy_batch *b) {
    return s->be->ops->attend(s->be, &s->l.spec, b, s->q, &s->kv, NULL, s->o, NULL);
}

static sy_status attn_out(one_step *s, const sy_layer_weights *w, int64_t n_rows) {
    return s->be->ops->attn_out(s->be, &s->l.spec, w, n_rows, s->o, s->x, NULL);
}

/* A prompt and, with a context of two leaves, a token: few tiles for three threads, so that the
 * token's leaves are units of their own behind the strips. Pages hold what is drawn. */
static void a_prompt_beside_a_token_with_a_long_context(void **state) {
    (void)state;
    enum { PROMPT = 200, PAGES = 15, ROWS = PROMPT + 1 };
    sy_layer_spec spec = shape(0);
    sy_backend *be = open_cpu(SY_BF16, 3, NULL);
    sy_limits limits = limits_of(&spec.attn, HIDDEN, ROWS, CONTEXT);
    sy_cpu_set_fast(be, true);
    assert_int_equal(be->ops->reserve(be, &limits), SY_OK);
    layer l = make_layer(be, &spec, SY_BF16, HIDDEN, CONTEXT);
    sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, &spec.attn)};
    uint64_t kv_bytes = PAGES * (uint64_t)kv.page_bytes;
    assert_int_equal(sy_mem_alloc(&kv.data, kv_bytes, "pages"), SY_OK);
    for (int64_t i = 0; i < PAGES * kv.page_bytes / 2; i++)
        store(be, kv.data, i, uniform(be, 1));
    int32_t ids[PAGES];
    for (int i = 0; i < PAGES; i++)
        ids[i] = PAGES - 1 - i;
    const sy_span span[] = {{0, 1, 699, ids}, {1, PROMPT, 0, ids + 11}};
    float *x = malloc(sizeof(float) * ROWS * HIDDEN),
          *alone = malloc(sizeof(float) * ROWS * HIDDEN);
    for (int i = 0; i < ROWS * HIDDEN; i++)
        x[i] = alone[i] = random_float(ORDINARY);
    run_attention(be, &l, &kv, &(sy_batch){.n_rows = ROWS, .n_spans = 2, .span = span}, x);
    for (int i = 0; i < 2; i++) {
        sy_span one = span[i];
        one.first_row = 0;
        sy_batch b = {.n_rows = one.n_rows, .n_spans = 1, .span = &one};
        assert_true(takes_naive(&spec.attn, true, one.position, one.n_rows) == (i == 1));
        run_attention(be, &l, &kv, &b, alone + span[i].first_row * HIDDEN);
    }
    assert_same_bits(x, alone, ROWS * HIDDEN, "a prompt and a token");
    free(x), free(alone);
    sy_mem_free(kv.data, kv_bytes);
    free_layer(be, &l);
    close_cpu(be);
}

/* The second and third step of a layer know the naive form by the first. */
static void steps_out_of_order_are_errors(void **state) {
    (void)state;
    sy_layer_spec spec = shape(0);
    one_step s;
    open_step(&s, &spec, true);
    sy_batch other = s.b;
    sy_layer_weights other_w = s.l.w;
    assert_int_equal(attend(&s, &s.b), SY_ERR_INTERNAL);
    assert_int_equal(attn_in(&s), SY_OK);
    assert_int_equal(attend(&s, &other), SY_ERR_INTERNAL);
    assert_int_equal(attend(&s, &s.b), SY_OK);
    assert_int_equal(attn_out(&s, &other_w, STEP_ROWS), SY_ERR_INTERNAL);
    assert_int_equal(attn_out(&s, &s.l.w, STEP_ROWS - 1), SY_ERR_INTERNAL);
    assert_int_equal(attn_out(&s, &s.l.w, STEP_ROWS), SY_OK);
    assert_int_equal(attend(&s, &s.b), SY_ERR_INTERNAL);
    s.b.n_rows = s.span.n_rows = 5; /* absorbed again */
    assert_int_equal(attn_in(&s), SY_OK);
    assert_int_equal(attend(&s, &s.b), SY_OK);
    assert_int_equal(attn_out(&s, &s.l.w, 5), SY_OK);
    close_step(&s);
}

static void fast_behind_reserve_has_no_scratch_and_is_an_error(void **state) {
    (void)state;
    sy_layer_spec spec = latent_spec(1, (sy_mla_spec){8, 200, 20, 4, 190, 1e-6f});
    one_step s;
    open_step(&s, &spec, false);
    assert_int_equal(attn_in(&s), SY_OK);
    assert_int_equal(attend(&s, &s.b), SY_OK);
    assert_int_equal(attn_out(&s, &s.l.w, STEP_ROWS), SY_OK);
    sy_cpu_set_fast(s.be, true);
    assert_true(takes_naive(&spec.attn, true, 0, STEP_ROWS));
    assert_int_equal(attn_in(&s), SY_OK);
    assert_int_equal(attend(&s, &s.b), SY_ERR_INTERNAL);
    close_step(&s);
}

static void impossible_sizes_are_errors(void **state) {
    (void)state;
    sy_layer_spec spec = shape(0);
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    sy_cpu_set_fast(be, true);
    const int sizes[] = {-1, 1 << 24, (1 << 24) + 1, INT32_MAX};
    for (int i = 0; i < 4; i++) {
        sy_limits limits = limits_of(&spec.attn, HIDDEN, 4, CONTEXT);
        limits.mla.kv_rank = limits.mla.nope = limits.mla.value = sizes[i];
        assert_int_equal(be->ops->reserve(be, &limits), SY_ERR_MEMORY);
    }
    close_cpu(be);
}

enum { TOKENS = 300, VOCAB = 67, NPY_HEADER = 128 };

/* Logits [TOKENS, VOCAB] of a model for ids that a hash gives, as `switchyard logits` writes them
 * with more options. */
static float *logits_of(const char *model, int chunk, const char *more) {
    char path[] = "/tmp/sy_naive_XXXXXX", command[8192], said[1024];
    int file = mkstemp(path);
    assert_true(file >= 0);
    int n = snprintf(command, sizeof command,
                     "\"$SWITCHYARD\" logits \"%s\" --device cpu --activations f32 --out %s "
                     "--chunk %d %s 2>&1 --ids \"",
                     model, path, chunk, more);
    for (int i = 0; i < TOKENS; i++)
        n += snprintf(command + n, sizeof command - (size_t)n, "%s%d", i == 0 ? "" : ",",
                      (int)(sy_hash_add(31, (uint64_t)i) % (VOCAB - 1)));
    snprintf(command + n, sizeof command - (size_t)n, "\"");
    FILE *f = popen(command, "r");
    assert_non_null(f);
    said[fread(said, 1, sizeof said - 1, f)] = '\0';
    if (pclose(f) != 0) fail_msg("switchyard logits %s: %s", more, said);
    size_t bytes = sizeof(float) * TOKENS * VOCAB;
    float *logits = malloc(bytes);
    assert_int_equal(lseek(file, 0, SEEK_END), NPY_HEADER + bytes);
    assert_int_equal(pread(file, logits, bytes, NPY_HEADER), bytes);
    close(file);
    unlink(path);
    return logits;
}

/* As near as float32 logits must be to another implementation's (test_reference). */
static void logits_of_a_prompt_are_close_to_exact(void **state) {
    (void)state;
    char source[4096], model[256];
    const char *data = getenv("SY_TEST_DATA");
    sy_layer_spec spec = latent_spec(4, (sy_mla_spec){0, 20, 8, 18, 6, 1e-6f});
    if (data == NULL || getenv("SWITCHYARD") == NULL) {
        printf("skipped: SWITCHYARD and SY_TEST_DATA are not set\n");
        skip();
    }
    assert_true(takes_naive(&spec.attn, true, 0, TOKENS)); /* the sizes of that model */
    snprintf(source, sizeof source, "%s/tiny/kimi_k2", data);
    sy_seeded_options options = {.dtype = SY_BF16, .n_shards = 1};
    assert_int_equal(sy_seeded_create(source, &options, model, sizeof model), SY_OK);
    float *exact = logits_of(model, TOKENS, "");
    float *fast = logits_of(model, TOKENS, "--numerics fast");
    float *absorbed =
        logits_of(model, 8, "--numerics fast"); /* results are added up likewise */
    assert_false(takes_naive(&spec.attn, true, TOKENS - 8, 8));
    double largest = 0, apart = 0;
    for (int i = 0; i < TOKENS * VOCAB; i++) {
        largest = fmax(largest, fabs((double)exact[i]));
        apart = fmax(apart, fabs((double)fast[i] - (double)exact[i]));
    }
    print_message("logits of up to %.3g differ by up to %.3g\n", largest, apart);
    assert_true(apart <= 1e-4 * largest);
    assert_memory_not_equal(fast, absorbed, sizeof(float) * TOKENS * VOCAB);
    free(exact), free(fast), free(absorbed);
    sy_seeded_remove(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(naive_and_absorbed_forms_agree),
        cmocka_unit_test(forms_agree_with_the_sizes_of_deepseek_v3),
        cmocka_unit_test(naive_form_equals_float64),
        cmocka_unit_test(form_is_chosen_by_what_it_costs),
        cmocka_unit_test(runs_of_a_form_end_where_rows_or_forms_change),
        cmocka_unit_test(absorbed_spans_keep_the_bits_of_exact_numerics),
        cmocka_unit_test(steps_of_both_forms_give_each_sequence_its_own),
        cmocka_unit_test(exact_numerics_never_takes_the_naive_form),
        cmocka_unit_test(a_prompt_beside_a_token_with_a_long_context),
        cmocka_unit_test(steps_out_of_order_are_errors),
        cmocka_unit_test(fast_behind_reserve_has_no_scratch_and_is_an_error),
        cmocka_unit_test(impossible_sizes_are_errors),
        cmocka_unit_test(logits_of_a_prompt_are_close_to_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

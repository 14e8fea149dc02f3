/* Whole models on a CUDA device, emulated or real, against the CPU in bf16. ranks: 1 2
 * timeout: 300, labels: cuda
 *
 * Layer by layer: each layer gets the CPU's input and the CPU's routes, and its output is compared.
 * The yardstick is what rounding activations to bf16 does at all: the distance of the same layer
 * in float32, from the same input, measured in the same run. Sums in another order move a few
 * values to the neighbouring bf16 number; that may not move the output by more. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "tests/model_fixture.h"

static sy_comm *comm;
static const char *const models[] = {"tiny/qwen3_moe", "tiny/qwen3_moe_f16", "tiny/mixtral",
                                     "tiny/olmoe", "demo"};
enum { N_MODELS = sizeof models / sizeof models[0], TOKENS = 70, CONTEXT = 128 };

/* ---- a table that looks at, or replaces, the residual stream between layers ---- */

typedef struct spy {
    sy_ops ops;
    const sy_ops *real;
    int layer, n_layers;
    int64_t width, rows; /* H; rows seen */
    float *given; /* [L + 1][TOKENS, H]: what the layers are given; written if `record` */
    bool record;
    float *seen;     /* scratch [TOKENS, H] */
    double *worst;   /* [L + 1] largest distance of a layer's output */
    double *largest; /* [L + 1] largest magnitude */
} spy;

static spy *current; /* the table's functions have no other way to it */

/* x is the input of `layer` (or of the head): the output of the layer before. */
static void look(sy_backend *be, int layer, int64_t n_rows, float *x) {
    spy *s = current;
    size_t bytes = (size_t)(n_rows * s->width) * sizeof *x;
    float *given = s->given + (int64_t)layer * TOKENS * s->width;
    if (n_rows == 0) return;
    if (s->record) {
        MUST(s->real->read(be, given, x, bytes, NULL));
        return;
    }
    MUST(s->real->read(be, s->seen, x, bytes, NULL));
    for (int64_t i = 0; i < n_rows * s->width; i++) {
        double distance = fabs((double)s->seen[i] - (double)given[i]);
        if (!(distance <= s->worst[layer])) s->worst[layer] = distance;
        s->largest[layer] = fmax(s->largest[layer], fabs((double)given[i]));
    }
    MUST(s->real->write(be, x, given, bytes, NULL));
}

static sy_status spy_attn_in(sy_backend *be,
                             const sy_layer_spec *spec,
                             const sy_layer_weights *w,
                             const sy_rope_table *rope,
                             const sy_batch *b,
                             const float *x,
                             void *q,
                             const sy_kv_layer *kv,
                             sy_stream *stream) {
    look(be, current->layer++ % current->n_layers, b->n_rows, (float *)(uintptr_t)x);
    return current->real->attn_in(be, spec, w, rope, b, x, q, kv, stream);
}

static sy_status spy_head(sy_backend *be,
                          const float *norm,
                          float eps,
                          const sy_matrix *m,
                          int64_t n,
                          const int32_t *row,
                          const float *x,
                          float *logits,
                          sy_stream *stream) {
    look(be, current->n_layers, n, (float *)(uintptr_t)x); /* logits of all rows are wanted */
    return current->real->head(be, norm, eps, m, n, row, x, logits, stream);
}

static void watch(spy *s, fixture *f, const sy_model_spec *spec, float *given, bool record) {
    int L = spec->n_layers;
    *s = (spy){.real = f->be->ops,
               .ops = *f->be->ops,
               .n_layers = L,
               .width = spec->hidden,
               .given = given,
               .record = record};
    s->seen = calloc((size_t)(TOKENS * spec->hidden), sizeof *s->seen);
    s->worst = calloc((size_t)L + 1, sizeof *s->worst);
    s->largest = calloc((size_t)L + 1, sizeof *s->largest);
    s->ops.attn_in = spy_attn_in;
    s->ops.head = spy_head;
    f->be->ops = &s->ops;
    current = s;
}

static void unwatch(spy *s, fixture *f) {
    f->be->ops = s->real;
    free(s->seen);
    free(s->worst);
    free(s->largest);
}

/* ---- running a model ---- */

static void make_ids(int64_t n, int vocab, uint64_t seed, int32_t *ids) {
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(sy_hash_add(seed, (uint64_t)i) % (uint64_t)vocab);
}

static sy_engine_options options_for(const fixture *f) {
    return (sy_engine_options){.max_context = CONTEXT,
                               .max_pages = 8,
                               .per_rank = 4,
                               .chunk = TOKENS,
                               .max_outputs = TOKENS,
                               .n_valid = f->spec->vocab,
                               .ignore_eos = true,
                               .hash_logits = true};
}

typedef enum where { CPU_BF16, CPU_F32, CUDA } where;

static void open_model(fixture *f, const char *model, where at) {
    char path[512];
    data_path(path, sizeof path, "%s", model);
    if (at == CUDA)
        fixture_open_cuda(f, comm, path);
    else
        fixture_open(f, comm, path, at == CPU_F32 ? SY_F32 : SY_BF16, 1);
    sy_engine_options o = options_for(f);
    fixture_engine(f, &o);
}

/* Experts drawn from the seed: what is compared are the layers, not the router's choices. */
static void make_routes(const sy_model_spec *spec, int32_t **route, int64_t n) {
    int moe = 0;
    for (int l = 0; l < spec->n_layers; l++) {
        const sy_ffn_spec *ffn = &spec->layer[l].ffn;
        if (ffn->kind != SY_FFN_MOE) continue;
        int32_t *r = route[moe] = calloc((size_t)(n * ffn->top_k), sizeof *r);
        for (int64_t t = 0; t < n; t++) {
            int first =
                (int)(sy_hash_add((uint64_t)(l + 7), (uint64_t)t) % (uint64_t)ffn->experts);
            for (int k = 0; k < ffn->top_k; k++)
                r[t * ffn->top_k + k] = (first + k) % ffn->experts;
        }
        moe++;
    }
}

static sy_status ignore_rows(void *context, int64_t n_rows, const float *rows) {
    (void)context;
    (void)n_rows;
    (void)rows;
    return SY_OK;
}

/* One prompt through a model whose residual stream is recorded or replaced; worst is [L + 1]. */
static void
run_layers(const char *model, where at, float *given, double *worst, double *largest) {
    fixture f;
    spy s;
    int32_t ids[TOKENS], *route[SY_MAX_LAYERS] = {NULL};
    open_model(&f, model, at);
    int L = f.spec->n_layers;
    make_ids(TOKENS, f.spec->vocab, 3, ids);
    make_routes(f.spec, route, TOKENS);
    watch(&s, &f, f.spec, given, at == CPU_BF16);
    MUST(sy_engine_logits(f.engine, ids, TOKENS, (const int32_t *const *)route, ignore_rows,
                          NULL));
    for (int l = 0; l <= L && at != CPU_BF16; l++) {
        worst[l] = s.worst[l];
        largest[l] = s.largest[l];
    }
    unwatch(&s, &f);
    for (int i = 0; i < SY_MAX_LAYERS; i++)
        free(route[i]);
    fixture_close(&f);
}

static void each_layer_is_near_the_cpu(void **state) {
    (void)state;
    for (int m = 0; m < N_MODELS; m++) {
        char path[512];
        sy_model_spec *spec;
        MUST(sy_spec_load(data_path(path, sizeof path, "%s", models[m]), &spec));
        int L = spec->n_layers;
        float *given = calloc((size_t)((L + 1) * TOKENS * spec->hidden), sizeof *given);
        double f32[SY_MAX_LAYERS + 1], cuda[SY_MAX_LAYERS + 1], largest[SY_MAX_LAYERS + 1];
        run_layers(models[m], CPU_BF16, given, NULL, NULL);
        run_layers(models[m], CPU_F32, given, f32, largest);
        run_layers(models[m], CUDA, given, cuda, largest);
        for (int l = 0; l <= L && sy_comm_rank(comm) == 0; l++) {
            print_message("%-20s %s %d: %.2e of %.2e, rounding to bf16 moves %.2e\n", models[m],
                          l == 0 ? "embedding" : "layer", l, cuda[l], largest[l], f32[l]);
            assert_true(cuda[l] <= f32[l]);
            if (l > 0) assert_true(f32[l] > 0 && largest[l] > 0);
        }
        free(given);
        sy_spec_destroy(spec);
    }
}

/* ---- greedy text ---- */

typedef struct rows {
    float *value;
    int64_t n, vocab;
} rows;

static sy_status keep_rows(void *context, int64_t n_rows, const float *value) {
    rows *r = context;
    memcpy(r->value + r->n * r->vocab, value, (size_t)(n_rows * r->vocab) * sizeof *value);
    r->n += n_rows;
    return SY_OK;
}

static int best(const float *v, int64_t n, double *gap) {
    int first = 0;
    double second = -INFINITY;
    for (int i = 1; i < n; i++)
        if (v[i] > v[first]) first = i;
    for (int i = 0; i < n; i++)
        if (i != first) second = fmax(second, (double)v[i]);
    *gap = (double)v[first] - second;
    return first;
}

enum { GREEDY = 24, PROMPTS = 5 };
typedef struct greedy {
    int32_t id[PROMPTS][GREEDY];
    uint64_t hash[PROMPTS];
    int n[PROMPTS];
} greedy;

static bool keep_token(void *context, int request, const sy_token *token) {
    greedy *g = context;
    g->id[request][g->n[request]++] = token->id;
    g->hash[request] = sy_hash_add(g->hash[request], token->logits_hash);
    return false;
}

static const int64_t prompt_length[PROMPTS] = {1, 5, 17, 40, 64};

static void generate(fixture *f, greedy *out) {
    static int32_t ids[PROMPTS][CONTEXT];
    sy_request request[PROMPTS];
    const sy_engine_events events = {keep_token, NULL, NULL, out};
    sy_engine_stats stats;
    memset(out, 0, sizeof *out);
    for (int i = 0; i < PROMPTS; i++) {
        make_ids(prompt_length[i], f->spec->vocab, 11 + (uint64_t)i, ids[i]);
        request[i] = (sy_request){.prompt = ids[i],
                                  .n_prompt = prompt_length[i],
                                  .max_tokens = GREEDY,
                                  .sampling = {.top_p = 1}};
    }
    MUST(sy_engine_generate(f->engine, request, PROMPTS, &events, &stats));
}

/* Tokens that the CPU chose with a margin: of its n greedy tokens after a prompt, those before the
 * first whose lead over the next is less than `least`. */
static int decided(fixture *f, int prompt, const int32_t *text, double least) {
    int64_t n = prompt_length[prompt] + GREEDY - 1, V = f->spec->vocab;
    int32_t ids[CONTEXT];
    rows got = {calloc((size_t)(n * V), sizeof(float)), 0, V};
    int count = 0;
    double gap = 0;
    make_ids(prompt_length[prompt], f->spec->vocab, 11 + (uint64_t)prompt, ids);
    memcpy(ids + prompt_length[prompt], text, (GREEDY - 1) * sizeof *text);
    MUST(sy_engine_logits(f->engine, ids, n, NULL, keep_rows, &got));
    if (sy_comm_rank(comm) == 0) {
        for (; count < GREEDY; count++) {
            int64_t row = prompt_length[prompt] - 1 + count;
            assert_int_equal(best(got.value + row * V, V, &gap), text[count]);
            if (gap < least) break;
        }
    }
    free(got.value);
    return count;
}

static void greedy_text_equals_the_cpus_where_it_is_decided(void **state) {
    (void)state;
    int compared = 0;
    for (int m = 0; m < N_MODELS; m++) {
        fixture cpu, cuda;
        greedy a, b;
        open_model(&cpu, models[m], CPU_BF16);
        open_model(&cuda, models[m], CUDA);
        generate(&cpu, &a);
        generate(&cuda, &b);
        sy_comm_broadcast(comm, &a, sizeof a, 0);
        for (int p = 0; p < PROMPTS; p++) {
            int n = decided(&cpu, p, a.id[p], 0.05);
            if (sy_comm_rank(comm) != 0) continue;
            assert_memory_equal(a.id[p], b.id[p], (size_t)n * sizeof a.id[p][0]);
            compared += n;
        }
        fixture_close(&cuda);
        fixture_close(&cpu);
    }
    if (sy_comm_rank(comm) == 0) {
        print_message("%d of %d tokens compared\n", compared, N_MODELS * PROMPTS * GREEDY);
        assert_true(compared > N_MODELS * PROMPTS * GREEDY / 4);
    }
}

static void recorded_steps_give_the_same_bits_as_launches(void **state) {
    (void)state;
    fixture f;
    greedy recorded, launched;
    sy_stepper_stats stats;
    open_model(&f, "demo", CUDA);
    generate(&f, &recorded);
    sy_engine_step_stats(f.engine, &stats);
    assert_true(stats.recorded_steps > 0 && stats.graphs_per_step > 0);
    print_message("a step of one row: %lld nodes in %lld graphs for %d layers\n",
                  (long long)stats.nodes_per_step, (long long)stats.graphs_per_step,
                  f.spec->n_layers);
    if (sy_comm_size(comm) == 1) assert_true(stats.nodes_per_step <= 10 * f.spec->n_layers + 4);
    fixture_close(&f);

    char path[512];
    fixture_open_cuda(&f, comm, data_path(path, sizeof path, "demo"));
    sy_engine_options o = options_for(&f);
    o.no_graphs = true;
    o.chunk = 7; /* prompts in other pieces, too */
    o.max_outputs = 7;
    fixture_engine(&f, &o);
    generate(&f, &launched);
    sy_engine_step_stats(f.engine, &stats);
    assert_true(stats.recorded_steps == 0);
    fixture_close(&f);
    if (sy_comm_rank(comm) == 0) {
        assert_memory_equal(recorded.id, launched.id, sizeof recorded.id);
        assert_memory_equal(recorded.hash, launched.hash, sizeof recorded.hash);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_layer_is_near_the_cpu),
        cmocka_unit_test(greedy_text_equals_the_cpus_where_it_is_decided),
        cmocka_unit_test(recorded_steps_give_the_same_bits_as_launches),
    };
    if (!have_cuda()) {
        printf("skipped: no CUDA device: %s\n", sy_last_error());
        return 77;
    }
    MUST(sy_comm_create(&(sy_comm_options){.threads_per_rank = 2}, &comm));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed != 0) sy_comm_abort(comm, 1);
    sy_comm_destroy(comm);
    return 0;
}

/* Requests from their start to every kind of end, on all ranks.
 * ranks: 1 2 3
 * timeout: 60 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/model_fixture.h"

static sy_comm *comm;
static bool root;

enum { MAX_REQUESTS = 12, MAX_NEW = 24, CONTEXT = 96, NEVER = -1 };

/* Requests with made-up prompts, and what came of them. */
typedef struct batch {
    int n;
    int32_t ids[MAX_REQUESTS][CONTEXT];
    sy_request request[MAX_REQUESTS];
    int32_t got[MAX_REQUESTS][MAX_NEW];
    int n_got[MAX_REQUESTS];
    bool ended[MAX_REQUESTS], by_eos[MAX_REQUESTS];
    int stop_request, stop_after; /* the caller ends this request after so many tokens */
    int interrupt_after;          /* true is answered after so many questions; NEVER */
    int n_asked;
    int64_t prefill_done, prefill_of;
} batch;

static void make_batch(batch *b, int n, int64_t max_tokens, int vocab) {
    *b = (batch){.n = n, .stop_request = NEVER, .interrupt_after = NEVER};
    for (int i = 0; i < n; i++) {
        int64_t n_prompt = 1 + i * 17 % 60;
        for (int64_t t = 0; t < n_prompt; t++)
            b->ids[i][t] = (int32_t)(sy_hash_add((uint64_t)i, (uint64_t)t) % (uint64_t)vocab);
        b->request[i] = (sy_request){
            .prompt = b->ids[i],
            .n_prompt = n_prompt,
            .max_tokens = max_tokens,
            .sampling = {.temperature = i % 2 ? 0.9f : 0, .top_p = 1, .seed = (uint64_t)i}};
    }
}

static bool on_token(void *context, int i, const sy_token *token) {
    batch *b = context;
    if (b->ended[i] || b->n_got[i] == MAX_NEW) abort(); /* a token after the end */
    b->got[i][b->n_got[i]++] = token->id;
    b->by_eos[i] = token->is_end;
    bool stop = i == b->stop_request && b->n_got[i] == b->stop_after;
    b->ended[i] = stop || token->is_last;
    return stop;
}

static bool on_step(void *context) {
    batch *b = context;
    return b->n_asked++ == b->interrupt_after;
}

static void on_prefill(void *context, int64_t done, int64_t of) {
    batch *b = context;
    if (done <= b->prefill_done || done > of) abort();
    b->prefill_done = done;
    b->prefill_of = of;
}

/* What only rank 0 is to bring is kept from the others. */
static sy_status generate(fixture *f, batch *b, sy_engine_stats *stats) {
    const sy_engine_events events = {on_token, on_step, on_prefill, b};
    if (!root) return sy_engine_generate(f->engine, NULL, 0, NULL, NULL);
    return sy_engine_generate(f->engine, b->request, b->n, &events, stats);
}

static void open_model(fixture *f, sy_engine_options o) {
    char path[512];
    fixture_open(f, comm, data_path(path, sizeof path, "tiny/olmoe"), SY_BF16, 1);
    o.max_context = CONTEXT;
    o.max_pages = 2 * o.per_rank;
    o.n_valid = f->spec->vocab;
    if (o.max_outputs == 0) o.max_outputs = o.per_rank;
    fixture_engine(f, &o);
}

/* Each request on its own: what any batch must give. */
static void generate_alone(fixture *f, batch *b) {
    for (int i = 0; i < b->n; i++) {
        sy_engine_stats stats;
        batch one = {.n = 1, .stop_request = NEVER, .interrupt_after = NEVER};
        one.request[0] = b->request[i];
        MUST(generate(f, &one, &stats));
        memcpy(b->got[i], one.got[0], sizeof one.got[0]);
        b->n_got[i] = one.n_got[0];
    }
}

static void check_equal(const batch *expected, const batch *got) {
    for (int i = 0; root && i < expected->n; i++) {
        assert_int_equal(got->n_got[i], expected->n_got[i]);
        assert_memory_equal(got->got[i], expected->got[i],
                            (size_t)got->n_got[i] * sizeof got->got[i][0]);
    }
}

static void more_requests_than_slots_give_what_each_gives_alone(void **state) {
    (void)state;
    static batch alone, together;
    fixture f;
    sy_engine_stats stats = {0};
    open_model(&f, (sy_engine_options){.per_rank = 2, .chunk = 16, .ignore_eos = true});
    make_batch(&alone, MAX_REQUESTS, 9, f.spec->vocab);
    generate_alone(&f, &alone);
    make_batch(&together, MAX_REQUESTS, 9, f.spec->vocab);
    MUST(generate(&f, &together, &stats));
    check_equal(&alone, &together);
    if (root) {
        int64_t rows = 0;
        for (int i = 0; i < MAX_REQUESTS; i++) {
            assert_int_equal(together.n_got[i], 9);
            assert_true(together.ended[i]);
            rows += together.request[i].n_prompt;
        }
        assert_int_equal(stats.prefill_tokens, rows);
        assert_true(together.prefill_done == rows && together.prefill_of == rows);
        assert_false(stats.interrupted);
        /* Every token but the last of each prompt's prefill came from some step. */
        assert_true(stats.decode_tokens <= MAX_REQUESTS * 8 && stats.decode_tokens > 0);
    }
    fixture_close(&f);
}

static void an_interrupted_run_ends_on_all_ranks_and_the_next_starts_clean(void **state) {
    (void)state;
    static batch expected, cut, again;
    fixture f;
    sy_engine_stats stats = {0};
    open_model(&f, (sy_engine_options){.per_rank = 2, .chunk = 16, .ignore_eos = true});
    make_batch(&expected, 8, 6, f.spec->vocab);
    MUST(generate(&f, &expected, &stats));
    for (int after = 0; after < 12; after += 3) { /* at once, in prefill, in decode, between */
        make_batch(&cut, 8, 6, f.spec->vocab);
        cut.interrupt_after = after;
        MUST(generate(&f, &cut, &stats));
        if (root) {
            assert_true(stats.interrupted);
            assert_int_equal(stats.steps, after);
        }
        make_batch(&again, 8, 6, f.spec->vocab);
        MUST(generate(&f, &again, &stats));
        if (root) assert_false(stats.interrupted);
        check_equal(&expected, &again);
    }
    fixture_close(&f);
}

static void a_request_that_the_caller_stops_ends_alone(void **state) {
    (void)state;
    static batch expected, stopped;
    fixture f;
    sy_engine_stats stats;
    open_model(&f, (sy_engine_options){.per_rank = 3, .chunk = 32, .ignore_eos = true});
    make_batch(&expected, 5, 7, f.spec->vocab);
    MUST(generate(&f, &expected, &stats));
    for (int after = 1; after <= 7; after += 3) {
        make_batch(&stopped, 5, 7, f.spec->vocab);
        stopped.stop_request = 2;
        stopped.stop_after = after;
        MUST(generate(&f, &stopped, &stats));
        if (root) {
            assert_int_equal(stopped.n_got[2], after);
            assert_memory_equal(stopped.got[2], expected.got[2],
                                (size_t)after * sizeof(int32_t));
            stopped.n_got[2] = expected.n_got[2]; /* the others: in full */
            memcpy(stopped.got[2], expected.got[2], sizeof stopped.got[2]);
        }
        check_equal(&expected, &stopped);
    }
    fixture_close(&f);
}

static void an_end_token_ends_its_request(void **state) {
    (void)state;
    static batch full, ended;
    fixture f;
    sy_engine_stats stats;
    int32_t eos = 0, never = 0;
    open_model(&f, (sy_engine_options){.per_rank = 1, .chunk = 64});
    f.spec->n_eos = 0;
    make_batch(&full, 1, 12, f.spec->vocab);
    full.request[0].sampling = (sy_sample_params){.temperature = 2, .top_p = 1, .seed = 4};
    MUST(generate(&f, &full, &stats));
    if (root) assert_int_equal(full.n_got[0], 12);
    eos = full.got[0][5];
    MUST(sy_comm_broadcast(comm, &eos, sizeof eos, 0));
    int first = 0;
    while (root && full.got[0][first] != eos)
        first++;
    for (int i = 0; root && i < 12; i++) /* an id that is not among the twelve */
        if (full.got[0][i] == never) never++, i = -1;
    MUST(sy_comm_broadcast(comm, &never, sizeof never, 0));

    f.spec->eos[0] = never;
    f.spec->eos[1] = eos;
    f.spec->n_eos = 2;
    make_batch(&ended, 1, 12, f.spec->vocab);
    ended.request[0].sampling = full.request[0].sampling;
    MUST(generate(&f, &ended, &stats));
    if (root) {
        assert_int_equal(ended.n_got[0], first + 1);
        assert_int_equal(ended.got[0][first], eos);
        assert_true(ended.by_eos[0] && ended.ended[0]);
        assert_memory_equal(ended.got[0], full.got[0], (size_t)(first + 1) * sizeof eos);
    }
    fixture_close(&f);
}

static void a_request_beyond_the_context_is_refused_on_all_ranks_alike(void **state) {
    (void)state;
    static batch b;
    fixture f;
    sy_engine_stats stats;
    open_model(&f, (sy_engine_options){.per_rank = 2, .chunk = 16});
    make_batch(&b, 3, 5, f.spec->vocab);
    b.request[1].n_prompt = CONTEXT - 4;
    assert_int_equal(generate(&f, &b, &stats), SY_ERR_USAGE);
    assert_non_null(strstr(sy_last_error(), "prompt 2 has 92 tokens; with 5 more"));
    assert_non_null(strstr(sy_last_error(), "context of 96"));
    for (int i = 0; i < 3; i++)
        assert_int_equal(b.n_got[i], 0);
    /* To the last position it fits. */
    make_batch(&b, 3, 5, f.spec->vocab);
    b.request[1].n_prompt = CONTEXT - 5;
    MUST(generate(&f, &b, &stats));
    if (root) assert_int_equal(b.n_got[1], 5);
    fixture_close(&f);
}

static void no_requests_are_done_at_once(void **state) {
    (void)state;
    static batch b;
    fixture f;
    sy_engine_stats stats = {.steps = 5};
    open_model(&f, (sy_engine_options){.per_rank = 1, .chunk = 16});
    make_batch(&b, 0, 1, f.spec->vocab);
    MUST(generate(&f, &b, &stats));
    if (root) assert_int_equal(stats.steps, 0);
    fixture_close(&f);
}

static void options_that_contradict_each_other_are_refused_on_all_ranks(void **state) {
    (void)state;
    char path[512];
    fixture f;
    static const sy_engine_options wrong[] = {
        {.max_context = 0, .max_pages = 2, .per_rank = 1, .chunk = 8, .max_outputs = 8},
        {.max_context = 64, .max_pages = 2, .per_rank = 0, .chunk = 8, .max_outputs = 8},
        {.max_context = 64, .max_pages = 2, .per_rank = 9, .chunk = 8, .max_outputs = 9},
        {.max_context = 64, .max_pages = 2, .per_rank = 2, .chunk = 8, .max_outputs = 1},
    };
    fixture_open(&f, comm, data_path(path, sizeof path, "tiny/olmoe"), SY_BF16, 1);
    sy_engine_parts parts = {.comm = comm,
                             .be = f.be,
                             .spec = f.spec,
                             .placement = f.placement,
                             .weights = f.weights};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(sy_engine_create(&parts, &wrong[i], &f.engine), SY_ERR_INTERNAL);
        assert_null(f.engine);
    }
    fixture_close(&f);
}

static void layers_that_differ_in_experts_per_token_are_refused(void **state) {
    (void)state;
    char path[512];
    fixture f;
    sy_engine_options o = {
        .max_context = 64, .max_pages = 2, .per_rank = 1, .chunk = 8, .max_outputs = 8};
    fixture_open(&f, comm, data_path(path, sizeof path, "tiny/olmoe"), SY_BF16, 1);
    assert_true(f.spec->n_layers > 1 && f.spec->layer[1].ffn.top_k > 1);
    f.spec->layer[1].ffn.top_k--;
    sy_engine_parts parts = {.comm = comm,
                             .be = f.be,
                             .spec = f.spec,
                             .placement = f.placement,
                             .weights = f.weights};
    assert_int_equal(sy_engine_create(&parts, &o, &f.engine), SY_ERR_UNSUPPORTED);
    assert_non_null(strstr(sy_last_error(), "layer 1 takes"));
    assert_null(f.engine);
    fixture_close(&f);
}

/* ---- logits ---- */

typedef struct kept {
    float *value;
    int64_t n, vocab;
    int fail_at, calls; /* the sink fails at this call */
} kept;

static sy_status keep_rows(void *context, int64_t n_rows, const float *value) {
    kept *k = context;
    if (k->calls++ == k->fail_at) return sy_fail(SY_ERR_IO, "the disk is full");
    memcpy(k->value + k->n * k->vocab, value, (size_t)(n_rows * k->vocab) * sizeof *value);
    k->n += n_rows;
    return SY_OK;
}

enum { N_IDS = 50 };

static sy_status logits(fixture *f, const int32_t *const *forced, kept *k) {
    int32_t ids[N_IDS];
    for (int i = 0; i < N_IDS; i++)
        ids[i] = i * 11 % f->spec->vocab;
    k->n = 0;
    return sy_engine_logits(f->engine, ids, N_IDS, forced, root ? keep_rows : NULL, k);
}

static void new_kept(kept *k, const fixture *f) {
    *k = (kept){.vocab = f->spec->vocab, .fail_at = NEVER};
    k->value = calloc((size_t)(N_IDS * k->vocab), sizeof *k->value);
    if (k->value == NULL) abort();
}

static void a_sink_that_fails_is_the_same_error_on_all_ranks(void **state) {
    (void)state;
    fixture f;
    kept k, good;
    open_model(&f, (sy_engine_options){.per_rank = 1, .chunk = 16, .max_outputs = 12});
    new_kept(&k, &f);
    new_kept(&good, &f);
    MUST(logits(&f, NULL, &good));
    for (int at = 0; at < 5; at++) { /* 50 ids in chunks of 12 */
        k.fail_at = at;
        k.calls = 0;
        assert_int_equal(logits(&f, NULL, &k), SY_ERR_IO);
        assert_non_null(strstr(sy_last_error(), "the disk is full"));
        if (root) assert_int_equal(k.calls, at + 1); /* not asked again */
    }
    k.fail_at = NEVER;
    MUST(logits(&f, NULL, &k));
    if (root) {
        assert_int_equal(k.n, N_IDS);
        assert_memory_equal(k.value, good.value, (size_t)(N_IDS * k.vocab) * sizeof *k.value);
    }
    free(k.value);
    free(good.value);
    fixture_close(&f);
}

static void forced_routes_are_taken(void **state) {
    (void)state;
    fixture f;
    kept own, forced, again;
    uint64_t *all, tokens;
    open_model(&f, (sy_engine_options){.per_rank = 1, .chunk = 16, .max_outputs = 16});
    int K = f.spec->layer[0].ffn.top_k, E = f.spec->layer[0].ffn.experts, L = f.spec->n_layers;
    int32_t *route = calloc((size_t)(N_IDS * K), sizeof *route);
    const int32_t *routes[8];
    assert_true(route != NULL && L <= 8);
    for (int i = 0; i < N_IDS * K; i++)
        route[i] = (i / K % 2) * K + i % K; /* experts 0..2K-1 */
    for (int l = 0; l < L; l++)
        routes[l] = route;
    new_kept(&own, &f);
    new_kept(&forced, &f);
    new_kept(&again, &f);
    MUST(logits(&f, NULL, &own));
    sy_loads_reset(sy_engine_runner(f.engine)->loads);
    MUST(logits(&f, routes, &forced));
    MUST(sy_loads_gather(comm, sy_engine_runner(f.engine)->loads, &all, &tokens));
    MUST(logits(&f, NULL, &again));
    if (root) {
        size_t bytes = (size_t)(N_IDS * own.vocab) * sizeof *own.value;
        assert_memory_not_equal(own.value, forced.value, bytes);
        assert_memory_equal(own.value, again.value, bytes);
        assert_int_equal(tokens, N_IDS);
        for (int l = 0; l < L; l++) {
            for (int e = 0; e < E; e++) {
                uint64_t sum = 0;
                for (int r = 0; r < sy_comm_size(comm); r++)
                    sum += all[(r * L + l) * E + e];
                assert_int_equal(sum, e < 2 * K ? N_IDS / 2 : 0);
            }
        }
    }
    free(all);
    free(route);
    free(own.value);
    free(forced.value);
    free(again.value);
    fixture_close(&f);
}

static void ids_beyond_the_context_are_refused_on_all_ranks(void **state) {
    (void)state;
    fixture f;
    kept k;
    int32_t ids[CONTEXT + 1] = {0};
    open_model(&f, (sy_engine_options){.per_rank = 1, .chunk = 16, .max_outputs = 16});
    new_kept(&k, &f);
    assert_int_equal(sy_engine_logits(f.engine, ids, CONTEXT + 1, NULL, keep_rows, &k),
                     SY_ERR_USAGE);
    assert_non_null(strstr(sy_last_error(), "97 ids are beyond the context of 96"));
    assert_int_equal(k.calls, 0);
    MUST(logits(&f, NULL, &k));
    free(k.value);
    fixture_close(&f);
}

/* ---- pages ---- */

static void pages_are_handed_out_once_and_come_back(void **state) {
    (void)state;
    fixture f;
    sy_kv *kv;
    int32_t page[8], more[8];
    open_model(&f, (sy_engine_options){.per_rank = 1, .chunk = 16});
    MUST(sy_kv_create(f.be, f.spec, 5, &kv));
    assert_int_equal(kv->bytes, sy_kv_bytes(f.be, f.spec, 5));
    MUST(sy_kv_take(kv, 3, page));
    assert_int_equal(sy_kv_take(kv, 3, more), SY_ERR_MEMORY);
    assert_non_null(strstr(sy_last_error(), "2 free pages, 3 are needed"));
    MUST(sy_kv_take(kv, 2, page + 3));
    for (int i = 0; i < 5; i++) {
        assert_in_range(page[i], 0, 4);
        for (int k = 0; k < i; k++)
            assert_int_not_equal(page[i], page[k]);
    }
    assert_int_equal(sy_kv_take(kv, 1, more), SY_ERR_MEMORY);
    sy_kv_give_back(kv, 5, page);
    MUST(sy_kv_take(kv, 5, more));
    MUST(sy_kv_take(kv, 0, more));
    sy_kv_destroy(kv);
    assert_int_equal(sy_kv_create(f.be, f.spec, (int64_t)1 << 40, &kv), SY_ERR_MEMORY);
    assert_null(kv);
    assert_true(sy_kv_bytes(f.be, f.spec, INT64_MAX) == UINT64_MAX);
    fixture_close(&f);
}

/* A table whose head step gives no number, as damaged weights do. */
static struct {
    sy_ops ops;
    const sy_ops *real;
} damaged;

static sy_status damaged_head(sy_backend *be,
                              const float *norm,
                              float eps,
                              const sy_matrix *m,
                              int64_t n,
                              const int32_t *row,
                              const float *x,
                              float *logits,
                              sy_stream *s) {
    sy_status st = damaged.real->head(be, norm, eps, m, n, row, x, logits, s);
    for (int64_t i = 0; i < n * m->n; i++)
        logits[i] = sy_f32_from_bits(0x7fc00000u);
    return st;
}

static bool on_damaged(void *context, int i, const sy_token *token) {
    int *n = context;
    (void)i;
    if (!token->is_nan || !token->is_last) abort();
    (*n)++;
    return false;
}

static void logits_that_are_no_numbers_end_their_requests(void **state) {
    (void)state;
    fixture f;
    batch b;
    int n_tokens = 0;
    sy_engine_stats stats;
    const sy_engine_events events = {on_damaged, NULL, NULL, &n_tokens};
    open_model(&f, (sy_engine_options){.max_pages = 8, .per_rank = 2, .chunk = 32});
    make_batch(&b, 5, 8, f.spec->vocab);
    damaged.real = f.be->ops;
    damaged.ops = *f.be->ops;
    damaged.ops.head = damaged_head;
    f.be->ops = &damaged.ops;
    MUST(sy_engine_generate(f.engine, root ? b.request : NULL, root ? b.n : 0,
                            root ? &events : NULL, root ? &stats : NULL));
    if (root) assert_int_equal(n_tokens, b.n);
    f.be->ops = damaged.real;
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_that_are_no_numbers_end_their_requests),
        cmocka_unit_test(more_requests_than_slots_give_what_each_gives_alone),
        cmocka_unit_test(an_interrupted_run_ends_on_all_ranks_and_the_next_starts_clean),
        cmocka_unit_test(a_request_that_the_caller_stops_ends_alone),
        cmocka_unit_test(an_end_token_ends_its_request),
        cmocka_unit_test(a_request_beyond_the_context_is_refused_on_all_ranks_alike),
        cmocka_unit_test(no_requests_are_done_at_once),
        cmocka_unit_test(options_that_contradict_each_other_are_refused_on_all_ranks),
        cmocka_unit_test(layers_that_differ_in_experts_per_token_are_refused),
        cmocka_unit_test(a_sink_that_fails_is_the_same_error_on_all_ranks),
        cmocka_unit_test(forced_routes_are_taken),
        cmocka_unit_test(ids_beyond_the_context_are_refused_on_all_ranks),
        cmocka_unit_test(pages_are_handed_out_once_and_come_back),
    };
    MUST(sy_comm_create(&(sy_comm_options){.threads_per_rank = 1}, &comm));
    root = sy_comm_rank(comm) == 0;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed != 0) sy_comm_abort(comm, 1);
    sy_comm_destroy(comm);
    return 0;
}

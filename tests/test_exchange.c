/* The exchange against a reference that computes every expert in one place.
 * ranks: 1 2 3 4 5 7 8
 * timeout: 120
 *
 * All inputs are functions of (seed, round, rank, row), so each rank knows what every other one
 * sends, and checks its own results. The fake expert is f(x, e)[h] = x[h] * (e % 7 + 1) +
 * (3 e + h) % 11: with small integers as x and powers of two as weights every sum is exact, and
 * any lost, doubled or misplaced pair shows; with random floats the order of the sums shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/exchange_bench.h"
#include "exchange_fixture.h"
#include "plain_backend.h"

/* What the experts of this rank must be given, in order, and y of it. */
static void check_and_compute(const scenario *c,
                              const world *w,
                              const sy_placement_layer *layer,
                              const tokens *all,
                              const sy_expert_rows *rows,
                              float *y) {
    int64_t n_pairs = 0, total_here = 0;
    assert_int_equal(rows->n_slots, sy_placement_slots(layer, w->rank));
    for (int slot = 0; slot < rows->n_slots; slot++) {
        int e = layer->slot_expert[layer->slot_first[w->rank] + slot];
        int n_copies = layer->home_first[e + 1] - layer->home_first[e];
        assert_int_equal(rows->first[slot], n_pairs);
        for (int source = 0; source < w->size; source++) {
            for (int64_t row = 0; row < all[source].n; row++) {
                bool chosen = false;
                for (int k = 0; k < c->K; k++)
                    chosen |= all[source].expert[row * c->K + k] == e;
                int64_t copy = layer->home_first[e] + (source + row) % n_copies;
                if (!chosen || layer->home[copy].rank != w->rank) continue;
                for (int64_t h = 0; h < c->H; h++) {
                    int64_t at = n_pairs * c->H + h;
                    float x = c->act == SY_F32
                                  ? ((const float *)rows->x)[at]
                                  : sy_f32_from_bf16(((const uint16_t *)rows->x)[at]);
                    if (x != all[source].x[row * c->H + h])
                        fail_msg("rank %d slot %d: row %lld of rank %d arrived as %g, not %g",
                                 w->rank, slot, (long long)row, source, (double)x,
                                 (double)all[source].x[row * c->H + h]);
                    y[at] = fake_expert(x, e, h);
                }
                n_pairs++;
            }
        }
        total_here = n_pairs;
    }
    assert_int_equal(rows->first[rows->n_slots], total_here);
    assert_int_equal(rows->n_pairs, total_here);
}

static void one_round(const scenario *c,
                      const world *w,
                      const sy_placement_layer *layer,
                      sy_exchange *ex,
                      float *y,
                      int round) {
    tokens all[MAX_RANKS];
    for (int r = 0; r < w->size; r++)
        all[r] = make_tokens(c, r, round);
    const tokens *t = &all[w->rank];
    void *x = to_act(c, t);
    float *out = zeros((size_t)(t->n * c->H), sizeof *out);
    if (t->n > 0) memcpy(out, t->residual, (size_t)(t->n * c->H) * sizeof *out);
    sy_expert_rows rows;
    must(sy_dispatch_begin(ex, layer, t->n, x, t->expert, t->weight, (uint64_t)round, NULL));
    must(sy_dispatch_end(ex, &rows, NULL));
    check_and_compute(c, w, layer, all, &rows, y);
    must(sy_combine_begin(ex, y, NULL));
    must(sy_combine_end(ex, t->shared, out, NULL));
    for (int64_t row = 0; row < t->n; row++) {
        for (int64_t h = 0; h < c->H; h++) {
            float found = out[row * c->H + h], expected = expected_value(c, t, row, h);
            if (!near_enough(c, found, expected))
                fail_msg("rank %d round %d row %lld column %lld: found %.9g, expected %.9g",
                         w->rank, round, (long long)row, (long long)h, (double)found,
                         (double)expected);
        }
    }
    free(out);
    free(x);
    for (int r = 0; r < w->size; r++)
        free_tokens(&all[r]);
}

static void run_scenario(const scenario *c, const world *w) {
    sy_placement *p = make_placement(c, w->size, 31 + (uint64_t)c->E);
    sy_exchange_shape shape = shape_of(c, &p->layer[0]);
    sy_backend be = plain_backend(c->act);
    sy_exchange *ex = NULL;
    must(sy_exchange_create(w->comm, &be, &shape, &ex));
    size_t n_y = (size_t)(sy_exchange_max_pairs(w->comm, &shape) * c->H);
    float *y = zeros(n_y, sizeof *y);
    for (int round = 0; round < c->rounds; round++)
        one_round(c, w, &p->layer[0], ex, y, round);
    sy_exchange_stats stats;
    sy_exchange_get_stats(ex, &stats);
    assert_int_equal(stats.rounds, c->rounds);
    if (w->size == 1) assert_int_equal(stats.bytes_in_host + stats.bytes_between_hosts, 0);
    free(y);
    sy_exchange_destroy(ex);
    sy_placement_destroy(p);
}

/* Every scenario over every way to connect the ranks. */
static void over_all_links(const scenario *c) {
    static const struct {
        int virtual_hosts, threads;
        bool no_shared_memory;
    } way[] = {{0, 1, false}, {0, 64, false}, {2, 1, false}, {3, 64, false}, {0, 1, true}};
    for (size_t i = 0; i < sizeof way / sizeof way[0]; i++) {
        world w = open_world(way[i].virtual_hosts, way[i].no_shared_memory, way[i].threads);
        run_scenario(c, &w);
        close_world(&w);
    }
}

#define SCENARIO(...)                                                                          \
    scenario c = {.E = 8,                                                                      \
                  .K = 2,                                                                      \
                  .H = 24,                                                                     \
                  .T = 13,                                                                     \
                  .act = SY_BF16,                                                              \
                  .integers = true,                                                            \
                  .empty_rank = -1,                                                            \
                  .rounds = 5};                                                                \
    __VA_ARGS__;                                                                               \
    over_all_links(&c)

static void contiguous_integers_are_exact(void **state) {
    (void)state;
    SCENARIO(c.K = 3);
}
static void contiguous_floats_are_bitwise_equal(void **state) {
    (void)state;
    SCENARIO(c.integers = false, c.E = 16, c.K = 5);
}
static void float32_rows_of_odd_width_travel(void **state) {
    (void)state;
    SCENARIO(c.integers = false, c.act = SY_F32, c.H = 37, c.E = 9, c.K = 4);
}
static void bf16_rows_of_odd_width_travel(void **state) {
    (void)state;
    SCENARIO(c.H = 1, c.E = 9, c.K = 4);
}
static void a_rank_without_tokens_takes_part(void **state) {
    (void)state;
    SCENARIO(c.empty_rank = 0, c.K = 4);
}
static void nobody_has_tokens(void **state) {
    (void)state;
    SCENARIO(c.T = 0, c.rounds = 3);
}
static void experts_without_tokens(void **state) {
    (void)state;
    SCENARIO(c.routing = LOW_HALF);
}
static void one_expert_takes_all(void **state) {
    (void)state;
    SCENARIO(c.routing = ONE_EXPERT, c.K = 1);
}
static void one_rank_computes_everything(void **state) {
    (void)state;
    SCENARIO(c.placing = ALL_ON_LAST, c.K = 6, c.integers = false);
}
static void top_1(void **state) {
    (void)state;
    SCENARIO(c.K = 1, c.integers = false);
}
static void every_expert_is_chosen(void **state) {
    (void)state;
    SCENARIO(c.K = 8, c.integers = false);
}
static void sizes_divide_nothing(void **state) {
    (void)state;
    SCENARIO(c.E = 11, c.K = 3, c.T = 7, c.H = 19, c.integers = false);
}
static void more_ranks_than_experts(void **state) {
    (void)state;
    SCENARIO(c.E = 2, c.K = 1);
}
static void a_single_expert(void **state) {
    (void)state;
    SCENARIO(c.E = 1, c.K = 1);
}
static void scattered_experts_are_bitwise_equal(void **state) {
    (void)state;
    SCENARIO(c.placing = SCATTERED, c.E = 21, c.K = 8, c.integers = false);
}
static void replicas_are_bitwise_equal(void **state) {
    (void)state;
    SCENARIO(c.placing = REPLICATED, c.E = 16, c.K = 6, c.integers = false);
}
static void reduced_adds_the_same_numbers(void **state) {
    (void)state;
    SCENARIO(c.combine = SY_COMBINE_REDUCED, c.placing = SCATTERED, c.E = 16, c.K = 6);
}
static void reduced_floats_are_close(void **state) {
    (void)state;
    SCENARIO(c.combine = SY_COMBINE_REDUCED, c.placing = REPLICATED, c.K = 5,
             c.integers = false);
}
static void reduced_bf16_is_close(void **state) {
    (void)state;
    SCENARIO(c.combine = SY_COMBINE_REDUCED_BF16, c.placing = SCATTERED, c.K = 5, c.H = 17,
             c.integers = false);
}

/* Buffers are used again without acknowledgements: many rounds of changing sizes, with ranks
 * that are slow at different times. */
static void hundreds_of_rounds_reuse_the_buffers(void **state) {
    (void)state;
    SCENARIO(c.rounds = 300, c.T = 5, c.H = 8, c.K = 3);
}

/* Messages beyond every eager limit, so that MPI has to negotiate them. */
static void long_messages_travel(void **state) {
    (void)state;
    SCENARIO(c.T = 40, c.H = 2050, c.K = 2, c.rounds = 2);
}

static void two_exchanges_do_not_mix(void **state) {
    (void)state;
    scenario c = {
        .E = 8, .K = 2, .H = 16, .T = 9, .act = SY_BF16, .integers = true, .empty_rank = -1};
    world w = open_world(2, false, 1);
    sy_placement *p = make_placement(&c, w.size, 5);
    sy_exchange_shape shape = shape_of(&c, &p->layer[0]);
    sy_backend be = plain_backend(c.act);
    sy_exchange *ex[2];
    for (int i = 0; i < 2; i++)
        must(sy_exchange_create(w.comm, &be, &shape, &ex[i]));
    float *y = zeros((size_t)(sy_exchange_max_pairs(w.comm, &shape) * c.H), sizeof *y);
    for (int round = 0; round < 20; round++)
        one_round(&c, &w, &p->layer[0], ex[(round / 3) % 2], y, round);
    free(y);
    for (int i = 0; i < 2; i++)
        sy_exchange_destroy(ex[i]);
    sy_placement_destroy(p);
    close_world(&w);
}

static void stats_count_what_travels(void **state) {
    (void)state;
    scenario c = {.E = 8,
                  .K = 8,
                  .H = 16,
                  .T = 4,
                  .act = SY_BF16,
                  .integers = true,
                  .empty_rank = -1,
                  .rounds = 1};
    world w = open_world(2, false, 1);
    sy_placement *p = make_placement(&c, w.size, 5);
    sy_exchange_shape shape = shape_of(&c, &p->layer[0]);
    sy_backend be = plain_backend(c.act);
    sy_exchange *ex = NULL;
    must(sy_exchange_create(w.comm, &be, &shape, &ex));
    float *y = zeros((size_t)(sy_exchange_max_pairs(w.comm, &shape) * c.H), sizeof *y);
    one_round(&c, &w, &p->layer[0], ex, y, 0);
    /* K = E: each of the 4 rows of round 0 goes once to each other rank with experts; and with
     * 8 contiguous experts on 1, 2, 4 or 8 ranks each rank's share is one subtree. */
    int n_others = 0;
    for (int r = 0; r < w.size; r++)
        n_others += r != w.rank && sy_placement_slots(&p->layer[0], r) > 0;
    sy_exchange_stats stats;
    sy_exchange_get_stats(ex, &stats);
    assert_int_equal(stats.tokens_sent, 4 * n_others);
    if (w.size == 1 || w.size == 2 || w.size == 4 || w.size == 8)
        assert_int_equal(stats.rows_returned, 4 * (w.size - 1));
    uint64_t bytes = (uint64_t)(4 * n_others * 16 * 2);
    for (int r = 0; r < w.size; r++)
        if (r != w.rank) bytes += 4 * 16 * (uint64_t)sy_placement_slots(&p->layer[0], r);
    bytes += stats.rows_returned * 16 * 4;
    assert_int_equal(stats.bytes_in_host + stats.bytes_between_hosts, bytes);
    if (w.size > 1) assert_true(stats.bytes_between_hosts > 0);
    free(y);
    sy_exchange_destroy(ex);
    sy_placement_destroy(p);
    close_world(&w);
}

/* A rank whose plan differs is found by all, before anything of the round is used. */
static void a_diverging_plan_is_an_error_on_all_ranks(void **state) {
    (void)state;
    scenario c = {
        .E = 8, .K = 2, .H = 16, .T = 3, .act = SY_BF16, .integers = true, .empty_rank = -1};
    for (int hosts = 0; hosts <= 2; hosts++) {
        world w = open_world(hosts, false, 1);
        sy_placement *p = make_placement(&c, w.size, 5);
        sy_exchange_shape shape = shape_of(&c, &p->layer[0]);
        sy_backend be = plain_backend(c.act);
        sy_exchange *ex = NULL;
        must(sy_exchange_create(w.comm, &be, &shape, &ex));
        tokens t = make_tokens(&c, w.rank, 0);
        void *x = to_act(&c, &t);
        int odd = w.size > 2 ? 2 : w.size - 1;
        sy_expert_rows rows;
        must(sy_dispatch_begin(ex, &p->layer[0], t.n, x, t.expert, t.weight,
                               w.rank == odd ? 0xbad : 0x600d, NULL));
        sy_status st = sy_dispatch_end(ex, &rows, NULL);
        if (w.size == 1) {
            assert_int_equal(st, SY_OK);
        } else {
            assert_int_equal(st, SY_ERR_COMM);
            assert_non_null(strstr(sy_last_error(), "runs another plan (step hash"));
            if (w.size > 2) assert_non_null(strstr(sy_last_error(), "rank 2 runs"));
            assert_int_equal(sy_combine_begin(ex, NULL, NULL), SY_ERR_INTERNAL);
        }
        free(x);
        free_tokens(&t);
        sy_exchange_destroy(ex);
        sy_placement_destroy(p);
        close_world(&w);
    }
}

static void calls_out_of_turn_are_refused(void **state) {
    (void)state;
    scenario c = {.E = 4, .K = 2, .H = 16, .T = 3, .act = SY_BF16};
    world w = open_world(0, false, 1);
    sy_placement *p = make_placement(&c, w.size, 5);
    sy_exchange_shape shape = shape_of(&c, &p->layer[0]);
    sy_backend be = plain_backend(c.act);
    sy_exchange *ex = NULL;
    sy_expert_rows rows;
    must(sy_exchange_create(w.comm, &be, &shape, &ex));
    assert_int_equal(sy_dispatch_end(ex, &rows, NULL), SY_ERR_INTERNAL);
    assert_int_equal(sy_combine_begin(ex, NULL, NULL), SY_ERR_INTERNAL);
    assert_int_equal(sy_combine_end(ex, NULL, NULL, NULL), SY_ERR_INTERNAL);
    float x[2 * 16] = {0}, weight[4] = {1, 1, 1, 1};
    int32_t twice[4] = {0, 1, 3, 3};
    assert_int_equal(sy_dispatch_begin(ex, &p->layer[0], 2, x, twice, weight, 1, NULL),
                     SY_ERR_INTERNAL);
    assert_non_null(strstr(sy_last_error(), "row 1 was routed to expert 3 twice"));
    sy_exchange_destroy(ex);
    sy_placement_destroy(p);
    close_world(&w);
}

static void shapes_that_differ_between_ranks_are_refused(void **state) {
    (void)state;
    world w = open_world(0, false, 1);
    sy_backend be = plain_backend(SY_BF16);
    sy_exchange_shape shape = {
        .max_rows = 4, .hidden = 8, .top_k = 2, .experts = 8, .act = SY_BF16, .max_slots = 8};
    sy_exchange *ex = NULL;
    if (w.rank == w.size - 1) shape.max_rows = 5;
    sy_status st = sy_exchange_create(w.comm, &be, &shape, &ex);
    assert_int_equal(st, w.size == 1 ? SY_OK : SY_ERR_COMM);
    if (w.size > 1) assert_non_null(strstr(sy_last_error(), "other shapes"));
    sy_exchange_destroy(ex);
    close_world(&w);
}

static void worst_case_sizes_are_computed_without_overflow(void **state) {
    (void)state;
    world w = open_world(0, false, 1);
    sy_exchange_shape shape = {.max_rows = 64,
                               .hidden = 1024,
                               .top_k = 8,
                               .experts = 128,
                               .act = SY_BF16,
                               .max_slots = 3};
    assert_int_equal(sy_exchange_max_pairs(w.comm, &shape), 64 * 3 * w.size);
    shape.max_slots = 128;
    assert_int_equal(sy_exchange_max_pairs(w.comm, &shape), 64 * 8 * w.size);
    uint64_t bytes = sy_exchange_bytes(w.comm, &shape);
    /* At least the rows for the experts and the rows that go home. */
    assert_true(bytes > (uint64_t)(64 * 8 * w.size) * 1024 * 2);
    shape.max_rows = 128;
    assert_true(sy_exchange_bytes(w.comm, &shape) > bytes);
    shape.max_rows = INT64_MAX / 4;
    assert_int_equal(sy_exchange_max_pairs(w.comm, &shape), INT64_MAX);
    assert_true(sy_exchange_bytes(w.comm, &shape) == UINT64_MAX);
    sy_backend be = plain_backend(SY_BF16);
    sy_exchange *ex = NULL;
    assert_int_equal(sy_exchange_create(w.comm, &be, &shape, &ex), SY_ERR_UNSUPPORTED);
    assert_null(ex);
    close_world(&w);
}

static void bench_states_bytes_and_times(void **state) {
    (void)state;
    world w = open_world(0, false, 1);
    sy_backend be = plain_backend(SY_BF16);
    sy_exchange_bench_options options = {
        .hidden = 32, .experts = 8, .top_k = 8, .max_tokens = 6, .seconds = 0.002};
    sy_exchange_bench_row row[SY_EXCHANGE_BENCH_ROWS];
    int n = 0;
    must(sy_exchange_bench(w.comm, &be, &options, row, &n));
    assert_int_equal(n, 4);
    const int64_t sweep[4] = {1, 2, 4, 6};
    for (int i = 0; i < n; i++) {
        assert_int_equal(row[i].tokens, sweep[i]);
        assert_true(row[i].exchange_s > 0 && row[i].exchange_s < 10);
        assert_true(row[i].local_s > 0 && row[i].local_s < 10);
        assert_int_equal(row[i].alltoallv_s > 0, w.size > 1);
        /* K = E = 8 contiguous: per token and rank a row there, 8 / R pairs, a row back. */
        if (8 % w.size == 0)
            assert_int_equal(row[i].bytes, (uint64_t)(sweep[i] * (w.size - 1)) *
                                               (32 * 2 + 8 / (uint64_t)w.size * 16 + 32 * 4));
    }
    options.max_tokens = 0;
    assert_int_equal(sy_exchange_bench(w.comm, &be, &options, row, &n), SY_ERR_USAGE);
    close_world(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contiguous_integers_are_exact),
        cmocka_unit_test(contiguous_floats_are_bitwise_equal),
        cmocka_unit_test(float32_rows_of_odd_width_travel),
        cmocka_unit_test(bf16_rows_of_odd_width_travel),
        cmocka_unit_test(a_rank_without_tokens_takes_part),
        cmocka_unit_test(nobody_has_tokens),
        cmocka_unit_test(experts_without_tokens),
        cmocka_unit_test(one_expert_takes_all),
        cmocka_unit_test(one_rank_computes_everything),
        cmocka_unit_test(top_1),
        cmocka_unit_test(every_expert_is_chosen),
        cmocka_unit_test(sizes_divide_nothing),
        cmocka_unit_test(more_ranks_than_experts),
        cmocka_unit_test(a_single_expert),
        cmocka_unit_test(scattered_experts_are_bitwise_equal),
        cmocka_unit_test(replicas_are_bitwise_equal),
        cmocka_unit_test(reduced_adds_the_same_numbers),
        cmocka_unit_test(reduced_floats_are_close),
        cmocka_unit_test(reduced_bf16_is_close),
        cmocka_unit_test(hundreds_of_rounds_reuse_the_buffers),
        cmocka_unit_test(long_messages_travel),
        cmocka_unit_test(two_exchanges_do_not_mix),
        cmocka_unit_test(stats_count_what_travels),
        cmocka_unit_test(a_diverging_plan_is_an_error_on_all_ranks),
        cmocka_unit_test(calls_out_of_turn_are_refused),
        cmocka_unit_test(shapes_that_differ_between_ranks_are_refused),
        cmocka_unit_test(worst_case_sizes_are_computed_without_overflow),
        cmocka_unit_test(bench_states_bytes_and_times),
    };
    /* MPI cannot start twice in a process, and each test opens a communicator of its own. */
    bool launched = getenv("OMPI_COMM_WORLD_SIZE") != NULL;
    int provided = 0;
    if (launched) MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    sy_log_set_level(SY_LOG_WARNING);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    /* A rank that failed a test stands elsewhere than the others: none may wait for it. */
    if (launched && failures > 0) MPI_Abort(MPI_COMM_WORLD, 1);
    if (launched) MPI_Finalize();
    return failures > 0;
}

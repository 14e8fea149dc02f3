/* The exchange of a device backend, with a device and a wire of plain C: the sparse form, and the
 * fixed one called directly and recorded, against the sum by its definition.
 * ranks: 1 2 3 4 5
 * timeout: 120 */
#include "device_exchange_fixture.h"

#include <mpi.h>

#include "base/log.h"
#include "comm/exchange_bench.h"
#include "fake_device.h"

/* Every way to connect the hosts of the ranks, and both ways to record. */
static void over_all_ways(scenario c, int64_t capacity) {
    c.act = SY_BF16;
    for (int way = 0; way < 3; way++) {
        world w = open_world(way == 1 ? 2 : 0, way == 2, 1);
        sy_placement *p = make_placement(&c, w.size, 31 + (uint64_t)c.E);
        fake_device be = fake_open(c.act);
        sy_exchange_shape shape = shape_of(&c, &p->layer[0]);
        sy_exchange_stats stats;
        sy_exchange *ex = NULL;
        shape.placement = p;
        shape.max_capacity = capacity;
        must(sy_exchange_create_over(w.comm, &be.base, &shape, fake_wire_open(w.comm, &be.base),
                                     &ex));
        stand *t = stand_create(&c, &w, &be.base, ex, &shape, &p->layer[0]);
        stand_run(t, capacity, way == 0, &stats);
        assert_int_equal(stats.rounds, c.rounds);
        stand_destroy(t);
        sy_exchange_destroy(ex);
        sy_placement_destroy(p);
        close_world(&w);
    }
}

static void a_case(void **state) {
    const exchange_case *e = *state;
    scenario c = e->c;
    c.H = 24;
    c.rounds = 4;
    over_all_ways(c, e->capacity);
}

static void one_row_of_odd_width_is_bitwise_equal(void **state) {
    (void)state;
    over_all_ways((scenario){.placing = SCATTERED,
                             .E = 9,
                             .K = 4,
                             .H = 19,
                             .T = 13,
                             .empty_rank = -1,
                             .rounds = 4},
                  1);
}
static void more_ranks_than_experts(void **state) {
    (void)state;
    over_all_ways((scenario){.E = 2, .K = 1, .H = 24, .T = 13, .empty_rank = -1, .rounds = 4},
                  3);
}
static void every_expert_is_chosen(void **state) {
    (void)state;
    over_all_ways((scenario){.E = 8, .K = 8, .H = 24, .T = 13, .empty_rank = -1, .rounds = 4},
                  6);
}
static void reduced_sums_travel_in_the_sparse_form(void **state) {
    (void)state;
    over_all_ways((scenario){.combine = SY_COMBINE_REDUCED,
                             .placing = SCATTERED,
                             .integers = true,
                             .E = 16,
                             .K = 6,
                             .H = 24,
                             .T = 13,
                             .empty_rank = -1,
                             .rounds = 4},
                  0);
}

typedef struct small {
    world w;
    sy_placement *p;
    fake_device be;
    sy_exchange_shape shape;
    sy_exchange *ex;
} small;

static const scenario small_scenario = {.E = 8,
                                        .K = 2,
                                        .H = 16,
                                        .T = 6,
                                        .act = SY_BF16,
                                        .integers = true,
                                        .empty_rank = -1,
                                        .rounds = 1};

static void small_open(small *s) {
    *s = (small){.w = open_world(0, false, 1), .be = fake_open(SY_BF16)};
    s->p = make_placement(&small_scenario, s->w.size, 1);
    s->shape = shape_of(&small_scenario, &s->p->layer[0]);
    s->shape.placement = s->p;
    s->shape.max_capacity = 4;
}

static void small_create(small *s) {
    must(sy_exchange_create_over(s->w.comm, &s->be.base, &s->shape,
                                 fake_wire_open(s->w.comm, &s->be.base), &s->ex));
}

static void small_close(small *s) {
    sy_exchange_destroy(s->ex);
    sy_placement_destroy(s->p);
    close_world(&s->w);
}

static void wrong_uses_of_the_fixed_form_are_refused(void **state) {
    (void)state;
    small s;
    small_open(&s);
    small_create(&s);
    stand *t = stand_create(&small_scenario, &s.w, &s.be.base, s.ex, &s.shape, &s.p->layer[0]);
    assert_int_equal(sy_exchange_set_capacity(s.ex, 5), SY_ERR_INTERNAL);
    assert_int_equal(sy_exchange_set_capacity(s.ex, -1), SY_ERR_INTERNAL);
    must(sy_exchange_set_capacity(s.ex, 4));
    stand_begin(t, 0, 4);
    must(stand_round(t, 4, 0));
    stand_check(t, 0);
    sy_expert_rows rows;
    if (s.w.size > 1) { /* recordings keep the addresses */
        assert_int_equal(
            sy_dispatch_begin(s.ex, &s.p->layer[0], 4, t->y, t->expert, t->weight, 0, NULL),
            SY_ERR_INTERNAL);
        assert_non_null(strstr(sy_last_error(), "other buffers"));
    } else {
        assert_int_equal(
            sy_dispatch_begin(s.ex, &s.p->layer[0], 3, t->x, t->expert, t->weight, 0, NULL),
            SY_ERR_INTERNAL);
        assert_non_null(strstr(sy_last_error(), "3 rows in a fixed exchange of 4"));
    }
    assert_int_equal(sy_dispatch_end(s.ex, &rows, NULL), SY_ERR_INTERNAL);
    stand_destroy(t);
    small_close(&s);
}

static void shapes_that_a_device_cannot_serve_are_refused(void **state) {
    (void)state;
    small s;
    small_open(&s);
    s.shape.combine = SY_COMBINE_REDUCED_BF16;
    assert_int_equal(sy_exchange_create_over(s.w.comm, &s.be.base, &s.shape, NULL, &s.ex),
                     SY_ERR_UNSUPPORTED);
    assert_non_null(strstr(sy_last_error(), "bf16"));
    s.shape.combine = SY_COMBINE_EXACT;
    s.shape.max_capacity = 7;
    assert_int_equal(sy_exchange_create_over(s.w.comm, &s.be.base, &s.shape, NULL, &s.ex),
                     SY_ERR_INTERNAL);
    small_close(&s);
}

static void the_bench_refuses_a_device(void **state) {
    (void)state;
    small s;
    small_open(&s);
    sy_exchange_bench_options options = {
        .hidden = 32, .experts = 8, .top_k = 2, .max_tokens = 2, .seconds = 0.001};
    sy_exchange_bench_row row[SY_EXCHANGE_BENCH_ROWS];
    int n = 0;
    assert_int_equal(sy_exchange_bench(s.w.comm, &s.be.base, &options, row, &n),
                     SY_ERR_UNSUPPORTED);
    small_close(&s);
}

static void loads_are_counted_on_the_device(void **state) {
    (void)state;
    small s;
    small_open(&s);
    small_create(&s);
    stand *t = stand_create(&small_scenario, &s.w, &s.be.base, s.ex, &s.shape, &s.p->layer[0]);
    must(sy_exchange_set_capacity(s.ex, 4));
    uint64_t rows_here = 0, active = 0;
    for (int round = 0; round < 3; round++) {
        if (round < 2) sy_exchange_set_load(s.ex, t->load); /* the third is not counted */
        stand_begin(t, round, 4);
        must(stand_round(t, 4, 0));
        int32_t *unused, *first = stand_first(t, &unused);
        if (round < 2) {
            rows_here += (uint64_t)first[t->rows.n_slots];
            for (int i = 0; i < t->rows.n_slots; i++)
                active += first[i + 1] > first[i];
        }
        free(first);
        free(unused);
        stand_check(t, round);
    }
    uint64_t *load = stand_read(t, t->load, 9 * sizeof *load), sum = 0;
    for (int i = 0; i < 8; i++)
        sum += load[i];
    assert_int_equal(sum, rows_here);
    assert_int_equal(load[8], active);
    free(load);
    stand_destroy(t);
    small_close(&s);
}

static void a_probe_tells_whether_exchanges_can_be_recorded(void **state) {
    (void)state;
    small s;
    bool works = false;
    small_open(&s);
    small_create(&s);
    must(sy_exchange_probe_capture(s.ex, 5, &works));
    assert_true(works);
    small_close(&s);
}

static void rounds_of_a_replayed_step_are_counted(void **state) {
    (void)state;
    small s;
    small_open(&s);
    small_create(&s);
    stand *t = stand_create(&small_scenario, &s.w, &s.be.base, s.ex, &s.shape, &s.p->layer[0]);
    must(sy_exchange_set_capacity(s.ex, 2));
    for (int i = 0; i < 3; i++) { /* a step of three layers */
        stand_begin(t, i, 2);
        must(stand_round(t, 2, 0));
        stand_check(t, i);
    }
    must(sy_exchange_set_capacity(s.ex, 0));
    sy_exchange_stats stats;
    sy_exchange_count_fixed(s.ex, 2, 0);
    sy_exchange_count_fixed(s.ex, 2, 1);
    sy_exchange_get_stats(s.ex, &stats);
    assert_int_equal(stats.rounds, 6);
    assert_int_equal(stats.tokens_sent, 6 * 2 * (s.w.size - 1));
    /* Rows of 16 bf16, two choices of 8 bytes; S rows of 16 floats come back. */
    int S = sy_plan_placed_segments(s.p, 2);
    assert_int_equal(stats.rows_returned, 6 * 2 * S * (s.w.size - 1));
    assert_int_equal(stats.bytes_in_host + stats.bytes_between_hosts,
                     6 * 2 * (s.w.size - 1) * (16 * 2 + 2 * 8 + S * 16 * 4));
    stand_destroy(t);
    small_close(&s);
}

#ifndef SY_WITH_CUDA
static void several_ranks_need_nccl(void **state) {
    (void)state;
    small s;
    small_open(&s);
    sy_status st = sy_exchange_create(s.w.comm, &s.be.base, &s.shape, &s.ex);
    assert_int_equal(st, s.w.size > 1 ? SY_ERR_UNSUPPORTED : SY_OK);
    if (s.w.size > 1) assert_non_null(strstr(sy_last_error(), "without NCCL"));
    small_close(&s);
}
#endif

/* The most segments that any of many drawn tokens has on one rank. */
static int64_t observed_segments(const scenario *c, const sy_placement *p, int R) {
    sy_plan_shape shape = {
        .max_rows = 1, .n_ranks = R, .top_k = c->K, .max_slots = c->E, .max_experts = c->E};
    sy_plan plan;
    int64_t most = 0;
    uint64_t seed = 5;
    float weight[64] = {0};
    int32_t expert[64];
    must(sy_plan_create(&shape, 0, &plan));
    for (int i = 0; i < 3000; i++) {
        draw_experts(c, &seed, expert);
        must(sy_plan_build(&plan, &p->layer[0], 1, expert, weight));
        for (int r = 0; r < R; r++)
            if (plan.n_segments[r] > most) most = plan.n_segments[r];
    }
    sy_plan_destroy(&plan);
    return most;
}

static void segments_stay_within_the_placements_bound(void **state) {
    (void)state;
    for (int R = 1; R <= 6; R++)
        for (int E = 2; E <= 12; E += 5)
            for (int kind = CONTIGUOUS; kind <= ALL_ON_LAST; kind++) {
                scenario c = {.E = E, .K = E < 5 ? E : 5, .placing = (placing)kind};
                sy_placement *p = make_placement(&c, R, (uint64_t)(R * E));
                int bound = sy_plan_placed_segments(p, c.K);
                assert_true(bound >= 1 && bound <= c.K);
                assert_true(observed_segments(&c, p, R) <= bound);
                sy_placement_destroy(p);
            }
}

static void whole_subtrees_return_one_row(void **state) {
    (void)state;
    int E = 16;
    sy_placement *p = NULL;
    must(sy_placement_contiguous(1, &E, 4, &p));
    assert_int_equal(sy_plan_placed_segments(p, 8), 1);
    sy_placement_destroy(p);
    must(sy_placement_contiguous(1, &E, 3, &p)); /* 0-4, 5-9, 10-15: 5, 67, 89 are three */
    assert_int_equal(sy_plan_placed_segments(p, 8), 3);
    assert_int_equal(sy_plan_placed_segments(p, 2), 2);
    sy_placement_destroy(p);
}

int main(void) {
    struct CMUnitTest cases[EXCHANGE_CASES];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_row_of_odd_width_is_bitwise_equal),
        cmocka_unit_test(more_ranks_than_experts),
        cmocka_unit_test(every_expert_is_chosen),
        cmocka_unit_test(reduced_sums_travel_in_the_sparse_form),
        cmocka_unit_test(wrong_uses_of_the_fixed_form_are_refused),
        cmocka_unit_test(shapes_that_a_device_cannot_serve_are_refused),
        cmocka_unit_test(the_bench_refuses_a_device),
        cmocka_unit_test(loads_are_counted_on_the_device),
        cmocka_unit_test(a_probe_tells_whether_exchanges_can_be_recorded),
        cmocka_unit_test(rounds_of_a_replayed_step_are_counted),
#ifndef SY_WITH_CUDA
        cmocka_unit_test(several_ranks_need_nccl),
#endif
        cmocka_unit_test(segments_stay_within_the_placements_bound),
        cmocka_unit_test(whole_subtrees_return_one_row),
    };
    /* MPI cannot start twice in a process, and each test opens a communicator of its own. */
    bool launched = getenv("OMPI_COMM_WORLD_SIZE") != NULL;
    int provided = 0;
    if (launched) MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    sy_log_set_level(SY_LOG_WARNING);
    add_exchange_cases(cases, a_case);
    int failures = cmocka_run_group_tests_name("cases", cases, NULL, NULL) +
                   cmocka_run_group_tests(tests, NULL, NULL);
    /* A rank that failed a test stands elsewhere than the others: none may wait for it. */
    if (launched && failures > 0) MPI_Abort(MPI_COMM_WORLD, 1);
    if (launched) MPI_Finalize();
    return failures > 0;
}

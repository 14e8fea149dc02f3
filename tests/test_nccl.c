/* The exchange of the CUDA table over NCCL, both emulated: the same bits as by the definition, in
 * both forms, and ranks that stop, hang or diverge are named by all within the deadline.
 * ranks: 1 2 3 4
 * timeout: 240 */
#include "device_exchange_fixture.h"

#include <mpi.h>
#include <sched.h>
#include <stdio.h>

#ifdef SY_CUDA_EMULATED
#include "base/clock.h"
#include "base/log.h"
#include "comm/device_wire.h"
#include "comm/nccl_log.h"
#include "comm/plan.h"
#include "emulation/emulation.h"
#include "kernels/cuda/open.h"

typedef struct rig {
    world w;
    sy_placement *p;
    sy_backend *be;
    sy_exchange_shape shape;
    sy_exchange *ex;
} rig;

static void rig_open(rig *g, const scenario *c, int64_t capacity, double deadline) {
    *g = (rig){.w = open_world(0, false, 1)};
    g->p = make_placement(c, g->w.size, 31 + (uint64_t)c->E);
    g->shape = shape_of(c, &g->p->layer[0]);
    g->shape.placement = g->p;
    g->shape.max_capacity = capacity;
    g->shape.deadline = deadline;
    must(sy_cuda_open(SY_BF16, 0, &g->be));
    sy_limits limits = {.max_rows = c->T,
                        .max_pairs = sy_exchange_max_pairs(g->w.comm, &g->shape),
                        .max_context = 64,
                        .hidden = c->H,
                        .heads = 1,
                        .kv_heads = 1,
                        .head_dim = 64,
                        .max_inter = 64,
                        .experts = c->E,
                        .top_k = c->K,
                        .vocab = 64};
    must(g->be->ops->reserve(g->be, &limits));
    must(sy_exchange_create(g->w.comm, g->be, &g->shape, &g->ex));
}

static void rig_close(rig *g) {
    sy_exchange_destroy(g->ex);
    g->be->ops->close(g->be);
    sy_placement_destroy(g->p);
    close_world(&g->w);
}

static void run(scenario c, int64_t capacity) {
    c.act = SY_BF16;
    for (int captured = 0; captured < 2; captured++) {
        rig g;
        sy_exchange_stats stats;
        rig_open(&g, &c, capacity, 60);
        stand *t = stand_create(&c, &g.w, g.be, g.ex, &g.shape, &g.p->layer[0]);
        stand_run(t, capacity, captured, &stats);
        stand_destroy(t);
        rig_close(&g);
        if (capacity == 0) break;
    }
}

static void a_case(void **state) {
    const exchange_case *e = *state;
    scenario c = e->c;
    c.H = 64;
    c.rounds = 3;
    run(c, e->capacity);
}

static void rows_longer_than_the_rings_travel(void **state) {
    (void)state;
    scenario c = {.E = 8, .K = 2, .H = 2048, .T = 40, .empty_rank = -1, .rounds = 2};
    run(c, 8);
}

static const scenario small_scenario =
    {.E = 8, .K = 2, .H = 64, .T = 6, .act = SY_BF16, .integers = true, .empty_rank = -1};

/* Fixed rounds of two rows, whose sums mean nothing, without a wait between them. */
static void enqueue_rounds(stand *t, int n) {
    sy_expert_rows rows;
    must(sy_exchange_set_capacity(t->ex, 2));
    stand_begin(t, 0, 2);
    for (int i = 0; i < n; i++) {
        must(sy_dispatch_begin(t->ex, t->layer, 2, t->x, t->expert, t->weight, 0, NULL));
        must(sy_dispatch_end(t->ex, &rows, NULL));
        must(sy_combine_begin(t->ex, t->y, NULL));
        must(sy_combine_end(t->ex, NULL, t->out, NULL));
    }
    for (int r = 0; r < t->w->size; r++)
        free_tokens(&t->all[r]);
}

/* This rank ends with an error that names one and says what is wrong with it, within seconds. */
static void expect_error(rig *g, double begin, const char *who, const char *what) {
    sy_status st = sy_exchange_synchronize(g->ex);
    const char *text = sy_last_error();
    if (st != SY_ERR_PEER || strstr(text, who) == NULL || strstr(text, what) == NULL)
        fail_msg("rank %d: %s: %s", g->w.rank, sy_status_name(st), text);
    assert_true(sy_now() - begin < 8);
    /* Nothing is left to do with it but the end, which does not wait. */
    assert_int_equal(sy_dispatch_begin(g->ex, &g->p->layer[0], 0, NULL, NULL, NULL, 0, NULL),
                     SY_ERR_INTERNAL);
}

static void a_rank_that_does_not_come_is_named(void **state) {
    (void)state;
    for (int odd = 0; odd < 2; odd++) {
        rig g;
        char text[64];
        rig_open(&g, &small_scenario, 4, 0.7);
        if (g.w.size > 1) {
            stand *t =
                stand_create(&small_scenario, &g.w, g.be, g.ex, &g.shape, &g.p->layer[0]);
            double begin = sy_now();
            snprintf(text, sizeof text, "rank %d on host", odd);
            if (g.w.rank == odd) {
                while (sy_now() < begin + 4)
                    sched_yield();
            } else {
                enqueue_rounds(t, 2);
                expect_error(&g, begin, text, "is behind and does not answer");
            }
            stand_destroy(t);
        }
        rig_close(&g);
    }
}

static void a_device_that_hangs_is_named(void **state) {
    (void)state;
    rig g;
    setenv("SY_EMU_NCCL_STALL", "1,5", 1); /* two at the start, two of the first round */
    rig_open(&g, &small_scenario, 4, 0.7);
    unsetenv("SY_EMU_NCCL_STALL");
    if (g.w.size > 1) {
        stand *t = stand_create(&small_scenario, &g.w, g.be, g.ex, &g.shape, &g.p->layer[0]);
        double begin = sy_now();
        enqueue_rounds(t, 3);
        expect_error(&g, begin, "the device of rank 1 on host",
                     "is behind: it has done 4 exchanges");
        stand_destroy(t);
    }
    rig_close(&g);
}

/* All ranks end soon, and all name rank `odd`; -1: of two, the other. */
static void expect_parting(sy_status st, double begin, int odd, const char *what) {
    char who[48];
    const char *text = sy_last_error();
    snprintf(who, sizeof who, "rank %d on host", odd);
    if (odd < 0) snprintf(who, sizeof who, "does not call as this one does");
    if (st != SY_ERR_PEER || strstr(text, who) == NULL || strstr(text, what) == NULL)
        fail_msg("%s: %s", sy_status_name(st), text);
    assert_true(sy_now() - begin < 8);
}

/* What NCCL would not notice: the stand-in does, and all ranks hear of it. */
static void a_rank_whose_sizes_differ_is_named(void **state) {
    (void)state;
    rig g;
    rig_open(&g, &small_scenario, 4, 30);
    if (g.w.size > 1) {
        stand *t = stand_create(&small_scenario, &g.w, g.be, g.ex, &g.shape, &g.p->layer[0]);
        double begin = sy_now();
        sy_expert_rows rows;
        int64_t n = g.w.rank == 1 ? 3 : 2;
        must(sy_exchange_set_capacity(g.ex, n));
        must(sy_dispatch_begin(g.ex, t->layer, n, t->x, t->expert, t->weight, 0, NULL));
        must(sy_dispatch_end(g.ex, &rows, NULL));
        expect_parting(sy_exchange_synchronize(g.ex), begin, g.w.size == 2 ? -1 : 1,
                       "as call ");
        stand_destroy(t);
    }
    rig_close(&g);
    emu_forget_problems();
}

enum { BLOCK = 64 };

static void gather(sy_device_wire *wire, const world *w, char *memory) {
    sy_device_wire_gather g = {memory, memory + w->size * BLOCK, BLOCK};
    must(wire->ops->all_gather(wire, 1, &g));
}

static void send_around(sy_device_wire *wire, const world *w, char *memory) {
    sy_device_wire_part part[8];
    int n = 0;
    for (int r = 0; r < w->size; r++)
        if (r != w->rank)
            part[n++] =
                (sy_device_wire_part){r, memory, BLOCK, memory + (w->size + r) * BLOCK, BLOCK};
    must(wire->ops->exchange(wire, n, part));
}

/* After some calls that all make alike, one rank gathers before it sends. */
static void a_rank_that_calls_in_another_order_is_named(void **state) {
    (void)state;
    world w = open_world(0, false, 1);
    for (int odd = 0; odd < w.size && w.size > 1; odd++) {
        sy_backend *be = NULL;
        sy_device_wire *wire = NULL;
        char *memory = NULL;
        uint64_t bytes = (uint64_t)w.size * 2 * BLOCK;
        must(sy_cuda_open(SY_BF16, 0, &be));
        must(be->ops->alloc(be, (void **)&memory, bytes, "rows"));
        must(sy_device_wire_open(w.comm, be, 30, &wire));
        for (int i = 0; i < 40; i++)
            send_around(wire, &w, memory);
        must(wire->ops->wait(wire, 30, false));
        double begin = sy_now();
        if (w.rank == odd) gather(wire, &w, memory);
        send_around(wire, &w, memory);
        if (w.rank != odd) gather(wire, &w, memory);
        sy_status st = wire->ops->wait(wire, 30, false);
        expect_parting(st, begin, w.size == 2 ? -1 : odd, "as call 41 between devices it ");
        if (w.size > 2) assert_non_null(strstr(sy_last_error(), "it gathers 64 bytes of each"));
        wire->ops->destroy(wire);
        be->ops->free(be, memory, bytes);
        be->ops->close(be);
        emu_forget_problems();
    }
    close_world(&w);
}

static void ranks_that_end_in_the_middle_do_not_hang(void **state) {
    (void)state;
    rig g;
    rig_open(&g, &small_scenario, 4, 30);
    stand *t = stand_create(&small_scenario, &g.w, g.be, g.ex, &g.shape, &g.p->layer[0]);
    double begin = sy_now();
    if (g.w.rank > 0) enqueue_rounds(t, 2);
    sy_exchange_destroy(g.ex); /* with work under way that can never end */
    assert_true(sy_now() - begin < 10);
    g.ex = NULL;
    stand_destroy(t);
    rig_close(&g);
}

static void probe(const char *name, const char *value, bool expected) {
    rig g;
    bool works = !expected;
    if (name != NULL) setenv(name, value, 1);
    rig_open(&g, &small_scenario, 4, 30);
    must(sy_exchange_probe_capture(g.ex, 0.5, &works));
    if (name != NULL) unsetenv(name);
    assert_int_equal(works, expected || g.w.size == 1);
    if (name == NULL || strstr(name, "CAPTURE") != NULL) { /* it goes on as ever */
        stand *t = stand_create(&small_scenario, &g.w, g.be, g.ex, &g.shape, &g.p->layer[0]);
        must(sy_exchange_set_capacity(g.ex, 4));
        stand_begin(t, 1, 4);
        must(stand_round(t, 4, 0));
        stand_check(t, 1);
        stand_destroy(t);
    }
    rig_close(&g);
}

static void a_probe_finds_that_exchanges_can_be_recorded(void **state) {
    (void)state;
    probe(NULL, NULL, true);
}
static void a_probe_finds_that_exchanges_cannot_be_recorded(void **state) {
    (void)state;
    probe("SY_EMU_NCCL_NO_CAPTURE", "1", false);
}
static void a_probe_ends_when_a_recorded_exchange_hangs(void **state) {
    (void)state;
    probe("SY_EMU_NCCL_STALL", "1,3", false);
}

static void logs_tell_the_network(void **state) {
    (void)state;
    char name[32];
    assert_null(
        sy_nccl_log_network("NCCL INFO Channel 00/0 : 0[0] -> 1[0] via P2P/IPC\n", name));
    const char *ib = "Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0(1)/GDRDMA\n";
    assert_string_equal(sy_nccl_log_network(ib, name), "IB");
    const char *mixed = "x [send] via NET/Socket/1\nx [receive] via NET/IB/0\n";
    assert_string_equal(sy_nccl_log_network(mixed, name), "Socket");
    assert_null(sy_nccl_log_network("via NET/", name));
    assert_null(
        sy_nccl_log_network("via NET/aNameThatIsLongerThanAnyNetworkOfNcclHasEverHad/0", name));
}

int main(void) {
    struct CMUnitTest cases[EXCHANGE_CASES];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_longer_than_the_rings_travel),
        cmocka_unit_test(a_rank_that_does_not_come_is_named),
        cmocka_unit_test(a_device_that_hangs_is_named),
        cmocka_unit_test(a_rank_whose_sizes_differ_is_named),
        cmocka_unit_test(a_rank_that_calls_in_another_order_is_named),
        cmocka_unit_test(ranks_that_end_in_the_middle_do_not_hang),
        cmocka_unit_test(a_probe_finds_that_exchanges_can_be_recorded),
        cmocka_unit_test(a_probe_finds_that_exchanges_cannot_be_recorded),
        cmocka_unit_test(a_probe_ends_when_a_recorded_exchange_hangs),
        cmocka_unit_test(logs_tell_the_network),
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

#else

int main(void) {
    printf("skipped: needs the emulated device and NCCL (SY_CUDA=EMULATED)\n");
    return 77;
}

#endif

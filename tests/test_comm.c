/* Ranks, hosts and collectives.
 * ranks: 1 2 3 5 8 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/pool.h"
#include "comm/comm.h"
#include "comm/fd_pass.h"

static void must(sy_status st) {
    if (st != SY_OK) fail_msg("%s: %s", sy_status_name(st), sy_last_error());
}

static sy_comm *open_comm(int virtual_hosts, bool no_shared_memory, int threads) {
    sy_comm_options options = {virtual_hosts, no_shared_memory, threads};
    sy_comm *comm = NULL;
    must(sy_comm_create(&options, &comm));
    return comm;
}

static void ranks_of_one_machine_are_one_host(void **state) {
    (void)state;
    sy_comm *comm = open_comm(0, false, 1);
    char name[256];
    assert_int_equal(gethostname(name, sizeof name), 0);
    assert_int_equal(sy_comm_n_hosts(comm), 1);
    assert_in_range(sy_comm_rank(comm), 0, sy_comm_size(comm) - 1);
    for (int r = 0; r < sy_comm_size(comm); r++) {
        assert_int_equal(sy_comm_host(comm, r), 0);
        assert_int_equal(strncmp(sy_comm_host_name(comm, r), name, 60), 0);
        assert_true(sy_comm_shares_memory(comm, r, 0));
    }
    sy_comm_destroy(comm);
}

static void virtual_hosts_are_contiguous_blocks(void **state) {
    (void)state;
    for (int H = 1; H <= 10; H++) {
        sy_comm *comm = open_comm(H, false, 1);
        int R = sy_comm_size(comm), blocks = H < R ? H : R;
        assert_int_equal(sy_comm_n_hosts(comm), blocks);
        for (int r = 0; r < R; r++) {
            assert_int_equal(sy_comm_host(comm, r), r * blocks / R);
            assert_int_equal(sy_comm_machine_size(comm, r), R); /* one machine all the same */
            const char *mark = strchr(sy_comm_host_name(comm, r), '#');
            if (blocks == 1)
                assert_null(mark);
            else
                assert_int_equal(atoi(mark + 1), r * blocks / R);
            for (int s = 0; s < R; s++)
                assert_int_equal(sy_comm_shares_memory(comm, r, s),
                                 sy_comm_host(comm, r) == sy_comm_host(comm, s));
        }
        sy_comm_destroy(comm);
    }
}

static void the_first_ranks_form_a_world_of_their_own(void **state) {
    (void)state;
    sy_comm *comm = open_comm(2, false, 1), *first;
    int R = sy_comm_size(comm), me = sy_comm_rank(comm);
    for (int n = 1; n <= R; n++) {
        must(sy_comm_create_first(comm, n, &first));
        assert_int_equal(first != NULL, me < n);
        if (first != NULL) {
            int all[64];
            assert_int_equal(sy_comm_size(first), n);
            assert_int_equal(sy_comm_rank(first), me);
            assert_int_equal(sy_comm_n_hosts(first), n < 2 ? 1 : 2);
            assert_int_equal(sy_comm_host(first, n - 1), n < 2 ? 0 : 1);
            must(sy_comm_all_gather(first, &me, sizeof me, all));
            for (int r = 0; r < n; r++)
                assert_int_equal(all[r], r);
        }
        sy_comm_destroy(first);
        must(sy_comm_barrier(comm));
    }
    assert_int_equal(sy_comm_create_first(comm, R + 1, &first), SY_ERR_INTERNAL);
    sy_comm_destroy(comm);
}

static void without_shared_memory_each_rank_is_alone(void **state) {
    (void)state;
    sy_comm *comm = open_comm(0, true, 1);
    for (int r = 0; r < sy_comm_size(comm); r++)
        assert_int_equal(sy_comm_shares_memory(comm, 0, r), r == 0);
    assert_int_equal(sy_comm_n_hosts(comm), 1);
    sy_comm_destroy(comm);
}

static void negative_virtual_hosts_are_refused(void **state) {
    (void)state;
    sy_comm_options options = {-1, false, 1};
    sy_comm *comm = NULL;
    assert_int_equal(sy_comm_create(&options, &comm), SY_ERR_USAGE);
    assert_null(comm);
}

static void options_must_be_equal_on_all_ranks(void **state) {
    (void)state;
    sy_comm *probe = open_comm(0, false, 1);
    int rank = sy_comm_rank(probe), size = sy_comm_size(probe);
    sy_comm_destroy(probe);
    sy_comm_options options = {rank == size - 1 ? 2 : 0, false, 1};
    sy_comm *comm = NULL;
    assert_int_equal(sy_comm_create(&options, &comm), size == 1 ? SY_OK : SY_ERR_COMM);
    sy_comm_destroy(comm);
}

static void waiters_spin_only_with_a_core_each(void **state) {
    (void)state;
    int cores = sy_cores_available();
    sy_comm *comm = open_comm(0, false, 1);
    int R = sy_comm_size(comm);
    assert_int_equal(sy_comm_may_spin(comm), R <= cores);
    sy_comm_destroy(comm);
    comm = open_comm(0, false, cores + 1);
    assert_false(sy_comm_may_spin(comm));
    sy_comm_destroy(comm);
    /* Virtual hosts have no cores of their own. */
    comm = open_comm(R, false, cores);
    assert_int_equal(sy_comm_may_spin(comm), R == 1);
    sy_comm_destroy(comm);
}

static void collectives_move_the_bytes(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 5, 4096, 300001};
    sy_comm *comm = open_comm(0, false, 1);
    int R = sy_comm_size(comm), me = sy_comm_rank(comm);
    unsigned char *mine = malloc(300001), *all = malloc(300001 * (size_t)R);
    assert_true(mine != NULL && all != NULL);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i];
        for (int root = 0; root < R; root++) {
            for (size_t b = 0; b < n; b++)
                mine[b] = (unsigned char)(me == root ? b * 7 + 1 : 0);
            must(sy_comm_broadcast(comm, mine, n, root));
            for (size_t b = 0; b < n; b++)
                assert_int_equal(mine[b], (unsigned char)(b * 7 + 1));
            for (size_t b = 0; b < n; b++)
                mine[b] = (unsigned char)((size_t)me * 31 + b);
            memset(all, 0, n * (size_t)R);
            must(sy_comm_gather(comm, mine, n, all, root));
            for (size_t b = 0; me == root && b < n * (size_t)R; b++)
                assert_int_equal(all[b], (unsigned char)(b / n * 31 + b % n));
        }
        memset(all, 0, n * (size_t)R);
        must(sy_comm_all_gather(comm, mine, n, all));
        for (size_t b = 0; b < n * (size_t)R; b++)
            assert_int_equal(all[b], (unsigned char)(b / n * 31 + b % n));
        must(sy_comm_barrier(comm));
    }
    assert_int_equal(sy_comm_all_gather(comm, mine, (size_t)1 << 31, all), SY_ERR_INTERNAL);
    free(mine);
    free(all);
    sy_comm_destroy(comm);
}

static void agreement_without_a_fault_is_success(void **state) {
    (void)state;
    sy_comm *comm = open_comm(0, false, 1);
    for (int i = 0; i < 50; i++)
        must(sy_comm_agree(comm, SY_OK));
    sy_comm_destroy(comm);
}

/* Each rank in turn is the one that failed; all learn of it, with its text and number. */
static void agreement_hands_the_text_to_all(void **state) {
    (void)state;
    sy_comm *comm = open_comm(0, false, 1);
    int R = sy_comm_size(comm), me = sy_comm_rank(comm);
    for (int bad = 0; bad < R; bad++) {
        sy_status mine = SY_OK;
        sy_fail(SY_OK, "an old text");
        if (me == bad) mine = sy_fail(SY_ERR_FORMAT, "shard %d is broken", bad);
        assert_int_equal(sy_comm_agree(comm, mine), SY_ERR_FORMAT);
        char expected[64];
        snprintf(expected, sizeof expected,
                 R == 1 ? "shard %d is broken" : "rank %d: shard %d is broken", bad, bad);
        assert_string_equal(sy_last_error(), expected);
    }
    sy_comm_destroy(comm);
}

/* All ranks fail: the cause speaks, not those who only saw a peer go; then the lowest rank. */
static void agreement_prefers_a_cause(void **state) {
    (void)state;
    sy_comm *comm = open_comm(0, false, 1);
    int R = sy_comm_size(comm), me = sy_comm_rank(comm);
    sy_status mine = me == 0 && R > 1 ? SY_ERR_PEER : me == 1 ? SY_ERR_COMM : SY_ERR_MEMORY;
    sy_fail(mine, "fault %d", me);
    sy_status st = sy_comm_agree(comm, mine);
    if (R > 2) {
        assert_int_equal(st, SY_ERR_MEMORY);
        assert_string_equal(sy_last_error(), "rank 2: fault 2");
    } else if (R == 2) {
        assert_int_equal(st, SY_ERR_PEER);
        assert_string_equal(sy_last_error(), "rank 0: fault 0");
    }
    mine = sy_fail(me == R - 1 ? SY_ERR_INTERRUPTED : SY_ERR_IO, "fault %d", me);
    assert_int_equal(sy_comm_agree(comm, mine), SY_ERR_INTERRUPTED);
    sy_comm_destroy(comm);
}

/* Descriptors arrive from the right rank, also when more ranks send than a socket queues. */
static void descriptors_pass_between_the_ranks(void **state) {
    (void)state;
    sy_comm *comm = open_comm(2, false, 1);
    int R = sy_comm_size(comm), me = sy_comm_rank(comm);
    int ends[2], received[64];
    bool wanted[64] = {false};
    assert_true(R <= 64);
    assert_int_equal(pipe(ends), 0);
    for (int i = 0; i < R; i++)
        assert_int_equal(write(ends[1], &me, sizeof me), sizeof me);
    for (int r = 0; r < R; r++)
        wanted[r] = r != me && sy_comm_host(comm, r) == sy_comm_host(comm, me);
    must(sy_fd_pass(comm, ends[0], wanted, received));
    for (int r = 0; r < R; r++) {
        int from = -1;
        assert_int_equal(received[r] >= 0, wanted[r]);
        if (received[r] < 0) continue;
        assert_int_equal(read(received[r], &from, sizeof from), sizeof from);
        assert_int_equal(from, r);
        close(received[r]);
    }
    /* Nobody has one to send: nobody waits. */
    must(sy_fd_pass(comm, -1, wanted, received));
    for (int r = 0; r < R; r++)
        assert_int_equal(received[r], -1);
    close(ends[0]);
    close(ends[1]);
    sy_comm_destroy(comm);
}

/* srun with a process interface that MPI does not know: every process is alone. */
static void a_world_of_one_where_more_were_launched_is_refused(void **state) {
    (void)state;
    sy_comm *comm = open_comm(0, false, 1);
    int size = sy_comm_size(comm);
    sy_comm_destroy(comm);
    if (size > 1) {
        print_message("skipped: concerns a process that is alone\n");
        skip();
    }
    sy_comm_options options = {0, false, 1};
    setenv("SLURM_NTASKS", "4", 1);
    comm = open_comm(0, false, 1); /* a batch script has this too */
    sy_comm_destroy(comm);
    setenv("SLURM_STEP_ID", "0", 1);
    assert_int_equal(sy_comm_create(&options, &comm), SY_ERR_COMM);
    assert_non_null(strstr(sy_last_error(), "SLURM_NTASKS is 4"));
    assert_null(comm);
    unsetenv("SLURM_NTASKS");
    unsetenv("SLURM_STEP_ID");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_of_one_machine_are_one_host),
        cmocka_unit_test(virtual_hosts_are_contiguous_blocks),
        cmocka_unit_test(the_first_ranks_form_a_world_of_their_own),
        cmocka_unit_test(without_shared_memory_each_rank_is_alone),
        cmocka_unit_test(negative_virtual_hosts_are_refused),
        cmocka_unit_test(options_must_be_equal_on_all_ranks),
        cmocka_unit_test(waiters_spin_only_with_a_core_each),
        cmocka_unit_test(collectives_move_the_bytes),
        cmocka_unit_test(agreement_without_a_fault_is_success),
        cmocka_unit_test(agreement_hands_the_text_to_all),
        cmocka_unit_test(agreement_prefers_a_cause),
        cmocka_unit_test(descriptors_pass_between_the_ranks),
        cmocka_unit_test(a_world_of_one_where_more_were_launched_is_refused),
    };
    /* MPI cannot start twice in a process, and each test opens a communicator of its own. */
    bool launched = getenv("OMPI_COMM_WORLD_SIZE") != NULL;
    int provided = 0;
    if (launched) MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    sy_log_set_level(SY_LOG_WARNING);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    if (launched && failures > 0) MPI_Abort(MPI_COMM_WORLD, 1);
    if (launched) MPI_Finalize();
    return failures > 0;
}

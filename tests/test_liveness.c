/* The clocks of the watch, and an orderly life of the side threads. That a rank which dies, stops
 * or hangs ends the others is tested by cli_failures.sh.
 * ranks: 1 2 3 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "comm/comm.h"
#include "comm/liveness.h"
#include "comm/liveness_process.h"
#include "comm/liveness_watch.h"

#define SECOND ((int64_t)1000000000)
#define STEP (SECOND / 2)

static void nap_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* ---- the clocks ---- */

/* A watch over n ranks with a deadline of 10 s, all seen once. */
static void watch_open(sy_watch *w, int n, sy_beat *beats) {
    assert_int_equal(sy_watch_init(w, n, 10 * SECOND, STEP, 0), SY_OK);
    memset(beats, 0, (size_t)n * sizeof *beats);
    for (int i = 0; i < n; i++)
        sy_watch_see(w, i, &beats[i]);
}

/* Lets time pass in steps; the ranks of the mask beat. */
static void pass(sy_watch *w, double seconds, sy_beat *beats, unsigned beating) {
    for (int64_t end = w->clock_ns + (int64_t)(seconds * 1e9); w->clock_ns < end;) {
        sy_watch_time(w, w->clock_ns + STEP);
        for (int i = 0; i < w->n_ranks; i++) {
            if ((beating >> i & 1) == 0) continue;
            beats[i].beat++;
            sy_watch_see(w, i, &beats[i]);
        }
    }
}

static void expect(const sy_watch *w, sy_verdict_kind kind, int rank) {
    sy_verdict v = sy_watch_judge(w);
    assert_int_equal(v.kind, kind);
    if (kind != SY_VERDICT_NONE) assert_int_equal(v.rank, rank);
}

static void silence_counts_from_the_last_beat(void **state) {
    (void)state;
    sy_watch w;
    sy_beat beats[3];
    char line[200];
    watch_open(&w, 3, beats);
    pass(&w, 100, beats, 7);
    expect(&w, SY_VERDICT_NONE, -1);
    pass(&w, 10, beats, 5);
    expect(&w, SY_VERDICT_NONE, -1);
    pass(&w, 1, beats, 5);
    expect(&w, SY_VERDICT_SILENT, 1);
    sy_watch_describe(&w, sy_watch_judge(&w), "node7", line, sizeof line);
    assert_string_equal(line,
                        "rank 1 on host node7 has not answered for 10.0 s (stopped or hung?)");
    sy_watch_free(&w);
}

static void a_stop_of_the_observer_does_not_count(void **state) {
    (void)state;
    sy_watch w;
    sy_beat beats[2];
    watch_open(&w, 2, beats);
    pass(&w, 8, beats, 1);
    sy_watch_time(&w, w.clock_ns + 3600 * SECOND); /* Ctrl-Z for an hour */
    expect(&w, SY_VERDICT_NONE, -1);
    sy_watch_time(&w, w.clock_ns - SECOND); /* never backwards */
    expect(&w, SY_VERDICT_NONE, -1);
    pass(&w, 2, beats, 1);
    expect(&w, SY_VERDICT_SILENT, 1);
    sy_watch_free(&w);
}

static void a_rank_never_seen_is_not_judged(void **state) {
    (void)state;
    sy_watch w;
    sy_beat beats[2] = {0};
    assert_int_equal(sy_watch_init(&w, 2, 10 * SECOND, STEP, 0), SY_OK);
    pass(&w, 100, beats, 1);
    expect(&w, SY_VERDICT_NONE, -1);
    sy_watch_free(&w);
}

static void a_gone_process_is_dead_unless_it_had_left(void **state) {
    (void)state;
    sy_watch w;
    sy_beat beats[3];
    watch_open(&w, 3, beats);
    beats[1].flags = SY_BEAT_LEFT;
    sy_watch_see(&w, 1, &beats[1]);
    sy_watch_gone(&w, 1);
    pass(&w, 100, beats, 5);
    expect(&w, SY_VERDICT_NONE, -1);
    sy_watch_gone(&w, 2);
    expect(&w, SY_VERDICT_DIED, 2);
    sy_watch_free(&w);
}

static void the_rank_that_others_wait_for_is_the_culprit(void **state) {
    (void)state;
    sy_watch w;
    sy_beat beats[3];
    char line[200];
    watch_open(&w, 3, beats);
    for (int i = 0; i < 3; i++) {
        beats[i].limit_ms = 60000;
        strcpy(beats[i].phase, "prefill");
    }
    pass(&w, 70, beats, 7);
    expect(&w, SY_VERDICT_NONE, -1); /* nobody waits: all may be slow */
    beats[0].flags = beats[1].flags = SY_BEAT_WAITING;
    beats[0].progress++;
    beats[1].progress++;
    pass(&w, 1, beats, 7);
    expect(&w, SY_VERDICT_STUCK, 2);
    sy_watch_describe(&w, sy_watch_judge(&w), "x", line, sizeof line);
    assert_string_equal(line,
                        "rank 2 on host x made no progress in phase \"prefill\" for 60 s");
    beats[2].progress++;
    pass(&w, 1, beats, 7);
    expect(&w, SY_VERDICT_NONE, -1);
    beats[2].limit_ms = 0; /* it waits for the user, say */
    pass(&w, 1000, beats, 7);
    expect(&w, SY_VERDICT_NONE, -1);
    sy_watch_free(&w);
}

static void ranks_that_all_wait_are_told_from_a_slow_one(void **state) {
    (void)state;
    sy_watch w;
    sy_beat beats[2];
    watch_open(&w, 2, beats);
    for (int i = 0; i < 2; i++) {
        beats[i].limit_ms = 5000;
        beats[i].flags = SY_BEAT_WAITING;
        beats[i].progress++;
    }
    pass(&w, 5, beats, 3);
    expect(&w, SY_VERDICT_NONE, -1);
    pass(&w, 1, beats, 3);
    expect(&w, SY_VERDICT_DEADLOCK, 0);
    sy_watch_free(&w);
}

/* ---- processes ---- */

static void an_ended_process_is_noticed_and_its_number_not_confused(void **state) {
    (void)state;
    int hold[2];
    sy_process_card cards[2];
    sy_process p;
    assert_int_equal(pipe(hold), 0);
    int report[2];
    assert_int_equal(pipe(report), 0);
    pid_t child = fork();
    if (child == 0) {
        close(hold[1]);
        cards[0] = sy_process_self();
        if (write(report[1], cards, sizeof cards[0]) < 0) _exit(1);
        char byte;
        _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
    }
    assert_int_equal(read(report[0], cards, sizeof cards[0]), sizeof cards[0]);
    assert_int_equal(cards[0].pid, child);
    assert_true(cards[0].start_time > 0);

    cards[1] = cards[0];
    cards[1].start_time++; /* another process with the same number */
    sy_process_open(&p, &cards[1]);
    assert_false(p.known);
    sy_process_kill(&p);
    sy_process_close(&p);

    sy_process_open(&p, &cards[0]);
    assert_true(p.known && sy_process_lives(&p));
    close(hold[1]);
    for (int i = 0; i < 500 && sy_process_lives(&p); i++)
        nap_ms(10);
    assert_false(sy_process_lives(&p)); /* though nobody has waited for it */
    sy_process_close(&p);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(hold[0]);
    close(report[0]);
    close(report[1]);
}

/* ---- the threads ---- */

static void fail_report(void *context, const char *line) {
    (void)context;
    fprintf(stderr, "taken for dead: %s\n", line);
}

/* Ranks that work, wait for each other and stop in order stay unharmed for several deadlines. */
static void live_in_order(int virtual_hosts, bool no_shared_memory) {
    sy_comm *comm = NULL;
    sy_liveness *live = NULL;
    sy_comm_options options = {virtual_hosts, no_shared_memory, 1};
    if (sy_comm_create(&options, &comm) != SY_OK) fail_msg("%s", sy_last_error());
    sy_liveness_options watch = {0.5, fail_report, NULL};
    assert_int_equal(sy_liveness_start(comm, &watch, &live), SY_OK);
    assert_true((live == NULL) == (sy_comm_size(comm) == 1));
    sy_progress_phase(live, "a phase whose name is longer than the slot has room for", 0.4);
    for (int i = 0; i < 6; i++) {
        /* Rank 0 is slow, but within its limit. */
        if (sy_comm_rank(comm) == 0) nap_ms(200);
        sy_progress_wait(live);
        assert_int_equal(sy_comm_barrier(comm), SY_OK);
        sy_progress_resume(live);
    }
    sy_liveness_stop(live);
    /* After the stop a rank may be late. */
    if (sy_comm_rank(comm) == sy_comm_size(comm) - 1) nap_ms(800);
    assert_int_equal(sy_comm_barrier(comm), SY_OK);
    sy_comm_destroy(comm);
}

static void ranks_of_one_host_live_in_order(void **state) {
    (void)state;
    live_in_order(0, false);
}

static void ranks_of_several_hosts_live_in_order(void **state) {
    (void)state;
    live_in_order(2, false);
    live_in_order(3, false);
}

static void ranks_without_shared_memory_live_in_order(void **state) {
    (void)state;
    live_in_order(0, true);
}

static void no_deadline_means_no_watch(void **state) {
    (void)state;
    sy_comm *comm = NULL;
    sy_comm_options options = {0, false, 1};
    if (sy_comm_create(&options, &comm) != SY_OK) fail_msg("%s", sy_last_error());
    sy_liveness *live = NULL;
    sy_liveness_options watch = {0, NULL, NULL};
    assert_int_equal(sy_liveness_start(comm, &watch, &live), SY_OK);
    assert_null(live);
    sy_progress_phase(live, "x", 1); /* all calls take NULL */
    sy_progress(live);
    sy_progress_wait(live);
    sy_progress_resume(live);
    sy_liveness_abandon(live);
    sy_liveness_stop(live);
    sy_comm_destroy(comm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silence_counts_from_the_last_beat),
        cmocka_unit_test(a_stop_of_the_observer_does_not_count),
        cmocka_unit_test(a_rank_never_seen_is_not_judged),
        cmocka_unit_test(a_gone_process_is_dead_unless_it_had_left),
        cmocka_unit_test(the_rank_that_others_wait_for_is_the_culprit),
        cmocka_unit_test(ranks_that_all_wait_are_told_from_a_slow_one),
        cmocka_unit_test(an_ended_process_is_noticed_and_its_number_not_confused),
        cmocka_unit_test(ranks_of_one_host_live_in_order),
        cmocka_unit_test(ranks_of_several_hosts_live_in_order),
        cmocka_unit_test(ranks_without_shared_memory_live_in_order),
        cmocka_unit_test(no_deadline_means_no_watch),
    };
    int provided; /* several communicators follow each other in one MPI */
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}

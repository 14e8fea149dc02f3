/* A switchyard with commands that misbehave on request, for the tests of the front end and of the
 * watchdog. The model argument is a number whose meaning depends on the command. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/comm.h"
#include "comm/liveness.h"
#include "launcher/launch.h"
#include "launcher/options.h"
#include "launcher/output.h"

typedef struct world {
    sy_comm *comm;
    sy_liveness *live;
    int rank, n_ranks;
} world;

static void nap(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

static int number(const sy_options *options) {
    return options->model == NULL ? 0 : atoi(options->model);
}

static sy_status world_open(const sy_options *options, world *w) {
    sy_status st = SY_OK;
    memset(w, 0, sizeof *w);
    sy_comm_options comm = {.virtual_hosts = options->virtual_hosts, .threads_per_rank = 1};
    SY_TRY(sy_comm_create(&comm, &w->comm));
    w->rank = sy_comm_rank(w->comm);
    w->n_ranks = sy_comm_size(w->comm);
    sy_output_joined(w->rank, w->n_ranks, sy_comm_host_name(w->comm, w->rank));
    sy_liveness_options live = {options->deadline, sy_output_peer_lost, NULL};
    SY_TRY(sy_liveness_start(w->comm, &live, &w->live));
done:
    return st;
}

static void world_close(world *w) {
    sy_liveness_stop(w->live);
    sy_comm_destroy(w->comm);
}

/* "pid RANK PID" of every rank on stdout. */
static sy_status print_pids(world *w) {
    sy_status st = SY_OK;
    int32_t mine = (int32_t)getpid();
    int32_t *all = calloc((size_t)w->n_ranks, sizeof *all);
    if (all == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory");
    SY_TRY(sy_comm_gather(w->comm, &mine, sizeof mine, all, 0));
    for (int r = 0; w->rank == 0 && r < w->n_ranks; r++)
        SY_TRY(sy_out_printf("pid %d %d\n", r, all[r]));
done:
    free(all);
    return st;
}

/* Steps until the user interrupts or `seconds` have passed. */
static sy_status step(world *w, double seconds) {
    sy_status st = SY_OK;
    sy_progress_phase(w->live, "stepping", 30);
    for (int i = 0; i < seconds * 50; i++) {
        int32_t stop = sy_interrupted();
        sy_progress(w->live);
        sy_progress_wait(w->live);
        SY_TRY(sy_comm_broadcast(w->comm, &stop, sizeof stop, 0));
        SY_TRY(sy_comm_barrier(w->comm));
        sy_progress_resume(w->live);
        if (stop) SY_FAIL(SY_ERR_INTERRUPTED, "interrupted");
        nap(0.02);
    }
done:
    return st;
}

/* Steps for the given number of seconds. */
static sy_status cmd_loop(const sy_options *options) {
    world w;
    sy_status st = SY_OK;
    SY_TRY(world_open(options, &w));
    SY_TRY(print_pids(&w));
    SY_TRY(step(&w, number(options)));
    if (w.rank == 0) SY_TRY(sy_out_printf("done\n"));
done:
    world_close(&w);
    return st;
}

/* The given rank stands still in a phase with a limit of half a second. */
static sy_status cmd_stuck(const sy_options *options) {
    world w;
    sy_status st = SY_OK;
    SY_TRY(world_open(options, &w));
    SY_TRY(print_pids(&w));
    sy_progress_phase(w.live, "prefill", 0.5);
    if (w.rank == number(options)) nap(30);
    sy_progress_wait(w.live);
    SY_TRY(sy_comm_barrier(w.comm));
done:
    world_close(&w);
    return st;
}

/* The given rank fails and all agree. */
static sy_status cmd_fail(const sy_options *options) {
    world w;
    sy_status st = SY_OK;
    SY_TRY(world_open(options, &w));
    if (w.rank == number(options)) st = sy_fail(SY_ERR_FORMAT, "weights are upside down");
    st = sy_comm_agree(w.comm, st);
done:
    world_close(&w);
    return st;
}

/* The given rank leaves without a word. */
static sy_status cmd_leave(const sy_options *options) {
    world w;
    sy_status st = SY_OK;
    SY_TRY(world_open(options, &w));
    if (w.rank == number(options)) _exit(42);
    SY_TRY(step(&w, 30));
done:
    world_close(&w);
    return st;
}

/* Ranks do not join MPI for the given number of seconds. */
static sy_status cmd_late(const sy_options *options) {
    nap(number(options));
    return cmd_loop(options);
}

/* The given number of lines on stdout. */
static sy_status cmd_write(const sy_options *options) {
    world w;
    sy_status st = SY_OK;
    SY_TRY(world_open(options, &w));
    for (int i = 0; w.rank == 0 && st == SY_OK && i < number(options); i++)
        st = sy_out_printf("line %d\n", i);
    if (w.rank == 0 && st == SY_OK) st = sy_out_flush();
    st = sy_comm_agree(w.comm, st);
done:
    world_close(&w);
    return st;
}

/* Writes each line of stdin back, then the log and the bar once. */
static sy_status cmd_echo(const sy_options *options) {
    world w;
    sy_status st = SY_OK;
    SY_TRY(world_open(options, &w));
    for (char *line = NULL; w.rank == 0 && st == SY_OK; free(line)) {
        size_t n;
        st = sy_in_read_line(1000, &line, &n);
        if (st != SY_OK || line == NULL) break;
        st = sy_out_printf("<%s>\n", line);
        sy_out_progress("echoing", 0.5, "lines");
    }
    st = sy_comm_agree(w.comm, st);
done:
    world_close(&w);
    return st;
}

#define COMMAND(word, function)                                                                \
    { .name = word, .synopsis = "N", .summary = word, .parallel = true, .main = function }

const sy_command sy_commands[] = {
    COMMAND("loop", cmd_loop), COMMAND("stuck", cmd_stuck),
    COMMAND("fail", cmd_fail), COMMAND("leave", cmd_leave),
    COMMAND("late", cmd_late), COMMAND("write", cmd_write),
    COMMAND("echo", cmd_echo), {.name = NULL},
};

int main(int argc, char **argv) {
    return sy_launch(argc, argv);
}

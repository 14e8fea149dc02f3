#include "kernels/probe.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/memory.h"
#include "kernels/cpu/cpu.h"

/* PIECE: bytes that one thread reads in a pass. */
enum { MAX_PASSES = 4096, PIECE = 8 << 20, PAGE = 4096 };

typedef struct probe_job {
    const sy_probe_kernels *kernels;
    sy_dtype act;
    char *block;           /* [SY_PROBE_BYTES] */
    int64_t pass;          /* reading: counts on, so that a pass reads what is cold */
    int64_t rounds;        /* arithmetic */
    int64_t multiply_adds; /* of thread 0; all threads do the same */
    double own_seconds;    /* of thread 0, without waiting for the others */
    uint64_t *keep;        /* [n_threads]: what the loops found, so that they are not removed */
} probe_job;

/* First touch by the thread that will read. */
static void fill_run(void *arg, int thread, int n_threads) {
    probe_job *job = arg;
    int64_t begin, end;
    sy_pool_share(SY_PROBE_BYTES / PAGE, thread, n_threads, &begin, &end);
    memset(job->block + begin * PAGE, 1, (size_t)(end - begin) * PAGE);
}

/* The thread's next piece of its own share of the block. */
static void read_run(void *arg, int thread, int n_threads) {
    probe_job *job = arg;
    int64_t begin, end;
    sy_pool_share(SY_PROBE_BYTES / PAGE, thread, n_threads, &begin, &end);
    int64_t bytes = (end - begin) * PAGE;
    int64_t piece = sy_min(SY_PROBE_BYTES / n_threads / PAGE * PAGE, PIECE);
    const char *from = job->block + begin * PAGE + job->pass % (bytes / piece) * piece;
    job->keep[thread] += job->kernels->read(from, piece);
}

static void peak_run(void *arg, int thread, int n_threads) {
    (void)n_threads;
    probe_job *job = arg;
    float sink = 0;
    double start = sy_now();
    int64_t done = job->act == SY_F32 ? job->kernels->peak_f32(job->rounds, &sink)
                                      : job->kernels->peak_bf16(job->rounds, &sink);
    job->keep[thread] += sy_bits_from_f32(sink);
    if (thread != 0) return;
    job->multiply_adds = done;
    job->own_seconds = sy_now() - start;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Times of passes, ascending; returns their number, at least 1. */
static int
time_passes(sy_pool *pool, sy_pool_fn run, probe_job *job, double seconds, double *pass) {
    int n = 0;
    double start = sy_now(), before = start, now;
    do {
        sy_pool_run(pool, run, job);
        job->pass++;
        now = sy_now();
        pass[n++] = now - before;
        before = now;
    } while (n < MAX_PASSES && now - start < seconds);
    qsort(pass, (size_t)n, sizeof *pass, by_size);
    return n;
}

static double median_pass(sy_pool *pool, sy_pool_fn run, probe_job *job, double seconds) {
    double pass[MAX_PASSES];
    return pass[time_passes(pool, run, job, seconds, pass) / 2];
}

double sy_cpu_probe_bandwidth(sy_pool *pool, double seconds) {
    double rate = 0;
    char *block = NULL;
    uint64_t *keep = calloc((size_t)sy_pool_threads(pool), sizeof *keep);
    const sy_cpu_isa *isa = sy_cpu_isa_find(NULL);
    if (keep == NULL || sy_mem_alloc(&block, SY_PROBE_BYTES, "the bandwidth probe") != SY_OK)
        goto done;
    int64_t n_threads = sy_pool_threads(pool);
    probe_job job = {.kernels = &isa->probe, .block = block, .keep = keep};
    sy_pool_run(pool, fill_run, &job);
    double bytes =
        (double)(n_threads * sy_min(SY_PROBE_BYTES / n_threads / PAGE * PAGE, PIECE));
    rate = bytes / median_pass(pool, read_run, &job, seconds);
done:
    sy_mem_free(block, SY_PROBE_BYTES);
    free(keep);
    return rate;
}

double sy_cpu_probe_flops(sy_backend *be, double seconds) {
    sy_cpu *cpu = sy_cpu_of(be);
    int n_threads = sy_pool_threads(cpu->pool);
    uint64_t *keep = calloc((size_t)n_threads, sizeof *keep);
    if (keep == NULL) return 0;
    probe_job job = {.kernels = &cpu->isa->probe, .act = be->act, .rounds = 1000, .keep = keep};
    /* Passes of a quarter millisecond: long against the start of a run, short against a quantum.
     * The length comes from a thread's fastest try. */
    double fastest = 1;
    for (int i = 0; i < 50; i++) {
        sy_pool_run(cpu->pool, peak_run, &job);
        if (job.own_seconds < fastest) fastest = job.own_seconds;
    }
    job.rounds = fastest < 0.25e-3 ? (int64_t)(1000 * 0.25e-3 / (fastest + 1e-9)) : 1000;
    double median = median_pass(cpu->pool, peak_run, &job, seconds);
    free(keep);
    return 2.0 * (double)job.multiply_adds * n_threads / median;
}

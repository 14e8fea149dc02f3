#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/wait.h"

struct sy_pool {
    int n_threads;
    int n_started; /* workers that exist, n_threads - 1 once created */
    bool may_spin;
    bool stop;
    sy_pool_fn fn;
    void *arg;
    pthread_t *worker;
    _Alignas(64) sy_doorbell start;     /* rung once a run              */
    _Alignas(64) sy_doorbell released;  /* rung once a barrier          */
    _Alignas(64) _Atomic int n_arrived; /* threads in the barrier       */
};

typedef struct worker_start {
    sy_pool *pool;
    int thread;
} worker_start;

enum { WAIT_NS = 1000000000 }; /* a sleeper looks again after this long, whatever happens */

static unsigned flush_denormals_on(void) {
#if defined(__x86_64__)
    unsigned old = _mm_getcsr();
    _mm_setcsr(old | 0x8040u); /* FTZ, DAZ */
    return old;
#elif defined(__aarch64__)
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    __asm__ volatile("msr fpcr, %0" ::"r"(fpcr | (1u << 24))); /* FZ */
    return (unsigned)fpcr;
#else
    return 0;
#endif
}

static void flush_denormals_restore(unsigned old) {
#if defined(__x86_64__)
    _mm_setcsr(old);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)old));
#else
    (void)old;
#endif
}

void sy_pool_barrier(sy_pool *pool) {
    if (pool->n_threads == 1) return;
    uint32_t seen = atomic_load_explicit(&pool->released.value, memory_order_relaxed);
    if (atomic_fetch_add(&pool->n_arrived, 1) == pool->n_threads - 1) {
        atomic_store(&pool->n_arrived, 0);
        sy_doorbell_ring(&pool->released);
        return;
    }
    while (sy_doorbell_wait(&pool->released, seen, pool->may_spin, WAIT_NS) == seen) {
    }
}

static void *worker_main(void *p) {
    worker_start start = *(worker_start *)p;
    free(p);
    sy_pool *pool = start.pool;
    flush_denormals_on();
    for (uint32_t seen = 0;; seen++) {
        while (sy_doorbell_wait(&pool->start, seen, pool->may_spin, WAIT_NS) == seen) {
        }
        if (pool->stop) return NULL;
        pool->fn(pool->arg, start.thread, pool->n_threads);
        sy_pool_barrier(pool);
    }
}

sy_status sy_pool_create(int n_threads, bool may_spin, sy_pool **out) {
    sy_status st = SY_OK;
    *out = NULL;
    sy_pool *pool = aligned_alloc(64, sizeof *pool);
    if (pool == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a thread pool");
    *pool = (sy_pool){.n_threads = n_threads, .may_spin = may_spin};
    pool->worker = calloc((size_t)n_threads, sizeof *pool->worker);
    if (pool->worker == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a thread pool");
    for (int i = 1; i < n_threads; i++) {
        worker_start *start = malloc(sizeof *start);
        if (start == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a thread pool");
        *start = (worker_start){pool, i};
        if (pthread_create(&pool->worker[i], NULL, worker_main, start) != 0) {
            free(start);
            SY_FAIL(SY_ERR_MEMORY, "cannot start thread %d of %d", i + 1, n_threads);
        }
        pool->n_started++;
    }
    *out = pool;
    pool = NULL;
done:
    sy_pool_destroy(pool);
    return st;
}

void sy_pool_destroy(sy_pool *pool) {
    if (pool == NULL) return;
    pool->stop = true;
    sy_doorbell_ring(&pool->start);
    for (int i = 1; i <= pool->n_started; i++)
        pthread_join(pool->worker[i], NULL);
    free(pool->worker);
    free(pool);
}

int sy_pool_threads(const sy_pool *pool) {
    return pool->n_threads;
}

void sy_pool_run(sy_pool *pool, sy_pool_fn fn, void *arg) {
    unsigned mode = flush_denormals_on();
    pool->fn = fn;
    pool->arg = arg;
    if (pool->n_threads > 1) sy_doorbell_ring(&pool->start);
    fn(arg, 0, pool->n_threads);
    sy_pool_barrier(pool);
    flush_denormals_restore(mode);
}

void sy_pool_run_alone(sy_pool_fn fn, void *arg) {
    unsigned mode = flush_denormals_on();
    fn(arg, 0, 1);
    flush_denormals_restore(mode);
}

/* Whole cores of the cgroup's quota ("max 100000" or "150000 100000"), or INT_MAX. */
static int cores_in_quota(void) {
    int cores = 1 << 30;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (f == NULL) return cores;
    long quota, period;
    if (fscanf(f, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0)
        cores = (int)((quota + period - 1) / period);
    fclose(f);
    return cores;
}

int sy_cores_available(void) {
    cpu_set_t set;
    int cores = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
    int quota = cores_in_quota();
    if (quota < cores) cores = quota;
    return cores < 1 ? 1 : cores;
}

/* A small pool of threads that work in phases.
 *
 * sy_pool_run calls fn(arg, thread, n_threads) once on every thread, the caller being thread 0,
 * and returns when all have come back. Inside, sy_pool_barrier separates phases. Between runs
 * the workers wait: some pauses, some yields, then a futex, so that a pool that is idle, or one
 * of many on a machine with few cores, costs nothing.
 *
 * Flush-to-zero and denormals-are-zero are on inside fn on every thread (the caller's mode is
 * restored on return): the order of summation that all kernels share is defined with them.
 *
 * One run at a time; fn must not call sy_pool_run. */
#ifndef SY_BASE_POOL_H
#define SY_BASE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct sy_pool sy_pool;
typedef void (*sy_pool_fn)(void *arg, int thread, int n_threads);

/* n_threads >= 1 in all, the caller included. `may_spin`: the machine has a core for each
 * thread of every pool on it, so a waiter may spin for a few microseconds. */
sy_status sy_pool_create(int n_threads, bool may_spin, sy_pool **out);
void sy_pool_destroy(sy_pool *pool); /* NULL is fine */

int sy_pool_threads(const sy_pool *pool);
void sy_pool_run(sy_pool *pool, sy_pool_fn fn, void *arg);
void sy_pool_barrier(sy_pool *pool);

/* fn(arg, 0, 1) on the caller alone, in the same floating-point mode: for work that is over
 * before another thread would have woken up. fn must not use the barrier. */
void sy_pool_run_alone(sy_pool_fn fn, void *arg);

/* The contiguous share [*begin, *end) of n units that belongs to a thread. */
static inline void
sy_pool_share(int64_t n, int thread, int n_threads, int64_t *begin, int64_t *end) {
    *begin = n * thread / n_threads;
    *end = n * (thread + 1) / n_threads;
}

/* Cores this process may use: its affinity mask, bounded by the cgroup's CPU quota. */
int sy_cores_available(void);

#endif

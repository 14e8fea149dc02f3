/* The thread pool and the doorbell under it. Also meant to be run under -fsanitize=thread. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/dtype.h"
#include "base/pool.h"
#include "base/wait.h"

enum { MAX_THREADS = 4, RUNS = 200, PHASES = 5 };

typedef struct shared {
    sy_pool *pool;
    int seen[MAX_THREADS]; /* how often each thread came, written by that thread alone */
    int n_threads;
    uint32_t mark[2][MAX_THREADS]; /* of the phase before and the phase now */
    int errors[MAX_THREADS];
} shared;

static void count_thread(void *arg, int thread, int n_threads) {
    shared *s = arg;
    s->seen[thread]++;
    if (n_threads != s->n_threads) s->errors[thread]++;
}

static void every_thread_runs_once_a_run(void **state) {
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n++) {
        for (int spin = 0; spin < 2; spin++) {
            shared s = {.n_threads = n};
            assert_int_equal(sy_pool_create(n, spin, &s.pool), SY_OK);
            assert_int_equal(sy_pool_threads(s.pool), n);
            for (int r = 0; r < RUNS; r++)
                sy_pool_run(s.pool, count_thread, &s);
            sy_pool_destroy(s.pool);
            for (int t = 0; t < MAX_THREADS; t++) {
                assert_int_equal(s.seen[t], t < n ? RUNS : 0);
                assert_int_equal(s.errors[t], 0);
            }
        }
    }
}

/* In each phase every thread writes its cell, and after the barrier reads all cells. */
static void pass_phases(void *arg, int thread, int n_threads) {
    shared *s = arg;
    for (uint32_t phase = 1; phase <= PHASES; phase++) {
        s->mark[phase % 2][thread] = phase;
        sy_pool_barrier(s->pool);
        for (int t = 0; t < n_threads; t++)
            s->errors[thread] += s->mark[phase % 2][t] != phase;
    }
    sy_pool_barrier(s->pool);
}

static void a_barrier_separates_phases(void **state) {
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n++) {
        shared s = {.n_threads = n};
        assert_int_equal(sy_pool_create(n, false, &s.pool), SY_OK);
        for (int r = 0; r < RUNS; r++) {
            memset(s.mark, 0, sizeof s.mark);
            sy_pool_run(s.pool, pass_phases, &s);
        }
        sy_pool_destroy(s.pool);
        for (int t = 0; t < n; t++)
            assert_int_equal(s.errors[t], 0);
    }
}

/* The smallest normal number times a half is 0 only where denormals are flushed; a denormal
 * operand counts as 0 only where denormals are zero. */
static bool denormals_are_flushed(void) {
    volatile float smallest = 0x1p-126f, half = 0.5f, denormal = 0x1p-130f, big = 0x1p100f;
    volatile float output = smallest * half, input = denormal * big;
    return output == 0 && input == 0;
}

static bool denormals_are_kept(void) {
    volatile float smallest = 0x1p-126f, half = 0.5f, denormal = 0x1p-130f, big = 0x1p100f;
    volatile float output = smallest * half, input = denormal * big;
    return sy_bits_from_f32(output) != 0 && sy_bits_from_f32(input) != 0;
}

static void check_flushed(void *arg, int thread, int n_threads) {
    (void)n_threads;
    shared *s = arg;
    s->errors[thread] += !denormals_are_flushed();
}

static void denormals_are_flushed_inside_and_kept_outside(void **state) {
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n++) {
        shared s = {.n_threads = n};
        assert_int_equal(sy_pool_create(n, false, &s.pool), SY_OK);
        assert_true(denormals_are_kept());
        sy_pool_run(s.pool, check_flushed, &s);
        assert_true(denormals_are_kept());
        sy_pool_destroy(s.pool);
        for (int t = 0; t < n; t++)
            assert_int_equal(s.errors[t], 0);
    }
}

static void a_pool_that_never_ran_ends(void **state) {
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n++) {
        sy_pool *pool;
        assert_int_equal(sy_pool_create(n, n % 2 == 0, &pool), SY_OK);
        sy_pool_destroy(pool);
    }
    sy_pool_destroy(NULL);
}

static void workers_that_have_gone_to_sleep_wake_again(void **state) {
    (void)state;
    shared s = {.n_threads = 3};
    assert_int_equal(sy_pool_create(3, false, &s.pool), SY_OK);
    for (int r = 0; r < 3; r++) {
        struct timespec t = {0, 20000000};
        nanosleep(&t, NULL); /* far beyond the pauses and yields */
        double begin = sy_now();
        sy_pool_run(s.pool, count_thread, &s);
        assert_true(sy_now() - begin < 0.9); /* not by the sleeper's own second look */
    }
    sy_pool_destroy(s.pool);
    for (int t = 0; t < 3; t++)
        assert_int_equal(s.seen[t], 3);
}

static void shares_cover_all_units_in_order(void **state) {
    (void)state;
    for (int64_t n = 0; n < 20; n++) {
        for (int threads = 1; threads <= 7; threads++) {
            int64_t at = 0;
            for (int t = 0; t < threads; t++) {
                int64_t begin, end;
                sy_pool_share(n, t, threads, &begin, &end);
                assert_int_equal(begin, at);
                assert_true(end - begin <= n / threads + 1);
                at = end;
            }
            assert_int_equal(at, n);
        }
    }
    assert_true(sy_cores_available() >= 1);
}

/* Two threads throw a word to and fro; each also hands over a plain value under the bell. */
typedef struct table_tennis {
    sy_doorbell bell[2];
    int64_t ball;
} table_tennis;

enum { ROUNDS = 2000 };

static void await_ring(sy_doorbell *bell, uint32_t seen, bool spin) {
    while (sy_doorbell_wait(bell, seen, spin, 1000000000) == seen) {
    }
}

static void *other_player(void *p) {
    table_tennis *t = p;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        await_ring(&t->bell[0], i, i % 2 == 0);
        t->ball++;
        sy_doorbell_ring(&t->bell[1]);
    }
    return NULL;
}

static void a_doorbell_hands_over_between_threads(void **state) {
    (void)state;
    table_tennis t = {.ball = 0};
    pthread_t other;
    assert_int_equal(pthread_create(&other, NULL, other_player, &t), 0);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        t.ball++;
        sy_doorbell_ring(&t.bell[0]);
        await_ring(&t.bell[1], i, i % 3 == 0);
        assert_int_equal(t.ball, 2 * (i + 1));
    }
    pthread_join(other, NULL);
    assert_int_equal(atomic_load(&t.bell[0].value), ROUNDS);
}

static void a_doorbell_wait_ends_by_its_limit(void **state) {
    (void)state;
    sy_doorbell bell = {0};
    double begin = sy_now();
    assert_int_equal(sy_doorbell_wait(&bell, 0, false, 30000000), 0);
    double took = sy_now() - begin;
    assert_true(took >= 0.025 && took < 5);
    /* A ring that came before the wait is not missed. */
    sy_doorbell_ring(&bell);
    assert_int_equal(sy_doorbell_wait(&bell, 0, false, 30000000), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_thread_runs_once_a_run),
        cmocka_unit_test(a_barrier_separates_phases),
        cmocka_unit_test(denormals_are_flushed_inside_and_kept_outside),
        cmocka_unit_test(a_pool_that_never_ran_ends),
        cmocka_unit_test(workers_that_have_gone_to_sleep_wake_again),
        cmocka_unit_test(shares_cover_all_units_in_order),
        cmocka_unit_test(a_doorbell_hands_over_between_threads),
        cmocka_unit_test(a_doorbell_wait_ends_by_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

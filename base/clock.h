/* Monotonic time in seconds and nanoseconds. */
#ifndef SY_BASE_CLOCK_H
#define SY_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t sy_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline double sy_now(void) {
    return (double)sy_now_ns() * 1e-9;
}

#endif

/* Waiting for another thread or process through a 32-bit word in shared memory.
 *
 * A waiter first pauses (only where it has a core of its own), then yields a bounded number of
 * times, then sleeps in the kernel. Spinning for long is what makes eight ranks on two cores
 * crawl; yielding for ever loses whole time slices to a foreign process. */
#ifndef SY_BASE_WAIT_H
#define SY_BASE_WAIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* The word and the number of its sleepers; place both in one cache line, zero at start. May lie
 * in memory that processes share. */
typedef struct sy_doorbell {
    _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
} sy_doorbell;

/* Waits until the value differs from `seen` or timeout_ns has passed (also returns on a signal).
 * Returns the value found. */
uint32_t sy_doorbell_wait(sy_doorbell *bell, uint32_t seen, bool may_spin, int64_t timeout_ns);

/* Adds one to the value (release) and wakes all sleepers. */
void sy_doorbell_ring(sy_doorbell *bell);

#endif

#include "base/wait.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAUSES = 400, YIELDS = 20 }; /* about 10 us of pauses on current x86 */

static void cpu_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Not FUTEX_PRIVATE: the word may be shared between processes. */
static void futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t timeout_ns) {
    struct timespec t = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0);
}

uint32_t sy_doorbell_wait(sy_doorbell *bell, uint32_t seen, bool may_spin, int64_t timeout_ns) {
    uint32_t value;
    for (int i = 0; i < (may_spin ? PAUSES : 20); i++) {
        value = atomic_load_explicit(&bell->value, memory_order_acquire);
        if (value != seen) return value;
        cpu_pause();
    }
    for (int i = 0; i < YIELDS; i++) {
        sched_yield();
        value = atomic_load_explicit(&bell->value, memory_order_acquire);
        if (value != seen) return value;
    }
    /* Sequentially consistent with the ring below: either the sleeper is seen by the ringer,
     * or the kernel sees the new value and does not sleep. */
    atomic_fetch_add(&bell->sleepers, 1);
    if (atomic_load(&bell->value) == seen) futex_wait(&bell->value, seen, timeout_ns);
    atomic_fetch_sub(&bell->sleepers, 1);
    return atomic_load_explicit(&bell->value, memory_order_acquire);
}

void sy_doorbell_ring(sy_doorbell *bell) {
    atomic_fetch_add(&bell->value, 1);
    if (atomic_load(&bell->sleepers) != 0)
        syscall(SYS_futex, &bell->value, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

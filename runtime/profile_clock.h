/* Comparing the monotonic clocks of ranks on different machines. */
#ifndef SY_RUNTIME_PROFILE_CLOCK_H
#define SY_RUNTIME_PROFILE_CLOCK_H

#include <stdint.h>

#include "comm/comm.h"

/* On rank 0, clock[2 r] is what has to be added to the clock of rank r to give rank 0's, right
 * within clock[2 r + 1], both in nanoseconds; 0 and 0 for ranks of its machine. The best of a few
 * round trips. clock [2 R] matters on rank 0 only. Collective. */
sy_status sy_profile_compare_clocks(sy_comm *comm, int64_t *clock);

#endif

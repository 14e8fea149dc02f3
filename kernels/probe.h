/* What this machine can do at most, measured: the bounds that speeds are printed as shares of.
 * Each runs for about the given time and returns the median of short passes, so that a foreign
 * job which takes a core for a while does not count. 0 if there is no memory for the probe. */
#ifndef SY_KERNELS_PROBE_H
#define SY_KERNELS_PROBE_H

#include "base/pool.h"
#include "kernels/ops.h"

/* Bytes/s at which all threads of the pool together read memory that no cache holds. Allocates
 * SY_PROBE_BYTES for the time of the call. */
#define SY_PROBE_BYTES ((int64_t)512 << 20)
double sy_cpu_probe_bandwidth(sy_pool *pool, double seconds);

/* FLOP/s (two per multiply-add) of the instruction that multiplies BF16 weights with activations
 * of the backend's type, on registers, all threads together. */
double sy_cpu_probe_flops(sy_backend *be, double seconds);

#endif

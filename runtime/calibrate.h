/* What this machine's kernels reach, measured by running small made-up models: the constants of a
 * cluster description (topology/cluster.h) that no data sheet has.
 *
 * Shares are of what probes beside the runs found, so that they hold where a machine's bandwidth
 * drifts. The byte and FLOP counts are those of the forecast (runtime/plan_model.h): a share holds
 * all that a kernel loses, norms and routing included. */
#ifndef SY_RUNTIME_CALIBRATE_H
#define SY_RUNTIME_CALIBRATE_H

#include "kernels/ops.h"
#include "topology/cluster.h"

/* Of one rank; 0: not measured, since the backend lacks the format or noise drowned it. */
typedef struct sy_calibration {
    double bandwidth, rate; /* all threads of the rank: bytes/s, FLOP/s of BF16 products */
    int n_threads;          /* entries of the two below */
    int threads[SY_CLUSTER_THREADS];
    double bandwidth_of[SY_CLUSTER_THREADS];
    double layer_overhead; /* seconds */
    double decode[SY_STORED_COUNT], prefill[SY_STORED_COUNT];
    double attention_decode, attention_prefill;
} sy_calibration;

/* Called between measurements with the share done; false ends it with SY_ERR_INTERRUPTED. */
typedef bool (*sy_calibrate_progress)(void *context, double share);

/* Local, about 20 s, and up to 1 GB of memory. be is the CPU's, over pool, with BF16 activations;
 * what was reserved in it is replaced. */
sy_status sy_calibrate(sy_backend *be,
                       sy_pool *pool,
                       sy_calibrate_progress progress,
                       void *context,
                       sy_calibration *out);

#endif

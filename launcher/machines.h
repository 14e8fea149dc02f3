/* The machines of a run: what this process sees of its own, gathered over all ranks. */
#ifndef SY_LAUNCHER_MACHINES_H
#define SY_LAUNCHER_MACHINES_H

#include "comm/comm.h"
#include "launcher/options.h"
#include "topology/machine.h"

/* The machine of this process, with the CUDA devices that it sees unless --device cpu. Local. */
sy_status sy_machine_here(const sy_options *options, sy_machine *out);

/* Collective. One description for each real machine, in the order of their first ranks; on rank 0,
 * *out and machine_of[R] are set, the caller frees both. Elsewhere both stay empty. */
sy_status sy_machines_gather(const sy_options *options,
                             sy_comm *comm,
                             sy_machines *out,
                             int **machine_of);

#endif

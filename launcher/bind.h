/* Binding a rank to its cores, and how many threads it then has. */
#ifndef SY_LAUNCHER_BIND_H
#define SY_LAUNCHER_BIND_H

#include "comm/comm.h"
#include "launcher/options.h"

/* Collective. Binds the calling thread, and with it all that it starts later, to the cores that
 * topology/binding.h gives this rank: with --bind auto where that can matter, with --bind cores
 * wherever it can be done. Ranks that mpirun, srun or taskset was told to bind stay as they are,
 * and so do those of a machine that has fewer cores than threads; a binding that mpirun chose by
 * itself (a core for each of two ranks, all of whose threads share it) is undone first. What
 * cannot be found out or done is no error: then nothing is bound.
 *
 * *n_threads = -t, or the rank's share of the CPUs that it may use. */
sy_status sy_bind_rank(const sy_options *options, sy_comm *comm, int *n_threads);

#endif

/* The CPUs that the calling thread may run on. Threads that it creates later inherit them. */
#ifndef SY_TOPOLOGY_BINDING_HERE_H
#define SY_TOPOLOGY_BINDING_HERE_H

#include "topology/machine_cpus.h"

sy_status sy_cpus_here(sy_cpus *out);
sy_status sy_cpus_bind_here(const sy_cpus *cpus);

#endif

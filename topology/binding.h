/* Where the ranks of a run go on its machines: device, cores, NIC, and why. Pure functions of the
 * description; equal on every rank that has the same one.
 *
 * The ranks of a machine take its CUDA devices in turn. A rank gets cores of the NUMA node that its
 * device hangs on; the ranks of a node share its cores evenly, in whole cores, leaving efficiency
 * cores out as long as there are enough others. Without devices all ranks of a machine share all
 * of its cores. Where that cannot be done soundly (more ranks than cores, a limit on CPU time)
 * no rank of the machine is bound. */
#ifndef SY_TOPOLOGY_BINDING_H
#define SY_TOPOLOGY_BINDING_H

#include "topology/machine.h"

enum { SY_BINDING_REASON = 448 };

typedef struct sy_bound_rank {
    int machine; /* index into sy_machines */
    int local;   /* number among the ranks of the machine */
    int device;  /* index into its devices; -1: computes on the CPU */
    int nic;     /* index into its NICs, for rows to other machines; -1: none */
    bool bound;
    sy_cpus cpus; /* all hardware threads of its cores; empty if not bound */
    int n_cores;
    char reason[SY_BINDING_REASON]; /* whole sentences */
} sy_bound_rank;

typedef struct sy_binding {
    int n_ranks;
    sy_bound_rank *rank;
} sy_binding;

/* machine_of[r]: the machine of rank r. With use_devices false no rank takes a device. */
sy_status sy_binding_plan(const sy_machines *machines,
                          int n_ranks,
                          const int *machine_of,
                          bool use_devices,
                          sy_binding *out);
void sy_binding_free(sy_binding *binding);

/* Deals ranks out where no launcher has: a rank for each CUDA device (machines without one count
 * as one), machine by machine; ranks beyond that one by one in turn. Ranks of a machine are
 * consecutive. */
void sy_binding_spread(const sy_machines *machines, int n_ranks, int *machine_of);
/* As many ranks as that gives a device or a machine each. */
int sy_binding_natural_ranks(const sy_machines *machines);

/* All CPUs that are known of a machine. */
sy_cpus sy_machine_cpus(const sy_machine *machine);

/* Whether binding a machine's ranks can make a difference: several NUMA nodes, or two kinds of
 * cores. On all others the kernel's scheduler does as well. */
bool sy_binding_matters(const sy_machine *machine);

/* What is known of a run besides its plan. */
typedef struct sy_binding_wish {
    bool always;          /* bind also where it cannot matter (--bind cores) */
    int threads;          /* of a rank; 0: as it has cores */
    const sy_cpus *masks; /* [ranks of the plan]: where each may run; NULL: everywhere */
} sy_binding_wish;

/* Why the ranks of a machine stay where they are; NULL: they are bound as planned. All of a machine
 * or none. */
const char *sy_binding_obstacle(const sy_machines *machines,
                                int machine,
                                const sy_binding *binding,
                                const sy_binding_wish *wish);

#endif

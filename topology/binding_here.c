/* sched_getaffinity */
#define _GNU_SOURCE

#include "topology/binding_here.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

/* The kernel's mask has the layout of a cpu_set_t of any size. */
typedef union mask {
    cpu_set_t set;
    unsigned char bytes[SY_CPUS_MAX / 8];
} mask;

sy_status sy_cpus_here(sy_cpus *out) {
    mask m;
    memset(&m, 0, sizeof m);
    *out = (sy_cpus){{0}};
    if (sched_getaffinity(0, sizeof m, &m.set) != 0)
        return sy_fail(SY_ERR_IO, "sched_getaffinity: %s", strerror(errno));
    for (int cpu = 0; cpu < SY_CPUS_MAX; cpu++)
        if (CPU_ISSET_S((size_t)cpu, sizeof m, &m.set)) sy_cpus_add(out, cpu);
    return SY_OK;
}

sy_status sy_cpus_bind_here(const sy_cpus *cpus) {
    mask m;
    memset(&m, 0, sizeof m);
    for (int cpu = sy_cpus_next(cpus, 0); cpu >= 0; cpu = sy_cpus_next(cpus, cpu + 1))
        CPU_SET_S((size_t)cpu, sizeof m, &m.set);
    if (sched_setaffinity(0, sizeof m, &m.set) != 0)
        return sy_fail(SY_ERR_IO, "sched_setaffinity: %s", strerror(errno));
    return SY_OK;
}

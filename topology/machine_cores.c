/* The cores that this process may use, as hwloc finds them. */
#include <hwloc.h>
#include <stdlib.h>
#include <string.h>

#include "topology/machine_read.h"

/* Cores of at least this share of the best one's capacity are as good: clusters of one kind that
 * are clocked a little differently, or single cores that may run a little faster. */
#define SAME_KIND 0.8

enum { MOST_KINDS = 64 };

/* What hwloc says of a kind of cores: a figure of merit, 0 if it has none. The kernel's capacity
 * if there is one (ARM), else the highest frequency; Intel's efficiency cores by their name. */
static double merit_of(hwloc_topology_t topology, unsigned kind, bool *by_name) {
    struct hwloc_info_s *info = NULL;
    unsigned n = 0;
    double capacity = 0, frequency = 0;
    *by_name = false;
    if (hwloc_cpukinds_get_info(topology, kind, NULL, NULL, &n, &info, 0) != 0) return 0;
    for (unsigned i = 0; i < n; i++) {
        if (strcmp(info[i].name, "LinuxCapacity") == 0)
            capacity = strtod(info[i].value, NULL);
        else if (strcmp(info[i].name, "FrequencyMaxMHz") == 0)
            frequency = strtod(info[i].value, NULL);
        else if (strcmp(info[i].name, "CoreType") == 0)
            *by_name = strcmp(info[i].value, "IntelAtom") == 0;
    }
    return capacity > 0 ? capacity : frequency;
}

/* One kind for each of hwloc's; all SY_CORE_ANY if none is worse than the others. */
static int judge_kinds(hwloc_topology_t topology, sy_core_kind kinds[MOST_KINDS]) {
    double merit[MOST_KINDS], best = 0;
    bool atom[MOST_KINDS], any_weak = false;
    int n = hwloc_cpukinds_get_nr(topology, 0);
    if (n < 0 || n > MOST_KINDS) n = 0;
    for (int i = 0; i < n; i++) {
        merit[i] = merit_of(topology, (unsigned)i, &atom[i]);
        if (merit[i] > best && !atom[i]) best = merit[i];
    }
    for (int i = 0; i < n; i++) {
        bool weak = atom[i] || (merit[i] > 0 && merit[i] < SAME_KIND * best);
        kinds[i] = weak ? SY_CORE_EFFICIENCY : SY_CORE_PERFORMANCE;
        any_weak |= weak;
    }
    bool all_weak = any_weak && best == 0;
    for (int i = 0; i < n; i++)
        if (!any_weak || all_weak) kinds[i] = SY_CORE_ANY;
    return n;
}

static int number_or_0(unsigned number) {
    return number < INT16_MAX ? (int)number : 0;
}

static void take_core(hwloc_topology_t topology,
                      hwloc_obj_t object,
                      int n_kinds,
                      const sy_core_kind *kinds,
                      sy_machine *machine) {
    sy_machine_core core = {0};
    hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_PACKAGE, object);
    if (package != NULL) core.package = (int16_t)number_or_0(package->os_index);
    int node = object->nodeset != NULL ? hwloc_bitmap_first(object->nodeset) : 0;
    core.node = (int16_t)(node > 0 ? number_or_0((unsigned)node) : 0);
    int kind = hwloc_cpukinds_get_by_cpuset(topology, object->cpuset, 0);
    if (kind >= 0 && kind < n_kinds) core.kind = kinds[kind];
    int cpu = -1;
    while (core.n_cpus < SY_MACHINE_CORE_CPUS &&
           (cpu = hwloc_bitmap_next(object->cpuset, cpu)) >= 0 && cpu < SY_CPUS_MAX)
        core.cpu[core.n_cpus++] = (int16_t)cpu;
    if (core.n_cpus > 0) machine->core[machine->n_cores++] = core;
}

static int by_place(const void *a, const void *b) {
    const sy_machine_core *x = a, *y = b;
    if (x->package != y->package) return x->package - y->package;
    if (x->node != y->node) return x->node - y->node;
    return x->cpu[0] - y->cpu[0];
}

static void take_cores(hwloc_topology_t topology, sy_machine *machine) {
    sy_core_kind kinds[MOST_KINDS];
    int n_kinds = judge_kinds(topology, kinds);
    hwloc_obj_type_t type = HWLOC_OBJ_CORE;
    if (hwloc_get_nbobjs_by_type(topology, type) < 1) type = HWLOC_OBJ_PU;
    for (hwloc_obj_t object = NULL;
         machine->n_cores < SY_MACHINE_CORES &&
         (object = hwloc_get_next_obj_by_type(topology, type, object)) != NULL;)
        take_core(topology, object, n_kinds, kinds, machine);
    qsort(machine->core, (size_t)machine->n_cores, sizeof *machine->core, by_place);
}

/* Where the kernel does not say it itself (x86 does, in /proc/cpuinfo). */
static void take_model(hwloc_topology_t topology, sy_machine *machine) {
    hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
    const char *model =
        package != NULL ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;
    if (machine->cpu[0] == '\0' && model != NULL)
        sy_read_copy(machine->cpu, sizeof machine->cpu, model, strlen(model));
}

sy_status sy_probe_cores(sy_machine *machine) {
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0)
        return sy_fail(SY_ERR_MEMORY, "hwloc: no memory for a topology");
    sy_status st = SY_OK;
    if (hwloc_topology_load(topology) != 0)
        SY_FAIL(SY_ERR_IO, "hwloc cannot read this machine's topology");
    take_cores(topology, machine);
    take_model(topology, machine);
    if (machine->n_cores == 0) SY_FAIL(SY_ERR_IO, "hwloc finds no cores on this machine");
done:
    hwloc_topology_destroy(topology);
    return st;
}

#include "topology/locality.h"

#include <hwloc.h>

static bool is_near(hwloc_topology_t topology, hwloc_const_cpuset_t bound, const char *id) {
    hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(topology, id);
    if (device == NULL) return true;
    hwloc_obj_t around = hwloc_get_non_io_ancestor_obj(topology, device);
    return around == NULL || around->cpuset == NULL ||
           hwloc_bitmap_intersects(around->cpuset, bound);
}

void sy_locality_near(int n, const char *const *pci_bus_id, bool *near) {
    hwloc_topology_t topology;
    for (int i = 0; i < n; i++)
        near[i] = true;
    if (n < 2 || hwloc_topology_init(&topology) != 0) return;
    hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    hwloc_cpuset_t bound = hwloc_bitmap_alloc();
    if (bound != NULL && hwloc_topology_load(topology) == 0 &&
        hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_PROCESS) == 0)
        for (int i = 0; i < n; i++)
            near[i] = is_near(topology, bound, pci_bus_id[i]);
    hwloc_bitmap_free(bound);
    hwloc_topology_destroy(topology);
}

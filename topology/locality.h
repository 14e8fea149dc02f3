/* Where devices are attached, seen from this process. */
#ifndef SY_TOPOLOGY_LOCALITY_H
#define SY_TOPOLOGY_LOCALITY_H

#include <stdbool.h>

/* near[i] = whether the device at PCI address pci_bus_id[i] ("0000:3b:00.0") hangs on cores that
 * this process is bound to. All true where nothing can be found out, or nothing is bound: then
 * one device is as good as another. */
void sy_locality_near(int n, const char *const *pci_bus_id, bool *near);

#endif

/* Words that the tree and the picture of switchyard topo share. */
#ifndef SY_LAUNCHER_TOPO_WORDS_H
#define SY_LAUNCHER_TOPO_WORDS_H

#include "topology/binding.h"
#include "topology/machine.h"

enum { SY_TOPO_LINE = 320 };

/* "20 cores: 10 performance, 10 efficiency"; each returns buf, of SY_TOPO_LINE bytes. */
char *sy_topo_cores(const sy_machine *m, int node, char *buf); /* node -1: of all nodes */
char *sy_topo_memory(const sy_machine *m, char *buf);
char *sy_topo_device(const sy_machine_device *device,
                     char *buf); /* "NVIDIA GB10, unified ..." */
char *sy_topo_link(const sy_machine_pci *pci,
                   char *buf); /* "PCIe 16 x 32 GT/s", "" if unknown */
char *sy_topo_nic(const sy_machine_nic *nic, char *buf); /* speed, addresses, link */

/* The ranks of a machine on a device, as "rank 3", "ranks 0, 4", or "". */
char *sy_topo_ranks_on(const sy_binding *binding, int machine, int device, char *buf);

/* Whether two machines are built and set up alike: names, addresses of adapters and what memory
 * holds just now aside. */
bool sy_topo_alike(const sy_machine *a, const sy_machine *b);

#endif

/* Reading the description of the machine that this process runs on: cores from hwloc, the rest from
 * /sys and /proc.
 *
 * What a kernel, a container or a virtual machine does not tell stays unknown in the description;
 * it is no error. Every text that is read is cut to its place and made printable ASCII. */
#ifndef SY_TOPOLOGY_MACHINE_PROBE_H
#define SY_TOPOLOGY_MACHINE_PROBE_H

#include "topology/machine.h"

/* A device as its own runtime lists it. */
typedef struct sy_machine_accelerator {
    char pci[32]; /* address; "" if not known */
    char name[SY_MACHINE_TEXT];
    uint64_t memory; /* 0: not known */
    bool unified;
} sy_machine_accelerator;

typedef struct sy_machine_sources {
    const char *root; /* stands in front of "/sys" and "/proc"; "" for the machine's own */
    char *const
        *environment; /* "NAME=value", ends with NULL; only what concerns the network and
                               * the choice of devices is kept */
    int n_accelerators;
    const sy_machine_accelerator *accelerator; /* in the order of their runtime */
} sy_machine_sources;

sy_status sy_machine_probe(const sy_machine_sources *sources, sy_machine *out);

/* Whether a variable is one of those that are kept. */
bool sy_machine_setting_matters(const char *name, size_t length);

#endif

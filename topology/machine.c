#include "topology/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

sy_status sy_machines_alloc(int n, sy_machines *out) {
    *out = (sy_machines){0};
    if (n < 1 || n > SY_MACHINES_MAX)
        return sy_fail(SY_ERR_FORMAT, "expected 1 to %d machines, found %d", SY_MACHINES_MAX,
                       n);
    out->machine = calloc((size_t)n, sizeof *out->machine);
    if (out->machine == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for the description of %d machines", n);
    out->n = n;
    return SY_OK;
}

void sy_machines_free(sy_machines *machines) {
    free(machines->machine);
    *machines = (sy_machines){0};
}

const char *sy_machine_setting_value(const sy_machine *machine, const char *name) {
    for (int i = 0; i < machine->n_settings; i++)
        if (strcmp(machine->setting[i].name, name) == 0) return machine->setting[i].value;
    return NULL;
}

/* ---- PCI ---- */

/* Exactly `digits` hexadecimal digits, then `mark`. */
static bool hex_part(const char **at, int digits, char mark, unsigned *out) {
    unsigned n = 0;
    for (int i = 0; i < digits; i++, ++*at) {
        char c = **at;
        unsigned value;
        if (c >= '0' && c <= '9')
            value = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = (unsigned)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F')
            value = (unsigned)(c - 'A') + 10;
        else
            return false;
        n = 16 * n + value;
    }
    *out = n;
    if (**at != mark) return false;
    if (mark != '\0') ++*at;
    return true;
}

bool sy_pci_parse(const char *address, unsigned part[4]) {
    const char *at = address;
    return hex_part(&at, 4, ':', &part[0]) && hex_part(&at, 2, ':', &part[1]) &&
           hex_part(&at, 2, '.', &part[2]) && hex_part(&at, 1, '\0', &part[3]);
}

/* The components that two paths begin with in common. */
static int common_components(const char *a, const char *b) {
    int n = 0;
    while (*a != '\0' && *b != '\0') {
        size_t la = strcspn(a, "/"), lb = strcspn(b, "/");
        if (la != lb || strncmp(a, b, la) != 0) break;
        n++;
        a += la + (a[la] == '/');
        b += lb + (b[lb] == '/');
    }
    return n;
}

/* A path is root, root port, then the bridges of switches. Two functions of one adapter share the
 * root port, which is as good as a switch. */
sy_nearness sy_pci_nearness(const sy_machine_pci *a, const sy_machine_pci *b) {
    int common = common_components(a->path, b->path);
    if (common >= 2) return SY_NEAR_SWITCH;
    if (common == 1) return SY_NEAR_ROOT;
    if (a->node < 0 || b->node < 0) return SY_NEAR_UNKNOWN;
    return a->node == b->node ? SY_NEAR_NODE : SY_NEAR_SYSTEM;
}

const char *sy_nearness_text(sy_nearness nearness) {
    switch (nearness) {
    case SY_NEAR_SWITCH:
        return "on the same PCIe switch";
    case SY_NEAR_ROOT:
        return "on the same PCIe root";
    case SY_NEAR_NODE:
        return "on the same NUMA node";
    case SY_NEAR_SYSTEM:
        return "across NUMA nodes";
    case SY_NEAR_UNKNOWN:
        break;
    }
    return "at an unknown distance";
}

/* From 8 GT/s on a lane carries 128 bits in 130; at 64 GT/s flits take about as little. The
 * first two generations carry 8 bits in 10. */
double sy_pci_bandwidth(const sy_machine_pci *pci) {
    double share = pci->speed > 5.5 ? 128.0 / 130.0 : 0.8;
    return pci->speed * pci->lanes * share / 8;
}

/* ---- names ---- */

const char *sy_core_kind_name(sy_core_kind kind) {
    if (kind == SY_CORE_ANY) return NULL;
    return kind == SY_CORE_EFFICIENCY ? "efficiency" : "performance";
}

const char *sy_nic_kind_name(sy_nic_kind kind) {
    static const char *const names[] = {"ethernet", "infiniband", "wireless", "virtual"};
    return names[kind];
}

const char *sy_nic_name(const sy_machine_nic *nic) {
    return nic->name[0] != '\0' ? nic->name : nic->rdma;
}

/* ---- NICs ---- */

/* The same function of one adapter seen under two addresses is one port behind two links; where
 * the adapter names its ports, the names agree too. */
static bool are_twins(const sy_machine_nic *a, const sy_machine_nic *b) {
    unsigned pa[4], pb[4];
    if (a->rdma[0] == '\0' || b->rdma[0] == '\0' || a->guid[0] == '\0') return false;
    if (strcmp(a->guid, b->guid) != 0 || a->rdma_port != b->rdma_port) return false;
    if (!sy_pci_parse(a->pci.address, pa) || !sy_pci_parse(b->pci.address, pb)) return false;
    bool other_link = pa[0] != pb[0] || pa[1] != pb[1];
    bool other_port = a->port[0] != '\0' && b->port[0] != '\0' && strcmp(a->port, b->port) != 0;
    return other_link && pa[2] == pb[2] && pa[3] == pb[3] && !other_port;
}

void sy_machine_find_twins(sy_machine *machine) {
    for (int i = 0; i < machine->n_nics; i++)
        machine->nic[i].twin = -1;
    for (int i = 0; i < machine->n_nics; i++)
        for (int j = i + 1; j < machine->n_nics; j++) {
            sy_machine_nic *a = &machine->nic[i], *b = &machine->nic[j];
            if (a->twin >= 0 || b->twin >= 0 || !are_twins(a, b)) continue;
            a->twin = j;
            b->twin = i;
        }
}

bool sy_nic_is_wired(const sy_machine_nic *nic) {
    return nic->kind == SY_NIC_ETHERNET || nic->kind == SY_NIC_INFINIBAND;
}

bool sy_nic_in_use(const sy_machine_nic *nic) {
    if (nic->kind == SY_NIC_INFINIBAND) return nic->rdma_up || nic->up;
    return nic->up && nic->subnet[0] != '\0';
}

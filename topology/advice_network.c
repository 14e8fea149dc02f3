/* The network of a machine: twins, MTU, addresses, and the way that NCCL would take. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "topology/advice_checks.h"

/* RDMA over Ethernet sends packets of 256, 512, 1024, 2048 or 4096 bytes, the largest that fits
 * the MTU with its headers: below this, not 4096. */
enum { MTU_FOR_4096 = 4200, MTU_JUMBO = 9000 };
/* Mb/s from which an interface is meant for more than looking after the machine. */
enum { FAST = 25000 };

/* ---- which ports NCCL uses ---- */

static bool same_name(const char *item, size_t n, const char *device, bool exact) {
    return strncmp(item, device, n) == 0 && (!exact || device[n] == '\0');
}

bool sy_hca_chosen(const char *value, const char *device, int port) {
    if (value == NULL || value[0] == '\0') return true;
    bool exclude = false, exact = false, found = false;
    for (; *value == '^' || *value == '='; value++)
        *(*value == '^' ? &exclude : &exact) = true;
    for (const char *at = value; *at != '\0';) {
        size_t length = strcspn(at, ","), n = strcspn(at, ",:");
        int wanted = n < length ? atoi(at + n + 1) : -1;
        if (n > 0 && same_name(at, n, device, exact) && (wanted < 0 || wanted == port))
            found = true;
        at += length + (at[length] == ',');
    }
    return found != exclude;
}

static bool is_rdma(const sy_machine_nic *nic) {
    return nic->rdma[0] != '\0' && sy_nic_is_wired(nic);
}

/* ---- twins ---- */

static void check_twin(const sy_machine *m, int machine, int i, sy_advice *advice) {
    const sy_machine_nic *a = &m->nic[i], *b = &m->nic[a->twin];
    const char *hca = sy_machine_setting_value(m, "NCCL_IB_HCA");
    sy_finding f = {.level = SY_ADVICE_WARNING, .topic = "twin", .machine = machine};
    if (sy_nic_in_use(a) && !sy_nic_in_use(b)) {
        snprintf(
            f.text, sizeof f.text,
            "%s is in use, its twin %s is not (%s): one port over two PCIe links, of which "
            "one lies idle; about half of its bandwidth is lost",
            sy_nic_name(a), sy_nic_name(b),
            !b->up ? "link down" : "no IPv4 address in a subnet");
        snprintf(f.cure, sizeof f.cure,
                 "bring %s up with an address in a subnet of its own (netplan keeps it over "
                 "restarts), then NCCL_IB_HCA=%s,%s",
                 sy_nic_name(b), a->rdma, b->rdma);
        sy_advice_add(advice, &f);
    } else if (sy_nic_in_use(a) && sy_nic_in_use(b) &&
               sy_hca_chosen(hca, a->rdma, a->rdma_port) &&
               !sy_hca_chosen(hca, b->rdma, b->rdma_port)) {
        snprintf(
            f.text, sizeof f.text,
            "NCCL_IB_HCA leaves %s out, the twin of %s: about half of the port's bandwidth "
            "is lost",
            b->rdma, a->rdma);
        snprintf(f.cure, sizeof f.cure, "NCCL_IB_HCA=%s,%s", a->rdma, b->rdma);
        sy_advice_add(advice, &f);
    }
}

/* ---- MTU, addresses, lanes ---- */

static bool carries_rows(const sy_machine_nic *nic, bool several) {
    return sy_nic_is_wired(nic) && sy_nic_in_use(nic) &&
           (is_rdma(nic) || (several && nic->speed >= FAST));
}

static void check_mtu(const sy_machines *machines, int machine, sy_advice *advice) {
    const sy_machine *m = &machines->machine[machine];
    char names[160] = "";
    int n = 0, mtu = 0;
    for (int i = 0; i < m->n_nics; i++) {
        const sy_machine_nic *nic = &m->nic[i];
        if (nic->kind != SY_NIC_ETHERNET || nic->mtu <= 0 || nic->mtu >= MTU_FOR_4096 ||
            !carries_rows(nic, machines->n > 1))
            continue;
        sy_advice_list(names, sizeof names, sy_nic_name(nic));
        if (mtu == 0 || nic->mtu < mtu) mtu = nic->mtu;
        n++;
    }
    if (n == 0) return;
    sy_finding f = {.level = SY_ADVICE_WARNING, .topic = "mtu", .machine = machine};
    snprintf(f.text, sizeof f.text,
             "MTU %d on %s: RDMA packets carry %d bytes at most, and TCP needs more of a core",
             mtu, names, mtu >= 2200 ? 2048 : 1024);
    snprintf(f.cure, sizeof f.cure,
             "MTU %d on these, on their peers and on the switch: ip link set dev NAME mtu %d; "
             "netplan keeps it over restarts",
             MTU_JUMBO, MTU_JUMBO);
    sy_advice_add(advice, &f);
}

static void check_subnets(const sy_machine *m, int machine, sy_advice *advice) {
    for (int i = 0; i < m->n_nics; i++)
        for (int j = i + 1; j < m->n_nics; j++) {
            const sy_machine_nic *a = &m->nic[i], *b = &m->nic[j];
            if (a->subnet[0] == '\0' || strcmp(a->subnet, b->subnet) != 0 || !a->up || !b->up ||
                !sy_nic_is_wired(a) || !sy_nic_is_wired(b))
                continue;
            sy_finding f = {.level = SY_ADVICE_WARNING, .topic = "subnet", .machine = machine};
            snprintf(f.text, sizeof f.text,
                     "%s and %s are both in %s: packets to it leave by one of them only, and "
                     "connections to the other's address may fail",
                     sy_nic_name(a), sy_nic_name(b), a->subnet);
            snprintf(f.cure, sizeof f.cure,
                     "a subnet of its own for each, on all hosts; twins too");
            sy_advice_add(advice, &f);
        }
}

/* A link of the fabric that came up narrower than both of its ends can. */
static void check_lanes(const sy_machine *m, int machine, sy_advice *advice) {
    for (int i = 0; i < m->n_nics; i++) {
        const sy_machine_nic *nic = &m->nic[i];
        const sy_machine_pci *p = &nic->pci;
        bool narrow = p->lanes > 0 && p->lanes < p->lanes_max;
        bool slow = p->speed > 0 && p->speed < 0.9 * p->speed_max;
        if (!is_rdma(nic) || !sy_nic_in_use(nic) || !(narrow || slow)) continue;
        sy_finding f = {.level = SY_ADVICE_WARNING, .topic = "pcie", .machine = machine};
        snprintf(f.text, sizeof f.text,
                 "%s has %d of %d PCIe lanes at %g of %g GT/s: %.3g GB/s at most",
                 sy_nic_name(nic), p->lanes, p->lanes_max, p->speed, p->speed_max,
                 sy_pci_bandwidth(p));
        snprintf(f.cure, sizeof f.cure,
                 "if the slot has all lanes: update the adapter's firmware, then switch the "
                 "machine off and unplug it for a minute; a restart is not enough");
        sy_advice_add(advice, &f);
    }
}

/* ---- NCCL's way ---- */

static bool has_cuda(const sy_machine *m) {
    for (int i = 0; i < m->n_devices; i++)
        if (m->device[i].cuda >= 0) return true;
    return false;
}

static void check_nccl(const sy_machine *m, int machine, sy_advice *advice) {
    const char *net = sy_machine_setting_value(m, "NCCL_NET");
    const char *off = sy_machine_setting_value(m, "NCCL_IB_DISABLE");
    const char *hca = sy_machine_setting_value(m, "NCCL_IB_HCA");
    bool any = false, chosen = false;
    for (int i = 0; i < m->n_nics; i++) {
        const sy_machine_nic *nic = &m->nic[i];
        if (!is_rdma(nic) || !nic->rdma_up || !sy_nic_in_use(nic)) continue;
        any = true;
        chosen |= sy_hca_chosen(hca, nic->rdma, nic->rdma_port);
    }
    sy_finding f = {.level = SY_ADVICE_WARNING, .topic = "nccl-tcp", .machine = machine};
    const char *why = NULL, *cure = NULL;
    if (net != NULL && strcmp(net, "Socket") == 0) {
        why = "NCCL_NET=Socket is set";
        cure = "unset NCCL_NET, or NCCL_NET=IB, which makes a missing RDMA path an error";
    } else if (off != NULL && strcmp(off, "0") != 0 && off[0] != '\0') {
        why = "NCCL_IB_DISABLE is set";
        cure = "unset NCCL_IB_DISABLE";
    } else if (!any) {
        why = "no RDMA port is active and has an address";
        cure =
            "rdma link must show an ACTIVE port with a netdev: cable it, give the interface an "
            "address, load the adapter's RDMA driver (mlx5_ib; package rdma-core)";
    } else if (!chosen) {
        why = "NCCL_IB_HCA chooses no active RDMA port";
        cure = "name active ports in NCCL_IB_HCA (the NICs above show them), or unset it";
    }
    if (why == NULL) return;
    snprintf(f.text, sizeof f.text,
             "NCCL would send rows between hosts by TCP, not by RDMA, at a fraction of the "
             "speed and without an error: %s",
             why);
    snprintf(f.cure, sizeof f.cure, "%s", cure);
    sy_advice_add(advice, &f);
}

void sy_advise_network(const sy_machines *machines, int i, sy_advice *advice) {
    const sy_machine *m = &machines->machine[i];
    for (int k = 0; k < m->n_nics; k++)
        if (m->nic[k].twin >= 0) check_twin(m, i, k, advice);
    check_mtu(machines, i, advice);
    check_subnets(m, i, advice);
    check_lanes(m, i, advice);
    if (machines->n > 1 && has_cuda(m)) check_nccl(m, i, advice);
}

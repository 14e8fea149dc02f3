#include "launcher/topo_words.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static void add(char *buf, const char *text) {
    size_t used = strlen(buf);
    snprintf(buf + used, SY_TOPO_LINE - used, "%s", text);
}

char *sy_topo_cores(const sy_machine *m, int node, char *buf) {
    int n = 0, threads = 0, kind[3] = {0};
    for (int i = 0; i < m->n_cores; i++) {
        const sy_machine_core *core = &m->core[i];
        if (node >= 0 && core->node != node) continue;
        n++;
        threads += core->n_cpus;
        kind[core->kind]++;
    }
    snprintf(buf, SY_TOPO_LINE, "%d core%s", n, n == 1 ? "" : "s");
    char more[96] = "";
    if (kind[SY_CORE_EFFICIENCY] > 0)
        snprintf(more, sizeof more, " (%d performance, %d efficiency)",
                 kind[SY_CORE_PERFORMANCE], kind[SY_CORE_EFFICIENCY]);
    else if (threads > n)
        snprintf(more, sizeof more, ", %d hardware threads", threads);
    add(buf, more);
    return buf;
}

char *sy_topo_memory(const sy_machine *m, char *buf) {
    char total[24], available[24], cache[24];
    bool unified = false;
    for (int i = 0; i < m->n_devices; i++)
        unified |= m->device[i].unified;
    snprintf(buf, SY_TOPO_LINE, "%s%s, %s available, %s of it holds cached files",
             sy_format_bytes(total, sizeof total, m->memory),
             unified ? " of CPU and GPU together" : "",
             sy_format_bytes(available, sizeof available, m->memory_available),
             sy_format_bytes(cache, sizeof cache, m->page_cache));
    return buf;
}

char *sy_topo_link(const sy_machine_pci *pci, char *buf) {
    buf[0] = '\0';
    if (pci->lanes > 0 && pci->speed > 0)
        snprintf(buf, SY_TOPO_LINE, "PCIe x%d %.3g GB/s", pci->lanes, sy_pci_bandwidth(pci));
    return buf;
}

/* Adds ", text" unless one of them is empty. */
static void add_item(char *buf, const char *text) {
    if (buf[0] != '\0' && text[0] != '\0') add(buf, ", ");
    add(buf, text);
}

char *sy_topo_device(const sy_machine_device *d, char *buf) {
    char text[SY_TOPO_LINE], bytes[24];
    snprintf(buf, SY_TOPO_LINE, "%s", d->name);
    if (d->unified)
        add_item(buf, "the machine's memory");
    else if (d->memory > 0)
        add_item(buf, sy_format_bytes(bytes, sizeof bytes, d->memory));
    add_item(buf, d->pci.address);
    add_item(buf, sy_topo_link(&d->pci, text));
    if (d->link_group >= 0) {
        add_item(buf, "NVLink");
        if (d->link_group > 0) snprintf(text, sizeof text, " group %d", d->link_group);
        if (d->link_group > 0) add(buf, text);
        if (d->link_speed > 0) snprintf(text, sizeof text, " %g GB/s", d->link_speed);
        if (d->link_speed > 0) add(buf, text);
    }
    if (d->cuda < 0) add_item(buf, "not seen by CUDA");
    return buf;
}

char *sy_topo_nic(const sy_machine_nic *nic, char *buf) {
    char text[SY_TOPO_LINE];
    buf[0] = '\0';
    if (nic->speed > 0) {
        snprintf(text, sizeof text, "%g Gb/s", (double)nic->speed / 1000);
        add_item(buf, text);
    }
    if (nic->mtu > 0) {
        snprintf(text, sizeof text, "MTU %d", nic->mtu);
        add_item(buf, text);
    }
    add_item(buf, nic->subnet);
    if (nic->rdma[0] != '\0') {
        snprintf(text, sizeof text, "RDMA %s%s", nic->rdma,
                 nic->rdma_up ? "" : " (not active)");
        add_item(buf, text);
    }
    add_item(buf, sy_topo_link(&nic->pci, text));
    return buf;
}

char *sy_topo_ranks_on(const sy_binding *binding, int machine, int device, char *buf) {
    int n = 0;
    char list[SY_TOPO_LINE - 16] = "";
    for (int r = 0; r < binding->n_ranks; r++) {
        if (binding->rank[r].machine != machine || binding->rank[r].device != device) continue;
        size_t used = strlen(list);
        if (used + 16 > sizeof list) break;
        snprintf(list + used, sizeof list - used, "%s%d", n++ > 0 ? ", " : "", r);
    }
    buf[0] = '\0';
    if (n > 0) snprintf(buf, SY_TOPO_LINE, "rank%s %s", n == 1 ? "" : "s", list);
    return buf;
}

/* ---- alike ---- */

static bool alike_pci(const sy_machine_pci *a, const sy_machine_pci *b) {
    return strcmp(a->address, b->address) == 0 && strcmp(a->path, b->path) == 0 &&
           a->node == b->node && a->lanes == b->lanes && a->lanes_max == b->lanes_max &&
           a->speed == b->speed && a->speed_max == b->speed_max;
}

static bool alike_cores(const sy_machine *a, const sy_machine *b) {
    if (a->n_cores != b->n_cores || a->n_nodes != b->n_nodes) return false;
    for (int i = 0; i < a->n_cores; i++) {
        const sy_machine_core *x = &a->core[i], *y = &b->core[i];
        if (x->package != y->package || x->node != y->node || x->kind != y->kind ||
            x->n_cpus != y->n_cpus || x->cpu[0] != y->cpu[0])
            return false;
    }
    for (int i = 0; i < a->n_nodes; i++)
        if (a->node[i].number != b->node[i].number || a->node[i].memory != b->node[i].memory)
            return false;
    return true;
}

static bool alike_devices(const sy_machine *a, const sy_machine *b) {
    if (a->n_devices != b->n_devices) return false;
    for (int i = 0; i < a->n_devices; i++) {
        const sy_machine_device *x = &a->device[i], *y = &b->device[i];
        if (strcmp(x->name, y->name) != 0 || !alike_pci(&x->pci, &y->pci) ||
            x->cuda != y->cuda || x->memory != y->memory || x->unified != y->unified ||
            x->link_group != y->link_group || x->link_speed != y->link_speed)
            return false;
    }
    return true;
}

static bool alike_nics(const sy_machine *a, const sy_machine *b) {
    if (a->n_nics != b->n_nics) return false;
    for (int i = 0; i < a->n_nics; i++) {
        const sy_machine_nic *x = &a->nic[i], *y = &b->nic[i];
        if (strcmp(x->name, y->name) != 0 || strcmp(x->rdma, y->rdma) != 0 ||
            strcmp(x->subnet, y->subnet) != 0 || !alike_pci(&x->pci, &y->pci) ||
            x->kind != y->kind || x->up != y->up || x->rdma_up != y->rdma_up ||
            x->speed != y->speed || x->mtu != y->mtu || x->twin != y->twin)
            return false;
    }
    return true;
}

static bool alike_settings(const sy_machine *a, const sy_machine *b) {
    if (a->n_settings != b->n_settings) return false;
    for (int i = 0; i < a->n_settings; i++)
        if (strcmp(a->setting[i].name, b->setting[i].name) != 0 ||
            strcmp(a->setting[i].value, b->setting[i].value) != 0)
            return false;
    return true;
}

bool sy_topo_alike(const sy_machine *a, const sy_machine *b) {
    return strcmp(a->cpu, b->cpu) == 0 && strcmp(a->kernel, b->kernel) == 0 &&
           strcmp(a->driver, b->driver) == 0 && a->cpu_quota == b->cpu_quota &&
           a->memory == b->memory && alike_cores(a, b) && alike_devices(a, b) &&
           alike_nics(a, b) && alike_settings(a, b);
}

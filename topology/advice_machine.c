/* Memory and devices of a machine, and how the ranks fit. */
#include <stdio.h>
#include <string.h>

#include "topology/advice_checks.h"

/* Where CPU and GPU share memory, running out of it takes the whole machine down. */
#define RESERVE ((uint64_t)8 << 30)

static bool is_unified(const sy_machine *m) {
    for (int i = 0; i < m->n_devices; i++)
        if (m->device[i].unified) return true;
    return false;
}

/* ---- memory ---- */

static void check_memory(const sy_machine *m, int machine, sy_advice *advice) {
    bool unified = is_unified(m);
    sy_finding f = {.topic = "page-cache", .machine = machine};
    f.level = unified ? SY_ADVICE_WARNING : SY_ADVICE_NOTE;
    if (m->page_cache > m->memory / 8 && m->memory_free < m->memory_available / 2) {
        snprintf(f.text, sizeof f.text,
                 "most of the memory that looks used holds cached files and is available%s",
                 unified ? "; CUDA's own figure of free memory leaves it out" : "");
        snprintf(f.cure, sizeof f.cure,
                 "none needed here: switchyard counts available memory. For programs that do "
                 "not: sync; echo 1 > /proc/sys/vm/drop_caches, as root");
        sy_advice_add(advice, &f);
    }
    if (unified && m->memory_available > 0 && m->memory_available < RESERVE) {
        f = (sy_finding){.level = SY_ADVICE_WARNING, .topic = "memory", .machine = machine};
        snprintf(f.text, sizeof f.text,
                 "less than 8 GiB of memory are available, which CPU and GPU share here: a run "
                 "that exhausts it hangs the machine");
        snprintf(f.cure, sizeof f.cure, "end other programs that hold memory, then start");
        sy_advice_add(advice, &f);
    }
}

/* Memory of a device among the NUMA nodes: ordinary allocations of the host may land there. */
static void check_nodes(const sy_machine *m, int machine, sy_advice *advice) {
    char nodes[64] = "", own[64] = "", number[16];
    for (int i = 0; i < m->n_nodes; i++) {
        snprintf(number, sizeof number, "%d", m->node[i].number);
        char *list = m->node[i].of_device ? nodes : own;
        size_t used = strlen(list);
        if (used + strlen(number) + 2 <= sizeof nodes)
            snprintf(list + used, sizeof nodes - used, "%s%s", used > 0 ? "," : "", number);
    }
    if (nodes[0] == '\0' || m->n_devices == 0) return;
    sy_finding f = {.level = SY_ADVICE_NOTE, .topic = "device-memory", .machine = machine};
    snprintf(f.text, sizeof f.text,
             "NUMA node %s has no cores, it is a device's memory: the host's allocations may "
             "spill into it",
             nodes);
    snprintf(f.cure, sizeof f.cure, "start with numactl --membind=%s", own);
    sy_advice_add(advice, &f);
}

/* ---- devices ---- */

static void check_devices(const sy_machine *m, int machine, sy_advice *advice) {
    int n_cuda = 0;
    for (int i = 0; i < m->n_devices; i++)
        n_cuda += m->device[i].cuda >= 0;
    if (m->n_devices > 0 && n_cuda == 0) {
        sy_finding f = {.level = SY_ADVICE_WARNING, .topic = "cuda", .machine = machine};
        snprintf(f.text, sizeof f.text, "%d NVIDIA device%s on the PCI bus, none seen by CUDA",
                 m->n_devices, m->n_devices == 1 ? "" : "s");
        snprintf(f.cure, sizeof f.cure,
                 "build switchyard where nvcc is found; nvidia-smi must list the device, and "
                 "CUDA_VISIBLE_DEVICES must not hide it");
        sy_advice_add(advice, &f);
    }
}

void sy_advise_machine(const sy_machines *machines, int i, sy_advice *advice) {
    const sy_machine *m = &machines->machine[i];
    check_memory(m, i, advice);
    check_nodes(m, i, advice);
    check_devices(m, i, advice);
}

/* ---- ranks ---- */

static int ranks_on(const sy_binding *b, int machine, int device) {
    int n = 0;
    for (int r = 0; r < b->n_ranks; r++)
        n += b->rank[r].machine == machine && b->rank[r].device == device;
    return n;
}

static void check_sharing(const sy_machines *machines,
                          const sy_binding *b,
                          int machine,
                          sy_advice *advice) {
    const sy_machine *m = &machines->machine[machine];
    int most = 0, n_cuda = 0;
    for (int d = 0; d < m->n_devices; d++) {
        int n = ranks_on(b, machine, d);
        if (n > most) most = n;
        n_cuda += m->device[d].cuda >= 0;
    }
    if (most < 2) return;
    sy_finding f = {.level = SY_ADVICE_WARNING, .topic = "shared-device", .machine = machine};
    snprintf(f.text, sizeof f.text,
             "up to %d ranks share a device: they take turns, and each keeps its own copy of "
             "what is not an expert",
             most);
    snprintf(f.cure, sizeof f.cure, "at most %d rank%s on this host", n_cuda,
             n_cuda == 1 ? "" : "s");
    sy_advice_add(advice, &f);
}

static void check_unbound(const sy_machines *machines,
                          const sy_binding *b,
                          int machine,
                          sy_advice *advice) {
    const sy_machine *m = &machines->machine[machine];
    int n = 0;
    for (int r = 0; r < b->n_ranks; r++)
        n += b->rank[r].machine == machine;
    if (n <= m->n_cores) return;
    sy_finding f = {.level = SY_ADVICE_WARNING, .topic = "cores", .machine = machine};
    snprintf(f.text, sizeof f.text, "%d ranks on %d core%s: they wait for each other", n,
             m->n_cores, m->n_cores == 1 ? "" : "s");
    snprintf(f.cure, sizeof f.cure, "at most a rank for each core");
    sy_advice_add(advice, &f);
}

static const char *name_of_device(const sy_machines *machines, const sy_bound_rank *rank) {
    return rank->device < 0 ? "the CPU"
                            : machines->machine[rank->machine].device[rank->device].name;
}

static void check_mixture(const sy_machines *machines, const sy_binding *b, sy_advice *advice) {
    for (int r = 1; r < b->n_ranks; r++) {
        const char *first = name_of_device(machines, &b->rank[0]);
        const char *other = name_of_device(machines, &b->rank[r]);
        if (strcmp(first, other) == 0) continue;
        sy_finding f = {.level = SY_ADVICE_NOTE, .topic = "mixture", .machine = -1};
        snprintf(
            f.text, sizeof f.text,
            "rank 0 computes on %.100s, rank %d on %.100s: results may depend on the number "
            "of ranks, and the slower one sets the pace",
            first, r, other);
        snprintf(f.cure, sizeof f.cure,
                 "CUDA_VISIBLE_DEVICES leaves devices of one kind; --device cpu uses none");
        sy_advice_add(advice, &f);
        return;
    }
}

void sy_advise_binding(const sy_machines *machines,
                       const sy_binding *binding,
                       sy_advice *advice) {
    for (int m = 0; m < machines->n; m++) {
        check_sharing(machines, binding, m, advice);
        check_unbound(machines, binding, m, advice);
    }
    check_mixture(machines, binding, advice);
}

#include "topology/binding.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { ANY_NODE = -1 };

/* The ranks of one machine while they are placed. */
typedef struct placing {
    const sy_machine *machine;
    sy_bound_rank *rank; /* of the whole run */
    const int *local;    /* [n] their numbers */
    int n;
    int *node; /* [n] whose cores each rank uses; ANY_NODE: the machine's */
    bool several_machines;
} placing;

/* ---- reasons ---- */

static void add(sy_bound_rank *rank, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts a piece behind what was said so far. */
static void add(sy_bound_rank *rank, const char *format, ...) {
    size_t used = strlen(rank->reason);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rank->reason + used, sizeof rank->reason - used, format, arguments);
    va_end(arguments);
}

/* The blank before a sentence that is not the first. */
static const char *blank(const sy_bound_rank *rank) {
    return rank->reason[0] != '\0' ? " " : "";
}

/* ---- devices ---- */

static int count_usable(const sy_machine *m) {
    int n = 0;
    for (int i = 0; i < m->n_devices; i++)
        n += m->device[i].cuda >= 0;
    return n;
}

/* Index of the k-th device that CUDA shows. */
static int usable_device(const sy_machine *m, int k) {
    for (int i = 0; i < m->n_devices; i++)
        if (m->device[i].cuda >= 0 && k-- == 0) return i;
    return -1;
}

static void choose_devices(placing *p, bool use_devices) {
    int n = use_devices ? count_usable(p->machine) : 0;
    for (int i = 0; i < p->n; i++) {
        sy_bound_rank *rank = &p->rank[p->local[i]];
        if (n == 0) {
            rank->device = -1;
            continue;
        }
        rank->device = usable_device(p->machine, i % n);
        const sy_machine_device *d = &p->machine->device[rank->device];
        int sharers = p->n / n + (i % n < p->n % n);
        if (sharers > 1)
            add(rank, "Device %d (%s) is shared by %d ranks.", d->cuda, d->name, sharers);
        else
            add(rank, "Device %d (%s) is its own.", d->cuda, d->name);
    }
}

/* ---- cores ---- */

static bool node_has_cores(const sy_machine *m, int node) {
    for (int i = 0; i < m->n_cores; i++)
        if (m->core[i].node == node) return true;
    return false;
}

static bool in_domain(const sy_machine_core *core, int node, bool all_kinds) {
    if (node != ANY_NODE && core->node != node) return false;
    return all_kinds || core->kind != SY_CORE_EFFICIENCY;
}

static int count_cores(const sy_machine *m, int node, bool all_kinds) {
    int n = 0;
    for (int i = 0; i < m->n_cores; i++)
        n += in_domain(&m->core[i], node, all_kinds);
    return n;
}

static int count_ranks(const placing *p, int node) {
    int n = 0;
    for (int i = 0; i < p->n; i++)
        n += p->node[i] == node;
    return n;
}

/* The node of each rank's device; the whole machine for all, if one of them has no such node or a
 * node has fewer cores than ranks. */
static void choose_nodes(placing *p) {
    bool whole = false;
    for (int i = 0; i < p->n; i++) {
        int device = p->rank[p->local[i]].device;
        p->node[i] = device >= 0 ? p->machine->device[device].pci.node : ANY_NODE;
        if (p->node[i] == ANY_NODE || !node_has_cores(p->machine, p->node[i])) whole = true;
    }
    for (int i = 0; i < p->n && !whole; i++)
        whole = count_cores(p->machine, p->node[i], true) < count_ranks(p, p->node[i]);
    for (int i = 0; i < p->n && whole; i++)
        p->node[i] = ANY_NODE;
}

/* The NUMA nodes of a rank's cores, as "NUMA node 0" or "NUMA nodes 0, 1". */
static void name_nodes(const placing *p, const sy_bound_rank *rank, char *buf, size_t size) {
    const sy_machine *m = p->machine;
    int n = 0;
    size_t used = 0;
    char list[64] = "";
    for (int i = 0; i < m->n_nodes; i++) {
        bool here = false;
        for (int c = 0; c < m->n_cores && !here; c++)
            here = m->core[c].node == m->node[i].number &&
                   sy_cpus_has(&rank->cpus, m->core[c].cpu[0]);
        if (!here) continue;
        int more = snprintf(list + used, sizeof list - used, "%s%d", n > 0 ? ", " : "",
                            m->node[i].number);
        if (more > 0 && (size_t)more < sizeof list - used) used += (size_t)more;
        n++;
    }
    snprintf(buf, size, "NUMA node%s %s", n == 1 ? "" : "s", list);
}

static void explain_cores(const placing *p, int i, int n_ranks, bool all_kinds) {
    sy_bound_rank *rank = &p->rank[p->local[i]];
    const sy_machine *m = p->machine;
    int node = p->node[i], n = count_cores(m, node, all_kinds);
    bool left_out = n < count_cores(m, node, true);
    const char *whose = node == ANY_NODE ? "the machine's" : "the node's";
    const char *kind = left_out ? "performance " : "", *plural = n == 1 ? "" : "s";
    add(rank, "%s", blank(rank));
    if (node != ANY_NODE) add(rank, "The device hangs on NUMA node %d. ", node);
    if (n_ranks == 1)
        add(rank, "The rank has all of %s %d %score%s", whose, n, kind, plural);
    else
        add(rank, "The rank has its even share of %s %d %score%s for %d ranks", whose, n, kind,
            plural, n_ranks);
    if (node == ANY_NODE && m->n_nodes > 1) {
        char nodes[96];
        name_nodes(p, rank, nodes, sizeof nodes);
        add(rank, ", these on %s", nodes);
    }
    if (left_out) add(rank, "; efficiency cores are left to the system");
    add(rank, ".");
}

/* Rank `share` of the n_ranks on the node of p->local[i]. */
static void take_cores(const placing *p, int i, int share, int n_ranks) {
    const sy_machine *m = p->machine;
    sy_bound_rank *rank = &p->rank[p->local[i]];
    int node = p->node[i];
    bool all_kinds = count_cores(m, node, false) < n_ranks;
    int64_t n = count_cores(m, node, all_kinds);
    int64_t begin = n * share / n_ranks, end = n * (share + 1) / n_ranks, at = 0;
    for (int c = 0; c < m->n_cores; c++) {
        const sy_machine_core *core = &m->core[c];
        if (!in_domain(core, node, all_kinds)) continue;
        if (at >= begin && at < end) {
            for (int t = 0; t < core->n_cpus; t++)
                sy_cpus_add(&rank->cpus, core->cpu[t]);
            rank->n_cores++;
        }
        at++;
    }
    rank->bound = true;
    explain_cores(p, i, n_ranks, all_kinds);
}

static int count_cpus(const sy_machine *m) {
    int n = 0;
    for (int i = 0; i < m->n_cores; i++)
        n += m->core[i].n_cpus;
    return n;
}

/* Why no rank of the machine is bound, or "". */
static void find_obstacle(const placing *p, char *buf, size_t size) {
    const sy_machine *m = p->machine;
    buf[0] = '\0';
    if (p->n > m->n_cores)
        snprintf(buf, size,
                 "The rank is bound to no core, since %d ranks are more than %d core%s.", p->n,
                 m->n_cores, m->n_cores == 1 ? "" : "s");
    else if (m->cpu_quota > 0 && m->cpu_quota < count_cpus(m))
        snprintf(buf, size,
                 "The rank is bound to no core, since this process may use %.3g CPUs' worth of "
                 "time on "
                 "%d CPUs, and the scheduler knows best which are free.",
                 m->cpu_quota, count_cpus(m));
}

static void choose_cores(placing *p) {
    char obstacle[192];
    choose_nodes(p);
    find_obstacle(p, obstacle, sizeof obstacle);
    for (int i = 0; i < p->n; i++) {
        if (obstacle[0] != '\0') {
            sy_bound_rank *rank = &p->rank[p->local[i]];
            add(rank, "%s%s", blank(rank), obstacle);
            continue;
        }
        int share = 0;
        for (int j = 0; j < i; j++)
            share += p->node[j] == p->node[i];
        take_cores(p, i, share, count_ranks(p, p->node[i]));
    }
}

/* ---- network ---- */

/* The NUMA node of all of a rank's cores, or -1. */
static int node_of_cores(const sy_machine *m, const sy_bound_rank *rank) {
    int node = -1;
    for (int i = 0; i < m->n_cores; i++) {
        if (!sy_cpus_has(&rank->cpus, m->core[i].cpu[0])) continue;
        if (node >= 0 && node != m->core[i].node) return -1;
        node = m->core[i].node;
    }
    return node;
}

/* The better, the larger; -1: not to be used. One of twins stands for both. */
static int64_t judge_nic(const sy_machine *m, int i, const sy_machine_pci *near) {
    const sy_machine_nic *nic = &m->nic[i];
    if (!sy_nic_is_wired(nic) || !sy_nic_in_use(nic)) return -1;
    if (nic->twin >= 0 && nic->twin < i && sy_nic_in_use(&m->nic[nic->twin])) return -1;
    int64_t merit = nic->rdma_up ? 1 : 0;
    merit = 8 * merit + sy_pci_nearness(near, &nic->pci);
    return ((int64_t)1 << 32) * merit + nic->speed;
}

static void choose_nic(const placing *p, int i) {
    const sy_machine *m = p->machine;
    sy_bound_rank *rank = &p->rank[p->local[i]];
    sy_machine_pci here = {.node = node_of_cores(m, rank)};
    if (rank->device >= 0) here = m->device[rank->device].pci;
    int64_t best = -1;
    int n_best = 0;
    for (int k = 0; k < m->n_nics; k++) {
        int64_t merit = judge_nic(m, k, &here);
        if (merit > best) n_best = 0;
        if (merit >= 0 && merit >= best) {
            best = merit;
            n_best++;
        }
    }
    if (n_best == 0) return;
    int skip = i % n_best; /* equals are taken in turn */
    for (int k = 0; k < m->n_nics && rank->nic < 0; k++)
        if (judge_nic(m, k, &here) == best && skip-- == 0) rank->nic = k;
    const sy_machine_nic *nic = &m->nic[rank->nic];
    sy_nearness nearness = sy_pci_nearness(&here, &nic->pci);
    add(rank, "%s%s", blank(rank), sy_nic_name(nic));
    if (nic->twin >= 0 && sy_nic_in_use(&m->nic[nic->twin]))
        add(rank, " with its twin %s", sy_nic_name(&m->nic[nic->twin]));
    add(rank, nic->rdma_up ? " is an RDMA port" : " is up");
    if (nearness != SY_NEAR_UNKNOWN) add(rank, " %s", sy_nearness_text(nearness));
    add(rank, ".");
}

/* ---- all ---- */

static void place_machine(placing *p, bool use_devices) {
    choose_devices(p, use_devices);
    choose_cores(p);
    for (int i = 0; i < p->n && p->several_machines; i++)
        choose_nic(p, i);
}

sy_status sy_binding_plan(const sy_machines *machines,
                          int n_ranks,
                          const int *machine_of,
                          bool use_devices,
                          sy_binding *out) {
    sy_status st = SY_OK;
    int *local = calloc((size_t)n_ranks, sizeof *local);
    int *node = calloc((size_t)n_ranks, sizeof *node);
    *out = (sy_binding){.n_ranks = n_ranks};
    out->rank = calloc((size_t)n_ranks, sizeof *out->rank);
    if (local == NULL || node == NULL || out->rank == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for the binding of %d ranks", n_ranks);
    for (int m = 0; m < machines->n; m++) {
        placing p = {.machine = &machines->machine[m],
                     .rank = out->rank,
                     .local = local,
                     .node = node,
                     .several_machines = machines->n > 1};
        for (int r = 0; r < n_ranks; r++) {
            if (machine_of[r] != m) continue;
            out->rank[r] = (sy_bound_rank){.machine = m, .local = p.n, .device = -1, .nic = -1};
            local[p.n++] = r;
        }
        place_machine(&p, use_devices);
    }
done:
    free(local);
    free(node);
    if (st != SY_OK) sy_binding_free(out);
    return st;
}

void sy_binding_free(sy_binding *binding) {
    free(binding->rank);
    *binding = (sy_binding){0};
}

static int slots_of(const sy_machine *m) {
    int n = count_usable(m);
    return n > 0 ? n : 1;
}

int sy_binding_natural_ranks(const sy_machines *machines) {
    int n = 0;
    for (int m = 0; m < machines->n; m++)
        n += slots_of(&machines->machine[m]);
    return n;
}

/* Ranks of machine m, when n_ranks are dealt out over all. */
static int ranks_of(const sy_machines *machines, int m, int n_ranks) {
    int before = 0, natural = sy_binding_natural_ranks(machines);
    for (int k = 0; k < m; k++)
        before += slots_of(&machines->machine[k]);
    int64_t n = sy_min(slots_of(&machines->machine[m]), sy_max(0, n_ranks - before));
    int rest = n_ranks - natural;
    if (rest > 0) n += rest / machines->n + (m < rest % machines->n);
    return (int)n;
}

void sy_binding_spread(const sy_machines *machines, int n_ranks, int *machine_of) {
    int rank = 0;
    for (int m = 0; m < machines->n; m++)
        for (int n = ranks_of(machines, m, n_ranks); n > 0 && rank < n_ranks; n--)
            machine_of[rank++] = m;
}

sy_cpus sy_machine_cpus(const sy_machine *m) {
    sy_cpus all = {{0}};
    for (int i = 0; i < m->n_cores; i++)
        for (int k = 0; k < m->core[i].n_cpus; k++)
            sy_cpus_add(&all, m->core[i].cpu[k]);
    return all;
}

bool sy_binding_matters(const sy_machine *m) {
    bool kinds = false;
    for (int i = 0; i < m->n_cores; i++) {
        if (m->core[i].node != m->core[0].node) return true;
        kinds |= m->core[i].kind == SY_CORE_EFFICIENCY;
    }
    return kinds;
}

const char *sy_binding_obstacle(const sy_machines *machines,
                                int machine,
                                const sy_binding *b,
                                const sy_binding_wish *wish) {
    const sy_machine *m = &machines->machine[machine];
    int smallest = SY_CPUS_MAX;
    sy_cpus all = sy_machine_cpus(m);
    for (int r = 0; r < b->n_ranks && wish->masks != NULL; r++)
        if (b->rank[r].machine == machine && !sy_cpus_equal(&wish->masks[r], &all))
            return "the launcher has bound them, or the cores are not all known";
    if (!wish->always && !sy_binding_matters(m)) return "one NUMA node and one kind of cores";
    for (int r = 0; r < b->n_ranks; r++) {
        if (b->rank[r].machine != machine) continue;
        if (!b->rank[r].bound) return "too few cores, or a limit on CPU time";
        smallest = (int)sy_min(smallest, sy_cpus_count(&b->rank[r].cpus));
    }
    return wish->threads > smallest ? "more threads than cores" : NULL;
}

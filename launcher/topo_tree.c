/* The report as text: a tree of each machine, a table of the ranks, advice. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "launcher/output.h"
#include "launcher/topo_report.h"
#include "launcher/topo_words.h"

enum { WIDTH = 100 };

/* Words from column `column` on; further lines are indented by `indent`. Ends the line. */
static sy_status print_wrapped(const char *text, int column, int indent) {
    sy_status st = SY_OK;
    for (bool first = true; *text != '\0'; first = false) {
        int n = (int)strcspn(text, " ");
        if (!first && column + 1 + n > WIDTH) {
            SY_TRY(sy_out_printf("\n%*s", indent, ""));
            column = indent;
        } else if (!first) {
            SY_TRY(sy_out_printf(" "));
            column++;
        }
        SY_TRY(sy_out_printf("%.*s", n, text));
        column += n;
        text += n + (text[n] == ' ');
    }
    SY_TRY(sy_out_printf("\n"));
done:
    return st;
}

/* ---- a machine ---- */

/* A line of the tree; below the last one of a branch no stroke goes on. */
static sy_status
print_leaf(int depth, bool last_branch, bool last, const char *label, const char *text) {
    const char *stroke = depth == 0 ? "" : last_branch ? "    " : "|   ";
    return sy_out_printf("%s%s %s%s%s\n", stroke, last ? "`--" : "|--", label,
                         text[0] != '\0' ? "  " : "", text);
}

static sy_status
print_device(const sy_topo_report *t, int machine, int d, bool last_branch, bool last) {
    char text[SY_TOPO_LINE], ranks[SY_TOPO_LINE], line[2 * SY_TOPO_LINE + 8], label[32];
    const sy_machine_device *device = &t->machines->machine[machine].device[d];
    snprintf(label, sizeof label, device->cuda >= 0 ? "device %d" : "device", device->cuda);
    sy_topo_ranks_on(t->binding, machine, d, ranks);
    snprintf(line, sizeof line, "%s%s%s", sy_topo_device(device, text),
             ranks[0] != '\0' ? "  <- " : "", ranks);
    return print_leaf(1, last_branch, last, label, line);
}

static sy_status print_nic(const sy_machine *m, int i, bool last_branch, bool last) {
    const sy_machine_nic *nic = &m->nic[i];
    char label[48], text[SY_TOPO_LINE], line[2 * SY_TOPO_LINE];
    bool twin = nic->twin >= 0;
    sy_topo_nic(nic, text);
    snprintf(label, sizeof label, "NIC %s", sy_nic_name(nic));
    snprintf(line, sizeof line, "%s, %s%s%s%s%s", sy_nic_kind_name(nic->kind),
             nic->up ? "up" : "down", text[0] != '\0' ? ", " : "", text,
             twin ? ", twin of " : "", twin ? sy_nic_name(&m->nic[nic->twin]) : "");
    return print_leaf(1, last_branch, last, label, line);
}

static bool on_node(const sy_machine_pci *pci, const sy_machine *m, int node) {
    if (pci->node == node) return true;
    return pci->node < 0 && node == m->node[0].number; /* of no node in particular */
}

static int last_device_on(const sy_machine *m, int node) {
    int last = -1;
    for (int d = 0; d < m->n_devices; d++)
        if (on_node(&m->device[d].pci, m, node)) last = d;
    return last;
}

static int last_nic_on(const sy_machine *m, int node) {
    int last = -1;
    for (int i = 0; i < m->n_nics; i++)
        if (on_node(&m->nic[i].pci, m, node)) last = i;
    return last;
}

static sy_status print_node(const sy_topo_report *t, int machine, int n, bool last_branch) {
    sy_status st = SY_OK;
    const sy_machine *m = &t->machines->machine[machine];
    const sy_machine_node *node = &m->node[n];
    char label[32], text[SY_TOPO_LINE], bytes[24], cores[SY_TOPO_LINE];
    int last_device = last_device_on(m, node->number), last_nic = last_nic_on(m, node->number);
    snprintf(label, sizeof label, "NUMA node %d", node->number);
    snprintf(text, sizeof text, "%s, %.200s",
             sy_format_bytes(bytes, sizeof bytes, node->memory),
             node->of_device ? "a device's memory" : sy_topo_cores(m, node->number, cores));
    SY_TRY(print_leaf(0, false, last_branch, label, text));
    for (int d = 0; d <= last_device; d++)
        if (on_node(&m->device[d].pci, m, node->number))
            SY_TRY(print_device(t, machine, d, last_branch, last_nic < 0 && d == last_device));
    for (int i = 0; i <= last_nic; i++)
        if (on_node(&m->nic[i].pci, m, node->number))
            SY_TRY(print_nic(m, i, last_branch, i == last_nic));
done:
    return st;
}

static sy_status print_settings(const sy_machine *m) {
    sy_status st = SY_OK;
    char line[SY_MACHINE_SETTING + 64];
    for (int i = 0; i < m->n_settings; i++) {
        snprintf(line, sizeof line, "%s=%s", m->setting[i].name, m->setting[i].value);
        SY_TRY(print_leaf(0, false, false, line, ""));
    }
done:
    return st;
}

/* The machines from this one on that are alike; each is shown once. */
static bool shown_before(const sy_machines *machines, int m) {
    for (int k = 0; k < m; k++)
        if (sy_topo_alike(&machines->machine[k], &machines->machine[m])) return true;
    return false;
}

static sy_status print_names(const sy_machines *machines, int m) {
    sy_status st = SY_OK;
    int n = 0;
    for (int k = m; k < machines->n; k++) {
        if (!sy_topo_alike(&machines->machine[m], &machines->machine[k])) continue;
        SY_TRY(sy_out_printf("%s%s", n++ > 0 ? ", " : "", machines->machine[k].name));
    }
    if (n > 1) SY_TRY(sy_out_printf(" (%d alike; the first is shown)", n));
    SY_TRY(sy_out_printf("\n"));
done:
    return st;
}

static sy_status print_machine(const sy_topo_report *t, int machine) {
    sy_status st = SY_OK;
    const sy_machine *m = &t->machines->machine[machine];
    char text[SY_TOPO_LINE], cores[SY_TOPO_LINE];
    SY_TRY(print_names(t->machines, machine));
    snprintf(text, sizeof text, "%s%s%.160s", m->cpu, m->cpu[0] != '\0' ? ", " : "",
             sy_topo_cores(m, -1, cores));
    SY_TRY(print_leaf(0, false, false, "processor", text));
    if (m->cpu_quota > 0) {
        snprintf(text, sizeof text, "%.3g CPUs' worth of time", m->cpu_quota);
        SY_TRY(print_leaf(0, false, false, "limit", text));
    }
    SY_TRY(print_leaf(0, false, false, "memory", sy_topo_memory(m, text)));
    if (m->driver[0] != '\0') SY_TRY(print_leaf(0, false, false, "NVIDIA driver", m->driver));
    SY_TRY(print_settings(m));
    for (int n = 0; n < m->n_nodes; n++)
        SY_TRY(print_node(t, machine, n, n == m->n_nodes - 1));
done:
    return st;
}

/* ---- ranks ---- */

static sy_status print_rank(const sy_topo_report *t, int r) {
    const sy_bound_rank *rank = &t->binding->rank[r];
    const sy_machine *m = &t->machines->machine[rank->machine];
    char device[16] = "CPU", cpus[72] = "any", nic[72] = "";
    if (rank->device >= 0) snprintf(device, sizeof device, "%d", m->device[rank->device].cuda);
    if (rank->bound) sy_cpus_text(&rank->cpus, cpus, sizeof cpus);
    if (rank->nic >= 0) {
        const sy_machine_nic *n = &m->nic[rank->nic];
        bool both = n->twin >= 0 && sy_nic_in_use(&m->nic[n->twin]);
        snprintf(nic, sizeof nic, "%s%s%s", sy_nic_name(n), both ? " + " : "",
                 both ? sy_nic_name(&m->nic[n->twin]) : "");
    }
    if (nic[0] == '\0')
        return sy_out_printf("  %4d  %-16s %-6s  %5d  %s\n", r, m->name, device, rank->n_cores,
                             cpus);
    return sy_out_printf("  %4d  %-16s %-6s  %5d  %-24s  %s\n", r, m->name, device,
                         rank->n_cores, cpus, nic);
}

static bool same_reason(const sy_binding *b, int r, int s) {
    return strcmp(b->rank[r].reason, b->rank[s].reason) == 0;
}

/* "rank 0: ", "ranks 0, 4, 8: ": all that have the reason of rank r. */
static void name_ranks(const sy_binding *b, int r, char *buf, size_t size) {
    size_t used = 0, n = 0;
    for (int k = r; k < b->n_ranks; k++)
        n += same_reason(b, r, k);
    used += (size_t)snprintf(buf, size, n == 1 ? "rank" : "ranks");
    for (int k = r, i = 0; k < b->n_ranks; k++) {
        if (!same_reason(b, r, k)) continue;
        bool room = used + 24 < size;
        used += (size_t)snprintf(buf + used, size - used, room ? "%s %d" : "%s ..",
                                 i++ > 0 ? "," : "", k);
        if (!room) break;
    }
    snprintf(buf + used, size - used, ": ");
}

/* Each reason once. */
static sy_status print_reasons(const sy_topo_report *t) {
    sy_status st = SY_OK;
    const sy_binding *b = t->binding;
    for (int r = 0; r < b->n_ranks; r++) {
        char line[SY_BINDING_REASON + 96];
        bool said = false;
        for (int k = 0; k < r && !said; k++)
            said = same_reason(b, k, r);
        if (said) continue;
        name_ranks(b, r, line, 80);
        size_t used = strlen(line);
        snprintf(line + used, sizeof line - used, "%s", b->rank[r].reason);
        SY_TRY(sy_out_printf("  "));
        SY_TRY(print_wrapped(line, 2, 4));
    }
done:
    return st;
}

/* Each obstacle once, with the machines that it stands on unless these are all. */
static sy_status print_obstacles(const sy_topo_report *t) {
    sy_status st = SY_OK;
    int n = t->machines->n;
    for (int m = 0; m < n; m++) {
        const char *why = t->obstacle[m];
        int first = m, alike = 0;
        for (int k = 0; why != NULL && k < n; k++) {
            if (t->obstacle[k] == NULL || strcmp(t->obstacle[k], why) != 0) continue;
            if (alike++ == 0) first = k;
        }
        if (why == NULL || first < m) continue;
        if (alike == n) return sy_out_printf("  runs do not bind here: %s\n", why);
        SY_TRY(sy_out_printf("  runs do not bind on %s%s: %s\n", t->machines->machine[m].name,
                             alike > 1 ? " and others" : "", why));
    }
done:
    return st;
}

static sy_status print_ranks(const sy_topo_report *t) {
    sy_status st = SY_OK;
    SY_TRY(sy_out_printf("\nranks, and where --bind cores puts each\n"));
    SY_TRY(print_obstacles(t));
    SY_TRY(sy_out_printf("  rank  %-16s %-6s  cores  %-24s  NIC\n", "host", "device", "CPUs"));
    for (int r = 0; r < t->binding->n_ranks; r++)
        SY_TRY(print_rank(t, r));
    SY_TRY(sy_out_printf("why\n"));
    SY_TRY(print_reasons(t));
done:
    return st;
}

/* ---- advice ---- */

static sy_status print_advice(const sy_topo_report *t) {
    sy_status st = SY_OK;
    char where[160], line[SY_ADVICE_TEXT + 256];
    if (t->advice->n == 0) return SY_OK;
    SY_TRY(sy_out_printf("\nadvice\n"));
    for (int i = 0; i < t->advice->n; i++) {
        const sy_advice_item *item = &t->advice->item[i];
        sy_advice_where(item, t->machines, where, sizeof where);
        snprintf(line, sizeof line, "%s (%s)%s%s: %s",
                 item->level == SY_ADVICE_WARNING ? "warning" : "note", item->topic,
                 where[0] != '\0' ? " on " : "", where, item->text);
        SY_TRY(sy_out_printf("  "));
        SY_TRY(print_wrapped(line, 2, 4));
        SY_TRY(sy_out_printf("    cure: "));
        SY_TRY(print_wrapped(item->cure, 10, 10));
    }
done:
    return st;
}

sy_status sy_topo_print_tree(const sy_topo_report *t) {
    sy_status st = SY_OK;
    for (int m = 0; m < t->machines->n; m++) {
        if (shown_before(t->machines, m)) continue;
        if (m > 0) SY_TRY(sy_out_printf("\n"));
        SY_TRY(print_machine(t, m));
    }
    SY_TRY(print_ranks(t));
    SY_TRY(print_advice(t));
done:
    return st;
}

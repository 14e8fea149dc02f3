/* Environment variables that choose interfaces, and interfaces that are chosen without them. */
#include <stdio.h>
#include <string.h>

#include "topology/advice_checks.h"

/* ---- interfaces that mislead ---- */

/* The interface that control should take: the fastest wired one that is in use. */
static const sy_machine_nic *best_nic(const sy_machine *m) {
    const sy_machine_nic *best = NULL;
    for (int i = 0; i < m->n_nics; i++) {
        const sy_machine_nic *nic = &m->nic[i];
        bool fits = sy_nic_is_wired(nic) && sy_nic_in_use(nic) && nic->name[0] != '\0' &&
                    nic->subnet[0] != '\0';
        if (fits && (best == NULL || nic->speed > best->speed)) best = nic;
    }
    return best;
}

/* MPI takes every interface with an address for a way to the other hosts; one that is not stops
 * the first message without an error. */
static void check_misleading(const sy_machine *m, int machine, sy_advice *advice) {
    char names[160] = "";
    const sy_machine_nic *best = best_nic(m);
    bool chosen = sy_machine_setting_value(m, "OMPI_MCA_btl_tcp_if_include") != NULL ||
                  sy_machine_setting_value(m, "OMPI_MCA_btl_tcp_if_exclude") != NULL;
    for (int i = 0; i < m->n_nics; i++) {
        const sy_machine_nic *nic = &m->nic[i];
        bool misleads = nic->kind == SY_NIC_VIRTUAL || nic->kind == SY_NIC_WIRELESS;
        if (misleads && nic->up && nic->subnet[0] != '\0')
            sy_advice_list(names, sizeof names, nic->name);
    }
    if (names[0] == '\0' || best == NULL || chosen) return;
    sy_finding f = {.level = SY_ADVICE_WARNING, .topic = "interface", .machine = machine};
    snprintf(f.text, sizeof f.text,
             "MPI may try to reach other hosts over %s, and hang at the first message", names);
    snprintf(f.cure, sizeof f.cure,
             "export OMPI_MCA_btl_tcp_if_include=%s OMPI_MCA_oob_tcp_if_include=%s "
             "NCCL_SOCKET_IFNAME=%s",
             best->subnet, best->subnet, best->name);
    sy_advice_add(advice, &f);
}

/* ---- interfaces that are named ---- */

static const sy_machine_nic *
find_nic(const sy_machine *m, const char *name, size_t n, bool prefix) {
    for (int i = 0; i < m->n_nics; i++) {
        const char *other = m->nic[i].name;
        if (strncmp(other, name, n) == 0 && (prefix || other[n] == '\0')) return &m->nic[i];
    }
    return NULL;
}

/* A list of names; subnets ("10.0.0.0/8"), exclusions and what this host has up are fine. */
static void check_named(const sy_machine *m,
                        int machine,
                        const char *variable,
                        bool prefix,
                        sy_advice *advice) {
    const char *value = sy_machine_setting_value(m, variable);
    if (value == NULL || value[0] == '^') return;
    if (value[0] == '=') {
        value++;
        prefix = false;
    }
    for (const char *at = value; *at != '\0';) {
        size_t n = strcspn(at, ",");
        bool is_name = n > 0 && memchr(at, '/', n) == NULL && strncmp(at, "lo", n) != 0;
        const sy_machine_nic *nic = is_name ? find_nic(m, at, n, prefix) : NULL;
        if (is_name && (nic == NULL || !nic->up)) {
            sy_finding f = {
                .level = SY_ADVICE_WARNING, .topic = "interface", .machine = machine};
            snprintf(f.text, sizeof f.text, "%s names %.*s, which %s", variable,
                     (int)(n < 40 ? n : 40), at, nic == NULL ? "is not there" : "is down");
            snprintf(f.cure, sizeof f.cure,
                     "name an interface that is up and leads to the other hosts; a subnet "
                     "fits hosts whose interfaces have different names (MPI only)");
            sy_advice_add(advice, &f);
        }
        at += n + (at[n] == ',');
    }
}

/* The place of an address in the adapter's table moves when addresses come and go. */
static void check_gid(const sy_machine *m, int machine, sy_advice *advice) {
    const char *value = sy_machine_setting_value(m, "NCCL_IB_GID_INDEX");
    if (value == NULL || strcmp(value, "-1") == 0) return;
    sy_finding f = {.level = SY_ADVICE_WARNING, .topic = "gid", .machine = machine};
    snprintf(f.text, sizeof f.text,
             "NCCL_IB_GID_INDEX=%.20s is pinned: the right index moves when addresses change, "
             "and differs between hosts",
             value);
    snprintf(f.cure, sizeof f.cure, "unset NCCL_IB_GID_INDEX: NCCL finds it by itself");
    sy_advice_add(advice, &f);
}

void sy_advise_settings(const sy_machines *machines, int i, sy_advice *advice) {
    const sy_machine *m = &machines->machine[i];
    if (machines->n < 2) return;
    check_misleading(m, i, advice);
    check_named(m, i, "NCCL_SOCKET_IFNAME", true, advice);
    check_named(m, i, "OMPI_MCA_btl_tcp_if_include", false, advice);
    check_named(m, i, "OMPI_MCA_oob_tcp_if_include", false, advice);
    check_gid(m, i, advice);
}

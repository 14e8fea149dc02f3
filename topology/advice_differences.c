/* What should be equal on all machines of a run, and is not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "topology/advice_checks.h"

enum { VALUE_MAX = 96, MOST_VALUES = 4 };

/* What a machine has of something, as text; "" : it does not have it and is left out. */
typedef void (*property)(const sy_machine *m, const char *key, char buf[VALUE_MAX]);

typedef struct comparison {
    sy_advice_level level;
    const char *label; /* "MTU of enp1s0f0np0" */
    const char *key;
    property value;
    const char *cure;
} comparison;

/* "label: 9000 on spark1; 1500 on spark2, spark3", with the first few values and hosts. */
static void describe(const sy_machines *machines, const comparison *c, char *buf, size_t size) {
    char value[MOST_VALUES][VALUE_MAX], hosts[MOST_VALUES][64], own[VALUE_MAX];
    int n = 0;
    for (int m = 0; m < machines->n; m++) {
        int k = 0;
        c->value(&machines->machine[m], c->key, own);
        if (own[0] == '\0') continue;
        while (k < n && strcmp(value[k], own) != 0)
            k++;
        if (k == MOST_VALUES) continue;
        if (k == n) {
            strcpy(value[n], own);
            hosts[n++][0] = '\0';
        }
        sy_advice_list(hosts[k], sizeof hosts[k] - 4, machines->machine[m].name);
    }
    int used = snprintf(buf, size, "%s differs: ", c->label);
    for (int k = 0; k < n && used >= 0 && (size_t)used < size; k++)
        used += snprintf(buf + used, size - (size_t)used, "%s%s on %s", k > 0 ? "; " : "",
                         value[k], hosts[k]);
}

/* Two values or more are a finding. */
static void compare(const sy_machines *machines, const comparison *c, sy_advice *advice) {
    char first[VALUE_MAX] = "", own[VALUE_MAX];
    bool equal = true;
    for (int m = 0; m < machines->n; m++) {
        c->value(&machines->machine[m], c->key, own);
        if (own[0] == '\0') continue;
        if (first[0] == '\0') strcpy(first, own);
        equal &= strcmp(first, own) == 0;
    }
    if (equal) return;
    sy_finding f = {.level = c->level, .topic = "differs", .machine = -1};
    describe(machines, c, f.text, sizeof f.text);
    snprintf(f.cure, sizeof f.cure, "%s", c->cure);
    sy_advice_add(advice, &f);
}

/* ---- properties ---- */

static void driver_of(const sy_machine *m, const char *key, char buf[VALUE_MAX]) {
    (void)key;
    snprintf(buf, VALUE_MAX, "%s", m->driver);
}

static void kernel_of(const sy_machine *m, const char *key, char buf[VALUE_MAX]) {
    (void)key;
    snprintf(buf, VALUE_MAX, "%s", m->kernel);
}

static void cpu_of(const sy_machine *m, const char *key, char buf[VALUE_MAX]) {
    (void)key;
    snprintf(buf, VALUE_MAX, "%s", m->cpu);
}

/* "8 of NVIDIA H100", by the first of them. */
static void devices_of(const sy_machine *m, const char *key, char buf[VALUE_MAX]) {
    (void)key;
    if (m->n_devices == 0)
        snprintf(buf, VALUE_MAX, "none");
    else
        snprintf(buf, VALUE_MAX, "%d (%.64s)", m->n_devices, m->device[0].name);
}

static void setting_of(const sy_machine *m, const char *key, char buf[VALUE_MAX]) {
    const char *value = sy_machine_setting_value(m, key);
    snprintf(buf, VALUE_MAX, "%.80s", value != NULL ? value : "not set");
}

static const sy_machine_nic *nic_named(const sy_machine *m, const char *name) {
    for (int i = 0; i < m->n_nics; i++)
        if (m->nic[i].name[0] != '\0' && strcmp(m->nic[i].name, name) == 0) return &m->nic[i];
    return NULL;
}

static void mtu_of(const sy_machine *m, const char *key, char buf[VALUE_MAX]) {
    const sy_machine_nic *nic = nic_named(m, key);
    buf[0] = '\0';
    if (nic != NULL && sy_nic_in_use(nic)) snprintf(buf, VALUE_MAX, "%d", nic->mtu);
}

static void speed_of(const sy_machine *m, const char *key, char buf[VALUE_MAX]) {
    const sy_machine_nic *nic = nic_named(m, key);
    buf[0] = '\0';
    if (nic != NULL && sy_nic_in_use(nic) && nic->speed > 0)
        snprintf(buf, VALUE_MAX, "%g Gb/s", (double)nic->speed / 1000);
}

/* ---- what is compared ---- */

/* Whether an earlier machine, up to m, has the name already. */
static bool seen_nic(const sy_machines *machines, int m, const char *name) {
    for (int k = 0; k < m; k++)
        if (nic_named(&machines->machine[k], name) != NULL) return true;
    return false;
}

static bool seen_setting(const sy_machines *machines, int m, const char *name) {
    for (int k = 0; k < m; k++)
        if (sy_machine_setting_value(&machines->machine[k], name) != NULL) return true;
    return false;
}

static void compare_nics(const sy_machines *machines, int m, sy_advice *advice) {
    const sy_machine *machine = &machines->machine[m];
    char label[64];
    for (int i = 0; i < machine->n_nics; i++) {
        const char *name = machine->nic[i].name;
        if (name[0] == '\0' || !sy_nic_is_wired(&machine->nic[i]) ||
            seen_nic(machines, m, name))
            continue;
        snprintf(label, sizeof label, "MTU of %s", name);
        compare(machines,
                &(comparison){SY_ADVICE_WARNING, label, name, mtu_of,
                              "one MTU on all hosts, in netplan: a firmware update resets it"},
                advice);
        snprintf(label, sizeof label, "speed of %s", name);
        compare(machines,
                &(comparison){SY_ADVICE_WARNING, label, name, speed_of,
                              "check cables, transceivers and the switch's ports"},
                advice);
    }
}

static void compare_settings(const sy_machines *machines, int m, sy_advice *advice) {
    const sy_machine *machine = &machines->machine[m];
    for (int i = 0; i < machine->n_settings; i++) {
        const char *name = machine->setting[i].name;
        bool pinned = strcmp(name, "NCCL_IB_GID_INDEX") == 0; /* is to go on all hosts anyway */
        if (pinned || seen_setting(machines, m, name)) continue;
        compare(
            machines,
            &(comparison){SY_ADVICE_WARNING, name, name, setting_of,
                          "mpirun hands only OMPI_ variables to other hosts: set it in each "
                          "host's ~/.bashrc (NCCL_ variables: also /etc/nccl.conf)"},
            advice);
    }
}

void sy_advise_differences(const sy_machines *machines, sy_advice *advice) {
    static const comparison plain[] = {
        {SY_ADVICE_WARNING, "the NVIDIA driver", "", driver_of,
         "one driver version on all hosts"},
        {SY_ADVICE_NOTE, "the kernel", "", kernel_of, "one kernel on all hosts"},
        {SY_ADVICE_NOTE, "the processor", "", cpu_of,
         "none needed: the slowest host sets the pace, and -t fits threads to it"},
        {SY_ADVICE_WARNING, "the devices", "", devices_of,
         "give each host as many ranks as it has devices: --hosts HOST:N,.."}};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        compare(machines, &plain[i], advice);
    for (int m = 0; m < machines->n; m++) {
        compare_nics(machines, m, advice);
        compare_settings(machines, m, advice);
    }
}

#include "topology/machine_probe.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "topology/machine_read.h"

enum { CPUINFO_MOST = 256 << 10, MEMINFO_MOST = 16 << 10 };

/* ---- memory ---- */

/* "MemTotal:  127535444 kB", also behind "Node 0 "; 0 if there is no such line. */
static uint64_t memory_line(const char *text, const char *name) {
    uint64_t kib, bytes;
    size_t n = strlen(name);
    for (const char *at = text; (at = strstr(at, name)) != NULL; at += n) {
        bool starts = at == text || at[-1] == '\n' || at[-1] == ' ';
        if (!starts || at[n] != ':') continue;
        if (sscanf(at + n + 1, " %20" SCNu64 " kB", &kib) != 1) return 0;
        return sy_mul_u64(kib, 1024, &bytes) ? bytes : 0;
    }
    return 0;
}

/* What holds files and can be given back at once: without shared memory, which is counted as
 * cached too. */
static void take_memory(const char *root, sy_machine *machine) {
    char text[MEMINFO_MOST];
    if (!sy_read_head(root, "/proc/meminfo", text, sizeof text)) return;
    machine->memory = memory_line(text, "MemTotal");
    machine->memory_available = memory_line(text, "MemAvailable");
    machine->memory_free = memory_line(text, "MemFree");
    uint64_t cached = memory_line(text, "Cached"), buffers = memory_line(text, "Buffers");
    uint64_t shared = memory_line(text, "Shmem");
    if (!sy_add_u64(cached, buffers, &cached)) cached = 0;
    machine->page_cache = cached > shared ? cached - shared : 0;
    if (machine->page_cache > machine->memory) machine->page_cache = machine->memory;
}

static void take_node(const char *root, const char *name, sy_machine *machine) {
    char folder[SY_READ_PATH], file[SY_READ_PATH], text[4096], cpus[512];
    int number, used = 0;
    if (sscanf(name, "node%4d%n", &number, &used) != 1 || name[used] != '\0' || number < 0)
        return;
    if (machine->n_nodes == SY_MACHINE_NODES ||
        !sy_read_path(folder, "/sys/devices/system/node/", "%s", name) ||
        !sy_read_path(file, folder, "/meminfo") || !sy_read_head(root, file, text, sizeof text))
        return;
    sy_machine_node node = {.number = number, .memory = memory_line(text, "MemTotal")};
    node.of_device = !sy_read_line(root, folder, "cpulist", cpus, sizeof cpus);
    if (node.memory > 0 || !node.of_device) machine->node[machine->n_nodes++] = node;
}

static int by_number(const void *a, const void *b) {
    const sy_machine_node *x = a, *y = b;
    return x->number - y->number;
}

/* A kernel without NUMA is one node. */
static sy_status take_nodes(const char *root, sy_machine *machine) {
    sy_read_list names;
    sy_status st = sy_read_folder(root, "/sys/devices/system/node", &names);
    if (st != SY_OK) return st;
    for (int i = 0; i < names.n; i++)
        take_node(root, names.name[i], machine);
    sy_read_list_free(&names);
    qsort(machine->node, (size_t)machine->n_nodes, sizeof *machine->node, by_number);
    if (machine->n_nodes == 0)
        machine->node[machine->n_nodes++] = (sy_machine_node){.memory = machine->memory};
    return SY_OK;
}

static bool has_node(const sy_machine *machine, int number) {
    for (int i = 0; i < machine->n_nodes; i++)
        if (machine->node[i].number == number) return true;
    return false;
}

/* A container may show cores and devices of nodes that it does not show. */
static void settle_nodes(sy_machine *machine) {
    for (int i = 0; i < machine->n_cores; i++)
        if (!has_node(machine, machine->core[i].node))
            machine->core[i].node = (int16_t)machine->node[0].number;
    for (int i = 0; i < machine->n_devices; i++)
        if (!has_node(machine, machine->device[i].pci.node)) machine->device[i].pci.node = -1;
    for (int i = 0; i < machine->n_nics; i++)
        if (!has_node(machine, machine->nic[i].pci.node)) machine->nic[i].pci.node = -1;
}

/* ---- processor ---- */

/* Numbers of ARM Ltd's cores, as the kernel prints them, by their published names. */
static const char *arm_core(unsigned part) {
    static const struct {
        unsigned part;
        const char *name;
    } cores[] = {{0xd0c, "Neoverse N1"}, {0xd40, "Neoverse V1"}, {0xd49, "Neoverse N2"},
                 {0xd4f, "Neoverse V2"}, {0xd84, "Neoverse V3"}, {0xd85, "Cortex-X925"},
                 {0xd87, "Cortex-A725"}};
    for (size_t i = 0; i < sizeof cores / sizeof *cores; i++)
        if (cores[i].part == part) return cores[i].name;
    return NULL;
}

/* "Cortex-A725 + Cortex-X925": the kinds that "CPU part : 0xd87" lines name. */
static void take_arm_cores(const char *text, char *buf, size_t size) {
    static const char mark[] = "CPU part";
    for (const char *at = text; (at = strstr(at, mark)) != NULL; at += sizeof mark - 1) {
        unsigned part;
        if (sscanf(at + sizeof mark - 1, " : %6x", &part) != 1) continue;
        const char *name = arm_core(part);
        size_t used = strlen(buf);
        if (name == NULL || strstr(buf, name) != NULL) continue;
        snprintf(buf + used, size - used, "%s%s", used > 0 ? " + " : "", name);
    }
}

static sy_status take_cpu(const char *root, sy_machine *machine) {
    static const char mark[] = "model name";
    char *text = malloc(CPUINFO_MOST);
    if (text == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for /proc/cpuinfo");
    sy_read_head(root, "/proc/cpuinfo", text, CPUINFO_MOST);
    const char *model = strstr(text, mark);
    if (model != NULL) {
        model += sizeof mark - 1;
        model += strspn(model, " \t:");
        sy_read_copy(machine->cpu, sizeof machine->cpu, model, strcspn(model, "\n"));
    } else {
        take_arm_cores(text, machine->cpu, sizeof machine->cpu);
    }
    free(text);
    return SY_OK;
}

/* "max 100000" or "150000 100000". */
static void take_quota(const char *root, sy_machine *machine) {
    char text[64];
    long long quota, period;
    if (sy_read_line(root, "/sys/fs/cgroup", "cpu.max", text, sizeof text) &&
        sscanf(text, "%18lld %18lld", &quota, &period) == 2 && quota > 0 && period > 0)
        machine->cpu_quota = (double)quota / (double)period;
}

/* ---- environment ---- */

bool sy_machine_setting_matters(const char *name, size_t length) {
    static const char *const families[] = {"NCCL_", "UCX_"};
    static const char *const names[] = {"OMPI_MCA_btl",
                                        "OMPI_MCA_pml",
                                        "OMPI_MCA_btl_tcp_if_include",
                                        "OMPI_MCA_btl_tcp_if_exclude",
                                        "OMPI_MCA_oob_tcp_if_include",
                                        "OMPI_MCA_oob_tcp_if_exclude",
                                        "CUDA_VISIBLE_DEVICES",
                                        "CUDA_DEVICE_ORDER",
                                        "CUDA_DEVICE_MODALITY"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        size_t n = strlen(families[i]);
        if (length > n && strncmp(name, families[i], n) == 0) return true;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (length == strlen(names[i]) && strncmp(name, names[i], length) == 0) return true;
    return false;
}

static int by_setting(const void *a, const void *b) {
    const sy_machine_setting *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static void take_settings(char *const *environment, sy_machine *machine) {
    for (; environment != NULL && *environment != NULL; environment++) {
        const char *equals = strchr(*environment, '=');
        if (equals == NULL || machine->n_settings == SY_MACHINE_SETTINGS) continue;
        size_t n = (size_t)(equals - *environment);
        sy_machine_setting *setting = &machine->setting[machine->n_settings];
        if (n >= sizeof setting->name || !sy_machine_setting_matters(*environment, n)) continue;
        sy_read_copy(setting->name, sizeof setting->name, *environment, n);
        sy_read_copy(setting->value, sizeof setting->value, equals + 1, strlen(equals + 1));
        machine->n_settings++;
    }
    qsort(machine->setting, (size_t)machine->n_settings, sizeof *machine->setting, by_setting);
}

sy_status sy_machine_probe(const sy_machine_sources *sources, sy_machine *out) {
    sy_status st = SY_OK;
    const char *root = sources->root;
    memset(out, 0, sizeof *out);
    if (!sy_read_line(root, "/proc/sys/kernel", "hostname", out->name, sizeof out->name))
        strcpy(out->name, "localhost");
    sy_read_line(root, "/proc/sys/kernel", "osrelease", out->kernel, sizeof out->kernel);
    sy_read_line(root, "/sys/module/nvidia", "version", out->driver, sizeof out->driver);
    take_memory(root, out);
    take_quota(root, out);
    SY_TRY(take_nodes(root, out));
    SY_TRY(take_cpu(root, out));
    SY_TRY(sy_probe_cores(out));
    SY_TRY(sy_probe_devices(sources, out));
    SY_TRY(sy_probe_nics(sources, out));
    settle_nodes(out);
    take_settings(sources->environment, out);
done:
    return st;
}

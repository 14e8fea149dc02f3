/* NVIDIA devices: what PCI and the driver show of them without CUDA, and what CUDA adds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "topology/machine_read.h"

/* Base classes of PCI functions, and NVIDIA's vendor number. */
enum { CLASS_DISPLAY = 0x03, CLASS_BRIDGE = 0x06, SUBCLASS_OTHER = 0x80, NVIDIA = 0x10de };

static unsigned read_hex(const char *root, const char *folder, const char *name) {
    char text[32];
    if (!sy_read_line(root, folder, name, text, sizeof text)) return 0;
    return (unsigned)strtoul(text, NULL, 16);
}

/* "Model: \t\t NVIDIA GB10", as the driver writes it; else the number of the model. */
static void read_name(const char *root, const char *folder, sy_machine_device *device) {
    char file[SY_READ_PATH], text[2048];
    if (sy_read_path(file, "/proc/driver/nvidia/gpus/", "%s/information",
                     device->pci.address) &&
        sy_read_head(root, file, text, sizeof text)) {
        const char *model = strstr(text, "Model:");
        if (model != NULL) {
            model += strlen("Model:");
            sy_read_copy(device->name, sizeof device->name, model, strcspn(model, "\n"));
        }
    }
    if (device->name[0] == '\0')
        snprintf(device->name, sizeof device->name, "NVIDIA device 10de:%04x",
                 read_hex(root, folder, "device") & 0xffff);
}

/* A function of the PCI bus: a device, or one of the switches that join all devices by NVLink. */
static void
take_function(const char *root, const char *name, sy_machine *machine, int *n_switches) {
    char folder[SY_READ_PATH];
    if (!sy_read_path(folder, "/sys/bus/pci/devices/", "%s", name)) return;
    if (read_hex(root, folder, "vendor") != NVIDIA) return;
    unsigned class = read_hex(root, folder, "class") >> 8;
    if (class == (CLASS_BRIDGE << 8 | SUBCLASS_OTHER)) ++*n_switches;
    if (class >> 8 != CLASS_DISPLAY || machine->n_devices == SY_MACHINE_DEVICES) return;
    sy_machine_device *device = &machine->device[machine->n_devices];
    *device = (sy_machine_device){.cuda = -1, .link_group = -1};
    sy_read_pci(root, folder, &device->pci);
    unsigned part[4];
    if (device->pci.address[0] == '\0' && sy_pci_parse(name, part))
        strcpy(device->pci.address, name);
    read_name(root, folder, device);
    device->unified = strstr(device->name, "GB10") != NULL;
    machine->n_devices++;
}

static sy_machine_device *find(sy_machine *machine, const char *address) {
    for (int i = 0; i < machine->n_devices; i++)
        if (strcasecmp(machine->device[i].pci.address, address) == 0)
            return &machine->device[i];
    return NULL;
}

/* A device of the runtime; in a container it may be one that /sys does not show. */
static void
take_accelerator(const sy_machine_accelerator *a, int ordinal, sy_machine *machine) {
    unsigned part[4];
    bool has_address = sy_pci_parse(a->pci, part);
    sy_machine_device *device = has_address ? find(machine, a->pci) : NULL;
    if (device == NULL) {
        if (machine->n_devices == SY_MACHINE_DEVICES) return;
        device = &machine->device[machine->n_devices++];
        *device = (sy_machine_device){.pci.node = -1, .link_group = -1};
        if (has_address) strcpy(device->pci.address, a->pci);
        snprintf(device->name, sizeof device->name, "CUDA device");
    }
    device->cuda = ordinal;
    if (a->name[0] != '\0')
        sy_read_copy(device->name, sizeof device->name, a->name, strlen(a->name));
    if (a->memory > 0) device->memory = a->memory;
    device->unified |= a->unified;
}

/* Those of the runtime in its order, then the others by address. */
static int by_ordinal(const void *a, const void *b) {
    const sy_machine_device *x = a, *y = b;
    unsigned xo = (unsigned)x->cuda, yo = (unsigned)y->cuda; /* -1 comes last */
    if (xo != yo) return xo < yo ? -1 : 1;
    return strcmp(x->pci.address, y->pci.address);
}

sy_status sy_probe_devices(const sy_machine_sources *sources, sy_machine *machine) {
    sy_read_list list;
    int n_switches = 0;
    sy_status st = sy_read_folder(sources->root, "/sys/bus/pci/devices", &list);
    if (st != SY_OK) return st;
    for (int i = 0; i < list.n; i++)
        take_function(sources->root, list.name[i], machine, &n_switches);
    sy_read_list_free(&list);
    for (int i = 0; i < machine->n_devices; i++)
        if (n_switches > 0) machine->device[i].link_group = 0;
    for (int i = 0; i < sources->n_accelerators; i++)
        take_accelerator(&sources->accelerator[i], i, machine);
    qsort(machine->device, (size_t)machine->n_devices, sizeof *machine->device, by_ordinal);
    return SY_OK;
}

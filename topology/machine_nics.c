/* Network interfaces and RDMA devices, and which belong together. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "topology/machine_read.h"

#define NET "/sys/class/net"
#define RDMA "/sys/class/infiniband"

/* Values of /sys/class/net/NAME/type. */
enum { TYPE_ETHERNET = 1, TYPE_INFINIBAND = 32, TYPE_LOOPBACK = 772 };
enum { ROUTES_MOST = 64 << 10, MOST_RDMA_PORTS = 16 };

/* ---- addresses ---- */

/* The kernel's table has addresses as 32-bit words of this machine, the first byte of the address
 * at the lowest place in memory. */
static void format_subnet(char *buf, size_t size, uint32_t destination, uint32_t mask) {
    unsigned char byte[4];
    memcpy(byte, &destination, sizeof byte);
    snprintf(buf, size, "%d.%d.%d.%d/%d", byte[0], byte[1], byte[2], byte[3],
             __builtin_popcount(mask));
}

/* The subnet that an interface reaches without a gateway, and whether it leads to all others. A
 * host without IPv4, or one whose routes are elsewhere than in the main table, shows none. */
static void find_routes(const char *routes, sy_machine_nic *nic) {
    for (const char *line = routes; *line != '\0';) {
        char name[32];
        uint32_t destination, gateway, mask;
        if (sscanf(line, "%31s %8" SCNx32 " %8" SCNx32 " %*x %*d %*d %*d %8" SCNx32, name,
                   &destination, &gateway, &mask) == 4 &&
            strcmp(name, nic->name) == 0) {
            if (mask == 0) nic->default_route = true;
            if (mask != 0 && gateway == 0 && nic->subnet[0] == '\0')
                format_subnet(nic->subnet, sizeof nic->subnet, destination, mask);
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
}

/* ---- RDMA ---- */

static void read_rdma(const char *root, const char *device, int port, sy_machine_nic *nic) {
    char folder[SY_READ_PATH], text[64];
    snprintf(nic->rdma, sizeof nic->rdma, "%.31s", device);
    nic->rdma_port = port;
    if (!sy_read_path(folder, RDMA "/", "%s", device)) return;
    sy_read_line(root, folder, "sys_image_guid", nic->guid, sizeof nic->guid);
    if (!sy_read_path(folder, RDMA "/", "%s/ports/%d", device, port)) return;
    nic->rdma_up = sy_read_line(root, folder, "state", text, sizeof text) &&
                   strstr(text, "ACTIVE") != NULL;
    /* "100 Gb/sec (4X HDR)", for a port without an interface that tells its speed. */
    double rate =
        sy_read_line(root, folder, "rate", text, sizeof text) ? strtod(text, NULL) : 0;
    if (nic->speed == 0 && nic->rdma_up && rate > 0 && rate < 1e6)
        nic->speed = (int64_t)(rate * 1000);
}

/* The RDMA device of the PCI function below an interface; adapters with several ports behind one
 * function number them by dev_port. */
static sy_status find_rdma(const char *root, const char *folder, sy_machine_nic *nic) {
    char path[SY_READ_PATH];
    sy_read_list devices;
    int64_t port = 0;
    if (!sy_read_path(path, folder, "/device/infiniband")) return SY_OK;
    sy_status st = sy_read_folder(root, path, &devices);
    if (st != SY_OK) return st;
    sy_read_number(root, folder, "dev_port", &port);
    if (port < 0 || port >= MOST_RDMA_PORTS) port = 0;
    if (devices.n > 0) {
        char number[16];
        snprintf(number, sizeof number, "%d", (int)port + 1);
        if (sy_read_path(path, RDMA "/", "%s/ports", devices.name[0]) &&
            !sy_read_exists(root, path, number))
            port = 0;
        read_rdma(root, devices.name[0], (int)port + 1, nic);
    }
    sy_read_list_free(&devices);
    return SY_OK;
}

/* ---- interfaces ---- */

static sy_nic_kind judge_kind(const char *root, const char *folder, int64_t type) {
    if (type == TYPE_INFINIBAND) return SY_NIC_INFINIBAND;
    if (!sy_read_exists(root, folder, "device")) return SY_NIC_VIRTUAL;
    if (sy_read_exists(root, folder, "wireless") || sy_read_exists(root, folder, "phy80211"))
        return SY_NIC_WIRELESS;
    if (sy_read_exists(root, folder, "device/physfn")) return SY_NIC_VIRTUAL;
    return type == TYPE_ETHERNET ? SY_NIC_ETHERNET : SY_NIC_VIRTUAL;
}

/* "up", or "unknown" of drivers that do not say, with a carrier. */
static bool is_up(const char *root, const char *folder) {
    char state[32] = "";
    int64_t carrier = 0;
    sy_read_line(root, folder, "operstate", state, sizeof state);
    sy_read_number(root, folder, "carrier", &carrier);
    return strcmp(state, "up") == 0 || (strcmp(state, "unknown") == 0 && carrier == 1);
}

static sy_status
take_interface(const char *root, const char *name, const char *routes, sy_machine *machine) {
    char folder[SY_READ_PATH], path[SY_READ_PATH];
    sy_machine_nic nic = {.twin = -1, .pci.node = -1};
    int64_t type = 0, number = 0;
    if (strlen(name) >= sizeof nic.name || !sy_read_path(folder, NET "/", "%s", name))
        return SY_OK;
    sy_read_number(root, folder, "type", &type);
    if (type == TYPE_LOOPBACK || machine->n_nics == SY_MACHINE_NICS) return SY_OK;
    strcpy(nic.name, name);
    nic.kind = judge_kind(root, folder, type);
    nic.up = is_up(root, folder);
    find_routes(routes, &nic);
    /* A machine may have hundreds of container links; those that lead somewhere matter. */
    if (nic.kind == SY_NIC_VIRTUAL && (!nic.up || nic.subnet[0] == '\0')) return SY_OK;
    if (sy_read_number(root, folder, "mtu", &number) && number > 0 && number <= 1 << 20)
        nic.mtu = (int)number;
    if (nic.up && sy_read_number(root, folder, "speed", &number) && number > 0 &&
        number <= 100000000)
        nic.speed = number;
    sy_read_line(root, folder, "phys_port_name", nic.port, sizeof nic.port);
    if (sy_read_path(path, folder, "/device")) sy_read_pci(root, path, &nic.pci);
    sy_status st = find_rdma(root, folder, &nic);
    if (st == SY_OK) machine->nic[machine->n_nics++] = nic;
    return st;
}

/* ---- RDMA devices without an interface ---- */

static bool is_taken(const sy_machine *machine, const char *device, int port) {
    for (int i = 0; i < machine->n_nics; i++)
        if (strcmp(machine->nic[i].rdma, device) == 0 && machine->nic[i].rdma_port == port)
            return true;
    return false;
}

static void take_port(const char *root, const char *device, int port, sy_machine *machine) {
    char folder[SY_READ_PATH], text[32], number[16];
    snprintf(number, sizeof number, "%d", port);
    if (strlen(device) >= sizeof machine->nic[0].rdma || is_taken(machine, device, port) ||
        machine->n_nics == SY_MACHINE_NICS ||
        !sy_read_path(folder, RDMA "/", "%s/ports", device) ||
        !sy_read_exists(root, folder, number))
        return;
    sy_machine_nic nic = {.twin = -1, .pci.node = -1, .kind = SY_NIC_INFINIBAND};
    read_rdma(root, device, port, &nic);
    nic.up = nic.rdma_up;
    if (sy_read_path(folder, RDMA "/", "%s/ports/%d", device, port) &&
        sy_read_line(root, folder, "link_layer", text, sizeof text) &&
        strcmp(text, "Ethernet") == 0)
        nic.kind = SY_NIC_ETHERNET;
    if (sy_read_path(folder, RDMA "/", "%s/device", device))
        sy_read_pci(root, folder, &nic.pci);
    machine->nic[machine->n_nics++] = nic;
}

static sy_status take_bare_rdma(const char *root, sy_machine *machine) {
    sy_read_list devices;
    sy_status st = sy_read_folder(root, RDMA, &devices);
    if (st != SY_OK) return st;
    for (int i = 0; i < devices.n; i++)
        for (int port = 1; port <= MOST_RDMA_PORTS; port++)
            take_port(root, devices.name[i], port, machine);
    sy_read_list_free(&devices);
    return SY_OK;
}

/* ---- all ---- */

static int by_kind(const void *a, const void *b) {
    const sy_machine_nic *x = a, *y = b;
    bool xr = x->rdma[0] != '\0', yr = y->rdma[0] != '\0';
    if (xr != yr) return xr ? -1 : 1;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    int order = strcmp(x->pci.address, y->pci.address);
    if (order == 0) order = strcmp(x->name, y->name);
    if (order == 0) order = strcmp(x->rdma, y->rdma);
    return order != 0 ? order : x->rdma_port - y->rdma_port;
}

sy_status sy_probe_nics(const sy_machine_sources *sources, sy_machine *machine) {
    sy_status st = SY_OK;
    sy_read_list names = {0};
    char *routes = malloc(ROUTES_MOST);
    if (routes == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the table of routes");
    sy_read_head(sources->root, "/proc/net/route", routes, ROUTES_MOST);
    SY_TRY(sy_read_folder(sources->root, NET, &names));
    for (int i = 0; i < names.n; i++)
        SY_TRY(take_interface(sources->root, names.name[i], routes, machine));
    SY_TRY(take_bare_rdma(sources->root, machine));
    qsort(machine->nic, (size_t)machine->n_nics, sizeof *machine->nic, by_kind);
    sy_machine_find_twins(machine);
done:
    sy_read_list_free(&names);
    free(routes);
    return st;
}

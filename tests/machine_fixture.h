/* A folder that stands in for / : files below sys and proc, as a kernel would show them. hwloc reads
 * its cores there too. */
#ifndef SY_TESTS_MACHINE_FIXTURE_H
#define SY_TESTS_MACHINE_FIXTURE_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "topology/machine_probe.h"

typedef struct fake_root {
    char path[512];
} fake_root;

static void fake_open(fake_root *root) {
    const char *folder = getenv("TMPDIR");
    char path[256], *full;
    snprintf(path, sizeof path, "%s/sy-machine-XXXXXX", folder != NULL ? folder : "/tmp");
    assert_non_null(mkdtemp(path));
    full = realpath(path, NULL);
    assert_non_null(full);
    snprintf(root->path, sizeof root->path, "%s", full);
    free(full);
    setenv("HWLOC_FSROOT", root->path, 1);
    setenv("HWLOC_COMPONENTS", "-x86", 1); /* which asks this machine's processor */
}

static void fake_close(fake_root *root) {
    char command[640];
    unsetenv("HWLOC_FSROOT");
    unsetenv("HWLOC_COMPONENTS");
    snprintf(command, sizeof command, "rm -rf '%s'", root->path);
    assert_int_equal(system(command), 0);
}

static void fake_folder(const fake_root *root, const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s%s", root->path, folder);
    for (char *at = path + strlen(root->path) + 1;; at++) {
        char c = *at;
        if (c != '/' && c != '\0') continue;
        *at = '\0';
        mkdir(path, 0755);
        *at = c;
        if (c == '\0') return;
    }
}

static void fake_bytes(const fake_root *root, const char *file, const char *data, size_t n) {
    char path[4096], folder[3072];
    snprintf(folder, sizeof folder, "%s", file);
    *strrchr(folder, '/') = '\0';
    fake_folder(root, folder);
    snprintf(path, sizeof path, "%s%s", root->path, file);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void fake_file(const fake_root *root, const char *file, const char *text) {
    fake_bytes(root, file, text, strlen(text));
}

/* folder/name */
static void
fake_value(const fake_root *root, const char *folder, const char *name, const char *text) {
    char file[3072];
    snprintf(file, sizeof file, "%s/%s", folder, name);
    fake_file(root, file, text);
}

static void fake_link(const fake_root *root, const char *at, const char *target) {
    char path[4096], to[4096], folder[3072];
    snprintf(folder, sizeof folder, "%s", at);
    *strrchr(folder, '/') = '\0';
    fake_folder(root, folder);
    snprintf(path, sizeof path, "%s%s", root->path, at);
    snprintf(to, sizeof to, "%s%s", root->path, target);
    assert_int_equal(symlink(to, path), 0);
}

/* n cores of one thread; capacity[i] of the kernel's scheduler, or none if NULL. */
static void fake_cores(const fake_root *root, int n, const int *capacity) {
    char folder[256], number[32], mask[64];
    snprintf(number, sizeof number, "0-%d\n", n - 1);
    fake_file(root, "/sys/devices/system/cpu/online", number);
    fake_file(root, "/sys/devices/system/cpu/possible", number);
    fake_file(root, "/sys/devices/system/cpu/present", number);
    for (int i = 0; i < n; i++) {
        snprintf(folder, sizeof folder, "/sys/devices/system/cpu/cpu%d", i);
        snprintf(mask, sizeof mask, "%x\n", 1u << i);
        snprintf(number, sizeof number, "%d\n", i);
        fake_value(root, folder, "topology/core_id", number);
        fake_value(root, folder, "topology/core_cpus", mask);
        fake_value(root, folder, "topology/thread_siblings", mask);
        fake_value(root, folder, "topology/physical_package_id", "0\n");
        snprintf(mask, sizeof mask, "%x\n", (unsigned)((1ull << n) - 1));
        fake_value(root, folder, "topology/package_cpus", mask);
        fake_value(root, folder, "topology/core_siblings", mask);
        if (capacity == NULL) continue;
        snprintf(number, sizeof number, "%d\n", capacity[i]);
        fake_value(root, folder, "cpu_capacity", number);
    }
}

/* A PCI function at a path below /sys/devices, e.g. "pci0000:00/0000:00:00.0/0000:01:00.0". */
static void fake_pci(const fake_root *root,
                     const char *path,
                     const char *vendor,
                     const char *class,
                     const char *lanes,
                     const char *lanes_max) {
    char folder[512], at[512];
    snprintf(folder, sizeof folder, "/sys/devices/%s", path);
    fake_value(root, folder, "vendor", vendor);
    fake_value(root, folder, "device", "0x2e12\n");
    fake_value(root, folder, "class", class);
    fake_value(root, folder, "numa_node", "-1\n");
    fake_value(root, folder, "current_link_width", lanes);
    fake_value(root, folder, "max_link_width", lanes_max);
    fake_value(root, folder, "current_link_speed", "32.0 GT/s PCIe\n");
    fake_value(root, folder, "max_link_speed", "32.0 GT/s PCIe\n");
    snprintf(at, sizeof at, "/sys/bus/pci/devices/%s", strrchr(path, '/') + 1);
    fake_link(root, at, folder);
}

typedef struct fake_nic {
    const char *name, *pci, *rdma, *port, *state, *mtu, *speed, *rdma_state, *guid;
} fake_nic;

/* An interface over a PCI function that is there already. */
static void fake_interface(const fake_root *root, const fake_nic *nic) {
    char device[512], folder[1024], at[2048];
    snprintf(device, sizeof device, "/sys/devices/%s", nic->pci);
    snprintf(folder, sizeof folder, "%s/net/%s", device, nic->name);
    fake_value(root, folder, "type", "1\n");
    fake_value(root, folder, "operstate", nic->state);
    fake_value(root, folder, "mtu", nic->mtu);
    fake_value(root, folder, "speed", nic->speed);
    fake_value(root, folder, "dev_port", "0\n");
    if (nic->port != NULL) fake_value(root, folder, "phys_port_name", nic->port);
    snprintf(at, sizeof at, "%s/device", folder);
    fake_link(root, at, device);
    snprintf(at, sizeof at, "/sys/class/net/%s", nic->name);
    fake_link(root, at, folder);
    if (nic->rdma == NULL) return;
    snprintf(folder, sizeof folder, "%s/infiniband/%s", device, nic->rdma);
    fake_value(root, folder, "sys_image_guid", nic->guid);
    fake_value(root, folder, "ports/1/state", nic->rdma_state);
    fake_value(root, folder, "ports/1/rate", "100 Gb/sec (2X NDR)\n");
    fake_value(root, folder, "ports/1/link_layer", "Ethernet\n");
    snprintf(at, sizeof at, "%s/device", folder);
    fake_link(root, at, device);
    snprintf(at, sizeof at, "/sys/class/infiniband/%s", nic->rdma);
    fake_link(root, at, folder);
}

#define ROUTES                                                                                 \
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"

/* A DGX Spark: two clusters of each kind of core, a GPU, both ports of its adapter over both
 * links, port 0 cabled. */
static void fake_spark(const fake_root *root) {
    static const int capacity[20] = {718, 718, 718, 718, 718, 997,  997,  997,  997,  997,
                                     718, 718, 718, 718, 718, 1024, 1024, 1024, 1024, 1024};
    static const char *const net[4] = {
        "pci0000:00/0000:00:00.0/0000:01:00.0", "pci0000:00/0000:00:00.0/0000:01:00.1",
        "pci0002:00/0002:00:00.0/0002:01:00.0", "pci0002:00/0002:00:00.0/0002:01:00.1"};
    static const char guid[] = "4cbb:4703:0072:1010\n";
    fake_cores(root, 20, capacity);
    fake_file(root, "/proc/sys/kernel/hostname", "spark-1\n");
    fake_file(root, "/proc/sys/kernel/osrelease", "6.17.0-1031-nvidia\n");
    fake_file(root, "/sys/module/nvidia/version", "580.126.09\n");
    fake_file(root, "/proc/cpuinfo",
              "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd87\n\n"
              "processor\t: 5\nCPU implementer\t: 0x41\nCPU part\t: 0xd85\n\n");
    fake_file(root, "/proc/meminfo",
              "MemTotal:       127535444 kB\nMemFree:        12000000 kB\n"
              "MemAvailable:   111000000 kB\nBuffers:          100000 kB\n"
              "Cached:         99000000 kB\nShmem:             50000 kB\n");
    fake_file(root, "/sys/devices/system/node/node0/cpulist", "0-19\n");
    fake_file(root, "/sys/devices/system/node/node0/meminfo",
              "Node 0 MemTotal:       127535444 kB\nNode 0 MemFree:       12000000 kB\n");
    fake_pci(root, "pci000f:00/000f:00:00.0/000f:01:00.0", "0x10de\n", "0x030000\n", "1\n",
             "1\n");
    fake_file(root, "/proc/driver/nvidia/gpus/000f:01:00.0/information",
              "Model: \t\t NVIDIA GB10\nIRQ:   \t\t 100\n");
    for (int i = 0; i < 4; i++)
        fake_pci(root, net[i], "0x15b3\n", "0x020000\n", "4\n", "4\n");
    fake_interface(root, &(fake_nic){"enp1s0f0np0", net[0], "rocep1s0f0", "p0\n", "up\n",
                                     "1500\n", "200000\n", "4: ACTIVE\n", guid});
    fake_interface(root, &(fake_nic){"enp1s0f1np1", net[1], "rocep1s0f1", "p1\n", "down\n",
                                     "1500\n", "-1\n", "1: DOWN\n", guid});
    fake_interface(root, &(fake_nic){"enP2p1s0f0np0", net[2], "roceP2p1s0f0", "p0\n", "up\n",
                                     "1500\n", "200000\n", "4: ACTIVE\n", guid});
    fake_interface(root, &(fake_nic){"enP2p1s0f1np1", net[3], "roceP2p1s0f1", "p1\n", "down\n",
                                     "1500\n", "-1\n", "1: DOWN\n", guid});
    fake_file(root, "/sys/class/net/lo/type", "772\n");
    fake_file(root, "/proc/net/route",
              ROUTES "enp1s0f0np0\t00000000\t0164A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
                     "enp1s0f0np0\t0065A8C0\t0164A8C0\t0003\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
                     "enp1s0f0np0\t0064A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n");
}

static sy_status fake_probe(const fake_root *root, char *const *environment, sy_machine *out) {
    sy_machine_sources sources = {.root = root->path, .environment = environment};
    return sy_machine_probe(&sources, out);
}

#endif

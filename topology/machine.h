/* What one machine is made of, as plain data: cores, memory, accelerators, network.
 *
 * A description comes from the machine itself (topology/machine_probe.h) or from a file
 * (topology/machine_json.h); nothing that reads it knows which. It owns no memory outside of
 * itself, and a text that is not known is "", a number that is not known is 0 or -1 as noted.
 * Bytes are bytes; GB/s are 10^9 bytes a second; Mb/s are 10^6 bits a second. */
#ifndef SY_TOPOLOGY_MACHINE_H
#define SY_TOPOLOGY_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "topology/machine_cpus.h"

enum {
    SY_MACHINE_NODES = 64,
    SY_MACHINE_CORES = 1024,
    SY_MACHINE_CORE_CPUS = 8,
    SY_MACHINE_DEVICES = 32,
    SY_MACHINE_NICS = 64,
    SY_MACHINE_SETTINGS = 64,
    SY_MACHINE_TEXT = 96,    /* names */
    SY_MACHINE_PATH = 192,   /* of a PCI device: its bridges */
    SY_MACHINE_SETTING = 256 /* value of an environment variable */
};

typedef enum sy_core_kind { SY_CORE_ANY, SY_CORE_EFFICIENCY, SY_CORE_PERFORMANCE } sy_core_kind;

typedef struct sy_machine_core {
    int16_t package, node; /* package number; NUMA node as the kernel numbers it */
    sy_core_kind kind;     /* SY_CORE_ANY where all cores are alike */
    int n_cpus;            /* hardware threads */
    int16_t cpu[SY_MACHINE_CORE_CPUS];
} sy_machine_core;

typedef struct sy_machine_node {
    int number;
    uint64_t memory;
    bool of_device; /* has no cores: the memory of an accelerator, shown as a NUMA node */
} sy_machine_node;

/* A PCI function: where it hangs, and how wide its link is. Lanes and GT/s are 0 if not known. */
typedef struct sy_machine_pci {
    char address[16];           /* "0000:3b:00.0" */
    char path[SY_MACHINE_PATH]; /* "pci0000:3a/0000:3a:00.0": root, then bridges; or "" */
    int node;                   /* -1: none in particular */
    int lanes, lanes_max;
    double speed, speed_max; /* GT/s of a lane */
} sy_machine_pci;

typedef struct sy_machine_device {
    char name[SY_MACHINE_TEXT];
    sy_machine_pci pci;
    int cuda;        /* ordinal in the CUDA runtime; -1: not seen by it */
    uint64_t memory; /* 0: not known */
    bool unified;    /* uses the machine's memory, has none of its own */
    int link_group;  /* devices of a group reach each other by NVLink; -1: by PCIe only */
    double
        link_speed; /* GB/s to another one of the group, both directions together; 0: not known */
} sy_machine_device;

typedef enum sy_nic_kind {
    SY_NIC_ETHERNET,
    SY_NIC_INFINIBAND,
    SY_NIC_WIRELESS,
    SY_NIC_VIRTUAL /* bridges, container links, tunnels */
} sy_nic_kind;

typedef struct sy_machine_nic {
    char name[32];   /* of the network interface; "" if only the RDMA device exists */
    char rdma[32];   /* "rocep1s0f0", or "" */
    int rdma_port;   /* of that device, from 1 */
    bool rdma_up;    /* the RDMA port is active */
    char guid[24];   /* of the whole adapter (sys_image_guid), or "" */
    char port[16];   /* the adapter's own name of the port ("p0"), or "" */
    char subnet[24]; /* "192.168.100.0/24": what it reaches directly, or "" */
    sy_machine_pci pci;
    sy_nic_kind kind;
    bool up;
    bool default_route;
    int64_t speed; /* Mb/s; 0: not known */
    int mtu;
    int twin; /* NIC of the same physical port over another PCIe link, -1: none */
} sy_machine_nic;

typedef struct sy_machine_setting {
    char name[48];
    char value[SY_MACHINE_SETTING];
} sy_machine_setting;

typedef struct sy_machine {
    char name[SY_MACHINE_TEXT];
    char cpu[SY_MACHINE_TEXT];
    char kernel[SY_MACHINE_TEXT];
    char driver[SY_MACHINE_TEXT]; /* version of the NVIDIA driver */
    double cpu_quota; /* CPUs' worth of time that this process may use; 0: no limit */
    uint64_t memory, memory_available, memory_free, page_cache;
    int n_nodes, n_cores, n_devices, n_nics, n_settings;
    sy_machine_node node[SY_MACHINE_NODES];
    sy_machine_core core[SY_MACHINE_CORES]; /* by package, node, first CPU */
    sy_machine_device device[SY_MACHINE_DEVICES];
    sy_machine_nic nic[SY_MACHINE_NICS];
    sy_machine_setting setting[SY_MACHINE_SETTINGS]; /* by name */
} sy_machine;

/* The machines of a run. */
typedef struct sy_machines {
    int n;
    sy_machine *machine;
} sy_machines;

enum { SY_MACHINES_MAX = 512 };

/* n zeroed machines, 1 <= n <= SY_MACHINES_MAX. */
sy_status sy_machines_alloc(int n, sy_machines *out);
void sy_machines_free(sy_machines *machines); /* what was never allocated is fine if zeroed */

/* The value of an environment variable, NULL if it is not set. */
const char *sy_machine_setting_value(const sy_machine *machine, const char *name);

/* "0000:3b:00.0" in parts; false if the text is nothing of the kind. */
bool sy_pci_parse(const char *address, unsigned part[4]);
/* How near two PCI functions are: the better, the larger. */
typedef enum sy_nearness {
    SY_NEAR_UNKNOWN,
    SY_NEAR_SYSTEM, /* across NUMA nodes */
    SY_NEAR_NODE,   /* the same NUMA node */
    SY_NEAR_ROOT,   /* the same PCIe root complex */
    SY_NEAR_SWITCH  /* a switch in common */
} sy_nearness;
sy_nearness sy_pci_nearness(const sy_machine_pci *a, const sy_machine_pci *b);
const char *sy_nearness_text(sy_nearness nearness);

/* GB/s in one direction that a PCIe link carries at most; 0: not known. */
double sy_pci_bandwidth(const sy_machine_pci *pci);

const char *sy_core_kind_name(sy_core_kind kind); /* "performance"; NULL for SY_CORE_ANY */
const char *sy_nic_kind_name(sy_nic_kind kind);

/* Sets `twin` of all NICs: two RDMA ports of one adapter (equal guid) that carry the same port
 * over different PCIe links, as on a DGX Spark. */
void sy_machine_find_twins(sy_machine *machine);

/* A NIC that rows between hosts may take: an interface of hardware, Ethernet or InfiniBand. */
bool sy_nic_is_wired(const sy_machine_nic *nic);
/* Up, and reachable: RDMA port active or link up, with an address where it is Ethernet. */
bool sy_nic_in_use(const sy_machine_nic *nic);
/* What to call it: "enp1s0f0np0", else the RDMA device. */
const char *sy_nic_name(const sy_machine_nic *nic);

#endif

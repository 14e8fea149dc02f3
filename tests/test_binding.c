/* Ranks on the saved machines: devices, cores, NICs, reasons; and the advice that made-up faults
 * of these machines bring. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "topology/advice.h"
#include "topology/machine_json.h"

static const char *const names[] = {"spark2", "spark8", "station_a100", "station_gb300",
                                    "h100x8"};
enum { N_NAMES = sizeof names / sizeof *names, MOST_RANKS = 16 };

static void load(const char *name, sy_machines *machines) {
    char path[1024];
    const char *data = getenv("SY_TEST_DATA");
    assert_non_null(data);
    snprintf(path, sizeof path, "%s/topologies/%s.json", data, name);
    if (sy_machines_load(path, machines) != SY_OK) fail_msg("%s", sy_last_error());
}

static void bind_spread(const sy_machines *machines, int n, sy_binding *out) {
    int machine_of[SY_MACHINES_MAX * 2];
    sy_binding_spread(machines, n, machine_of);
    assert_int_equal(sy_binding_plan(machines, n, machine_of, true, out), SY_OK);
}

static int ranks_of(const sy_binding *b, int machine) {
    int n = 0;
    for (int r = 0; r < b->n_ranks; r++)
        n += b->rank[r].machine == machine;
    return n;
}

static int cuda_devices(const sy_machine *m) {
    int n = 0;
    for (int d = 0; d < m->n_devices; d++)
        n += m->device[d].cuda >= 0;
    return n;
}

/* ---- devices and cores ---- */

static void check_devices(const sy_machines *machines, const sy_binding *b) {
    for (int r = 0; r < b->n_ranks; r++) {
        const sy_bound_rank *rank = &b->rank[r];
        const sy_machine *m = &machines->machine[rank->machine];
        assert_in_range(rank->device, 0, m->n_devices - 1);
        assert_true(m->device[rank->device].cuda >= 0);
        if (ranks_of(b, rank->machine) > cuda_devices(m)) continue;
        for (int s = 0; s < r; s++)
            assert_false(b->rank[s].machine == rank->machine &&
                         b->rank[s].device == rank->device);
    }
}

/* Whole cores near the device, none of them an efficiency core, none in two ranks' hands. */
static void check_cores(const sy_machines *machines, const sy_binding *b) {
    for (int r = 0; r < b->n_ranks; r++) {
        const sy_bound_rank *rank = &b->rank[r];
        const sy_machine *m = &machines->machine[rank->machine];
        int node = m->device[rank->device].pci.node, n = 0;
        assert_true(rank->bound);
        for (int c = 0; c < m->n_cores; c++) {
            const sy_machine_core *core = &m->core[c];
            bool mine = sy_cpus_has(&rank->cpus, core->cpu[0]);
            for (int t = 0; t < core->n_cpus; t++)
                assert_int_equal(sy_cpus_has(&rank->cpus, core->cpu[t]), mine);
            if (!mine) continue;
            n++;
            assert_int_not_equal(core->kind, SY_CORE_EFFICIENCY);
            if (node >= 0) assert_int_equal(core->node, node);
        }
        assert_int_equal(n, rank->n_cores);
        assert_true(n > 0);
        for (int s = 0; s < r; s++)
            if (b->rank[s].machine == rank->machine)
                assert_false(sy_cpus_overlap(&b->rank[s].cpus, &rank->cpus));
    }
}

/* Ranks that share a node have equally many cores, or one more. */
static void check_shares(const sy_machines *machines, const sy_binding *b) {
    for (int r = 0; r < b->n_ranks; r++)
        for (int s = 0; s < r; s++) {
            const sy_bound_rank *x = &b->rank[r], *y = &b->rank[s];
            const sy_machine *m = &machines->machine[x->machine];
            if (x->machine != y->machine ||
                m->device[x->device].pci.node != m->device[y->device].pci.node)
                continue;
            assert_in_range(x->n_cores - y->n_cores + 1, 0, 2);
        }
}

static void every_saved_machine_gives_each_rank_a_device_and_cores_near_it(void **state) {
    (void)state;
    for (int k = 0; k < N_NAMES; k++)
        for (int n = 1; n <= MOST_RANKS; n++) {
            sy_machines machines;
            sy_binding b;
            load(names[k], &machines);
            bind_spread(&machines, n, &b);
            check_devices(&machines, &b);
            check_cores(&machines, &b);
            check_shares(&machines, &b);
            sy_binding_free(&b);
            sy_machines_free(&machines);
        }
}

static void the_same_machines_give_the_same_binding_and_words(void **state) {
    (void)state;
    for (int k = 0; k < N_NAMES; k++)
        for (int n = 1; n <= MOST_RANKS; n++) {
            sy_machines m1, m2;
            sy_binding b1, b2;
            load(names[k], &m1);
            load(names[k], &m2);
            bind_spread(&m1, n, &b1);
            bind_spread(&m2, n, &b2);
            for (int r = 0; r < n; r++) {
                const sy_bound_rank *x = &b1.rank[r], *y = &b2.rank[r];
                assert_int_equal(x->machine, y->machine);
                assert_int_equal(x->device, y->device);
                assert_int_equal(x->nic, y->nic);
                assert_true(sy_cpus_equal(&x->cpus, &y->cpus));
                assert_string_equal(x->reason, y->reason);
                assert_true(strlen(x->reason) > 40);
                assert_true(strlen(x->reason) < sizeof x->reason - 1); /* not cut */
                assert_int_equal(x->reason[strlen(x->reason) - 1], '.');
            }
            sy_binding_free(&b1);
            sy_binding_free(&b2);
            sy_machines_free(&m1);
            sy_machines_free(&m2);
        }
}

static void eight_gpus_of_two_nodes_have_the_expected_cores_and_reasons(void **state) {
    (void)state;
    sy_machines machines;
    sy_binding b;
    char cpus[64];
    load("h100x8", &machines);
    bind_spread(&machines, 8, &b);
    assert_string_equal(sy_cpus_text(&b.rank[3].cpus, cpus, sizeof cpus), "42-55,154-167");
    assert_string_equal(sy_cpus_text(&b.rank[4].cpus, cpus, sizeof cpus), "56-69,168-181");
    assert_string_equal(b.rank[4].reason,
                        "Device 4 (NVIDIA H100 80GB HBM3) is its own. The device hangs on NUMA "
                        "node 1. The rank has its even share of the node's 56 cores for 4 "
                        "ranks.");
    assert_int_equal(b.rank[0].nic, -1); /* there is no other host */
    sy_binding_free(&b);
    sy_machines_free(&machines);
}

static void hosts_with_a_nic_for_each_gpu_pair_them_by_their_switch(void **state) {
    (void)state;
    sy_machines one, two;
    sy_binding b;
    load("h100x8", &one);
    assert_int_equal(sy_machines_alloc(2, &two), SY_OK);
    two.machine[0] = two.machine[1] = one.machine[0];
    bind_spread(&two, 16, &b);
    for (int r = 0; r < 16; r++) {
        assert_int_equal(b.rank[r].machine, r / 8);
        assert_int_equal(b.rank[r].nic, r % 8);
        assert_non_null(strstr(b.rank[r].reason, "on the same PCIe switch"));
    }
    sy_binding_free(&b);
    sy_machines_free(&two);
    sy_machines_free(&one);
}

static void sparks_use_one_port_over_both_twins(void **state) {
    (void)state;
    sy_machines machines;
    sy_binding b;
    char cpus[64];
    load("spark8", &machines);
    assert_int_equal(sy_binding_natural_ranks(&machines), 8);
    bind_spread(&machines, 8, &b);
    for (int r = 0; r < 8; r++) {
        assert_int_equal(b.rank[r].machine, r);
        assert_string_equal(machines.machine[r].nic[b.rank[r].nic].name, "enp1s0f0np0");
        assert_non_null(strstr(b.rank[r].reason, "with its twin enP2p1s0f0np0"));
        assert_string_equal(sy_cpus_text(&b.rank[r].cpus, cpus, sizeof cpus), "5-9,15-19");
    }
    sy_binding_free(&b);
    sy_machines_free(&machines);
}

static void all_ranks_of_a_spark_are_given_the_first_of_the_twins(void **state) {
    (void)state;
    sy_machines machines;
    sy_binding b;
    load("spark2", &machines);
    bind_spread(&machines, 6, &b);
    for (int r = 0; r < 6; r++)
        assert_string_equal(machines.machine[0].nic[b.rank[r].nic].name, "enp1s0f0np0");
    sy_binding_free(&b);
    sy_machines_free(&machines);
}

static void devices_that_cuda_does_not_show_are_passed_over(void **state) {
    (void)state;
    sy_machines machines;
    sy_binding b;
    load("station_a100", &machines);
    machines.machine[0].device[0].cuda = machines.machine[0].device[2].cuda = -1;
    bind_spread(&machines, 3, &b);
    for (int r = 0; r < 3; r++)
        assert_int_equal(b.rank[r].device, r == 1 ? 3 : 1);
    sy_binding_free(&b);
    sy_machines_free(&machines);
}

static void without_devices_ranks_share_all_cores_evenly(void **state) {
    (void)state;
    for (int n = 1; n <= MOST_RANKS; n++) {
        sy_machines machines;
        sy_binding b;
        sy_cpus all = {{0}};
        int machine_of[MOST_RANKS] = {0}, cores = 0;
        load("h100x8", &machines);
        assert_int_equal(sy_binding_plan(&machines, n, machine_of, false, &b), SY_OK);
        for (int r = 0; r < n; r++) {
            assert_int_equal(b.rank[r].device, -1);
            assert_in_range(b.rank[r].n_cores, 112 / n, (112 + n - 1) / n);
            assert_false(sy_cpus_overlap(&all, &b.rank[r].cpus));
            for (int w = 0; w < SY_CPUS_MAX / 64; w++)
                all.word[w] |= b.rank[r].cpus.word[w];
            cores += b.rank[r].n_cores;
        }
        assert_int_equal(cores, 112);
        assert_int_equal(sy_cpus_count(&all), 224);
        sy_binding_free(&b);
        sy_machines_free(&machines);
    }
}

static void efficiency_cores_serve_when_there_are_more_ranks_than_others(void **state) {
    (void)state;
    sy_machines machines;
    sy_binding b;
    int machine_of[21] = {0};
    load("spark2", &machines);
    assert_int_equal(sy_binding_plan(&machines, 20, machine_of, true, &b), SY_OK);
    for (int r = 0; r < 20; r++) {
        assert_true(b.rank[r].bound);
        assert_int_equal(b.rank[r].n_cores, 1);
    }
    sy_binding_free(&b);
    assert_int_equal(sy_binding_plan(&machines, 21, machine_of, true, &b), SY_OK);
    for (int r = 0; r < 21; r++) {
        assert_false(b.rank[r].bound);
        assert_int_equal(sy_cpus_count(&b.rank[r].cpus), 0);
        assert_non_null(strstr(b.rank[r].reason, "21 ranks are more than 20 cores"));
    }
    sy_binding_free(&b);
    sy_machines_free(&machines);
}

static void a_limit_on_cpu_time_leaves_ranks_unbound(void **state) {
    (void)state;
    sy_machines machines;
    sy_binding b;
    load("h100x8", &machines);
    machines.machine[0].cpu_quota = 16;
    bind_spread(&machines, 8, &b);
    for (int r = 0; r < 8; r++) {
        assert_false(b.rank[r].bound);
        assert_int_equal(b.rank[r].device, r);
        assert_non_null(strstr(b.rank[r].reason, "16 CPUs' worth of time on 224 CPUs"));
    }
    sy_binding_free(&b);
    sy_machines_free(&machines);
}

static void a_device_of_an_unknown_or_coreless_node_uses_the_whole_machine(void **state) {
    (void)state;
    for (int node = -1; node <= 2; node += 3) {
        sy_machines machines;
        sy_binding b;
        load("h100x8", &machines);
        machines.machine[0].device[1].pci.node = node;
        bind_spread(&machines, 2, &b);
        assert_int_equal(b.rank[0].n_cores, 56);
        assert_int_equal(b.rank[1].n_cores, 56);
        assert_non_null(strstr(b.rank[1].reason, "NUMA node 1"));
        sy_binding_free(&b);
        sy_machines_free(&machines);
    }
}

static void ranks_are_dealt_out_by_devices_and_then_in_turn(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int n;
        int counts[8];
    } cases[] = {{"spark8", 3, {1, 1, 1}},
                 {"spark8", 8, {1, 1, 1, 1, 1, 1, 1, 1}},
                 {"spark8", 11, {2, 2, 2, 1, 1, 1, 1, 1}},
                 {"spark2", 5, {3, 2}},
                 {"h100x8", 11, {11}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sy_machines machines;
        int machine_of[MOST_RANKS], count[8] = {0};
        load(cases[i].name, &machines);
        sy_binding_spread(&machines, cases[i].n, machine_of);
        for (int r = 0; r < cases[i].n; r++) {
            assert_in_range(machine_of[r], 0, machines.n - 1);
            if (r > 0) assert_true(machine_of[r] >= machine_of[r - 1]);
            count[machine_of[r]]++;
        }
        assert_memory_equal(count, cases[i].counts, sizeof count);
        sy_machines_free(&machines);
    }
}

static void binding_matters_with_several_nodes_or_kinds_of_cores(void **state) {
    (void)state;
    static const bool expected[N_NAMES] = {true, true, false, false, true};
    for (int k = 0; k < N_NAMES; k++) {
        sy_machines machines;
        load(names[k], &machines);
        assert_int_equal(sy_binding_matters(&machines.machine[0]), expected[k]);
        sy_machines_free(&machines);
    }
}

/* ---- advice ---- */

typedef void (*fault)(sy_machines *machines);

/* The one item whose topic and text match, after a fault was put into saved machines; NULL if there
 * is none. */
static sy_advice_item advise(const char *name,
                             fault spoil,
                             int n_ranks,
                             const char *topic,
                             const char *text,
                             int *n_found) {
    sy_machines machines;
    sy_binding b;
    sy_advice *advice;
    sy_advice_item found = {0};
    load(name, &machines);
    if (spoil != NULL) spoil(&machines);
    bind_spread(&machines, n_ranks, &b);
    assert_int_equal(sy_advice_make(&machines, &b, &advice), SY_OK);
    *n_found = 0;
    for (int i = 0; i < advice->n; i++) {
        const sy_advice_item *item = &advice->item[i];
        assert_true(item->text[0] != '\0' && item->cure[0] != '\0');
        assert_true(strlen(item->text) < SY_ADVICE_TEXT - 1);
        assert_true(strlen(item->cure) < SY_ADVICE_TEXT - 1);
        if (i > 0) assert_true(item->level <= advice->item[i - 1].level);
        if (topic != NULL &&
            (strcmp(item->topic, topic) != 0 || strstr(item->text, text) == NULL))
            continue;
        found = *item;
        ++*n_found;
    }
    free(advice);
    sy_binding_free(&b);
    sy_machines_free(&machines);
    return found;
}

static void set(sy_machine *m, const char *name, const char *value) {
    for (int i = 0; i < m->n_settings; i++)
        if (strcmp(m->setting[i].name, name) == 0) {
            snprintf(m->setting[i].value, sizeof m->setting[i].value, "%s", value);
            return;
        }
    sy_machine_setting *setting = &m->setting[m->n_settings++];
    snprintf(setting->name, sizeof setting->name, "%s", name);
    snprintf(setting->value, sizeof setting->value, "%s", value);
}

static void set_all(sy_machines *machines, const char *name, const char *value) {
    for (int m = 0; m < machines->n; m++)
        set(&machines->machine[m], name, value);
}

static sy_machine_nic *nic_of(sy_machine *m, const char *name) {
    for (int i = 0; i < m->n_nics; i++)
        if (strcmp(m->nic[i].name, name) == 0) return &m->nic[i];
    fail_msg("there is no NIC %s", name);
    return NULL;
}

static void well_kept_machines_bring_no_warning(void **state) {
    (void)state;
    static const int ranks[N_NAMES] = {2, 8, 4, 1, 8};
    for (int k = 0; k < N_NAMES; k++) {
        int n;
        sy_advice_item last = advise(names[k], NULL, ranks[k], NULL, "", &n);
        if (n > 0) assert_int_equal(last.level, SY_ADVICE_NOTE);
        assert_int_equal(n, strcmp(names[k], "station_gb300") == 0 ? 1 : 0);
    }
}

static void twin_without_address(sy_machines *ms) {
    nic_of(&ms->machine[2], "enP2p1s0f0np0")->subnet[0] = '\0';
    nic_of(&ms->machine[5], "enP2p1s0f0np0")->subnet[0] = '\0';
}
static void twin_not_named(sy_machines *ms) {
    set_all(ms, "NCCL_IB_HCA", "=rocep1s0f0:1");
}
static void small_mtu(sy_machines *ms) {
    for (int m = 0; m < ms->n; m++)
        for (int i = 0; i < ms->machine[m].n_nics; i++)
            ms->machine[m].nic[i].mtu = 1500;
}
static void one_small_mtu(sy_machines *ms) {
    nic_of(&ms->machine[1], "enp1s0f0np0")->mtu = 1500;
}
static void one_subnet(sy_machines *ms) {
    strcpy(nic_of(&ms->machine[0], "enP2p1s0f0np0")->subnet, "192.168.100.0/24");
}
static void half_the_lanes(sy_machines *ms) {
    nic_of(&ms->machine[0], "enP2p1s0f0np0")->pci.lanes = 2;
}
static void no_rdma(sy_machines *ms) {
    for (int i = 0; i < ms->machine[1].n_nics; i++)
        ms->machine[1].nic[i].rdma_up = false;
}
static void socket_only(sy_machines *ms) {
    set_all(ms, "NCCL_NET", "Socket");
}
static void ib_disabled(sy_machines *ms) {
    set_all(ms, "NCCL_IB_DISABLE", "1");
}
static void wrong_hca(sy_machines *ms) {
    set_all(ms, "NCCL_IB_HCA", "mlx5_0,mlx5_1");
}
static void setting_on_one_host(sy_machines *ms) {
    set(&ms->machine[0], "NCCL_IB_QPS_PER_CONNECTION", "4");
}
static void pinned_gid(sy_machines *ms) {
    set_all(ms, "NCCL_IB_GID_INDEX", "3");
}
static void other_driver(sy_machines *ms) {
    strcpy(ms->machine[7].driver, "590.48.01");
}
static void wrong_interface(sy_machines *ms) {
    set_all(ms, "NCCL_SOCKET_IFNAME", "eth9,enp1s0f0np0");
}
static void full_of_files(sy_machines *ms) {
    ms->machine[0].page_cache = (uint64_t)90 << 30;
    ms->machine[0].memory_free = (uint64_t)15 << 30;
}
static void nearly_full(sy_machines *ms) {
    ms->machine[1].memory_available = (uint64_t)5 << 30;
}
static void no_cuda(sy_machines *ms) {
    for (int d = 0; d < ms->machine[0].n_devices; d++)
        ms->machine[0].device[d].cuda = -1;
}
static void a_container_bridge(sy_machines *ms) {
    for (int m = 0; m < ms->n; m++) {
        sy_machine *machine = &ms->machine[m];
        sy_machine_nic *nic = &machine->nic[machine->n_nics++];
        *nic = (sy_machine_nic){.name = "docker0",
                                .kind = SY_NIC_VIRTUAL,
                                .up = true,
                                .subnet = "172.17.0.0/16",
                                .twin = -1,
                                .mtu = 1500};
        for (int i = 0; i < machine->n_settings; i++)
            if (strncmp(machine->setting[i].name, "OMPI", 4) == 0)
                strcpy(machine->setting[i].name, "UCX_NOTHING");
    }
}
static void other_gpu(sy_machines *ms) {
    strcpy(ms->machine[1].device[0].name, "NVIDIA RTX 5090");
}

static void each_fault_is_found_where_it_is_with_its_cure(void **state) {
    (void)state;
    static const struct {
        const char *name;
        fault spoil;
        int ranks;
        const char *topic, *text, *cure;
        int n_machines;
    } cases[] = {
        {"spark8", twin_without_address, 8, "twin", "its twin enP2p1s0f0np0 is not (no IPv4",
         "NCCL_IB_HCA=rocep1s0f0,roceP2p1s0f0", 2},
        {"spark2", twin_not_named, 2, "twin", "NCCL_IB_HCA leaves roceP2p1s0f0 out",
         "NCCL_IB_HCA=rocep1s0f0,roceP2p1s0f0", 2},
        {"spark8", small_mtu, 8, "mtu", "MTU 1500 on enp1s0f0np0, enP2p1s0f0np0:", "mtu 9000",
         8},
        {"spark2", one_small_mtu, 2, "mtu", "MTU 1500 on enp1s0f0np0:", "netplan", 1},
        {"spark2", one_small_mtu, 2, "differs",
         "MTU of enp1s0f0np0 differs: 9000 on spark1; 1500 on spark2", "one MTU", 0},
        {"spark2", one_subnet, 2, "subnet", "both in 192.168.100.0/24", "of its own", 1},
        {"spark2", half_the_lanes, 2, "pcie", "2 of 4 PCIe lanes", "firmware", 1},
        {"spark2", no_rdma, 2, "nccl-tcp", "no RDMA port is active", "ACTIVE", 1},
        {"spark2", socket_only, 2, "nccl-tcp", "NCCL_NET=Socket", "NCCL_NET=IB", 2},
        {"spark2", ib_disabled, 2, "nccl-tcp", "NCCL_IB_DISABLE", "unset", 2},
        {"spark2", wrong_hca, 2, "nccl-tcp", "chooses no active", "unset it", 2},
        {"spark8", setting_on_one_host, 8, "differs",
         "NCCL_IB_QPS_PER_CONNECTION differs: 4 on spark1; not set on spark2, spark3",
         "nccl.conf", 0},
        {"spark2", pinned_gid, 2, "gid", "NCCL_IB_GID_INDEX=3", "unset", 2},
        {"spark8", other_driver, 8, "differs", "590.48.01 on spark8", "one driver", 0},
        {"spark2", wrong_interface, 2, "interface", "names eth9, which is not there", "up", 2},
        {"spark2", a_container_bridge, 2, "interface", "over docker0",
         "OMPI_MCA_btl_tcp_if_include=192.168.100.0/24", 2},
        {"spark2", full_of_files, 2, "page-cache", "CUDA's own figure", "drop_caches", 1},
        {"spark2", nearly_full, 2, "memory", "less than 8 GiB", "end other", 1},
        {"station_a100", no_cuda, 1, "cuda", "5 NVIDIA devices", "nvcc", 1},
        {"station_a100", NULL, 6, "shared-device", "up to 2 ranks", "at most 4 ranks", 1},
        {"station_a100", NULL, 65, "cores", "65 ranks on 64 cores", "a rank for each", 1},
        {"station_gb300", NULL, 1, "device-memory", "NUMA node 1", "--membind=0", 1},
        {"spark2", other_gpu, 2, "mixture", "rank 1 on NVIDIA RTX 5090", "of one kind", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int n;
        sy_advice_item item = advise(cases[i].name, cases[i].spoil, cases[i].ranks,
                                     cases[i].topic, cases[i].text, &n);
        if (n != 1) fail_msg("%s: \"%s\" was found %d times", cases[i].topic, cases[i].text, n);
        if (strstr(item.cure, cases[i].cure) == NULL)
            fail_msg("%s: expected a cure with \"%s\", found \"%s\"", cases[i].topic,
                     cases[i].cure, item.cure);
        assert_int_equal(item.n_machines, cases[i].n_machines);
    }
}

static void a_single_machine_is_not_warned_of_its_way_to_others(void **state) {
    (void)state;
    static const char *const topics[] = {"nccl-tcp", "interface", "gid", "differs"};
    for (size_t i = 0; i < sizeof topics / sizeof *topics; i++) {
        int n;
        advise("station_a100", NULL, 4, topics[i], "", &n);
        assert_int_equal(n, 0);
    }
}

static void the_hosts_of_an_item_are_named_or_all(void **state) {
    (void)state;
    sy_machines machines;
    sy_advice *advice;
    char where[64];
    load("spark8", &machines);
    twin_without_address(&machines);
    set_all(&machines, "NCCL_IB_GID_INDEX", "3");
    assert_int_equal(sy_advice_make(&machines, NULL, &advice), SY_OK);
    for (int i = 0; i < advice->n; i++) {
        const sy_advice_item *item = &advice->item[i];
        sy_advice_where(item, &machines, where, sizeof where);
        if (strcmp(item->topic, "twin") == 0) assert_string_equal(where, "spark3, spark6");
        if (strcmp(item->topic, "gid") == 0) assert_string_equal(where, "all 8 hosts");
    }
    assert_int_equal(advice->n, 2);
    free(advice);
    sy_machines_free(&machines);
}

static void adapters_are_chosen_as_nccl_does(void **state) {
    (void)state;
    assert_true(sy_hca_chosen(NULL, "mlx5_0", 1));
    assert_true(sy_hca_chosen("", "mlx5_0", 1));
    assert_true(sy_hca_chosen("mlx5", "mlx5_0", 1));
    assert_false(sy_hca_chosen("=mlx5", "mlx5_0", 1));
    assert_true(sy_hca_chosen("mlx5_1", "mlx5_10", 1));
    assert_false(sy_hca_chosen("=mlx5_1", "mlx5_10", 1));
    assert_true(sy_hca_chosen("mlx5_3,mlx5_0", "mlx5_0", 1));
    assert_false(sy_hca_chosen("^mlx5_3,mlx5_0", "mlx5_0", 1));
    assert_true(sy_hca_chosen("^=mlx5_3", "mlx5_30", 1));
    assert_true(sy_hca_chosen("mlx5_0:2", "mlx5_0", 2));
    assert_false(sy_hca_chosen("mlx5_0:2", "mlx5_0", 1));
    assert_false(sy_hca_chosen(",", "mlx5_0", 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_saved_machine_gives_each_rank_a_device_and_cores_near_it),
        cmocka_unit_test(the_same_machines_give_the_same_binding_and_words),
        cmocka_unit_test(eight_gpus_of_two_nodes_have_the_expected_cores_and_reasons),
        cmocka_unit_test(hosts_with_a_nic_for_each_gpu_pair_them_by_their_switch),
        cmocka_unit_test(sparks_use_one_port_over_both_twins),
        cmocka_unit_test(all_ranks_of_a_spark_are_given_the_first_of_the_twins),
        cmocka_unit_test(devices_that_cuda_does_not_show_are_passed_over),
        cmocka_unit_test(without_devices_ranks_share_all_cores_evenly),
        cmocka_unit_test(efficiency_cores_serve_when_there_are_more_ranks_than_others),
        cmocka_unit_test(a_limit_on_cpu_time_leaves_ranks_unbound),
        cmocka_unit_test(a_device_of_an_unknown_or_coreless_node_uses_the_whole_machine),
        cmocka_unit_test(ranks_are_dealt_out_by_devices_and_then_in_turn),
        cmocka_unit_test(binding_matters_with_several_nodes_or_kinds_of_cores),
        cmocka_unit_test(well_kept_machines_bring_no_warning),
        cmocka_unit_test(each_fault_is_found_where_it_is_with_its_cure),
        cmocka_unit_test(a_single_machine_is_not_warned_of_its_way_to_others),
        cmocka_unit_test(the_hosts_of_an_item_are_named_or_all),
        cmocka_unit_test(adapters_are_chosen_as_nccl_does)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

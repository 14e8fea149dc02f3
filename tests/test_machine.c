/* The probe on made-up /sys and /proc trees; descriptions as JSON and back; what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "topology/machine_json.h"
#include "machine_fixture.h"

static sy_machine *new_machine(void) {
    sy_machine *machine = calloc(1, sizeof *machine);
    assert_non_null(machine);
    return machine;
}

static const sy_machine_nic *nic_of(const sy_machine *m, const char *name) {
    for (int i = 0; i < m->n_nics; i++)
        if (strcmp(sy_nic_name(&m->nic[i]), name) == 0) return &m->nic[i];
    fail_msg("there is no NIC %s", name);
    return NULL;
}

/* ---- the probe ---- */

static void a_spark_is_read_with_its_cores_memory_and_twins(void **state) {
    (void)state;
    fake_root root;
    sy_machine *m = new_machine();
    static char hca[] = "NCCL_IB_HCA=rocep1s0f0", home[] = "HOME=/root";
    static char tls[] = "UCX_TLS=tcp\x1b[2J", nameless[] = "NCCL_=";
    char *environment[] = {hca, home, tls, nameless, NULL};
    fake_open(&root);
    fake_spark(&root);
    assert_int_equal(fake_probe(&root, environment, m), SY_OK);
    assert_string_equal(m->name, "spark-1");
    assert_string_equal(m->cpu, "Cortex-A725 + Cortex-X925");
    assert_string_equal(m->driver, "580.126.09");
    assert_true(m->memory == 127535444ull * 1024);
    assert_true(m->page_cache == (99000000ull + 100000 - 50000) * 1024);
    assert_int_equal(m->n_nodes, 1);
    assert_int_equal(m->n_cores, 20);
    for (int i = 0; i < 20; i++) {
        bool big = (i >= 5 && i < 10) || i >= 15; /* 997 and 1024 are one kind */
        assert_int_equal(m->core[i].cpu[0], i);
        assert_int_equal(m->core[i].kind, big ? SY_CORE_PERFORMANCE : SY_CORE_EFFICIENCY);
    }
    assert_int_equal(m->n_devices, 1);
    assert_string_equal(m->device[0].name, "NVIDIA GB10");
    assert_string_equal(m->device[0].pci.address, "000f:01:00.0");
    assert_string_equal(m->device[0].pci.path, "pci000f:00/000f:00:00.0");
    assert_true(m->device[0].unified);
    assert_int_equal(m->device[0].cuda, -1);
    assert_int_equal(m->n_nics, 4); /* not lo */
    const sy_machine_nic *a = nic_of(m, "enp1s0f0np0"), *b = nic_of(m, "enP2p1s0f0np0");
    assert_ptr_equal(&m->nic[a->twin], b);
    assert_ptr_equal(&m->nic[b->twin], a);
    assert_ptr_equal(&m->nic[nic_of(m, "enp1s0f1np1")->twin], nic_of(m, "enP2p1s0f1np1"));
    assert_string_equal(a->subnet, "192.168.100.0/24");
    assert_true(a->default_route);
    assert_false(b->default_route);
    assert_string_equal(b->subnet, "");
    assert_true(sy_nic_in_use(a));
    assert_false(sy_nic_in_use(b)); /* it is up, but has no address */
    assert_int_equal(a->mtu, 1500);
    assert_int_equal(a->speed, 200000);
    assert_int_equal(nic_of(m, "enp1s0f1np1")->speed, 0);
    assert_string_equal(a->rdma, "rocep1s0f0");
    assert_true(a->rdma_up);
    assert_int_equal(a->pci.lanes, 4);
    assert_true(sy_pci_bandwidth(&a->pci) > 15.7 && sy_pci_bandwidth(&a->pci) < 15.8);
    assert_int_equal(m->n_settings, 2);
    assert_string_equal(sy_machine_setting_value(m, "NCCL_IB_HCA"), "rocep1s0f0");
    assert_string_equal(sy_machine_setting_value(m, "UCX_TLS"), "tcp?[2J");
    fake_close(&root);
    free(m);
}

static void two_ports_of_one_link_are_no_twins(void **state) {
    (void)state;
    fake_root root;
    sy_machine *m = new_machine();
    fake_open(&root);
    fake_spark(&root);
    assert_int_equal(fake_probe(&root, NULL, m), SY_OK);
    for (int i = 0; i < m->n_nics; i++)
        if (strncmp(m->nic[i].pci.address, "0002", 4) == 0) m->nic[i].guid[0] = '5';
    sy_machine_find_twins(m);
    for (int i = 0; i < m->n_nics; i++)
        assert_int_equal(m->nic[i].twin, -1);
    fake_close(&root);
    free(m);
}

static void two_interfaces_of_one_function_are_no_twins(void **state) {
    (void)state;
    sy_machine *m = new_machine();
    sy_machine_nic nic = {.name = "eth0", .rdma = "mlx5_0", .rdma_port = 1, .guid = "1"};
    strcpy(nic.pci.address, "0000:01:00.0");
    m->nic[0] = m->nic[1] = nic;
    m->n_nics = 2;
    sy_machine_find_twins(m);
    assert_int_equal(m->nic[0].twin, -1);
    strcpy(m->nic[1].pci.address, "0000:02:00.0"); /* as on a Spark */
    sy_machine_find_twins(m);
    assert_int_equal(m->nic[0].twin, 1);
    strcpy(m->nic[1].pci.address, "0000:02:00.1");
    sy_machine_find_twins(m);
    assert_int_equal(m->nic[0].twin, -1);
    free(m);
}

static void functions_are_the_nearer_the_more_of_their_paths_they_share(void **state) {
    (void)state;
    static const struct {
        const char *path;
        int node;
        sy_nearness expected;
    } cases[] = {{"pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:02.0", 0, SY_NEAR_SWITCH},
                 {"pci0000:15/0000:15:01.0", 0, SY_NEAR_SWITCH},
                 {"pci0000:15/0000:15:02.0", 0, SY_NEAR_ROOT},
                 {"pci0000:150/0000:15:01.0", 0, SY_NEAR_NODE},
                 {"", 0, SY_NEAR_NODE},
                 {"", 1, SY_NEAR_SYSTEM},
                 {"", -1, SY_NEAR_UNKNOWN}};
    sy_machine_pci a = {.path = "pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:00.0"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sy_machine_pci b = {.node = cases[i].node};
        strcpy(b.path, cases[i].path);
        assert_int_equal(sy_pci_nearness(&a, &b), cases[i].expected);
        assert_int_equal(sy_pci_nearness(&b, &a), cases[i].expected);
    }
}

static void an_empty_tree_is_a_machine_of_which_only_the_cores_are_known(void **state) {
    (void)state;
    fake_root root;
    sy_machine *m = new_machine();
    fake_open(&root);
    fake_cores(&root, 4, NULL);
    assert_int_equal(fake_probe(&root, NULL, m), SY_OK);
    assert_string_equal(m->name, "localhost");
    assert_int_equal(m->n_cores, 4);
    assert_int_equal(m->core[0].kind, SY_CORE_ANY);
    assert_int_equal(m->n_nodes, 1);
    assert_true(m->memory == 0);
    assert_int_equal(m->n_devices, 0);
    assert_int_equal(m->n_nics, 0);
    fake_close(&root);
    free(m);
}

static void what_a_kernel_would_never_write_stays_unknown(void **state) {
    (void)state;
    fake_root root;
    sy_machine *m = new_machine();
    char *big = malloc(4 << 20), path[1024];
    fake_open(&root);
    fake_spark(&root);
    memset(big, 'x', 4 << 20);
    fake_bytes(&root, "/proc/sys/kernel/hostname", "sp\x01\xff\0rk\n", 8);
    fake_bytes(&root, "/proc/net/route", big, 4 << 20);
    fake_bytes(&root, "/proc/cpuinfo", big, 4 << 20);
    fake_file(&root, "/proc/meminfo",
              "MemTotal: 99999999999999999999 kB\nMemFree: -5 kB\nXMemAvailable: 7 kB\n");
    fake_file(&root, "/sys/class/net/enp1s0f0np0/mtu", "999999999999999999999\n");
    fake_file(&root, "/sys/class/net/enP2p1s0f0np0/mtu", "1500 bytes\n");
    fake_file(&root, "/sys/class/net/enP2p1s0f0np0/speed", "-200000\n");
    fake_file(&root, "/sys/devices/pci0000:00/0000:00:00.0/0000:01:00.0/current_link_width",
              "4096\n");
    fake_file(&root, "/sys/devices/pci0000:00/0000:00:00.0/0000:01:00.0/current_link_speed",
              "Unknown\n");
    fake_file(&root, "/sys/class/infiniband/rocep1s0f0/ports/1/state", "\n");
    fake_file(&root, "/sys/devices/system/node/nodeX/meminfo", "Node X MemTotal: 1 kB\n");
    fake_bytes(&root, "/proc/driver/nvidia/gpus/000f:01:00.0/information", big, 4 << 20);
    fake_link(&root, "/sys/class/net/dangling", "/nowhere");
    fake_file(&root, "/sys/class/net/name\twith\ttabs/type", "1\n");
    snprintf(path, sizeof path, "%s/sys/class/net/enp1s0f1np1/type", root.path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody writes: must not be waited for */
    fake_file(&root, "/sys/devices/pci0000:00/0000:00:00.0/0000:01:00.0/numa_node", "7\n");
    assert_int_equal(fake_probe(&root, NULL, m), SY_OK);
    assert_int_equal(nic_of(m, "enp1s0f0np0")->pci.node, -1); /* there is no node 7 */
    assert_string_equal(m->name, "sp??");
    assert_string_equal(m->cpu, "");
    assert_true(m->memory == 0 && m->memory_free == 0 && m->memory_available == 0);
    assert_int_equal(nic_of(m, "enp1s0f0np0")->mtu, 0);
    assert_int_equal(nic_of(m, "enP2p1s0f0np0")->mtu, 0);
    assert_int_equal(nic_of(m, "enp1s0f0np0")->pci.lanes, 0);
    assert_true(nic_of(m, "enp1s0f0np0")->pci.speed == 0);
    assert_false(nic_of(m, "enp1s0f0np0")->rdma_up);
    assert_string_equal(m->device[0].name, "NVIDIA device 10de:2e12");
    fake_close(&root);
    free(big);
    free(m);
}

static void many_interfaces_and_functions_fill_their_places_and_no_more(void **state) {
    (void)state;
    fake_root root;
    sy_machine *m = new_machine();
    char path[64], name[32];
    fake_open(&root);
    fake_cores(&root, 2, NULL);
    for (int i = 0; i < 100; i++) {
        snprintf(path, sizeof path, "pci0000:00/0000:%02x:00.0", i);
        fake_pci(&root, path, "0x10de\n", "0x030200\n", "16\n", "16\n");
        snprintf(name, sizeof name, "eth%d", i);
        fake_interface(&root, &(fake_nic){.name = name,
                                          .pci = path,
                                          .state = "up\n",
                                          .mtu = "1500\n",
                                          .speed = "1000\n"});
    }
    assert_int_equal(fake_probe(&root, NULL, m), SY_OK);
    assert_int_equal(m->n_devices, SY_MACHINE_DEVICES);
    assert_int_equal(m->n_nics, SY_MACHINE_NICS);
    fake_close(&root);
    free(m);
}

static void devices_of_the_runtime_come_first_and_complete_those_of_pci(void **state) {
    (void)state;
    fake_root root;
    sy_machine *m = new_machine();
    sy_machine_accelerator list[3] = {
        {.pci = "0000:02:00.0", .name = "second", .memory = 80},
        {.pci = "0000:01:00.0", .name = "first\n", .memory = 40, .unified = true},
        {.pci = "", .name = "elsewhere"}};
    fake_open(&root);
    fake_cores(&root, 2, NULL);
    fake_pci(&root, "pci0000:00/0000:00:01.0/0000:01:00.0", "0x10de\n", "0x030200\n", "8\n",
             "16\n");
    fake_pci(&root, "pci0000:00/0000:00:02.0/0000:02:00.0", "0x10de\n", "0x030200\n", "8\n",
             "16\n");
    fake_pci(&root, "pci0000:00/0000:00:03.0/0000:03:00.0", "0x10de\n", "0x030000\n", "8\n",
             "16\n");
    fake_pci(&root, "pci0000:00/0000:00:04.0/0000:04:00.0", "0x10de\n", "0x068000\n", "8\n",
             "16\n");
    sy_machine_sources sources = {.root = root.path, .n_accelerators = 3, .accelerator = list};
    assert_int_equal(sy_machine_probe(&sources, m), SY_OK);
    assert_int_equal(m->n_devices, 4);
    assert_string_equal(m->device[0].name, "second");
    assert_string_equal(m->device[0].pci.path, "pci0000:00/0000:00:02.0");
    assert_string_equal(m->device[1].name, "first?");
    assert_true(m->device[1].unified && m->device[1].memory == 40);
    assert_string_equal(m->device[2].name, "elsewhere");
    assert_int_equal(m->device[2].cuda, 2);
    assert_int_equal(m->device[3].cuda, -1);
    assert_int_equal(m->device[0].link_group, 0); /* there is an NVSwitch */
    assert_int_equal(m->device[2].link_group, -1);
    fake_close(&root);
    free(m);
}

static void a_node_without_cores_is_a_devices_memory(void **state) {
    (void)state;
    fake_root root;
    sy_machine *m = new_machine();
    fake_open(&root);
    fake_cores(&root, 2, NULL);
    fake_file(&root, "/sys/devices/system/node/node0/cpulist", "0-1\n");
    fake_file(&root, "/sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: 100 kB\n");
    fake_file(&root, "/sys/devices/system/node/node1/cpulist", "\n");
    fake_file(&root, "/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 200 kB\n");
    fake_file(&root, "/sys/devices/system/node/node2/cpulist", "\n");
    fake_file(&root, "/sys/devices/system/node/node2/meminfo", "Node 2 MemTotal: 0 kB\n");
    assert_int_equal(fake_probe(&root, NULL, m), SY_OK);
    assert_int_equal(m->n_nodes, 2); /* empty ones are for memory that could be plugged in */
    assert_false(m->node[0].of_device);
    assert_true(m->node[1].of_device);
    assert_true(m->node[1].memory == 200 * 1024);
    fake_close(&root);
    free(m);
}

/* ---- JSON ---- */

static void probed_and_saved_machines_are_read_back_as_they_were(void **state) {
    (void)state;
    fake_root root;
    sy_machines before = {0}, after = {0};
    json_t *document = NULL, *again = NULL;
    static char debug[] = "NCCL_DEBUG=INFO";
    char *environment[] = {debug, NULL};
    fake_open(&root);
    fake_spark(&root);
    assert_int_equal(sy_machines_alloc(2, &before), SY_OK);
    assert_int_equal(fake_probe(&root, environment, &before.machine[0]), SY_OK);
    assert_int_equal(fake_probe(&root, NULL, &before.machine[1]), SY_OK);
    assert_int_equal(sy_machines_to_json(&before, &document), SY_OK);
    assert_int_equal(sy_machines_from_json(document, "test", &after), SY_OK);
    assert_int_equal(after.n, 2);
    assert_int_equal(sy_machines_to_json(&after, &again), SY_OK);
    assert_true(json_equal(document, again));
    assert_int_equal(after.machine[0].nic[0].twin, before.machine[0].nic[0].twin);
    json_decref(document);
    json_decref(again);
    sy_machines_free(&before);
    sy_machines_free(&after);
    fake_close(&root);
}

/* A machine of two cores, with `extra` members behind. */
static sy_status read_with(const char *extra, sy_machines *out) {
    char text[4096];
    json_t *document = NULL;
    snprintf(
        text, sizeof text,
        "{\"version\": 1, \"machines\": [{\"name\": \"a\", \"nodes\": [{\"number\": 0}]%s%s}]}",
        extra[0] != '\0' ? ", " : "", extra);
    sy_status st = sy_json_parse(text, strlen(text), "test", &document);
    assert_int_equal(st, SY_OK);
    st = sy_machines_from_json(document, "test", out);
    json_decref(document);
    return st;
}

#define CORES "\"cores\": [{\"threads\": [\"0-1\"]}]"

static void every_wrong_member_is_refused_by_its_name(void **state) {
    (void)state;
    static const struct {
        const char *extra, *message;
    } cases[] = {
        {"", "machines[0].cores: expected at least one core"},
        {"\"cores\": []", "expected at least one core"},
        {"\"cores\": {}", "machines[0].cores: expected an array, found object"},
        {"\"cores\": [7]", "machines[0].cores[0]: expected an object, found integer"},
        {"\"cores\": [{}]", "expected threads"},
        {"\"cores\": [{\"threads\": [3]}]", "threads: expected texts"},
        {"\"cores\": [{\"threads\": [\"\"]}]", "expected a CPU for each of 0 cores"},
        {"\"cores\": [{\"threads\": [\"0-\"]}]", "expected a list of CPUs"},
        {"\"cores\": [{\"threads\": [\"3-1\"]}]", "expected a list of CPUs"},
        {"\"cores\": [{\"threads\": [\"0,\"]}]", "expected a list of CPUs"},
        {"\"cores\": [{\"threads\": [\"4096\"]}]", "expected a list of CPUs below 4096"},
        {"\"cores\": [{\"threads\": [\"0-1024\"]}]", "expected at most 1024 CPUs"},
        {"\"cores\": [{\"threads\": [\"0-3\", \"4-6\"]}]",
         "a CPU for each of 4 cores, found 3"},
        {"\"cores\": [{\"threads\": [\"0-3\", \"3-6\"]}]", "CPU 3 is listed twice"},
        {"\"cores\": [{\"threads\": [\"1,1\"]}]", "CPU 1 is listed twice"},
        {"\"cores\": [{\"node\": 1, \"threads\": [\"0\"]}]", "there is no NUMA node 1"},
        {"\"cores\": [{\"kind\": \"big\", \"threads\": [\"0\"]}]", "found \"big\""},
        {CORES ", \"cpu\": 5", "machines[0]: \"cpu\": expected a string"},
        {CORES ", \"cpu\": \"a\\u001b[2J\"", "cpu: expected printable ASCII"},
        {CORES ", \"cpu_quota\": -1", "cpu_quota: expected a number from 0"},
        {CORES ", \"memory\": 3", "memory: expected an object"},
        {CORES ", \"memory\": {\"total\": -1}", "machines[0].memory: \"total\""},
        {CORES ", \"memory\": {\"total\": 9000000000000000000}",
         "machines[0].memory: \"total\""},
        {CORES ", \"devices\": [{\"pci\": \"3b:00.0\"}]", "expected an address such as"},
        {CORES ", \"devices\": [{\"node\": 3}]", "there is no NUMA node 3"},
        {CORES ", \"devices\": [{\"link_speed\": 1e300}]", "link_speed: expected a number"},
        {CORES ", \"devices\": [{\"unified\": 1}]", "unified"},
        {CORES ", \"nics\": [{}]", "nics[0]: expected a name or an rdma device"},
        {CORES ", \"nics\": [{\"name\": \"a\", \"mtu\": -1}]", "nics[0]: \"mtu\""},
        {CORES ", \"nics\": [{\"name\": \"a\", \"kind\": \"token ring\"}]",
         "found \"token ring\""},
        {CORES ", \"nics\": [{\"name\": \"0123456789012345678901234567890123\"}]",
         "name: expected at most 31 characters, found 34"},
        {CORES ", \"settings\": {\"A B\": \"c\"}", "a name that no variable has"},
        {CORES ", \"settings\": {\"A\": 3}", "settings: \"A\""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sy_machines machines;
        sy_status st = read_with(cases[i].extra, &machines);
        if (st != SY_ERR_FORMAT || strstr(sy_last_error(), cases[i].message) == NULL)
            fail_msg("%s: status %d, \"%s\"; expected \"%s\"", cases[i].extra, st,
                     sy_last_error(), cases[i].message);
        assert_null(machines.machine);
    }
}

static void unknown_members_are_passed_over(void **state) {
    (void)state;
    sy_machines machines;
    assert_int_equal(read_with(CORES ", \"colour\": \"green\"", &machines), SY_OK);
    assert_int_equal(machines.machine[0].n_cores, 2);
    sy_machines_free(&machines);
}

static void documents_of_other_shapes_and_versions_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        sy_status status;
    } cases[] = {{"[]", SY_ERR_FORMAT},
                 {"{}", SY_ERR_FORMAT},
                 {"{\"version\": 1}", SY_ERR_FORMAT},
                 {"{\"version\": 1, \"machines\": []}", SY_ERR_FORMAT},
                 {"{\"version\": 1, \"machines\": [1]}", SY_ERR_FORMAT},
                 {"{\"version\": \"1\", \"machines\": [1]}", SY_ERR_FORMAT},
                 {"{\"version\": 2, \"machines\": [1]}", SY_ERR_UNSUPPORTED}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *document = NULL;
        sy_machines machines;
        assert_int_equal(sy_json_parse(cases[i].text, strlen(cases[i].text), "test", &document),
                         SY_OK);
        assert_int_equal(sy_machines_from_json(document, "test", &machines), cases[i].status);
        assert_non_null(strstr(sy_last_error(), "test"));
        json_decref(document);
    }
}

/* ---- CPU lists ---- */

static void lists_of_cpus_are_written_as_they_are_read(void **state) {
    (void)state;
    static const char *const texts[] = {"", "0", "0-3", "5-9,0-4", "0,2,4", "0-1,4095"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int16_t cpu[64];
        int n;
        char text[64];
        assert_int_equal(sy_cpu_list_parse(texts[i], "test", 64, cpu, &n), SY_OK);
        assert_true(sy_cpu_list_text(cpu, n, text, sizeof text));
        assert_string_equal(text, texts[i]);
    }
    char small[8];
    int16_t cpu[3] = {100, 200, 300};
    assert_false(sy_cpu_list_text(cpu, 3, small, sizeof small));
}

static void a_set_that_does_not_fit_is_cut_and_says_so(void **state) {
    (void)state;
    sy_cpus cpus = {{0}};
    char text[12];
    for (int i = 0; i < 40; i += 2)
        sy_cpus_add(&cpus, i);
    assert_string_equal(sy_cpus_text(&cpus, text, sizeof text), "0,2,4,6,..");
    cpus = (sy_cpus){{0}};
    for (int i = 4000; i < SY_CPUS_MAX; i++)
        sy_cpus_add(&cpus, i);
    assert_string_equal(sy_cpus_text(&cpus, text, sizeof text), "4000-4095");
    assert_int_equal(sy_cpus_count(&cpus), 96);
    assert_int_equal(sy_cpus_next(&cpus, 0), 4000);
    assert_int_equal(sy_cpus_next(&cpus, 4095), 4095);
    assert_int_equal(sy_cpus_next(&cpus, 4096), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_spark_is_read_with_its_cores_memory_and_twins),
        cmocka_unit_test(two_ports_of_one_link_are_no_twins),
        cmocka_unit_test(two_interfaces_of_one_function_are_no_twins),
        cmocka_unit_test(functions_are_the_nearer_the_more_of_their_paths_they_share),
        cmocka_unit_test(an_empty_tree_is_a_machine_of_which_only_the_cores_are_known),
        cmocka_unit_test(what_a_kernel_would_never_write_stays_unknown),
        cmocka_unit_test(many_interfaces_and_functions_fill_their_places_and_no_more),
        cmocka_unit_test(devices_of_the_runtime_come_first_and_complete_those_of_pci),
        cmocka_unit_test(a_node_without_cores_is_a_devices_memory),
        cmocka_unit_test(probed_and_saved_machines_are_read_back_as_they_were),
        cmocka_unit_test(every_wrong_member_is_refused_by_its_name),
        cmocka_unit_test(unknown_members_are_passed_over),
        cmocka_unit_test(documents_of_other_shapes_and_versions_are_refused),
        cmocka_unit_test(lists_of_cpus_are_written_as_they_are_read),
        cmocka_unit_test(a_set_that_does_not_fit_is_cut_and_says_so)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

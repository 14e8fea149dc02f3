/* Reading descriptions of machines, which may be hostile. */
#include <stdio.h>
#include <string.h>

#include "topology/machine_json.h"

enum { WHERE_MAX = 256 };

/* ---- members ---- */

/* A text of printable ASCII that fits; an absent member leaves "". */
static sy_status
get_text(const json_t *object, const char *where, const char *key, char *buf, size_t size) {
    const char *text = "";
    sy_status st = sy_json_get_string(object, where, key, &text);
    buf[0] = '\0';
    if (st != SY_OK) return st;
    size_t n = strlen(text);
    /* jansson refuses a NUL inside a string, so strlen sees all of it */
    if (n >= size)
        return sy_fail(SY_ERR_FORMAT, "%s.%s: expected at most %zu characters, found %zu",
                       where, key, size - 1, n);
    for (size_t i = 0; i < n; i++)
        if (text[i] < ' ' || text[i] > '~')
            return sy_fail(SY_ERR_FORMAT, "%s.%s: expected printable ASCII", where, key);
    memcpy(buf, text, n + 1);
    return SY_OK;
}

static sy_status get_int(const json_t *object,
                         const char *where,
                         const char *key,
                         int min,
                         int max,
                         int initial,
                         int *out) {
    int64_t value = initial;
    sy_status st = sy_json_get_int(object, where, key, min, max, &value);
    if (st == SY_OK) *out = (int)value;
    return st;
}

static sy_status
get_bytes(const json_t *object, const char *where, const char *key, uint64_t *out) {
    int64_t value = 0;
    sy_status st = sy_json_get_int(object, where, key, 0, (int64_t)1 << 60, &value);
    if (st == SY_OK) *out = (uint64_t)value;
    return st;
}

/* A number in [0, max]; absent: 0. */
static sy_status
get_amount(const json_t *object, const char *where, const char *key, double max, double *out) {
    double value = 0;
    sy_status st = sy_json_get_real(object, where, key, &value);
    if (st == SY_OK && !(value >= 0 && value <= max))
        st = sy_fail(SY_ERR_FORMAT, "%s.%s: expected a number from 0 to %g, found %g", where,
                     key, max, value);
    if (st == SY_OK) *out = value;
    return st;
}

static sy_status get_array(const json_t *object,
                           const char *where,
                           const char *key,
                           int most,
                           const json_t **out) {
    const json_t *list = json_object_get(object, key);
    *out = list;
    if (list == NULL || json_is_null(list)) return SY_OK;
    if (!json_is_array(list))
        return sy_fail(SY_ERR_FORMAT, "%s.%s: expected an array, found %s", where, key,
                       sy_json_type_name(list));
    if (json_array_size(list) > (size_t)most)
        return sy_fail(SY_ERR_FORMAT, "%s.%s: expected at most %d elements, found %zu", where,
                       key, most, json_array_size(list));
    return SY_OK;
}

/* Element i of a list, which must be an object; its name for error texts. */
static sy_status get_element(const json_t *list,
                             const char *where,
                             const char *key,
                             int i,
                             char name[WHERE_MAX],
                             const json_t **out) {
    *out = json_array_get(list, (size_t)i);
    snprintf(name, WHERE_MAX, "%.200s.%s[%d]", where, key, i);
    if (json_is_object(*out)) return SY_OK;
    return sy_fail(SY_ERR_FORMAT, "%s: expected an object, found %s", name,
                   sy_json_type_name(*out));
}

/* json_array_size of NULL is 0. */
static int length(const json_t *list) {
    return (int)json_array_size(list);
}

static bool has_node(const sy_machine *m, int number) {
    for (int i = 0; i < m->n_nodes; i++)
        if (m->node[i].number == number) return true;
    return false;
}

/* ---- parts ---- */

static sy_status read_memory(const json_t *object, const char *where, sy_machine *m) {
    sy_status st = SY_OK;
    char name[WHERE_MAX];
    const json_t *memory = json_object_get(object, "memory");
    if (memory == NULL) return SY_OK;
    snprintf(name, sizeof name, "%.200s.memory", where);
    if (!json_is_object(memory))
        SY_FAIL(SY_ERR_FORMAT, "%s: expected an object, found %s", name,
                sy_json_type_name(memory));
    SY_TRY(get_bytes(memory, name, "total", &m->memory));
    SY_TRY(get_bytes(memory, name, "available", &m->memory_available));
    SY_TRY(get_bytes(memory, name, "free", &m->memory_free));
    SY_TRY(get_bytes(memory, name, "page_cache", &m->page_cache));
done:
    return st;
}

static sy_status read_nodes(const json_t *object, const char *where, sy_machine *m) {
    sy_status st = SY_OK;
    const json_t *list, *o;
    char name[WHERE_MAX];
    SY_TRY(get_array(object, where, "nodes", SY_MACHINE_NODES, &list));
    for (int i = 0; i < length(list); i++) {
        sy_machine_node node = {0};
        SY_TRY(get_element(list, where, "nodes", i, name, &o));
        SY_TRY(get_int(o, name, "number", 0, INT16_MAX, 0, &node.number));
        SY_TRY(get_bytes(o, name, "memory", &node.memory));
        SY_TRY(sy_json_get_bool(o, name, "of_device", &node.of_device));
        if (has_node(m, node.number))
            SY_FAIL(SY_ERR_FORMAT, "%s: NUMA node %d is listed twice", name, node.number);
        m->node[m->n_nodes++] = node;
    }
    if (m->n_nodes == 0) m->node[m->n_nodes++] = (sy_machine_node){.memory = m->memory};
done:
    return st;
}

static sy_status read_kind(const json_t *object, const char *where, sy_core_kind *out) {
    const char *kind = NULL;
    sy_status st = sy_json_get_string(object, where, "kind", &kind);
    if (st != SY_OK || kind == NULL) return st;
    for (sy_core_kind k = SY_CORE_EFFICIENCY; k <= SY_CORE_PERFORMANCE; k++)
        if (strcmp(kind, sy_core_kind_name(k)) == 0) {
            *out = k;
            return SY_OK;
        }
    return sy_fail(SY_ERR_FORMAT,
                   "%s.kind: expected \"performance\", \"efficiency\" or null, found \"%.40s\"",
                   where, sy_text_shown(kind));
}

/* Thread t of a group of cores: adds one CPU to each of its cores; the first makes the cores. */
static sy_status add_threads(const json_t *text,
                             const char *where,
                             const sy_machine_core *like,
                             int first,
                             int t,
                             sy_cpus *seen,
                             sy_machine *m) {
    int16_t cpu[SY_MACHINE_CORES];
    int n;
    if (!json_is_string(text))
        return sy_fail(SY_ERR_FORMAT, "%s.threads: expected texts, found %s", where,
                       sy_json_type_name(text));
    int most = t == 0 ? SY_MACHINE_CORES - first : SY_MACHINE_CORES;
    sy_status st = sy_cpu_list_parse(json_string_value(text), where, most, cpu, &n);
    if (st != SY_OK) return st;
    if (t == 0)
        for (int i = 0; i < n; i++)
            m->core[m->n_cores++] = *like;
    if (n == 0 || n != m->n_cores - first)
        return sy_fail(SY_ERR_FORMAT,
                       "%s.threads: expected a CPU for each of %d cores, found %d", where,
                       m->n_cores - first, n);
    for (int i = 0; i < n; i++) {
        sy_machine_core *core = &m->core[first + i];
        if (sy_cpus_has(seen, cpu[i]))
            return sy_fail(SY_ERR_FORMAT, "%s.threads: CPU %d is listed twice", where, cpu[i]);
        sy_cpus_add(seen, cpu[i]);
        core->cpu[core->n_cpus++] = cpu[i];
    }
    return SY_OK;
}

static sy_status
read_core_group(const json_t *o, const char *name, sy_cpus *seen, sy_machine *m) {
    sy_status st = SY_OK;
    const json_t *threads;
    int package, node, first = m->n_cores;
    sy_machine_core core = {0};
    SY_TRY(get_int(o, name, "package", 0, INT16_MAX, 0, &package));
    SY_TRY(get_int(o, name, "node", 0, INT16_MAX, 0, &node));
    SY_TRY(read_kind(o, name, &core.kind));
    core.package = (int16_t)package;
    core.node = (int16_t)node;
    if (!has_node(m, node)) SY_FAIL(SY_ERR_FORMAT, "%s: there is no NUMA node %d", name, node);
    SY_TRY(get_array(o, name, "threads", SY_MACHINE_CORE_CPUS, &threads));
    if (length(threads) == 0) SY_FAIL(SY_ERR_FORMAT, "%s: expected threads", name);
    for (int t = 0; t < length(threads); t++)
        SY_TRY(add_threads(json_array_get(threads, (size_t)t), name, &core, first, t, seen, m));
done:
    return st;
}

static sy_status read_cores(const json_t *object, const char *where, sy_machine *m) {
    sy_status st = SY_OK;
    const json_t *list, *o;
    char name[WHERE_MAX];
    sy_cpus seen = {0};
    SY_TRY(get_array(object, where, "cores", SY_MACHINE_CORES, &list));
    for (int i = 0; i < length(list); i++) {
        SY_TRY(get_element(list, where, "cores", i, name, &o));
        SY_TRY(read_core_group(o, name, &seen, m));
    }
    if (m->n_cores == 0) SY_FAIL(SY_ERR_FORMAT, "%s.cores: expected at least one core", where);
done:
    return st;
}

static sy_status
read_pci(const json_t *o, const char *name, const sy_machine *m, sy_machine_pci *pci) {
    sy_status st = SY_OK;
    unsigned part[4];
    SY_TRY(get_text(o, name, "pci", pci->address, sizeof pci->address));
    if (pci->address[0] != '\0' && !sy_pci_parse(pci->address, part))
        SY_FAIL(SY_ERR_FORMAT, "%s.pci: expected an address such as 0000:3b:00.0, found \"%s\"",
                name, pci->address);
    SY_TRY(get_text(o, name, "path", pci->path, sizeof pci->path));
    SY_TRY(get_int(o, name, "node", -1, INT16_MAX, -1, &pci->node));
    if (pci->node >= 0 && !has_node(m, pci->node))
        SY_FAIL(SY_ERR_FORMAT, "%s: there is no NUMA node %d", name, pci->node);
    SY_TRY(get_int(o, name, "lanes", 0, 32, 0, &pci->lanes));
    SY_TRY(get_int(o, name, "lanes_max", 0, 32, 0, &pci->lanes_max));
    SY_TRY(get_amount(o, name, "lane_speed", 1000, &pci->speed));
    SY_TRY(get_amount(o, name, "lane_speed_max", 1000, &pci->speed_max));
done:
    return st;
}

static sy_status read_devices(const json_t *object, const char *where, sy_machine *m) {
    sy_status st = SY_OK;
    const json_t *list, *o;
    char name[WHERE_MAX];
    SY_TRY(get_array(object, where, "devices", SY_MACHINE_DEVICES, &list));
    for (int i = 0; i < length(list); i++) {
        sy_machine_device d = {0};
        SY_TRY(get_element(list, where, "devices", i, name, &o));
        SY_TRY(get_text(o, name, "name", d.name, sizeof d.name));
        SY_TRY(read_pci(o, name, m, &d.pci));
        SY_TRY(get_int(o, name, "cuda", -1, 1023, -1, &d.cuda));
        SY_TRY(get_bytes(o, name, "memory", &d.memory));
        SY_TRY(sy_json_get_bool(o, name, "unified", &d.unified));
        SY_TRY(get_int(o, name, "link_group", -1, 1023, -1, &d.link_group));
        SY_TRY(get_amount(o, name, "link_speed", 1e6, &d.link_speed));
        m->device[m->n_devices++] = d;
    }
done:
    return st;
}

static sy_status read_nic_kind(const json_t *object, const char *where, sy_nic_kind *out) {
    const char *kind = sy_nic_kind_name(SY_NIC_ETHERNET);
    sy_status st = sy_json_get_string(object, where, "kind", &kind);
    if (st != SY_OK) return st;
    for (sy_nic_kind k = SY_NIC_ETHERNET; k <= SY_NIC_VIRTUAL; k++)
        if (strcmp(kind, sy_nic_kind_name(k)) == 0) {
            *out = k;
            return SY_OK;
        }
    return sy_fail(SY_ERR_FORMAT,
                   "%s.kind: expected ethernet, infiniband, wireless or virtual, found "
                   "\"%.40s\"",
                   where, sy_text_shown(kind));
}

static sy_status
read_nic(const json_t *o, const char *name, const sy_machine *m, sy_machine_nic *n) {
    sy_status st = SY_OK;
    SY_TRY(get_text(o, name, "name", n->name, sizeof n->name));
    SY_TRY(read_nic_kind(o, name, &n->kind));
    SY_TRY(read_pci(o, name, m, &n->pci));
    SY_TRY(sy_json_get_bool(o, name, "up", &n->up));
    SY_TRY(sy_json_get_int(o, name, "speed", 0, 100000000, &n->speed));
    SY_TRY(get_int(o, name, "mtu", 0, 1 << 20, 0, &n->mtu));
    SY_TRY(get_text(o, name, "subnet", n->subnet, sizeof n->subnet));
    SY_TRY(sy_json_get_bool(o, name, "default_route", &n->default_route));
    SY_TRY(get_text(o, name, "rdma", n->rdma, sizeof n->rdma));
    SY_TRY(get_int(o, name, "rdma_port", 0, 255, 0, &n->rdma_port));
    SY_TRY(sy_json_get_bool(o, name, "rdma_up", &n->rdma_up));
    SY_TRY(get_text(o, name, "guid", n->guid, sizeof n->guid));
    SY_TRY(get_text(o, name, "port", n->port, sizeof n->port));
    if (n->name[0] == '\0' && n->rdma[0] == '\0')
        SY_FAIL(SY_ERR_FORMAT, "%s: expected a name or an rdma device", name);
done:
    return st;
}

static sy_status read_nics(const json_t *object, const char *where, sy_machine *m) {
    sy_status st = SY_OK;
    const json_t *list, *o;
    char name[WHERE_MAX];
    SY_TRY(get_array(object, where, "nics", SY_MACHINE_NICS, &list));
    for (int i = 0; i < length(list); i++) {
        SY_TRY(get_element(list, where, "nics", i, name, &o));
        SY_TRY(read_nic(o, name, m, &m->nic[m->n_nics]));
        m->n_nics++;
    }
    sy_machine_find_twins(m);
done:
    return st;
}

static sy_status read_settings(const json_t *object, const char *where, sy_machine *m) {
    sy_status st = SY_OK;
    char name[WHERE_MAX];
    const json_t *settings = json_object_get(object, "settings");
    void *at;
    if (settings == NULL || json_is_null(settings)) return SY_OK;
    snprintf(name, sizeof name, "%.200s.settings", where);
    if (!json_is_object(settings))
        SY_FAIL(SY_ERR_FORMAT, "%s: expected an object, found %s", name,
                sy_json_type_name(settings));
    if (json_object_size(settings) > SY_MACHINE_SETTINGS)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected at most %d members, found %zu", name,
                SY_MACHINE_SETTINGS, json_object_size(settings));
    for (at = json_object_iter((json_t *)settings); at != NULL;
         at = json_object_iter_next((json_t *)settings, at)) {
        const char *key = json_object_iter_key(at);
        sy_machine_setting *setting = &m->setting[m->n_settings];
        size_t n = strlen(key);
        bool is_name = n > 0 && n < sizeof setting->name;
        for (size_t i = 0; i < n; i++)
            is_name &= key[i] > ' ' && key[i] <= '~' && key[i] != '=';
        if (!is_name) SY_FAIL(SY_ERR_FORMAT, "%s: found a name that no variable has", name);
        memcpy(setting->name, key, n + 1);
        SY_TRY(get_text(settings, name, key, setting->value, sizeof setting->value));
        m->n_settings++;
    }
done:
    return st;
}

/* ---- documents ---- */

sy_status sy_machine_from_json(const json_t *object, const char *where, sy_machine *m) {
    sy_status st = SY_OK;
    memset(m, 0, sizeof *m);
    if (!json_is_object(object))
        SY_FAIL(SY_ERR_FORMAT, "%s: expected an object, found %s", where,
                sy_json_type_name(object));
    SY_TRY(get_text(object, where, "name", m->name, sizeof m->name));
    if (m->name[0] == '\0') SY_FAIL(SY_ERR_FORMAT, "%s: expected a name", where);
    SY_TRY(get_text(object, where, "cpu", m->cpu, sizeof m->cpu));
    SY_TRY(get_text(object, where, "kernel", m->kernel, sizeof m->kernel));
    SY_TRY(get_text(object, where, "driver", m->driver, sizeof m->driver));
    SY_TRY(get_amount(object, where, "cpu_quota", 1e6, &m->cpu_quota));
    SY_TRY(read_memory(object, where, m));
    SY_TRY(read_nodes(object, where, m));
    SY_TRY(read_cores(object, where, m));
    SY_TRY(read_devices(object, where, m));
    SY_TRY(read_nics(object, where, m));
    SY_TRY(read_settings(object, where, m));
done:
    return st;
}

sy_status sy_machines_from_json(const json_t *document, const char *where, sy_machines *out) {
    sy_status st = SY_OK;
    const json_t *list = NULL;
    int64_t version = 0;
    char name[WHERE_MAX];
    *out = (sy_machines){0};
    if (!json_is_object(document))
        SY_FAIL(SY_ERR_FORMAT, "%s: expected an object, found %s", where,
                sy_json_type_name(document));
    SY_TRY(sy_json_get_int(document, where, "version", 0, INT64_MAX, &version));
    if (version != SY_MACHINES_VERSION)
        SY_FAIL(version > SY_MACHINES_VERSION ? SY_ERR_UNSUPPORTED : SY_ERR_FORMAT,
                "%s: expected a topology of version %d, found version %lld", where,
                SY_MACHINES_VERSION, (long long)version);
    SY_TRY(get_array(document, where, "machines", SY_MACHINES_MAX, &list));
    if (length(list) == 0) SY_FAIL(SY_ERR_FORMAT, "%s: expected machines, found none", where);
    SY_TRY(sy_machines_alloc(length(list), out));
    for (int i = 0; i < out->n; i++) {
        snprintf(name, sizeof name, "%.160s: machines[%d]", where, i);
        SY_TRY(sy_machine_from_json(json_array_get(list, (size_t)i), name, &out->machine[i]));
    }
done:
    if (st != SY_OK) sy_machines_free(out);
    return st;
}

sy_status sy_machines_load(const char *path, sy_machines *out) {
    json_t *document = NULL;
    *out = (sy_machines){0};
    sy_status st = sy_json_load(path, SY_JSON_MAX_CONFIG, &document);
    if (st == SY_OK) st = sy_machines_from_json(document, path, out);
    json_decref(document);
    return st;
}

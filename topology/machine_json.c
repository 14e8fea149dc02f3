/* Writing: plain-data description to JSON. Reading is in machine_json_read.c. */
#include "topology/machine_json.h"

#include <string.h>

#include "base/json.h"

static json_t *memory_json(const sy_machine *m) {
    json_t *o = json_object();
    sy_json_set_bytes(o, "total", m->memory);
    sy_json_set_bytes(o, "available", m->memory_available);
    sy_json_set_bytes(o, "free", m->memory_free);
    sy_json_set_bytes(o, "page_cache", m->page_cache);
    return o;
}

static json_t *nodes_json(const sy_machine *m) {
    json_t *list = json_array();
    for (int i = 0; i < m->n_nodes; i++) {
        json_t *o = json_object();
        sy_json_set_int(o, "number", m->node[i].number);
        sy_json_set_bytes(o, "memory", m->node[i].memory);
        sy_json_set_flag(o, "of_device", m->node[i].of_device);
        json_array_append_new(list, o);
    }
    return list;
}

static bool same_group(const sy_machine_core *a, const sy_machine_core *b) {
    return a->package == b->package && a->node == b->node && a->kind == b->kind &&
           a->n_cpus == b->n_cpus;
}

/* Like cores in a row are one object: threads[t] lists the t-th hardware thread of each. */
static json_t *cores_json(const sy_machine *m) {
    json_t *list = json_array();
    for (int first = 0, end; first < m->n_cores; first = end) {
        const sy_machine_core *core = &m->core[first];
        for (end = first + 1; end < m->n_cores && same_group(core, &m->core[end]); end++)
            continue;
        json_t *o = json_object(), *threads = json_array();
        const char *kind = sy_core_kind_name(core->kind);
        sy_json_set_int(o, "package", core->package);
        sy_json_set_int(o, "node", core->node);
        json_object_set_new(o, "kind", kind != NULL ? json_string(kind) : json_null());
        for (int t = 0; t < core->n_cpus; t++) {
            int16_t cpu[SY_MACHINE_CORES];
            char text[8 * SY_MACHINE_CORES];
            for (int i = first; i < end; i++)
                cpu[i - first] = m->core[i].cpu[t];
            sy_cpu_list_text(cpu, end - first, text, sizeof text);
            json_array_append_new(threads, json_string(text));
        }
        json_object_set_new(o, "threads", threads);
        json_array_append_new(list, o);
    }
    return list;
}

static void add_pci(json_t *o, const sy_machine_pci *pci) {
    sy_json_set_text(o, "pci", pci->address);
    sy_json_set_text(o, "path", pci->path);
    sy_json_set_int(o, "node", pci->node);
    sy_json_set_int(o, "lanes", pci->lanes);
    sy_json_set_int(o, "lanes_max", pci->lanes_max);
    sy_json_set_real(o, "lane_speed", pci->speed);
    sy_json_set_real(o, "lane_speed_max", pci->speed_max);
}

static json_t *devices_json(const sy_machine *m) {
    json_t *list = json_array();
    for (int i = 0; i < m->n_devices; i++) {
        const sy_machine_device *d = &m->device[i];
        json_t *o = json_object();
        sy_json_set_text(o, "name", d->name);
        add_pci(o, &d->pci);
        sy_json_set_int(o, "cuda", d->cuda);
        sy_json_set_bytes(o, "memory", d->memory);
        sy_json_set_flag(o, "unified", d->unified);
        sy_json_set_int(o, "link_group", d->link_group);
        sy_json_set_real(o, "link_speed", d->link_speed);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *nics_json(const sy_machine *m) {
    json_t *list = json_array();
    for (int i = 0; i < m->n_nics; i++) {
        const sy_machine_nic *n = &m->nic[i];
        json_t *o = json_object();
        sy_json_set_text(o, "name", n->name);
        sy_json_set_text(o, "kind", sy_nic_kind_name(n->kind));
        add_pci(o, &n->pci);
        sy_json_set_flag(o, "up", n->up);
        sy_json_set_int(o, "speed", n->speed);
        sy_json_set_int(o, "mtu", n->mtu);
        sy_json_set_text(o, "subnet", n->subnet);
        sy_json_set_flag(o, "default_route", n->default_route);
        sy_json_set_text(o, "rdma", n->rdma);
        sy_json_set_int(o, "rdma_port", n->rdma_port);
        sy_json_set_flag(o, "rdma_up", n->rdma_up);
        sy_json_set_text(o, "guid", n->guid);
        sy_json_set_text(o, "port", n->port);
        json_object_set_new(
            o, "twin", n->twin >= 0 ? json_string(sy_nic_name(&m->nic[n->twin])) : json_null());
        json_array_append_new(list, o);
    }
    return list;
}

json_t *sy_machine_to_json(const sy_machine *m) {
    json_t *o = json_object(), *settings = json_object();
    if (o == NULL || settings == NULL) {
        json_decref(o);
        json_decref(settings);
        return NULL;
    }
    sy_json_set_text(o, "name", m->name);
    sy_json_set_text(o, "cpu", m->cpu);
    sy_json_set_text(o, "kernel", m->kernel);
    sy_json_set_text(o, "driver", m->driver);
    sy_json_set_real(o, "cpu_quota", m->cpu_quota);
    json_object_set_new(o, "memory", memory_json(m));
    json_object_set_new(o, "nodes", nodes_json(m));
    json_object_set_new(o, "cores", cores_json(m));
    json_object_set_new(o, "devices", devices_json(m));
    json_object_set_new(o, "nics", nics_json(m));
    for (int i = 0; i < m->n_settings; i++)
        sy_json_set_text(settings, m->setting[i].name, m->setting[i].value);
    json_object_set_new(o, "settings", settings);
    return o;
}

sy_status sy_machines_to_json(const sy_machines *machines, json_t **out) {
    json_t *document = json_object(), *list = json_array();
    sy_status st = SY_OK;
    *out = NULL;
    if (document == NULL || list == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for JSON");
    for (int i = 0; i < machines->n; i++) {
        json_t *machine = sy_machine_to_json(&machines->machine[i]);
        if (machine == NULL || json_array_append_new(list, machine) != 0)
            SY_FAIL(SY_ERR_MEMORY, "no memory for JSON");
    }
    sy_json_set_int(document, "version", SY_MACHINES_VERSION);
    json_object_set_new(document, "machines", list);
    list = NULL;
    *out = document;
    document = NULL;
done:
    json_decref(list);
    json_decref(document);
    return st;
}

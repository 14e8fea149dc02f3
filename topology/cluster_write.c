/* A cluster as a description that sy_cluster_parse reads. */
#include <jansson.h>

#include "base/checked.h"
#include "topology/cluster.h"

static void set_constant(json_t *o, const char *key, const char *unit, const sy_constant *c) {
    if (c->source == NULL) return;
    json_object_set_new(o, key, json_pack("{s:f, s:s}", unit, c->value, "source", c->source));
}

static json_t *shares_of(const sy_kernel_shares *k) {
    json_t *o = json_object();
    set_constant(o, "decode", "share", &k->decode);
    set_constant(o, "prefill", "share", &k->prefill);
    return o;
}

static json_t *kernels_of(const sy_cluster *c) {
    json_t *o = json_object();
    for (int i = 0; i <= SY_STORED_COUNT; i++) {
        bool stored = i < SY_STORED_COUNT;
        json_t *k = shares_of(stored ? &c->kernel[i] : &c->attention);
        if (json_object_size(k) > 0)
            json_object_set(o, stored ? sy_stored_name((sy_stored)i) : "attention", k);
        json_decref(k);
    }
    return o;
}

static json_t *threads_of(const sy_cluster *c) {
    json_t *list = json_array();
    for (int i = 0; i < c->n_threads; i++) {
        json_t *o = json_pack("{s:i}", "threads", c->threads[i].threads);
        set_constant(o, "bandwidth", "bytes_per_s", &c->threads[i].bandwidth);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *device_of(const sy_cluster *c) {
    json_t *o = json_object(), *rates = json_object();
    json_object_set_new(o, "name", json_string(c->device));
    json_object_set_new(o, "kind", json_string(c->is_gpu ? "gpu" : "cpu"));
    set_constant(o, "memory", "bytes", &c->memory);
    set_constant(o, "usable", "bytes", &c->usable);
    set_constant(o, "read_bandwidth", "bytes_per_s", &c->bandwidth);
    set_constant(o, "read_share", "share", &c->read_share);
    for (int i = 0; i < SY_OPERAND_COUNT; i++)
        set_constant(rates, sy_operand_name((sy_operand)i), "flop_per_s", &c->rate[i]);
    json_object_set_new(o, "rates", rates);
    set_constant(o, "rate_share", "share", &c->rate_share);
    set_constant(o, "grouped_share", "share", &c->grouped_share);
    set_constant(o, "step_overhead", "seconds", &c->step_overhead);
    set_constant(o, "layer_overhead", "seconds", &c->layer_overhead);
    json_object_set_new(o, "kernels", kernels_of(c));
    json_object_set_new(o, "read_by_threads", threads_of(c));
    return o;
}

static void set_link(json_t *file, const char *key, const sy_cluster_link *link) {
    if (link->bandwidth.source == NULL) return;
    json_t *o = json_object();
    set_constant(o, "bandwidth", "bytes_per_s", &link->bandwidth);
    set_constant(o, "latency", "seconds", &link->latency);
    set_constant(o, "peer_latency", "seconds", &link->peer_latency);
    json_object_set_new(o, "shared", json_boolean(link->shared));
    if (link->path != NULL) json_object_set_new(o, "path", json_string(link->path));
    json_object_set_new(file, key, o);
}

json_t *sy_cluster_describe(const sy_cluster *c) {
    int per_host = (int)sy_min(c->n_devices, c->devices_per_host);
    json_t *o = json_object();
    json_object_set_new(o, "switchyard_cluster", json_integer(1));
    json_object_set_new(o, "name", json_string(c->name));
    json_object_set_new(o, "device", device_of(c));
    json_object_set_new(o, "devices_per_host", json_integer(per_host));
    json_object_set_new(o, "hosts", json_integer(sy_ceil_div(c->n_devices, per_host)));
    set_link(o, "in_host", &c->in_host);
    set_link(o, "between_hosts", &c->between_hosts);
    return o;
}

#include "topology/cluster.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"

enum { SOURCE_MAX = 300, FILE_VERSION = 1, HOSTS_MAX = 4096, WHERE_MAX = 256 };

#define TOO_FAST 1e21 /* above any rate or size of a device */

const char *sy_operand_name(sy_operand operand) {
    static const char *const names[] = {
#define X(name, text) text,
        SY_OPERAND_LIST(X)
#undef X
    };
    return (unsigned)operand < SY_OPERAND_COUNT ? names[operand] : "?";
}

const char *sy_stored_name(sy_stored stored) {
    static const char *const names[] = {
#define X(name, text) text,
        SY_STORED_LIST(X)
#undef X
    };
    return (unsigned)stored < SY_STORED_COUNT ? names[stored] : "?";
}

/* ---- objects with nothing unknown in them ---- */

static bool has_word(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *p = words; (p = strstr(p, word)) != NULL; p += n)
        if ((p == words || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0')) return n > 0;
    return false;
}

/* An object whose keys are all among `keys`: a misspelt constant must not fall silent. */
static sy_status check_object(const json_t *o, const char *where, const char *keys) {
    const char *key;
    json_t *value;
    if (!json_is_object(o))
        return sy_fail(SY_ERR_FORMAT, "%s: expected an object, found %s", where,
                       o == NULL ? "nothing" : sy_json_type_name(o));
    json_object_foreach((json_t *)(uintptr_t)o, key, value) {
        if (strchr(key, ' ') == NULL && has_word(keys, key)) continue;
        return sy_fail(SY_ERR_FORMAT, "%s: \"%.64s\" is not known here; expected %s", where,
                       key, keys);
    }
    return SY_OK;
}

/* "FILE: device: rates" from "FILE: device" and "rates"; a long path loses its end. */
static void below(char buf[WHERE_MAX], const char *where, const char *key) {
    snprintf(buf, WHERE_MAX, "%.200s: %.40s", where, key);
}

/* Text for people: it is printed, so no control characters. */
static sy_status
get_text(const json_t *o, const char *where, const char *key, size_t most, const char **out) {
    const char *text = NULL;
    sy_status st = sy_json_get_string(o, where, key, &text);
    if (st != SY_OK) return st;
    if (text == NULL || text[0] == '\0')
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\" is missing or empty", where, key);
    if (strlen(text) > most)
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\" has more than %zu bytes", where, key, most);
    for (const char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return sy_fail(SY_ERR_FORMAT, "%s: \"%s\" holds a control character", where, key);
    *out = text;
    return SY_OK;
}

/* What a constant may be. */
typedef struct unit {
    const char *key; /* of the number: "bytes_per_s" */
    double min, max;
} unit;
static const unit bytes = {"bytes", 1, TOO_FAST}, bytes_per_s = {"bytes_per_s", 1, TOO_FAST},
                  flop_per_s = {"flop_per_s", 1, TOO_FAST}, share = {"share", 1e-6, 1},
                  seconds = {"seconds", 0, 60};

/* {"seconds": 3e-5, "source": "..."} at o[key]; absent: left as it is, unless required. */
static sy_status get_constant(const json_t *o,
                              const char *where,
                              const char *key,
                              const unit *u,
                              bool required,
                              sy_constant *out) {
    sy_status st = SY_OK;
    const json_t *c = json_object_get(o, key);
    char at[WHERE_MAX], keys[32];
    double value = NAN;
    if (c == NULL && !required) return SY_OK;
    below(at, where, key);
    snprintf(keys, sizeof keys, "%s source", u->key);
    SY_TRY(check_object(c, at, keys));
    SY_TRY(sy_json_get_real(c, at, u->key, &value));
    if (!(value >= u->min && value <= u->max))
        SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\": expected a number from %g to %g, found %g", at,
                u->key, u->min, u->max, value);
    out->value = value;
    SY_TRY(get_text(c, at, "source", SOURCE_MAX, &out->source));
done:
    return st;
}

static sy_status
get_link(const json_t *file, const char *where, const char *key, sy_cluster_link *out) {
    sy_status st = SY_OK;
    const json_t *o = json_object_get(file, key);
    char at[WHERE_MAX];
    if (o == NULL || json_is_null(o)) return SY_OK;
    below(at, where, key);
    SY_TRY(check_object(o, at, "bandwidth latency peer_latency shared path"));
    SY_TRY(get_constant(o, at, "bandwidth", &bytes_per_s, true, &out->bandwidth));
    SY_TRY(get_constant(o, at, "latency", &seconds, true, &out->latency));
    SY_TRY(get_constant(o, at, "peer_latency", &seconds, true, &out->peer_latency));
    SY_TRY(sy_json_get_bool(o, at, "shared", &out->shared));
    if (json_object_get(o, "path") != NULL) SY_TRY(get_text(o, at, "path", 32, &out->path));
done:
    return st;
}

static sy_status get_rates(const json_t *device, const char *where, sy_cluster *c) {
    sy_status st = SY_OK;
    const json_t *o = json_object_get(device, "rates");
    char at[WHERE_MAX];
    below(at, where, "rates");
    SY_TRY(check_object(o, at, "f32 bf16 fp8 fp4 int8"));
    for (int i = 0; i < SY_OPERAND_COUNT; i++)
        SY_TRY(get_constant(o, at, sy_operand_name((sy_operand)i), &flop_per_s,
                            i == SY_OPERAND_BF16, &c->rate[i]));
done:
    return st;
}

static sy_status
get_shares(const json_t *o, const char *where, const char *key, sy_kernel_shares *out) {
    sy_status st = SY_OK;
    const json_t *k = json_object_get(o, key);
    char at[WHERE_MAX];
    if (k == NULL) return SY_OK;
    below(at, where, key);
    SY_TRY(check_object(k, at, "decode prefill"));
    SY_TRY(get_constant(k, at, "decode", &share, false, &out->decode));
    SY_TRY(get_constant(k, at, "prefill", &share, false, &out->prefill));
done:
    return st;
}

static sy_status get_kernels(const json_t *device, const char *where, sy_cluster *c) {
    sy_status st = SY_OK;
    const json_t *o = json_object_get(device, "kernels");
    char at[WHERE_MAX];
    if (o == NULL) return SY_OK;
    below(at, where, "kernels");
    SY_TRY(check_object(o, at, "bf16 fp8 q8 int4 mxfp4 nvfp4 attention"));
    for (int i = 0; i < SY_STORED_COUNT; i++)
        SY_TRY(get_shares(o, at, sy_stored_name((sy_stored)i), &c->kernel[i]));
    SY_TRY(get_shares(o, at, "attention", &c->attention));
done:
    return st;
}

static sy_status get_threads(const json_t *device, const char *where, sy_cluster *c) {
    sy_status st = SY_OK;
    const json_t *list = json_object_get(device, "read_by_threads");
    char at[WHERE_MAX];
    if (list == NULL) return SY_OK;
    below(at, where, "read_by_threads");
    if (!json_is_array(list) || json_array_size(list) > SY_CLUSTER_THREADS)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected a list of at most %d objects", at,
                SY_CLUSTER_THREADS);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        sy_thread_bandwidth *t = &c->threads[i];
        int64_t n = 0;
        SY_TRY(check_object(o, at, "threads bandwidth"));
        SY_TRY(sy_json_get_int(o, at, "threads", 1, 4096, &n));
        if (n == 0) SY_FAIL(SY_ERR_FORMAT, "%s: \"threads\" is missing", at);
        t->threads = (int)n;
        SY_TRY(get_constant(o, at, "bandwidth", &bytes_per_s, true, &t->bandwidth));
        c->n_threads++;
    }
done:
    return st;
}

static sy_status get_device(const json_t *file, const char *where, sy_cluster *c) {
    sy_status st = SY_OK;
    const json_t *o = json_object_get(file, "device");
    const char *kind = NULL;
    char at[WHERE_MAX];
    below(at, where, "device");
    SY_TRY(check_object(o, at,
                        "name kind memory usable read_bandwidth read_share rates rate_share "
                        "grouped_share step_overhead layer_overhead kernels read_by_threads"));
    SY_TRY(get_text(o, at, "name", 128, &c->device));
    SY_TRY(get_text(o, at, "kind", 8, &kind));
    c->is_gpu = strcmp(kind, "gpu") == 0;
    if (!c->is_gpu && strcmp(kind, "cpu") != 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"kind\": expected \"gpu\" or \"cpu\", found \"%s\"", at,
                kind);
    SY_TRY(get_constant(o, at, "memory", &bytes, true, &c->memory));
    SY_TRY(get_constant(o, at, "usable", &bytes, true, &c->usable));
    if (c->usable.value > c->memory.value)
        SY_FAIL(SY_ERR_FORMAT, "%s: more is usable (%g bytes) than there is (%g)", at,
                c->usable.value, c->memory.value);
    SY_TRY(get_constant(o, at, "read_bandwidth", &bytes_per_s, true, &c->bandwidth));
    SY_TRY(get_constant(o, at, "read_share", &share, true, &c->read_share));
    SY_TRY(get_rates(o, at, c));
    SY_TRY(get_constant(o, at, "rate_share", &share, true, &c->rate_share));
    c->grouped_share = c->rate_share;
    SY_TRY(get_constant(o, at, "grouped_share", &share, false, &c->grouped_share));
    SY_TRY(get_constant(o, at, "step_overhead", &seconds, true, &c->step_overhead));
    SY_TRY(get_constant(o, at, "layer_overhead", &seconds, true, &c->layer_overhead));
    SY_TRY(get_kernels(o, at, c));
    SY_TRY(get_threads(o, at, c));
done:
    return st;
}

static sy_status get_count(const json_t *o, const char *where, const char *key, int *out) {
    int64_t n = 0;
    sy_status st = sy_json_get_int(o, where, key, 1, HOSTS_MAX, &n);
    if (st == SY_OK && n == 0)
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\" is missing", where, key);
    *out = (int)n;
    return st;
}

static sy_status get_counts(const json_t *file, const char *where, sy_cluster *c) {
    sy_status st = SY_OK;
    int n_hosts = 0;
    SY_TRY(get_count(file, where, "devices_per_host", &c->devices_per_host));
    SY_TRY(get_count(file, where, "hosts", &n_hosts));
    if ((int64_t)n_hosts * c->devices_per_host > SY_CLUSTER_DEVICES_MAX)
        SY_FAIL(SY_ERR_FORMAT, "%s: %d hosts of %d devices are more than %d", where, n_hosts,
                c->devices_per_host, SY_CLUSTER_DEVICES_MAX);
    c->n_devices = n_hosts * c->devices_per_host;
    if (n_hosts > 1 && c->between_hosts.bandwidth.source == NULL)
        SY_FAIL(SY_ERR_FORMAT, "%s: %d hosts, but no \"between_hosts\" link", where, n_hosts);
    if (c->devices_per_host > 1 && c->in_host.bandwidth.source == NULL)
        SY_FAIL(SY_ERR_FORMAT, "%s: %d devices per host, but no \"in_host\" link", where,
                c->devices_per_host);
done:
    return st;
}

static sy_status read_description(json_t *file, const char *where, sy_cluster *c) {
    sy_status st = SY_OK;
    const char *name = NULL;
    int64_t version = 0;
    SY_TRY(check_object(file, where,
                        "switchyard_cluster name device devices_per_host hosts in_host "
                        "between_hosts"));
    SY_TRY(sy_json_get_int(file, where, "switchyard_cluster", INT64_MIN, INT64_MAX, &version));
    if (version != FILE_VERSION)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: \"switchyard_cluster\": expected the version %d, found %lld: not a "
                "cluster description, or one of another version",
                where, FILE_VERSION, (long long)version);
    SY_TRY(get_text(file, where, "name", SY_CLUSTER_NAME_MAX - 1, &name));
    snprintf(c->name, sizeof c->name, "%s", name);
    SY_TRY(get_device(file, where, c));
    SY_TRY(get_link(file, where, "in_host", &c->in_host));
    SY_TRY(get_link(file, where, "between_hosts", &c->between_hosts));
    SY_TRY(get_counts(file, where, c));
done:
    return st;
}

/* Takes over `file`. */
static sy_status from_json(json_t *file, const char *path, sy_cluster **out) {
    sy_status st = SY_OK;
    char where[WHERE_MAX];
    snprintf(where, sizeof where, "%.120s", path);
    sy_cluster *c = calloc(1, sizeof *c);
    *out = NULL;
    if (c == NULL) {
        json_decref(file);
        return sy_fail(SY_ERR_MEMORY, "no memory for a cluster description");
    }
    c->owner = file;
    SY_TRY(read_description(file, where, c));
    *out = c;
    c = NULL;
done:
    sy_cluster_destroy(c);
    return st;
}

sy_status sy_cluster_parse(const char *text, size_t size, const char *where, sy_cluster **out) {
    json_t *file = NULL;
    *out = NULL;
    sy_status st = sy_json_parse(text, size, where, &file);
    return st == SY_OK ? from_json(file, where, out) : st;
}

void sy_cluster_destroy(sy_cluster *cluster) {
    if (cluster == NULL) return;
    json_decref(cluster->owner);
    free(cluster);
}

/* ---- by name ---- */

static const sy_builtin_cluster *find_builtin(const char *name, size_t n) {
    const sy_builtin_cluster *b;
    for (int i = 0; (b = sy_cluster_builtin(i)) != NULL; i++)
        if (strlen(b->cluster.name) == n && memcmp(b->cluster.name, name, n) == 0) return b;
    return NULL;
}

/* Units of NAME:N; 1 for NAME. */
static sy_status parse_units(const char *text, size_t name_bytes, long *out) {
    const char *number = text + name_bytes + 1;
    char *end;
    *out = 1;
    if (text[name_bytes] == '\0') return SY_OK;
    if (strspn(number, "0123456789") == strlen(number) && number[0] != '\0' &&
        strlen(number) <= 6) {
        *out = strtol(number, &end, 10);
        if (*out >= 1 && *out <= SY_CLUSTER_DEVICES_MAX) return SY_OK;
    }
    return sy_fail(SY_ERR_USAGE,
                   "--cluster: \"%s\": expected a number from 1 to %d behind the "
                   "colon",
                   text, SY_CLUSTER_DEVICES_MAX);
}

static sy_status multiply(const sy_builtin_cluster *b, long units, sy_cluster **out) {
    int64_t n = (int64_t)units * (b->unit_is_host ? b->cluster.devices_per_host : 1);
    *out = NULL;
    if (n > SY_CLUSTER_DEVICES_MAX)
        return sy_fail(SY_ERR_USAGE, "--cluster: %lld devices are more than %d", (long long)n,
                       SY_CLUSTER_DEVICES_MAX);
    if (n > b->cluster.devices_per_host && b->cluster.between_hosts.bandwidth.source == NULL)
        return sy_fail(SY_ERR_USAGE,
                       "--cluster: %s: no link between hosts is known, so at most %d devices "
                       "work together",
                       b->cluster.name, b->cluster.devices_per_host);
    sy_cluster *c = malloc(sizeof *c);
    if (c == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a cluster description");
    *c = b->cluster;
    c->n_devices = (int)n;
    *out = c;
    return SY_OK;
}

sy_status sy_cluster_load(const char *name_or_path, sy_cluster **out) {
    sy_status st = SY_OK;
    json_t *file = NULL;
    size_t n = strcspn(name_or_path, ":");
    const sy_builtin_cluster *b = find_builtin(name_or_path, n);
    long units;
    *out = NULL;
    if (b != NULL) {
        SY_TRY(parse_units(name_or_path, n, &units));
        return multiply(b, units, out);
    }
    st = sy_json_load(name_or_path, SY_JSON_MAX_CONFIG, &file);
    if (st == SY_ERR_IO)
        sy_status_context("--cluster: neither a file nor a known name (--cluster list)");
    SY_TRY(st);
    SY_TRY(from_json(file, name_or_path, out));
done:
    return st;
}

/* ---- all constants ---- */

typedef struct visit {
    sy_cluster_visitor row;
    void *context;
} visit;

static sy_status
show(const visit *v, const char *name, const unit *u, const sy_constant *constant) {
    return constant->source == NULL ? SY_OK : v->row(v->context, name, u->key, constant);
}

static sy_status show_link(const visit *v, const char *name, const sy_cluster_link *link) {
    sy_status st = SY_OK;
    char at[64];
    snprintf(at, sizeof at, "%s.bandwidth", name);
    SY_TRY(show(v, at, &bytes_per_s, &link->bandwidth));
    snprintf(at, sizeof at, "%s.latency", name);
    SY_TRY(show(v, at, &seconds, &link->latency));
    snprintf(at, sizeof at, "%s.peer_latency", name);
    SY_TRY(show(v, at, &seconds, &link->peer_latency));
done:
    return st;
}

static sy_status show_kernel(const visit *v, const char *name, const sy_kernel_shares *k) {
    sy_status st = SY_OK;
    char at[64];
    snprintf(at, sizeof at, "device.kernels.%s.decode", name);
    SY_TRY(show(v, at, &share, &k->decode));
    snprintf(at, sizeof at, "device.kernels.%s.prefill", name);
    SY_TRY(show(v, at, &share, &k->prefill));
done:
    return st;
}

sy_status sy_cluster_visit(const sy_cluster *c, sy_cluster_visitor row, void *context) {
    sy_status st = SY_OK;
    const visit v = {row, context};
    char at[64];
    SY_TRY(show(&v, "device.memory", &bytes, &c->memory));
    SY_TRY(show(&v, "device.usable", &bytes, &c->usable));
    SY_TRY(show(&v, "device.read_bandwidth", &bytes_per_s, &c->bandwidth));
    SY_TRY(show(&v, "device.read_share", &share, &c->read_share));
    for (int i = 0; i < SY_OPERAND_COUNT; i++) {
        snprintf(at, sizeof at, "device.rates.%s", sy_operand_name((sy_operand)i));
        SY_TRY(show(&v, at, &flop_per_s, &c->rate[i]));
    }
    SY_TRY(show(&v, "device.rate_share", &share, &c->rate_share));
    SY_TRY(show(&v, "device.grouped_share", &share, &c->grouped_share));
    SY_TRY(show(&v, "device.step_overhead", &seconds, &c->step_overhead));
    SY_TRY(show(&v, "device.layer_overhead", &seconds, &c->layer_overhead));
    for (int i = 0; i < SY_STORED_COUNT; i++)
        SY_TRY(show_kernel(&v, sy_stored_name((sy_stored)i), &c->kernel[i]));
    SY_TRY(show_kernel(&v, "attention", &c->attention));
    for (int i = 0; i < c->n_threads; i++) {
        snprintf(at, sizeof at, "device.read_by_threads.%d", c->threads[i].threads);
        SY_TRY(show(&v, at, &bytes_per_s, &c->threads[i].bandwidth));
    }
    SY_TRY(show_link(&v, "in_host", &c->in_host));
    SY_TRY(show_link(&v, "between_hosts", &c->between_hosts));
done:
    return st;
}

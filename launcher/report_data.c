/* What the report knows of the model, the run and its layers; report_parts.c reads the rest. */
#include "launcher/report_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "launcher/report_json.h"
#include "launcher/report_parts.h"

enum { MOST_PAIRS = 1024, WHERE = 96, MOST_CELLS = 1 << 23 };
#define MOST_MEMORY ((uint64_t)1 << 30)

/* ---- memory ---- */

typedef struct block {
    struct block *next;
    max_align_t data[];
} block;

sy_status sy_report_take(sy_report *r, uint64_t n, size_t size, void *out) {
    uint64_t bytes, whole;
    if (!sy_mul_u64(n, size, &bytes) || !sy_add_u64(bytes, sizeof(block), &whole) ||
        !sy_add_u64(r->bytes, whole, &r->bytes) || r->bytes > MOST_MEMORY)
        return sy_fail(SY_ERR_UNSUPPORTED, "the profile is too large for a report");
    block *b = calloc(1, (size_t)whole + 1);
    if (b == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a report");
    b->next = r->block;
    r->block = b;
    void *data = b->data;
    memcpy(out, &data, sizeof data); /* out: any pointer's address */
    return SY_OK;
}

void sy_report_free(sy_report *r) {
    for (block *b = r->block, *next; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    json_decref(r->root);
    *r = (sy_report){0};
}

/* ---- measures ---- */

sy_status
sy_report_measures_read(const json_t *in, const char *where, sy_report_measures *out) {
    sy_status st = SY_OK;
    const struct {
        const char *key;
        double *to;
    } member[] = {{"max_over_mean", &out->max_over_mean},
                  {"excess_over_mean", &out->excess_over_mean},
                  {"balancedness", &out->balancedness},
                  {"cv", &out->cv},
                  {"entropy", &out->entropy},
                  {"unused", &out->unused}};
    for (size_t i = 0; i < sizeof member / sizeof member[0]; i++)
        SY_TRY(sy_report_number(in, where, member[i].key, member[i].to));
done:
    return st;
}

static sy_status
read_balance(const json_t *in, const char *where, const char *key, sy_report_balance *out) {
    sy_status st = SY_OK;
    json_t *object, *uniform;
    char inside[2 * WHERE];
    snprintf(inside, sizeof inside, "%s.%s", where, key);
    SY_TRY(sy_report_object(in, where, key, &object));
    SY_TRY(sy_report_measures_read(object, inside, &out->is));
    SY_TRY(sy_report_object(object, inside, "uniform", &uniform));
    SY_TRY(sy_report_measures_read(uniform, inside, &out->uniform));
done:
    return st;
}

/* ---- layers ---- */

sy_status sy_report_read_load(sy_report *r,
                              const json_t *in,
                              const char *where,
                              const sy_report_layer *layer,
                              sy_report_load *out) {
    sy_status st = SY_OK;
    size_t n = (size_t)layer->n_slots;
    double *slot = calloc(n, sizeof *slot);
    if (slot == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a report");
    SY_TRY(sy_report_take(r, (uint64_t)layer->n_experts, sizeof(double), &out->expert));
    SY_TRY(sy_report_take(r, (uint64_t)r->n_ranks, sizeof(double), &out->rank));
    SY_TRY(sy_report_numbers(json_object_get(in, "counts"), where, "counts", n, slot));
    for (size_t i = 0; i < n; i++) {
        if (slot[i] != floor(slot[i]))
            SY_FAIL(SY_ERR_FORMAT, "%s.counts, entry %zu: %g is no whole number", where, i,
                    slot[i]);
        out->expert[layer->slot_expert[i]] += slot[i];
        out->rank[layer->slot_rank[i]] += slot[i];
        out->all += slot[i];
    }
    SY_TRY(read_balance(in, where, "expert_balance", &out->experts));
    SY_TRY(read_balance(in, where, "rank_balance", &out->ranks));
done:
    free(slot);
    return st;
}

static sy_status
read_pairs(sy_report *r, const json_t *in, const char *where, sy_report_layer *out) {
    sy_status st = SY_OK;
    json_t *array;
    SY_TRY(sy_report_array(in, where, "pairs", 0, MOST_PAIRS, &array));
    out->n_pairs = (int)json_array_size(array);
    SY_TRY(sy_report_take(r, (uint64_t)out->n_pairs, sizeof *out->pair, &out->pair));
    for (int i = 0; i < out->n_pairs; i++) {
        double x[4];
        SY_TRY(sy_report_numbers(json_array_get(array, (size_t)i), where, "pairs", 4, x));
        if (x[0] >= out->n_experts || x[1] >= out->n_experts)
            SY_FAIL(SY_ERR_FORMAT, "%s.pairs, entry %d: no such expert", where, i);
        out->pair[i] = (sy_report_pair){(int)x[0], (int)x[1], x[2], x[3]};
    }
done:
    return st;
}

static sy_status
read_layer(sy_report *r, const json_t *in, const char *where, sy_report_layer *out) {
    sy_status st = SY_OK;
    json_t *slots;
    if (!json_is_object(in)) SY_FAIL(SY_ERR_FORMAT, "%s: expected an object", where);
    SY_TRY(sy_report_int(in, where, "layer", 0, SY_REPORT_MAX_LAYERS - 1, &out->layer));
    SY_TRY(sy_report_int(in, where, "experts", 1, SY_REPORT_MAX_EXPERTS, &out->n_experts));
    SY_TRY(sy_report_int(in, where, "top_k", 1, out->n_experts, &out->top_k));
    size_t most = (size_t)out->n_experts * (size_t)r->n_ranks;
    SY_TRY(sy_report_array(in, where, "slot_rank", (size_t)out->n_experts, most, &slots));
    size_t n = json_array_size(slots);
    if (n > INT32_MAX) SY_FAIL(SY_ERR_FORMAT, "%s.slot_rank: too many slots", where);
    out->n_slots = (int)n;
    SY_TRY(sy_report_take(r, n, sizeof *out->slot_rank, &out->slot_rank));
    SY_TRY(sy_report_take(r, n, sizeof *out->slot_expert, &out->slot_expert));
    SY_TRY(sy_report_take(r, (uint64_t)out->n_experts, sizeof *out->home, &out->home));
    SY_TRY(sy_report_indices(in, where, "slot_rank", n, r->n_ranks, out->slot_rank));
    SY_TRY(sy_report_indices(in, where, "slot_expert", n, out->n_experts, out->slot_expert));
    for (int e = 0; e < out->n_experts; e++)
        out->home[e] = -1;
    for (size_t i = n; i-- > 0;)
        out->home[out->slot_expert[i]] = out->slot_rank[i];
    SY_TRY(sy_report_read_load(r, in, where, out, &out->load));
    SY_TRY(read_pairs(r, in, where, out));
done:
    return st;
}

static sy_status read_layers(sy_report *r) {
    sy_status st = SY_OK;
    json_t *array;
    char where[WHERE];
    SY_TRY(sy_report_array(r->root, "profile", "layers", 0, SY_REPORT_MAX_LAYERS, &array));
    r->n_layers = (int)json_array_size(array);
    SY_TRY(sy_report_take(r, (uint64_t)r->n_layers, sizeof *r->layer, &r->layer));
    for (int i = 0; i < r->n_layers; i++) {
        snprintf(where, sizeof where, "layers[%d]", i);
        SY_TRY(read_layer(r, json_array_get(array, (size_t)i), where, &r->layer[i]));
        if (i > 0 && r->layer[i].layer <= r->layer[i - 1].layer)
            SY_FAIL(SY_ERR_FORMAT, "%s.layer: layers have to ascend", where);
        if (r->layer[i].n_experts > r->most_experts) r->most_experts = r->layer[i].n_experts;
    }
    if ((int64_t)r->n_layers * r->most_experts > MOST_CELLS)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%d layers of %d experts are too many for a report",
                r->n_layers, r->most_experts);
done:
    return st;
}

/* ---- the run ---- */

static sy_status read_ranks(sy_report *r) {
    sy_status st = SY_OK;
    json_t *ranks, *hosts;
    SY_TRY(sy_report_array(r->root, "profile", "hosts", 1, SY_REPORT_MAX_RANKS, &hosts));
    r->n_hosts = (int)json_array_size(hosts);
    SY_TRY(sy_report_take(r, (uint64_t)r->n_hosts, sizeof *r->host_name, &r->host_name));
    for (int i = 0; i < r->n_hosts; i++) {
        json_t *name = json_array_get(hosts, (size_t)i);
        if (!json_is_string(name)) SY_FAIL(SY_ERR_FORMAT, "hosts[%d]: expected a string", i);
        r->host_name[i] = json_string_value(name);
    }
    ranks = json_object_get(r->root, "ranks");
    if (json_array_size(ranks) > SY_REPORT_MAX_RANKS)
        SY_FAIL(SY_ERR_UNSUPPORTED, "a report draws at most %d ranks, found %zu",
                SY_REPORT_MAX_RANKS, json_array_size(ranks));
    SY_TRY(sy_report_array(r->root, "profile", "ranks", 1, SY_REPORT_MAX_RANKS, &ranks));
    r->n_ranks = (int)json_array_size(ranks);
    SY_TRY(sy_report_take(r, (uint64_t)r->n_ranks, sizeof *r->host, &r->host));
    for (int i = 0; i < r->n_ranks; i++)
        SY_TRY(sy_report_int(json_array_get(ranks, (size_t)i), "ranks[]", "host", 0,
                             r->n_hosts - 1, &r->host[i]));
done:
    return st;
}

static sy_status read_run(sy_report *r) {
    sy_status st = SY_OK;
    json_t *model;
    int version;
    if (!json_is_object(r->root)) SY_FAIL(SY_ERR_FORMAT, "expected an object");
    SY_TRY(sy_report_int(r->root, "profile", "version", 0, INT32_MAX, &version));
    if (version != 1) SY_FAIL(SY_ERR_UNSUPPORTED, "version %d: only 1 is known", version);
    SY_TRY(sy_report_text(r->root, "profile", "switchyard", &r->program));
    SY_TRY(sy_report_text(r->root, "profile", "command", &r->command));
    SY_TRY(sy_report_text(r->root, "profile", "options", &r->options));
    SY_TRY(sy_report_text(r->root, "profile", "device", &r->device));
    SY_TRY(sy_report_int(r->root, "profile", "threads", 0, 65536, &r->threads));
    SY_TRY(sy_json_get_bool(r->root, "profile", "synchronised", &r->synchronised));
    SY_TRY(sy_report_number(r->root, "profile", "tokens", &r->tokens));
    SY_TRY(sy_report_number(r->root, "profile", "seconds", &r->seconds));
    SY_TRY(sy_report_object(r->root, "profile", "model", &model));
    SY_TRY(sy_report_text(model, "model", "name", &r->model));
    SY_TRY(sy_report_text(model, "model", "family", &r->family));
    SY_TRY(sy_report_int(model, "model", "layers", 0, 65536, &r->model_layers));
    SY_TRY(read_ranks(r));
done:
    return st;
}

static sy_status read_summary(sy_report *r) {
    sy_status st = SY_OK;
    json_t *balance, *ranks;
    SY_TRY(sy_report_object(r->root, "profile", "balance", &balance));
    SY_TRY(sy_report_object(balance, "balance", "ranks", &ranks));
    SY_TRY(sy_report_measures_read(ranks, "balance.ranks", &r->all_ranks));
    SY_TRY(sy_report_number(balance, "balance", "layerwise_balancedness",
                            &r->layerwise_balancedness));
done:
    return st;
}

sy_status sy_report_parse(const char *text, size_t size, const char *name, sy_report *r) {
    sy_status st = SY_OK;
    *r = (sy_report){0};
    SY_TRY(sy_json_parse(text, size, name, &r->root));
    st = read_run(r);
    if (st == SY_OK) st = read_layers(r);
    if (st == SY_OK) st = read_summary(r);
    if (st == SY_OK) st = sy_report_read_parts(r);
    if (st != SY_OK) sy_status_context("%s", name);
done:
    return st;
}

sy_status sy_report_load_file(const char *path, sy_report *r) {
    sy_status st = SY_OK;
    char *text = NULL;
    size_t size;
    *r = (sy_report){0};
    struct stat info;
    if (stat(path, &info) == 0 && (uint64_t)info.st_size > SY_REPORT_MAX_FILE)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: too large for a report: more than %d MB", path,
                (int)(SY_REPORT_MAX_FILE >> 20));
    SY_TRY(sy_read_file(path, SY_REPORT_MAX_FILE, &text, &size));
    SY_TRY(sy_report_parse(text, size, path, r));
done:
    free(text);
    return st;
}

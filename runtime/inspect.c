#include "runtime/inspect.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/tokenizer.h"
#include "topology/placement_file.h"

/* The number between `key` and a dot; -1 if there is none of at most six digits. */
static int number_after(const char *name, const char *key) {
    const char *at = strstr(name, key);
    if (at == NULL) return -1;
    at += strlen(key);
    size_t digits = strspn(at, "0123456789");
    if (digits == 0 || digits > 6 || at[digits] != '.') return -1;
    return (int)strtol(at, NULL, 10);
}

static bool has_any(const char *name, const char *const *words, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strstr(name, words[i]) != NULL) return true;
    return false;
}
#define HAS_ANY(name, ...)                                                                     \
    has_any((name), (const char *const[]){__VA_ARGS__},                                        \
            sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

/* Names of all families: transformers', Sarvam-30B's and Mistral's own. */
sy_part sy_part_of(const char *name, int *layer, int *expert) {
    *layer = number_after(name, "layers.");
    *expert = number_after(name, ".experts.");
    if (HAS_ANY(name, "norm.")) return SY_PART_NORMS;
    if (*layer < 0) {
        if (HAS_ANY(name, "embed_tokens.", "word_embeddings.", "tok_embeddings."))
            return SY_PART_EMBEDDING;
        return HAS_ANY(name, "lm_head.") || strncmp(name, "output.", 7) == 0 ? SY_PART_LM_HEAD
                                                                             : SY_PART_OTHER;
    }
    if (HAS_ANY(name, ".self_attn.", ".attention.")) return SY_PART_ATTENTION;
    if (HAS_ANY(name, ".experts.")) return SY_PART_ROUTED;
    if (HAS_ANY(name, ".shared_expert")) return SY_PART_SHARED;
    if (HAS_ANY(name, ".gate.", ".router.", "e_score_correction_bias")) return SY_PART_ROUTER;
    return HAS_ANY(name, ".mlp.", ".feed_forward.") ? SY_PART_DENSE_FFN : SY_PART_OTHER;
}

static void tally(sy_tally *t, uint64_t bytes) {
    t->tensors++;
    t->bytes += bytes;
}

/* While counting: what all ranks hold, per layer the bytes that every expert of it has, and those
 * of its experts together. Bytes of one expert alone go to its rank at once. */
typedef struct counting {
    sy_model_facts *facts;
    const sy_placement *placement;
    uint64_t replicated;
    uint64_t *each;   /* [n_layers] */
    uint64_t *routed; /* [n_layers] */
    sy_tensor_prefix prefix;
} counting;

/* Adds the bytes of one expert to each rank that holds it. */
static void count_expert(counting *c, int layer, int expert, uint64_t bytes) {
    const sy_placement_layer *p = &c->placement->layer[layer];
    for (int i = p->home_first[expert]; i < p->home_first[expert + 1]; i++)
        c->facts->rank_bytes[p->home[i].rank] += bytes;
}

/* The bytes of the fullest of n_ranks with contiguous experts, taken as equals. */
static uint64_t fullest_rank(const counting *c, int64_t n_ranks) {
    const sy_model_spec *spec = c->facts->spec;
    uint64_t most = 0;
    for (int64_t r = 0; r < n_ranks; r++) {
        uint64_t bytes = c->replicated;
        for (int l = 0; l < spec->n_layers; l++) {
            int64_t E = spec->layer[l].ffn.experts;
            if (E == 0) continue;
            bytes += (uint64_t)(E * (r + 1) / n_ranks - E * r / n_ranks) *
                     (c->routed[l] / (uint64_t)E);
        }
        if (bytes > most) most = bytes;
    }
    return most;
}

static void finish_ranks(const counting *c) {
    sy_model_facts *f = c->facts;
    for (int r = 0; r < f->n_ranks; r++) {
        f->rank_bytes[r] += c->replicated;
        for (int l = 0; l < f->spec->n_layers; l++) {
            const sy_placement_layer *p = &c->placement->layer[l];
            if (p->n_experts > 0)
                f->rank_bytes[r] += (uint64_t)sy_placement_slots(p, r) * c->each[l];
        }
    }
    for (int i = 0; i < SY_SPLIT_COUNT; i++) {
        f->split[i].ranks = 2 << i;
        f->split[i].bytes = fullest_rank(c, f->split[i].ranks);
    }
}

static uint64_t count_elements(const sy_tensor_entry *t) {
    return t->bytes * 8 / (uint64_t)sy_dtype_bits(t->dtype);
}

static void count_tensor(counting *c, const sy_tensor_entry *t) {
    sy_model_facts *f = c->facts;
    int layer, expert;
    sy_part part = sy_part_of(t->name, &layer, &expert);
    int experts =
        layer >= 0 && layer < f->spec->n_layers ? f->spec->layer[layer].ffn.experts : 0;
    bool fused =
        expert < 0 && t->rank > 0 && t->shape[0] == experts && experts > 0; /* [E, ..] */
    if (part == SY_PART_ROUTED && !fused && !(expert >= 0 && expert < experts))
        part = SY_PART_OTHER;
    if (layer >= f->spec->n_layers) part = SY_PART_OTHER; /* for predicting several tokens */
    tally(&f->part[part], t->bytes);
    tally(&f->dtype[t->dtype], t->bytes);
    tally(&f->all, t->bytes);
    f->elements += count_elements(t);
    sy_skip skip = sy_tensor_skip(f->spec, &c->prefix, t->name);
    tally(&f->skipped[skip], t->bytes);
    if (skip != SY_SKIP_NOT) return;
    if (part == SY_PART_ROUTED) c->routed[layer] += t->bytes;
    if (part != SY_PART_ROUTED)
        c->replicated += t->bytes;
    else if (fused)
        c->each[layer] += t->bytes / (uint64_t)experts;
    else
        count_expert(c, layer, expert, t->bytes);
}

static void count_files(counting *c, const sy_checkpoint *checkpoint) {
    sy_model_facts *f = c->facts;
    f->from_files = true;
    f->n_files = checkpoint->n_files;
    f->n_unlisted = checkpoint->n_unlisted;
    for (int i = 0; i < checkpoint->n_files; i++)
        f->file_bytes += checkpoint->file_bytes[i];
    const sy_tensor_names *names; /* of an unknown layout the parts are told by name alone */
    (void)sy_tensor_names_find(checkpoint, f->spec, &names, &c->prefix);
    for (int i = 0; i < checkpoint->n_tensors; i++)
        count_tensor(c, &checkpoint->tensor[i]);
}

/* Adds one shape; l: its layer, or -1. Bytes stay below 2^63: the parameters are capped. */
static void count_shape(counting *c, const sy_weight_shape *shape, int l) {
    sy_model_facts *f = c->facts;
    sy_shape_bytes one = sy_published_bytes(f->spec, shape);
    uint64_t n = (uint64_t)shape->count, bytes = n * (one.values + one.scales);
    f->part[shape->part].bytes += bytes;
    f->all.bytes += bytes;
    f->dtype[one.value_dtype].bytes += n * one.values;
    if (one.scales > 0) f->dtype[one.scale_dtype].bytes += n * one.scales;
    if (shape->part != SY_PART_ROUTED) {
        c->replicated += bytes;
        return;
    }
    c->routed[l] += bytes;
    c->each[l] += bytes / (uint64_t)f->spec->layer[l].ffn.experts;
}

static void count_shapes(counting *c) {
    const sy_model_spec *spec = c->facts->spec;
    sy_weight_shape shape[SY_LAYER_SHAPES_MAX];
    int n = sy_outer_shapes(spec, shape);
    for (int i = 0; i < n; i++)
        count_shape(c, &shape[i], -1);
    for (int l = 0; l < spec->n_layers; l++) {
        n = sy_layer_shapes(&spec->layer[l], spec->hidden, shape);
        for (int i = 0; i < n; i++)
            count_shape(c, &shape[i], l);
    }
    c->facts->elements = c->facts->params.total;
}

static uint64_t count_kv(const sy_model_spec *spec) {
    uint64_t bytes = 0;
    for (int l = 0; l < spec->n_layers; l++)
        bytes += 2 * (uint64_t)sy_attn_cache_width(&spec->layer[l].attn);
    return bytes;
}

/* Whether a directory has weights, or is a config with or without a tokenizer. */
static sy_status find_weights(const char *path, bool *out) {
    struct stat info;
    *out = false;
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode)) return SY_OK;
    DIR *directory = opendir(path);
    if (directory == NULL) return sy_fail(SY_ERR_IO, "%s: %s", path, strerror(errno));
    for (struct dirent *entry; !*out && (entry = readdir(directory)) != NULL;)
        *out = strstr(entry->d_name, ".safetensors") != NULL;
    closedir(directory);
    return SY_OK;
}

static sy_status place_experts(const sy_model_facts *f, const char *path, sy_placement **out) {
    sy_status st = SY_OK;
    int n = f->spec->n_layers, *experts = calloc((size_t)n, sizeof *experts);
    sy_placement_list *list = NULL;
    sy_placement_target target = {f->spec->family, n, experts, f->n_ranks};
    *out = NULL;
    if (experts == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    for (int l = 0; l < n; l++)
        experts[l] = f->spec->layer[l].ffn.experts;
    if (path == NULL) {
        st = sy_placement_contiguous(n, experts, f->n_ranks, out);
        goto done;
    }
    SY_TRY(sy_placement_read(path, SY_PLACEMENT_ANY, &list));
    SY_TRY(sy_placement_list_place(list, path, &target, out));
done:
    sy_placement_list_destroy(list);
    free(experts);
    return st;
}

static sy_status count(sy_model_facts *f, const char *path, const sy_placement *placement) {
    sy_status st = SY_OK;
    sy_checkpoint *checkpoint = NULL;
    bool has_weights;
    size_t n_layers = (size_t)f->spec->n_layers;
    counting c = {.facts = f,
                  .placement = placement,
                  .each = calloc(n_layers, sizeof *c.each),
                  .routed = calloc(n_layers, sizeof *c.routed)};
    if (c.each == NULL || c.routed == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for %zu layers", n_layers);
    sy_spec_count(f->spec, &f->params);
    f->kv_bytes = count_kv(f->spec);
    f->has_tokenizer = sy_tokenizer_file(path) != NULL;
    SY_TRY(find_weights(path, &has_weights));
    if (has_weights) {
        SY_TRY(sy_checkpoint_open(path, &checkpoint));
        count_files(&c, checkpoint);
    } else {
        count_shapes(&c);
    }
    finish_ranks(&c);
done:
    sy_checkpoint_close(checkpoint);
    free(c.each);
    free(c.routed);
    return st;
}

sy_status
sy_inspect(const char *path, int n_ranks, const char *placement, sy_model_facts **out) {
    sy_status st = SY_OK;
    sy_placement *placed = NULL;
    *out = NULL;
    sy_model_facts *f = calloc(1, sizeof *f);
    if (f == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a model's facts");
    if (n_ranks < 1) SY_FAIL(SY_ERR_USAGE, "expected at least 1 rank, found %d", n_ranks);
    f->n_ranks = n_ranks;
    f->placed = placement != NULL;
    f->rank_bytes = calloc((size_t)n_ranks, sizeof *f->rank_bytes);
    if (f->rank_bytes == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %d ranks", n_ranks);
    SY_TRY(sy_spec_load(path, &f->spec));
    SY_TRY(place_experts(f, placement, &placed));
    SY_TRY(count(f, path, placed));
    *out = f;
    f = NULL;
done:
    sy_placement_destroy(placed);
    sy_inspect_free(f);
    return st;
}

void sy_inspect_free(sy_model_facts *facts) {
    if (facts == NULL) return;
    sy_spec_destroy(facts->spec);
    free(facts->rank_bytes);
    free(facts);
}

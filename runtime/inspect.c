#include "runtime/inspect.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

const char *sy_part_name(sy_part part) {
    static const char *const names[] = {
#define X(name, text) text,
        SY_PART_LIST(X)
#undef X
    };
    return (unsigned)part < SY_PART_COUNT ? names[part] : "?";
}

/* The number between `key` and a dot; -1 if there is none of at most six digits. */
static int number_after(const char *name, const char *key) {
    const char *at = strstr(name, key);
    if (at == NULL) return -1;
    at += strlen(key);
    size_t digits = strspn(at, "0123456789");
    if (digits == 0 || digits > 6 || at[digits] != '.') return -1;
    return (int)strtol(at, NULL, 10);
}

sy_part sy_part_of(const char *name, int *layer, int *expert) {
    *layer = number_after(name, "layers.");
    *expert = number_after(name, ".experts.");
    if (strstr(name, "norm.") != NULL) return SY_PART_NORMS;
    if (*layer < 0) {
        if (strstr(name, "embed_tokens.") != NULL) return SY_PART_EMBEDDING;
        return strncmp(name, "lm_head.", 8) == 0 ? SY_PART_LM_HEAD : SY_PART_OTHER;
    }
    if (strstr(name, ".self_attn.") != NULL) return SY_PART_ATTENTION;
    if (strstr(name, ".experts.") != NULL) return SY_PART_ROUTED;
    if (strstr(name, ".shared_expert") != NULL) return SY_PART_SHARED;
    if (strstr(name, ".gate.") != NULL) return SY_PART_ROUTER;
    return strstr(name, ".mlp.") != NULL ? SY_PART_DENSE_FFN : SY_PART_OTHER;
}

static void tally(sy_tally *t, uint64_t bytes) {
    t->tensors++;
    t->bytes += bytes;
}

/* While counting: what all ranks hold, and per layer the bytes that every expert of it has.
 * Bytes of one expert alone go to its rank at once. */
typedef struct counting {
    sy_model_facts *facts;
    uint64_t replicated;
    uint64_t *each; /* [n_layers] */
} counting;

/* Experts are dealt out as in topology/placement.h: rank r has [E*r/R, E*(r+1)/R). */
static int64_t rank_of_expert(int64_t expert, int64_t n_experts, int64_t n_ranks) {
    return ((expert + 1) * n_ranks - 1) / n_experts;
}

static void finish_ranks(const counting *c) {
    sy_model_facts *f = c->facts;
    int64_t R = f->n_ranks;
    for (int64_t r = 0; r < R; r++) {
        f->rank_bytes[r] += c->replicated;
        for (int l = 0; l < f->spec->n_layers; l++) {
            int64_t E = f->spec->layer[l].ffn.experts;
            f->rank_bytes[r] += (uint64_t)(E * (r + 1) / R - E * r / R) * c->each[l];
        }
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
    tally(&f->part[part], t->bytes);
    tally(&f->dtype[t->dtype], t->bytes);
    tally(&f->all, t->bytes);
    f->elements += count_elements(t);
    if (part != SY_PART_ROUTED)
        c->replicated += t->bytes;
    else if (fused)
        c->each[layer] += t->bytes / (uint64_t)experts;
    else
        f->rank_bytes[rank_of_expert(expert, experts, f->n_ranks)] += t->bytes;
}

static void count_files(counting *c, const sy_checkpoint *checkpoint) {
    sy_model_facts *f = c->facts;
    f->from_files = true;
    f->n_files = checkpoint->n_files;
    f->n_unlisted = checkpoint->n_unlisted;
    for (int i = 0; i < checkpoint->n_files; i++)
        f->file_bytes += checkpoint->file_bytes[i];
    for (int i = 0; i < checkpoint->n_tensors; i++)
        count_tensor(c, &checkpoint->tensor[i]);
}

/* As if every weight were BF16. Bytes stay below 2^49: the loader caps the parameters. */
static void count_shapes(counting *c) {
    sy_model_facts *f = c->facts;
    const sy_param_counts *p = &f->params;
    const uint64_t elements[SY_PART_COUNT] = {
        [SY_PART_EMBEDDING] = p->embedding, [SY_PART_LM_HEAD] = p->lm_head,
        [SY_PART_ATTENTION] = p->attention, [SY_PART_DENSE_FFN] = p->dense_ffn,
        [SY_PART_ROUTER] = p->router,       [SY_PART_SHARED] = p->shared,
        [SY_PART_ROUTED] = p->routed,       [SY_PART_NORMS] = p->norms};
    for (int i = 0; i < SY_PART_COUNT; i++)
        f->part[i].bytes = 2 * elements[i];
    f->elements = p->total;
    f->all.bytes = f->dtype[SY_BF16].bytes = 2 * p->total;
    c->replicated = 2 * (p->total - p->routed);
    for (int l = 0; l < f->spec->n_layers; l++) {
        const sy_ffn_spec *ffn = &f->spec->layer[l].ffn;
        if (ffn->kind == SY_FFN_MOE) /* gate, up, down */
            c->each[l] = 2 * 3 * (uint64_t)ffn->inter * (uint64_t)f->spec->hidden;
    }
}

static uint64_t count_kv(const sy_model_spec *spec) {
    uint64_t bytes = 0;
    for (int l = 0; l < spec->n_layers; l++) {
        const sy_attn_spec *a = &spec->layer[l].attn;
        bytes += 4 * (uint64_t)a->kv_heads * (uint64_t)a->head_dim; /* k and v, 2 bytes each */
    }
    return bytes;
}

static sy_status find_tokenizer(const char *directory, bool *out) {
    struct stat info;
    size_t n = strlen(directory) + sizeof "/tokenizer.json";
    char *path = malloc(n);
    if (path == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a path");
    snprintf(path, n, "%s/tokenizer.json", directory);
    *out = stat(path, &info) == 0 && S_ISREG(info.st_mode);
    free(path);
    return SY_OK;
}

static sy_status count(sy_model_facts *f, const char *path) {
    sy_status st = SY_OK;
    sy_checkpoint *checkpoint = NULL;
    struct stat info;
    counting c = {.facts = f, .each = calloc((size_t)f->spec->n_layers, sizeof *c.each)};
    if (c.each == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %d layers", f->spec->n_layers);
    sy_spec_count(f->spec, &f->params);
    f->kv_bytes = count_kv(f->spec);
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        SY_TRY(sy_checkpoint_open(path, &checkpoint));
        SY_TRY(find_tokenizer(path, &f->has_tokenizer));
        count_files(&c, checkpoint);
    } else {
        count_shapes(&c);
    }
    finish_ranks(&c);
done:
    sy_checkpoint_close(checkpoint);
    free(c.each);
    return st;
}

sy_status sy_inspect(const char *path, int n_ranks, sy_model_facts **out) {
    sy_status st = SY_OK;
    *out = NULL;
    sy_model_facts *f = calloc(1, sizeof *f);
    if (f == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a model's facts");
    if (n_ranks < 1) SY_FAIL(SY_ERR_USAGE, "expected at least 1 rank, found %d", n_ranks);
    f->n_ranks = n_ranks;
    f->rank_bytes = calloc((size_t)n_ranks, sizeof *f->rank_bytes);
    if (f->rank_bytes == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %d ranks", n_ranks);
    SY_TRY(sy_spec_load(path, &f->spec));
    SY_TRY(count(f, path));
    *out = f;
    f = NULL;
done:
    sy_inspect_free(f);
    return st;
}

void sy_inspect_free(sy_model_facts *facts) {
    if (facts == NULL) return;
    sy_spec_destroy(facts->spec);
    free(facts->rank_bytes);
    free(facts);
}

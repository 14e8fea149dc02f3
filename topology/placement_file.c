#include "topology/placement_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "base/checked.h"
#include "base/new_file.h"
#include "topology/placement_yaml.h"

enum { MOST_LAYERS = 4096, MOST_RANKS = 4096, MOST_EXPERTS = 65536 };

void sy_placement_list_destroy(sy_placement_list *list) {
    if (list == NULL) return;
    for (int i = 0; i < list->n_layers; i++) {
        free(list->layer[i].n_slots);
        free(list->layer[i].slot);
    }
    free(list->layer);
    free(list);
}

/* ---- reading ---- */

/* The array member `key` of an object, of 1 to `most` values. */
static sy_status
get_array(const json_t *object, const char *where, const char *key, int most, json_t **out) {
    json_t *value = json_object_get(object, key);
    if (!json_is_array(value))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected an array, found %s", where, key,
                       sy_json_type_name(value));
    size_t n = json_array_size(value);
    if (n < 1 || n > (size_t)most)
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected 1 to %d values, found %zu", where,
                       key, most, n);
    *out = value;
    return SY_OK;
}

/* A required whole number. */
static sy_status get_number(const json_t *object,
                            const char *where,
                            const char *key,
                            int min,
                            int max,
                            int *out) {
    int64_t value = INT64_MIN;
    sy_status st = sy_json_get_int(object, where, key, min, max, &value);
    if (st != SY_OK) return st;
    if (value == INT64_MIN) return sy_fail(SY_ERR_FORMAT, "%s: \"%s\" is missing", where, key);
    *out = (int)value;
    return SY_OK;
}

/* Copies an array of experts to slot[]. */
static sy_status read_slots(const json_t *array, const char *where, int32_t *slot) {
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *value = json_array_get(array, i);
        int64_t expert;
        if (!sy_json_integral(value, &expert))
            return sy_fail(SY_ERR_FORMAT, "%s, slot %zu: expected an expert's number, found %s",
                           where, i, sy_json_type_name(value));
        if (expert < 0 || expert >= MOST_EXPERTS)
            return sy_fail(SY_ERR_FORMAT,
                           "%s, slot %zu: expected an expert from 0 to %d, "
                           "found %lld",
                           where, i, MOST_EXPERTS - 1, (long long)expert);
        slot[i] = (int32_t)expert;
    }
    return SY_OK;
}

static sy_status make_layers(sy_placement_list *list, size_t n) {
    list->layer = calloc(n, sizeof *list->layer);
    if (list->layer == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a placement");
    list->n_layers = (int)n;
    return SY_OK;
}

static sy_status read_our_layer(const json_t *object,
                                const char *name,
                                int index,
                                int n_ranks,
                                sy_placement_list_layer *out) {
    sy_status st = SY_OK;
    char where[512];
    json_t *slots = NULL;
    snprintf(where, sizeof where, "%s: layers[%d]", name, index);
    if (!json_is_object(object))
        SY_FAIL(SY_ERR_FORMAT, "%s: expected an object, found %s", where,
                sy_json_type_name(object));
    SY_TRY(get_number(object, where, "layer", 0, MOST_LAYERS - 1, &out->layer));
    snprintf(where, sizeof where, "%s, layer %d", name, out->layer);
    SY_TRY(get_number(object, where, "experts", 1, MOST_EXPERTS, &out->experts));
    SY_TRY(get_array(object, where, "slots", MOST_RANKS, &slots));
    if (json_array_size(slots) != (size_t)n_ranks)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"slots\": expected a list for each of %d ranks, found %zu",
                where, n_ranks, json_array_size(slots));
    out->n_slots = calloc((size_t)n_ranks, sizeof *out->n_slots);
    if (out->n_slots == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    for (int r = 0; r < n_ranks; r++) {
        const json_t *list = json_array_get(slots, (size_t)r);
        size_t n = json_array_size(list);
        if (!json_is_array(list) || n > (size_t)out->experts)
            SY_FAIL(SY_ERR_FORMAT, "%s, rank %d: expected a list of at most %d experts", where,
                    r, out->experts);
        out->n_slots[r] = (int32_t)n;
        out->n_all += (int)n;
    }
    out->slot = calloc((size_t)out->n_all + 1, sizeof *out->slot);
    if (out->slot == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    for (int r = 0, at = 0; r < n_ranks; at += out->n_slots[r++]) {
        snprintf(where, sizeof where, "%s, layer %d, rank %d", name, out->layer, r);
        SY_TRY(read_slots(json_array_get(slots, (size_t)r), where, out->slot + at));
    }
done:
    return st;
}

static sy_status read_ours(const json_t *root, const char *name, sy_placement_list *list) {
    sy_status st = SY_OK;
    const char *kind = NULL, *model = NULL;
    json_t *layers = NULL;
    int version;
    SY_TRY(sy_json_get_string(root, name, "kind", &kind));
    if (kind == NULL || strcmp(kind, "placement") != 0)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: not a placement: expected \"kind\": \"placement\", or the keys of another "
                "system (initial_global_assignments, physical_to_logical_map), found %.40s",
                name, kind != NULL ? sy_text_shown(kind) : "neither");
    SY_TRY(get_number(root, name, "version", 1, 1, &version));
    SY_TRY(sy_json_get_string(root, name, "model", &model));
    if (model != NULL && sy_text_has_control(model, strlen(model)))
        SY_FAIL(SY_ERR_FORMAT, "%s: \"model\": control characters", name);
    if (model != NULL && strlen(model) >= sizeof list->model)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"model\": longer than %zu bytes", name,
                sizeof list->model - 1);
    snprintf(list->model, sizeof list->model, "%s", model != NULL ? model : "");
    SY_TRY(get_number(root, name, "ranks", 1, MOST_RANKS, &list->n_ranks));
    SY_TRY(get_array(root, name, "layers", MOST_LAYERS, &layers));
    SY_TRY(make_layers(list, json_array_size(layers)));
    for (int i = 0; i < list->n_layers; i++) {
        SY_TRY(read_our_layer(json_array_get(layers, (size_t)i), name, i, list->n_ranks,
                              &list->layer[i]));
        if (i > 0 && list->layer[i].layer <= list->layer[i - 1].layer)
            SY_FAIL(SY_ERR_FORMAT, "%s: layer %d is listed behind layer %d", name,
                    list->layer[i].layer, list->layer[i - 1].layer);
    }
done:
    return st;
}

static sy_status read_sglang(const json_t *root, const char *name, sy_placement_list *list) {
    sy_status st = SY_OK;
    char where[512];
    json_t *rows = NULL;
    SY_TRY(get_array(root, name, "physical_to_logical_map", MOST_LAYERS, &rows));
    SY_TRY(make_layers(list, json_array_size(rows)));
    list->by_position = true;
    for (int i = 0; i < list->n_layers; i++) {
        const json_t *row = json_array_get(rows, (size_t)i);
        sy_placement_list_layer *layer = &list->layer[i];
        snprintf(where, sizeof where, "%s: physical_to_logical_map[%d]", name, i);
        if (!json_is_array(row) || json_array_size(row) == 0)
            SY_FAIL(SY_ERR_FORMAT, "%s: expected a list of experts, found %s", where,
                    json_is_array(row) ? "none" : sy_json_type_name(row));
        layer->layer = i;
        layer->n_all = (int)json_array_size(row); /* the file's size bounds it */
        layer->slot = calloc((size_t)layer->n_all, sizeof *layer->slot);
        if (layer->slot == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
        SY_TRY(read_slots(row, where, layer->slot));
    }
done:
    return st;
}

static bool mentions(const char *text, size_t size, const char *word) {
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= size; i++)
        if (text[i] == word[0] && memcmp(text + i, word, n) == 0) return true;
    return false;
}

static sy_placement_form form_of(const char *text, size_t size) {
    if (mentions(text, size, "physical_to_logical_map")) return SY_PLACEMENT_SGLANG;
    if (mentions(text, size, "initial_global_assignments")) return SY_PLACEMENT_TRTLLM;
    return SY_PLACEMENT_OURS;
}

sy_status sy_placement_parse(const char *text,
                             size_t size,
                             const char *name,
                             sy_placement_form form,
                             sy_placement_list **out) {
    sy_status st = SY_OK;
    json_t *root = NULL;
    sy_placement_list *list = calloc(1, sizeof *list);
    *out = NULL;
    if (list == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        size -= 3;
    }
    list->form = form == SY_PLACEMENT_ANY ? form_of(text, size) : form;
    if (list->form == SY_PLACEMENT_TRTLLM) {
        SY_TRY(sy_placement_yaml_parse(text, size, name, list));
    } else {
        SY_TRY(sy_json_parse(text, size, name, &root));
        if (!json_is_object(root))
            SY_FAIL(SY_ERR_FORMAT, "%s: expected an object, found %s", name,
                    sy_json_type_name(root));
        SY_TRY(list->form == SY_PLACEMENT_SGLANG ? read_sglang(root, name, list)
                                                 : read_ours(root, name, list));
    }
    *out = list;
    list = NULL;
done:
    json_decref(root);
    sy_placement_list_destroy(list);
    return st;
}

sy_status sy_placement_read(const char *path, sy_placement_form form, sy_placement_list **out) {
    char *text;
    size_t size;
    *out = NULL;
    sy_status st = sy_read_file(path, SY_PLACEMENT_FILE_MAX, &text, &size);
    if (st != SY_OK) return st;
    st = sy_placement_parse(text, size, path, form, out);
    free(text);
    return st;
}

/* ---- for a model ---- */

/* The layer of the model that an entry is for; -1: none (a row of a dense layer). */
static int model_layer(const sy_placement_list *list,
                       const sy_placement_target *target,
                       int index,
                       int n_moe) {
    const sy_placement_list_layer *entry = &list->layer[index];
    if (!list->by_position) return entry->layer;
    if (list->n_layers == target->n_layers) return target->experts[index] > 0 ? index : -1;
    /* One row for each MoE layer. */
    for (int l = 0, seen = 0; list->n_layers == n_moe && l < target->n_layers; l++)
        if (target->experts[l] > 0 && seen++ == index) return l;
    return -1;
}

/* Which ranks have which slots: as listed, or equal parts, in which an expert counts once. */
static sy_status share_out(const char *name,
                           const sy_placement_list_layer *entry,
                           int n_ranks,
                           int32_t *n_slots,
                           int32_t *slot) {
    if (entry->n_slots != NULL) {
        memcpy(n_slots, entry->n_slots, (size_t)n_ranks * sizeof *n_slots);
        memcpy(slot, entry->slot, (size_t)entry->n_all * sizeof *slot);
        return SY_OK;
    }
    if (entry->n_all % n_ranks != 0)
        return sy_fail(SY_ERR_FORMAT,
                       "%s, layer %d: %d slots cannot be shared out to %d ranks evenly", name,
                       entry->layer, entry->n_all, n_ranks);
    int each = entry->n_all / n_ranks, n = 0;
    for (int r = 0; r < n_ranks; r++) {
        int first = n;
        for (int i = r * each; i < (r + 1) * each; i++) {
            bool twice = false;
            for (int j = first; j < n && !twice; j++)
                twice = slot[j] == entry->slot[i];
            if (!twice) slot[n++] = entry->slot[i];
        }
        n_slots[r] = n - first;
    }
    return SY_OK;
}

static sy_status check_target(const sy_placement_list *list,
                              const char *name,
                              const sy_placement_target *t,
                              int *n_moe) {
    *n_moe = 0;
    for (int l = 0; l < t->n_layers; l++)
        *n_moe += t->experts[l] > 0;
    if (list->n_ranks > 0 && list->n_ranks != t->n_ranks)
        return sy_fail(SY_ERR_FORMAT, "%s: the placement is for %d ranks, here are %d", name,
                       list->n_ranks, t->n_ranks);
    if (list->model[0] != '\0' && t->model != NULL && strcmp(list->model, t->model) != 0)
        return sy_fail(SY_ERR_FORMAT, "%s: the placement is for a model \"%s\", this is \"%s\"",
                       name, list->model, t->model);
    if (list->by_position && list->n_layers != t->n_layers && list->n_layers != *n_moe)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: expected a row for each of %d layers, or of %d with experts, "
                       "found %d",
                       name, t->n_layers, *n_moe, list->n_layers);
    return SY_OK;
}

static sy_status check_layer(const char *name,
                             const sy_placement_list_layer *entry,
                             int l,
                             const sy_placement_target *t) {
    if (l >= t->n_layers)
        return sy_fail(SY_ERR_FORMAT, "%s: layer %d: the model has %d layers", name, l,
                       t->n_layers);
    if (t->experts[l] == 0)
        return sy_fail(SY_ERR_FORMAT, "%s: layer %d has no experts in this model", name, l);
    if (entry->experts > 0 && entry->experts != t->experts[l])
        return sy_fail(SY_ERR_FORMAT, "%s, layer %d: placed are %d experts, the model has %d",
                       name, l, entry->experts, t->experts[l]);
    return SY_OK;
}

sy_status sy_placement_list_place(const sy_placement_list *list,
                                  const char *name,
                                  const sy_placement_target *t,
                                  sy_placement **out) {
    sy_status st = SY_OK;
    size_t L = (size_t)t->n_layers, R = (size_t)t->n_ranks;
    int32_t **n_slots = calloc(L, sizeof *n_slots), **slot = calloc(L, sizeof *slot);
    int n_moe;
    *out = NULL;
    if (n_slots == NULL || slot == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    SY_TRY(check_target(list, name, t, &n_moe));
    for (int i = 0; i < list->n_layers; i++) {
        const sy_placement_list_layer *entry = &list->layer[i];
        int l = model_layer(list, t, i, n_moe);
        if (l < 0) continue;
        SY_TRY(check_layer(name, entry, l, t));
        n_slots[l] = calloc(R, sizeof **n_slots);
        slot[l] = calloc((size_t)entry->n_all + 1, sizeof **slot);
        if (n_slots[l] == NULL || slot[l] == NULL)
            SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
        SY_TRY(share_out(name, entry, t->n_ranks, n_slots[l], slot[l]));
    }
    for (int l = 0; l < t->n_layers; l++)
        if (t->experts[l] > 0 && n_slots[l] == NULL)
            SY_FAIL(SY_ERR_FORMAT, "%s: layer %d, which has %d experts, is not listed", name, l,
                    t->experts[l]);
    st = sy_placement_from_slots(t->n_layers, t->experts, t->n_ranks,
                                 (const int32_t *const *)n_slots, (const int32_t *const *)slot,
                                 out);
    if (st != SY_OK) sy_status_context("%s", name);
done:
    for (size_t l = 0; l < L; l++) {
        if (n_slots != NULL) free(n_slots[l]);
        if (slot != NULL) free(slot[l]);
    }
    free(n_slots);
    free(slot);
    return st;
}

sy_status sy_placement_list_shape(const sy_placement_list *list, int *n_layers, int **experts) {
    int n = list->layer[list->n_layers - 1].layer + 1;
    int *e = calloc((size_t)n, sizeof *e);
    *experts = NULL;
    if (e == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a placement");
    for (int i = 0; i < list->n_layers; i++) {
        const sy_placement_list_layer *entry = &list->layer[i];
        int *mine = &e[entry->layer];
        *mine = entry->experts;
        for (int s = 0; entry->experts == 0 && s < entry->n_all; s++)
            *mine = (int)sy_max(*mine, entry->slot[s] + 1);
    }
    *n_layers = n;
    *experts = e;
    return SY_OK;
}

/* ---- writing ---- */

static void write_list(FILE *f, const int32_t *slot, int n) {
    fputc('[', f);
    for (int i = 0; i < n; i++)
        fprintf(f, "%s%d", i == 0 ? "" : ", ", slot[i]);
    fputc(']', f);
}

static void write_our_layer(FILE *f, const sy_placement_layer *p, int index) {
    fprintf(f, "  {\"layer\": %d, \"experts\": %d, \"slots\": [", index, p->n_experts);
    for (int r = 0; r < p->n_ranks; r++) {
        if (r > 0) fputs(", ", f);
        write_list(f, p->slot_expert + p->slot_first[r], sy_placement_slots(p, r));
    }
    fputs("]}", f);
}

static void write_ours(FILE *f, const sy_placement *p, const char *model, int n_ranks) {
    json_t *text = json_string(model != NULL ? model : "");
    char *quoted = text != NULL ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
    fprintf(f, "{\"kind\": \"placement\", \"version\": 1, \"model\": %s, \"ranks\": %d,\n",
            quoted != NULL ? quoted : "\"\"", n_ranks);
    fputs(" \"layers\": [\n", f);
    bool first = true;
    for (int l = 0; l < p->n_layers; l++) {
        if (p->layer[l].n_experts == 0) continue;
        if (!first) fputs(",\n", f);
        first = false;
        write_our_layer(f, &p->layer[l], l);
    }
    fputs("\n]}\n", f);
    free(quoted);
    json_decref(text);
}

static void write_trtllm(FILE *f, const sy_placement *p, int n_all) {
    fputs("initial_global_assignments:\n", f);
    for (int l = 0; l < p->n_layers; l++) {
        if (p->layer[l].n_experts == 0) continue;
        fprintf(f, "  %d: ", l);
        write_list(f, p->layer[l].slot_expert, n_all);
        fputc('\n', f);
    }
    fprintf(f, "layer_updates_per_iter: 0\nnum_slots: %d\n", n_all);
}

/* A row for every layer, since rows have no numbers; those of dense layers are never looked at and
 * are like that of the first layer with experts. */
static void write_sglang(FILE *f, const sy_placement *p, int n_all) {
    const sy_placement_layer *some = p->layer;
    while (some->n_experts == 0)
        some++;
    fputs("{\"physical_to_logical_map\": [\n", f);
    for (int l = 0; l < p->n_layers; l++) {
        const sy_placement_layer *layer = p->layer[l].n_experts > 0 ? &p->layer[l] : some;
        fputs(l == 0 ? "  " : ",\n  ", f);
        write_list(f, layer->slot_expert, n_all);
    }
    fputs("\n]}\n", f);
}

/* The slots of a layer, if they are equally many on all ranks of all layers. */
static sy_status equal_slots(const sy_placement *p, int *out) {
    int each = -1;
    for (int l = 0; l < p->n_layers; l++) {
        const sy_placement_layer *layer = &p->layer[l];
        for (int r = 0; layer->n_experts > 0 && r < layer->n_ranks; r++) {
            int n = sy_placement_slots(layer, r);
            if (each < 0) each = n;
            if (n != each)
                return sy_fail(SY_ERR_USAGE,
                               "this format needs equally many slots on every rank and layer: "
                               "layer %d, rank %d has %d, expected %d (place --slots with room "
                               "for copies fills them)",
                               l, r, n, each);
            *out = each * layer->n_ranks;
        }
    }
    return SY_OK;
}

sy_status sy_placement_write(const sy_placement *p,
                             const char *model,
                             sy_placement_form form,
                             const char *path) {
    sy_status st = SY_OK;
    int n_ranks = 0, n_all = 0;
    sy_new_file file = {0};
    for (int l = 0; l < p->n_layers; l++)
        if (p->layer[l].n_experts > 0) n_ranks = p->layer[l].n_ranks;
    if (n_ranks == 0) SY_FAIL(SY_ERR_USAGE, "a placement without experts cannot be written");
    if (form != SY_PLACEMENT_OURS) SY_TRY(equal_slots(p, &n_all));
    SY_TRY(sy_new_file_open_path(path, &file));
    FILE *f = file.f;
    if (form == SY_PLACEMENT_TRTLLM)
        write_trtllm(f, p, n_all);
    else if (form == SY_PLACEMENT_SGLANG)
        write_sglang(f, p, n_all);
    else
        write_ours(f, p, model, n_ranks);
    if (ftello(f) > (off_t)SY_PLACEMENT_FILE_MAX)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: the placement is longer than %d MiB, the most that is read", path,
                (int)(SY_PLACEMENT_FILE_MAX >> 20));
done:
    return sy_new_file_close(&file, st);
}

#include "runtime/spec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "runtime/spec_config.h"

sy_status sy_spec_add_eos(sy_model_spec *spec, int64_t id, const char *where) {
    int at = 0;
    if (id < 0 || id >= spec->vocab)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: expected an end token within the vocabulary, 0 to %d, found %lld",
                       where, spec->vocab - 1, (long long)id);
    while (at < spec->n_eos && spec->eos[at] < id)
        at++;
    if (at < spec->n_eos && spec->eos[at] == id) return SY_OK;
    if (spec->n_eos == SY_MAX_EOS)
        return sy_fail(SY_ERR_FORMAT, "%s: expected at most %d end tokens, found more", where,
                       SY_MAX_EOS);
    memmove(&spec->eos[at + 1], &spec->eos[at],
            (size_t)(spec->n_eos - at) * sizeof spec->eos[0]);
    spec->eos[at] = (int32_t)id;
    spec->n_eos++;
    return SY_OK;
}

sy_status sy_spec_read_eos(sy_model_spec *spec, const json_t *object, const char *where) {
    const json_t *value = json_object_get(object, "eos_token_id");
    if (value == NULL || json_is_null(value)) return SY_OK;
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        int64_t id;
        if (!sy_json_integral(item, &id))
            return sy_fail(SY_ERR_FORMAT,
                           "%s: \"eos_token_id\": expected a whole number or a list of them, "
                           "found %s",
                           where, sy_json_type_name(item));
        sy_status st = sy_spec_add_eos(spec, id, where);
        if (st != SY_OK) return st;
    }
    return SY_OK;
}

sy_status sy_spec_read_bos(sy_model_spec *spec, const json_t *object, const char *where) {
    int64_t bos = -1;
    if (spec->bos >= 0) return SY_OK;
    sy_status st = sy_json_get_int(object, where, "bos_token_id", 0, spec->vocab - 1, &bos);
    spec->bos = (int32_t)bos;
    return st;
}

/* A number from low to high; left as it is if absent. */
static sy_status read_bounded(const json_t *object,
                              const char *where,
                              const char *key,
                              double low,
                              double high,
                              double *out) {
    double value = low;
    if (json_is_null(json_object_get(object, key)) || !json_object_get(object, key))
        return SY_OK;
    sy_status st = sy_json_get_real(object, where, key, &value);
    if (st != SY_OK) return st;
    if (!(value >= low && value <= high))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected %g to %g, found %g", where, key,
                       low, high, value);
    *out = value;
    return SY_OK;
}

sy_status
sy_spec_read_generation(sy_model_spec *spec, const json_t *object, const char *where) {
    sy_status st = SY_OK;
    sy_sampling_defaults *s = &spec->sampling;
    bool do_sample = false;
    if (!json_is_object(object))
        SY_FAIL(SY_ERR_FORMAT, "%s: expected an object, found %s", where,
                sy_json_type_name(object));
    SY_TRY(sy_spec_read_eos(spec, object, where));
    SY_TRY(sy_spec_read_bos(spec, object, where));
    SY_TRY(read_bounded(object, where, "temperature", 0, 1e6, &s->temperature));
    SY_TRY(read_bounded(object, where, "top_p", 0, 1, &s->top_p));
    SY_TRY(read_bounded(object, where, "min_p", 0, 1, &s->min_p));
    SY_TRY(sy_json_get_int(object, where, "top_k", -1, INT32_MAX, &s->top_k));
    SY_TRY(sy_json_get_bool(object, where, "do_sample", &do_sample));
    if (json_is_boolean(json_object_get(object, "do_sample"))) s->do_sample = do_sample;
done:
    return st;
}

/* The id in added_tokens_decoder, {"2": {"content": "</s>", ...}, ...}; -1 if it is not there. */
static int64_t find_added_token(const json_t *object, const char *content) {
    const json_t *table = json_object_get(object, "added_tokens_decoder");
    for (void *it = json_object_iter((json_t *)(uintptr_t)table); it != NULL;
         it = json_object_iter_next((json_t *)(uintptr_t)table, it)) {
        const json_t *token = json_object_get(json_object_iter_value(it), "content");
        const char *key = json_object_iter_key(it);
        size_t digits = strspn(key, "0123456789");
        if (!json_is_string(token) || strcmp(json_string_value(token), content) != 0) continue;
        if (digits > 0 && digits < 10 && key[digits] == '\0') return strtol(key, NULL, 10);
    }
    return -1;
}

sy_status
sy_spec_read_tokenizer_config(sy_model_spec *spec, const json_t *object, const char *where) {
    if (!json_is_object(object))
        return sy_fail(SY_ERR_FORMAT, "%s: expected an object, found %s", where,
                       sy_json_type_name(object));
    const json_t *token = json_object_get(object, "eos_token");
    if (json_is_object(token)) token = json_object_get(token, "content");
    if (token == NULL || json_is_null(token)) return SY_OK;
    if (!json_is_string(token))
        return sy_fail(SY_ERR_FORMAT, "%s: \"eos_token\": expected a string, found %s", where,
                       sy_json_type_name(token));
    const char *content = json_string_value(token);
    int64_t id = find_added_token(object, content);
    if (id >= 0) return sy_spec_add_eos(spec, id, where);
    if (json_string_length(token) >= sizeof spec->eos_token)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: \"eos_token\": expected at most %zu bytes, found %zu", where,
                       sizeof spec->eos_token - 1, json_string_length(token));
    snprintf(spec->eos_token, sizeof spec->eos_token, "%s", content);
    return SY_OK;
}

static sy_status create(const json_t *config, const char *where, sy_model_spec **out) {
    sy_model_spec *spec = calloc(1, sizeof *spec);
    *out = NULL;
    if (spec == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a model's description");
    spec->bos = -1;
    spec->sampling = (sy_sampling_defaults){-1, -1, -1, -1, -1};
    sy_status st = sy_is_params_json(config) ? sy_params_read(config, where, spec)
                                             : sy_family_read(config, where, spec);
    if (st != SY_OK) {
        sy_spec_destroy(spec);
        return st;
    }
    *out = spec;
    return SY_OK;
}

sy_status sy_spec_parse(const char *text, size_t size, const char *name, sy_model_spec **out) {
    json_t *config = NULL;
    *out = NULL;
    sy_status st = sy_json_parse(text, size, name, &config);
    if (st == SY_OK) st = create(config, name, out);
    json_decref(config);
    return st;
}

static char *join(const char *directory, const char *file) {
    size_t n = strlen(directory) + strlen(file) + 2;
    char *path = malloc(n);
    if (path != NULL) snprintf(path, n, "%s/%s", directory, file);
    return path;
}

/* Loads directory/file; *out is NULL if an optional file is not there. */
static sy_status
load_json(const char *directory, const char *file, bool optional, json_t **out, char **path) {
    struct stat info;
    *out = NULL;
    *path = join(directory, file);
    if (*path == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a path");
    if (optional && stat(*path, &info) != 0 && errno == ENOENT) return SY_OK;
    return sy_json_load(*path, SY_JSON_MAX_CONFIG, out);
}

/* config.json; Mistral's params.json where there is only that. */
static sy_status load_config(const char *directory, json_t **out, char **path) {
    sy_status st = load_json(directory, "config.json", true, out, path);
    if (st != SY_OK || *out != NULL) return st;
    free(*path);
    st = load_json(directory, "params.json", true, out, path);
    if (st == SY_OK && *out == NULL)
        st = sy_fail(SY_ERR_IO, "%s: expected a config.json or a params.json, found neither",
                     directory);
    return st;
}

static sy_status load_directory(const char *directory, sy_model_spec **out) {
    static const struct {
        const char *file;
        sy_status (*read)(sy_model_spec *, const json_t *, const char *);
    } more[] = {{"hf_quant_config.json", sy_spec_read_hf_quant},
                {"generation_config.json", sy_spec_read_generation},
                {"tokenizer_config.json", sy_spec_read_tokenizer_config}};
    sy_status st = SY_OK;
    sy_model_spec *spec = NULL;
    json_t *object = NULL;
    char *path = NULL;
    SY_TRY(load_config(directory, &object, &path));
    SY_TRY(create(object, path, &spec));
    for (int i = 0; i < 3; i++) {
        json_decref(object);
        free(path);
        SY_TRY(load_json(directory, more[i].file, true, &object, &path));
        if (object != NULL) SY_TRY(more[i].read(spec, object, path));
    }
    *out = spec;
    spec = NULL;
done:
    json_decref(object);
    free(path);
    sy_spec_destroy(spec);
    return st;
}

sy_status sy_spec_load(const char *path, sy_model_spec **out) {
    struct stat info;
    *out = NULL;
    if (stat(path, &info) != 0) return sy_fail(SY_ERR_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) return load_directory(path, out);
    json_t *config = NULL;
    sy_status st = sy_json_load(path, SY_JSON_MAX_CONFIG, &config);
    if (st == SY_OK) st = create(config, path, out);
    json_decref(config);
    return st;
}

void sy_spec_destroy(sy_model_spec *spec) {
    if (spec == NULL) return;
    free(spec->layer);
    free(spec);
}

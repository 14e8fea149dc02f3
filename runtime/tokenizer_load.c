/* Which of a directory's files holds the tokenizer, and what its configuration adds. */
#include "runtime/tokenizer_read.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { MAX_PATH = 4096 };

/* ---- BOS ---- */

sy_status sy_read_bos(const json_t *config, sy_tokenizer *t) {
    sy_status st = SY_OK;
    bool add = false;
    t->bos = t->before.n > 0 ? t->before.id[0] : -1;
    if (config == NULL || t->bos >= 0) goto done;
    SY_TRY(sy_json_get_bool(config, "tokenizer_config.json", "add_bos_token", &add));
    const json_t *token = json_object_get(config, "bos_token");
    if (json_is_object(token)) token = json_object_get(token, "content");
    if (!add || token == NULL || json_is_null(token)) goto done;
    if (!json_is_string(token))
        SY_FAIL(SY_ERR_FORMAT,
                "tokenizer_config.json: \"bos_token\": expected a string, found %s",
                sy_json_type_name(token));
    t->bos = sy_tokenizer_token_id(t, json_string_value(token), json_string_length(token));
    if (t->bos < 0)
        SY_FAIL(SY_ERR_FORMAT, "tokenizer_config.json: \"bos_token\" \"%.100s\" is not a token",
                json_string_value(token));
    SY_TRY(sy_ids_append(&t->before, t->bos));
done:
    return st;
}

/* ---- the directory ---- */

/* The first that is there is read. */
static const char *const file_names[] = {"tokenizer.json", "tekken.json", "tiktoken.model"};

static sy_status join(char *out, size_t size, const char *directory, const char *name) {
    int n = snprintf(out, size, "%s/%s", directory, name);
    if (n >= 0 && (size_t)n < size) return SY_OK;
    return sy_fail(SY_ERR_IO, "%.100s...: the path is too long", directory);
}

static bool is_there(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

const char *sy_tokenizer_file(const char *directory) {
    char path[MAX_PATH];
    for (size_t i = 0; i < sizeof file_names / sizeof *file_names; i++)
        if (join(path, sizeof path, directory, file_names[i]) == SY_OK && is_there(path))
            return file_names[i];
    return NULL;
}

static sy_status
load_json(const char *path, const json_t *config, int64_t max_id, sy_tokenizer **out) {
    json_t *root = NULL;
    sy_status st = sy_json_load(path, SY_JSON_MAX_TOKENIZER, &root);
    if (st != SY_OK) return st;
    st = sy_tokenizer_from_json(root, config, max_id, out);
    if (st != SY_OK) sy_status_context("%s", path);
    json_decref(root);
    return st;
}

/* The two formats that are read as text. */
static sy_status load_ranks(const char *path,
                            bool tekken,
                            const json_t *config,
                            int64_t max_id,
                            sy_tokenizer **out) {
    char *text = NULL;
    size_t size = 0;
    sy_status st = sy_read_file(path, SY_JSON_MAX_TOKENIZER, &text, &size);
    if (st != SY_OK) return st;
    st = tekken ? sy_tokenizer_from_tekken(text, size, max_id, out)
                : sy_tokenizer_from_tiktoken(text, size, config, max_id, out);
    if (st != SY_OK) sy_status_context("%s", path);
    free(text);
    return st;
}

sy_status sy_tokenizer_load(const char *directory, int64_t max_id, sy_tokenizer **out) {
    sy_status st = SY_OK;
    char path[MAX_PATH], config_path[MAX_PATH];
    json_t *config = NULL;
    *out = NULL;
    SY_TRY(join(config_path, sizeof config_path, directory, "tokenizer_config.json"));
    const char *name = sy_tokenizer_file(directory);
    if (name == NULL)
        SY_FAIL(SY_ERR_IO, "%s: there is no tokenizer.json, tekken.json or tiktoken.model",
                directory);
    SY_TRY(join(path, sizeof path, directory, name));
    if (is_there(config_path)) SY_TRY(sy_json_load(config_path, SY_JSON_MAX_CONFIG, &config));
    if (name == file_names[0]) {
        SY_TRY(load_json(path, config, max_id, out));
    } else {
        SY_TRY(load_ranks(path, name == file_names[1], config, max_id, out));
    }
done:
    json_decref(config);
    return st;
}

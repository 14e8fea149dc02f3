/* switchyard tokenize MODEL: JSON strings in, JSON id arrays out, or the other way; one a line. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "launcher/commands.h"
#include "launcher/output.h"
#include "runtime/tokenizer.h"

#define MAX_LINE ((size_t)256 << 20)

/* A line as a JSON value. Unlike in the files of a checkpoint, NUL in a string is fine. */
static sy_status parse_line(const char *line, size_t size, const char *expected, json_t **out) {
    json_error_t error;
    *out = json_loadb(line, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (*out != NULL) return SY_OK;
    return sy_fail(SY_ERR_FORMAT, "expected %s: column %d: %s", expected, error.column,
                   error.text);
}

static sy_status
encode_line(const sy_tokenizer *t, const char *line, size_t size, bool special, sy_text *out) {
    static const char expected[] = "a JSON string";
    sy_status st = SY_OK;
    json_t *value = NULL;
    sy_ids ids = {0};
    SY_TRY(parse_line(line, size, expected, &value));
    if (!json_is_string(value))
        SY_FAIL(SY_ERR_FORMAT, "expected %s, found %s", expected, sy_json_type_name(value));
    SY_TRY(sy_tokenizer_encode(t, json_string_value(value), json_string_length(value),
                               special ? SY_ENCODE_ADD_SPECIAL : SY_ENCODE_PLAIN, &ids));
    SY_TRY(sy_text_append(out, "[", 1));
    for (size_t i = 0; i < ids.n; i++) {
        char number[16];
        int n = snprintf(number, sizeof number, "%s%" PRId32, i > 0 ? ", " : "", ids.id[i]);
        SY_TRY(sy_text_append(out, number, (size_t)n));
    }
    SY_TRY(sy_text_append(out, "]\n", 2));
done:
    sy_ids_free(&ids);
    json_decref(value);
    return st;
}

static sy_status read_ids(const json_t *array, const sy_tokenizer *t, sy_ids *ids) {
    sy_status st = SY_OK;
    size_t i;
    json_t *item;
    int64_t end = sy_tokenizer_n_ids(t);
    json_array_foreach(array, i, item) {
        if (!json_is_integer(item) || json_integer_value(item) < 0 ||
            json_integer_value(item) >= end)
            SY_FAIL(SY_ERR_FORMAT, "entry %zu: expected an id from 0 to %" PRId64, i, end - 1);
        SY_TRY(sy_ids_append(ids, (int32_t)json_integer_value(item)));
    }
done:
    return st;
}

static sy_status
decode_line(const sy_tokenizer *t, const char *line, size_t size, bool special, sy_text *out) {
    static const char expected[] = "a JSON array of ids";
    sy_status st = SY_OK;
    json_t *value = NULL, *string = NULL;
    char *json = NULL;
    sy_ids ids = {0};
    sy_text text = {0};
    SY_TRY(parse_line(line, size, expected, &value));
    if (!json_is_array(value))
        SY_FAIL(SY_ERR_FORMAT, "expected %s, found %s", expected, sy_json_type_name(value));
    SY_TRY(read_ids(value, t, &ids));
    SY_TRY(sy_tokenizer_decode(t, ids.id, ids.n, !special, &text));
    string = json_stringn(text.n > 0 ? text.data : "", text.n);
    json = string != NULL ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    if (json == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a text of %zu bytes", text.n);
    SY_TRY(sy_text_append(out, json, strlen(json))); /* control characters are escaped */
    SY_TRY(sy_text_append(out, "\n", 1));
done:
    free(json);
    json_decref(string);
    json_decref(value);
    sy_ids_free(&ids);
    sy_text_free(&text);
    return st;
}

sy_status sy_cmd_tokenize(const sy_options *options) {
    sy_status st = SY_OK;
    sy_tokenizer *t = NULL;
    char *line = NULL;
    size_t size;
    sy_text out = {0};
    SY_TRY(sy_tokenizer_load(options->model, 0, &t));
    for (int64_t number = 1;; number++) {
        if (sy_interrupted()) SY_FAIL(SY_ERR_INTERRUPTED, "interrupted");
        SY_TRY(sy_in_read_line(MAX_LINE, &line, &size));
        if (line == NULL) break;
        out.n = 0;
        st = options->decode ? decode_line(t, line, size, options->special, &out)
                             : encode_line(t, line, size, options->special, &out);
        if (st != SY_OK) {
            sy_status_context("stdin, line %" PRId64, number);
            goto done;
        }
        SY_TRY(sy_out_write(out.data, out.n));
        free(line);
        line = NULL;
    }
    SY_TRY(sy_out_flush());
done:
    free(line);
    sy_text_free(&out);
    sy_tokenizer_destroy(t);
    return st;
}

#include "launcher/prompts.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "launcher/output.h"

#define MAX_PROMPT_BYTES ((uint64_t)64 << 20)

static sy_status add(sy_prompts *p, sy_prompt **out) {
    sy_prompt *grown = realloc(p->prompt, (size_t)(p->n + 1) * sizeof *grown);
    if (grown == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the prompts");
    p->prompt = grown;
    *out = &p->prompt[p->n++];
    **out = (sy_prompt){0};
    return SY_OK;
}

/* Takes ownership of text, also on failure. */
static sy_status add_text(sy_prompts *p, char *text, size_t n) {
    sy_prompt *prompt = NULL;
    sy_status st = add(p, &prompt);
    if (st != SY_OK) {
        free(text);
        return st;
    }
    prompt->text = text;
    prompt->n_text = n;
    return SY_OK;
}

static sy_status copy_text(sy_prompts *p, const char *text, size_t n) {
    char *copy = malloc(n + 1);
    if (copy == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the prompts");
    memcpy(copy, text, n);
    copy[n] = '\0';
    return add_text(p, copy, n);
}

/* All of a file, or of stdin for "-". The caller frees. */
static sy_status read_source(const char *path, char **out, size_t *n) {
    if (strcmp(path, "-") == 0) return sy_in_read_all((size_t)MAX_PROMPT_BYTES, out, n);
    return sy_read_file(path, MAX_PROMPT_BYTES, out, n);
}

static bool is_blank(const char *line, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return false;
    return true;
}

/* One JSON string a line; empty lines are skipped. */
static sy_status read_list(const char *path, sy_prompts *p) {
    sy_status st = SY_OK;
    char *data = NULL;
    size_t size;
    json_t *value = NULL;
    SY_TRY(read_source(path, &data, &size));
    int line = 0;
    size_t mark = size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0; /* of byte order */
    for (size_t at = mark; at < size;) {
        const char *end = memchr(data + at, '\n', size - at);
        size_t n = end == NULL ? size - at : (size_t)(end - (data + at));
        line++;
        if (!is_blank(data + at, n)) {
            char where[512];
            snprintf(where, sizeof where, "%.400s, line %d", path, line);
            SY_TRY(sy_json_parse(data + at, n, where, &value));
            if (!json_is_string(value))
                SY_FAIL(SY_ERR_FORMAT, "%s: expected a JSON string, found %s", where,
                        sy_json_type_name(value));
            SY_TRY(copy_text(p, json_string_value(value), json_string_length(value)));
            json_decref(value);
            value = NULL;
        }
        at += n + 1;
    }
    if (p->n == 0) SY_FAIL(SY_ERR_FORMAT, "%s: holds no prompts", path);
done:
    json_decref(value);
    free(data);
    return st;
}

static sy_status read_ids(const char *text, int vocab, sy_prompts *p) {
    sy_status st = SY_OK;
    int64_t *id = NULL, n = 0;
    sy_prompt *prompt = NULL;
    SY_TRY(sy_parse_int_list(text, "--ids", 0, vocab - 1, &id, &n));
    SY_TRY(add(p, &prompt));
    for (int64_t i = 0; i < n; i++)
        SY_TRY(sy_ids_append(&prompt->ids, (int32_t)id[i]));
done:
    free(id);
    return st;
}

static sy_status read_stdin(sy_prompts *p) {
    char *text;
    size_t n;
    sy_status st = sy_in_read_all((size_t)MAX_PROMPT_BYTES, &text, &n);
    if (st != SY_OK) return st;
    /* The newline that ends what was typed or piped is not part of the prompt. */
    if (n > 0 && text[n - 1] == '\n') n--;
    return add_text(p, text, n);
}

static sy_status read_texts(const sy_options *o, sy_prompts *p) {
    char *text;
    size_t n;
    if (o->prompts_file != NULL) return read_list(o->prompts_file, p);
    if (o->prompt != NULL) return copy_text(p, o->prompt, strlen(o->prompt));
    if (o->prompt_file == NULL || strcmp(o->prompt_file, "-") == 0) return read_stdin(p);
    sy_status st = sy_read_file(o->prompt_file, MAX_PROMPT_BYTES, &text, &n);
    return st == SY_OK ? add_text(p, text, n) : st;
}

sy_status sy_prompts_read(const sy_options *o,
                          const sy_tokenizer *tokenizer,
                          int vocab,
                          sy_prompts *out) {
    sy_status st = SY_OK;
    *out = (sy_prompts){0};
    if (o->ids != NULL) {
        SY_TRY(read_ids(o->ids, vocab, out));
        goto done;
    }
    if (tokenizer == NULL)
        SY_FAIL(SY_ERR_USAGE, "%s has no tokenizer: give the prompt as --ids \"1 2 3\"",
                o->model);
    SY_TRY(read_texts(o, out));
    for (int i = 0; i < out->n; i++) {
        sy_prompt *p = &out->prompt[i];
        SY_TRY(
            sy_tokenizer_encode(tokenizer, p->text, p->n_text, SY_ENCODE_ADD_SPECIAL, &p->ids));
        if (p->ids.n == 0)
            SY_FAIL(SY_ERR_USAGE,
                    "prompt %d is empty, and this model has no token that begins "
                    "a text",
                    i + 1);
    }
done:
    if (st != SY_OK) sy_prompts_free(out);
    return st;
}

void sy_prompts_free(sy_prompts *p) {
    for (int i = 0; i < p->n; i++) {
        free(p->prompt[i].text);
        sy_ids_free(&p->prompt[i].ids);
    }
    free(p->prompt);
    *p = (sy_prompts){0};
}

/* What the tests of the tokenizer share: stored data, and calls that must succeed. */
#ifndef SY_TESTS_TOKENIZER_CASES_H
#define SY_TESTS_TOKENIZER_CASES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/tokenizer_read.h"

static inline const char *data_path(char *buf, size_t size, const char *name) {
    const char *root = getenv("SY_TEST_DATA");
    snprintf(buf, size, "%s/tokenizers/%s", root != NULL ? root : "tests/data", name);
    return buf;
}

static inline sy_tokenizer *load_kind(const char *kind) {
    char path[1024];
    sy_tokenizer *t = NULL;
    if (sy_tokenizer_load(data_path(path, sizeof path, kind), 0, &t) != SY_OK)
        fail_msg("%s", sy_last_error());
    return t;
}

/* A JSON value with NUL characters allowed in strings. */
static inline json_t *parse(const char *text, size_t size) {
    json_error_t error;
    json_t *value = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (value == NULL) fail_msg("test data: %s", error.text);
    return value;
}

static inline char *read_data(const char *name, size_t *size) {
    char path[1024], *text = NULL;
    if (sy_read_file(data_path(path, sizeof path, name), (uint64_t)64 << 20, &text, size) !=
        SY_OK)
        fail_msg("%s", sy_last_error());
    return text;
}

static inline json_t *parse_data(const char *name) {
    size_t size;
    char *text = read_data(name, &size);
    json_t *value = parse(text, size);
    free(text);
    return value;
}

static inline sy_ids
encode(const sy_tokenizer *t, const char *text, size_t size, unsigned flags) {
    sy_ids ids = {0};
    if (sy_tokenizer_encode(t, text, size, flags, &ids) != SY_OK)
        fail_msg("%s", sy_last_error());
    return ids;
}
static inline sy_text decode(const sy_tokenizer *t, const sy_ids *ids, bool skip_special) {
    sy_text text = {0};
    assert_int_equal(sy_tokenizer_decode(t, ids->id, ids->n, skip_special, &text), SY_OK);
    return text;
}

/* Fails unless text encodes to exactly the n ids. */
static inline void check_ids(const sy_tokenizer *t,
                             const char *text,
                             unsigned flags,
                             const int32_t *id,
                             size_t n) {
    sy_ids ids = encode(t, text, strlen(text), flags);
    if (ids.n != n || (n > 0 && memcmp(ids.id, id, n * sizeof *id) != 0)) {
        print_message("\"%s\" became", text);
        for (size_t i = 0; i < ids.n; i++)
            print_message(" %d", ids.id[i]);
        fail_msg("\"%s\": other ids were expected", text);
    }
    sy_ids_free(&ids);
}
#define CHECK_IDS(t, text, flags, ...)                                                         \
    check_ids((t), (text), (flags), (const int32_t[]){__VA_ARGS__},                            \
              sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static inline bool same_ids(const sy_ids *a, const sy_ids *b) {
    return a->n == b->n && (a->n == 0 || memcmp(a->id, b->id, a->n * sizeof *a->id) == 0);
}
static inline bool same_text(const sy_text *a, const char *data, size_t n) {
    return a->n == n && (n == 0 || memcmp(a->data, data, n) == 0);
}

/* ---- the stored strings ---- */

enum { MAX_CASES = 8192 };
typedef struct cases {
    sy_text *text;
    size_t n;
} cases;

static inline cases read_cases(void) {
    size_t size;
    char *data = read_data("strings.jsonl", &size);
    cases c = {calloc(MAX_CASES, sizeof *c.text), 0};
    assert_non_null(c.text);
    for (char *line = data, *end; line < data + size; line = end + 1) {
        end = memchr(line, '\n', size - (size_t)(line - data));
        assert_non_null(end);
        assert_true(c.n < MAX_CASES);
        json_t *value = parse(line, (size_t)(end - line));
        const json_t *piece = json_is_array(value) ? json_array_get(value, 0) : value;
        json_int_t count = piece == value ? 1 : json_integer_value(json_array_get(value, 1));
        for (json_int_t i = 0; i < count; i++)
            assert_int_equal(sy_text_append(&c.text[c.n], json_string_value(piece),
                                            json_string_length(piece)),
                             SY_OK);
        c.n++;
        json_decref(value);
    }
    free(data);
    return c;
}

static inline void free_cases(cases *c) {
    for (size_t i = 0; i < c->n; i++)
        sy_text_free(&c->text[i]);
    free(c->text);
}

/* ---- FNV-1a, as scripts/make_tokenizer_tests.py computes it ---- */

#define FNV_START 0xcbf29ce484222325u

static inline uint64_t fnv(const void *data, size_t n, uint64_t state) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        state = (state ^ p[i]) * 0x100000001b3u;
    return state;
}

static inline uint64_t fnv_word(uint64_t word, int bytes, uint64_t state) {
    for (int i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)(word >> 8 * i);
        state = fnv(&byte, 1, state);
    }
    return state;
}

static inline uint64_t fnv_ids(const sy_ids *ids, uint64_t state) {
    state = fnv_word(ids->n, 4, state);
    for (size_t i = 0; i < ids->n; i++)
        state = fnv_word((uint32_t)ids->id[i], 4, state);
    return state;
}

static inline uint64_t next_random(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15u;
    return sy_mix64(*state);
}

#endif

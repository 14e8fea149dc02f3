/* Reading JSON from files that may be hostile.
 *
 * A structural pre-scan runs before jansson: strict UTF-8, nesting depth, size. Duplicate keys
 * are refused. Integers beyond 64 bits (published files hold 10^30) make the whole document be
 * read with integers as reals; the accessors below accept integral reals where a count is
 * meant, so nothing else changes.
 *
 * json_t objects are jansson's: the caller owns what sy_json_* loads and calls json_decref. */
#ifndef SY_BASE_JSON_H
#define SY_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { SY_JSON_MAX_DEPTH = 32 };

/* Size caps per kind of file. */
#define SY_JSON_MAX_HEADER ((uint64_t)32 << 20)    /* safetensors header */
#define SY_JSON_MAX_CONFIG ((uint64_t)4 << 20)     /* config files       */
#define SY_JSON_MAX_TOKENIZER ((uint64_t)64 << 20) /* tokenizer files    */

/* Reads a whole regular file of at most max_bytes into memory that the caller frees with
 * free(); a NUL follows the data. Follows symlinks; refuses directories, fifos, devices. */
sy_status sy_read_file(const char *path, uint64_t max_bytes, char **out, size_t *out_size);

/* Parses text[0..size); `name` is put into error texts. */
sy_status sy_json_parse(const char *text, size_t size, const char *name, json_t **out);

/* sy_read_file + sy_json_parse; a UTF-8 byte order mark is skipped. */
sy_status sy_json_load(const char *path, uint64_t max_bytes, json_t **out);

/* True if text[0..size) is strict UTF-8 (no overlong forms, no surrogates, up to U+10FFFF). */
bool sy_utf8_valid(const char *text, size_t size);

/* Whether a text holds what would garble a line of a terminal: C0, DEL, C1 (C2 80..9F) and the
 * separators U+2028, U+2029. */
bool sy_text_has_control(const char *text, size_t size);
/* A file's text for an error's: itself, or words instead of one with control characters. */
const char *sy_text_shown(const char *text);

/* Typed members of an object. An absent or null member leaves *out untouched and is SY_OK, so
 * set the default first; a member of another type is an error naming `where`.key, what was
 * expected and what was found. Booleans are never numbers. */
sy_status sy_json_get_int(const json_t *object,
                          const char *where,
                          const char *key,
                          int64_t min,
                          int64_t max,
                          int64_t *out);
sy_status
sy_json_get_real(const json_t *object, const char *where, const char *key, double *out);
sy_status sy_json_get_bool(const json_t *object, const char *where, const char *key, bool *out);
sy_status sy_json_get_string(const json_t *object,
                             const char *where,
                             const char *key,
                             const char **out); /* borrowed from the object */

/* True if the value is a number without a fraction that fits int64_t. */
bool sy_json_integral(const json_t *value, int64_t *out);

/* "object", "array", "string", "integer", "real", "true", "false", "null". */
const char *sy_json_type_name(const json_t *value);

/* Members of an object that is written. */
static inline void sy_json_set_int(json_t *o, const char *key, int64_t value) {
    json_object_set_new(o, key, json_integer(value));
}
static inline void sy_json_set_bytes(json_t *o, const char *key, uint64_t bytes) {
    json_object_set_new(o, key, json_integer((json_int_t)bytes));
}
static inline void sy_json_set_real(json_t *o, const char *key, double value) {
    json_object_set_new(o, key, json_real(value));
}
static inline void sy_json_set_flag(json_t *o, const char *key, bool value) {
    json_object_set_new(o, key, json_boolean(value));
}
static inline void sy_json_set_text(json_t *o, const char *key, const char *value) {
    json_object_set_new(o, key, json_string(value));
}

#endif

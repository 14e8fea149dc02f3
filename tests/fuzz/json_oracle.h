/* A second opinion on JSON that one of our scanners has accepted. */
#ifndef SY_FUZZ_JSON_ORACLE_H
#define SY_FUZZ_JSON_ORACLE_H

#include <jansson.h>
#include <stdlib.h>

/* Aborts if jansson refuses text[0..n), except for three things that our scanners pass over in
 * values that are ignored: numbers out of range, names that occur twice, and NUL in a name. */
static inline void check_json(const char *text, size_t n) {
    json_error_t error;
    json_t *parsed = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    enum json_error_code code = parsed == NULL ? json_error_code(&error) : json_error_unknown;
    if (parsed == NULL && code != json_error_numeric_overflow &&
        code != json_error_duplicate_key && code != json_error_null_byte_in_key)
        abort();
    json_decref(parsed);
}

#endif

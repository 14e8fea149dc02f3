/* A forward-only JSON reader for large tables: safetensors headers and shard indexes.
 *
 * It builds no tree, so a hostile file costs no more memory than what its caller keeps, and it
 * tells 1 from 1.0 and 2^64-1 from 2^64, which a general parser does not. The grammar is that
 * of RFC 8259, strictly: lone surrogates, raw control characters and numbers like 01 are refused.
 * The caller has checked that the text is UTF-8.
 *
 * Strings are decoded in place: the text is overwritten, and a decoded string ends in a NUL and
 * lives as long as the text. Walking an object:
 *
 *     SY_TRY(sy_scan_open(&scan, '{'));
 *     for (bool first = true;; first = false) {
 *         SY_TRY(sy_scan_more(&scan, '}', first, &more));
 *         if (!more) break;
 *         SY_TRY(sy_scan_key(&scan, &key));
 *         ... exactly one of string, uint, skip, open ...
 *     }                                                                                     */
#ifndef SY_RUNTIME_JSON_SCAN_H
#define SY_RUNTIME_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct sy_scan {
    char *text; /* borrowed, writable */
    size_t size;
    size_t at;        /* next byte */
    const char *what; /* "header": error texts begin "header byte 17: " */
} sy_scan;

typedef struct sy_scan_text {
    char *data; /* decoded, NUL-terminated; may contain NUL if has_control */
    size_t n;
    bool
        has_control; /* holds NUL, another control character (C0, DEL, C1) or a line separator */
} sy_scan_text;

/* Skips whitespace and takes the opening bracket '{' or '['. */
sy_status sy_scan_open(sy_scan *scan, char bracket);
/* Before each member: takes the comma (unless first) and sets *more, or takes the closing bracket. */
sy_status sy_scan_more(sy_scan *scan, char closing, bool first, bool *more);
/* A member's name and the colon behind it. */
sy_status sy_scan_key(sy_scan *scan, sy_scan_text *out);

sy_status sy_scan_string(sy_scan *scan, sy_scan_text *out);
/* An unsigned integer written as one: digits only, no leading zero, at most 2^64-1. */
sy_status sy_scan_uint(sy_scan *scan, uint64_t *out);
/* Any value, checked and dropped; nested at most SY_JSON_MAX_DEPTH deep. */
sy_status sy_scan_skip(sy_scan *scan);
/* The first character of the next value, after whitespace; 0 at the end. */
char sy_scan_peek(sy_scan *scan);
/* Only whitespace may be left. */
sy_status sy_scan_end(sy_scan *scan);

#endif

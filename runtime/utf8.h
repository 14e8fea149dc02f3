/* UTF-8 at the level of single characters: strict decoding, and the replacement of broken
 * sequences by U+FFFD per maximal subpart (the WHATWG rule, also Rust's from_utf8_lossy). */
#ifndef SY_RUNTIME_UTF8_H
#define SY_RUNTIME_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/tokenizer.h"

enum {
    SY_UTF8_BROKEN = -1,    /* the bytes are a maximal subpart that no byte can complete */
    SY_UTF8_INCOMPLETE = -2 /* the text ends inside a character                          */
};

/* The character at text[0..size), size > 0. Returns how many bytes it takes; *code is the code
 * point, or one of the two above, when the bytes returned stand for one U+FFFD. */
size_t sy_utf8_decode(const char *text, size_t size, int32_t *code);

/* Writes a code point (not a surrogate, at most U+10FFFF); returns 1..4. */
size_t sy_utf8_encode(int32_t code, char out[4]);

/* Appends text with every broken sequence replaced. The end counts as the end of the text. */
sy_status sy_utf8_append_lossy(sy_text *out, const char *text, size_t size);

/* The Unicode property White_Space, which has not changed since Unicode 6.3. */
bool sy_is_white_space(int32_t code);

/* Bytes of white space at the start and at the end of valid UTF-8. */
size_t sy_white_space_prefix(const char *text, size_t size);
size_t sy_white_space_suffix(const char *text, size_t size);

#endif

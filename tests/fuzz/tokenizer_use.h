/* What a tokenizer that a fuzz target has read must stand. */
#ifndef SY_FUZZ_TOKENIZER_USE_H
#define SY_FUZZ_TOKENIZER_USE_H

#include <stdlib.h>

#include "runtime/tokenizer_read.h"

/* A small bound on ids keeps the tables small, and with them each run short. */
enum { FUZZ_MAX_ID = 4096 };

/* Encodes a text in every way and decodes what comes of it. */
static inline void use_tokenizer(const sy_tokenizer *t) {
    static const char text[] =
        "ab  Don't 12\xc3\xa9\xcc\x81\xe6\xbc\xa2\n \xff<s> -Q x\xe2\x96\x81z [INST]";
    sy_ids ids = {0};
    sy_text back = {0};
    for (unsigned flags = 0; flags < 8; flags++) {
        sy_status st = sy_tokenizer_encode(t, text, sizeof text - 1, flags, &ids);
        if (st == SY_OK && sy_tokenizer_decode(t, ids.id, ids.n, flags & 1, &back) != SY_OK)
            abort();
    }
    for (size_t i = 0; i < ids.n; i++)
        if (ids.id[i] < 0 || ids.id[i] >= FUZZ_MAX_ID) abort();
    if (back.n > 0 && !sy_utf8_valid(back.data, back.n)) abort();
    sy_ids_free(&ids);
    sy_text_free(&back);
}

#endif

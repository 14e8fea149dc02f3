/* Arbitrary bytes as tokenizer.json: refused with a text, or a tokenizer that works. */
#include <stdint.h>
#include <stdlib.h>

#include "runtime/tokenizer_parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] = "ab  Don't 12\xc3\xa9\xcc\x81\xe6\xbc\xa2\n \xff<s> -Q x";
    json_t *root = NULL;
    sy_tokenizer *t = NULL;
    sy_ids ids = {0};
    sy_text back = {0};
    if (sy_json_parse((const char *)data, size, "fuzz", &root) != SY_OK) return 0;
    /* A small bound on ids keeps the tables small, and with them each run short. */
    if (sy_tokenizer_from_json(root, root, 4096, &t) == SY_OK) {
        for (unsigned flags = 0; flags < 4; flags++) {
            sy_status st = sy_tokenizer_encode(t, text, sizeof text - 1, flags, &ids);
            if (st == SY_OK && sy_tokenizer_decode(t, ids.id, ids.n, flags & 1, &back) != SY_OK)
                abort();
            for (size_t i = 0; i < ids.n; i++)
                if (ids.id[i] < 0 || ids.id[i] >= 4096) abort();
        }
        if (back.n > 0 && !sy_utf8_valid(back.data, back.n)) abort();
    }
    sy_tokenizer_destroy(t);
    sy_ids_free(&ids);
    sy_text_free(&back);
    json_decref(root);
    return 0;
}

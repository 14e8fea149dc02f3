/* Arbitrary bytes as tokenizer.json: refused with a text, or a tokenizer that works. */
#include <stdint.h>

#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *root = NULL;
    sy_tokenizer *t = NULL;
    if (sy_json_parse((const char *)data, size, "fuzz", &root) != SY_OK) return 0;
    if (sy_tokenizer_from_json(root, root, FUZZ_MAX_ID, &t) == SY_OK) use_tokenizer(t);
    sy_tokenizer_destroy(t);
    json_decref(root);
    return 0;
}

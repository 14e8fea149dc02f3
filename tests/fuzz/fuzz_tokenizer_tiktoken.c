/* Arbitrary bytes as tiktoken.model and, behind a NUL, tokenizer_config.json: refused with a text,
 * or a tokenizer that works. */
#include <stdint.h>
#include <string.h>

#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sy_tokenizer *t = NULL;
    json_t *config = NULL;
    const char *text = (const char *)data;
    const char *end = size > 0 ? memchr(text, 0, size) : NULL;
    size_t n = end != NULL ? (size_t)(end - text) : size;
    if (end != NULL && sy_json_parse(end + 1, size - n - 1, "fuzz", &config) != SY_OK) return 0;
    if (sy_tokenizer_from_tiktoken(text, n, config, FUZZ_MAX_ID, &t) == SY_OK) use_tokenizer(t);
    sy_tokenizer_destroy(t);
    json_decref(config);
    return 0;
}

/* Arbitrary bytes as tekken.json: refused with a text, or valid JSON and a tokenizer that works. */
#include <stdint.h>
#include <string.h>

#include "tests/fuzz/json_oracle.h"
#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sy_tokenizer *t = NULL;
    char *text = malloc(size + 1);
    if (text == NULL) return 0;
    if (size > 0) memcpy(text, data, size);
    if (sy_tokenizer_from_tekken(text, size, FUZZ_MAX_ID, &t) == SY_OK) {
        check_json((const char *)data, size);
        use_tokenizer(t);
    }
    sy_tokenizer_destroy(t);
    free(text);
    return 0;
}

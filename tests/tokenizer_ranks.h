/* A small vocabulary with ranks, in base64; for the tests of tekken.json and tiktoken.model. */
#ifndef SY_TESTS_TOKENIZER_RANKS_H
#define SY_TESTS_TOKENIZER_RANKS_H

#include "tests/tokenizer_cases.h"

static inline void put(sy_text *out, const char *text) {
    assert_int_equal(sy_text_append(out, text, strlen(text)), SY_OK);
}

static inline void put_base64(sy_text *out, const char *bytes, size_t n) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        unsigned bits = 0;
        for (size_t k = 0; k < 3; k++)
            bits = bits << 8 | (i + k < n ? (unsigned char)bytes[i + k] : 0);
        for (size_t k = 0; k < 4; k++) {
            char c = i + k > n ? '=' : digits[bits >> (18 - 6 * k) & 63];
            assert_int_equal(sy_text_append(out, &c, 1), SY_OK);
        }
    }
}

/* The 256 bytes, then these. */
static const char *const ranked_tokens[] = {"ab", "bc", "abc", "xyzw", "cab"};
enum { N_TOKENS = 256 + sizeof ranked_tokens / sizeof *ranked_tokens };

static inline void put_token(sy_text *out, int rank) {
    char byte = (char)rank;
    if (rank < 256) {
        put_base64(out, &byte, 1);
    } else {
        put_base64(out, ranked_tokens[rank - 256], strlen(ranked_tokens[rank - 256]));
    }
}

#endif

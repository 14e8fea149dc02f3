/* What merging starts from: the ids of a pre-token's bytes or characters; and the places where a
 * pre-token can be cut because no merge reaches across. */
#include "runtime/tokenizer_parts.h"

#include <stdlib.h>

#include "runtime/utf8.h"

/* ---- first ids ---- */

/* The model's id of the symbol text[0..n); -1 if it has none. */
static int32_t
symbol_id(const sy_symbols *symbols, const sy_vocabulary *v, const char *text, size_t n) {
    if (n == 1) return symbols->id[(unsigned char)text[0]];
    int32_t id = sy_vocabulary_find_bytes(v, text, n, false);
    return id >= 0 && !(v->token[id].flags & SY_TOKEN_ADDED) ? id : -1;
}

/* The ids of a character's bytes; false unless all of them have one. */
static bool fall_back(const sy_symbols *symbols, const char *text, size_t n, int32_t *id) {
    if (!symbols->byte_fallback) return false;
    for (size_t i = 0; i < n; i++) {
        id[i] = symbols->fallback[(unsigned char)text[i]];
        if (id[i] < 0) return false;
    }
    return true;
}

/* A symbol takes at least as many bytes as it gives ids, so size ids have room. */
size_t sy_first_ids(const sy_symbols *symbols,
                    const sy_vocabulary *v,
                    const char *bytes,
                    size_t size,
                    int32_t *id) {
    size_t n = 0, length = 1;
    bool unknown = false; /* an unknown token is due */
    for (size_t i = 0; i < size; i += length) {
        int32_t code;
        if (symbols->by_character) length = sy_utf8_decode(bytes + i, size - i, &code);
        int32_t token = symbol_id(symbols, v, bytes + i, length);
        if (token >= 0) {
            if (unknown) id[n++] = symbols->unknown;
            unknown = false;
            id[n++] = token;
        } else if (fall_back(symbols, bytes + i, length, id + n)) {
            n += length; /* in front of the unknown token that is due, as the library has it */
        } else if (symbols->unknown >= 0) {
            if (unknown && !symbols->fuse_unknown) id[n++] = symbols->unknown;
            unknown = true;
        }
    }
    if (unknown) id[n++] = symbols->unknown;
    return n;
}

/* ---- seams ---- */

/* A bit per hash of a pair; two pairs that share one only make a seam go unused. A vocabulary of
 * 262,144 tokens sets some 5 % of the bits. */
enum { JOINED_BITS = 1 << 21 };

static uint32_t joined_bit(int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 43); /* 21 bits */
}

static void join_characters(sy_seams *seams, const char *text, size_t size) {
    int32_t left, right;
    if (size == 0) return;
    for (size_t i = sy_utf8_decode(text, size, &left); i < size; left = right) {
        i += sy_utf8_decode(text + i, size - i, &right);
        uint32_t bit = joined_bit(left, right);
        seams->joined[bit / 64] |= (uint64_t)1 << bit % 64;
    }
}

sy_status sy_seams_init(sy_seams *seams, const sy_vocabulary *v) {
    seams->joined = calloc(JOINED_BITS / 64, sizeof *seams->joined);
    if (seams->joined == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a tokenizer");
    for (int64_t id = 0; id < v->n_ids; id++)
        if (v->token[id].flags & SY_TOKEN_PRESENT)
            join_characters(seams, v->bytes.data + v->token[id].offset, v->token[id].length);
    return SY_OK;
}

void sy_seams_free(sy_seams *seams) {
    free(seams->joined);
    seams->joined = NULL;
}

size_t sy_seams_next(const sy_seams *seams, const char *text, size_t size) {
    int32_t left, right;
    size_t i = sy_utf8_decode(text, size, &left);
    while (i < size) {
        size_t n = sy_utf8_decode(text + i, size - i, &right);
        uint32_t bit = joined_bit(left, right);
        if (!(seams->joined[bit / 64] >> bit % 64 & 1)) break;
        left = right;
        i += n;
    }
    return i;
}

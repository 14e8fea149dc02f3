/* Tokens and ids. A token is looked up by its bytes and a flag, `literal`. In the alphabet the
 * flag tells apart the few whose published spelling is not in it; alphabet and bytes correspond
 * one to one, so a spelling and the pair (bytes, flag) identify each other. In a vocabulary of
 * bytes the flag marks added tokens. */
#include "runtime/tokenizer_parts.h"

#include <stdlib.h>

#include "runtime/utf8.h"

/* The byte that a character of the alphabet stands for, or -1. Printable Latin-1 stands for
 * itself; the other 68 bytes are spelt U+0100, U+0101, ... in ascending order. */
static int alphabet_byte(int32_t code) {
    if ((code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xac) ||
        (code >= 0xae && code <= 0xff))
        return code;
    if (code >= 0x100 && code <= 0x120) return code - 0x100;        /* 00..20 */
    if (code >= 0x121 && code <= 0x142) return code - 0x121 + 0x7f; /* 7f..a0 */
    if (code == 0x143) return 0xad;
    return -1;
}

/* Appends the bytes of a spelling in the alphabet; *literal if it is not in it and stands for
 * itself. The content is valid UTF-8 (the JSON reader checks). */
static sy_status append_bytes(sy_text *out, const char *content, size_t size, bool *literal) {
    size_t start = out->n;
    sy_status st = sy_text_append(out, content, size); /* never shorter than the bytes */
    if (st != SY_OK) return st;
    size_t n = start;
    *literal = false;
    for (size_t i = 0; i < size;) {
        int32_t code;
        i += sy_utf8_decode(content + i, size - i, &code);
        int byte = alphabet_byte(code);
        if (byte < 0) {
            *literal = true;
            memcpy(out->data + start, content, size);
            return SY_OK;
        }
        out->data[n++] = (char)byte;
    }
    out->n = n;
    return SY_OK;
}

sy_status sy_vocabulary_init(sy_vocabulary *v,
                             sy_spelling spelling,
                             int64_t id_room,
                             int64_t n_tokens,
                             uint64_t seed) {
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)n_tokens)
        slots *= 2;
    *v = (sy_vocabulary){
        .spelling = spelling, .id_room = id_room, .mask = slots - 1, .seed = seed};
    /* calloc: ids that the file skips cost address space only. */
    v->token = calloc((size_t)id_room + 1, sizeof *v->token);
    v->slot = calloc(slots, sizeof *v->slot);
    if (v->token == NULL || v->slot == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for a vocabulary of %lld tokens",
                       (long long)n_tokens);
    return sy_text_append(&v->bytes, "", 1); /* so that offsets have something to refer to */
}

void sy_vocabulary_free(sy_vocabulary *v) {
    free(v->token);
    free(v->slot);
    sy_text_free(&v->bytes);
    *v = (sy_vocabulary){0};
}

static uint64_t hash_key(const sy_vocabulary *v, const char *bytes, size_t size, bool literal) {
    return sy_hash_token(v->seed + literal, bytes, size);
}

int32_t
sy_vocabulary_find_bytes(const sy_vocabulary *v, const char *bytes, size_t size, bool literal) {
    for (uint64_t i = hash_key(v, bytes, size, literal) & v->mask; v->slot[i] != 0;
         i = (i + 1) & v->mask) {
        uint32_t id = v->slot[i] - 1;
        const sy_token *token = &v->token[id];
        if (token->length == size && literal == ((token->flags & SY_TOKEN_LITERAL) != 0) &&
            (size == 0 || memcmp(v->bytes.data + token->offset, bytes, size) == 0))
            return (int32_t)id;
    }
    return -1;
}

sy_status sy_vocabulary_find(const sy_vocabulary *v,
                             const char *content,
                             size_t size,
                             sy_text *scratch,
                             int32_t *id) {
    sy_status st = SY_OK;
    bool literal;
    switch (v->spelling) {
    case SY_SPELT_IN_ALPHABET:
        scratch->n = 0;
        SY_TRY(append_bytes(scratch, content, size, &literal));
        *id = sy_vocabulary_find_bytes(v, scratch->data, scratch->n, literal);
        break;
    case SY_SPELT_AS_TEXT:
        *id = sy_vocabulary_find_bytes(v, content, size, false);
        break;
    case SY_SPELT_AS_BYTES:
        *id = sy_vocabulary_find_bytes(v, content, size, true);
        if (*id < 0) *id = sy_vocabulary_find_bytes(v, content, size, false);
        break;
    }
done:
    return st;
}

/* Whether a token may get this id. */
static sy_status check_place(const sy_vocabulary *v, int64_t id) {
    if (id < 0 || id >= v->id_room)
        return sy_fail(SY_ERR_INTERNAL, "token id %lld is outside the table", (long long)id);
    if (v->token[id].flags != 0)
        return sy_fail(SY_ERR_FORMAT, "two tokens have the id %lld", (long long)id);
    if (2 * (uint64_t)(v->n_tokens + 1) > v->mask + 1)
        return sy_fail(SY_ERR_INTERNAL, "the token table is full");
    return SY_OK;
}

/* Enters the token whose bytes are the last `length` of v->bytes. */
static sy_status enter(sy_vocabulary *v, size_t length, bool literal, int64_t id) {
    if (v->bytes.n > UINT32_MAX)
        return sy_fail(SY_ERR_FORMAT, "the vocabulary has more than 4 GiB of text");
    uint32_t offset = (uint32_t)(v->bytes.n - length), n = (uint32_t)length;
    uint64_t i = hash_key(v, v->bytes.data + offset, length, literal) & v->mask;
    while (v->slot[i] != 0)
        i = (i + 1) & v->mask;
    v->slot[i] = (uint32_t)id + 1;
    v->token[id] =
        (sy_token){offset, n, offset, n, SY_TOKEN_PRESENT | (literal ? SY_TOKEN_LITERAL : 0u)};
    v->n_tokens++;
    if (id >= v->n_ids) v->n_ids = id + 1;
    return SY_OK;
}

sy_status sy_vocabulary_add(sy_vocabulary *v, const char *content, size_t size, int64_t id) {
    sy_status st = SY_OK;
    bool literal = false;
    size_t before = v->bytes.n;
    SY_TRY(check_place(v, id));
    if (v->spelling == SY_SPELT_IN_ALPHABET) {
        SY_TRY(append_bytes(&v->bytes, content, size, &literal));
    } else {
        SY_TRY(sy_text_append(&v->bytes, content, size));
    }
    SY_TRY(enter(v, v->bytes.n - before, literal, id));
done:
    return st;
}

sy_status sy_vocabulary_add_bytes(sy_vocabulary *v,
                                  const char *bytes,
                                  size_t size,
                                  bool literal,
                                  int64_t id) {
    sy_status st = SY_OK;
    SY_TRY(check_place(v, id));
    int32_t twin = sy_vocabulary_find_bytes(v, bytes, size, literal);
    if (twin >= 0)
        SY_FAIL(SY_ERR_FORMAT, "the tokens %d and %lld are the same", (int)twin, (long long)id);
    SY_TRY(sy_text_append(&v->bytes, bytes, size));
    SY_TRY(enter(v, size, literal, id));
done:
    return st;
}

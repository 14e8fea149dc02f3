/* Vocabularies of bytes with ranks, as tiktoken has them: no merges are listed. Two neighbours are
 * joined if their bytes together are a token, the one with the lowest rank first. That is BPE over
 * the pairs that every token can be split into, so these are entered as merges. */
#include "runtime/tokenizer_read.h"

#include <stdlib.h>

/* ---- base64 ---- */

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes RFC 4648's base64 in its only form (padded, unused bits 0) into out, which has room for
 * 3 bytes per 4 characters. Returns the number of bytes, -1 if it is not that. */
static ptrdiff_t decode_base64(const char *text, size_t size, char *out) {
    ptrdiff_t n = 0;
    if (size % 4 != 0) return -1;
    for (size_t i = 0; i < size; i += 4) {
        int pad = 0, digit[4];
        if (i + 4 == size) pad = text[i + 3] != '=' ? 0 : text[i + 2] != '=' ? 1 : 2;
        uint32_t bits = 0;
        for (int k = 0; k < 4; k++) {
            digit[k] = k < 4 - pad ? base64_digit(text[i + (size_t)k]) : 0;
            if (digit[k] < 0) return -1;
            bits = bits << 6 | (uint32_t)digit[k];
        }
        if (bits & ((1u << 8 * pad) - 1)) return -1;
        for (int k = 0; k < 3 - pad; k++)
            out[n++] = (char)(bits >> (16 - 8 * k) & 0xff);
    }
    return n;
}

sy_status sy_ranks_add(sy_tokenizer *t, const char *base64, size_t size, int64_t id) {
    char bytes[SY_MAX_RANKED_LENGTH + 3];
    ptrdiff_t n = -1;
    if (size <= (SY_MAX_RANKED_LENGTH + 2) / 3 * 4) n = decode_base64(base64, size, bytes);
    if (n <= 0 || n > SY_MAX_RANKED_LENGTH)
        return sy_fail(SY_ERR_FORMAT, "expected a token of 1 to %d bytes in base64",
                       SY_MAX_RANKED_LENGTH);
    return sy_vocabulary_add_bytes(&t->vocabulary, bytes, (size_t)n, false, id);
}

/* ---- merges ---- */

typedef struct merge_list {
    int32_t (*merge)[3]; /* left, right, result */
    size_t n, room;
} merge_list;

static sy_status add_merge(merge_list *list, int32_t left, int32_t right, int32_t result) {
    if (list->n == SY_MAX_RANKED_MERGES)
        return sy_fail(SY_ERR_FORMAT,
                       "the tokens can be split into other tokens in more than %d ways",
                       SY_MAX_RANKED_MERGES);
    if (list->n == list->room) {
        size_t room = list->room < 1024 ? 1024 : 2 * list->room;
        void *merge = realloc(list->merge, room * sizeof *list->merge);
        if (merge == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %zu merges", room);
        list->merge = merge;
        list->room = room;
    }
    int32_t *m = list->merge[list->n++];
    m[0] = left;
    m[1] = right;
    m[2] = result;
    return SY_OK;
}

/* The pairs of tokens that token `id` can be split into. */
static sy_status split_token(const sy_vocabulary *v, int32_t id, merge_list *list) {
    sy_status st = SY_OK;
    const char *bytes = v->bytes.data + v->token[id].offset;
    size_t size = v->token[id].length;
    for (size_t i = 1; i < size; i++) {
        int32_t left = sy_vocabulary_find_bytes(v, bytes, i, false);
        if (left < 0) continue;
        int32_t right = sy_vocabulary_find_bytes(v, bytes + i, size - i, false);
        if (right >= 0) SY_TRY(add_merge(list, left, right, id));
    }
done:
    return st;
}

static bool has_rank(const sy_token *token) {
    return (token->flags & SY_TOKEN_PRESENT) && !(token->flags & SY_TOKEN_LITERAL);
}

static sy_status find_bytes(sy_tokenizer *t) {
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->symbols.id[b] = sy_vocabulary_find_bytes(&t->vocabulary, &byte, 1, false);
        if (t->symbols.id[b] < 0)
            return sy_fail(SY_ERR_FORMAT, "the byte %02x is not among the tokens", (unsigned)b);
    }
    return SY_OK;
}

sy_status sy_ranks_finish(sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_vocabulary *v = &t->vocabulary;
    merge_list list = {0};
    SY_TRY(find_bytes(t));
    for (int64_t id = 0; id < v->n_ids; id++) {
        if (!has_rank(&v->token[id])) continue;
        v->token[id].flags |= SY_TOKEN_WHOLE; /* a pre-token is looked up before it is merged */
        SY_TRY(split_token(v, (int32_t)id, &list));
    }
    SY_TRY(sy_bpe_init(&t->bpe, list.n, t->seed));
    for (size_t i = 0; i < list.n; i++)
        sy_bpe_add(&t->bpe, list.merge[i][0], list.merge[i][1], (uint32_t)list.merge[i][2],
                   list.merge[i][2]);
done:
    free(list.merge);
    return st;
}

/* ---- the rest ---- */

sy_status sy_ranks_pattern(sy_tokenizer *t, const char *pattern, size_t size) {
    sy_stage *stage = &t->stage[t->n_stages++];
    *stage = (sy_stage){.kind = SY_STAGE_SPLIT, .behavior = SY_SPLIT_REMOVED, .invert = true};
    return sy_pattern_compile(pattern, size, false, &stage->pattern);
}

sy_status sy_ranks_add_special(sy_tokenizer *t,
                               sy_added_list *list,
                               const char *content,
                               size_t size,
                               bool special,
                               int64_t id) {
    sy_status st = SY_OK;
    if (size == 0) SY_FAIL(SY_ERR_FORMAT, "the special token %lld is empty", (long long)id);
    SY_TRY(sy_vocabulary_add_bytes(&t->vocabulary, content, size, true, id));
    if (special) t->vocabulary.token[id].flags |= SY_TOKEN_SPECIAL;
    t->vocabulary.token[id].flags |= SY_TOKEN_ADDED;
    SY_TRY(sy_added_list_put(list, t, content, size, false,
                             (sy_added_token){.id = (int32_t)id, .special = true}));
done:
    return st;
}

/* tokenizer.json -> tokenizer: the model (vocabulary and merges), and the file as a whole. */
#include "runtime/tokenizer_read.h"

#include <stdio.h>

enum { LONGEST_WHOLE_TOKEN = 64 }; /* bytes of tokens that are tried as whole pre-tokens */

/* ---- model ---- */

static sy_status refuse_text(const json_t *model, const char *key) {
    const char *text = NULL;
    sy_status st = sy_json_get_string(model, "model", key, &text);
    if (st == SY_OK && text != NULL && text[0] != '\0')
        st = sy_fail(SY_ERR_UNSUPPORTED, "model: \"%s\" \"%.100s\" is not implemented", key,
                     text);
    return st;
}

/* The parts of the model that are switches. */
static sy_status read_model_options(const json_t *model, sy_tokenizer *t, bool *ignore_merges) {
    sy_status st = SY_OK;
    const char *type = "BPE";
    double dropout = 0;
    if (!json_is_object(model))
        SY_FAIL(SY_ERR_FORMAT, "\"model\": expected an object, found %s",
                sy_json_type_name(model));
    SY_TRY(sy_json_get_string(model, "model", "type", &type));
    if (strcmp(type, "BPE") != 0) SY_TRY(sy_unsupported_type("model", model));
    SY_TRY(sy_json_get_real(model, "model", "dropout", &dropout));
    if (dropout != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED, "model: \"dropout\" %g is not implemented", dropout);
    SY_TRY(refuse_text(model, "continuing_subword_prefix"));
    SY_TRY(refuse_text(model, "end_of_word_suffix"));
    SY_TRY(sy_json_get_bool(model, "model", "byte_fallback", &t->symbols.byte_fallback));
    SY_TRY(sy_json_get_bool(model, "model", "fuse_unk", &t->symbols.fuse_unknown));
    SY_TRY(sy_json_get_bool(model, "model", "ignore_merges", ignore_merges));
done:
    return st;
}

sy_status sy_check_id(const json_t *value, const char *content, int64_t max_id, int64_t *id) {
    if (!json_is_integer(value))
        return sy_fail(SY_ERR_FORMAT, "the id of \"%.100s\": expected a whole number, found %s",
                       content, sy_json_type_name(value));
    *id = json_integer_value(value);
    if (*id < 0 || *id >= max_id)
        return sy_fail(SY_ERR_FORMAT, "the id of \"%.100s\": expected 0 to %lld, found %lld",
                       content, (long long)max_id - 1, (long long)*id);
    return SY_OK;
}

static sy_status
read_vocabulary(json_t *vocab, size_t n_added, int64_t max_id, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_vocabulary *v = &t->vocabulary;
    int64_t id = -1, end = 0;
    if (!json_is_object(vocab))
        SY_FAIL(SY_ERR_FORMAT, "model: \"vocab\": expected an object, found %s",
                sy_json_type_name(vocab));
    for (void *i = json_object_iter(vocab); i != NULL; i = json_object_iter_next(vocab, i)) {
        SY_TRY(sy_check_id(json_object_iter_value(i), json_object_iter_key(i), max_id, &id));
        if (id >= end) end = id + 1;
    }
    int64_t n_tokens = (int64_t)(json_object_size(vocab) + n_added);
    SY_TRY(
        sy_vocabulary_init(v, v->spelling, end > n_tokens ? end : n_tokens, n_tokens, t->seed));
    for (void *i = json_object_iter(vocab); i != NULL; i = json_object_iter_next(vocab, i)) {
        SY_TRY(sy_check_id(json_object_iter_value(i), json_object_iter_key(i), max_id, &id));
        SY_TRY(sy_vocabulary_add(v, json_object_iter_key(i), json_object_iter_key_len(i), id));
    }
done:
    if (st != SY_OK) sy_status_context("model.vocab");
    return st;
}

/* The two parts of a merge: "a b" split at its only space, or ["a", "b"]. */
static sy_status merge_parts(const json_t *merge,
                             bool strings,
                             const char **a,
                             size_t *a_size,
                             const char **b,
                             size_t *b_size) {
    if (strings && json_is_string(merge)) {
        const char *text = json_string_value(merge);
        size_t size = json_string_length(merge);
        const char *space = memchr(text, ' ', size);
        if (space == NULL || memchr(space + 1, ' ', size - (size_t)(space + 1 - text)) != NULL)
            return sy_fail(SY_ERR_FORMAT, "\"%.100s\": expected two parts", text);
        *a = text;
        *a_size = (size_t)(space - text);
        *b = space + 1;
        *b_size = size - *a_size - 1;
        return SY_OK;
    }
    const json_t *first = json_array_get(merge, 0), *second = json_array_get(merge, 1);
    if (strings || json_array_size(merge) != 2 || !json_is_string(first) ||
        !json_is_string(second))
        return sy_fail(SY_ERR_FORMAT,
                       "expected either all strings \"a b\" or all pairs of strings");
    *a = json_string_value(first);
    *a_size = json_string_length(first);
    *b = json_string_value(second);
    *b_size = json_string_length(second);
    return SY_OK;
}

static sy_status find_part(const sy_vocabulary *v,
                           const char *content,
                           size_t size,
                           sy_text *scratch,
                           int32_t *id) {
    sy_status st = sy_vocabulary_find(v, content, size, scratch, id);
    if (st == SY_OK && *id < 0)
        st = sy_fail(SY_ERR_FORMAT, "\"%.*s\" is not in the vocabulary",
                     (int)(size < 100 ? size : 100), content);
    return st;
}

static sy_status read_merge(const json_t *merge,
                            bool strings,
                            uint32_t rank,
                            sy_tokenizer *t,
                            sy_text *joined,
                            sy_text *scratch) {
    sy_status st = SY_OK;
    const char *a = NULL, *b = NULL;
    size_t a_size = 0, b_size = 0;
    int32_t left = -1, right = -1, result = -1;
    SY_TRY(merge_parts(merge, strings, &a, &a_size, &b, &b_size));
    SY_TRY(find_part(&t->vocabulary, a, a_size, scratch, &left));
    SY_TRY(find_part(&t->vocabulary, b, b_size, scratch, &right));
    joined->n = 0;
    SY_TRY(sy_text_append(joined, a, a_size));
    SY_TRY(sy_text_append(joined, b, b_size));
    SY_TRY(find_part(&t->vocabulary, joined->data, joined->n, scratch, &result));
    sy_bpe_add(&t->bpe, left, right, rank, result);
done:
    return st;
}

static sy_status read_merges(const json_t *merges, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_text joined = {0}, scratch = {0};
    const json_t *merge;
    size_t i = 0;
    uint32_t rank = 0;
    if (!json_is_array(merges))
        SY_FAIL(SY_ERR_FORMAT, "expected an array, found %s", sy_json_type_name(merges));
    SY_TRY(sy_bpe_init(&t->bpe, json_array_size(merges), t->seed));
    bool strings = json_is_string(json_array_get(merges, 0));
    json_array_foreach(merges, i, merge) {
        const char *text = json_string_value(merge);
        if (strings && text != NULL && strncmp(text, "#version", 8) == 0) continue;
        st = read_merge(merge, strings, rank++, t, &joined, &scratch);
        if (st != SY_OK) {
            sy_status_context("merge %zu", i);
            goto done;
        }
    }
done:
    if (st != SY_OK) sy_status_context("model.merges");
    sy_text_free(&joined);
    sy_text_free(&scratch);
    return st;
}

/* The ids of the 256 bytes, or of the characters below 128, and of the tokens <0x00> to <0xFF>.
 * *all: none of the former (the latter, by character) is missing. */
static void find_symbols(sy_tokenizer *t, bool *all) {
    sy_symbols *s = &t->symbols;
    *all = true;
    for (int b = 0; b < 256; b++) {
        char byte = (char)b, name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        if (s->byte_fallback)
            s->fallback[b] = sy_vocabulary_find_bytes(&t->vocabulary, name, 6, false);
        if (!s->by_character || b < 128)
            s->id[b] = sy_vocabulary_find_bytes(&t->vocabulary, &byte, 1, false);
        *all = *all && (s->by_character ? s->fallback[b] : s->id[b]) >= 0;
    }
}

/* What stands for symbols that the vocabulary lacks. */
static sy_status read_unknown(const json_t *model, bool needed, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_text scratch = {0};
    const char *unknown = NULL;
    SY_TRY(sy_json_get_string(model, "model", "unk_token", &unknown));
    if (unknown == NULL) goto done;
    SY_TRY(sy_vocabulary_find(&t->vocabulary, unknown, strlen(unknown), &scratch,
                              &t->symbols.unknown));
    if (t->symbols.unknown < 0 && needed)
        SY_FAIL(SY_ERR_FORMAT,
                "model: \"unk_token\" \"%.100s\" is not in the vocabulary, which "
                "lacks some %s",
                unknown, t->symbols.by_character ? "characters" : "bytes");
done:
    sy_text_free(&scratch);
    return st;
}

static bool is_fallback(const sy_symbols *symbols, uint32_t id) {
    for (int b = 0; b < 256; b++)
        if (symbols->fallback[b] == (int32_t)id) return true;
    return false;
}

/* Whether merges join characters only. If one joined the token of a byte, it could reach across
 * two characters that no token has side by side. */
static bool merges_are_of_characters(const sy_tokenizer *t) {
    uint32_t low = UINT32_MAX, high = 0; /* byte tokens mostly lie together */
    for (int b = 0; b < 256; b++) {
        uint32_t id = (uint32_t)t->symbols.fallback[b];
        low = id < low ? id : low;
        high = id > high ? id : high;
    }
    for (uint64_t i = 0; i <= t->bpe.mask; i++) {
        uint32_t part[2] = {t->bpe.pair[i].left, t->bpe.pair[i].right};
        if (part[0] == UINT32_MAX) continue;
        for (int k = 0; k < 2; k++)
            if (part[k] >= low && part[k] <= high && is_fallback(&t->symbols, part[k]))
                return false;
    }
    return true;
}

/* Marks the tokens that a pre-token of the same bytes encodes to: nearly all of them. With
 * ignore_merges that is so by definition. */
static sy_status mark_whole_tokens(sy_tokenizer *t, bool ignore_merges) {
    sy_status st = SY_OK;
    sy_bpe_scratch scratch = {0};
    sy_ids ids = {0};
    SY_TRY(sy_bpe_reserve(&scratch, LONGEST_WHOLE_TOKEN));
    for (int64_t id = 0; id < t->vocabulary.n_ids; id++) {
        sy_token *token = &t->vocabulary.token[id];
        const char *bytes = t->vocabulary.bytes.data + token->offset;
        if (token->flags != SY_TOKEN_PRESENT) continue; /* no such id, or a literal */
        bool whole = ignore_merges;
        if (!whole && token->length <= LONGEST_WHOLE_TOKEN) {
            size_t n =
                sy_first_ids(&t->symbols, &t->vocabulary, bytes, token->length, scratch.first);
            ids.n = 0;
            SY_TRY(sy_bpe_encode(&t->bpe, &scratch, n, &ids));
            whole = ids.n == 1 && ids.id[0] == id;
        }
        if (whole) token->flags |= SY_TOKEN_WHOLE;
    }
done:
    sy_bpe_scratch_free(&scratch);
    sy_ids_free(&ids);
    return st;
}

static sy_status
read_model(const json_t *model, size_t n_added, int64_t max_id, sy_tokenizer *t) {
    sy_status st = SY_OK;
    bool ignore_merges = false, all;
    t->symbols.by_character = t->vocabulary.spelling == SY_SPELT_AS_TEXT;
    SY_TRY(read_model_options(model, t, &ignore_merges));
    SY_TRY(read_vocabulary(json_object_get(model, "vocab"), n_added, max_id, t));
    SY_TRY(read_merges(json_object_get(model, "merges"), t));
    find_symbols(t, &all);
    if (!t->symbols.by_character && t->symbols.byte_fallback && !all)
        SY_FAIL(SY_ERR_UNSUPPORTED, "model: \"byte_fallback\" with ByteLevel is not "
                                    "implemented where the vocabulary lacks some bytes");
    SY_TRY(read_unknown(model, !all, t));
    SY_TRY(mark_whole_tokens(t, ignore_merges));
    if (t->symbols.by_character && all && !ignore_merges && merges_are_of_characters(t))
        SY_TRY(sy_seams_init(&t->seams, &t->vocabulary));
done:
    return st;
}

/* ---- the whole file ---- */

static sy_status check_top_level(json_t *root) {
    static const char *const known[] = {"version",        "truncation", "padding",
                                        "added_tokens",   "normalizer", "pre_tokenizer",
                                        "post_processor", "decoder",    "model"};
    sy_status st = SY_OK;
    const char *version = "1.0";
    if (!json_is_object(root))
        SY_FAIL(SY_ERR_FORMAT, "expected an object, found %s", sy_json_type_name(root));
    for (void *i = json_object_iter(root); i != NULL; i = json_object_iter_next(root, i)) {
        bool found = false;
        for (size_t k = 0; k < sizeof known / sizeof *known; k++)
            found = found || strcmp(known[k], json_object_iter_key(i)) == 0;
        if (!found) SY_FAIL(SY_ERR_FORMAT, "unknown key \"%.100s\"", json_object_iter_key(i));
    }
    SY_TRY(sy_json_get_string(root, "tokenizer.json", "version", &version));
    if (strcmp(version, "1.0") != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED, "version \"%.100s\" is not implemented", version);
    const json_t *added = json_object_get(root, "added_tokens");
    if (added != NULL && !json_is_null(added) && !json_is_array(added))
        SY_FAIL(SY_ERR_FORMAT, "\"added_tokens\": expected an array, found %s",
                sy_json_type_name(added));
done:
    return st;
}

sy_status sy_tokenizer_from_json(const json_t *root,
                                 const json_t *config,
                                 int64_t max_id,
                                 sy_tokenizer **out) {
    sy_status st = SY_OK;
    sy_tokenizer *t = NULL;
    *out = NULL;
    max_id = sy_clamp_max_id(max_id);
    SY_TRY(sy_tokenizer_new(&t));
    SY_TRY(check_top_level((json_t *)root));
    const json_t *added = json_object_get(root, "added_tokens");
    SY_TRY(sy_read_normalizer(root, t));
    SY_TRY(sy_read_pre_tokenizer(root, t));
    SY_TRY(sy_read_post_processor(root, max_id, t));
    SY_TRY(read_model(json_object_get(root, "model"), json_array_size(added), max_id, t));
    SY_TRY(sy_read_added_tokens(added, max_id, t));
    SY_TRY(sy_read_decoder(root, t));
    SY_TRY(sy_read_bos(config, t));
    *out = t;
    t = NULL;
done:
    sy_tokenizer_destroy(t);
    return st;
}

/* tokenizer.json -> tokenizer. The file is hostile input: ids, references and sizes are checked,
 * and what would change ids in silence is refused. */
#include "runtime/tokenizer_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"

#define DEFAULT_MAX_ID ((int64_t)16000000)
#define LARGEST_MAX_ID ((int64_t)1 << 30)
enum { LONGEST_WHOLE_TOKEN = 64 }; /* bytes of tokens that are tried as whole pre-tokens */

uint64_t sy_random_seed(void) {
    uint64_t seed;
    if (getentropy(&seed, sizeof seed) != 0) seed = sy_mix64((uint64_t)sy_now_ns());
    return seed;
}

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
    bool byte_fallback = false;
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
    SY_TRY(sy_json_get_bool(model, "model", "byte_fallback", &byte_fallback));
    if (byte_fallback)
        SY_FAIL(SY_ERR_UNSUPPORTED, "model: \"byte_fallback\" is not implemented");
    SY_TRY(sy_json_get_bool(model, "model", "fuse_unk", &t->bpe.fuse_unknown));
    SY_TRY(sy_json_get_bool(model, "model", "ignore_merges", ignore_merges));
done:
    return st;
}

static sy_status
check_id(const json_t *value, const char *content, int64_t max_id, int64_t *id) {
    if (!json_is_integer(value))
        return sy_fail(SY_ERR_FORMAT, "the id of \"%.100s\": expected a whole number, found %s",
                       content, sy_json_type_name(value));
    *id = json_integer_value(value);
    if (*id < 0 || *id >= max_id)
        return sy_fail(SY_ERR_FORMAT, "the id of \"%.100s\": expected 0 to %lld, found %lld",
                       content, (long long)max_id - 1, (long long)*id);
    return SY_OK;
}

static sy_status read_vocabulary(json_t *vocab,
                                 size_t n_added,
                                 int64_t max_id,
                                 sy_vocabulary *v,
                                 uint64_t seed) {
    sy_status st = SY_OK;
    int64_t id = -1, end = 0;
    if (!json_is_object(vocab))
        SY_FAIL(SY_ERR_FORMAT, "model: \"vocab\": expected an object, found %s",
                sy_json_type_name(vocab));
    for (void *i = json_object_iter(vocab); i != NULL; i = json_object_iter_next(vocab, i)) {
        SY_TRY(check_id(json_object_iter_value(i), json_object_iter_key(i), max_id, &id));
        if (id >= end) end = id + 1;
    }
    int64_t n_tokens = (int64_t)(json_object_size(vocab) + n_added);
    SY_TRY(sy_vocabulary_init(v, end > n_tokens ? end : n_tokens, n_tokens, seed));
    for (void *i = json_object_iter(vocab); i != NULL; i = json_object_iter_next(vocab, i)) {
        SY_TRY(check_id(json_object_iter_value(i), json_object_iter_key(i), max_id, &id));
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
    bool fuse = t->bpe.fuse_unknown;
    SY_TRY(sy_bpe_init(&t->bpe, json_array_size(merges), t->seed));
    t->bpe.fuse_unknown = fuse;
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

/* The ids of the 256 bytes, and what stands for those that the vocabulary lacks. */
static sy_status find_bytes(const json_t *model, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_text scratch = {0};
    const char *unknown = NULL;
    bool all = true;
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->bpe.byte_id[b] = sy_vocabulary_find_bytes(&t->vocabulary, &byte, 1, false);
        all = all && t->bpe.byte_id[b] >= 0;
    }
    SY_TRY(sy_json_get_string(model, "model", "unk_token", &unknown));
    if (unknown == NULL) goto done;
    SY_TRY(sy_vocabulary_find(&t->vocabulary, unknown, strlen(unknown), &scratch,
                              &t->bpe.unknown));
    if (t->bpe.unknown < 0 && !all)
        SY_FAIL(SY_ERR_FORMAT,
                "model: \"unk_token\" \"%.100s\" is not in the vocabulary, which "
                "lacks some bytes",
                unknown);
done:
    sy_text_free(&scratch);
    return st;
}

/* Marks the tokens that a pre-token of the same bytes encodes to: nearly all of them. With
 * ignore_merges that is so by definition. */
static sy_status mark_whole_tokens(sy_tokenizer *t, bool ignore_merges) {
    sy_status st = SY_OK;
    sy_bpe_scratch scratch = {0};
    sy_ids ids = {0};
    for (int64_t id = 0; id < t->vocabulary.n_ids; id++) {
        sy_token *token = &t->vocabulary.token[id];
        if (token->flags != SY_TOKEN_PRESENT) continue; /* no such id, or a literal */
        bool whole = ignore_merges;
        if (!whole && token->length <= LONGEST_WHOLE_TOKEN) {
            ids.n = 0;
            SY_TRY(sy_bpe_encode(&t->bpe, &scratch, t->vocabulary.bytes.data + token->offset,
                                 token->length, &ids));
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
    bool ignore_merges = false;
    SY_TRY(read_model_options(model, t, &ignore_merges));
    SY_TRY(read_vocabulary(json_object_get(model, "vocab"), n_added, max_id, &t->vocabulary,
                           t->seed));
    SY_TRY(read_merges(json_object_get(model, "merges"), t));
    SY_TRY(find_bytes(model, t));
    SY_TRY(mark_whole_tokens(t, ignore_merges));
done:
    return st;
}

/* ---- added tokens ---- */

/* The id that an added token gets: the vocabulary's if its content is there, else the next free
 * one. The file's own number is a copy of it; where it differs, the file was made for something
 * else. */
static sy_status added_id(const json_t *entry,
                          const char *content,
                          size_t size,
                          int64_t max_id,
                          int64_t *next,
                          sy_tokenizer *t,
                          sy_text *scratch,
                          int32_t *id) {
    sy_status st = SY_OK;
    int64_t declared = -1;
    int32_t found = -1;
    SY_TRY(check_id(json_object_get(entry, "id"), content, max_id, &declared));
    SY_TRY(sy_vocabulary_find(&t->vocabulary, content, size, scratch, &found));
    int64_t expected = found >= 0 ? found : *next;
    if (declared != expected)
        SY_FAIL(SY_ERR_FORMAT, "\"%.100s\": its id would be %lld, but the file says %lld",
                content, (long long)expected, (long long)declared);
    if (found < 0) SY_TRY(sy_vocabulary_add(&t->vocabulary, content, size, declared));
    if (declared >= *next) *next = declared + 1;
    *id = (int32_t)declared;
done:
    return st;
}

static sy_status
read_added_flags(const json_t *entry, sy_added_token *token, bool *normalized) {
    static const char where[] = "added_tokens";
    sy_status st = SY_OK;
    SY_TRY(sy_json_get_bool(entry, where, "special", &token->special));
    SY_TRY(sy_json_get_bool(entry, where, "single_word", &token->single_word));
    SY_TRY(sy_json_get_bool(entry, where, "lstrip", &token->lstrip));
    SY_TRY(sy_json_get_bool(entry, where, "rstrip", &token->rstrip));
    *normalized = !token->special;
    SY_TRY(sy_json_get_bool(entry, where, "normalized", normalized));
done:
    return st;
}

/* What single_word calls a word: \w of Rust's regex crate. */
static sy_status compile_word(sy_tokenizer *t) {
    static const char pattern[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Join_Control}\\p{Pc}]";
    int error;
    PCRE2_SIZE offset;
    if (t->word != NULL) return SY_OK;
    t->word = pcre2_compile((PCRE2_SPTR)pattern, sizeof pattern - 1, PCRE2_UTF | PCRE2_UCP,
                            &error, &offset, NULL);
    if (t->word == NULL)
        return sy_fail(SY_ERR_UNSUPPORTED, "added_tokens: \"single_word\" needs PCRE2 10.40");
    return SY_OK;
}

typedef struct added_reader {
    int64_t max_id;
    int64_t next;  /* the id of the next token that is not in the vocabulary */
    uint8_t *seen; /* [vocabulary.id_room]: an added token has this id       */
    sy_text scratch, normal;
    sy_nfc_scratch nfc;
} added_reader;

static sy_status read_added_token(const json_t *entry, added_reader *r, sy_tokenizer *t) {
    sy_status st = SY_OK;
    const json_t *text = json_object_get(entry, "content");
    const char *content = json_string_value(text);
    size_t size = json_string_length(text);
    sy_added_token token = {0};
    bool normalized;
    if (content == NULL)
        SY_FAIL(SY_ERR_FORMAT, "\"content\": expected a string, found %s",
                sy_json_type_name(text));
    if (size == 0) goto done; /* ignored, as the Hugging Face library does */
    SY_TRY(added_id(entry, content, size, r->max_id, &r->next, t, &r->scratch, &token.id));
    if (r->seen[token.id]) SY_FAIL(SY_ERR_FORMAT, "\"%.100s\" occurs twice", content);
    r->seen[token.id] = 1;
    SY_TRY(read_added_flags(entry, &token, &normalized));
    if (token.special) t->vocabulary.token[token.id].flags |= SY_TOKEN_SPECIAL;
    if (token.single_word) SY_TRY(compile_word(t));
    if (normalized && t->use_nfc)
        SY_TRY(sy_nfc_normalize(&t->nfc, &r->nfc, content, size, &r->normal, &content, &size));
    if (size > SY_MAX_ADDED_LENGTH)
        SY_FAIL(SY_ERR_FORMAT, "\"%.100s...\": %zu bytes; at most %d are accepted", content,
                size, SY_MAX_ADDED_LENGTH);
    sy_added_insert(normalized ? &t->added_normalized : &t->added_raw, content, size, token);
done:
    return st;
}

static sy_status read_added_tokens(const json_t *list, int64_t max_id, sy_tokenizer *t) {
    sy_status st = SY_OK;
    added_reader r = {.max_id = max_id, .next = t->vocabulary.n_tokens};
    const json_t *entry;
    size_t i, n_bytes = 0, n = json_array_size(list);
    json_array_foreach(list, i, entry) {
        /* NFC makes no string more than three times as long (UAX #15, section 12). */
        n_bytes += 3 * json_string_length(json_object_get(entry, "content"));
        if (n_bytes > SY_MAX_ADDED_BYTES)
            SY_FAIL(SY_ERR_FORMAT, "more than %d bytes", SY_MAX_ADDED_BYTES / 3);
    }
    r.seen = calloc((size_t)t->vocabulary.id_room + 1, 1);
    if (r.seen == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory");
    SY_TRY(sy_added_init(&t->added_raw, n, n_bytes, t->seed));
    SY_TRY(sy_added_init(&t->added_normalized, n, n_bytes, t->seed));
    json_array_foreach(list, i, entry) {
        st = read_added_token(entry, &r, t);
        if (st != SY_OK) {
            sy_status_context("entry %zu", i);
            goto done;
        }
    }
done:
    if (st != SY_OK) sy_status_context("added_tokens");
    free(r.seen);
    free(r.nfc.code);
    sy_text_free(&r.scratch);
    sy_text_free(&r.normal);
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

/* BOS: what the post-processor begins with; or else, as Hugging Face's Llama classes do, the
 * configured token if add_bos_token is set. */
static sy_status read_bos(const json_t *config, sy_tokenizer *t) {
    sy_status st = SY_OK;
    bool add = false;
    t->bos = t->before.n > 0 ? t->before.id[0] : -1;
    if (config == NULL || t->bos >= 0) goto done;
    SY_TRY(sy_json_get_bool(config, "tokenizer_config.json", "add_bos_token", &add));
    const json_t *token = json_object_get(config, "bos_token");
    if (json_is_object(token)) token = json_object_get(token, "content");
    if (!add || token == NULL || json_is_null(token)) goto done;
    if (!json_is_string(token))
        SY_FAIL(SY_ERR_FORMAT,
                "tokenizer_config.json: \"bos_token\": expected a string, found %s",
                sy_json_type_name(token));
    t->bos = sy_tokenizer_token_id(t, json_string_value(token), json_string_length(token));
    if (t->bos < 0)
        SY_FAIL(SY_ERR_FORMAT,
                "tokenizer_config.json: \"bos_token\" \"%.100s\" is not in tokenizer.json",
                json_string_value(token));
    SY_TRY(sy_ids_append(&t->before, t->bos));
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
    if (max_id <= 0) max_id = DEFAULT_MAX_ID;
    if (max_id > LARGEST_MAX_ID) max_id = LARGEST_MAX_ID;
    t = calloc(1, sizeof *t);
    if (t == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a tokenizer");
    t->seed = sy_random_seed();
    SY_TRY(check_top_level((json_t *)root));
    const json_t *added = json_object_get(root, "added_tokens");
    SY_TRY(sy_read_components(root, max_id, t));
    if (t->use_nfc) SY_TRY(sy_nfc_init(&t->nfc));
    SY_TRY(read_model(json_object_get(root, "model"), json_array_size(added), max_id, t));
    SY_TRY(read_added_tokens(added, max_id, t));
    SY_TRY(read_bos(config, t));
    SY_TRY(sy_scratch_pool_create(&t->pool));
    *out = t;
    t = NULL;
done:
    sy_tokenizer_destroy(t);
    return st;
}

sy_status sy_tokenizer_load(const char *directory, int64_t max_id, sy_tokenizer **out) {
    sy_status st = SY_OK;
    char path[4096], config_path[4096];
    json_t *root = NULL, *config = NULL;
    *out = NULL;
    int n = snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    int m = snprintf(config_path, sizeof config_path, "%s/tokenizer_config.json", directory);
    if (n < 0 || (size_t)n >= sizeof path || m < 0 || (size_t)m >= sizeof config_path)
        SY_FAIL(SY_ERR_IO, "%.100s...: the path is too long", directory);
    if (access(path, F_OK) != 0)
        SY_FAIL(SY_ERR_IO, "%s: there is no tokenizer.json (%s)", directory, strerror(errno));
    SY_TRY(sy_json_load(path, SY_JSON_MAX_TOKENIZER, &root));
    if (access(config_path, F_OK) == 0)
        SY_TRY(sy_json_load(config_path, SY_JSON_MAX_CONFIG, &config));
    st = sy_tokenizer_from_json(root, config, max_id, out);
    if (st != SY_OK) sy_status_context("%s", path);
done:
    json_decref(root);
    json_decref(config);
    return st;
}

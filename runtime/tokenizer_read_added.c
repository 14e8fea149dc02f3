/* The added tokens of a file: collected, then entered into the two sets that texts are scanned
 * for, since their normal forms tell only at the end how much room the sets need. */
#include "runtime/tokenizer_read.h"

#include <stdlib.h>

/* ---- the list ---- */

/* Appends the normal form of content. */
static sy_status
normal_form(sy_added_list *list, const sy_tokenizer *t, const char *content, size_t size) {
    sy_status st = SY_OK;
    sy_encoding *e = &list->normalizing;
    if (e->scratch == NULL) SY_TRY(sy_encoding_open(e, t, SY_MAX_ADDED_BYTES));
    e->normal_limit = (size_t)4 * SY_MAX_ADDED_LENGTH; /* on the way to at most one of these */
    SY_TRY(sy_normalize(e, content, size, &content, &size));
    SY_TRY(sy_text_append(&list->bytes, content, size));
done:
    return st;
}

static sy_status new_entry(sy_added_list *list, sy_added_entry **out) {
    if (list->n == list->room) {
        size_t room = list->room < 64 ? 64 : 2 * list->room;
        sy_added_entry *entry = realloc(list->entry, room * sizeof *entry);
        if (entry == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %zu tokens", room);
        list->entry = entry;
        list->room = room;
    }
    *out = &list->entry[list->n++];
    return SY_OK;
}

sy_status sy_added_list_put(sy_added_list *list,
                            sy_tokenizer *t,
                            const char *content,
                            size_t size,
                            bool normalized,
                            sy_added_token token) {
    sy_status st = SY_OK;
    sy_added_entry *entry = NULL;
    size_t offset = list->bytes.n;
    if (normalized && size <= SY_MAX_ADDED_LENGTH) {
        SY_TRY(normal_form(list, t, content, size));
    } else {
        SY_TRY(sy_text_append(&list->bytes, content, size));
    }
    size = list->bytes.n - offset;
    if (size > SY_MAX_ADDED_LENGTH)
        SY_FAIL(SY_ERR_FORMAT, "\"%.100s...\": %zu bytes; at most %d are accepted", content,
                size, SY_MAX_ADDED_LENGTH);
    if (list->bytes.n > SY_MAX_ADDED_BYTES)
        SY_FAIL(SY_ERR_FORMAT, "more than %d bytes", SY_MAX_ADDED_BYTES);
    if (size == 0)
        SY_FAIL(SY_ERR_UNSUPPORTED, "\"%.100s\": the normalizer leaves nothing of it", content);
    SY_TRY(new_entry(list, &entry));
    *entry = (sy_added_entry){token, normalized, offset, size};
done:
    return st;
}

sy_status sy_added_list_build(const sy_added_list *list, sy_tokenizer *t) {
    sy_status st = SY_OK;
    size_t n[2] = {0}, bytes[2] = {0}; /* raw, normalized */
    for (size_t i = 0; i < list->n; i++) {
        n[list->entry[i].normalized]++;
        bytes[list->entry[i].normalized] += list->entry[i].size;
    }
    SY_TRY(sy_added_init(&t->added_raw, n[0], bytes[0], t->seed));
    SY_TRY(sy_added_init(&t->added_normalized, n[1], bytes[1], t->seed));
    for (size_t i = 0; i < list->n; i++) {
        const sy_added_entry *e = &list->entry[i];
        sy_added_insert(e->normalized ? &t->added_normalized : &t->added_raw,
                        list->bytes.data + e->offset, e->size, e->token);
    }
done:
    return st;
}

void sy_added_list_free(sy_added_list *list) {
    sy_encoding_close(&list->normalizing);
    free(list->entry);
    sy_text_free(&list->bytes);
    *list = (sy_added_list){0};
}

/* ---- added_tokens of tokenizer.json ---- */

typedef struct added_reader {
    int64_t max_id;
    int64_t next;  /* the id of the next token that is not in the vocabulary */
    uint8_t *seen; /* [vocabulary.id_room]: an added token has this id       */
    sy_text scratch;
    sy_added_list list;
} added_reader;

/* The id that an added token gets: the vocabulary's if its content is there, else the next free
 * one. The file's own number is a copy of it; where it differs, the file was made for something
 * else. */
static sy_status added_id(const json_t *entry,
                          const char *content,
                          size_t size,
                          added_reader *r,
                          sy_tokenizer *t,
                          int32_t *id) {
    sy_status st = SY_OK;
    int64_t declared = -1;
    int32_t found = -1;
    SY_TRY(sy_check_id(json_object_get(entry, "id"), content, r->max_id, &declared));
    SY_TRY(sy_vocabulary_find(&t->vocabulary, content, size, &r->scratch, &found));
    int64_t expected = found >= 0 ? found : r->next;
    if (declared != expected)
        SY_FAIL(SY_ERR_FORMAT, "\"%.100s\": its id would be %lld, but the file says %lld",
                content, (long long)expected, (long long)declared);
    if (found < 0) {
        SY_TRY(sy_vocabulary_add(&t->vocabulary, content, size, declared));
        t->vocabulary.token[declared].flags |= SY_TOKEN_ADDED;
    }
    if (declared >= r->next) r->next = declared + 1;
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
    SY_TRY(added_id(entry, content, size, r, t, &token.id));
    if (r->seen[token.id]) SY_FAIL(SY_ERR_FORMAT, "\"%.100s\" occurs twice", content);
    r->seen[token.id] = 1;
    SY_TRY(read_added_flags(entry, &token, &normalized));
    if (token.special) t->vocabulary.token[token.id].flags |= SY_TOKEN_SPECIAL;
    if (token.single_word) SY_TRY(compile_word(t));
    SY_TRY(sy_added_list_put(&r->list, t, content, size, normalized, token));
done:
    return st;
}

sy_status sy_read_added_tokens(const json_t *list, int64_t max_id, sy_tokenizer *t) {
    sy_status st = SY_OK;
    added_reader r = {.max_id = max_id, .next = t->vocabulary.n_tokens};
    const json_t *entry;
    size_t i;
    r.seen = calloc((size_t)t->vocabulary.id_room + 1, 1);
    if (r.seen == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for %zu tokens", json_array_size(list));
    json_array_foreach(list, i, entry) {
        st = read_added_token(entry, &r, t);
        if (st != SY_OK) {
            sy_status_context("entry %zu", i);
            goto done;
        }
    }
    SY_TRY(sy_added_list_build(&r.list, t));
done:
    if (st != SY_OK) sy_status_context("added_tokens");
    free(r.seen);
    sy_text_free(&r.scratch);
    sy_added_list_free(&r.list);
    return st;
}

/* tiktoken.model -> tokenizer, for the Kimi models, whose repositories carry that file, the special
 * tokens in tokenizer_config.json, and the rest in code that is not run here: the pattern, the
 * number of special tokens, and how long texts are cut.
 *
 * Each line is the base64 of a token, a space and its rank, which is its id. */
#include "runtime/tokenizer_read.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "runtime/utf8.h"

enum {
    N_SPECIAL = 256,      /* ids behind the last rank; those without a name are reserved      */
    N_MORE = 2,           /* Moonlight and Kimi-Linear name up to two further ones            */
    CHUNK_CHARS = 400000, /* characters that are encoded at once                              */
    CHUNK_RUN = 25000     /* ... and in a row that are all white space, or all something else */
};

/* tokenization_kimi.py, with set intersections written as negated classes: the letters and marks
 * that are not lower case (or not upper case) nor Han. */
/* clang-format off */
#define UPPER "[^\\p{Ll}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}\\p{Han}]"
#define LOWER "[^\\p{Lu}\\p{Lt}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}\\p{Han}]"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
static const char kimi_pattern[] =
    "[\\p{Han}]+"
    "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTION
    "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" CONTRACTION
    "|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/* clang-format on */

/* ---- the ranks ---- */

typedef struct line_reader {
    const char *text;
    size_t size, at;
    size_t number; /* of the line read last, from 1 */
} line_reader;

/* The next line that is not empty, without its end. */
static bool next_line(line_reader *r, const char **line, size_t *size) {
    while (r->at < r->size) {
        *line = r->text + r->at;
        const char *newline = memchr(*line, '\n', r->size - r->at);
        *size = newline != NULL ? (size_t)(newline - *line) : r->size - r->at;
        r->at += *size + 1;
        r->number++;
        if (*size > 0 && (*line)[*size - 1] == '\r') --*size;
        if (*size > 0) return true;
    }
    return false;
}

/* "BASE64 RANK"; ranks are the numbers from 0 to n - 1 in any order. */
static sy_status read_line(sy_tokenizer *t, const char *line, size_t size, int64_t n) {
    const char *space = memchr(line, ' ', size);
    int64_t rank = 0;
    size_t i = space != NULL ? (size_t)(space - line) + 1 : size;
    bool number = i < size;
    for (; i < size && number; i++) {
        number = line[i] >= '0' && line[i] <= '9' && rank < n;
        rank = rank * 10 + (line[i] - '0');
    }
    if (!number || rank >= n)
        return sy_fail(SY_ERR_FORMAT,
                       "expected a token in base64, a space and a rank from 0 to %lld",
                       (long long)n - 1);
    return sy_ranks_add(t, line, (size_t)(space - line), rank);
}

static sy_status read_ranks(const char *text, size_t size, int64_t max_id, sy_tokenizer *t) {
    sy_status st = SY_OK;
    line_reader count = {.text = text, .size = size}, lines = count;
    const char *line;
    size_t length;
    int64_t n = 0;
    while (next_line(&count, &line, &length))
        n++;
    if (n > max_id)
        SY_FAIL(SY_ERR_FORMAT, "expected at most %lld tokens, found %lld", (long long)max_id,
                (long long)n);
    int64_t all = n + N_SPECIAL + N_MORE;
    SY_TRY(sy_vocabulary_init(&t->vocabulary, SY_SPELT_AS_BYTES, all, all, t->seed));
    while (next_line(&lines, &line, &length)) {
        st = read_line(t, line, length, n);
        if (st != SY_OK) {
            sy_status_context("line %zu", lines.number);
            goto done;
        }
    }
    SY_TRY(sy_ranks_finish(t));
done:
    return st;
}

/* ---- special tokens ---- */

/* added_tokens_decoder's entry for an id, NULL if there is none. */
static const json_t *named_token(const json_t *config, int64_t id) {
    char key[24];
    snprintf(key, sizeof key, "%lld", (long long)id);
    return json_object_get(json_object_get(config, "added_tokens_decoder"), key);
}

static sy_status
add_named(sy_tokenizer *t, sy_added_list *list, const json_t *entry, int64_t id) {
    sy_status st = SY_OK;
    bool special = false;
    const json_t *content = json_object_get(entry, "content");
    if (!json_is_string(content))
        SY_FAIL(SY_ERR_FORMAT, "\"content\": expected a string, found %s",
                sy_json_type_name(content));
    SY_TRY(sy_json_get_bool(entry, "added_tokens_decoder", "special", &special));
    SY_TRY(sy_ranks_add_special(t, list, json_string_value(content),
                                json_string_length(content), special, id));
done:
    if (st != SY_OK)
        sy_status_context("tokenizer_config.json: added_tokens_decoder, %lld", (long long)id);
    return st;
}

static sy_status add_reserved(sy_tokenizer *t, sy_added_list *list, int64_t id) {
    char name[48];
    int n = snprintf(name, sizeof name, "<|reserved_token_%lld|>", (long long)id);
    return sy_ranks_add_special(t, list, name, (size_t)n, true, id);
}

static sy_status read_specials(const json_t *config, int64_t max_id, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_added_list list = {0};
    int64_t first = t->vocabulary.n_ids;
    for (int64_t id = first; id < sy_min(first + N_SPECIAL + N_MORE, max_id); id++) {
        const json_t *entry = named_token(config, id);
        if (entry != NULL) {
            SY_TRY(add_named(t, &list, entry, id));
        } else if (id < first + N_SPECIAL) {
            SY_TRY(add_reserved(t, &list, id));
        }
    }
    SY_TRY(sy_added_list_build(&list, t));
done:
    sy_added_list_free(&list);
    return st;
}

/* A configuration made for other ranks names ids that are among ours. */
static sy_status check_config(const json_t *config, int64_t n_ranks) {
    static const char where[] = "tokenizer_config.json";
    sy_status st = SY_OK;
    const char *class = "TikTokenTokenizer";
    json_t *added = json_object_get(config, "added_tokens_decoder");
    if (config == NULL) goto done;
    SY_TRY(sy_json_get_string(config, where, "tokenizer_class", &class));
    if (strcmp(class, "TikTokenTokenizer") != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: expected the tokenizer_class \"TikTokenTokenizer\" (Kimi), found "
                "\"%.100s\"; the pattern of others is not known",
                where, class);
    if (added != NULL && !json_is_object(added))
        SY_FAIL(SY_ERR_FORMAT, "%s: added_tokens_decoder: expected an object, found %s", where,
                sy_json_type_name(added));
    for (void *i = json_object_iter(added); i != NULL; i = json_object_iter_next(added, i)) {
        const char *key = json_object_iter_key(i);
        if (strlen(key) == 0 || strlen(key) > 9 || strspn(key, "0123456789") != strlen(key) ||
            strtol(key, NULL, 10) < n_ranks)
            SY_FAIL(SY_ERR_FORMAT,
                    "%s: added_tokens_decoder: expected an id of at least %lld, found "
                    "\"%.40s\"",
                    where, (long long)n_ranks, key);
    }
done:
    return st;
}

/* ---- long texts ---- */

/* str.isspace of Python: white space, and four separators that Unicode does not count as such. */
static bool is_space(int32_t code) {
    return sy_is_white_space(code) || (code >= 0x1c && code <= 0x1f);
}

/* The length in bytes of what is encoded next on its own. *in_block: characters since the last cut
 * of the first kind. A run is counted from the last cut of either kind. */
static size_t chunk(const char *text, size_t size, size_t *in_block) {
    size_t i = 0, run = 0;
    bool space = false;
    if (*in_block == CHUNK_CHARS) *in_block = 0;
    while (i < size && *in_block < CHUNK_CHARS) {
        int32_t code;
        size_t n = sy_utf8_decode(text + i, size - i, &code);
        if (is_space(code) != space) run = 0;
        space = is_space(code);
        if (++run > CHUNK_RUN) break;
        ++*in_block;
        i += n;
    }
    return i;
}

/* ---- the whole file ---- */

sy_status sy_tokenizer_from_tiktoken(const char *text,
                                     size_t size,
                                     const json_t *config,
                                     int64_t max_id,
                                     sy_tokenizer **out) {
    sy_status st = SY_OK;
    sy_tokenizer *t = NULL;
    *out = NULL;
    max_id = sy_clamp_max_id(max_id);
    SY_TRY(sy_tokenizer_new(&t));
    SY_TRY(read_ranks(text, size, max_id, t));
    SY_TRY(check_config(config, t->vocabulary.n_ids));
    SY_TRY(read_specials(config, max_id, t));
    SY_TRY(sy_ranks_pattern(t, kimi_pattern, sizeof kimi_pattern - 1));
    SY_TRY(sy_read_bos(config, t));
    t->chunk = chunk;
    *out = t;
    t = NULL;
done:
    sy_tokenizer_destroy(t);
    return st;
}

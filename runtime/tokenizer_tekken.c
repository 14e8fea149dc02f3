/* Mistral's tekken.json -> tokenizer.
 *
 *     {"config": {"pattern", "default_vocab_size", "default_num_special_tokens", "version", ...},
 *      "vocab": [{"rank", "token_bytes": base64, ...}, ...],
 *      "special_tokens": [{"rank", "token_str", ...}, ...], ...}
 *
 * Ids below S = default_num_special_tokens are special tokens: those listed, then fillers. The
 * token of rank r has the id S + r. The file lists more than the model has: only the first
 * default_vocab_size - S take part. "token_str" of the vocabulary is for people to read.
 *
 * The file is 15 to 20 MB, and holds NUL characters in strings: it is scanned, without a tree. */
#include "runtime/tokenizer_read.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/json_scan.h"

/* Files up to version 7 may leave their special tokens out; these are meant then. */
static const char *const default_specials[] = {"<unk>",
                                               "<s>",
                                               "</s>",
                                               "[INST]",
                                               "[/INST]",
                                               "[AVAILABLE_TOOLS]",
                                               "[/AVAILABLE_TOOLS]",
                                               "[TOOL_RESULTS]",
                                               "[/TOOL_RESULTS]",
                                               "[TOOL_CALLS]",
                                               "[IMG]",
                                               "<pad>",
                                               "[IMG_BREAK]",
                                               "[IMG_END]",
                                               "[PREFIX]",
                                               "[MIDDLE]",
                                               "[SUFFIX]",
                                               "[SYSTEM_PROMPT]",
                                               "[/SYSTEM_PROMPT]",
                                               "[TOOL_CONTENT]"};
enum {
    N_DEFAULT_SPECIALS = sizeof default_specials / sizeof *default_specials,
    LAST_VERSION_WITH_DEFAULTS = 7
};

typedef struct name_list { /* strings in the text of the file */
    sy_scan_text *name;
    size_t n, room;
} name_list;

typedef struct tekken_file {
    sy_scan scan;
    bool has_config, has_vocab, has_specials;
    sy_scan_text pattern;
    uint64_t n_ids, n_special; /* default_vocab_size, default_num_special_tokens */
    uint64_t version;
    name_list vocab; /* in base64 */
    name_list specials;
} tekken_file;

static bool is_named(const sy_scan_text *key, const char *name) {
    return key->n == strlen(name) && memcmp(key->data, name, key->n) == 0;
}

/* The next member's name; *more is false at the end of the object. */
static sy_status next_key(sy_scan *scan, bool first, bool *more, sy_scan_text *key) {
    sy_status st = sy_scan_more(scan, '}', first, more);
    return st == SY_OK && *more ? sy_scan_key(scan, key) : st;
}

/* ---- config ---- */

/* Sets a flag that says that a member has been seen. */
static sy_status once(bool *seen, const char *name) {
    if (*seen) return sy_fail(SY_ERR_FORMAT, "\"%s\" occurs twice", name);
    *seen = true;
    return SY_OK;
}

static sy_status read_version(sy_scan *scan, uint64_t *version) {
    static const uint64_t known[] = {1, 2, 3, 7, 11, 13, 15};
    sy_scan_text text;
    sy_status st = sy_scan_string(scan, &text);
    if (st != SY_OK) return st;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char name[8];
        snprintf(name, sizeof name, "v%" PRIu64, known[i]);
        if (!is_named(&text, name)) continue;
        *version = known[i];
        return SY_OK;
    }
    return sy_fail(SY_ERR_UNSUPPORTED, "version \"%.40s\" is not known (v1 to v15 are)",
                   text.has_control ? "?" : text.data);
}

static sy_status read_config(tekken_file *f) {
    static const char *const names[] = {"pattern", "version", "default_vocab_size",
                                        "default_num_special_tokens"};
    enum { N_NAMES = sizeof names / sizeof *names };
    sy_status st = SY_OK;
    sy_scan *scan = &f->scan;
    bool more = true, seen[N_NAMES] = {false};
    SY_TRY(sy_scan_open(scan, '{'));
    for (bool first = true;; first = false) {
        sy_scan_text key;
        int i = 0;
        SY_TRY(next_key(scan, first, &more, &key));
        if (!more) break;
        while (i < N_NAMES && !is_named(&key, names[i]))
            i++;
        if (i < N_NAMES) SY_TRY(once(&seen[i], names[i]));
        if (i == 0) SY_TRY(sy_scan_string(scan, &f->pattern));
        if (i == 1) SY_TRY(read_version(scan, &f->version));
        if (i == 2) SY_TRY(sy_scan_uint(scan, &f->n_ids));
        if (i == 3) SY_TRY(sy_scan_uint(scan, &f->n_special));
        if (i == N_NAMES) SY_TRY(sy_scan_skip(scan));
    }
    for (int i = 0; i < N_NAMES; i++)
        if (!seen[i]) SY_FAIL(SY_ERR_FORMAT, "there is no \"%s\"", names[i]);
done:
    return st;
}

static sy_status check_config(const tekken_file *f, int64_t max_id) {
    if (f->n_ids > (uint64_t)max_id)
        return sy_fail(SY_ERR_FORMAT,
                       "config: \"default_vocab_size\": expected at most %lld, found %" PRIu64,
                       (long long)max_id, f->n_ids);
    if (f->n_ids < 256 || f->n_special > f->n_ids - 256)
        return sy_fail(SY_ERR_FORMAT,
                       "config: expected a \"default_vocab_size\" of at least 256 more than "
                       "\"default_num_special_tokens\", found %" PRIu64 " and %" PRIu64,
                       f->n_ids, f->n_special);
    return SY_OK;
}

/* ---- the two lists ---- */

static sy_status append_name(name_list *list, sy_scan_text name) {
    if (list->n == list->room) {
        size_t room = list->room < 1024 ? 1024 : 2 * list->room;
        sy_scan_text *larger = realloc(list->name, room * sizeof *larger);
        if (larger == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %zu tokens", room);
        list->name = larger;
        list->room = room;
    }
    list->name[list->n++] = name;
    return SY_OK;
}

/* {"rank": its place in the list, NAME_KEY: string, ...} */
static sy_status read_entry(sy_scan *scan, const char *name_key, name_list *list) {
    sy_status st = SY_OK;
    bool more = true, ranked = false, named = false;
    uint64_t rank = 0;
    sy_scan_text name = {0};
    SY_TRY(sy_scan_open(scan, '{'));
    for (bool first = true;; first = false) {
        sy_scan_text key;
        SY_TRY(next_key(scan, first, &more, &key));
        if (!more) break;
        if (is_named(&key, "rank")) {
            SY_TRY(once(&ranked, "rank"));
            SY_TRY(sy_scan_uint(scan, &rank));
        } else if (is_named(&key, name_key)) {
            SY_TRY(once(&named, name_key));
            SY_TRY(sy_scan_string(scan, &name));
        } else {
            SY_TRY(sy_scan_skip(scan));
        }
    }
    if (!ranked || rank != list->n)
        SY_FAIL(SY_ERR_FORMAT, "expected the rank %zu, found %" PRIu64, list->n, rank);
    if (!named) SY_FAIL(SY_ERR_FORMAT, "there is no \"%s\"", name_key);
    SY_TRY(append_name(list, name));
done:
    return st;
}

static sy_status read_list(sy_scan *scan, const char *name_key, name_list *list) {
    sy_status st = SY_OK;
    bool more = true;
    SY_TRY(sy_scan_open(scan, '['));
    for (bool first = true;; first = false) {
        SY_TRY(sy_scan_more(scan, ']', first, &more));
        if (!more) break;
        st = read_entry(scan, name_key, list);
        if (st != SY_OK) {
            sy_status_context("entry %zu", list->n);
            goto done;
        }
    }
done:
    return st;
}

/* One of the three lists and objects that matter; *known is false if the key is another's. */
static sy_status read_member(tekken_file *f, const sy_scan_text *key, bool *known) {
    sy_status st = SY_OK;
    *known = true;
    if (is_named(key, "config")) {
        SY_TRY(once(&f->has_config, "config"));
        SY_TRY(read_config(f));
    } else if (is_named(key, "vocab")) {
        SY_TRY(once(&f->has_vocab, "vocab"));
        SY_TRY(read_list(&f->scan, "token_bytes", &f->vocab));
    } else if (is_named(key, "special_tokens") && sy_scan_peek(&f->scan) != 'n') {
        SY_TRY(once(&f->has_specials, "special_tokens"));
        SY_TRY(read_list(&f->scan, "token_str", &f->specials));
    } else {
        *known = false;
    }
done:
    if (st != SY_OK) sy_status_context("%s", key->data);
    return st;
}

static sy_status read_file(tekken_file *f, char *text, size_t size) {
    sy_status st = SY_OK;
    bool more = true, known;
    f->scan = (sy_scan){.text = text, .size = size, .what = "tekken.json"};
    if (!sy_utf8_valid(text, size)) SY_FAIL(SY_ERR_FORMAT, "it is not valid UTF-8");
    SY_TRY(sy_scan_open(&f->scan, '{'));
    for (bool first = true;; first = false) {
        sy_scan_text key;
        SY_TRY(next_key(&f->scan, first, &more, &key));
        if (!more) break;
        SY_TRY(read_member(f, &key, &known));
        if (!known) SY_TRY(sy_scan_skip(&f->scan));
    }
    SY_TRY(sy_scan_end(&f->scan));
    if (!f->has_config) SY_FAIL(SY_ERR_FORMAT, "there is no \"config\"");
done:
    return st;
}

/* ---- the tokenizer ---- */

static sy_status add_vocabulary(const tekken_file *f, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_vocabulary *v = &t->vocabulary;
    int64_t n_ids = (int64_t)f->n_ids, n_special = (int64_t)f->n_special;
    size_t n = (size_t)(n_ids - n_special);
    if (f->vocab.n < n)
        SY_FAIL(SY_ERR_FORMAT, "vocab: expected at least %zu entries, found %zu", n,
                f->vocab.n);
    SY_TRY(sy_vocabulary_init(v, SY_SPELT_AS_BYTES, n_ids, n_ids, t->seed));
    for (size_t rank = 0; rank < n; rank++) {
        int64_t id = n_special + (int64_t)rank;
        const sy_scan_text *base64 = &f->vocab.name[rank];
        st = sy_ranks_add(t, base64->data, base64->n, id);
        if (st == SY_OK && rank < 256 &&
            (v->token[id].length != 1 ||
             (unsigned char)v->bytes.data[v->token[id].offset] != rank))
            st = sy_fail(SY_ERR_FORMAT, "expected the byte %02zx", rank);
        if (st != SY_OK) {
            sy_status_context("vocab: entry %zu", rank);
            goto done;
        }
    }
done:
    return st;
}

/* The name of the special token i: as listed, by default, or a filler. */
static const char *special_name(const tekken_file *f, size_t i, char filler[32], size_t *size) {
    if (f->has_specials && i < f->specials.n) {
        *size = f->specials.name[i].n;
        return f->specials.name[i].data;
    }
    snprintf(filler, 32, "<SPECIAL_%zu>", i);
    const char *name =
        !f->has_specials && i < N_DEFAULT_SPECIALS ? default_specials[i] : filler;
    *size = strlen(name);
    return name;
}

static sy_status add_specials(const tekken_file *f, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_added_list added = {0};
    size_t listed = f->has_specials ? f->specials.n : N_DEFAULT_SPECIALS;
    if (!f->has_specials && f->version > LAST_VERSION_WITH_DEFAULTS)
        SY_FAIL(SY_ERR_FORMAT, "there are none, but version v%" PRIu64 " requires them",
                f->version);
    if (listed > f->n_special)
        SY_FAIL(SY_ERR_FORMAT, "expected at most %" PRIu64 ", found %zu", f->n_special, listed);
    for (size_t i = 0; i < f->n_special; i++) {
        char filler[32];
        size_t size;
        const char *name = special_name(f, i, filler, &size);
        SY_TRY(sy_ranks_add_special(t, &added, name, size, true, (int64_t)i));
    }
    SY_TRY(sy_added_list_build(&added, t));
done:
    if (st != SY_OK) sy_status_context("special_tokens");
    sy_added_list_free(&added);
    return st;
}

sy_status
sy_tokenizer_from_tekken(char *text, size_t size, int64_t max_id, sy_tokenizer **out) {
    sy_status st = SY_OK;
    sy_tokenizer *t = NULL;
    tekken_file f = {0};
    *out = NULL;
    SY_TRY(read_file(&f, text, size));
    SY_TRY(check_config(&f, sy_clamp_max_id(max_id)));
    SY_TRY(sy_tokenizer_new(&t));
    SY_TRY(add_vocabulary(&f, t));
    SY_TRY(sy_ranks_finish(t));
    SY_TRY(add_specials(&f, t));
    SY_TRY(sy_ranks_pattern(t, f.pattern.data, f.pattern.n));
    t->added_on_request = true;
    t->bos = sy_vocabulary_find_bytes(&t->vocabulary, "<s>", 3, true);
    t->eos = sy_vocabulary_find_bytes(&t->vocabulary, "</s>", 4, true);
    if (t->bos >= 0) SY_TRY(sy_ids_append(&t->before, t->bos));
    *out = t;
    t = NULL;
done:
    free(f.vocab.name);
    free(f.specials.name);
    sy_tokenizer_destroy(t);
    return st;
}

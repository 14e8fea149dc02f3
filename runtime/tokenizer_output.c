/* The components of a tokenizer.json that work on ids: post_processor and decoder. A type that is
 * not known here is refused by its name. */
#include "runtime/tokenizer_read.h"

/* ---- post_processor ---- */

/* The ids that a template's special token stands for; they need not be in the vocabulary. */
static sy_status append_template_token(const json_t *component,
                                       const json_t *token,
                                       int64_t max_id,
                                       sy_ids *out) {
    static const char where[] = "post_processor";
    sy_status st = SY_OK;
    const json_t *name = json_object_get(token, "id"), *entry, *ids, *item;
    size_t i;
    if (!json_is_string(name))
        SY_FAIL(SY_ERR_FORMAT, "%s: SpecialToken: \"id\": expected a string, found %s", where,
                sy_json_type_name(name));
    entry =
        json_object_get(json_object_get(component, "special_tokens"), json_string_value(name));
    ids = json_object_get(entry, "ids");
    if (!json_is_array(ids))
        SY_FAIL(SY_ERR_FORMAT, "%s: \"special_tokens\" has no ids for \"%.100s\"", where,
                json_string_value(name));
    json_array_foreach(ids, i, item) {
        if (!json_is_integer(item) || json_integer_value(item) < 0 ||
            json_integer_value(item) >= max_id)
            SY_FAIL(SY_ERR_FORMAT, "%s: \"%.100s\": expected ids from 0 to %lld", where,
                    json_string_value(name), (long long)max_id - 1);
        SY_TRY(sy_ids_append(out, (int32_t)json_integer_value(item)));
    }
done:
    return st;
}

static sy_status read_template(const json_t *component, int64_t max_id, sy_tokenizer *t) {
    static const char where[] = "post_processor";
    sy_status st = SY_OK;
    const json_t *list, *item;
    size_t i;
    bool seen_text = false;
    SY_TRY(sy_sequence_list(component, where, "single", &list));
    json_array_foreach(list, i, item) {
        const json_t *special = json_object_get(item, "SpecialToken");
        const char *name =
            json_string_value(json_object_get(json_object_get(item, "Sequence"), "id"));
        if (special != NULL) {
            SY_TRY(append_template_token(component, special, max_id,
                                         seen_text ? &t->after : &t->before));
        } else if (name != NULL && strcmp(name, "A") == 0 && !seen_text) {
            seen_text = true;
        } else {
            SY_FAIL(SY_ERR_FORMAT,
                    "%s: \"single\": expected SpecialTokens around one "
                    "Sequence \"A\"",
                    where);
        }
    }
    if (!seen_text) SY_FAIL(SY_ERR_FORMAT, "%s: \"single\" lacks the Sequence \"A\"", where);
done:
    return st;
}

static sy_status read_processor(const json_t *component, int64_t max_id, sy_tokenizer *t) {
    static const char where[] = "post_processor";
    sy_status st = SY_OK;
    const json_t *list, *item;
    size_t i;
    if (component == NULL || json_is_null(component)) return SY_OK;
    if (sy_has_type(component, "ByteLevel")) return SY_OK; /* moves offsets only */
    if (sy_has_type(component, "TemplateProcessing")) {
        if (t->before.n > 0 || t->after.n > 0)
            return sy_fail(SY_ERR_UNSUPPORTED, "%s: two templates are not implemented", where);
        return read_template(component, max_id, t);
    }
    if (!sy_has_type(component, "Sequence")) return sy_unsupported_type(where, component);
    SY_TRY(sy_sequence_list(component, where, "processors", &list));
    json_array_foreach(list, i, item) SY_TRY(read_processor(item, max_id, t));
done:
    return st;
}

sy_status sy_read_post_processor(const json_t *root, int64_t max_id, sy_tokenizer *t) {
    return read_processor(json_object_get(root, "post_processor"), max_id, t);
}

/* ---- decoder ---- */

/* The components of a decoder in the order in which they may stand. */
typedef enum decoder_step {
    STEP_BYTE_LEVEL,
    STEP_METASPACE,
    STEP_REPLACE,
    STEP_BYTE_FALLBACK,
    STEP_FUSE,
    STEP_STRIP,
    N_STEPS
} decoder_step;
static const char *const step_names[N_STEPS] = {"ByteLevel",    "Metaspace", "Replace",
                                                "ByteFallback", "Fuse",      "Strip"};

enum { MAX_REPLACES = 8 };
typedef struct replacement {
    const char *from, *to;
    size_t from_size, to_size;
} replacement;

typedef struct decoder_reader {
    int n_steps;
    bool seen[N_STEPS];
    decoder_step last;
    replacement replace[MAX_REPLACES];
    int n_replaces;
    sy_text text, spare; /* what one token stands for, and a buffer to work in */
} decoder_reader;

/* The library's decoders work on lists of tokens. Replace and ByteFallback are done to each token
 * while the file is read, Strip to the start of the text, for which Fuse must have joined it. */
static sy_status check_order(decoder_reader *r, decoder_step step) {
    bool alone = step <= STEP_METASPACE || (r->n_steps > 0 && r->last <= STEP_METASPACE);
    bool fits = r->n_steps == 0 || (!alone && step > r->last) ||
                (step == STEP_REPLACE && r->last == step && r->n_replaces < MAX_REPLACES);
    if (step == STEP_STRIP && !r->seen[STEP_FUSE]) fits = false;
    if (!fits)
        return sy_fail(SY_ERR_UNSUPPORTED, "decoder: %s at this place is not implemented",
                       step_names[step]);
    r->seen[step] = true;
    r->last = step;
    r->n_steps++;
    return SY_OK;
}

static sy_status read_replace(const json_t *component, decoder_reader *r) {
    const json_t *pattern = json_object_get(component, "pattern");
    const json_t *from = json_object_get(pattern, "String");
    const json_t *to = json_object_get(component, "content");
    if (json_object_get(pattern, "Regex") != NULL)
        return sy_fail(SY_ERR_UNSUPPORTED, "decoder Replace: \"Regex\" is not implemented");
    if (json_string_length(from) == 0 || !json_is_string(to))
        return sy_fail(SY_ERR_FORMAT,
                       "decoder Replace: expected \"pattern\": {\"String\": ...}, "
                       "not empty, and the string \"content\"");
    if (json_string_length(from) > SY_MAX_REPLACEMENT ||
        json_string_length(to) > SY_MAX_REPLACEMENT)
        return sy_fail(SY_ERR_FORMAT, "decoder Replace: more than %d bytes",
                       SY_MAX_REPLACEMENT);
    r->replace[r->n_replaces++] =
        (replacement){json_string_value(from), json_string_value(to), json_string_length(from),
                      json_string_length(to)};
    return SY_OK;
}

static sy_status read_strip(const json_t *component, sy_tokenizer *t) {
    static const char where[] = "decoder Strip";
    sy_status st = SY_OK;
    char content[5];
    int64_t start = 0, stop = 0;
    SY_TRY(sy_json_get_character(component, where, "content", content));
    SY_TRY(sy_json_get_int(component, where, "start", 0, INT32_MAX, &start));
    SY_TRY(sy_json_get_int(component, where, "stop", 0, INT32_MAX, &stop));
    if (strcmp(content, " ") != 0 || stop != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: only spaces at the start are implemented", where);
    t->decoding.strip = (int)start;
done:
    return st;
}

/* Every such character of a token is a space; the first token loses them unless the scheme is
 * "never". */
static sy_status read_metaspace(const json_t *component, decoder_reader *r, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_prefix_when prefix;
    bool split;
    char character[5];
    SY_TRY(sy_read_metaspace(component, "decoder Metaspace", character, &prefix, &split));
    r->replace[0] = (replacement){json_string_value(json_object_get(component, "replacement")),
                                  " ", strlen(character), 1};
    r->n_replaces = 1;
    if (prefix != SY_PREFIX_NEVER)
        memcpy(t->decoding.first_without, character, sizeof character);
done:
    return st;
}

static sy_status read_step(const json_t *component, decoder_reader *r, sy_tokenizer *t) {
    static const char where[] = "decoder";
    sy_status st = SY_OK;
    const json_t *list, *item;
    size_t i;
    int step = 0;
    if (sy_has_type(component, "Sequence")) {
        SY_TRY(sy_sequence_list(component, where, "decoders", &list));
        json_array_foreach(list, i, item) SY_TRY(read_step(item, r, t));
        goto done;
    }
    while (step < N_STEPS && !sy_has_type(component, step_names[step]))
        step++;
    if (step == N_STEPS) SY_TRY(sy_unsupported_type(where, component));
    SY_TRY(check_order(r, (decoder_step)step));
    if (step == STEP_REPLACE) SY_TRY(read_replace(component, r));
    if (step == STEP_STRIP) SY_TRY(read_strip(component, t));
    if (step == STEP_METASPACE) SY_TRY(read_metaspace(component, r, t));
done:
    return st;
}

/* r->text with every `from` replaced. */
static sy_status replace_all(decoder_reader *r, const replacement *p) {
    sy_status st = SY_OK;
    size_t i = 0;
    r->spare.n = 0;
    while (i < r->text.n) {
        const char *hit = sy_find_text(r->text.data + i, r->text.n - i, p->from, p->from_size);
        size_t end = hit != NULL ? (size_t)(hit - r->text.data) : r->text.n;
        SY_TRY(sy_text_append(&r->spare, r->text.data + i, end - i));
        if (hit != NULL) SY_TRY(sy_text_append(&r->spare, p->to, p->to_size));
        if (r->spare.n > SY_MAX_NORMAL_TEXT)
            SY_FAIL(SY_ERR_FORMAT, "decoder Replace: a token gets longer than %zu bytes",
                    SY_MAX_NORMAL_TEXT);
        i = hit != NULL ? end + p->from_size : end;
    }
    sy_text other = r->text;
    r->text = r->spare;
    r->spare = other;
done:
    return st;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The byte that "<0xHH>" stands for, or -1. A plus sign in front of one digit is read, too, since
 * the library leaves the number to a parser that takes it. */
static int fallback_byte(const sy_text *text) {
    if (text->n != 6 || memcmp(text->data, "<0x", 3) != 0 || text->data[5] != '>') return -1;
    int high = text->data[3] == '+' ? 0 : hex_digit(text->data[3]);
    int low = hex_digit(text->data[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* Enters what the token stands for beside what it is looked up by. */
static sy_status set_text(decoder_reader *r, sy_vocabulary *v, sy_token *token) {
    sy_status st = SY_OK;
    r->text.n = 0;
    SY_TRY(sy_text_append(&r->text, v->bytes.data + token->offset, token->length));
    for (int i = 0; i < r->n_replaces; i++)
        SY_TRY(replace_all(r, &r->replace[i]));
    int byte = r->seen[STEP_BYTE_FALLBACK] ? fallback_byte(&r->text) : -1;
    if (byte >= 0) {
        r->text.data[0] = (char)byte;
        r->text.n = 1;
    }
    if (r->text.n == token->length &&
        (r->text.n == 0 || memcmp(r->text.data, v->bytes.data + token->offset, r->text.n) == 0))
        goto done;
    token->text_offset = (uint32_t)v->bytes.n;
    token->text_length = (uint32_t)r->text.n;
    SY_TRY(sy_text_append(&v->bytes, r->text.data, r->text.n));
    if (v->bytes.n > 2 * SY_MAX_NORMAL_TEXT)
        SY_FAIL(SY_ERR_FORMAT, "decoder: the tokens stand for more than %zu bytes in all",
                SY_MAX_NORMAL_TEXT);
done:
    return st;
}

sy_status sy_read_decoder(const json_t *root, sy_tokenizer *t) {
    sy_status st = SY_OK;
    decoder_reader r = {0};
    sy_vocabulary *v = &t->vocabulary;
    SY_TRY(read_step(json_object_get(root, "decoder"), &r, t));
    if (r.seen[STEP_BYTE_LEVEL] != (v->spelling == SY_SPELT_IN_ALPHABET))
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "decoder: expected ByteLevel where the pre_tokenizer has it, and only there");
    if (r.seen[STEP_BYTE_LEVEL]) goto done;
    for (int64_t id = 0; id < v->n_ids; id++)
        if (v->token[id].flags & SY_TOKEN_PRESENT) SY_TRY(set_text(&r, v, &v->token[id]));
done:
    sy_text_free(&r.text);
    sy_text_free(&r.spare);
    return st;
}

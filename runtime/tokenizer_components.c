/* The components of a tokenizer.json that work on text: normalizer and pre_tokenizer. A type that
 * is not known here is refused by its name. */
#include "runtime/tokenizer_read.h"

#include "runtime/utf8.h"

/* What ByteLevel's use_regex splits by (GPT-2). */
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+"
                                   "| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

bool sy_has_type(const json_t *component, const char *type) {
    const char *name = json_string_value(json_object_get(component, "type"));
    return name != NULL && strcmp(name, type) == 0;
}

sy_status sy_unsupported_type(const char *where, const json_t *component) {
    const char *name = json_string_value(json_object_get(component, "type"));
    if (name == NULL)
        return sy_fail(SY_ERR_FORMAT, "%s: expected an object with a \"type\", found %s", where,
                       sy_json_type_name(component));
    return sy_fail(SY_ERR_UNSUPPORTED, "%s type \"%.100s\" is not implemented", where, name);
}

sy_status sy_sequence_list(const json_t *sequence,
                           const char *where,
                           const char *key,
                           const json_t **list) {
    *list = json_object_get(sequence, key);
    if (!json_is_array(*list))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected an array, found %s", where, key,
                       sy_json_type_name(*list));
    return SY_OK;
}

static bool is_one_character(const char *text, size_t size) {
    int32_t code = -1;
    return size > 0 && sy_utf8_decode(text, size, &code) == size && code >= 0;
}

sy_status
sy_json_get_character(const json_t *object, const char *where, const char *key, char out[5]) {
    const json_t *value = json_object_get(object, key);
    const char *text = json_string_value(value);
    size_t size = json_string_length(value);
    if (!is_one_character(text, size) || text[0] == '\0')
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected a string of one character", where,
                       key);
    memcpy(out, text, size);
    out[size] = '\0';
    return SY_OK;
}

/* {"Regex": ...} or {"String": ...}; *literal: the latter. Not empty. */
static sy_status read_pattern(const json_t *component,
                              const char *where,
                              const char **text,
                              size_t *size,
                              bool *literal) {
    const json_t *pattern = json_object_get(component, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *string = json_object_get(pattern, "String");
    const json_t *value = regex != NULL ? regex : string;
    if (!json_is_string(value) || json_object_size(pattern) != 1 ||
        json_string_length(value) == 0)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: \"pattern\": expected an object with the string \"Regex\" or "
                       "\"String\", not empty",
                       where);
    *text = json_string_value(value);
    *size = json_string_length(value);
    *literal = regex == NULL;
    return SY_OK;
}

/* ---- normalizer ---- */

static sy_status new_step(sy_tokenizer *t, sy_normal_kind kind, sy_normal_step **step) {
    if (t->n_normal == SY_MAX_NORMAL_STEPS)
        return sy_fail(SY_ERR_UNSUPPORTED, "normalizer: more than %d components",
                       SY_MAX_NORMAL_STEPS);
    *step = &t->normal[t->n_normal++];
    **step = (sy_normal_step){.kind = kind};
    return SY_OK;
}

/* The text that a step puts in. */
static sy_status
read_step_text(const json_t *component, const char *where, const char *key, sy_text *out) {
    const json_t *value = json_object_get(component, key);
    if (!json_is_string(value))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected a string, found %s", where, key,
                       sy_json_type_name(value));
    if (json_string_length(value) > SY_MAX_REPLACEMENT)
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": %zu bytes; at most %d are accepted", where,
                       key, json_string_length(value), SY_MAX_REPLACEMENT);
    return sy_text_append(out, json_string_value(value), json_string_length(value));
}

static sy_status read_replace(const json_t *component, sy_tokenizer *t) {
    static const char where[] = "normalizer Replace";
    sy_status st = SY_OK;
    sy_normal_step *step = NULL;
    const char *text;
    size_t size;
    bool literal;
    uint32_t empty = 0;
    SY_TRY(read_pattern(component, where, &text, &size, &literal));
    SY_TRY(new_step(t, SY_NORMAL_REPLACE, &step));
    SY_TRY(read_step_text(component, where, "content", &step->text));
    step->moves = !literal || !is_one_character(text, size) ||
                  !is_one_character(step->text.data, step->text.n);
    SY_TRY(sy_pattern_compile(text, size, literal, &step->pattern));
    /* The library puts text into itself wrongly where a match is empty. */
    if (pcre2_pattern_info(step->pattern.code, PCRE2_INFO_MATCHEMPTY, &empty) != 0 || empty)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: a pattern that may match nothing is not implemented",
                where);
done:
    return st;
}

static sy_status read_normal_step(const json_t *component, sy_tokenizer *t) {
    static const char where[] = "normalizer";
    sy_status st = SY_OK;
    const json_t *list, *item;
    sy_normal_step *step = NULL;
    size_t i;
    if (sy_has_type(component, "NFC")) {
        SY_TRY(new_step(t, SY_NORMAL_NFC, &step));
        if (t->nfc.inert == NULL) SY_TRY(sy_nfc_init(&t->nfc));
    } else if (sy_has_type(component, "Prepend")) {
        SY_TRY(new_step(t, SY_NORMAL_PREPEND, &step));
        step->moves = true;
        SY_TRY(read_step_text(component, "normalizer Prepend", "prepend", &step->text));
    } else if (sy_has_type(component, "Replace")) {
        SY_TRY(read_replace(component, t));
    } else if (sy_has_type(component, "Sequence")) {
        SY_TRY(sy_sequence_list(component, where, "normalizers", &list));
        json_array_foreach(list, i, item) SY_TRY(read_normal_step(item, t));
    } else {
        SY_TRY(sy_unsupported_type(where, component));
    }
done:
    return st;
}

sy_status sy_read_normalizer(const json_t *root, sy_tokenizer *t) {
    const json_t *component = json_object_get(root, "normalizer");
    if (component == NULL || json_is_null(component)) return SY_OK;
    return read_normal_step(component, t);
}

/* ---- pre_tokenizer ---- */

static sy_status new_stage(sy_tokenizer *t, sy_stage_kind kind, sy_stage **stage) {
    if (t->n_stages == SY_MAX_STAGES)
        return sy_fail(SY_ERR_UNSUPPORTED, "pre_tokenizer: more than %d components",
                       SY_MAX_STAGES);
    *stage = &t->stage[t->n_stages++];
    **stage = (sy_stage){.kind = kind, .behavior = SY_SPLIT_ISOLATED};
    return SY_OK;
}

static sy_status read_behavior(const json_t *component, sy_split_behavior *out) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = NULL;
    sy_status st = sy_json_get_string(component, "pre_tokenizer Split", "behavior", &name);
    if (st != SY_OK) return st;
    for (int i = 0; name != NULL && i < 5; i++)
        if (strcmp(names[i], name) == 0) {
            *out = (sy_split_behavior)i; /* in the order of the enumeration */
            return SY_OK;
        }
    return sy_fail(SY_ERR_UNSUPPORTED, "pre_tokenizer Split: behavior \"%.100s\" is not known",
                   name != NULL ? name : "");
}

static sy_status read_split(const json_t *component, sy_tokenizer *t) {
    static const char where[] = "pre_tokenizer Split";
    sy_status st = SY_OK;
    sy_stage *stage = NULL;
    const char *text;
    size_t size;
    bool literal;
    SY_TRY(read_pattern(component, where, &text, &size, &literal));
    SY_TRY(new_stage(t, SY_STAGE_SPLIT, &stage));
    SY_TRY(sy_json_get_bool(component, where, "invert", &stage->invert));
    SY_TRY(read_behavior(component, &stage->behavior));
    SY_TRY(sy_pattern_compile(text, size, literal, &stage->pattern));
done:
    return st;
}

static sy_status read_digits(const json_t *component, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_stage *stage = NULL;
    bool individual = false;
    SY_TRY(
        sy_json_get_bool(component, "pre_tokenizer Digits", "individual_digits", &individual));
    SY_TRY(new_stage(t, SY_STAGE_SPLIT, &stage));
    stage->behavior = individual ? SY_SPLIT_ISOLATED : SY_SPLIT_CONTIGUOUS;
    SY_TRY(sy_pattern_compile("\\p{N}", 5, false, &stage->pattern));
done:
    return st;
}

static sy_status read_byte_level(const json_t *component, sy_tokenizer *t) {
    static const char where[] = "pre_tokenizer ByteLevel";
    sy_status st = SY_OK;
    sy_stage *stage = NULL;
    bool prefix = true, use_regex = true;
    SY_TRY(sy_json_get_bool(component, where, "add_prefix_space", &prefix));
    SY_TRY(sy_json_get_bool(component, where, "use_regex", &use_regex));
    if (prefix) {
        SY_TRY(new_stage(t, SY_STAGE_REWRITE, &stage));
        stage->prefix = SY_PREFIX_ALWAYS;
        stage->space[0] = ' ';
    }
    if (use_regex) {
        SY_TRY(new_stage(t, SY_STAGE_SPLIT, &stage));
        SY_TRY(
            sy_pattern_compile(gpt2_pattern, sizeof gpt2_pattern - 1, false, &stage->pattern));
    }
done:
    return st;
}

sy_status sy_read_metaspace(const json_t *component,
                            const char *where,
                            char replacement[5],
                            sy_prefix_when *prefix,
                            bool *split) {
    static const char *const schemes[] = {"never", "first", "always"};
    sy_status st = SY_OK;
    const char *scheme = "always";
    bool add_prefix = true;
    SY_TRY(sy_json_get_character(component, where, "replacement", replacement));
    SY_TRY(sy_json_get_string(component, where, "prepend_scheme", &scheme));
    SY_TRY(sy_json_get_bool(component, where, "split", split));
    SY_TRY(sy_json_get_bool(component, where, "add_prefix_space", &add_prefix));
    int i = 0;
    while (i < 3 && strcmp(schemes[i], scheme) != 0)
        i++;
    if (i == 3)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: prepend_scheme \"%.100s\" is not known", where,
                scheme);
    *prefix = (sy_prefix_when)i; /* in the order of the enumeration */
    /* Files from before prepend_scheme say it with the older key. */
    if (!add_prefix) {
        if (json_object_get(component, "prepend_scheme") != NULL && *prefix != SY_PREFIX_NEVER)
            SY_FAIL(SY_ERR_FORMAT, "%s: \"add_prefix_space\" contradicts \"prepend_scheme\"",
                    where);
        *prefix = SY_PREFIX_NEVER;
    }
done:
    return st;
}

/* Whether the pieces that reach a stage begin where they begin in the original text. The library
 * asks for the latter, which is not kept here. */
static bool keeps_places(const sy_tokenizer *t, const sy_stage *stage) {
    for (int i = 0; i < t->n_normal; i++)
        if (t->normal[i].moves) return false;
    for (const sy_stage *earlier = t->stage; earlier < stage; earlier++)
        if (earlier->kind == SY_STAGE_REWRITE && earlier->prefix != SY_PREFIX_NEVER)
            return false;
    return true;
}

static sy_status read_metaspace(const json_t *component, sy_tokenizer *t) {
    static const char where[] = "pre_tokenizer Metaspace";
    sy_status st = SY_OK;
    sy_stage *stage = NULL;
    char replacement[5];
    bool split = true;
    SY_TRY(new_stage(t, SY_STAGE_REWRITE, &stage));
    SY_TRY(sy_read_metaspace(component, where, replacement, &stage->prefix, &split));
    if (stage->prefix == SY_PREFIX_FIRST && !keeps_places(t, stage))
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: prepend_scheme \"first\" is not implemented behind something that "
                "changes how many characters there are",
                where);
    memcpy(stage->space, replacement, sizeof replacement);
    if (split) {
        SY_TRY(new_stage(t, SY_STAGE_SPLIT, &stage));
        stage->behavior = SY_SPLIT_MERGED_WITH_NEXT;
        SY_TRY(sy_pattern_compile(replacement, strlen(replacement), true, &stage->pattern));
    }
done:
    return st;
}

static sy_status read_stage(const json_t *component, sy_tokenizer *t) {
    static const char where[] = "pre_tokenizer";
    sy_status st = SY_OK;
    const json_t *list, *item;
    size_t i;
    if (sy_has_type(component, "Sequence")) {
        SY_TRY(sy_sequence_list(component, where, "pretokenizers", &list));
        json_array_foreach(list, i, item) SY_TRY(read_stage(item, t));
        goto done;
    }
    /* ByteLevel turns text into its alphabet, which no pattern is written for. */
    if (t->vocabulary.spelling == SY_SPELT_IN_ALPHABET)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: a component after ByteLevel is not implemented",
                where);
    if (sy_has_type(component, "ByteLevel")) {
        t->vocabulary.spelling = SY_SPELT_IN_ALPHABET;
        SY_TRY(read_byte_level(component, t));
    } else if (sy_has_type(component, "Split")) {
        SY_TRY(read_split(component, t));
    } else if (sy_has_type(component, "Digits")) {
        SY_TRY(read_digits(component, t));
    } else if (sy_has_type(component, "Metaspace")) {
        SY_TRY(read_metaspace(component, t));
    } else {
        SY_TRY(sy_unsupported_type(where, component));
    }
done:
    return st;
}

sy_status sy_read_pre_tokenizer(const json_t *root, sy_tokenizer *t) {
    const json_t *component = json_object_get(root, "pre_tokenizer");
    t->vocabulary.spelling = SY_SPELT_AS_TEXT;
    if (component == NULL || json_is_null(component)) return SY_OK;
    return read_stage(component, t);
}

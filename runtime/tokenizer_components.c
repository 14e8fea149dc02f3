/* The components of a tokenizer.json around the model: normalizer, pre_tokenizer, post_processor
 * and decoder. A type that is not known here is refused by its name. */
#include "runtime/tokenizer_parts.h"

/* What ByteLevel's use_regex splits by (GPT-2). */
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+"
                                   "| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static bool has_type(const json_t *component, const char *type) {
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

/* The list of a Sequence; anything else is an error. */
static sy_status
sequence_list(const json_t *sequence, const char *where, const char *key, const json_t **list) {
    *list = json_object_get(sequence, key);
    if (!json_is_array(*list))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected an array, found %s", where, key,
                       sy_json_type_name(*list));
    return SY_OK;
}

/* ---- normalizer ---- */

static sy_status read_normalizer(const json_t *component, sy_tokenizer *t) {
    static const char where[] = "normalizer";
    sy_status st = SY_OK;
    const json_t *list, *item;
    size_t i;
    if (component == NULL || json_is_null(component)) return SY_OK;
    if (has_type(component, "NFC")) {
        t->use_nfc = true;
        return SY_OK;
    }
    if (!has_type(component, "Sequence")) return sy_unsupported_type(where, component);
    SY_TRY(sequence_list(component, where, "normalizers", &list));
    json_array_foreach(list, i, item) SY_TRY(read_normalizer(item, t));
done:
    return st;
}

/* ---- pre_tokenizer ---- */

static sy_status new_stage(sy_tokenizer *t, sy_stage **stage) {
    if (t->n_stages == SY_MAX_STAGES)
        return sy_fail(SY_ERR_UNSUPPORTED, "pre_tokenizer: more than %d components",
                       SY_MAX_STAGES);
    *stage = &t->stage[t->n_stages++];
    **stage = (sy_stage){.behavior = SY_SPLIT_ISOLATED};
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
    sy_status st = SY_OK;
    sy_stage *stage = NULL;
    const json_t *pattern = json_object_get(component, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *string = json_object_get(pattern, "String");
    const json_t *text = regex != NULL ? regex : string;
    if (!json_is_string(text) || json_object_size(pattern) != 1)
        SY_FAIL(SY_ERR_FORMAT, "pre_tokenizer Split: \"pattern\": expected an object with the "
                               "string \"Regex\" or \"String\"");
    SY_TRY(new_stage(t, &stage));
    SY_TRY(sy_json_get_bool(component, "pre_tokenizer Split", "invert", &stage->invert));
    SY_TRY(read_behavior(component, &stage->behavior));
    SY_TRY(sy_pattern_compile(json_string_value(text), json_string_length(text), text == string,
                              &stage->code, &stage->jit));
done:
    return st;
}

static sy_status read_digits(const json_t *component, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_stage *stage = NULL;
    bool individual = false;
    SY_TRY(
        sy_json_get_bool(component, "pre_tokenizer Digits", "individual_digits", &individual));
    SY_TRY(new_stage(t, &stage));
    stage->behavior = individual ? SY_SPLIT_ISOLATED : SY_SPLIT_CONTIGUOUS;
    SY_TRY(sy_pattern_compile("\\p{N}", 5, false, &stage->code, &stage->jit));
done:
    return st;
}

static sy_status read_byte_level(const json_t *component, sy_tokenizer *t) {
    sy_status st = SY_OK;
    sy_stage *stage = NULL;
    bool prefix = true, use_regex = true;
    SY_TRY(sy_json_get_bool(component, "pre_tokenizer ByteLevel", "add_prefix_space", &prefix));
    SY_TRY(sy_json_get_bool(component, "pre_tokenizer ByteLevel", "use_regex", &use_regex));
    if (prefix) {
        SY_TRY(new_stage(t, &stage));
        stage->prefix_space = true;
    }
    if (use_regex) {
        SY_TRY(new_stage(t, &stage));
        SY_TRY(sy_pattern_compile(gpt2_pattern, sizeof gpt2_pattern - 1, false, &stage->code,
                                  &stage->jit));
    }
done:
    return st;
}

/* *bytes: ByteLevel has been seen, after which the text is no longer text. */
static sy_status read_pre_tokenizer(const json_t *component, sy_tokenizer *t, bool *bytes) {
    static const char where[] = "pre_tokenizer";
    sy_status st = SY_OK;
    const json_t *list, *item;
    size_t i;
    if (has_type(component, "Sequence")) {
        SY_TRY(sequence_list(component, where, "pretokenizers", &list));
        json_array_foreach(list, i, item) SY_TRY(read_pre_tokenizer(item, t, bytes));
        goto done;
    }
    if (*bytes)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: a component after ByteLevel is not implemented",
                where);
    if (has_type(component, "ByteLevel")) {
        *bytes = true;
        SY_TRY(read_byte_level(component, t));
    } else if (has_type(component, "Split")) {
        SY_TRY(read_split(component, t));
    } else if (has_type(component, "Digits")) {
        SY_TRY(read_digits(component, t));
    } else {
        SY_TRY(sy_unsupported_type(where, component));
    }
done:
    return st;
}

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
    SY_TRY(sequence_list(component, where, "single", &list));
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

static sy_status read_post_processor(const json_t *component, int64_t max_id, sy_tokenizer *t) {
    static const char where[] = "post_processor";
    sy_status st = SY_OK;
    const json_t *list, *item;
    size_t i;
    if (component == NULL || json_is_null(component)) return SY_OK;
    if (has_type(component, "ByteLevel")) return SY_OK; /* moves offsets only */
    if (has_type(component, "TemplateProcessing")) {
        if (t->before.n > 0 || t->after.n > 0)
            return sy_fail(SY_ERR_UNSUPPORTED, "%s: two templates are not implemented", where);
        return read_template(component, max_id, t);
    }
    if (!has_type(component, "Sequence")) return sy_unsupported_type(where, component);
    SY_TRY(sequence_list(component, where, "processors", &list));
    json_array_foreach(list, i, item) SY_TRY(read_post_processor(item, max_id, t));
done:
    return st;
}

/* ---- decoder ---- */

static sy_status read_decoder(const json_t *component, int *n_byte_levels) {
    static const char where[] = "decoder";
    sy_status st = SY_OK;
    const json_t *list, *item;
    size_t i;
    if (has_type(component, "ByteLevel")) {
        ++*n_byte_levels;
        return SY_OK;
    }
    if (!has_type(component, "Sequence")) return sy_unsupported_type(where, component);
    SY_TRY(sequence_list(component, where, "decoders", &list));
    json_array_foreach(list, i, item) SY_TRY(read_decoder(item, n_byte_levels));
done:
    return st;
}

sy_status sy_read_components(const json_t *root, int64_t max_id, sy_tokenizer *t) {
    sy_status st = SY_OK;
    bool bytes = false;
    int n_byte_levels = 0;
    SY_TRY(read_normalizer(json_object_get(root, "normalizer"), t));
    SY_TRY(read_pre_tokenizer(json_object_get(root, "pre_tokenizer"), t, &bytes));
    if (!bytes)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "pre_tokenizer: only byte-level tokenizers are implemented, "
                "and there is no ByteLevel component");
    SY_TRY(read_post_processor(json_object_get(root, "post_processor"), max_id, t));
    SY_TRY(read_decoder(json_object_get(root, "decoder"), &n_byte_levels));
    if (n_byte_levels != 1)
        SY_FAIL(SY_ERR_UNSUPPORTED, "decoder: expected one ByteLevel, found %d", n_byte_levels);
done:
    return st;
}

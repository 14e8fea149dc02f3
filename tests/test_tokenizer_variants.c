/* timeout: 120
 *
 * The components of tokenizer.json one by one, against the ids that the Hugging Face library gives
 * (tests/data/tokenizers/variants.json); and how patterns are translated for PCRE2. */
#include "tests/tokenizer_cases.h"

/* A copy of the base with some members replaced; those of "model" one by one. */
static json_t *changed_base(const json_t *base, json_t *change) {
    json_t *root = json_deep_copy(base), *model = json_object_get(change, "model");
    if (model != NULL) json_object_update(json_object_get(root, "model"), model);
    const char *key;
    json_t *value;
    json_object_foreach(change, key, value) if (strcmp(key, "model") != 0)
        json_object_set(root, key, value);
    return root;
}

static bool same_as_listed(const sy_ids *ids, const json_t *list) {
    bool same = json_array_size(list) == ids->n;
    for (size_t i = 0; same && i < ids->n; i++)
        same = json_integer_value(json_array_get(list, i)) == ids->id[i];
    return same;
}

static void
expect_ids(const char *name, const char *text, const json_t *want, const sy_ids *have) {
    if (same_as_listed(have, want)) return;
    char *expected = json_dumps(want, 0);
    print_message("%s: \"%s\": expected %s, found", name, text, expected);
    for (size_t i = 0; i < have->n; i++)
        print_message(" %d", have->id[i]);
    print_message("\n");
    free(expected);
    fail();
}

static void expect_text(const char *name, const json_t *want, const sy_text *have) {
    if (json_is_null(want)) return;
    if (!same_text(have, json_string_value(want), json_string_length(want)))
        fail_msg("%s: expected the text \"%s\", found \"%.*s\"", name, json_string_value(want),
                 (int)have->n, have->data);
}

/* [text, ids, decoded text or null, ids with what the post-processor adds if that differs] */
static void check_case(const char *name, const sy_tokenizer *t, const json_t *item) {
    const json_t *text = json_array_get(item, 0), *want = json_array_get(item, 1);
    const json_t *whole = json_array_size(item) > 3 ? json_array_get(item, 3) : want;
    const char *bytes = json_string_value(text);
    size_t size = json_string_length(text);
    sy_ids ids = encode(t, bytes, size, 0);
    sy_ids added = encode(t, bytes, size, SY_ENCODE_ADD_SPECIAL);
    sy_text visible = decode(t, &ids, true);
    expect_ids(name, bytes, want, &ids);
    expect_ids(name, bytes, whole, &added);
    expect_text(name, json_array_get(item, 2), &visible);
    sy_ids_free(&ids);
    sy_ids_free(&added);
    sy_text_free(&visible);
}

/* [ids, text] */
static void check_decode(const char *name, const sy_tokenizer *t, const json_t *item) {
    sy_ids ids = {0};
    json_t *id;
    size_t i;
    json_array_foreach(json_array_get(item, 0), i, id)
        assert_int_equal(sy_ids_append(&ids, (int32_t)json_integer_value(id)), SY_OK);
    sy_text text = decode(t, &ids, true);
    expect_text(name, json_array_get(item, 1), &text);
    sy_ids_free(&ids);
    sy_text_free(&text);
}

static void check_variant(const json_t *base, const json_t *variant) {
    const char *name = json_string_value(json_object_get(variant, "name"));
    json_t *root = changed_base(base, json_object_get(variant, "change")), *item;
    size_t i;
    sy_tokenizer *t = NULL;
    if (sy_tokenizer_from_json(root, NULL, 0, &t) != SY_OK)
        fail_msg("%s: %s", name, sy_last_error());
    json_array_foreach(json_object_get(variant, "cases"), i, item) check_case(name, t, item);
    json_array_foreach(json_object_get(variant, "decodes"), i, item)
        check_decode(name, t, item);
    sy_tokenizer_destroy(t);
    json_decref(root);
}

static void variants_give_the_reference_ids(void **state) {
    (void)state;
    json_t *groups = parse_data("variants.json"), *group, *variant;
    size_t i, k, n = 0;
    json_array_foreach(groups, i, group) {
        json_array_foreach(json_object_get(group, "variants"), k, variant) {
            check_variant(json_object_get(group, "base"), variant);
            n++;
        }
    }
    assert_true(n >= 90);
    json_decref(groups);
}

/* ---- patterns ---- */

static void patterns_are_translated_or_refused_by_name(void **state) {
    (void)state;
    static const char *const same[] = {"a|b",          "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+",
                                       "(?i:'s|'t)?",  "\\p{N}{1,3}",
                                       "x{2,}?",       "(?<=a)b(?!c)",
                                       "[a-z\\-\\]]+", "\xe4\xb8\x80",
                                       "a++b*+c?+",    "\\x{1F600}",
                                       "\\.\\*"};
    static const char *const refused[] = {"\\w",         "\\b",
                                          "\\h",         "\\u0041",
                                          "a{,3}",       "a{1,2}+",
                                          "a{2}?",       "(?m:a)",
                                          "\\K",         "\\G",
                                          "(?R)",        "(?C1)",
                                          "(*UTF)",      "[A&&[^b]]",
                                          "[[:alpha:]]", "^a",
                                          "a$",          "(?<n>a)",
                                          "\\1",         "[]a]",
                                          "[^]a]",       "\\p{Alphabetic}",
                                          "\\pL",        "\\p{L",
                                          "[a",          "\\",
                                          "\\x80",       "(?i)a",
                                          "(?#x)",       "[\\b]",
                                          "\\X",         "\\R"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        sy_text out = {0};
        assert_int_equal(sy_pattern_translate(same[i], strlen(same[i]), &out), SY_OK);
        assert_true(same_text(&out, same[i], strlen(same[i])));
        sy_text_free(&out);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        sy_text out = {0};
        sy_status st = sy_pattern_translate(refused[i], strlen(refused[i]), &out);
        if (st != SY_ERR_UNSUPPORTED) fail_msg("%s is not refused", refused[i]);
        assert_non_null(strstr(sy_last_error(), "regular expression"));
        sy_text_free(&out);
    }
    sy_text out = {0};
    const char *source = "\\s[^\\s\\p{Han}]\\P{^Latin}\\v";
    assert_int_equal(sy_pattern_translate(source, strlen(source), &out), SY_OK);
    const char *want = "[\\x09-\\x0d\\x{85}\\p{Z}][^\\x09-\\x0d\\x{85}\\p{Z}\\p{sc:Han}]"
                       "\\p{sc:Latin}\\x0b";
    assert_true(same_text(&out, want, strlen(want)));
    sy_text_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(variants_give_the_reference_ids),
        cmocka_unit_test(patterns_are_translated_or_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

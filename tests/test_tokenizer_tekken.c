/* tekken.json: what of it takes part, how its special tokens are made and found, and files that are
 * refused. */
#include "tests/tokenizer_ranks.h"

#define CONFIG(size, specials, version)                                                        \
    "\"config\":{\"pattern\":\"[a-z]+|[^a-z]\",\"default_vocab_size\":" #size                  \
    ",\"default_num_special_tokens\":" #specials ",\"version\":\"" version "\"}"
#define SPECIALS                                                                               \
    "\"special_tokens\":[{\"rank\":0,\"token_str\":\"<s>\"},{\"rank\":1,\"token_str\":\"ab\"}" \
    "]"

/* The members of a file, with "vocab" in the place of a lone V. */
static sy_text tekken_file(const char *members) {
    sy_text out = {0};
    char number[32];
    put(&out, "{");
    for (; *members != '\0'; members++) {
        if (*members != 'V') {
            assert_int_equal(sy_text_append(&out, members, 1), SY_OK);
            continue;
        }
        put(&out, "\"vocab\":[");
        for (int rank = 0; rank < N_TOKENS; rank++) {
            snprintf(number, sizeof number, "%s{\"rank\":%d,", rank > 0 ? "," : "", rank);
            put(&out, number);
            put(&out, "\"token_bytes\":\"");
            put_token(&out, rank);
            put(&out, rank == 0 ? "\",\"token_str\":\"\\u0000\"}" : "\",\"token_str\":null}");
        }
        put(&out, "]");
    }
    put(&out, "}");
    return out;
}

static sy_status read_tekken(const char *members, int64_t max_id, sy_tokenizer **t) {
    sy_text file = tekken_file(members);
    sy_status st = sy_tokenizer_from_tekken(file.data, file.n, max_id, t);
    sy_text_free(&file);
    return st;
}

static sy_tokenizer *make_tekken(const char *members) {
    sy_tokenizer *t = NULL;
    if (read_tekken(members, 0, &t) != SY_OK) fail_msg("%s: %s", members, sy_last_error());
    return t;
}

/* Ids are 10 + rank: 'a' 107, 'b' 108, 'c' 109, "ab" 266, "bc" 267, "abc" 268, "cab" 270. */
static void merges_follow_the_ranks_of_what_they_make(void **state) {
    (void)state;
    sy_tokenizer *t = make_tekken(CONFIG(271, 10, "v11") "," SPECIALS ",V");
    CHECK_IDS(t, "ab", 0, 266);
    CHECK_IDS(t, "abc", 0, 268);
    CHECK_IDS(t, "cab", 0, 270);
    CHECK_IDS(t, "abcb", 0, 268, 108);
    CHECK_IDS(t, "bcab", 0, 267, 266); /* ab first, then bc; c and ab are never neighbours */
    CHECK_IDS(t, "cabcab", 0, 109, 268, 266);
    CHECK_IDS(t, "ab ab", 0, 266, 42, 266);
    /* A token that no merges make is found as a whole pre-token only. */
    CHECK_IDS(t, "xyzw", 0, 269);
    CHECK_IDS(t, "xyzwx", 0, 130, 131, 132, 129, 130);
    assert_int_equal(sy_tokenizer_n_ids(t), 271);
    sy_tokenizer_destroy(t);
}

static void entries_beyond_the_vocabulary_size_take_no_part(void **state) {
    (void)state;
    sy_tokenizer *t = make_tekken("V," CONFIG(268, 10, "v13") "," SPECIALS);
    CHECK_IDS(t, "abc", 0, 266, 109);
    assert_int_equal(sy_tokenizer_n_ids(t), 268);
    assert_int_equal(sy_tokenizer_token_id(t, "abc", 3), -1);
    sy_tokenizer_destroy(t);
}

static void the_order_of_members_does_not_matter(void **state) {
    (void)state;
    sy_tokenizer *t = make_tekken(
        "\"image\":{\"a\":[1,{}]},V,\"special_tokens\":null," CONFIG(281, 20, "v3"));
    CHECK_IDS(t, "abc", 0, 278);
    sy_tokenizer_destroy(t);
}

static void special_tokens_are_found_on_request_only(void **state) {
    (void)state;
    sy_tokenizer *t = make_tekken(CONFIG(271, 10, "v11") "," SPECIALS ",V");
    CHECK_IDS(t, "<s>", 0, 70, 125, 72);
    CHECK_IDS(t, "<s>", SY_ENCODE_ADD_SPECIAL, 0, 70, 125, 72);
    CHECK_IDS(t, "<s>c", SY_ENCODE_TEMPLATE, 0, 109);
    CHECK_IDS(t, "<SPECIAL_9>c", SY_ENCODE_TEMPLATE, 9, 109);
    CHECK_IDS(t, "<s>", SY_ENCODE_TEMPLATE | SY_ENCODE_NO_SPECIALS, 70, 125, 72);
    /* A special token may have the bytes of an ordinary one. */
    CHECK_IDS(t, "abc", SY_ENCODE_TEMPLATE, 1, 109);
    assert_int_equal(sy_tokenizer_token_id(t, "ab", 2), 1);
    assert_int_equal(sy_tokenizer_token_id(t, "bc", 2), 267);
    assert_true(sy_tokenizer_is_special(t, 1));
    assert_false(sy_tokenizer_is_special(t, 266));
    sy_ids ids = {.id = (int32_t[]){0, 268, 1, 9}, .n = 4};
    sy_text all = decode(t, &ids, false), visible = decode(t, &ids, true);
    assert_true(same_text(&all, "<s>abcab<SPECIAL_9>", 19));
    assert_true(same_text(&visible, "abc", 3));
    sy_text_free(&all);
    sy_text_free(&visible);
    sy_tokenizer_destroy(t);
}

static void old_versions_have_default_special_tokens(void **state) {
    (void)state;
    sy_tokenizer *t = make_tekken(CONFIG(284, 23, "v7") ",V");
    assert_int_equal(sy_tokenizer_token_id(t, "[INST]", 6), 3);
    assert_int_equal(sy_tokenizer_token_id(t, "[TOOL_CONTENT]", 14), 19);
    assert_int_equal(sy_tokenizer_token_id(t, "<SPECIAL_20>", 12), 20);
    assert_int_equal(sy_tokenizer_token_id(t, "<SPECIAL_19>", 12), -1);
    assert_int_equal(sy_tokenizer_bos(t), 1);
    assert_int_equal(sy_tokenizer_eos(t), 2);
    sy_tokenizer_destroy(t);
}

static void text_that_the_pattern_leaves_out_vanishes(void **state) {
    (void)state;
    sy_tokenizer *t = make_tekken(
        "\"config\":{\"pattern\":\"[a-z]+\",\"default_vocab_size\":271,\"version\":\"v1\","
        "\"default_num_special_tokens\":10},\"special_tokens\":[],V");
    CHECK_IDS(t, "ab, c!", 0, 266, 109);
    assert_int_equal(sy_tokenizer_bos(t), -1);
    assert_int_equal(sy_tokenizer_eos(t), -1);
    sy_tokenizer_destroy(t);
}

static void hostile_tekken_files_are_refused_with_a_message(void **state) {
    (void)state;
    static const struct {
        const char *members, *message;
    } table[] = {
        {"", "there is no \"config\""},
        {"V", "there is no \"config\""},
        {"\"config\":3,V", "expected an object, found a number"},
        {"\"config\":{},V", "there is no \"pattern\""},
        {"\"config\":{\"pattern\":\"a\"},V", "there is no \"version\""},
        {"\"config\":{\"pattern\":null},V", "expected a string"},
        {"\"config\":{\"pattern\":\"a\",\"version\":\"v3\"},V", "no \"default_vocab_size\""},
        {"\"config\":{\"pattern\":\"a\",\"pattern\":\"a\"},V",
         "config: \"pattern\" occurs twice"},
        {CONFIG(271, 10, "v11") ",V", "version v11 requires them"},
        {CONFIG(271, 10, "v12") "," SPECIALS ",V", "version \"v12\" is not known"},
        {CONFIG(271, 10, "3") "," SPECIALS ",V", "version \"3\" is not known"},
        {CONFIG(272, 10, "v11") "," SPECIALS ",V", "at least 262 entries, found 261"},
        {CONFIG(265, 10, "v11") "," SPECIALS ",V", "at least 256 more"},
        {CONFIG(100, 200, "v11") "," SPECIALS ",V", "at least 256 more"},
        {CONFIG(18446744073709551615, 10, "v11") "," SPECIALS ",V", "expected at most 5000"},
        {CONFIG(18446744073709551616, 10, "v11") "," SPECIALS ",V", "2^64-1"},
        {CONFIG(271, -1, "v11") "," SPECIALS ",V", "unsigned integer"},
        {CONFIG(271, 10.0, "v11") "," SPECIALS ",V", "real number"},
        {CONFIG(262, 1, "v11") "," SPECIALS ",V", "expected at most 1, found 2"},
        {CONFIG(271, 10, "v11") "," SPECIALS, "at least 261 entries, found 0"},
        {CONFIG(271, 10, "v11") "," SPECIALS ",V,V", "\"vocab\" occurs twice"},
        {CONFIG(271, 10, "v11") "," CONFIG(271, 10, "v11") ",V", "\"config\" occurs twice"},
        {CONFIG(271, 10, "v11") "," SPECIALS "," SPECIALS ",V", "occurs twice"},
        {CONFIG(271, 10, "v11") ",\"special_tokens\":{},V", "expected an array"},
        {CONFIG(271, 10, "v11") ",\"special_tokens\":[{\"rank\":1,\"token_str\":\"a\"}],V",
         "special_tokens: entry 0: expected the rank 0, found 1"},
        {CONFIG(271, 10, "v11") ",\"special_tokens\":[{\"token_str\":\"a\"}],V", "the rank 0"},
        {CONFIG(271, 10, "v11") ",\"special_tokens\":[{\"rank\":0}],V", "no \"token_str\""},
        {CONFIG(271, 10, "v11") ",\"special_tokens\":[{\"rank\":0,\"rank\":0}],V",
         "special_tokens: entry 0: \"rank\" occurs twice"},
        {CONFIG(271, 10, "v11") ",\"special_tokens\":[{\"rank\":0,\"token_str\":\"a\",\"token_"
                                "str\":\"a\"}]",
         "\"token_str\" occurs twice"},
        {"\"image\":[1,],V", "tekken.json byte"},
        {CONFIG(271, 10, "v11") ",\"special_tokens\":[{\"rank\":0,\"token_str\":\"\"}],V",
         "the special token 0 is empty"},
        {CONFIG(271, 10, "v11") ",\"special_tokens\":[{\"rank\":0,\"token_str\":"
                                "\"<SPECIAL_4>\"}],V",
         "the tokens 0 and 4 are the same"},
        {CONFIG(271, 10, "v11") "," SPECIALS ",\"vocab\":[{\"rank\":1}]", "vocab: entry 0"},
        {CONFIG(271, 10, "v11") "," SPECIALS ",\"vocab\":[{\"rank\":0}]", "no \"token_bytes\""},
        {CONFIG(271, 10, "v11") "," SPECIALS ",\"vocab\":[{\"rank\":0,\"token_bytes\":7}]",
         "expected a string, found a number"},
        {CONFIG(271, 10, "v11") "," SPECIALS ",V}", "nothing but whitespace"},
        {CONFIG(271, 10, "v11") "," SPECIALS ",V,\"\xff\":1", "not valid UTF-8"},
        {"\"config\":{\"pattern\":\"\\\\w\",\"default_vocab_size\":271,\"version\":\"v1\","
         "\"default_num_special_tokens\":10},\"special_tokens\":[],V",
         "regular expression"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sy_tokenizer *t = NULL;
        sy_status st = read_tekken(table[i].members, 5000, &t);
        if (st != SY_ERR_FORMAT && st != SY_ERR_UNSUPPORTED)
            fail_msg("%s: %s", table[i].members, sy_status_name(st));
        if (strstr(sy_last_error(), table[i].message) == NULL)
            fail_msg("%s: the message is \"%s\"", table[i].members, sy_last_error());
        assert_null(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_follow_the_ranks_of_what_they_make),
        cmocka_unit_test(entries_beyond_the_vocabulary_size_take_no_part),
        cmocka_unit_test(the_order_of_members_does_not_matter),
        cmocka_unit_test(special_tokens_are_found_on_request_only),
        cmocka_unit_test(old_versions_have_default_special_tokens),
        cmocka_unit_test(text_that_the_pattern_leaves_out_vanishes),
        cmocka_unit_test(hostile_tekken_files_are_refused_with_a_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

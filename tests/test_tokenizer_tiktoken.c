/* tiktoken.model and the tokenizer_config.json beside it: special tokens, where long texts are cut,
 * and files that are refused. */
#include "tests/tokenizer_ranks.h"

/* Lines for all tokens; those from `from` on are replaced by `rest`. */
static sy_text tiktoken_file(int from, const char *rest) {
    sy_text out = {0};
    char number[32];
    for (int rank = 0; rank < from; rank++) {
        put_token(&out, rank);
        snprintf(number, sizeof number, " %d\n", rank);
        put(&out, number);
    }
    put(&out, rest);
    return out;
}

static sy_status read_tiktoken(int from,
                               const char *rest,
                               const char *config,
                               int64_t max_id,
                               sy_tokenizer **t) {
    sy_text file = tiktoken_file(from, rest);
    json_t *root = config != NULL ? parse(config, strlen(config)) : NULL;
    sy_status st = sy_tokenizer_from_tiktoken(file.data, file.n, root, max_id, t);
    sy_text_free(&file);
    json_decref(root);
    return st;
}

static sy_tokenizer *make_tiktoken(const char *config, int64_t max_id) {
    sy_tokenizer *t = NULL;
    if (read_tiktoken(N_TOKENS, "", config, max_id, &t) != SY_OK)
        fail_msg("%s", sy_last_error());
    return t;
}

#define NAMED(members) "{\"added_tokens_decoder\":{" members "}}"

/* The first special id is 261. */
static void special_tokens_fill_256_ids_behind_the_ranks(void **state) {
    (void)state;
    sy_tokenizer *t = make_tiktoken(
        NAMED("\"261\":{\"content\":\"[BOS]\",\"special\":true},\"263\":{\"content\":\"<x>\"},"
              "\"517\":{\"content\":\"<y>\",\"special\":true},\"600\":{\"content\":\"<z>\"}"),
        0);
    assert_int_equal(sy_tokenizer_n_ids(t), 518); /* 261 + 256, and one that is named */
    assert_int_equal(sy_tokenizer_token_id(t, "[BOS]", 5), 261);
    assert_int_equal(sy_tokenizer_token_id(t, "<|reserved_token_262|>", 22), 262);
    assert_int_equal(sy_tokenizer_token_id(t, "<|reserved_token_516|>", 22), 516);
    assert_int_equal(sy_tokenizer_token_id(t, "<|reserved_token_263|>", 22), -1);
    assert_int_equal(sy_tokenizer_token_id(t, "<z>", 3), -1);
    assert_true(sy_tokenizer_is_special(t, 261));
    assert_true(sy_tokenizer_is_special(t, 262));
    assert_false(sy_tokenizer_is_special(t, 263));
    CHECK_IDS(t, "[BOS]ab<x>", 0, 261, 256, 263);
    CHECK_IDS(t, "<x>", SY_ENCODE_NO_SPECIALS, '<', 'x', '>');
    CHECK_IDS(t, "ab<|reserved_token_300|>", 0, 256, 300);
    sy_tokenizer_destroy(t);
}

static void special_tokens_stop_at_the_models_vocabulary(void **state) {
    (void)state;
    sy_tokenizer *t = make_tiktoken(NULL, 300);
    assert_int_equal(sy_tokenizer_n_ids(t), 300);
    sy_tokenizer_destroy(t);
    t = make_tiktoken(NULL, 261);
    assert_int_equal(sy_tokenizer_n_ids(t), 261);
    sy_tokenizer_destroy(t);
}

static void bos_is_added_if_the_configuration_says_so(void **state) {
    (void)state;
    sy_tokenizer *t =
        make_tiktoken("{\"add_bos_token\":true,\"bos_token\":\"[BOS]\","
                      "\"added_tokens_decoder\":{\"261\":{\"content\":\"[BOS]\"}}}",
                      0);
    assert_int_equal(sy_tokenizer_bos(t), 261);
    CHECK_IDS(t, "ab", SY_ENCODE_ADD_SPECIAL, 261, 256);
    sy_tokenizer_destroy(t);
}

static void hostile_tiktoken_files_are_refused_with_a_message(void **state) {
    (void)state;
    static const struct {
        int from; /* so many good lines, then `rest` */
        const char *rest, *config, *message;
    } table[] = {
        {0, "", NULL, "the byte 00 is not among the tokens"},
        {255, "", NULL, "the byte ff is not among the tokens"},
        {256, "YWI=", NULL, "line 257: expected a token in base64, a space and a rank"},
        {256, "YWI= ", NULL, "a rank from 0 to 256"},
        {256, "YWI= 256 ", NULL, "a rank from 0 to 256"},
        {256, "YWI=  256", NULL, "a rank from 0 to 256"},
        {256, "YWI= -1", NULL, "a rank from 0 to 256"},
        {256, "YWI= 257", NULL, "a rank from 0 to 256"},
        {256, "YWI= 99999999999999999999999999", NULL, "a rank from 0 to 256"},
        {256, "YWI= 255", NULL, "two tokens have the id 255"},
        {256, "YQ== 256", NULL, "the tokens 97 and 256 are the same"},
        {256, "YWI 256", NULL, "in base64"},
        {256, "YW*= 256", NULL, "in base64"},
        {256, "YWJ= 256", NULL, "in base64"}, /* unused bits are set */
        {256, "Y=== 256", NULL, "in base64"},
        {256, "YQ==YQ== 256", NULL, "in base64"},
        {256, " 256", NULL, "in base64"},
        {256, "\n\n\nYWI=\t256", NULL, "line 260"},
        {261, "", "{\"tokenizer_class\":\"QWenTokenizer\"}", "QWenTokenizer"},
        {261, "", "{\"added_tokens_decoder\":[]}", "expected an object, found array"},
        {261, "", NAMED("\"260\":{\"content\":\"x\"}"), "at least 261, found \"260\""},
        {261, "", NAMED("\"2x1\":{\"content\":\"x\"}"), "found \"2x1\""},
        {261, "", NAMED("\"\":{\"content\":\"x\"}"), "found \"\""},
        {261, "", NAMED("\"9999999999999999999999\":{}"), "found \"99999"},
        {261, "", NAMED("\"261\":{}"), "added_tokens_decoder, 261: \"content\""},
        {261, "", NAMED("\"261\":3"), "\"content\""},
        {261, "", NAMED("\"261\":{\"content\":\"\"}"), "is empty"},
        {261, "", NAMED("\"261\":{\"content\":\"x\",\"special\":1}"), "special"},
        {261, "", NAMED("\"261\":{\"content\":\"x\"},\"262\":{\"content\":\"x\"}"), "the same"},
        {261, "", "{\"add_bos_token\":true,\"bos_token\":\"[B]\"}", "[B]"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sy_tokenizer *t = NULL;
        sy_status st = read_tiktoken(table[i].from, table[i].rest, table[i].config, 0, &t);
        if (st != SY_ERR_FORMAT && st != SY_ERR_UNSUPPORTED)
            fail_msg("row %zu: %s", i, sy_status_name(st));
        if (strstr(sy_last_error(), table[i].message) == NULL)
            fail_msg("row %zu: the message is \"%s\"", i, sy_last_error());
        assert_null(t);
    }
    sy_tokenizer *t = NULL;
    assert_int_equal(read_tiktoken(N_TOKENS, "", NULL, 260, &t), SY_ERR_FORMAT);
    assert_non_null(strstr(sy_last_error(), "expected at most 260 tokens, found 261"));
}

static void ends_of_lines_may_be_those_of_dos(void **state) {
    (void)state;
    sy_tokenizer *t = NULL;
    assert_int_equal(read_tiktoken(256, "\r\nYWI= 257\r\n\r\nYmM= 256", NULL, 0, &t), SY_OK);
    CHECK_IDS(t, "abc", 0, 'a', 256);
    sy_tokenizer_destroy(t);
}

static void
check_chunk(const sy_tokenizer *t, const char *piece, size_t chars, size_t block, size_t want) {
    sy_text text = {0};
    size_t in_block = block;
    for (size_t i = 0; i < chars / 2; i++)
        put(&text, piece);
    size_t n = t->chunk(text.data, text.n, &in_block);
    if (n != want || in_block != block % 400000 + want * chars / text.n)
        fail_msg("%zu characters of \"%s\" behind %zu: cut after %zu bytes, expected %zu",
                 chars, piece, block, n, want);
    sy_text_free(&text);
}

/* Pieces of two characters. */
static void long_texts_are_cut_as_the_original_cuts_them(void **state) {
    (void)state;
    sy_tokenizer *t = make_tiktoken(NULL, 0);
    check_chunk(t, "aa", 25000, 0, 25000);
    check_chunk(t, "aa", 25002, 0, 25000);
    check_chunk(t, "aa", 25002, 7, 25000);
    check_chunk(t, "a ", 50000, 0, 50000);
    check_chunk(t, " \x1f", 25002, 0, 25000); /* white space to Python alone */
    check_chunk(t, " \x7f", 25002, 0, 25002);
    check_chunk(t, "\xc2\xa0\xe3\x80\x80", 25002, 0, 62500);
    check_chunk(t, "a ", 400002, 0, 400000);
    check_chunk(t, "a ", 400002, 399990, 10);
    check_chunk(t, "a ", 400002, 400000, 400000);
    sy_tokenizer_destroy(t);
}

static void a_token_of_excessive_length_is_refused(void **state) {
    (void)state;
    char bytes[SY_MAX_RANKED_LENGTH + 1];
    memset(bytes, 'x', sizeof bytes);
    for (size_t more = 0; more < 2; more++) {
        sy_text line = {0};
        sy_tokenizer *t = NULL;
        put_base64(&line, bytes, SY_MAX_RANKED_LENGTH + more);
        assert_int_equal(sy_text_append(&line, " 256", 5), SY_OK);
        assert_int_equal(read_tiktoken(256, line.data, NULL, 0, &t),
                         more ? SY_ERR_FORMAT : SY_OK);
        sy_tokenizer_destroy(t);
        sy_text_free(&line);
    }
}

/* All x...xy...y of up to 200 bytes can be split in 2.7 million ways, those of up to 240 in 4.6. */
static void tokens_that_can_be_split_in_too_many_ways_are_refused(void **state) {
    (void)state;
    static const int longest[] = {200, 240};
    for (int k = 0; k < 2; k++) {
        sy_text file = tiktoken_file(256, "");
        char bytes[512], number[32];
        int rank = 256;
        for (int size = 2; size <= longest[k]; size++) {
            for (int x = 0; x <= size; x++) {
                memset(bytes, 'x', (size_t)x);
                memset(bytes + x, 'y', (size_t)(size - x));
                put_base64(&file, bytes, (size_t)size);
                snprintf(number, sizeof number, " %d\n", rank++);
                put(&file, number);
            }
        }
        sy_tokenizer *t = NULL;
        sy_status st = sy_tokenizer_from_tiktoken(file.data, file.n, NULL, 0, &t);
        assert_int_equal(st, k == 0 ? SY_OK : SY_ERR_FORMAT);
        if (k > 0) assert_non_null(strstr(sy_last_error(), "in more than 4194304 ways"));
        sy_tokenizer_destroy(t);
        sy_text_free(&file);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(special_tokens_fill_256_ids_behind_the_ranks),
        cmocka_unit_test(special_tokens_stop_at_the_models_vocabulary),
        cmocka_unit_test(bos_is_added_if_the_configuration_says_so),
        cmocka_unit_test(hostile_tiktoken_files_are_refused_with_a_message),
        cmocka_unit_test(ends_of_lines_may_be_those_of_dos),
        cmocka_unit_test(long_texts_are_cut_as_the_original_cuts_them),
        cmocka_unit_test(a_token_of_excessive_length_is_refused),
        cmocka_unit_test(tokens_that_can_be_split_in_too_many_ways_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

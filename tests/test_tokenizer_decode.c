/* timeout: 120
 *
 * Ids to text: token by token and at once, half characters, what the decoders of byte fallback
 * vocabularies leave out; and text that is not valid UTF-8. */
#include "tests/tokenizer_cases.h"

#include "runtime/utf8.h"

static void invalid_utf8_encodes_as_its_replaced_form(void **state) {
    (void)state;
    static const struct {
        const char *broken, *replaced;
    } table[] = {
        {"\xff", "\xef\xbf\xbd"},
        {"a\x80z", "a\xef\xbf\xbdz"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},                 /* overlong             */
        {"\xe0\x9f\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* overlong             */
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* surrogate            */
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd"},   /* cut off at the end   */
        {"\xf0\x9f\x98x", "\xef\xbf\xbdx"}, /* cut off by a letter  */
        {"\xe2\x82\xe2\x82\xac", "\xef\xbf\xbd\xe2\x82\xac"},
        {"\xf1\x80\x80\xe1\x80\xc2", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
    };
    sy_tokenizer *t = load_kind("qwen3");
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sy_text text = {0};
        assert_int_equal(sy_utf8_append_lossy(&text, table[i].broken, strlen(table[i].broken)),
                         SY_OK);
        if (!same_text(&text, table[i].replaced, strlen(table[i].replaced)))
            fail_msg("row %zu is replaced wrongly", i);
        sy_ids a = encode(t, table[i].broken, strlen(table[i].broken), 0);
        sy_ids b = encode(t, table[i].replaced, strlen(table[i].replaced), 0);
        assert_true(same_ids(&a, &b));
        sy_ids_free(&a);
        sy_ids_free(&b);
        sy_text_free(&text);
    }
    sy_tokenizer_destroy(t);
}

/* Random ids; half of them are single bytes, so that most are fragments of characters. */
static sy_ids random_ids(uint64_t *random, int32_t first_byte, int32_t n_ids) {
    sy_ids ids = {0};
    size_t n = next_random(random) % 40;
    for (size_t i = 0; i < n; i++) {
        bool byte = next_random(random) % 2;
        uint64_t range = byte ? 256 : (uint64_t)n_ids + 5; /* some that are no ids */
        int32_t id = (int32_t)(next_random(random) % range) + (byte ? first_byte : -1);
        assert_int_equal(sy_ids_append(&ids, id), SY_OK);
    }
    return ids;
}

/* Token by token; each output is valid UTF-8 of its own. */
static sy_text stream(const sy_tokenizer *t, const sy_ids *ids, bool skip_special) {
    sy_text out = {0};
    sy_decoder decoder = {0};
    for (size_t i = 0; i < ids->n; i++) {
        size_t before = out.n;
        assert_int_equal(sy_decoder_put(&decoder, t, ids->id[i], skip_special, &out), SY_OK);
        if (out.n > before) assert_true(sy_utf8_valid(out.data + before, out.n - before));
    }
    assert_int_equal(sy_decoder_finish(&decoder, &out), SY_OK);
    return out;
}

/* The specification: the bytes of all tokens in a row, then the lossy conversion, then spaces at
 * the front left out. */
static sy_text specified(const sy_tokenizer *t, const sy_ids *ids, bool skip_special) {
    const sy_vocabulary *v = &t->vocabulary;
    sy_text raw = {0}, lossy = {0}, out = {0};
    size_t front = 0;
    for (size_t i = 0; i < ids->n; i++) {
        const sy_token *token = sy_vocabulary_token(v, ids->id[i]);
        if (token == NULL || (skip_special && token->flags & SY_TOKEN_SPECIAL)) continue;
        assert_int_equal(
            sy_text_append(&raw, v->bytes.data + token->text_offset, token->text_length),
            SY_OK);
    }
    assert_int_equal(sy_utf8_append_lossy(&lossy, raw.data, raw.n), SY_OK);
    while (front < (size_t)t->decoding.strip && front < lossy.n && lossy.data[front] == ' ')
        front++;
    if (lossy.n > front)
        assert_int_equal(sy_text_append(&out, lossy.data + front, lossy.n - front), SY_OK);
    sy_text_free(&raw);
    sy_text_free(&lossy);
    return out;
}

static void streaming_equals_one_shot_decoding(void **state) {
    (void)state;
    static const struct {
        const char *kind;
        int32_t first; /* of the ids of the 256 bytes */
    } kinds[] = {{"o200k", 0}, {"mixtral", 3}, {"sarvam", 3}, {"tekken", 50}, {"kimi", 0}};
    uint64_t random = 7;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        sy_tokenizer *t = load_kind(kinds[k].kind);
        int32_t first = kinds[k].first;
        for (int b = 0; b < 256; b++)
            assert_int_equal(sy_vocabulary_token(&t->vocabulary, first + b)->text_length, 1);
        for (int round = 0; round < 2000; round++) {
            sy_ids ids = random_ids(&random, first, sy_tokenizer_n_ids(t));
            bool skip_special = round % 3 == 0;
            sy_text streamed = stream(t, &ids, skip_special);
            sy_text whole = decode(t, &ids, skip_special);
            sy_text want = specified(t, &ids, skip_special);
            assert_true(same_text(&streamed, want.data, want.n));
            assert_true(same_text(&whole, want.data, want.n));
            sy_ids_free(&ids);
            sy_text_free(&streamed);
            sy_text_free(&whole);
            sy_text_free(&want);
        }
        sy_tokenizer_destroy(t);
    }
}

/* ---- the front of a text ---- */

static int32_t id_of(const sy_tokenizer *t, const char *content) {
    int32_t id = sy_tokenizer_token_id(t, content, strlen(content));
    if (id < 0) fail_msg("there is no token \"%s\"", content);
    return id;
}

static void check_stream(const sy_tokenizer *t, const char *const *tokens, const char *want) {
    sy_ids ids = {0};
    for (; *tokens != NULL; tokens++)
        assert_int_equal(sy_ids_append(&ids, id_of(t, *tokens)), SY_OK);
    sy_text streamed = stream(t, &ids, true), whole = decode(t, &ids, true);
    if (!same_text(&streamed, want, strlen(want)) || !same_text(&whole, want, strlen(want)))
        fail_msg("expected \"%s\", found \"%.*s\" and \"%.*s\"", want, (int)streamed.n,
                 streamed.data, (int)whole.n, whole.data);
    sy_ids_free(&ids);
    sy_text_free(&streamed);
    sy_text_free(&whole);
}
#define CHECK_STREAM(t, want, ...)                                                             \
    check_stream((t), (const char *const[]){__VA_ARGS__, NULL}, (want))

static void one_space_is_left_out_at_the_front_of_the_sequence_only(void **state) {
    (void)state;
    sy_tokenizer *t = load_kind("mixtral");
    CHECK_STREAM(t, "a\xc3\xa9", "\xe2\x96\x81", "a", "<0xC3>", "<0xA9>");
    CHECK_STREAM(t, "a a", "<s>", "\xe2\x96\x81", "a", "\xe2\x96\x81", "a");
    CHECK_STREAM(t, " a", "\xe2\x96\x81", "\xe2\x96\x81", "a");
    CHECK_STREAM(t, "\xef\xbf\xbd a", "<0xC3>", "\xe2\x96\x81", "a");
    CHECK_STREAM(t, "", "\xe2\x96\x81", "</s>");
    CHECK_STREAM(t, "A ", "<0x20>", "<0x41>", "<0x20>");
    sy_tokenizer_destroy(t);
    t = load_kind("sarvam");
    CHECK_STREAM(t, " a", "\xe2\x96\x81", "a");
    sy_tokenizer_destroy(t);
}

/* "ab", "_a" and the space itself, by a Metaspace decoder. */
static void metaspace_leaves_out_what_the_first_token_begins_with(void **state) {
    (void)state;
    static const char file[] =
        "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"},"
        "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"_\"},"
        "\"model\":{\"vocab\":{\"a\":0,\"_\":1,\"__\":2,\"_a\":3,\"_a_\":4},"
        "\"merges\":[\"_ _\",\"_ a\",\"_a _\"]}}";
    json_t *root = parse(file, sizeof file - 1);
    sy_tokenizer *t = NULL;
    if (sy_tokenizer_from_json(root, NULL, 0, &t) != SY_OK) fail_msg("%s", sy_last_error());
    CHECK_STREAM(t, "a a", "_a", "_a");
    CHECK_STREAM(t, "aa ", "_a_", "a", "_"); /* all of them, at its end too */
    CHECK_STREAM(t, "  ", "_", "__");
    sy_tokenizer_destroy(t);
    json_decref(root);
}

static void a_decoder_can_be_used_again_after_finish(void **state) {
    (void)state;
    sy_tokenizer *t = load_kind("mixtral");
    sy_decoder decoder = {0};
    sy_text out = {0};
    for (int round = 0; round < 2; round++) {
        assert_int_equal(sy_decoder_put(&decoder, t, id_of(t, "\xe2\x96\x81"), true, &out),
                         SY_OK);
        assert_int_equal(sy_decoder_put(&decoder, t, id_of(t, "<0xC3>"), true, &out), SY_OK);
        assert_int_equal(sy_decoder_finish(&decoder, &out), SY_OK);
    }
    assert_true(same_text(&out, "\xef\xbf\xbd\xef\xbf\xbd", 6));
    sy_text_free(&out);
    sy_tokenizer_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(invalid_utf8_encodes_as_its_replaced_form),
        cmocka_unit_test(streaming_equals_one_shot_decoding),
        cmocka_unit_test(one_space_is_left_out_at_the_front_of_the_sequence_only),
        cmocka_unit_test(metaspace_leaves_out_what_the_first_token_begins_with),
        cmocka_unit_test(a_decoder_can_be_used_again_after_finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

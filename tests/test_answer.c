/* An answer while it grows: characters and stop strings that lie across tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "launcher/answer.h"
#include "tests/tokenizer_fixture.h"

/* Ids above the bytes. */
enum { ABCD = FIRST_WORD, CDE, E_ACUTE_HALF, HELLO, END };
static const char *const words[] = {"abcd", "cde", "x\xc3", "hello", NULL};
static sy_tokenizer *tokenizer;

static int set_up(void **state) {
    (void)state;
    tokenizer = make_tokenizer(words, "<|end|>");
    return tokenizer == NULL;
}
static int tear_down(void **state) {
    (void)state;
    sy_tokenizer_destroy(tokenizer);
    return 0;
}

static void put(sy_answer *a, int32_t id) {
    assert_int_equal(sy_answer_put(a, id, id == END), SY_OK);
}

static void put_bytes(sy_answer *a, const char *text) {
    for (; *text != '\0' && !a->stopped; text++)
        put(a, (unsigned char)*text);
}

static void expect(const sy_answer *a, const char *text) {
    size_t n = strlen(text);
    if (a->text.n != n || (n > 0 && memcmp(a->text.data, text, n) != 0))
        fail_msg("expected \"%s\", found \"%.*s\"", text, (int)a->text.n,
                 a->text.n > 0 ? a->text.data : "");
}

static void finish(sy_answer *a, const char *text) {
    assert_int_equal(sy_answer_finish(a), SY_OK);
    expect(a, text);
    sy_answer_free(a);
}

static void text_without_stops_is_shown_at_once(void **state) {
    (void)state;
    sy_answer a = {.tokenizer = tokenizer};
    put(&a, HELLO);
    expect(&a, "hello");
    put(&a, '!');
    expect(&a, "hello!");
    put(&a, END);
    assert_int_equal(a.ids.n, 3);
    assert_int_equal(a.ids.id[2], END);
    finish(&a, "hello!");
}

static void nothing_at_all_is_an_empty_text(void **state) {
    (void)state;
    sy_answer a = {.tokenizer = tokenizer};
    finish(&a, "");
    sy_answer only_end = {.tokenizer = tokenizer};
    put(&only_end, END);
    assert_int_equal(only_end.ids.n, 1);
    finish(&only_end, "");
}

static void a_character_split_over_tokens_is_shown_whole(void **state) {
    (void)state;
    sy_answer a = {.tokenizer = tokenizer};
    put(&a, E_ACUTE_HALF); /* x and the first half of a character */
    expect(&a, "x");
    put(&a, 0xa9);
    expect(&a, "x\xc3\xa9");
    put_bytes(&a, "\xf0\x9f\x98");
    expect(&a, "x\xc3\xa9");
    put(&a, 0x80);
    expect(&a, "x\xc3\xa9\xf0\x9f\x98\x80");
    put(&a, 0xe2); /* never completed */
    finish(&a, "x\xc3\xa9\xf0\x9f\x98\x80\xef\xbf\xbd");
}

static void a_stop_string_is_cut_off_and_never_shown_in_part(void **state) {
    (void)state;
    static const char *const stop[] = {"STOP"};
    sy_answer a = {.tokenizer = tokenizer, .stop = stop, .n_stops = 1};
    put_bytes(&a, "go ST");
    expect(&a, "go ");
    put_bytes(&a, "ST");
    expect(&a, "go ST"); /* the first ST was none */
    put_bytes(&a, "O");
    assert_false(a.stopped);
    put_bytes(&a, "P");
    assert_true(a.stopped);
    assert_int_equal(a.ids.n, 9);
    finish(&a, "go ST");
}

static void what_was_held_back_comes_at_the_end(void **state) {
    (void)state;
    static const char *const stop[] = {"STOP", "\n\n"};
    sy_answer a = {.tokenizer = tokenizer, .stop = stop, .n_stops = 2};
    put_bytes(&a, "one\ntwo STO");
    expect(&a, "one\ntwo ");
    put(&a, END);
    expect(&a, "one\ntwo ");
    assert_false(a.stopped);
    finish(&a, "one\ntwo STO");

    sy_answer b = {.tokenizer = tokenizer, .stop = stop, .n_stops = 2};
    put_bytes(&b, "x\n");
    expect(&b, "x");
    finish(&b, "x\n");
}

static void a_stop_string_within_one_token_cuts_the_token(void **state) {
    (void)state;
    static const char *const stop[] = {"ll"};
    sy_answer a = {.tokenizer = tokenizer, .stop = stop, .n_stops = 1};
    put(&a, HELLO);
    assert_true(a.stopped);
    finish(&a, "he");
}

static void a_stop_string_of_half_characters_is_met_when_they_are_whole(void **state) {
    (void)state;
    static const char *const stop[] = {"\xc3\xa9!"};
    sy_answer a = {.tokenizer = tokenizer, .stop = stop, .n_stops = 1};
    put(&a, E_ACUTE_HALF);
    expect(&a, "x");
    put(&a, 0xa9);
    expect(&a, "x");
    put(&a, '!');
    assert_true(a.stopped);
    finish(&a, "x");
}

/* The replacement character that ends a broken text may complete a stop string. */
static void a_stop_string_may_be_completed_by_the_end(void **state) {
    (void)state;
    static const char *const stop[] = {"a\xef\xbf\xbd"};
    sy_answer a = {.tokenizer = tokenizer, .stop = stop, .n_stops = 1};
    put_bytes(&a, "za");
    put(&a, 0xe2);
    expect(&a, "z");
    finish(&a, "z");
}

/* The text must not depend on how it was cut into tokens: of several stop strings the one counts
 * that is complete first, and of two that end together the longer. */
static void overlapping_stops_give_the_same_text_for_every_cut(void **state) {
    (void)state;
    static const struct {
        const char *stop[3];
        int n_stops;
        const char *shown; /* of _abcde */
    } table[] = {
        {{"abcd", "bc"}, 2, "_a"},      {{"bcde", "cd"}, 2, "_ab"},
        {{"bcd", "cd"}, 2, "_a"},       {{"cd", "bcd"}, 2, "_a"},
        {{"d", "abcde"}, 2, "_abc"},    {{"abcdef", "bcdex"}, 2, "_abcde"},
        {{"e", "de", "cde"}, 3, "_ab"}, {{"zz", "abcdX"}, 2, "_abcde"},
    };
    static const int32_t cuts[][6] = {
        {'_', 'a', 'b', 'c', 'd', 'e'}, {'_', ABCD, 'e', -1}, {'_', 'a', 'b', CDE, -1}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
            sy_answer a = {
                .tokenizer = tokenizer, .stop = table[i].stop, .n_stops = table[i].n_stops};
            for (int k = 0; k < 6 && cuts[c][k] >= 0 && !a.stopped; k++)
                put(&a, cuts[c][k]);
            finish(&a, table[i].shown);
        }
    }
}

static void without_a_tokenizer_ids_are_the_text(void **state) {
    (void)state;
    static const char *const stop[] = {"5"};
    sy_answer a = {.stop = stop, .n_stops = 1};
    assert_int_equal(sy_answer_put(&a, 15, false), SY_OK);
    expect(&a, "15");
    assert_int_equal(sy_answer_put(&a, 0, false), SY_OK);
    assert_int_equal(sy_answer_put(&a, 2147483647, false), SY_OK);
    assert_int_equal(sy_answer_put(&a, 2, true), SY_OK);
    assert_false(a.stopped);
    assert_int_equal(a.ids.n, 4);
    finish(&a, "15 0 2147483647");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_without_stops_is_shown_at_once),
        cmocka_unit_test(nothing_at_all_is_an_empty_text),
        cmocka_unit_test(a_character_split_over_tokens_is_shown_whole),
        cmocka_unit_test(a_stop_string_is_cut_off_and_never_shown_in_part),
        cmocka_unit_test(what_was_held_back_comes_at_the_end),
        cmocka_unit_test(a_stop_string_within_one_token_cuts_the_token),
        cmocka_unit_test(a_stop_string_of_half_characters_is_met_when_they_are_whole),
        cmocka_unit_test(a_stop_string_may_be_completed_by_the_end),
        cmocka_unit_test(overlapping_stops_give_the_same_text_for_every_cut),
        cmocka_unit_test(without_a_tokenizer_ids_are_the_text),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* timeout: 300
 *
 * Long texts in time that grows with n log n at most, several threads, and regular expressions
 * that need more than there is. */
#include "tests/tokenizer_cases.h"

#include <pthread.h>

#include "base/clock.h"

static void a_megabyte_of_one_character_takes_less_than_a_second(void **state) {
    (void)state;
    static const char *const pieces[] = {"a",
                                         " ",
                                         "!",
                                         "\n",
                                         "\xe6\xbc\xa2",
                                         "1",
                                         "ab",
                                         "\xcc\x81",
                                         "\xcc\xa7\xcc\x81",
                                         "e\xcc\x81",
                                         "A1",
                                         "\xff",
                                         "'",
                                         "<|im_start|>",
                                         "<s>",
                                         "[EOS]",
                                         "\xe2\x96\x81",
                                         "ab ",
                                         "<"};
    static const char *const kinds[] = {"qwen3",  "olmoe",  "o200k", "mixtral",
                                        "sarvam", "tekken", "kimi"};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        sy_tokenizer *t = load_kind(kinds[k]);
        for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
            sy_text text = {0};
            while (text.n < 1 << 20)
                assert_int_equal(sy_text_append(&text, pieces[i], strlen(pieces[i])), SY_OK);
            double start = sy_now();
            sy_ids ids = encode(t, text.data, text.n, 0);
            double seconds = sy_now() - start;
            assert_true(ids.n > 0);
            /* Sanitizers and a busy machine get ten times the second; quadratic work needs
             * minutes. */
            if (seconds > 10)
                fail_msg("%s: 1 MB of \"%s\" took %.1f s", kinds[k], pieces[i], seconds);
            sy_ids_free(&ids);
            sy_text_free(&text);
        }
        sy_tokenizer_destroy(t);
    }
}

/* ---- several threads ---- */

typedef struct shared_work {
    const sy_tokenizer *t;
    const cases *c;
    uint64_t hash;
    unsigned first;
} shared_work;

static void *encode_all(void *arg) {
    shared_work *w = arg;
    uint64_t sum = 0; /* independent of the order */
    for (size_t i = 0; i < w->c->n; i++) {
        const sy_text *text = &w->c->text[(i + w->first) % w->c->n];
        sy_ids ids = {0};
        if (sy_tokenizer_encode(w->t, text->data, text->n, 0, &ids) != SY_OK) return NULL;
        sum += sy_mix64(fnv_ids(&ids, FNV_START));
        sy_ids_free(&ids);
    }
    w->hash = sum;
    return NULL;
}

static void share(const char *kind) {
    enum { N = 4 };
    sy_tokenizer *t = load_kind(kind);
    cases c = read_cases();
    shared_work alone = {t, &c, 0, 0}, work[N];
    pthread_t thread[N];
    encode_all(&alone);
    assert_true(alone.hash != 0);
    for (unsigned i = 0; i < N; i++) {
        work[i] = (shared_work){t, &c, 0, i * 700};
        assert_int_equal(pthread_create(&thread[i], NULL, encode_all, &work[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        pthread_join(thread[i], NULL);
        assert_true(work[i].hash == alone.hash);
    }
    free_cases(&c);
    sy_tokenizer_destroy(t);
}

static void threads_share_one_tokenizer(void **state) {
    (void)state;
    share("qwen3");
    share("mixtral");
    share("kimi");
}

/* ---- patterns that ask for too much ---- */

static sy_tokenizer *split_by(const char *pattern) {
    char text[1024];
    sy_tokenizer *t = NULL;
    snprintf(
        text, sizeof text,
        "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
        "\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"%s\"}},{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false,\"use_regex\":false}]},"
        "\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}",
        pattern);
    json_t *root = parse(text, strlen(text));
    if (sy_tokenizer_from_json(root, NULL, 0, &t) != SY_OK) fail_msg("%s", sy_last_error());
    json_decref(root);
    return t;
}

/* Groups under a quantifier exceed the JIT's stack; then the interpreter finishes the match. */
static void a_pattern_that_overflows_the_jit_stack_still_matches(void **state) {
    (void)state;
    sy_tokenizer *t = split_by("(?:(?!x)[a-b])*");
    enum { N = 200000 };
    char *text = malloc(N);
    assert_non_null(text);
    for (int i = 0; i < N; i++)
        text[i] = i % 2 ? 'b' : 'a';
    sy_ids ids = encode(t, text, N, 0);
    assert_int_equal(ids.n, N / 2);
    sy_ids_free(&ids);
    free(text);
    sy_tokenizer_destroy(t);
}

static void a_pattern_that_explodes_refuses_the_input(void **state) {
    (void)state;
    sy_tokenizer *t = split_by("(?:a+)+(?:b|d)");
    char text[64];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'c';
    sy_ids ids = {0};
    assert_int_equal(sy_ids_append(&ids, 5), SY_OK);
    assert_int_equal(sy_tokenizer_encode(t, text, sizeof text, 0, &ids), SY_ERR_UNSUPPORTED);
    assert_non_null(strstr(sy_last_error(), "input refused"));
    assert_int_equal(ids.n, 1); /* what was there before stays */
    sy_ids_free(&ids);
    sy_tokenizer_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_megabyte_of_one_character_takes_less_than_a_second),
        cmocka_unit_test(threads_share_one_tokenizer),
        cmocka_unit_test(a_pattern_that_overflows_the_jit_stack_still_matches),
        cmocka_unit_test(a_pattern_that_explodes_refuses_the_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* timeout: 300
 *
 * The tokenizer against the ids that the Hugging Face library gives (tests/data/tokenizers, made
 * by scripts/make_tokenizer_tests.py), against broken tokenizer files, and against itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "runtime/tokenizer_parts.h"
#include "runtime/utf8.h"

static const char *data_path(char *buf, size_t size, const char *name) {
    const char *root = getenv("SY_TEST_DATA");
    snprintf(buf, size, "%s/tokenizers/%s", root != NULL ? root : "tests/data", name);
    return buf;
}

static sy_tokenizer *load(const char *directory) {
    sy_tokenizer *t = NULL;
    if (sy_tokenizer_load(directory, 0, &t) != SY_OK) fail_msg("%s", sy_last_error());
    return t;
}
static sy_tokenizer *load_kind(const char *kind) {
    char path[1024];
    return load(data_path(path, sizeof path, kind));
}

/* A JSON value with NUL characters allowed in strings. */
static json_t *parse(const char *text, size_t size) {
    json_error_t error;
    json_t *value = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (value == NULL) fail_msg("test data: %s", error.text);
    return value;
}

static json_t *parse_file(const char *path) {
    char *text;
    size_t size;
    if (sy_read_file(path, (uint64_t)64 << 20, &text, &size) != SY_OK)
        fail_msg("%s", sy_last_error());
    json_t *value = parse(text, size);
    free(text);
    return value;
}

static sy_ids encode(const sy_tokenizer *t, const char *text, size_t size, unsigned flags) {
    sy_ids ids = {0};
    if (sy_tokenizer_encode(t, text, size, flags, &ids) != SY_OK)
        fail_msg("%s", sy_last_error());
    return ids;
}
static sy_text decode(const sy_tokenizer *t, const sy_ids *ids, bool skip_special) {
    sy_text text = {0};
    assert_int_equal(sy_tokenizer_decode(t, ids->id, ids->n, skip_special, &text), SY_OK);
    return text;
}

static bool same_ids(const sy_ids *a, const sy_ids *b) {
    return a->n == b->n && (a->n == 0 || memcmp(a->id, b->id, a->n * sizeof *a->id) == 0);
}
static bool same_text(const sy_text *a, const char *data, size_t n) {
    return a->n == n && (n == 0 || memcmp(a->data, data, n) == 0);
}

/* ---- the stored strings ---- */

typedef struct cases {
    sy_text *text;
    size_t n;
} cases;

static cases read_cases(void) {
    char path[1024], *data;
    size_t size;
    cases c = {calloc(8192, sizeof *c.text), 0};
    assert_non_null(c.text);
    if (sy_read_file(data_path(path, sizeof path, "strings.jsonl"), 8 << 20, &data, &size))
        fail_msg("%s", sy_last_error());
    for (char *line = data, *end; line < data + size; line = end + 1) {
        end = memchr(line, '\n', size - (size_t)(line - data));
        assert_non_null(end);
        assert_true(c.n < 8192);
        json_t *value = parse(line, (size_t)(end - line));
        const json_t *piece = json_is_array(value) ? json_array_get(value, 0) : value;
        json_int_t count = piece == value ? 1 : json_integer_value(json_array_get(value, 1));
        for (json_int_t i = 0; i < count; i++)
            assert_int_equal(sy_text_append(&c.text[c.n], json_string_value(piece),
                                            json_string_length(piece)),
                             SY_OK);
        c.n++;
        json_decref(value);
    }
    free(data);
    return c;
}

static void free_cases(cases *c) {
    for (size_t i = 0; i < c->n; i++)
        sy_text_free(&c->text[i]);
    free(c->text);
}

static uint64_t fnv(const void *data, size_t n, uint64_t state) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        state = (state ^ p[i]) * 0x100000001b3u;
    return state;
}
static const uint64_t FNV_START = 0xcbf29ce484222325u;

static uint64_t fnv_ids(const sy_ids *ids, uint64_t state) {
    for (size_t i = 0; i < ids->n; i++) {
        uint32_t id = (uint32_t)ids->id[i];
        unsigned char le[4] = {(unsigned char)id, (unsigned char)(id >> 8),
                               (unsigned char)(id >> 16), (unsigned char)(id >> 24)};
        state = fnv(le, 4, state);
    }
    return state;
}

typedef struct expected {
    size_t n_ids;
    uint64_t ids, rest;
} expected;

static expected observe(const sy_tokenizer *t, const sy_text *text) {
    sy_ids ids = encode(t, text->data, text->n, SY_ENCODE_PLAIN);
    sy_ids as_text = encode(t, text->data, text->n, SY_ENCODE_NO_SPECIALS);
    sy_ids added = encode(t, text->data, text->n, SY_ENCODE_ADD_SPECIAL);
    sy_text all = decode(t, &ids, false), visible = decode(t, &ids, true);
    expected e = {ids.n, fnv_ids(&ids, FNV_START), fnv_ids(&as_text, FNV_START)};
    e.rest = fnv_ids(&added, e.rest);
    e.rest = fnv(all.data, all.n, e.rest);
    e.rest = fnv(visible.data, visible.n, e.rest);
    if (!t->use_nfc && !same_text(&all, text->data, text->n))
        fail_msg("\"%.60s\" does not come back", text->data);
    sy_ids_free(&ids);
    sy_ids_free(&as_text);
    sy_ids_free(&added);
    sy_text_free(&all);
    sy_text_free(&visible);
    return e;
}

static void compare_with_expected(const sy_tokenizer *t, const char *file) {
    char path[1024];
    FILE *f = fopen(data_path(path, sizeof path, file), "r");
    if (f == NULL) fail_msg("%s: cannot be opened", path);
    cases c = read_cases();
    assert_true(c.n > 3000);
    size_t differences = 0;
    for (size_t i = 0; i < c.n; i++) {
        unsigned long long ids, rest;
        expected want;
        assert_int_equal(fscanf(f, "%zu %llx %llx", &want.n_ids, &ids, &rest), 3);
        want.ids = ids;
        want.rest = rest;
        expected have = observe(t, &c.text[i]);
        if (have.n_ids == want.n_ids && have.ids == want.ids && have.rest == want.rest)
            continue;
        if (differences++ < 10)
            print_message("%s: line %zu of strings.jsonl: %zu ids, expected %zu: \"%.60s\"\n",
                          file, i + 1, have.n_ids, want.n_ids,
                          c.text[i].data != NULL ? c.text[i].data : "");
    }
    free_cases(&c);
    fclose(f);
    assert_int_equal(differences, 0);
}

static void qwen3_kind_gives_the_reference_ids(void **state) {
    (void)state;
    sy_tokenizer *t = load_kind("qwen3");
    compare_with_expected(t, "qwen3/expected.txt");
    assert_int_equal(sy_tokenizer_bos(t), -1);
    sy_tokenizer_destroy(t);
}

static void olmoe_kind_gives_the_reference_ids(void **state) {
    (void)state;
    sy_tokenizer *t = load_kind("olmoe");
    compare_with_expected(t, "olmoe/expected.txt");
    int32_t bos = sy_tokenizer_token_id(t, "<|endoftext|>", 13);
    assert_true(bos > 0);
    assert_int_equal(sy_tokenizer_bos(t), bos);
    assert_true(sy_tokenizer_is_special(t, bos));
    assert_false(sy_tokenizer_is_special(t, bos - 1));
    assert_false(sy_tokenizer_is_special(t, -1));
    assert_false(sy_tokenizer_is_special(t, INT32_MAX));
    sy_tokenizer_destroy(t);
}

static void o200k_kind_gives_the_reference_ids(void **state) {
    (void)state;
    sy_tokenizer *t = load_kind("o200k");
    compare_with_expected(t, "o200k/expected.txt");
    sy_tokenizer_destroy(t);
}

/* ---- published files, which lie outside the repository ---- */

/* Unpacks NAME/tokenizer.json.xz into a fresh directory; false if it or xz is not there. */
static bool unpack_published(const char *name, char *directory, size_t size) {
    const char *root = getenv("SY_SOURCE_DIR");
    char archive[1024], command[4096];
    if (root == NULL || strchr(root, '\'') != NULL) return false;
    snprintf(archive, sizeof archive, "%s/../shared/tokenizers/%s/tokenizer.json.xz", root,
             name);
    if (access(archive, R_OK) != 0) return false;
    snprintf(directory, size, "/tmp/sy-tokenizer-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(command, sizeof command, "xz -dc '%s' > %s/tokenizer.json 2>/dev/null", archive,
             directory);
    if (system(command) == 0) return true;
    snprintf(command, sizeof command, "%s/tokenizer.json", directory);
    unlink(command);
    rmdir(directory);
    return false;
}

static void check_published(const char *name) {
    char directory[64], file[128];
    if (!unpack_published(name, directory, sizeof directory)) {
        print_message("skipped: %s's tokenizer.json.xz or xz is not there\n", name);
        skip();
    }
    sy_tokenizer *t = NULL;
    sy_status st = sy_tokenizer_load(directory, 0, &t);
    snprintf(file, sizeof file, "%s/tokenizer.json", directory);
    unlink(file);
    rmdir(directory);
    if (st != SY_OK) fail_msg("%s", sy_last_error());
    snprintf(file, sizeof file, "published/%s.txt", name);
    compare_with_expected(t, file);
    sy_tokenizer_destroy(t);
}
static void published_qwen3_gives_the_reference_ids(void **state) {
    (void)state;
    check_published("qwen3");
}
static void published_deepseek_v3_gives_the_reference_ids(void **state) {
    (void)state;
    check_published("deepseek_v3");
}
static void published_gptoss_gives_the_reference_ids(void **state) {
    (void)state;
    check_published("gptoss");
}

/* ---- components one by one ---- */

static json_t *read_variants(void) {
    char path[1024];
    return parse_file(data_path(path, sizeof path, "variants.json"));
}

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

static void
check_ids(const char *name, const json_t *text, const json_t *want, const sy_ids *have) {
    bool same = json_array_size(want) == have->n;
    for (size_t i = 0; same && i < have->n; i++)
        same = json_integer_value(json_array_get(want, i)) == have->id[i];
    if (same) return;
    char *expected_ids = json_dumps(want, 0);
    print_message("%s: \"%s\": expected %s, found", name, json_string_value(text),
                  expected_ids);
    for (size_t i = 0; i < have->n; i++)
        print_message(" %d", have->id[i]);
    print_message("\n");
    free(expected_ids);
    fail();
}

static void variants_give_the_reference_ids(void **state) {
    (void)state;
    json_t *all = read_variants(), *variant, *item;
    size_t i, k;
    assert_true(json_array_size(json_object_get(all, "variants")) > 40);
    json_array_foreach(json_object_get(all, "variants"), i, variant) {
        const char *name = json_string_value(json_object_get(variant, "name"));
        json_t *root =
            changed_base(json_object_get(all, "base"), json_object_get(variant, "change"));
        sy_tokenizer *t = NULL;
        if (sy_tokenizer_from_json(root, NULL, 0, &t) != SY_OK)
            fail_msg("%s: %s", name, sy_last_error());
        json_array_foreach(json_object_get(variant, "cases"), k, item) {
            json_t *text = json_array_get(item, 0), *back = json_array_get(item, 3);
            const char *bytes = json_string_value(text);
            size_t size = json_string_length(text);
            sy_ids ids = encode(t, bytes, size, 0);
            sy_ids added = encode(t, bytes, size, SY_ENCODE_ADD_SPECIAL);
            sy_text visible = decode(t, &ids, true);
            check_ids(name, text, json_array_get(item, 1), &ids);
            check_ids(name, text, json_array_get(item, 2), &added);
            if (!json_is_null(back) &&
                !same_text(&visible, json_string_value(back), json_string_length(back)))
                fail_msg("%s: \"%s\" decodes to \"%.*s\"", name, bytes, (int)visible.n,
                         visible.data);
            sy_ids_free(&ids);
            sy_ids_free(&added);
            sy_text_free(&visible);
        }
        sy_tokenizer_destroy(t);
        json_decref(root);
    }
    json_decref(all);
}

/* ---- broken text ---- */

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

static uint64_t next_random(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15u;
    return sy_mix64(*state);
}

/* Token by token, with the output cut at any place, gives what decoding at once gives, and each
 * piece is valid UTF-8 of its own. */
static void streaming_equals_one_shot_decoding(void **state) {
    (void)state;
    uint64_t random = 7;
    sy_tokenizer *t = load_kind("o200k");
    int32_t n_ids = sy_tokenizer_n_ids(t);
    for (int round = 0; round < 3000; round++) {
        sy_ids ids = {0};
        sy_text streamed = {0};
        sy_decoder decoder = {0};
        size_t n = next_random(&random) % 40;
        for (size_t i = 0; i < n; i++) {
            /* The 256 bytes have the lowest ids: half the tokens are fragments of characters. */
            uint64_t below = next_random(&random) % 2 ? 256 : (uint64_t)n_ids + 5;
            int32_t id = (int32_t)(next_random(&random) % below) - (round % 2);
            assert_int_equal(sy_ids_append(&ids, id), SY_OK);
        }
        bool skip_special = round % 3 == 0;
        for (size_t i = 0; i < n; i++) {
            size_t before = streamed.n;
            assert_int_equal(sy_decoder_put(&decoder, t, ids.id[i], skip_special, &streamed),
                             SY_OK);
            if (streamed.n > before)
                assert_true(sy_utf8_valid(streamed.data + before, streamed.n - before));
        }
        assert_int_equal(sy_decoder_finish(&decoder, &streamed), SY_OK);
        sy_text whole = decode(t, &ids, skip_special);
        /* The specification: the bytes of all tokens in a row, then the lossy conversion. */
        sy_text raw = {0}, lossy = {0};
        for (size_t i = 0; i < n; i++) {
            const sy_token *token = sy_vocabulary_token(&t->vocabulary, ids.id[i]);
            if (token == NULL || (skip_special && token->flags & SY_TOKEN_SPECIAL)) continue;
            assert_int_equal(
                sy_text_append(&raw, t->vocabulary.bytes.data + token->offset, token->length),
                SY_OK);
        }
        assert_int_equal(sy_utf8_append_lossy(&lossy, raw.data, raw.n), SY_OK);
        assert_true(same_text(&streamed, lossy.data, lossy.n));
        assert_true(same_text(&whole, lossy.data, lossy.n));
        sy_ids_free(&ids);
        sy_text_free(&streamed);
        sy_text_free(&whole);
        sy_text_free(&raw);
        sy_text_free(&lossy);
    }
    sy_tokenizer_destroy(t);
}

/* ---- long input ---- */

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
                                         "<"};
    static const char *const kinds[] = {"qwen3", "olmoe", "o200k"};
    for (size_t k = 0; k < 3; k++) {
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

static void threads_share_one_tokenizer(void **state) {
    (void)state;
    enum { N = 4 };
    sy_tokenizer *t = load_kind("qwen3");
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

/* ---- hostile files ---- */

static const char *const skeleton =
    "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
    "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}";

#define SPLIT(pattern)                                                                         \
    "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","        \
    "\"behavior\":\"Isolated\",\"pattern\":" pattern "},{\"type\":\"ByteLevel\"}]}}"
#define ADDED(list) "{\"added_tokens\":[" list "]}"
#define TEMPLATE(single, specials)                                                             \
    "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":" single                  \
    ",\"special_tokens\":" specials "}}"

/* Members that replace those of the skeleton, and a part of the message that must come. */
static const struct {
    const char *change, *message;
} hostile[] = {
    {"{\"pre_tokenizer\":{\"type\":\"Metaspace\"}}",
     "pre_tokenizer type \"Metaspace\" is not implemented"},
    {"{\"pre_tokenizer\":null}", "pre_tokenizer"},
    {"{\"pre_tokenizer\":7}", "expected an object"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\"}}", "expected an array"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[]}}", "no ByteLevel"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
     "{\"type\":\"Digits\"}]}}",
     "after ByteLevel"},
    {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"use_regex\":1}}", "expected true or false"},
    {SPLIT("{\"Regex\":\"(a\"}"), "regular expression"},
    {SPLIT("{\"Regex\":\"\\\\w+\"}"), "\\w"},
    {SPLIT("{\"Regex\":\"a**\"}"), "regular expression"},
    {SPLIT("{\"Glob\":\"a\"}"), "pattern"},
    {SPLIT("{\"Regex\":\"a\",\"String\":\"a\"}"), "pattern"},
    {SPLIT("\"a\""), "pattern"},
    {SPLIT("{\"Regex\":\"(((a{999}){999}){999}){999}\"}"), "regular expression"},
    {"{\"normalizer\":{\"type\":\"Prepend\"}}", "normalizer type \"Prepend\""},
    {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"}]}}", "NFKC"},
    {"{\"normalizer\":[]}", "normalizer"},
    {"{\"post_processor\":{\"type\":\"BertProcessing\"}}", "BertProcessing"},
    {TEMPLATE("[]", "{}"), "lacks the Sequence"},
    {TEMPLATE("[{\"Sequence\":{\"id\":\"B\"}}]", "{}"), "single"},
    {TEMPLATE("[{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}]", "{}"),
     "no ids for \"x\""},
    {TEMPLATE("[{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}]",
              "{\"x\":{\"ids\":[4294967296]}}"),
     "expected ids"},
    {"{\"decoder\":null}", "decoder"},
    {"{\"decoder\":{\"type\":\"WordPiece\"}}", "decoder type \"WordPiece\""},
    {"{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[]}}", "expected one ByteLevel"},
    {"{\"version\":\"2.0\"}", "version"},
    {"{\"verzion\":\"1.0\"}", "unknown key \"verzion\""},
    {"{\"added_tokens\":{}}", "added_tokens"},
    {ADDED("{\"id\":9,\"content\":\"x\"}"), "its id would be 3"},
    {ADDED("{\"id\":1,\"content\":\"a\"}"), "its id would be 0"},
    {ADDED("{\"id\":3,\"content\":\"x\"},{\"id\":3,\"content\":\"x\"}"), "twice"},
    {ADDED("{\"id\":3}"), "content"},
    {ADDED("{\"id\":-1,\"content\":\"x\"}"), "found -1"},
    {ADDED("{\"id\":3,\"content\":\"x\",\"special\":\"yes\"}"), "special"},
    {ADDED("3"), "content"},
    {"{\"model\":null}", "model"},
    {"{\"model\":{\"type\":\"Unigram\"}}", "model type \"Unigram\""},
    {"{\"model\":{\"type\":\"BPE\"}}", "vocab"},
    {"{\"model\":{\"vocab\":[],\"merges\":[]}}", "vocab"},
    {"{\"model\":{\"vocab\":{\"a\":0}}}", "merges"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "two tokens have the id 0"},
    {"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "found -1"},
    {"{\"model\":{\"vocab\":{\"a\":1.0},\"merges\":[]}}", "found real"},
    {"{\"model\":{\"vocab\":{\"a\":20000000},\"merges\":[]}}", "found 20000000"},
    {"{\"model\":{\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", "found string"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}", "\"ab\" is not in"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"ab\":1},\"merges\":[\"a b\"]}}", "\"b\" is not in"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", "two parts"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a  a\"]}}", "two parts"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\",[\"a\",\"a\"]]}}", "either"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[[\"a\",\"a\",\"a\"]]}}", "either"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[[\"a\",1]]}}", "either"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", "dropout"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":true}}", "byte_fallback"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}", "</w>"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"continuing_subword_prefix\":\"##\"}}",
     "##"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"<unk>\"}}", "<unk>"},
};

static void hostile_files_are_refused_with_a_message(void **state) {
    (void)state;
    json_t *base = parse(skeleton, strlen(skeleton));
    sy_tokenizer *t = NULL;
    if (sy_tokenizer_from_json(base, NULL, 0, &t) != SY_OK)
        fail_msg("the skeleton itself is refused: %s", sy_last_error());
    sy_tokenizer_destroy(t);
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        json_t *root = json_deep_copy(base);
        json_t *change = parse(hostile[i].change, strlen(hostile[i].change));
        json_object_update(root, change);
        sy_status st = sy_tokenizer_from_json(root, NULL, 0, &t);
        if (st != SY_ERR_FORMAT && st != SY_ERR_UNSUPPORTED)
            fail_msg("%s: %s", hostile[i].change, sy_status_name(st));
        if (strstr(sy_last_error(), hostile[i].message) == NULL)
            fail_msg("%s: the message is \"%s\"", hostile[i].change, sy_last_error());
        assert_null(t);
        json_decref(root);
        json_decref(change);
    }
    json_decref(base);
}

static json_t *skeleton_with(const char *change) {
    json_t *root = parse(skeleton, strlen(skeleton)), *members = parse(change, strlen(change));
    json_object_update(root, members);
    json_decref(members);
    return root;
}

static void an_added_token_of_excessive_length_is_refused(void **state) {
    (void)state;
    json_t *root = skeleton_with("{\"added_tokens\":[{\"id\":3,\"content\":\"x\"}]}");
    char *content = malloc(SY_MAX_ADDED_LENGTH + 2);
    assert_non_null(content);
    memset(content, 'x', SY_MAX_ADDED_LENGTH + 1);
    content[SY_MAX_ADDED_LENGTH + 1] = '\0';
    json_object_set_new(json_array_get(json_object_get(root, "added_tokens"), 0), "content",
                        json_string(content));
    sy_tokenizer *t = NULL;
    assert_int_equal(sy_tokenizer_from_json(root, NULL, 0, &t), SY_ERR_FORMAT);
    content[SY_MAX_ADDED_LENGTH] = '\0';
    json_object_set_new(json_array_get(json_object_get(root, "added_tokens"), 0), "content",
                        json_string(content));
    assert_int_equal(sy_tokenizer_from_json(root, NULL, 0, &t), SY_OK);
    sy_ids ids = encode(t, content, SY_MAX_ADDED_LENGTH, 0);
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.id[0], 3);
    sy_ids_free(&ids);
    sy_tokenizer_destroy(t);
    json_decref(root);
    free(content);
}

/* Groups under a quantifier exceed the JIT's stack; then the interpreter finishes the match. */
static void a_pattern_that_overflows_the_jit_stack_still_matches(void **state) {
    (void)state;
    json_t *root = skeleton_with(SPLIT("{\"Regex\":\"(?:(?!x)[a-b])*\"}"));
    sy_tokenizer *t = NULL;
    assert_int_equal(sy_tokenizer_from_json(root, NULL, 0, &t), SY_OK);
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
    json_decref(root);
}

static void a_pattern_that_explodes_refuses_the_input(void **state) {
    (void)state;
    json_t *root = skeleton_with(SPLIT("{\"Regex\":\"(?:a+)+(?:b|d)\"}"));
    sy_tokenizer *t = NULL;
    assert_int_equal(sy_tokenizer_from_json(root, NULL, 0, &t), SY_OK);
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
    json_decref(root);
}

static void max_id_bounds_the_ids(void **state) {
    (void)state;
    json_t *root = parse(skeleton, strlen(skeleton));
    sy_tokenizer *t = NULL;
    assert_int_equal(sy_tokenizer_from_json(root, NULL, 3, &t), SY_OK);
    assert_int_equal(sy_tokenizer_n_ids(t), 3);
    sy_tokenizer_destroy(t);
    assert_int_equal(sy_tokenizer_from_json(root, NULL, 2, &t), SY_ERR_FORMAT);
    json_decref(root);
}

static void bos_comes_from_the_configuration_when_no_template_adds_it(void **state) {
    (void)state;
    static const struct {
        const char *config;
        int32_t bos;
    } table[] = {
        {"{}", -1},
        {"{\"bos_token\":\"<s>\"}", -1},
        {"{\"add_bos_token\":true}", -1},
        {"{\"add_bos_token\":true,\"bos_token\":null}", -1},
        {"{\"add_bos_token\":false,\"bos_token\":\"<s>\"}", -1},
        {"{\"add_bos_token\":true,\"bos_token\":\"<s>\"}", 3},
        {"{\"add_bos_token\":true,\"bos_token\":{\"content\":\"<s>\"}}", 3},
    };
    json_t *root = skeleton_with(ADDED("{\"id\":3,\"content\":\"<s>\",\"special\":true}"));
    sy_tokenizer *t = NULL;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        json_t *config = parse(table[i].config, strlen(table[i].config));
        assert_int_equal(sy_tokenizer_from_json(root, config, 0, &t), SY_OK);
        assert_int_equal(sy_tokenizer_bos(t), table[i].bos);
        sy_ids ids = encode(t, "ab", 2, SY_ENCODE_ADD_SPECIAL);
        assert_int_equal(ids.n, table[i].bos < 0 ? 1 : 2);
        if (ids.n == 2) assert_int_equal(ids.id[0], 3);
        sy_ids_free(&ids);
        sy_tokenizer_destroy(t);
        json_decref(config);
    }
    static const char unknown[] = "{\"add_bos_token\":true,\"bos_token\":\"<b>\"}";
    json_t *config = parse(unknown, sizeof unknown - 1);
    assert_int_equal(sy_tokenizer_from_json(root, config, 0, &t), SY_ERR_FORMAT);
    assert_non_null(strstr(sy_last_error(), "<b>"));
    json_decref(config);
    json_decref(root);
}

static void a_directory_without_tokenizer_says_so(void **state) {
    (void)state;
    char path[1024];
    sy_tokenizer *t = NULL;
    data_path(path, sizeof path, "published");
    assert_int_equal(sy_tokenizer_load(path, 0, &t), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "there is no tokenizer.json"));
    assert_null(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen3_kind_gives_the_reference_ids),
        cmocka_unit_test(olmoe_kind_gives_the_reference_ids),
        cmocka_unit_test(o200k_kind_gives_the_reference_ids),
        cmocka_unit_test(published_qwen3_gives_the_reference_ids),
        cmocka_unit_test(published_deepseek_v3_gives_the_reference_ids),
        cmocka_unit_test(published_gptoss_gives_the_reference_ids),
        cmocka_unit_test(variants_give_the_reference_ids),
        cmocka_unit_test(invalid_utf8_encodes_as_its_replaced_form),
        cmocka_unit_test(streaming_equals_one_shot_decoding),
        cmocka_unit_test(a_megabyte_of_one_character_takes_less_than_a_second),
        cmocka_unit_test(threads_share_one_tokenizer),
        cmocka_unit_test(patterns_are_translated_or_refused_by_name),
        cmocka_unit_test(hostile_files_are_refused_with_a_message),
        cmocka_unit_test(an_added_token_of_excessive_length_is_refused),
        cmocka_unit_test(a_pattern_that_overflows_the_jit_stack_still_matches),
        cmocka_unit_test(a_pattern_that_explodes_refuses_the_input),
        cmocka_unit_test(max_id_bounds_the_ids),
        cmocka_unit_test(bos_comes_from_the_configuration_when_no_template_adds_it),
        cmocka_unit_test(a_directory_without_tokenizer_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

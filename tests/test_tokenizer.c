/* timeout: 300
 *
 * Tokenizers of every format against the ids and texts that the reference libraries give for some
 * thousands of strings (tests/data/tokenizers, made by scripts/make_tokenizer_tests.py). */
#include "tests/tokenizer_cases.h"

/* The hash of all that is done with one string. */
static uint64_t observe(const sy_tokenizer *t, const sy_text *text, bool comes_back) {
    sy_ids ids = encode(t, text->data, text->n, SY_ENCODE_PLAIN);
    sy_ids as_text = encode(t, text->data, text->n, SY_ENCODE_NO_SPECIALS);
    sy_ids whole = encode(t, text->data, text->n, SY_ENCODE_ADD_SPECIAL);
    sy_text all = decode(t, &ids, false), visible = decode(t, &ids, true);
    uint64_t hash = fnv_ids(&ids, FNV_START);
    hash = fnv_ids(&as_text, hash);
    hash = fnv_ids(&whole, hash);
    hash = fnv(all.data, all.n, hash);
    hash = fnv(visible.data, visible.n, hash);
    if (comes_back && !same_text(&all, text->data, text->n))
        fail_msg("\"%.60s\" does not come back", text->data);
    sy_ids_free(&ids);
    sy_ids_free(&as_text);
    sy_ids_free(&whole);
    sy_text_free(&all);
    sy_text_free(&visible);
    return hash;
}

static void compare_with_expected(const sy_tokenizer *t, const char *file) {
    char path[1024];
    FILE *f = fopen(data_path(path, sizeof path, file), "r");
    if (f == NULL) fail_msg("%s: cannot be opened", path);
    cases c = read_cases();
    assert_true(c.n > 2500);
    size_t differences = 0;
    uint64_t total = FNV_START;
    for (size_t i = 0; i < c.n; i++) {
        unsigned low;
        assert_int_equal(fscanf(f, "%x", &low), 1);
        uint64_t hash = observe(t, &c.text[i], t->n_normal == 0);
        total = fnv_word(hash, 8, total);
        if (low == (hash & 0xffff)) continue;
        if (differences++ < 10)
            print_message("%s: line %zu of strings.jsonl differs: \"%.60s\"\n", file, i + 1,
                          c.text[i].data != NULL ? c.text[i].data : "");
    }
    unsigned long long expected;
    assert_int_equal(fscanf(f, "%llx", &expected), 1);
    free_cases(&c);
    fclose(f);
    assert_int_equal(differences, 0);
    assert_true(total == expected);
}

static void check_kind(const char *kind) {
    char file[64];
    snprintf(file, sizeof file, "%s/expected.txt", kind);
    sy_tokenizer *t = load_kind(kind);
    compare_with_expected(t, file);
    sy_tokenizer_destroy(t);
}
static void qwen3_kind_gives_the_reference_ids(void **state) {
    (void)state;
    check_kind("qwen3");
}
static void olmoe_kind_gives_the_reference_ids(void **state) {
    (void)state;
    check_kind("olmoe");
}
static void o200k_kind_gives_the_reference_ids(void **state) {
    (void)state;
    check_kind("o200k");
}
static void mixtral_kind_gives_the_reference_ids(void **state) {
    (void)state;
    check_kind("mixtral");
}
static void sarvam_kind_gives_the_reference_ids(void **state) {
    (void)state;
    check_kind("sarvam");
}
static void tekken_kind_gives_the_reference_ids(void **state) {
    (void)state;
    check_kind("tekken");
}
static void kimi_kind_gives_the_reference_ids(void **state) {
    (void)state;
    check_kind("kimi");
}

/* ---- published files, which lie outside the repository ---- */

/* Unpacks NAME/FILE.xz into a fresh directory; false if it or xz is not there. */
static bool unpack_published(const char *name, const char *file, char *directory, size_t size) {
    const char *root = getenv("SY_SOURCE_DIR");
    char archive[1024], command[4096];
    if (root == NULL || strchr(root, '\'') != NULL) return false;
    snprintf(archive, sizeof archive, "%s/../shared/tokenizers/%s/%s.xz", root, name, file);
    if (access(archive, R_OK) != 0) return false;
    snprintf(directory, size, "/tmp/sy-tokenizer-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(command, sizeof command, "xz -dc '%s' > %s/%s 2>/dev/null", archive, directory,
             file);
    if (system(command) == 0) return true;
    snprintf(command, sizeof command, "%s/%s", directory, file);
    unlink(command);
    rmdir(directory);
    return false;
}

static void check_published(const char *name, const char *file) {
    char directory[64], path[128];
    if (!unpack_published(name, file, directory, sizeof directory)) {
        print_message("skipped: %s's %s.xz or xz is not there\n", name, file);
        skip();
    }
    sy_tokenizer *t = NULL;
    sy_status st = sy_tokenizer_load(directory, 0, &t);
    snprintf(path, sizeof path, "%s/%s", directory, file);
    unlink(path);
    rmdir(directory);
    if (st != SY_OK) fail_msg("%s", sy_last_error());
    snprintf(path, sizeof path, "published/%s.txt", name);
    compare_with_expected(t, path);
    sy_tokenizer_destroy(t);
}
static void published_qwen3_gives_the_reference_ids(void **state) {
    (void)state;
    check_published("qwen3", "tokenizer.json");
}
static void published_deepseek_v3_gives_the_reference_ids(void **state) {
    (void)state;
    check_published("deepseek_v3", "tokenizer.json");
}
static void published_gptoss_gives_the_reference_ids(void **state) {
    (void)state;
    check_published("gptoss", "tokenizer.json");
}
static void published_mixtral_gives_the_reference_ids(void **state) {
    (void)state;
    check_published("mixtral", "tokenizer.json");
}
static void published_tekken_gives_the_reference_ids(void **state) {
    (void)state;
    check_published("mistral_tekken", "tekken.json");
}

/* ---- beginning and end of text ---- */

static void bos_and_eos_are_what_the_files_say(void **state) {
    (void)state;
    static const struct {
        const char *kind, *bos;
    } table[] = {{"qwen3", NULL},    {"o200k", NULL},  {"olmoe", "<|endoftext|>"},
                 {"mixtral", "<s>"}, {"sarvam", NULL}, {"tekken", "<s>"},
                 {"kimi", NULL}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sy_tokenizer *t = load_kind(table[i].kind);
        const char *bos = table[i].bos;
        int32_t id = bos != NULL ? sy_tokenizer_token_id(t, bos, strlen(bos)) : -1;
        if (bos != NULL && id < 0) fail_msg("%s: there is no %s", table[i].kind, bos);
        if (sy_tokenizer_bos(t) != id)
            fail_msg("%s: BOS is %d, expected %d", table[i].kind, sy_tokenizer_bos(t), id);
        assert_int_equal(sy_tokenizer_is_special(t, id), bos != NULL);
        assert_false(sy_tokenizer_is_special(t, INT32_MAX));
        int32_t eos = sy_tokenizer_eos(t);
        assert_int_equal(eos >= 0, strcmp(table[i].kind, "tekken") == 0);
        if (eos >= 0) assert_int_equal(eos, sy_tokenizer_token_id(t, "</s>", 4));
        sy_tokenizer_destroy(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen3_kind_gives_the_reference_ids),
        cmocka_unit_test(olmoe_kind_gives_the_reference_ids),
        cmocka_unit_test(o200k_kind_gives_the_reference_ids),
        cmocka_unit_test(mixtral_kind_gives_the_reference_ids),
        cmocka_unit_test(sarvam_kind_gives_the_reference_ids),
        cmocka_unit_test(tekken_kind_gives_the_reference_ids),
        cmocka_unit_test(kimi_kind_gives_the_reference_ids),
        cmocka_unit_test(published_qwen3_gives_the_reference_ids),
        cmocka_unit_test(published_deepseek_v3_gives_the_reference_ids),
        cmocka_unit_test(published_gptoss_gives_the_reference_ids),
        cmocka_unit_test(published_mixtral_gives_the_reference_ids),
        cmocka_unit_test(published_tekken_gives_the_reference_ids),
        cmocka_unit_test(bos_and_eos_are_what_the_files_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Prompts from options, files and lists. (stdin is tested by cli_run.sh.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "launcher/prompts.h"
#include "tests/tokenizer_fixture.h"

static sy_tokenizer *tokenizer;
static char path[64];

static int set_up(void **state) {
    (void)state;
    static const char *const words[] = {NULL};
    tokenizer = make_tokenizer(words, "<|end|>");
    strcpy(path, "/tmp/sy_prompts_XXXXXX");
    int fd = mkstemp(path);
    if (fd >= 0) close(fd);
    return tokenizer == NULL || fd < 0;
}
static int tear_down(void **state) {
    (void)state;
    sy_tokenizer_destroy(tokenizer);
    unlink(path);
    return 0;
}

static void write_file(const char *text, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Each prompt's ids are its bytes, so the ids tell the text. */
static void check_prompt(const sy_prompts *p, int i, const char *text, size_t n) {
    assert_true(i < p->n);
    assert_int_equal(p->prompt[i].n_text, n);
    assert_memory_equal(p->prompt[i].text, text, n);
    assert_int_equal(p->prompt[i].ids.n, n);
    for (size_t k = 0; k < n; k++)
        assert_int_equal(p->prompt[i].ids.id[k], (unsigned char)text[k]);
}

static void refuse(const sy_options *o, const sy_tokenizer *t, sy_status st, const char *text) {
    sy_prompts p;
    assert_int_equal(sy_prompts_read(o, t, 300, &p), st);
    assert_null(p.prompt);
    assert_int_equal(p.n, 0);
    if (strstr(sy_last_error(), text) == NULL)
        fail_msg("expected \"%s\" in \"%s\"", text, sy_last_error());
}

static void a_prompt_is_taken_as_it_is(void **state) {
    (void)state;
    sy_prompts p;
    sy_options o = {.model = "m", .prompt = "hi\n"};
    assert_int_equal(sy_prompts_read(&o, tokenizer, 300, &p), SY_OK);
    assert_int_equal(p.n, 1);
    check_prompt(&p, 0, "hi\n", 3);
    sy_prompts_free(&p);
    assert_int_equal(p.n, 0);

    /* A file keeps its last newline and its NUL bytes. */
    write_file("a\0b\r\n", 5);
    o = (sy_options){.model = "m", .prompt_file = path};
    assert_int_equal(sy_prompts_read(&o, tokenizer, 300, &p), SY_OK);
    check_prompt(&p, 0, "a\0b\r\n", 5);
    sy_prompts_free(&p);
}

static void a_list_skips_blank_lines_and_takes_crlf(void **state) {
    (void)state;
    static const char list[] =
        "\n\"one\"\r\n  \t\r\n \"t\\u0077o\\n\" \r\n\r\n\"\\u00e9\"\n\"last\"";
    sy_prompts p;
    sy_options o = {.model = "m", .prompts_file = path};
    write_file(list, sizeof list - 1);
    assert_int_equal(sy_prompts_read(&o, tokenizer, 300, &p), SY_OK);
    assert_int_equal(p.n, 4);
    check_prompt(&p, 0, "one", 3);
    check_prompt(&p, 1, "two\n", 4);
    check_prompt(&p, 2, "\xc3\xa9", 2);
    check_prompt(&p, 3, "last", 4);
    sy_prompts_free(&p);

    /* A byte order mark, as some editors write it. */
    write_file("\xef\xbb\xbf\"x\"\n", 7);
    assert_int_equal(sy_prompts_read(&o, tokenizer, 300, &p), SY_OK);
    assert_int_equal(p.n, 1);
    check_prompt(&p, 0, "x", 1);
    sy_prompts_free(&p);
}

static void a_wrong_line_is_named_by_its_number(void **state) {
    (void)state;
    static const struct {
        const char *list, *text;
    } table[] = {
        {"\"a\"\n\n17\n", "line 3: expected a JSON string, found integer"},
        {"\"a\"\r\n{\"prompt\": \"b\"}\n", "line 2: expected a JSON string, found object"},
        {"[\"a\"]", "line 1: expected a JSON string, found array"},
        {"null\n", "line 1: expected a JSON string, found null"},
        {"\"a\"\n\"b\nc\"\n", ", line 2: "},
        {"\"a\"\n\"b\" \"c\"\n", ", line 2: "},
        {"plain text\n", ", line 1: "},
        {"\"\\ud800\"\n", ", line 1: "},
        {"\"a\"\n\"\xff\"\n", ", line 2: not valid UTF-8"},
        {"", "holds no prompts"},
        {"\n \r\n\t\n", "holds no prompts"},
    };
    sy_options o = {.model = "m", .prompts_file = path};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        write_file(table[i].list, strlen(table[i].list));
        refuse(&o, tokenizer, SY_ERR_FORMAT, table[i].text);
        assert_non_null(strstr(sy_last_error(), path));
    }
}

static void an_empty_prompt_is_refused_by_its_number(void **state) {
    (void)state;
    sy_options o = {.model = "m", .prompt = ""};
    refuse(&o, tokenizer, SY_ERR_USAGE, "prompt 1 is empty");
    write_file("\"a\"\n\"\"\n", 7);
    o = (sy_options){.model = "m", .prompts_file = path};
    refuse(&o, tokenizer, SY_ERR_USAGE, "prompt 2 is empty");
    write_file("", 0);
    o = (sy_options){.model = "m", .prompt_file = path};
    refuse(&o, tokenizer, SY_ERR_USAGE, "prompt 1 is empty");
}

static void files_that_cannot_be_read_are_named(void **state) {
    (void)state;
    sy_options o = {.model = "m", .prompt_file = "/nonexistent/p.txt"};
    refuse(&o, tokenizer, SY_ERR_IO, "/nonexistent/p.txt: No such file");
    o.prompt_file = "/tmp";
    refuse(&o, tokenizer, SY_ERR_IO, "/tmp: expected a regular file");
    o = (sy_options){.model = "m", .prompts_file = "/dev/null"};
    refuse(&o, tokenizer, SY_ERR_IO, "/dev/null");
}

static void ids_need_no_tokenizer_and_are_checked(void **state) {
    (void)state;
    sy_prompts p;
    sy_options o = {.model = "m", .ids = "7, 0 299"};
    assert_int_equal(sy_prompts_read(&o, NULL, 300, &p), SY_OK);
    assert_int_equal(p.n, 1);
    assert_null(p.prompt[0].text);
    assert_int_equal(p.prompt[0].ids.n, 3);
    assert_true(p.prompt[0].ids.id[0] == 7 && p.prompt[0].ids.id[2] == 299);
    sy_prompts_free(&p);
    o.ids = "1 300";
    refuse(&o, NULL, SY_ERR_USAGE, "300");
    o.ids = "1 -1";
    refuse(&o, NULL, SY_ERR_USAGE, "-1");
    o = (sy_options){.model = "the/model", .prompt = "text"};
    refuse(&o, NULL, SY_ERR_USAGE, "the/model has no tokenizer");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_is_taken_as_it_is),
        cmocka_unit_test(a_list_skips_blank_lines_and_takes_crlf),
        cmocka_unit_test(a_wrong_line_is_named_by_its_number),
        cmocka_unit_test(an_empty_prompt_is_refused_by_its_number),
        cmocka_unit_test(files_that_cannot_be_read_are_named),
        cmocka_unit_test(ids_need_no_tokenizer_and_are_checked),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* The command line: values, ranges, and what is said about mistakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/option_table.h"
#include "launcher/options.h"

static sy_status nothing(const sy_options *options) {
    (void)options;
    return SY_OK;
}

/* The same shapes as the program's own table. */
const sy_command sy_commands[] = {
    {.name = "run",
     .synopsis = "MODEL",
     .summary = "",
     .needs_model = true,
     .parallel = true,
     .main = nothing},
    {.name = "bench",
     .synopsis = "MODEL",
     .summary = "",
     .needs_model = true,
     .parallel = true,
     .main = nothing},
    {.name = "logits",
     .synopsis = "MODEL",
     .summary = "",
     .needs_model = true,
     .parallel = true,
     .main = nothing},
    {.name = "inspect",
     .synopsis = "MODEL",
     .summary = "",
     .needs_model = true,
     .main = nothing},
    {.name = NULL},
};

enum { MAX_ARGS = 24 };

/* Parses the words of a NULL-terminated list. */
static sy_status parse(sy_options *out, const char *const *words) {
    static char copies[MAX_ARGS][64];
    char *argv[MAX_ARGS + 2] = {(char *)"switchyard"};
    int argc = 1;
    for (; words[argc - 1] != NULL; argc++) {
        strcpy(copies[argc], words[argc - 1]);
        argv[argc] = copies[argc];
    }
    bool handled = false;
    sy_status st = sy_options_parse(argc, argv, out, &handled);
    assert_false(handled);
    return st;
}
#define PARSE(out, ...) parse((out), (const char *const[]){__VA_ARGS__, NULL})

static void refuse(const char *expected, const char *const *words) {
    sy_options o;
    assert_int_equal(parse(&o, words), SY_ERR_USAGE);
    if (strstr(sy_last_error(), expected) == NULL)
        fail_msg("expected \"%s\" in \"%s\"", expected, sy_last_error());
    assert_null(o.rank_args);
}
#define REFUSE(expected, ...) refuse((expected), (const char *const[]){__VA_ARGS__, NULL})

static void defaults_are_those_of_the_table(void **state) {
    (void)state;
    sy_options o;
    assert_int_equal(PARSE(&o, "run", "m"), SY_OK);
    assert_string_equal(o.command->name, "run");
    assert_string_equal(o.model, "m");
    assert_int_equal(o.n_ranks, 0);
    assert_int_equal(o.max_tokens, 128);
    assert_int_equal(o.chunk, 512);
    assert_true(o.temperature == 0 && o.top_p == 1 && o.min_p == 0);
    assert_true(o.deadline == 10 && o.start_limit == 60);
    assert_string_equal(o.activations, "bf16");
    assert_string_equal(o.numerics, "exact");
    assert_string_equal(o.isa, "auto");
    assert_int_equal(o.repetitions, 3);
    assert_false(o.json || o.quiet || o.verbose || o.dummy_weights);
    assert_null(o.prompt);
    sy_options_free(&o);
}

static void letters_mean_what_their_command_says(void **state) {
    (void)state;
    sy_options o;
    assert_int_equal(PARSE(&o, "run", "-p", "once upon", "m", "-n3", "-vt", "2"), SY_OK);
    assert_string_equal(o.prompt, "once upon");
    assert_int_equal(o.n_ranks, 3);
    assert_int_equal(o.threads, 2);
    assert_true(o.verbose);
    sy_options_free(&o);
    assert_int_equal(PARSE(&o, "bench", "m", "-p", "16,32", "-g8", "-b", "1,4", "-r", "5"),
                     SY_OK);
    assert_null(o.prompt);
    assert_string_equal(o.bench_prompt, "16,32");
    assert_string_equal(o.bench_gen, "8");
    assert_string_equal(o.bench_batch, "1,4");
    assert_int_equal(o.repetitions, 5);
    sy_options_free(&o);
    assert_int_equal(PARSE(&o, "inspect", "m", "--ranks", "7"), SY_OK);
    assert_int_equal(o.ranks, 7);
    assert_int_equal(o.n_ranks, 0);
    sy_options_free(&o);
}

static void values_are_checked_at_both_ends(void **state) {
    (void)state;
    sy_options o;
    assert_int_equal(PARSE(&o, "run", "m", "--seed", "18446744073709551615", "--top-p=0.5"),
                     SY_OK);
    assert_true(o.seed == UINT64_MAX && o.top_p == 0.5);
    sy_options_free(&o);
    REFUSE("--max-tokens: -1 is outside 1", "run", "m", "--max-tokens", "-1");
    REFUSE("is outside", "run", "m", "--max-tokens", "99999999999999999999");
    REFUSE("\"12x\" is not a whole number", "run", "m", "--max-tokens", "12x");
    REFUSE("\"\" is not a whole number", "run", "m", "--max-tokens=");
    REFUSE("64 bits", "run", "m", "--seed", "-1");
    REFUSE("64 bits", "run", "m", "--seed", "18446744073709551616");
    REFUSE("--top-p: 1.5 is outside 0 to 1", "run", "m", "--top-p", "1.5");
    REFUSE("is not a number", "run", "m", "--top-p", "nan");
    REFUSE("is not a number", "run", "m", "--temperature", "inf");
    REFUSE("\"int4\" is not one of: bf16 f32", "run", "m", "--activations", "int4");
    REFUSE("\"bf\" is not one of", "run", "m", "--activations", "bf");
    REFUSE("is not a whole number", "run", "m", "--ids", "1 2 x");
    REFUSE("no number", "run", "m", "--ids", " ,");
    REFUSE("--ranks: 0 is outside 1", "run", "m", "-n", "0");
    REFUSE("the text is empty", "run", "m", "--stop", "");
}

static void mistakes_are_named_with_the_nearest_word(void **state) {
    (void)state;
    REFUSE("no command given", NULL);
    REFUSE("did you mean inspect?", "inspct");
    REFUSE("no command \"fly\"; see", "fly");
    REFUSE("the command comes first", "-n", "2", "run");
    REFUSE("did you mean --max-tokens?", "run", "m", "--max-token5", "1");
    REFUSE("run has no option --elephant; see", "run", "m", "--elephant");
    REFUSE("may mean several", "run", "m", "--to", "1");
    REFUSE("run has no option -g", "run", "m", "-g", "1");
    REFUSE("inspect has no option -n", "inspect", "m", "-n", "2");
    REFUSE("--prompt needs an argument: TEXT", "run", "m", "-p");
    REFUSE("--quiet takes no argument", "run", "m", "--quiet=1");
    REFUSE("--prompt and --file exclude each other", "run", "m", "-p", "a", "-f", "b");
    REFUSE("--quiet and --verbose exclude", "run", "m", "-q", "-v");
    REFUSE("no model given", "run", "-p", "x");
    REFUSE("unexpected argument \"n\"", "run", "m", "n");
    REFUSE("the model's path is empty", "run", "");
}

static void nearest_word_ignores_far_and_long_ones(void **state) {
    (void)state;
    const char *words[] = {"run", "bench",
                           "a-word-that-is-longer-than-the-limit-of-the-search"};
    assert_string_equal(sy_nearest_word("bnech", words, 3), "bench"); /* neighbours exchanged */
    assert_string_equal(sy_nearest_word("rune", words, 3), "run");
    assert_null(sy_nearest_word("tokenize", words, 3));
    assert_null(sy_nearest_word(words[2], words, 2));
}

static void ranks_get_all_but_the_front_ends_options(void **state) {
    (void)state;
    sy_options o;
    assert_int_equal(PARSE(&o, "run", "-qn", "4", "--hosts", "a:4", "-p", ":", "--ctx", "64",
                           "--start-limit=9", "--stop", "x", "--stop=y z", "--", "-model"),
                     SY_OK);
    const char *expected[] = {"run",      "--quiet",    "--prompt=:", "--ctx=64",
                              "--stop=x", "--stop=y z", "--",         "-model"};
    assert_int_equal(o.n_rank_args, 8);
    for (int i = 0; i < 8; i++)
        assert_string_equal(o.rank_args[i], expected[i]);
    assert_null(o.rank_args[8]);
    assert_int_equal(o.stop.n, 2);
    sy_options_free(&o);
    /* mpirun takes a lone colon for the start of another program. */
    assert_int_equal(PARSE(&o, "run", ":"), SY_OK);
    assert_string_equal(o.rank_args[o.n_rank_args - 1], "./:");
    sy_options_free(&o);
}

static void environment_sets_the_default_isa(void **state) {
    (void)state;
    sy_options o;
    setenv("SWITCHYARD_ISA", "generic", 1);
    assert_int_equal(PARSE(&o, "run", "m"), SY_OK);
    assert_string_equal(o.isa, "generic");
    assert_string_equal(o.rank_args[1], "--isa=generic"); /* other hosts have their own */
    sy_options_free(&o);
    assert_int_equal(PARSE(&o, "run", "m", "--isa", "avx2"), SY_OK);
    assert_string_equal(o.isa, "avx2");
    sy_options_free(&o);
    assert_int_equal(PARSE(&o, "inspect", "m"), SY_OK); /* has no use for it */
    sy_options_free(&o);
    setenv("SWITCHYARD_ISA", "abacus", 1);
    REFUSE("SWITCHYARD_ISA in the environment: --isa: \"abacus\" is not one of", "run", "m");
    unsetenv("SWITCHYARD_ISA");
}

static void starting_ranks_inside_a_rank_is_refused(void **state) {
    (void)state;
    sy_options o;
    setenv("OMPI_COMM_WORLD_RANK", "2", 1);
    REFUSE("is a rank of mpirun", "run", "m", "-n", "2");
    assert_int_equal(PARSE(&o, "run", "m"), SY_OK);
    assert_int_equal(o.world_rank, 2);
    sy_options_free(&o);
    unsetenv("OMPI_COMM_WORLD_RANK");
    /* In a batch script this is set, and no rank has been started. */
    setenv("SLURM_PROCID", "0", 1);
    assert_int_equal(PARSE(&o, "run", "m", "-n", "2"), SY_OK);
    sy_options_free(&o);
    unsetenv("SLURM_PROCID");
}

static void description_reads_back_as_the_same_options(void **state) {
    (void)state;
    sy_options o;
    char *line = NULL;
    assert_int_equal(PARSE(&o, "bench", "a b", "--dummy-weights", "--json"), SY_OK);
    assert_int_equal(sy_options_describe(&o, &line), SY_OK);
    assert_non_null(strstr(line, "switchyard bench 'a b' "));
    assert_non_null(strstr(line, " --prompt-tokens 512 "));
    assert_non_null(strstr(line, " --dummy-weights"));
    assert_non_null(strstr(line, " --format json"));
    assert_null(strstr(line, "--max-tokens")); /* another command's */
    free(line);
    sy_options_free(&o);
    assert_int_equal(PARSE(&o, "run", "m", "-p", "it's"), SY_OK);
    assert_int_equal(sy_options_describe(&o, &line), SY_OK);
    assert_non_null(strstr(line, " --prompt 'it'\\''s'"));
    free(line);
    sy_options_free(&o);
}

static void lists_of_numbers_take_commas_and_spaces(void **state) {
    (void)state;
    int64_t *values = NULL, n = 0;
    assert_int_equal(sy_parse_int_list(" 1,2 3,,40\n", "ids", 0, 100, &values, &n), SY_OK);
    const int64_t expected[] = {1, 2, 3, 40};
    assert_int_equal(n, 4);
    assert_memory_equal(values, expected, sizeof expected);
    free(values);
    assert_int_equal(sy_parse_int_list("1,101", "ids", 0, 100, &values, &n), SY_ERR_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_table),
        cmocka_unit_test(letters_mean_what_their_command_says),
        cmocka_unit_test(values_are_checked_at_both_ends),
        cmocka_unit_test(mistakes_are_named_with_the_nearest_word),
        cmocka_unit_test(nearest_word_ignores_far_and_long_ones),
        cmocka_unit_test(ranks_get_all_but_the_front_ends_options),
        cmocka_unit_test(environment_sets_the_default_isa),
        cmocka_unit_test(starting_ranks_inside_a_rank_is_refused),
        cmocka_unit_test(description_reads_back_as_the_same_options),
        cmocka_unit_test(lists_of_numbers_take_commas_and_spaces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

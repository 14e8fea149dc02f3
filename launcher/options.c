#include "launcher/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/frames.h"
#include "launcher/option_table.h"
#include "launcher/version.h"

enum { MAX_ROWS = 96, VERSION_CODE = 254, HELP_CODE = 255, LONG_CODE = 256 };

/* One call of sy_options_parse: the rows of the command, as getopt_long wants them. */
typedef struct parser {
    sy_options *out;
    int n_rows;
    const sy_option *rows[MAX_ROWS];
    bool given[MAX_ROWS];
    struct option longs[MAX_ROWS + 3];
    char letters[3 * MAX_ROWS];
} parser;

static sy_status duplicate(const char *text, char **out) {
    *out = strdup(text);
    return *out != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory for an argument");
}

/* ---- values ---- */

static sy_status
parse_int(const char *text, const char *what, double min, double max, int64_t *out) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0')
        return sy_fail(SY_ERR_USAGE, "%s: \"%s\" is not a whole number", what, text);
    if (errno != 0 || (double)value < min || (double)value > max)
        return sy_fail(SY_ERR_USAGE, "%s: %s is outside %.0f to %.0f", what, text, min, max);
    *out = value;
    return SY_OK;
}

static sy_status parse_uint64(const char *text, const char *what, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0)
        return sy_fail(SY_ERR_USAGE, "%s: \"%s\" is not a whole number of 64 bits", what, text);
    *out = value;
    return SY_OK;
}

static sy_status
parse_real(const char *text, const char *what, double min, double max, double *out) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value))
        return sy_fail(SY_ERR_USAGE, "%s: \"%s\" is not a number", what, text);
    if (value < min || value > max)
        return sy_fail(SY_ERR_USAGE, "%s: %s is outside %g to %g", what, text, min, max);
    *out = value;
    return SY_OK;
}

static sy_status check_choice(const char *text, const char *what, const char *choices) {
    size_t n = strlen(text);
    for (const char *p = choices; *p != '\0';) {
        size_t word = strcspn(p, " ");
        if (word == n && memcmp(p, text, n) == 0) return SY_OK;
        p += word + (p[word] == ' ');
    }
    return sy_fail(SY_ERR_USAGE, "%s: \"%s\" is not one of: %s", what, text, choices);
}

sy_status sy_parse_int_list(const char *text,
                            const char *what,
                            int64_t min,
                            int64_t max,
                            int64_t **out,
                            int64_t *n) {
    sy_status st = SY_OK;
    int64_t *values = NULL;
    char *copy = NULL;
    int64_t count = 0;
    SY_TRY(duplicate(text, &copy));
    /* A number and a separator take two bytes at least. */
    values = malloc((strlen(text) / 2 + 1) * sizeof *values);
    if (values == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %s", what);
    char *rest = copy;
    for (char *word; (word = strsep(&rest, ", \t\n")) != NULL;) {
        if (word[0] == '\0') continue;
        SY_TRY(parse_int(word, what, (double)min, (double)max, &values[count]));
        count++;
    }
    if (count == 0) SY_FAIL(SY_ERR_USAGE, "%s: no number in \"%s\"", what, text);
    *n = count;
    *out = values;
    values = NULL;
done:
    free(values);
    free(copy);
    return st;
}

static sy_status check_list(const char *text, const char *what, double min, double max) {
    int64_t *values = NULL, n = 0;
    sy_status st = sy_parse_int_list(text, what, (int64_t)min, (int64_t)max, &values, &n);
    free(values);
    return st;
}

static sy_status append_text(sy_texts *list, const char *what, const char *text) {
    const char **more = realloc(list->text, (size_t)(list->n + 1) * sizeof *more);
    if (more == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %s", what);
    list->text = more;
    list->text[list->n++] = text;
    return SY_OK;
}

/* Checks the text of an option's argument and stores its value. */
static sy_status set_option(sy_options *out, const sy_option *row, const char *text) {
    sy_status st = SY_OK;
    void *field = (char *)out + row->offset;
    char what[64];
    int64_t value = 0;
    snprintf(what, sizeof what, "--%s", row->name);
    switch (row->kind) {
    case SY_OPTION_FLAG:
        *(bool *)field = true;
        break;
    case SY_OPTION_INT:
        SY_TRY(parse_int(text, what, row->min, row->max, &value));
        *(int *)field = (int)value;
        break;
    case SY_OPTION_INT64:
        SY_TRY(parse_int(text, what, row->min, row->max, &value));
        *(int64_t *)field = value;
        break;
    case SY_OPTION_UINT64:
        SY_TRY(parse_uint64(text, what, field));
        break;
    case SY_OPTION_REAL:
        SY_TRY(parse_real(text, what, row->min, row->max, field));
        break;
    case SY_OPTION_CHOICE:
        SY_TRY(check_choice(text, what, row->choices));
        *(const char **)field = text;
        break;
    case SY_OPTION_LIST:
        SY_TRY(check_list(text, what, row->min, row->max));
        *(const char **)field = text;
        break;
    case SY_OPTION_TEXT:
        *(const char **)field = text;
        break;
    case SY_OPTION_REPEAT:
        if (text[0] == '\0') SY_FAIL(SY_ERR_USAGE, "%s: the text is empty", what);
        SY_TRY(append_text(field, what, text));
        break;
    }
done:
    return st;
}

static sy_status set_defaults(sy_options *out) {
    sy_status st = SY_OK;
    for (const sy_option *row = sy_option_table; row->name != NULL; row++)
        if (row->initial != NULL) SY_TRY(set_option(out, row, row->initial));
done:
    return st;
}

/* ---- what the ranks are started with ---- */

static sy_status
add_rank_arg(sy_options *out, const char *a, const char *b, const char *c, const char *d) {
    char **more = realloc(out->rank_args, (size_t)(out->n_rank_args + 2) * sizeof *more);
    if (more == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the arguments");
    out->rank_args = more;
    size_t bytes = strlen(a) + strlen(b) + strlen(c) + strlen(d) + 1;
    char *text = malloc(bytes);
    if (text == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the arguments");
    snprintf(text, bytes, "%s%s%s%s", a, b, c, d);
    out->rank_args[out->n_rank_args++] = text;
    out->rank_args[out->n_rank_args] = NULL;
    return SY_OK;
}

static sy_status forward_option(sy_options *out, const sy_option *row, const char *text) {
    if (row->front_end) return SY_OK;
    if (row->kind == SY_OPTION_FLAG) return add_rank_arg(out, "--", row->name, "", "");
    return add_rank_arg(out, "--", row->name, "=", text);
}

static sy_status forward_model(sy_options *out) {
    sy_status st = SY_OK;
    if (out->model == NULL) goto done;
    SY_TRY(add_rank_arg(out, "--", "", "", ""));
    /* A lone ":" would tell mpirun that another program follows. */
    bool colon = strcmp(out->model, ":") == 0;
    SY_TRY(add_rank_arg(out, colon ? "./" : "", out->model, "", ""));
done:
    return st;
}

/* ---- parsing ---- */

static void parser_init(parser *p, sy_options *out) {
    memset(p, 0, sizeof *p);
    p->out = out;
    /* '-': other arguments arrive in order, as option 1; ':': missing arguments are told apart. */
    size_t used = (size_t)snprintf(p->letters, sizeof p->letters, "-:h");
    for (const sy_option *row = sy_option_table; row->name != NULL; row++) {
        if (!sy_option_applies(row, out->command) || p->n_rows == MAX_ROWS) continue;
        int has_argument = row->kind == SY_OPTION_FLAG ? no_argument : required_argument;
        p->longs[p->n_rows] =
            (struct option){row->name, has_argument, NULL, LONG_CODE + p->n_rows};
        p->rows[p->n_rows++] = row;
        if (row->letter == 0) continue;
        p->letters[used++] = row->letter;
        if (has_argument == required_argument) p->letters[used++] = ':';
    }
    p->longs[p->n_rows] = (struct option){"help", no_argument, NULL, HELP_CODE};
    p->longs[p->n_rows + 1] = (struct option){"version", no_argument, NULL, VERSION_CODE};
}

static int row_of_code(const parser *p, int code) {
    if (code >= LONG_CODE) return code - LONG_CODE;
    for (int i = 0; i < p->n_rows; i++)
        if (p->rows[i]->letter != 0 && p->rows[i]->letter == code) return i;
    return -1;
}

static sy_status unknown_command(const char *word) {
    const char *names[32];
    int n = 0;
    for (const sy_command *c = sy_commands; c->name != NULL && n < 32; c++)
        names[n++] = c->name;
    const char *near = sy_nearest_word(word, names, n);
    if (near != NULL)
        return sy_fail(SY_ERR_USAGE, "no command \"%s\"; did you mean %s?", word, near);
    return sy_fail(SY_ERR_USAGE, "no command \"%s\"; see switchyard --help", word);
}

/* A long option that getopt_long refused: "--name" or "--name=value". */
static sy_status unknown_long(const parser *p, const char *word) {
    const char *command = p->out->command->name;
    const char *names[MAX_ROWS];
    int n = 0, n_prefixed = 0;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    for (int i = 0; i < p->n_rows; i++) {
        names[n++] = p->rows[i]->name;
        if (strncmp(p->rows[i]->name, name, strlen(name)) == 0) n_prefixed++;
    }
    if (n_prefixed > 1)
        return sy_fail(SY_ERR_USAGE, "--%s may mean several options of %s", name, command);
    const char *near = sy_nearest_word(name, names, n);
    if (near != NULL)
        return sy_fail(SY_ERR_USAGE, "%s has no option --%s; did you mean --%s?", command, name,
                       near);
    return sy_fail(SY_ERR_USAGE, "%s has no option --%s; see switchyard %s --help", command,
                   name, command);
}

static sy_status refused(const parser *p, int code, char **argv) {
    const char *command = p->out->command->name;
    int i = row_of_code(p, optopt);
    if (code == ':' && i >= 0)
        return sy_fail(SY_ERR_USAGE, "--%s needs an argument: %s", p->rows[i]->name,
                       p->rows[i]->argument);
    if (i >= 0) return sy_fail(SY_ERR_USAGE, "--%s takes no argument", p->rows[i]->name);
    if (optopt == HELP_CODE || optopt == VERSION_CODE)
        return sy_fail(SY_ERR_USAGE, "--help and --version take no argument");
    if (optopt != 0)
        return sy_fail(SY_ERR_USAGE, "%s has no option -%c; see switchyard %s --help", command,
                       optopt, command);
    return unknown_long(p, argv[optind - 1]);
}

static sy_status take_model(sy_options *out, const char *text) {
    if (out->command->takes_nothing)
        return sy_fail(SY_ERR_USAGE, "%s takes no argument, found \"%s\"%s", out->command->name,
                       text, strcmp(out->command->name, "topo") == 0 ? "; --load FILE" : "");
    if (out->command->takes_files && text[0] == '\0')
        return sy_fail(SY_ERR_USAGE, "the path of a file is empty");
    if (out->command->takes_files) return append_text(&out->files, "an argument", text);
    bool is_target = out->model != NULL && out->command->needs_target;
    const char **field = is_target ? &out->target : &out->model;
    if (*field != NULL)
        return sy_fail(SY_ERR_USAGE, "unexpected argument \"%s\" after the model \"%s\"", text,
                       *field);
    if (text[0] == '\0')
        return sy_fail(SY_ERR_USAGE, "the %s path is empty",
                       is_target ? "new model's" : "model's");
    *field = text;
    return SY_OK;
}

static sy_status check_exclusive(const parser *p, int i) {
    for (int j = 0; j < p->n_rows; j++) {
        bool clash = j != i && p->given[j] && p->rows[j]->exclusive != 0 &&
                     p->rows[j]->exclusive == p->rows[i]->exclusive;
        if (clash)
            return sy_fail(SY_ERR_USAGE, "--%s and --%s exclude each other", p->rows[j]->name,
                           p->rows[i]->name);
    }
    return SY_OK;
}

/* Sets *asked to HELP_CODE or VERSION_CODE where that is all that is wanted. */
static sy_status parse_arguments(parser *p, int argc, char **argv, int *asked) {
    sy_status st = SY_OK;
    int code;
    opterr = 0;
    optind = 0; /* glibc: begin anew */
    while ((code = getopt_long(argc, argv, p->letters, p->longs, NULL)) != -1) {
        if (code == 'h' || code == HELP_CODE || code == VERSION_CODE) {
            *asked = code == VERSION_CODE ? VERSION_CODE : HELP_CODE;
            goto done;
        }
        if (code == 1) {
            SY_TRY(take_model(p->out, optarg));
            continue;
        }
        int i = row_of_code(p, code);
        if (code == '?' || code == ':' || i < 0) {
            st = refused(p, code, argv);
            goto done;
        }
        p->given[i] = true;
        SY_TRY(check_exclusive(p, i));
        SY_TRY(set_option(p->out, p->rows[i], optarg));
        if (p->rows[i]->given != 0) *(bool *)((char *)p->out + p->rows[i]->given) = true;
        SY_TRY(forward_option(p->out, p->rows[i], optarg));
    }
    while (optind < argc)
        SY_TRY(take_model(p->out, argv[optind++]));
done:
    return st;
}

static bool was_given(const parser *p, const char *name) {
    for (int i = 0; i < p->n_rows; i++)
        if (p->given[i] && strcmp(p->rows[i]->name, name) == 0) return true;
    return false;
}

/* A value from the environment is checked like the option's, and handed to ranks on other hosts as
 * the option. */
static sy_status
take_variable(parser *p, const char *variable, const char *name, const char *value) {
    if (was_given(p, name)) return SY_OK;
    for (int i = 0; i < p->n_rows; i++) {
        if (strcmp(p->rows[i]->name, name) != 0) continue;
        sy_status st = set_option(p->out, p->rows[i], value);
        if (st != SY_OK) sy_status_context("%s in the environment", variable);
        return st == SY_OK ? forward_option(p->out, p->rows[i], value) : st;
    }
    return SY_OK;
}

static sy_status take_environment(parser *p) {
    sy_status st = SY_OK;
    const char *isa = getenv("SWITCHYARD_ISA"), *no_color = getenv("NO_COLOR");
    if (isa != NULL && isa[0] != '\0') SY_TRY(take_variable(p, "SWITCHYARD_ISA", "isa", isa));
    if (no_color != NULL && no_color[0] != '\0') /* whatever its value: no-color.org */
        SY_TRY(take_variable(p, "NO_COLOR", "color", "never"));
done:
    return st;
}

/* Open MPI 4 binds each of up to two ranks to a single core, and more to a package, unless it is
 * told otherwise; what it is told, it hands to the ranks, unless a parameter file of its own says
 * it (docs/topology.md). */
static bool is_bound_unasked(void) {
    static const char *const wishes[] = {
        "OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_hwloc_base_cpu_set",
        "OMPI_MCA_hwloc_base_cpu_list",       "OMPI_MCA_hwloc_base_slot_list",
        "OMPI_MCA_rmaps_base_mapping_policy", "OMPI_MCA_rmaps_base_cpus_per_proc",
        "OMPI_MCA_rmaps_rank_file_path",      "OMPI_MCA_orte_rankfile"};
    const char *bound = getenv("OMPI_MCA_orte_bound_at_launch");
    if (bound == NULL || strcmp(bound, "1") != 0) return false;
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++)
        if (getenv(wishes[i]) != NULL) return false;
    return true;
}

static void take_world(sy_options *out) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID"}; /* the last: also in a batch script */
    out->world_rank = -1;
    out->front_end = getenv(SY_FRONTEND_VARIABLE);
    out->bound_unasked = is_bound_unasked();
    for (int i = 0; i < 4 && out->world_rank < 0; i++) {
        const char *text = getenv(names[i]);
        int64_t rank;
        if (text == NULL || parse_int(text, names[i], 0, 1e9, &rank) != SY_OK) continue;
        out->world_rank = (int)rank;
        out->under_launcher = i < 3;
    }
}

static sy_status parse_command(int argc, char **argv, sy_options *out, bool *handled) {
    sy_status st = SY_OK;
    parser p;
    int asked = 0;
    parser_init(&p, out);
    SY_TRY(add_rank_arg(out, out->command->name, "", "", ""));
    SY_TRY(parse_arguments(&p, argc, argv, &asked));
    if (asked != 0) {
        *handled = true;
        SY_TRY(asked == VERSION_CODE ? sy_version_print() : sy_help_print(out->command));
        goto done;
    }
    SY_TRY(take_environment(&p));
    if (out->command->needs_model && out->model == NULL)
        SY_FAIL(SY_ERR_USAGE, "no model given: switchyard %s %s", out->command->name,
                out->command->synopsis);
    if (out->command->needs_target && out->target == NULL)
        SY_FAIL(SY_ERR_USAGE, "no OUT given: switchyard %s %s", out->command->name,
                out->command->synopsis);
    bool starts_ranks = out->n_ranks > 0 || out->hosts != NULL || out->hostfile != NULL;
    if (starts_ranks && out->under_launcher)
        SY_FAIL(SY_ERR_USAGE,
                "-n, --hosts and --hostfile start ranks, but this process is a rank "
                "of mpirun or srun already");
    if (out->topo_load != NULL && (out->hosts != NULL || out->hostfile != NULL))
        SY_FAIL(SY_ERR_USAGE,
                "--load starts nothing, so --hosts and --hostfile have no effect");
    if (out->json) out->format = "json";
    SY_TRY(forward_model(out));
done:
    return st;
}

sy_status sy_options_parse(int argc, char **argv, sy_options *out, bool *handled) {
    sy_status st = SY_OK;
    memset(out, 0, sizeof *out);
    *handled = false;
    take_world(out);
    SY_TRY(set_defaults(out));
    const char *word = argc > 1 ? argv[1] : "--help";
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        if (argc <= 1) SY_FAIL(SY_ERR_USAGE, "no command given; see switchyard --help");
        *handled = true;
        SY_TRY(sy_help_print(NULL));
        goto done;
    }
    if (strcmp(word, "--version") == 0) {
        *handled = true;
        SY_TRY(sy_version_print());
        goto done;
    }
    if (word[0] == '-')
        SY_FAIL(SY_ERR_USAGE, "the command comes first, before \"%s\"; see switchyard --help",
                word);
    for (const sy_command *c = sy_commands; c->name != NULL; c++)
        if (strcmp(c->name, word) == 0) out->command = c;
    if (out->command == NULL) {
        st = unknown_command(word);
        goto done;
    }
    SY_TRY(parse_command(argc - 1, argv + 1, out, handled));
done:
    if (st != SY_OK) sy_options_free(out);
    return st;
}

void sy_options_free(sy_options *options) {
    for (int i = 0; i < options->n_rank_args; i++)
        free(options->rank_args[i]);
    free(options->rank_args);
    free(options->stop.text);
    free(options->label.text);
    free(options->files.text);
    options->rank_args = NULL;
    options->n_rank_args = 0;
    options->stop = options->label = options->files = (sy_texts){0};
}

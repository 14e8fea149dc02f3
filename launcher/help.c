/* What --help prints, from the tables of commands and options. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "launcher/option_table.h"

enum { TEXT_COLUMN = 28, LINE_WIDTH = 90 };

/* Prints words from column `column` on, broken at spaces, each line indented to TEXT_COLUMN. */
static void print_wrapped(const char *text, int column) {
    if (column > TEXT_COLUMN - 2) {
        putchar('\n');
        column = 0;
    }
    printf("%*s", TEXT_COLUMN - column, "");
    column = TEXT_COLUMN;
    for (bool first = true; *text != '\0'; first = false) {
        int n = (int)strcspn(text, " ");
        if (!first && column + 1 + n > LINE_WIDTH) {
            printf("\n%*s", TEXT_COLUMN, "");
            column = TEXT_COLUMN;
        } else if (!first) {
            putchar(' ');
            column++;
        }
        printf("%.*s", n, text);
        column += n;
        text += n + (text[n] == ' ');
    }
    putchar('\n');
}

static void print_option(const sy_option *option) {
    char left[64], right[512];
    char letter[8] = "    ";
    if (option->letter != 0) snprintf(letter, sizeof letter, "-%c, ", option->letter);
    int column = snprintf(left, sizeof left, "  %s--%s%s%s", letter, option->name,
                          option->argument != NULL ? " " : "",
                          option->argument != NULL ? option->argument : "");
    bool shown = option->choices != NULL && strchr(option->choices, ' ') != NULL;
    snprintf(right, sizeof right, "%s%s%s%s%s%s", option->help, shown ? "; one of: " : "",
             shown ? option->choices : "", option->initial != NULL ? " (default: " : "",
             option->initial != NULL ? option->initial : "",
             option->initial != NULL ? ")" : "");
    fputs(left, stdout);
    print_wrapped(right, column);
}

static void print_command_help(const sy_command *command) {
    printf("switchyard %s %s\n\n%s\n", command->name, command->synopsis, command->summary);
    if (command->text != NULL) printf("\n%s\n", command->text);
    printf("\nOptions:\n");
    for (const sy_option *o = sy_option_table; o->name != NULL; o++)
        if (sy_option_applies(o, command)) print_option(o);
    printf("  -h, --help%*sthis text\n", TEXT_COLUMN - 12, "");
    printf("      --version%*sversion, commit, compiler, MPI\n", TEXT_COLUMN - 15, "");
}

static void print_program_help(void) {
    printf("switchyard COMMAND [MODEL] [options]\n\n"
           "Runs Mixture-of-Experts language models over several ranks. MODEL is a directory\n"
           "with a checkpoint as Hugging Face publishes it.\n\nCommands:\n");
    for (const sy_command *c = sy_commands; c->name != NULL; c++)
        printf("  %-*s%s\n", TEXT_COLUMN - 2, c->name, c->summary);
    printf("\nswitchyard COMMAND --help lists the options of a command;"
           " switchyard --version the build.\n"
           "Results go to stdout, all else to stderr.\n\nExit codes:\n");
    for (int st = 0; st < SY_STATUS_COUNT; st++)
        printf("  %-*d%s\n", TEXT_COLUMN - 2, sy_status_exit_code((sy_status)st),
               sy_status_text((sy_status)st));
}

sy_status sy_help_print(const sy_command *command) {
    if (command != NULL)
        print_command_help(command);
    else
        print_program_help();
    if (fflush(stdout) != 0 || ferror(stdout))
        return sy_fail(SY_ERR_IO, "writing to stdout: %s", strerror(errno));
    return SY_OK;
}

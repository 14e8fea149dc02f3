/* The table of options: what the parser accepts, what --help prints, what the defaults are. */
#ifndef SY_LAUNCHER_OPTION_TABLE_H
#define SY_LAUNCHER_OPTION_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "launcher/options.h"

typedef enum sy_option_kind {
    SY_OPTION_FLAG,   /* bool, no argument                                 */
    SY_OPTION_INT,    /* int within [min, max]                             */
    SY_OPTION_INT64,  /* int64_t within [min, max]                         */
    SY_OPTION_UINT64, /* any uint64_t                                      */
    SY_OPTION_REAL,   /* double within [min, max]                          */
    SY_OPTION_TEXT,   /* const char *                                      */
    SY_OPTION_CHOICE, /* const char *, one of the words of `choices`       */
    SY_OPTION_LIST,   /* const char *, whole numbers within [min, max]     */
    SY_OPTION_REPEAT  /* sy_texts, may be given many times                 */
} sy_option_kind;

typedef struct sy_option {
    const char *name;     /* without its dashes */
    char letter;          /* short form, or 0 */
    const char *argument; /* name of the argument in --help; NULL for a flag */
    sy_option_kind kind;
    size_t offset;        /* of the field in sy_options */
    size_t given;         /* of a bool that tells a given value from the default, or 0 */
    const char *commands; /* words: names of commands, "@all", "@parallel", "@engine" */
    const char *initial;  /* default in the user's spelling; NULL: unset */
    double min, max;
    const char *choices; /* words */
    char exclusive;      /* of the options with the same mark at most one is given; 0: free */
    bool front_end;      /* not handed to the ranks */
    const char *help;
} sy_option;

/* Ends with name NULL. Several rows may share a name or a letter if their commands differ. */
extern const sy_option sy_option_table[];

/* Whether an option belongs to a command. */
bool sy_option_applies(const sy_option *option, const sy_command *command);

/* --help, on stdout: of the program if command is NULL. */
sy_status sy_help_print(const sy_command *command);

/* The candidate nearest to a misspelt word, NULL if none is near. */
const char *sy_nearest_word(const char *word, const char *const *candidates, int n);

#endif

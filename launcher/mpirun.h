/* Starting mpirun as a child, and understanding what it prints. */
#ifndef SY_LAUNCHER_MPIRUN_H
#define SY_LAUNCHER_MPIRUN_H

#include <stdbool.h>
#include <sys/types.h>

#include "launcher/options.h"

typedef struct sy_mpirun {
    pid_t pid;    /* also its process group                             */
    int out, err; /* reading ends of its stdout and stderr              */
} sy_mpirun;

/* The ranks that --hosts has room for; 0 in *slots if --hosts is not given. */
sy_status sy_mpirun_slots(const char *hosts, int *slots);

/* Starts mpirun in a process group of its own, so that the terminal's signals reach only us. It
 * runs this program with options->rank_args; `where` becomes the value of SY_FRONTEND_VARIABLE.
 * The child is told to end (SIGTERM) should this process die. */
sy_status sy_mpirun_start(const sy_options *options, const char *where, sy_mpirun *out);

/* What mpirun's own messages tell. */
typedef struct sy_mpirun_text {
    bool in_banner;    /* between two dashed lines */
    bool after_mpirun; /* the last line began with "mpirun: "; an empty one may follow */
    int rank;          /* that ended first, -1: unknown */
    int signal;        /* that ended it, or 0  */
    int exit_code;     /* it ended with, or 0 */
    char host[128];
} sy_mpirun_text;

typedef enum sy_mpirun_line {
    SY_LINE_FOREIGN, /* written by a rank, or by nobody we know */
    SY_LINE_MPIRUN,  /* mpirun's own */
    SY_LINE_NOISE    /* mpirun's own, of no use to anyone */
} sy_mpirun_line;

void sy_mpirun_text_init(sy_mpirun_text *text);
/* Takes one line without its newline. */
sy_mpirun_line sy_mpirun_text_line(sy_mpirun_text *text, const char *line);

#endif

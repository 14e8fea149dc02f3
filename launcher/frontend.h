/* The front end: the process that the user started with -n, --hosts or --hostfile.
 *
 * It starts mpirun as its child and owns the terminal, stdin, stdout, the signals, the progress
 * bar and the exit code; the ranks reach it over a private socket (launcher/frames.h). It says
 * exactly one error line in the end, and leaves no process behind. */
#ifndef SY_LAUNCHER_FRONTEND_H
#define SY_LAUNCHER_FRONTEND_H

#include <stdbool.h>

#include "launcher/options.h"

/* Whether these options ask for a front end: several ranks, or hosts. */
bool sy_frontend_wanted(const sy_options *options);

/* Runs the command on the ranks. The status and text are those that the user is to see. */
sy_status sy_frontend_run(const sy_options *options);

#endif

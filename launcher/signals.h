/* Signals of a process that computes (a rank, or the only process): Ctrl-C and requests to end
 * set a flag that long loops ask for; a second Ctrl-C ends the process. */
#ifndef SY_LAUNCHER_SIGNALS_H
#define SY_LAUNCHER_SIGNALS_H

#include <stdbool.h>

/* SIGINT, SIGTERM and SIGHUP set the flag unless they were ignored before (nohup, background
 * jobs); SIGPIPE is ignored, so that a closed pipe is an error of write. */
void sy_signals_install(void);

/* Sets the flag as a signal would. Any thread. */
void sy_signals_interrupt(void);
bool sy_signals_interrupted(void);

#endif

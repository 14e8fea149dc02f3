/* The progress bar: one line on stderr, if that is a terminal. */
#ifndef SY_LAUNCHER_TERMINAL_H
#define SY_LAUNCHER_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

typedef struct sy_bar {
    bool enabled;
    bool drawn;
    int64_t next_ns; /* not drawn again before */
} sy_bar;

void sy_bar_init(sy_bar *bar, bool wanted);
/* Draws at most ten times a second; a share >= 1 ends the bar. */
void sy_bar_update(sy_bar *bar, const char *what, double share, const char *detail);
/* Takes the line away, before other output and at the end. */
void sy_bar_clear(sy_bar *bar);

#endif

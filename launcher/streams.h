/* The front end's stdin, stdout and stderr, and the pipes of mpirun.
 *
 * stdout is written in small pieces when it can take them, so that a pager that waits stops the
 * flow of results but never the watch over the ranks. */
#ifndef SY_LAUNCHER_STREAMS_H
#define SY_LAUNCHER_STREAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launcher/frames.h"
#include "launcher/terminal.h"

enum { SY_LINE_MAX = 4096 };

typedef struct sy_streams {
    sy_bar bar;
    int mpirun_out, mpirun_err; /* -1: at their end */
    /* results on their way to stdout */
    char out[SY_FRAME_MAX];
    size_t out_begin, out_end;
    int out_errno;  /* 0: stdout works */
    int out_peer;   /* the rank that writes results, -1: none yet */
    int flush_peer; /* waits for FLUSHED, -1: none */
    /* a rank that waits for stdin */
    int input_peer; /* -1: none */
    size_t input_max;
    /* a line of mpirun's stderr that is not whole yet */
    char line[SY_LINE_MAX];
    size_t line_used;
} sy_streams;

/* Peers are named by the file descriptors of their connections. */
void sy_streams_init(sy_streams *s, bool progress);
void sy_streams_attach_mpirun(sy_streams *s, int out, int err);
void sy_streams_close_mpirun(sy_streams *s);
void sy_streams_free(sy_streams *s);
void sy_streams_forget(sy_streams *s, int peer);

/* Whether nothing may be read from this source of results (-1: mpirun's stdout) before stdout
 * has taken more. */
bool sy_streams_full(const sy_streams *s, int peer);
bool sy_streams_pending(const sy_streams *s);
void sy_streams_discard(sy_streams *s);

/* Frames of ranks. */
void sy_streams_result(sy_streams *s, int peer, const char *data, size_t n);
void sy_streams_flush(sy_streams *s, int peer);
void sy_streams_want_input(sy_streams *s, int peer, const char *data, size_t n);
void sy_streams_log(sy_streams *s, const char *data, size_t n);
void sy_streams_progress(sy_streams *s, const char *data, size_t n);

/* One line on stderr. */
void sy_streams_line(sy_streams *s, const char *line);

/* Called when poll says that they will not block. */
void sy_streams_write(sy_streams *s);
void sy_streams_read_input(sy_streams *s);
void sy_streams_read_out(sy_streams *s);
typedef void (*sy_streams_on_line)(void *context, const char *line);
void sy_streams_read_err(sy_streams *s, sy_streams_on_line on_line, void *context);

#endif

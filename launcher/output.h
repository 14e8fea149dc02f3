/* Where results, progress and messages of rank 0 go.
 *
 * Under `switchyard ... -n N` the process that the user started (the front end) owns terminal,
 * stdin, stdout and the exit code; rank 0 talks to it over a private socket. Under a plain mpirun
 * or alone, rank 0 writes to its own stdout and stderr. The commands see only these calls. */
#ifndef SY_LAUNCHER_OUTPUT_H
#define SY_LAUNCHER_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "launcher/options.h"

/* Results. A closed or full stdout is an error that names it, reported by this or a later call;
 * SY_ERR_IO. Text is passed through unbuffered enough for streaming. */
sy_status sy_out_write(const char *data, size_t n);
sy_status sy_out_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
sy_status sy_out_flush(void);

/* Progress of long work, drawn on stderr only if that is a terminal: "reading weights", share
 * in [0, 1], free text ("1.2 GB/s"). A share >= 1 ends the bar. Cheap when called often. */
void sy_out_progress(const char *what, double share, const char *detail);

/* True if results go to a terminal. */
bool sy_out_is_terminal(void);

/* All of the user's stdin up to max bytes, in memory to be freed by the caller. Rank 0 only. */
sy_status sy_in_read_all(size_t max, char **out, size_t *n);
/* One line without its newline; *line NULL at the end. The caller frees. Rank 0 only. */
sy_status sy_in_read_line(size_t max, char **line, size_t *n);

/* Set when the user pressed Ctrl-C or the process was told to end: long loops leave cleanly. */
bool sy_interrupted(void);

/* For main and for what creates the communicator. ---------------------------------------------
 *
 * The state behind these calls is the process's own, like its stdout: one, opened once. */

/* Local. Connects to the front end if there is one, and becomes the sink of the log. */
sy_status sy_output_open(const sy_options *options);
/* Local, once the ranks are up: who this rank is. Before that, or in a process without MPI, it is
 * taken for a world of its own. The front end's limit for the start ends here. */
void sy_output_joined(int rank, int n_ranks, const char *host);
/* The one final error line of this process, at most once; any thread, also the watchdog's
 * (sy_liveness_report with context NULL). SY_OK says that all went well and prints nothing.
 * True if the front end took it: then the exit code of this rank tells nothing more. */
bool sy_output_final(sy_status status, const char *error);
void sy_output_peer_lost(void *context, const char *line);
void sy_output_close(void);

#endif

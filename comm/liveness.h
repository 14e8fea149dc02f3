/* Noticing a rank that died, hangs or failed, and ending all others within seconds.
 *
 * A side thread per rank watches two clocks. *Liveness*: every side thread beats (a page shared
 * by the ranks of a host, a UDP datagram between hosts); a rank without a beat for `deadline`
 * seconds is dead or stopped. *Progress*: the main thread of each rank advances a counter per
 * tensor, layer or chunk, under a phase name with a limit of its own; a rank whose counter
 * stands still for longer while others wait for it is the culprit. Time in which the observer
 * itself did not run (Ctrl-Z, a suspended machine) does not count.
 *
 * The watchdog is the one place that may end a process: it writes one line that names rank and
 * host, ends its local peers, and leaves by _exit with the exit code of SY_ERR_PEER. */
#ifndef SY_COMM_LIVENESS_H
#define SY_COMM_LIVENESS_H

#include "base/status.h"
#include "comm/comm.h"

typedef struct sy_liveness sy_liveness;

/* How the one line leaves the process; NULL writes it to stderr. Called once, from the side
 * thread, right before the process ends. */
typedef void (*sy_liveness_report)(void *context, const char *line);

typedef struct sy_liveness_options {
    double deadline; /* seconds, > 0; 0 = no watching */
    sy_liveness_report report;
    void *context;
} sy_liveness_options;

/* Collective: exchanges addresses over MPI and starts the side thread. *out stays NULL if there
 * is nothing to watch: one rank, or a deadline of 0. All ranks pass the same deadline. */
sy_status
sy_liveness_start(sy_comm *comm, const sy_liveness_options *options, sy_liveness **out);
/* Collective: after it no rank watches the others. NULL is fine. */
void sy_liveness_stop(sy_liveness *live);

/* Local, NULL is fine: this rank is about to end the job after an error that it has reported
 * itself (sy_comm_abort). The others leave with it, without a line of their own. */
void sy_liveness_abandon(sy_liveness *live);

/* Local, cheap, NULL is fine: the main thread enters a phase (a static string), whose single
 * advances may take up to `limit` seconds (0 = no limit: waiting for the user, say) ... */
void sy_progress_phase(sy_liveness *live, const char *phase, double limit);
/* ... and advances within it. */
void sy_progress(sy_liveness *live);
/* ... or waits for other ranks (then standing still is not its fault) and comes back. */
void sy_progress_wait(sy_liveness *live);
void sy_progress_resume(sy_liveness *live);

#endif

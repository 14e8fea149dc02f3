/* A rank's end of the private socket to the front end.
 *
 * A side thread listens: it takes the user's wish to end (sy_signals_interrupt) and the answers
 * to requests, and it notices when the front end is gone. Then nobody owns this rank any more:
 * it is asked to end like by Ctrl-C, and ended hard if it has not done so after a few seconds. */
#ifndef SY_LAUNCHER_WIRE_H
#define SY_LAUNCHER_WIRE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "launcher/frames.h"

typedef struct sy_wire sy_wire;

/* `where` is the value of SY_FRONTEND_VARIABLE. *out stays NULL if the socket cannot be reached:
 * the front end runs on another host. */
sy_status sy_wire_open(const char *where, int rank, sy_wire **out);
/* After the last frame was sent. NULL is fine. */
void sy_wire_close(sy_wire *wire);

/* Any thread. Nothing happens once the front end is gone. */
void sy_wire_send(sy_wire *wire,
                  sy_frame_type type,
                  const void *part1,
                  size_t n1,
                  const void *part2,
                  size_t n2);
/* For a last word while another thread may be stuck in a send: false if it could not be said
 * within half a second. */
bool sy_wire_send_urgent(sy_wire *wire,
                         sy_frame_type type,
                         const void *part1,
                         size_t n1,
                         const void *part2,
                         size_t n2);

/* Waits until stdout has taken all results. SY_ERR_IO if it failed now or before. */
sy_status sy_wire_flush(sy_wire *wire);
/* SY_ERR_IO if stdout is known to have failed; does not wait. */
sy_status sy_wire_check(sy_wire *wire);
/* At most max bytes of the user's stdin; *n = 0 at its end. */
sy_status sy_wire_read(sy_wire *wire, char *buffer, size_t max, size_t *n);

bool sy_wire_stdout_is_terminal(const sy_wire *wire);

#endif

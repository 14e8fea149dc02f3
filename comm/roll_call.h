/* Inside comm/: who is behind, asked when ranks wait for each other in vain.
 *
 * Ranks make the same calls in the same order. Each shows how many it has made and how many of
 * them its device has done: on a page that the ranks of a host share, and, once one of them has
 * given up, by a message to all. Who made the fewest is behind; among equals, whose device did
 * the fewest, and among these, whose device has come least far in a recorded step. A rank of
 * another host that does not answer is behind all others; but if of several none answers, they
 * have gone on, and this rank, the only one to wait for its device, is behind.
 *
 * Ranks that did not make the same calls after all are found by what each remembers of its latest
 * ones, if they answer; that comes first, since who is behind then says nothing. Calls within
 * recorded steps are not remembered. */
#ifndef SY_COMM_ROLL_CALL_H
#define SY_COMM_ROLL_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"

typedef struct sy_roll sy_roll;

/* Collective. */
sy_status sy_roll_create(sy_comm *comm, sy_roll **out);
void sy_roll_destroy(sy_roll *roll); /* local; NULL is fine */

typedef enum sy_roll_kind { SY_ROLL_ROWS, SY_ROLL_GATHER } sy_roll_kind;

/* Local and cheap. Call `number`, counted from 1, as this rank made it with `peer`; for each other
 * rank, also where nothing goes to and fro. */
void sy_roll_note(sy_roll *roll,
                  int64_t number,
                  sy_roll_kind kind,
                  int peer,
                  uint64_t send,
                  uint64_t receive);
/* Local and cheap. */
void sy_roll_show(sy_roll *roll, int64_t made, int64_t done);
/* And how often other ranks' rows have come to the device within recorded steps, whose calls are
 * not counted one by one; before sy_roll_call. */
void sy_roll_show_passed(sy_roll *roll, int64_t passed);
/* Whether another rank has given up: then this one is to do so, by sy_roll_call. */
bool sy_roll_called(sy_roll *roll);
/* Once: tells all, hears all for at most `seconds`, and describes who is behind. */
void sy_roll_call(sy_roll *roll, double seconds, char *text, size_t size);

#endif

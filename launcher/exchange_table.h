/* `switchyard bench --exchange`: the exchange alone, beside the same payload by MPI_Alltoallv. */
#ifndef SY_LAUNCHER_EXCHANGE_TABLE_H
#define SY_LAUNCHER_EXCHANGE_TABLE_H

#include "launcher/session.h"

/* Prints a row per number of ranks (2, 4, 8, ... and all) and of tokens (1, 2, 4, ... and
 * --tokens). Collective. */
sy_status sy_exchange_table(sy_session *session);

#endif

/* `switchyard bench --exchange`: the exchange alone, beside the same payload by MPI_Alltoallv. */
#ifndef SY_LAUNCHER_EXCHANGE_TABLE_H
#define SY_LAUNCHER_EXCHANGE_TABLE_H

#include "launcher/session.h"

/* Prints a row per number of tokens in --tokens. Collective. */
sy_status sy_exchange_table(sy_session *session);

#endif

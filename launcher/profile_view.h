/* A profile on the terminal: a line per layer, then ranks, links and labels. Rank 0. */
#ifndef SY_LAUNCHER_PROFILE_VIEW_H
#define SY_LAUNCHER_PROFILE_VIEW_H

#include "comm/comm.h"
#include "runtime/profile_data.h"

/* On stdout; after sy_profile_gather. */
sy_status sy_profile_show(sy_profile_data *data, const sy_comm *comm, bool colored);

#endif

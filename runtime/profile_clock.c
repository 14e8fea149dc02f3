#include "runtime/profile_clock.h"

#include <stdlib.h>

#include "base/clock.h"

enum { ROUND_TRIPS = 16 };

/* A rank's time was read between rank 0's `sent` and `back`. */
static void improve(int64_t sent, int64_t back, int64_t there, int64_t *clock) {
    int64_t error = (back - sent + 1) / 2;
    if (clock[1] >= 0 && error >= clock[1]) return;
    clock[0] = sent + (back - sent) / 2 - there;
    clock[1] = error;
}

sy_status sy_profile_compare_clocks(sy_comm *comm, int64_t *clock) {
    sy_status st = SY_OK;
    int size = sy_comm_size(comm);
    bool root = sy_comm_rank(comm) == 0;
    int64_t *there = NULL;
    if (root && (there = calloc((size_t)size, sizeof *there)) == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the ranks' clocks");
    SY_TRY(sy_comm_agree(comm, st));
    for (int r = 0; root && r < size; r++) {
        clock[2 * r] = 0;
        clock[2 * r + 1] = sy_comm_same_machine(comm, 0, r) ? 0 : -1;
    }
    for (int i = 0; i < ROUND_TRIPS; i++) {
        int64_t sent = sy_now_ns(), go = i;
        SY_TRY(sy_comm_broadcast(comm, &go, sizeof go, 0));
        int64_t mine = sy_now_ns();
        SY_TRY(sy_comm_gather(comm, &mine, sizeof mine, there, 0));
        int64_t back = sy_now_ns();
        for (int r = 0; root && r < size; r++)
            if (!sy_comm_same_machine(comm, 0, r)) improve(sent, back, there[r], clock + 2 * r);
    }
done:
    free(there);
    return st;
}

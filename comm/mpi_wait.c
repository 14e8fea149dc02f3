#include "comm/mpi_wait.h"

#include <sched.h>
#include <time.h>

#include "base/checked.h"
#include "base/clock.h"

/* An MPI_Test that finds nothing takes a few tenths of a microsecond. */
enum { POLLS_WITH_CORE = 100, POLLS_WITHOUT_CORE = 2, YIELDS = 20 };
enum { SLEEP_MIN_NS = 20000, SLEEP_MAX_NS = 2000000, SLEEP_SHARE = 16 };

sy_status sy_mpi_status(int rc, const char *what) {
    if (rc == MPI_SUCCESS) return SY_OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (MPI_Error_string(rc, text, &length) != MPI_SUCCESS) text[0] = '\0';
    return sy_fail(SY_ERR_COMM, "%s: %s (MPI error %d)", what, text, rc);
}

int64_t sy_patience_next(sy_patience *patience, bool may_spin) {
    int polls = may_spin ? POLLS_WITH_CORE : POLLS_WITHOUT_CORE;
    if (patience->n_polls < polls + YIELDS) {
        if (patience->n_polls++ >= polls) sched_yield();
        return 0;
    }
    int64_t now = sy_now_ns();
    if (patience->sleeping_since_ns == 0) patience->sleeping_since_ns = now;
    int64_t waited = now - patience->sleeping_since_ns;
    return sy_min(sy_max(waited / SLEEP_SHARE, SLEEP_MIN_NS), SLEEP_MAX_NS);
}

void sy_sleep_ns(int64_t ns) {
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    nanosleep(&t, NULL);
}

sy_status sy_mpi_wait_all(const sy_comm *comm, int n, MPI_Request *request, const char *what) {
    sy_patience patience = {0};
    bool may_spin = sy_comm_may_spin(comm);
    for (;;) {
        int all_done = 0;
        int rc = MPI_Testall(n, request, &all_done, MPI_STATUSES_IGNORE);
        if (rc != MPI_SUCCESS) return sy_mpi_status(rc, what);
        if (all_done) return SY_OK;
        int64_t ns = sy_patience_next(&patience, may_spin);
        if (ns > 0) sy_sleep_ns(ns);
    }
}

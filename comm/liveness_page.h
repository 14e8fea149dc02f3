/* Inside comm/liveness: the page that the ranks of a host share. Each rank writes its own slot;
 * the head elects the one that reports. */
#ifndef SY_COMM_LIVENESS_PAGE_H
#define SY_COMM_LIVENESS_PAGE_H

#include <stdatomic.h>
#include <stdint.h>

#include "comm/comm.h"
#include "comm/liveness_watch.h"

enum { SY_PHASE_WORDS = SY_PHASE_CHARS / 8 };

/* A sy_beat that one process writes and others read; a cache line of its own. */
typedef struct sy_slot {
    _Alignas(64) _Atomic uint64_t beat;
    _Atomic uint64_t progress;
    _Atomic uint32_t limit_ms;
    _Atomic uint32_t flags;
    _Atomic uint64_t phase[SY_PHASE_WORDS];
} sy_slot;

typedef struct sy_page {
    _Alignas(64) _Atomic int32_t reporter; /* rank + 1 of the one that reports; 0: none yet */
    _Atomic int32_t ended;                 /* the report is out: everybody leaves */
    _Alignas(64) sy_slot slot[];           /* by position among the ranks of the host */
} sy_page;

void sy_slot_set_phase(sy_slot *slot, const char *phase);
void sy_slot_read(sy_slot *slot, sy_beat *out);

/* Collective. A page for the ranks that share memory with this one; *out = NULL on all of a host
 * if one of them cannot have it, or if this rank is alone. position[R]: slot of each rank on this
 * page, -1 for the others. */
sy_status sy_page_open(sy_comm *comm, sy_page **out, uint64_t *bytes, int *position);
void sy_page_close(sy_page *page, uint64_t bytes);

#endif

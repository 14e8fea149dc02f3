/* What users of such machines suffer from, found in their description: each piece of advice says
 * what is wrong, on which machines, and what cures it. */
#ifndef SY_TOPOLOGY_ADVICE_H
#define SY_TOPOLOGY_ADVICE_H

#include "topology/binding.h"
#include "topology/machine.h"

enum { SY_ADVICE_MAX = 128, SY_ADVICE_TEXT = 384 };

typedef enum sy_advice_level { SY_ADVICE_NOTE, SY_ADVICE_WARNING } sy_advice_level;

typedef struct sy_advice_item {
    sy_advice_level level;
    char topic[24]; /* "mtu", "twin", ..: docs/topology.md lists them */
    char text[SY_ADVICE_TEXT];
    char cure[SY_ADVICE_TEXT];
    int n_machines; /* 0: it concerns the run as a whole */
    uint64_t machine[SY_MACHINES_MAX / 64];
} sy_advice_item;

typedef struct sy_advice {
    int n;
    sy_advice_item item[SY_ADVICE_MAX]; /* warnings first */
} sy_advice;

/* binding may be NULL. The caller frees *out with free(). */
sy_status
sy_advice_make(const sy_machines *machines, const sy_binding *binding, sy_advice **out);

bool sy_advice_concerns(const sy_advice_item *item, int machine);
/* "spark1, spark2", "all 8 hosts", or "" if it concerns the run. Returns buf. */
char *sy_advice_where(const sy_advice_item *item,
                      const sy_machines *machines,
                      char *buf,
                      size_t size);

/* Whether NCCL would use a port, NCCL_IB_HCA being `value`: names by their beginning, or exact
 * behind '=', all others behind '^', with ":port" behind a name. NULL and "" choose all. */
bool sy_hca_chosen(const char *value, const char *device, int port);

#endif

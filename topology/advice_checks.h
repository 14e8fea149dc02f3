/* The checks behind topology/advice.h, and how they put down what they find. Local to
 * topology/advice*.c. */
#ifndef SY_TOPOLOGY_ADVICE_CHECKS_H
#define SY_TOPOLOGY_ADVICE_CHECKS_H

#include "topology/advice.h"

/* An item with its text; of one machine, or of the run if machine is -1. The same words about
 * another machine are one item. *cure, of SY_ADVICE_TEXT bytes, is printed into as well. */
typedef struct sy_finding {
    sy_advice_level level;
    const char *topic;
    int machine;
    char text[SY_ADVICE_TEXT];
    char cure[SY_ADVICE_TEXT];
} sy_finding;
void sy_advice_add(sy_advice *advice, const sy_finding *finding);

/* Adds ", word", or the first word, if it fits. */
void sy_advice_list(char *buf, size_t size, const char *word);

/* Of machine i among all. */
void sy_advise_network(const sy_machines *machines, int i, sy_advice *advice);
void sy_advise_settings(const sy_machines *machines, int i, sy_advice *advice);
void sy_advise_machine(const sy_machines *machines, int i, sy_advice *advice);
/* Of the run. */
void sy_advise_differences(const sy_machines *machines, sy_advice *advice);
void sy_advise_binding(const sy_machines *machines,
                       const sy_binding *binding,
                       sy_advice *advice);

#endif

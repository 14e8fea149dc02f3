/* Sets and lists of logical CPUs, as the kernel numbers and writes them ("0-3,8"). */
#ifndef SY_TOPOLOGY_MACHINE_CPUS_H
#define SY_TOPOLOGY_MACHINE_CPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { SY_CPUS_MAX = 4096, SY_CPUS_TEXT_MAX = 512 };

/* Bit c % 64 of word c / 64 stands for logical CPU c. */
typedef struct sy_cpus {
    uint64_t word[SY_CPUS_MAX / 64];
} sy_cpus;

void sy_cpus_add(sy_cpus *cpus, int cpu); /* 0 <= cpu < SY_CPUS_MAX */
bool sy_cpus_has(const sy_cpus *cpus, int cpu);
int sy_cpus_count(const sy_cpus *cpus);
bool sy_cpus_equal(const sy_cpus *a, const sy_cpus *b);
bool sy_cpus_overlap(const sy_cpus *a, const sy_cpus *b);
/* The lowest CPU of the set that is not below `from`; -1 if there is none. */
int sy_cpus_next(const sy_cpus *cpus, int from);

/* "0-3,8" in buf, cut at a comma with ",.." behind it if it does not fit. Returns buf. */
char *sy_cpus_text(const sy_cpus *cpus, char *buf, size_t size);

/* The numbers of a list in the order in which it names them; at most `most` of them. An empty text
 * is an empty list; a number of SY_CPUS_MAX or more, a range that descends and anything else that
 * the kernel would not write is SY_ERR_FORMAT. `what` names the list in the error text. */
sy_status sy_cpu_list_parse(const char *text, const char *what, int most, int16_t *cpu, int *n);
/* The reverse: ascending neighbours become ranges, order is kept. False if it does not fit. */
bool sy_cpu_list_text(const int16_t *cpu, int n, char *buf, size_t size);

#endif

/* Counting accesses: what a profiler's memory table says. */
#ifndef SY_EMULATION_TRAFFIC_H
#define SY_EMULATION_TRAFFIC_H

#include "inside.h"

/* An access by the running thread. Of shared memory `address` counts from its beginning. */
void emu_count(bool shared, bool write, const void *pc, uintptr_t address, int bytes);
void emu_count_launch(void);
void emu_count_block(void); /* at a block's end */
void emu_print_traffic(void);

#endif

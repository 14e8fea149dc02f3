/* Where accesses are not checked: the hooks of the access checker, empty. */
#include "inside.h"

bool emu_checks_accesses(void) {
    return false;
}

void emu_stats_reset(void) {}

bool emu_stats_for(const char *, emu_stats *out) {
    *out = emu_stats();
    return false;
}

void emu_stats_area(int, const void *, uint64_t) {}

const char *emu_stats_kernel(int) {
    return nullptr;
}

bool emu_stats_in(const char *, int, emu_stats *out) {
    *out = emu_stats();
    return false;
}

void emu_touch(const void *, int, int, const void *) {}
void emu_syncwarp_mark(unsigned) {}
void emu_fence_mark(void) {}
void emu_check_launch(void) {}
void emu_check_block_begin(void) {}
void emu_check_block_end(void) {}
void emu_check_exit(void) {}

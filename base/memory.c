#include "base/memory.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"

#define HUGE_PAGE ((uint64_t)2 << 20)
#define MAP_FROM ((uint64_t)4 << 20) /* blocks of at least this size are mapped on their own */

static sy_status map_block(void *out, uint64_t bytes, const char *what) {
    /* Map one huge page more and cut, so that the block starts on a huge page. */
    uint64_t len = (uint64_t)sy_round_up((int64_t)bytes, (int64_t)HUGE_PAGE);
    char *raw = mmap(NULL, len + HUGE_PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return sy_fail(SY_ERR_MEMORY, "no memory for %s: %llu bytes: %s", what,
                       (unsigned long long)bytes, strerror(errno));
    uint64_t head = (HUGE_PAGE - (uint64_t)((uintptr_t)raw % HUGE_PAGE)) % HUGE_PAGE;
    if (head > 0) munmap(raw, head);
    munmap(raw + head + len, HUGE_PAGE - head);
    madvise(raw + head, len, MADV_HUGEPAGE);
    *(void **)out = raw + head;
    return SY_OK;
}

sy_status sy_mem_alloc(void *out, uint64_t bytes, const char *what) {
    *(void **)out = NULL;
    if (bytes > (uint64_t)INT64_MAX / 2)
        return sy_fail(SY_ERR_MEMORY, "no memory for %s: size %llu is out of range", what,
                       (unsigned long long)bytes);
    if (bytes >= MAP_FROM) return map_block(out, bytes, what);
    size_t size = (size_t)sy_round_up((int64_t)sy_max((int64_t)bytes, 1), SY_CACHE_LINE);
    void *p = aligned_alloc(SY_CACHE_LINE, size);
    if (p == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for %s: %llu bytes", what,
                       (unsigned long long)bytes);
    memset(p, 0, size);
    *(void **)out = p;
    return SY_OK;
}

void sy_mem_free(void *ptr, uint64_t bytes) {
    if (ptr == NULL) return;
    if (bytes >= MAP_FROM)
        munmap(ptr, (uint64_t)sy_round_up((int64_t)bytes, (int64_t)HUGE_PAGE));
    else
        free(ptr);
}

/* The number in a one-line file, or UINT64_MAX ("max", or no such file). */
static uint64_t number_in_file(const char *path) {
    uint64_t value = UINT64_MAX;
    FILE *f = fopen(path, "r");
    if (f == NULL) return value;
    unsigned long long n;
    if (fscanf(f, "%llu", &n) == 1) value = n;
    fclose(f);
    return value;
}

static uint64_t mem_available_kernel(void) {
    uint64_t value = UINT64_MAX;
    FILE *f = fopen("/proc/meminfo", "r");
    if (f == NULL) return value;
    char line[256];
    unsigned long long kib;
    while (fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1) {
            value = kib * 1024;
            break;
        }
    }
    fclose(f);
    return value;
}

uint64_t sy_mem_available(void) {
    uint64_t available = mem_available_kernel();
    uint64_t limit = number_in_file("/sys/fs/cgroup/memory.max");
    uint64_t current = number_in_file("/sys/fs/cgroup/memory.current");
    if (limit != UINT64_MAX && current != UINT64_MAX) {
        uint64_t left = limit > current ? limit - current : 0;
        if (left < available) available = left;
    }
    return available;
}

void *sy_arena_take(sy_arena *arena, uint64_t n, uint64_t elem_bytes) {
    uint64_t bytes, end;
    if (!sy_mul_u64(n, elem_bytes, &bytes) || !sy_add_u64(bytes, SY_CACHE_LINE - 1, &bytes) ||
        !sy_add_u64(arena->used, bytes / SY_CACHE_LINE * SY_CACHE_LINE, &end)) {
        assert(arena->base == NULL);
        arena->used = UINT64_MAX / SY_CACHE_LINE * SY_CACHE_LINE;
        return NULL;
    }
    void *p = arena->base == NULL ? NULL : arena->base + arena->used;
    arena->used = end;
    assert(arena->base == NULL || arena->used <= arena->size);
    return p;
}

char *sy_format_bytes(char *buf, size_t buf_size, uint64_t bytes) {
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes;
    int u = 0;
    while (value >= 999.95 && u < 6) {
        value /= 1000;
        u++;
    }
    snprintf(buf, buf_size, u == 0 ? "%.0f %s" : "%.1f %s", value, unit[u]);
    return buf;
}

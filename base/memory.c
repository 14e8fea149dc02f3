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

/* The number on the line of a file that begins with `name`, times `unit`, or UINT64_MAX. */
static uint64_t number_after(const char *path, const char *name, uint64_t unit) {
    uint64_t value = UINT64_MAX, bytes;
    FILE *f = fopen(path, "r");
    if (f == NULL) return value;
    char line[256];
    size_t length = strlen(name);
    unsigned long long n;
    while (value == UINT64_MAX && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, name, length) == 0 && line[length] == ' ' &&
            sscanf(line + length, "%llu", &n) == 1 && sy_mul_u64(n, unit, &bytes))
            value = bytes;
    fclose(f);
    return value;
}

uint64_t sy_mem_available(void) {
    uint64_t available = number_after("/proc/meminfo", "MemAvailable:", 1024);
    uint64_t limit = number_in_file("/sys/fs/cgroup/memory.max");
    uint64_t current = number_in_file("/sys/fs/cgroup/memory.current");
    if (limit != UINT64_MAX && current != UINT64_MAX) {
        /* Files that were read count as used, and are dropped when memory is needed. */
        uint64_t cached = number_after("/sys/fs/cgroup/memory.stat", "inactive_file", 1);
        if (cached != UINT64_MAX) current -= cached < current ? cached : current;
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

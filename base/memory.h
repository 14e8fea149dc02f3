/* Memory: zeroed aligned blocks, an arena that is sized before anything is taken from it, and
 * what the machine has left.
 *
 * Large blocks are mapped on their own and advised to use huge pages before first touch, since
 * weights on 4 KiB pages cost up to a fifth of the read bandwidth. */
#ifndef SY_BASE_MEMORY_H
#define SY_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { SY_CACHE_LINE = 64 };

/* *out = zeroed memory, 64-byte aligned (2 MiB from 4 MiB up). A size of 0 gives a valid
 * pointer. `what` names the block in the error text. Free with sy_mem_free(ptr, same size). */
sy_status sy_mem_alloc(void *out, uint64_t bytes, const char *what);
void sy_mem_free(void *ptr, uint64_t bytes);

/* Bytes that this process may still use: MemAvailable, bounded by the cgroup's limit less its
 * use. UINT64_MAX if unknown. */
uint64_t sy_mem_available(void);

/* A bump arena over one block. First pass: base NULL, only `used` grows, so the same carving
 * function computes the size; second pass: hands out pointers. */
typedef struct sy_arena {
    char *base;    /* NULL while measuring                        */
    uint64_t size; /* bytes of the block, 0 while measuring       */
    uint64_t used; /* bytes taken so far, a multiple of 64        */
} sy_arena;

/* n elements of elem_bytes each, 64-byte aligned; NULL while measuring. Asserts that the block
 * is not exceeded (its size came from the measuring pass); saturates `used` on overflow. */
void *sy_arena_take(sy_arena *arena, uint64_t n, uint64_t elem_bytes);

/* "61.2 GB" style text in buf (at least 24 bytes); decimal units. Returns buf. */
char *sy_format_bytes(char *buf, size_t buf_size, uint64_t bytes);

#endif

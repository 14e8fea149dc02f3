/* Arithmetic on sizes that come from files: every product and sum is checked for overflow. */
#ifndef SY_BASE_CHECKED_H
#define SY_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

/* Each returns false on overflow and leaves *out unspecified then. */
static inline bool sy_mul_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool sy_add_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
static inline bool sy_mul_i64(int64_t a, int64_t b, int64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* Whole multiples of a step that cover n; n >= 0, step > 0. */
static inline int64_t sy_ceil_div(int64_t n, int64_t step) {
    return n / step + (n % step != 0);
}
static inline int64_t sy_round_up(int64_t n, int64_t step) {
    return sy_ceil_div(n, step) * step;
}
static inline int64_t sy_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static inline int64_t sy_max(int64_t a, int64_t b) {
    return a > b ? a : b;
}

#endif

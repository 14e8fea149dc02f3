/* Random matrices for the tests of the CPU's matrix half, and the definition of their product:
 * written from kernels/ops.h over row-major weights, sharing no code with the kernels. */
#ifndef SY_TESTS_MATRIX_FIXTURE_H
#define SY_TESTS_MATRIX_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/hash.h"
#include "base/memory.h"
#include "kernels/cpu/cpu.h"

/* The tables of this machine; NULL where it lacks one. */
static const char *const isa_names[] = {"generic", "avx2", "avx512", "avx512bf16", "neon"};
enum { N_ISA = sizeof isa_names / sizeof *isa_names };

static uint64_t random_state;
static inline uint64_t random64(void) {
    random_state += 0x9e3779b97f4a7c15u;
    return sy_mix64(random_state);
}
static inline int64_t random_in(int64_t low, int64_t high) { /* both included */
    return low + (int64_t)(random64() % (uint64_t)(high - low + 1));
}

typedef enum spread { ORDINARY, WIDE, UNDERFLOW } spread;

/* A float32 whose exponent lies in the spread's range; UNDERFLOW makes products that straddle
 * the smallest normal number, and some denormals. */
static inline float random_float(spread s) {
    static const int low[] = {122, 97, 52}, high[] = {129, 157, 74};
    uint64_t r = random64();
    int64_t exponent = random_in(low[s], high[s]);
    if (s == UNDERFLOW && r % 16 == 0) exponent = 0;
    return sy_f32_from_bits((uint32_t)(r >> 32 & 0x807fffffu) | (uint32_t)exponent << 23);
}

/* A code of the type: F16 over all its finite values, denormals included. */
static inline uint16_t random_code16(sy_dtype t, spread s) {
    if (t == SY_BF16) return (uint16_t)(sy_bits_from_f32(random_float(s)) >> 16);
    uint16_t h = (uint16_t)random64();
    return (h & 0x7c00u) == 0x7c00u ? (uint16_t)(h & 0x83ffu) : h;
}

typedef struct test_matrix {
    sy_matrix m;
    sy_dtype file_dtype;
    char *block; /* owns the source, which lies one byte into it */
    const char *src[2];
    uint64_t bytes;
} test_matrix;

static inline float source_value(const char *src, sy_dtype t, int64_t i) {
    uint16_t h;
    float f;
    if (t == SY_F32) {
        memcpy(&f, src + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, src + 2 * i, sizeof h);
    return t == SY_F16 ? sy_f32_from_f16(h) : sy_f32_from_bf16(h);
}

/* The weight as the run uses it. */
static inline float weight_value(const test_matrix *t, int part, int64_t row, int64_t i) {
    float f = source_value(t->src[part], t->file_dtype, row * t->m.k + i);
    return t->file_dtype == SY_F32 && t->m.dtype == SY_BF16
               ? sy_f32_from_bf16(sy_bf16_from_f32(f))
               : f;
}

/* Random weights at an odd address, packed in two pieces where there are several panels. The
 * memory is dirty before packing, so that padding must be written. */
static inline test_matrix
make_matrix(sy_backend *be, sy_dtype file_dtype, int parts, int64_t n, int64_t k, spread s) {
    test_matrix t = {.file_dtype = file_dtype};
    int64_t elem = sy_dtype_bits(file_dtype) / 8;
    t.block = malloc((size_t)(parts * n * k * elem + 1));
    for (int part = 0; part < parts; part++) {
        char *src = t.block + 1 + part * n * k * elem;
        t.src[part] = src;
        for (int64_t i = 0; i < n * k; i++) {
            if (file_dtype == SY_F32) {
                float f = random_float(s);
                memcpy(src + 4 * i, &f, sizeof f);
            } else {
                uint16_t h = random_code16(file_dtype, s);
                memcpy(src + 2 * i, &h, sizeof h);
            }
        }
    }
    t.m = (sy_matrix){
        .dtype = be->ops->stored_dtype(be, file_dtype), .parts = parts, .n = n, .k = k};
    t.bytes = be->ops->matrix_bytes(be, &t.m);
    assert_true(t.bytes % 64 == 0);
    assert_int_equal(be->ops->alloc(be, &t.m.data, t.bytes, "matrix"), SY_OK);
    memset(t.m.data, 0x7f, t.bytes);
    for (int part = 0; part < parts; part++) {
        int64_t cut = random_in(0, n / SY_PACK_ROWS) * SY_PACK_ROWS;
        sy_weight_source rest = {.dtype = file_dtype, .codes = t.src[part] + cut * k * elem};
        sy_weight_source begin = {.dtype = file_dtype, .codes = t.src[part]};
        assert_int_equal(be->ops->pack(be, &t.m, part, cut, n - cut, &rest), SY_OK);
        assert_int_equal(be->ops->pack(be, &t.m, part, 0, cut, &begin), SY_OK);
    }
    return t;
}

static inline void free_matrix(sy_backend *be, test_matrix *t) {
    be->ops->free(be, t->m.data, t->bytes);
    free(t->block);
}

/* Rows of act values in a block of exactly their size, so that a sanitizer sees a read beyond. */
static inline void *make_rows(const sy_backend *be, int64_t rows, int64_t k, spread s) {
    int64_t elem = sy_act_bytes(be);
    char *x = malloc((size_t)(rows * k * elem));
    for (int64_t i = 0; i < rows * k; i++) {
        float f = random_float(s);
        uint16_t h = (uint16_t)(sy_bits_from_f32(f) >> 16);
        if (elem == 4)
            memcpy(x + 4 * i, &f, sizeof f);
        else
            memcpy(x + 2 * i, &h, sizeof h);
    }
    return x;
}

static inline float act_value(const sy_backend *be, const void *x, int64_t i) {
    return be->act == SY_F32 ? ((const float *)x)[i]
                             : sy_f32_from_bf16(((const uint16_t *)x)[i]);
}

/* One chain over K in [begin, end), pairs odd first for 2-byte weights. */
static inline float plain_chain(const sy_backend *be,
                                const test_matrix *t,
                                int part,
                                int64_t row,
                                const void *x,
                                int64_t x_row,
                                int64_t begin,
                                int64_t end) {
    float sum = 0;
    int64_t step = t->m.dtype == SY_F32 ? 1 : 2;
    for (int64_t k = begin; k < end; k += step) {
        for (int64_t i = k + step - 1; i >= k; i--) {
            bool there = i < end;
            float w = there ? weight_value(t, part, row, i) : 0;
            float v = there ? act_value(be, x, x_row * t->m.k + i) : 0;
            sum = __builtin_fmaf(w, v, sum);
        }
    }
    return sum;
}

/* Leaves [begin, end) of `leaf` values by recursive halving; leaf 0: one chain. */
static inline float plain_dot(const sy_backend *be,
                              const test_matrix *t,
                              int part,
                              int64_t row,
                              const void *x,
                              int64_t x_row,
                              int64_t leaf,
                              int64_t begin,
                              int64_t end) {
    int64_t k = t->m.k;
    if (leaf == 0) return plain_chain(be, t, part, row, x, x_row, 0, k);
    if (end - begin == 1)
        return plain_chain(be, t, part, row, x, x_row, begin * leaf, sy_min(k, end * leaf));
    int64_t left = (end - begin + 1) / 2;
    return plain_dot(be, t, part, row, x, x_row, leaf, begin, begin + left) +
           plain_dot(be, t, part, row, x, x_row, leaf, begin + left, end);
}

static inline void
assert_same_bits(const float *a, const float *b, int64_t n, const char *what) {
    for (int64_t i = 0; i < n; i++)
        if (sy_bits_from_f32(a[i]) != sy_bits_from_f32(b[i]))
            fail_msg("%s: element %lld is %a (%08x), expected %a (%08x)", what, (long long)i,
                     (double)a[i], sy_bits_from_f32(a[i]), (double)b[i],
                     sy_bits_from_f32(b[i]));
}

/* A backend over a pool of its own; NULL if this machine lacks the instruction set. */
static inline sy_backend *open_cpu(sy_dtype act, int n_threads, const char *isa) {
    sy_pool *pool;
    sy_backend *be;
    assert_int_equal(sy_pool_create(n_threads, false, &pool), SY_OK);
    if (sy_cpu_open(act, pool, isa, &be) == SY_OK) return be;
    sy_pool_destroy(pool);
    return NULL;
}

static inline void close_cpu(sy_backend *be) {
    if (be == NULL) return;
    sy_pool *pool = sy_cpu_of(be)->pool;
    be->ops->close(be);
    sy_pool_destroy(pool);
}

#endif

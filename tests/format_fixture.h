/* Random quantised matrices as files hold them, and what they mean: decoders written from the
 * definitions of the formats in float64, and the product in the order of kernels/ops.h. Shares no
 * code with the kernels. */
#ifndef SY_TESTS_FORMAT_FIXTURE_H
#define SY_TESTS_FORMAT_FIXTURE_H

#include "tests/matrix_fixture.h"

#include <math.h>

static inline double e4m3_value(unsigned code) {
    int exponent = (int)(code >> 3 & 15), fraction = (int)(code & 7);
    double magnitude = exponent == 0 ? ldexp(fraction, -9) : ldexp(8 + fraction, exponent - 10);
    if ((code & 0x7f) == 0x7f) magnitude = NAN;
    return code >= 0x80 ? -magnitude : magnitude;
}

static inline double e2m1_value(unsigned code) {
    static const double magnitude[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return code >= 8 ? -magnitude[code - 8] : magnitude[code];
}

static inline double e8m0_value(unsigned code) {
    return code == 255 ? NAN : ldexp(1, (int)code - 127);
}

/* Two's complement, written out. */
static inline double i8_value(unsigned code) {
    return code < 128 ? (double)code : (double)code - 256;
}

typedef struct format_case {
    const char *name;
    sy_dtype dtype;
    sy_quant quant;
} format_case;

/* The kinds that are published. */
static const format_case formats[] = {
    {"FP8 blocks", SY_F8_E4M3, {SY_F32, 128, 128, false, SY_FACTOR_NONE, {0, 0}}},
    {"FP8 blocks, E8M0", SY_F8_E4M3, {SY_F8_E8M0, 128, 128, false, SY_FACTOR_NONE, {0, 0}}},
    {"FP8 channels", SY_F8_E4M3, {SY_F32, 0, 1, false, SY_FACTOR_NONE, {0, 0}}},
    {"FP8 channels, BF16", SY_F8_E4M3, {SY_BF16, 0, 1, false, SY_FACTOR_NONE, {0, 0}}},
    {"FP8 tensor", SY_F8_E4M3, {SY_F32, 0, 0, false, SY_FACTOR_NONE, {0, 0}}},
    {"FP8 blocks per output", SY_F8_E4M3, {SY_F32, 128, 1, false, SY_FACTOR_NONE, {0, 0}}},
    {"MXFP4", SY_F4, {SY_F8_E8M0, 32, 1, false, SY_FACTOR_NONE, {0, 0}}},
    {"NVFP4 times", SY_F4, {SY_F8_E4M3, 16, 1, false, SY_FACTOR_TIMES, {0.0022321429f, 3.5f}}},
    {"NVFP4 over", SY_F4, {SY_F8_E4M3, 16, 1, false, SY_FACTOR_OVER, {448, 1.7f}}},
    {"INT4 32 BF16", SY_U4, {SY_BF16, 32, 1, false, SY_FACTOR_NONE, {0, 0}}},
    {"INT4 64 F16", SY_U4, {SY_F16, 64, 1, false, SY_FACTOR_NONE, {0, 0}}},
    {"INT4 128 F32", SY_U4, {SY_F32, 128, 1, false, SY_FACTOR_NONE, {0, 0}}},
    {"INT4 128 F16, zeros", SY_U4, {SY_F16, 128, 1, true, SY_FACTOR_NONE, {0, 0}}},
    {"INT4 32 BF16, zeros", SY_U4, {SY_BF16, 32, 1, true, SY_FACTOR_NONE, {0, 0}}},
    {"INT4 channels", SY_U4, {SY_BF16, 0, 1, false, SY_FACTOR_NONE, {0, 0}}},
    {"q8", SY_I8, {SY_BF16, 32, 1, false, SY_FACTOR_NONE, {0, 0}}},
    {"INT8 channels", SY_I8, {SY_F32, 0, 1, false, SY_FACTOR_NONE, {0, 0}}},
    {"INT8 channels, BF16", SY_I8, {SY_BF16, 0, 1, false, SY_FACTOR_NONE, {0, 0}}},
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

/* Whether a code is a byte; else two share one. */
static inline bool has_bytes(sy_dtype codes) {
    return codes == SY_F8_E4M3 || codes == SY_I8;
}

/* One part as a file has it; blocks of exactly the needed size, at odd addresses. */
typedef struct file_part {
    char *codes, *scales;
    uint8_t *zeros;
} file_part;

typedef struct quantised {
    sy_matrix m;
    file_part part[2];
    int64_t code_row_bytes, groups, scale_bytes;
    uint64_t bytes;
} quantised;

static inline char *odd_block(int64_t bytes) {
    return (char *)malloc((size_t)bytes + 1) + 1;
}
static inline void free_odd(void *block) {
    if (block != NULL) free((char *)block - 1);
}

static inline int64_t scale_rows(const sy_matrix *m) {
    return m->quant.outputs == 0 ? 1 : sy_ceil_div(m->n, m->quant.outputs);
}

static inline void set_random_scale(const quantised *q, char *at, spread s) {
    float f = random_float(s == UNDERFLOW ? UNDERFLOW : ORDINARY);
    uint16_t h = (uint16_t)(sy_bits_from_f32(f) >> 16);
    uint8_t b = (uint8_t)(q->m.quant.scale == SY_F8_E8M0
                              ? (s == UNDERFLOW ? random_in(0, 70) : random_in(110, 140))
                              : random_in(0, 126) + random_in(0, 1) * 128);
    if (q->m.quant.scale == SY_F32)
        memcpy(at, &f, 4);
    else if (q->m.quant.scale == SY_BF16)
        memcpy(at, &h, 2);
    else if (q->m.quant.scale == SY_F16) {
        h = random_code16(SY_F16, s);
        memcpy(at, &h, 2);
    } else
        memcpy(at, &b, 1);
}

/* Random codes, NaN left out. Padding bits of a row are ones: they must not be read. */
static inline void fill_part(const quantised *q, file_part *p, spread s) {
    int64_t n = q->m.n, bytes = n * q->code_row_bytes;
    p->codes = odd_block(bytes);
    for (int64_t i = 0; i < bytes; i++) {
        uint8_t b = (uint8_t)random64();
        if (q->m.dtype == SY_F8_E4M3 && (b & 0x7f) == 0x7f) b &= 0x8e;
        memcpy(p->codes + i, &b, 1);
    }
    int64_t n_scales = scale_rows(&q->m) * q->groups;
    p->scales = odd_block(n_scales * q->scale_bytes);
    for (int64_t i = 0; i < n_scales; i++)
        set_random_scale(q, p->scales + i * q->scale_bytes, s);
    if (!q->m.quant.zeros) return;
    p->zeros = (uint8_t *)odd_block(n * q->groups);
    for (int64_t i = 0; i < n * q->groups; i++)
        p->zeros[i] = (uint8_t)(random64() % 16);
}

static inline quantised shape_quantised(const format_case *f, int parts, int64_t n, int64_t k) {
    quantised q = {.m = {.dtype = f->dtype, .parts = parts, .n = n, .k = k, .quant = f->quant}};
    q.code_row_bytes = has_bytes(f->dtype) ? k
                       : f->dtype == SY_F4 ? (k + 1) / 2
                                           : (k + 7) / 8 * 4;
    q.groups = f->quant.group == 0 ? 1 : sy_ceil_div(k, f->quant.group);
    q.scale_bytes = sy_dtype_bits(f->quant.scale) / 8;
    return q;
}

/* The source of output rows from row0 on. */
static inline sy_weight_source source_at(const quantised *q, int part, int64_t row0) {
    const file_part *p = &q->part[part];
    int64_t outputs = q->m.quant.outputs, scale_row = outputs == 0 ? 0 : row0 / outputs;
    return (sy_weight_source){q->m.dtype, p->codes + row0 * q->code_row_bytes,
                              p->scales + scale_row * q->groups * q->scale_bytes,
                              p->zeros == NULL ? NULL : p->zeros + row0 * q->groups};
}

/* Packs in two pieces into dirty memory. */
static inline void pack_quantised(sy_backend *be, quantised *q) {
    q->bytes = be->ops->matrix_bytes(be, &q->m);
    assert_true(q->bytes != UINT64_MAX && q->bytes % 64 == 0);
    assert_int_equal(be->ops->alloc(be, &q->m.data, q->bytes, "matrix"), SY_OK);
    memset(q->m.data, 0x7f, q->bytes);
    for (int part = 0; part < q->m.parts; part++) {
        int64_t cut = random_in(0, q->m.n / SY_PACK_ROWS) * SY_PACK_ROWS;
        sy_weight_source rest = source_at(q, part, cut), begin = source_at(q, part, 0);
        assert_int_equal(be->ops->pack(be, &q->m, part, cut, q->m.n - cut, &rest), SY_OK);
        assert_int_equal(be->ops->pack(be, &q->m, part, 0, cut, &begin), SY_OK);
    }
}

static inline quantised make_quantised(sy_backend *be,
                                       const format_case *f,
                                       int parts,
                                       int64_t n,
                                       int64_t k,
                                       spread s) {
    quantised q = shape_quantised(f, parts, n, k);
    for (int part = 0; part < parts; part++)
        fill_part(&q, &q.part[part], s);
    pack_quantised(be, &q);
    return q;
}

static inline void free_quantised(sy_backend *be, quantised *q) {
    be->ops->free(be, q->m.data, q->bytes);
    for (int part = 0; part < q->m.parts; part++) {
        free_odd(q->part[part].codes);
        free_odd(q->part[part].scales);
        free_odd(q->part[part].zeros);
    }
}

static inline int64_t group_of(const quantised *q, int64_t k) {
    return q->m.quant.group == 0 ? 0 : k / q->m.quant.group;
}

/* Value of a code, before its scale. */
static inline double code_of(const quantised *q, int part, int64_t row, int64_t k) {
    const file_part *p = &q->part[part];
    const uint8_t *codes = (const uint8_t *)p->codes + row * q->code_row_bytes;
    if (q->m.dtype == SY_F8_E4M3) return e4m3_value(codes[k]);
    if (q->m.dtype == SY_I8) return i8_value(codes[k]);
    unsigned code = codes[k / 2] >> (k % 2 == 0 ? 0 : 4) & 15u;
    if (q->m.dtype == SY_F4) return e2m1_value(code);
    return (int)code - (p->zeros == NULL ? 8 : p->zeros[row * q->groups + group_of(q, k)]);
}

static inline double scale_of(const quantised *q, int part, int64_t row, int64_t k) {
    int64_t outputs = q->m.quant.outputs, scale_row = outputs == 0 ? 0 : row / outputs;
    const char *at =
        q->part[part].scales + (scale_row * q->groups + group_of(q, k)) * q->scale_bytes;
    if (q->m.quant.scale == SY_F8_E4M3) return e4m3_value(*(const uint8_t *)at);
    if (q->m.quant.scale == SY_F8_E8M0) return e8m0_value(*(const uint8_t *)at);
    return source_value(at, q->m.quant.scale, 0);
}

/* sum * factor or sum / factor, in the type of the sum. */
#define WITH_FACTOR(q, part, sum)                                                              \
    ((q)->m.quant.use_factor == SY_FACTOR_TIMES  ? (sum) * (q)->m.quant.factor[part]           \
     : (q)->m.quant.use_factor == SY_FACTOR_OVER ? (sum) / (q)->m.quant.factor[part]           \
                                                 : (sum))

/* One leaf [begin, end), in float32 as kernels/ops.h asks; with denormals flushed by the thread. */
static inline float plain_quantised_leaf(const sy_backend *be,
                                         const quantised *q,
                                         int part,
                                         int64_t row,
                                         const void *x,
                                         int64_t x_row,
                                         int64_t begin,
                                         int64_t end) {
    float sum = 0;
    for (int64_t k = begin; k < end;) {
        float chain = 0, scale = (float)scale_of(q, part, row, k);
        int64_t group = group_of(q, k);
        for (; k < end && group_of(q, k) == group; k += 2)
            for (int64_t i = k + 1; i >= k; i--) {
                bool there = i < end;
                float w = there ? (float)code_of(q, part, row, i) : 0;
                float v = there ? act_value(be, x, x_row * q->m.k + i) : 0;
                chain = __builtin_fmaf(w, v, chain);
            }
        sum = __builtin_fmaf(chain, scale, sum);
    }
    return WITH_FACTOR(q, part, sum);
}

/* Leaves [begin, end) of `leaf` values by recursive halving; leaf 0: all of K. */
static inline float plain_quantised_dot(const sy_backend *be,
                                        const quantised *q,
                                        int part,
                                        int64_t row,
                                        const void *x,
                                        int64_t x_row,
                                        int64_t leaf,
                                        int64_t begin,
                                        int64_t end) {
    int64_t k = q->m.k;
    if (leaf == 0) return plain_quantised_leaf(be, q, part, row, x, x_row, 0, k);
    if (end - begin == 1)
        return plain_quantised_leaf(be, q, part, row, x, x_row, begin * leaf,
                                    sy_min(k, end * leaf));
    int64_t left = (end - begin + 1) / 2;
    return plain_quantised_dot(be, q, part, row, x, x_row, leaf, begin, begin + left) +
           plain_quantised_dot(be, q, part, row, x, x_row, leaf, begin + left, end);
}

#endif

/* The two tables side by side: the CPU's and the CUDA table, on a GPU or on its emulation.
 *
 * Device memory is touched through ops->alloc, free, write and read alone. Whatever a step writes
 * lies in an `output`: poisoned before (all ones: NaN, -1), with guard bytes behind that are
 * checked when it is read. All that was read is hashed, and the program runs itself once more
 * (with another seed of the emulation's order, which a GPU does not know) and compares the
 * hashes. Blocks, matrices and outputs live until end_case(). */
#ifndef SY_TESTS_CUDA_FIXTURE_H
#define SY_TESTS_CUDA_FIXTURE_H

#include <math.h>
#include <unistd.h>

#include "kernels/cuda/open.h"
#include "tests/matrix_fixture.h"

static sy_backend *cpu_be, *cuda_be;
static uint64_t output_hash;
static char where[256]; /* the case under test, for messages */

#define MUST(call)                                                                             \
    do {                                                                                       \
        sy_status must_status = (call);                                                        \
        if (must_status != SY_OK)                                                              \
            fail_msg("%s: %s: %s: %s", where, #call, sy_status_name(must_status),              \
                     sy_last_error());                                                         \
    } while (0)

/* ---- memory ---- */

typedef struct held_block {
    void *host, *device;
    uint64_t bytes;
} held_block;
enum { MOST_HELD = 8192, GUARD = 256, GUARD_BYTE = 0xc3, POISON_BYTE = 0xff };
static held_block held[MOST_HELD];
static int n_held;

static inline held_block *hold(void *host, void *device, uint64_t bytes) {
    assert_true(n_held < MOST_HELD);
    held[n_held] = (held_block){host, device, bytes};
    return &held[n_held++];
}

static inline void end_case(void) {
    while (n_held > 0) {
        held_block *h = &held[--n_held];
        free(h->host);
        if (h->device != NULL) cuda_be->ops->free(cuda_be, h->device, h->bytes);
    }
}

/* Exactly the bytes asked for, so that a sanitizer sees what lies beyond. */
static inline void *host_block(int64_t bytes) {
    void *p = malloc((size_t)bytes);
    assert_true(bytes == 0 || p != NULL);
    hold(p, NULL, 0);
    return p;
}

static inline void *device_copy(const void *host, int64_t bytes) {
    void *p;
    MUST(cuda_be->ops->alloc(cuda_be, &p, (uint64_t)bytes, "test input"));
    hold(NULL, p, (uint64_t)bytes);
    MUST(cuda_be->ops->write(cuda_be, p, host, (uint64_t)bytes, NULL));
    return p;
}

typedef struct output {
    void *device;
    int64_t bytes;
} output;

/* content: what an output that is added to begins with, or NULL. */
static inline output make_output(const void *content, int64_t bytes) {
    output o = {NULL, bytes};
    char *host = malloc((size_t)(bytes + GUARD));
    memset(host, POISON_BYTE, (size_t)bytes);
    if (content != NULL && bytes > 0) memcpy(host, content, (size_t)bytes);
    memset(host + bytes, GUARD_BYTE, GUARD);
    o.device = device_copy(host, bytes + GUARD);
    free(host);
    return o;
}

/* The content on the host; the guard is checked. */
static inline void *read_output(output o) {
    unsigned char *host = host_block(o.bytes + GUARD);
    MUST(cuda_be->ops->read(cuda_be, host, o.device, (uint64_t)(o.bytes + GUARD), NULL));
    for (int i = 0; i < GUARD; i++)
        if (host[o.bytes + i] != GUARD_BYTE)
            fail_msg("%s: byte %d behind an output of %lld was written", where, i,
                     (long long)o.bytes);
    output_hash = sy_hash_bytes(output_hash, host, (size_t)o.bytes);
    return host;
}

static inline void assert_equal_bytes(const void *found,
                                      const void *expected,
                                      int64_t rows,
                                      int64_t row_bytes,
                                      const char *what) {
    for (int64_t r = 0; r < rows; r++) {
        const unsigned char *f = (const unsigned char *)found + r * row_bytes;
        const unsigned char *e = (const unsigned char *)expected + r * row_bytes;
        for (int64_t i = 0; i < row_bytes; i++)
            if (f[i] != e[i])
                fail_msg("%s: %s: row %lld of %lld differs at byte %lld: %02x, expected %02x",
                         where, what, (long long)r, (long long)rows, (long long)i, f[i], e[i]);
    }
}

/* ---- values ---- */

static inline float uniform(float range) {
    return ((float)(random64() >> 40) * 0x1p-23f - 1.0f) * range;
}

static inline float *random_floats(int64_t n, float range) {
    float *x = host_block(n * (int64_t)sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = uniform(range);
    return x;
}

static inline uint16_t *random_bf16(int64_t n, float range) {
    uint16_t *x = host_block(n * (int64_t)sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = sy_bf16_from_f32(uniform(range));
    return x;
}

/* Weights of a norm: around 1. */
static inline float *random_norm(int64_t n) {
    float *x = host_block(n * (int64_t)sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = 1.0f + uniform(0.5f);
    return x;
}

static inline float *widen(const uint16_t *x, int64_t n) {
    float *f = host_block(n * (int64_t)sizeof *f);
    for (int64_t i = 0; i < n; i++)
        f[i] = sy_f32_from_bf16(x[i]);
    return f;
}

/* One matrix as both tables hold it, and its values as the run uses them. */
typedef struct twin {
    sy_matrix cpu, cuda;
    sy_dtype file_dtype;
    test_matrix source; /* owns */
    float *value;       /* [parts][n][k] */
} twin;

/* Device memory for `count` matrices like t, one behind the other; dirty, since padding must be
 * written. *bytes: of one. */
static inline void *room_on_device(const test_matrix *t, int count, int64_t *bytes) {
    const sy_ops *ops = cuda_be->ops;
    sy_matrix m = t->m;
    m.dtype = ops->stored_dtype(cuda_be, t->file_dtype);
    uint64_t of_one = ops->matrix_bytes(cuda_be, &m);
    assert_true(of_one != UINT64_MAX && of_one % 64 == 0);
    *bytes = (int64_t)of_one;
    char *dirt = malloc((size_t)count * of_one);
    memset(dirt, POISON_BYTE, (size_t)count * of_one);
    void *device = device_copy(dirt, count * *bytes);
    free(dirt);
    return device;
}

/* Packs the source of t in two pieces into memory from room_on_device. */
static inline sy_matrix pack_at(const test_matrix *t, void *memory) {
    const sy_ops *ops = cuda_be->ops;
    int64_t n = t->m.n, k = t->m.k, elem = sy_dtype_bits(t->file_dtype) / 8;
    sy_matrix m = {.data = memory,
                   .dtype = ops->stored_dtype(cuda_be, t->file_dtype),
                   .parts = t->m.parts,
                   .n = n,
                   .k = k};
    for (int part = 0; part < m.parts; part++) {
        int64_t cut = random_in(0, n / SY_PACK_ROWS) * SY_PACK_ROWS;
        sy_weight_source rest = {.dtype = t->file_dtype,
                                 .codes = t->src[part] + cut * k * elem};
        sy_weight_source begin = {.dtype = t->file_dtype, .codes = t->src[part]};
        MUST(ops->pack(cuda_be, &m, part, cut, n - cut, &rest));
        MUST(ops->pack(cuda_be, &m, part, 0, cut, &begin));
    }
    return m;
}

static inline sy_matrix pack_on_device(const test_matrix *t) {
    int64_t bytes;
    return pack_at(t, room_on_device(t, 1, &bytes));
}

/* Several matrices of one shape, at equal distances on the device, as the experts of a layer
 * are (the runtime lays them out so). */
static inline void
make_twins(int count, sy_dtype file_dtype, int parts, int64_t n, int64_t k, twin *out) {
    char *memory = NULL;
    int64_t bytes = 0;
    for (int i = 0; i < count; i++) {
        twin *t = &out[i];
        *t = (twin){.file_dtype = file_dtype};
        t->source = make_matrix(cpu_be, file_dtype, parts, n, k, ORDINARY);
        t->cpu = t->source.m;
        if (i == 0) memory = room_on_device(&t->source, count, &bytes);
        t->cuda = pack_at(&t->source, memory + i * bytes);
        t->value = host_block(parts * n * k * (int64_t)sizeof *t->value);
        for (int part = 0; part < parts; part++)
            for (int64_t j = 0; j < n * k; j++)
                t->value[part * n * k + j] = weight_value(&t->source, part, 0, j);
    }
}

static inline twin make_twin(sy_dtype file_dtype, int parts, int64_t n, int64_t k) {
    twin t;
    make_twins(1, file_dtype, parts, n, k, &t);
    return t;
}

static inline void free_twin(twin *t) {
    free_matrix(cpu_be, &t->source); /* the rest is held */
}

/* ---- tolerances ---- */

typedef struct sum64 {
    double y, magnitude; /* sum of a b, and of |a b| */
} sum64;

static inline sum64 dot64(const float *a, const float *b, int64_t k) {
    sum64 s = {0, 0};
    for (int64_t i = 0; i < k; i++) {
        double p = (double)a[i] * (double)b[i];
        s.y += p;
        s.magnitude += fabs(p);
    }
    return s;
}

/* Products of bf16 values are exact in float32. A tensor core makes one truncating addition per
 * mma step of 16 k, below 2^-23 of the running magnitude, doubled for safety; slices of 256 are
 * joined by further additions; 4 for the ends. An F16 weight is split in two bf16 values, with
 * a step for each. */
static inline double cuda_bound(int64_t k, double magnitude, sy_dtype weights) {
    double steps = (double)sy_ceil_div(k, 16) * (weights == SY_F16 ? 2 : 1);
    return (steps + log2((double)sy_max(sy_ceil_div(k, 256), 1)) + 4) * 0x1p-22 * magnitude;
}

/* The CPU's chain rounds once for each k, to nearest; the joining of leaves adds few. */
static inline double cpu_bound(int64_t k, double magnitude) {
    return (double)(k + 20) * 0x1.02p-24 * magnitude;
}

/* A bf16 has 8 significant bits, so rounding to nearest moves a value by at most 2^-8 of it. */
static inline double bf16_bound(double y64, double bound) {
    return bound + 0x1p-8 * (fabs(y64) + bound);
}

/* Each table within its own bound of the same float64 value, hence within both of the other. */
static inline void expect_near(const char *what,
                               int64_t row,
                               int64_t column,
                               double cuda,
                               double cpu,
                               double y64,
                               double of_cuda,
                               double of_cpu) {
    if (!(fabs(cuda - y64) <= of_cuda))
        fail_msg("%s: %s[%lld][%lld]: CUDA %.9g, expected %.9g within %.3g (CPU %.9g)", where,
                 what, (long long)row, (long long)column, cuda, y64, of_cuda, cpu);
    if (!(fabs(cpu - y64) <= of_cpu))
        fail_msg("%s: %s[%lld][%lld]: CPU %.9g, expected %.9g within %.3g (CUDA %.9g)", where,
                 what, (long long)row, (long long)column, cpu, y64, of_cpu, cuda);
    if (!(fabs(cuda - cpu) <= of_cuda + of_cpu))
        fail_msg("%s: %s[%lld][%lld]: CUDA %.9g, CPU %.9g", where, what, (long long)row,
                 (long long)column, cuda, cpu);
}

/* x normed in float64. A norm is good to 2^-20 before it is rounded to bf16, so a value that lies
 * so close to the middle of two bf16 values may round either way: `slack` is what that moves. */
static inline void
norm64(const float *x, const float *w, double eps, int64_t n, float *rounded, double *slack) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    double inverse = 1 / sqrt(sum / (double)n + eps);
    for (int64_t i = 0; i < n; i++) {
        double y = (double)x[i] * inverse * (double)w[i];
        float low = sy_f32_from_bf16(sy_bf16_from_f32((float)(y * (1 - 0x1p-20))));
        float high = sy_f32_from_bf16(sy_bf16_from_f32((float)(y * (1 + 0x1p-20))));
        rounded[i] = low;
        slack[i] = fabs((double)high - (double)low);
    }
}

static inline double slack64(const float *w, const double *slack, int64_t k) {
    double s = 0;
    for (int64_t i = 0; i < k; i++)
        s += fabs((double)w[i]) * slack[i];
    return s;
}

/* A row of xn as a table wrote it. */
static inline void
expect_normed(const float *x, const float *w, double eps, int64_t n, const uint16_t *xn) {
    float *rounded = host_block(n * (int64_t)sizeof *rounded);
    double *slack = host_block(n * (int64_t)sizeof *slack);
    norm64(x, w, eps, n, rounded, slack);
    for (int64_t i = 0; i < n; i++) {
        double found = (double)sy_f32_from_bf16(xn[i]);
        if (!(fabs(found - (double)rounded[i]) <= slack[i]))
            fail_msg("%s: xn[%lld] = %.9g, expected %.9g", where, (long long)i, found,
                     (double)rounded[i]);
    }
}

/* ---- steps ---- */

enum { MOST_ROWS = 130 };
static const int64_t row_counts[] = {0, 1, 2, 4, 5, 7, 8, 9, 16, 17, 32, 33, 64, 65, MOST_ROWS};
enum { N_ROW_COUNTS = sizeof row_counts / sizeof *row_counts };

static inline void reserve_both(const sy_limits *l) {
    MUST(cpu_be->ops->reserve(cpu_be, l));
    MUST(cuda_be->ops->reserve(cuda_be, l));
}

/* For steps of matrices of these widths and up to MOST_ROWS rows. */
static inline void reserve_widths(int hidden, int inter, int heads, int head_dim, int vocab) {
    reserve_both(&(sy_limits){.max_rows = MOST_ROWS,
                              .max_pairs = 4 * MOST_ROWS,
                              .max_context = 64,
                              .hidden = hidden,
                              .heads = heads,
                              .kv_heads = heads,
                              .head_dim = head_dim,
                              .max_inter = inter,
                              .experts = 1,
                              .top_k = 1,
                              .vocab = vocab});
}

static inline void
begin_step(const sy_batch *b, int64_t rows, int64_t n_outputs, const int32_t *row) {
    MUST(cuda_be->ops->device->begin_step(cuda_be, b, rows, n_outputs, n_outputs, row, NULL));
}

/* A step record of n rows without sequences, for steps that only want to know the number. */
static inline void begin_rows(int64_t n) {
    static const int32_t ids[MOST_ROWS];
    assert_true(n <= MOST_ROWS);
    begin_step(&(sy_batch){.n_rows = (int)n, .ids = ids}, n, 0, NULL);
}

/* Computes rows [first, first + n) of a case and returns them as they were read. */
typedef void *(*run_rows)(const void *c, int64_t first, int64_t n);

/* The rows of every batch size are the same bits as in `all`, a batch of MOST_ROWS: each size
 * once at a random place, single rows at several. */
static inline void
expect_rows_alone_equal(run_rows run, const void *c, const void *all, int64_t row_bytes) {
    for (int i = 0; i < N_ROW_COUNTS; i++)
        for (int again = 0; again < (row_counts[i] == 1 ? 3 : 1); again++) {
            int64_t n = row_counts[i], first = random_in(0, MOST_ROWS - n);
            char what[64];
            snprintf(what, sizeof what, "rows %lld + %lld of a batch", (long long)first,
                     (long long)n);
            assert_equal_bytes(run(c, first, n), (const char *)all + first * row_bytes, n,
                               row_bytes, what);
        }
}

/* ---- the program ---- */

static inline sy_status open_cuda(sy_backend **out) {
    *out = NULL;
#ifdef SY_WITH_CUDA
    return sy_cuda_open(SY_BF16, 0, out);
#else
    return sy_fail(SY_ERR_UNSUPPORTED, "built without CUDA");
#endif
}

/* The hash that the same program prints in another process; 0 if it fails. */
static inline uint64_t hash_of_another_run(void) {
    char path[4096], line[512], seed[32];
    unsigned long long hash = 0;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = '\0';
    const char *own = getenv("SY_EMU_SEED");
    snprintf(seed, sizeof seed, "%ld", (own == NULL ? 0 : strtol(own, NULL, 10)) + 1);
    setenv("SY_EMU_SEED", seed, 1);
    setenv("SY_CUDA_TEST_PROGRAM", path, 1);
    setenv("SY_CUDA_TEST_AGAIN", "1", 1);
    FILE *f = popen("exec \"$SY_CUDA_TEST_PROGRAM\"", "r");
    if (f == NULL) return 0;
    while (fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "hash of all outputs: %llx", &hash) != 1) fputs(line, stdout);
    return pclose(f) == 0 ? hash : 0;
}

static inline int cuda_main(const char *name, const struct CMUnitTest *tests, size_t n) {
    sy_status st = open_cuda(&cuda_be);
    if (st == SY_ERR_UNSUPPORTED) {
        printf("skipped: %s\n", sy_last_error());
        return 77;
    }
    cpu_be = st == SY_OK ? open_cpu(SY_BF16, 2, NULL) : NULL;
    if (cpu_be == NULL) {
        printf("%s\n", sy_last_error());
        return 1;
    }
    int failed = _cmocka_run_group_tests(name, tests, n, NULL, NULL);
    end_case(); /* what a test that failed left behind */
    cuda_be->ops->close(cuda_be);
    close_cpu(cpu_be);
    printf("hash of all outputs: %llx\n", (unsigned long long)output_hash);
    fflush(stdout);
    if (failed != 0 || getenv("SY_CUDA_TEST_AGAIN") != NULL) return failed != 0;
    uint64_t again = hash_of_another_run();
    if (again == output_hash) return 0;
    printf("%s: another run gave other bits: %llx\n", name, (unsigned long long)again);
    return 1;
}

#endif

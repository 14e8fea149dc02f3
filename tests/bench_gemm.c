/* How near the matrix kernels come to the machine's bounds: read bandwidth for few rows, the
 * multiply instruction's peak for many. Usage:
 *   bench_gemm [threads] [isa] [bf16|f32|fp8|q8|int8|mxfp4|nvfp4|int4] [seconds]
 * f32 has activations in F32, all else in BF16.
 *
 * Bound and kernel alternate in pieces of at most a millisecond, and the medians of both are
 * compared: bandwidth changes within minutes on shared machines, and a piece during which a
 * foreign job had the core does not count. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "kernels/cpu/cpu.h"
#include "kernels/probe.h"

enum { MAX_PIECES = 2000, PIECE_BYTES = 8 << 20, READ_STEP = 4096 };

typedef struct weight_kind {
    const char *name;
    sy_dtype dtype;
    sy_quant quant;
} weight_kind;

static const weight_kind kinds[] = {
    {"bf16", SY_BF16, {0}},
    {"f32", SY_F32, {0}},
    {"fp8", SY_F8_E4M3, {.scale = SY_F32, .group = 128, .outputs = 128}},
    {"q8", SY_I8, {.scale = SY_BF16, .group = 32, .outputs = 1}},
    {"int8", SY_I8, {.scale = SY_F32, .outputs = 1}},
    {"mxfp4", SY_F4, {.scale = SY_F8_E8M0, .group = 32, .outputs = 1}},
    {"nvfp4",
     SY_F4,
     {.scale = SY_F8_E4M3,
      .group = 16,
      .outputs = 1,
      .use_factor = SY_FACTOR_TIMES,
      .factor = {0.01f, 0.01f}}},
    {"int4", SY_U4, {.scale = SY_BF16, .group = 32, .outputs = 1}},
};

typedef struct bench {
    sy_backend *be;
    sy_cpu *cpu;
    double seconds; /* of each line of output */
    char *weights;  /* one block that all shapes are cut from; random codes around 0.02 */
    uint64_t bytes;
    void *x;
    char *h;
    float *y;
    void *scales;  /* of any matrix that fits a piece: all of one finite value */
    int64_t piece; /* counts on; picks what is cold */
    const weight_kind *kind;
} bench;

/* A kernel under test: piece(b, arg) runs one piece and returns its bytes or FLOPs. */
typedef double (*piece_fn)(bench *b, void *arg);

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_size);
    return v[n / 2];
}

static double rate_of(bench *b, piece_fn piece, void *arg) {
    double start = sy_now();
    double amount = piece(b, arg);
    return amount / (sy_now() - start);
}

/* Median rate of the kernel, and its share of the bound's. */
static double measure(bench *b, piece_fn bound, piece_fn kernel, void *arg, double *share) {
    static double bound_rate[MAX_PIECES], rate[MAX_PIECES];
    int n = 0;
    for (double start = sy_now(); n < MAX_PIECES && (n < 5 || sy_now() - start < b->seconds);
         n++) {
        bound_rate[n] = rate_of(b, bound, arg);
        rate[n] = rate_of(b, kernel, arg);
    }
    double middle = median(rate, n);
    *share = middle / median(bound_rate, n);
    return middle;
}

/* The next piece of the block that has not been touched for long. */
static char *cold(bench *b, int64_t bytes) {
    return b->weights + b->piece++ % ((int64_t)b->bytes / bytes) * bytes;
}

typedef struct share_job {
    bench *b;
    const char *block; /* read_run */
    sy_matrix m;       /* product_run */
    int64_t rows, leaf;
} share_job;

static void fill_run(void *arg, int thread, int n_threads) {
    bench *b = arg;
    int64_t begin, end;
    sy_pool_share((int64_t)b->bytes / 2, thread, n_threads, &begin, &end);
    uint16_t *w = (uint16_t *)(void *)b->weights;
    for (int64_t i = begin; i < end; i++)
        w[i] = (uint16_t)(0x3c00u | ((uint32_t)i * 2654435761u >> 16 & 0x80ffu));
}

static void read_run(void *arg, int thread, int n_threads) {
    share_job *job = arg;
    int64_t begin, end;
    sy_pool_share(PIECE_BYTES / READ_STEP, thread, n_threads, &begin, &end);
    volatile uint64_t keep =
        job->b->cpu->isa->probe.read(job->block + begin * READ_STEP, (end - begin) * READ_STEP);
    (void)keep;
}

static double read_piece(bench *b, void *arg) {
    (void)arg;
    share_job job = {.b = b, .block = cold(b, PIECE_BYTES)};
    sy_pool_run(b->cpu->pool, read_run, &job);
    return PIECE_BYTES;
}

enum { PEAK_ROUNDS = 50000 };

static void peak_run(void *arg, int thread, int n_threads) {
    (void)thread;
    (void)n_threads;
    bench *b = arg;
    float sink;
    (b->kind->dtype == SY_F32 ? b->cpu->isa->probe.peak_f32
                              : b->cpu->isa->probe.peak_bf16)(PEAK_ROUNDS, &sink);
    volatile float keep = sink;
    (void)keep;
}

static double peak_piece(bench *b, void *arg) {
    (void)arg;
    float sink;
    int64_t per_round = (b->kind->dtype == SY_F32 ? b->cpu->isa->probe.peak_f32
                                                  : b->cpu->isa->probe.peak_bf16)(1, &sink);
    sy_pool_run(b->cpu->pool, peak_run, b);
    return 2.0 * PEAK_ROUNDS * (double)per_round * sy_pool_threads(b->cpu->pool);
}

static void product_run(void *arg, int thread, int n_threads) {
    share_job *job = arg;
    bench *b = job->b;
    int64_t begin, end;
    sy_pool_share(sy_cpu_panels(&job->m), thread, n_threads, &begin, &end);
    sy_cpu_matmul(b->cpu, thread, &job->m, begin, end, job->leaf, job->rows, b->x, job->m.k,
                  b->y, job->m.n);
}

typedef struct shape {
    int64_t rows, k, leaf, n; /* n: 0 = a piece */
} shape;

/* A matrix without memory; n 0: of PIECE_BYTES, rounded down to whole panels. */
static sy_matrix form(const bench *b, int parts, int64_t n, int64_t k, int64_t *bytes) {
    sy_matrix m = {.dtype = b->kind->dtype,
                   .parts = parts,
                   .n = n > 0 ? n : SY_PANEL,
                   .k = k,
                   .quant = b->kind->quant};
    *bytes = (int64_t)sy_cpu_matrix_bytes(b->be, &m);
    if (n > 0) return m;
    int64_t panels = PIECE_BYTES / *bytes;
    m.n *= panels;
    *bytes *= panels;
    return m;
}

static share_job product_of(bench *b, const shape *s) {
    int64_t bytes;
    sy_matrix m = form(b, 1, s->n, s->k, &bytes);
    m.data = cold(b, bytes);
    share_job job = {.b = b, .m = m, .rows = s->rows, .leaf = s->leaf};
    sy_pool_run(b->cpu->pool, product_run, &job);
    return job;
}

static double decode_piece(bench *b, void *arg) {
    share_job job = product_of(b, arg);
    return (double)sy_cpu_matrix_bytes(b->be, &job.m);
}

static double fat_piece(bench *b, void *arg) {
    share_job job = product_of(b, arg);
    return 2.0 * (double)job.rows * (double)job.m.n * (double)job.m.k;
}

static void bench_decode(bench *b, int64_t k, int64_t rows, int64_t leaf) {
    shape s = {rows, k, leaf, 0};
    double share, rate = measure(b, read_piece, decode_piece, &s, &share);
    printf("decode  k %5lld leaf %3lld rows %3lld: %6.1f GB/s, %.2f of read bandwidth\n",
           (long long)k, (long long)leaf, (long long)rows, rate * 1e-9, share);
}

/* Pieces of a wide matrix, each with a part of its panels. */
static void bench_fat(bench *b, int64_t rows, int64_t k, int64_t leaf) {
    shape s = {rows, k, leaf, (k > 4096 ? 1 : 2) * SY_PANEL * sy_pool_threads(b->cpu->pool)};
    double share, rate = measure(b, peak_piece, fat_piece, &s, &share);
    printf("fat     rows %lld k %lld leaf %3lld: %6.1f GFLOP/s, %.2f of peak\n",
           (long long)rows, (long long)k, (long long)leaf, rate * 1e-9, share);
}

/* Experts with the same number of rows each, one per thread in a piece, weights from memory. */
enum { PIECE_EXPERTS = 1, MAX_EXPERTS = 64 };
typedef struct expert_shape {
    int64_t rows, hidden, inter;
} expert_shape;

static double experts_piece(bench *b, const expert_shape *e, bool up) {
    sy_matrix m[MAX_EXPERTS];
    int64_t first[MAX_EXPERTS + 1] = {0};
    int n = PIECE_EXPERTS * sy_pool_threads(b->cpu->pool);
    if (n > MAX_EXPERTS) n = MAX_EXPERTS;
    int64_t bytes;
    sy_matrix one =
        up ? form(b, 2, e->inter, e->hidden, &bytes) : form(b, 1, e->hidden, e->inter, &bytes);
    char *at = cold(b, n * bytes);
    for (int i = 0; i < n; i++) {
        m[i] = one;
        m[i].data = at + i * bytes;
        first[i + 1] = first[i] + e->rows;
    }
    sy_layer_spec spec = {.ffn = {.kind = SY_FFN_MOE, .inter = (int)e->inter}};
    sy_layer_weights w = {.n_slots = n, .gate_up = m, .down = m};
    sy_expert_rows rows = {.n_slots = n, .n_pairs = first[n], .first = first, .x = b->x};
    if (up)
        b->be->ops->experts_up(b->be, &spec, &w, &rows, b->h, NULL);
    else
        b->be->ops->experts_down(b->be, &spec, &w, &rows, b->x, b->y, NULL);
    return (up ? 4.0 : 2.0) * (double)first[n] * (double)e->hidden * (double)e->inter;
}

static double up_piece(bench *b, void *arg) {
    return experts_piece(b, arg, true);
}
static double down_piece(bench *b, void *arg) {
    return experts_piece(b, arg, false);
}

static void bench_experts(bench *b, int64_t rows, int64_t hidden, int64_t inter) {
    expert_shape e = {rows, hidden, inter};
    double up, down;
    measure(b, peak_piece, up_piece, &e, &up);
    measure(b, peak_piece, down_piece, &e, &down);
    printf("experts %3lld rows, %lld -> %lld: up %.2f, down %.2f of peak\n", (long long)rows,
           (long long)hidden, (long long)inter, up, down);
}

/* Row-major rows to panels on one thread, against memcpy of the same bytes. */
static double copy_piece(bench *b, void *arg) {
    (void)arg;
    char *from = cold(b, PIECE_BYTES);
    memcpy(cold(b, PIECE_BYTES), from, PIECE_BYTES);
    return PIECE_BYTES;
}

static double pack_piece(bench *b, void *arg) {
    const int64_t *k = arg;
    char *from = cold(b, PIECE_BYTES), *to = cold(b, PIECE_BYTES);
    int64_t bytes;
    sy_matrix m = form(b, 1, 0, *k, &bytes);
    m.data = to;
    sy_weight_source src = {.dtype = m.dtype, .codes = from, .scales = b->scales};
    if (sy_cpu_pack(b->be, &m, 0, 0, m.n, &src) != SY_OK) return 0;
    return (double)(m.n * *k * sy_dtype_bits(m.dtype) / 8);
}

static void bench_pack(bench *b, int64_t k) {
    double share, rate = measure(b, copy_piece, pack_piece, &k, &share);
    printf("pack    k %lld, 1 thread: %.1f GB/s, %.2f of memcpy\n", (long long)k, rate * 1e-9,
           share);
}

static void run_all(bench *b) {
    static const int64_t rows[] = {1, 2, 3, 4, 5, 6, 8, 12, 16};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        bench_decode(b, 2048, rows[i], 0);
    bench_decode(b, 2048, 1, SY_LEAF);
    bench_decode(b, 768, 1, SY_LEAF);
    bench_decode(b, 2048, 4, SY_LEAF);
    bench_decode(b, 16384, 1, SY_LEAF);
    bench_decode(b, 16384, 16, SY_LEAF);
    bench_fat(b, 510, 2048, 0);
    bench_fat(b, 510, 2048, SY_LEAF);
    bench_fat(b, 510, 7168, 0);
    static const int64_t expert_rows[] = {66, 64, 32, 18, 12, 8};
    for (size_t i = 0; i < sizeof expert_rows / sizeof *expert_rows; i++)
        bench_experts(b, expert_rows[i], 1024, 1024);
    bench_experts(b, 66, 2048, 1024);
    bench_experts(b, 66, 1024, 2048);
    bench_pack(b, 2048);
    bench_pack(b, 4096);
}

static sy_status run(int n_threads, const char *isa, const weight_kind *kind, double seconds) {
    sy_status st = SY_OK;
    sy_pool *pool = NULL;
    sy_dtype act = kind->dtype == SY_F32 ? SY_F32 : SY_BF16;
    bench b = {.seconds = seconds, .bytes = (uint64_t)768 << 20, .kind = kind};
    const uint64_t x_bytes = (uint64_t)64 << 20, y_bytes = (uint64_t)64 << 20;
    SY_TRY(sy_pool_create(n_threads, true, &pool));
    SY_TRY(sy_cpu_open(act, pool, isa, &b.be));
    b.cpu = sy_cpu_of(b.be);
    SY_TRY(sy_mem_alloc(&b.weights, b.bytes, "weights"));
    SY_TRY(sy_mem_alloc(&b.x, x_bytes, "x"));
    SY_TRY(sy_mem_alloc(&b.h, x_bytes, "h"));
    SY_TRY(sy_mem_alloc(&b.scales, PIECE_BYTES, "scales"));
    memset(b.scales, 0x3b, PIECE_BYTES);
    SY_TRY(sy_mem_alloc(&b.y, y_bytes, "y"));
    sy_pool_run(pool, fill_run, &b);
    memset(b.x, 0x3b, x_bytes);
    printf("%s, %d threads, %s: read %.1f GB/s, peak %.1f GFLOP/s\n", sy_cpu_isa_name(b.be),
           n_threads, kind->name, sy_cpu_probe_bandwidth(pool, 0.3) * 1e-9,
           sy_cpu_probe_flops(b.be, 0.3) * 1e-9);
    run_all(&b);
done:
    if (st != SY_OK) fprintf(stderr, "bench_gemm: %s\n", sy_last_error());
    sy_mem_free(b.weights, b.bytes);
    sy_mem_free(b.x, x_bytes);
    sy_mem_free(b.h, x_bytes);
    sy_mem_free(b.scales, PIECE_BYTES);
    sy_mem_free(b.y, y_bytes);
    if (b.be != NULL) b.be->ops->close(b.be);
    sy_pool_destroy(pool);
    return st;
}

int main(int argc, char **argv) {
    int n_threads = argc > 1 ? atoi(argv[1]) : sy_cores_available();
    const char *isa = argc > 2 ? argv[2] : NULL;
    const char *name = argc > 3 ? argv[3] : "bf16";
    const weight_kind *kind = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(name, kinds[i].name) == 0) kind = &kinds[i];
    double seconds = argc > 4 ? atof(argv[4]) : 0.5;
    if (n_threads < 1 || n_threads > MAX_EXPERTS / PIECE_EXPERTS || kind == NULL ||
        !(seconds > 0)) {
        fprintf(stderr,
                "usage: bench_gemm [threads, at most %d] [isa] "
                "[bf16|f32|fp8|q8|int8|mxfp4|nvfp4|int4] [seconds]\n",
                MAX_EXPERTS / PIECE_EXPERTS);
        return 2;
    }
    return sy_status_exit_code(run(n_threads, isa, kind, seconds));
}

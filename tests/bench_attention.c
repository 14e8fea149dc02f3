/* How near the core of attention comes to the peak of the multiply instruction, for a prefill
 * chunk and for single tokens at a position. Usage: bench_attention [threads] [isa] [bf16|f32]
 * [seconds of each line]
 *
 * Bound and kernel alternate in short pieces and the medians of both are compared, since clocks
 * change within minutes. FLOPs are those of the keys that a row sees. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "kernels/cpu/cpu.h"

enum { MAX_PIECES = 2000, PEAK_ROUNDS = 50000 };

typedef struct shape {
    const char *name;
    sy_attn_spec attn;
    int rows, sequences, context; /* `rows` last tokens of each of some sequences */
} shape;

static const shape shapes[] = {
    {"DeepSeek-V3",
     {.kind = SY_ATTN_MLA,
      .heads = 128,
      .kv_heads = 1,
      .head_dim = 192,
      .mla = {1536, 512, 128, 64, 128, 1e-6f}},
     64,
     1,
     2048},
    {"DeepSeek-V3",
     {.kind = SY_ATTN_MLA,
      .heads = 128,
      .kv_heads = 1,
      .head_dim = 192,
      .mla = {1536, 512, 128, 64, 128, 1e-6f}},
     1,
     1,
     2048},
    {"V3, 1 of 8 ranks",
     {.kind = SY_ATTN_MLA,
      .heads = 16,
      .kv_heads = 1,
      .head_dim = 192,
      .mla = {1536, 512, 128, 64, 128, 1e-6f}},
     64,
     1,
     2048},
    {"V3, 1 of 8 ranks",
     {.kind = SY_ATTN_MLA,
      .heads = 16,
      .kv_heads = 1,
      .head_dim = 192,
      .mla = {1536, 512, 128, 64, 128, 1e-6f}},
     1,
     4,
     2048},
    {"Qwen3-30B", {.heads = 32, .kv_heads = 4, .head_dim = 128}, 64, 1, 2048},
    {"gpt-oss, window 128",
     {.heads = 64, .kv_heads = 8, .head_dim = 64, .window = 128},
     64,
     1,
     2048},
};

typedef struct bench {
    sy_backend *be;
    sy_cpu *cpu;
    double seconds;
    sy_layer_spec spec;
    sy_batch batch;
    sy_kv_layer kv;
    void *q, *o;
    double flops; /* of one call */
} bench;

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_size);
    return v[n / 2];
}

static int64_t peak(const bench *b, int64_t rounds) {
    const sy_probe_kernels *probe = &b->cpu->isa->probe;
    float sink;
    int64_t n = (b->be->act == SY_F32 ? probe->peak_f32 : probe->peak_bf16)(rounds, &sink);
    volatile float keep = sink;
    (void)keep;
    return n;
}

static void peak_run(void *arg, int thread, int n_threads) {
    (void)thread;
    (void)n_threads;
    peak(arg, PEAK_ROUNDS);
}

/* Processor time of all threads, which foreign jobs do not lengthen. */
static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Median rates of both in FLOP/s, by processor time per thread. */
static sy_status measure(bench *b, double *bound, double *found) {
    sy_status st = SY_OK;
    static double bounds[MAX_PIECES], rates[MAX_PIECES];
    int n_threads = sy_pool_threads(b->cpu->pool), n = 0;
    double peak_flops = 2.0 * PEAK_ROUNDS * (double)peak(b, 1) * n_threads;
    for (double begin = sy_now(); n < MAX_PIECES && (n < 5 || sy_now() - begin < b->seconds);
         n++) {
        double start = cpu_seconds();
        sy_pool_run(b->cpu->pool, peak_run, b);
        bounds[n] = peak_flops * n_threads / (cpu_seconds() - start);
        start = cpu_seconds();
        SY_TRY(b->be->ops->attend(b->be, &b->spec, &b->batch, b->q, &b->kv, NULL, b->o, NULL));
        rates[n] = b->flops * n_threads / (cpu_seconds() - start);
    }
    *bound = median(bounds, n);
    *found = median(rates, n);
done:
    return st;
}

/* FLOPs of one call: scores and values of every key that a row sees. */
static double flops_of(const shape *s) {
    const sy_attn_spec *a = &s->attn;
    double keys = 0;
    for (int t = s->context - s->rows; t < s->context; t++)
        keys += a->window > 0 && a->window <= t ? (double)a->window : t + 1.0;
    double per_key = (double)(sy_attn_q_width(a) + sy_attn_o_width(a));
    return 2 * keys * per_key * s->sequences;
}

/* Values of about 0.02 of either sign, in either type. */
static void fill(char *data, uint64_t bytes, sy_dtype act) {
    for (uint64_t i = 0; i < bytes / 2; i++) {
        uint16_t code = (uint16_t)(0x3c00u | (uint32_t)(i * 2654435761u >> 16 & 0x80ffu));
        if (act == SY_F32 && i % 2 == 0) code = 0;
        memcpy(data + 2 * i, &code, sizeof code);
    }
}

static sy_status bench_shape(bench *b, const shape *s) {
    sy_status st = SY_OK;
    enum { MAX_SEQUENCES = 8, MAX_PAGES = 64 };
    const sy_attn_spec *a = &s->attn;
    uint64_t rows = (uint64_t)s->rows * (uint64_t)s->sequences;
    uint64_t act_bytes = (uint64_t)sy_act_bytes(b->be);
    uint64_t q_bytes = rows * (uint64_t)sy_attn_q_width(a) * act_bytes;
    uint64_t o_bytes = rows * (uint64_t)sy_attn_o_width(a) * act_bytes;
    int pages_each = s->context / SY_PAGE_TOKENS;
    int32_t ids[MAX_SEQUENCES][MAX_PAGES];
    sy_span span[MAX_SEQUENCES];
    b->kv = (sy_kv_layer){.page_bytes = (int64_t)b->be->ops->kv_page_bytes(b->be, a)};
    uint64_t kv_bytes = (uint64_t)b->kv.page_bytes * (uint64_t)(pages_each * s->sequences);
    b->q = b->o = NULL;
    SY_TRY(sy_mem_alloc(&b->kv.data, kv_bytes, "pages"));
    SY_TRY(sy_mem_alloc(&b->q, q_bytes, "q"));
    SY_TRY(sy_mem_alloc(&b->o, o_bytes, "o"));
    fill(b->kv.data, kv_bytes, b->be->act);
    fill(b->q, q_bytes, b->be->act);
    for (int i = 0; i < s->sequences; i++) {
        span[i] = (sy_span){i * s->rows, s->rows, s->context - s->rows, ids[i]};
        for (int p = 0; p < pages_each; p++)
            ids[i][p] = i * pages_each + p;
    }
    b->batch = (sy_batch){.n_rows = (int)rows, .n_spans = s->sequences, .span = span};
    b->spec = (sy_layer_spec){.attn = *a};
    b->spec.attn.softmax_scale = 1;
    b->flops = flops_of(s);
    sy_limits limits = {.max_rows = (int64_t)rows,
                        .max_pairs = 1,
                        .max_context = s->context,
                        .hidden = 64,
                        .heads = a->heads,
                        .kv_heads = a->kv_heads,
                        .head_dim = a->head_dim,
                        .max_inter = 1,
                        .experts = 1,
                        .top_k = 1,
                        .vocab = 1,
                        .mla = a->mla};
    SY_TRY(b->be->ops->reserve(b->be, &limits));
    double bound, rate;
    SY_TRY(measure(b, &bound, &rate));
    printf("%-20s %d x %2d rows at %d: %8.3f ms, %7.1f GFLOP/s, %.2f of peak\n", s->name,
           s->sequences, s->rows, s->context, b->flops / rate * 1e3, rate * 1e-9, rate / bound);
done:
    sy_mem_free(b->kv.data, kv_bytes);
    sy_mem_free(b->q, q_bytes);
    sy_mem_free(b->o, o_bytes);
    return st;
}

static sy_status run(int n_threads, const char *isa, sy_dtype act, double seconds) {
    sy_status st = SY_OK;
    sy_pool *pool = NULL;
    bench b = {.seconds = seconds};
    SY_TRY(sy_pool_create(n_threads, true, &pool));
    SY_TRY(sy_cpu_open(act, pool, isa, &b.be));
    b.cpu = sy_cpu_of(b.be);
    printf("%s, %d threads, %s\n", sy_cpu_isa_name(b.be), n_threads, sy_dtype_name(act));
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        SY_TRY(bench_shape(&b, &shapes[i]));
done:
    if (st != SY_OK) fprintf(stderr, "bench_attention: %s\n", sy_last_error());
    if (b.be != NULL) b.be->ops->close(b.be);
    sy_pool_destroy(pool);
    return st;
}

int main(int argc, char **argv) {
    int n_threads = argc > 1 ? atoi(argv[1]) : 1;
    const char *isa = argc > 2 ? argv[2] : "auto";
    bool f32 = argc > 3 && strcmp(argv[3], "f32") == 0;
    double seconds = argc > 4 ? atof(argv[4]) : 0.5;
    if (n_threads < 1 || n_threads > 1024) {
        fprintf(stderr, "usage: bench_attention [threads] [isa] [bf16|f32] [seconds]\n");
        return 2;
    }
    return run(n_threads, isa, f32 ? SY_F32 : SY_BF16, seconds) == SY_OK ? 0 : 1;
}

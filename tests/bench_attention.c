/* How near the core of attention comes to the peak of the multiply instruction, for a prefill
 * chunk and for single tokens at a position; then prompts in latent attention, absorbed against
 * what fast numerics makes of them. Usage: bench_attention [threads] [isa] [bf16|f32] [seconds of
 * each line]
 *
 * Bound and kernel alternate in short pieces and the medians of both are compared, since clocks
 * change within minutes. FLOPs are those of the keys that a row sees. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "kernels/cpu/attend.h"

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

/* All three steps of the last rows of a sequence, of V3's sizes but for a hidden width that leaves
 * the time to attention. */
enum { HIDDEN = 64, MOST_ROWS = 512, MOST_CONTEXT = 2048 };
static const sy_attn_spec v3 = {.kind = SY_ATTN_MLA,
                                .heads = 128,
                                .kv_heads = 1,
                                .head_dim = 192,
                                .mla = {0, 512, 128, 64, 128, 1e-6f},
                                .rope = {SY_ROPE_INTERLEAVED, 64, 10000, .attention_factor = 1},
                                .softmax_scale = 0.07f};
static const struct {
    int rows, context;
} prompts[] = {{64, 64},    {128, 128},  {512, 512},  {64, 2048},
               {128, 2048}, {192, 2048}, {256, 2048}, {512, 2048}};

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

/* The layer of the prompts, with weights that are all there is of them. */
typedef struct block {
    sy_layer_weights w;
    sy_matrix *head; /* [2 A] */
    sy_rope_table *rope;
    float *ones, *x;
    uint64_t x_bytes;
} block;

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

static sy_status make_matrix(bench *b, sy_matrix *m, int64_t n, int64_t k) {
    sy_status st = SY_OK;
    *m = (sy_matrix){.dtype = b->be->act, .parts = 1, .n = n, .k = k};
    uint64_t bytes = b->be->ops->matrix_bytes(b->be, m);
    SY_TRY(sy_mem_alloc(&m->data, bytes, "matrix"));
    fill(m->data, bytes, b->be->act);
done:
    return st;
}

static void free_matrix(const bench *b, sy_matrix *m) {
    if (m->data != NULL) sy_mem_free(m->data, b->be->ops->matrix_bytes(b->be, m));
}

static sy_status make_block(bench *b, block *l) {
    sy_status st = SY_OK;
    const sy_mla_spec *m = &v3.mla;
    *l = (block){.head = calloc(2 * (size_t)v3.heads, sizeof *l->head),
                 .x_bytes = (uint64_t)MOST_ROWS * HIDDEN * sizeof(float)};
    SY_TRY(sy_mem_alloc(&l->ones, (uint64_t)m->kv_rank * sizeof(float), "norms"));
    SY_TRY(sy_mem_alloc(&l->x, l->x_bytes, "x"));
    SY_TRY(sy_rope_table_create(MOST_CONTEXT, &v3.rope, &l->rope));
    SY_TRY(make_matrix(b, &l->w.q, (int64_t)v3.heads * v3.head_dim, HIDDEN));
    SY_TRY(make_matrix(b, &l->w.kv_a, m->kv_rank + m->rope, HIDDEN));
    SY_TRY(make_matrix(b, &l->w.o, HIDDEN, (int64_t)v3.heads * m->value));
    l->w.attn_norm = l->w.kv_a_norm = l->ones;
    l->w.k_up = l->head;
    l->w.v_up = l->head + v3.heads;
    for (int h = 0; l->head != NULL && h < v3.heads; h++) {
        SY_TRY(make_matrix(b, &l->w.k_up[h], m->kv_rank, m->nope));
        SY_TRY(make_matrix(b, &l->w.v_up[h], m->value, m->kv_rank));
    }
    for (int i = 0; i < m->kv_rank; i++)
        l->ones[i] = 1;
done:
    return st;
}

static void free_block(const bench *b, block *l) {
    sy_matrix *all[] = {&l->w.q, &l->w.kv_a, &l->w.o};
    for (int i = 0; i < 3; i++)
        free_matrix(b, all[i]);
    for (int h = 0; l->head != NULL && h < 2 * v3.heads; h++)
        free_matrix(b, &l->head[h]);
    sy_mem_free(l->ones, (uint64_t)v3.mla.kv_rank * sizeof(float));
    sy_mem_free(l->x, l->x_bytes);
    sy_rope_table_destroy(l->rope);
    free(l->head);
}

/* Median time of the three steps per thread, in seconds. */
static sy_status time_block(bench *b, const block *l, double *seconds) {
    sy_status st = SY_OK;
    static double times[MAX_PIECES];
    const sy_ops *ops = b->be->ops;
    int n = 0, n_threads = sy_pool_threads(b->cpu->pool);
    for (double begin = sy_now(); n < MAX_PIECES && (n < 3 || sy_now() - begin < b->seconds);
         n++) {
        memset(l->x, 0, l->x_bytes);
        fill((void *)l->x, l->x_bytes, SY_F32);
        double start = cpu_seconds();
        SY_TRY(
            ops->attn_in(b->be, &b->spec, &l->w, l->rope, &b->batch, l->x, b->q, &b->kv, NULL));
        SY_TRY(ops->attend(b->be, &b->spec, &b->batch, b->q, &b->kv, NULL, b->o, NULL));
        SY_TRY(ops->attn_out(b->be, &b->spec, &l->w, b->batch.n_rows, b->o, l->x, NULL));
        times[n] = (cpu_seconds() - start) / n_threads;
    }
    *seconds = median(times, n);
done:
    return st;
}

/* FLOPs of a prompt in either form: keys that rows see, and the products of k_up and v_up, for
 * each row or each token of the context. */
static double prompt_flops(int rows, int context, bool naive) {
    const sy_mla_spec *m = &v3.mla;
    double keys = (context + (context - rows + 1.0)) / 2 * rows;
    double up = (double)m->kv_rank * (m->nope + m->value);
    double form = naive ? keys * (m->nope + m->rope + m->value) + context * up
                        : keys * (2.0 * m->kv_rank + m->rope) + rows * up;
    return 2 * v3.heads * form;
}

static sy_status bench_prompt(bench *b, block *l, int rows, int context) {
    sy_status st = SY_OK;
    double seconds[2];
    bool naive = false;
    int32_t ids[64];
    for (int p = 0; p < context / SY_PAGE_TOKENS; p++)
        ids[p] = p;
    sy_span span = {0, rows, context - rows, ids};
    b->batch = (sy_batch){.n_rows = rows, .n_spans = 1, .span = &span};
    sy_limits limits = {.max_rows = rows,
                        .max_context = context,
                        .hidden = HIDDEN,
                        .heads = v3.heads,
                        .kv_heads = 1,
                        .head_dim = v3.head_dim,
                        .mla = v3.mla};
    for (int fast = 0; fast < 2; fast++) {
        sy_cpu_set_fast(b->be, fast == 1);
        SY_TRY(b->be->ops->reserve(b->be, &limits));
        SY_TRY(time_block(b, l, &seconds[fast]));
        naive = sy_cpu_takes_naive_form(b->cpu, &v3, &span);
    }
    printf("V3's block  %3d rows at %4d: absorbed %8.3f ms, %7.1f GFLOP/s; fast %8.3f ms, "
           "%7.1f GFLOP/s (%s), %.2f times as fast\n",
           rows, context, seconds[0] * 1e3,
           prompt_flops(rows, context, false) * 1e-9 / seconds[0], seconds[1] * 1e3,
           prompt_flops(rows, context, naive) * 1e-9 / seconds[1], naive ? "naive" : "absorbed",
           seconds[0] / seconds[1]);
done:
    return st;
}

static sy_status bench_prompts(bench *b) {
    sy_status st = SY_OK;
    block l = {0};
    uint64_t act_bytes = (uint64_t)sy_act_bytes(b->be);
    uint64_t q_bytes = MOST_ROWS * (uint64_t)sy_attn_q_width(&v3) * act_bytes;
    uint64_t o_bytes = MOST_ROWS * (uint64_t)sy_attn_o_width(&v3) * act_bytes;
    b->spec = (sy_layer_spec){.attn = v3, .norm_eps = 1e-6f};
    b->kv = (sy_kv_layer){.page_bytes = (int64_t)b->be->ops->kv_page_bytes(b->be, &v3)};
    uint64_t kv_bytes = (uint64_t)b->kv.page_bytes * (MOST_CONTEXT / SY_PAGE_TOKENS);
    b->q = b->o = NULL;
    SY_TRY(make_block(b, &l));
    SY_TRY(sy_mem_alloc(&b->kv.data, kv_bytes, "pages"));
    SY_TRY(sy_mem_alloc(&b->q, q_bytes, "q"));
    SY_TRY(sy_mem_alloc(&b->o, o_bytes, "o"));
    fill(b->kv.data, kv_bytes, b->be->act);
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++)
        SY_TRY(bench_prompt(b, &l, prompts[i].rows, prompts[i].context));
done:
    free_block(b, &l);
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
    SY_TRY(bench_prompts(&b));
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

/* Matrices in panels of 64 outputs: the product that the steps share, and the two steps that are
 * little else, embed and head. */
#include <string.h>

#include "kernels/cpu/matrix.h"
#include "kernels/cpu/quant.h"

/* What will be read behind K index k of the range's panel, to be brought near; NULL: nothing. */
static const void *read_next(const sy_panel_range *range, int64_t k) {
    if (k < range->m->k) return range->is_near ? NULL : sy_panel_at(range->m, range->panel, k);
    return range->fetch_next ? sy_panel_at(range->m, range->next, 0) : NULL;
}

/* The chain over n values of K from `begin`; n is even for 2-byte weights. */
static void chain(const sy_cpu *cpu,
                  const sy_panel_range *range,
                  int64_t begin,
                  int64_t n,
                  bool x_is_f32,
                  int64_t rows,
                  const void *x,
                  int64_t ldx,
                  float *y,
                  int64_t ldy,
                  bool first) {
    const sy_gemm_kernels *gemm = &cpu->isa->gemm;
    const sy_matrix *m = range->m;
    const void *panel = sy_panel_at(m, range->panel, begin);
    if (m->dtype == SY_F32)
        gemm->f32_f32(rows, panel, x, ldx, n, y, ldy, first);
    else if (m->dtype == SY_F16)
        gemm->f16_f32(rows, panel, x, ldx, n / 2, y, ldy, first);
    else if (x_is_f32)
        gemm->bf16_f32(rows, panel, x, ldx, n / 2, y, ldy, first);
    else if (gemm->bf16_bf16_next != NULL)
        gemm->bf16_bf16_next(rows, panel, x, ldx, n / 2, y, ldy, first,
                             read_next(range, begin + n));
    else
        gemm->bf16_bf16(rows, panel, x, ldx, n / 2, y, ldy, first);
}

/* Copies columns [begin, end) of x into `out` with row stride SY_COPY_K, widened to float32 if
 * asked, with a zero behind an odd last column. */
static void copy_columns(const sy_cpu *cpu,
                         bool widen,
                         int64_t begin,
                         int64_t end,
                         int64_t rows,
                         const void *x,
                         int64_t ldx,
                         void *out) {
    int64_t n = end - begin, elem = sy_act_bytes(&cpu->base), out_elem = widen ? 4 : elem;
    for (int64_t r = 0; r < rows; r++) {
        const char *from = (const char *)x + (r * ldx + begin) * elem;
        char *to = (char *)out + r * SY_COPY_K * out_elem;
        if (widen)
            cpu->isa->vec.widen_bf16(n, (const void *)from, (void *)to);
        else
            memcpy(to, from, (size_t)(n * elem));
        if (n % 2 != 0) memset(to + n * out_elem, 0, (size_t)out_elem);
    }
}

/* The chain over K from `begin` to the end of the range by way of copies of x. */
static void chain_by_copy(sy_cpu *cpu,
                          int thread,
                          const sy_panel_range *range,
                          int64_t begin,
                          bool widen,
                          int64_t rows,
                          const void *x,
                          int64_t ldx,
                          float *y,
                          int64_t ldy,
                          bool first) {
    int64_t elem = sy_act_bytes(&cpu->base);
    float *copy = cpu->tiles[thread].copy;
    for (int64_t r = 0; r < rows; r += SY_LEAF_ROWS) {
        int64_t n_rows = sy_min(rows - r, SY_LEAF_ROWS);
        for (int64_t k = begin; k < range->end; k += SY_COPY_K) {
            int64_t end = sy_min(k + SY_COPY_K, range->end);
            copy_columns(cpu, widen, k, end, n_rows, (const char *)x + r * ldx * elem, ldx,
                         copy);
            chain(cpu, range, k, sy_round_up(end - k, 2), widen || elem == 4, n_rows, copy,
                  SY_COPY_K, y + r * ldy, ldy, first && k == begin);
        }
    }
}

void sy_cpu_panel(sy_cpu *cpu,
                  int thread,
                  const sy_panel_range *range,
                  int64_t rows,
                  const void *x,
                  int64_t ldx,
                  float *y,
                  int64_t ldy,
                  bool first) {
    enum { FEW_ROWS = 12, LONG_PIECE = 2048, SHORT_PIECE = 256 };
    if (sy_is_quantised(range->m->dtype)) {
        sy_quant_panel(cpu, thread, range, rows, x, ldx, y, ldy);
        return;
    }
    int64_t elem = sy_act_bytes(&cpu->base), n = range->end - range->begin;
    bool widen = elem == 2 && range->m->dtype == SY_F16;
    int64_t direct = widen ? 0 : range->m->dtype == SY_F32 ? n : n / 2 * 2;
    /* Pieces of K leave room in L2 for what is fetched meanwhile, and y carries the sums from one
     * to the next. Short ones, which stay in L1, pay from three tiles of rows on (on Zen 5, of
     * peak: 0.91 instead of 0.80 at 16 rows, no difference at 24). One round at least: the sum
     * over nothing is 0. */
    int64_t done = 0, longest = rows > FEW_ROWS ? SHORT_PIECE : LONG_PIECE;
    do {
        int64_t piece = sy_min(direct - done, longest), k = range->begin + done;
        chain(cpu, range, k, piece, elem == 4, rows, (const char *)x + k * elem, ldx, y, ldy,
              first && done == 0);
        done += piece;
    } while (done < direct);
    if (direct < n)
        chain_by_copy(cpu, thread, range, range->begin + direct, widen, rows, x, ldx, y, ldy,
                      first && direct == 0);
}

/* What the tree of leaves needs on its way down; `rows` at most SY_LEAF_ROWS. */
typedef struct leaf_tree {
    sy_cpu *cpu;
    int thread;
    int64_t leaf, rows;
    sy_panel_range range; /* begin and end are set leaf by leaf */
    const void *x;
    int64_t ldx;
} leaf_tree;

/* y = the sum of leaves [begin, end): the left ceil(n/2) leaves plus the others. */
static void
sum_leaves(leaf_tree *t, int64_t begin, int64_t end, int level, float *y, int64_t ldy) {
    if (end - begin <= 1) {
        t->range.begin = begin * t->leaf;
        t->range.end = sy_min(end * t->leaf, t->range.m->k);
        sy_cpu_panel(t->cpu, t->thread, &t->range, t->rows, t->x, t->ldx, y, ldy, true);
        return;
    }
    int64_t middle = begin + sy_ceil_div(end - begin, 2);
    float *right = t->cpu->tiles[t->thread].right[level];
    sum_leaves(t, begin, middle, level + 1, y, ldy);
    sum_leaves(t, middle, end, level + 1, right, SY_PANEL);
    for (int64_t r = 0; r < t->rows; r++)
        t->cpu->isa->vec.add(SY_PANEL, right + r * SY_PANEL, y + r * ldy);
}

/* Whether a panel is still in L2 when the next block of rows comes: half of a small one. */
static bool stays_near(const sy_matrix *m) {
    enum { NEAR_BYTES = 512 << 10 };
    return sy_panel_elements(m) * sy_element_bytes(m) <= NEAR_BYTES;
}

/* Panel `range->panel` for rows in blocks: leaves, or columns that n cuts short. */
static void panel_by_blocks(sy_cpu *cpu,
                            int thread,
                            const sy_panel_range *range,
                            int64_t leaf,
                            int64_t rows,
                            const void *x,
                            int64_t ldx,
                            float *y,
                            int64_t ldy) {
    int64_t elem = sy_act_bytes(&cpu->base), k = range->m->k;
    int64_t columns = sy_min(range->m->n - range->panel * SY_PANEL, SY_PANEL);
    int64_t blocks = sy_ceil_div(rows, SY_LEAF_ROWS), done = 0;
    leaf_tree t = {.cpu = cpu, .thread = thread, .leaf = leaf > 0 ? leaf : k, .ldx = ldx};
    for (int64_t b = 0; b < blocks; b++, done += t.rows) {
        t.rows = sy_ceil_div(rows - done, blocks - b);
        t.range = *range;
        t.range.is_near = b > 0 && stays_near(range->m);
        if (b < blocks - 1) t.range.next = range->panel;
        t.range.fetch_next = b < blocks - 1 ? !stays_near(range->m) : range->fetch_next;
        t.x = (const char *)x + done * ldx * elem;
        float *out = y + done * ldy, *edge = cpu->tiles[thread].edge;
        int64_t leaves = leaf > 0 ? sy_ceil_div(k, leaf) : 1;
        if (columns == SY_PANEL) {
            sum_leaves(&t, 0, leaves, 0, out, ldy);
            continue;
        }
        sum_leaves(&t, 0, leaves, 0, edge, SY_PANEL);
        for (int64_t r = 0; r < t.rows; r++)
            memcpy(out + r * ldy, edge + r * SY_PANEL, (size_t)columns * sizeof *out);
    }
}

void sy_cpu_matmul(sy_cpu *cpu,
                   int thread,
                   const sy_matrix *m,
                   int64_t panel_begin,
                   int64_t panel_end,
                   int64_t leaf,
                   int64_t rows,
                   const void *x,
                   int64_t ldx,
                   float *y,
                   int64_t ldy) {
    panel_end = sy_min(panel_end, sy_cpu_panels(m));
    for (int64_t panel = panel_begin; panel < panel_end; panel++) {
        sy_panel_range range = {m, panel, 0, m->k, panel + 1 < panel_end, panel + 1, false};
        float *out = y + panel * SY_PANEL;
        if (leaf == 0 && (panel + 1) * SY_PANEL <= m->n)
            sy_cpu_panel(cpu, thread, &range, rows, x, ldx, out, ldy, true);
        else
            panel_by_blocks(cpu, thread, &range, leaf, rows, x, ldx, out, ldy);
    }
}

typedef struct embed_job {
    const sy_matrix *table;
    const sy_batch *batch;
    float *x;
} embed_job;

void sy_cpu_matrix_row(const sy_matrix *m, int64_t row, int64_t k, int64_t n, float *x) {
    if (sy_is_quantised(m->dtype)) {
        sy_quant_row(m, row, k, n, x);
        return;
    }
    const char *panel = sy_panel_at(m, row / SY_PANEL, 0);
    int64_t lane = row % SY_PANEL;
    if (m->dtype == SY_F32) {
        const float *w = (const float *)(const void *)panel;
        for (int64_t i = 0; i < n; i++)
            x[i] = w[(k + i) * SY_PANEL + lane];
        return;
    }
    const uint16_t *w = (const uint16_t *)(const void *)panel;
    for (int64_t i = 0; i < n; i++) {
        uint16_t code = w[(k + i) / 2 * 2 * SY_PANEL + 2 * lane + (k + i) % 2];
        x[i] = m->dtype == SY_F16 ? sy_f32_from_f16(code) : sy_f32_from_bf16(code);
    }
}

/* Threads share pieces of rows, so that a single row is spread too. */
static void embed_run(void *arg, int thread, int n_threads) {
    enum { PIECE = 256 };
    const embed_job *job = arg;
    int64_t k = job->table->k, pieces = sy_ceil_div(k, PIECE), begin, end;
    sy_pool_share(job->batch->n_rows * pieces, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        int64_t row = i / pieces, at = i % pieces * PIECE;
        sy_cpu_matrix_row(job->table, job->batch->ids[row], at, sy_min(k - at, PIECE),
                          job->x + row * k + at);
    }
}

sy_status sy_cpu_embed(sy_backend *be,
                       const sy_matrix *table,
                       const sy_batch *b,
                       float *x,
                       sy_stream *s) {
    (void)s;
    for (int i = 0; i < b->n_rows; i++)
        if (b->ids[i] < 0 || b->ids[i] >= table->n)
            return sy_fail(SY_ERR_INTERNAL, "embed: token id %d of a vocabulary of %lld",
                           b->ids[i], (long long)table->n);
    embed_job job = {table, b, x};
    if (b->n_rows > 0)
        sy_cpu_share_out(sy_cpu_of(be), b->n_rows * table->k * (int64_t)sizeof *x, embed_run,
                         &job);
    return SY_OK;
}

typedef struct head_job {
    sy_cpu *cpu;
    const float *norm;
    float eps;
    const sy_matrix *lm_head;
    int64_t n;
    const int32_t *row;
    const float *x;
    float *logits;
} head_job;

/* Shared scratch: the normed rows, act [n, H]. */
static void head_run(void *arg, int thread, int n_threads) {
    const head_job *job = arg;
    sy_cpu *cpu = job->cpu;
    int64_t width = job->lm_head->k, begin, end;
    bool f32 = cpu->base.act == SY_F32;
    uint16_t *normed16 = f32 ? NULL : (uint16_t *)(void *)cpu->shared;
    float *normed_f32 = f32 ? (float *)(void *)cpu->shared : NULL;
    sy_pool_share(job->n, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        cpu->isa->vec.rms_norm(width, job->x + job->row[i] * width, job->norm, job->eps,
                               f32 ? NULL : normed16 + i * width,
                               f32 ? normed_f32 + i * width : NULL);
    sy_pool_barrier(cpu->pool);
    sy_pool_share(sy_cpu_panels(job->lm_head), thread, n_threads, &begin, &end);
    sy_cpu_matmul(cpu, thread, job->lm_head, begin, end, 0, job->n, cpu->shared, width,
                  job->logits, job->lm_head->n);
}

sy_status sy_cpu_head(sy_backend *be,
                      const float *norm,
                      float norm_eps,
                      const sy_matrix *lm_head,
                      int64_t n,
                      const int32_t *row,
                      const float *x,
                      float *logits,
                      sy_stream *s) {
    (void)s;
    sy_cpu *cpu = sy_cpu_of(be);
    if (n * lm_head->k * sy_act_bytes(be) > (int64_t)cpu->shared_bytes)
        return sy_fail(SY_ERR_INTERNAL, "head: %lld rows, but scratch was reserved for %lld",
                       (long long)n, (long long)cpu->limits.max_rows);
    head_job job = {cpu, norm, norm_eps, lm_head, n, row, x, logits};
    if (n > 0) sy_pool_run(cpu->pool, head_run, &job);
    return SY_OK;
}

void sy_cpu_matmul_scratch(const sy_cpu *cpu,
                           const sy_limits *l,
                           uint64_t *thread,
                           uint64_t *shared) {
    *thread = 0;
    uint64_t row_bytes = (uint64_t)l->hidden * (uint64_t)sy_act_bytes(&cpu->base);
    if (!sy_mul_u64((uint64_t)l->max_rows, row_bytes, shared)) *shared = UINT64_MAX;
}

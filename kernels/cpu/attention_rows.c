/* What attention does to rows before and behind its core. */
#include <string.h>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/attention.h"

void sy_norm_rows_carve(sy_arena *arena,
                        const sy_cpu *cpu,
                        int64_t n_rows,
                        int64_t width,
                        sy_norm_rows *r) {
    uint64_t rows = (uint64_t)sy_max(n_rows, sy_pool_threads(cpu->pool));
    r->width = width;
    r->rows = sy_arena_take(arena, rows, (uint64_t)(width * sy_act_bytes(&cpu->base)));
}

static void
norm_row(const sy_cpu *cpu, int64_t n, const float *x, const float *w, float eps, char *out) {
    bool wide = cpu->base.act == SY_F32;
    cpu->isa->vec.rms_norm(n, x, w, eps, wide ? NULL : (void *)out, wide ? (void *)out : NULL);
}

const char *sy_norm_rows_make(const sy_norm_rows *r,
                              sy_cpu *cpu,
                              int thread,
                              int n_threads,
                              int64_t n_rows,
                              const float *x,
                              const float *w,
                              float eps) {
    int64_t row_bytes = r->width * sy_act_bytes(&cpu->base), begin, end;
    if (n_rows == 1) {
        char *own = r->rows + thread * row_bytes;
        norm_row(cpu, r->width, x, w, eps, own);
        return own;
    }
    sy_pool_share(n_rows, thread, n_threads, &begin, &end);
    for (int64_t t = begin; t < end; t++)
        norm_row(cpu, r->width, x + t * r->width, w, eps, r->rows + t * row_bytes);
    sy_pool_barrier(cpu->pool);
    return r->rows;
}

void sy_cpu_multiply_share(sy_cpu *cpu,
                           int thread,
                           int n_threads,
                           const sy_product *products,
                           int n_products,
                           int64_t n_rows,
                           const char *x) {
    int64_t total = 0, begin, end;
    for (int i = 0; i < n_products; i++)
        total += sy_cpu_panels(products[i].w);
    sy_pool_share(total, thread, n_threads, &begin, &end);
    for (int i = 0; i < n_products; i++) {
        const sy_matrix *w = products[i].w;
        int64_t n = sy_cpu_panels(w);
        int64_t from = sy_max(begin, 0), to = sy_min(end, n);
        if (from < to)
            sy_cpu_matmul(cpu, thread, w, from, to, 0, n_rows, x, w->k, products[i].y, w->n);
        begin -= n;
        end -= n;
    }
}

bool sy_attn_next_run(const sy_cpu *cpu,
                      const sy_attn_spec *attn,
                      const sy_batch *b,
                      int *i,
                      sy_form_run *run) {
    if (*i >= b->n_spans) return false;
    *run = (sy_form_run){.row = b->span[*i].first_row,
                         .naive = sy_cpu_takes_naive_form(cpu, attn, &b->span[*i])};
    for (; *i < b->n_spans; ++*i) {
        const sy_span *span = &b->span[*i];
        if (span->first_row != run->row + run->n_rows ||
            sy_cpu_takes_naive_form(cpu, attn, span) != run->naive)
            break;
        run->n_rows += span->n_rows;
    }
    return true;
}

void sy_attn_share_parts(const sy_batch *b,
                         int parts,
                         int thread,
                         int n_threads,
                         sy_row_part_fn fn,
                         void *arg) {
    int64_t begin, end;
    sy_pool_share((int64_t)b->n_rows * parts, thread, n_threads, &begin, &end);
    for (int i = 0; i < b->n_spans; i++) {
        const sy_span *span = &b->span[i];
        int64_t first = (int64_t)span->first_row * parts;
        int64_t last = first + (int64_t)span->n_rows * parts;
        for (int64_t unit = sy_max(begin, first); unit < sy_min(end, last); unit++) {
            int64_t row = unit / parts;
            fn(arg, thread,
               &(sy_row_part){.span = span,
                              .row = row,
                              .position = span->position + row - span->first_row,
                              .part = (int)(unit % parts)});
        }
    }
}

static void clear_page(void *arg, int thread, const sy_row_part *p) {
    (void)thread;
    const sy_attn_in *in = arg;
    if (p->position % SY_PAGE_TOKENS == 0)
        sy_kv_clear_values(&in->layout, sy_kv_page(in->kv, p->span, p->position));
}

void sy_attn_clear_pages(const sy_attn_in *in, int thread, int n_threads) {
    sy_attn_share_parts(in->b, 1, thread, n_threads, clear_page, (void *)in);
}

void sy_attn_rotate(const sy_attn_in *in, int64_t position, float *x) {
    const sy_rope_spec *rope = &in->spec->attn.rope;
    const sy_vector_kernels *vec = &in->cpu->isa->vec;
    if (rope->dim == 0) return;
    int half = in->rope->half;
    const float *cos = in->rope->cos + position * half;
    const float *sin = in->rope->sin + position * half;
    if (rope->layout == SY_ROPE_INTERLEAVED)
        vec->rope_interleaved(half, cos, sin, x);
    else
        vec->rope_half(half, cos, sin, x);
}

void sy_attn_store_act(const sy_cpu *cpu, int64_t n, const float *x, char *out) {
    if (cpu->base.act == SY_F32)
        memcpy(out, x, (size_t)n * sizeof *x);
    else
        cpu->isa->vec.round_bf16(n, x, (uint16_t *)(void *)out);
}

/* Rows that are multiplied before they are rounded. */
enum { HEAD_ROWS = 64 };

uint64_t sy_cpu_multiply_heads_scratch(int64_t n) {
    return (uint64_t)n * HEAD_ROWS * sizeof(float);
}

/* Panels [begin, end) of one head. */
static void multiply_head(sy_cpu *cpu,
                          int thread,
                          const sy_head_products *p,
                          int64_t head,
                          int64_t begin,
                          int64_t end) {
    const sy_matrix *w = &p->w[head];
    int64_t act_bytes = sy_act_bytes(&cpu->base);
    int64_t column = begin * SY_PANEL, n = sy_min(w->n, end * SY_PANEL) - column;
    float *y = (float *)(void *)(cpu->scratch + thread * cpu->scratch_bytes);
    for (int64_t row = 0; row < p->n_rows; row += HEAD_ROWS) {
        int64_t n_rows = sy_min(p->n_rows - row, HEAD_ROWS);
        const char *x = p->x + (row * p->x_row + head * p->x_head) * act_bytes;
        char *out = p->out + (row * p->out_row + head * p->out_head + column) * act_bytes;
        sy_cpu_matmul(cpu, thread, w, begin, end, 0, n_rows, x, p->x_row, y, w->n);
        for (int64_t r = 0; r < n_rows; r++)
            sy_attn_store_act(cpu, n, y + r * w->n + column, out + r * p->out_row * act_bytes);
    }
}

void sy_cpu_multiply_heads(sy_cpu *cpu, int thread, int n_threads, const sy_head_products *p) {
    int64_t panels = sy_cpu_panels(&p->w[0]), begin, end;
    sy_pool_share(p->heads * panels, thread, n_threads, &begin, &end);
    while (begin < end) {
        int64_t head = begin / panels, from = begin - head * panels;
        int64_t to = sy_min(panels, end - head * panels);
        multiply_head(cpu, thread, p, head, from, to);
        begin = (head + 1) * panels;
    }
}

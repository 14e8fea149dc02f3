/* Inside attention: what the steps around its core share. attention.c is attn_in of grouped
 * queries and the way to the others, attention_mla.c attn_in of latent attention,
 * attention_out.c attn_out of both, attention_rows.c what they do to rows; attend.h is the core. */
#ifndef SY_KERNELS_CPU_ATTENTION_H
#define SY_KERNELS_CPU_ATTENTION_H

#include "base/memory.h"
#include "kernels/cpu/kv_page.h"

/* The arguments of attn_in, and what follows from them. */
typedef struct sy_attn_in {
    sy_cpu *cpu;
    const sy_layer_spec *spec;
    const sy_layer_weights *w;
    const sy_rope_table *rope;
    const sy_batch *b;
    const float *x; /* [T, H] */
    char *q_out;    /* act [T, sy_attn_q_width] */
    const sy_kv_layer *kv;
    sy_kv_layout layout;
    int64_t hidden; /* H */
} sy_attn_in;

/* SY_ERR_UNSUPPORTED for what the CPU's attention cannot do. */
sy_status sy_cpu_attention_check(const sy_attn_spec *attn);

/* attn_in of latent attention; rows are at least one and have their rotary positions. */
sy_status sy_cpu_latent_in(const sy_attn_in *in);

/* Needs of attn_in and attn_out of latent attention for the limits. */
void sy_cpu_latent_in_scratch(const sy_cpu *cpu,
                              const sy_limits *l,
                              uint64_t *thread,
                              uint64_t *shared);
void sy_cpu_attn_out_scratch(const sy_cpu *cpu,
                             const sy_limits *l,
                             uint64_t *thread,
                             uint64_t *shared);

/* Rows of act in shared scratch that are made from rows in memory. With one row each thread makes
 * it for itself in a row of its own, which is cheaper than a barrier; with more the rows are
 * shared out. So there are at least as many as threads. */
typedef struct sy_norm_rows {
    char *rows; /* act [max(T, threads), width] */
    int64_t width;
} sy_norm_rows;

void sy_norm_rows_carve(sy_arena *arena,
                        const sy_cpu *cpu,
                        int64_t n_rows,
                        int64_t width,
                        sy_norm_rows *r);
/* rows = norm(x) for x [n_rows, width]; returns the rows [n_rows, width] that the thread may
 * read. All threads call it; it ends in a barrier unless there is only one row. */
const char *sy_norm_rows_make(const sy_norm_rows *r,
                              sy_cpu *cpu,
                              int thread,
                              int n_threads,
                              int64_t n_rows,
                              const float *x,
                              const float *w,
                              float eps);

/* Clears the values of pages that begin with one of the thread's rows. */
void sy_attn_clear_pages(const sy_attn_in *in, int thread, int n_threads);

/* Some products of the same rows, y = x W^T with rows of W's n in y. */
typedef struct sy_product {
    const sy_matrix *w;
    float *y;
} sy_product;

/* The thread's part of the products: their panels are one list, shared out in one piece each. */
void sy_cpu_multiply_share(sy_cpu *cpu,
                           int thread,
                           int n_threads,
                           const sy_product *products,
                           int n_products,
                           int64_t n_rows,
                           const char *x);

/* A part of a row of the batch. */
typedef struct sy_row_part {
    const sy_span *span;
    int64_t row, position;
    int part;
} sy_row_part;

/* Rows of consecutive spans that latent attention takes in one form. */
typedef struct sy_form_run {
    int64_t row, n_rows;
    bool naive;
} sy_form_run;

/* The run that begins with span *i; moves *i behind it. False behind the last span. */
bool sy_attn_next_run(const sy_cpu *cpu,
                      const sy_attn_spec *attn,
                      const sy_batch *b,
                      int *i,
                      sy_form_run *run);

/* Calls fn for the thread's share of the parts of all rows, `parts` each. */
typedef void (*sy_row_part_fn)(void *arg, int thread, const sy_row_part *p);
void sy_attn_share_parts(const sy_batch *b,
                         int parts,
                         int thread,
                         int n_threads,
                         sy_row_part_fn fn,
                         void *arg);

/* Rotary embedding of the rope.dim values at x, in place. */
void sy_attn_rotate(const sy_attn_in *in, int64_t position, float *x);
/* out = x rounded to act, n values. */
void sy_attn_store_act(const sy_cpu *cpu, int64_t n, const float *x, char *out);

/* Products head by head: out[t][h] = x[t][h] W[h]^T, rounded to act. Strides in elements. */
typedef struct sy_head_products {
    const sy_matrix *w; /* [heads], equal in size */
    int heads;
    int64_t n_rows;
    const char *x; /* act */
    int64_t x_row, x_head;
    char *out; /* act */
    int64_t out_row, out_head;
} sy_head_products;

/* The thread's share, by heads and panels; works in its scratch. */
void sy_cpu_multiply_heads(sy_cpu *cpu, int thread, int n_threads, const sy_head_products *p);
/* Bytes of a thread's scratch for products of up to n outputs a head. */
uint64_t sy_cpu_multiply_heads_scratch(int64_t n);

#endif

/* Inside the CPU backend: its state, and the matrix product that its steps share. */
#ifndef SY_KERNELS_CPU_CPU_H
#define SY_KERNELS_CPU_CPU_H

#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

typedef struct sy_cpu {
    sy_backend base;
    sy_pool *pool;
    const sy_cpu_isa *isa;
    sy_limits limits;
    /* Scratch of each thread and shared scratch, carved by sy_cpu_reserve. */
    uint64_t scratch_bytes;       /* of one thread */
    char *scratch;                /* [n_threads][scratch_bytes] */
    uint64_t shared_bytes;
    char *shared;                 /* one block for all threads of a step */
} sy_cpu;

static inline sy_cpu *sy_cpu_of(sy_backend *be) {
    return (sy_cpu *)be;
}

/* Bytes of one act element. */
static inline int64_t sy_act_bytes(const sy_backend *be) {
    return be->act == SY_F32 ? 4 : 2;
}

/* y[0..rows)[64 panel_begin .. min(n, 64 panel_end)) = x W^T for panels [begin, end) of a one-part
 * matrix, on the calling thread. x act [rows, ldx], y f32 [rows, ldy] (column 0 is output 0).
 * leaf 0: one chain over K; else leaves of `leaf` values (even, except that the last may be
 * shorter) joined by recursive halving. Writes no column beyond n. Scratch: thread's own. */
void sy_cpu_matmul(sy_cpu *cpu, int thread, const sy_matrix *m, int64_t panel_begin,
                   int64_t panel_end, int64_t leaf, int64_t rows, const void *x, int64_t ldx,
                   float *y, int64_t ldy);

static inline int64_t sy_cpu_panels(const sy_matrix *m) {
    return (m->n + SY_PANEL - 1) / SY_PANEL;
}

/* What each file needs for the given limits: bytes of per-thread and of shared scratch. The
 * largest of all is reserved; a step uses the blocks from their beginning. */
void sy_cpu_matmul_scratch(const sy_cpu *cpu, const sy_limits *l, uint64_t *thread, uint64_t *shared);
void sy_cpu_attention_scratch(const sy_cpu *cpu, const sy_limits *l, uint64_t *thread, uint64_t *shared);
void sy_cpu_experts_scratch(const sy_cpu *cpu, const sy_limits *l, uint64_t *thread, uint64_t *shared);
void sy_cpu_route_scratch(const sy_cpu *cpu, const sy_limits *l, uint64_t *thread, uint64_t *shared);
void sy_cpu_combine_scratch(const sy_cpu *cpu, const sy_limits *l, uint64_t *thread, uint64_t *shared);
void sy_cpu_sample_scratch(const sy_cpu *cpu, const sy_limits *l, uint64_t *thread, uint64_t *shared);

/* The steps, each in the file of its family; cpu.c gathers them into the table. */
/* matrix.c */
sy_status sy_cpu_embed(sy_backend *, const sy_matrix *, const sy_batch *, float *, sy_stream *);
sy_status sy_cpu_head(sy_backend *, const float *, float, const sy_matrix *, int64_t,
                      const int32_t *, const float *, float *, sy_stream *);
sy_dtype sy_cpu_stored_dtype(const sy_backend *, sy_dtype);
uint64_t sy_cpu_matrix_bytes(const sy_backend *, const sy_matrix *);
sy_status sy_cpu_pack(sy_backend *, const sy_matrix *, int, int64_t, int64_t, const void *,
                      sy_dtype);
/* experts.c */
sy_status sy_cpu_experts_up(sy_backend *, const sy_layer_spec *, const sy_layer_weights *,
                            const sy_expert_rows *, void *, sy_stream *);
sy_status sy_cpu_experts_down(sy_backend *, const sy_layer_spec *, const sy_layer_weights *,
                              const sy_expert_rows *, const void *, float *, sy_stream *);
sy_status sy_cpu_dense_ffn(sy_backend *, const sy_layer_spec *, const sy_layer_weights *, int64_t,
                           const void *, void *, float *, sy_stream *);
/* attention.c */
uint64_t sy_cpu_kv_page_bytes(const sy_backend *, const sy_attn_spec *);
sy_status sy_cpu_attn_in(sy_backend *, const sy_layer_spec *, const sy_layer_weights *,
                         const sy_rope_table *, const sy_batch *, const float *, void *,
                         const sy_kv_layer *, sy_stream *);
sy_status sy_cpu_attend(sy_backend *, const sy_layer_spec *, const sy_batch *, const void *,
                        const sy_kv_layer *, void *, sy_stream *);
sy_status sy_cpu_attn_out(sy_backend *, const sy_layer_spec *, const sy_layer_weights *, int64_t,
                          const void *, float *, sy_stream *);
/* route.c */
sy_status sy_cpu_route(sy_backend *, const sy_layer_spec *, const sy_layer_weights *, int64_t,
                       const float *, void *, const int32_t *, int32_t *, float *, sy_stream *);
sy_status sy_cpu_ffn_in(sy_backend *, const sy_layer_spec *, const sy_layer_weights *, int64_t,
                        const float *, void *, sy_stream *);
/* combine.c */
sy_status sy_cpu_pack_rows(sy_backend *, int64_t, int64_t, const sy_row_ref *,
                           const void *const *, void *, sy_stream *);
sy_status sy_cpu_unpack(sy_backend *, const sy_tree_job *, sy_stream *);
sy_status sy_cpu_add(sy_backend *, int64_t, int64_t, const float *, float *, sy_stream *);
/* sample.c */
sy_status sy_cpu_sample(sy_backend *, int64_t, int64_t, int64_t, const float *,
                        const sy_sample_params *, int32_t *, sy_stream *);

#endif

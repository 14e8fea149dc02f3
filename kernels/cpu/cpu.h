/* Inside the CPU backend: its state, and the matrix product that its steps share. */
#ifndef SY_KERNELS_CPU_CPU_H
#define SY_KERNELS_CPU_CPU_H

#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

enum {
    SY_TILE_ROWS = 192,  /* rows of gate and up that wait for each other */
    SY_LEAF_ROWS = 48,   /* rows that pass over a leaf of a panel at once */
    SY_TREE_LEVELS = 32, /* depth of a tree of leaves: enough for every K below 2^31 */
    SY_COPY_K = 256,     /* K that is copied at once where x must be widened or padded */
    SY_UNPACK_K = 512    /* K of a quantised panel that is unpacked at once, whole groups */
};

/* Work space of one thread inside a matrix product. */
typedef struct sy_cpu_tiles {
    _Alignas(64) float gate[SY_TILE_ROWS * SY_PANEL], up[SY_TILE_ROWS * SY_PANEL];
    float edge[SY_LEAF_ROWS * SY_PANEL];                  /* a panel that n cuts short */
    float right[SY_TREE_LEVELS][SY_LEAF_ROWS * SY_PANEL]; /* right halves of a tree of leaves */
    float copy[SY_LEAF_ROWS * SY_COPY_K];
    /* Of a quantised panel: codes as BF16, scales of the groups, sums over one group. */
    _Alignas(64) uint16_t unpacked[SY_UNPACK_K * SY_PANEL];
    float scales[SY_UNPACK_K / 16][SY_PANEL];
    float group_sum[SY_LEAF_ROWS * SY_PANEL];
} sy_cpu_tiles;

typedef struct sy_cpu {
    sy_backend base;
    sy_pool *pool;
    const sy_cpu_isa *isa;
    sy_limits limits;
    sy_cpu_tiles *tiles; /* [n_threads] */
    /* Scratch of each thread and shared scratch, carved by sy_cpu_reserve. */
    uint64_t scratch_bytes; /* of one thread */
    char *scratch;          /* [n_threads][scratch_bytes] */
    uint64_t shared_bytes;
    char *shared; /* one block for all threads of a step */
    bool fast;    /* prompts may take the naive form of latent attention (attend_naive.c) */
    /* Of a layer some of whose spans take it, from attn_in until attn_out; else NULL. */
    const sy_layer_weights *naive_weights;
    const sy_batch *naive_batch;
} sy_cpu;

static inline sy_cpu *sy_cpu_of(sy_backend *be) {
    return (sy_cpu *)be;
}

/* Runs a step whose threads share `bytes` of moving and adding: on the caller alone where waking
 * the others would cost more than it saves (a wake-up and a barrier are worth about 30 KB). */
static inline void sy_cpu_share_out(sy_cpu *cpu, int64_t bytes, sy_pool_fn fn, void *arg) {
    enum { WORTH_SHARING = 64 * 1024 };
    if (bytes < WORTH_SHARING)
        sy_pool_run_alone(fn, arg);
    else
        sy_pool_run(cpu->pool, fn, arg);
}

/* Bytes of one act element. */
static inline int64_t sy_act_bytes(const sy_backend *be) {
    return be->act == SY_F32 ? 4 : 2;
}

/* y[0..rows)[64 panel_begin .. min(n, 64 panel_end)) = x W^T for panels [begin, end) of a one-part
 * matrix, on the calling thread. x act [rows, ldx], y f32 [rows, ldy] (column 0 is output 0).
 * leaf 0: one chain over K; else leaves of `leaf` values (even, except that the last may be
 * shorter) joined by recursive halving. Writes no column beyond n and reads no x beyond k. Works in
 * the thread's tiles, so a step may call it while its own scratch is in use. */
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
                   int64_t ldy);

/* K indices [begin, end) of a stored panel: one of a matrix of one part; of two parts, gate of
 * panel p is 2p and up is 2p + 1. begin is even, and so is end unless it is k. What follows in the
 * panel is brought near meanwhile, and behind its end that of stored panel `next`. */
typedef struct sy_panel_range {
    const sy_matrix *m;
    int64_t panel, begin, end;
    bool fetch_next; /* there is a `next` */
    int64_t next;
    bool is_near; /* the panel was read just now: nothing of it needs to be brought */
} sy_panel_range;

/* y[0..rows)[0..64) = (first ? 0 : y) then the chain over the range; of a quantised matrix the
 * range is a whole leaf, or all of K, and first is true. Writes all 64 columns. */
void sy_cpu_panel(sy_cpu *cpu,
                  int thread,
                  const sy_panel_range *range,
                  int64_t rows,
                  const void *x,
                  int64_t ldx,
                  float *y,
                  int64_t ldy,
                  bool first);

static inline int64_t sy_cpu_panels(const sy_matrix *m) {
    return (m->n + SY_PANEL - 1) / SY_PANEL;
}

/* What each file needs for the given limits: bytes of per-thread and of shared scratch. The
 * largest of all is reserved; a step uses the blocks from their beginning. */
void sy_cpu_matmul_scratch(const sy_cpu *cpu,
                           const sy_limits *l,
                           uint64_t *thread,
                           uint64_t *shared);
void sy_cpu_attention_scratch(const sy_cpu *cpu,
                              const sy_limits *l,
                              uint64_t *thread,
                              uint64_t *shared);
void sy_cpu_experts_scratch(const sy_cpu *cpu,
                            const sy_limits *l,
                            uint64_t *thread,
                            uint64_t *shared);
void sy_cpu_route_scratch(const sy_cpu *cpu,
                          const sy_limits *l,
                          uint64_t *thread,
                          uint64_t *shared);
void sy_cpu_combine_scratch(const sy_cpu *cpu,
                            const sy_limits *l,
                            uint64_t *thread,
                            uint64_t *shared);
void sy_cpu_sample_scratch(const sy_cpu *cpu,
                           const sy_limits *l,
                           uint64_t *thread,
                           uint64_t *shared);

/* The steps, each in the file of its family; cpu.c gathers them into the table. */
/* matrix.c */
sy_status sy_cpu_embed(sy_backend *, const sy_matrix *, const sy_batch *, float *, sy_stream *);
sy_status sy_cpu_head(sy_backend *,
                      const float *,
                      float,
                      const sy_matrix *,
                      int64_t,
                      const int32_t *,
                      const float *,
                      float *,
                      sy_stream *);
/* pack.c */
sy_dtype sy_cpu_stored_dtype(const sy_backend *, sy_dtype);
uint64_t sy_cpu_matrix_bytes(const sy_backend *, const sy_matrix *);
sy_status
sy_cpu_pack(sy_backend *, const sy_matrix *, int, int64_t, int64_t, const sy_weight_source *);
/* experts.c */
sy_status sy_cpu_experts_up(sy_backend *,
                            const sy_layer_spec *,
                            const sy_layer_weights *,
                            const sy_expert_rows *,
                            void *,
                            sy_stream *);
sy_status sy_cpu_experts_down(sy_backend *,
                              const sy_layer_spec *,
                              const sy_layer_weights *,
                              const sy_expert_rows *,
                              const void *,
                              float *,
                              sy_stream *);
sy_status sy_cpu_dense_ffn(sy_backend *,
                           const sy_layer_spec *,
                           const sy_layer_weights *,
                           int64_t,
                           const void *,
                           void *,
                           float *,
                           sy_stream *);
/* attention.c */
uint64_t sy_cpu_kv_page_bytes(const sy_backend *, const sy_attn_spec *);
sy_status sy_cpu_attn_in(sy_backend *,
                         const sy_layer_spec *,
                         const sy_layer_weights *,
                         const sy_rope_table *,
                         const sy_batch *,
                         const float *,
                         void *,
                         const sy_kv_layer *,
                         sy_stream *);
sy_status sy_cpu_attend(sy_backend *,
                        const sy_layer_spec *,
                        const sy_batch *,
                        const void *,
                        const sy_kv_layer *,
                        const float *,
                        void *,
                        sy_stream *);
sy_status sy_cpu_attn_out(sy_backend *,
                          const sy_layer_spec *,
                          const sy_layer_weights *,
                          int64_t,
                          const void *,
                          float *,
                          sy_stream *);
/* route.c */
sy_status sy_cpu_route(sy_backend *,
                       const sy_layer_spec *,
                       const sy_layer_weights *,
                       int64_t,
                       const float *,
                       void *,
                       const int32_t *,
                       int32_t *,
                       float *,
                       sy_stream *);
sy_status sy_cpu_ffn_in(sy_backend *,
                        const sy_layer_spec *,
                        const sy_layer_weights *,
                        int64_t,
                        const float *,
                        void *,
                        sy_stream *);
/* combine.c */
sy_status sy_cpu_pack_rows(sy_backend *,
                           int64_t,
                           int64_t,
                           const sy_row_ref *,
                           const void *const *,
                           void *,
                           sy_stream *);
sy_status sy_cpu_unpack(sy_backend *, const sy_tree_job *, sy_stream *);
sy_status sy_cpu_add(sy_backend *, int64_t, int64_t, const float *, float *, sy_stream *);
/* sample.c */
sy_status sy_cpu_sample(sy_backend *,
                        int64_t,
                        int64_t,
                        int64_t,
                        const float *,
                        const sy_sample_params *,
                        int32_t *,
                        sy_stream *);

#endif

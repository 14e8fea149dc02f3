/* The CUDA table from within: the backend's state, and the entries that the .cu files give it.
 *
 * One .cu file per family of steps. Each entry has the signature of its member of sy_ops or
 * sy_device_ops and C linkage; it launches with cudaLaunchKernelEx on cu->stream (whatever stream
 * it is handed), allocates nothing, and returns SY_CUDA(...) of what the runtime said. Scratch
 * comes from cu->scratch, sized by the family's *_scratch function; launches of one stream run
 * one after another, so each family takes the block from its beginning. */
#ifndef SY_KERNELS_CUDA_H
#define SY_KERNELS_CUDA_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/device.h"

enum { SY_CUDA_MAX_SHARED = 99 * 1024 }; /* bytes of shared memory a block may take anywhere */
/* c and c + rope of latent attention, at most: what shared memory holds of a tile. */
enum { SY_CUDA_MAX_LATENT = 512, SY_CUDA_MAX_LATENT_KEY = 576 };
enum { SY_CUDA_MAX_HEAD_DIM = 256 }; /* D of grouped queries, at most */

/* One step's record on the device (pointers into cu->record), uploaded by begin_step. `bound`
 * members are host values that launches are made for; actual numbers lie in `count`. */
typedef struct sy_cuda_step {
    int rows_bound, outputs_bound;
    const int32_t *count;    /* [8]: SY_COUNT_* */
    const int32_t *id;       /* [rows_bound]; -1 behind the batch's rows */
    const int32_t *position; /* [rows_bound] absolute positions; -1 behind the batch's rows */
    const int32_t *span_of_row; /* [rows_bound] */
    const int32_t *page_first;  /* [spans]: where the pages of a span begin in `page` */
    const int32_t *page;        /* page ids: of position p, page[page_first[span] + p / 64] */
    const int32_t *output_row;  /* [outputs_bound]; 0 behind the wanted ones */
    const int32_t *span_row;    /* [spans + 1] first row of each span */
} sy_cuda_step;
enum { SY_COUNT_ROWS, SY_COUNT_OUTPUTS, SY_COUNT_SPANS, SY_COUNTS = 8 };

typedef struct sy_cuda {
    sy_backend base;
    int device;
    struct cudaDeviceProp properties;
    char name[320];
    bool emulated;
    cudaStream_t stream;
    sy_limits limits;
    char *scratch;
    uint64_t scratch_bytes;
    int32_t *attend_counter; /* of attend; all 0 between launches */
    uint64_t attend_counter_bytes;
    sy_cuda_step step;
    struct sy_cuda_record *record;   /* step.c: where step records are written and uploaded */
    struct sy_cuda_uploads *uploads; /* upload.c: the ring of small tables */
    sy_recording *recording;         /* graph.c: the one under way, or NULL */
    sy_status recording_status;      /* of the first fault within it */
    sy_stage *stage, *loading; /* stage.c: for packing from ordinary memory; the loader's */
    struct sy_cuda_fast *fast; /* dense_fast.c: cuBLAS for fast numerics; NULL: exact */
} sy_cuda;

static inline sy_cuda *sy_cuda_of(sy_backend *be) {
    return (sy_cuda *)(void *)be;
}

/* SY_OK, or SY_ERR_DEVICE with the runtime's words, the call and the device. */
sy_status sy_cuda_status(const sy_cuda *cu, cudaError_t error, const char *call);
#define SY_CUDA(cu, call) sy_cuda_status(cu, call, #call)

/* Copies a small table of the host to the device, in stream order; the host's copy is free when
 * this returns, *out is valid for what is enqueued until as much has been uploaded as half the
 * ring takes (8 MiB and 64 bytes a pair). Not within a recording: what varies from step to step
 * belongs into the step record. */
sy_status sy_cuda_upload(sy_cuda *cu, const void *host, uint64_t bytes, void *out);

/* ---- step.c, upload.c, graph.c, stage.c: create sizes them by cu->limits ---- */
uint64_t sy_cuda_record_bytes(const sy_limits *limits); /* UINT64_MAX: too large */
sy_status sy_cuda_record_create(sy_cuda *cu);
void sy_cuda_record_destroy(sy_cuda *cu);
sy_status sy_cuda_begin_step(sy_backend *be,
                             const sy_batch *batch,
                             int64_t rows,
                             int64_t n_outputs,
                             int64_t outputs,
                             const int32_t *output_row,
                             sy_stream *s);
uint64_t sy_cuda_uploads_bytes(const sy_limits *limits);
sy_status sy_cuda_uploads_create(sy_cuda *cu);
void sy_cuda_uploads_destroy(sy_cuda *cu);
sy_status sy_cuda_record_begin(sy_backend *be);
sy_status sy_cuda_outside(sy_backend *be, sy_status (*fn)(void *), void *argument);
sy_status sy_cuda_record_end(sy_backend *be, sy_recording **out);
sy_status sy_cuda_replay(sy_backend *be, const sy_recording *recording);
void sy_cuda_record_free(sy_backend *be, sy_recording *recording);
sy_recording_size sy_cuda_record_size(const sy_recording *recording);
sy_status sy_cuda_stage_open(sy_backend *be, int n_slots, uint64_t slot_bytes, sy_stage **out);
sy_status sy_cuda_stage_take(sy_stage *stage, void **slot);
void sy_cuda_stage_give(sy_stage *stage, void *slot);
sy_status sy_cuda_stage_close(sy_stage *stage);
sy_status sy_cuda_pack(sy_backend *be,
                       const sy_matrix *m,
                       int part,
                       int64_t row0,
                       int64_t n_rows,
                       const sy_weight_source *src);

/* ---- matrix.cu ---- */
sy_dtype sy_cuda_stored_dtype(const sy_backend *be, sy_dtype file_dtype);
uint64_t sy_cuda_matrix_bytes(const sy_backend *be, const sy_matrix *m);
/* What pack asks of the rows and types, whatever the source holds. */
sy_status sy_cuda_check_pack(const sy_matrix *m,
                             int part,
                             int64_t row0,
                             int64_t n_rows,
                             sy_dtype src_dtype);
/* Rows [row0, row0 + n_rows) of a part from device memory src (row-major, any alignment of 2) into
 * fragments. */
sy_status sy_cuda_pack_device(sy_cuda *cu,
                              const sy_matrix *m,
                              int part,
                              int64_t row0,
                              int64_t n_rows,
                              const void *src,
                              sy_dtype src_dtype,
                              cudaStream_t stream);
sy_status sy_cuda_embed(sy_backend *be,
                        const sy_matrix *table,
                        const sy_batch *b,
                        float *x,
                        sy_stream *s);
sy_status sy_cuda_attn_out(sy_backend *be,
                           const sy_layer_spec *spec,
                           const sy_layer_weights *w,
                           int64_t n_rows,
                           const void *o,
                           float *x,
                           sy_stream *s);
sy_status sy_cuda_experts_up(sy_backend *be,
                             const sy_layer_spec *spec,
                             const sy_layer_weights *w,
                             const sy_expert_rows *rows,
                             void *h,
                             sy_stream *s);
sy_status sy_cuda_experts_down(sy_backend *be,
                               const sy_layer_spec *spec,
                               const sy_layer_weights *w,
                               const sy_expert_rows *rows,
                               const void *h,
                               float *y,
                               sy_stream *s);
sy_status sy_cuda_dense_ffn(sy_backend *be,
                            const sy_layer_spec *spec,
                            const sy_layer_weights *w,
                            int64_t n_rows,
                            const void *xn,
                            void *h,
                            float *y,
                            sy_stream *s);
sy_status sy_cuda_ffn_in(sy_backend *be,
                         const sy_layer_spec *spec,
                         const sy_layer_weights *w,
                         int64_t n_rows,
                         const float *x,
                         void *xn,
                         sy_stream *s);
sy_status sy_cuda_add(sy_backend *be,
                      int64_t n_rows,
                      int64_t width,
                      const float *y,
                      float *x,
                      sy_stream *s);
sy_status sy_cuda_head(sy_backend *be,
                       const float *norm,
                       float norm_eps,
                       const sy_matrix *lm_head,
                       int64_t n,
                       const int32_t *row,
                       const float *x,
                       float *logits,
                       sy_stream *s);
void sy_cuda_matrix_scratch(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes);
/* RMS norm of x [n_rows, k] with weight `norm` (k = w[0]->k), rounded to bf16, times each of the
 * n_matrices <= 3 matrices: out[i] [n_rows, ld[i]] f32. xn: bf16 [n_rows, k], stored if not NULL.
 * leaf: values per leaf of a split K joined by halving; 0: one chain. One launch for few rows. */
sy_status sy_cuda_norm_product(sy_cuda *cu,
                               const float *norm,
                               float eps,
                               int n_matrices,
                               const sy_matrix *const *w,
                               int64_t n_rows,
                               const float *x,
                               void *xn,
                               float *const *out,
                               const int64_t *ld,
                               int leaf);

/* ---- attention.cu ---- */
sy_status sy_cuda_check(const sy_backend *be, const sy_layer_spec *spec);
uint64_t sy_cuda_kv_page_bytes(const sy_backend *be, const sy_attn_spec *attn);
sy_status sy_cuda_attn_in(sy_backend *be,
                          const sy_layer_spec *spec,
                          const sy_layer_weights *w,
                          const sy_rope_table *rope,
                          const sy_batch *b,
                          const float *x,
                          void *q,
                          const sy_kv_layer *kv,
                          sy_stream *s);
sy_status sy_cuda_attend(sy_backend *be,
                         const sy_layer_spec *spec,
                         const sy_batch *b,
                         const void *q,
                         const sy_kv_layer *kv,
                         const float *,
                         void *o,
                         sy_stream *s);
void sy_cuda_attention_scratch(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes);
/* Bytes of cu->attend_counter: blocks that meet count themselves there. */
uint64_t sy_cuda_attention_counters(const sy_limits *l);
/* Lets the kernels have the shared memory that they need; once, at open. */
sy_status sy_cuda_attention_prepare(sy_cuda *cu);

/* ---- route.cu ---- */
sy_status sy_cuda_route(sy_backend *be,
                        const sy_layer_spec *spec,
                        const sy_layer_weights *w,
                        int64_t n_rows,
                        const float *x,
                        void *xn,
                        const int32_t *forced,
                        int32_t *expert,
                        float *weight,
                        sy_stream *s);
void sy_cuda_route_scratch(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes);

/* ---- combine.cu ---- */
sy_status sy_cuda_pack_rows(sy_backend *be,
                            int64_t n_rows,
                            int64_t row_bytes,
                            const sy_row_ref *ref,
                            const void *const *chunk,
                            void *dst,
                            sy_stream *s);
sy_status sy_cuda_unpack(sy_backend *be, const sy_tree_job *job, sy_stream *s);
/* ---- exchange.cu ---- */
sy_status sy_cuda_plan(sy_backend *be, const sy_device_round *round, sy_stream *s);
sy_status sy_cuda_local_sums(sy_backend *be, const sy_device_round *round, sy_stream *s);
sy_status sy_cuda_home_sums(sy_backend *be, const sy_device_round *round, sy_stream *s);
sy_status sy_cuda_combine_alone(sy_backend *be, const sy_device_round *round, sy_stream *s);

/* ---- sample.cu ---- */
sy_status sy_cuda_sample(sy_backend *be,
                         int64_t n,
                         int64_t vocab,
                         int64_t n_valid,
                         const float *logits,
                         const sy_sample_params *params,
                         int32_t *token,
                         sy_stream *s);
void sy_cuda_sample_scratch(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes);

/* ---- probe.c ---- */
/* What the device can do at most, measured for about `seconds`: bytes/s that a copy within its
 * memory reads and writes, and FLOP/s (two per multiply-add) of cuBLAS on square BF16 matrices.
 * SY_ERR_UNSUPPORTED if there is no cuBLAS, SY_ERR_MEMORY if the device has none left. Block;
 * allocate for the time of the call. */
sy_status sy_cuda_probe_bandwidth(sy_backend *be, double seconds, double *bytes_per_second);
sy_status sy_cuda_probe_gemm(sy_backend *be, double seconds, double *flops);

#ifdef __cplusplus
}
#endif
#endif

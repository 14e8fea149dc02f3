/* The backend: one table of function pointers whose entries are the steps of the forward pass.
 *
 * The CPU table (kernels/cpu) is the reference; every other table is compared with it. A missing
 * entry is refused when the table is opened. Steps are stream-ordered and allocate nothing; the
 * CPU table runs them at once and ignores the stream. Shapes are the caller's promise (checked
 * when the model is opened), so a step fails only where a device can fail.
 *
 * NUMBERS. "act" is the activation type of the run, SY_BF16 (default) or SY_F32.
 *
 *   step          input              sum over K                       result, rounded once to
 *   embed         stored weight      -                                x: f32
 *   attn_in       x f32 -> act       one chain (q, k, v)              q: act; k, v in pages: act
 *                 (bias, q/k norm, clip, rotary, query temperature in f32 before the one rounding)
 *      MLA        xn act             one chain (q_a, kv_a)            q latent, normed: act; key-
 *                                                                     value latent, normed, and
 *                                                                     its rotary part, in pages: act
 *                 q latent act       one chain (q)                    nope part: act; rotary part:
 *                                                                     act
 *                 nope part act      one chain (k_up)                 q of the latent: act
 *   attend        q, k, v act        one chain over D, one over       o: act (P is rounded to act;
 *                                    the 64 tokens of a page          m, l, o are f32)
 *                 (P of keys that a row does not see is 0. A sink s joins after the last token:
 *                 m' = max(m, s), l = l e^(m-m') + e^(s-m'), o = o e^(m-m'); then o / l)
 *      MLA        D is the latent's c + rope, v is the latent
 *   attn_out MLA  o act              one chain (v_up)                 head's output: act
 *      (Fast numerics may take a prompt's rows in the naive form: q stays nope + rope values a
 *      head, act; attend makes k (k_up, beside the rotary part) and v (v_up) of each head and
 *      token from the latents, one chain, act; o is the head's output, and attn_out has no v_up)
 *   attn_out      o act              leaves of kv-head groups (MLA:   x += sum (+ bias) : f32
 *                                    heads), tree
 *   route         x f32 -> act       leaves of 256, tree              xn: act; logits, scores,
 *                                                                     weights: f32
 *   experts_up    xn act             one chain (gate, up), + bias     h = silu(g)*u: act
 *   experts_down  h act              leaves of 256, tree, + bias      y: f32
 *   dense_ffn     as experts, then x += y : f32; shared expert: y without the residual
 *   unpack        w*y f32            tree over [0, E)                 f32; then + shared, + x
 *   head          x f32 -> act       one chain                        logits: f32
 *
 * THE ORDER OF SUMS ("seq-fma"). A dot product is one float32 chain of fused multiply-adds that
 * starts at 0 and walks K upwards; where weights are 2 bytes wide (BF16, F16, and BF16 KV pages)
 * it walks pairs (0,1), (2,3), ... and takes the odd element of each pair first, as vdpbf16ps
 * does. An odd K is padded with a zero. Denormals are flushed on input and output of each FMA.
 * Matrices marked "leaves" cut K at fixed places; each leaf is a chain from 0, and the leaf sums
 * are added by recursive halving of the leaf index (left half ceil(n/2)). Leaf = 256 values for
 * router and down; for o_proj the smallest whole number of kv-head groups (G*D values each; MLA:
 * of heads) with at least 256 values. Sums over a row that are no dot product with weights (norms, softmax) use
 * 64 strided partial sums, joined by halving. All backends of one architecture give equal bits
 * whatever the number of rows, threads, chunks or ranks. Changing a line here changes results
 * and needs a new SY_NUMERICS_VERSION.
 *
 * Weights: in act BF16 a BF16 weight stays BF16, F32 is rounded to BF16 when packed, F16 stays
 * F16 and is widened in registers (x stays rounded to BF16). In act F32 every format is stored
 * as it is and widened exactly in registers.
 *
 * Quantised weights (struct sy_quant) keep the bits of their codes and scales in memory. A code
 * (E4M3, E2M1, an 8-bit integer, or a 4-bit one less its zero point) is exact in BF16, and is
 * multiplied like a BF16 weight: pairs from even K, the odd element first. Scales stay out of that
 * chain. Within a scale group it starts at 0; at the group's end sum = fma(chain, scale, sum),
 * groups ascending from sum = 0, the scale widened exactly and flushed if denormal. A leaf that cuts a group makes
 * two groups with the same scale of it. At the end of K, or of each leaf, the factor of the part
 * is applied: sum * factor or sum / factor, rounded once. */
#ifndef SY_KERNELS_OPS_H
#define SY_KERNELS_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/pool.h"
#include "base/status.h"
#include "kernels/layer.h"

enum { SY_NUMERICS_VERSION = 1 };
enum { SY_PAGE_TOKENS = 64 }; /* tokens of a KV page; pages start at absolute multiples      */
enum { SY_PACK_ROWS = 64 };   /* pack() takes output rows in groups of this many              */
enum { SY_LEAF = 256 };       /* values per leaf of a split K                                 */
enum {
    SY_ATTEND_LEAF = 512
}; /* tokens per leaf of attention state on the CPU                */

typedef struct sy_backend sy_backend;
typedef struct sy_limits sy_limits;
typedef struct sy_device_ops sy_device_ops;   /* kernels/device.h */
typedef struct sy_device_rows sy_device_rows; /* kernels/device.h */
typedef struct sy_stream sy_stream;           /* NULL on the CPU */

typedef enum sy_factor { SY_FACTOR_NONE, SY_FACTOR_TIMES, SY_FACTOR_OVER } sy_factor;

/* What turns the codes of a quantised matrix into weights: value(code) * scale, then * factor or
 * / factor. value(code) of SY_U4 is code - zero point, or code - 8 where there are none.
 *
 *                               codes        scale          group  outputs  factor
 *   FP8 in blocks, DeepSeek     SY_F8_E4M3   F32 or E8M0    128    128      -
 *   FP8 per channel, tensor     SY_F8_E4M3   F32, BF16      0      1, 0     -
 *   MXFP4                       SY_F4        SY_F8_E8M0     32     1        -
 *   NVFP4, modelopt             SY_F4        SY_F8_E4M3     16     1        times weight_scale_2
 *   NVFP4, compressed-tensors   SY_F4        SY_F8_E4M3     16     1        over
 *                                                                            weight_global_scale
 *   INT4, AWQ, GPTQ             SY_U4        BF16, F16, F32 32..128  1      -
 *   q8; INT8 per channel        SY_I8        BF16; F32      32; 0    1      -
 *
 * A part that is cut from a larger tensor at an output that begins no block of 128 has its scales
 * repeated per output (outputs = 1) by whoever cuts it; that gives the same bits. */
typedef struct sy_quant {
    sy_dtype scale; /* SY_F32, SY_F16, SY_BF16, SY_F8_E8M0 or SY_F8_E4M3          */
    int group;      /* inputs that share a scale: 16, 32, 64, 128; 0: all         */
    int outputs;    /* outputs that share a scale: 1, 128; 0: all of the part     */
    bool zeros;     /* SY_U4: a zero point for each group of each output          */
    sy_factor use_factor;
    float factor[2]; /* of each part */
} sy_quant;

/* A weight matrix in the backend's own layout: y = x W^T, W [n, k]. The memory belongs to the
 * owner of the weights; the struct is plain data. A matrix of two parts holds gate and up of
 * one expert, [n, k] each, laid out so that both meet in the same tile. */
typedef struct sy_matrix {
    void *data;
    sy_dtype dtype; /* SY_BF16, SY_F16, SY_F32; quantised: SY_F8_E4M3, SY_I8, SY_F4, SY_U4 */
    int parts;      /* 1, or 2 (gate, up)         */
    int64_t n, k;   /* outputs of one part, inputs */
    sy_quant quant; /* of quantised codes only    */
} sy_matrix;

static inline bool sy_is_quantised(sy_dtype dtype) {
    return dtype == SY_F8_E4M3 || dtype == SY_I8 || dtype == SY_F4 || dtype == SY_U4;
}

/* Some output rows [row0, row0 + n_rows) of a part as a file has them: row-major, any alignment,
 * one row behind the other. The rest is for quantised matrices and else unused. */
typedef struct sy_weight_source {
    sy_dtype dtype; /* the file's; of quantised codes the matrix's */
    /* [n_rows, k]. SY_F4: two a byte, the first in the lower half, rows of ceil(k / 2) bytes.
     * SY_U4: eight in a little-endian word, the first lowest, rows of ceil(k / 8) words. */
    const void *codes;
    /* [., ceil(k / group)], group 0: [., 1]. A row for each of these outputs (outputs = 1), or from
     * that of row0 / 128 on one for each block of 128, or one alone (outputs = 0). */
    const void *scales;
    const uint8_t *zeros; /* [n_rows, ceil(k / group)], 0..15 a byte */
} sy_weight_source;

/* Weights of one layer on this rank. Vectors are float32. Unused members are NULL / zero. */
typedef struct sy_layer_weights {
    const float *attn_norm; /* [H] */
    const float *ffn_norm;  /* [H] */
    sy_matrix q;            /* [A*D, H]; MLA with a compressed query: [A*D, q_rank] */
    sy_matrix k, v;         /* [kv*D, H] each */
    const float *q_bias, *k_bias, *v_bias; /* [A*D], [kv*D], [kv*D] */
    const float *q_norm;                   /* [D] per head, or [A*D] whole */
    const float *k_norm;                   /* [D] per head, or [kv*D] whole */
    const float *sinks;                    /* [A] */
    /* MLA: latents of query [q_rank, H] and of key and value [c + rope, H], and their norms */
    sy_matrix q_a, kv_a;
    const float *q_a_norm, *kv_a_norm; /* [q_rank], [c] */
    /* MLA, per head, [A] each: nope part of q to the latent [c, nope], latent to value
     * [value, c]. Equal in size, one behind the other in memory. */
    sy_matrix *k_up, *v_up;
    sy_matrix o;                            /* [H, A*D]; MLA: [H, A*value] */
    const float *o_bias;                    /* [H] */
    sy_matrix router;                       /* [E, H] */
    const float *router_bias, *choice_bias; /* [E] */
    int n_slots;                            /* experts held by this rank in this layer */
    sy_matrix *gate_up;                     /* [n_slots], two parts [F, H] */
    sy_matrix *down;                        /* [n_slots], [H, F] */
    const float *gate_up_bias;              /* [n_slots][2][F] */
    const float *down_bias;                 /* [n_slots][H] */
    sy_matrix ffn_gate_up; /* dense FFN or shared expert: two parts [inter, H] */
    sy_matrix ffn_down;    /* [H, inter] */
} sy_layer_weights;

/* Keys and values of one layer. Page p of this layer begins at data + p * page_bytes. The inner
 * layout of a page is the backend's; it must be all zero before first use. */
typedef struct sy_kv_layer {
    void *data;
    int64_t page_bytes;
} sy_kv_layer;

/* Consecutive tokens of one sequence in a step: rows [first_row, first_row + n_rows). */
typedef struct sy_span {
    int first_row, n_rows;
    int64_t position; /* absolute position of the first row            */
    const int32_t
        *pages; /* page id of positions [64 i, 64 i + 64), for all up to the last row */
} sy_span;

/* The tokens of this rank in this step. */
typedef struct sy_batch {
    int n_rows; /* T, may be 0 */
    int n_spans;
    const sy_span *span;
    const int32_t *ids; /* [T] */
} sy_batch;

/* cos and sin of every position, made once by sy_rope_table_create. */
typedef struct sy_rope_table {
    int64_t n_positions;
    int half;         /* dim / 2 */
    const float *cos; /* [n_positions, half] */
    const float *sin;
} sy_rope_table;

/* Rows of several chunks (what each peer sent lies in place in its own memory). */
typedef struct sy_row_ref {
    int32_t chunk; /* index into a table of chunk addresses */
    int32_t row;   /* row within the chunk                  */
} sy_row_ref;

/* Input of the experts: P rows grouped by local slot. Where `device` is given it says which rows
 * a slot has, `first` is NULL and n_pairs is an upper bound. */
typedef struct sy_expert_rows {
    int n_slots;
    int64_t n_pairs;      /* P */
    const int64_t *first; /* [n_slots + 1]; rows of slot s are [first[s], first[s+1]) */
    const void *x;        /* act [P, H] */
    const sy_device_rows *device;
} sy_expert_rows;

/* One leaf of a combine tree: a float32 row, the expert that stands for it, its weight. */
typedef struct sy_tree_leaf {
    sy_row_ref ref;
    int32_t expert; /* any expert of the subtree that the row sums up */
    float weight;   /* used if the job is weighted */
} sy_tree_leaf;

/* out[i] = sum over the leaves [first[i], first[i+1]) (ascending expert), added along the tree
 * that halves [0, n_experts) recursively (left half ceil(n/2)); a missing child is passed
 * through. A row without leaves is zero. Then `+ shared[i]`, then `x[i] +=`, if given. */
typedef struct sy_tree_job {
    int64_t n_rows;
    int width;     /* H */
    int n_experts; /* E: the range that the tree halves */
    const int64_t *first;
    const sy_tree_leaf *leaf;
    const float *const *chunk; /* [.][rows, H] */
    bool weighted;             /* leaf value = weight * row, rounded, before any addition */
    const float *shared;       /* [n_rows, H] or NULL */
    float *out;                /* [n_rows, H]: stored; or added to if `accumulate` (residual) */
    bool accumulate;
} sy_tree_job;

/* How the next token is chosen from a row of logits. */
typedef struct sy_sample_params {
    float temperature; /* 0 = greedy: largest logit, lowest id on ties */
    int top_k;         /* 0 = off */
    float top_p;       /* 1 = off */
    float min_p;       /* 0 = off: keep p >= min_p * p_max */
    uint64_t seed;     /* of the request */
    uint64_t sample;   /* index of the sample within the request */
    uint64_t position; /* absolute position of the token that is chosen */
} sy_sample_params;

typedef struct sy_ops {
    const char *name;            /* "cpu", "cuda" */
    const sy_device_ops *device; /* NULL: the steps work in host memory */

    void (*close)(sy_backend *be);

    /* SY_ERR_UNSUPPORTED, with a text that names it, if the steps lack something that the layer
     * needs. Asked before weights are read. */
    sy_status (*check)(const sy_backend *be, const sy_layer_spec *spec);

    /* Memory of the device that the steps work on: zeroed, 64-byte aligned. */
    sy_status (*alloc)(sy_backend *be, void *out, uint64_t bytes, const char *what);
    void (*free)(sy_backend *be, void *ptr, uint64_t bytes);
    sy_status (
        *write)(sy_backend *be, void *device, const void *host, uint64_t bytes, sy_stream *s);
    sy_status (
        *read)(sy_backend *be, void *host, const void *device, uint64_t bytes, sy_stream *s);

    /* Weights. stored_dtype: how a file's dtype is kept under this run's activations.
     * matrix_bytes: device bytes of a matrix (data ignored), a multiple of 64; UINT64_MAX on
     * overflow or for a format that the backend lacks. pack: output rows [row0, row0 + n_rows) of
     * a part; row0 is a multiple of SY_PACK_ROWS, n_rows too unless it ends the part. Rows of
     * different groups may be packed by different threads at the same time. A scale or factor
     * that is no finite number, a factor of 0 that divides, or a zero point above 15 is
     * SY_ERR_FORMAT, and the text names its place in the part. */
    sy_dtype (*stored_dtype)(const sy_backend *be, sy_dtype file_dtype);
    uint64_t (*matrix_bytes)(const sy_backend *be, const sy_matrix *m);
    sy_status (*pack)(sy_backend *be,
                      const sy_matrix *m,
                      int part,
                      int64_t row0,
                      int64_t n_rows,
                      const sy_weight_source *src);

    uint64_t (*kv_page_bytes)(const sy_backend *be, const sy_attn_spec *attn);
    /* Scratch the steps need for batches of at most max_rows tokens and max_pairs pairs. */
    sy_status (*reserve)(sy_backend *be, const sy_limits *limits);

    /* x[t] = table[ids[t]];  x [T, H] f32 */
    sy_status (*embed)(sy_backend *be,
                       const sy_matrix *table,
                       const sy_batch *b,
                       float *x,
                       sy_stream *s);
    /* norm, q k v, bias, q/k norm, clip, rotary, temperature; appends k and v (MLA: the latent)
     * to the pages;  q act [T, sy_attn_q_width] */
    sy_status (*attn_in)(sy_backend *be,
                         const sy_layer_spec *spec,
                         const sy_layer_weights *w,
                         const sy_rope_table *rope,
                         const sy_batch *b,
                         const float *x,
                         void *q,
                         const sy_kv_layer *kv,
                         sy_stream *s);
    /* causal attention of each row over its own sequence, within the window if there is one;
     * sinks [A] or NULL;  o act [T, sy_attn_o_width] */
    sy_status (*attend)(sy_backend *be,
                        const sy_layer_spec *spec,
                        const sy_batch *b,
                        const void *q,
                        const sy_kv_layer *kv,
                        const float *sinks,
                        void *o,
                        sy_stream *s);
    /* x += o W_o^T + bias */
    sy_status (*attn_out)(sy_backend *be,
                          const sy_layer_spec *spec,
                          const sy_layer_weights *w,
                          int64_t n_rows,
                          const void *o,
                          float *x,
                          sy_stream *s);
    /* xn = norm(x) [T, H] act; choice of K experts per row, falling choice score (score + choice
     * bias, within the kept groups), lowest index first on ties; expert [T, K], weight [T, K]. `forced` [T, K] or NULL replaces the choice: weights
     * are then this run's scores of the forced experts. A NaN score counts as -inf. */
    sy_status (*route)(sy_backend *be,
                       const sy_layer_spec *spec,
                       const sy_layer_weights *w,
                       int64_t n_rows,
                       const float *x,
                       void *xn,
                       const int32_t *forced,
                       int32_t *expert,
                       float *weight,
                       sy_stream *s);
    /* dst[i] = row ref[i];  rows of row_bytes bytes */
    sy_status (*pack_rows)(sy_backend *be,
                           int64_t n_rows,
                           int64_t row_bytes,
                           const sy_row_ref *ref,
                           const void *const *chunk,
                           void *dst,
                           sy_stream *s);
    /* h = act(rows W_gate^T, rows W_up^T) [P, F] act */
    sy_status (*experts_up)(sy_backend *be,
                            const sy_layer_spec *spec,
                            const sy_layer_weights *w,
                            const sy_expert_rows *rows,
                            void *h,
                            sy_stream *s);
    /* y = h W_down^T [P, H] f32 */
    sy_status (*experts_down)(sy_backend *be,
                              const sy_layer_spec *spec,
                              const sy_layer_weights *w,
                              const sy_expert_rows *rows,
                              const void *h,
                              float *y,
                              sy_stream *s);
    /* the combine tree, see sy_tree_job */
    sy_status (*unpack)(sy_backend *be, const sy_tree_job *job, sy_stream *s);
    /* norm(x) given as xn [T, H] act (from ffn_in);  y [T, H] f32 = the dense FFN or shared
     * expert, not added to x;  h is scratch [T, inter] act */
    sy_status (*dense_ffn)(sy_backend *be,
                           const sy_layer_spec *spec,
                           const sy_layer_weights *w,
                           int64_t n_rows,
                           const void *xn,
                           void *h,
                           float *y,
                           sy_stream *s);
    /* xn = norm(x) for a layer without router */
    sy_status (*ffn_in)(sy_backend *be,
                        const sy_layer_spec *spec,
                        const sy_layer_weights *w,
                        int64_t n_rows,
                        const float *x,
                        void *xn,
                        sy_stream *s);
    /* x += y [T, H] */
    sy_status (*add)(sy_backend *be,
                     int64_t n_rows,
                     int64_t width,
                     const float *y,
                     float *x,
                     sy_stream *s);
    /* final norm of the rows row[i] and lm_head;  logits [n, V] f32 */
    sy_status (*head)(sy_backend *be,
                      const float *norm,
                      float norm_eps,
                      const sy_matrix *lm_head,
                      int64_t n,
                      const int32_t *row,
                      const float *x,
                      float *logits,
                      sy_stream *s);
    /* token[i] from logits[i] [V] under params[i]; ids >= n_valid (no such token in the
     * tokenizer) are never chosen; -1 if none of the others' logits is a number. logits is left
     * as it is; token and params are host memory, and token is there on return. */
    sy_status (*sample)(sy_backend *be,
                        int64_t n,
                        int64_t vocab,
                        int64_t n_valid,
                        const float *logits,
                        const sy_sample_params *params,
                        int32_t *token,
                        sy_stream *s);
} sy_ops;

/* Upper bounds of one step on this rank, fixed at open. */
struct sy_limits {
    int64_t max_rows;    /* T */
    int64_t max_pairs;   /* P */
    int64_t max_context; /* positions of a sequence */
    int64_t max_spans;   /* sequences in one step; 0: as many as rows */
    int hidden, heads, kv_heads, head_dim, max_inter, experts, top_k, vocab;
    sy_mla_spec mla; /* zero: no layer has latent attention */
};

/* Every backend struct begins with its table. */
struct sy_backend {
    const sy_ops *ops;
    sy_dtype act; /* SY_BF16 or SY_F32 */
};

/* The CPU backend over a pool that the caller keeps alive. isa: NULL or "auto" for the best that
 * the CPU has, else "generic", "avx2", "avx512", "avx512bf16", "neon"; one that the CPU lacks is
 * an error. All give the same bits. */
sy_status sy_cpu_open(sy_dtype act, sy_pool *pool, const char *isa, sy_backend **out);
const char *sy_cpu_isa_name(const sy_backend *be); /* the chosen one */
/* Bytes that reserve takes for these limits, all threads together; UINT64_MAX on overflow. */
uint64_t sy_cpu_reserve_bytes(const sy_backend *be, const sy_limits *limits);
/* Fast numerics: spans of latent attention that are worth it take the naive form, so that bits
 * depend on how a prompt is cut. Before reserve; off at first. attn_in, attend and attn_out of a
 * layer then follow one another with the same batch, which stays in place until attn_out. */
void sy_cpu_set_fast(sy_backend *be, bool fast);

/* cos and sin for positions [0, n_positions): angle = (float)position * (float)inv_freq[i],
 * inv_freq in float64 rounded to float32, cos and sin of that float32 in float64 by own
 * polynomials, times attention_factor, rounded to float32. Owns its memory; free with _destroy. */
sy_status
sy_rope_table_create(int64_t n_positions, const sy_rope_spec *rope, sy_rope_table **out);
void sy_rope_table_destroy(sy_rope_table *table);

/* What the spec multiplies q of a position by, 1 + query_beta * ln(1 + floor(position /
 * query_positions)): in float64 with an own logarithm, rounded to float32. */
float sy_query_scale(const sy_attn_spec *attn, int64_t position);

#endif

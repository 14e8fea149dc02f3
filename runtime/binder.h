/* Inside bind*.c: finding weights in the tensors of a checkpoint, and entering what they fill. */
#ifndef SY_RUNTIME_BINDER_H
#define SY_RUNTIME_BINDER_H

#include "runtime/bind.h"
#include "runtime/spec_shapes.h"
#include "runtime/tensor_names.h"

enum { SY_NAME_CHARS = 256 };

typedef struct sy_binder {
    sy_backend *be;
    const sy_model_spec *spec;
    const sy_checkpoint *checkpoint; /* NULL: dummy weights */
    const sy_tensor_names *names;
    sy_tensor_prefix prefix;
    sy_arena *arena;
    sy_bind_list *list; /* NULL: measure only */
    bool *used;         /* [checkpoint->n_tensors] */
    int layer;          /* the one being bound */
} sy_binder;

/* A name within the current layer: "model.layers.3." and what the format says. */
void sy_binder_name(const sy_binder *b, char name[SY_NAME_CHARS], const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The tensor of a name, marked as used; NULL if there is none. */
const sy_tensor_entry *sy_binder_find(sy_binder *b, const char *name);

/* SY_ERR_FORMAT unless the tensor has exactly this shape. */
sy_status sy_binder_check_shape(const sy_binder *b,
                                const sy_tensor_entry *t,
                                int rank,
                                const int64_t *shape);

/* Finds a tensor of exactly this shape, in F32, F16 or BF16. Without a checkpoint there is none:
 * NULL and SY_OK. */
sy_status sy_binder_require(sy_binder *b,
                            const char *name,
                            int rank,
                            const int64_t *shape,
                            const sy_tensor_entry **out);

/* The seed of dummy weights that a name gives. */
uint64_t sy_binder_seed(const char *name);

/* What a weight is, for made-up weights in the format that such weights are published in. */
typedef struct sy_weight_kind {
    sy_part part;
    sy_weight_role role;
} sy_weight_kind;

/* All of the weight [n, k] of a module, in whichever format its tensors are. weight_format.c */
sy_status sy_binder_weight(sy_binder *b,
                           sy_weight_kind kind,
                           const char *module,
                           int64_t n,
                           int64_t k,
                           sy_piece *out);

/* Weights [n, k] of all experts in blocks of 32 FP4 values (gpt-oss): "<tensor>_blocks" u8
 * [experts, n, k / 32, 16] and "<tensor>_scales" u8 [experts, n, k / 32]. weight_format.c */
sy_status sy_binder_blocks(sy_binder *b,
                           const char *tensor,
                           int64_t experts,
                           int64_t n,
                           int64_t k,
                           sy_piece *out);

/* SY_ERR_UNSUPPORTED for a weight whose file has rows of inputs (AWQ, GPTQ): it cannot be cut. */
sy_status sy_binder_check_cut(const sy_binder *b, const sy_piece *whole);
/* The same piece from row0 on. */
sy_piece sy_piece_from(const sy_piece *whole, int64_t row0);

/* Takes memory for a matrix in the format of `from`; with `plain` in that which a plain BF16
 * tensor would have. */
sy_status sy_binder_take(sy_binder *b,
                         int parts,
                         int64_t n,
                         int64_t k,
                         const sy_piece *from,
                         bool plain,
                         sy_matrix *m);
sy_status
sy_binder_fill(sy_binder *b, sy_matrix *m, int part, const sy_piece *from, bool routed);

/* A matrix of one part [n, k] from the whole weight of a module. */
sy_status sy_binder_matrix(sy_binder *b,
                           sy_weight_kind kind,
                           const char *module,
                           int64_t n,
                           int64_t k,
                           sy_matrix *m);

/* Takes memory for n float32, and enters what fills them. */
float *sy_binder_take_vector(sy_binder *b, int64_t n);
sy_status
sy_binder_fill_vector(sy_binder *b, float *v, int64_t n, const sy_piece *from, float dummy);
/* Both, from the whole tensor of that name. `dummy` is what made-up weights have. */
sy_status
sy_binder_vector(sy_binder *b, const char *name, int64_t n, float dummy, const float **out);

/* bind_attention.c */
sy_status sy_bind_attention(sy_binder *b, sy_layer_weights *w, sy_matrix **head);
/* bind_ffn.c */
sy_status sy_bind_ffn(sy_binder *b,
                      const sy_placement_layer *p,
                      int rank,
                      sy_layer_weights *w,
                      sy_matrix **expert);

#endif

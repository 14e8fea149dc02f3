/* Inside bind*.c: finding weights in the tensors of a checkpoint, and entering what they fill. */
#ifndef SY_RUNTIME_BINDER_H
#define SY_RUNTIME_BINDER_H

#include "runtime/bind.h"
#include "runtime/spec_shapes.h"
#include "runtime/tensor_names.h"

enum { SY_NAME_CHARS = 256, SY_BINDER_WINDOW = 4 * 4096 };

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
    struct {            /* bytes [begin, end) of a file, for sy_binder_read_small */
        int file;
        uint64_t begin, end;
        char bytes[SY_BINDER_WINDOW];
    } window;
} sy_binder;

/* A name within the current layer: "model.layers.3." and what the format says. */
void sy_binder_name(const sy_binder *b, char name[SY_NAME_CHARS], const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The tensor of a name, marked as used; NULL if there is none. */
const sy_tensor_entry *sy_binder_find(sy_binder *b, const char *name);

/* Fails with a text behind the tensor's file and name. */
sy_status sy_binder_fail(const sy_binder *b,
                         const sy_tensor_entry *t,
                         sy_status status,
                         const char *format,
                         ...) __attribute__((format(printf, 4, 5)));

/* SY_ERR_FORMAT unless the tensor has exactly this shape. */
sy_status sy_binder_check_shape(const sy_binder *b,
                                const sy_tensor_entry *t,
                                int rank,
                                const int64_t *shape);

/* SY_ERR_UNSUPPORTED with the tensor's dtype and those expected. */
sy_status
sy_binder_refuse_dtype(const sy_binder *b, const sy_tensor_entry *t, const char *expected);
/* Scales of FP8 weights may have several dtypes; blocks that the config has, one size. */
sy_status sy_binder_check_fp8_scale(const sy_binder *b, const sy_tensor_entry *s);
sy_status sy_binder_check_block_size(const sy_binder *b, const sy_tensor_entry *codes);

/* Reads all of a tensor of a few bytes: a factor, a shape. There is one for each matrix, and files
 * have them side by side, so some of what lies around it is read too, and kept for the next one. */
sy_status sy_binder_read_small(sy_binder *b, const sy_tensor_entry *t, void *dst);

/* Finds a tensor of exactly this shape, in F32, F16 or BF16. Without a checkpoint there is none:
 * NULL and SY_OK. */
sy_status sy_binder_require(sy_binder *b,
                            const char *name,
                            int rank,
                            const int64_t *shape,
                            const sy_tensor_entry **out);

/* The seed of dummy weights that a name gives. */
uint64_t sy_binder_seed(const char *name);

/* Stored rows of an expert in a stack. */
typedef struct sy_stack_rows {
    int64_t codes, scales;
} sy_stack_rows;

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
 * [experts, n, k / 32, 16] and "<tensor>_scales" u8 [experts, n, k / 32]. weight_stack.c */
sy_status sy_binder_blocks(sy_binder *b,
                           const char *tensor,
                           int64_t experts,
                           int64_t n,
                           int64_t k,
                           sy_piece *out);

/* Weights [n, k] of all experts in one tensor [experts, parts * n, k]: plain, or FP8 with
 * "<tensor>_scale_inv" [experts, ., .]. part[0..parts) are those of expert 0; those of the others
 * are found by sy_piece_of_expert. weight_stack.c */
sy_status sy_binder_stack(sy_binder *b,
                          const char *tensor,
                          int64_t experts,
                          int parts,
                          int64_t n,
                          int64_t k,
                          sy_piece *part,
                          sy_stack_rows *rows);

/* SY_ERR_UNSUPPORTED for a weight whose file has rows of inputs (AWQ, GPTQ): it cannot be cut. */
sy_status sy_binder_check_cut(const sy_binder *b, const sy_piece *whole);
/* The same piece from row0 on. */
sy_piece sy_piece_from(const sy_piece *whole, int64_t row0);
/* The same piece of another expert than the first, where they are stacked. */
sy_piece sy_piece_of_expert(const sy_piece *first, int64_t expert, const sy_stack_rows *rows);

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
/* Both parts of a routed expert's matrix, whose rows lie by turns from `gate` on. */
sy_status sy_binder_fill_pair(sy_binder *b, sy_matrix *m, const sy_piece *gate);

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

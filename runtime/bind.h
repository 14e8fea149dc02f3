/* Which tensor of a checkpoint goes where in this rank's weights: the list of all reads, made and
 * checked before any byte is read. Used by weights.c only. */
#ifndef SY_RUNTIME_BIND_H
#define SY_RUNTIME_BIND_H

#include "base/memory.h"
#include "runtime/weights.h"

/* How the codes of 4-bit integers lie in a file: rows of outputs, or (AWQ, GPTQ) rows of inputs. */
typedef enum sy_int4_order {
    SY_INT4_ROWS,
    SY_INT4_AWQ,
    SY_INT4_GPTQ,
    SY_INT4_GPTQ_V2
} sy_int4_order;

/* Output rows of a matrix within the tensors that hold it. Row r of the piece is stored row
 * row0 + r * row_step; `across` it is the other way round: input c of output r is value
 * row0 + r * row_step of stored row column0 + c. Quantised: scales, zero points and factor lie in
 * tensors of their own, whose rows are those of the codes, or of blocks of them. */
typedef struct sy_piece {
    uint64_t seed;                /* of dummy weights */
    const sy_tensor_entry *codes; /* NULL: dummy weights, BF16 */
    int64_t width;                /* values of a stored row */
    int64_t row0, row_step;
    bool across;
    int64_t column0;
    sy_dtype dtype; /* of the codes as a matrix names it */
    sy_quant quant;
    const sy_tensor_entry *scales, *zeros, *groups; /* groups: the group of each input (GPTQ) */
    bool has_single; /* `single` are the bytes of `scales`: one for the whole matrix */
    char single[4];
    sy_int4_order order;
    bool symmetric; /* GPTQ: all zero points are 8 */
    /* The file's scales are for blocks of 128 rows, which the piece cuts: the matrix has one for
     * each output. */
    bool spread;
    /* The stored row at which the rows of scales are counted from scale_row on: the first of an
     * expert, where experts are stacked. */
    int64_t base_row, scale_row;
} sy_piece;

/* One matrix part or vector to fill. Exactly one of matrix and vector is set. */
typedef struct sy_bind_item {
    sy_piece from;
    sy_matrix *matrix;
    int part;
    /* `from` is part 0 of the matrix and has a row_step of 2; part 1 is what lies between. Both are
     * filled, from one reading. */
    bool pair;
    float *vector;
    int64_t rows, columns; /* of a part; a vector has 1 column */
    bool routed;           /* belongs to a routed expert */
    float dummy;           /* what a dummy vector is filled with */
} sy_bind_item;

typedef struct sy_bind_list {
    sy_bind_item *item;
    size_t n, capacity;
} sy_bind_list;

/* Lays out `weights` (matrices, vectors, layers) in the arena: a measuring pass while its base
 * is NULL. With `list`, every matrix and vector is entered there. Checks presence, shape and
 * dtype of every tensor of the model, this rank's or not, and that none is left over. */
sy_status sy_bind(sy_backend *be,
                  const sy_model_spec *spec,
                  const sy_placement *placement,
                  int rank,
                  const sy_checkpoint *checkpoint,
                  sy_arena *arena,
                  sy_weights *weights,
                  sy_bind_list *list);

#endif

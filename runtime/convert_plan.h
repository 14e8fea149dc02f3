/* What a conversion writes, decided and laid out before any weight is read: which tensors, in which
 * shards, at which offsets, and from which tensors of the source. Used by convert*.c. */
#ifndef SY_RUNTIME_CONVERT_PLAN_H
#define SY_RUNTIME_CONVERT_PLAN_H

#include "runtime/bind.h"
#include "runtime/convert.h"
#include "runtime/safetensors_write.h"
#include "runtime/tensor_names.h"

/* Where a matrix goes. Its codes are one tensor, from out_row0 on; scales and factor are others, or
 * -1. `across`: BF16 that is stored [k, n]. */
typedef struct sy_convert_matrix {
    sy_piece from;
    int64_t n, k;
    sy_convert_format to;
    int codes, scales, factor; /* index into out[] */
    int64_t out_row0;
    bool across;
} sy_convert_matrix;

/* What is written in one go: a tensor as it is, or matrices that share an NVFP4 factor. */
typedef struct sy_convert_job {
    const sy_tensor_entry *copied; /* NULL: matrices */
    int out;                       /* of `copied` */
    int first, n;                  /* into matrix[] */
} sy_convert_job;

enum { SY_SHARD_NAME_CHARS = 64 };
typedef struct sy_convert_shard {
    char name[SY_SHARD_NAME_CHARS];
    int first_out, n_out; /* into out[] */
    int first_job, n_jobs;
    sy_shard_header header;
} sy_convert_shard;

typedef struct sy_convert_plan {
    const sy_model_spec *spec;       /* borrowed */
    const sy_checkpoint *checkpoint; /* borrowed */
    const sy_tensor_names *names;
    sy_tensor_prefix prefix;
    sy_convert_format to;
    bool all;

    sy_tensor_entry *out; /* the names are owned; `file` is the shard */
    sy_convert_matrix *matrix;
    sy_convert_job *job;
    sy_convert_shard *shard;
    int n_out, n_matrices, n_jobs, n_shards;
    int out_capacity, matrix_capacity, job_capacity;

    uint64_t bytes;            /* of all tensors written */
    int n_encoded;             /* matrices in the format asked for, kept ones too */
    int n_short_groups;        /* matrices whose rows end in a short group */
    int n_extra_layer_tensors; /* of layers for predicting several tokens: left out */
    char **plain;              /* modules of matrices that stay plain, in order */
    int n_plain, plain_capacity;
} sy_convert_plan;

sy_status sy_convert_plan_make(const sy_model_spec *spec,
                               const sy_checkpoint *checkpoint,
                               const sy_convert_options *options,
                               sy_convert_plan **out);
void sy_convert_plan_destroy(sy_convert_plan *plan); /* NULL is fine */

/* The list that a plan is made of; convert_plan.c and convert_tensors.c. */
sy_status sy_convert_add_out(sy_convert_plan *plan,
                             const char *name,
                             sy_dtype dtype,
                             int rank,
                             const int64_t *shape);
sy_status sy_convert_add_matrix(sy_convert_plan *plan, const sy_convert_matrix *matrix);
/* A job of the last n matrices. */
sy_status sy_convert_add_job(sy_convert_plan *plan, int n_matrices);
sy_status sy_convert_add_copy(sy_convert_plan *plan, const sy_tensor_entry *tensor);
sy_status sy_convert_add_plain(sy_convert_plan *plan, const char *module);

/* Enters all tensors, in the order in which they are written. convert_tensors.c */
sy_status sy_convert_list_tensors(sy_convert_plan *plan);

#endif

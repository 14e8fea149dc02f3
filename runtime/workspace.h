/* The buffers of a step: what flows between the steps of the forward pass. Taken once, from one
 * block of device memory sized by the limits of a step; nothing is allocated later. */
#ifndef SY_RUNTIME_WORKSPACE_H
#define SY_RUNTIME_WORKSPACE_H

#include "kernels/ops.h"
#include "runtime/spec.h"

/* Buffers of a step, all device memory from one block. T = limits.max_rows, P = max_pairs. */
typedef struct sy_workspace {
    float *x;        /* [T, H] residual stream                          */
    void *q;         /* [T, A*D] act                                    */
    void *attended;  /* [T, A*D] act                                    */
    void *xn;        /* [T, H] act, the normed input of the FFN         */
    int32_t *expert; /* [T, K]                                          */
    float *weight;   /* [T, K]                                          */
    void *h;         /* [P, F] act                                      */
    float *y;        /* [P, H] outputs of this rank's experts           */
    void *ffn_h;     /* [T, inter] act, dense FFN or shared expert      */
    float *ffn_y;    /* [T, H] its output                               */
    float *logits;   /* [max_outputs, V]                                */
    void *block;
    uint64_t bytes;
} sy_workspace;

/* Device bytes of the workspace, for the memory budget; UINT64_MAX on overflow. */
uint64_t sy_workspace_bytes(sy_backend *be,
                            const sy_model_spec *spec,
                            const sy_limits *limits,
                            int64_t max_outputs);
sy_status sy_workspace_create(sy_backend *be,
                              const sy_model_spec *spec,
                              const sy_limits *limits,
                              int64_t max_outputs,
                              sy_workspace *out);
void sy_workspace_free(sy_backend *be, sy_workspace *ws);

#endif

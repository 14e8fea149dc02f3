/* What the sampling kernel is told of a row's parameters: numbers that need no float64 and no
 * hash on the device. */
#ifndef SY_KERNELS_CUDA_DRAW_H
#define SY_KERNELS_CUDA_DRAW_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/ops.h"

#define SY_DRAW_ALL_MASS ((uint64_t)1 << 32)

typedef struct sy_draw {
    uint64_t top_p;    /* share of the mass to keep, in units of 2^-32; SY_DRAW_ALL_MASS: off */
    float temperature; /* 0: greedy */
    float min_p;       /* 0: off; at most 1 */
    int32_t top_k;     /* 0: off */
    uint32_t uniform;  /* sy_uniform of the row's key and position, in units of 2^-24 */
} sy_draw;

sy_draw sy_draw_of(const sy_sample_params *params);

#ifdef __cplusplus
}
#endif
#endif

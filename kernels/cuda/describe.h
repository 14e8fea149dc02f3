/* What a device is, before and without opening it. Plain C, like open.h. */
#ifndef SY_KERNELS_CUDA_DESCRIBE_H
#define SY_KERNELS_CUDA_DESCRIBE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct sy_cuda_facts {
    char name[96];
    uint64_t memory; /* bytes in all */
    bool integrated; /* shares the machine's memory */
} sy_cuda_facts;

sy_status sy_cuda_describe(int device, sy_cuda_facts *out);

#endif

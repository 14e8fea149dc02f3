/* Opening the CUDA backend. Plain C: who includes this needs no CUDA header. Only where the
 * program was built with CUDA, or with its emulation (SY_WITH_CUDA is defined then). */
#ifndef SY_KERNELS_CUDA_OPEN_H
#define SY_KERNELS_CUDA_OPEN_H

#include "kernels/device.h"

/* How many devices this process may use; 0, and why in sy_last_error, if none. */
int sy_cuda_device_count(void);

/* "0000:3b:00.0" of a device, for finding what is near it; buf of at least 16 bytes. */
sy_status sy_cuda_pci_bus_id(int device, char *buf, int buf_size);

/* The backend over one device. act must be SY_BF16. SY_ERR_UNSUPPORTED if there is no such device
 * or the program holds no code for it. Close with ops->close, after all its memory is freed. */
sy_status sy_cuda_open(sy_dtype act, int device, sy_backend **out);

/* Whether cuBLAS may make the dense products of steps with many rows, whose results then depend on
 * what else is in the step; off at first. Before ops->reserve. SY_ERR_UNSUPPORTED, and off, if
 * there is no cuBLAS. */
sy_status sy_cuda_set_fast(sy_backend *be, bool fast);

#endif

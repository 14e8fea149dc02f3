/* One warp per block runs an instruction of kernels/cuda/ptx.h on operands given lane by lane
 * (ptx.cu). All pointers are to device memory. */
#ifndef SY_EMULATION_PTX_KERNELS_H
#define SY_EMULATION_PTX_KERNELS_H

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ptx_mma_operands { /* of one lane */
    uint32_t a[4], b[2];
    float c[4];
} ptx_mma_operands;

/* c of each of the n * 32 lanes becomes the result. */
cudaError_t ptx_run_mma(int n, ptx_mma_operands *lanes);
/* rows [32][8]; lane l gives the address of row row_of[l]; out [32][4]. */
cudaError_t ptx_run_ldmatrix(int trans, const uint16_t *rows, const int *row_of, uint32_t *out);
/* Lane l copies valid[l] and valid[32 + l] bytes from from[16 l] and from[512 + 16 l] as two
 * groups. out [3][512]: group 0 after waiting for all but one, both after waiting for all. */
cudaError_t ptx_run_copies(const uint8_t *from, const int *valid, uint8_t *out);
cudaError_t ptx_run_to_bf16(int n, const float *x, uint16_t *out);
/* out[i]: of x[i] as float; lo, hi: of the two halves of x[i] | x[i + 1] << 16. */
cudaError_t ptx_run_from_bf16(int n, const uint16_t *x, float *out, float *lo, float *hi);
cudaError_t ptx_run_pack(int n, const float *lo, const float *hi, uint32_t *out);
/* out = a * b + c of two bf16 values each; [n]. */
cudaError_t ptx_run_fma_bf16x2(int n,
                               const uint32_t *a,
                               const uint32_t *b,
                               const uint32_t *c,
                               uint32_t *out);
cudaError_t ptx_run_exp2(int n, const float *x, float *out);
/* x, sum, max [n * 32]. */
cudaError_t ptx_run_warp(int n, const float *x, float *sum, float *max);
/* out [4][512]: 512 bytes moved by 16, by 16 as weights, by 8, and by 8 through shared memory. */
cudaError_t ptx_run_moves(const uint8_t *from, uint8_t *out);

#ifdef __cplusplus
}
#endif
#endif

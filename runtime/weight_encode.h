/* Weights from float32 into the formats that checkpoints publish.
 *
 * All functions take rows of k finite values, row-major, and write codes and scales as a file has
 * them. The results are a function of the values alone: they do not depend on how a matrix is cut
 * into rows, as long as FP8 is cut at multiples of SY_FP8_BLOCK. A group at the end of a row may
 * be short. Denormal float32 may count as zero. */
#ifndef SY_RUNTIME_WEIGHT_ENCODE_H
#define SY_RUNTIME_WEIGHT_ENCODE_H

#include <stdint.h>

enum { SY_FP8_BLOCK = 128, SY_MXFP4_GROUP = 32, SY_NVFP4_GROUP = 16, SY_Q8_GROUP = 32 };

/* Round to nearest, ties to the even code, beyond the largest value to that; NaN to 0x7f (E2M1
 * has none and must not be given one). */
uint8_t sy_e4m3_from_f32(float x); /* up to 448 */
uint8_t sy_e2m1_from_f32(float x); /* up to 6; the lower 4 bits */

/* Index of the first value that is NaN or infinite; -1 if there is none. */
int64_t sy_find_not_finite(const float *x, int64_t n);
/* Largest magnitude; 0 if n is 0. */
float sy_largest_magnitude(const float *x, int64_t n);

void sy_encode_bf16(const float *x, int64_t n, uint16_t *out);

/* One scale for 128 x 128 values, its largest magnitude / 448; 1 for a block of zeros.
 * codes [n_rows, k]; scales [ceil(n_rows / 128), ceil(k / 128)]. */
void sy_encode_fp8(const float *x, int64_t n_rows, int64_t k, uint8_t *codes, float *scales);

/* One scale for 32 values: of the two powers of two between which the largest value reaches E2M1's
 * largest, that with the smaller sum of squared errors, the lower on ties. Groups of zeros have
 * scale byte 0, others at least 1. codes [n_rows, ceil(k / 2)], the first of two in the lower half;
 * scales [n_rows, ceil(k / 32)], E8M0. */
void sy_encode_mxfp4(const float *x,
                     int64_t n_rows,
                     int64_t k,
                     uint8_t *codes,
                     uint8_t *scales);

/* The scale of a whole NVFP4 matrix, 448 * 6 / largest magnitude: a weight is
 * value(code) * scale / global. 1 if all are zero. */
float sy_nvfp4_global(float largest);
/* One scale in E4M3 for 16 values, their largest magnitude * global / 6, at least 2^-9; 1 for a
 * group of zeros. codes as with MXFP4; scales [n_rows, ceil(k / 16)]. */
void sy_encode_nvfp4(const float *x,
                     int64_t n_rows,
                     int64_t k,
                     float global,
                     uint8_t *codes,
                     uint8_t *scales);

/* One scale in BF16 for 32 values, their largest magnitude / 127 rounded to nearest; 0 for a group
 * of zeros. Codes -127 to 127 are rounded for the scale as stored, ties to even. codes [n_rows, k];
 * scales [n_rows, ceil(k / 32)]. */
void sy_encode_q8(const float *x, int64_t n_rows, int64_t k, int8_t *codes, uint16_t *scales);

#endif

/* Quantised weights as plain numbers, one by one: for the few that are not computed on in their
 * own format, and for turning one format into another. */
#ifndef SY_RUNTIME_WEIGHT_DECODE_H
#define SY_RUNTIME_WEIGHT_DECODE_H

#include "kernels/ops.h"

/* Bytes of a stored row of k codes; UINT64_MAX on overflow. */
uint64_t sy_code_row_bytes(sy_dtype dtype, int64_t k);
/* Scales of a row of k codes. */
int64_t sy_scales_of_row(const sy_quant *quant, int64_t k);

/* Element i of float values in F32, F16, BF16, F8_E8M0 or F8_E4M3, at any alignment. */
float sy_value_at(sy_dtype dtype, const void *values, int64_t i);

/* out [n_rows, k] = the weights of the rows of `source`, the first of which is output row0 of the
 * part: value(code) * scale rounded once, then the factor, rounded once. Plain dtypes are widened. */
void sy_weight_decode(const sy_weight_source *source,
                      const sy_quant *quant,
                      int64_t row0,
                      int64_t n_rows,
                      int64_t k,
                      float *out);

#endif

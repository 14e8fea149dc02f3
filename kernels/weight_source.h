/* What pack refuses of quantised weights, before it touches the matrix; the same for all backends. */
#ifndef SY_KERNELS_WEIGHT_SOURCE_H
#define SY_KERNELS_WEIGHT_SOURCE_H

#include "kernels/ops.h"

/* Rows [row0, row0 + n_rows) of a part and the factor of the part: see sy_ops.pack. Scales and zero
 * points are looked through in groups of SY_PACK_ROWS rows, scales first, and the first fault is
 * named. */
sy_status sy_check_quantised(const sy_matrix *m,
                             int part,
                             int64_t row0,
                             int64_t n_rows,
                             const sy_weight_source *src);

#endif

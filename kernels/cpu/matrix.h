/* Where the elements of a matrix that is not quantised lie.
 *
 * It is [panels][parts] panels, each [K/2][64][2] of 2-byte or [K][64] of 4-byte weights; outputs
 * beyond n and the second half of an odd last pair are zero. */
#ifndef SY_KERNELS_CPU_MATRIX_H
#define SY_KERNELS_CPU_MATRIX_H

#include "base/checked.h"
#include "kernels/cpu/cpu.h"

static inline int64_t sy_element_bytes(const sy_matrix *m) {
    return m->dtype == SY_F32 ? 4 : 2;
}

static inline int64_t sy_panel_elements(const sy_matrix *m) {
    return (m->dtype == SY_F32 ? m->k : sy_round_up(m->k, 2)) * SY_PANEL;
}

/* Where K index k of a stored panel begins; k is even. */
static inline char *sy_panel_at(const sy_matrix *m, int64_t panel, int64_t k) {
    int64_t at = panel * sy_panel_elements(m) + k * SY_PANEL;
    return (char *)m->data + at * sy_element_bytes(m);
}

/* x[0..n) = elements [k, k + n) of an output of a one-part matrix of any kind, widened. */
void sy_cpu_matrix_row(const sy_matrix *m, int64_t row, int64_t k, int64_t n, float *x);

#endif

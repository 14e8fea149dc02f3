/* Quantised panels: their layout, and the product over one of them.
 *
 * A panel holds 64 outputs of one part, scale group after scale group of K. Behind the codes of a
 * group stand its scales and zero points, so that a panel is read as one forward stream.
 *
 *   8 bit  a pair of K is 128 bytes, [2][4][2][4][2]: block b, lane l, half h, output j, element q
 *          is output 32 b + 16 h + 4 l + j. Interleaving the low halves of all 16-byte lanes with
 *          their decoded upper bytes then gives 16 outputs in order, the high halves 16 more.
 *   4 bit  eight of K are 256 bytes, [64 outputs][2] words of 16 bits: 4-bit field i of word
 *          (o, q) is element 8 b + 2 i + q, so that a shift by 4 i gives pair i of each output.
 *   scales 64 in the file's type, or one where the outputs share it; padded to 64 bytes
 *   zeros  64 bytes, if the matrix has them
 *
 * K is padded to whole pairs, or eights, with codes of value 0. Outputs beyond n have zeros in all
 * places but that of the zero point. */
#ifndef SY_KERNELS_CPU_QUANT_H
#define SY_KERNELS_CPU_QUANT_H

#include "base/checked.h"
#include "kernels/cpu/cpu.h"

typedef struct sy_quant_layout {
    int64_t unit;     /* K elements that are stored together: 2 of 8 bits, 8 of 4 */
    int64_t group;    /* K elements of a group; all of K, in whole units, where it has one */
    int64_t n_groups; /* the last may be shorter */
    int64_t scales_bytes;
    int64_t group_bytes; /* of a whole group: codes, scales, zero points */
    int64_t panel_bytes;
} sy_quant_layout;

/* Whether a code is a byte; else it has 4 bits. */
static inline bool sy_quant_is_8bit(sy_dtype codes) {
    return codes == SY_F8_E4M3 || codes == SY_I8;
}

/* Bytes of n elements of K of 64 outputs. */
static inline int64_t sy_quant_code_bytes(const sy_matrix *m, int64_t n) {
    return sy_quant_is_8bit(m->dtype) ? sy_round_up(n, 2) * SY_PANEL
                                      : sy_round_up(n, 8) * SY_PANEL / 2;
}

/* For matrices that sy_cpu_matrix_bytes accepts. */
static inline sy_quant_layout sy_quant_layout_of(const sy_matrix *m) {
    sy_quant_layout l = {.unit = sy_quant_is_8bit(m->dtype) ? 2 : 8};
    l.group = m->quant.group > 0 ? m->quant.group : sy_round_up(sy_max(m->k, 1), l.unit);
    l.n_groups = sy_ceil_div(m->k, l.group);
    int64_t n_scales = m->quant.outputs == 1 ? SY_PANEL : 1;
    l.scales_bytes = sy_round_up(n_scales * sy_dtype_bits(m->quant.scale) / 8, 64);
    int64_t behind = l.scales_bytes + (m->quant.zeros ? SY_PANEL : 0);
    l.group_bytes = sy_quant_code_bytes(m, l.group) + behind;
    int64_t rest = m->k % l.group;
    l.panel_bytes =
        m->k / l.group * l.group_bytes + (rest > 0 ? sy_quant_code_bytes(m, rest) + behind : 0);
    return l;
}

/* A group of a stored panel. */
typedef struct sy_quant_group {
    uint8_t *codes;
    void *scales;
    uint8_t *zeros; /* NULL without */
} sy_quant_group;

static inline sy_quant_group
sy_quant_group_at(const sy_matrix *m, const sy_quant_layout *l, int64_t panel, int64_t group) {
    sy_quant_group g;
    g.codes = (uint8_t *)m->data + panel * l->panel_bytes + group * l->group_bytes;
    g.scales = g.codes + sy_quant_code_bytes(m, sy_min(l->group, m->k - group * l->group));
    g.zeros = m->quant.zeros ? (uint8_t *)g.scales + l->scales_bytes : NULL;
    return g;
}

/* Scale i of an array of the file's type at any alignment, exact. */
float sy_quant_scale(sy_dtype dtype, const void *scales, int64_t i);

/* sy_cpu_panel of a quantised matrix, from a sum of 0. */
void sy_quant_panel(sy_cpu *cpu,
                    int thread,
                    const sy_panel_range *range,
                    int64_t rows,
                    const void *x,
                    int64_t ldx,
                    float *y,
                    int64_t ldy);

/* out[0..n) = weights [k, k + n) of output `row` of the first part: value * scale, then the
 * factor, each rounded once. */
void sy_quant_row(const sy_matrix *m, int64_t row, int64_t k, int64_t n, float *out);

/* pack of a quantised matrix, for rows within bounds. */
sy_status sy_quant_pack(const sy_matrix *m,
                        int part,
                        int64_t row0,
                        int64_t n_rows,
                        const sy_weight_source *src);

#endif

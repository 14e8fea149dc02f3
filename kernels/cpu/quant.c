/* The product over a quantised panel: a piece of K is unpacked to BF16, then multiplied like a
 * BF16 panel, scale group by scale group (kernels/ops.h, the order of sums). */
#include "kernels/cpu/quant.h"

#include <string.h>

/* A call of sy_quant_panel on its way over K. */
typedef struct walk {
    sy_cpu *cpu;
    sy_cpu_tiles *tiles;
    const sy_panel_range *range;
    sy_quant_layout layout;
    int64_t rows;
    const char *x;
    int64_t ldx, elem; /* of x: elements from row to row, bytes of one */
    float *y;
    int64_t ldy;
    int64_t from; /* K where tiles->unpacked begins; tiles->scales begins with its group */
} walk;

/* Codes [k, k + n) of a group as a BF16 panel; k is in whole units from the group's begin. */
static void unpack_group(const sy_cpu *cpu,
                         const sy_matrix *m,
                         sy_quant_group g,
                         int64_t k,
                         int64_t n,
                         uint16_t *to) {
    const sy_quant_kernels *quant = &cpu->isa->quant;
    const uint8_t *codes = g.codes + sy_quant_code_bytes(m, k);
    if (m->dtype == SY_F8_E4M3)
        quant->unpack_e4m3(sy_ceil_div(n, 2), codes, to);
    else if (m->dtype == SY_I8)
        quant->unpack_i8(sy_ceil_div(n, 2), codes, to);
    else if (m->dtype == SY_F4)
        quant->unpack_e2m1(sy_ceil_div(n, 8), (const void *)codes, to);
    else
        quant->unpack_u4(sy_ceil_div(n, 8), (const void *)codes, g.zeros, to);
}

static void unpack_piece(walk *w, int64_t begin, int64_t end) {
    const sy_matrix *m = w->range->m;
    const sy_quant_layout *l = &w->layout;
    w->from = begin / l->unit * l->unit;
    int64_t first = w->from / l->group;
    for (int64_t k = w->from; k < end;) {
        int64_t group = k / l->group, stop = sy_min((group + 1) * l->group, end);
        sy_quant_group g = sy_quant_group_at(m, l, w->range->panel, group);
        w->cpu->isa->quant.widen_scales(m->quant.scale, m->quant.outputs == 1, g.scales,
                                        w->tiles->scales[group - first]);
        unpack_group(w->cpu, m, g, k - group * l->group, stop - k,
                     w->tiles->unpacked + (k - w->from) * SY_PANEL);
        k = stop;
    }
}

static const float *scales_of(const walk *w, int64_t k) {
    return w->tiles->scales[k / w->layout.group - w->from / w->layout.group];
}

/* One chain over unpacked K [k, k + n), n even, for rows of x that begin at `x`. */
static void chain(const walk *w,
                  int64_t k,
                  int64_t n,
                  int64_t rows,
                  const void *x,
                  int64_t ldx,
                  float *y,
                  int64_t ldy,
                  bool first) {
    const sy_gemm_kernels *gemm = &w->cpu->isa->gemm;
    const uint16_t *panel = w->tiles->unpacked + (k - w->from) * SY_PANEL;
    if (w->elem == 4)
        gemm->bf16_f32(rows, panel, x, ldx, n / 2, y, ldy, first);
    else
        gemm->bf16_bf16(rows, panel, x, ldx, n / 2, y, ldy, first);
}

/* The same over [k, end) for at most SY_LEAF_ROWS rows from `row` on; of an odd last pair, x is
 * copied beside a zero. */
static void chain_to(const walk *w,
                     int64_t k,
                     int64_t end,
                     int64_t row,
                     int64_t rows,
                     float *y,
                     int64_t ldy,
                     bool first) {
    int64_t even = (end - k) / 2 * 2;
    const char *x = w->x + (row * w->ldx + k) * w->elem;
    chain(w, k, even, rows, x, w->ldx, y, ldy, first);
    if (even == end - k) return;
    char *pair = (char *)w->tiles->copy;
    for (int64_t r = 0; r < rows; r++, pair += 2 * w->elem) {
        memcpy(pair, x + (r * w->ldx + even) * w->elem, (size_t)w->elem);
        memset(pair + w->elem, 0, (size_t)w->elem);
    }
    chain(w, k + even, 2, rows, w->tiles->copy, 2, y, ldy, false);
}

/* y = (first ? 0 : y) + scale * chain over [k, end), which lies in one group. */
static void add_group(const walk *w, int64_t k, int64_t end, bool first) {
    float *sum = w->tiles->group_sum;
    for (int64_t row = 0; row < w->rows; row += SY_LEAF_ROWS) {
        int64_t rows = sy_min(w->rows - row, SY_LEAF_ROWS);
        chain_to(w, k, end, row, rows, sum, SY_PANEL, true);
        w->cpu->isa->quant.add_scaled(rows, sum, SY_PANEL, scales_of(w, k), w->y + row * w->ldy,
                                      w->ldy, first);
    }
}

/* Unpacked K [k, end): a group that the range cuts, whole groups, and one that ends oddly. */
static void add_groups(const walk *w, int64_t k, int64_t end, bool first) {
    const sy_quant_kernels *quant = &w->cpu->isa->quant;
    int64_t group = w->layout.group;
    if (k % group != 0) {
        int64_t stop = sy_min(end, (k / group + 1) * group);
        add_group(w, k, stop, first);
        first = false;
        k = stop;
    }
    int64_t even_end = (end - k) % 2 == 0 ? end : (end - 1) / group * group;
    if (k < even_end) {
        const uint16_t *panel = w->tiles->unpacked + (k - w->from) * SY_PANEL;
        const void *x = w->x + k * w->elem;
        int64_t pairs = (even_end - k) / 2;
        if (w->elem == 4)
            quant->groups_f32(w->rows, panel, x, w->ldx, pairs, group / 2, scales_of(w, k),
                              w->y, w->ldy, first);
        else
            quant->groups_bf16(w->rows, panel, x, w->ldx, pairs, group / 2, scales_of(w, k),
                               w->y, w->ldy, first);
        first = false;
        k = even_end;
    }
    if (k < end) add_group(w, k, end, first);
}

/* y = y * factor or y / factor, where the part has one. */
static void apply_factor(const walk *w) {
    const sy_matrix *m = w->range->m;
    float f = m->quant.factor[w->range->panel % m->parts];
    if (m->quant.use_factor == SY_FACTOR_NONE) return;
    for (int64_t r = 0; r < w->rows; r++)
        for (int64_t o = 0; o < SY_PANEL; o++) {
            float *y = &w->y[r * w->ldy + o];
            *y = m->quant.use_factor == SY_FACTOR_TIMES ? *y * f : *y / f;
        }
}

/* The chain of the only group over a piece goes straight to y. */
static void add_to_chain(const walk *w, int64_t k, int64_t end, bool first) {
    for (int64_t row = 0; row < w->rows; row += SY_LEAF_ROWS)
        chain_to(w, k, end, row, sy_min(w->rows - row, SY_LEAF_ROWS), w->y + row * w->ldy,
                 w->ldy, first);
}

/* Adds the groups of the range that can be taken straight from the codes; returns where they end.
 * Left over is a last group that ends oddly, or is cut by the range. */
static int64_t add_direct(const walk *w, bool one_group) {
    const sy_matrix *m = w->range->m;
    const sy_quant_layout *l = &w->layout;
    int64_t begin = w->range->begin, stop = w->range->end, unit = l->unit;
    const sy_quant_kernels *quant = &w->cpu->isa->quant;
    bool too_many = sy_quant_is_8bit(m->dtype) && w->rows > quant->direct_rows_8bit;
    if (quant->direct_bf16 == NULL || too_many || w->elem != 2 ||
        begin % (one_group ? unit : l->group) != 0)
        return begin;
    bool whole =
        (stop - begin) % unit == 0 && (stop == m->k || one_group || stop % l->group == 0);
    if (!whole) stop = one_group ? begin : stop / l->group * l->group;
    if (stop <= begin) return begin;
    sy_quant_group g = sy_quant_group_at(m, l, w->range->panel, begin / l->group);
    sy_quant_run run = {.codes_dtype = m->dtype,
                        .codes = g.codes + sy_quant_code_bytes(m, begin % l->group),
                        .k = stop - begin,
                        .group = l->group,
                        .group_bytes = l->group_bytes,
                        .scales = {.dtype = m->quant.scale,
                                   .each = m->quant.outputs == 1,
                                   .at = one_group ? g.scales : NULL},
                        .has_zeros = m->quant.zeros,
                        .zeros = one_group ? g.zeros : NULL,
                        .zeros_behind = l->scales_bytes};
    quant->direct_bf16(w->rows, &run, (const void *)(w->x + begin * w->elem), w->ldx, w->y,
                       w->ldy, true);
    return stop;
}

void sy_quant_panel(sy_cpu *cpu,
                    int thread,
                    const sy_panel_range *range,
                    int64_t rows,
                    const void *x,
                    int64_t ldx,
                    float *y,
                    int64_t ldy) {
    const sy_matrix *m = range->m;
    walk w = {.cpu = cpu,
              .tiles = &cpu->tiles[thread],
              .range = range,
              .layout = sy_quant_layout_of(m),
              .rows = rows,
              .x = x,
              .ldx = ldx,
              .elem = sy_act_bytes(&cpu->base),
              .y = y,
              .ldy = ldy};
    bool one_group = m->quant.group == 0;
    if (range->begin >= range->end)
        for (int64_t r = 0; r < rows; r++)
            memset(y + r * ldy, 0, SY_PANEL * sizeof *y);
    int64_t direct = add_direct(&w, one_group);
    for (int64_t k = direct, end; k < range->end; k = end) {
        end = sy_min((k / SY_UNPACK_K + 1) * SY_UNPACK_K, range->end);
        unpack_piece(&w, k, end);
        if (one_group)
            add_to_chain(&w, k, end, k == range->begin);
        else
            add_groups(&w, k, end, k == range->begin);
    }
    if (one_group && direct < range->end)
        cpu->isa->quant.add_scaled(rows, y, ldy, w.tiles->scales[0], y, ldy, true);
    apply_factor(&w);
}

/* Value of the code of (output lane, K i of the group), before the scale. */
static float code_value(const sy_matrix *m, sy_quant_group g, int64_t lane, int64_t i) {
    if (sy_quant_is_8bit(m->dtype)) {
        int64_t block = lane / 32, half = lane / 16 % 2, quad = lane / 4 % 4, j = lane % 4;
        int64_t at = i / 2 * 128 + block * 64 + quad * 16 + half * 8 + j * 2 + i % 2;
        return m->dtype == SY_I8 ? (float)(int8_t)g.codes[at] : sy_f32_from_e4m3(g.codes[at]);
    }
    uint16_t word;
    memcpy(&word, g.codes + i / 8 * 256 + lane * 4 + i % 2 * 2, sizeof word);
    uint8_t code = word >> i % 8 / 2 * 4 & 15;
    if (m->dtype == SY_F4) return sy_f32_from_e2m1(code);
    return (float)(code - (g.zeros != NULL ? g.zeros[lane] : 8));
}

void sy_quant_row(const sy_matrix *m, int64_t row, int64_t k, int64_t n, float *out) {
    sy_quant_layout l = sy_quant_layout_of(m);
    int64_t lane = row % SY_PANEL, panel = row / SY_PANEL * m->parts;
    float factor = m->quant.factor[0];
    for (int64_t i = 0; i < n; i++) {
        int64_t group = (k + i) / l.group;
        sy_quant_group g = sy_quant_group_at(m, &l, panel, group);
        float scale =
            sy_quant_scale(m->quant.scale, g.scales, m->quant.outputs == 1 ? lane : 0);
        float w = code_value(m, g, lane, k + i - group * l.group) * scale;
        if (m->quant.use_factor == SY_FACTOR_TIMES) w *= factor;
        if (m->quant.use_factor == SY_FACTOR_OVER) w /= factor;
        out[i] = w;
    }
}

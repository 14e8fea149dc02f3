/* k_up and v_up of a head as rows that the latents of a page are multiplied with: a row for each
 * of the nope values of a key, which is a column of k_up, and for each value, which is a row of
 * v_up. */
#include <string.h>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/matrix.h"

/* Element k of the first n outputs of a panel, one behind the other. */
static void put_outputs(const sy_matrix *m,
                        bool narrow,
                        const char *panel,
                        int64_t k,
                        int64_t n,
                        char *to) {
    if (m->dtype == SY_F32) {
        memcpy(to, panel + k * SY_PANEL * 4, (size_t)n * 4);
        return;
    }
    const uint16_t *codes =
        (const uint16_t *)(const void *)panel + k / 2 * 2 * SY_PANEL + k % 2;
    uint16_t *to16 = (uint16_t *)(void *)to;
    float *wide = (float *)(void *)to;
    for (int64_t j = 0; narrow && j < n; j++)
        to16[j] = codes[2 * j];
    for (int64_t j = 0; !narrow && j < n; j++)
        wide[j] = sy_f32_from_bf16(codes[2 * j]);
}

/* Words of 4 bytes, a pair of BF16 or a float32, of the first n outputs of a panel to a row each,
 * in blocks of a cache line. */
static void
put_words(int64_t n, int64_t words, const char *panel, char *to, int64_t row_bytes) {
    enum { BLOCK = 16 };
    for (int64_t k = 0; k < words; k += BLOCK)
        for (int64_t r = 0; r < n; r++)
            for (int64_t i = k; i < sy_min(k + BLOCK, words); i++)
                memcpy(to + r * row_bytes + 4 * i, panel + 4 * (i * SY_PANEL + r), 4);
}

static void
put_widened(int64_t n, int64_t pairs, const uint16_t *panel, float *to, int64_t row) {
    enum { BLOCK = 8 };
    for (int64_t k = 0; k < pairs; k += BLOCK)
        for (int64_t r = 0; r < n; r++)
            for (int64_t i = k; i < sy_min(k + BLOCK, pairs); i++) {
                const uint16_t *pair = panel + (i * SY_PANEL + r) * 2;
                to[r * row + 2 * i] = sy_f32_from_bf16(pair[0]);
                to[r * row + 2 * i + 1] = sy_f32_from_bf16(pair[1]);
            }
}

/* Rows of any kind of weight, element by element. */
static void put_any(const sy_matrix *k_up, const sy_matrix *v_up, float *to, int64_t row) {
    float line[SY_PANEL];
    int64_t c = v_up->k;
    for (int64_t j = 0; j < c; j++)
        for (int64_t k = 0; k < k_up->k; k += SY_PANEL) {
            int64_t n = sy_min(k_up->k - k, SY_PANEL);
            sy_cpu_matrix_row(k_up, j, k, n, line);
            for (int64_t i = 0; i < n; i++)
                to[(k + i) * row + j] = line[i];
        }
    to += k_up->k * row;
    for (int64_t i = 0; i < v_up->n; i++)
        sy_cpu_matrix_row(v_up, i, 0, c, to + i * row);
}

static void
put_panels(const sy_matrix *k_up, const sy_matrix *v_up, bool narrow, char *to, int64_t row) {
    int64_t row_bytes = row * (narrow ? 2 : 4), c = v_up->k;
    for (int64_t p = 0; p < sy_cpu_panels(k_up); p++) {
        int64_t n = sy_min(c - p * SY_PANEL, SY_PANEL);
        char *column = to + p * SY_PANEL * (narrow ? 2 : 4);
        for (int64_t k = 0; k < k_up->k; k++)
            put_outputs(k_up, narrow, sy_panel_at(k_up, p, 0), k, n, column + k * row_bytes);
    }
    to += k_up->k * row_bytes;
    for (int64_t p = 0; p < sy_cpu_panels(v_up); p++, to += SY_PANEL * row_bytes) {
        int64_t n = sy_min(v_up->n - p * SY_PANEL, SY_PANEL);
        const char *panel = sy_panel_at(v_up, p, 0);
        if (narrow || v_up->dtype == SY_F32)
            put_words(n, narrow ? row / 2 : c, panel, to, row_bytes);
        else
            put_widened(n, row / 2, (const void *)panel, (float *)(void *)to, row);
    }
}

void sy_naive_rows(const sy_matrix *k_up, const sy_matrix *v_up, bool narrow, void *to) {
    int64_t c = v_up->k, row = sy_round_up(c, 2), rows = k_up->k + v_up->n;
    bool panels =
        (k_up->dtype == SY_BF16 || k_up->dtype == SY_F32) && v_up->dtype == k_up->dtype;
    if (panels)
        put_panels(k_up, v_up, narrow, to, row);
    else
        put_any(k_up, v_up, to, row);
    for (int64_t r = 0; r < rows && c < row; r++) {
        if (narrow)
            ((uint16_t *)to)[r * row + c] = 0;
        else
            ((float *)to)[r * row + c] = 0;
    }
}

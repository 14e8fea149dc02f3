#include "runtime/weight_dummy.h"

#include <string.h>

#include "base/hash.h"
#include "runtime/weight_decode.h"
#include "runtime/weight_read.h"

static uint64_t draw(uint64_t key, int64_t i) {
    return sy_mix64(key + (uint64_t)i * 0x9e3779b97f4a7c15u);
}

/* Uniform in +-sqrt(3 / columns). One mix per element: this fills gigabytes. */
static void make_bf16(uint64_t key, int64_t first, int64_t n, int64_t columns, uint16_t *out) {
    float scale = 2 * __builtin_sqrtf(3.0f / (float)columns);
    for (int64_t i = 0; i < n; i++) {
        float u = (float)(draw(key, first + i) >> 40);
        out[i] = sy_bf16_from_f32((u * 0x1p-24f - 0.5f) * scale);
    }
}

/* Norms are what `dummy` says; biases, for which it says 0, are drawn from +-1/2. */
static void
make_vector(const sy_bind_item *item, uint64_t key, int64_t row0, int64_t n, uint16_t *out) {
    for (int64_t i = 0; i < n; i++) {
        int64_t at = item->from.row0 + (row0 + i) * item->from.row_step;
        float u = (float)(draw(key, at) >> 40) * 0x1p-24f;
        out[i] = sy_bf16_from_f32(item->dummy != 0 ? item->dummy : u - 0.5f);
    }
}

/* Bytes drawn eight at a time; of E4M3 without NaN. */
static void
make_codes(uint64_t key, uint64_t first, uint64_t n, bool e4m3, unsigned char *out) {
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = first + i;
        unsigned char code = (unsigned char)(draw(key, (int64_t)(at / 8)) >> (at % 8 * 8));
        out[i] = e4m3 && (code & 0x7f) == 0x7f ? code ^ 1 : code;
    }
}

/* Root of the mean square of evenly drawn codes. */
static float spread_of(sy_dtype codes) {
    double sum = 0;
    int n = codes == SY_F8_E4M3 || codes == SY_I8 ? 256 : 16;
    for (int c = 0; c < n; c++) {
        float x = codes == SY_F4 ? sy_f32_from_e2m1((uint8_t)c) : (float)(c - n / 2);
        if (codes == SY_F8_E4M3)
            x = sy_f32_from_e4m3((uint8_t)((c & 0x7f) == 0x7f ? c ^ 1 : c));
        sum += (double)x * (double)x;
    }
    return __builtin_sqrtf((float)(sum / n));
}

static float wanted_scale(sy_dtype codes, int64_t k) {
    return 1.0f / (__builtin_sqrtf((float)k) * spread_of(codes));
}

/* E4M3 scales are 1, and the factor says the rest. */
float sy_weight_dummy_factor(sy_dtype codes, const sy_quant *quant, int64_t k) {
    float scale = wanted_scale(codes, k);
    if (quant->use_factor == SY_FACTOR_TIMES) return scale;
    return quant->use_factor == SY_FACTOR_OVER ? 1.0f / scale : 1.0f;
}

/* A scale in one of the dtypes that weight_format.c gives to made-up weights. */
static void put_scale(sy_dtype dtype, float scale, unsigned char *out) {
    uint16_t half;
    switch (dtype) {
    case SY_F32:
        memcpy(out, &scale, sizeof scale);
        break;
    case SY_BF16:
        half = sy_bf16_from_f32(scale);
        memcpy(out, &half, sizeof half);
        break;
    case SY_F8_E8M0:
        *out = (unsigned char)(sy_bits_from_f32(scale) >> 23);
        break;
    default: /* E4M3 */
        *out = 0x38;
    }
}

static void make_scales(const sy_bind_item *item, int64_t n_rows, unsigned char *out) {
    const sy_quant *quant = &item->from.quant;
    size_t size = (size_t)sy_dtype_bits(quant->scale) / 8;
    float scale = wanted_scale(item->from.dtype, item->columns);
    int64_t rows = quant->outputs == 0 ? 1 : n_rows; /* enough for blocks too */
    int64_t n = rows * sy_scales_of_row(quant, item->columns);
    for (int64_t i = 0; i < n; i++)
        put_scale(quant->scale, scale, out + (size_t)i * size);
}

void sy_weight_dummy(const sy_bind_item *item,
                     uint64_t seed,
                     int64_t row0,
                     int64_t n_rows,
                     char *slot,
                     sy_weight_source *out) {
    const sy_piece *from = &item->from;
    uint64_t key = sy_hash_add(seed, from->seed);
    sy_weight_slot map = sy_weight_map(item, n_rows);
    *out = (sy_weight_source){.dtype = from->dtype, .codes = slot};
    if (item->vector != NULL) {
        make_vector(item, key, row0, n_rows, (uint16_t *)(void *)slot);
    } else if (sy_is_quantised(from->dtype)) {
        uint64_t row = sy_code_row_bytes(from->dtype, item->columns);
        make_codes(key, (uint64_t)row0 * row, (uint64_t)n_rows * row, from->dtype == SY_F8_E4M3,
                   (unsigned char *)slot);
        make_scales(item, n_rows, (unsigned char *)slot + map.scales);
        out->scales = slot + map.scales;
        if (!from->quant.zeros) return;
        out->zeros = (uint8_t *)slot + map.zeros;
        memset(slot + map.zeros, 8,
               (size_t)(n_rows * sy_scales_of_row(&from->quant, item->columns)));
    } else {
        make_bf16(key, row0 * item->columns, n_rows * item->columns, item->columns,
                  (uint16_t *)(void *)slot);
    }
}

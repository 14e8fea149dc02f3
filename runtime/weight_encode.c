#include "runtime/weight_encode.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/dtype.h"

#define E4M3_MAX 448.0f
#define E2M1_MAX 6.0f

/* Adding this to a magnitude below 2^22 leaves a whole number, rounded to nearest even. */
#define WHOLE 0x1.8p23f

uint8_t sy_e4m3_from_f32(float x) {
    uint32_t bits = sy_bits_from_f32(x);
    uint8_t sign = (uint8_t)(bits >> 24 & 0x80u);
    float a = fabsf(x);
    if (!(a <= E4M3_MAX)) return isnan(x) ? 0x7f : (uint8_t)(sign | 0x7e);
    /* Below 2^-6 all values are multiples of 2^-9; a rounding up to 2^-6 gives its code. */
    if (a < 0x1p-6f) return (uint8_t)(sign | (uint8_t)lrintf(a * 0x1p9f));
    /* Three bits of mantissa stay; a carry runs into the exponent, whose bias becomes 7. */
    uint32_t u = bits & 0x7fffffffu;
    u += 0x7ffffu + (u >> 20 & 1u);
    return (uint8_t)(sign | (uint8_t)((u >> 20) - (120u << 3)));
}

/* The magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6 have the codes 0 to 7; a tie goes to the even one. */
static inline int e2m1_magnitude(float a) {
    return (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) +
           (a > 5.0f);
}

uint8_t sy_e2m1_from_f32(float x) {
    return (uint8_t)(e2m1_magnitude(fabsf(x)) | (signbit(x) ? 8 : 0));
}

int64_t sy_find_not_finite(const float *x, int64_t n) {
    for (int64_t begin = 0; begin < n; begin += 1024) {
        int64_t end = sy_min(begin + 1024, n);
        uint32_t found = 0;
        for (int64_t i = begin; i < end; i++)
            found |= (sy_bits_from_f32(x[i]) & 0x7f800000u) == 0x7f800000u;
        for (int64_t i = begin; found != 0 && i < end; i++)
            if (!isfinite(x[i])) return i;
    }
    return -1;
}

/* Magnitudes are ordered like their bits. */
float sy_largest_magnitude(const float *x, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = sy_bits_from_f32(x[i]) & 0x7fffffffu;
        largest = u > largest ? u : largest;
    }
    return sy_f32_from_bits(largest);
}

void sy_encode_bf16(const float *x, int64_t n, uint16_t *out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = sy_bf16_from_f32(x[i]);
}

/* A scale that is no denormal: those may count as zero. */
static float normal_scale(float largest, float most) {
    if (largest == 0) return 1;
    float scale = largest / most;
    return scale < FLT_MIN ? FLT_MIN : scale;
}

static void encode_fp8_block(const float *x,
                             int64_t n_rows,
                             int64_t n_columns,
                             int64_t k,
                             uint8_t *codes,
                             float *out_scale) {
    float largest = 0;
    for (int64_t r = 0; r < n_rows; r++)
        largest = fmaxf(largest, sy_largest_magnitude(x + r * k, n_columns));
    float scale = normal_scale(largest, E4M3_MAX);
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t c = 0; c < n_columns; c++)
            codes[r * k + c] = sy_e4m3_from_f32(x[r * k + c] / scale);
    *out_scale = scale;
}

void sy_encode_fp8(const float *x, int64_t n_rows, int64_t k, uint8_t *codes, float *scales) {
    for (int64_t r = 0; r < n_rows; r += SY_FP8_BLOCK)
        for (int64_t c = 0; c < k; c += SY_FP8_BLOCK)
            encode_fp8_block(x + r * k + c, sy_min(SY_FP8_BLOCK, n_rows - r),
                             sy_min(SY_FP8_BLOCK, k - c), k, codes + r * k + c, scales++);
}

/* Two codes a byte. `first` is even. */
static void pack_e2m1(const uint8_t *code, int64_t n, uint8_t *out) {
    for (int64_t i = 0; i < n; i += 2)
        out[i / 2] = (uint8_t)(code[i] | (i + 1 < n ? code[i + 1] << 4 : 0));
}

/* Sum of squared errors, in ascending order, with scale 2^e; the codes are left in `code`. */
static double try_mxfp4(const float *x, int64_t n, int e, uint8_t *code) {
    static const double value[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    double up = ldexp(1, -e), down = ldexp(1, e), sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double a = fabs((double)x[i]);
        int magnitude = e2m1_magnitude((float)(a * up)); /* exact, but for what becomes 0 */
        double error = a - value[magnitude] * down;
        code[i] = (uint8_t)(magnitude | (signbit(x[i]) ? 8 : 0));
        sum += error * error;
    }
    return sum;
}

static uint8_t encode_mxfp4_group(const float *x, int64_t n, uint8_t *codes) {
    enum { BIAS = 127, EMAX = 2 }; /* 6 = 1.5 * 2^2 */
    uint8_t low[SY_MXFP4_GROUP] = {0}, high[SY_MXFP4_GROUP];
    float largest = sy_largest_magnitude(x, n);
    if (largest < FLT_MIN) {
        pack_e2m1(low, n, codes);
        return 0;
    }
    int e = ilogbf(largest) - EMAX;
    if (e < 1 - BIAS) e = 1 - BIAS;
    double of_low = try_mxfp4(x, n, e, low);
    bool higher = try_mxfp4(x, n, e + 1, high) < of_low;
    pack_e2m1(higher ? high : low, n, codes);
    return (uint8_t)(e + higher + BIAS);
}

void sy_encode_mxfp4(const float *x,
                     int64_t n_rows,
                     int64_t k,
                     uint8_t *codes,
                     uint8_t *scales) {
    for (int64_t r = 0; r < n_rows; r++) {
        for (int64_t c = 0; c < k; c += SY_MXFP4_GROUP)
            *scales++ = encode_mxfp4_group(x + c, sy_min(SY_MXFP4_GROUP, k - c), codes + c / 2);
        x += k;
        codes += sy_ceil_div(k, 2);
    }
}

float sy_nvfp4_global(float largest) {
    if (largest < FLT_MIN) return 1;
    float global = E4M3_MAX * E2M1_MAX / largest;
    return global > FLT_MAX ? FLT_MAX : global;
}

static uint8_t encode_nvfp4_group(const float *x, int64_t n, float global, uint8_t *codes) {
    enum { ONE = 0x38, SMALLEST = 0x01 };
    uint8_t code[SY_NVFP4_GROUP];
    float largest = sy_largest_magnitude(x, n);
    uint8_t scale = ONE;
    if (largest >= FLT_MIN) {
        scale = sy_e4m3_from_f32(largest / E2M1_MAX * global);
        if (scale < SMALLEST) scale = SMALLEST;
    }
    /* Groups of values in the float32 range times global: at most 448 * 6. */
    float divisor = sy_f32_from_e4m3(scale);
    for (int64_t i = 0; i < n; i++)
        code[i] = sy_e2m1_from_f32(x[i] * global / divisor);
    pack_e2m1(code, n, codes);
    return scale;
}

void sy_encode_nvfp4(const float *x,
                     int64_t n_rows,
                     int64_t k,
                     float global,
                     uint8_t *codes,
                     uint8_t *scales) {
    for (int64_t r = 0; r < n_rows; r++) {
        for (int64_t c = 0; c < k; c += SY_NVFP4_GROUP)
            *scales++ =
                encode_nvfp4_group(x + c, sy_min(SY_NVFP4_GROUP, k - c), global, codes + c / 2);
        x += k;
        codes += sy_ceil_div(k, 2);
    }
}

static uint16_t encode_q8_group(const float *x, int64_t n, int8_t *codes) {
    uint16_t stored = sy_bf16_from_f32(sy_largest_magnitude(x, n) / 127.0f);
    float scale = sy_f32_from_bf16(stored);
    if (scale == 0) {
        memset(codes, 0, (size_t)n);
        return 0;
    }
    for (int64_t i = 0; i < n; i++) {
        float whole = x[i] / scale + WHOLE - WHOLE;
        codes[i] = (int8_t)(whole > 127 ? 127 : whole < -127 ? -127 : whole);
    }
    return stored;
}

void sy_encode_q8(const float *x, int64_t n_rows, int64_t k, int8_t *codes, uint16_t *scales) {
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t c = 0; c < k; c += SY_Q8_GROUP) {
            *scales++ =
                encode_q8_group(x + r * k + c, sy_min(SY_Q8_GROUP, k - c), codes + r * k + c);
        }
}

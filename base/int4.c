#include "base/int4.h"

#include <string.h>

#include "base/checked.h"

static uint32_t word_at(const void *words, int64_t i) {
    uint32_t word;
    memcpy(&word, (const char *)words + 4 * i, sizeof word);
    return word;
}

static uint32_t field(uint32_t word, int i) {
    return word >> 4 * i & 15u;
}

/* AWQ: output 8 c + j of a word stands in field place[j]. */
static const int place_awq[8] = {0, 4, 1, 5, 2, 6, 3, 7};
static const int place_plain[8] = {0, 1, 2, 3, 4, 5, 6, 7};

static sy_status check_file(const sy_int4_file *f) {
    if (f->n <= 0 || f->k <= 0 || f->n % 8 != 0 || f->k % 8 != 0)
        return sy_fail(
            SY_ERR_FORMAT,
            "expected 4-bit weights with sizes in multiples of 8, found [%lld, %lld]",
            (long long)f->n, (long long)f->k);
    if (f->group <= 0 || f->k % f->group != 0)
        return sy_fail(SY_ERR_FORMAT,
                       "expected groups that divide the %lld inputs, found groups of %lld",
                       (long long)f->k, (long long)f->group);
    return SY_OK;
}

/* Scales and zero points [groups, n] to [n, groups]. */
static void turn_groups(const sy_int4_file *f, const int place[8], const sy_int4_rows *out) {
    int64_t groups = f->k / f->group, bytes = f->scale_bytes;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t o = 0; o < f->n; o++) {
            uint32_t word = word_at(f->zeros, g * (f->n / 8) + o / 8);
            uint32_t zero = field(word, place[o % 8]) + (f->zeros_less_one ? 1 : 0);
            out->zeros[o * groups + g] = (uint8_t)(zero & 15u);
            memcpy((char *)out->scales + (o * groups + g) * bytes,
                   (const char *)f->scales + (g * f->n + o) * bytes, (size_t)bytes);
        }
}

/* Inputs that are turned together: a cache line of each output's row. */
enum { TURN_INPUTS = 128 };

/* Eight inputs of eight outputs: word i holds input i, output j in its field place[j]. */
static void turn_eight(const void *words, int64_t at, int64_t stride, uint32_t out[8]) {
    for (int j = 0; j < 8; j++)
        out[j] = 0;
    for (int i = 0; i < 8; i++) {
        uint32_t word = word_at(words, at + i * stride);
        for (int j = 0; j < 8; j++)
            out[j] |= field(word, place_awq[j]) << 4 * i;
    }
}

sy_status sy_int4_from_awq(const sy_int4_file *f, const sy_int4_rows *out) {
    sy_status st = check_file(f);
    if (st != SY_OK) return st;
    int64_t row = f->n / 8;
    for (int64_t begin = 0; begin < f->k; begin += TURN_INPUTS)
        for (int64_t c = 0; c < row; c++)
            for (int64_t i = begin; i < sy_min(begin + TURN_INPUTS, f->k); i += 8) {
                uint32_t turned[8];
                turn_eight(f->codes, i * row + c, row, turned);
                for (int j = 0; j < 8; j++)
                    out->codes[(8 * c + j) * (f->k / 8) + i / 8] = turned[j];
            }
    turn_groups(f, place_awq, out);
    return SY_OK;
}

/* Each input in the group that its place says. */
static sy_status check_order(const sy_int4_file *f) {
    int64_t groups = f->k / f->group, odd = -1;
    for (int64_t i = 0; f->g_idx != NULL && i < f->k; i++) {
        int64_t g = (int32_t)word_at(f->g_idx, i);
        if (g < 0 || g >= groups)
            return sy_fail(SY_ERR_FORMAT, "g_idx of input %lld: expected 0 to %lld, found %lld",
                           (long long)i, (long long)groups - 1, (long long)g);
        if (g != i / f->group && odd < 0) odd = i;
    }
    if (odd >= 0)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "g_idx: input %lld is in another group than %lld; GPTQ weights with "
                       "desc_act are not implemented",
                       (long long)odd, (long long)(odd / f->group));
    return SY_OK;
}

sy_status sy_int4_from_gptq(const sy_int4_file *f, const sy_int4_rows *out) {
    sy_status st = SY_OK;
    SY_TRY(check_file(f));
    SY_TRY(check_order(f));
    int64_t eights = f->k / 8;
    for (int64_t begin = 0; begin < eights; begin += TURN_INPUTS / 8)
        for (int64_t o = 0; o < f->n; o++)
            for (int64_t r = begin; r < sy_min(begin + TURN_INPUTS / 8, eights); r++)
                out->codes[o * eights + r] = word_at(f->codes, r * f->n + o);
    turn_groups(f, place_plain, out);
done:
    return st;
}

void sy_int4_zeros_from_words(int64_t n, int64_t groups, const void *words, uint8_t *zeros) {
    for (int64_t o = 0; o < n; o++)
        for (int64_t g = 0; g < groups; g++)
            zeros[o * groups + g] =
                (uint8_t)field(word_at(words, o / 8 * groups + g), (int)(o % 8));
}

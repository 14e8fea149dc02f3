/* Codes of 8 bits to BF16 with the byte permutes of AVX-512 VBMI: both bytes of a BF16 are looked
 * up by the seven bits of a magnitude, the sign joins the upper one. Exact for all 256 codes. */
#define LOW_BYTE(code) (uint8_t)((code) << 4)
#define HIGH_BYTE(code) (uint8_t)(0x3c + ((code) >> 4))
#define SEVEN(X, code)                                                                         \
    X(code), X(code + 1), X(code + 2), X(code + 3), X(code + 4), X(code + 5), X(code + 6)
#define EIGHT(X, code) SEVEN(X, code), X(code + 7)
#define ORDINARY_CODES(X)                                                                      \
    EIGHT(X, 8), EIGHT(X, 16), EIGHT(X, 24), EIGHT(X, 32), EIGHT(X, 40), EIGHT(X, 48),         \
        EIGHT(X, 56), EIGHT(X, 64), EIGHT(X, 72), EIGHT(X, 80), EIGHT(X, 88), EIGHT(X, 96),    \
        EIGHT(X, 104), EIGHT(X, 112), SEVEN(X, 120)

static const _Alignas(64) uint8_t e4m3_low_byte[128] = {
    0, 0, 0x80, 0xc0, 0, 0x20, 0x40, 0x60, ORDINARY_CODES(LOW_BYTE), 0xc0};
static const _Alignas(64) uint8_t e4m3_high_byte[128] = {
    0, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, ORDINARY_CODES(HIGH_BYTE), 0x7f};

static inline void e4m3_to_bf16(__m512i codes, __m512i *low, __m512i *high) {
    __m512i lower = _mm512_permutex2var_epi8(_mm512_load_si512(e4m3_low_byte), codes,
                                             _mm512_load_si512(e4m3_low_byte + 64));
    __m512i upper = _mm512_permutex2var_epi8(_mm512_load_si512(e4m3_high_byte), codes,
                                             _mm512_load_si512(e4m3_high_byte + 64));
    /* upper | (codes & 0x80) */
    upper = _mm512_ternarylogic_epi32(upper, codes, _mm512_set1_epi8((char)0x80), 0xf8);
    *low = _mm512_unpacklo_epi8(lower, upper);
    *high = _mm512_unpackhi_epi8(lower, upper);
}

/* Of an integer m with its upper bit at 2^e: the seven bits below it, and the exponent e + 127,
 * whose lowest bit is the upper one of the low byte. */
#define ONE(X, m, e) X(m, e)
#define TWO(X, m, e) X(m, e), X(m + 1, e)
#define FOUR(X, m, e) TWO(X, m, e), TWO(X, m + 2, e)
#define OCTET(X, m, e) FOUR(X, m, e), FOUR(X, m + 4, e)
#define SIXTEEN(X, m, e) OCTET(X, m, e), OCTET(X, m + 8, e)
#define THIRTY_TWO(X, m, e) SIXTEEN(X, m, e), SIXTEEN(X, m + 16, e)
#define MAGNITUDES(X)                                                                          \
    ONE(X, 1, 0), TWO(X, 2, 1), FOUR(X, 4, 2), OCTET(X, 8, 3), SIXTEEN(X, 16, 4),              \
        THIRTY_TWO(X, 32, 5), THIRTY_TWO(X, 64, 6), THIRTY_TWO(X, 96, 6)
#define I8_LOW_BYTE(m, e) (uint8_t)(((m) << (7 - (e)) & 0x7f) | ((e) + 127) << 7)
#define I8_HIGH_BYTE(m, e) (uint8_t)(((e) + 127) >> 1)

static const _Alignas(64) uint8_t i8_low_byte[128] = {0, MAGNITUDES(I8_LOW_BYTE)};
static const _Alignas(64) uint8_t i8_high_byte[128] = {0x43, MAGNITUDES(I8_HIGH_BYTE)};

/* The seven bits of a magnitude of 0 are those of 128, too: entry 0 is for the latter. */
static inline void i8_to_bf16(__m512i codes, __m512i *low, __m512i *high) {
    __m512i magnitude = _mm512_abs_epi8(codes);
    __m512i lower = _mm512_permutex2var_epi8(_mm512_load_si512(i8_low_byte), magnitude,
                                             _mm512_load_si512(i8_low_byte + 64));
    __m512i upper = _mm512_maskz_permutex2var_epi8(_mm512_test_epi8_mask(codes, codes),
                                                   _mm512_load_si512(i8_high_byte), magnitude,
                                                   _mm512_load_si512(i8_high_byte + 64));
    /* upper | (codes & 0x80) */
    upper = _mm512_ternarylogic_epi32(upper, codes, _mm512_set1_epi8((char)0x80), 0xf8);
    *low = _mm512_unpacklo_epi8(lower, upper);
    *high = _mm512_unpackhi_epi8(lower, upper);
}

/* Cheap enough to decode anew for every tile of rows. */
#define QUANT_DIRECT_ROWS_8BIT INT64_MAX

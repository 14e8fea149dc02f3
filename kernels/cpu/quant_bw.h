/* Codes of 8 bits to BF16 with the words of AVX-512 BW. Of E4M3, exponent and fraction are moved to
 * their place, and the codes of denormals and NaN are mended. */
static inline __m512i bf16_of_upper_bytes(__m512i codes) {
    const __m512i small = /* code 0..7 times 2^-9 */
        _mm512_set4_epi64(0x3c603c403c203c00, 0x3bc03b803b000000, 0x3c603c403c203c00,
                          0x3bc03b803b000000);
    __mmask32 is_small = _mm512_testn_epi16_mask(codes, _mm512_set1_epi16(0x7800));
    __m512i magnitude = _mm512_and_si512(codes, _mm512_set1_epi16(0x7f00));
    __mmask32 is_nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f00));
    __m512i value =
        _mm512_add_epi16(_mm512_srli_epi16(magnitude, 4), _mm512_set1_epi16(0x3c00));
    value = _mm512_mask_permutexvar_epi16(value, is_small, _mm512_srli_epi16(codes, 8), small);
    value = _mm512_mask_mov_epi16(value, is_nan, _mm512_set1_epi16(0x7fc0));
    return _mm512_or_si512(value, _mm512_and_si512(codes, _mm512_set1_epi16((short)0x8000)));
}

static inline void e4m3_to_bf16(__m512i codes, __m512i *low, __m512i *high) {
    const __m512i zero = _mm512_setzero_si512();
    *low = bf16_of_upper_bytes(_mm512_unpacklo_epi8(zero, codes));
    *high = bf16_of_upper_bytes(_mm512_unpackhi_epi8(zero, codes));
}

/* Integers in the upper bytes of words: the upper half of the float32 that each is. */
static inline __m512i bf16_of_upper_integers(__m512i words) {
    __m512 even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 16), 24));
    __m512 odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(words, 24));
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(_mm512_castps_si512(even), 16),
                                   _mm512_castps_si512(odd));
}

static inline void i8_to_bf16(__m512i codes, __m512i *low, __m512i *high) {
    const __m512i zero = _mm512_setzero_si512();
    *low = bf16_of_upper_integers(_mm512_unpacklo_epi8(zero, codes));
    *high = bf16_of_upper_integers(_mm512_unpackhi_epi8(zero, codes));
}

/* One tile of rows: decoding twice is dearer than storing what was decoded. */
#define QUANT_DIRECT_ROWS_8BIT 5

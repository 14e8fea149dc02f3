/* Which instruction sets this CPU and its operating system offer, and the choice among them. */
#include "kernels/cpu/isa.h"

#include <stddef.h>
#include <string.h>

#include "base/dtype.h"
#include "base/hash.h"
#include "base/status.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

/* Bits of XCR0: the operating system saves xmm and ymm, and zmm with the mask registers. */
enum { XCR0_AVX = 0x06, XCR0_AVX512 = 0xe6 };

static uint32_t enabled_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool has_bits(uint32_t word, uint32_t bits) {
    return (word & bits) == bits;
}

/* 0 generic only, 1 AVX2, 2 AVX-512, 3 with BF16 and VBMI. Each level asks for every feature that
 * its file is compiled with (kernels/CMakeLists.txt), not for one that usually implies others. */
static int x86_level(void) {
    uint32_t a, b, c, d, ebx7, ecx7, eax71 = 0;
    const uint32_t fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const uint32_t avx2 = 1u << 5;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_bits(c, fma | osxsave | avx | f16c)) return 0;
    uint32_t state = enabled_state();
    if (!has_bits(state, XCR0_AVX) || !__get_cpuid_count(7, 0, &a, &ebx7, &ecx7, &d)) return 0;
    uint32_t subleaves = a;
    if (!has_bits(ebx7, avx2)) return 0;
    if (!has_bits(state, XCR0_AVX512) || !has_bits(ebx7, avx512)) return 1;
    if (subleaves >= 1) __get_cpuid_count(7, 1, &eax71, &b, &c, &d);
    const uint32_t bf16 = 1u << 5, vbmi = 1u << 1;
    return has_bits(eax71, bf16) && has_bits(ecx7, vbmi) ? 3 : 2;
}
#endif

/* Codes and starting sums of the check: of ordinary size, or such that products and sums lie on
 * both sides of the smallest normal number. */
static uint16_t check_code(uint32_t i, bool tiny) {
    uint64_t random = sy_mix64(i + (tiny ? 1000003u : 17u));
    uint32_t exponent = tiny ? 58 + (uint32_t)(random >> 20) % 10 : 120 + (random >> 20) % 16;
    return (uint16_t)((random & 0x807fu) | exponent << 7);
}

static float check_start(uint32_t i, bool tiny) {
    uint64_t random = sy_mix64(i + 90001u);
    uint32_t exponent =
        tiny ? (uint32_t)(random >> 40) % 4 : 124 + (uint32_t)(random >> 40) % 8;
    return sy_f32_from_bits((uint32_t)(random & 0x807fffffu) | exponent << 23);
}

static bool order_holds(const sy_gemm_kernels *kernels, bool tiny) {
    enum { ROWS = 4, K = 4 };
    _Alignas(64) uint16_t panel[K * SY_PANEL];
    uint16_t x[ROWS * K];
    float y[ROWS * SY_PANEL], expected[ROWS * SY_PANEL];
    for (uint32_t i = 0; i < K * SY_PANEL; i++)
        panel[i] = check_code(i, tiny);
    for (uint32_t i = 0; i < ROWS * K; i++)
        x[i] = check_code(5000 + i, tiny);
    for (uint32_t i = 0; i < ROWS * SY_PANEL; i++)
        y[i] = expected[i] = check_start(i, tiny);
    kernels->bf16_bf16(ROWS, panel, x, K, K / 2, y, SY_PANEL, false);
    sy_isa_generic.gemm.bf16_bf16(ROWS, panel, x, K, K / 2, expected, SY_PANEL, false);
    return memcmp(y, expected, sizeof y) == 0;
}

bool sy_cpu_order_holds(const sy_gemm_kernels *kernels) {
#if defined(__x86_64__)
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode |
               0x8040u); /* as in the pool: results and operands that are denormal are 0 */
#endif
    bool holds = order_holds(kernels, false) && order_holds(kernels, true);
#if defined(__x86_64__)
    _mm_setcsr(mode);
#endif
    return holds;
}

typedef struct candidate {
    const sy_cpu_isa *isa;
    const char *lacks; /* NULL: usable; else why not */
} candidate;

enum { MAX_CANDIDATES = 4 };

/* All tables of this build, the best first. */
static int list_candidates(candidate *out) {
    int n = 0;
#if defined(__x86_64__)
    int level = x86_level();
    const char *bf16_lacks = NULL;
    if (level < 3)
        bf16_lacks = "this CPU lacks AVX-512 BF16 and VBMI";
    else if (!sy_cpu_order_holds(&sy_isa_avx512bf16.gemm))
        bf16_lacks = "this CPU's vdpbf16ps adds in another order than the other tables";
    out[n++] = (candidate){&sy_isa_avx512bf16, bf16_lacks};
    out[n++] = (candidate){&sy_isa_avx512,
                           level < 2 ? "this CPU lacks AVX-512 F, BW, DQ and VL" : NULL};
    out[n++] =
        (candidate){&sy_isa_avx2, level < 1 ? "this CPU lacks AVX2, FMA and F16C" : NULL};
#elif defined(__aarch64__)
    out[n++] = (candidate){&sy_isa_neon, NULL};
#endif
    out[n++] = (candidate){&sy_isa_generic, NULL};
    return n;
}

const sy_cpu_isa *sy_cpu_isa_find(const char *name) {
    candidate all[MAX_CANDIDATES];
    int n = list_candidates(all);
    bool automatic = name == NULL || strcmp(name, "auto") == 0;
    for (int i = 0; i < n; i++) {
        if (automatic) {
            if (all[i].lacks == NULL) return all[i].isa;
        } else if (strcmp(name, all[i].isa->name) == 0) {
            if (all[i].lacks == NULL) return all[i].isa;
            sy_fail(SY_ERR_UNSUPPORTED, "instruction set %s: %s", name, all[i].lacks);
            return NULL;
        }
    }
    static const char *const known[] = {"generic", "avx2", "avx512", "avx512bf16", "neon"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i]) == 0) {
            sy_fail(SY_ERR_UNSUPPORTED, "instruction set %s: not one of this CPU's family",
                    name);
            return NULL;
        }
    }
    sy_fail(SY_ERR_UNSUPPORTED,
            "unknown instruction set '%s': expected auto, generic, avx2, avx512, avx512bf16 or "
            "neon",
            name);
    return NULL;
}

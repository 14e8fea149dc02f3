/* The functions that every kernel has without including anything. Included by device_code.h.
 *
 * Arithmetic is the host's: exact where the device's is (fmaf, sqrtf, the _rn forms), and as near
 * as the C library where the device approximates. */
#ifndef SY_EMULATED_DEVICE_INTRINSICS_H
#define SY_EMULATED_DEVICE_INTRINSICS_H

/* ---- barriers and fences ---- */

static inline void __syncthreads(EMU_AT) {
    emu_barrier(0, file, line);
}

static inline int __syncthreads_count(int predicate, EMU_AT) {
    return emu_barrier(predicate != 0, file, line);
}

static inline int __syncthreads_or(int predicate, EMU_AT) {
    return emu_barrier(predicate != 0, file, line) != 0;
}

static inline int __syncthreads_and(int predicate, EMU_AT) {
    return emu_barrier(predicate == 0, file, line) == 0;
}

static inline void emu_do_syncwarp(unsigned mask, void **) {
    emu_syncwarp_mark(mask);
}

static inline void __syncwarp(unsigned mask = ~0u, EMU_AT) {
    emu_warp(mask, emu_do_syncwarp, nullptr, file, line);
}

static inline void __threadfence(void) {
    emu_fence_mark();
}

static inline void __threadfence_block(void) {}

static inline void __trap(EMU_AT) {
    emu_fail("__trap", file, line);
}

/* ---- shuffles ---- */

template <class T> struct emu_shuffle_operands {
    T value, out;
    int source;
};

/* Of a lane outside the mask the result is undefined: here all ones, NaN as a float. */
template <class T> static void emu_do_shuffle(unsigned mask, void **arg) {
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        auto *to = (emu_shuffle_operands<T> *)arg[lane];
        if (mask >> to->source & 1)
            to->out = ((emu_shuffle_operands<T> *)arg[to->source])->value;
        else
            memset((void *)&to->out, 0xff, sizeof(T));
    }
}

template <class T>
static inline T emu_shuffle(unsigned mask, T value, int source, const char *file, int line) {
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8),
                  "shuffles take numbers of 4 or 8 bytes");
    emu_shuffle_operands<T> operands = {value, value, source};
    emu_warp(mask, emu_do_shuffle<T>, &operands, file, line);
    return operands.out;
}

/* The lanes of width w that this lane belongs to begin at emu_segment(w). */
static inline int emu_segment(int w) {
    return emu_self->lane & ~(w - 1);
}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int w = 32, EMU_AT) {
    return emu_shuffle(mask, value, emu_segment(w) + (source & (w - 1)), file, line);
}

template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int w = 32, EMU_AT) {
    int source = (emu_self->lane ^ bits) & 31;
    bool inside = source < emu_segment(w) + w;
    return emu_shuffle(mask, value, inside ? source : emu_self->lane, file, line);
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int w = 32, EMU_AT) {
    int source = emu_self->lane + (int)by;
    bool inside = source < emu_segment(w) + w;
    return emu_shuffle(mask, value, inside ? source : emu_self->lane, file, line);
}

template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int w = 32, EMU_AT) {
    int source = emu_self->lane - (int)by;
    bool inside = source >= emu_segment(w);
    return emu_shuffle(mask, value, inside ? source : emu_self->lane, file, line);
}

/* ---- votes, matches and reductions of integers over a warp ---- */

template <class T> struct emu_vote { T value, out; };

template <class T, class Fn> static inline void emu_fold(unsigned mask, void **arg, Fn fn) {
    bool first = true;
    T all{};
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        T value = ((emu_vote<T> *)arg[lane])->value;
        all = first ? value : fn(all, value);
        first = false;
    }
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) ((emu_vote<T> *)arg[lane])->out = all;
}

#define EMU_REDUCTION(name, expression)                                                        \
    template <class T> static void emu_do##name(unsigned mask, void **arg) {                   \
        emu_fold<T>(mask, arg, [](T a, T b) -> T { return expression; });                      \
    }                                                                                          \
    template <class T> static inline T name(unsigned mask, T value, EMU_AT) {                  \
        static_assert(std::is_same<T, int>::value || std::is_same<T, unsigned>::value,         \
                      "int or unsigned");                                                      \
        emu_vote<T> operands = {value, value};                                                 \
        emu_warp(mask, emu_do##name<T>, &operands, file, line);                                \
        return operands.out;                                                                   \
    }
EMU_REDUCTION(__reduce_add_sync, (T)((unsigned)a + (unsigned)b))
EMU_REDUCTION(__reduce_min_sync, a < b ? a : b)
EMU_REDUCTION(__reduce_max_sync, a > b ? a : b)
EMU_REDUCTION(__reduce_or_sync, a | b)
EMU_REDUCTION(__reduce_and_sync, a &b)
EMU_REDUCTION(__reduce_xor_sync, a ^ b)
#undef EMU_REDUCTION

static inline void emu_do_ballot(unsigned mask, void **arg) {
    emu_fold<unsigned>(mask, arg, [](unsigned a, unsigned b) { return a | b; });
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_AT) {
    unsigned bit = predicate ? 1u << emu_self->lane : 0u;
    emu_vote<unsigned> operands = {bit, bit};
    emu_warp(mask, emu_do_ballot, &operands, file, line);
    return operands.out;
}

static inline int __any_sync(unsigned mask, int predicate, EMU_AT) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}

static inline int __all_sync(unsigned mask, int predicate, EMU_AT) {
    return __ballot_sync(mask, !predicate, file, line) == 0;
}

template <class T> struct emu_match_operands {
    T value;
    unsigned out;
};

template <class T> static void emu_do_match_any(unsigned mask, void **arg) {
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        auto *to = (emu_match_operands<T> *)arg[lane];
        to->out = 0;
        for (int other = 0; other < 32; other++)
            if ((mask >> other & 1) &&
                ((emu_match_operands<T> *)arg[other])->value == to->value)
                to->out |= 1u << other;
    }
}

template <class T> static inline unsigned __match_any_sync(unsigned mask, T value, EMU_AT) {
    emu_match_operands<T> operands = {value, 0};
    emu_warp(mask, emu_do_match_any<T>, &operands, file, line);
    return operands.out;
}

/* ---- atomics, on integers only: the order of float additions would show. One thread runs at a
 * time and none is interrupted, so plain code is atomic; the checker is told. ---- */

#ifdef __SANITIZE_THREAD__
#define EMU_TOUCH_ATOMIC(p) emu_touch(p, sizeof *(p), 3, __builtin_return_address(0))
#define EMU_MODEL static __attribute__((noinline, no_sanitize("thread")))
#else
#define EMU_TOUCH_ATOMIC(p) ((void)0)
#define EMU_MODEL static inline
#endif

template <class T> struct emu_atomic_type {
    static_assert(std::is_same<T, int>::value || std::is_same<T, unsigned>::value ||
                      std::is_same<T, unsigned long long>::value,
                  "atomics take int, unsigned or unsigned long long");
    typedef T type;
};

#define EMU_ATOMIC(name, expression)                                                           \
    template <class T> EMU_MODEL T name(T *p, typename emu_atomic_type<T>::type v) {           \
        EMU_TOUCH_ATOMIC(p);                                                                   \
        T old = *p;                                                                            \
        *p = (T)(expression);                                                                  \
        return old;                                                                            \
    }
EMU_ATOMIC(atomicAdd, (unsigned long long)old + (unsigned long long)v)
EMU_ATOMIC(atomicSub, (unsigned long long)old - (unsigned long long)v)
EMU_ATOMIC(atomicMin, old < v ? old : v)
EMU_ATOMIC(atomicMax, old > v ? old : v)
EMU_ATOMIC(atomicOr, old | v)
EMU_ATOMIC(atomicAnd, old &v)
EMU_ATOMIC(atomicXor, old ^ v)
EMU_ATOMIC(atomicExch, v)
EMU_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
#undef EMU_ATOMIC

template <class T>
EMU_MODEL T atomicCAS(T *p,
                      typename emu_atomic_type<T>::type expected,
                      typename emu_atomic_type<T>::type v) {
    EMU_TOUCH_ATOMIC(p);
    T old = *p;
    if (old == expected) *p = v;
    return old;
}

/* ---- loads and stores with hints ---- */

#define EMU_LOAD(name)                                                                         \
    template <class T> static __forceinline__ T name(const T *p) {                             \
        return *p;                                                                             \
    }
EMU_LOAD(__ldg)
EMU_LOAD(__ldca)
EMU_LOAD(__ldcg)
EMU_LOAD(__ldcs)
EMU_LOAD(__ldlu)
EMU_LOAD(__ldcv)
#undef EMU_LOAD
#define EMU_STORE(name)                                                                        \
    template <class T> static __forceinline__ void name(T *p, T v) {                           \
        *p = v;                                                                                \
    }
EMU_STORE(__stwb)
EMU_STORE(__stcg)
EMU_STORE(__stcs)
EMU_STORE(__stwt)
#undef EMU_STORE

/* ---- bits and integers ---- */

static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x) {
    return __builtin_ffsll(x);
}
static inline int __clz(int x) {
    return x != 0 ? __builtin_clz((unsigned)x) : 32;
}
static inline int __clzll(long long x) {
    return x != 0 ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1u) << (31 - i);
    return y;
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> 4 * i & 15u;
        unsigned byte = (unsigned)(both >> 8 * (s & 7u)) & 255u;
        if (s & 8u) byte = byte & 128u ? 255u : 0u;
        out |= byte << 8 * i;
    }
    return out;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((unsigned long long)high << 32 | low) << (by & 31u) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (by & 31u));
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
static inline int __mulhi(int a, int b) {
    return (int)((long long)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((__uint128_t)a * b >> 64);
}

/* ---- float ---- */

static inline unsigned __float_as_uint(float f) {
    unsigned u;
    memcpy(&u, &f, sizeof u);
    return u;
}
static inline float __uint_as_float(unsigned u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline int __float_as_int(float f) {
    return (int)__float_as_uint(f);
}
static inline float __int_as_float(int i) {
    return __uint_as_float((unsigned)i);
}

/* The C library declares functions of these names. */
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)

static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
static inline float __frsqrt_rn(float x) {
    return (float)(1.0 / sqrt((double)x));
}
static inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fsub_rn(float a, float b) {
    return a - b;
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fdiv_rn(float a, float b) {
    return a / b;
}
static inline float __frcp_rn(float x) {
    return 1.0f / x;
}
static inline float __fsqrt_rn(float x) {
    return sqrtf(x);
}
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float __saturatef(float x) {
    return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; /* of NaN: 0 */
}

/* Out of range gives the nearest integer there is, NaN gives 0 (of 64 bits: the lowest). */
template <class Integer> static inline Integer emu_to_integer(float rounded, Integer of_nan) {
    const Integer low =
        std::is_signed<Integer>::value ? (Integer)((Integer)1 << (sizeof(Integer) * 8 - 1)) : 0;
    const Integer high = (Integer)~low;
    if (rounded != rounded) return of_nan;
    if (rounded <= (float)low) return low;
    if (rounded >= (float)high) return high;
    return (Integer)rounded;
}
static inline int __float2int_rn(float x) {
    return emu_to_integer<int>(rintf(x), 0);
}
static inline int __float2int_rz(float x) {
    return emu_to_integer<int>(truncf(x), 0);
}
static inline int __float2int_rd(float x) {
    return emu_to_integer<int>(floorf(x), 0);
}
static inline int __float2int_ru(float x) {
    return emu_to_integer<int>(ceilf(x), 0);
}
static inline unsigned __float2uint_rn(float x) {
    return emu_to_integer<unsigned>(rintf(x), 0u);
}
static inline unsigned __float2uint_rz(float x) {
    return emu_to_integer<unsigned>(truncf(x), 0u);
}
static inline unsigned __float2uint_rd(float x) {
    return emu_to_integer<unsigned>(floorf(x), 0u);
}
static inline long long __float2ll_rn(float x) {
    return emu_to_integer<long long>(rintf(x), (long long)(1ull << 63));
}
static inline float __int2float_rn(int x) {
    return (float)x;
}
static inline float __uint2float_rn(unsigned x) {
    return (float)x;
}
static inline float __ll2float_rn(long long x) {
    return (float)x;
}
static inline float __ull2float_rn(unsigned long long x) {
    return (float)x;
}

#define EMU_MIN_MAX(type)                                                                      \
    static inline type min(type a, type b) {                                                   \
        return b < a ? b : a;                                                                  \
    }                                                                                          \
    static inline type max(type a, type b) {                                                   \
        return a < b ? b : a;                                                                  \
    }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX
static inline float min(float a, float b) {
    return fminf(a, b);
}
static inline float max(float a, float b) {
    return fmaxf(a, b);
}
static inline unsigned min(int a, unsigned b) {
    return min((unsigned)a, b);
}
static inline unsigned min(unsigned a, int b) {
    return min(a, (unsigned)b);
}
static inline unsigned max(int a, unsigned b) {
    return max((unsigned)a, b);
}
static inline unsigned max(unsigned a, int b) {
    return max(a, (unsigned)b);
}

#endif

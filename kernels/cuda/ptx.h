/* The instructions that CUDA C has no name for, each once: PTX for a device and, beside it, the
 * same in plain C++ for the emulation (its cuda_runtime.h defines SY_CUDA_EMULATED). Kernels
 * include this and hold no asm of their own.
 *
 * A model tells the emulation's access checker what the instruction touches, at the width that it
 * has on a device, and is itself kept out of the compiler's instrumentation, which would see how
 * the host's compiler happened to split it. */
#ifndef SY_KERNELS_CUDA_PTX_H
#define SY_KERNELS_CUDA_PTX_H

#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#ifdef SY_CUDA_EMULATED
#define SY_DEVICE static inline
#define SY_SHARED_STRUCT(type, name) type *name = (type *)emu_dynamic_shared()
#define SY_CALLER EMU_AT
#define SY_AND_CALLER , EMU_AT
#ifdef __SANITIZE_THREAD__
void emu_touch(const void *p, int bytes, int kind, const void *pc);
#define SY_MODEL static __attribute__((noinline, no_sanitize("thread")))
#define SY_TOUCH(p, bytes, kind) emu_touch(p, bytes, kind, __builtin_return_address(0))
#else
#define SY_MODEL static inline
#define SY_TOUCH(p, bytes, kind) ((void)0)
#endif
#else
#define SY_DEVICE static __device__ __forceinline__
/* The dynamic shared memory of a kernel is one struct: its size is the launch's parameter, and a
 * static_assert holds it under SY_CUDA_MAX_SHARED. */
#define SY_SHARED_STRUCT(type, name)                                                           \
    extern __shared__ __align__(128) unsigned char sy_dynamic_shared[];                        \
    type *name = (type *)(void *)sy_dynamic_shared
#define SY_CALLER
#define SY_AND_CALLER
#define SY_MODEL SY_DEVICE
#define SY_TOUCH(p, bytes, kind) ((void)0)
#endif
enum { SY_TOUCH_READ, SY_TOUCH_WRITE };

/* ---- bf16: the upper half of a float ---- */

SY_DEVICE float sy_bf16_float(uint16_t h) {
    return __uint_as_float((uint32_t)h << 16);
}

/* The first (lower half) and the second of two values in one register. */
SY_DEVICE float sy_bf16_lo(uint32_t two) {
    return __uint_as_float(two << 16);
}

SY_DEVICE float sy_bf16_hi(uint32_t two) {
    return __uint_as_float(two & 0xffff0000u);
}

/* To nearest, ties to even; every NaN becomes 0x7fff. */
SY_DEVICE uint16_t sy_float_bf16(float f) {
#ifdef SY_CUDA_EMULATED
    uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
#else
    uint16_t h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
#endif
}

/* Both of sy_float_bf16; `lo` comes first in memory. */
SY_DEVICE uint32_t sy_pack_bf16(float lo, float hi) {
#ifdef SY_CUDA_EMULATED
    return (uint32_t)sy_float_bf16(lo) | (uint32_t)sy_float_bf16(hi) << 16;
#else
    uint32_t two;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(hi), "f"(lo));
    return two;
#endif
}

/* a * b + c of each half, rounded once to bf16; subnormals count. The model rounds to float first,
 * which differs for results that need more than float's 24 digits: kernels ask for none. */
SY_DEVICE uint32_t sy_fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
#ifdef SY_CUDA_EMULATED
    return sy_pack_bf16(fmaf(sy_bf16_lo(a), sy_bf16_lo(b), sy_bf16_lo(c)),
                        fmaf(sy_bf16_hi(a), sy_bf16_hi(b), sy_bf16_hi(c)));
#else
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#endif
}

/* ---- IEEE half precision, exact ---- */

SY_DEVICE float sy_f16_float(uint16_t h) {
#ifdef SY_CUDA_EMULATED
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u,
             digits = h & 0x3ffu;
    if (exponent == 31)
        return __uint_as_float(sign | (digits == 0 ? 0x7f800000u : 0x7fffffffu));
    if (exponent == 0) { /* digits * 2^-24 */
        float magnitude = (float)digits * 5.9604644775390625e-8f;
        return sign != 0 ? -magnitude : magnitude;
    }
    return __uint_as_float(sign | (exponent + 112) << 23 | digits << 13);
#else
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
#endif
}

/* ---- 2^x by the approximate instruction: error below 2^-22 relative, subnormals are zero ---- */

SY_DEVICE float sy_exp2(float x) {
#ifdef SY_CUDA_EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* ---- sum and maximum over a warp, given to every lane: a butterfly of distances 16, 8, 4, 2, 1
 * on both sides, so that the order of additions is the same. All 32 lanes take part. ---- */

#ifdef SY_CUDA_EMULATED
SY_MODEL void sy_model_warp_sum(unsigned mask, void **arg) {
    (void)mask;
    float v[32], w[32];
    for (int lane = 0; lane < 32; lane++)
        v[lane] = *(const float *)arg[lane];
    for (int distance = 16; distance > 0; distance /= 2) {
        for (int lane = 0; lane < 32; lane++)
            w[lane] = v[lane] + v[lane ^ distance];
        memcpy(v, w, sizeof v);
    }
    for (int lane = 0; lane < 32; lane++)
        *(float *)arg[lane] = v[lane];
}

SY_MODEL void sy_model_warp_max(unsigned mask, void **arg) {
    (void)mask;
    float largest = *(const float *)arg[0];
    for (int lane = 1; lane < 32; lane++)
        largest = fmaxf(largest, *(const float *)arg[lane]);
    for (int lane = 0; lane < 32; lane++)
        *(float *)arg[lane] = largest;
}
#endif

SY_MODEL float sy_warp_sum(float v SY_AND_CALLER) {
#ifdef SY_CUDA_EMULATED
    emu_warp_aligned(sy_model_warp_sum, &v, file, line);
#else
    for (int distance = 16; distance > 0; distance /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, distance);
#endif
    return v;
}

/* fmaxf: of a NaN and a number, the number. */
SY_MODEL float sy_warp_max(float v SY_AND_CALLER) {
#ifdef SY_CUDA_EMULATED
    emu_warp_aligned(sy_model_warp_max, &v, file, line);
#else
    for (int distance = 16; distance > 0; distance /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, distance));
#endif
    return v;
}

/* ---- 16 bytes of weights: read once, so not kept in L1 and the first to leave L2. The policy is
 * made once per thread. Not volatile: reads of what never changes may be moved and merged. ---- */

#ifdef SY_CUDA_EMULATED
typedef int sy_policy;
#else
typedef uint64_t sy_policy;
#endif

SY_DEVICE sy_policy sy_evict_first(void) {
#ifdef SY_CUDA_EMULATED
    return 0;
#else
    sy_policy policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
#endif
}

SY_MODEL uint4 sy_load_weights(const uint4 *p, sy_policy policy) {
#ifdef SY_CUDA_EMULATED
    (void)policy;
    SY_TOUCH(p, 16, SY_TOUCH_READ);
    return *p;
#else
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p), "l"(policy));
    return v;
#endif
}

/* ---- 16 and 8 bytes at once through the caches as usual, from and to global or shared memory;
 * the address is a multiple of the width ---- */

SY_MODEL uint4 sy_load16(const void *p) {
    SY_TOUCH(p, 16, SY_TOUCH_READ);
    return *(const uint4 *)p;
}

SY_MODEL void sy_store16(void *p, uint4 v) {
    SY_TOUCH(p, 16, SY_TOUCH_WRITE);
    *(uint4 *)p = v;
}

SY_MODEL float4 sy_load_float4(const void *p) {
    SY_TOUCH(p, 16, SY_TOUCH_READ);
    return *(const float4 *)p;
}

SY_MODEL void sy_store_float4(void *p, float4 v) {
    SY_TOUCH(p, 16, SY_TOUCH_WRITE);
    *(float4 *)p = v;
}

SY_MODEL uint2 sy_load8(const void *p) {
    SY_TOUCH(p, 8, SY_TOUCH_READ);
    return *(const uint2 *)p;
}

SY_MODEL void sy_store8(void *p, uint2 v) {
    SY_TOUCH(p, 8, SY_TOUCH_WRITE);
    *(uint2 *)p = v;
}

/* ---- cp.async: 16 bytes from global to shared memory. Of the source only valid_bytes (0..16)
 * are read, the rest of the destination becomes zero. Copies form groups per thread; other
 * threads see them after the wait and a barrier. KEEP: through L1, for what the blocks of a
 * multiprocessor read again.
 *
 * The model writes the destination full of ones at once and copies at the wait, as late as the
 * hardware may: what is read too early is NaN. ---- */

template <bool KEEP = false>
SY_MODEL void sy_cp_async16(void *shared, const void *global, int valid_bytes SY_AND_CALLER) {
#ifdef SY_CUDA_EMULATED
    emu_thread *self = emu_self;
    if ((uintptr_t)shared % 16 != 0 || (uintptr_t)global % 16 != 0)
        emu_fail("cp.async: misaligned address", file, line);
    if (valid_bytes < 0 || valid_bytes > 16)
        emu_fail("cp.async: source size out of range", file, line);
    if (self->n_copies == (int)(sizeof self->copies / sizeof self->copies[0]))
        emu_fail("cp.async: more copies in flight than the emulation holds", file, line);
    SY_TOUCH(shared, 16, SY_TOUCH_WRITE);
    memset(shared, 0xff, 16);
    self->copies[self->n_copies++] = {shared, global, 16, valid_bytes};
#else
    unsigned to = (unsigned)__cvta_generic_to_shared(shared);
    if (KEEP)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
                     "r"(valid_bytes)
                     : "memory");
    else
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
                     "r"(valid_bytes)
                     : "memory");
#endif
}

SY_MODEL void sy_cp_async_commit(SY_CALLER) {
#ifdef SY_CUDA_EMULATED
    emu_thread *self = emu_self;
    if (self->n_groups == (int)(sizeof self->group_end / sizeof self->group_end[0]))
        emu_fail("cp.async: more groups in flight than the emulation holds", file, line);
    self->group_end[self->n_groups++] = self->n_copies;
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most `newest` of this thread's groups are under way. */
template <int newest> SY_MODEL void sy_cp_async_wait(void) {
#ifdef SY_CUDA_EMULATED
    emu_thread *self = emu_self;
    int done = self->n_groups - newest;
    if (done <= 0) return;
    int n = self->group_end[done - 1];
    for (int i = 0; i < n; i++) {
        char *to = (char *)self->copies[i].dst;
        size_t valid = (size_t)self->copies[i].valid;
        if (valid > 0) {
            SY_TOUCH(self->copies[i].src, (int)valid, SY_TOUCH_READ);
            memcpy(to, self->copies[i].src, valid);
        }
        SY_TOUCH(to, 16, SY_TOUCH_WRITE);
        memset(to + valid, 0, 16 - valid);
    }
    for (int i = n; i < self->n_copies; i++)
        self->copies[i - n] = self->copies[i];
    for (int g = done; g < self->n_groups; g++)
        self->group_end[g - done] = self->group_end[g] - n;
    self->n_copies -= n;
    self->n_groups -= done;
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
#endif
}

/* ---- ldmatrix: four 8 x 8 matrices of 16-bit values out of shared memory. Lane l gives the
 * address of row l % 8 of matrix l / 8 (16 bytes, aligned) and gets of matrix i, in r[i], the
 * values (row l / 4, columns 2 (l % 4) and + 1); of the transposed matrix with _trans. ---- */

#ifdef SY_CUDA_EMULATED
struct sy_model_ldmatrix_operands {
    const void *row;
    uint32_t out[4];
};

SY_MODEL void sy_model_ldmatrix(unsigned mask, void **arg) {
    (void)mask;
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const void *from = arg[8 * i + lane / 4];
            const char *row = (const char *)((const sy_model_ldmatrix_operands *)from)->row;
            memcpy(&((sy_model_ldmatrix_operands *)arg[lane])->out[i], row + lane % 4 * 4, 4);
        }
}

SY_MODEL void sy_model_ldmatrix_trans(unsigned mask, void **arg) {
    (void)mask;
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            uint16_t two[2];
            for (int j = 0; j < 2; j++) {
                const void *from = arg[8 * i + lane % 4 * 2 + j];
                const char *row = (const char *)((const sy_model_ldmatrix_operands *)from)->row;
                memcpy(&two[j], row + lane / 4 * 2, 2);
            }
            memcpy(&((sy_model_ldmatrix_operands *)arg[lane])->out[i], two, 4);
        }
}
#endif

SY_MODEL void sy_ldmatrix_x4(uint32_t r[4], const void *row SY_AND_CALLER) {
#ifdef SY_CUDA_EMULATED
    if ((uintptr_t)row % 16 != 0) emu_fail("ldmatrix: misaligned row", file, line);
    SY_TOUCH(row, 16, SY_TOUCH_READ);
    sy_model_ldmatrix_operands operands = {row, {0, 0, 0, 0}};
    emu_warp_aligned(sy_model_ldmatrix, &operands, file, line);
    memcpy(r, operands.out, sizeof operands.out);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
#endif
}

SY_MODEL void sy_ldmatrix_x4_trans(uint32_t r[4], const void *row SY_AND_CALLER) {
#ifdef SY_CUDA_EMULATED
    if ((uintptr_t)row % 16 != 0) emu_fail("ldmatrix: misaligned row", file, line);
    SY_TOUCH(row, 16, SY_TOUCH_READ);
    sy_model_ldmatrix_operands operands = {row, {0, 0, 0, 0}};
    emu_warp_aligned(sy_model_ldmatrix_trans, &operands, file, line);
    memcpy(r, operands.out, sizeof operands.out);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
#endif
}

/* ---- mma m16n8k16: C [16, 8] += A [16, 16] B [16, 8], bf16 times bf16 into float. Lane
 * l = 4 g + t holds
 *   A: a[0] row g, a[1] row g + 8, columns 2 t and + 1; a[2], a[3] the same rows, columns + 8
 *   B: b[0] rows 2 t and + 1 of column g; b[1] rows + 8
 *   C: c[0], c[1] row g, columns 2 t and + 1; c[2], c[3] row g + 8
 * The model adds the sixteen products one by one in ascending k. ---- */

#ifdef SY_CUDA_EMULATED
struct sy_model_mma_operands {
    const uint32_t *a, *b;
    float *c;
};

SY_MODEL void sy_model_mma(unsigned mask, void **arg) {
    (void)mask;
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const sy_model_mma_operands *m = (const sy_model_mma_operands *)arg[lane];
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) {
            float *to = &a[g + i % 2 * 8][2 * t + i / 2 * 8];
            to[0] = sy_bf16_lo(m->a[i]);
            to[1] = sy_bf16_hi(m->a[i]);
        }
        for (int i = 0; i < 2; i++) {
            b[2 * t + 8 * i][g] = sy_bf16_lo(m->b[i]);
            b[2 * t + 8 * i + 1][g] = sy_bf16_hi(m->b[i]);
        }
    }
    for (int row = 0; row < 16; row++) {
        float c[8];
        for (int col = 0; col < 8; col++) {
            int lane = row % 8 * 4 + col / 2;
            c[col] = ((const sy_model_mma_operands *)arg[lane])->c[row / 8 * 2 + col % 2];
        }
        for (int k = 0; k < 16; k++)
            for (int col = 0; col < 8; col++)
                c[col] += a[row][k] * b[k][col];
        for (int col = 0; col < 8; col++) {
            int lane = row % 8 * 4 + col / 2;
            ((sy_model_mma_operands *)arg[lane])->c[row / 8 * 2 + col % 2] = c[col];
        }
    }
}
#endif

SY_MODEL void sy_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2] SY_AND_CALLER) {
#ifdef SY_CUDA_EMULATED
    sy_model_mma_operands operands = {a, b, c};
    emu_warp_aligned(sy_model_mma, &operands, file, line);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#endif

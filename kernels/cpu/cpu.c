/* Opening the CPU backend, its memory, and the table of its steps. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "kernels/cpu/attention.h"

static uint64_t tiles_bytes(const sy_cpu *cpu) {
    return (uint64_t)sy_pool_threads(cpu->pool) * sizeof(sy_cpu_tiles);
}

static void free_scratch(sy_cpu *cpu) {
    sy_mem_free(cpu->scratch, cpu->scratch_bytes * (uint64_t)sy_pool_threads(cpu->pool));
    sy_mem_free(cpu->shared, cpu->shared_bytes);
    cpu->scratch = cpu->shared = NULL;
    cpu->scratch_bytes = cpu->shared_bytes = 0;
}

static void cpu_close(sy_backend *be) {
    if (be == NULL) return;
    sy_cpu *cpu = sy_cpu_of(be);
    free_scratch(cpu);
    sy_mem_free(cpu->tiles, tiles_bytes(cpu));
    free(cpu);
}

/* The steps compute all that a spec can say, but for combinations that no model has. */
static sy_status cpu_check(const sy_backend *be, const sy_layer_spec *spec) {
    (void)be;
    return sy_cpu_attention_check(&spec->attn);
}

static sy_status cpu_alloc(sy_backend *be, void *out, uint64_t bytes, const char *what) {
    (void)be;
    return sy_mem_alloc(out, bytes, what);
}

static void cpu_free(sy_backend *be, void *ptr, uint64_t bytes) {
    (void)be;
    sy_mem_free(ptr, bytes);
}

static sy_status
cpu_write(sy_backend *be, void *device, const void *host, uint64_t bytes, sy_stream *s) {
    (void)be;
    (void)s;
    if (bytes > 0) memcpy(device, host, bytes);
    return SY_OK;
}

static sy_status
cpu_read(sy_backend *be, void *host, const void *device, uint64_t bytes, sy_stream *s) {
    return cpu_write(be, host, device, bytes, s);
}

typedef void (*scratch_fn)(const sy_cpu *cpu,
                           const sy_limits *l,
                           uint64_t *thread,
                           uint64_t *shared);
static const scratch_fn scratch_of[] = {
    sy_cpu_matmul_scratch, sy_cpu_attention_scratch, sy_cpu_experts_scratch,
    sy_cpu_route_scratch,  sy_cpu_combine_scratch,   sy_cpu_sample_scratch,
};

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Steps run one after another, so each takes the blocks from their beginning and the largest
 * need of all is enough. `thread` of one, in whole pages: that keeps neighbours off each other's
 * lines. */
static void measure_scratch(const sy_cpu *cpu,
                            const sy_limits *limits,
                            uint64_t *thread,
                            uint64_t *shared) {
    const uint64_t page = 4096;
    *thread = *shared = 0;
    for (size_t i = 0; i < sizeof scratch_of / sizeof *scratch_of; i++) {
        uint64_t t = 0, s = 0;
        scratch_of[i](cpu, limits, &t, &s);
        *thread = larger(*thread, t);
        *shared = larger(*shared, s);
    }
    *thread = *thread > UINT64_MAX - page ? UINT64_MAX : (*thread + page - 1) / page * page;
}

uint64_t sy_cpu_reserve_bytes(const sy_backend *be, const sy_limits *limits) {
    const sy_cpu *cpu = (const sy_cpu *)be;
    uint64_t thread, shared, all;
    measure_scratch(cpu, limits, &thread, &shared);
    bool fits = sy_mul_u64(thread, (uint64_t)sy_pool_threads(cpu->pool), &all) &&
                sy_add_u64(all, shared, &all);
    return fits ? all : UINT64_MAX;
}

/* On failure nothing is reserved. */
static sy_status cpu_reserve(sy_backend *be, const sy_limits *limits) {
    sy_status st = SY_OK;
    sy_cpu *cpu = sy_cpu_of(be);
    uint64_t thread, shared, all;
    free_scratch(cpu);
    cpu->limits = (sy_limits){0};
    cpu->naive_weights = NULL;
    cpu->naive_batch = NULL;
    measure_scratch(cpu, limits, &thread, &shared);
    if (!sy_mul_u64(thread, (uint64_t)sy_pool_threads(cpu->pool), &all))
        SY_FAIL(SY_ERR_MEMORY, "the scratch for %lld tokens a step overflows",
                (long long)limits->max_rows);
    SY_TRY(sy_mem_alloc(&cpu->scratch, all, "scratch of the threads"));
    cpu->scratch_bytes = thread;
    SY_TRY(sy_mem_alloc(&cpu->shared, shared, "scratch of the steps"));
    cpu->shared_bytes = shared;
    cpu->limits = *limits;
done:
    if (st != SY_OK) free_scratch(cpu);
    return st;
}

static const sy_ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .check = cpu_check,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .write = cpu_write,
    .read = cpu_read,
    .stored_dtype = sy_cpu_stored_dtype,
    .matrix_bytes = sy_cpu_matrix_bytes,
    .pack = sy_cpu_pack,
    .kv_page_bytes = sy_cpu_kv_page_bytes,
    .reserve = cpu_reserve,
    .embed = sy_cpu_embed,
    .attn_in = sy_cpu_attn_in,
    .attend = sy_cpu_attend,
    .attn_out = sy_cpu_attn_out,
    .route = sy_cpu_route,
    .pack_rows = sy_cpu_pack_rows,
    .experts_up = sy_cpu_experts_up,
    .experts_down = sy_cpu_experts_down,
    .unpack = sy_cpu_unpack,
    .dense_ffn = sy_cpu_dense_ffn,
    .ffn_in = sy_cpu_ffn_in,
    .add = sy_cpu_add,
    .head = sy_cpu_head,
    .sample = sy_cpu_sample,
};

sy_status sy_cpu_open(sy_dtype act, sy_pool *pool, const char *isa, sy_backend **out) {
    sy_status st = SY_OK;
    sy_cpu *cpu = NULL;
    *out = NULL;
    if (act != SY_BF16 && act != SY_F32)
        SY_FAIL(SY_ERR_UNSUPPORTED, "the CPU computes with BF16 or F32 activations, not %s",
                sy_dtype_name(act));
    const sy_cpu_isa *found = sy_cpu_isa_find(isa);
    if (found == NULL) return SY_ERR_UNSUPPORTED;
    cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the CPU backend");
    cpu->base = (sy_backend){.ops = &cpu_ops, .act = act};
    cpu->pool = pool;
    cpu->isa = found;
    SY_TRY(sy_mem_alloc(&cpu->tiles, tiles_bytes(cpu), "tiles of the threads"));
    *out = &cpu->base;
    cpu = NULL;
done:
    free(cpu);
    return st;
}

void sy_cpu_set_fast(sy_backend *be, bool fast) {
    sy_cpu_of(be)->fast = fast;
}

const char *sy_cpu_isa_name(const sy_backend *be) {
    return ((const sy_cpu *)be)->isa->name;
}

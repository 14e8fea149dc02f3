/* The product of quantised matrices for few rows, bound by the memory that the codes come from: as
 * matrix_few.cu, a block takes tiles of 16 outputs, each of its warps a slice of 256 k. A lane asks
 * for all of its slice before it looks at the first code: 8 times 16 bytes of 8-bit codes, or 4
 * times of 4-bit ones, for which more warps are resident instead; and for its share of the scales,
 * which pass through shared memory as float32. Codes are decoded once for up to 32 rows of x. */
#include <stddef.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/matrix_few.h"
#include "kernels/cuda/quant_sum.h"

enum {
    MAX_SHARED = 48 * 1024,                   /* that a launch takes without asking */
    SLICE_SCALES = SY_SLICE_STEPS * SY_TILE_N /* of groups of 16 k */
};

/* Steps of x that a warp stages at once; eight rows of ldmatrix meet no bank twice. */
template <int GROUPS> struct piece {
    enum { STEPS = GROUPS == 1 ? 16 : 4, COLUMNS = STEPS * SY_STEP_K, PITCH = COLUMNS + 8 };
};

/* What one warp stages, and then its sums for the block. Scales and zero points are of the
 * outputs in the order of quant.h. */
template <int GROUPS> struct quant_space {
    union {
        uint16_t x[GROUPS * SY_FEW_ROWS][piece<GROUPS>::PITCH];
        float4 sum[GROUPS * 32];
    };
    float scale[SY_SLICE_STEPS][SY_TILE_N]; /* bits of their type at first */
    uint8_t zero[SY_SLICE_STEPS][SY_TILE_N];
};

/* Behind the warps' spaces, as many as a launch has warps, come the leaves that wait for their
 * right neighbour: float4 [levels][GROUPS * 32]. */
template <int GROUPS> struct few_quant_shared {
    int32_t row[GROUPS * SY_FEW_ROWS];
    float share[SY_FUSED_ROWS][SY_NORM_WARPS];
    float inverse[SY_FUSED_ROWS];
    quant_space<GROUPS> warp[SY_FEW_WARPS];
};
static_assert(sizeof(quant_space<1>) % 16 == 0 && sizeof(quant_space<4>) % 16 == 0 &&
                  offsetof(few_quant_shared<1>, warp) % 16 == 0 &&
                  offsetof(few_quant_shared<4>, warp) % 16 == 0,
              "sums are stored 16 bytes at a time");
static_assert(sizeof(few_quant_shared<4>) <= MAX_SHARED &&
                  sizeof(few_quant_shared<1>) + SY_JOIN_LEVELS * 32 * sizeof(float4) <=
                      MAX_SHARED,
              "more than a launch takes without asking");

/* Blocks of 8 warps that the registers leave room for. */
template <sy_dtype CODE, int GROUPS> struct resident {
    enum { BLOCKS = quant_unit<CODE>::COUNT < 8 && GROUPS == 1 ? 3 : 2 };
};

/* ---- a slice ---- */

/* The scales of a slice on their way to shared memory, there after the next wait for copies: those
 * of each output as the bits of their type, to be widened in place. Of those that outputs share
 * this lane keeps one: of group lane % 16 of the slice, of gate or of up. */
template <int GROUPS>
SY_DEVICE uint32_t ask_scales(const sy_product &p,
                              const sy_quant_tile &tile,
                              const sy_segment &s,
                              quant_space<GROUPS> *space) {
    const sy_product_quant &q = p.quant;
    int lane = (int)threadIdx.x % 32, first = s.begin >> q.group_shift;
    int here = min(SY_SLICE_STEPS >> q.group_shift, q.groups - first);
    if (q.whole) return 0;
    if (q.shared) {
        bool there = lane % SY_TILE_N < here;
        return there ? sy_quant_scale_bits(p, tile, first + lane % SY_TILE_N, lane / SY_TILE_N)
                     : 0;
    }
    int size = sy_scale_size(q.scale); /* bytes, and pieces of 16 bytes of a group */
    const char *from = tile.scales + (int64_t)first * SY_TILE_N * size;
#pragma unroll 1
    for (int i = lane; i < here * size; i += 32)
        sy_cp_async16((char *)space->scale + 16 * i, from + 16 * i, 16);
    return 0;
}

/* The same for zero points, a lane for each group. */
template <int GROUPS>
SY_DEVICE void ask_zeros(const sy_product &p,
                         const sy_quant_tile &tile,
                         const sy_segment &s,
                         quant_space<GROUPS> *space) {
    int lane = (int)threadIdx.x % 32, shift = p.quant.group_shift;
    int step = s.begin + (lane << shift);
    if (lane >= SY_SLICE_STEPS >> shift) return;
    if (p.quant.has_zeros) {
        int group = p.quant.whole || step >= s.end ? 0 : step >> shift;
        sy_cp_async16(space->zero[lane], tile.zeros + group * SY_TILE_N, 16);
    } else {
        const uint32_t four = SY_MIDDLE * 0x01010101u;
        sy_store16(space->zero[lane], make_uint4(four, four, four, four));
    }
}

/* What ask_scales brought becomes float32, for all lanes: 32 values at a time from the last on, so
 * that none is written where bits are still to be read. */
template <int GROUPS>
SY_DEVICE void widen_scales(const sy_product &p,
                            const sy_segment &s,
                            uint32_t own,
                            quant_space<GROUPS> *space) {
    const sy_product_quant &q = p.quant;
    int lane = (int)threadIdx.x % 32, here = q.groups - (s.begin >> q.group_shift);
#pragma unroll 1
    for (int i = SLICE_SCALES / 32 >> q.group_shift; i-- > 0;) {
        int at = lane + 32 * i, group = at / SY_TILE_N;
        uint32_t bits = 0;
        if (q.shared)
            bits = __shfl_sync(0xffffffffu, own, at % 2 * SY_TILE_N + group);
        else if (group < here && !q.whole)
            bits = sy_scale_bits(q.scale, (const char *)space->scale, at);
        __syncwarp();
        space->scale[group][at % SY_TILE_N] = q.whole ? 1.0f : sy_scale_value(q.scale, bits);
        __syncwarp();
    }
}

/* Operand B of one step of the piece, of row groups `group` and `group` + 1 (of one group: of this
 * step and the next), two registers each. For all rows that are not there one row of zeros. */
template <int GROUPS>
SY_DEVICE void
load_rows(uint32_t b[4], uint16_t (*x)[piece<GROUPS>::PITCH], int step, int group, int rows) {
    int lane = (int)threadIdx.x % 32;
    int row = GROUPS == 1 ? lane % 8 : group * 8 + lane / 16 * 8 + lane % 8;
    int column = step * SY_STEP_K + (GROUPS == 1 ? lane / 8 : lane / 8 % 2) * 8;
    sy_ldmatrix_x4(b, &x[min(row, rows)][column]);
}

/* One slice for up to GROUPS * 8 rows: sum += weights times x. */
template <sy_dtype CODE, int GROUPS>
SY_DEVICE void multiply_slice(const sy_product &p,
                              few_quant_shared<GROUPS> *sh,
                              const uint4 *w,
                              const sy_quant_tile &tile,
                              const sy_segment &s,
                              int rows,
                              float sum[GROUPS][4]) {
    enum {
        UNITS = quant_unit<CODE>::COUNT,
        UNIT_STEPS = quant_unit<CODE>::STEPS,
        STEPS = piece<GROUPS>::STEPS,
        COLUMNS = piece<GROUPS>::COLUMNS,
        PITCH = piece<GROUPS>::PITCH
    };
    int lane = (int)threadIdx.x % 32, g = lane / 4, shift = p.quant.group_shift;
    int end = s.end - s.begin, last = (1 << shift) - 1; /* within a group */
    quant_space<GROUPS> *space = &sh->warp[threadIdx.x / 32];
    sy_policy policy = sy_evict_first();
    const uint4 *from = w + (int64_t)(s.begin / UNIT_STEPS) * SY_FRAGMENT_LANES + lane;
    uint4 a[UNITS];
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        a[i] = i * UNIT_STEPS < end ? sy_load_weights(from + i * SY_FRAGMENT_LANES, policy)
                                    : make_uint4(0, 0, 0, 0);
    uint32_t own_scale = ask_scales<GROUPS>(p, tile, s, space);
    if (CODE == SY_U4) ask_zeros<GROUPS>(p, tile, s, space);
    sy_cp_async_commit();
    float chain[GROUPS][4] = {};
#pragma unroll
    for (int first = 0; first < SY_SLICE_STEPS; first += STEPS) {
        if (first >= end) break;
        int k0 = (s.begin + first) * SY_STEP_K;
        if (GROUPS == 1 && p.raw != NULL)
            sy_stage_raw_rows<COLUMNS, PITCH, 2>(p, sh->row, sh->inverse, rows, k0, s,
                                                 space->x);
        else
            sy_stage_rows<COLUMNS, PITCH>(p, sh->row, rows, k0, s, space->x);
        sy_cp_async_commit();
        sy_cp_async_wait<1>(); /* scales and zero points, */
        sy_cp_async_wait<0>(); /* and rows */
        if (rows < GROUPS * SY_FEW_ROWS && lane < COLUMNS / 8)
            sy_store16(&space->x[rows][8 * lane], make_uint4(0, 0, 0, 0));
        __syncwarp();
        if (first == 0) widen_scales<GROUPS>(p, s, own_scale, space);
        uint32_t b[4];
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            int step = first + i;
            if (step >= end) break;
            uint32_t minus_zero[2] = {0, 0};
            if (CODE == SY_U4) {
                const uint8_t *zero = &space->zero[step >> shift][2 * g];
                minus_zero[0] = sy_minus_zero(zero[0]);
                minus_zero[1] = sy_minus_zero(zero[1]);
            }
            uint32_t operand[4];
            sy_decode<CODE>(a[step / UNIT_STEPS], step % UNIT_STEPS, minus_zero, operand);
#pragma unroll
            for (int group = 0; group < GROUPS; group++) {
                if (group * SY_FEW_ROWS >= rows) break;
                if (GROUPS == 1 ? i % 2 == 0 : group % 2 == 0)
                    load_rows<GROUPS>(b, space->x, i, group, rows);
                sy_mma_bf16(chain[group], operand, b + (GROUPS == 1 ? i : group) % 2 * 2);
            }
            if ((step & last) != last && step + 1 < end) continue;
            const float *scale = &space->scale[step >> shift][2 * g];
#pragma unroll
            for (int group = 0; group < GROUPS; group++)
                sy_end_group(sum[group], chain[group], make_float2(scale[0], scale[1]));
        }
        __syncwarp();
    }
}

/* ---- tiles ---- */

/* Adds the sums of slices [index, index + n) to what this thread keeps of one lane's outputs and 8
 * rows. Returns the whole sum once the last slice is in. */
template <int GROUPS>
SY_DEVICE float4 join_slices(const sy_product &p,
                             few_quant_shared<GROUPS> *sh,
                             const sy_leaf_end &leaf_end,
                             int index,
                             int n,
                             float4 leaf,
                             int *n_waiting) {
    const sy_sums &sums = p.sums;
    float4(*waiting)[GROUPS * 32] =
        (float4(*)[GROUPS * 32])(void *)(sh->warp + sy_warps_of_block());
    for (int i = 0; i < n; i++) {
        float4 v = sy_load_float4(&sh->warp[i].sum[threadIdx.x]);
        int at = (index + i) / sums.slices, slice = index + i - at * sums.slices;
        if (slice == 0) leaf = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        leaf = make_float4(leaf.x + v.x, leaf.y + v.y, leaf.z + v.z, leaf.w + v.w);
        if (slice + 1 < sums.slices) continue;
        leaf = make_float4(
            sy_end_leaf(p, leaf_end, 0, leaf.x), sy_end_leaf(p, leaf_end, 0, leaf.y),
            sy_end_leaf(p, leaf_end, 1, leaf.z), sy_end_leaf(p, leaf_end, 1, leaf.w));
        if (sums.n_leaves > 1) leaf = sy_join_leaf(sums, at, leaf, waiting, n_waiting);
    }
    return leaf;
}

/* One tile for rows [row, row + rows) of the product, at most GROUPS * 8. */
template <sy_dtype CODE, int GROUPS>
SY_DEVICE void multiply_tile(const sy_product &p,
                             few_quant_shared<GROUPS> *sh,
                             int slot,
                             int at,
                             int64_t row,
                             int rows) {
    int thread = (int)threadIdx.x, warp = thread / 32, warps = sy_warps_of_block();
    if (thread < rows)
        sh->row[thread] =
            p.row == NULL ? (int32_t)sy_head_row(p, slot, row + thread) : p.row[row + thread];
    __syncthreads(); /* and the sums of the last tile have been read */
    bool joins = thread < GROUPS * 32 && thread / 32 * SY_FEW_ROWS < rows;
    float4 leaf = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    int n = p.sums.n_leaves * p.sums.slices, n_waiting = 0;
    sy_leaf_end leaf_end = {};
    if (joins) leaf_end = sy_leaf_end_of(p, sy_quant_tile_of(p, slot, at));
    for (int index = 0; index < n; index += warps) {
        if (index > 0) __syncthreads();
        if (index + warp < n) {
            float sum[GROUPS][4] = {};
            /* Where the tile is, is found again for each slice: registers are few. */
            multiply_slice<CODE, GROUPS>(p, sh, sy_tile_of(p, slot, at).w,
                                         sy_quant_tile_of(p, slot, at),
                                         sy_segment_of(p.sums, index + warp), rows, sum);
#pragma unroll
            for (int group = 0; group < GROUPS; group++)
                if (group * SY_FEW_ROWS < rows)
                    sy_store_float4(&sh->warp[warp].sum[group * 32 + thread % 32],
                                    make_float4(sum[group][0], sum[group][1], sum[group][2],
                                                sum[group][3]));
        }
        __syncthreads();
        if (joins)
            leaf = join_slices(p, sh, leaf_end, index, min(warps, n - index), leaf, &n_waiting);
    }
    if (!joins) return;
    float v[4] = {leaf.x, leaf.y, leaf.z, leaf.w};
    int first = thread / 32 * SY_FEW_ROWS;
    sy_store_outputs(p, slot, sy_tile_of(p, slot, at), row + first, rows - first, v);
}

template <sy_dtype CODE, int GROUPS>
static __global__ void __launch_bounds__(SY_FEW_WARPS * 32, (resident<CODE, GROUPS>::BLOCKS))
    multiply_few_quant(const __grid_constant__ sy_product p) {
    SY_SHARED_STRUCT(few_quant_shared<GROUPS>, sh);
    if (GROUPS == 1 && p.raw != NULL) sy_take_norms(p, sh->share, sh->inverse);
    int tasks = sy_few_tasks(p);
    for (int task = (int)blockIdx.x; task < tasks; task += (int)gridDim.x) {
        sy_few_task t = sy_few_task_of(p, task);
        for (int r = 0; r < t.rows; r += GROUPS * SY_FEW_ROWS)
            multiply_tile<CODE, GROUPS>(p, sh, t.slot, t.tile, t.first + r,
                                        min(t.rows - r, GROUPS * (int)SY_FEW_ROWS));
    }
}

/* ---- launches ---- */

/* Leaves that wait at the same time, at most. */
static int join_levels(int n_leaves) {
    int levels = 0;
    while (1 << levels < n_leaves)
        levels++;
    return levels;
}

template <sy_dtype CODE, int GROUPS> static sy_status launch(sy_cuda *cu, const sy_product *p) {
    const size_t fixed = offsetof(few_quant_shared<GROUPS>, warp),
                 of_warp = sizeof(quant_space<GROUPS>);
    size_t waiting = (size_t)join_levels(p->sums.n_leaves) * GROUPS * 32 * sizeof(float4);
    size_t most = (MAX_SHARED - fixed - waiting) / of_warp;
    int warps = sy_few_warps(&p->sums, GROUPS, most < SY_FEW_WARPS ? (int)most : SY_FEW_WARPS);
    int sms = cu->properties.multiProcessorCount;
    int64_t tasks = sy_few_tasks_bound(p);
    int64_t blocks =
        (int64_t)(sms > 0 ? sms : 1) * (resident<CODE, GROUPS>::BLOCKS * SY_FEW_WARPS / warps);
    cudaLaunchConfig_t config = sy_launch(cu, tasks < blocks ? tasks : blocks, warps * 32,
                                          fixed + (size_t)warps * of_warp + waiting);
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, multiply_few_quant<CODE, GROUPS>, *p));
}

template <int GROUPS> static sy_status launch_of(sy_cuda *cu, const sy_product *p) {
    switch (p->dtype) {
    case SY_F8_E4M3:
        return launch<SY_F8_E4M3, GROUPS>(cu, p);
    case SY_I8:
        return launch<SY_I8, GROUPS>(cu, p);
    case SY_F4:
        return launch<SY_F4, GROUPS>(cu, p);
    case SY_U4:
        return launch<SY_U4, GROUPS>(cu, p);
    default:
        return sy_fail(SY_ERR_INTERNAL, "product: %s are no quantised codes",
                       sy_dtype_name(p->dtype));
    }
}

sy_status sy_cuda_multiply_few_quant(sy_cuda *cu, const sy_product *p) {
    if (p->rows == 0 || p->tile_first[p->n_matrices] == 0) return SY_OK;
    return p->rows <= SY_FEW_ROWS ? launch_of<1>(cu, p) : launch_of<4>(cu, p);
}

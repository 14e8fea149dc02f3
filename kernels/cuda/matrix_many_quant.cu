/* The product of quantised matrices for many rows: as matrix_many.cu, a block of four warps, 16
 * outputs each, and 32 or 64 rows. Codes go from memory straight to the registers of the one warp
 * that needs them, a stage of 64 k ahead, and are decoded once for all rows; so do the scales,
 * which then pass through shared memory, since each lane needs other ones than it loads. */
#include "kernels/cuda/matrix_many.h"
#include "kernels/cuda/quant_sum.h"

enum { LANE_SCALES = 2 }; /* of a stage's groups of 16 k and 16 outputs, a lane's share */

/* What a warp has of its tile's scales and zero points in one stage, in the order of quant.h. */
struct stage_scales {
    float scale[SY_STAGE_STEPS][SY_TILE_N];
    uint8_t zero[SY_STAGE_STEPS][SY_TILE_N];
};

template <int ROWS> struct many_quant_shared {
    sy_many_shared<ROWS> rows;
    stage_scales warp[SY_MANY_WARPS];
};
static_assert(sizeof(many_quant_shared<64>) <= 48 * 1024,
              "more than a launch takes without asking");

/* A warp's tile in one stage: codes, and a lane's share of scales and zero points. */
template <sy_dtype CODE> struct stage_weights {
    enum { UNITS = SY_STAGE_STEPS / quant_unit<CODE>::STEPS };
    uint4 unit[UNITS];
    uint32_t scale[LANE_SCALES], zero[LANE_SCALES];
};

/* The steps of a stage, of which there may be none. */
template <sy_dtype CODE>
SY_DEVICE void load_stage(const sy_product &p,
                          const uint4 *w,
                          const sy_quant_tile &tile,
                          const sy_segment &s,
                          stage_weights<CODE> *out) {
    const sy_product_quant &q = p.quant;
    int lane = (int)threadIdx.x % 32, place = lane % SY_TILE_N;
    const int unit_steps = quant_unit<CODE>::STEPS;
#pragma unroll
    for (int i = 0; i < stage_weights<CODE>::UNITS; i++) {
        int step = s.begin + i * unit_steps;
        out->unit[i] =
            step < s.end
                ? sy_load16(w + (int64_t)(step / unit_steps) * SY_FRAGMENT_LANES + lane)
                : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < LANE_SCALES; i++) {
        int step = s.begin + ((lane / SY_TILE_N + 2 * i) << q.group_shift);
        bool there = step < s.end;
        int group = q.whole ? 0 : step >> q.group_shift;
        out->scale[i] = there && !q.whole ? sy_quant_scale_bits(p, tile, group, place) : 0;
        if (CODE == SY_U4) out->zero[i] = there ? sy_quant_zero(p, tile, group, place) : 0;
    }
}

template <sy_dtype CODE>
SY_DEVICE void
store_scales(const sy_product &p, const stage_weights<CODE> &in, stage_scales *out) {
    int lane = (int)threadIdx.x % 32, place = lane % SY_TILE_N;
#pragma unroll
    for (int i = 0; i < LANE_SCALES; i++) {
        int group = lane / SY_TILE_N + 2 * i; /* of the stage's, all of which may be one */
        out->scale[group][place] =
            p.quant.whole ? 1.0f : sy_scale_value(p.quant.scale, in.scale[i]);
        if (CODE == SY_U4) out->zero[group][place] = (uint8_t)in.zero[i];
    }
}

/* chain += one step of the tile times columns [k, k + 16) of all rows of a stage. */
template <int GROUPS>
SY_DEVICE void multiply_step(sy_outputs<1, GROUPS> &chain,
                             const uint32_t a[4],
                             const uint16_t (*x)[SY_MANY_PITCH],
                             int k) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int group = 0; group < GROUPS; group += 2) {
        uint32_t b[4];
        sy_ldmatrix_x4(b, &x[group * 8 + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
        sy_mma_bf16(&chain.v[group * 4], a, b);
        sy_mma_bf16(&chain.v[(group + 1) * 4], a, b + 2);
    }
}

/* Steps [s.begin, s.end) of a stage: sum += groups that end there; the others' chains go on.
 * `end`: where the slice ends. */
template <sy_dtype CODE, int GROUPS>
SY_DEVICE void multiply_stage(const sy_product &p,
                              const stage_weights<CODE> &weights,
                              const stage_scales &scales,
                              const uint16_t (*x)[SY_MANY_PITCH],
                              const sy_segment &s,
                              int end,
                              sy_outputs<1, GROUPS> &chain,
                              sy_outputs<1, GROUPS> &sum) {
    const int unit_steps = quant_unit<CODE>::STEPS;
    int g = (int)threadIdx.x % 32 / 4, shift = p.quant.group_shift, last = (1 << shift) - 1;
#pragma unroll
    for (int i = 0; i < SY_STAGE_STEPS; i++) {
        int step = s.begin + i;
        if (step >= s.end) break;
        uint32_t minus_zero[2] = {0, 0}, a[4];
        if (CODE == SY_U4)
            for (int r = 0; r < 2; r++)
                minus_zero[r] = sy_minus_zero(scales.zero[i >> shift][2 * g + r]);
        sy_decode<CODE>(weights.unit[i / unit_steps], i % unit_steps, minus_zero, a);
        multiply_step<GROUPS>(chain, a, x, i * SY_STEP_K);
        if ((step & last) != last && step + 1 < end) continue;
        const float *scale = &scales.scale[i >> shift][2 * g];
        float2 both = make_float2(scale[0], scale[1]);
#pragma unroll
        for (int group = 0; group < GROUPS; group++)
            sy_end_group(&sum.v[group * 4], &chain.v[group * 4], both);
    }
}

/* The sums of tile `own` over all of K, for the rows that sh->rows.row names. What is needed of the
 * tile at the end of a leaf is looked up there: registers are few. */
template <sy_dtype CODE, int GROUPS, int LEVELS>
SY_DEVICE void sum_stages(const sy_product &p,
                          many_quant_shared<GROUPS * 8> *sh,
                          int slot,
                          int own,
                          int rows,
                          sy_outputs<1, GROUPS> &leaf) {
    int n = p.sums.n_leaves * p.sums.slices * SY_STAGES_PER_SLICE, n_waiting = 0;
    stage_scales *scales = &sh->warp[threadIdx.x / 32];
    const uint4 *w = sy_tile_of(p, slot, own).w;
    const sy_quant_tile tile = sy_quant_tile_of(p, slot, own);
    for (int i = 0; i < SY_STAGES - 1; i++) {
        if (i < n) sy_stage_x(p, &sh->rows, i, rows);
        sy_cp_async_commit();
    }
    stage_weights<CODE> weights;
    load_stage<CODE>(p, w, tile, sy_stage_of(p.sums, 0), &weights);
    sy_outputs<1, GROUPS> chain = {}, sum = {}, waiting[LEVELS > 0 ? LEVELS : 1] = {};
#pragma unroll 1
    for (int stage = 0; stage < n; stage++) {
        sy_cp_async_wait<SY_STAGES - 2>();
        __syncthreads(); /* and the last stage's scales have been read */
        if (stage + SY_STAGES - 1 < n) sy_stage_x(p, &sh->rows, stage + SY_STAGES - 1, rows);
        sy_cp_async_commit();
        store_scales<CODE>(p, weights, scales);
        __syncwarp();
        stage_weights<CODE> now = weights;
        if (stage + 1 < n)
            load_stage<CODE>(p, w, tile, sy_stage_of(p.sums, stage + 1), &weights);
        int slice = stage / SY_STAGES_PER_SLICE, at = slice / p.sums.slices;
        multiply_stage<CODE, GROUPS>(p, now, *scales, sh->rows.x[stage % SY_STAGES],
                                     sy_stage_of(p.sums, stage),
                                     sy_segment_of(p.sums, slice).end, chain, sum);
        if (stage % SY_STAGES_PER_SLICE != SY_STAGES_PER_SLICE - 1) continue;
        sy_add_outputs(leaf, leaf, sum);
        sum = {};
        if ((slice + 1) % p.sums.slices != 0) continue;
        sy_leaf_end leaf_end = sy_leaf_end_of(p, sy_quant_tile_of(p, slot, own));
#pragma unroll
        for (int i = 0; i < GROUPS * 4; i++)
            leaf.v[i] = sy_end_leaf(p, leaf_end, i / 2 % 2, leaf.v[i]);
        if (LEVELS == 0) continue;
        sy_join_outputs<1, GROUPS, LEVELS>(p.sums, at, leaf, waiting, &n_waiting);
        if (at + 1 < p.sums.n_leaves) leaf = {};
    }
}

/* GROUPS x 8 rows, up to 2^LEVELS leaves. */
template <sy_dtype CODE, int GROUPS, int LEVELS>
static __global__ void __launch_bounds__(SY_MANY_WARPS * 32, 2)
    multiply_many_quant(const __grid_constant__ sy_product p) {
    enum { ROWS = GROUPS * 8 };
    SY_SHARED_STRUCT(many_quant_shared<ROWS>, sh);
    int tiles = p.tile_first[p.n_matrices];
    int columns = (tiles + SY_MANY_WARPS - 1) / SY_MANY_WARPS;
    sy_many_place at;
    if (!sy_take_place(p, &sh->rows, columns, &at)) return;
    int own = at.column * SY_MANY_WARPS + (int)threadIdx.x / 32;
    bool there = own < tiles; /* a warp without a tile works on the last, for nothing */
    own = min(own, tiles - 1);
    __syncthreads();
    sy_outputs<1, GROUPS> sum = {};
    sum_stages<CODE, GROUPS, LEVELS>(p, sh, at.slot, own, at.rows, sum);
    if (!there) return;
    const sy_tile tile = sy_tile_of(p, at.slot, own);
#pragma unroll
    for (int group = 0; group < GROUPS; group++)
        sy_store_outputs(p, at.slot, tile, at.first + group * 8, at.rows - group * 8,
                         &sum.v[group * 4]);
}

template <sy_dtype CODE, int GROUPS, int LEVELS>
static sy_status launch(sy_cuda *cu, const sy_product *p) {
    enum { ROWS = GROUPS * 8 };
    int64_t columns = (p->tile_first[p->n_matrices] + SY_MANY_WARPS - 1) / SY_MANY_WARPS;
    int64_t blocks = sy_many_blocks<ROWS>(p, columns);
    sy_status st = sy_check_blocks(blocks, "product of many rows");
    if (st != SY_OK) return st;
    cudaLaunchConfig_t config =
        sy_launch(cu, blocks, SY_MANY_WARPS * 32, sizeof(many_quant_shared<ROWS>));
    return SY_CUDA(cu,
                   cudaLaunchKernelEx(&config, multiply_many_quant<CODE, GROUPS, LEVELS>, *p));
}

template <sy_dtype CODE> static sy_status launch_of(sy_cuda *cu, const sy_product *p) {
    if (p->sums.n_leaves == 1) return launch<CODE, 8, 0>(cu, p);
    if (p->sums.n_leaves <= 4) return launch<CODE, 8, 2>(cu, p);
    return launch<CODE, 4, SY_JOIN_LEVELS>(cu, p);
}

sy_status sy_cuda_multiply_many_quant(sy_cuda *cu, const sy_product *p) {
    if (p->rows == 0 || p->tile_first[p->n_matrices] == 0) return SY_OK;
    switch (p->dtype) {
    case SY_F8_E4M3:
        return launch_of<SY_F8_E4M3>(cu, p);
    case SY_I8:
        return launch_of<SY_I8>(cu, p);
    case SY_F4:
        return launch_of<SY_F4>(cu, p);
    case SY_U4:
        return launch_of<SY_U4>(cu, p);
    default:
        return sy_fail(SY_ERR_INTERNAL, "product: %s are no quantised codes",
                       sy_dtype_name(p->dtype));
    }
}

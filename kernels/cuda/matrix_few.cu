/* The product for few rows, bound by the memory that the weights come from. A block takes tiles of
 * 16 outputs, each of its warps a slice of K; a lane asks for 16 (or, of many rows, 8) fragments
 * before it looks at the first. The sums of the slices meet in shared memory. The weights stay in
 * registers while up to 32 rows of x pass by; with more rows they are read again. */
#include <stddef.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/matrix_few.h"

enum {
    MAX_WARPS = SY_FEW_WARPS,
    ROWS = SY_FEW_ROWS,
    WARPS_PER_SM = 16 /* that 128 registers a thread leave room for */
};

/* What one warp stages of x, and then its sums for the block. AHEAD is how many fragments a lane
 * asks for at once; eight rows of ldmatrix meet no bank twice. */
template <int GROUPS> struct few_shape {
    enum { AHEAD = GROUPS == 1 ? 16 : 8, COLUMNS = AHEAD * SY_STEP_K, PITCH = COLUMNS + 8 };
};
template <int GROUPS> union warp_space {
    uint16_t x[ROWS][few_shape<GROUPS>::PITCH];
    float4 sum[GROUPS * 32];
};

template <int GROUPS> struct few_shared {
    float4 waiting[SY_JOIN_LEVELS][GROUPS * 32]; /* leaves without their right neighbour */
    int32_t row[GROUPS * ROWS];
    float share[SY_FUSED_ROWS][SY_NORM_WARPS];
    float inverse[SY_FUSED_ROWS];
    warp_space<GROUPS> warp[MAX_WARPS]; /* a launch asks for as many as it has warps */
};
static_assert(sizeof(few_shared<1>) <= 48 * 1024 && sizeof(few_shared<4>) <= 48 * 1024,
              "more than a launch takes without asking");

/* One slice for up to GROUPS * 8 rows: acc += weights times x. */
template <int GROUPS, bool F16, bool NORM>
SY_DEVICE void multiply_slice(const sy_product &p,
                              few_shared<GROUPS> *sh,
                              const uint4 *w,
                              const sy_segment &s,
                              int rows,
                              float acc[GROUPS][4]) {
    enum {
        AHEAD = few_shape<GROUPS>::AHEAD,
        COLUMNS = few_shape<GROUPS>::COLUMNS,
        PITCH = few_shape<GROUPS>::PITCH
    };
    int lane = (int)threadIdx.x % 32;
    uint16_t(*x)[PITCH] = sh->warp[threadIdx.x / 32].x;
    sy_policy policy = sy_evict_first();
#pragma unroll 1
    for (int begin = s.begin; begin < s.end; begin += AHEAD) {
        uint4 a[AHEAD];
        const uint4 *from = w + (int64_t)begin * SY_FRAGMENT_LANES + lane;
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            a[j] = begin + j < s.end ? sy_load_weights(from + j * SY_FRAGMENT_LANES, policy)
                                     : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            int first = group * ROWS, here = min(rows - first, (int)ROWS);
            if (here <= 0) break;
            if (NORM)
                sy_stage_raw_rows<COLUMNS, PITCH>(p, sh->row, sh->inverse, here,
                                                  begin * SY_STEP_K, s, x);
            else
                sy_stage_rows<COLUMNS, PITCH>(p, sh->row + first, here, begin * SY_STEP_K, s,
                                              x);
            sy_cp_async_commit();
            sy_cp_async_wait<0>();
            if (here < ROWS && lane < COLUMNS / 8)
                sy_store16(&x[here][8 * lane], make_uint4(0, 0, 0, 0));
            __syncwarp();
            /* For all rows that are not there one row of zeros, in banks of its own. */
            const uint16_t *own = &x[min(lane % 8, here)][lane / 8 * 8];
#pragma unroll
            for (int j = 0; j < AHEAD; j += 2) {
                uint32_t b[4];
                if (begin + j >= s.end) break;
                sy_ldmatrix_x4(b, own + j * SY_STEP_K);
                sy_multiply<F16>(acc[group], a[j], b);
                if (begin + j + 1 < s.end) sy_multiply<F16>(acc[group], a[j + 1], b + 2);
            }
            __syncwarp();
        }
    }
}

/* Adds the sums of slices [index, index + n) to what this thread keeps of one lane's outputs and 8
 * rows. Returns the whole sum once the last slice is in. */
template <int GROUPS>
SY_DEVICE float4 join_slices(const sy_sums &sums,
                             few_shared<GROUPS> *sh,
                             int index,
                             int n,
                             float4 leaf,
                             int *waiting) {
    for (int i = 0; i < n; i++) {
        float4 v = sy_load_float4(&sh->warp[i].sum[threadIdx.x]);
        int at = (index + i) / sums.slices, slice = index + i - at * sums.slices;
        if (slice == 0) leaf = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        leaf = make_float4(leaf.x + v.x, leaf.y + v.y, leaf.z + v.z, leaf.w + v.w);
        if (slice + 1 < sums.slices || sums.n_leaves == 1) continue;
        leaf = sy_join_leaf(sums, at, leaf, sh->waiting, waiting);
    }
    return leaf;
}

/* One tile for rows [row, row + rows) of the product, at most GROUPS * 8. */
template <int GROUPS, bool F16, bool NORM>
SY_DEVICE void multiply_tile(const sy_product &p,
                             few_shared<GROUPS> *sh,
                             int slot,
                             int tile,
                             int64_t row,
                             int rows) {
    int thread = (int)threadIdx.x, warp = thread / 32, warps = sy_warps_of_block();
    if (thread < rows)
        sh->row[thread] =
            p.row == NULL ? (int32_t)sy_head_row(p, slot, row + thread) : p.row[row + thread];
    __syncthreads(); /* and the sums of the last tile have been read */
    bool joins = thread < GROUPS * 32 && thread / 32 * ROWS < rows;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    int n = p.sums.n_leaves * p.sums.slices, waiting = 0;
    const uint4 *w = sy_tile_of(p, slot, tile).w;
    for (int index = 0; index < n; index += warps) {
        if (index > 0) __syncthreads();
        if (index + warp < n) {
            float acc[GROUPS][4] = {};
            multiply_slice<GROUPS, F16, NORM>(p, sh, w, sy_segment_of(p.sums, index + warp),
                                              rows, acc);
#pragma unroll
            for (int group = 0; group < GROUPS; group++)
                if (group * ROWS < rows)
                    sy_store_float4(&sh->warp[warp].sum[group * 32 + thread % 32],
                                    make_float4(acc[group][0], acc[group][1], acc[group][2],
                                                acc[group][3]));
        }
        __syncthreads();
        if (joins) sum = join_slices(p.sums, sh, index, min(warps, n - index), sum, &waiting);
    }
    if (!joins) return;
    float v[4] = {sum.x, sum.y, sum.z, sum.w};
    int first = thread / 32 * ROWS;
    sy_store_outputs(p, slot, sy_tile_of(p, slot, tile), row + first, rows - first, v);
}

template <int GROUPS, bool F16, bool NORM>
__global__ void __launch_bounds__(MAX_WARPS * 32, 2)
    multiply_few(const __grid_constant__ sy_product p) {
    SY_SHARED_STRUCT(few_shared<GROUPS>, sh);
    if (NORM) sy_take_norms(p, sh->share, sh->inverse);
    int tasks = sy_few_tasks(p);
    for (int task = (int)blockIdx.x; task < tasks; task += (int)gridDim.x) {
        sy_few_task t = sy_few_task_of(p, task);
        for (int r = 0; r < t.rows; r += GROUPS * ROWS)
            multiply_tile<GROUPS, F16, NORM>(p, sh, t.slot, t.tile, t.first + r,
                                             min(t.rows - r, GROUPS * (int)ROWS));
    }
}

template <int GROUPS> static sy_status launch(sy_cuda *cu, const sy_product *p) {
    int warps = sy_few_warps(&p->sums, GROUPS, MAX_WARPS);
    int sms = cu->properties.multiProcessorCount;
    int64_t tasks = sy_few_tasks_bound(p);
    int64_t resident = (int64_t)(sms > 0 ? sms : 1) * (WARPS_PER_SM / warps);
    size_t shared =
        offsetof(few_shared<GROUPS>, warp) + (size_t)warps * sizeof(warp_space<GROUPS>);
    cudaLaunchConfig_t config =
        sy_launch(cu, tasks < resident ? tasks : resident, warps * 32, shared);
    bool f16 = p->dtype == SY_F16;
    if (GROUPS == 1 && p->raw != NULL)
        return f16 ? SY_CUDA(cu, cudaLaunchKernelEx(&config, multiply_few<1, true, true>, *p))
                   : SY_CUDA(cu, cudaLaunchKernelEx(&config, multiply_few<1, false, true>, *p));
    return f16 ? SY_CUDA(cu, cudaLaunchKernelEx(&config, multiply_few<GROUPS, true, false>, *p))
               : SY_CUDA(cu,
                         cudaLaunchKernelEx(&config, multiply_few<GROUPS, false, false>, *p));
}

sy_status sy_cuda_multiply_few(sy_cuda *cu, const sy_product *p) {
    if (p->rows == 0 || p->tile_first[p->n_matrices] == 0) return SY_OK;
    return p->rows <= ROWS ? launch<1>(cu, p) : launch<4>(cu, p);
}

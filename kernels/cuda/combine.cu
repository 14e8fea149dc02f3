/* Moving rows, and the combine tree of a job that the host has laid out. */
#include "base/checked.h"
#include "kernels/cuda/tree.h"

/* ---- dst[i] = row ref[i]. A block copies one row, BYTES per thread at a time. It is bound by
 * memory: each byte is read once and written once. ---- */

enum { PACK_THREADS = 128 };

template <int BYTES> SY_DEVICE void copy_piece(char *to, const char *from) {
    if constexpr (BYTES == 16)
        sy_store16(to, sy_load16(from));
    else if constexpr (BYTES == 4)
        *(uint32_t *)(void *)to = *(const uint32_t *)(const void *)from;
    else if constexpr (BYTES == 2)
        *(uint16_t *)(void *)to = *(const uint16_t *)(const void *)from;
    else
        *to = *from;
}

template <int BYTES>
static __global__ void __launch_bounds__(PACK_THREADS, 8)
    pack_rows(int64_t row_bytes, const sy_row_ref *ref, const char *const *chunk, char *dst) {
    int64_t i = blockIdx.x;
    const char *from = chunk[ref[i].chunk] + ref[i].row * row_bytes;
    char *to = dst + i * row_bytes;
    for (int64_t at = (int64_t)threadIdx.x * BYTES; at < row_bytes; at += PACK_THREADS * BYTES)
        copy_piece<BYTES>(to + at, from + at);
}

static sy_status
check_refs(int64_t n, const sy_row_ref *ref, size_t stride, const char *what, int *n_chunks) {
    *n_chunks = 0;
    for (int64_t i = 0; i < n; i++) {
        const sy_row_ref *r =
            (const sy_row_ref *)(const void *)((const char *)ref + i * stride);
        if (r->chunk < 0 || r->row < 0)
            return sy_fail(SY_ERR_INTERNAL, "%s: entry %lld is row %d of chunk %d", what,
                           (long long)i, r->row, r->chunk);
        if (r->chunk >= *n_chunks) *n_chunks = r->chunk + 1;
    }
    return SY_OK;
}

extern "C" sy_status sy_cuda_pack_rows(sy_backend *be,
                                       int64_t n_rows,
                                       int64_t row_bytes,
                                       const sy_row_ref *ref,
                                       const void *const *chunk,
                                       void *dst,
                                       sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    int n_chunks = 0;
    const sy_row_ref *device_ref;
    const char *const *device_chunk;
    if (n_rows <= 0 || row_bytes <= 0) return SY_OK;
    SY_TRY(sy_check_blocks(n_rows, "pack_rows"));
    SY_TRY(check_refs(n_rows, ref, sizeof *ref, "pack_rows", &n_chunks));
    SY_TRY(sy_cuda_upload(cu, ref, (uint64_t)n_rows * sizeof *ref, &device_ref));
    SY_TRY(sy_cuda_upload(cu, chunk, (uint64_t)n_chunks * sizeof *chunk, &device_chunk));
    {
        uintptr_t bits = (uintptr_t)dst | (uintptr_t)row_bytes;
        for (int i = 0; i < n_chunks; i++)
            bits |= (uintptr_t)chunk[i];
        auto kernel = bits % 16 == 0  ? pack_rows<16>
                      : bits % 4 == 0 ? pack_rows<4>
                      : bits % 2 == 0 ? pack_rows<2>
                                      : pack_rows<1>;
        cudaLaunchConfig_t config = sy_launch(cu, n_rows, PACK_THREADS, 0);
        st = SY_CUDA(cu, cudaLaunchKernelEx(&config, kernel, row_bytes, device_ref,
                                            device_chunk, (char *)dst));
    }
done:
    return st;
}

/* ---- out = the tree over the leaves of each row. A block takes one row and WIDTH columns per
 * thread; each leaf's columns are read once. ---- */

struct tree_table {
    int width, n_experts;
    int blocks_per_row;
    int64_t first_leaf; /* where `leaf` begins among the job's */
    const int64_t *first;
    const sy_tree_leaf *leaf;
    const float *const *chunk;
    const float *shared;
    float *out;
    bool accumulate;
};

template <int WIDTH, bool WEIGHTED>
static __global__ void __launch_bounds__(SY_TREE_THREADS, 4) unpack_rows(tree_table job) {
    SY_SHARED_STRUCT(sy_tree_stack<WIDTH>, stack);
    __shared__ sy_tree tree;
    int64_t row = blockIdx.x / (unsigned)job.blocks_per_row;
    size_t block = blockIdx.x % (unsigned)job.blocks_per_row;
    size_t column = (block * SY_TREE_THREADS + threadIdx.x) * WIDTH;
    int i = (int)threadIdx.x, n = (int)(job.first[row + 1] - job.first[row]);
    if (i < n) {
        const sy_tree_leaf *leaf = job.leaf + (job.first[row] - job.first_leaf) + i;
        tree.row[i] = job.chunk[leaf->ref.chunk] + (int64_t)leaf->ref.row * job.width;
        tree.weight[i] = leaf->weight;
        tree.expert[i] = leaf->expert;
        tree.begin[i] = 0;
    }
    if (i == 0) tree.n = n;
    sy_tree_prepare(&tree, job.n_experts);
    if (column >= (size_t)job.width) return;

    size_t at = (size_t)row * (size_t)job.width + column;
    sy_columns<WIDTH> value = {};
    if (n > 0) value = sy_tree_value<WIDTH, WEIGHTED>(&tree, 0, n, column, stack);
    if (job.shared != NULL)
        value = sy_columns_add(value, sy_columns_load<WIDTH>(job.shared + at));
    if (job.accumulate) value = sy_columns_add(sy_columns_load<WIDTH>(job.out + at), value);
    sy_columns_store(job.out + at, value);
}

/* The most leaves of a row, and whether a row repeats an expert. */
struct tree_shape {
    int leaves;
    bool repeated;
};

static sy_status check_tree(const sy_tree_job *job, tree_shape *shape) {
    *shape = {0, false};
    if (job->n_experts > SY_MAX_EXPERTS)
        return sy_fail(SY_ERR_INTERNAL, "combine: %d experts, the limit is %d", job->n_experts,
                       (int)SY_MAX_EXPERTS);
    for (int64_t i = 0; i < job->n_rows; i++) {
        int64_t n = job->first[i + 1] - job->first[i];
        if (n < 0 || n > SY_MAX_TOP_K)
            return sy_fail(SY_ERR_INTERNAL,
                           "combine: row %lld has %lld leaves, expected 0 to %d", (long long)i,
                           (long long)n, (int)SY_MAX_TOP_K);
        if (n > shape->leaves) shape->leaves = (int)n;
        const sy_tree_leaf *leaf = job->leaf + job->first[i];
        for (int64_t k = 0; k < n; k++) {
            int before = k > 0 ? leaf[k - 1].expert : 0;
            if (leaf[k].expert < before || leaf[k].expert >= job->n_experts)
                return sy_fail(SY_ERR_INTERNAL,
                               "combine: row %lld has expert %d behind expert %d of %d",
                               (long long)i, leaf[k].expert, before, job->n_experts);
            if (k > 0 && leaf[k].expert == before) shape->repeated = true;
        }
    }
    return SY_OK;
}

/* 4 if all rows may be read 16 bytes at a time, else 1. */
static int columns_per_thread(const sy_tree_job *job, int n_chunks) {
    bool wide = job->width % 4 == 0 && sy_aligned16(job->out) && sy_aligned16(job->shared);
    for (int i = 0; i < n_chunks; i++)
        wide = wide && sy_aligned16(job->chunk[i]);
    return wide ? 4 : 1;
}

template <int WIDTH>
static sy_status
launch_unpack(sy_cuda *cu, tree_table *table, const sy_tree_job *job, int levels) {
    sy_status st = SY_OK;
    table->blocks_per_row = (int)sy_ceil_div(job->width, SY_TREE_THREADS * WIDTH);
    int64_t blocks = job->n_rows * table->blocks_per_row;
    SY_TRY(sy_check_blocks(blocks, "combine"));
    {
        auto kernel = job->weighted ? unpack_rows<WIDTH, true> : unpack_rows<WIDTH, false>;
        cudaLaunchConfig_t config =
            sy_launch(cu, blocks, SY_TREE_THREADS, sy_tree_stack_bytes<WIDTH>(levels));
        st = SY_CUDA(cu, cudaLaunchKernelEx(&config, kernel, *table));
    }
done:
    return st;
}

extern "C" sy_status sy_cuda_unpack(sy_backend *be, const sy_tree_job *job, sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    tree_table table = {};
    tree_shape shape = {};
    int n_chunks = 0, levels;
    int64_t n_leaves, first_leaf;
    SY_TRY(check_tree(job, &shape));
    if (job->n_rows <= 0 || job->width <= 0) return SY_OK;
    first_leaf = job->first[0];
    n_leaves = job->first[job->n_rows] - first_leaf;
    SY_TRY(check_refs(n_leaves, n_leaves > 0 ? &job->leaf[first_leaf].ref : NULL,
                      sizeof *job->leaf, "combine", &n_chunks));
    SY_TRY(sy_cuda_upload(cu, job->first, ((uint64_t)job->n_rows + 1) * sizeof *job->first,
                          &table.first));
    if (n_leaves > 0) {
        SY_TRY(sy_cuda_upload(cu, job->leaf + first_leaf,
                              (uint64_t)n_leaves * sizeof *job->leaf, &table.leaf));
        SY_TRY(sy_cuda_upload(cu, job->chunk, (uint64_t)n_chunks * sizeof *job->chunk,
                              &table.chunk));
    }
    table.width = job->width;
    table.n_experts = job->n_experts;
    table.first_leaf = first_leaf;
    table.shared = job->shared;
    table.out = job->out;
    table.accumulate = job->accumulate;
    levels = sy_tree_levels(job->n_experts, shape.leaves, shape.repeated);
    if (columns_per_thread(job, n_chunks) == 4)
        st = launch_unpack<4>(cu, &table, job, levels);
    else
        st = launch_unpack<1>(cu, &table, job, levels);
done:
    return st;
}

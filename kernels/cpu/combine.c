/* Moving rows, and the combine tree that adds the experts' results of a token. */
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "kernels/cpu/cpu.h"

typedef struct pack_job {
    int64_t n_rows, row_bytes;
    const sy_row_ref *ref;
    const void *const *chunk;
    char *dst;
} pack_job;

static void pack_share(void *arg, int thread, int n_threads) {
    const pack_job *job = arg;
    int64_t begin, end;
    sy_pool_share(job->n_rows, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const char *chunk = job->chunk[job->ref[i].chunk];
        memcpy(job->dst + i * job->row_bytes, chunk + job->ref[i].row * job->row_bytes,
               (size_t)job->row_bytes);
    }
}

sy_status sy_cpu_pack_rows(sy_backend *be,
                           int64_t n_rows,
                           int64_t row_bytes,
                           const sy_row_ref *ref,
                           const void *const *chunk,
                           void *dst,
                           sy_stream *stream) {
    (void)stream;
    pack_job job = {n_rows, row_bytes, ref, chunk, dst};
    if (n_rows > 0 && row_bytes > 0)
        sy_cpu_share_out(sy_cpu_of(be), n_rows * row_bytes, pack_share, &job);
    return SY_OK;
}

typedef struct add_job {
    const sy_cpu *cpu;
    int64_t n;
    const float *y;
    float *x;
} add_job;

static void add_share(void *arg, int thread, int n_threads) {
    const add_job *job = arg;
    int64_t begin, end;
    sy_pool_share(job->n, thread, n_threads, &begin, &end);
    job->cpu->isa->vec.add(end - begin, job->y + begin, job->x + begin);
}

sy_status sy_cpu_add(sy_backend *be,
                     int64_t n_rows,
                     int64_t width,
                     const float *y,
                     float *x,
                     sy_stream *stream) {
    (void)stream;
    add_job job = {sy_cpu_of(be), n_rows * width, y, x};
    if (job.n > 0) sy_cpu_share_out(sy_cpu_of(be), job.n * (int64_t)sizeof *y, add_share, &job);
    return SY_OK;
}

/* A row's tree as a postfix program, since all columns take the same path: push a leaf, or
 * replace the two topmost values by their sum. The halving of at most SY_MAX_EXPERTS experts is
 * 16 deep, that of leaves with the same expert 6 more, and each level keeps one value waiting. */
enum { ADD_TOP = -1, MAX_DEPTH = 24, MAX_PROGRAM = 2 * SY_MAX_TOP_K, COLUMNS = 512 };
enum { SCRATCH_BYTES = MAX_DEPTH * COLUMNS * (int)sizeof(float) }; /* of a thread */

typedef struct tree_program {
    int n;
    int16_t op[MAX_PROGRAM]; /* index of a leaf, or ADD_TOP */
} tree_program;

/* Appends the program of leaves [begin, end), all within the experts [low, high). Leaves that
 * share one expert are halved by index. */
static void compile_subtree(tree_program *p,
                            const sy_tree_leaf *leaf,
                            int begin,
                            int end,
                            int64_t low,
                            int64_t high) {
    while (end - begin > 1) {
        int64_t middle = low + sy_ceil_div(high - low, 2);
        int split = begin;
        if (high - low > 1)
            while (split < end && leaf[split].expert < middle)
                split++;
        else
            split += (int)sy_ceil_div(end - begin, 2);
        if (split == end) {
            high = middle;
        } else if (split == begin) {
            low = middle;
        } else {
            compile_subtree(p, leaf, begin, split, low, middle);
            compile_subtree(p, leaf, split, end, high - low > 1 ? middle : low, high);
            p->op[p->n++] = ADD_TOP;
            return;
        }
    }
    p->op[p->n++] = (int16_t)begin;
}

/* What the leaves of a row contribute to columns [column, column + n); stack is scratch of
 * MAX_DEPTH x COLUMNS. Returns the value: part of the stack, or of the one unweighted leaf. */
static const float *run_program(const sy_tree_job *job,
                                const sy_vector_kernels *vec,
                                const tree_program *p,
                                const sy_tree_leaf *leaf,
                                int64_t column,
                                int64_t n,
                                float *stack) {
    const float *value[MAX_DEPTH]; /* unweighted leaves are not copied to the stack */
    int depth = 0;
    for (int i = 0; i < p->n; i++) {
        if (p->op[i] == ADD_TOP) {
            depth--;
            float *sum = stack + (depth - 1) * COLUMNS;
            if (value[depth - 1] != sum) memcpy(sum, value[depth - 1], (size_t)n * sizeof *sum);
            vec->add(n, value[depth], sum);
            value[depth - 1] = sum;
            continue;
        }
        const sy_tree_leaf *l = &leaf[p->op[i]];
        const float *row = job->chunk[l->ref.chunk] + l->ref.row * (int64_t)job->width + column;
        value[depth] = row;
        if (job->weighted) {
            vec->scale(n, l->weight, row, stack + depth * COLUMNS);
            value[depth] = stack + depth * COLUMNS;
        }
        depth++;
    }
    return value[0];
}

typedef struct unpack_job {
    sy_cpu *cpu;
    const sy_tree_job *tree;
} unpack_job;

static void unpack_columns(const unpack_job *u,
                           const tree_program *p,
                           int64_t row,
                           int64_t column,
                           int64_t n,
                           float *stack) {
    const sy_tree_job *job = u->tree;
    const sy_vector_kernels *vec = &u->cpu->isa->vec;
    float *out = job->out + row * job->width + column;
    const float *value = stack;
    if (p->n > 0)
        value = run_program(job, vec, p, job->leaf + job->first[row], column, n, stack);
    else
        memset(stack, 0, (size_t)n * sizeof *stack);
    if (job->shared != NULL) {
        if (value != stack) memcpy(stack, value, (size_t)n * sizeof *stack);
        vec->add(n, job->shared + row * job->width + column, stack);
        value = stack;
    }
    if (job->accumulate)
        vec->add(n, value, out);
    else
        memcpy(out, value, (size_t)n * sizeof *out);
}

/* Units are blocks of columns, so that one row occupies several threads. */
static void unpack_share(void *arg, int thread, int n_threads) {
    const unpack_job *u = arg;
    const sy_tree_job *job = u->tree;
    float *stack = (float *)(void *)(u->cpu->scratch + thread * u->cpu->scratch_bytes);
    int64_t blocks = sy_ceil_div(job->width, COLUMNS), begin, end, compiled = -1;
    tree_program program = {0};
    sy_pool_share(job->n_rows * blocks, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        int64_t row = i / blocks, column = i % blocks * COLUMNS;
        int n_leaves = (int)(job->first[row + 1] - job->first[row]);
        if (row != compiled) {
            program.n = 0;
            if (n_leaves > 0)
                compile_subtree(&program, job->leaf + job->first[row], 0, n_leaves, 0,
                                job->n_experts);
            compiled = row;
        }
        unpack_columns(u, &program, row, column, sy_min(COLUMNS, job->width - column), stack);
    }
}

sy_status sy_cpu_unpack(sy_backend *be, const sy_tree_job *job, sy_stream *stream) {
    (void)stream;
    if (job->n_experts > SY_MAX_EXPERTS)
        return sy_fail(SY_ERR_INTERNAL, "combine: %d experts, the limit is %d", job->n_experts,
                       (int)SY_MAX_EXPERTS);
    for (int64_t i = 0; i < job->n_rows; i++) {
        int64_t n = job->first[i + 1] - job->first[i];
        if (n < 0 || n > SY_MAX_TOP_K)
            return sy_fail(SY_ERR_INTERNAL,
                           "combine: row %lld has %lld leaves, expected 0 to %d", (long long)i,
                           (long long)n, (int)SY_MAX_TOP_K);
    }
    unpack_job u = {sy_cpu_of(be), job};
    if (u.cpu->scratch_bytes < SCRATCH_BYTES)
        return sy_fail(SY_ERR_INTERNAL, "combine: no scratch was reserved");
    if (job->n_rows > 0 && job->width > 0)
        sy_cpu_share_out(u.cpu, job->first[job->n_rows] * job->width * (int64_t)sizeof(float),
                         unpack_share, &u);
    return SY_OK;
}

void sy_cpu_combine_scratch(const sy_cpu *cpu,
                            const sy_limits *l,
                            uint64_t *thread,
                            uint64_t *shared) {
    (void)cpu;
    (void)l;
    *thread = SCRATCH_BYTES;
    *shared = 0;
}

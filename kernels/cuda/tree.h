/* The combine tree on the device: adding up rows along the tree that halves [0, E).
 *
 * Leaves stand in ascending order of their experts. Two neighbours are joined at the deepest
 * subtree that holds both; the tree is known once the depth of that join is known for each pair
 * of neighbours: a walk from left to right keeps a stack of sums, and before it takes the next
 * leaf it joins all that is deeper than the join in front of that leaf. All columns of a row walk
 * the same way, so the walk is prepared once per block (sy_tree_prepare) and then run by each
 * thread for its own columns (sy_tree_value), with the stack in shared memory.
 *
 * The sums are those of the host's tables: additions and multiplications of float32, rounded one
 * by one, in the same places of the tree. */
#ifndef SY_KERNELS_CUDA_TREE_H
#define SY_KERNELS_CUDA_TREE_H

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"

enum {
    SY_TREE_THREADS = 128,
    SY_TREE_LEAVES = SY_MAX_TOP_K,
    SY_TREE_LEVELS = 16 + 6, /* of 65535 experts, and of 64 leaves with the same expert */
    SY_TREE_AHEAD = 4        /* leaves whose loads are under way at once */
};

/* ---- a thread's columns: 4 neighbours where rows are 16-byte aligned, else 1 ---- */

template <int WIDTH> struct sy_columns { float v[WIDTH]; };

template <int WIDTH> SY_DEVICE sy_columns<WIDTH> sy_columns_load(const float *p) {
    sy_columns<WIDTH> c;
    if constexpr (WIDTH == 4) {
        uint4 q = sy_load16(p);
        c.v[0] = __uint_as_float(q.x);
        c.v[1] = __uint_as_float(q.y);
        c.v[2] = __uint_as_float(q.z);
        c.v[3] = __uint_as_float(q.w);
    } else {
        c.v[0] = *p;
    }
    return c;
}

template <int WIDTH> SY_DEVICE void sy_columns_store(float *p, const sy_columns<WIDTH> &c) {
    if constexpr (WIDTH == 4) {
        uint4 q;
        q.x = __float_as_uint(c.v[0]);
        q.y = __float_as_uint(c.v[1]);
        q.z = __float_as_uint(c.v[2]);
        q.w = __float_as_uint(c.v[3]);
        sy_store16(p, q);
    } else {
        *p = c.v[0];
    }
}

template <int WIDTH>
SY_DEVICE sy_columns<WIDTH> sy_columns_add(const sy_columns<WIDTH> &a,
                                           const sy_columns<WIDTH> &b) {
    sy_columns<WIDTH> c;
#pragma unroll
    for (int i = 0; i < WIDTH; i++)
        c.v[i] = a.v[i] + b.v[i];
    return c;
}

template <int WIDTH>
SY_DEVICE sy_columns<WIDTH> sy_columns_scale(float weight, const sy_columns<WIDTH> &a) {
    sy_columns<WIDTH> c;
#pragma unroll
    for (int i = 0; i < WIDTH; i++)
        c.v[i] = weight * a.v[i];
    return c;
}

/* ---- the walk ---- */

/* The leaves of one row, in static shared memory: n, expert, begin, row and weight are the
 * caller's. Leaves [begin, ...) with equal `begin` are one tree, so that a row may hold several. */
struct sy_tree {
    const float *row[SY_TREE_LEAVES];
    float weight[SY_TREE_LEAVES];
    int expert[SY_TREE_LEAVES];
    int begin[SY_TREE_LEAVES]; /* first leaf of the tree that this leaf belongs to */
    int depth[SY_TREE_LEAVES]; /* of the join with the leaf in front */
    int joins[SY_TREE_LEAVES]; /* sums to make in front of the leaf */
    int n;
};

/* Depth of the deepest subtree of the halving of [0, n) that holds both a and b. */
SY_DEVICE int sy_halving_depth(int a, int b, int n) {
    int low = 0, depth = 0;
    for (; n > 1; depth++) {
        int left = n - n / 2;
        bool right = a >= low + left;
        if (right != (b >= low + left)) break;
        low += right ? left : 0;
        n = right ? n - left : left;
    }
    return depth;
}

/* Leaves of one expert are halved by their index, below the expert's own place. */
SY_DEVICE int sy_join_depth(const sy_tree *t, int i, int n_experts) {
    int expert = t->expert[i], depth = sy_halving_depth(t->expert[i - 1], expert, n_experts);
    if (t->expert[i - 1] != expert) return depth;
    int first = i - 1, end = i + 1;
    while (first > 0 && t->expert[first - 1] == expert)
        first--;
    while (end < t->n && t->expert[end] == expert)
        end++;
    return depth + sy_halving_depth(i - 1 - first, i - first, end - first);
}

/* A join in front of an earlier leaf is still open in front of leaf i if none between is less
 * deep; it is made there if it is deeper than the join in front of i. */
SY_DEVICE int sy_joins_before(const sy_tree *t, int i) {
    int depth = t->depth[i], open = SY_TREE_LEVELS + 1, n = 0;
    for (int j = i - 1; j > t->begin[i] && t->depth[j] > depth; j--)
        if (t->depth[j] < open) {
            open = t->depth[j];
            n++;
        }
    return n;
}

/* By all threads of a block; what the caller wrote is seen by all, and so is the result. */
SY_DEVICE void sy_tree_prepare(sy_tree *t, int n_experts) {
    int i = (int)threadIdx.x;
    __syncthreads();
    bool joined = i < t->n && t->begin[i] < i;
    if (joined) t->depth[i] = sy_join_depth(t, i, n_experts);
    __syncthreads();
    if (joined) t->joins[i] = sy_joins_before(t, i);
    __syncthreads();
}

/* Levels of the stack that trees of n_experts with at most n_leaves need. */
static inline int sy_tree_levels(int n_experts, int n_leaves, bool repeated) {
    int levels = repeated ? 6 : 0;
    for (int n = n_experts; n > 1; n -= n / 2)
        levels++;
    if (levels > n_leaves - 1) levels = n_leaves - 1;
    return levels > 1 ? levels : 1;
}

/* A thread's stack is a column of the block's: a level is one row of all threads, so that a warp
 * meets no bank conflict. */
template <int WIDTH> struct sy_tree_stack {
    float level[SY_TREE_LEVELS][SY_TREE_THREADS * WIDTH];
};
static_assert(sizeof(sy_tree_stack<4>) + sizeof(sy_tree) + 2048 <= 48 * 1024,
              "static and dynamic shared memory that any launch may have");

template <int WIDTH> static inline size_t sy_tree_stack_bytes(int levels) {
    return sizeof(float) * WIDTH * SY_TREE_THREADS * (size_t)levels;
}

/* The sum of the tree of leaves [begin, end), end > begin, for the columns at `column`. */
template <int WIDTH, bool WEIGHTED>
SY_DEVICE sy_columns<WIDTH> sy_tree_value(const sy_tree *t,
                                          int begin,
                                          int end,
                                          size_t column,
                                          sy_tree_stack<WIDTH> *stack) {
    int depth = 0, at = (int)threadIdx.x * WIDTH;
    sy_columns<WIDTH> sum = {}, ahead[SY_TREE_AHEAD];
    for (int first = begin; first < end; first += SY_TREE_AHEAD) {
#pragma unroll
        for (int j = 0; j < SY_TREE_AHEAD; j++)
            if (first + j < end) ahead[j] = sy_columns_load<WIDTH>(t->row[first + j] + column);
#pragma unroll
        for (int j = 0; j < SY_TREE_AHEAD; j++) {
            int i = first + j;
            if (i < end) {
                if (i > begin) {
                    for (int n = t->joins[i]; n > 0; n--)
                        sum = sy_columns_add(sy_columns_load<WIDTH>(&stack->level[--depth][at]),
                                             sum);
                    sy_columns_store(&stack->level[depth++][at], sum);
                }
                sum = WEIGHTED ? sy_columns_scale(t->weight[i], ahead[j]) : ahead[j];
            }
        }
    }
    while (depth > 0)
        sum = sy_columns_add(sy_columns_load<WIDTH>(&stack->level[--depth][at]), sum);
    return sum;
}

/* True if p may be read 16 bytes at a time. */
static inline bool sy_aligned16(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

#endif

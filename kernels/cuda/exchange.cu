/* The fixed form of the exchange on the device: who computes what, and the sums on both sides.
 *
 * Every rank sees the choices of all tokens, so each finds for itself what the host's plan tells
 * by messages: the copy of an expert that computes a token, the segments of a token (maximal
 * subtrees of [0, E) in which all its chosen experts are computed by one rank), and their order.
 * comm/plan.h has the same rules in words. */
#include "base/checked.h"
#include "kernels/cuda/tree.h"

/* What a launch needs of a round, by value: the placement's struct is the host's. */
struct round_table {
    sy_device_placement placement;
    sy_device_round round;
};

struct home_copy {
    int rank, slot; /* rank -1: none */
};

/* The copy of `expert` that computes token number `token`. */
SY_DEVICE home_copy home_of(const round_table &t, int expert, int64_t token) {
    home_copy none = {-1, -1};
    if (expert < 0 || expert >= t.placement.n_experts) return none;
    int first = t.placement.home_first[expert];
    int n_copies = t.placement.home_first[expert + 1] - first;
    if (n_copies <= 0) return none;
    int rank = (int)(token / t.round.capacity), row = (int)(token % t.round.capacity);
    const int32_t *home = t.placement.home + 2 * (int64_t)(first + (rank + row) % n_copies);
    home_copy copy = {home[0], home[1]};
    return copy;
}

/* ---- plan. A warp takes one slot and walks the choices of all tokens, twice: first it counts
 * those of lower slots, which is where its own pairs begin, then it gives numbers to its own, in
 * order. A block of warps shares the look-up of the slots, a tile of choices at a time, and a
 * bitmap of the slots in use, from which each warp knows its place among the active ones. Nothing
 * depends on the order in which threads or blocks run. Reads N K ids per block of 8 slots; a few
 * hundred choices and slots are one tile in 16 blocks. ---- */

enum { PLAN_WARPS = 8, PLAN_THREADS = 32 * PLAN_WARPS, PLAN_TILE = 2048 };

struct plan_tile {
    int slot[PLAN_TILE];                         /* of this rank; -1: computed elsewhere */
    unsigned in_use[(SY_MAX_EXPERTS + 31) / 32]; /* a bit per slot */
};

SY_DEVICE void load_tile(const round_table &t, int begin, int n, plan_tile *tile) {
    int top_k = t.round.top_k;
    for (int i = (int)threadIdx.x; i < n; i += PLAN_THREADS) {
        home_copy home = home_of(t, t.round.expert[begin + i], (begin + i) / top_k);
        bool here =
            home.rank == t.round.rank && home.slot >= 0 && home.slot < t.placement.n_slots;
        tile->slot[i] = here ? home.slot : -1;
        if (here) atomicOr(&tile->in_use[home.slot / 32], 1u << home.slot % 32);
        if (!here && blockIdx.x == 0) t.round.pair[begin + i] = -1;
    }
}

SY_DEVICE int warp_sum(int v) {
    for (int distance = 16; distance > 0; distance /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, distance);
    return v;
}

/* Slots in use in front of `slot`; by a whole warp. */
SY_DEVICE int slots_before(const plan_tile *tile, int slot, int lane) {
    int n = 0;
    for (int word = lane; word <= slot / 32; word += 32) {
        unsigned below = word < slot / 32 ? 0xffffffffu : (1u << slot % 32) - 1u;
        n += __popc(tile->in_use[word] & below);
    }
    return warp_sum(n);
}

/* Numbers the slot's choices of one tile from *next on; by a whole warp. */
SY_DEVICE void place_pairs(const round_table &t,
                           const plan_tile *tile,
                           int begin,
                           int n,
                           int slot,
                           int *next) {
    int lane = (int)threadIdx.x % 32;
    for (int first = 0; first < n; first += 32) {
        int i = first + lane;
        bool mine = i < n && tile->slot[i] == slot;
        unsigned who = __ballot_sync(0xffffffffu, mine);
        if (mine) {
            int pair = *next + __popc(who & ((1u << lane) - 1u));
            t.round.row[pair] = (begin + i) / t.round.top_k;
            t.round.pair[begin + i] = pair;
        }
        *next += __popc(who);
    }
}

/* What else is known of a slot with pairs [first, first + n); by one lane. */
SY_DEVICE void
report_slot(const round_table &t, int slot, int first, int n, int active_before) {
    t.round.first[slot] = first;
    if (n > 0) {
        t.round.active[1 + active_before] = slot;
        if (t.round.load != NULL) t.round.load[slot] += (uint64_t)n;
    }
    if (slot < t.placement.n_slots - 1) return;
    int n_active = active_before + (n > 0);
    t.round.first[slot + 1] = first + n;
    t.round.active[0] = n_active;
    if (t.round.load != NULL) t.round.load[t.round.load_slots] += (uint64_t)n_active;
}

/* Both kernels that wait for other ranks' rows tell that they have come; launches of one stream
 * run one after another. */
SY_DEVICE void count_passage(const round_table &t) {
    if (t.round.passed != NULL && blockIdx.x == 0 && threadIdx.x == 0) *t.round.passed += 1;
}

static __global__ void __launch_bounds__(PLAN_THREADS, 4) plan_slots(round_table t) {
    __shared__ plan_tile tile;
    int lane = (int)threadIdx.x % 32, n_slots = t.placement.n_slots;
    int slot = (int)blockIdx.x * PLAN_WARPS + (int)threadIdx.x / 32;
    int n = t.placement.n_ranks * t.round.capacity * t.round.top_k;
    int n_below = 0, n_own = 0;
    count_passage(t);
    for (int word = (int)threadIdx.x; word < (n_slots + 31) / 32; word += PLAN_THREADS)
        tile.in_use[word] = 0;
    for (int begin = 0; begin < n; begin += PLAN_TILE) {
        int in_tile = min(n - begin, (int)PLAN_TILE);
        __syncthreads(); /* the bitmap is empty, the tile before is done with */
        load_tile(t, begin, in_tile, &tile);
        __syncthreads();
        for (int i = lane; i < in_tile; i += 32) {
            int other = tile.slot[i];
            n_below += other >= 0 && other < slot;
            n_own += other == slot;
        }
    }
    __syncthreads();
    n_below = warp_sum(n_below);
    n_own = warp_sum(n_own);
    if (slot < n_slots) {
        int before = slots_before(&tile, slot, lane);
        if (lane == 0) report_slot(t, slot, n_below, n_own, before);
    } else if (n_slots == 0 && threadIdx.x == 0) {
        t.round.first[0] = 0;
        t.round.active[0] = 0;
    }
    for (int begin = 0, next = n_below; begin < n; begin += PLAN_TILE) {
        int in_tile = min(n - begin, (int)PLAN_TILE);
        if (n > PLAN_TILE) {
            __syncthreads();
            load_tile(t, begin, in_tile, &tile);
            __syncthreads();
        }
        if (n_own > 0 && slot < n_slots) place_pairs(t, &tile, begin, in_tile, slot, &next);
    }
}

/* ---- the sums. A block takes one token and WIDTH columns per thread; it sorts the token's
 * choices and finds their segments first, one thread per choice. ---- */

enum { MAX_CHOICES = SY_MAX_TOP_K };
static_assert((int)MAX_CHOICES <= (int)SY_TREE_THREADS, "a thread per choice");

struct choices {
    int unsorted_expert[MAX_CHOICES], unsorted_rank[MAX_CHOICES]; /* expert -1: none */
    /* by ascending expert */
    int n;
    int expert[MAX_CHOICES], rank[MAX_CHOICES];
    int choice[MAX_CHOICES];  /* 0..K-1 */
    int segment[MAX_CHOICES]; /* first choice of the segment; own place: it opens one */
};
static_assert(sizeof(sy_tree_stack<4>) + sizeof(sy_tree) + sizeof(choices) <= 48 * 1024,
              "what a launch may have without asking for more");

/* The choices of a token with the ranks that compute them. */
SY_DEVICE void take_choices(const round_table &t, int64_t token, choices *c) {
    int i = (int)threadIdx.x;
    if (i >= t.round.top_k) return;
    int expert = t.round.expert[token * t.round.top_k + i];
    c->unsorted_rank[i] = home_of(t, expert, token).rank;
    c->unsorted_expert[i] = c->unsorted_rank[i] < 0 ? -1 : expert;
}

/* Those that the plan has given a pair: where there is one rank this saves the look-up. */
SY_DEVICE void take_planned(const round_table &t, int64_t token, choices *c) {
    int i = (int)threadIdx.x;
    if (i >= t.round.top_k) return;
    int64_t at = token * t.round.top_k + i;
    c->unsorted_rank[i] = 0;
    c->unsorted_expert[i] = t.round.pair[at] < 0 ? -1 : t.round.expert[at];
}

/* Sorts what was taken by the expert. Begins and ends with a barrier. */
SY_DEVICE void sort_choices(const round_table &t, choices *c) {
    int i = (int)threadIdx.x, top_k = t.round.top_k;
    __syncthreads();
    if (i < top_k) {
        int expert = c->unsorted_expert[i], at = 0, n = 0;
        for (int k = 0; k < top_k; k++) {
            int other = c->unsorted_expert[k];
            n += other >= 0;
            at += other >= 0 && (other < expert || (other == expert && k < i));
        }
        if (expert >= 0) {
            c->expert[at] = expert;
            c->rank[at] = c->unsorted_rank[i];
            c->choice[at] = i;
        }
        if (i == 0) c->n = n;
    }
    __syncthreads();
}

/* The first choice of the largest subtree that holds choice i and is computed by one rank. */
SY_DEVICE int segment_of(const choices *c, int i, int n_experts) {
    int begin = 0, end = c->n, low = 0, n = n_experts;
    while (end - begin > 1) {
        int same = begin + 1;
        while (same < end && c->rank[same] == c->rank[begin])
            same++;
        if (same == end || n <= 1) break;
        int left = n - n / 2, middle = low + left, split = begin;
        while (split < end && c->expert[split] < middle)
            split++;
        bool right = i >= split;
        low = right ? middle : low;
        n = right ? n - left : left;
        begin = right ? split : begin;
        end = right ? end : split;
    }
    return begin;
}

/* Ends with a barrier. */
SY_DEVICE void find_segments(const round_table &t, choices *c) {
    int i = (int)threadIdx.x;
    if (i < c->n) c->segment[i] = segment_of(c, i, t.placement.n_experts);
    __syncthreads();
}

/* How many segments of the same rank are in front of the segment that choice i opens. */
SY_DEVICE int segment_index(const choices *c, int i) {
    int n = 0;
    for (int k = 0; k < i; k++)
        n += c->segment[k] == k && c->rank[k] == c->rank[i];
    return n;
}

/* The row of y of a choice that is computed here: the plan has given it a pair. */
SY_DEVICE const float *row_of_pair(const round_table &t, int pair) {
    return t.round.y + (int64_t)max(pair, 0) * t.round.hidden;
}

/* returned[token, s] = weighted sum of the own segment s of the token. */
template <int WIDTH>
static __global__ void __launch_bounds__(SY_TREE_THREADS, 4)
    sum_segments(round_table t, int blocks_per_row) {
    SY_SHARED_STRUCT(sy_tree_stack<WIDTH>, stack);
    __shared__ sy_tree tree;
    __shared__ choices c;
    int64_t token = blockIdx.x / (unsigned)blocks_per_row, top_k = t.round.top_k;
    size_t block = blockIdx.x % (unsigned)blocks_per_row;
    size_t column = (block * SY_TREE_THREADS + threadIdx.x) * WIDTH;
    int i = (int)threadIdx.x;
    take_choices(t, token, &c);
    sort_choices(t, &c);
    find_segments(t, &c);
    if (i < c.n) {
        int64_t at = token * top_k + c.choice[i];
        bool own = c.rank[i] == t.round.rank;
        tree.row[i] = row_of_pair(t, own ? t.round.pair[at] : 0);
        tree.weight[i] = t.round.weight[at];
        tree.expert[i] = c.expert[i];
        tree.begin[i] = c.segment[i];
    }
    if (i == 0) tree.n = c.n;
    sy_tree_prepare(&tree, t.placement.n_experts);
    if (column >= (size_t)t.round.hidden) return;

    float *out = t.round.returned + (size_t)token * t.round.segments * t.round.hidden + column;
    int s = 0;
    for (int begin = 0, end; begin < c.n && s < t.round.segments; begin = end) {
        for (end = begin + 1; end < c.n && c.segment[end] == begin;)
            end++;
        if (c.rank[begin] != t.round.rank) continue;
        sy_columns<WIDTH> value = sy_tree_value<WIDTH, true>(&tree, begin, end, column, stack);
        sy_columns_store(out + (size_t)s * t.round.hidden, value);
        s++;
    }
}

/* residual[row] += value + shared[row] */
template <int WIDTH>
SY_DEVICE void
add_to_residual(const sy_device_round &round, size_t at, sy_columns<WIDTH> value) {
    if (round.shared != NULL)
        value = sy_columns_add(value, sy_columns_load<WIDTH>(round.shared + at));
    value = sy_columns_add(sy_columns_load<WIDTH>(round.residual + at), value);
    sy_columns_store(round.residual + at, value);
}

/* The tree over the segments of an own token: segment s of rank r lies in block r of received. */
template <int WIDTH>
static __global__ void __launch_bounds__(SY_TREE_THREADS, 4)
    sum_at_home(round_table t, int blocks_per_row) {
    SY_SHARED_STRUCT(sy_tree_stack<WIDTH>, stack);
    __shared__ sy_tree tree;
    __shared__ choices c;
    int row = (int)(blockIdx.x / (unsigned)blocks_per_row), n_segments = 0;
    size_t block = blockIdx.x % (unsigned)blocks_per_row, hidden = (size_t)t.round.hidden;
    size_t column = (block * SY_TREE_THREADS + threadIdx.x) * WIDTH;
    int i = (int)threadIdx.x;
    count_passage(t);
    take_choices(t, (int64_t)t.round.rank * t.round.capacity + row, &c);
    sort_choices(t, &c);
    find_segments(t, &c);
    if (i < c.n && c.segment[i] == i) {
        int leaf = 0, s = min(segment_index(&c, i), t.round.segments - 1);
        for (int k = 0; k < i; k++)
            leaf += c.segment[k] == k;
        int64_t token = (int64_t)c.rank[i] * t.round.capacity + row;
        tree.row[leaf] = t.round.received + (size_t)(token * t.round.segments + s) * hidden;
        tree.expert[leaf] = c.expert[i];
        tree.begin[leaf] = 0;
    }
    for (int k = 0; k < c.n; k++)
        n_segments += c.segment[k] == k;
    if (i == 0) tree.n = n_segments;
    sy_tree_prepare(&tree, t.placement.n_experts);
    if (column >= hidden || n_segments == 0) return;
    sy_columns<WIDTH> value = sy_tree_value<WIDTH, false>(&tree, 0, n_segments, column, stack);
    add_to_residual(t.round, (size_t)row * hidden + column, value);
}

/* One rank: the weighted tree over all choices of a token, which is one segment. */
template <int WIDTH>
static __global__ void __launch_bounds__(SY_TREE_THREADS, 4)
    sum_alone(round_table t, int blocks_per_row) {
    SY_SHARED_STRUCT(sy_tree_stack<WIDTH>, stack);
    __shared__ sy_tree tree;
    __shared__ choices c;
    int64_t token = blockIdx.x / (unsigned)blocks_per_row;
    size_t block = blockIdx.x % (unsigned)blocks_per_row, hidden = (size_t)t.round.hidden;
    size_t column = (block * SY_TREE_THREADS + threadIdx.x) * WIDTH;
    int i = (int)threadIdx.x;
    take_planned(t, token, &c);
    sort_choices(t, &c);
    if (i < c.n) {
        int64_t at = token * t.round.top_k + c.choice[i];
        tree.row[i] = row_of_pair(t, t.round.pair[at]);
        tree.weight[i] = t.round.weight[at];
        tree.expert[i] = c.expert[i];
        tree.begin[i] = 0;
    }
    if (i == 0) tree.n = c.n;
    sy_tree_prepare(&tree, t.placement.n_experts);
    if (column >= hidden || c.n == 0) return;
    sy_columns<WIDTH> value = sy_tree_value<WIDTH, true>(&tree, 0, c.n, column, stack);
    add_to_residual(t.round, (size_t)token * hidden + column, value);
}

/* ---- the host's side ---- */

static sy_status check_round(const sy_device_round *r, round_table *out) {
    const sy_device_placement *p = r->placement;
    int64_t n;
    if (r->top_k < 1 || r->top_k > SY_MAX_TOP_K || p->n_experts < 1 ||
        p->n_experts > SY_MAX_EXPERTS || p->n_slots < 0 || p->n_slots > SY_MAX_EXPERTS)
        return sy_fail(SY_ERR_INTERNAL,
                       "exchange of %d experts, %d per token, %d slots: out of range",
                       p->n_experts, r->top_k, p->n_slots);
    if (p->n_ranks < 1 || r->rank < 0 || r->rank >= p->n_ranks || r->capacity < 0 ||
        r->hidden < 0)
        return sy_fail(SY_ERR_INTERNAL, "exchange of rank %d of %d, %d rows of %d values",
                       r->rank, p->n_ranks, r->capacity, r->hidden);
    if (!sy_mul_i64((int64_t)p->n_ranks * r->capacity, r->top_k, &n) || n > INT_MAX / 2)
        return sy_fail(SY_ERR_INTERNAL, "exchange of %d rows on each of %d ranks: too many",
                       r->capacity, p->n_ranks);
    if (r->load != NULL && r->load_slots < p->n_slots)
        return sy_fail(SY_ERR_INTERNAL, "loads of %d slots, the rank has %d", r->load_slots,
                       p->n_slots);
    *out = {*p, *r};
    return SY_OK;
}

extern "C" sy_status sy_cuda_plan(sy_backend *be, const sy_device_round *round, sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    round_table t = {};
    cudaLaunchConfig_t config;
    SY_TRY(check_round(round, &t));
    config =
        sy_launch(cu, sy_max(sy_ceil_div(t.placement.n_slots, PLAN_WARPS), 1), PLAN_THREADS, 0);
    st = SY_CUDA(cu, cudaLaunchKernelEx(&config, plan_slots, t));
done:
    return st;
}

typedef void (*sum_kernel)(round_table, int);

/* A block per row and blocks of columns; `wide` if all rows begin at multiples of 16 bytes. */
static sy_status launch_sums(sy_cuda *cu,
                             const round_table *t,
                             int64_t rows,
                             bool wide,
                             sum_kernel wide_kernel,
                             sum_kernel narrow_kernel) {
    sy_status st = SY_OK;
    wide = wide && t->round.hidden % 4 == 0;
    /* Experts of a token are distinct, but nobody has checked them here. */
    int levels = sy_tree_levels(t->placement.n_experts, t->round.top_k, true);
    int columns = SY_TREE_THREADS * (wide ? 4 : 1);
    int blocks_per_row = (int)sy_ceil_div(t->round.hidden, columns);
    if (rows == 0 || t->round.hidden == 0) return SY_OK;
    SY_TRY(sy_check_blocks(rows * blocks_per_row, "exchange"));
    {
        cudaLaunchConfig_t config =
            sy_launch(cu, rows * blocks_per_row, SY_TREE_THREADS,
                      wide ? sy_tree_stack_bytes<4>(levels) : sy_tree_stack_bytes<1>(levels));
        sum_kernel kernel = wide ? wide_kernel : narrow_kernel;
        st = SY_CUDA(cu, cudaLaunchKernelEx(&config, kernel, *t, blocks_per_row));
    }
done:
    return st;
}

extern "C" sy_status
sy_cuda_local_sums(sy_backend *be, const sy_device_round *round, sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    round_table t = {};
    SY_TRY(check_round(round, &t));
    if (round->segments < 1)
        SY_FAIL(SY_ERR_INTERNAL, "exchange of %d segments per rank", round->segments);
    st = launch_sums(sy_cuda_of(be), &t, (int64_t)t.placement.n_ranks * round->capacity,
                     sy_aligned16(round->y) && sy_aligned16(round->returned), sum_segments<4>,
                     sum_segments<1>);
done:
    return st;
}

extern "C" sy_status
sy_cuda_home_sums(sy_backend *be, const sy_device_round *round, sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    round_table t = {};
    SY_TRY(check_round(round, &t));
    if (round->segments < 1)
        SY_FAIL(SY_ERR_INTERNAL, "exchange of %d segments per rank", round->segments);
    st = launch_sums(sy_cuda_of(be), &t, round->capacity,
                     sy_aligned16(round->received) && sy_aligned16(round->shared) &&
                         sy_aligned16(round->residual),
                     sum_at_home<4>, sum_at_home<1>);
done:
    return st;
}

extern "C" sy_status
sy_cuda_combine_alone(sy_backend *be, const sy_device_round *round, sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    round_table t = {};
    SY_TRY(check_round(round, &t));
    if (t.placement.n_ranks != 1)
        SY_FAIL(SY_ERR_INTERNAL, "the sum of one rank alone, but there are %d",
                t.placement.n_ranks);
    st = launch_sums(sy_cuda_of(be), &t, round->capacity,
                     sy_aligned16(round->y) && sy_aligned16(round->shared) &&
                         sy_aligned16(round->residual),
                     sum_alone<4>, sum_alone<1>);
done:
    return st;
}

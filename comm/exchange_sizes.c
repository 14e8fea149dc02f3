#include "comm/exchange_sizes.h"

#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "comm/message.h"

static bool add(uint64_t *sum, uint64_t a, uint64_t b) {
    uint64_t product;
    return sy_mul_u64(a, b, &product) && sy_add_u64(*sum, product, sum);
}

/* n rows of a size, rounded up to whole message units. */
static bool row_block(uint64_t n, uint64_t row, uint64_t *out) {
    *out = 0;
    if (!add(out, n, row) || !sy_add_u64(*out, SY_MESSAGE_UNIT - 1, out)) return false;
    *out = *out / SY_MESSAGE_UNIT * SY_MESSAGE_UNIT;
    return true;
}

static int64_t count_pairs(int n_ranks, const sy_exchange_shape *shape) {
    sy_plan_shape plan = {.top_k = shape->top_k, .max_slots = shape->max_slots};
    int64_t pairs;
    if (shape->max_rows < 0 || !sy_mul_i64(shape->max_rows, n_ranks, &pairs) ||
        !sy_mul_i64(pairs, sy_plan_pairs_per_token(&plan), &pairs))
        return INT64_MAX;
    return pairs;
}

static sy_status check_shape(int n_ranks, const sy_exchange_shape *shape) {
    if (shape->max_rows < 0 || shape->hidden < 1 || shape->experts < 1 ||
        shape->experts > SY_MAX_EXPERTS || shape->top_k < 1 || shape->top_k > SY_MAX_TOP_K ||
        shape->top_k > shape->experts || shape->max_slots < 0 ||
        shape->max_slots > shape->experts)
        return sy_fail(SY_ERR_INTERNAL,
                       "exchange for %lld rows of %d values, %d of %d experts, %d slots",
                       (long long)shape->max_rows, shape->hidden, shape->top_k, shape->experts,
                       shape->max_slots);
    if (shape->max_capacity < 0 || shape->max_capacity > shape->max_rows)
        return sy_fail(SY_ERR_INTERNAL, "fixed exchange of %lld rows in an exchange of %lld",
                       (long long)shape->max_capacity, (long long)shape->max_rows);
    if (shape->act != SY_F32 && shape->act != SY_BF16)
        return sy_fail(SY_ERR_UNSUPPORTED, "exchange of %s rows", sy_dtype_name(shape->act));
    /* Rows are named by 32-bit numbers (sy_row_ref). */
    if (count_pairs(n_ranks, shape) > INT32_MAX || shape->max_rows > INT32_MAX / shape->top_k)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "%lld rows per rank are up to %lld pairs on one rank, the most is %d",
                       (long long)shape->max_rows, (long long)count_pairs(n_ranks, shape),
                       INT32_MAX);
    return SY_OK;
}

static sy_status check_device(int n_ranks, const sy_exchange_shape *shape) {
    if (shape->combine == SY_COMBINE_REDUCED_BF16)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "results that travel as bf16 are not implemented on a device");
    if (shape->max_capacity > 0 && shape->placement == NULL)
        return sy_fail(SY_ERR_INTERNAL, "a fixed exchange without a placement");
    if (shape->max_capacity > 0 && n_ranks > 1 && shape->combine != SY_COMBINE_EXACT)
        return sy_fail(SY_ERR_INTERNAL, "a fixed exchange of reduced sums");
    int64_t pairs;
    if (!sy_mul_i64(shape->max_capacity, n_ranks, &pairs) ||
        !sy_mul_i64(pairs, shape->top_k, &pairs) || pairs > INT32_MAX)
        return sy_fail(SY_ERR_UNSUPPORTED, "fixed exchange of %lld rows from each of %d ranks",
                       (long long)shape->max_capacity, n_ranks);
    return SY_OK;
}

static uint64_t identity_of(const sy_exchange_shape *shape) {
    uint64_t hash = sy_hash_add(0, (uint64_t)shape->max_rows);
    const int part[] = {
        shape->hidden,    shape->top_k,        shape->experts,     (int)shape->act,
        shape->max_slots, (int)shape->combine, (int)shape->device, (int)shape->max_capacity};
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++)
        hash = sy_hash_add(hash, (uint64_t)part[i]);
    return hash;
}

/* Head sizes of messages to n ranks that hold all T * K pairs, paddings included. */
static uint64_t all_heads(const sy_exchange_shape *shape, uint64_t n) {
    uint64_t pairs = (uint64_t)shape->max_rows * (uint64_t)shape->top_k;
    return sy_message_head_bytes(pairs) + n * 2 * SY_MESSAGE_UNIT;
}

bool sy_exchange_staging(const sy_exchange_shape *shape,
                         uint64_t row,
                         int by_mpi,
                         uint64_t *out) {
    uint64_t copies = (uint64_t)sy_min(by_mpi, shape->top_k), packed;
    *out = 0;
    if (by_mpi == 0) return true;
    *out = all_heads(shape, (uint64_t)by_mpi) + (uint64_t)by_mpi * SY_MESSAGE_UNIT;
    return row_block((uint64_t)shape->max_rows, row, &packed) && add(out, copies, packed);
}

/* Dispatch: an in-place peer reads its rows out of one block of all T rows, and its message
 * holds only pairs; a message by MPI holds the rows that the peer needs. All pairs together are
 * T * K. False on overflow. */
static bool
measure_dispatch(const sy_comm *comm, const sy_exchange_shape *shape, sy_exchange_sizes *z) {
    uint64_t rows = (uint64_t)shape->max_rows, ranks = (uint64_t)sy_comm_size(comm), all_rows;
    uint64_t pairs = rows * (uint64_t)sy_plan_pairs_per_token(&z->plan);
    uint64_t *block = &z->link.channel[SY_CHANNEL_DISPATCH].block_bytes;
    uint64_t *message = &z->link.channel[SY_CHANNEL_DISPATCH].message_bytes;
    int in_place = 0;
    for (int r = 0; r < sy_comm_size(comm); r++)
        in_place +=
            r != sy_comm_rank(comm) && sy_comm_shares_memory(comm, sy_comm_rank(comm), r);
    if (!row_block(rows, z->row, &all_rows)) return false;
    z->rows = in_place > 0 ? all_rows : 0;
    z->link.channel[SY_CHANNEL_DISPATCH].unit_bytes = SY_MESSAGE_UNIT;
    *block = all_heads(shape, ranks);
    *message = sy_message_head_bytes(pairs);
    return add(block, 1, z->rows) && add(message, 1, all_rows) &&
           sy_exchange_staging(shape, z->row, (int)ranks - 1 - in_place, &z->staging);
}

/* Combine: the block is the result rows of all homes, one behind the other; a message is the
 * rows of one home. False on overflow. */
static bool measure_combine(int n_ranks, const sy_exchange_shape *shape, sy_exchange_sizes *z) {
    bool bf16 = shape->combine == SY_COMBINE_REDUCED_BF16;
    uint64_t f32_row = (uint64_t)shape->hidden * sizeof(float);
    uint64_t one = (uint64_t)shape->max_rows * (uint64_t)sy_plan_segments_per_token(&z->plan);
    uint64_t all = one * (uint64_t)n_ranks;
    uint64_t leaves = (uint64_t)shape->max_rows * (uint64_t)sy_plan_leaves_per_token(&z->plan);
    z->result = bf16 ? (uint64_t)shape->hidden * sizeof(uint16_t) : f32_row;
    z->sums = z->returned = 0;
    z->link.channel[SY_CHANNEL_COMBINE].unit_bytes = z->result;
    return sy_mul_u64(all, z->result, &z->link.channel[SY_CHANNEL_COMBINE].block_bytes) &&
           sy_mul_u64(one, z->result, &z->link.channel[SY_CHANNEL_COMBINE].message_bytes) &&
           (!bf16 ||
            (sy_mul_u64(all, f32_row, &z->sums) && sy_mul_u64(leaves, f32_row, &z->returned)));
}

/* The link carries the heads of dispatch; in combine an empty message tells that they have been
 * read. False on overflow. */
static bool
measure_device(const sy_comm *comm, const sy_exchange_shape *shape, sy_exchange_sizes *z) {
    uint64_t rows = (uint64_t)shape->max_rows, ranks = (uint64_t)sy_comm_size(comm);
    uint64_t f32_row = (uint64_t)shape->hidden * sizeof(float);
    uint64_t one = rows * (uint64_t)sy_plan_segments_per_token(&z->plan);
    uint64_t leaves = rows * (uint64_t)sy_plan_leaves_per_token(&z->plan);
    uint64_t copies = (uint64_t)sy_min(shape->top_k, (int64_t)ranks - 1);
    z->send_rows = (int64_t)(rows * copies);
    z->choice = rows * (uint64_t)shape->top_k * sizeof(int32_t);
    z->result = f32_row;
    z->link.channel[SY_CHANNEL_DISPATCH].unit_bytes = SY_MESSAGE_UNIT;
    z->link.channel[SY_CHANNEL_DISPATCH].block_bytes = all_heads(shape, ranks);
    z->link.channel[SY_CHANNEL_DISPATCH].message_bytes =
        sy_message_head_bytes(rows * (uint64_t)sy_plan_pairs_per_token(&z->plan));
    z->link.channel[SY_CHANNEL_COMBINE].unit_bytes = SY_MESSAGE_UNIT;
    z->link.channel[SY_CHANNEL_COMBINE].block_bytes = SY_MESSAGE_UNIT;
    z->link.channel[SY_CHANNEL_COMBINE].message_bytes = SY_MESSAGE_UNIT;
    return sy_mul_u64(rows * copies, z->row, &z->send) &&
           sy_mul_u64(rows * (ranks - 1), z->row, &z->arrived) &&
           sy_mul_u64(one * ranks, f32_row, &z->sums) &&
           sy_mul_u64(ranks > 1 ? leaves : 0, f32_row, &z->returned);
}

/* n things of a size, in whole blocks of 256 bytes, added to *all. False on overflow. */
static bool fixed_part(uint64_t n, uint64_t size, uint64_t *part, uint64_t *all) {
    if (!sy_mul_u64(n, size, part) || !sy_add_u64(*part, 255, part)) return false;
    *part = *part / 256 * 256;
    return sy_add_u64(*all, *part, all);
}

static bool measure_fixed(int n_ranks, const sy_exchange_shape *shape, sy_exchange_sizes *z) {
    struct sy_fixed_sizes *f = &z->fixed;
    uint64_t tokens = (uint64_t)shape->max_capacity * (uint64_t)n_ranks; /* <= 2^31 pairs */
    uint64_t pairs = tokens * (uint64_t)shape->top_k, slots = (uint64_t)shape->max_slots + 1;
    if (shape->max_capacity == 0) return true;
    z->segments = n_ranks == 1 ? 1 : sy_plan_placed_segments(shape->placement, shape->top_k);
    uint64_t shown = n_ranks == 1 ? 0 : tokens; /* one rank takes the caller's rows in place */
    uint64_t results = shown * (uint64_t)z->segments, row = (uint64_t)shape->hidden * 4;
    return fixed_part(shown, z->row, &f->x, &f->all) &&
           fixed_part(n_ranks == 1 ? 0 : pairs, 4, &f->choice, &f->all) &&
           fixed_part(n_ranks == 1 ? 0 : pairs, 4, &f->choice, &f->all) &&
           fixed_part(results, row, &f->results, &f->all) &&
           fixed_part(results, row, &f->results, &f->all) &&
           fixed_part(slots, 4, &f->first, &f->all) &&
           fixed_part(slots, 4, &f->first, &f->all) && fixed_part(pairs, 4, &f->row, &f->all) &&
           fixed_part(pairs, 4, &f->row, &f->all);
}

sy_status
sy_exchange_measure(const sy_comm *comm, const sy_exchange_shape *shape, sy_exchange_sizes *z) {
    sy_status st = SY_OK;
    int n_ranks = sy_comm_size(comm);
    memset(z, 0, sizeof *z);
    SY_TRY(check_shape(n_ranks, shape));
    if (shape->device) SY_TRY(check_device(n_ranks, shape));
    z->plan = (sy_plan_shape){.max_rows = shape->max_rows,
                              .n_ranks = n_ranks,
                              .top_k = shape->top_k,
                              .max_slots = shape->max_slots,
                              .max_experts = shape->experts,
                              .reduced = shape->combine != SY_COMBINE_EXACT};
    z->link.identity = identity_of(shape);
    z->row = (uint64_t)shape->hidden * (uint64_t)(sy_dtype_bits(shape->act) / 8);
    bool fits = sy_mul_u64((uint64_t)count_pairs(n_ranks, shape), z->row, &z->x);
    if (fits && shape->device)
        fits = measure_device(comm, shape, z) && measure_fixed(n_ranks, shape, z);
    else if (fits)
        fits = measure_dispatch(comm, shape, z) && measure_combine(n_ranks, shape, z);
    if (!fits)
        SY_FAIL(SY_ERR_MEMORY, "exchange buffers for %lld rows of %d values exceed 2^64 bytes",
                (long long)shape->max_rows, shape->hidden);
done:
    return st;
}

uint64_t sy_exchange_bytes(const sy_comm *comm, const sy_exchange_shape *shape) {
    sy_exchange_sizes z;
    if (sy_exchange_measure(comm, shape, &z) != SY_OK) return UINT64_MAX;
    uint64_t part[] = {sy_link_bytes(comm, &z.link),
                       sy_plan_bytes(&z.plan),
                       sy_arrivals_bytes(&z.plan),
                       z.staging,
                       z.x,
                       z.sums,
                       z.returned,
                       z.send,
                       z.arrived,
                       2 * z.choice,
                       z.fixed.all,
                       (uint64_t)sy_max(shape->max_rows, z.send_rows) * sizeof(sy_row_ref)};
    uint64_t all = 0;
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++)
        if (!sy_add_u64(all, part[i], &all)) return UINT64_MAX;
    return all;
}

int64_t sy_exchange_max_pairs(const sy_comm *comm, const sy_exchange_shape *shape) {
    return count_pairs(sy_comm_size(comm), shape);
}

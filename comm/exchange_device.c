/* The sparse form of a device backend's exchange, and what both of its forms share. */
#include "comm/exchange_device.h"

#include "base/checked.h"
#include "base/memory.h"

static const double default_deadline = 120;

static double deadline_of(const sy_exchange *ex) {
    return ex->shape.deadline > 0 ? ex->shape.deadline : default_deadline;
}

static uint64_t ref_bytes(const sy_exchange *ex) {
    return (uint64_t)ex->size.send_rows * sizeof(sy_row_ref);
}

static uint64_t part_bytes(const sy_exchange *ex) {
    return (uint64_t)sy_comm_size(ex->comm) * sizeof(sy_device_wire_part);
}

static sy_status create(sy_exchange *ex) {
    sy_status st = SY_OK;
    const sy_exchange_sizes *z = &ex->size;
    sy_backend *be = ex->be;
    SY_TRY(sy_mem_alloc(&ex->device, sizeof *ex->device, "exchange"));
    struct sy_device_form *f = ex->device;
    SY_TRY(sy_mem_alloc(&f->expert, z->choice, "chosen experts"));
    SY_TRY(sy_mem_alloc(&f->weight, z->choice, "chosen experts"));
    SY_TRY(sy_mem_alloc(&f->ref, ref_bytes(ex), "exchange rows"));
    SY_TRY(sy_mem_alloc(&f->part, part_bytes(ex), "exchange tables"));
    SY_TRY(be->ops->alloc(be, &f->send, z->send, "rows to other ranks"));
    SY_TRY(be->ops->alloc(be, &f->arrived, z->arrived, "rows from other ranks"));
    SY_TRY(be->ops->alloc(be, &f->x, z->x, "rows for the experts"));
    SY_TRY(be->ops->alloc(be, &f->sums, z->sums, "rows to return"));
    SY_TRY(be->ops->alloc(be, &f->home, z->returned, "returned rows"));
    SY_TRY(sy_fixed_create(ex));
done:
    return st;
}

static void destroy(sy_exchange *ex) {
    struct sy_device_form *f = ex->device;
    sy_backend *be = ex->be;
    const sy_exchange_sizes *z = &ex->size;
    if (f == NULL) return;
    if (f->wire != NULL) f->wire->ops->destroy(f->wire); /* ends what still uses the buffers */
    sy_fixed_destroy(ex);
    be->ops->free(be, f->home, z->returned);
    be->ops->free(be, f->sums, z->sums);
    be->ops->free(be, f->x, z->x);
    be->ops->free(be, f->arrived, z->arrived);
    be->ops->free(be, f->send, z->send);
    sy_mem_free(f->part, part_bytes(ex));
    sy_mem_free(f->ref, ref_bytes(ex));
    sy_mem_free(f->weight, z->choice);
    sy_mem_free(f->expert, z->choice);
    sy_mem_free(f, sizeof *f);
}

sy_status sy_device_form_wait(sy_exchange *ex) {
    sy_device_wire *wire = ex->device->wire;
    if (wire == NULL) return ex->be->ops->device->synchronize(ex->be, NULL);
    sy_status st = wire->ops->wait(wire, deadline_of(ex), false);
    if (st != SY_OK) ex->phase = SY_PHASE_FAILED;
    return st;
}

/* The choice of experts, as the host's plan wants it. */
static sy_status read_choice(sy_exchange *ex, sy_stream *s) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    const sy_exchange_input *in = &ex->in;
    const sy_ops *ops = ex->be->ops;
    if (in->n_rows < 0 || in->n_rows > ex->shape.max_rows)
        SY_FAIL(SY_ERR_INTERNAL, "%lld rows, the exchange was made for %lld",
                (long long)in->n_rows, (long long)ex->shape.max_rows);
    uint64_t bytes = (uint64_t)in->n_rows * (uint64_t)ex->shape.top_k * sizeof *f->expert;
    if (bytes == 0) goto done;
    /* The layer before may still wait for other ranks' rows: a plain copy would hang with it. */
    SY_TRY(sy_device_form_wait(ex));
    SY_TRY(ops->read(ex->be, f->expert, in->expert, bytes, s));
    SY_TRY(ops->read(ex->be, f->weight, in->weight, bytes, s));
done:
    return st;
}

/* The heads go at once; the rows when both sides know how many. */
static sy_status send_heads(sy_exchange *ex) {
    sy_status st = SY_OK;
    int me = sy_comm_rank(ex->comm), size = sy_comm_size(ex->comm);
    char *at = sy_link_block(ex->link, SY_CHANNEL_DISPATCH);
    for (int i = 0; i < size; i++) {
        int r = (me + i) % size;
        uint64_t head = sy_exchange_write_head(ex, r, r != me, at);
        if (r == me)
            ex->own = (sy_link_message){.data = at, .bytes = head, .block = ex->in.x};
        else
            SY_TRY(sy_link_send(ex->link, SY_CHANNEL_DISPATCH, r, at, head));
        at += head;
    }
done:
    return st;
}

/* The rows that other ranks need, rank by rank. */
static sy_status pack_tokens(sy_exchange *ex, sy_stream *s) {
    struct sy_device_form *f = ex->device;
    const sy_plan *plan = &ex->plan;
    int64_t n = 0;
    for (int r = 0; r < sy_comm_size(ex->comm); r++) {
        if (r == sy_comm_rank(ex->comm)) continue;
        for (int64_t i = plan->token_first[r]; i < plan->token_first[r + 1]; i++)
            f->ref[n++] = (sy_row_ref){0, plan->token[i]};
    }
    if (n == 0) return SY_OK;
    return ex->be->ops->pack_rows(ex->be, n, (int64_t)ex->size.row, f->ref, &ex->in.x, f->send,
                                  s);
}

static sy_status dispatch_begin(sy_exchange *ex, sy_stream *s) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    const sy_exchange_input *in = &ex->in;
    if (f->capacity > 0) return sy_fixed_dispatch_begin(ex);
    SY_TRY(read_choice(ex, s));
    SY_TRY(sy_plan_build(&ex->plan, in->placement, in->n_rows, f->expert, f->weight));
    SY_TRY(send_heads(ex));
    SY_TRY(pack_tokens(ex, s));
done:
    return st;
}

/* Rows to and from all others, as the heads of both sides say. */
static sy_status exchange_tokens(sy_exchange *ex) {
    struct sy_device_form *f = ex->device;
    int me = sy_comm_rank(ex->comm), size = sy_comm_size(ex->comm), n = 0;
    const char *send = f->send;
    char *arrived = f->arrived;
    ex->chunk[me] = ex->in.x;
    for (int r = 0; r < size; r++) {
        uint64_t tokens = (uint64_t)(ex->plan.token_first[r + 1] - ex->plan.token_first[r]);
        uint64_t pairs = (uint64_t)(ex->plan.pair_first[r + 1] - ex->plan.pair_first[r]);
        sy_exchange_count_dispatch(ex, r, tokens, pairs);
        if (r == me) continue;
        uint64_t in = (uint64_t)ex->header[r].n_rows * ex->size.row; /* checked: <= T rows */
        uint64_t out = tokens * ex->size.row;
        f->part[n++] = (sy_device_wire_part){r, send, out, arrived, in};
        ex->chunk[r] = arrived;
        send += out;
        arrived += in;
    }
    return n == 0 ? SY_OK : f->wire->ops->exchange(f->wire, n, f->part);
}

static sy_status dispatch_end(sy_exchange *ex, sy_expert_rows *rows, sy_stream *s) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    sy_arrivals *a = &ex->arrivals;
    if (f->capacity > 0) return sy_fixed_dispatch_end(ex, rows, s);
    SY_TRY(sy_exchange_wait(ex, SY_CHANNEL_DISPATCH));
    SY_TRY(sy_exchange_open_heads(ex, false));
    SY_TRY(sy_arrivals_build(a, ex->in.placement, sy_comm_rank(ex->comm), ex->list));
    SY_TRY(exchange_tokens(ex));
    if (a->n_pairs > 0)
        SY_TRY(ex->be->ops->pack_rows(ex->be, a->n_pairs, (int64_t)ex->size.row, a->ref,
                                      ex->chunk, f->x, s));
    SY_TRY(sy_link_release(ex->link, SY_CHANNEL_DISPATCH));
    *rows = (sy_expert_rows){
        .n_slots = a->n_slots, .n_pairs = a->n_pairs, .first = a->slot_first, .x = f->x};
done:
    return st;
}

/* Sums to and from all others; the plan knows how many come home. */
static sy_status exchange_sums(sy_exchange *ex) {
    struct sy_device_form *f = ex->device;
    const sy_arrivals *a = &ex->arrivals;
    int me = sy_comm_rank(ex->comm), size = sy_comm_size(ex->comm), n = 0;
    float *home = f->home;
    for (int r = 0; r < size; r++) {
        float *sums = f->sums + a->source_first[r] * ex->shape.hidden;
        ex->chunk[r] = r == me ? sums : home;
        uint64_t rows = (uint64_t)(a->source_first[r + 1] - a->source_first[r]);
        sy_exchange_count_return(ex, r, rows);
        sy_exchange_count_home(ex, r, (uint64_t)ex->plan.n_segments[r]);
        if (r == me) continue;
        uint64_t in = (uint64_t)ex->plan.n_segments[r] * ex->size.result;
        f->part[n++] = (sy_device_wire_part){r, sums, rows * ex->size.result, home, in};
        home += ex->plan.n_segments[r] * ex->shape.hidden;
    }
    return n == 0 ? SY_OK : f->wire->ops->exchange(f->wire, n, f->part);
}

static sy_status combine_begin(sy_exchange *ex, const float *y, sy_stream *s) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    const sy_arrivals *a = &ex->arrivals;
    int me = sy_comm_rank(ex->comm), size = sy_comm_size(ex->comm);
    if (f->capacity > 0) return sy_fixed_combine_begin(ex, y, s);
    sy_tree_job job = {.n_rows = a->source_first[size],
                       .width = ex->shape.hidden,
                       .n_experts = ex->in.placement->n_experts,
                       .first = a->segment_first,
                       .leaf = a->leaf,
                       .chunk = &y,
                       .weighted = true,
                       .out = f->sums};
    if (job.n_rows > 0) SY_TRY(ex->be->ops->unpack(ex->be, &job, s));
    SY_TRY(exchange_sums(ex));
    const void *block = sy_link_block(ex->link, SY_CHANNEL_COMBINE);
    for (int i = 1; i < size; i++) /* the heads have been read */
        SY_TRY(sy_link_send(ex->link, SY_CHANNEL_COMBINE, (me + i) % size, block, 0));
done:
    return st;
}

static sy_status combine_end(sy_exchange *ex, const float *shared, float *x, sy_stream *s) {
    sy_status st = SY_OK;
    if (ex->device->capacity > 0) return sy_fixed_combine_end(ex, shared, x, s);
    sy_tree_job job = {.n_rows = ex->plan.n_rows,
                       .width = ex->shape.hidden,
                       .n_experts = ex->in.placement->n_experts,
                       .first = ex->plan.leaf_first,
                       .leaf = ex->plan.leaf,
                       .chunk = (const float *const *)(const void *)ex->chunk,
                       .shared = shared,
                       .out = x,
                       .accumulate = true};
    if (job.n_rows > 0) SY_TRY(ex->be->ops->unpack(ex->be, &job, s));
    SY_TRY(sy_link_wait(ex->link, SY_CHANNEL_COMBINE)); /* of heads: rows are the device's */
    ex->waited_until = 0;
    SY_TRY(sy_link_release(ex->link, SY_CHANNEL_COMBINE));
    ex->stats.rounds++;
done:
    return st;
}

const sy_exchange_form sy_exchange_device = {.create = create,
                                             .destroy = destroy,
                                             .dispatch_begin = dispatch_begin,
                                             .dispatch_end = dispatch_end,
                                             .combine_begin = combine_begin,
                                             .combine_end = combine_end};

/* Every pair of ranks talks once: connections are made here, not within the first step or a
 * recording, and a network that does not carry shows at start. */
static sy_status warm_up(sy_exchange *ex) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    int size = sy_comm_size(ex->comm);
    char *buffer = NULL;
    uint64_t unit = 256, bytes = 2 * (uint64_t)size * unit;
    SY_TRY(sy_comm_agree(ex->comm,
                         ex->be->ops->alloc(ex->be, &buffer, bytes, "the first exchange")));
    for (int r = 0; r < size; r++)
        f->part[r] = (sy_device_wire_part){r, buffer + (uint64_t)r * unit, unit,
                                           buffer + (uint64_t)(size + r) * unit, unit};
    sy_device_wire_gather gather = {buffer, buffer + (uint64_t)size * unit, unit};
    st = f->wire->ops->exchange(f->wire, size, f->part);
    if (st == SY_OK) st = f->wire->ops->all_gather(f->wire, 1, &gather);
    if (st == SY_OK) st = f->wire->ops->wait(f->wire, deadline_of(ex), false);
    SY_TRY(sy_comm_agree(ex->comm, st));
done:
    ex->be->ops->free(ex->be, buffer, bytes);
    return st;
}

sy_status sy_device_form_connect(sy_exchange *ex, sy_device_wire *wire) {
    sy_status st = SY_OK;
    ex->device->wire = wire;
    if (sy_comm_size(ex->comm) == 1) return SY_OK;
    if (wire == NULL)
        SY_TRY(sy_device_wire_open(ex->comm, ex->be, deadline_of(ex), &ex->device->wire));
    ex->device->wire->passed = ex->device->passed;
    SY_TRY(warm_up(ex));
done:
    return st;
}

void sy_device_form_set_load(sy_exchange *ex, uint64_t *load) {
    ex->device->load = load;
}

void sy_device_form_set_captured(sy_exchange *ex, bool captured) {
    ex->device->captured = captured;
}

void sy_device_form_set_capacity(sy_exchange *ex, int64_t capacity) {
    ex->device->capacity = capacity;
    if (capacity > 0) ex->device->call[capacity].rounds = 0;
}

void sy_device_form_count(sy_exchange *ex, int64_t capacity, int64_t step) {
    struct sy_device_form *f = ex->device;
    if (capacity < 1 || capacity > ex->shape.max_capacity) return;
    uint64_t rounds = (uint64_t)f->call[capacity].rounds, rows = (uint64_t)capacity;
    ex->stats.rounds += rounds;
    sy_exchange_count_fixed_round(ex, rounds, rows, rows * (uint64_t)ex->size.segments);
    if (f->wire != NULL) f->wire->steps = step + 1;
}

/* The fixed form of a device backend's exchange: every rank shows its rows to all, plans on its
 * device what it computes, and returns to each rank a block of at most S sums per row. Buffers
 * and sizes are those of the capacity; nothing depends on what is in them, so that the launches
 * of a step and the calls between them can be replayed. */
#include "base/checked.h"
#include "base/memory.h"
#include "comm/exchange_device.h"

static uint64_t calls_of(const sy_exchange *ex) {
    return ex->shape.max_capacity == 0 ? 0 : (uint64_t)ex->shape.max_capacity + 1;
}

static uint64_t call_parts(const sy_exchange *ex) {
    return calls_of(ex) * (uint64_t)sy_comm_size(ex->comm);
}

static uint64_t layers_of(const sy_exchange *ex) {
    return calls_of(ex) == 0 ? 0 : (uint64_t)ex->shape.placement->n_layers;
}

static void *take(char **at, uint64_t bytes) {
    void *p = bytes == 0 ? NULL : *at;
    *at += bytes;
    return p;
}

/* The buffers of a round, as measured by exchange_sizes.c. */
static void carve(sy_exchange *ex) {
    struct sy_device_form *f = ex->device;
    const struct sy_fixed_sizes *z = &ex->size.fixed;
    char *at = f->block;
    f->round = (sy_device_round){.rank = sy_comm_rank(ex->comm),
                                 .segments = ex->size.segments,
                                 .top_k = ex->shape.top_k,
                                 .hidden = ex->shape.hidden,
                                 .passed = f->passed,
                                 .x = take(&at, z->x),
                                 .expert = take(&at, z->choice),
                                 .weight = take(&at, z->choice),
                                 .returned = take(&at, z->results),
                                 .received = take(&at, z->results),
                                 .first = take(&at, z->first),
                                 .active = take(&at, z->first),
                                 .row = take(&at, z->row),
                                 .pair = take(&at, z->row)};
}

/* Words of a layer's tables: home_first [E + 1], home [copies][2]. */
static uint64_t home_words(const sy_placement_layer *p) {
    if (p->n_experts == 0) return 0;
    return (uint64_t)p->n_experts + 1 + 2 * (uint64_t)p->home_first[p->n_experts];
}

/* Brings the placement of every layer to the device. */
static sy_status upload_placement(sy_exchange *ex) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    sy_backend *be = ex->be;
    uint64_t words = 0, at = 0;
    for (uint64_t l = 0; l < layers_of(ex); l++)
        words += home_words(&ex->shape.placement->layer[l]);
    words += words % 2;
    f->homes_bytes = words * sizeof(int32_t) + sizeof *f->passed;
    SY_TRY(be->ops->alloc(be, &f->homes, f->homes_bytes, "the experts' homes"));
    f->passed = (uint64_t *)(void *)(f->homes + words);
    for (uint64_t l = 0; l < layers_of(ex); l++) {
        const sy_placement_layer *p = &ex->shape.placement->layer[l];
        if (p->n_experts == 0) continue;
        uint64_t n_first = (uint64_t)p->n_experts + 1, n = home_words(p);
        int32_t *table = f->homes + at;
        _Static_assert(sizeof(sy_home) == 2 * sizeof(int32_t), "rank, slot");
        SY_TRY(be->ops->write(be, table, p->home_first, n_first * sizeof *table, NULL));
        SY_TRY(
            be->ops->write(be, table + n_first, p->home, (n - n_first) * sizeof *table, NULL));
        f->placement[l] =
            (sy_device_placement){.n_experts = p->n_experts,
                                  .n_ranks = p->n_ranks,
                                  .n_slots = sy_placement_slots(p, sy_comm_rank(ex->comm)),
                                  .home_first = table,
                                  .home = table + n_first};
        at += n;
    }
done:
    return st;
}

/* The slots of every layer fit the tables made for them. */
static sy_status check_placement(const sy_exchange *ex) {
    const sy_exchange_shape *shape = &ex->shape;
    for (uint64_t l = 0; l < layers_of(ex); l++) {
        const sy_placement_layer *p = &shape->placement->layer[l];
        if (p->n_experts == 0) continue;
        if (p->n_ranks != sy_comm_size(ex->comm) || p->n_experts > shape->experts ||
            sy_placement_slots(p, sy_comm_rank(ex->comm)) > shape->max_slots)
            return sy_fail(SY_ERR_INTERNAL,
                           "the placement of layer %llu is not one that the exchange is for",
                           (unsigned long long)l);
    }
    return SY_OK;
}

sy_status sy_fixed_create(sy_exchange *ex) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    if (calls_of(ex) == 0) return SY_OK;
    SY_TRY(check_placement(ex));
    SY_TRY(sy_mem_alloc(&f->call, calls_of(ex) * sizeof *f->call, "exchange tables"));
    SY_TRY(
        sy_mem_alloc(&f->call_part, call_parts(ex) * sizeof *f->call_part, "exchange tables"));
    for (uint64_t i = 0; i < calls_of(ex); i++)
        f->call[i] = (sy_fixed_call){
            .ex = ex, .part = f->call_part + i * (uint64_t)sy_comm_size(ex->comm)};
    SY_TRY(
        sy_mem_alloc(&f->placement, layers_of(ex) * sizeof *f->placement, "exchange tables"));
    SY_TRY(upload_placement(ex));
    SY_TRY(
        ex->be->ops->alloc(ex->be, &f->block, ex->size.fixed.all, "rows that all ranks show"));
    carve(ex);
done:
    return st;
}

void sy_fixed_destroy(sy_exchange *ex) {
    struct sy_device_form *f = ex->device;
    ex->be->ops->free(ex->be, f->block, ex->size.fixed.all);
    ex->be->ops->free(ex->be, f->homes, f->homes_bytes);
    sy_mem_free(f->placement, layers_of(ex) * sizeof *f->placement);
    sy_mem_free(f->call_part, call_parts(ex) * sizeof *f->call_part);
    sy_mem_free(f->call, calls_of(ex) * sizeof *f->call);
}

/* The device's copy of a layer's placement. */
static sy_status find_placement(sy_exchange *ex) {
    struct sy_device_form *f = ex->device;
    const sy_placement *all = ex->shape.placement;
    for (int l = 0; l < all->n_layers; l++)
        if (&all->layer[l] == ex->in.placement) {
            f->round.placement = &f->placement[l];
            return SY_OK;
        }
    return sy_fail(SY_ERR_INTERNAL,
                   "a placement that the exchange was not made with, in its fixed form");
}

static sy_status show_rows(void *argument) {
    sy_fixed_call *call = argument;
    sy_device_wire *wire = call->ex->device->wire;
    return wire->ops->all_gather(wire, 3, call->gather);
}

static sy_status return_sums(void *argument) {
    sy_fixed_call *call = argument;
    sy_device_wire *wire = call->ex->device->wire;
    return wire->ops->exchange(wire, sy_comm_size(call->ex->comm), call->part);
}

static sy_status run_call(sy_exchange *ex, sy_status (*fn)(void *), sy_fixed_call *call) {
    if (ex->device->captured) return fn(call);
    return ex->be->ops->device->outside(ex->be, fn, call);
}

/* Sets what travels at a capacity; the same every time, since recordings keep the addresses. */
static sy_status set_call(sy_exchange *ex, sy_fixed_call *call) {
    struct sy_device_form *f = ex->device;
    const sy_exchange_input *in = &ex->in;
    uint64_t rows = (uint64_t)f->capacity, chosen = rows * (uint64_t)ex->shape.top_k * 4;
    uint64_t block = rows * (uint64_t)ex->size.segments * ex->size.result;
    const void *mine[3] = {in->x, in->expert, in->weight};
    if (call->gather[0].bytes > 0) {
        for (int i = 0; i < 3; i++)
            if (call->gather[i].mine != mine[i])
                return sy_fail(SY_ERR_INTERNAL,
                               "a fixed exchange of %lld rows was given other buffers than "
                               "before",
                               (long long)f->capacity);
        return SY_OK;
    }
    /* The tables were carved as this form's own memory, so it may fill them. */
    void *all[3] = {(void *)f->round.x, (void *)f->round.expert, (void *)f->round.weight};
    for (int i = 0; i < 3; i++)
        call->gather[i] =
            (sy_device_wire_gather){mine[i], all[i], i == 0 ? rows * ex->size.row : chosen};
    for (int r = 0; r < sy_comm_size(ex->comm); r++)
        call->part[r] = (sy_device_wire_part){
            .peer = r,
            .send = (char *)f->round.returned + (uint64_t)r * block,
            .send_bytes = block,
            .receive = (char *)(void *)f->round.received + (uint64_t)r * block,
            .receive_bytes = block};
    return SY_OK;
}

sy_status sy_fixed_dispatch_begin(sy_exchange *ex) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    const sy_exchange_input *in = &ex->in;
    sy_fixed_call *call = &f->call[f->capacity];
    if (in->n_rows != f->capacity)
        SY_FAIL(SY_ERR_INTERNAL, "%lld rows in a fixed exchange of %lld", (long long)in->n_rows,
                (long long)f->capacity);
    SY_TRY(find_placement(ex));
    f->round.capacity = (int)f->capacity;
    f->round.load = f->load;
    f->round.load_slots = ex->shape.experts;
    f->load = NULL;
    if (f->wire == NULL) { /* all there is lies in the caller's buffers */
        f->round.x = in->x;
        f->round.expert = in->expert;
        f->round.weight = in->weight;
        goto done;
    }
    SY_TRY(set_call(ex, call));
    SY_TRY(run_call(ex, show_rows, call));
done:
    return st;
}

sy_status sy_fixed_dispatch_end(sy_exchange *ex, sy_expert_rows *rows, sy_stream *s) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    sy_device_round *round = &f->round;
    SY_TRY(ex->be->ops->device->plan(ex->be, round, s));
    f->rows = (sy_device_rows){round->first, round->active, round->row};
    *rows = (sy_expert_rows){.n_slots = round->placement->n_slots,
                             .n_pairs = f->capacity * sy_comm_size(ex->comm) *
                                        sy_plan_pairs_per_token(&ex->size.plan),
                             .x = round->x,
                             .device = &f->rows};
done:
    return st;
}

sy_status sy_fixed_combine_begin(sy_exchange *ex, const float *y, sy_stream *s) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    f->round.y = y;
    if (f->wire == NULL) goto done;
    SY_TRY(ex->be->ops->device->local_sums(ex->be, &f->round, s));
    SY_TRY(run_call(ex, return_sums, &f->call[f->capacity]));
done:
    return st;
}

sy_status sy_fixed_combine_end(sy_exchange *ex, const float *shared, float *x, sy_stream *s) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    const sy_device_ops *device = ex->be->ops->device;
    f->round.shared = shared;
    f->round.residual = x;
    if (f->wire == NULL)
        SY_TRY(device->combine_alone(ex->be, &f->round, s));
    else
        SY_TRY(device->home_sums(ex->be, &f->round, s));
    f->call[f->capacity].rounds++;
done:
    return st;
}

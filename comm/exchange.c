#include "comm/exchange.h"

#include "base/memory.h"
#include "comm/exchange_device.h"
#include "comm/exchange_form.h"

/* What each rank allocates for itself; the link stands already. */
static sy_status create_parts(sy_exchange *ex) {
    sy_status st = SY_OK;
    uint64_t ranks = (uint64_t)sy_comm_size(ex->comm);
    SY_TRY(sy_plan_create(&ex->size.plan, sy_comm_rank(ex->comm), &ex->plan));
    SY_TRY(sy_arrivals_create(&ex->size.plan, &ex->arrivals));
    SY_TRY(sy_mem_alloc(&ex->chunk, ranks * sizeof *ex->chunk, "exchange tables"));
    SY_TRY(sy_mem_alloc(&ex->header, ranks * sizeof *ex->header, "exchange tables"));
    SY_TRY(sy_mem_alloc(&ex->list, ranks * sizeof *ex->list, "exchange tables"));
    SY_TRY(sy_mem_alloc(&ex->peer, ranks * sizeof *ex->peer, "exchange tables"));
    SY_TRY(ex->form->create(ex));
done:
    return st;
}

sy_status sy_exchange_create_over(sy_comm *comm,
                                  sy_backend *be,
                                  const sy_exchange_shape *shape,
                                  sy_device_wire *wire,
                                  sy_exchange **out) {
    sy_status st = SY_OK;
    sy_exchange *ex = NULL;
    *out = NULL;
    SY_TRY(sy_mem_alloc(&ex, sizeof *ex, "exchange"));
    ex->comm = comm;
    ex->be = be;
    ex->shape = *shape;
    ex->shape.device = be->ops->device != NULL;
    ex->form = ex->shape.device ? &sy_exchange_device : &sy_exchange_host;
    SY_TRY(sy_comm_agree(comm, sy_exchange_measure(comm, &ex->shape, &ex->size)));
    SY_TRY(sy_link_create(comm, &ex->size.link, &ex->link));
    SY_TRY(sy_comm_agree(comm, create_parts(ex)));
    if (ex->shape.device) {
        sy_device_wire *given = wire; /* the exchange's own from here on, whatever happens */
        wire = NULL;
        SY_TRY(sy_device_form_connect(ex, given));
    }
    *out = ex;
    ex = NULL;
done:
    sy_exchange_destroy(ex);
    if (wire != NULL) wire->ops->destroy(wire);
    return st;
}

sy_status sy_exchange_create(sy_comm *comm,
                             sy_backend *be,
                             const sy_exchange_shape *shape,
                             sy_exchange **out) {
    return sy_exchange_create_over(comm, be, shape, NULL, out);
}

void sy_exchange_destroy(sy_exchange *ex) {
    if (ex == NULL) return;
    uint64_t ranks = (uint64_t)sy_comm_size(ex->comm);
    sy_link_destroy(ex->link); /* first: MPI may still read staging until its sends are done */
    ex->form->destroy(ex);
    sy_mem_free(ex->peer, ranks * sizeof *ex->peer);
    sy_mem_free(ex->list, ranks * sizeof *ex->list);
    sy_mem_free(ex->header, ranks * sizeof *ex->header);
    sy_mem_free(ex->chunk, ranks * sizeof *ex->chunk);
    sy_arrivals_destroy(&ex->arrivals);
    sy_plan_destroy(&ex->plan);
    sy_mem_free(ex, sizeof *ex);
}

static sy_status enter(sy_exchange *ex, sy_exchange_phase expected, const char *call) {
    if (ex->phase == expected) {
        ex->phase = SY_PHASE_FAILED; /* until the call has succeeded */
        return SY_OK;
    }
    return sy_fail(SY_ERR_INTERNAL,
                   ex->phase == SY_PHASE_FAILED ? "%s after a failed exchange"
                                                : "%s out of its turn in the exchange",
                   call);
}

sy_status sy_dispatch_begin(sy_exchange *ex,
                            const sy_placement_layer *placement,
                            int64_t n_rows,
                            const void *x,
                            const int32_t *expert,
                            const float *weight,
                            uint64_t step_hash,
                            sy_stream *s) {
    sy_status st = SY_OK;
    SY_TRY(enter(ex, SY_PHASE_DISPATCH_BEGIN, "sy_dispatch_begin"));
    ex->in = (sy_exchange_input){placement, n_rows, x, expert, weight, step_hash};
    SY_TRY(ex->form->dispatch_begin(ex, s));
    ex->phase = SY_PHASE_DISPATCH_END;
done:
    return st;
}

sy_status sy_dispatch_end(sy_exchange *ex, sy_expert_rows *rows, sy_stream *s) {
    sy_status st = SY_OK;
    SY_TRY(enter(ex, SY_PHASE_DISPATCH_END, "sy_dispatch_end"));
    SY_TRY(ex->form->dispatch_end(ex, rows, s));
    ex->phase = SY_PHASE_COMBINE_BEGIN;
done:
    return st;
}

sy_status sy_combine_begin(sy_exchange *ex, const float *y, sy_stream *s) {
    sy_status st = SY_OK;
    SY_TRY(enter(ex, SY_PHASE_COMBINE_BEGIN, "sy_combine_begin"));
    SY_TRY(ex->form->combine_begin(ex, y, s));
    ex->phase = SY_PHASE_COMBINE_END;
done:
    return st;
}

sy_status sy_combine_end(sy_exchange *ex, const float *shared, float *x, sy_stream *s) {
    sy_status st = SY_OK;
    SY_TRY(enter(ex, SY_PHASE_COMBINE_END, "sy_combine_end"));
    SY_TRY(ex->form->combine_end(ex, shared, x, s));
    ex->phase = SY_PHASE_DISPATCH_BEGIN;
done:
    return st;
}

sy_status sy_exchange_set_capacity(sy_exchange *ex, int64_t capacity) {
    if (ex->phase != SY_PHASE_DISPATCH_BEGIN)
        return sy_fail(SY_ERR_INTERNAL, "another capacity within a round of the exchange");
    if (capacity < 0 || capacity > ex->shape.max_capacity || !ex->shape.device)
        return capacity == 0
                   ? SY_OK
                   : sy_fail(SY_ERR_INTERNAL,
                             "fixed exchange of %lld rows, it was made for at most %lld",
                             (long long)capacity,
                             (long long)(ex->shape.device ? ex->shape.max_capacity : 0));
    sy_device_form_set_capacity(ex, capacity);
    return SY_OK;
}

void sy_exchange_set_load(sy_exchange *ex, uint64_t *load) {
    if (ex->device != NULL) sy_device_form_set_load(ex, load);
}

sy_status sy_exchange_set_captured(sy_exchange *ex, bool captured) {
    if (ex->device != NULL) sy_device_form_set_captured(ex, captured);
    return SY_OK;
}

sy_status sy_exchange_probe_capture(sy_exchange *ex, double deadline, bool *works) {
    *works = false;
    if (ex->device == NULL) return SY_OK;
    return sy_device_form_probe(ex, deadline, works);
}

void sy_exchange_count_fixed(sy_exchange *ex, int64_t capacity, int64_t step) {
    if (ex->device != NULL) sy_device_form_count(ex, capacity, step);
}

sy_status sy_exchange_synchronize(sy_exchange *ex) {
    return ex->device == NULL ? SY_OK : sy_device_form_wait(ex);
}

/* One token's way from id to logits, top to bottom.
 *
 * Shapes: x [T, H] float32 is the residual stream; "act" is the activation type of the run
 * (kernels/ops.h says where it is rounded). Each line is one step of the backend or one half of
 * the exchange; what a step computes is described in kernels/ops.h, how tokens travel in
 * comm/exchange.h, what the phases are good for in runtime/profile.h. Nothing here is allocated or
 * specific to a model or a device. */
#include "runtime/forward.h"

static sy_status attention_block(sy_runner *r, int layer, const sy_batch *batch) {
    sy_status st = SY_OK;
    const sy_ops *ops = r->be->ops;
    const sy_layer_spec *spec = &r->spec->layer[layer];
    const sy_layer_weights *w = &r->weights->layer[layer];
    const sy_kv_layer *kv = &r->kv->layer[layer];
    sy_workspace *ws = &r->ws;

    /* x -> q [T, A*D], k and v into the pages -> attended [T, A*D] -> x */
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_ATTN_IN));
    SY_TRY(ops->attn_in(r->be, spec, w, r->rope[layer], batch, ws->x, ws->q, kv, r->stream));
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_ATTEND));
    SY_TRY(ops->attend(r->be, spec, batch, ws->q, kv, w->sinks, ws->attended, r->stream));
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_ATTN_OUT));
    SY_TRY(ops->attn_out(r->be, spec, w, batch->n_rows, ws->attended, ws->x, r->stream));
done:
    return st;
}

static sy_status dense_block(sy_runner *r, int layer, const sy_batch *batch) {
    sy_status st = SY_OK;
    const sy_ops *ops = r->be->ops;
    const sy_layer_spec *spec = &r->spec->layer[layer];
    const sy_layer_weights *w = &r->weights->layer[layer];
    sy_workspace *ws = &r->ws;
    int64_t T = batch->n_rows;

    /* x -> xn [T, H] -> ffn_h [T, inter] -> ffn_y [T, H] -> x */
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_DENSE));
    SY_TRY(ops->ffn_in(r->be, spec, w, T, ws->x, ws->xn, r->stream));
    SY_TRY(ops->dense_ffn(r->be, spec, w, T, ws->xn, ws->ffn_h, ws->ffn_y, r->stream));
    SY_TRY(ops->add(r->be, T, r->spec->hidden, ws->ffn_y, ws->x, r->stream));
done:
    return st;
}

static sy_status moe_block(sy_runner *r,
                           int layer,
                           const sy_batch *batch,
                           const int32_t *forced,
                           uint64_t hash) {
    sy_status st = SY_OK;
    const sy_ops *ops = r->be->ops;
    const sy_layer_spec *spec = &r->spec->layer[layer];
    const sy_layer_weights *w = &r->weights->layer[layer];
    sy_workspace *ws = &r->ws;
    sy_exchange *ex = r->exchange;
    uint64_t *load = r->device_load; /* of this layer, where the device counts */
    int64_t T = batch->n_rows;
    const float *shared = NULL;
    sy_expert_rows rows; /* what other ranks' and own tokens want computed here */

    /* x -> xn [T, H], expert and weight [T, K] */
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_ROUTE));
    SY_TRY(ops->route(r->be, spec, w, T, ws->x, ws->xn, forced, ws->expert, ws->weight,
                      r->stream));
    if (load != NULL) sy_exchange_set_load(ex, load + layer * r->device_load_stride);
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_DISPATCH));
    sy_progress_wait(r->live); /* a device may wait here for the layer before */
    SY_TRY(sy_dispatch_begin(ex, &r->placement->layer[layer], T, ws->xn, ws->expert, ws->weight,
                             hash, r->stream));
    sy_progress_resume(r->live);
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_COUNT)); /* while the tokens travel */
    SY_TRY(sy_profile_choice(r->profile, layer, batch, ws->expert, ws->weight, r->stream));
    if (spec->ffn.shared_inter > 0) {
        SY_TRY(sy_phase(r->profile, layer, SY_PHASE_SHARED));
        SY_TRY(ops->dense_ffn(r->be, spec, w, T, ws->xn, ws->ffn_h, ws->ffn_y, r->stream));
        shared = ws->ffn_y;
    }
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_WAIT_TOKENS));
    sy_progress_wait(r->live);
    SY_TRY(sy_dispatch_end(ex, &rows, r->stream));
    sy_progress_resume(r->live);
    sy_profile_waited(r->profile, layer, SY_PHASE_GATHER);
    if (rows.device == NULL) sy_loads_count(r->loads, layer, &rows);
    /* rows.x [P, H], grouped by expert -> h [P, F] -> y [P, H] */
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_EXPERTS_UP));
    SY_TRY(ops->experts_up(r->be, spec, w, &rows, ws->h, r->stream));
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_EXPERTS_DOWN));
    SY_TRY(ops->experts_down(r->be, spec, w, &rows, ws->h, ws->y, r->stream));
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_COMBINE));
    SY_TRY(sy_combine_begin(ex, ws->y, r->stream));
    SY_TRY(sy_phase(r->profile, layer, SY_PHASE_WAIT_RESULTS));
    sy_progress_wait(r->live);
    SY_TRY(sy_combine_end(ex, shared, ws->x, r->stream));
    sy_progress_resume(r->live);
    sy_profile_waited(r->profile, layer, SY_PHASE_HOME_SUM);
done:
    return st;
}

sy_status sy_forward(sy_runner *r, const sy_step *step) {
    sy_status st = SY_OK;
    const sy_ops *ops = r->be->ops;
    const sy_weights *w = r->weights;
    const sy_batch *batch = &step->batch;
    int moe = 0;

    SY_TRY(sy_phase(r->profile, -1, SY_PHASE_EMBED));
    SY_TRY(ops->embed(r->be, &w->embed, batch, r->ws.x, r->stream)); /* ids [T] -> x [T, H] */
    for (int layer = 0; layer < r->spec->n_layers; layer++) {
        SY_TRY(attention_block(r, layer, batch));
        if (r->spec->layer[layer].ffn.kind == SY_FFN_DENSE) {
            SY_TRY(dense_block(r, layer, batch));
        } else {
            const int32_t *forced = step->forced == NULL ? NULL : step->forced[moe];
            SY_TRY(moe_block(r, layer, batch, forced, step->hash));
            moe++;
        }
        sy_progress(r->live);
    }
    /* the wanted rows of x -> logits [n_outputs, V] */
    SY_TRY(sy_phase(r->profile, -1, SY_PHASE_HEAD));
    SY_TRY(ops->head(r->be, w->final_norm, r->spec->final_norm_eps, &w->lm_head,
                     step->n_outputs, step->output_row, r->ws.x, r->ws.logits, r->stream));
done:
    return st;
}

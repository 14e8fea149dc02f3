/* One token's way from id to logits, top to bottom.
 *
 * Shapes: x [T, H] float32 is the residual stream; "act" is the activation type of the run
 * (kernels/ops.h says where it is rounded). Each line is one step of the backend or one half of
 * the exchange; what a step computes is described in kernels/ops.h, how tokens travel in
 * comm/exchange.h. Nothing here is allocated, timed, or specific to a model or a device. */
#include "runtime/forward.h"

#include "base/checked.h"
#include "base/memory.h"

static sy_status attention_block(sy_runner *r, int layer, const sy_batch *batch) {
    sy_status st = SY_OK;
    const sy_ops *ops = r->be->ops;
    const sy_layer_spec *spec = &r->spec->layer[layer];
    const sy_layer_weights *w = &r->weights->layer[layer];
    const sy_kv_layer *kv = &r->kv->layer[layer];
    sy_workspace *ws = &r->ws;

    SY_TRY(ops->attn_in(r->be, spec, w, r->rope[layer], batch, ws->x, ws->q, kv, r->stream));
    SY_TRY(ops->attend(r->be, spec, batch, ws->q, kv, ws->attended, r->stream));
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
    int64_t T = batch->n_rows;
    const float *shared = NULL;
    sy_expert_rows rows; /* what other ranks' and own tokens want computed here */

    SY_TRY(ops->route(r->be, spec, w, T, ws->x, ws->xn, forced, ws->expert, ws->weight,
                      r->stream));
    SY_TRY(sy_dispatch_begin(ex, &r->placement->layer[layer], T, ws->xn, ws->expert, ws->weight,
                             hash, r->stream));
    if (spec->ffn.shared_inter > 0) { /* while the tokens travel */
        SY_TRY(ops->dense_ffn(r->be, spec, w, T, ws->xn, ws->ffn_h, ws->ffn_y, r->stream));
        shared = ws->ffn_y;
    }
    sy_progress_wait(r->live);
    SY_TRY(sy_dispatch_end(ex, &rows, r->stream));
    sy_progress_resume(r->live);
    sy_loads_count(r->loads, layer, &rows);
    SY_TRY(ops->experts_up(r->be, spec, w, &rows, ws->h, r->stream));
    SY_TRY(ops->experts_down(r->be, spec, w, &rows, ws->h, ws->y, r->stream));
    SY_TRY(sy_combine_begin(ex, ws->y, r->stream));
    sy_progress_wait(r->live);
    SY_TRY(sy_combine_end(ex, shared, ws->x, r->stream));
    sy_progress_resume(r->live);
done:
    return st;
}

sy_status sy_forward(sy_runner *r, const sy_step *step) {
    sy_status st = SY_OK;
    const sy_ops *ops = r->be->ops;
    const sy_weights *w = r->weights;
    const sy_batch *batch = &step->batch;
    int moe = 0;

    SY_TRY(ops->embed(r->be, &w->embed, batch, r->ws.x, r->stream));
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
    SY_TRY(ops->head(r->be, w->final_norm, r->spec->final_norm_eps, &w->lm_head,
                     step->n_outputs, step->output_row, r->ws.x, r->ws.logits, r->stream));
done:
    return st;
}

static int64_t widest(const sy_model_spec *spec, int64_t (*width)(const sy_layer_spec *)) {
    int64_t most = 0;
    for (int l = 0; l < spec->n_layers; l++)
        most = sy_max(most, width(&spec->layer[l]));
    return most;
}

static int64_t q_width(const sy_layer_spec *l) {
    return (int64_t)l->attn.heads * l->attn.head_dim;
}

static int64_t routed_width(const sy_layer_spec *l) {
    return l->ffn.kind == SY_FFN_MOE ? l->ffn.inter : 0;
}

static int64_t plain_width(const sy_layer_spec *l) {
    return l->ffn.kind == SY_FFN_MOE ? l->ffn.shared_inter : l->ffn.inter;
}

static int64_t top_k(const sy_layer_spec *l) {
    return l->ffn.top_k;
}

static void carve(sy_backend *be,
                  const sy_model_spec *spec,
                  const sy_limits *limits,
                  int64_t max_outputs,
                  sy_arena *arena,
                  sy_workspace *ws) {
    uint64_t act = be->act == SY_F32 ? 4 : 2;
    uint64_t H = (uint64_t)spec->hidden, T = (uint64_t)limits->max_rows,
             P = (uint64_t)limits->max_pairs, K = (uint64_t)widest(spec, top_k),
             q = (uint64_t)widest(spec, q_width), F = (uint64_t)widest(spec, routed_width),
             plain = (uint64_t)widest(spec, plain_width);
    /* The factors are bounded by the spec's and the limits' caps: no product of two overflows. */
    ws->x = sy_arena_take(arena, T * H, sizeof *ws->x);
    ws->q = sy_arena_take(arena, T * q, act);
    ws->attended = sy_arena_take(arena, T * q, act);
    ws->xn = sy_arena_take(arena, T * H, act);
    ws->expert = sy_arena_take(arena, T * K, sizeof *ws->expert);
    ws->weight = sy_arena_take(arena, T * K, sizeof *ws->weight);
    ws->h = sy_arena_take(arena, P * F, act);
    ws->y = sy_arena_take(arena, P * H, sizeof *ws->y);
    ws->ffn_h = sy_arena_take(arena, T * plain, act);
    ws->ffn_y = sy_arena_take(arena, plain > 0 ? T * H : 0, sizeof *ws->ffn_y);
    ws->logits =
        sy_arena_take(arena, (uint64_t)max_outputs * (uint64_t)spec->vocab, sizeof *ws->logits);
}

uint64_t sy_workspace_bytes(sy_backend *be,
                            const sy_model_spec *spec,
                            const sy_limits *limits,
                            int64_t max_outputs) {
    sy_arena measure = {0};
    sy_workspace ws;
    carve(be, spec, limits, max_outputs, &measure, &ws);
    return measure.used;
}

sy_status sy_workspace_create(sy_backend *be,
                              const sy_model_spec *spec,
                              const sy_limits *limits,
                              int64_t max_outputs,
                              sy_workspace *out) {
    sy_status st = SY_OK;
    *out = (sy_workspace){.bytes = sy_workspace_bytes(be, spec, limits, max_outputs)};
    SY_TRY(be->ops->alloc(be, &out->block, out->bytes, "step buffers"));
    sy_arena arena = {.base = out->block, .size = out->bytes};
    carve(be, spec, limits, max_outputs, &arena, out);
done:
    return st;
}

void sy_workspace_free(sy_backend *be, sy_workspace *ws) {
    be->ops->free(be, ws->block, ws->bytes);
    *ws = (sy_workspace){0};
}

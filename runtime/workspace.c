#include "runtime/workspace.h"

#include "base/checked.h"
#include "base/memory.h"

static int64_t widest(const sy_model_spec *spec, int64_t (*width)(const sy_layer_spec *)) {
    int64_t most = 0;
    for (int l = 0; l < spec->n_layers; l++)
        most = sy_max(most, width(&spec->layer[l]));
    return most;
}

static int64_t q_width(const sy_layer_spec *l) {
    return sy_attn_q_width(&l->attn);
}

static int64_t o_width(const sy_layer_spec *l) {
    return sy_attn_o_width(&l->attn);
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
             q = (uint64_t)widest(spec, q_width), o = (uint64_t)widest(spec, o_width),
             F = (uint64_t)widest(spec, routed_width),
             plain = (uint64_t)widest(spec, plain_width);
    /* The factors are bounded by the spec's and the limits' caps: no product of two overflows. */
    ws->x = sy_arena_take(arena, T * H, sizeof *ws->x);
    ws->q = sy_arena_take(arena, T * q, act);
    ws->attended = sy_arena_take(arena, T * o, act);
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

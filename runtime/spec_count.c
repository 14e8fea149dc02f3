/* How many parameters a model has, from the shapes of its weights. */
#include <string.h>

#include "base/checked.h"
#include "runtime/spec_shapes.h"

static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return sy_add_u64(a, b, &sum) ? sum : UINT64_MAX;
}

static uint64_t mul3(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t product;
    return sy_mul_u64(a, b, &product) && sy_mul_u64(product, c, &product) ? product
                                                                          : UINT64_MAX;
}

static uint64_t *part_of(sy_param_counts *c, sy_part part) {
    switch (part) {
    case SY_PART_EMBEDDING:
        return &c->embedding;
    case SY_PART_LM_HEAD:
        return &c->lm_head;
    case SY_PART_ATTENTION:
        return &c->attention;
    case SY_PART_DENSE_FFN:
        return &c->dense_ffn;
    case SY_PART_ROUTER:
        return &c->router;
    case SY_PART_SHARED:
        return &c->shared;
    case SY_PART_ROUTED:
        return &c->routed;
    default:
        return &c->norms;
    }
}

/* Adds one weight; c->active gets what one token visits of the `experts` routed ones. */
static void
count_shape(const sy_weight_shape *w, int64_t top_k, int64_t experts, sy_param_counts *c) {
    uint64_t one = mul3((uint64_t)w->rows, (uint64_t)w->cols, 1);
    uint64_t all = mul3(one, (uint64_t)w->count, 1);
    uint64_t *part = part_of(c, w->part);
    *part = add(*part, all);
    if (w->part == SY_PART_ROUTED)
        all = mul3(one, (uint64_t)(w->count / experts), (uint64_t)top_k);
    c->active = add(c->active, all);
}

void sy_spec_count(const sy_model_spec *spec, sy_param_counts *out) {
    sy_weight_shape shape[SY_LAYER_SHAPES_MAX];
    memset(out, 0, sizeof *out);
    int n = sy_outer_shapes(spec, shape);
    for (int i = 0; i < n; i++)
        count_shape(&shape[i], 0, 0, out);
    for (int l = 0; l < spec->n_layers; l++) {
        const sy_ffn_spec *f = &spec->layer[l].ffn;
        n = sy_layer_shapes(&spec->layer[l], spec->hidden, shape);
        for (int i = 0; i < n; i++)
            count_shape(&shape[i], f->top_k, f->experts, out);
    }
    const uint64_t parts[] = {out->embedding, out->lm_head, out->attention, out->dense_ffn,
                              out->router,    out->shared,  out->routed,    out->norms};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        out->total = add(out->total, parts[i]);
}

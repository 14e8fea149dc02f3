#include "runtime/plan_model.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "runtime/spec_shapes.h"

static const struct format {
    const char *name;
    bool experts_only;
    sy_quantization quant;
} formats[] = {
    {.name = "bf16", .quant = {.method = SY_QUANT_NONE}},
    {.name = "fp8",
     .quant = {.method = SY_QUANT_FP8,
               .values = SY_QUANT_E4M3,
               .scales = SY_QUANT_PER_BLOCK,
               .block_rows = 128,
               .block_cols = 128}},
    {.name = "q8", /* 8.5 bits, as `convert --to q8` and GGUF's Q8_0 have */
     .quant = {.method = SY_QUANT_COMPRESSED_TENSORS,
               .values = SY_QUANT_INT8,
               .scales = SY_QUANT_PER_GROUP,
               .group = 32}},
    {.name = "int4",
     .quant = {.method = SY_QUANT_GPTQ,
               .values = SY_QUANT_INT4,
               .scales = SY_QUANT_PER_GROUP,
               .group = 128}},
    {.name = "mxfp4",
     .experts_only = true,
     .quant = {.method = SY_QUANT_MXFP4,
               .values = SY_QUANT_E2M1_MX,
               .scales = SY_QUANT_PER_GROUP,
               .group = 32}},
    {.name = "nvfp4",
     .experts_only = true,
     .quant = {.method = SY_QUANT_MODELOPT,
               .values = SY_QUANT_E2M1_NV,
               .scales = SY_QUANT_PER_GROUP,
               .group = 16}},
};

static const struct format *find_format(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strlen(formats[i].name) == n && memcmp(formats[i].name, name, n) == 0)
            return &formats[i];
    return NULL;
}

sy_status
sy_plan_precision_make(const sy_model_spec *spec, const char *name, sy_plan_precision *out) {
    *out = (sy_plan_precision){*spec, *spec};
    if (spec->dtype == SY_F32) out->experts.dtype = out->rest.dtype = SY_BF16;
    if (name == NULL) return SY_OK;
    size_t n = strcspn(name, "+");
    const struct format *experts = find_format(name, n), *rest = &formats[0];
    if (name[n] == '+')
        rest = find_format(name + n + 1, strlen(name + n + 1));
    else if (experts != NULL && experts->quant.method == SY_QUANT_FP8)
        rest = experts;
    if (experts == NULL || rest == NULL || rest->experts_only)
        return sy_fail(SY_ERR_USAGE,
                       "--precision: expected EXPERTS or EXPERTS+REST, of bf16, fp8, q8, int4 "
                       "and for experts also mxfp4 and nvfp4; found \"%s\"",
                       name);
    out->experts.dtype = out->rest.dtype = SY_BF16;
    out->experts.quant = experts->quant;
    out->rest.quant = rest->quant;
    return SY_OK;
}

static sy_stored stored_format(const sy_model_spec *spec, sy_part part) {
    const sy_quantization *q = &spec->quant;
    if (!sy_is_published_quantised(q, part, SY_ROLE_PROJECTION)) return SY_STORED_BF16;
    switch (q->values) {
    case SY_QUANT_E4M3:
        return SY_STORED_FP8;
    case SY_QUANT_INT8:
        return SY_STORED_Q8;
    case SY_QUANT_INT4:
        return SY_STORED_INT4;
    case SY_QUANT_E2M1_MX:
        return SY_STORED_MXFP4;
    default:
        return SY_STORED_NVFP4;
    }
}

/* One weight, of all its copies; vectors are read, but multiply nothing. */
static void count_weight(const sy_model_spec *spec,
                         const sy_weight_shape *shape,
                         double *bytes,
                         double *weights) {
    sy_shape_bytes b = sy_published_bytes(spec, shape);
    double n = (double)shape->count;
    *bytes += n * (double)(b.values + b.scales);
    if (shape->role != SY_ROLE_VECTOR)
        *weights += n * (double)shape->rows * (double)shape->cols;
}

static void count_layer(const sy_plan_precision *p, int l, sy_forecast_layer *out) {
    const sy_layer_spec *layer = &p->rest.layer[l];
    const sy_attn_spec *a = &layer->attn;
    sy_weight_shape shape[SY_LAYER_SHAPES_MAX];
    int n = sy_layer_shapes(layer, p->rest.hidden, shape);
    bool latent = a->kind == SY_ATTN_MLA;
    *out = (sy_forecast_layer){.count = 1};
    for (int i = 0; i < n; i++) {
        bool routed = shape[i].part == SY_PART_ROUTED;
        if (routed)
            count_weight(&p->experts, &shape[i], &out->expert_bytes, &out->expert_weights);
        else
            count_weight(&p->rest, &shape[i], &out->rest_bytes, &out->rest_weights);
    }
    out->experts = layer->ffn.experts;
    out->top_k = layer->ffn.top_k;
    if (out->experts > 0) {
        out->expert_bytes /= out->experts;
        out->expert_weights /= out->experts;
    }
    out->kv_bytes = 2 * (double)sy_attn_cache_width(a);
    out->kv_shards = latent ? 1 : a->kv_heads;
    out->position_flops = 2 * (double)(sy_attn_q_width(a) + sy_attn_o_width(a));
    out->window = a->window;
}

static bool is_same(const sy_forecast_layer *a, const sy_forecast_layer *b) {
    return a->rest_bytes == b->rest_bytes && a->rest_weights == b->rest_weights &&
           a->expert_bytes == b->expert_bytes && a->expert_weights == b->expert_weights &&
           a->experts == b->experts && a->top_k == b->top_k && a->kv_bytes == b->kv_bytes &&
           a->kv_shards == b->kv_shards && a->position_flops == b->position_flops &&
           a->window == b->window && a->chosen == b->chosen && a->rank_of == b->rank_of;
}

/* Adds a layer to its kind; layers with measured loads are kinds of their own. */
static void add_layer(sy_plan_model *m, const sy_forecast_layer *layer) {
    for (int i = 0; i < m->forecast.n_layers; i++) {
        if (!is_same(layer, &m->layer[i])) continue;
        m->layer[i].count++;
        return;
    }
    m->layer[m->forecast.n_layers++] = *layer;
}

/* Where the experts of a layer lie, into `rank`. */
static void list_ranks(const sy_placement_layer *p, int *rank) {
    for (int e = 0; e < p->n_experts; e++)
        rank[e] = p->home[p->home_first[e]].rank;
}

static sy_status take_ranks(const sy_model_spec *spec, sy_plan_model *m) {
    size_t n = 0;
    for (int l = 0; l < spec->n_layers; l++)
        n += (size_t)spec->layer[l].ffn.experts;
    m->rank_of = calloc(n + 1, sizeof *m->rank_of);
    return m->rank_of != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory for a forecast");
}

sy_status sy_plan_model_create(const sy_plan_precision *p,
                               const sy_plan_loads *loads,
                               const sy_placement *placement,
                               sy_plan_model **out) {
    sy_status st = SY_OK;
    const sy_model_spec *spec = &p->rest;
    size_t n_placed = 0;
    sy_plan_model *m = calloc(1, sizeof *m);
    *out = NULL;
    if (m == NULL || (m->layer = calloc((size_t)spec->n_layers, sizeof *m->layer)) == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for a forecast");
    m->rest = stored_format(spec, SY_PART_ATTENTION);
    m->experts = stored_format(&p->experts, SY_PART_ROUTED);
    m->forecast =
        (sy_forecast_model){.layer = m->layer, .hidden = spec->hidden, .act_bytes = 2};
    if (placement != NULL) SY_TRY(take_ranks(spec, m));
    for (int l = 0; l < spec->n_layers; l++) {
        sy_forecast_layer layer;
        count_layer(p, l, &layer);
        if (loads != NULL && loads->experts[l] > 0) layer.chosen = loads->chosen[l];
        if (placement != NULL && layer.experts > 0) {
            layer.rank_of = m->rank_of + n_placed;
            layer.placed_ranks = placement->layer[l].n_ranks;
            list_ranks(&placement->layer[l], m->rank_of + n_placed);
            n_placed += (size_t)layer.experts;
        }
        add_layer(m, &layer);
    }
    sy_weight_shape head = {SY_PART_LM_HEAD, SY_ROLE_KEPT, spec->vocab, spec->hidden, 1};
    count_weight(spec, &head, &m->forecast.head_bytes, &m->forecast.head_weights);
    *out = m;
    m = NULL;
done:
    sy_plan_model_destroy(m);
    return st;
}

void sy_plan_model_destroy(sy_plan_model *model) {
    if (model == NULL) return;
    free(model->layer);
    free(model->rank_of);
    free(model);
}

/* A measured share where there is one. */
static double or_else(const sy_constant *measured, const sy_constant *general) {
    return measured->source != NULL ? measured->value : general->value;
}

static sy_forecast_link link_of(const sy_cluster_link *l) {
    return (sy_forecast_link){.bandwidth = l->bandwidth.value,
                              .latency = l->latency.value,
                              .peer_latency = l->peer_latency.value,
                              .shared = l->shared};
}

void sy_plan_machine(const sy_cluster *c, const sy_plan_model *m, sy_forecast_machine *out) {
    const sy_kernel_shares *rest = &c->kernel[m->rest], *experts = &c->kernel[m->experts];
    double read = c->bandwidth.value, rate = c->rate[SY_OPERAND_BF16].value;
    *out = (sy_forecast_machine){
        .peak_read = read,
        .peak_rate = rate,
        .rest_read = read * or_else(&rest->decode, &c->read_share),
        .expert_read = read * or_else(&experts->decode, &c->read_share),
        .kv_read = read * or_else(&c->attention.decode, &c->read_share),
        .rest_rate = rate * or_else(&rest->prefill, &c->rate_share),
        .expert_rate = rate * or_else(&experts->prefill, &c->grouped_share),
        .attention_rate = rate * or_else(&c->attention.prefill, &c->rate_share),
        .step_overhead = c->step_overhead.value,
        .layer_overhead = c->layer_overhead.value,
        .devices_per_host = c->devices_per_host,
        .in_host = link_of(&c->in_host),
        .between_hosts = link_of(&c->between_hosts)};
}

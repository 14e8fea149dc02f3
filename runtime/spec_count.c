/* Arithmetic on a spec: how many parameters it has, and cutting it to another size. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "runtime/spec_config.h"

static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return sy_add_u64(a, b, &sum) ? sum : UINT64_MAX;
}

static uint64_t mul3(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t product;
    return sy_mul_u64(a, b, &product) && sy_mul_u64(product, c, &product) ? product
                                                                          : UINT64_MAX;
}

/* Adds one layer to *c; c->active gets its routed experts that one token visits. */
static void count_layer(const sy_layer_spec *layer, uint64_t H, sy_param_counts *c) {
    const sy_attn_spec *a = &layer->attn;
    const sy_ffn_spec *f = &layer->ffn;
    uint64_t q = (uint64_t)a->heads * (uint64_t)a->head_dim;
    uint64_t kv = (uint64_t)a->kv_heads * (uint64_t)a->head_dim;
    c->attention = add(c->attention, add(mul3(2, q, H), mul3(2, kv, H))); /* q, o; k, v */
    c->norms = add(c->norms, 2 * H);
    if (a->qk_norm == SY_QK_NORM_PER_HEAD) c->norms = add(c->norms, 2 * (uint64_t)a->head_dim);
    if (a->qk_norm == SY_QK_NORM_WHOLE) c->norms = add(c->norms, q + kv);

    uint64_t ffn = mul3(3, (uint64_t)f->inter, H); /* gate, up, down */
    if (f->kind == SY_FFN_DENSE) {
        c->dense_ffn = add(c->dense_ffn, ffn);
        return;
    }
    c->router = add(c->router, mul3((uint64_t)f->experts, H, 1));
    c->shared = add(c->shared, mul3(3, (uint64_t)f->shared_inter, H));
    c->routed = add(c->routed, mul3((uint64_t)f->experts, ffn, 1));
    c->active = add(c->active, mul3((uint64_t)f->top_k, ffn, 1));
}

void sy_spec_count(const sy_model_spec *spec, sy_param_counts *out) {
    uint64_t H = (uint64_t)spec->hidden;
    memset(out, 0, sizeof *out);
    out->embedding = mul3((uint64_t)spec->vocab, H, 1);
    if (!spec->tied) out->lm_head = out->embedding;
    out->norms = H;
    for (int l = 0; l < spec->n_layers; l++)
        count_layer(&spec->layer[l], H, out);

    const uint64_t rest[] = {out->embedding, out->lm_head, out->attention, out->dense_ffn,
                             out->router,    out->shared,  out->norms};
    uint64_t always = 0;
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        always = add(always, rest[i]);
    out->total = add(always, out->routed);
    out->active = add(always, out->active);
}

/* The nth layer of a kind, counted round and round; NULL if the model has none. */
static const sy_layer_spec *nth_of_kind(const sy_model_spec *spec, sy_ffn_kind kind, int nth) {
    int n = 0;
    for (int l = 0; l < spec->n_layers; l++)
        n += spec->layer[l].ffn.kind == kind;
    if (n == 0) return NULL;
    nth %= n;
    for (int l = 0;; l++)
        if (spec->layer[l].ffn.kind == kind && nth-- == 0) return &spec->layer[l];
}

static sy_status
check_cut(const sy_model_spec *spec, int n_dense, int n_moe, int vocab, int experts) {
    if (n_dense < 0 || n_moe < 0 || n_dense > SY_MAX_LAYERS || n_moe > SY_MAX_LAYERS ||
        n_dense + n_moe > SY_MAX_LAYERS)
        return sy_fail(SY_ERR_USAGE, "layers: expected at most %d, found %d dense and %d MoE",
                       SY_MAX_LAYERS, n_dense, n_moe);
    if (n_dense > 0 && n_moe == 0)
        return sy_fail(SY_ERR_USAGE, "layers: expected at least one MoE layer, found none");
    if (n_dense > 0 && nth_of_kind(spec, SY_FFN_DENSE, 0) == NULL)
        return sy_fail(SY_ERR_USAGE, "layers: the model has no dense layer, found %d asked for",
                       n_dense);
    if (n_moe > 0 && nth_of_kind(spec, SY_FFN_MOE, 0) == NULL)
        return sy_fail(SY_ERR_USAGE, "layers: the model has no MoE layer, found %d asked for",
                       n_moe);
    if (vocab < 0 || vocab > SY_MAX_VOCAB)
        return sy_fail(SY_ERR_USAGE, "vocabulary: expected 1 to %d, found %d", SY_MAX_VOCAB,
                       vocab);
    for (int l = 0; experts != 0 && l < spec->n_layers; l++)
        if (experts < spec->layer[l].ffn.top_k || experts > SY_MAX_EXPERTS)
            return sy_fail(SY_ERR_USAGE,
                           "experts: expected %d (experts per token) to %d, found %d",
                           spec->layer[l].ffn.top_k, SY_MAX_EXPERTS, experts);
    return SY_OK;
}

static void drop_tokens_beyond(sy_model_spec *spec, int vocab) {
    while (spec->n_eos > 0 && spec->eos[spec->n_eos - 1] >= vocab)
        spec->n_eos--;
    if (spec->bos >= vocab) spec->bos = -1;
}

sy_status sy_spec_cut(sy_model_spec *spec, int n_dense, int n_moe, int vocab, int experts) {
    sy_status st = SY_OK;
    sy_model_spec cut = *spec;
    cut.layer = NULL;
    SY_TRY(check_cut(spec, n_dense, n_moe, vocab, experts));
    bool keep = n_dense == 0 && n_moe == 0;
    cut.n_layers = keep ? spec->n_layers : n_dense + n_moe;
    cut.layer = calloc((size_t)cut.n_layers, sizeof *cut.layer);
    if (cut.layer == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %d layers", cut.n_layers);
    for (int l = 0; l < cut.n_layers; l++) {
        if (keep)
            cut.layer[l] = spec->layer[l];
        else if (l < n_dense)
            cut.layer[l] = *nth_of_kind(spec, SY_FFN_DENSE, l);
        else
            cut.layer[l] = *nth_of_kind(spec, SY_FFN_MOE, l - n_dense);
        if (experts != 0 && cut.layer[l].ffn.kind == SY_FFN_MOE)
            cut.layer[l].ffn.experts = experts;
    }
    if (vocab != 0) {
        cut.vocab = vocab;
        drop_tokens_beyond(&cut, vocab);
    }
    sy_param_counts counts;
    sy_spec_count(&cut, &counts);
    if (counts.total > SY_MAX_PARAMETERS)
        SY_FAIL(SY_ERR_USAGE, "expected a model of at most 2^48 parameters, found more");
    free(spec->layer);
    *spec = cut;
    cut.layer = NULL;
done:
    free(cut.layer);
    return st;
}

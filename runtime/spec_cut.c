/* Cutting or stretching a model to another size, for dummy weights. */
#include <stdlib.h>
#include <string.h>

#include "runtime/spec_config.h"

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
    for (int l = 0; experts != 0 && l < spec->n_layers; l++) {
        const sy_ffn_spec *f = &spec->layer[l].ffn;
        if (f->kind == SY_FFN_MOE && (experts < f->top_k || experts > SY_MAX_EXPERTS))
            return sy_fail(SY_ERR_USAGE,
                           "experts: expected %d (experts per token) to %d, found %d", f->top_k,
                           SY_MAX_EXPERTS, experts);
    }
    return SY_OK;
}

/* Another number of experts, in groups of a number that divides it and keeps the router's rules:
 * the old number of groups, or the largest below it. Of them the same share is kept, rounded up;
 * one group is always possible. */
static void regroup(sy_ffn_spec *ffn, int experts) {
    const sy_ffn_spec old = *ffn;
    ffn->experts = experts;
    if (old.n_groups <= 1) return;
    for (int n = old.n_groups; n > 1; n--) {
        ffn->n_groups = n;
        ffn->groups_kept =
            (int)(((int64_t)old.groups_kept * n + old.n_groups - 1) / old.n_groups);
        if (sy_groups_fit(ffn)) return;
    }
    ffn->n_groups = ffn->groups_kept = 1;
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
            regroup(&cut.layer[l].ffn, experts);
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

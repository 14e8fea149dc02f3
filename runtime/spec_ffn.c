/* Feed-forward layers as config.json spells them: experts, groups, shared experts, weights. */
#include <string.h>

#include "base/json.h"
#include "runtime/spec_config.h"

/* Every spelling of the number of experts: it may stand in the file more than once. */
static sy_status read_expert_count(const sy_config *config, int *out) {
    static const char *const keys[] = {"n_routed_experts", "num_experts", "num_local_experts"};
    sy_status st = SY_OK;
    const char *first = NULL;
    for (int i = 0; i < 3; i++) {
        int n = 0;
        if (sy_config_member(config, keys[i]) == NULL) continue;
        SY_TRY(sy_config_count(config, keys[i], NULL, SY_MAX_EXPERTS, &n));
        if (first != NULL && n != *out)
            SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\" is %d and \"%s\" is %d; expected equal values",
                    config->where, first, *out, keys[i], n);
        if (first == NULL) first = keys[i];
        *out = n;
    }
    if (first == NULL)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected \"%s\", \"%s\" or \"%s\", found none",
                config->where, keys[0], keys[1], keys[2]);
done:
    return st;
}

sy_status sy_config_experts(const sy_config *config, const char *width_key, sy_ffn_spec *ffn) {
    sy_status st = SY_OK;
    *ffn = (sy_ffn_spec){.kind = SY_FFN_MOE,
                         .act = SY_ACT_SWIGLU,
                         .score = SY_SCORE_SOFTMAX,
                         .n_groups = 1,
                         .groups_kept = 1,
                         .routed_scale = 1};
    SY_TRY(read_expert_count(config, &ffn->experts));
    SY_TRY(sy_config_count(config, "num_experts_per_tok", "experts_per_token", SY_MAX_TOP_K,
                           &ffn->top_k));
    SY_TRY(sy_config_count(config, width_key, NULL, SY_MAX_WIDTH, &ffn->inter));
    if (ffn->top_k > ffn->experts)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: expected \"num_experts_per_tok\" of at most %d, the number of experts, "
                "found %d",
                config->where, ffn->experts, ffn->top_k);
done:
    return st;
}

/* The fewest experts of a group that its score can be made of. */
static int least_in_group(const sy_ffn_spec *ffn) {
    return ffn->group_score == SY_GROUP_TOP2 ? 2 : 1;
}

bool sy_groups_fit(const sy_ffn_spec *ffn) {
    if (ffn->n_groups <= 1) return true;
    int each = ffn->experts / ffn->n_groups;
    return each * ffn->n_groups == ffn->experts && each >= least_in_group(ffn) &&
           ffn->groups_kept >= 1 && ffn->groups_kept <= ffn->n_groups &&
           ffn->groups_kept * each >= ffn->top_k;
}

sy_status sy_check_groups(const char *where, const sy_ffn_spec *ffn) {
    if (sy_groups_fit(ffn)) return SY_OK;
    int each = ffn->experts / ffn->n_groups, least = least_in_group(ffn);
    if (each * ffn->n_groups != ffn->experts || each < least)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: expected the %d experts to fall into %d equal groups of %d or more",
                       where, ffn->experts, ffn->n_groups, least);
    if (ffn->groups_kept < 1 || ffn->groups_kept > ffn->n_groups)
        return sy_fail(SY_ERR_FORMAT, "%s: expected 1 to %d groups to be kept, found %d", where,
                       ffn->n_groups, ffn->groups_kept);
    return sy_fail(SY_ERR_FORMAT,
                   "%s: expected at least %d experts, those of a token, in the %d groups of %d "
                   "that are kept",
                   where, ffn->top_k, ffn->groups_kept, each);
}

sy_status sy_config_groups(const sy_config *config, sy_group_score score, sy_ffn_spec *ffn) {
    sy_status st = SY_OK;
    int groups = 1, kept = 0;
    SY_TRY(sy_config_optional(config, "n_group", NULL, SY_MAX_EXPERTS, &groups));
    SY_TRY(sy_config_optional(config, "topk_group", NULL, SY_MAX_EXPERTS, &kept));
    if (groups > 1 && kept == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"n_group\" is %d; expected \"topk_group\", found none",
                config->where, groups);
    if (groups > 1) {
        ffn->n_groups = groups;
        ffn->groups_kept = kept;
        ffn->group_score = score;
    }
    SY_TRY(sy_check_groups(config->where, ffn));
done:
    return st;
}

sy_status sy_config_shared(const sy_config *config, sy_ffn_spec *ffn) {
    sy_status st = SY_OK;
    int n = 0, width = ffn->inter;
    SY_TRY(sy_config_optional(config, "n_shared_experts", "num_shared_experts", SY_MAX_EXPERTS,
                              &n));
    SY_TRY(sy_config_optional(config, "moe_shared_expert_intermediate_size", NULL, SY_MAX_WIDTH,
                              &width));
    if ((int64_t)n * width > SY_MAX_WIDTH)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: expected shared experts of at most %d values together, found %d x %d",
                config->where, SY_MAX_WIDTH, n, width);
    ffn->shared_inter = n * width;
done:
    return st;
}

sy_status
sy_config_weights(const sy_config *config, bool renorm, double eps, sy_ffn_spec *ffn) {
    sy_status st = SY_OK;
    double scale = 1;
    SY_TRY(sy_config_flag(config, "norm_topk_prob", &renorm));
    SY_TRY(sy_config_real(config, config->text, "routed_scaling_factor", 1e-6, 1e6, &scale));
    ffn->renorm = renorm;
    ffn->renorm_eps = renorm ? (float)eps : 0;
    ffn->routed_scale = (float)scale;
done:
    return st;
}

sy_status sy_config_biased_sigmoid(const sy_config *config, sy_ffn_spec *ffn) {
    sy_status st = SY_OK;
    SY_TRY(sy_config_experts(config, "moe_intermediate_size", ffn));
    SY_TRY(sy_config_shared(config, ffn));
    SY_TRY(sy_config_only(config, "scoring_func", "sigmoid"));
    SY_TRY(sy_config_only(config, "score_function", "sigmoid"));
    SY_TRY(sy_config_only(config, "topk_method", "noaux_tc"));
    SY_TRY(sy_config_groups(config, SY_GROUP_TOP2, ffn));
    SY_TRY(sy_config_weights(config, true, 1e-20, ffn));
    ffn->score = SY_SCORE_SIGMOID;
    ffn->choice_bias = true;
done:
    return st;
}

sy_status
sy_config_dense_first(const sy_config *config, const sy_layer_spec *moe, sy_model_spec *spec) {
    sy_status st = SY_OK;
    int first = -1, step = 1;
    SY_TRY(sy_config_optional(config, "first_k_dense_replace", NULL, spec->n_layers, &first));
    SY_TRY(sy_config_optional(config, "moe_layer_freq", NULL, SY_MAX_LAYERS, &step));
    if (first < 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected \"first_k_dense_replace\", found none",
                config->where);
    if (step < 1)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"moe_layer_freq\": expected 1 or more, found %d",
                config->where, step);
    for (int l = 0; l < spec->n_layers; l++) {
        spec->layer[l] = *moe;
        if (l >= first && l % step == 0) continue;
        sy_ffn_spec ffn = {.kind = SY_FFN_DENSE, .act = SY_ACT_SWIGLU};
        SY_TRY(sy_config_count(config, "intermediate_size", NULL, SY_MAX_WIDTH, &ffn.inter));
        spec->layer[l].ffn = ffn;
    }
done:
    return st;
}

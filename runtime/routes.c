#include "runtime/routes.h"

#include <stdlib.h>

#include "base/json.h"

static sy_status read_layer(const char *path,
                            const json_t *layer,
                            int index,
                            const sy_ffn_spec *ffn,
                            int64_t n_tokens,
                            int32_t *out) {
    int64_t found = -1;
    sy_status st = sy_json_get_int(layer, path, "layer", 0, SY_MAX_LAYERS, &found);
    if (st != SY_OK) return st;
    if (found != index)
        return sy_fail(SY_ERR_FORMAT, "%s: expected the routes of layer %d, found layer %lld",
                       path, index, (long long)found);
    const json_t *rows = json_object_get(layer, "experts");
    if (!json_is_array(rows) || (int64_t)json_array_size(rows) < n_tokens)
        return sy_fail(SY_ERR_FORMAT, "%s: layer %d: expected %lld rows of experts, found %zu",
                       path, index, (long long)n_tokens, json_array_size(rows));
    for (int64_t t = 0; t < n_tokens; t++) {
        const json_t *row = json_array_get(rows, (size_t)t);
        if (!json_is_array(row) || (int)json_array_size(row) != ffn->top_k)
            return sy_fail(SY_ERR_FORMAT, "%s: layer %d, token %lld: expected %d experts", path,
                           index, (long long)t, ffn->top_k);
        for (int k = 0; k < ffn->top_k; k++) {
            int64_t e;
            if (!sy_json_integral(json_array_get(row, (size_t)k), &e) || e < 0 ||
                e >= ffn->experts)
                return sy_fail(SY_ERR_FORMAT,
                               "%s: layer %d, token %lld: expected experts 0 to %d", path,
                               index, (long long)t, ffn->experts - 1);
            for (int j = 0; j < k; j++)
                if (out[t * ffn->top_k + j] == e)
                    return sy_fail(SY_ERR_FORMAT,
                                   "%s: layer %d, token %lld: expert %lld occurs twice", path,
                                   index, (long long)t, (long long)e);
            out[t * ffn->top_k + k] = (int32_t)e;
        }
    }
    return SY_OK;
}

sy_status
sy_routes_load(const char *path, const sy_model_spec *spec, int64_t n_tokens, sy_routes **out) {
    sy_status st = SY_OK;
    json_t *root = NULL;
    int64_t version = 0;
    sy_routes *routes = calloc(1, sizeof *routes);
    *out = NULL;
    if (routes == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for routes");
    routes->n_tokens = n_tokens;
    routes->expert = calloc((size_t)spec->n_layers + 1, sizeof *routes->expert);
    if (routes->expert == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for routes");
    SY_TRY(sy_json_load(path, SY_JSON_MAX_TOKENIZER, &root));
    SY_TRY(sy_json_get_int(root, path, "version", 1, 1, &version));
    if (version != 1) SY_FAIL(SY_ERR_FORMAT, "%s: \"version\": expected 1, found none", path);
    const json_t *layers = json_object_get(root, "layers");
    for (int l = 0; l < spec->n_layers; l++) {
        const sy_ffn_spec *ffn = &spec->layer[l].ffn;
        if (ffn->kind != SY_FFN_MOE) continue;
        const json_t *layer = json_array_get(layers, (size_t)routes->n_layers);
        if (layer == NULL) SY_FAIL(SY_ERR_FORMAT, "%s: no routes of layer %d", path, l);
        int32_t *expert = calloc((size_t)n_tokens * (size_t)ffn->top_k + 1, sizeof *expert);
        if (expert == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for routes");
        routes->expert[routes->n_layers++] = expert;
        SY_TRY(read_layer(path, layer, l, ffn, n_tokens, expert));
    }
    *out = routes;
    routes = NULL;
done:
    json_decref(root);
    sy_routes_destroy(routes);
    return st;
}

void sy_routes_destroy(sy_routes *routes) {
    if (routes == NULL) return;
    for (int i = 0; routes->expert != NULL && i < routes->n_layers; i++)
        free(routes->expert[i]);
    free(routes->expert);
    free(routes);
}

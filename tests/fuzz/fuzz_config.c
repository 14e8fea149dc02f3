/* config.json and its companions. The first byte chooses: 0 config.json, 1 generation_config.json,
 * 2 tokenizer_config.json (the latter two over a fixed model). What is accepted must keep the
 * promises of the spec. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "runtime/spec_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char small_model[] =
    "{\"model_type\":\"mixtral\",\"hidden_size\":16,\"num_hidden_layers\":2,\"vocab_size\":"
    "1000,"
    "\"rms_norm_eps\":1e-6,\"max_position_embeddings\":512,\"num_local_experts\":8,"
    "\"num_experts_per_tok\":2,\"intermediate_size\":24,\"num_attention_heads\":4,"
    "\"rope_theta\":10000}";

static void require(bool condition) {
    if (!condition) abort();
}

static void check_spec(const sy_model_spec *s) {
    bool any_moe = false;
    require(s->hidden > 0 && s->vocab > 0 && s->n_layers > 0 && s->n_layers <= SY_MAX_LAYERS);
    require(s->max_position > 0 && s->final_norm_eps > 0 && s->bos < s->vocab);
    for (int i = 0; i < s->n_eos; i++)
        require(s->eos[i] >= 0 && s->eos[i] < s->vocab &&
                (i == 0 || s->eos[i - 1] < s->eos[i]));
    for (int l = 0; l < s->n_layers; l++) {
        const sy_attn_spec *a = &s->layer[l].attn;
        const sy_ffn_spec *f = &s->layer[l].ffn;
        require(a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0);
        require(a->head_dim > 0 && a->head_dim % 2 == 0 && a->softmax_scale > 0);
        require(a->rope.theta >= 1 && a->qk_clip >= 0 && f->inter > 0 &&
                s->layer[l].norm_eps > 0);
        if (f->kind != SY_FFN_MOE) continue;
        any_moe = true;
        require(f->top_k > 0 && f->top_k <= f->experts && f->top_k <= SY_MAX_TOP_K);
    }
    require(any_moe);
    sy_param_counts c;
    sy_spec_count(s, &c);
    require(c.total <= SY_MAX_PARAMETERS && c.active <= c.total);
}

static void try_companion(const char *text, size_t size, int which) {
    sy_model_spec *spec = NULL;
    json_t *object = NULL;
    require(sy_spec_parse(small_model, sizeof small_model - 1, "small", &spec) == SY_OK);
    if (sy_json_parse(text, size, "fuzz", &object) == SY_OK) {
        if (which == 1)
            sy_spec_read_generation(spec, object, "fuzz");
        else
            sy_spec_read_tokenizer_config(spec, object, "fuzz");
        check_spec(spec);
    }
    json_decref(object);
    sy_spec_destroy(spec);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    const char *text = (const char *)data + 1;
    if (data[0] == 1 || data[0] == 2) {
        try_companion(text, size - 1, data[0]);
        return 0;
    }
    sy_model_spec *spec = NULL;
    if (sy_spec_parse(text, size - 1, "fuzz", &spec) == SY_OK) {
        check_spec(spec);
        if (sy_spec_cut(spec, 0, 3, 50, 0) == SY_OK) check_spec(spec);
    }
    sy_spec_destroy(spec);
    return 0;
}

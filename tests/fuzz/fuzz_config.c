/* config.json, params.json and their companions. The first byte chooses: 0 config.json or
 * params.json, 1 generation_config.json, 2 tokenizer_config.json, 3 hf_quant_config.json (the
 * latter three over a fixed model). What is accepted must keep the promises of the spec. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "kernels/ops.h"
#include "runtime/spec_config.h"
#include "runtime/spec_shapes.h"

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

static void check_attention(const sy_attn_spec *a, int64_t max_position) {
    const sy_mla_spec *m = &a->mla;
    require(a->heads > 0 && a->kv_heads > 0 && a->heads % a->kv_heads == 0);
    require(a->head_dim > 0 && a->head_dim % 2 == 0 && a->softmax_scale > 0);
    require(isfinite(a->softmax_scale) && a->qk_clip >= 0);
    require(a->window >= 0 && a->window < max_position);
    require(sy_attn_q_width(a) <= SY_MAX_WIDTH && sy_attn_o_width(a) <= SY_MAX_WIDTH);
    require(a->rope.dim >= 2 && a->rope.dim % 2 == 0 && a->rope.dim <= a->head_dim);
    require(isfinite(a->query_beta) && a->query_beta >= 0);
    require(a->query_beta == 0 || a->query_positions > 0);
    if (a->kind == SY_ATTN_MLA)
        require(a->kv_heads == 1 && a->rope.dim == m->rope && m->kv_rank > 0 && m->value > 0 &&
                m->nope + m->rope == a->head_dim && m->q_rank >= 0 && m->norm_eps > 0);
}

/* The tables that the forward pass reads can be made of what was accepted. */
static void check_rope(const sy_rope_spec *rope) {
    sy_rope_table *table = NULL;
    require(sy_rope_table_create(2, rope, &table) == SY_OK);
    for (int i = 0; i < 2 * table->half; i++)
        require(isfinite(table->cos[i]) && isfinite(table->sin[i]));
    sy_rope_table_destroy(table);
}

static void check_router(const sy_ffn_spec *f) {
    int least = f->group_score == SY_GROUP_TOP2 ? 2 : 1;
    require(f->top_k > 0 && f->top_k <= f->experts && f->top_k <= SY_MAX_TOP_K);
    require(f->experts <= SY_MAX_EXPERTS && f->shared_inter >= 0 && f->routed_scale > 0);
    require(f->act == SY_ACT_SWIGLU || (f->act_alpha > 0 && f->act_limit > 0));
    require(f->n_groups >= 1 && f->groups_kept >= 1 && f->groups_kept <= f->n_groups);
    if (f->n_groups == 1) return;
    require(f->experts % f->n_groups == 0 && f->experts / f->n_groups >= least);
    require((int64_t)f->groups_kept * (f->experts / f->n_groups) >= f->top_k);
}

static void check_quantization(const sy_quantization *q) {
    char text[SY_QUANTIZATION_TEXT_MAX];
    require(q->values <= SY_QUANT_MIXED && q->scales <= SY_QUANT_PER_GROUP);
    require((q->scales == SY_QUANT_PER_GROUP) == (q->group > 0));
    require((q->scales == SY_QUANT_PER_BLOCK) == (q->block_rows > 0 && q->block_cols > 0));
    require(strlen(sy_quantization_text(q, text)) > 0);
}

/* Bytes by shapes are at least half a byte a parameter, and at most 8 with scales of every value. */
static void check_bytes(const sy_model_spec *s, uint64_t parameters) {
    sy_weight_shape shape[SY_LAYER_SHAPES_MAX];
    uint64_t values = 0;
    for (int l = -1; l < s->n_layers; l++) {
        int n =
            l < 0 ? sy_outer_shapes(s, shape) : sy_layer_shapes(&s->layer[l], s->hidden, shape);
        require(n <= SY_LAYER_SHAPES_MAX);
        for (int i = 0; i < n; i++)
            values += (uint64_t)shape[i].count * sy_published_bytes(s, &shape[i]).values;
    }
    require(values >= parameters / 2 && values <= 4 * parameters + SY_MAX_LAYERS);
}

static void check_spec(const sy_model_spec *s) {
    bool any_moe = false;
    require(s->hidden > 0 && s->vocab > 0 && s->n_layers > 0 && s->n_layers <= SY_MAX_LAYERS);
    require(s->max_position > 0 && s->final_norm_eps > 0 && s->bos < s->vocab);
    require(s->n_mtp_layers >= 0 && s->n_mtp_layers <= SY_MAX_LAYERS);
    for (int i = 0; i < s->n_eos; i++)
        require(s->eos[i] >= 0 && s->eos[i] < s->vocab &&
                (i == 0 || s->eos[i - 1] < s->eos[i]));
    for (int l = 0; l < s->n_layers; l++) {
        const sy_ffn_spec *f = &s->layer[l].ffn;
        require(f->inter > 0 && s->layer[l].norm_eps > 0);
        check_attention(&s->layer[l].attn, s->max_position);
        if (l == 0 || l == s->n_layers - 1) check_rope(&s->layer[l].attn.rope);
        if (f->kind != SY_FFN_MOE) continue;
        any_moe = true;
        check_router(f);
    }
    require(any_moe);
    sy_param_counts c;
    sy_spec_count(s, &c);
    require(c.total <= SY_MAX_PARAMETERS && c.active <= c.total);
    check_quantization(&s->quant);
    check_bytes(s, c.total);
}

static void try_companion(const char *text, size_t size, int which) {
    sy_model_spec *spec = NULL;
    json_t *object = NULL;
    require(sy_spec_parse(small_model, sizeof small_model - 1, "small", &spec) == SY_OK);
    if (sy_json_parse(text, size, "fuzz", &object) == SY_OK) {
        if (which == 1)
            sy_spec_read_generation(spec, object, "fuzz");
        else if (which == 3)
            sy_spec_read_hf_quant(spec, object, "fuzz");
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
    if (data[0] >= 1 && data[0] <= 3) {
        try_companion(text, size - 1, data[0]);
        return 0;
    }
    sy_model_spec *spec = NULL;
    if (sy_spec_parse(text, size - 1, "fuzz", &spec) == SY_OK) {
        check_spec(spec);
        if (sy_spec_cut(spec, 0, 3, 50, 0) == SY_OK) check_spec(spec);
        if (sy_spec_cut(spec, 0, 0, 0, spec->layer[0].ffn.top_k + 7) == SY_OK) check_spec(spec);
    }
    sy_spec_destroy(spec);
    return 0;
}

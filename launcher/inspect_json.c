/* The facts of a model as one JSON object; its keys are in the help text of cmd_inspect.c. */
#include <jansson.h>
#include <stdlib.h>

#include "base/json.h"
#include "launcher/inspect_report.h"
#include "launcher/output.h"

static json_t *json_latent(const sy_mla_spec *m) {
    json_t *o = json_object();
    sy_json_set_int(o, "q_rank", m->q_rank);
    sy_json_set_int(o, "kv_rank", m->kv_rank);
    sy_json_set_int(o, "nope", m->nope);
    sy_json_set_int(o, "rope", m->rope);
    sy_json_set_int(o, "value", m->value);
    sy_json_set_real(o, "norm_eps", (double)m->norm_eps);
    return o;
}

static json_t *json_yarn(const sy_rope_spec *r) {
    if (r->factor == 0) return json_null();
    json_t *o = json_object();
    sy_json_set_real(o, "factor", r->factor);
    sy_json_set_real(o, "original_positions", r->original_positions);
    sy_json_set_real(o, "beta_fast", r->beta_fast);
    sy_json_set_real(o, "beta_slow", r->beta_slow);
    sy_json_set_flag(o, "truncate", r->truncate);
    sy_json_set_real(o, "attention_factor", r->attention_factor);
    return o;
}

static void add_attention(json_t *o, const sy_attn_spec *a) {
    bool latent = a->kind == SY_ATTN_MLA;
    sy_json_set_text(o, "attention", latent ? "mla" : "gqa");
    sy_json_set_int(o, "heads", a->heads);
    sy_json_set_int(o, "kv_heads", a->kv_heads);
    sy_json_set_int(o, "head_dim", a->head_dim);
    json_object_set_new(o, "mla", latent ? json_latent(&a->mla) : json_null());
    sy_json_set_flag(o, "qkv_bias", a->qkv_bias);
    sy_json_set_flag(o, "o_bias", a->o_bias);
    sy_json_set_text(o, "qk_norm", sy_qk_norm_name(a->qk_norm));
    sy_json_set_real(o, "qk_clip", (double)a->qk_clip);
    sy_json_set_real(o, "rope_theta", a->rope.theta);
    sy_json_set_int(o, "rotary_dim", a->rope.dim);
    sy_json_set_text(o, "rope_layout", a->rope.layout == SY_ROPE_HALF ? "half" : "interleaved");
    json_object_set_new(o, "yarn", json_yarn(&a->rope));
    sy_json_set_real(o, "query_beta", (double)a->query_beta);
    sy_json_set_int(o, "query_positions", a->query_positions);
    sy_json_set_real(o, "softmax_scale", (double)a->softmax_scale);
    sy_json_set_int(o, "window", a->window);
    sy_json_set_flag(o, "sinks", a->sinks);
}

static void add_ffn(json_t *o, const sy_ffn_spec *f) {
    sy_json_set_int(o, "width", f->inter);
    sy_json_set_int(o, "experts", f->experts);
    sy_json_set_int(o, "top_k", f->top_k);
    sy_json_set_int(o, "shared_width", f->shared_inter);
    if (f->kind == SY_FFN_DENSE) return;
    sy_json_set_flag(o, "clamped", f->act == SY_ACT_SWIGLU_CLAMPED);
    sy_json_set_real(o, "act_alpha", (double)f->act_alpha);
    sy_json_set_real(o, "act_limit", (double)f->act_limit);
    sy_json_set_flag(o, "expert_bias", f->expert_bias);
    sy_json_set_text(o, "score", sy_router_score_name(f->score));
    sy_json_set_flag(o, "router_bias", f->router_bias);
    sy_json_set_flag(o, "choice_bias", f->choice_bias);
    sy_json_set_int(o, "groups", f->n_groups);
    sy_json_set_int(o, "groups_kept", f->groups_kept);
    sy_json_set_text(o, "group_score", sy_group_score_name(f->group_score));
    sy_json_set_flag(o, "renorm", f->renorm);
    sy_json_set_real(o, "renorm_eps", (double)f->renorm_eps);
    sy_json_set_real(o, "routed_scale", (double)f->routed_scale);
}

/* One object for each run of equal layers. */
static json_t *json_layers(const sy_model_spec *spec) {
    json_t *list = json_array();
    for (int first = 0, end; first < spec->n_layers; first = end) {
        const sy_layer_spec *l = &spec->layer[first];
        for (end = first + 1; end < spec->n_layers; end++)
            if (!sy_same_layer(l, &spec->layer[end])) break;
        json_t *o = json_object();
        sy_json_set_int(o, "first", first);
        sy_json_set_int(o, "last", end - 1);
        sy_json_set_text(o, "kind", l->ffn.kind == SY_FFN_MOE ? "moe" : "dense");
        add_attention(o, &l->attn);
        add_ffn(o, &l->ffn);
        sy_json_set_real(o, "norm_eps", (double)l->norm_eps);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *json_quantization(const sy_quantization *q) {
    char text[SY_QUANTIZATION_TEXT_MAX];
    if (q->method == SY_QUANT_NONE) return json_null();
    json_t *o = json_object();
    sy_json_set_text(o, "method", sy_quant_method_name(q->method));
    sy_json_set_text(o, "text", sy_quantization_text(q, text));
    sy_json_set_int(o, "block_rows", q->block_rows);
    sy_json_set_int(o, "block_cols", q->block_cols);
    sy_json_set_int(o, "group", q->group);
    sy_json_set_flag(o, "zero_points", q->zero_points);
    sy_json_set_flag(o, "act_order", q->act_order);
    return o;
}

static json_t *json_count(uint64_t n) {
    return json_integer((json_int_t)n);
}

static json_t *json_parameters(const sy_param_counts *p) {
    const struct {
        const char *name;
        uint64_t n;
    } rows[] = {{"total", p->total},         {"active", p->active},
                {"embedding", p->embedding}, {"lm_head", p->lm_head},
                {"attention", p->attention}, {"dense_ffn", p->dense_ffn},
                {"router", p->router},       {"shared", p->shared},
                {"routed", p->routed},       {"norms", p->norms}};
    json_t *object = json_object();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        json_object_set_new(object, rows[i].name, json_count(rows[i].n));
    return object;
}

/* Rows that hold something, {name: {tensors, bytes}}. */
static void add_tally(json_t *object, const char *name, const sy_tally *t) {
    if (t->tensors == 0 && t->bytes == 0) return;
    json_t *row = json_object();
    json_object_set_new(row, "tensors", json_count(t->tensors));
    json_object_set_new(row, "bytes", json_count(t->bytes));
    json_object_set_new(object, name, row);
}

static json_t *json_model(const sy_model_facts *f) {
    const sy_model_spec *s = f->spec;
    json_t *o = json_object(), *eos = json_array();
    for (int i = 0; i < s->n_eos; i++)
        json_array_append_new(eos, json_integer(s->eos[i]));
    sy_json_set_text(o, "family", s->family);
    sy_json_set_int(o, "hidden", s->hidden);
    sy_json_set_int(o, "vocab", s->vocab);
    sy_json_set_int(o, "max_position", s->max_position);
    sy_json_set_flag(o, "tied", s->tied);
    json_object_set_new(o, "eos", eos);
    json_object_set_new(o, "eos_token",
                        s->eos_token[0] != '\0' ? json_string(s->eos_token) : json_null());
    json_object_set_new(o, "bos", s->bos >= 0 ? json_integer(s->bos) : json_null());
    json_object_set_new(o, "layers", json_layers(s));
    sy_json_set_int(o, "mtp_layers", s->n_mtp_layers);
    sy_json_set_text(o, "dtype", sy_dtype_name(s->dtype));
    json_object_set_new(o, "quantization", json_quantization(&s->quant));
    json_object_set_new(o, "parameters", json_parameters(&f->params));
    return o;
}

static json_t *json_splits(const sy_model_facts *f) {
    json_t *list = json_array();
    for (int i = 0; i < SY_SPLIT_COUNT; i++) {
        json_t *o = json_object();
        sy_json_set_int(o, "ranks", f->split[i].ranks);
        json_object_set_new(o, "bytes", json_count(f->split[i].bytes));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *json_facts(const sy_model_facts *f) {
    json_t *o = json_model(f), *parts = json_object(), *dtypes = json_object();
    json_t *ranks = json_array();
    for (int i = 0; i < SY_PART_COUNT; i++)
        add_tally(parts, sy_part_name((sy_part)i), &f->part[i]);
    for (int i = 0; i < SY_DTYPE_COUNT; i++)
        add_tally(dtypes, sy_dtype_name((sy_dtype)i), &f->dtype[i]);
    for (int r = 0; r < f->n_ranks; r++)
        json_array_append_new(ranks, json_count(f->rank_bytes[r]));
    sy_json_set_text(o, "source", f->from_files ? "checkpoint" : "config");
    sy_json_set_int(o, "files", f->n_files);
    json_object_set_new(o, "file_bytes", json_count(f->file_bytes));
    json_object_set_new(o, "tensors", json_count(f->all.tensors));
    json_object_set_new(o, "tensor_bytes", json_count(f->all.bytes));
    sy_json_set_int(o, "unlisted_tensors", f->n_unlisted);
    uint64_t skipped = 0;
    for (int k = SY_SKIP_NOT + 1; k < SY_SKIP_COUNT; k++)
        skipped += f->skipped[k].tensors;
    sy_json_set_int(o, "skipped_tensors", (int64_t)skipped);
    json_object_set_new(o, "stored_elements", json_count(f->elements));
    json_object_set_new(o, "parts", parts);
    json_object_set_new(o, "dtypes", dtypes);
    json_object_set_new(o, "kv_bytes_per_token", json_count(f->kv_bytes));
    sy_json_set_flag(o, "tokenizer", f->has_tokenizer);
    json_object_set_new(o, "ranks", ranks);
    json_object_set_new(o, "splits", json_splits(f));
    return o;
}

sy_status sy_inspect_print_json(const sy_model_facts *f) {
    json_t *object = json_facts(f);
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    sy_status st = text != NULL ? sy_out_printf("%s\n", text)
                                : sy_fail(SY_ERR_MEMORY, "no memory for the JSON text");
    free(text);
    json_decref(object);
    return st;
}

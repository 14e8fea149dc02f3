/* switchyard inspect MODEL: what a checkpoint is. One plain process; reads no weights. */
#include "launcher/cmd_inspect.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "launcher/commands.h"
#include "launcher/output.h"
#include "runtime/inspect.h"

const char sy_inspect_help[] =
    "Reads config.json and the headers of the weight files, no weights. MODEL may also be a\n"
    "config.json alone; then bytes are those of BF16 weights. Bytes per rank are those of the\n"
    "rank's experts, dealt out contiguously, and of all other weights, as stored.\n"
    "\n"
    "--json prints one object:\n"
    "  family, hidden, vocab, max_position, tied\n"
    "  eos, bos      ids\n"
    "  eos_token     a text whose id only the tokenizer tells, or null\n"
    "  layers        one object for each run of equal layers: first, last, kind (\"moe\" or\n"
    "                \"dense\"), heads, kv_heads, head_dim, width, experts, top_k,\n"
    "                shared_width, renorm, qk_norm, qk_clip, rope_theta, rotary_dim,\n"
    "                softmax_scale, norm_eps\n"
    "  parameters    total, active, and one number for each part\n"
    "  source        \"checkpoint\" or \"config\"\n"
    "  files, file_bytes, tensors, tensor_bytes, unlisted_tensors, stored_elements\n"
    "  parts, dtypes    {name: {tensors, bytes}}\n"
    "  kv_bytes_per_token    keys and values of all layers in BF16\n"
    "  tokenizer     true if there is a tokenizer.json\n"
    "  ranks         bytes of each rank";

static bool same_attention(const sy_attn_spec *a, const sy_attn_spec *b) {
    return a->heads == b->heads && a->kv_heads == b->kv_heads && a->head_dim == b->head_dim &&
           a->qk_norm == b->qk_norm && a->qk_clip == b->qk_clip &&
           a->rope.dim == b->rope.dim && a->rope.theta == b->rope.theta &&
           a->softmax_scale == b->softmax_scale;
}

static bool same_ffn(const sy_ffn_spec *a, const sy_ffn_spec *b) {
    return a->kind == b->kind && a->inter == b->inter && a->experts == b->experts &&
           a->top_k == b->top_k && a->shared_inter == b->shared_inter &&
           a->renorm == b->renorm && a->routed_scale == b->routed_scale;
}

/* One past the last layer of the run of equal layers that begins at `first`. */
static int run_end(const sy_model_spec *spec, int first) {
    int end = first + 1;
    const sy_layer_spec *l = &spec->layer[first];
    while (end < spec->n_layers && l->norm_eps == spec->layer[end].norm_eps &&
           same_attention(&l->attn, &spec->layer[end].attn) &&
           same_ffn(&l->ffn, &spec->layer[end].ffn))
        end++;
    return end;
}

static const char *bytes_text(char buf[24], uint64_t bytes) {
    return sy_format_bytes(buf, 24, bytes);
}

static const char *qk_norm_name(sy_qk_norm norm) {
    switch (norm) {
    case SY_QK_NORM_PER_HEAD:
        return "per_head";
    case SY_QK_NORM_WHOLE:
        return "whole";
    default:
        return "none";
    }
}

static sy_status print_attention(const sy_layer_spec *l) {
    const sy_attn_spec *a = &l->attn;
    sy_status st = SY_OK;
    SY_TRY(sy_out_printf("  attention: %d heads of %d, %d kv heads, scale %.8g, q/k norm %s",
                         a->heads, a->head_dim, a->kv_heads, (double)a->softmax_scale,
                         qk_norm_name(a->qk_norm)));
    if (a->qk_clip > 0) SY_TRY(sy_out_printf(", clip %g", (double)a->qk_clip));
    SY_TRY(sy_out_printf("\n  rotary: %d of %d, theta %g; norm eps %g\n", a->rope.dim,
                         a->head_dim, a->rope.theta, (double)l->norm_eps));
done:
    return st;
}

static sy_status print_ffn(const sy_ffn_spec *f) {
    sy_status st = SY_OK;
    if (f->kind == SY_FFN_DENSE) return sy_out_printf("  ffn: dense, width %d\n", f->inter);
    SY_TRY(sy_out_printf("  ffn: %d experts of width %d, %d per token, softmax over all%s",
                         f->experts, f->inter, f->top_k, f->renorm ? ", renormalised" : ""));
    if (f->routed_scale != 1) SY_TRY(sy_out_printf(", times %g", (double)f->routed_scale));
    if (f->shared_inter > 0) SY_TRY(sy_out_printf("; shared width %d", f->shared_inter));
    SY_TRY(sy_out_printf("\n"));
done:
    return st;
}

static sy_status print_layers(const sy_model_spec *spec) {
    sy_status st = SY_OK;
    for (int first = 0, end; first < spec->n_layers; first = end) {
        end = run_end(spec, first);
        if (end - first == 1)
            SY_TRY(sy_out_printf("layer %d\n", first));
        else
            SY_TRY(sy_out_printf("layers %d-%d\n", first, end - 1));
        SY_TRY(print_attention(&spec->layer[first]));
        SY_TRY(print_ffn(&spec->layer[first].ffn));
    }
done:
    return st;
}

/* "30.53 B" for people, with the exact number where that says more. */
static const char *count_text(char buf[48], uint64_t n) {
    if (n < 10000000)
        snprintf(buf, 48, "%" PRIu64, n);
    else
        snprintf(buf, 48, "%.2f B (%" PRIu64 ")", (double)n * 1e-9, n);
    return buf;
}

static sy_status print_end_tokens(const sy_model_spec *spec) {
    sy_status st = SY_OK;
    SY_TRY(sy_out_printf("end tokens:"));
    for (int i = 0; i < spec->n_eos; i++)
        SY_TRY(sy_out_printf(" %d", spec->eos[i]));
    if (spec->eos_token[0] != '\0') {
        json_t *text =
            json_string(spec->eos_token); /* quoted, so that no control code passes */
        char *quoted =
            text != NULL ? json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
        st = sy_out_printf(" %s", quoted != NULL ? quoted : "?");
        free(quoted);
        json_decref(text);
        if (st != SY_OK) goto done;
    }
    SY_TRY(sy_out_printf(spec->n_eos == 0 && spec->eos_token[0] == '\0' ? " none\n" : "\n"));
done:
    return st;
}

static sy_status print_model(const sy_model_facts *f) {
    const sy_model_spec *s = f->spec;
    char kv[24], total[48], active[48];
    sy_status st = SY_OK;
    SY_TRY(sy_out_printf("family: %s\nhidden: %d, vocabulary: %d%s, positions: %" PRId64 "\n",
                         s->family, s->hidden, s->vocab, s->tied ? " (tied)" : "",
                         s->max_position));
    SY_TRY(print_layers(s));
    SY_TRY(print_end_tokens(s));
    SY_TRY(sy_out_printf("parameters: %s\nactive per token: %s\n",
                         count_text(total, f->params.total),
                         count_text(active, f->params.active)));
    SY_TRY(sy_out_printf("KV cache: %s per token in BF16\n", bytes_text(kv, f->kv_bytes)));
done:
    return st;
}

static sy_status print_files(const sy_model_facts *f) {
    char bytes[24];
    sy_status st = SY_OK;
    if (!f->from_files)
        return sy_out_printf(
            "weights: %s, assuming BF16 (a config alone; no weights were looked "
            "for)\n",
            bytes_text(bytes, f->all.bytes));
    SY_TRY(sy_out_printf("weights: %s in %" PRIu64 " tensors, %d file%s\n",
                         bytes_text(bytes, f->all.bytes), f->all.tensors, f->n_files,
                         f->n_files == 1 ? "" : "s"));
    if (f->n_unlisted > 0)
        SY_TRY(sy_out_printf("unlisted: %d tensors that the index does not name\n",
                             f->n_unlisted));
    if (f->elements != f->params.total)
        SY_TRY(sy_out_printf("note: the files hold %" PRIu64
                             " values, config.json asks for %" PRIu64 "\n",
                             f->elements, f->params.total));
    SY_TRY(sy_out_printf("tokenizer: %s\n", f->has_tokenizer ? "yes" : "none"));
done:
    return st;
}

static sy_status print_row(const char *name, const sy_tally *t, uint64_t total, bool counted) {
    char bytes[24];
    double share = total > 0 ? 100.0 * (double)t->bytes / (double)total : 0;
    if (t->bytes == 0 && t->tensors == 0) return SY_OK;
    if (!counted)
        return sy_out_printf("  %-12s %12s %5.1f%%\n", name, bytes_text(bytes, t->bytes),
                             share);
    return sy_out_printf("  %-12s %12s %5.1f%% %9" PRIu64 " tensor%s\n", name,
                         bytes_text(bytes, t->bytes), share, t->tensors,
                         t->tensors == 1 ? "" : "s");
}

static sy_status print_tables(const sy_model_facts *f) {
    char bytes[24];
    sy_status st = SY_OK;
    SY_TRY(sy_out_printf("by part:\n"));
    for (int i = 0; i < SY_PART_COUNT; i++)
        SY_TRY(print_row(sy_part_name((sy_part)i), &f->part[i], f->all.bytes, f->from_files));
    SY_TRY(sy_out_printf("by dtype:\n"));
    for (int i = 0; i < SY_DTYPE_COUNT; i++)
        SY_TRY(
            print_row(sy_dtype_name((sy_dtype)i), &f->dtype[i], f->all.bytes, f->from_files));
    if (f->n_ranks == 1) goto done;
    SY_TRY(
        sy_out_printf("by rank (experts dealt out contiguously, the rest on every rank):\n"));
    for (int r = 0; r < f->n_ranks; r++)
        SY_TRY(sy_out_printf("  rank %-7d %12s\n", r, bytes_text(bytes, f->rank_bytes[r])));
done:
    return st;
}

static sy_status print_text(const sy_model_facts *f) {
    sy_status st = SY_OK;
    SY_TRY(print_model(f));
    SY_TRY(print_files(f));
    SY_TRY(print_tables(f));
done:
    return st;
}

static json_t *json_layer(const sy_layer_spec *l, int first, int last) {
    const sy_attn_spec *a = &l->attn;
    const sy_ffn_spec *f = &l->ffn;
    json_t *o =
        json_pack("{s:i, s:i, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "first", first, "last",
                  last, "kind", f->kind == SY_FFN_MOE ? "moe" : "dense", "heads", a->heads,
                  "kv_heads", a->kv_heads, "head_dim", a->head_dim, "width", f->inter,
                  "experts", f->experts, "top_k", f->top_k, "shared_width", f->shared_inter);
    json_object_set_new(o, "renorm", json_boolean(f->renorm));
    json_object_set_new(o, "qk_norm", json_string(qk_norm_name(a->qk_norm)));
    json_object_set_new(o, "qk_clip", json_real((double)a->qk_clip));
    json_object_set_new(o, "rope_theta", json_real(a->rope.theta));
    json_object_set_new(o, "rotary_dim", json_integer(a->rope.dim));
    json_object_set_new(o, "softmax_scale", json_real((double)a->softmax_scale));
    json_object_set_new(o, "norm_eps", json_real((double)l->norm_eps));
    return o;
}

static json_t *json_layers(const sy_model_spec *spec) {
    json_t *list = json_array();
    for (int first = 0, end; first < spec->n_layers; first = end) {
        end = run_end(spec, first);
        json_array_append_new(list, json_layer(&spec->layer[first], first, end - 1));
    }
    return list;
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
    json_object_set_new(o, "family", json_string(s->family));
    json_object_set_new(o, "hidden", json_integer(s->hidden));
    json_object_set_new(o, "vocab", json_integer(s->vocab));
    json_object_set_new(o, "max_position", json_integer(s->max_position));
    json_object_set_new(o, "tied", json_boolean(s->tied));
    json_object_set_new(o, "eos", eos);
    json_object_set_new(o, "eos_token",
                        s->eos_token[0] != '\0' ? json_string(s->eos_token) : json_null());
    json_object_set_new(o, "bos", s->bos >= 0 ? json_integer(s->bos) : json_null());
    json_object_set_new(o, "layers", json_layers(s));
    json_object_set_new(o, "parameters", json_parameters(&f->params));
    return o;
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
    json_object_set_new(o, "source", json_string(f->from_files ? "checkpoint" : "config"));
    json_object_set_new(o, "files", json_integer(f->n_files));
    json_object_set_new(o, "file_bytes", json_count(f->file_bytes));
    json_object_set_new(o, "tensors", json_count(f->all.tensors));
    json_object_set_new(o, "tensor_bytes", json_count(f->all.bytes));
    json_object_set_new(o, "unlisted_tensors", json_integer(f->n_unlisted));
    json_object_set_new(o, "stored_elements", json_count(f->elements));
    json_object_set_new(o, "parts", parts);
    json_object_set_new(o, "dtypes", dtypes);
    json_object_set_new(o, "kv_bytes_per_token", json_count(f->kv_bytes));
    json_object_set_new(o, "tokenizer", json_boolean(f->has_tokenizer));
    json_object_set_new(o, "ranks", ranks);
    return o;
}

static sy_status print_json(const sy_model_facts *f) {
    json_t *object = json_facts(f);
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    sy_status st = text != NULL ? sy_out_printf("%s\n", text)
                                : sy_fail(SY_ERR_MEMORY, "no memory for the JSON text");
    free(text);
    json_decref(object);
    return st;
}

sy_status sy_cmd_inspect(const sy_options *options) {
    sy_model_facts *facts = NULL;
    sy_status st = sy_inspect(options->model, options->ranks, &facts);
    if (st == SY_OK) st = options->json ? print_json(facts) : print_text(facts);
    if (st == SY_OK) st = sy_out_flush();
    sy_inspect_free(facts);
    return st;
}

/* The facts of a model, for people. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "launcher/inspect_report.h"
#include "launcher/output.h"

static const char *bytes_text(char buf[24], uint64_t bytes) {
    return sy_format_bytes(buf, 24, bytes);
}

static sy_status print_rope(const sy_layer_spec *l) {
    const sy_rope_spec *r = &l->attn.rope;
    sy_status st = SY_OK;
    SY_TRY(sy_out_printf("  rotary: %d of %d, %s, theta %g", r->dim, l->attn.head_dim,
                         r->layout == SY_ROPE_HALF ? "halves" : "interleaved", r->theta));
    if (r->factor != 0)
        SY_TRY(sy_out_printf(", YaRN %g times %g positions, betas %g and %g%s", r->factor,
                             r->original_positions, r->beta_fast, r->beta_slow,
                             r->truncate ? "" : ", bounds not rounded"));
    if (r->attention_factor != 1)
        SY_TRY(sy_out_printf(", cos and sin times %.8g", r->attention_factor));
    SY_TRY(sy_out_printf("; norm eps %g\n", (double)l->norm_eps));
    if (l->attn.query_beta != 0)
        SY_TRY(sy_out_printf("  queries times 1 + %g ln(1 + floor(position / %" PRId64 "))\n",
                             (double)l->attn.query_beta, l->attn.query_positions));
done:
    return st;
}

static sy_status print_heads(const sy_attn_spec *a) {
    const sy_mla_spec *m = &a->mla;
    sy_status st = SY_OK;
    if (a->kind == SY_ATTN_GQA)
        return sy_out_printf("  attention: %d heads of %d, %d kv heads", a->heads, a->head_dim,
                             a->kv_heads);
    SY_TRY(sy_out_printf("  attention: latent, %d heads of %d + %d, values of %d, ", a->heads,
                         m->nope, m->rope, m->value));
    if (m->q_rank > 0) SY_TRY(sy_out_printf("query rank %d, ", m->q_rank));
    SY_TRY(sy_out_printf("key-value rank %d", m->kv_rank));
done:
    return st;
}

static sy_status print_attention(const sy_layer_spec *l) {
    const sy_attn_spec *a = &l->attn;
    sy_status st = SY_OK;
    SY_TRY(print_heads(a));
    SY_TRY(sy_out_printf(", scale %.8g", (double)a->softmax_scale));
    if (a->kind == SY_ATTN_GQA)
        SY_TRY(sy_out_printf(", q/k norm %s", sy_qk_norm_name(a->qk_norm)));
    if (a->qk_clip > 0) SY_TRY(sy_out_printf(", clip %g", (double)a->qk_clip));
    if (a->qkv_bias || a->o_bias)
        SY_TRY(sy_out_printf(", biases of%s%s", a->qkv_bias ? " q k v" : "",
                             a->o_bias ? " o" : ""));
    if (a->window > 0) SY_TRY(sy_out_printf(", window %" PRId64, a->window));
    if (a->sinks) SY_TRY(sy_out_printf(", sinks"));
    SY_TRY(sy_out_printf("\n"));
    SY_TRY(print_rope(l));
done:
    return st;
}

static sy_status print_router(const sy_ffn_spec *f) {
    static const char *const scores[] = {[SY_SCORE_SOFTMAX] = "softmax over all",
                                         [SY_SCORE_SIGMOID] = "sigmoid",
                                         [SY_SCORE_SOFTMAX_CHOSEN] = "softmax over the chosen"};
    sy_status st = SY_OK;
    SY_TRY(sy_out_printf("%s", scores[f->score]));
    if (f->router_bias) SY_TRY(sy_out_printf(", bias"));
    if (f->choice_bias) SY_TRY(sy_out_printf(", bias for the choice"));
    if (f->n_groups > 1)
        SY_TRY(sy_out_printf(", from %d of %d groups by their %s", f->groups_kept, f->n_groups,
                             f->group_score == SY_GROUP_MAX ? "best" : "two best"));
    if (f->renorm) SY_TRY(sy_out_printf(", renormalised"));
    if (f->routed_scale != 1) SY_TRY(sy_out_printf(", times %g", (double)f->routed_scale));
done:
    return st;
}

static sy_status print_ffn(const sy_ffn_spec *f) {
    sy_status st = SY_OK;
    if (f->kind == SY_FFN_DENSE) return sy_out_printf("  ffn: dense, width %d\n", f->inter);
    SY_TRY(sy_out_printf("  ffn: %d experts of width %d%s, %d per token, ", f->experts,
                         f->inter, f->expert_bias ? " with biases" : "", f->top_k));
    SY_TRY(print_router(f));
    if (f->act == SY_ACT_SWIGLU_CLAMPED)
        SY_TRY(sy_out_printf("; clamped at %g, alpha %g", (double)f->act_limit,
                             (double)f->act_alpha));
    if (f->shared_inter > 0) SY_TRY(sy_out_printf("; shared width %d", f->shared_inter));
    SY_TRY(sy_out_printf("\n"));
done:
    return st;
}

/* Whether a layer is the first of its kind. */
static bool is_first(const sy_model_spec *spec, int l) {
    for (int k = 0; k < l; k++)
        if (sy_same_layer(&spec->layer[k], &spec->layer[l])) return false;
    return true;
}

/* "layer 0", "layers 3-60", "layers 0, 2, 4, .. (12 in all)": the layers that equal layer l. */
static sy_status print_numbers(const sy_model_spec *spec, int l) {
    enum { RANGES_SHOWN = 6 };
    sy_status st = SY_OK;
    int n = 0, ranges = 0, end;
    for (int k = l; k < spec->n_layers; k++)
        n += sy_same_layer(&spec->layer[k], &spec->layer[l]);
    SY_TRY(sy_out_printf(n == 1 ? "layer" : "layers"));
    for (int k = l; k < spec->n_layers; k = end + 1) {
        end = k;
        if (!sy_same_layer(&spec->layer[k], &spec->layer[l])) continue;
        while (end + 1 < spec->n_layers &&
               sy_same_layer(&spec->layer[end + 1], &spec->layer[l]))
            end++;
        if (ranges++ >= RANGES_SHOWN) continue;
        SY_TRY(sy_out_printf("%s%d", ranges > 1 ? ", " : " ", k));
        if (end > k) SY_TRY(sy_out_printf("-%d", end));
    }
    SY_TRY(ranges > RANGES_SHOWN ? sy_out_printf(", .. (%d in all)\n", n)
                                 : sy_out_printf("\n"));
done:
    return st;
}

static sy_status print_layers(const sy_model_spec *spec) {
    sy_status st = SY_OK;
    for (int l = 0; l < spec->n_layers; l++) {
        if (!is_first(spec, l)) continue;
        SY_TRY(print_numbers(spec, l));
        SY_TRY(print_attention(&spec->layer[l]));
        SY_TRY(print_ffn(&spec->layer[l].ffn));
    }
    if (spec->n_mtp_layers > 0)
        SY_TRY(sy_out_printf("left out: %d layer%s for predicting several tokens at once\n",
                             spec->n_mtp_layers, spec->n_mtp_layers == 1 ? "" : "s"));
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

/* How the weights are published: what is quantised how, and what all else is stored as. */
static sy_status print_precision(const sy_model_spec *s) {
    char text[SY_QUANTIZATION_TEXT_MAX];
    if (s->quant.method == SY_QUANT_NONE)
        return sy_out_printf("published as: %s\n", sy_dtype_name(s->dtype));
    return sy_out_printf("published as: %s, the rest %s\n",
                         sy_quantization_text(&s->quant, text), sy_dtype_name(s->dtype));
}

static sy_status print_files(const sy_model_facts *f) {
    char bytes[24];
    sy_status st = SY_OK;
    SY_TRY(print_precision(f->spec));
    if (!f->from_files)
        return sy_out_printf("weights: %s, by shapes (there are no weight files)\n",
                             bytes_text(bytes, f->all.bytes));
    SY_TRY(sy_out_printf("weights: %s in %" PRIu64 " tensors, %d file%s\n",
                         bytes_text(bytes, f->all.bytes), f->all.tensors, f->n_files,
                         f->n_files == 1 ? "" : "s"));
    if (f->n_unlisted > 0)
        SY_TRY(sy_out_printf("unlisted: %d tensors that the index does not name\n",
                             f->n_unlisted));
    if (f->elements != f->params.total && f->spec->quant.method == SY_QUANT_NONE)
        SY_TRY(sy_out_printf("note: the files hold %" PRIu64
                             " values, the config asks for %" PRIu64 "\n",
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

/* Of the ranks that were asked for, each; else what the fullest of a few numbers would hold. */
static sy_status print_ranks(const sy_model_facts *f) {
    char bytes[24];
    sy_status st = SY_OK;
    if (f->n_ranks == 1) {
        SY_TRY(sy_out_printf("by number of ranks (experts split, the rest on every rank):\n"));
        for (int i = 0; i < SY_SPLIT_COUNT; i++)
            SY_TRY(sy_out_printf("  %d ranks %16s each\n", f->split[i].ranks,
                                 bytes_text(bytes, f->split[i].bytes)));
        goto done;
    }
    SY_TRY(sy_out_printf("by rank (experts %s, the rest on every rank):\n",
                         f->placed ? "as placed" : "dealt out contiguously"));
    for (int r = 0; r < f->n_ranks; r++)
        SY_TRY(sy_out_printf("  rank %-7d %12s\n", r, bytes_text(bytes, f->rank_bytes[r])));
done:
    return st;
}

/* Tensors that the files have and nobody loads. */
static sy_status print_skipped(const sy_model_facts *f) {
    char bytes[24];
    sy_status st = SY_OK;
    for (int i = SY_SKIP_NOT + 1; i < SY_SKIP_COUNT; i++) {
        const sy_tally *t = &f->skipped[i];
        if (t->tensors == 0) continue;
        SY_TRY(sy_out_printf("not loaded: %s, %" PRIu64 " tensor%s of %s\n",
                             sy_skip_text((sy_skip)i), t->tensors, t->tensors == 1 ? "" : "s",
                             bytes_text(bytes, t->bytes)));
    }
done:
    return st;
}

static sy_status print_tables(const sy_model_facts *f) {
    sy_status st = SY_OK;
    SY_TRY(print_skipped(f));
    SY_TRY(sy_out_printf("by part:\n"));
    for (int i = 0; i < SY_PART_COUNT; i++)
        SY_TRY(print_row(sy_part_name((sy_part)i), &f->part[i], f->all.bytes, f->from_files));
    SY_TRY(sy_out_printf("by dtype:\n"));
    for (int i = 0; i < SY_DTYPE_COUNT; i++)
        SY_TRY(
            print_row(sy_dtype_name((sy_dtype)i), &f->dtype[i], f->all.bytes, f->from_files));
    SY_TRY(print_ranks(f));
done:
    return st;
}

sy_status sy_inspect_print_text(const sy_model_facts *f) {
    sy_status st = SY_OK;
    SY_TRY(print_model(f));
    SY_TRY(print_files(f));
    SY_TRY(print_tables(f));
done:
    return st;
}

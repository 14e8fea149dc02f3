/* Which tensors a conversion writes: a walk over the model's matrices, as bind*.c walks over them,
 * that decides for each whether it is kept as it is, encoded, or made plain; then what is left. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "runtime/binder.h"
#include "runtime/convert_plan.h"
#include "runtime/inspect.h"
#include "runtime/weight_encode.h"

typedef struct walk {
    sy_convert_plan *plan;
    sy_binder b;
    sy_bind_list list; /* nothing is entered; that it is there lets factors be read */
} walk;

/* A weight of the model under the name of its module. */
typedef struct module {
    char name[SY_NAME_CHARS];
    int64_t n, k;
    bool selected; /* to be in the format asked for */
    bool stacked;  /* `piece` is a part of a larger tensor */
    sy_piece piece;
} module;

static bool ends(const char *name, const char *with) {
    size_t n = strlen(name), m = strlen(with);
    return n >= m && strcmp(name + n - m, with) == 0;
}

/* What the scales of FP8 blocks are called: Mistral's own layout has compressed-tensors' name. */
static const char *fp8_scale(const sy_convert_plan *p) {
    return p->names->plain_names ? "weight_scale" : "weight_scale_inv";
}

/* Whether a whole weight has exactly the tensors that this conversion would write. */
static bool is_in_format(const sy_convert_plan *p, const module *m, sy_convert_format to) {
    const sy_piece *w = &m->piece;
    const sy_tensor_entry *s = w->scales;
    if (m->stacked) return false;
    switch (to) {
    case SY_CONVERT_BF16:
        return w->dtype == SY_BF16;
    case SY_CONVERT_FP8:
        return w->dtype == SY_F8_E4M3 && s->dtype == SY_F32 && ends(s->name, fp8_scale(p)) &&
               s->rank == 2 && s->shape[0] == sy_ceil_div(m->n, SY_FP8_BLOCK) &&
               s->shape[1] == sy_ceil_div(m->k, SY_FP8_BLOCK);
    case SY_CONVERT_MXFP4:
        return w->dtype == SY_F4 && w->quant.scale == SY_F8_E8M0 && s->dtype == SY_U8;
    case SY_CONVERT_NVFP4:
        return w->dtype == SY_F4 && w->quant.use_factor == SY_FACTOR_OVER;
    case SY_CONVERT_Q8:
        return w->dtype == SY_I8 && w->quant.scale == SY_BF16 && w->quant.group == SY_Q8_GROUP;
    default:
        return false;
    }
}

/* A tensor of a module that is neither its weight nor its bias would change what the weight means
 * (an order of columns, say). */
static sy_status check_understood(const walk *w, const char *module_name) {
    const sy_checkpoint *c = w->plan->checkpoint;
    size_t n = strlen(module_name);
    int low = 0, high = c->n_tensors;
    while (low < high) { /* the first name that is not below the module's */
        int middle = low + (high - low) / 2;
        if (strcmp(c->tensor[middle].name, module_name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < c->n_tensors && strncmp(c->tensor[low].name, module_name, n) == 0; low++) {
        const char *name = c->tensor[low].name;
        bool of_module = name[n] == '.' && strchr(name + n + 1, '.') == NULL;
        if (!of_module || w->b.used[low] || strcmp(name + n, ".bias") == 0) continue;
        if (sy_tensor_skip(w->plan->spec, &w->plan->prefix, name) != SY_SKIP_NOT) continue;
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "%s/%s: tensor \"%s\" is not part of a weight as it is stored here",
                       c->directory, c->file_name[c->tensor[low].file], name);
    }
    return SY_OK;
}

/* ---- what is written for one weight ---- */

static sy_status add_out(sy_convert_plan *p,
                         const module *m,
                         const char *part,
                         sy_dtype dtype,
                         int64_t rows,
                         int64_t columns,
                         int *index) {
    char name[SY_NAME_CHARS + 32];
    int64_t shape[2] = {rows, columns};
    snprintf(name, sizeof name, "%s.%s", m->name, part);
    *index = p->n_out;
    return sy_convert_add_out(p, name, dtype, columns > 0 ? 2 : 1, shape);
}

static sy_status add_encoded(sy_convert_plan *p, const module *m, sy_convert_format to) {
    sy_status st = SY_OK;
    int64_t n = m->n, k = m->k;
    int group = to == SY_CONVERT_NVFP4 ? SY_NVFP4_GROUP : SY_MXFP4_GROUP;
    int64_t groups = sy_ceil_div(k, group);
    sy_convert_matrix w = {
        .from = m->piece, .n = n, .k = k, .to = to, .scales = -1, .factor = -1};
    switch (to) {
    case SY_CONVERT_BF16:
        SY_TRY(add_out(p, m, "weight", SY_BF16, n, k, &w.codes));
        break;
    case SY_CONVERT_FP8:
        SY_TRY(add_out(p, m, "weight", SY_F8_E4M3, n, k, &w.codes));
        SY_TRY(add_out(p, m, fp8_scale(p), SY_F32, sy_ceil_div(n, SY_FP8_BLOCK),
                       sy_ceil_div(k, SY_FP8_BLOCK), &w.scales));
        break;
    case SY_CONVERT_Q8:
        SY_TRY(add_out(p, m, "weight", SY_I8, n, k, &w.codes));
        SY_TRY(add_out(p, m, "weight_scale", SY_BF16, n, groups, &w.scales));
        break;
    default:
        SY_TRY(add_out(p, m, "weight_packed", SY_U8, n, sy_ceil_div(k, 2), &w.codes));
        if (to == SY_CONVERT_MXFP4) {
            SY_TRY(add_out(p, m, "weight_scale", SY_U8, n, groups, &w.scales));
            break;
        }
        SY_TRY(add_out(p, m, "weight_scale", SY_F8_E4M3, n, groups, &w.scales));
        SY_TRY(add_out(p, m, "weight_global_scale", SY_F32, 1, 0, &w.factor));
    }
    if (to != SY_CONVERT_BF16 && to != SY_CONVERT_FP8 && k % group != 0) p->n_short_groups++;
    SY_TRY(sy_convert_add_matrix(p, &w));
done:
    return st;
}

static sy_status keep(walk *w, const module *m) {
    sy_status st = SY_OK;
    const sy_piece *piece = &m->piece;
    char name[SY_NAME_CHARS + 32];
    SY_TRY(sy_convert_add_copy(w->plan, piece->codes));
    if (!sy_is_quantised(piece->dtype)) goto done;
    SY_TRY(sy_convert_add_copy(w->plan, piece->scales));
    if (piece->quant.use_factor != SY_FACTOR_OVER) goto done;
    snprintf(name, sizeof name, "%s.weight_global_scale", m->name);
    SY_TRY(sy_convert_add_copy(w->plan, sy_checkpoint_find(w->b.checkpoint, name)));
done:
    return st;
}

/* The weights of modules that other programs may join into one matrix: those that are encoded get
 * one NVFP4 factor together. */
static sy_status add_modules(walk *w, module *m, int n) {
    sy_status st = SY_OK;
    sy_convert_plan *p = w->plan;
    sy_convert_format to[3] = {0};
    bool encoded[3] = {false};
    int n_encoded = 0;
    const sy_weight_kind from_files = {SY_PART_OTHER, SY_ROLE_KEPT}; /* of dummy weights only */
    for (int i = 0; i < n; i++) {
        if (!m[i].stacked)
            SY_TRY(sy_binder_weight(&w->b, from_files, m[i].name, m[i].n, m[i].k, &m[i].piece));
        bool quantised = sy_is_quantised(m[i].piece.dtype);
        bool there = is_in_format(p, &m[i], p->to);
        to[i] = m[i].selected ? p->to : SY_CONVERT_BF16;
        encoded[i] = m[i].selected || quantised ? !there : false;
        if (m[i].selected || (there && quantised)) p->n_encoded++;
        if (!(there && quantised) && to[i] == SY_CONVERT_BF16)
            SY_TRY(sy_convert_add_plain(p, m[i].name));
        if (!encoded[i]) SY_TRY(keep(w, &m[i]));
        if (encoded[i] && !m[i].stacked) SY_TRY(check_understood(w, m[i].name));
        n_encoded += encoded[i];
    }
    for (int i = 0; i < n; i++)
        if (encoded[i]) SY_TRY(add_encoded(p, &m[i], to[i]));
    if (n_encoded > 0) SY_TRY(sy_convert_add_job(p, n_encoded));
done:
    return st;
}

/* A module within the current layer. */
static module in_layer(const walk *w, const char *name, int64_t n, int64_t k) {
    module m = {.n = n, .k = k, .selected = w->plan->all};
    sy_binder_name(&w->b, m.name, "%s", name);
    return m;
}

static sy_status add_outer(walk *w, const char *prefix, const char *name) {
    module m = {.n = w->plan->spec->vocab, .k = w->plan->spec->hidden};
    snprintf(m.name, sizeof m.name, "%s%s", prefix, name);
    return add_modules(w, &m, 1);
}

/* The embedding in another role: a linear layer without a weight of its own. */
static sy_status add_tied_head(walk *w) {
    char name[SY_NAME_CHARS];
    snprintf(name, sizeof name, "%s%s", w->plan->prefix.head, w->plan->names->lm_head);
    return sy_convert_add_plain(w->plan, name);
}

/* ---- attention ---- */

static sy_status add_gqa(walk *w) {
    const sy_tensor_names *names = w->plan->names;
    const sy_attn_spec *a = &w->plan->spec->layer[w->b.layer].attn;
    int64_t H = w->plan->spec->hidden;
    int64_t q_n = (int64_t)a->heads * a->head_dim, kv_n = (int64_t)a->kv_heads * a->head_dim;
    if (names->qkv != NULL) {
        module joined = in_layer(w, names->qkv, q_n + 2 * kv_n, H);
        return add_modules(w, &joined, 1);
    }
    module m[3] = {in_layer(w, names->q, q_n, H), in_layer(w, names->k, kv_n, H),
                   in_layer(w, names->v, kv_n, H)};
    return add_modules(w, m, 3);
}

static sy_status add_mla(walk *w) {
    sy_status st = SY_OK;
    const sy_tensor_names *names = w->plan->names;
    const sy_attn_spec *a = &w->plan->spec->layer[w->b.layer].attn;
    const sy_mla_spec *mla = &a->mla;
    int64_t H = w->plan->spec->hidden, q_n = (int64_t)a->heads * a->head_dim;
    module kv_a = in_layer(w, names->kv_a, (int64_t)mla->kv_rank + mla->rope, H);
    module kv_b =
        in_layer(w, names->kv_b, a->heads * ((int64_t)mla->nope + mla->value), mla->kv_rank);
    kv_b.selected = false; /* it is cut into heads at load, and would be widened there */
    if (mla->q_rank > 0) {
        module q_b = in_layer(w, names->q_b, q_n, mla->q_rank);
        SY_TRY(add_modules(w, (module[]){in_layer(w, names->q_a, mla->q_rank, H), kv_a}, 2));
        SY_TRY(add_modules(w, &q_b, 1));
    } else {
        SY_TRY(add_modules(w, (module[]){in_layer(w, names->q, q_n, H), kv_a}, 2));
    }
    SY_TRY(add_modules(w, &kv_b, 1));
done:
    return st;
}

static sy_status add_attention(walk *w) {
    sy_status st = SY_OK;
    const sy_tensor_names *names = w->plan->names;
    const sy_attn_spec *a = &w->plan->spec->layer[w->b.layer].attn;
    bool mla = a->kind == SY_ATTN_MLA;
    const char *first = mla ? names->kv_b : names->qkv != NULL ? names->qkv : names->q;
    if (first == NULL)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: its layout of tensors has no names for such attention",
                w->plan->checkpoint->directory);
    SY_TRY(mla ? add_mla(w) : add_gqa(w));
    module o = in_layer(w, names->o, w->plan->spec->hidden,
                        (int64_t)a->heads * (mla ? a->mla.value : a->head_dim));
    SY_TRY(add_modules(w, &o, 1));
done:
    return st;
}

/* ---- feed-forward parts ---- */

static sy_status add_ffn(walk *w, module gate, module up, module down, bool selected) {
    sy_status st = SY_OK;
    module gate_up[2] = {gate, up};
    gate_up[0].selected = gate_up[1].selected = down.selected = selected;
    SY_TRY(add_modules(w, gate_up, 2));
    SY_TRY(add_modules(w, &down, 1));
done:
    return st;
}

/* Names the three matrices of an FFN of width F. */
static void
name_ffn(const walk *w, const char *parent, const sy_ffn_names *part, int64_t F, module m[3]) {
    int64_t H = w->plan->spec->hidden;
    m[0] = m[1] = (module){.n = F, .k = H};
    m[2] = (module){.n = H, .k = F};
    sy_binder_name(&w->b, m[0].name, "%s.%s", parent, part->gate);
    sy_binder_name(&w->b, m[1].name, "%s.%s", parent, part->up);
    sy_binder_name(&w->b, m[2].name, "%s.%s", parent, part->down);
}

static sy_status add_plain_ffn(walk *w, const char *parent, int64_t F) {
    module m[3];
    name_ffn(w, parent, &w->plan->names->plain, F, m);
    return add_ffn(w, m[0], m[1], m[2], w->plan->all);
}

static void name_expert(const walk *w, int expert, module m[3]) {
    char parent[SY_NAME_CHARS];
    const sy_tensor_names *names = w->plan->names;
    snprintf(parent, sizeof parent, "%s.%d", names->experts, expert);
    name_ffn(w, parent, &names->expert, w->plan->spec->layer[w->b.layer].ffn.inter, m);
}

static bool has_stack(const walk *w, const char *suffix) {
    char name[SY_NAME_CHARS];
    if (w->plan->names->fused_gate_up == NULL) return false;
    sy_binder_name(&w->b, name, "%s%s", w->plan->names->fused_gate_up, suffix);
    return sy_checkpoint_find(w->plan->checkpoint, name) != NULL;
}

/* [E, 2F, H], gate rows then up rows, and [E, H, F], plain or FP8: written one by one. */
static sy_status add_stacked_experts(walk *w) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &w->plan->spec->layer[w->b.layer].ffn;
    int64_t H = w->plan->spec->hidden, F = f->inter, E = f->experts;
    sy_piece first[3]; /* of expert 0 */
    sy_stack_rows gate_up, down;
    char name[SY_NAME_CHARS];
    sy_binder_name(&w->b, name, "%s", w->plan->names->fused_gate_up);
    SY_TRY(sy_binder_stack(&w->b, name, E, 2, F, H, first, &gate_up));
    sy_binder_name(&w->b, name, "%s", w->plan->names->fused_down);
    SY_TRY(sy_binder_stack(&w->b, name, E, 1, H, F, &first[2], &down));
    for (int e = 0; e < f->experts; e++) {
        module m[3];
        name_expert(w, e, m);
        for (int i = 0; i < 3; i++) {
            m[i].stacked = true;
            m[i].piece = sy_piece_of_expert(&first[i], e, i < 2 ? &gate_up : &down);
        }
        SY_TRY(add_ffn(w, m[0], m[1], m[2], true));
    }
done:
    return st;
}

/* ---- gpt-oss: stacks alone, transposed or in blocks of FP4 ---- */

/* One of its two stacks of experts [E, n, k], as a matrix means it. */
typedef struct oss_stack {
    char name[SY_NAME_CHARS];
    int64_t n, k;
    sy_piece piece; /* of expert 0 */
} oss_stack;

static sy_status find_oss_stack(walk *w, int64_t E, oss_stack *s) {
    sy_status st = SY_OK;
    if (has_stack(w, "_blocks")) {
        SY_TRY(sy_binder_blocks(&w->b, s->name, E, s->n, s->k, &s->piece));
        goto done;
    }
    s->piece = (sy_piece){.width = s->n, .row_step = 1, .across = true};
    SY_TRY(sy_binder_require(&w->b, s->name, 3, (int64_t[]){E, s->k, s->n}, &s->piece.codes));
    s->piece.dtype = s->piece.codes->dtype;
done:
    return st;
}

/* The tensors of one stack in the format asked for. */
static sy_status add_oss_outs(sy_convert_plan *p, int64_t E, const oss_stack *s) {
    sy_status st = SY_OK;
    char name[SY_NAME_CHARS + 16];
    if (p->to == SY_CONVERT_BF16) {
        SY_TRY(sy_convert_add_out(p, s->name, SY_BF16, 3, (int64_t[]){E, s->k, s->n}));
        goto done;
    }
    int64_t shape[4] = {E, s->n, s->k / SY_MXFP4_GROUP, SY_MXFP4_GROUP / 2};
    if (s->k % SY_MXFP4_GROUP != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED, "\"%s\": %lld inputs are no blocks of %d", s->name,
                (long long)s->k, SY_MXFP4_GROUP);
    snprintf(name, sizeof name, "%s_blocks", s->name);
    SY_TRY(sy_convert_add_out(p, name, SY_U8, 4, shape));
    snprintf(name, sizeof name, "%s_scales", s->name);
    SY_TRY(sy_convert_add_out(p, name, SY_U8, 3, shape));
done:
    return st;
}

static sy_status add_oss_stack(walk *w, const char *role, int64_t n, int64_t k) {
    sy_status st = SY_OK;
    sy_convert_plan *p = w->plan;
    int E = p->spec->layer[w->b.layer].ffn.experts;
    oss_stack s = {.n = n, .k = k};
    sy_binder_name(&w->b, s.name, "%s", role);
    SY_TRY(find_oss_stack(w, E, &s));
    p->n_encoded += E;
    if (s.piece.dtype == (p->to == SY_CONVERT_BF16 ? SY_BF16 : SY_F4)) {
        SY_TRY(sy_convert_add_copy(p, s.piece.codes));
        if (s.piece.scales != NULL) SY_TRY(sy_convert_add_copy(p, s.piece.scales));
        goto done;
    }
    int first = p->n_out;
    SY_TRY(add_oss_outs(p, E, &s));
    for (int e = 0; e < E; e++) {
        sy_convert_matrix m = {.from = s.piece, .n = n, .k = k, .to = p->to, .codes = first};
        m.scales = p->to == SY_CONVERT_BF16 ? -1 : first + 1;
        m.factor = -1;
        m.across = p->to == SY_CONVERT_BF16;
        m.out_row0 = e * n;
        *(m.from.across ? &m.from.column0 : &m.from.row0) = e * (m.from.across ? k : n);
        SY_TRY(sy_convert_add_matrix(p, &m));
    }
    SY_TRY(sy_convert_add_job(p, E));
done:
    return st;
}

static sy_status add_oss_experts(walk *w) {
    sy_status st = SY_OK;
    const sy_convert_plan *p = w->plan;
    int64_t H = p->spec->hidden, F = p->spec->layer[w->b.layer].ffn.inter;
    if (p->to != SY_CONVERT_BF16 && p->to != SY_CONVERT_MXFP4)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "--to %s: the experts of a %s model are stacked, and its layout has no names "
                "for such weights; bf16 and mxfp4 are possible",
                sy_convert_format_name(p->to), p->spec->family);
    if (p->to == SY_CONVERT_MXFP4 && p->all)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "--to mxfp4 --all: the layout of a %s model has names for experts in MXFP4 "
                "alone",
                p->spec->family);
    SY_TRY(add_oss_stack(w, p->names->fused_gate_up, 2 * F, H));
    SY_TRY(add_oss_stack(w, p->names->fused_down, H, F));
done:
    return st;
}

static sy_status add_moe(walk *w) {
    sy_status st = SY_OK;
    const sy_tensor_names *names = w->plan->names;
    const sy_ffn_spec *f = &w->plan->spec->layer[w->b.layer].ffn;
    module router = in_layer(w, names->router, f->experts, w->plan->spec->hidden);
    router.selected = false;
    SY_TRY(add_modules(w, &router, 1));
    if (names->experts == NULL) {
        SY_TRY(add_oss_experts(w));
    } else if (has_stack(w, "")) {
        SY_TRY(add_stacked_experts(w));
    } else {
        for (int e = 0; e < f->experts; e++) {
            module m[3];
            name_expert(w, e, m);
            SY_TRY(add_ffn(w, m[0], m[1], m[2], true));
        }
    }
    if (f->shared_inter > 0) SY_TRY(add_plain_ffn(w, names->shared, f->shared_inter));
done:
    return st;
}

/* ---- what is left ---- */

/* Matrices of vision towers and the like are linear layers, too. */
static sy_status note_plain(walk *w, const sy_tensor_entry *t) {
    static const char suffix[] = ".weight";
    char name[SY_TENSOR_NAME_MAX + 1];
    if (t->rank != 2 || !ends(t->name, suffix)) return SY_OK;
    snprintf(name, sizeof name, "%.*s", (int)(strlen(t->name) - strlen(suffix)), t->name);
    return sy_convert_add_plain(w->plan, name);
}

/* Copies the tensors that stand in a layer (-1: in none) and have not been asked for, but for those
 * that would contradict the new configuration: layers for predicting several tokens, which are no
 * part of the model, and scales of activations and caches, of the precision that the source had. */
static sy_status add_rest(walk *w, int layer) {
    sy_status st = SY_OK;
    const sy_checkpoint *c = w->plan->checkpoint;
    for (int i = 0; i < c->n_tensors; i++) {
        const sy_tensor_entry *t = &c->tensor[i];
        int of, expert;
        if (w->b.used[i]) continue;
        sy_part_of(t->name, &of, &expert);
        if (of >= w->plan->spec->n_layers) of = -1;
        if (of != layer) continue;
        w->b.used[i] = true;
        sy_skip skip = sy_tensor_skip(w->plan->spec, &w->plan->prefix, t->name);
        w->plan->n_extra_layer_tensors += skip == SY_SKIP_MTP;
        if (skip == SY_SKIP_MTP || skip == SY_SKIP_SCALE) continue;
        SY_TRY(note_plain(w, t));
        SY_TRY(sy_convert_add_copy(w->plan, t));
    }
done:
    return st;
}

static sy_status walk_model(walk *w) {
    sy_status st = SY_OK;
    sy_convert_plan *p = w->plan;
    SY_TRY(add_outer(w, p->prefix.body, p->names->embed));
    /* It is no linear layer: lists of exceptions need not name it. */
    while (p->n_plain > 0)
        free(p->plain[--p->n_plain]);
    if (p->spec->tied)
        SY_TRY(add_tied_head(w));
    else
        SY_TRY(add_outer(w, p->prefix.head, p->names->lm_head));
    for (w->b.layer = 0; w->b.layer < p->spec->n_layers; w->b.layer++) {
        const sy_ffn_spec *f = &p->spec->layer[w->b.layer].ffn;
        SY_TRY(add_attention(w));
        SY_TRY(f->kind == SY_FFN_DENSE ? add_plain_ffn(w, p->names->dense, f->inter)
                                       : add_moe(w));
        SY_TRY(add_rest(w, w->b.layer));
    }
    SY_TRY(add_rest(w, -1));
done:
    return st;
}

sy_status sy_convert_list_tensors(sy_convert_plan *p) {
    walk w = {.plan = p};
    w.b = (sy_binder){.spec = p->spec,
                      .checkpoint = p->checkpoint,
                      .names = p->names,
                      .prefix = p->prefix,
                      .list = &w.list,
                      .used = calloc((size_t)p->checkpoint->n_tensors + 1, sizeof(bool))};
    sy_status st =
        w.b.used != NULL ? walk_model(&w) : sy_fail(SY_ERR_MEMORY, "no memory for the tensors");
    free(w.b.used);
    return st;
}

#include "runtime/bind.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"

enum { NAME_MAX_LENGTH = 256 };

typedef struct binder {
    sy_backend *be;
    const sy_model_spec *spec;
    const sy_checkpoint *checkpoint; /* NULL: dummy weights */
    sy_arena *arena;
    sy_bind_list *list; /* NULL: measure only */
    bool *used;         /* [checkpoint->n_tensors] */
    int layer;          /* the one being bound, for seeds and names */
} binder;

/* What the published layouts call the parts of an FFN. */
typedef struct ffn_names {
    const char *module, *gate, *up, *down;
} ffn_names;

static const ffn_names expert_names[] = {
    {"mlp", "gate_proj", "up_proj", "down_proj"},
    {"block_sparse_moe", "w1", "w3", "w2"}, /* Mixtral */
};
enum { N_EXPERT_NAMES = sizeof expert_names / sizeof expert_names[0] };

/* Tensors that some exports carry and no forward pass needs. */
static const char *const ignored_suffix[] = {".rotary_emb.inv_freq"};

static sy_status append(sy_bind_list *list, const sy_bind_item *item) {
    if (list->n == list->capacity) {
        size_t capacity = list->capacity == 0 ? 256 : 2 * list->capacity;
        sy_bind_item *grown = realloc(list->item, capacity * sizeof *grown);
        if (grown == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the list of tensors");
        list->item = grown;
        list->capacity = capacity;
    }
    list->item[list->n++] = *item;
    return SY_OK;
}

/* The tensor of a name, marked as used; NULL if the checkpoint has none. */
static const sy_tensor_entry *find(binder *b, const char *name) {
    const sy_tensor_entry *t = sy_checkpoint_find(b->checkpoint, name);
    if (t != NULL) b->used[t - b->checkpoint->tensor] = true;
    return t;
}

static void shape_text(char *buf, size_t size, int rank, const int64_t *shape) {
    size_t used = (size_t)snprintf(buf, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(buf + used, size - used, i == 0 ? "%" PRId64 : ", %" PRId64,
                                 shape[i]);
    if (used < size) snprintf(buf + used, size - used, "]");
}

/* Finds a tensor of exactly this shape and of a dtype that the kernels read. */
static sy_status require(binder *b,
                         const char *name,
                         int rank,
                         const int64_t *shape,
                         const sy_tensor_entry **out) {
    const sy_tensor_entry *t = find(b, name);
    if (t == NULL)
        return sy_fail(SY_ERR_FORMAT, "%s: tensor \"%s\" is missing", b->checkpoint->directory,
                       name);
    if (t->rank != rank || memcmp(t->shape, shape, (size_t)rank * sizeof *shape) != 0) {
        char expected[128], found[256];
        shape_text(expected, sizeof expected, rank, shape);
        shape_text(found, sizeof found, t->rank, t->shape);
        return sy_fail(SY_ERR_FORMAT, "%s/%s: tensor \"%s\": expected shape %s, found %s",
                       b->checkpoint->directory, b->checkpoint->file_name[t->file], name,
                       expected, found);
    }
    if (t->dtype != SY_F32 && t->dtype != SY_F16 && t->dtype != SY_BF16)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "%s/%s: tensor \"%s\" has dtype %s; implemented are F32, F16 and BF16",
                       b->checkpoint->directory, b->checkpoint->file_name[t->file], name,
                       sy_dtype_name(t->dtype));
    *out = t;
    return SY_OK;
}

/* Full name of a tensor of the current layer, or of the model (layer < 0). */
__attribute__((format(printf, 3, 4))) static void
full_name(const binder *b, char name[NAME_MAX_LENGTH], const char *format, ...) {
    int used = 0;
    if (b->layer >= 0) used = snprintf(name, NAME_MAX_LENGTH, "model.layers.%d.", b->layer);
    va_list args;
    va_start(args, format);
    vsnprintf(name + used, (size_t)(NAME_MAX_LENGTH - used), format, args);
    va_end(args);
}

/* The dummy weights of a tensor are a function of its name. */
static uint64_t name_seed(const char *name) {
    return sy_hash_bytes(0, name, strlen(name));
}

/* A vector of n float32, filled from the tensor of that name. */
static sy_status bind_vector(binder *b, const char *name, int64_t n, float **out) {
    sy_status st = SY_OK;
    const sy_tensor_entry *t = NULL;
    if (b->checkpoint != NULL) SY_TRY(require(b, name, 1, &n, &t));
    *out = sy_arena_take(b->arena, (uint64_t)n, sizeof **out);
    if (b->list != NULL)
        SY_TRY(append(b->list, &(sy_bind_item){.tensor = t,
                                               .vector = *out,
                                               .rows = 1,
                                               .columns = n,
                                               .seed = name_seed(name)}));
done:
    return st;
}

/* Declares a matrix and takes its memory. */
static void
take_matrix(binder *b, int parts, int64_t n, int64_t k, sy_dtype file_dtype, sy_matrix *m) {
    *m = (sy_matrix){
        .dtype = b->be->ops->stored_dtype(b->be, file_dtype), .parts = parts, .n = n, .k = k};
    m->data = sy_arena_take(b->arena, b->be->ops->matrix_bytes(b->be, m), 1);
}

static sy_status fill_part(binder *b,
                           sy_matrix *m,
                           int part,
                           const char *name,
                           const sy_tensor_entry *t,
                           uint64_t begin,
                           bool routed) {
    if (b->list == NULL) return SY_OK;
    return append(b->list, &(sy_bind_item){.tensor = t,
                                           .begin = begin,
                                           .matrix = m,
                                           .part = part,
                                           .rows = m->n,
                                           .columns = m->k,
                                           .routed = routed,
                                           .seed = name_seed(name)});
}

/* A matrix of one part [n, k] from the tensor of that name. */
static sy_status bind_matrix(binder *b, const char *name, int64_t n, int64_t k, sy_matrix *m) {
    sy_status st = SY_OK;
    const sy_tensor_entry *t = NULL;
    int64_t shape[2] = {n, k};
    if (b->checkpoint != NULL) SY_TRY(require(b, name, 2, shape, &t));
    take_matrix(b, 1, n, k, t == NULL ? SY_BF16 : t->dtype, m);
    SY_TRY(fill_part(b, m, 0, name, t, 0, false));
done:
    return st;
}

/* Gate and up [n, k] each as the two parts of one matrix; m NULL only checks (an expert that
 * another rank holds). */
static sy_status bind_gate_up(binder *b,
                              const char *gate_name,
                              const char *up_name,
                              int64_t n,
                              int64_t k,
                              bool routed,
                              sy_matrix *m) {
    sy_status st = SY_OK;
    const sy_tensor_entry *gate = NULL, *up = NULL;
    int64_t shape[2] = {n, k};
    if (b->checkpoint != NULL) {
        SY_TRY(require(b, gate_name, 2, shape, &gate));
        SY_TRY(require(b, up_name, 2, shape, &up));
        if (gate->dtype != up->dtype)
            SY_FAIL(SY_ERR_UNSUPPORTED,
                    "%s/%s: tensor \"%s\": expected dtype %s, that of \"%s\", found %s",
                    b->checkpoint->directory, b->checkpoint->file_name[up->file], up_name,
                    sy_dtype_name(gate->dtype), gate_name, sy_dtype_name(up->dtype));
    }
    if (m == NULL) goto done;
    take_matrix(b, 2, n, k, gate == NULL ? SY_BF16 : gate->dtype, m);
    SY_TRY(fill_part(b, m, 0, gate_name, gate, 0, routed));
    SY_TRY(fill_part(b, m, 1, up_name, up, 0, routed));
done:
    return st;
}

static sy_status
bind_down(binder *b, const char *name, int64_t n, int64_t k, bool routed, sy_matrix *m) {
    sy_status st = SY_OK;
    const sy_tensor_entry *t = NULL;
    int64_t shape[2] = {n, k};
    if (b->checkpoint != NULL) SY_TRY(require(b, name, 2, shape, &t));
    if (m == NULL) goto done;
    take_matrix(b, 1, n, k, t == NULL ? SY_BF16 : t->dtype, m);
    SY_TRY(fill_part(b, m, 0, name, t, 0, routed));
done:
    return st;
}

static sy_status bind_attention(binder *b, sy_layer_weights *w) {
    sy_status st = SY_OK;
    const sy_attn_spec *a = &b->spec->layer[b->layer].attn;
    int64_t H = b->spec->hidden, q_n = (int64_t)a->heads * a->head_dim,
            kv_n = (int64_t)a->kv_heads * a->head_dim;
    char name[NAME_MAX_LENGTH];
    full_name(b, name, "input_layernorm.weight");
    SY_TRY(bind_vector(b, name, H, (float **)&w->attn_norm));
    full_name(b, name, "self_attn.q_proj.weight");
    SY_TRY(bind_matrix(b, name, q_n, H, &w->q));
    full_name(b, name, "self_attn.k_proj.weight");
    SY_TRY(bind_matrix(b, name, kv_n, H, &w->k));
    full_name(b, name, "self_attn.v_proj.weight");
    SY_TRY(bind_matrix(b, name, kv_n, H, &w->v));
    full_name(b, name, "self_attn.o_proj.weight");
    SY_TRY(bind_matrix(b, name, H, q_n, &w->o));
    if (a->qk_norm != SY_QK_NORM_NONE) {
        bool whole = a->qk_norm == SY_QK_NORM_WHOLE;
        full_name(b, name, "self_attn.q_norm.weight");
        SY_TRY(bind_vector(b, name, whole ? q_n : a->head_dim, (float **)&w->q_norm));
        full_name(b, name, "self_attn.k_norm.weight");
        SY_TRY(bind_vector(b, name, whole ? kv_n : a->head_dim, (float **)&w->k_norm));
    }
done:
    return st;
}

/* Dense FFN, or shared expert: gate, up and down under a prefix of names. */
static sy_status
bind_plain_ffn(binder *b, const char *prefix, int64_t inter, sy_layer_weights *w) {
    sy_status st = SY_OK;
    int64_t H = b->spec->hidden;
    char gate[NAME_MAX_LENGTH], up[NAME_MAX_LENGTH], down[NAME_MAX_LENGTH];
    full_name(b, gate, "%s.gate_proj.weight", prefix);
    full_name(b, up, "%s.up_proj.weight", prefix);
    full_name(b, down, "%s.down_proj.weight", prefix);
    SY_TRY(bind_gate_up(b, gate, up, inter, H, false, &w->ffn_gate_up));
    SY_TRY(bind_down(b, down, H, inter, false, &w->ffn_down));
done:
    return st;
}

/* The slot of this rank that holds an expert, or -1. */
static int slot_of(const sy_placement_layer *p, int expert, int rank) {
    for (int i = p->home_first[expert]; i < p->home_first[expert + 1]; i++)
        if (p->home[i].rank == rank) return p->home[i].slot;
    return -1;
}

static void expert_tensor_names(const binder *b,
                                const ffn_names *names,
                                int expert,
                                char gate[NAME_MAX_LENGTH],
                                char up[NAME_MAX_LENGTH],
                                char down[NAME_MAX_LENGTH]) {
    full_name(b, gate, "%s.experts.%d.%s.weight", names->module, expert, names->gate);
    full_name(b, up, "%s.experts.%d.%s.weight", names->module, expert, names->up);
    full_name(b, down, "%s.experts.%d.%s.weight", names->module, expert, names->down);
}

/* Experts as one tensor each. */
static sy_status bind_single_experts(binder *b,
                                     const ffn_names *names,
                                     const sy_placement_layer *p,
                                     int rank,
                                     sy_layer_weights *w) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    int64_t H = b->spec->hidden;
    char gate[NAME_MAX_LENGTH], up[NAME_MAX_LENGTH], down[NAME_MAX_LENGTH];
    /* Slot order is memory order, so that a step walks memory forwards; first check the rest. */
    for (int e = 0; e < f->experts && b->checkpoint != NULL; e++) {
        if (slot_of(p, e, rank) >= 0) continue;
        expert_tensor_names(b, names, e, gate, up, down);
        SY_TRY(bind_gate_up(b, gate, up, f->inter, H, true, NULL));
        SY_TRY(bind_down(b, down, H, f->inter, true, NULL));
    }
    const int32_t *mine = p->slot_expert + p->slot_first[rank];
    for (int s = 0; s < w->n_slots; s++) {
        expert_tensor_names(b, names, mine[s], gate, up, down);
        SY_TRY(bind_gate_up(b, gate, up, f->inter, H, true, &w->gate_up[s]));
        SY_TRY(bind_down(b, down, H, f->inter, true, &w->down[s]));
    }
done:
    return st;
}

/* Experts stacked in two tensors: [E, 2F, H] (gate rows, then up rows) and [E, H, F]. */
static sy_status
bind_fused_experts(binder *b, const sy_placement_layer *p, int rank, sy_layer_weights *w) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    int64_t H = b->spec->hidden, F = f->inter;
    const sy_tensor_entry *gate_up, *down;
    char name[NAME_MAX_LENGTH], down_name[NAME_MAX_LENGTH];
    full_name(b, name, "mlp.experts.gate_up_proj");
    full_name(b, down_name, "mlp.experts.down_proj");
    SY_TRY(require(b, name, 3, (int64_t[]){f->experts, 2 * F, H}, &gate_up));
    SY_TRY(require(b, down_name, 3, (int64_t[]){f->experts, H, F}, &down));
    /* The shapes have been checked against the tensors' sizes: no product overflows. */
    uint64_t part_bytes = (uint64_t)(F * H) * (uint64_t)sy_dtype_bits(gate_up->dtype) / 8;
    uint64_t down_bytes = (uint64_t)(F * H) * (uint64_t)sy_dtype_bits(down->dtype) / 8;
    const int32_t *mine = p->slot_expert + p->slot_first[rank];
    for (int s = 0; s < w->n_slots; s++) {
        uint64_t e = (uint64_t)mine[s];
        take_matrix(b, 2, F, H, gate_up->dtype, &w->gate_up[s]);
        take_matrix(b, 1, H, F, down->dtype, &w->down[s]);
        SY_TRY(fill_part(b, &w->gate_up[s], 0, name, gate_up, 2 * e * part_bytes, true));
        SY_TRY(fill_part(b, &w->gate_up[s], 1, name, gate_up, (2 * e + 1) * part_bytes, true));
        SY_TRY(fill_part(b, &w->down[s], 0, down_name, down, e * down_bytes, true));
    }
done:
    return st;
}

static sy_status
bind_moe(binder *b, const sy_placement_layer *p, int rank, sy_layer_weights *w) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    char name[NAME_MAX_LENGTH];
    int style = 0;
    bool fused = false;
    if (b->checkpoint != NULL) {
        full_name(b, name, "mlp.experts.gate_up_proj");
        fused = sy_checkpoint_find(b->checkpoint, name) != NULL;
        for (style = 0; style < N_EXPERT_NAMES; style++) {
            full_name(b, name, "%s.gate.weight", expert_names[style].module);
            if (sy_checkpoint_find(b->checkpoint, name) != NULL) break;
        }
        if (style == N_EXPERT_NAMES)
            SY_FAIL(SY_ERR_FORMAT,
                    "%s: layer %d has no router: neither \"%s.gate.weight\" nor "
                    "\"%s.gate.weight\"",
                    b->checkpoint->directory, b->layer, expert_names[0].module,
                    expert_names[1].module);
    }
    full_name(b, name, "%s.gate.weight", expert_names[style].module);
    SY_TRY(bind_matrix(b, name, f->experts, b->spec->hidden, &w->router));
    if (fused)
        SY_TRY(bind_fused_experts(b, p, rank, w));
    else
        SY_TRY(bind_single_experts(b, &expert_names[style], p, rank, w));
    if (f->shared_inter > 0)
        SY_TRY(bind_plain_ffn(b, "mlp.shared_experts", f->shared_inter, w));
done:
    return st;
}

static bool has_suffix(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* Every tensor must have been asked for, or be one that is known to be of no use. */
static sy_status check_leftovers(const binder *b) {
    int n_left = 0, first = -1;
    for (int i = 0; i < b->checkpoint->n_tensors; i++) {
        const char *name = b->checkpoint->tensor[i].name;
        bool ignored = b->spec->tied && strcmp(name, "lm_head.weight") == 0;
        for (size_t s = 0; s < sizeof ignored_suffix / sizeof ignored_suffix[0]; s++)
            ignored = ignored || has_suffix(name, ignored_suffix[s]);
        if (b->used[i] || ignored) continue;
        if (n_left++ == 0) first = i;
    }
    if (n_left == 0) return SY_OK;
    const sy_tensor_entry *t = &b->checkpoint->tensor[first];
    return sy_fail(SY_ERR_UNSUPPORTED,
                   "%s/%s: tensor \"%s\" is not part of a %s model as this config describes it "
                   "(%d such tensor%s)",
                   b->checkpoint->directory, b->checkpoint->file_name[t->file], t->name,
                   b->spec->family, n_left, n_left == 1 ? "" : "s");
}

static sy_status bind_layer(binder *b,
                            const sy_placement_layer *p,
                            int rank,
                            sy_layer_weights *w,
                            sy_matrix **expert) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    char name[NAME_MAX_LENGTH];
    SY_TRY(b->be->ops->check(b->be, &b->spec->layer[b->layer]));
    SY_TRY(bind_attention(b, w));
    full_name(b, name, "post_attention_layernorm.weight");
    SY_TRY(bind_vector(b, name, b->spec->hidden, (float **)&w->ffn_norm));
    if (f->kind == SY_FFN_DENSE) {
        SY_TRY(bind_plain_ffn(b, "mlp", f->inter, w));
    } else {
        w->n_slots = sy_placement_slots(p, rank);
        w->gate_up = *expert;
        w->down = *expert + w->n_slots;
        *expert += 2 * w->n_slots;
        SY_TRY(bind_moe(b, p, rank, w));
    }
done:
    return st;
}

sy_status sy_bind(sy_backend *be,
                  const sy_model_spec *spec,
                  const sy_placement *placement,
                  int rank,
                  const sy_checkpoint *checkpoint,
                  sy_arena *arena,
                  sy_weights *weights,
                  sy_bind_list *list) {
    sy_status st = SY_OK;
    binder b = {.be = be,
                .spec = spec,
                .checkpoint = checkpoint,
                .arena = arena,
                .list = list,
                .layer = -1};
    sy_matrix *expert = weights->expert;
    if (checkpoint != NULL) {
        b.used = calloc((size_t)checkpoint->n_tensors + 1, sizeof *b.used);
        if (b.used == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the list of tensors");
    }
    SY_TRY(bind_matrix(&b, "model.embed_tokens.weight", spec->vocab, spec->hidden,
                       &weights->embed));
    SY_TRY(bind_vector(&b, "model.norm.weight", spec->hidden, &weights->final_norm));
    if (spec->tied)
        weights->lm_head = weights->embed;
    else
        SY_TRY(bind_matrix(&b, "lm_head.weight", spec->vocab, spec->hidden, &weights->lm_head));
    for (b.layer = 0; b.layer < spec->n_layers; b.layer++)
        SY_TRY(bind_layer(&b, &placement->layer[b.layer], rank, &weights->layer[b.layer],
                          &expert));
    if (checkpoint != NULL) SY_TRY(check_leftovers(&b));
done:
    free(b.used);
    return st;
}

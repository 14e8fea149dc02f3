/* The weights of feed-forward parts: dense, router, shared expert, and routed experts one by one
 * or stacked. Of the routed experts those that this rank holds are entered; the others' tensors
 * are looked at only. */
#include <stdio.h>

#include "base/checked.h"
#include "runtime/binder.h"

static sy_weight_kind kind_of(sy_part part) {
    return (sy_weight_kind){part, SY_ROLE_PROJECTION};
}

/* Parts of one matrix have to be in one format. */
static sy_status
check_same_format(const sy_binder *b, const sy_piece *gate, const sy_piece *up) {
    const sy_quant *p = &gate->quant, *q = &up->quant;
    if (gate->dtype == up->dtype && p->scale == q->scale && p->group == q->group &&
        p->outputs == q->outputs && p->zeros == q->zeros && p->use_factor == q->use_factor)
        return SY_OK;
    return sy_binder_fail(b, up->codes, SY_ERR_UNSUPPORTED,
                          "expected the format of \"%s\" (%s), found %s, or other scales",
                          gate->codes->name, sy_dtype_name(gate->dtype),
                          sy_dtype_name(up->dtype));
}

/* Gate and up [n, k] each as the two parts of one matrix; m NULL only checks. */
static sy_status bind_gate_up(sy_binder *b,
                              const char *gate_module,
                              const char *up_module,
                              int64_t n,
                              sy_part part,
                              sy_matrix *m) {
    sy_status st = SY_OK;
    int64_t k = b->spec->hidden;
    sy_piece gate, up;
    SY_TRY(sy_binder_weight(b, kind_of(part), gate_module, n, k, &gate));
    SY_TRY(sy_binder_weight(b, kind_of(part), up_module, n, k, &up));
    SY_TRY(check_same_format(b, &gate, &up));
    if (m == NULL) goto done;
    SY_TRY(sy_binder_take(b, 2, n, k, &gate, false, m));
    SY_TRY(sy_binder_fill(b, m, 0, &gate, part == SY_PART_ROUTED));
    SY_TRY(sy_binder_fill(b, m, 1, &up, part == SY_PART_ROUTED));
done:
    return st;
}

static sy_status
bind_down(sy_binder *b, const char *module, int64_t k, sy_part part, sy_matrix *m) {
    sy_status st = SY_OK;
    int64_t n = b->spec->hidden;
    sy_piece down;
    SY_TRY(sy_binder_weight(b, kind_of(part), module, n, k, &down));
    if (m == NULL) goto done;
    SY_TRY(sy_binder_take(b, 1, n, k, &down, false, m));
    SY_TRY(sy_binder_fill(b, m, 0, &down, part == SY_PART_ROUTED));
done:
    return st;
}

/* One FFN whose module has three matrices. */
static sy_status bind_one(sy_binder *b,
                          const char *module,
                          const sy_ffn_names *names,
                          int64_t inter,
                          sy_part part,
                          sy_matrix *gate_up,
                          sy_matrix *down) {
    sy_status st = SY_OK;
    char gate[SY_NAME_CHARS], name[SY_NAME_CHARS];
    sy_binder_name(b, gate, "%s.%s", module, names->gate);
    sy_binder_name(b, name, "%s.%s", module, names->up);
    SY_TRY(bind_gate_up(b, gate, name, inter, part, gate_up));
    sy_binder_name(b, name, "%s.%s", module, names->down);
    SY_TRY(bind_down(b, name, inter, part, down));
done:
    return st;
}

static sy_status
bind_plain(sy_binder *b, const char *module, int64_t inter, sy_part part, sy_layer_weights *w) {
    return bind_one(b, module, &b->names->plain, inter, part, &w->ffn_gate_up, &w->ffn_down);
}

/* The slot of this rank that holds an expert, or -1. */
static int slot_of(const sy_placement_layer *p, int expert, int rank) {
    for (int i = p->home_first[expert]; i < p->home_first[expert + 1]; i++)
        if (p->home[i].rank == rank) return p->home[i].slot;
    return -1;
}

static sy_status
bind_expert(sy_binder *b, int expert, int64_t inter, sy_matrix *gate_up, sy_matrix *down) {
    char module[SY_NAME_CHARS];
    snprintf(module, sizeof module, "%s.%d", b->names->experts, expert);
    return bind_one(b, module, &b->names->expert, inter, SY_PART_ROUTED, gate_up, down);
}

/* Slot order is memory order, so that a step walks memory forwards; first check the rest. */
static sy_status
bind_single_experts(sy_binder *b, const sy_placement_layer *p, int rank, sy_layer_weights *w) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    const int32_t *mine = p->slot_expert + p->slot_first[rank];
    sy_bind_list *list = b->list;
    b->list = NULL; /* looked at, and no byte read */
    for (int e = 0; e < f->experts && b->checkpoint != NULL && st == SY_OK; e++)
        if (slot_of(p, e, rank) < 0) st = bind_expert(b, e, f->inter, NULL, NULL);
    b->list = list;
    SY_TRY(st);
    for (int s = 0; s < w->n_slots; s++)
        SY_TRY(bind_expert(b, mine[s], f->inter, &w->gate_up[s], &w->down[s]));
done:
    return st;
}

static bool has_stack(const sy_binder *b, const char *suffix) {
    char name[SY_NAME_CHARS];
    if (b->names->fused_gate_up == NULL || b->checkpoint == NULL) return false;
    sy_binder_name(b, name, "%s%s", b->names->fused_gate_up, suffix);
    return sy_checkpoint_find(b->checkpoint, name) != NULL;
}

/* Where the experts' weights are within two stacks, of expert 0. Where gate and up lie by turns,
 * gate_up[0] has every other row and tells of both. */
typedef struct stack {
    sy_piece gate_up[2], down;
    sy_stack_rows gate_up_rows, down_rows;
} stack;

/* In blocks of FP4: [E, 2F, H], gate and up rows by turns, and [E, H, F]. */
static sy_status find_block_stack(sy_binder *b, stack *out) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    int64_t H = b->spec->hidden, F = f->inter;
    char name[SY_NAME_CHARS];
    sy_binder_name(b, name, "%s", b->names->fused_gate_up);
    SY_TRY(sy_binder_blocks(b, name, f->experts, 2 * F, H, &out->gate_up[0]));
    sy_binder_name(b, name, "%s", b->names->fused_down);
    SY_TRY(sy_binder_blocks(b, name, f->experts, H, F, &out->down));
    out->gate_up[0].row_step = 2;
    out->gate_up_rows = (sy_stack_rows){2 * F, 2 * F};
    out->down_rows = (sy_stack_rows){H, H};
done:
    return st;
}

/* [E, 2F, H], gate rows then up rows, and [E, H, F]. */
static sy_status find_stack(sy_binder *b, stack *out) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    int64_t H = b->spec->hidden, F = f->inter, E = f->experts;
    char name[SY_NAME_CHARS];
    sy_binder_name(b, name, "%s", b->names->fused_gate_up);
    SY_TRY(sy_binder_stack(b, name, E, 2, F, H, out->gate_up, &out->gate_up_rows));
    sy_binder_name(b, name, "%s", b->names->fused_down);
    SY_TRY(sy_binder_stack(b, name, E, 1, H, F, &out->down, &out->down_rows));
done:
    return st;
}

/* [E, H, 2F], gate and up columns by turns, and [E, F, H]. */
static sy_status find_transposed_stack(sy_binder *b, stack *out) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    int64_t H = b->spec->hidden, F = f->inter, E = f->experts;
    sy_piece *gate = &out->gate_up[0];
    char name[SY_NAME_CHARS];
    *out = (stack){.gate_up_rows.codes = H, .down_rows.codes = F};
    *gate = (sy_piece){.width = 2 * F, .row_step = 2, .across = true};
    out->down = (sy_piece){.width = H, .row_step = 1, .across = true};
    sy_binder_name(b, name, "%s", b->names->fused_gate_up);
    SY_TRY(sy_binder_require(b, name, 3, (int64_t[]){E, H, 2 * F}, &gate->codes));
    sy_binder_name(b, name, "%s", b->names->fused_down);
    SY_TRY(sy_binder_require(b, name, 3, (int64_t[]){E, F, H}, &out->down.codes));
    gate->dtype = gate->codes->dtype;
    out->down.dtype = out->down.codes->dtype;
done:
    return st;
}

static sy_status
bind_stacked_experts(sy_binder *b, const sy_placement_layer *p, int rank, sy_layer_weights *w) {
    sy_status st = SY_OK;
    int64_t H = b->spec->hidden, F = b->spec->layer[b->layer].ffn.inter;
    const int32_t *mine = p->slot_expert + p->slot_first[rank];
    stack all;
    SY_TRY(has_stack(b, "_blocks") ? find_block_stack(b, &all)
           : b->names->transposed  ? find_transposed_stack(b, &all)
                                   : find_stack(b, &all));
    bool pair = all.gate_up[0].row_step == 2;
    for (int s = 0; s < w->n_slots; s++) {
        sy_piece gate = sy_piece_of_expert(&all.gate_up[0], mine[s], &all.gate_up_rows);
        sy_piece down = sy_piece_of_expert(&all.down, mine[s], &all.down_rows);
        SY_TRY(sy_binder_take(b, 2, F, H, &gate, false, &w->gate_up[s]));
        SY_TRY(sy_binder_take(b, 1, H, F, &down, false, &w->down[s]));
        SY_TRY(sy_binder_fill(b, &w->down[s], 0, &down, true));
        if (pair) {
            SY_TRY(sy_binder_fill_pair(b, &w->gate_up[s], &gate));
            continue;
        }
        sy_piece up = sy_piece_of_expert(&all.gate_up[1], mine[s], &all.gate_up_rows);
        SY_TRY(sy_binder_fill(b, &w->gate_up[s], 0, &gate, true));
        SY_TRY(sy_binder_fill(b, &w->gate_up[s], 1, &up, true));
    }
done:
    return st;
}

/* A bias tensor stacked over the experts, as single values. */
static sy_status find_bias(sy_binder *b, const char *weights, int64_t width, sy_piece *out) {
    sy_status st = SY_OK;
    int64_t E = b->spec->layer[b->layer].ffn.experts;
    char name[SY_NAME_CHARS];
    sy_binder_name(b, name, "%s_bias", weights);
    *out =
        (sy_piece){.seed = sy_binder_seed(name), .width = 1, .row_step = 1, .dtype = SY_BF16};
    SY_TRY(sy_binder_require(b, name, 2, (int64_t[]){E, width}, &out->codes));
    if (out->codes != NULL) out->dtype = out->codes->dtype;
done:
    return st;
}

/* [E, 2F], gate and up by turns, and [E, H]. */
static sy_status
bind_expert_biases(sy_binder *b, const sy_placement_layer *p, int rank, sy_layer_weights *w) {
    sy_status st = SY_OK;
    int64_t H = b->spec->hidden, F = b->spec->layer[b->layer].ffn.inter, n = w->n_slots;
    const int32_t *mine = p->slot_expert + p->slot_first[rank];
    sy_piece gate_up, down;
    if (b->checkpoint != NULL && !b->names->transposed)
        SY_FAIL(
            SY_ERR_UNSUPPORTED,
            "%s: its layout of tensors is not one in which experts with biases are published",
            b->checkpoint->directory);
    SY_TRY(find_bias(b, b->names->fused_gate_up, 2 * F, &gate_up));
    SY_TRY(find_bias(b, b->names->fused_down, H, &down));
    gate_up.row_step = 2;
    float *of_gate_up = sy_binder_take_vector(b, n * 2 * F);
    float *of_down = sy_binder_take_vector(b, n * H);
    w->gate_up_bias = of_gate_up;
    w->down_bias = of_down;
    for (int64_t s = 0; s < n && b->list != NULL; s++) {
        for (int part = 0; part < 2; part++) {
            gate_up.row0 = mine[s] * 2 * F + part;
            SY_TRY(sy_binder_fill_vector(b, of_gate_up + (2 * s + part) * F, F, &gate_up, 0));
        }
        down.row0 = mine[s] * H;
        SY_TRY(sy_binder_fill_vector(b, of_down + s * H, H, &down, 0));
    }
done:
    return st;
}

static sy_status bind_router(sy_binder *b, sy_layer_weights *w) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    char name[SY_NAME_CHARS];
    sy_binder_name(b, name, "%s", b->names->router);
    SY_TRY(sy_binder_matrix(b, (sy_weight_kind){SY_PART_ROUTER, SY_ROLE_KEPT}, name, f->experts,
                            b->spec->hidden, &w->router));
    if (f->router_bias) {
        sy_binder_name(b, name, "%s.bias", b->names->router);
        SY_TRY(sy_binder_vector(b, name, f->experts, 0, &w->router_bias));
    }
    if (f->choice_bias) {
        if (b->names->choice_bias == NULL)
            SY_FAIL(SY_ERR_UNSUPPORTED,
                    "%s: its layout of tensors has no name for a bias of the router's choice",
                    b->checkpoint->directory);
        sy_binder_name(b, name, "%s", b->names->choice_bias);
        SY_TRY(sy_binder_vector(b, name, f->experts, 0, &w->choice_bias));
    }
done:
    return st;
}

static sy_status
bind_moe(sy_binder *b, const sy_placement_layer *p, int rank, sy_layer_weights *w) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    SY_TRY(bind_router(b, w));
    bool stacked = b->names->experts == NULL || has_stack(b, "") || has_stack(b, "_blocks");
    SY_TRY(stacked ? bind_stacked_experts(b, p, rank, w) : bind_single_experts(b, p, rank, w));
    if (f->expert_bias) SY_TRY(bind_expert_biases(b, p, rank, w));
    if (f->shared_inter > 0)
        SY_TRY(bind_plain(b, b->names->shared, f->shared_inter, SY_PART_SHARED, w));
done:
    return st;
}

sy_status sy_bind_ffn(sy_binder *b,
                      const sy_placement_layer *p,
                      int rank,
                      sy_layer_weights *w,
                      sy_matrix **expert) {
    sy_status st = SY_OK;
    const sy_ffn_spec *f = &b->spec->layer[b->layer].ffn;
    char name[SY_NAME_CHARS];
    sy_binder_name(b, name, "%s.weight", b->names->ffn_norm);
    SY_TRY(sy_binder_vector(b, name, b->spec->hidden, 1, &w->ffn_norm));
    if (f->kind == SY_FFN_DENSE) {
        SY_TRY(bind_plain(b, b->names->dense, f->inter, SY_PART_DENSE_FFN, w));
        goto done;
    }
    w->n_slots = sy_placement_slots(p, rank);
    w->gate_up = *expert;
    w->down = *expert + w->n_slots;
    *expert += 2 * w->n_slots;
    SY_TRY(bind_moe(b, p, rank, w));
done:
    return st;
}

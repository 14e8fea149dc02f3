/* The weights of attention: grouped queries with projections one by one or in one tensor, and
 * multi-head latent attention, whose kv_b is cut into two matrices a head. */
#include "base/hash.h"
#include "runtime/binder.h"

static const sy_weight_kind projection = {SY_PART_ATTENTION, SY_ROLE_PROJECTION},
                            compressor = {SY_PART_ATTENTION, SY_ROLE_COMPRESSOR};

static sy_status bind_bias(sy_binder *b, const char *module, int64_t n, const float **out) {
    char name[SY_NAME_CHARS];
    sy_binder_name(b, name, "%s.bias", module);
    return sy_binder_vector(b, name, n, 0, out);
}

/* The biases of q, k and v, rows[3] each, in one tensor. */
static sy_status bind_joined_bias(sy_binder *b, const int64_t rows[3], sy_layer_weights *w) {
    sy_status st = SY_OK;
    const float **bias[3] = {&w->q_bias, &w->k_bias, &w->v_bias};
    char name[SY_NAME_CHARS];
    int64_t all = rows[0] + rows[1] + rows[2];
    sy_binder_name(b, name, "%s.bias", b->names->qkv);
    sy_piece piece = {
        .seed = sy_binder_seed(name), .width = 1, .row_step = 1, .dtype = SY_BF16};
    SY_TRY(sy_binder_require(b, name, 1, &all, &piece.codes));
    if (piece.codes != NULL) piece.dtype = piece.codes->dtype;
    for (int i = 0; i < 3; i++) {
        float *v = sy_binder_take_vector(b, rows[i]);
        *bias[i] = v;
        SY_TRY(sy_binder_fill_vector(b, v, rows[i], &piece, 0));
        piece.row0 += rows[i];
    }
done:
    return st;
}

/* q, k and v as rows of one tensor, one after the other. */
static sy_status bind_joined(sy_binder *b, int64_t q_n, int64_t kv_n, sy_layer_weights *w) {
    sy_status st = SY_OK;
    int64_t H = b->spec->hidden;
    sy_matrix *matrix[3] = {&w->q, &w->k, &w->v};
    int64_t rows[3] = {q_n, kv_n, kv_n};
    char name[SY_NAME_CHARS];
    sy_piece whole;
    sy_binder_name(b, name, "%s", b->names->qkv);
    SY_TRY(sy_binder_weight(b, projection, name, q_n + 2 * kv_n, H, &whole));
    SY_TRY(sy_binder_check_cut(b, &whole));
    for (int i = 0; i < 3; i++) {
        sy_piece piece = sy_piece_from(&whole, i == 0 ? 0 : i == 1 ? q_n : q_n + kv_n);
        SY_TRY(sy_binder_take(b, 1, rows[i], H, &piece, false, matrix[i]));
        SY_TRY(sy_binder_fill(b, matrix[i], 0, &piece, false));
    }
    if (b->spec->layer[b->layer].attn.qkv_bias) SY_TRY(bind_joined_bias(b, rows, w));
done:
    return st;
}

static sy_status bind_separate(sy_binder *b, int64_t q_n, int64_t kv_n, sy_layer_weights *w) {
    sy_status st = SY_OK;
    const sy_tensor_names *names = b->names;
    int64_t H = b->spec->hidden;
    char name[SY_NAME_CHARS];
    sy_binder_name(b, name, "%s", names->q);
    SY_TRY(sy_binder_matrix(b, projection, name, q_n, H, &w->q));
    sy_binder_name(b, name, "%s", names->k);
    SY_TRY(sy_binder_matrix(b, projection, name, kv_n, H, &w->k));
    sy_binder_name(b, name, "%s", names->v);
    SY_TRY(sy_binder_matrix(b, projection, name, kv_n, H, &w->v));
    if (b->spec->layer[b->layer].attn.qkv_bias) {
        SY_TRY(bind_bias(b, names->q, q_n, &w->q_bias));
        SY_TRY(bind_bias(b, names->k, kv_n, &w->k_bias));
        SY_TRY(bind_bias(b, names->v, kv_n, &w->v_bias));
    }
done:
    return st;
}

static sy_status bind_gqa(sy_binder *b, sy_layer_weights *w) {
    sy_status st = SY_OK;
    const sy_attn_spec *a = &b->spec->layer[b->layer].attn;
    int64_t q_n = (int64_t)a->heads * a->head_dim, kv_n = (int64_t)a->kv_heads * a->head_dim;
    char name[SY_NAME_CHARS];
    SY_TRY(b->names->qkv != NULL ? bind_joined(b, q_n, kv_n, w)
                                 : bind_separate(b, q_n, kv_n, w));
    sy_binder_name(b, name, "%s", b->names->o);
    SY_TRY(sy_binder_matrix(b, projection, name, b->spec->hidden, q_n, &w->o));
    if (a->qk_norm != SY_QK_NORM_NONE) {
        bool whole = a->qk_norm == SY_QK_NORM_WHOLE;
        sy_binder_name(b, name, "%s.weight", b->names->q_norm);
        SY_TRY(sy_binder_vector(b, name, whole ? q_n : a->head_dim, 1, &w->q_norm));
        sy_binder_name(b, name, "%s.weight", b->names->k_norm);
        SY_TRY(sy_binder_vector(b, name, whole ? kv_n : a->head_dim, 1, &w->k_norm));
    }
    if (a->sinks) {
        sy_binder_name(b, name, "%s", b->names->sinks);
        SY_TRY(sy_binder_vector(b, name, a->heads, 0, &w->sinks));
    }
done:
    return st;
}

/* kv_b [A * (nope + value), c]: of each head, nope rows that bring the latent to keys, which are
 * wanted the other way round, then `value` rows that bring it to values. Where it is quantised it
 * is not kept so: its blocks would be cut. Made-up ones are made as they are kept. */
static sy_status bind_heads(sy_binder *b, sy_layer_weights *w, sy_matrix **head) {
    sy_status st = SY_OK;
    const sy_attn_spec *a = &b->spec->layer[b->layer].attn;
    const sy_mla_spec *m = &a->mla;
    int64_t c = m->kv_rank, rows = (int64_t)m->nope + m->value;
    char name[SY_NAME_CHARS];
    sy_piece whole;
    sy_binder_name(b, name, "%s", b->names->kv_b);
    SY_TRY(sy_binder_weight(b, projection, name, a->heads * rows, c, &whole));
    if (b->checkpoint == NULL) {
        whole.dtype = SY_BF16;
        whole.quant = (sy_quant){0};
    }
    SY_TRY(sy_binder_check_cut(b, &whole));
    w->k_up = *head;
    w->v_up = *head + a->heads;
    *head += 2 * a->heads;
    for (int h = 0; h < a->heads; h++)
        SY_TRY(sy_binder_take(b, 1, c, m->nope, &whole, true, &w->k_up[h]));
    for (int h = 0; h < a->heads; h++)
        SY_TRY(sy_binder_take(b, 1, m->value, c, &whole, true, &w->v_up[h]));
    for (int h = 0; h < a->heads; h++) {
        sy_piece up = whole;
        up.seed = sy_hash_add(whole.seed, (uint64_t)h);
        up.row0 = h * rows + m->nope;
        SY_TRY(sy_binder_fill(b, &w->v_up[h], 0, &up, false));
        up.seed = sy_hash_add(up.seed, 1);
        up.across = true;
        up.row0 = 0;
        up.column0 = h * rows;
        SY_TRY(sy_binder_fill(b, &w->k_up[h], 0, &up, false));
    }
done:
    return st;
}

static sy_status bind_mla(sy_binder *b, sy_layer_weights *w, sy_matrix **head) {
    sy_status st = SY_OK;
    const sy_tensor_names *names = b->names;
    const sy_attn_spec *a = &b->spec->layer[b->layer].attn;
    const sy_mla_spec *m = &a->mla;
    int64_t H = b->spec->hidden, q_n = (int64_t)a->heads * a->head_dim;
    char name[SY_NAME_CHARS];
    if (m->q_rank > 0) {
        sy_binder_name(b, name, "%s", names->q_a);
        SY_TRY(sy_binder_matrix(b, compressor, name, m->q_rank, H, &w->q_a));
        sy_binder_name(b, name, "%s.weight", names->q_a_norm);
        SY_TRY(sy_binder_vector(b, name, m->q_rank, 1, &w->q_a_norm));
    }
    sy_binder_name(b, name, "%s", m->q_rank > 0 ? names->q_b : names->q);
    SY_TRY(sy_binder_matrix(b, projection, name, q_n, m->q_rank > 0 ? m->q_rank : H, &w->q));
    sy_binder_name(b, name, "%s", names->kv_a);
    SY_TRY(sy_binder_matrix(b, compressor, name, (int64_t)m->kv_rank + m->rope, H, &w->kv_a));
    sy_binder_name(b, name, "%s.weight", names->kv_a_norm);
    SY_TRY(sy_binder_vector(b, name, m->kv_rank, 1, &w->kv_a_norm));
    SY_TRY(bind_heads(b, w, head));
    sy_binder_name(b, name, "%s", names->o);
    SY_TRY(sy_binder_matrix(b, projection, name, H, (int64_t)a->heads * m->value, &w->o));
done:
    return st;
}

/* Whether a layout has all that the attention needs. */
static bool has_names(const sy_tensor_names *names, const sy_attn_spec *a) {
    if (a->kind == SY_ATTN_MLA) return names->kv_b != NULL;
    return (names->qkv != NULL || names->k != NULL) &&
           (a->qk_norm == SY_QK_NORM_NONE || names->q_norm != NULL) &&
           (!a->sinks || names->sinks != NULL);
}

sy_status sy_bind_attention(sy_binder *b, sy_layer_weights *w, sy_matrix **head) {
    sy_status st = SY_OK;
    const sy_attn_spec *a = &b->spec->layer[b->layer].attn;
    const sy_tensor_names *names = b->names;
    bool mla = a->kind == SY_ATTN_MLA;
    char name[SY_NAME_CHARS];
    if (!has_names(names, a))
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: its layout of tensors is not one in which models with such attention are "
                "published",
                b->checkpoint->directory);
    sy_binder_name(b, name, "%s.weight", names->attn_norm);
    SY_TRY(sy_binder_vector(b, name, b->spec->hidden, 1, &w->attn_norm));
    SY_TRY(mla ? bind_mla(b, w, head) : bind_gqa(b, w));
    if (a->o_bias) SY_TRY(bind_bias(b, names->o, b->spec->hidden, &w->o_bias));
done:
    return st;
}

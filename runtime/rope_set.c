#include "runtime/rope_set.h"

#include <stdlib.h>

static bool same_rope(const sy_attn_spec *a, const sy_attn_spec *b) {
    const sy_rope_spec *x = &a->rope, *y = &b->rope;
    return x->dim == y->dim && x->theta == y->theta && x->factor == y->factor &&
           x->original_positions == y->original_positions && x->beta_fast == y->beta_fast &&
           x->beta_slow == y->beta_slow && x->truncate == y->truncate &&
           x->attention_factor == y->attention_factor;
}

static uint64_t table_bytes(const sy_rope_table *t) {
    return (uint64_t)t->n_positions * (uint64_t)t->half * sizeof(float);
}

/* Moves table i to the device: cosines, then sines. */
static sy_status upload(sy_rope_set *set, int i) {
    sy_status st = SY_OK;
    sy_backend *be = set->backend;
    sy_rope_table *t = &set->table[i];
    uint64_t bytes = table_bytes(t);
    if (bytes == 0) return SY_OK;
    SY_TRY(be->ops->alloc(be, &set->block[i], 2 * bytes, "rotary tables"));
    float *cos = set->block[i], *sin = (float *)(void *)((char *)set->block[i] + bytes);
    SY_TRY(be->ops->write(be, cos, t->cos, bytes, NULL));
    SY_TRY(be->ops->write(be, sin, t->sin, bytes, NULL));
    t->cos = cos;
    t->sin = sin;
    sy_rope_table_destroy(set->host[i]);
    set->host[i] = NULL;
done:
    return st;
}

static sy_status add_table(sy_rope_set *set, const sy_attn_spec *attn, int64_t n_positions) {
    sy_status st = SY_OK;
    int i = set->n_tables;
    SY_TRY(sy_rope_table_create(n_positions, &attn->rope, &set->host[i]));
    set->table[i] = *set->host[i];
    set->n_tables++;
    if (set->backend->ops->device != NULL) SY_TRY(upload(set, i));
done:
    return st;
}

sy_status sy_rope_set_create(sy_backend *be,
                             const sy_model_spec *spec,
                             int64_t n_positions,
                             sy_rope_set **out) {
    sy_status st = SY_OK;
    size_t n = (size_t)spec->n_layers;
    sy_rope_set *set = calloc(1, sizeof *set);
    *out = NULL;
    if (set == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for rotary tables");
    set->backend = be;
    set->table = calloc(n, sizeof *set->table);
    set->block = calloc(n, sizeof *set->block);
    set->host = calloc(n, sizeof *set->host);
    set->layer = calloc(n, sizeof *set->layer);
    if (set->table == NULL || set->block == NULL || set->host == NULL || set->layer == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for rotary tables");
    for (int l = 0; l < spec->n_layers; l++) {
        const sy_attn_spec *attn = &spec->layer[l].attn;
        for (int m = 0; m < l && set->layer[l] == NULL; m++)
            if (same_rope(attn, &spec->layer[m].attn)) set->layer[l] = set->layer[m];
        if (set->layer[l] != NULL) continue;
        SY_TRY(add_table(set, attn, n_positions));
        set->layer[l] = &set->table[set->n_tables - 1];
    }
    *out = set;
    set = NULL;
done:
    sy_rope_set_destroy(set);
    return st;
}

void sy_rope_set_destroy(sy_rope_set *set) {
    if (set == NULL) return;
    for (int i = 0; set->host != NULL && set->block != NULL && i < set->n_tables; i++) {
        if (set->block[i] != NULL)
            set->backend->ops->free(set->backend, set->block[i],
                                    2 * table_bytes(&set->table[i]));
        sy_rope_table_destroy(set->host[i]);
    }
    free(set->table);
    free(set->block);
    free(set->host);
    free(set->layer);
    free(set);
}

/* An edited checkpoint (checkpoint_fixture.h) loaded on the CPU by one rank. */
#ifndef SY_TESTS_WEIGHT_FIXTURE_H
#define SY_TESTS_WEIGHT_FIXTURE_H

#include "base/hash.h"
#include "tests/checkpoint_fixture.h"

/* Numbers that every dtype can have: codes of any value, scales near 1. */
static inline void fill_tensor(edited_tensor *t, bool codes) {
    uint64_t key = sy_hash_bytes(0, t->name, strlen(t->name));
    for (uint64_t i = 0; i < t->bytes; i++) {
        uint8_t byte = (uint8_t)(sy_hash_add(key, i) >> 8);
        t->data[i] = (char)((byte & 0x7f) == 0x7f ? byte ^ 1 : byte);
    }
    for (uint64_t i = 0; !codes && i < t->bytes; i++) {
        uint8_t low = (uint8_t)t->data[i] & 7;
        if (t->dtype == SY_F32 && i % 4 >= 2) t->data[i] = (char)(i % 4 == 3 ? 0x3f : low << 3);
        if (t->dtype == SY_BF16) t->data[i] = (char)(i % 2 == 1 ? 0x3f : low << 3);
        if (t->dtype == SY_F16 && i % 2 == 1) t->data[i] = (char)(0x38 + low % 4);
        if (t->dtype == SY_U8) t->data[i] = (char)(124 + low);
        if (t->dtype == SY_F8_E4M3) t->data[i] = (char)(0x30 + low);
    }
}

typedef struct loaded {
    sy_pool *pool;
    sy_backend *be;
    sy_model_spec *spec;
    sy_checkpoint *checkpoint;
    sy_placement *placement;
    sy_weights *weights;
} loaded;

/* What was written before into the model's directory. */
static inline sy_status load_written(const edited_model *e, loaded *l) {
    *l = (loaded){0};
    MUST(sy_pool_create(2, false, &l->pool));
    MUST(sy_cpu_open(SY_BF16, l->pool, NULL, &l->be));
    sy_status st = sy_spec_load(e->directory, &l->spec);
    if (st != SY_OK) return st;
    MUST(sy_checkpoint_open(e->directory, &l->checkpoint));
    int *experts = calloc((size_t)l->spec->n_layers, sizeof *experts);
    for (int i = 0; i < l->spec->n_layers; i++)
        experts[i] = l->spec->layer[i].ffn.experts;
    MUST(sy_placement_contiguous(l->spec->n_layers, experts, 1, &l->placement));
    free(experts);
    return sy_weights_load(l->be, l->spec, l->placement, 0, l->checkpoint, 2, NULL, NULL, NULL,
                           &l->weights);
}

static inline sy_status load(const edited_model *e, loaded *l) {
    edited_write(e);
    return load_written(e, l);
}

static inline void unload(loaded *l) {
    sy_weights_destroy(l->weights);
    sy_placement_destroy(l->placement);
    if (l->checkpoint != NULL) sy_checkpoint_close(l->checkpoint);
    sy_spec_destroy(l->spec);
    l->be->ops->close(l->be);
    sy_pool_destroy(l->pool);
}

/* The written model does not load, for a reason with such words; closes it. */
static inline void expect_status(edited_model *e, sy_status expected, const char *what) {
    loaded l;
    sy_status st = load(e, &l);
    if (st != expected || strstr(sy_last_error(), what) == NULL)
        fail_msg("expected \"%s\", found %s: %s", what, sy_status_name(st), sy_last_error());
    unload(&l);
    edited_close(e);
}

#endif

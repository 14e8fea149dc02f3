#include "runtime/bind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/binder.h"

/* Every tensor must have been asked for, or be one that is known to be of no use. */
static sy_status check_leftovers(const sy_binder *b) {
    int n_left = 0, first = -1;
    char lm_head[SY_NAME_CHARS];
    snprintf(lm_head, sizeof lm_head, "%s%s.weight", b->prefix.head, b->names->lm_head);
    for (int i = 0; i < b->checkpoint->n_tensors; i++) {
        const char *name = b->checkpoint->tensor[i].name;
        bool tied = b->spec->tied && strcmp(name, lm_head) == 0;
        if (b->used[i] || tied || sy_tensor_skip(b->spec, &b->prefix, name) != SY_SKIP_NOT)
            continue;
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

/* What stands outside the layers. */
static sy_status bind_outer(sy_binder *b, sy_weights *weights) {
    sy_status st = SY_OK;
    int64_t H = b->spec->hidden;
    char name[SY_NAME_CHARS];
    snprintf(name, sizeof name, "%s%s", b->prefix.body, b->names->embed);
    SY_TRY(sy_binder_matrix(b, (sy_weight_kind){SY_PART_EMBEDDING, SY_ROLE_KEPT}, name,
                            b->spec->vocab, H, &weights->embed));
    snprintf(name, sizeof name, "%s%s.weight", b->prefix.body, b->names->norm);
    SY_TRY(sy_binder_vector(b, name, H, 1, &weights->final_norm));
    weights->lm_head = weights->embed;
    if (b->spec->tied) goto done;
    snprintf(name, sizeof name, "%s%s", b->prefix.head, b->names->lm_head);
    SY_TRY(sy_binder_matrix(b, (sy_weight_kind){SY_PART_LM_HEAD, SY_ROLE_KEPT}, name,
                            b->spec->vocab, H, &weights->lm_head));
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
    sy_binder b = {
        .be = be, .spec = spec, .checkpoint = checkpoint, .arena = arena, .list = list};
    sy_matrix *expert = weights->expert, *head = weights->head;
    SY_TRY(sy_tensor_names_find(checkpoint, spec, &b.names, &b.prefix));
    if (checkpoint != NULL) {
        b.used = calloc((size_t)checkpoint->n_tensors + 1, sizeof *b.used);
        if (b.used == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the list of tensors");
    }
    SY_TRY(bind_outer(&b, weights));
    for (b.layer = 0; b.layer < spec->n_layers; b.layer++) {
        sy_layer_weights *w = &weights->layer[b.layer];
        SY_TRY(be->ops->check(be, &spec->layer[b.layer]));
        SY_TRY(sy_bind_attention(&b, w, &head));
        SY_TRY(sy_bind_ffn(&b, &placement->layer[b.layer], rank, w, &expert));
    }
    if (checkpoint != NULL) SY_TRY(check_leftovers(&b));
done:
    free(b.used);
    return st;
}

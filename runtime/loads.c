#include "runtime/loads.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/new_file.h"
#include "runtime/file_print.h"

sy_status sy_loads_create(const sy_model_spec *spec,
                          const sy_placement *placement,
                          int rank,
                          sy_loads **out) {
    sy_status st = SY_OK;
    sy_loads *loads = calloc(1, sizeof *loads);
    *out = NULL;
    if (loads == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for expert loads");
    *loads = (sy_loads){.n_layers = spec->n_layers, .rank = rank, .placement = placement};
    for (int l = 0; l < spec->n_layers; l++)
        loads->n_experts = (int)sy_max(loads->n_experts, spec->layer[l].ffn.experts);
    loads->count =
        calloc((size_t)loads->n_layers * (size_t)loads->n_experts + 1, sizeof *loads->count);
    if (loads->count == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for expert loads");
    *out = loads;
    loads = NULL;
done:
    sy_loads_destroy(loads);
    return st;
}

void sy_loads_destroy(sy_loads *loads) {
    if (loads == NULL) return;
    free(loads->count);
    free(loads);
}

static size_t cells(const sy_loads *loads) {
    return (size_t)loads->n_layers * (size_t)loads->n_experts;
}

void sy_loads_reset(sy_loads *loads) {
    memset(loads->count, 0, cells(loads) * sizeof *loads->count);
    loads->tokens = loads->experts_read = 0;
}

void sy_loads_count(sy_loads *loads, int layer, const sy_expert_rows *rows) {
    if (loads->off) return;
    const sy_placement_layer *p = &loads->placement->layer[layer];
    const int32_t *expert = p->slot_expert + p->slot_first[loads->rank];
    uint64_t *count = loads->count + (size_t)layer * (size_t)loads->n_experts;
    for (int s = 0; s < rows->n_slots; s++) {
        int64_t n = rows->first[s + 1] - rows->first[s];
        count[expert[s]] += (uint64_t)n;
        loads->experts_read += n > 0;
    }
}

void sy_loads_add(sy_loads *loads, int layer, const uint64_t *counted) {
    const sy_placement_layer *p = &loads->placement->layer[layer];
    int32_t first = p->slot_first[loads->rank];
    uint64_t *count = loads->count + (size_t)layer * (size_t)loads->n_experts;
    for (int s = 0; s < sy_placement_slots(p, loads->rank); s++)
        count[p->slot_expert[first + s]] += counted[s];
    loads->experts_read += counted[loads->n_experts];
}

sy_status
sy_loads_gather(sy_comm *comm, const sy_loads *loads, uint64_t **all, uint64_t *tokens) {
    sy_status st = SY_OK;
    int R = sy_comm_size(comm), rank = sy_comm_rank(comm);
    uint64_t *gathered = NULL, *gathered_tokens = NULL;
    *all = NULL;
    *tokens = 0;
    if (rank == 0) {
        gathered = calloc((size_t)R * cells(loads) + 1, sizeof *gathered);
        gathered_tokens = calloc((size_t)R, sizeof *gathered_tokens);
        if (gathered == NULL || gathered_tokens == NULL)
            st = sy_fail(SY_ERR_MEMORY, "no memory for expert loads");
    }
    SY_TRY(sy_comm_agree(comm, st));
    SY_TRY(
        sy_comm_gather(comm, loads->count, cells(loads) * sizeof *loads->count, gathered, 0));
    SY_TRY(sy_comm_gather(comm, &loads->tokens, sizeof loads->tokens, gathered_tokens, 0));
    for (int r = 0; rank == 0 && r < R; r++)
        *tokens += gathered_tokens[r];
    *all = gathered;
    gathered = NULL;
done:
    free(gathered);
    free(gathered_tokens);
    return st;
}

double sy_loads_imbalance(const sy_loads *loads,
                          const uint64_t *all,
                          int n_ranks,
                          uint64_t *rank_total) {
    uint64_t sum = 0, most = 0;
    for (int r = 0; r < n_ranks; r++) {
        rank_total[r] = 0;
        for (size_t i = 0; i < cells(loads); i++)
            rank_total[r] += all[(size_t)r * cells(loads) + i];
        sum += rank_total[r];
        if (rank_total[r] > most) most = rank_total[r];
    }
    return sum == 0 ? 1 : (double)most * n_ranks / (double)sum;
}

void sy_loads_print_head(FILE *f,
                         const sy_model_spec *spec,
                         int n_ranks,
                         uint64_t tokens,
                         const char *label) {
    fprintf(f, "{\"version\": 1, \"model\": \"%s\", \"ranks\": %d, \"tokens\": %" PRIu64 ",\n",
            spec->family, n_ranks, tokens);
    if (label != NULL) {
        fputs(" \"label\": ", f);
        sy_json_print_text(f, label);
        fputs(",\n", f);
    }
    fputs(" \"layers\": [\n", f);
}

void sy_loads_print_layer_head(FILE *f, const sy_model_spec *spec, int layer, bool first) {
    const sy_ffn_spec *ffn = &spec->layer[layer].ffn;
    fprintf(f, "%s  {\"layer\": %d, \"experts\": %d, \"top_k\": %d, \"counts\": [",
            first ? "" : ",\n", layer, ffn->experts, ffn->top_k);
}

static void write_layer(FILE *f,
                        const sy_loads *loads,
                        const sy_ffn_spec *ffn,
                        int layer,
                        const uint64_t *all,
                        int n_ranks) {
    for (int e = 0; e < ffn->experts; e++) {
        fprintf(f, "%s[", e == 0 ? "" : ", ");
        for (int r = 0; r < n_ranks; r++) {
            size_t cell = (size_t)layer * (size_t)loads->n_experts + (size_t)e;
            fprintf(f, "%s%" PRIu64, r == 0 ? "" : ", ", all[(size_t)r * cells(loads) + cell]);
        }
        fputc(']', f);
    }
    fputs("]}", f);
}

sy_status sy_loads_write(const sy_loads *loads,
                         const sy_model_spec *spec,
                         const uint64_t *all,
                         int n_ranks,
                         uint64_t tokens,
                         const char *path) {
    sy_status st = SY_OK;
    sy_new_file file = {0};
    SY_TRY(sy_new_file_open_path(path, &file));
    FILE *f = file.f;
    sy_loads_print_head(f, spec, n_ranks, tokens, NULL);
    bool first = true;
    for (int l = 0; l < spec->n_layers; l++) {
        if (spec->layer[l].ffn.kind != SY_FFN_MOE) continue;
        sy_loads_print_layer_head(f, spec, l, first);
        first = false;
        write_layer(f, loads, &spec->layer[l].ffn, l, all, n_ranks);
    }
    fputs("\n]}\n", f);
done:
    return sy_new_file_close(&file, st);
}

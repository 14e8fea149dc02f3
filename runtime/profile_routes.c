/* routes-N.json: the router's choices of one sequence, in the form that sy_routes_load reads. */
#include <inttypes.h>
#include <stdlib.h>

#include "runtime/file_print.h"
#include "runtime/profile_memory.h"
#include "runtime/profile_print.h"

static void
print_head(FILE *f, const sy_profile *p, int64_t number, const int32_t *ids, int64_t n) {
    fprintf(f,
            "{\"version\": 1, \"top_k\": %d, \"sequence\": %" PRId64 ", \"label\": ", p->top_k,
            number);
    sy_json_print_text(f, p->kept_label + number * SY_PROFILE_LABEL_MAX);
    fputs(",\n \"ids\": [", f);
    for (int64_t i = 0; i < n; i++)
        fprintf(f, "%s%" PRId32, i == 0 ? "" : ", ", ids[i]);
    fputs("],\n \"layers\": [", f);
}

static void print_layer(FILE *f, const sy_profile *p, int moe, const uint16_t *row, int64_t n) {
    fprintf(f, "%s\n  {\"layer\": %d, \"experts\": [", moe == 0 ? "" : ",",
            p->data->layer[moe]);
    for (int64_t t = 0; t < n; t++) {
        fputs(t == 0 ? "[" : ", [", f);
        for (int k = 0; k < p->top_k; k++)
            fprintf(f, "%s%u", k == 0 ? "" : ", ", (unsigned)row[t * p->top_k + k]);
        fputc(']', f);
    }
    fputs("]}", f);
}

sy_status
sy_profile_print_routes(FILE *f, const sy_profile *p, int64_t number, int rank, int64_t n) {
    sy_status st = SY_OK;
    sy_comm *comm = p->parts.comm;
    size_t row_bytes = (size_t)n * (size_t)p->top_k * sizeof *p->kept;
    size_t id_bytes = (size_t)n * sizeof *p->kept_ids;
    size_t R = (size_t)p->n_ranks;
    int32_t *ids = NULL;
    uint16_t *rows = NULL;
    if (p->rank == 0) {
        ids = malloc(R * id_bytes);
        rows = malloc(R * row_bytes);
        if (ids == NULL || rows == NULL)
            st = sy_fail(SY_ERR_MEMORY, "no memory for the choices of a sequence");
    }
    SY_TRY(sy_comm_agree(comm, st));
    const int32_t *mine = p->kept_ids + number * p->parts.max_context;
    SY_TRY(sy_comm_gather(comm, mine, id_bytes, ids, 0));
    if (p->rank == 0) print_head(f, p, number, ids + rank * n, n);
    for (int moe = 0; moe < p->n_moe; moe++) {
        SY_TRY(
            sy_comm_gather(comm, sy_profile_kept_row(p, number, moe, 0), row_bytes, rows, 0));
        if (p->rank == 0) print_layer(f, p, moe, rows + rank * n * p->top_k, n);
    }
    if (p->rank == 0) fputs("]}\n", f);
done:
    free(ids);
    free(rows);
    return st;
}

#include "runtime/profile_files.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/new_file.h"
#include "runtime/file_print.h"
#include "runtime/profile_memory.h"
#include "runtime/profile_print.h"

sy_status sy_profile_prepare_dir(const char *dir) {
    struct stat info;
    if (dir[0] == '\0') return sy_fail(SY_ERR_USAGE, "the profile's directory is empty text");
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return sy_fail(SY_ERR_IO, "%s: %s", dir, strerror(errno));
    if (stat(dir, &info) != 0) return sy_fail(SY_ERR_IO, "%s: %s", dir, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return sy_fail(SY_ERR_IO, "%s: expected a directory for the profile", dir);
    sy_new_file probe;
    sy_status st = sy_new_file_open(dir, "profile.json", &probe);
    sy_new_file_close(&probe, SY_ERR_IO); /* it was only to see that files can be made */
    return st;
}

/* A file's content by rank 0 alone. */
typedef void (*print_fn)(FILE *f, const sy_profile *p);

static sy_status
write_alone(const sy_profile *p, const char *dir, const char *name, print_fn print) {
    sy_status st = SY_OK;
    sy_new_file file = {0};
    if (p->rank != 0) return SY_OK;
    SY_TRY(sy_new_file_open(dir, name, &file));
    print(file.f, p);
done:
    return sy_new_file_close(&file, st);
}

/* A field of a CSV file, quoted where it must be. */
static void print_field(FILE *f, const char *text) {
    if (text[strcspn(text, ",\"\r\n")] == '\0') {
        fputs(text, f);
        return;
    }
    fputc('"', f);
    for (; *text != '\0'; text++) {
        if (*text == '"') fputc('"', f);
        fputc(*text, f);
    }
    fputc('"', f);
}

static void
print_csv_layer(FILE *f, const sy_profile_data *d, const sy_profile_label *label, int moe) {
    const sy_placement_layer *layer = &d->placement->layer[d->layer[moe]];
    const double *weight = label->weight + (size_t)moe * (size_t)d->n_experts;
    for (int r = 0; r < d->n_ranks; r++) {
        for (int s = layer->slot_first[r]; s < layer->slot_first[r + 1]; s++) {
            int32_t e = layer->slot_expert[s];
            print_field(f, label->name);
            fprintf(f, ",%d,%" PRId32 ",%d,%" PRIu64 ",%.9g\n", d->layer[moe], e, r,
                    label->count[d->slot_first[moe] + s], weight[e]);
        }
    }
}

static void print_csv(FILE *f, const sy_profile *p) {
    const sy_profile_data *d = p->data;
    fputs("label,layer,expert,rank,tokens,expert_weight\n", f);
    for (int i = 0; i < d->n_labels; i++)
        for (int moe = 0; moe < d->n_moe; moe++)
            print_csv_layer(f, d, &d->label[i], moe);
}

/* loads.json from the slots: an expert's row has a number for each rank. */
static void print_loads(FILE *f, const sy_profile *p) {
    const sy_profile_data *d = p->data;
    const sy_profile_label *t = &d->total;
    sy_loads_print_head(f, d->spec, d->n_ranks, t->tokens,
                        d->n_labels == 1 ? d->label[0].name : NULL);
    for (int moe = 0; moe < d->n_moe; moe++) {
        const sy_placement_layer *layer = &d->placement->layer[d->layer[moe]];
        sy_loads_print_layer_head(f, d->spec, d->layer[moe], moe == 0);
        for (int e = 0; e < layer->n_experts; e++) {
            int i = layer->home_first[e];
            fputs(e == 0 ? "[" : ", [", f);
            for (int r = 0; r < d->n_ranks; r++) { /* copies are ordered by rank */
                bool here = i < layer->home_first[e + 1] && layer->home[i].rank == r;
                uint64_t n = 0;
                if (here) {
                    int slot = layer->slot_first[r] + layer->home[i++].slot;
                    n = t->count[d->slot_first[moe] + slot];
                }
                fprintf(f, "%s%" PRIu64, r == 0 ? "" : ", ", n);
            }
            fputc(']', f);
        }
        fputs("]}", f);
    }
    fputs("\n]}\n", f);
}

static void print_pairs(FILE *f, const sy_profile *p) {
    int64_t dims[3] = {p->n_moe, p->n_experts, p->n_experts};
    size_t cells = (size_t)p->n_moe * (size_t)p->n_experts * (size_t)p->n_experts;
    sy_npy_print_header(f, "<u8", dims, 3);
    fwrite(p->pair, sizeof *p->pair, cells, f); /* little-endian, like all machines supported */
}

static sy_status write_trace(const sy_profile *p, const char *dir) {
    sy_status st = SY_OK;
    sy_new_file file = {0};
    if (p->rank == 0) st = sy_new_file_open(dir, "trace.json", &file);
    SY_TRY(sy_comm_agree(p->parts.comm, st));
    SY_TRY(sy_profile_print_trace(file.f, p));
done:
    return sy_new_file_close(&file, st);
}

/* The rank that ran a sequence, and the rows it computed; -1: none did. */
static sy_status find_owner(const sy_profile *p, int64_t number, int *rank, int64_t *rows) {
    sy_status st = SY_OK;
    int64_t *all = calloc((size_t)p->n_ranks, sizeof *all);
    if (all == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for the choices of a sequence");
    SY_TRY(sy_comm_agree(p->parts.comm, st));
    SY_TRY(sy_comm_all_gather(p->parts.comm, &p->kept_rows[number], sizeof *all, all));
    *rank = -1;
    for (int r = 0; r < p->n_ranks; r++) {
        if (all[r] == 0) continue;
        *rank = r;
        *rows = all[r];
    }
done:
    free(all);
    return st;
}

static sy_status write_routes(const sy_profile *p, const char *dir, int64_t number) {
    sy_status st = SY_OK;
    sy_new_file file = {0};
    char name[64];
    int owner;
    int64_t rows = 0;
    SY_TRY(find_owner(p, number, &owner, &rows));
    if (owner < 0) goto done;
    snprintf(name, sizeof name, "routes-%" PRId64 ".json", number);
    if (p->rank == 0) st = sy_new_file_open(dir, name, &file);
    SY_TRY(sy_comm_agree(p->parts.comm, st));
    SY_TRY(sy_profile_print_routes(file.f, p, number, owner, rows));
    if (p->rank == 0) p->data->n_routes++;
done:
    return sy_new_file_close(&file, st);
}

static sy_status
write_summary(const sy_profile *p, const char *dir, const sy_profile_about *about) {
    sy_status st = SY_OK;
    sy_new_file file = {0};
    if (p->rank != 0) return SY_OK;
    SY_TRY(sy_new_file_open(dir, "profile.json", &file));
    SY_TRY(sy_profile_print_json(file.f, p->data, p->parts.comm, &p->options, about));
done:
    return sy_new_file_close(&file, st);
}

sy_status sy_profile_write(sy_profile *p, const char *dir, const sy_profile_about *about) {
    sy_status st = SY_OK;
    sy_comm *comm = p->parts.comm;
    SY_TRY(sy_comm_agree(comm, write_alone(p, dir, "loads.json", print_loads)));
    SY_TRY(sy_comm_agree(comm, write_alone(p, dir, "loads.csv", print_csv)));
    if (p->rank == 0 && about->all_pairs && p->data->pairs_counted)
        st = write_alone(p, dir, "coactivation.npy", print_pairs);
    SY_TRY(sy_comm_agree(comm, st));
    SY_TRY(sy_comm_agree(comm, write_trace(p, dir)));
    for (int64_t i = 0; i < p->n_admitted; i++)
        SY_TRY(sy_comm_agree(comm, write_routes(p, dir, i)));
    SY_TRY(sy_comm_agree(comm, write_summary(p, dir, about)));
done:
    return st;
}

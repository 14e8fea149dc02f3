#include "runtime/convert_plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

/* A header of this many tensors stays far below what readers accept. */
enum { MOST_TENSORS_OF_SHARD = 32768 };

/* Room for one more element of `size` bytes. */
static sy_status grow(void *array, int n, int *capacity, size_t size) {
    void *old;
    if (n < *capacity) return SY_OK;
    if (n > INT32_MAX / 4) return sy_fail(SY_ERR_UNSUPPORTED, "too many tensors");
    int more = n + n / 2 + 64;
    memcpy(&old, array, sizeof old);
    void *grown = realloc(old, (size_t)more * size);
    if (grown == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the list of tensors");
    memcpy(array, &grown, sizeof grown);
    *capacity = more;
    return SY_OK;
}

static sy_status duplicate(const char *text, char **out) {
    *out = strdup(text);
    return *out != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory for a name");
}

sy_status sy_convert_add_out(sy_convert_plan *p,
                             const char *name,
                             sy_dtype dtype,
                             int rank,
                             const int64_t *shape) {
    sy_status st = SY_OK;
    char *copy = NULL;
    uint64_t bytes = (uint64_t)sy_dtype_bits(dtype) / 8;
    for (int i = 0; i < rank; i++)
        if (!sy_mul_u64(bytes, (uint64_t)shape[i], &bytes) || bytes > INT64_MAX)
            SY_FAIL(SY_ERR_UNSUPPORTED, "tensor \"%s\" has more than 2^63 bytes", name);
    SY_TRY(grow(&p->out, p->n_out, &p->out_capacity, sizeof *p->out));
    SY_TRY(duplicate(name, &copy));
    sy_tensor_entry *t = &p->out[p->n_out++];
    *t = (sy_tensor_entry){.name = copy, .dtype = dtype, .rank = rank, .bytes = bytes};
    if (rank > 0) memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
    if (!sy_add_u64(p->bytes, bytes, &p->bytes) || p->bytes > INT64_MAX)
        SY_FAIL(SY_ERR_UNSUPPORTED, "a checkpoint of more than 2^63 bytes");
done:
    return st;
}

sy_status sy_convert_add_matrix(sy_convert_plan *p, const sy_convert_matrix *matrix) {
    sy_status st = grow(&p->matrix, p->n_matrices, &p->matrix_capacity, sizeof *p->matrix);
    if (st == SY_OK) p->matrix[p->n_matrices++] = *matrix;
    return st;
}

static sy_status add_job(sy_convert_plan *p, const sy_convert_job *job) {
    sy_status st = grow(&p->job, p->n_jobs, &p->job_capacity, sizeof *p->job);
    if (st == SY_OK) p->job[p->n_jobs++] = *job;
    return st;
}

sy_status sy_convert_add_job(sy_convert_plan *p, int n_matrices) {
    return add_job(p, &(sy_convert_job){.first = p->n_matrices - n_matrices, .n = n_matrices});
}

sy_status sy_convert_add_copy(sy_convert_plan *p, const sy_tensor_entry *t) {
    sy_status st = sy_convert_add_out(p, t->name, t->dtype, t->rank, t->shape);
    return st == SY_OK ? add_job(p, &(sy_convert_job){.copied = t, .out = p->n_out - 1}) : st;
}

sy_status sy_convert_add_plain(sy_convert_plan *p, const char *module) {
    sy_status st = SY_OK;
    SY_TRY(grow(&p->plain, p->n_plain, &p->plain_capacity, sizeof *p->plain));
    SY_TRY(duplicate(module, &p->plain[p->n_plain]));
    p->n_plain++;
done:
    return st;
}

/* The first of a job's tensors, which follow each other. */
static int first_out(const sy_convert_plan *p, int job) {
    const sy_convert_job *j = &p->job[job];
    if (job == p->n_jobs) return p->n_out;
    return j->copied != NULL ? j->out : p->matrix[j->first].codes;
}

/* Jobs into shards, in their order. */
static sy_status divide(sy_convert_plan *p, uint64_t shard_bytes) {
    uint64_t used = 0;
    p->shard = calloc((size_t)p->n_jobs + 1, sizeof *p->shard);
    if (p->shard == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %d shards", p->n_jobs);
    for (int j = 0; j < p->n_jobs; j++) {
        uint64_t bytes = 0;
        int first = first_out(p, j), end = first_out(p, j + 1);
        for (int i = first; i < end; i++)
            bytes += p->out[i].bytes;
        sy_convert_shard *s = &p->shard[sy_max(p->n_shards - 1, 0)];
        bool full = s->n_jobs > 0 && (used + bytes > shard_bytes ||
                                      s->n_out + (end - first) > MOST_TENSORS_OF_SHARD);
        if (p->n_shards == 0 || full) {
            s = &p->shard[p->n_shards++];
            *s = (sy_convert_shard){.first_out = first, .first_job = j};
            used = 0;
        }
        used += bytes;
        s->n_out += end - first;
        s->n_jobs++;
        for (int i = first; i < end; i++)
            p->out[i].file = p->n_shards - 1;
    }
    return SY_OK;
}

static sy_status lay_out(sy_convert_plan *p) {
    const char *stem = p->names->plain_names ? "consolidated" : "model";
    for (int i = 0; i < p->n_shards; i++) {
        sy_convert_shard *s = &p->shard[i];
        snprintf(s->name, sizeof s->name, "%s-%05d-of-%05d.safetensors", stem, i + 1,
                 p->n_shards);
        sy_status st = sy_shard_layout(p->out + s->first_out, s->n_out, &s->header);
        if (st != SY_OK) return st;
    }
    return SY_OK;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Names that the plan makes up could be those of other tensors of the source. */
static sy_status check_names(const sy_convert_plan *p) {
    sy_status st = SY_OK;
    const char **name = malloc(((size_t)p->n_out + 1) * sizeof *name);
    if (name == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %d names", p->n_out);
    for (int i = 0; i < p->n_out; i++)
        name[i] = p->out[i].name;
    qsort(name, (size_t)p->n_out, sizeof *name, compare_names);
    for (int i = 1; i < p->n_out; i++)
        if (strcmp(name[i - 1], name[i]) == 0)
            SY_FAIL(SY_ERR_FORMAT, "%s: tensor \"%s\" would be written twice",
                    p->checkpoint->directory, name[i]);
done:
    free(name);
    return st;
}

sy_status sy_convert_plan_make(const sy_model_spec *spec,
                               const sy_checkpoint *checkpoint,
                               const sy_convert_options *options,
                               sy_convert_plan **out) {
    sy_status st = SY_OK;
    sy_convert_plan *p = calloc(1, sizeof *p);
    *out = p;
    if (p == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the plan of a conversion");
    p->spec = spec;
    p->checkpoint = checkpoint;
    p->to = options->to;
    p->all = options->all;
    SY_TRY(sy_tensor_names_find(checkpoint, spec, &p->names, &p->prefix));
    SY_TRY(sy_convert_list_tensors(p));
    SY_TRY(check_names(p));
    SY_TRY(divide(p, options->shard_bytes));
    SY_TRY(lay_out(p));
done:
    if (st != SY_OK) {
        sy_convert_plan_destroy(p);
        *out = NULL;
    }
    return st;
}

void sy_convert_plan_destroy(sy_convert_plan *p) {
    if (p == NULL) return;
    for (int i = 0; i < p->n_out; i++)
        free((char *)(uintptr_t)p->out[i].name);
    for (int i = 0; i < p->n_shards; i++)
        sy_shard_header_free(&p->shard[i].header);
    for (int i = 0; i < p->n_plain; i++)
        free(p->plain[i]);
    free(p->plain);
    free(p->out);
    free(p->matrix);
    free(p->job);
    free(p->shard);
    free(p);
}

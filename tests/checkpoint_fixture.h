/* A checkpoint in a folder of its own that a test can change: read from a published one, edited
 * in memory, written again. */
#ifndef SY_TESTS_CHECKPOINT_FIXTURE_H
#define SY_TESTS_CHECKPOINT_FIXTURE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "runtime/checkpoint.h"
#include "tests/model_fixture.h"

typedef struct edited_tensor {
    char name[160];
    sy_dtype dtype;
    int rank;
    int64_t shape[4];
    char *data;
    uint64_t bytes;
} edited_tensor;

typedef struct edited_model {
    char directory[64];
    json_t *config;
    edited_tensor *tensor;
    int n;
} edited_model;

static inline void edited_resize(edited_tensor *t) {
    t->bytes = (uint64_t)sy_dtype_bits(t->dtype) / 8;
    for (int i = 0; i < t->rank; i++)
        t->bytes *= (uint64_t)t->shape[i];
    free(t->data);
    t->data = calloc(t->bytes + 1, 1);
    if (t->data == NULL) abort();
}

/* Adds a tensor of zeros. */
static inline edited_tensor *
edited_add(edited_model *m, const char *name, sy_dtype dtype, int rank, const int64_t *shape) {
    m->tensor = realloc(m->tensor, (size_t)(m->n + 1) * sizeof *m->tensor);
    if (m->tensor == NULL) abort();
    edited_tensor *t = &m->tensor[m->n++];
    *t = (edited_tensor){.dtype = dtype, .rank = rank};
    snprintf(t->name, sizeof t->name, "%s", name);
    memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
    edited_resize(t);
    return t;
}

static inline edited_tensor *edited_find(edited_model *m, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (strcmp(m->tensor[i].name, name) == 0) return &m->tensor[i];
    fprintf(stderr, "the source has no tensor %s\n", name);
    abort();
}

static inline void edited_drop(edited_model *m, const char *name) {
    edited_tensor *t = edited_find(m, name);
    free(t->data);
    *t = m->tensor[--m->n];
}

/* The checkpoint in the directory `path`, in memory; its configuration is in the file named. */
static inline void
edited_open_with(edited_model *m, const char *path, const char *config_file) {
    char config[600];
    sy_checkpoint *c;
    *m = (edited_model){.directory = "/tmp/sy_model_XXXXXX"};
    if (mkdtemp(m->directory) == NULL) abort();
    snprintf(config, sizeof config, "%s/%s", path, config_file);
    MUST(sy_json_load(config, SY_JSON_MAX_CONFIG, &m->config));
    MUST(sy_checkpoint_open(path, &c));
    for (int i = 0; i < c->n_tensors; i++) {
        const sy_tensor_entry *e = &c->tensor[i];
        edited_tensor *t = edited_add(m, e->name, e->dtype, e->rank, e->shape);
        MUST(sy_checkpoint_read(c, e, 0, e->bytes, t->data));
    }
    sy_checkpoint_close(c);
}

static inline void edited_open_at(edited_model *m, const char *path) {
    edited_open_with(m, path, "config.json");
}

/* That at tests/data/<source>. */
static inline void edited_open(edited_model *m, const char *source) {
    char path[512];
    edited_open_at(m, data_path(path, sizeof path, "%s", source));
}

static inline void edited_path(const edited_model *m, const char *file, char path[128]) {
    snprintf(path, 128, "%s/%s", m->directory, file);
}

/* Writes config.json and model.safetensors. */
static inline void edited_write(const edited_model *m) {
    char path[128];
    edited_path(m, "config.json", path);
    if (json_dump_file(m->config, path, 0) != 0) abort();
    json_t *header = json_object();
    uint64_t at = 0;
    for (int i = 0; i < m->n; i++) {
        const edited_tensor *t = &m->tensor[i];
        json_t *shape = json_array();
        for (int k = 0; k < t->rank; k++)
            json_array_append_new(shape, json_integer(t->shape[k]));
        json_object_set_new(header, t->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", sy_dtype_name(t->dtype),
                                      "shape", shape, "data_offsets", (json_int_t)at,
                                      (json_int_t)(at + t->bytes)));
        at += t->bytes;
    }
    char *text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    /* Spaces behind it, as writers of such files put them, let tensors begin at whole words: only
     * there they can be read past the page cache. */
    uint64_t length = strlen(text), n = (length + 7) / 8 * 8;
    edited_path(m, "model.safetensors", path);
    FILE *f = fopen(path, "wb");
    if (f == NULL) abort();
    for (int i = 0; i < 8; i++)
        fputc((int)(n >> 8 * i & 0xff), f);
    fprintf(f, "%-*s", (int)n, text);
    for (int i = 0; i < m->n; i++)
        fwrite(m->tensor[i].data, 1, m->tensor[i].bytes, f);
    if (fclose(f) != 0) abort();
    free(text);
}

static inline void edited_close(edited_model *m) {
    char path[128];
    edited_path(m, "config.json", path);
    unlink(path);
    edited_path(m, "model.safetensors", path);
    unlink(path);
    rmdir(m->directory);
    for (int i = 0; i < m->n; i++)
        free(m->tensor[i].data);
    free(m->tensor);
    json_decref(m->config);
}

#endif

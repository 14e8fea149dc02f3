/* A model opened on the ranks of this test, without the launcher: from a checkpoint directory or
 * from a spec with dummy weights. */
#ifndef SY_TESTS_MODEL_FIXTURE_H
#define SY_TESTS_MODEL_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "comm/comm.h"
#include "runtime/checkpoint.h"
#include "runtime/engine.h"
#include "runtime/routes.h"
#ifdef SY_WITH_CUDA
#include "kernels/cuda/open.h"
#endif

typedef struct fixture {
    sy_comm *comm; /* borrowed */
    sy_pool *pool;
    sy_backend *be;
    sy_model_spec *spec;
    sy_checkpoint *checkpoint;
    sy_placement *placement;
    sy_weights *weights;
    sy_engine *engine;
} fixture;

/* Every rank of a test must fail together, or the others would wait for ever. */
#define MUST(call)                                                                             \
    do {                                                                                       \
        sy_status must_status = (call);                                                        \
        if (must_status != SY_OK) {                                                            \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__,                             \
                    sy_status_name(must_status), sy_last_error());                             \
            abort();                                                                           \
        }                                                                                      \
    } while (0)

__attribute__((format(printf, 3, 4))) static inline const char *
data_path(char *buf, size_t size, const char *format, ...) {
    const char *root = getenv("SY_TEST_DATA");
    int n = snprintf(buf, size, "%s/", root == NULL ? "tests/data" : root);
    va_list args;
    va_start(args, format);
    vsnprintf(buf + n, size - (size_t)n, format, args);
    va_end(args);
    return buf;
}

static inline sy_placement *contiguous(const sy_model_spec *spec, int n_ranks) {
    int *experts = calloc((unsigned)spec->n_layers, sizeof *experts);
    sy_placement *p;
    for (int l = 0; l < spec->n_layers; l++)
        experts[l] = spec->layer[l].ffn.experts;
    MUST(sy_placement_contiguous(spec->n_layers, experts, n_ranks, &p));
    free(experts);
    return p;
}

/* Whether a CUDA device, emulated or real, can be opened here. */
static inline bool have_cuda(void) {
#ifdef SY_WITH_CUDA
    return sy_cuda_device_count() > 0;
#else
    return false;
#endif
}

static inline sy_status open_cuda(sy_dtype act, sy_backend **out) {
#ifdef SY_WITH_CUDA
    return sy_cuda_open(act, 0, out);
#else
    (void)act;
    *out = NULL;
    return sy_fail(SY_ERR_UNSUPPORTED, "built without CUDA");
#endif
}

/* Loads a checkpoint onto f->be; the engine follows with fixture_engine. */
static inline void fixture_load(fixture *f, const char *directory) {
    MUST(sy_spec_load(directory, &f->spec));
    MUST(sy_checkpoint_open(directory, &f->checkpoint));
    f->placement = contiguous(f->spec, sy_comm_size(f->comm));
    MUST(sy_weights_load(f->be, f->spec, f->placement, sy_comm_rank(f->comm), f->checkpoint, 2,
                         NULL, NULL, NULL, &f->weights));
}

/* Pool, CPU backend, and a checkpoint. */
static inline void
fixture_open(fixture *f, sy_comm *comm, const char *directory, sy_dtype act, int n_threads) {
    *f = (fixture){.comm = comm};
    MUST(sy_pool_create(n_threads, false, &f->pool));
    MUST(sy_cpu_open(act, f->pool, NULL, &f->be));
    fixture_load(f, directory);
}

/* The same on device 0. */
static inline void fixture_open_cuda(fixture *f, sy_comm *comm, const char *directory) {
    *f = (fixture){.comm = comm};
    MUST(open_cuda(SY_BF16, &f->be));
    fixture_load(f, directory);
}

static inline void fixture_engine(fixture *f, const sy_engine_options *options) {
    sy_engine_parts parts = {.comm = f->comm,
                             .be = f->be,
                             .spec = f->spec,
                             .placement = f->placement,
                             .weights = f->weights};
    MUST(sy_engine_create(&parts, options, &f->engine));
}

static inline void fixture_close(fixture *f) {
    sy_engine_destroy(f->engine);
    sy_weights_destroy(f->weights);
    sy_placement_destroy(f->placement);
    sy_checkpoint_close(f->checkpoint);
    sy_spec_destroy(f->spec);
    if (f->be != NULL) f->be->ops->close(f->be);
    sy_pool_destroy(f->pool);
}

#endif

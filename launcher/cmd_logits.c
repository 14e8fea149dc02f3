/* switchyard logits: ids in, a float32 .npy of all positions' logits out. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "launcher/commands.h"
#include "launcher/output.h"
#include "launcher/session.h"
#include "runtime/routes.h"

static sy_status write_all(FILE *f, const char *path, const void *data, size_t n) {
    if (fwrite(data, 1, n, f) == n && fflush(f) == 0) return SY_OK;
    return sy_fail(SY_ERR_IO, "%s: %s", path, strerror(errno));
}

/* Header of .npy version 1.0: padded with spaces to a multiple of 64, ending in a newline. */
static sy_status write_header(FILE *f, const char *path, int64_t rows, int64_t columns) {
    char dict[128], block[256];
    int n = snprintf(dict, sizeof dict,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64
                     "), }",
                     rows, columns);
    size_t total = (size_t)sy_round_up(10 + n + 1, 64), length = total - 10;
    memset(block, ' ', sizeof block);
    memcpy(block, "\x93NUMPY\x01\x00", 8);
    block[8] = (char)(length & 0xff);
    block[9] = (char)(length >> 8);
    memcpy(block + 10, dict, (size_t)n);
    block[total - 1] = '\n';
    return write_all(f, path, block, total);
}

typedef struct npy {
    FILE *file;
    const char *path;
    int64_t columns;
    sy_session *session;
    int64_t done, rows;
} npy;

static sy_status on_rows(void *context, int64_t n_rows, const float *rows) {
    npy *out = context;
    out->done += n_rows;
    sy_out_progress("computing logits", (double)out->done / (double)out->rows, "");
    if (sy_interrupted()) return sy_fail(SY_ERR_INTERRUPTED, "interrupted");
    return write_all(out->file, out->path, rows,
                     (size_t)n_rows * (size_t)out->columns * sizeof *rows);
}

static sy_status parse_ids(const sy_session *s, int32_t **out, int64_t *n) {
    sy_status st = SY_OK;
    int64_t *wide = NULL;
    *out = NULL;
    if (s->options->ids == NULL) SY_FAIL(SY_ERR_USAGE, "logits needs --ids \"1 2 3\"");
    if (s->options->out == NULL) SY_FAIL(SY_ERR_USAGE, "logits needs --out FILE.npy");
    SY_TRY(sy_parse_int_list(s->options->ids, "--ids", 0, s->spec->vocab - 1, &wide, n));
    if (*n > s->spec->max_position)
        SY_FAIL(SY_ERR_USAGE,
                "--ids: %" PRId64 " ids are beyond the model's context of %" PRId64, *n,
                s->spec->max_position);
    *out = calloc((size_t)*n, sizeof **out);
    if (*out == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the ids");
    for (int64_t i = 0; i < *n; i++)
        (*out)[i] = (int32_t)wide[i];
done:
    free(wide);
    return st;
}

static sy_status open_output(const sy_session *s, int64_t n, npy *out) {
    sy_status st = SY_OK;
    *out = (npy){.path = s->options->out, .columns = s->spec->vocab, .rows = n};
    out->file = fopen(out->path, "wb");
    if (out->file == NULL) SY_FAIL(SY_ERR_IO, "%s: %s", out->path, strerror(errno));
    SY_TRY(write_header(out->file, out->path, n, s->spec->vocab));
done:
    return st;
}

static sy_status close_output(npy *out, sy_status st) {
    if (out->file == NULL) return st;
    bool bad = fclose(out->file) != 0;
    if (bad && st == SY_OK) st = sy_fail(SY_ERR_IO, "%s: %s", out->path, strerror(errno));
    struct stat info;
    /* Half a file looks like a whole one; a device that was named as output stays. */
    if (st != SY_OK && lstat(out->path, &info) == 0 && S_ISREG(info.st_mode)) remove(out->path);
    return st;
}

sy_status sy_cmd_logits(const sy_options *options) {
    sy_status st = SY_OK;
    sy_session session;
    int32_t *ids = NULL;
    int64_t n = 0;
    sy_routes *routes = NULL;
    npy out = {0};

    SY_TRY(sy_session_open(options, &session));
    SY_TRY(sy_session_model(&session));
    SY_TRY(sy_comm_agree(session.comm, parse_ids(&session, &ids, &n)));
    if (options->routes != NULL)
        SY_TRY(sy_comm_agree(session.comm,
                             sy_routes_load(options->routes, session.spec, n, &routes)));
    /* Before the weights are read, which takes long. */
    if (session.rank == 0) st = open_output(&session, n, &out);
    SY_TRY(sy_comm_agree(session.comm, st));
    sy_engine_options wish = {.max_context = n,
                              .max_pages = sy_kv_pages(n),
                              .per_rank = 1,
                              .chunk = sy_min(options->chunk, n)};
    wish.max_outputs = wish.chunk;
    SY_TRY(sy_session_engine(&session, wish));
    st = sy_engine_logits(session.engine, ids, n,
                          routes == NULL ? NULL : (const int32_t *const *)routes->expert,
                          on_rows, &out);
    SY_TRY(sy_session_step(&session, st));
done:
    if (session.rank == 0) st = close_output(&out, st);
    sy_routes_destroy(routes);
    free(ids);
    return sy_session_close(&session, st);
}

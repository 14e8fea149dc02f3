#include "tests/seeded_checkpoint.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/hash.h"
#include "base/json.h"

enum { MAX_DIMS = 4, MAX_PATH = 1024, MAX_TENSORS = 65536 };
#define MAX_VALUES ((int64_t)1 << 26)

typedef struct tensor {
    const char *name; /* of the parsed JSON */
    int64_t dim[MAX_DIMS];
    int n_dims;
    int64_t n; /* values */
    int range, shift;
    double offset;
    sy_dtype dtype;
    int64_t off, bytes; /* in table.data */
} tensor;

typedef struct table {
    json_t *root;
    const char *where; /* tensors.json's path, for error texts */
    const char *stem;  /* of the safetensors files' names */
    const char *unhashed_prefix;
    uint64_t seed;
    tensor *tensor;
    int n_tensors;
    unsigned char *data; /* one tensor behind the other */
    int64_t bytes;
} table;

static sy_status read_shape(const table *t, const json_t *list, tensor *out) {
    out->n_dims = (int)json_array_size(list);
    out->n = 1;
    if (out->n_dims < 1 || out->n_dims > MAX_DIMS)
        return sy_fail(SY_ERR_FORMAT, "%s: %s: expected 1 to %d dimensions, found %d", t->where,
                       out->name, MAX_DIMS, out->n_dims);
    for (int i = 0; i < out->n_dims; i++)
        if (!sy_json_integral(json_array_get(list, (size_t)i), &out->dim[i]) ||
            out->dim[i] < 1 || !sy_mul_i64(out->n, out->dim[i], &out->n) || out->n > MAX_VALUES)
            return sy_fail(SY_ERR_FORMAT, "%s: %s: bad shape", t->where, out->name);
    return SY_OK;
}

static sy_status read_tensor(table *t, const json_t *entry, sy_dtype dtype, tensor *out) {
    sy_status st = SY_OK;
    int64_t range = 0, shift = -1;
    const char *pinned = NULL;
    SY_TRY(sy_json_get_string(entry, t->where, "name", &out->name));
    if (out->name == NULL ||
        out->name[strspn(out->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                    "0123456789._")] != '\0')
        SY_FAIL(SY_ERR_FORMAT, "%s: expected names of letters, digits, '.' and '_'", t->where);
    SY_TRY(read_shape(t, json_object_get(entry, "shape"), out));
    SY_TRY(sy_json_get_int(entry, t->where, "range", 1, 127, &range));
    SY_TRY(sy_json_get_int(entry, t->where, "shift", 0, 24, &shift));
    SY_TRY(sy_json_get_real(entry, t->where, "offset", &out->offset));
    SY_TRY(sy_json_get_string(entry, t->where, "dtype", &pinned));
    if (range == 0 || shift < 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: %s: expected a range and a shift", t->where, out->name);
    out->range = (int)range;
    out->shift = (int)shift;
    out->dtype = dtype;
    if (pinned != NULL && !sy_dtype_from_name(pinned, &out->dtype))
        SY_FAIL(SY_ERR_FORMAT, "%s: %s: unknown dtype %s", t->where, out->name, pinned);
    out->off = t->bytes;
    out->bytes = out->n * sy_dtype_bits(out->dtype) / 8;
    t->bytes += out->bytes;
    if (t->bytes > MAX_VALUES * 4)
        SY_FAIL(SY_ERR_FORMAT, "%s: the tensors are too large for a test", t->where);
done:
    return st;
}

static sy_status read_table(const char *where, sy_dtype dtype, table *t) {
    sy_status st = SY_OK;
    int64_t version = 0, seed = -1;
    t->where = where;
    t->stem = "model";
    t->unhashed_prefix = "";
    SY_TRY(sy_json_load(where, SY_JSON_MAX_HEADER, &t->root));
    SY_TRY(sy_json_get_int(t->root, where, "version", 1, 1, &version));
    SY_TRY(sy_json_get_int(t->root, where, "seed", 0, INT64_MAX, &seed));
    SY_TRY(sy_json_get_string(t->root, where, "file", &t->stem));
    SY_TRY(sy_json_get_string(t->root, where, "unhashed_prefix", &t->unhashed_prefix));
    const json_t *list = json_object_get(t->root, "tensors");
    size_t n = json_array_size(list);
    if (version != 1 || seed < 0 || n < 1 || n > MAX_TENSORS)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected version 1, a seed and 1 to %d tensors", where,
                MAX_TENSORS);
    t->seed = (uint64_t)seed;
    t->tensor = calloc(n, sizeof *t->tensor);
    if (t->tensor == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %zu tensors", n);
    for (; t->n_tensors < (int)n; t->n_tensors++)
        SY_TRY(read_tensor(t, json_array_get(list, (size_t)t->n_tensors), dtype,
                           &t->tensor[t->n_tensors]));
done:
    return st;
}

/* False if a float16 cannot hold v exactly. */
static bool f16_from(float v, uint16_t *out) {
    uint16_t sign = signbit(v) ? 0x8000 : 0;
    float size = fabsf(v);
    int exponent;
    (void)frexpf(size, &exponent); /* size = 0.5..1 * 2^exponent */
    exponent += 14;
    if (size >= 65536.0f) return false;
    if (size < 0x1p-14f)
        *out = (uint16_t)(sign | (uint16_t)lrintf(size * 0x1p24f));
    else
        *out = (uint16_t)(sign | (uint16_t)(exponent << 10) |
                          ((uint16_t)lrintf(ldexpf(size, 25 - exponent)) & 0x3ff));
    return sy_f32_from_f16(*out) == v;
}

/* False if the dtype cannot hold v exactly. Little-endian, as all our machines are. */
static bool store(sy_dtype dtype, float v, unsigned char *to) {
    uint16_t half = 0;
    if (dtype == SY_F32) {
        memcpy(to, &v, sizeof v);
        return true;
    }
    if (dtype == SY_BF16)
        half = (uint16_t)(sy_bits_from_f32(v) >> 16);
    else if (dtype != SY_F16 || !f16_from(v, &half))
        return false;
    memcpy(to, &half, sizeof half);
    return dtype == SY_F16 || sy_f32_from_bf16(half) == v;
}

static bool fill_tensor(const table *t, const tensor *x) {
    const char *name = x->name;
    size_t skip = strlen(t->unhashed_prefix);
    if (strncmp(name, t->unhashed_prefix, skip) == 0) name += skip;
    uint64_t key = sy_hash_bytes(t->seed, name, strlen(name));
    uint64_t steps = 2 * (uint64_t)x->range + 1;
    int64_t width = x->bytes / x->n;
    for (int64_t i = 0; i < x->n; i++) {
        uint64_t upper = sy_hash_add(key, (uint64_t)i) >> 32;
        int q = (int)((upper * steps) >> 32) - x->range;
        float v = (float)(x->offset + ldexp(q, -x->shift));
        if (!store(x->dtype, v, t->data + x->off + i * width)) return false;
    }
    return true;
}

static sy_status fill(table *t, sy_dtype dtype) {
    sy_status st = SY_OK;
    char hash[17];
    const char *expected = NULL;
    t->data = malloc((size_t)t->bytes);
    if (t->data == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %" PRId64 " bytes", t->bytes);
    for (int i = 0; i < t->n_tensors; i++)
        if (!fill_tensor(t, &t->tensor[i]))
            SY_FAIL(SY_ERR_FORMAT, "%s: %s: %s does not hold its values exactly", t->where,
                    t->tensor[i].name, sy_dtype_name(t->tensor[i].dtype));
    SY_TRY(sy_json_get_string(json_object_get(t->root, "hashes"), t->where,
                              sy_dtype_name(dtype), &expected));
    snprintf(hash, sizeof hash, "%016" PRIx64, sy_hash_bytes(0, t->data, (size_t)t->bytes));
    if (expected == NULL || strcmp(hash, expected) != 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected the hash %s of all values in %s, found %s",
                t->where, expected == NULL ? "(none)" : expected, sy_dtype_name(dtype), hash);
done:
    return st;
}

/* Tensors [first, end) of 4 bytes a value, and then of 2, so that none begins at an odd place. */
static void write_header(FILE *file, const table *t, int first, int end) {
    int64_t off = 0;
    const char *comma = "";
    fputs("{\"__metadata__\":{\"format\":\"pt\"},", file);
    for (int pass = 0; pass < 2; pass++)
        for (int i = first; i < end; i++) {
            const tensor *x = &t->tensor[i];
            if ((x->dtype == SY_F32) != (pass == 0)) continue;
            fprintf(file, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", comma, x->name,
                    sy_dtype_name(x->dtype));
            for (int d = 0; d < x->n_dims; d++)
                fprintf(file, "%s%" PRId64, d == 0 ? "" : ",", x->dim[d]);
            fprintf(file, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", off, off + x->bytes);
            off += x->bytes;
            comma = ",";
        }
    fputc('}', file);
}

static sy_status
write_file(const char *directory, const char *name, const table *t, int first, int end) {
    sy_status st = SY_OK;
    char path[MAX_PATH], *header = NULL;
    size_t size = 0;
    FILE *file = NULL, *memory = open_memstream(&header, &size);
    if (memory == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a header");
    write_header(memory, t, first, end);
    if (fclose(memory) != 0) SY_FAIL(SY_ERR_MEMORY, "no memory for a header");
    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "wb");
    if (file == NULL) SY_FAIL(SY_ERR_IO, "%s: cannot be written", path);
    uint64_t padded = (size + 7) / 8 * 8;
    fwrite(&padded, sizeof padded, 1, file);
    fprintf(file, "%s%*s", header, (int)(padded - size), "");
    for (int pass = 0; pass < 2; pass++)
        for (int i = first; i < end; i++)
            if ((t->tensor[i].dtype == SY_F32) == (pass == 0))
                fwrite(t->data + t->tensor[i].off, 1, (size_t)t->tensor[i].bytes, file);
    if (ferror(file)) SY_FAIL(SY_ERR_IO, "%s: cannot be written", path);
done:
    if (file != NULL && fclose(file) != 0 && st == SY_OK)
        st = sy_fail(SY_ERR_IO, "%s: cannot be written", path);
    free(header);
    return st;
}

/* The first tensor of a shard: shards are equally long but for the length of a tensor. */
static int shard_start(const table *t, int shard, int n_shards) {
    int i = shard;
    while (i < t->n_tensors - (n_shards - shard) &&
           t->tensor[i].off < t->bytes / n_shards * shard)
        i++;
    return shard == n_shards ? t->n_tensors : i;
}

static sy_status write_shards(const char *directory, const table *t, int n_shards) {
    sy_status st = SY_OK;
    char name[MAX_PATH], path[MAX_PATH + 16];
    json_t *map = json_object(), *index = NULL;
    for (int s = 0; s < n_shards; s++) {
        int first = shard_start(t, s, n_shards), end = shard_start(t, s + 1, n_shards);
        snprintf(name, sizeof name, "%s-%05d-of-%05d.safetensors", t->stem, s + 1, n_shards);
        for (int i = first; i < end; i++)
            json_object_set_new(map, t->tensor[i].name, json_string(name));
        SY_TRY(write_file(directory, name, t, first, end));
    }
    index = json_pack("{s:{s:I},s:O}", "metadata", "total_size", (json_int_t)t->bytes,
                      "weight_map", map);
    snprintf(path, sizeof path, "%s/%s.safetensors.index.json", directory, t->stem);
    if (index == NULL || json_dump_file(index, path, JSON_INDENT(2)) != 0)
        SY_FAIL(SY_ERR_IO, "%s: cannot be written", path);
done:
    json_decref(index);
    json_decref(map);
    return st;
}

/* A file that is not there is not copied. */
static sy_status
copy_file(const char *source, const char *from, const char *target, const char *to) {
    char path[MAX_PATH], *data = NULL;
    size_t size;
    snprintf(path, sizeof path, "%s/%s", source, from);
    if (access(path, F_OK) != 0) return SY_OK;
    sy_status st = sy_read_file(path, SY_JSON_MAX_CONFIG, &data, &size);
    if (st != SY_OK) return st;
    snprintf(path, sizeof path, "%s/%s", target, to);
    FILE *file = fopen(path, "wb");
    bool written = file != NULL && fwrite(data, 1, size, file) == size;
    if (file != NULL && fclose(file) != 0) written = false;
    free(data);
    return written ? SY_OK : sy_fail(SY_ERR_IO, "%s: cannot be written", path);
}

static sy_status
copy_configs(const char *source, const char *target, const sy_seeded_options *o) {
    static const char *const files[] = {"generation_config.json", "params.json"};
    sy_status st = SY_OK;
    SY_TRY(copy_file(source, o->config == NULL ? "config.json" : o->config, target,
                     "config.json"));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        SY_TRY(copy_file(source, files[i], target, files[i]));
done:
    return st;
}

sy_status
sy_seeded_write(const char *source, const char *target, const sy_seeded_options *options) {
    sy_status st = SY_OK;
    char path[MAX_PATH];
    table t = {0};
    snprintf(path, sizeof path, "%s/tensors.json", source);
    SY_TRY(read_table(path, options->dtype, &t));
    SY_TRY(fill(&t, options->dtype));
    SY_TRY(copy_configs(source, target, options));
    if (options->n_shards > t.n_tensors)
        SY_FAIL(SY_ERR_USAGE, "%s: %d shards of %d tensors", path, options->n_shards,
                t.n_tensors);
    if (options->n_shards > 1) {
        SY_TRY(write_shards(target, &t, options->n_shards));
    } else {
        char name[MAX_PATH];
        snprintf(name, sizeof name, "%s.safetensors", t.stem);
        SY_TRY(write_file(target, name, &t, 0, t.n_tensors));
    }
done:
    free(t.data);
    free(t.tensor);
    json_decref(t.root);
    return st;
}

sy_status sy_seeded_create(const char *source,
                           const sy_seeded_options *options,
                           char *directory,
                           size_t size) {
    const char *root = getenv("TMPDIR");
    int n = snprintf(directory, size, "%s/sy_seeded_XXXXXX", root == NULL ? "/tmp" : root);
    if (n < 0 || (size_t)n >= size || mkdtemp(directory) == NULL)
        return sy_fail(SY_ERR_IO, "no directory can be made like %s", directory);
    sy_status st = sy_seeded_write(source, directory, options);
    if (st != SY_OK) sy_seeded_remove(directory);
    return st;
}

void sy_seeded_remove(const char *directory) {
    char path[MAX_PATH + 256];
    DIR *dir = opendir(directory);
    for (const struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", directory, e->d_name);
        unlink(path);
    }
    if (dir != NULL) closedir(dir);
    rmdir(directory);
}

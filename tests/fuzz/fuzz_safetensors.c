/* A safetensors file: the first byte of the input is the number of data bytes, the rest the
 * header; with the first byte 255 the rest is the whole file, length field and all.
 *
 * What is accepted must tile the file, have ordered names, and be JSON for jansson too. */
#define _GNU_SOURCE /* memfd_create */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "json_oracle.h"
#include "runtime/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(int fd, const void *bytes, size_t n) {
    if (n > 0 && write(fd, bytes, n) != (ssize_t)n) abort();
}

static void check_table(const sy_safetensors *table, uint64_t data_offset) {
    uint64_t bytes = 0;
    for (int i = 0; i < table->n_tensors; i++) {
        const sy_tensor_entry *t = &table->tensor[i];
        if (i > 0 && strcmp(table->tensor[i - 1].name, t->name) >= 0) abort();
        if (t->offset < data_offset || t->bytes > table->file_bytes - t->offset) abort();
        if (t->rank < 0 || t->rank > SY_TENSOR_MAX_RANK || t->name[0] == '\0') abort();
        bytes += t->bytes;
    }
    if (bytes != table->file_bytes - data_offset) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    int n_data = data[0];
    uint64_t n_header = size - 1;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0) abort();
    if (n_data != 255) {
        static const char zeros[255];
        unsigned char length[8];
        for (int i = 0; i < 8; i++)
            length[i] = (unsigned char)(n_header >> (8 * i));
        put(fd, length, sizeof length);
        put(fd, data + 1, size - 1);
        put(fd, zeros, (size_t)n_data);
    } else {
        put(fd, data + 1, size - 1);
    }
    sy_safetensors *table = NULL;
    if (sy_safetensors_read(fd, "fuzz", &table) == SY_OK) {
        if (n_data != 255) {
            check_table(table, 8 + n_header);
            check_json((const char *)data + 1, size - 1);
        }
    } else if (table != NULL) {
        abort();
    }
    sy_safetensors_destroy(table);
    close(fd);
    return 0;
}

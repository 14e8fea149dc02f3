/* Arbitrary bytes as loads.json: refused with a text, or counts that are conserved. */
#define _GNU_SOURCE /* memfd_create */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/loads_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    sy_loads_file *f;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || (size > 0 && write(fd, data, size) != (ssize_t)size)) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (sy_loads_read(path, &f) == SY_OK) {
        for (int i = 0; i < f->n_layers; i++) {
            uint64_t sum = 0;
            for (int e = 0; e < f->layer[i].experts; e++)
                sum += sy_loads_of(f, i, e);
            if (sum != f->tokens * (uint64_t)f->layer[i].top_k) abort();
        }
    } else if (sy_last_error()[0] == '\0') {
        abort();
    }
    sy_loads_file_free(f);
    close(fd);
    return 0;
}

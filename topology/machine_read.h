/* How the parts of the probe read /sys and /proc. Nothing here fails: what cannot be read is not
 * there. Local to topology/machine_*.c. */
#ifndef SY_TOPOLOGY_MACHINE_READ_H
#define SY_TOPOLOGY_MACHINE_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "topology/machine_probe.h"

enum { SY_READ_PATH = 1024, SY_READ_ENTRIES = 8192, SY_READ_NAME = 64 };

/* The path of a file: root, then the formatted rest. False if it is too long. */
bool sy_read_path(char path[SY_READ_PATH], const char *root, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* At most size - 1 bytes of a regular file, NUL-terminated; false if there are none. A NUL in the
 * content ends it. */
bool sy_read_head(const char *root, const char *file, char *buf, size_t size);
/* Its first line, printable and without blanks around it. */
bool sy_read_line(const char *root,
                  const char *folder,
                  const char *name,
                  char *buf,
                  size_t size);
/* Its first line as a whole number with nothing behind; false, and *out untouched, otherwise. */
bool sy_read_number(const char *root, const char *folder, const char *name, int64_t *out);
bool sy_read_exists(const char *root, const char *folder, const char *name);

/* The names in a folder, sorted, less those that begin with a dot, are too long or not
 * printable. */
typedef struct sy_read_list {
    int n;
    char (*name)[SY_READ_NAME];
} sy_read_list;
sy_status sy_read_folder(const char *root, const char *folder, sy_read_list *out);
void sy_read_list_free(sy_read_list *list);

/* Copies what is printable ASCII, '?' for the rest, cut to fit, no blanks at either end. */
void sy_read_copy(char *to, size_t size, const char *from, size_t n);

/* Fills address, path, node and link of the PCI function that a folder below /sys is, or hangs
 * below. */
void sy_read_pci(const char *root, const char *folder, sy_machine_pci *out);

/* The parts of the probe. */
sy_status sy_probe_cores(sy_machine *machine);
sy_status sy_probe_devices(const sy_machine_sources *sources, sy_machine *machine);
sy_status sy_probe_nics(const sy_machine_sources *sources, sy_machine *machine);

#endif

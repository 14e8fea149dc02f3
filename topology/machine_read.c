#include "topology/machine_read.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files ---- */

bool sy_read_path(char path[SY_READ_PATH], const char *root, const char *format, ...) {
    size_t n = strlen(root);
    va_list arguments;
    if (n >= SY_READ_PATH) return false;
    memcpy(path, root, n + 1);
    va_start(arguments, format);
    int more = vsnprintf(path + n, SY_READ_PATH - n, format, arguments);
    va_end(arguments);
    return more >= 0 && (size_t)more < SY_READ_PATH - n;
}

/* A fifo or a terminal in a file's place must not make the probe wait. */
static int open_regular(const char *path) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) return -1;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) return fd;
    close(fd);
    return -1;
}

bool sy_read_head(const char *root, const char *file, char *buf, size_t size) {
    char path[SY_READ_PATH];
    size_t n = 0;
    buf[0] = '\0';
    if (!sy_read_path(path, root, "%s", file)) return false;
    int fd = open_regular(path);
    if (fd < 0) return false;
    while (n < size - 1) {
        ssize_t got = read(fd, buf + n, size - 1 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        n += (size_t)got;
    }
    close(fd);
    buf[n] = '\0';
    return n > 0;
}

void sy_read_copy(char *to, size_t size, const char *from, size_t n) {
    while (n > 0 && (*from == ' ' || *from == '\t')) {
        from++;
        n--;
    }
    if (n > size - 1) n = size - 1;
    for (size_t i = 0; i < n; i++)
        to[i] = from[i] == '\t' ? ' ' : from[i] >= ' ' && from[i] <= '~' ? from[i] : '?';
    while (n > 0 && to[n - 1] == ' ')
        n--;
    to[n] = '\0';
}

bool sy_read_line(const char *root,
                  const char *folder,
                  const char *name,
                  char *buf,
                  size_t size) {
    char file[SY_READ_PATH], text[512];
    buf[0] = '\0';
    if (!sy_read_path(file, folder, "/%s", name)) return false;
    if (!sy_read_head(root, file, text, sizeof text)) return false;
    sy_read_copy(buf, size, text, strcspn(text, "\n"));
    return buf[0] != '\0';
}

bool sy_read_number(const char *root, const char *folder, const char *name, int64_t *out) {
    char text[32], *end;
    if (!sy_read_line(root, folder, name, text, sizeof text)) return false;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0) return false;
    *out = n;
    return true;
}

bool sy_read_exists(const char *root, const char *folder, const char *name) {
    char path[SY_READ_PATH];
    return sy_read_path(path, root, "%s/%s", folder, name) && access(path, F_OK) == 0;
}

/* ---- folders ---- */

static bool is_usable(const char *name) {
    size_t n = strlen(name);
    if (name[0] == '.' || n >= SY_READ_NAME) return false;
    for (size_t i = 0; i < n; i++)
        if (name[i] <= ' ' || name[i] > '~') return false;
    return true;
}

static int by_name(const void *a, const void *b) {
    return strcmp(a, b);
}

sy_status sy_read_folder(const char *root, const char *folder, sy_read_list *out) {
    char path[SY_READ_PATH];
    *out = (sy_read_list){0};
    DIR *dir = sy_read_path(path, root, "%s", folder) ? opendir(path) : NULL;
    if (dir == NULL) return SY_OK;
    out->name = calloc(SY_READ_ENTRIES, sizeof *out->name);
    if (out->name == NULL) {
        closedir(dir);
        return sy_fail(SY_ERR_MEMORY, "no memory for the list of %s", folder);
    }
    for (struct dirent *entry; out->n < SY_READ_ENTRIES && (entry = readdir(dir)) != NULL;)
        if (is_usable(entry->d_name)) strcpy(out->name[out->n++], entry->d_name);
    closedir(dir);
    qsort(out->name, (size_t)out->n, sizeof *out->name, by_name);
    return SY_OK;
}

void sy_read_list_free(sy_read_list *list) {
    free(list->name);
    *list = (sy_read_list){0};
}

/* ---- PCI ---- */

/* "32.0 GT/s PCIe", also "8 GT/s"; 0 if it is something else. */
static double read_speed(const char *root, const char *folder, const char *name) {
    char text[32], *end;
    if (!sy_read_line(root, folder, name, text, sizeof text)) return 0;
    double speed = strtod(text, &end);
    return strncmp(end, " GT/s", 5) == 0 && speed > 0 && speed < 1000 ? speed : 0;
}

static int read_lanes(const char *root, const char *folder, const char *name) {
    int64_t lanes = 0;
    if (!sy_read_number(root, folder, name, &lanes)) return 0;
    return lanes > 0 && lanes <= 32 ? (int)lanes : 0;
}

/* Bridges in front of the last PCI address in the path; the path is cut behind that address. */
static void split_path(char *path, sy_machine_pci *out) {
    char *last = NULL;
    size_t last_length = 0;
    unsigned part[4];
    for (char *at = path; *at != '\0';) {
        size_t n = strcspn(at, "/");
        char name[16] = "";
        if (n < sizeof name) {
            memcpy(name, at, n);
            if (sy_pci_parse(name, part)) {
                last = at;
                last_length = n;
            }
        }
        at += n + (at[n] == '/');
    }
    if (last == NULL) return;
    memcpy(out->address, last, last_length);
    out->address[last_length] = '\0';
    last[last_length] = '\0';
    size_t n = last > path ? (size_t)(last - path) - 1 : 0;
    while (n >= sizeof out->path) /* so many bridges: those nearest to the root */
        do
            n--;
        while (n > 0 && path[n] != '/');
    sy_read_copy(out->path, sizeof out->path, path, n);
}

static void read_link(const char *root, const char *folder, sy_machine_pci *out) {
    int64_t node;
    if (sy_read_number(root, folder, "numa_node", &node) && node >= 0 && node < INT16_MAX)
        out->node = (int)node;
    out->lanes = read_lanes(root, folder, "current_link_width");
    out->lanes_max = read_lanes(root, folder, "max_link_width");
    out->speed = read_speed(root, folder, "current_link_speed");
    out->speed_max = read_speed(root, folder, "max_link_speed");
}

void sy_read_pci(const char *root, const char *folder, sy_machine_pci *out) {
    static const char mark[] = "/sys/devices/";
    char path[SY_READ_PATH];
    *out = (sy_machine_pci){.node = -1};
    if (!sy_read_path(path, root, "%s", folder)) return;
    char *full = realpath(path, NULL), *devices = NULL;
    if (full != NULL) devices = strstr(full, mark);
    if (devices != NULL) {
        split_path(devices + sizeof mark - 1, out);
        /* The function itself, which the folder may only hang below (virtio). */
        if (out->address[0] != '\0') read_link("", full, out);
    }
    free(full);
}

#include "comm/nccl_log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

enum { LOG_MOST = 1 << 20, NAME_MOST = 32 };

void sy_nccl_log_open(sy_nccl_log *log) {
    *log = (sy_nccl_log){.fd = -1};
    const char *folder = getenv("TMPDIR");
    if (getenv("NCCL_DEBUG") != NULL || getenv("NCCL_DEBUG_FILE") != NULL) {
        log->unknown = "NCCL_DEBUG is set, so NCCL's own log tells";
        return;
    }
    if (folder == NULL || folder[0] == '\0' || strchr(folder, '%') != NULL) folder = "/tmp";
    int n = snprintf(log->path, sizeof log->path, "%s/switchyard-nccl-XXXXXX", folder);
    if (n > 0 && n < (int)sizeof log->path) log->fd = mkstemp(log->path);
    if (log->fd < 0) {
        log->unknown = "no file for NCCL's log could be made";
        return;
    }
    setenv("NCCL_DEBUG", "INFO", 1);
    setenv("NCCL_DEBUG_SUBSYS", "INIT,NET", 0);
    setenv("NCCL_DEBUG_FILE", log->path, 1);
}

const char *sy_nccl_log_network(const char *text, char *name) {
    static const char mark[] = "via NET/";
    bool found = false;
    for (const char *at = strstr(text, mark); at != NULL; at = strstr(at, mark)) {
        at += sizeof mark - 1;
        size_t n = strcspn(at, "/ \r\n");
        if (n == 0 || n >= NAME_MOST) continue;
        memcpy(name, at, n);
        name[n] = '\0';
        found = true;
        if (strcmp(name, "Socket") == 0) break;
    }
    return found ? name : NULL;
}

/* The log so far, NUL-terminated; NULL if it cannot be read. Free with free(). */
static char *read_log(const sy_nccl_log *log) {
    char *text = malloc(LOG_MOST + 1);
    size_t n = 0;
    while (text != NULL && n < LOG_MOST) {
        ssize_t got = pread(log->fd, text + n, LOG_MOST - n, (off_t)n);
        if (got <= 0) break;
        n += (size_t)got;
    }
    if (text != NULL) text[n] = '\0';
    return text;
}

void sy_nccl_log_report(sy_nccl_log *log) {
    char name[NAME_MOST];
    if (log->fd < 0) {
        SY_INFO("network  not known: %s", log->unknown != NULL ? log->unknown : "not asked");
        return;
    }
    char *text = read_log(log);
    const char *network = text == NULL ? NULL : sy_nccl_log_network(text, name);
    if (network == NULL)
        SY_INFO("network  not known: NCCL's log has no line \"via NET/...\" for this rank");
    else if (strcmp(network, "Socket") == 0)
        SY_WARN(
            "NCCL sends rows between machines by TCP (\"via NET/Socket\" in its log), not by "
            "RDMA: expect a fraction of the speed; NCCL_DEBUG=INFO shows why");
    else
        SY_INFO("network  NCCL over %s", network);
    free(text);
    sy_nccl_log_close(log);
}

void sy_nccl_log_close(sy_nccl_log *log) {
    if (log->fd < 0) return;
    /* They were set here, and NCCL has read them: a later wire may ask anew. */
    unsetenv("NCCL_DEBUG");
    unsetenv("NCCL_DEBUG_FILE");
    unlink(log->path);
    close(log->fd);
    log->fd = -1;
}

/* Which way NCCL's rows take between machines. NCCL falls back to TCP without an error and has no
 * call that tells, but it logs each connection; so its log is directed into a file of ours while
 * the connections are made, and read. */
#ifndef SY_COMM_NCCL_LOG_H
#define SY_COMM_NCCL_LOG_H

#include <stdbool.h>

typedef struct sy_nccl_log {
    int fd; /* of the file, which has no name any more once it was read; -1: none */
    char path[256];
    const char *unknown; /* why there is none */
} sy_nccl_log;

/* Before the first call of NCCL: asks for a log by NCCL_DEBUG and NCCL_DEBUG_FILE, unless the user
 * has set one of them. */
void sy_nccl_log_open(sy_nccl_log *log);
/* After the first exchange: tells the user what the log says. */
void sy_nccl_log_report(sy_nccl_log *log);
void sy_nccl_log_close(sy_nccl_log *log);

/* What the lines of a log say: the name behind "via NET/", or NULL if no such line is there. In
 * `name`, of at least 32 bytes; "Socket" if any connection is one. */
const char *sy_nccl_log_network(const char *text, char *name);

#endif

/* Inside comm/liveness: other processes of this machine, safe against reused process numbers. */
#ifndef SY_COMM_LIVENESS_PROCESS_H
#define SY_COMM_LIVENESS_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

/* How a process is told from any other. */
typedef struct sy_process_card {
    uint64_t start_time;    /* clock ticks after boot, /proc/PID/stat field 22 */
    uint64_t pid_namespace; /* pids of another one mean nothing here */
    int32_t pid;
    int32_t padding;
} sy_process_card;

typedef struct sy_process {
    sy_process_card card;
    bool known; /* same pid namespace, and it was there when opened */
    int pidfd;  /* readable once it has ended; -1: old kernel, the card is compared instead */
} sy_process;

sy_process_card sy_process_self(void);
void sy_process_open(sy_process *p, const sy_process_card *card);
void sy_process_close(sy_process *p);
/* False only if it is known to have ended; a zombie has ended. */
bool sy_process_lives(const sy_process *p);
/* SIGKILL, also to a stopped one. */
void sy_process_kill(const sy_process *p);

#endif

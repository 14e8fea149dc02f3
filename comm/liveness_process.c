#include "comm/liveness_process.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* State letter and start time from /proc/PID/stat. The name in field 2 may hold anything, so the
 * fields are counted from its last parenthesis. */
static bool read_stat(int pid, char *state, uint64_t *start_time) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *p = strrchr(text, ')');
    unsigned long long start = 0;
    if (p == NULL || sscanf(p + 1,
                            " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                            "%*s %*s %*s %*s %llu",
                            state, &start) != 2)
        return false;
    *start_time = start;
    return true;
}

sy_process_card sy_process_self(void) {
    sy_process_card card = {.pid = (int32_t)getpid()};
    char state;
    struct stat namespace_file;
    if (!read_stat(card.pid, &state, &card.start_time)) card.start_time = 0;
    if (stat("/proc/self/ns/pid", &namespace_file) == 0)
        card.pid_namespace = (uint64_t)namespace_file.st_ino;
    return card;
}

/* Whether the number still belongs to the same process, and that has not ended. */
static bool same_and_alive(const sy_process_card *card) {
    char state;
    uint64_t start;
    return read_stat(card->pid, &state, &start) && start == card->start_time && state != 'Z' &&
           state != 'X';
}

void sy_process_open(sy_process *p, const sy_process_card *card) {
    *p = (sy_process){.card = *card, .pidfd = -1};
    sy_process_card self = sy_process_self();
    bool comparable = card->pid_namespace != 0 && card->start_time != 0 &&
                      card->pid_namespace == self.pid_namespace;
    if (!comparable) return;
    /* Opened first, compared then: afterwards the handle cannot change its meaning. */
    p->pidfd = (int)syscall(SYS_pidfd_open, card->pid, 0);
    p->known = same_and_alive(card);
    if (!p->known) sy_process_close(p);
}

void sy_process_close(sy_process *p) {
    if (p->pidfd >= 0) close(p->pidfd);
    p->pidfd = -1;
    p->known = false;
}

bool sy_process_lives(const sy_process *p) {
    if (!p->known) return true;
    if (p->pidfd < 0) return same_and_alive(&p->card);
    struct pollfd ended = {p->pidfd, POLLIN, 0};
    return poll(&ended, 1, 0) != 1;
}

void sy_process_kill(const sy_process *p) {
    if (!p->known) return;
    if (p->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0);
    else if (same_and_alive(&p->card))
        kill(p->card.pid, SIGKILL);
}

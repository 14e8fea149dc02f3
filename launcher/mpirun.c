/* pipe2 */
#define _GNU_SOURCE

#include "launcher/mpirun.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher/frames.h"

enum { MAX_FIXED_ARGS = 32, MAX_SLOTS = 4096 };

/* ---- hosts ---- */

sy_status sy_mpirun_slots(const char *hosts, int *slots) {
    static const char *const allowed =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    *slots = 0;
    if (hosts == NULL) return SY_OK;
    for (const char *p = hosts;; p++) {
        size_t name = strspn(p, allowed);
        if (name == 0 || p[0] == '-') break;
        p += name;
        long n = 1;
        if (*p == ':') {
            char *end;
            if (p[1] < '0' || p[1] > '9') break;
            n = strtol(p + 1, &end, 10);
            p = end;
        }
        if (n < 1 || n > MAX_SLOTS - *slots) break;
        *slots += (int)n;
        if (*p == '\0') return SY_OK;
        if (*p != ',') break;
    }
    return sy_fail(SY_ERR_USAGE,
                   "--hosts: \"%s\" is not of the form HOST:N,HOST:N with at most "
                   "%d ranks in all",
                   hosts, MAX_SLOTS);
}

/* ---- the command line ---- */

/* Whether a program is found as execvp would. */
static bool in_path(const char *name) {
    const char *path = getenv("PATH");
    if (path == NULL) path = "/bin:/usr/bin";
    while (*path != '\0') {
        size_t n = strcspn(path, ":");
        char file[4096];
        snprintf(file, sizeof file, "%.*s/%s", n > 0 ? (int)n : 1, n > 0 ? path : ".", name);
        if (n < sizeof file - 64 && access(file, X_OK) == 0) return true;
        path += n + (path[n] == ':');
    }
    return false;
}

/* mpirun's arguments; only the array is allocated. */
static char **build_arguments(const sy_options *options, char *self, char *n_text) {
    char **argv = calloc((size_t)(MAX_FIXED_ARGS + options->n_rank_args), sizeof *argv);
    if (argv == NULL) return NULL;
    int n = 0;
#define ADD(text) argv[n++] = (char *)(text)
    ADD("mpirun");
    if (n_text[0] != '\0') {
        ADD("-n");
        ADD(n_text);
    }
    if (options->hosts != NULL) {
        ADD("--host");
        ADD(options->hosts);
    } else if (options->hostfile != NULL) {
        ADD("--hostfile");
        ADD(options->hostfile);
    } else {
        ADD("--oversubscribe"); /* this host takes as many as asked for */
    }
    ADD("--map-by");
    ADD("slot");
    ADD("--bind-to"); /* Open MPI would put all threads of a rank on one core */
    ADD("none");
    ADD("--mca");
    ADD("mpi_yield_when_idle");
    ADD("1");
    ADD("--mca"); /* Ctrl-Z reaches the ranks of all hosts */
    ADD("orte_forward_job_control");
    ADD("1");
    ADD("--mca"); /* else mpirun and its daemons notice a cut cable after eight minutes: */
    ADD("oob_tcp_keepalive_time"); /* 10 s of silence, then 3 probes at 3 s */
    ADD("10");
    ADD("--mca");
    ADD("oob_tcp_keepalive_intvl");
    ADD("3");
    ADD("--mca");
    ADD("oob_tcp_keepalive_probes");
    ADD("3");
    ADD("-x");
    ADD(SY_FRONTEND_VARIABLE);
    ADD(self);
#undef ADD
    for (int i = 0; i < options->n_rank_args; i++)
        argv[n++] = options->rank_args[i];
    return argv;
}

/* ---- the child ---- */

/* Between fork and exec. Reports a failed exec through `report` and does not return. */
static void
become_mpirun(char **argv, const char *where, pid_t parent, int out, int err, int report) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1); /* it died before the line above */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);

    int null = open("/dev/null", O_RDONLY);
    if (null >= 0) dup2(null, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    setenv(SY_FRONTEND_VARIABLE, where, 1);
    if (geteuid() == 0) {
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    }
    execvp(argv[0], argv);
    int error = errno;
    if (write(report, &error, sizeof error) < 0) _exit(1);
    _exit(1);
}

static void close_pair(int pair[2]) {
    for (int i = 0; i < 2; i++)
        if (pair[i] >= 0) close(pair[i]);
}

static sy_status self_path(char *path, size_t size) {
    ssize_t n = readlink("/proc/self/exe", path, size - 1);
    if (n < 0) return sy_fail(SY_ERR_IO, "/proc/self/exe: %s", strerror(errno));
    path[n] = '\0';
    return SY_OK;
}

/* Forks; returns once the child runs mpirun, or has failed to. */
static sy_status spawn(char **argv, const char *where, int out, int err, pid_t *pid) {
    sy_status st = SY_OK;
    int report[2] = {-1, -1};
    if (pipe2(report, O_CLOEXEC) != 0) SY_FAIL(SY_ERR_IO, "pipe: %s", strerror(errno));
    pid_t parent = getpid();
    *pid = fork();
    if (*pid < 0) SY_FAIL(SY_ERR_IO, "fork: %s", strerror(errno));
    if (*pid == 0) become_mpirun(argv, where, parent, out, err, report[1]);
    setpgid(*pid, *pid); /* as the child does; whoever is first */
    close(report[1]);
    report[1] = -1;
    int error;
    ssize_t n;
    do {
        n = read(report[0], &error, sizeof error);
    } while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof error) {
        waitpid(*pid, NULL, 0);
        SY_FAIL(SY_ERR_IO, "starting mpirun: %s", strerror(error));
    }
done:
    close_pair(report);
    return st;
}

sy_status sy_mpirun_start(const sy_options *options, const char *where, sy_mpirun *out) {
    sy_status st = SY_OK;
    int out_pipe[2] = {-1, -1}, err_pipe[2] = {-1, -1};
    char **argv = NULL;
    char self[4096], n_text[16] = "";
    if (!in_path("mpirun"))
        SY_FAIL(SY_ERR_COMM, "mpirun is not in PATH: -n needs Open MPI (Debian, Ubuntu: "
                             "openmpi-bin)");
    SY_TRY(self_path(self, sizeof self));
    if (options->n_ranks > 0) snprintf(n_text, sizeof n_text, "%d", options->n_ranks);
    argv = build_arguments(options, self, n_text);
    if (argv == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for mpirun's arguments");
    if (pipe2(out_pipe, O_CLOEXEC) != 0 || pipe2(err_pipe, O_CLOEXEC) != 0)
        SY_FAIL(SY_ERR_IO, "pipe: %s", strerror(errno));
    SY_TRY(spawn(argv, where, out_pipe[1], err_pipe[1], &out->pid));
    out->out = out_pipe[0];
    out->err = err_pipe[0];
    out_pipe[0] = err_pipe[0] = -1;
done:
    close_pair(out_pipe);
    close_pair(err_pipe);
    free(argv);
    return st;
}

#include "launcher/output.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "launcher/wire.h"
#include "launcher/signals.h"
#include "launcher/terminal.h"

enum { READ_STEP = 32768, PROGRESS_NS = 100000000 };

/* The process has one stdout, and so there is one of these. */
static struct {
    sy_wire *wire; /* NULL: we write ourselves */
    int rank, n_ranks;
    bool joined; /* rank and n_ranks are known from MPI */
    char host[128];
    bool quiet;
    bool remote_front_end;          /* there is one, on another host */
    char token[SY_TOKEN_CHARS + 1]; /* of that one */
    int out_errno;
    atomic_bool final;
    pthread_mutex_t stderr_lock; /* of the bar and of lines on stderr */
    sy_bar bar;
    int64_t next_progress_ns;
    /* stdin, read but not yet taken */
    char *in;
    size_t in_used, in_capacity;
    bool in_end;
} output = {.n_ranks = 1, .stderr_lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- the log and the final line ---- */

static void write_line(const char *prefix, const char *line) {
    pthread_mutex_lock(&output.stderr_lock);
    sy_bar_clear(&output.bar);
    fprintf(stderr, "%s%s\n", prefix, line);
    pthread_mutex_unlock(&output.stderr_lock);
}

static void log_sink(sy_log_level level, const char *line, void *context) {
    (void)context;
    if (output.wire != NULL) {
        char byte = (char)level;
        sy_wire_send(output.wire, SY_FRAME_LOG, &byte, 1, line, strlen(line));
    } else {
        write_line(level == SY_LOG_WARNING ? "warning: " : "", line);
    }
}

/* Straight to the descriptor: the thread that holds stderr may be the one that hangs. */
static void write_final(const char *text) {
    static const char prefix[] = "switchyard: error: ";
    char line[sizeof prefix + SY_ERROR_TEXT_MAX + 1];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec++;
    bool locked = pthread_mutex_timedlock(&output.stderr_lock, &now) == 0;
    if (locked) sy_bar_clear(&output.bar);
    int n = snprintf(line, sizeof line, "%s%.*s\n", prefix, SY_ERROR_TEXT_MAX - 1, text);
    if (n > 0 && write(STDERR_FILENO, line, (size_t)n) < 0) errno = 0; /* no place is left */
    if (locked) pthread_mutex_unlock(&output.stderr_lock);
}

/* Ranks agree on failures (sy_comm_agree), and then rank 0 speaks for all. A rank whose peers are
 * lost, or that never met them, speaks for itself. */
static bool others_speak(sy_status status) {
    return output.joined && output.rank != 0 && output.wire == NULL && status != SY_ERR_COMM &&
           status != SY_ERR_PEER;
}

/* An agreed text, and a watchdog's, name the rank themselves. */
static void name_speaker(char *out, size_t size, const char *text) {
    bool named = output.n_ranks == 1 || strncmp(text, "rank ", 5) == 0;
    if (named)
        snprintf(out, size, "%s", text);
    else
        snprintf(out, size, "[rank %d on host %s] %s", output.rank, output.host, text);
}

bool sy_output_final(sy_status status, const char *error) {
    if (atomic_exchange(&output.final, true) || others_speak(status)) return false;
    char text[SY_ERROR_TEXT_MAX];
    name_speaker(text, sizeof text, error);
    int32_t code = (int32_t)status;
    bool said = output.wire != NULL && sy_wire_send_urgent(output.wire, SY_FRAME_STATUS, &code,
                                                           sizeof code, text, strlen(text));
    if (!said && status != SY_OK) write_final(text);
    return said;
}

void sy_output_peer_lost(void *context, const char *line) {
    (void)context;
    sy_output_final(SY_ERR_PEER, line);
}

/* ---- opening and closing ---- */

sy_status sy_output_open(const sy_options *options) {
    sy_status st = SY_OK;
    output.quiet = options->quiet;
    output.rank = options->world_rank > 0 ? options->world_rank : 0;
    sy_bar_init(&output.bar, !options->quiet);
    sy_log_set_level(options->verbose ? SY_LOG_DEBUG
                     : options->quiet ? SY_LOG_WARNING
                                      : SY_LOG_INFO);
    if (options->front_end != NULL) {
        SY_TRY(sy_wire_open(options->front_end, output.rank, &output.wire));
        output.remote_front_end = output.wire == NULL;
        snprintf(output.token, sizeof output.token, "%s",
                 options->front_end + SY_TOKEN_CHARS + 1);
    }
    sy_log_set_sink(log_sink, NULL);
done:
    return st;
}

void sy_output_joined(int rank, int n_ranks, const char *host) {
    output.joined = true;
    output.rank = rank;
    output.n_ranks = n_ranks;
    snprintf(output.host, sizeof output.host, "%s", host);
    sy_log_set_rank(rank, n_ranks);
    if (output.wire != NULL)
        sy_wire_send(output.wire, SY_FRAME_STARTED, NULL, 0, NULL, 0);
    else if (output.remote_front_end && rank == 0)
        write_line(SY_STARTED_LINE, output.token);
}

void sy_output_close(void) {
    pthread_mutex_lock(&output.stderr_lock);
    sy_bar_clear(&output.bar);
    pthread_mutex_unlock(&output.stderr_lock);
    sy_log_set_sink(NULL, NULL);
    sy_wire_close(output.wire);
    output.wire = NULL;
    free(output.in);
    output.in = NULL;
    output.in_used = output.in_capacity = 0;
}

bool sy_interrupted(void) {
    return sy_signals_interrupted();
}

/* ---- results ---- */

static sy_status out_failed(void) {
    return sy_fail(SY_ERR_IO, "writing to stdout: %s", strerror(output.out_errno));
}

static sy_status write_stdout(const char *data, size_t n) {
    if (output.out_errno != 0) return out_failed();
    pthread_mutex_lock(&output.stderr_lock);
    sy_bar_clear(&output.bar);
    pthread_mutex_unlock(&output.stderr_lock);
    while (n > 0) {
        ssize_t done = write(STDOUT_FILENO, data, n);
        if (done < 0 && errno == EINTR) {
            if (sy_interrupted()) return sy_fail(SY_ERR_INTERRUPTED, "interrupted");
            continue;
        }
        if (done < 0) {
            output.out_errno = errno;
            return out_failed();
        }
        data += done;
        n -= (size_t)done;
    }
    return SY_OK;
}

sy_status sy_out_write(const char *data, size_t n) {
    if (output.wire == NULL) return write_stdout(data, n);
    while (n > 0) {
        size_t part = n < SY_FRAME_MAX ? n : SY_FRAME_MAX;
        sy_wire_send(output.wire, SY_FRAME_RESULT, data, part, NULL, 0);
        data += part;
        n -= part;
    }
    return sy_wire_check(output.wire);
}

sy_status sy_out_printf(const char *format, ...) {
    char small[512], *text = small;
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    sy_status st = SY_OK;
    if (n < 0) SY_FAIL(SY_ERR_INTERNAL, "text for stdout cannot be formatted");
    if (n >= (int)sizeof small) {
        text = malloc((size_t)n + 1);
        if (text == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %d bytes of text", n);
        vsnprintf(text, (size_t)n + 1, format, again);
    }
    SY_TRY(sy_out_write(text, (size_t)n));
done:
    va_end(again);
    if (text != small) free(text);
    return st;
}

sy_status sy_out_flush(void) {
    if (output.wire != NULL) return sy_wire_flush(output.wire);
    return output.out_errno != 0 ? out_failed() : SY_OK;
}

void sy_out_progress(const char *what, double share, const char *detail) {
    if (output.quiet || output.rank != 0) return;
    if (detail == NULL) detail = "";
    if (output.wire == NULL) {
        pthread_mutex_lock(&output.stderr_lock);
        sy_bar_update(&output.bar, what, share, detail);
        pthread_mutex_unlock(&output.stderr_lock);
        return;
    }
    int64_t now = sy_now_ns();
    if (share < 1 && now < output.next_progress_ns) return;
    output.next_progress_ns = share < 1 ? now + PROGRESS_NS : 0;
    char text[256];
    int n = snprintf(text, sizeof text, "%.100s%c%.100s", what, '\0', detail);
    sy_wire_send(output.wire, SY_FRAME_PROGRESS, &share, sizeof share, text, (size_t)n);
}

bool sy_out_is_terminal(void) {
    if (output.wire != NULL) return sy_wire_stdout_is_terminal(output.wire);
    return isatty(STDOUT_FILENO);
}

/* ---- stdin ---- */

static sy_status read_stdin(char *buffer, size_t max, size_t *n) {
    if (output.wire != NULL) return sy_wire_read(output.wire, buffer, max, n);
    for (;;) {
        if (sy_interrupted()) return sy_fail(SY_ERR_INTERRUPTED, "interrupted");
        ssize_t got = read(STDIN_FILENO, buffer, max);
        if (got >= 0) {
            *n = (size_t)got;
            return SY_OK;
        }
        if (errno != EINTR) return sy_fail(SY_ERR_IO, "reading stdin: %s", strerror(errno));
    }
}

/* Reads once more into the buffer; in_end tells when there is no more. */
static sy_status fill(void) {
    sy_status st = SY_OK;
    if (output.in_capacity - output.in_used < READ_STEP) {
        size_t capacity = 2 * output.in_capacity + READ_STEP;
        char *more = realloc(output.in, capacity);
        if (more == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %zu bytes of stdin", capacity);
        output.in = more;
        output.in_capacity = capacity;
    }
    size_t n = 0;
    SY_TRY(read_stdin(output.in + output.in_used, READ_STEP, &n));
    output.in_used += n;
    output.in_end = n == 0;
done:
    return st;
}

/* Moves the first n bytes of the buffer into memory of their own, a NUL behind them. */
static sy_status take(size_t n, char **out) {
    char *text = malloc(n + 1);
    if (text == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %zu bytes of stdin", n);
    if (n > 0) memcpy(text, output.in, n);
    text[n] = '\0';
    *out = text;
    output.in_used -= n;
    if (output.in_used > 0) memmove(output.in, output.in + n, output.in_used);
    return SY_OK;
}

sy_status sy_in_read_all(size_t max, char **out, size_t *n) {
    sy_status st = SY_OK;
    while (!output.in_end && output.in_used <= max)
        SY_TRY(fill());
    if (output.in_used > max) SY_FAIL(SY_ERR_IO, "stdin is longer than %zu bytes", max);
    *n = output.in_used;
    SY_TRY(take(output.in_used, out));
done:
    return st;
}

sy_status sy_in_read_line(size_t max, char **line, size_t *n) {
    sy_status st = SY_OK;
    *line = NULL;
    *n = 0;
    size_t searched = 0;
    char *newline = NULL;
    for (;;) {
        if (output.in_used > searched)
            newline = memchr(output.in + searched, '\n', output.in_used - searched);
        searched = output.in_used;
        if (newline != NULL || output.in_end || output.in_used > max) break;
        SY_TRY(fill());
    }
    size_t length = newline != NULL ? (size_t)(newline - output.in) : output.in_used;
    if (length > max) SY_FAIL(SY_ERR_IO, "a line of stdin is longer than %zu bytes", max);
    if (newline == NULL && length == 0) goto done; /* the end */
    size_t taken = length + (newline != NULL);
    SY_TRY(take(taken, line));
    (*line)[length] = '\0';
    *n = length;
done:
    return st;
}

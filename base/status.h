/* Status codes and the text of the last error.
 *
 * Every fallible function returns sy_status; 0 is success. The function that discovers a fault
 * writes the text (what was expected, what was found, which file, tensor or rank) with SY_FAIL;
 * callers hand the code up with SY_TRY and may put their own context in front of the text with
 * sy_status_context. Nothing here ends the process: the launcher prints the text once.
 *
 * A fallible function declares `sy_status st = SY_OK`, sets its resources to NULL, and ends in
 * the label `done:`, where it releases them and returns st.
 *
 * The text is kept per thread. A pool worker that fails stores its text with
 * sy_status_save/sy_status_restore so that the caller's thread can report it.
 */
#ifndef SY_BASE_STATUS_H
#define SY_BASE_STATUS_H

/* name, process exit code, short description (also the table in the README) */
/* clang-format off */
#define SY_STATUS_LIST(X)                                                                        \
    X(SY_OK, 0, "success")                                                                       \
    X(SY_ERR_INTERNAL, 1, "a fault in switchyard itself")                                        \
    X(SY_ERR_USAGE, 2, "wrong command line")                                                     \
    X(SY_ERR_IO, 3, "a file or stream could not be read or written")                             \
    X(SY_ERR_FORMAT, 4, "a file's content is malformed or contradicts itself")                   \
    X(SY_ERR_UNSUPPORTED, 5, "an architecture, value or format that is not implemented")         \
    X(SY_ERR_MEMORY, 6, "not enough memory")                                                     \
    X(SY_ERR_COMM, 7, "communication between the ranks failed")                                  \
    X(SY_ERR_PEER, 8, "a rank died, hung or failed")                                             \
    X(SY_ERR_DEVICE, 9, "a GPU or its driver failed")                                            \
    X(SY_ERR_INTERRUPTED, 130, "interrupted by the user")
/* clang-format on */

typedef enum sy_status {
#define X(name, exit_code, text) name,
    SY_STATUS_LIST(X)
#undef X
        SY_STATUS_COUNT
} sy_status;

/* The name of a status ("SY_ERR_IO"), its one-line description, and the exit code of a process
 * that ends with it. Never NULL, also for values out of range. */
const char *sy_status_name(sy_status st);
const char *sy_status_text(sy_status st);
int sy_status_exit_code(sy_status st);

/* Stores the text of an error on this thread and returns st. */
sy_status sy_fail(sy_status st, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "context: " in front of the text of this thread's last error. */
void sy_status_context(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The text of this thread's last error; "" if none was stored. Valid until the next error. */
const char *sy_last_error(void);

/* A copy of a thread's error text, for handing it to another thread. */
enum { SY_ERROR_TEXT_MAX = 1024 };
typedef struct sy_error_text {
    char text[SY_ERROR_TEXT_MAX];
} sy_error_text;
void sy_status_save(sy_error_text *out);
void sy_status_restore(const sy_error_text *saved);

/* Go to `done` with the status of a failed call. */
#define SY_TRY(call)                                                                           \
    do {                                                                                       \
        st = (call);                                                                           \
        if (st != SY_OK) goto done;                                                            \
    } while (0)

/* Fail at the origin: store the text and go to `done`. */
#define SY_FAIL(code, ...)                                                                     \
    do {                                                                                       \
        st = sy_fail((code), __VA_ARGS__);                                                     \
        goto done;                                                                             \
    } while (0)

#endif

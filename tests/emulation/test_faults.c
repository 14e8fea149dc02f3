/* Every planted fault is reported by the builds that can see it, and without the fault nothing is.
 *
 * Each case runs in a process of its own (this program with the fault's name), whose output and
 * exit code are looked at: AddressSanitizer ends a process, and a faulty kernel breaks the device.
 * What depends on the order of threads or streams must show under one of a few seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "emulation.h"
#include "faults.h"

#ifdef __SANITIZE_ADDRESS__
enum { ADDRESS = 1 };
#else
enum { ADDRESS = 0 };
#endif

#define WRONG "result wrong"
#define NO_NUMBER "result NaN" /* memory that the emulation fills */

/* What the output must contain. NULL: this build does not see the fault. */
typedef struct fault {
    const char *name;
    fault_fn run;
    const char *ordinary, *address, *check;
} fault;

static const fault faults[] = {
    {"missing_barrier", fault_missing_barrier, WRONG, WRONG, "race: "},
    {"divergent_barrier", fault_divergent_barrier, "divergent barrier", "divergent barrier",
     "divergent barrier"},
    {"missing_copy_wait", fault_missing_copy_wait, NO_NUMBER, NO_NUMBER, NO_NUMBER},
    {"wrong_mask", fault_wrong_mask, "wrong mask", "wrong mask", "wrong mask"},
    {"absent_lane", fault_absent_lane, "dead-lock", "dead-lock", "dead-lock"},
    {"uninitialised_shared", fault_uninitialised_shared, NO_NUMBER, NO_NUMBER, "nobody wrote"},
    {"past_shared", fault_past_shared, NO_NUMBER, "AddressSanitizer: use-after-poison",
     "past the launch's shared memory"},
    {"read_past_end", fault_read_past_end, NO_NUMBER, "AddressSanitizer: heap-buffer-overflow",
     "past the end of device memory"},
    {"write_past_end", fault_write_past_end, "past the end of device memory",
     "AddressSanitizer: heap-buffer-overflow", "past the end of device memory"},
    {"illegal_address", fault_illegal_address, "illegal address", "AddressSanitizer",
     "illegal address"},
    {"read_modify_write", fault_read_modify_write, NULL, NULL, "race: "},
    {"two_blocks", fault_two_blocks, NULL, NULL, "two blocks write one place"},
    {"pinned_reuse", fault_pinned_reuse, WRONG, WRONG, WRONG},
    {"missing_event", fault_missing_event, WRONG, WRONG, WRONG},
    {"missing_wait", fault_missing_wait, WRONG, WRONG, WRONG},
    {"host_touch", fault_host_touch, NULL, "AddressSanitizer: use-after-poison", NULL},
    {"allocation_in_capture", fault_allocation_in_capture, "during capture", "during capture",
     "during capture"},
    {"wait_in_capture", fault_wait_in_capture, "during capture", "during capture",
     "during capture"},
    {"never_freed", fault_never_freed, "never freed", "never freed", "never freed"},
};
enum { N_FAULTS = sizeof faults / sizeof *faults, SEEDS = 8 };

/* ---- the child ---- */

static int run_fault(const char *name, bool planted) {
    for (int i = 0; i < N_FAULTS; i++) {
        float wrong = 0;
        if (strcmp(faults[i].name, name) != 0) continue;
        cudaError_t error = faults[i].run(planted, &wrong);
        if (error != cudaSuccess) {
            printf("%s: %s\n", cudaGetErrorName(error), cudaGetErrorString(error));
            return 1;
        }
        printf("result %s\n", wrong == 0 ? "right" : wrong != wrong ? "NaN" : "wrong");
        return wrong == 0 ? 0 : 1;
    }
    fprintf(stderr, "no such fault: %s\n", name);
    return 2;
}

/* ---- the parent ---- */

static char program[4096];

/* The exit code (-1: ended by a signal), and what was printed. */
static int run_child(const fault *f, bool planted, int seed, char *out, size_t size) {
    int ends[2], status;
    size_t n = 0;
    ssize_t got;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char text[16];
        snprintf(text, sizeof text, "%d", seed);
        setenv("SY_EMU_SEED", text, 1);
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl(program, program, f->name, planted ? "planted" : "right", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    char rest[1024];
    while ((got = n + 1 < size ? read(ends[0], out + n, size - 1 - n)
                               : read(ends[0], rest, sizeof rest)) > 0)
        if (n + 1 < size) n += (size_t)got;
    out[n] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *expectation(const fault *f) {
    if (emu_checks_accesses()) return f->check;
    return ADDRESS ? f->address : f->ordinary;
}

static void planted_fault_is_reported_and_ends_the_process_with_a_failure(void **state) {
    const fault *f = *state;
    const char *expected = expectation(f);
    static char out[1 << 16];
    if (expected == NULL) {
        print_message("%s: not for this build to see\n", f->name);
        skip();
    }
    for (int seed = 1; seed <= SEEDS; seed++) {
        int code = run_child(f, true, seed, out, sizeof out);
        if (strstr(out, expected) == NULL) continue;
        assert_int_not_equal(code, 0);
        return;
    }
    fail_msg("%s: no \"%s\" with any of %d seeds; the last printed:\n%s", f->name, expected,
             SEEDS, out);
}

static void without_the_fault_nothing_is_reported(void **state) {
    const fault *f = *state;
    static char out[1 << 16];
    for (int seed = 0; seed <= SEEDS; seed += ADDRESS ? 4 : 1) {
        int code = run_child(f, false, seed, out, sizeof out);
        if (code != 0 || strcmp(out, "result right\n") != 0)
            fail_msg("%s, seed %d: exit code %d and\n%s", f->name, seed, code, out);
    }
}

int main(int argc, char **argv) {
    static struct CMUnitTest tests[2 * N_FAULTS];
    static char names[2 * N_FAULTS][96];
    if (argc == 3) return run_fault(argv[1], strcmp(argv[2], "planted") == 0);
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n < 0) return 2;
    program[n] = '\0';
    for (int i = 0; i < N_FAULTS; i++) {
        struct CMUnitTest *t = &tests[2 * i];
        snprintf(names[2 * i], sizeof *names, "%s_planted_is_reported", faults[i].name);
        snprintf(names[2 * i + 1], sizeof *names, "%s_absent_is_silent", faults[i].name);
        t[0].name = names[2 * i];
        t[0].test_func = planted_fault_is_reported_and_ends_the_process_with_a_failure;
        t[1].name = names[2 * i + 1];
        t[1].test_func = without_the_fault_nothing_is_reported;
        t[0].initial_state = t[1].initial_state = (void *)(uintptr_t)&faults[i];
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

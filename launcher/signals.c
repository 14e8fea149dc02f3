#include "launcher/signals.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

/* The one thing that a handler can reach. */
static atomic_bool interrupted;

static void on_signal(int number) {
    bool again = atomic_exchange(&interrupted, true);
    if (again && number == SIGINT) {
        signal(SIGINT, SIG_DFL);
        raise(SIGINT);
    }
}

void sy_signals_install(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction before;
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler == SIG_IGN) continue;
        /* No SA_RESTART: a read from the terminal returns. */
        struct sigaction action = {.sa_handler = on_signal};
        sigemptyset(&action.sa_mask);
        sigaction(numbers[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

void sy_signals_interrupt(void) {
    atomic_store(&interrupted, true);
}

bool sy_signals_interrupted(void) {
    return atomic_load(&interrupted);
}

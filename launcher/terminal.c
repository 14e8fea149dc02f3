#include "launcher/terminal.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"

enum { REDRAW_NS = 100000000, MAX_WIDTH = 200 };

void sy_bar_init(sy_bar *bar, bool wanted) {
    *bar = (sy_bar){.enabled = wanted && isatty(STDERR_FILENO)};
}

static int terminal_width(void) {
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col < MAX_WIDTH ? size.ws_col : MAX_WIDTH;
}

/* "reading weights [#####     ]  52%  1.2 GB/s", shorter than the terminal is wide. */
static void draw(const char *what, double share, const char *detail) {
    char line[MAX_WIDTH + 1], cells[41];
    int n_cells = (int)sizeof cells - 1;
    int full = (int)(share * n_cells);
    memset(cells, ' ', sizeof cells);
    memset(cells, '#', (size_t)full);
    cells[n_cells] = '\0';
    snprintf(line, sizeof line, "%s [%s] %3d%%  %s", what, cells, (int)(share * 100), detail);
    int width = terminal_width() - 1;
    fprintf(stderr, "\r\033[K%.*s", width > 0 ? width : 1, line);
    fflush(stderr);
}

void sy_bar_update(sy_bar *bar, const char *what, double share, const char *detail) {
    if (!bar->enabled) return;
    if (!(share < 1)) { /* NaN ends it too */
        sy_bar_clear(bar);
        return;
    }
    int64_t now = sy_now_ns();
    if (now < bar->next_ns) return;
    bar->next_ns = now + REDRAW_NS;
    draw(what, share > 0 ? share : 0, detail != NULL ? detail : "");
    bar->drawn = true;
}

void sy_bar_clear(sy_bar *bar) {
    if (!bar->drawn) return;
    bar->drawn = false;
    bar->next_ns = 0;
    fputs("\r\033[K", stderr);
    fflush(stderr);
}

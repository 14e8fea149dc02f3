#include "launcher/launch.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "launcher/frontend.h"
#include "launcher/options.h"
#include "launcher/output.h"
#include "launcher/signals.h"

static void describe(const sy_options *options) {
    char *line = NULL;
    if (sy_options_describe(options, &line) == SY_OK) fprintf(stderr, "%s\n", line);
    free(line);
}

/* The command in this process: a rank, or the only process there is. */
static sy_status run_here(const sy_options *options) {
    sy_status st = SY_OK;
    sy_signals_install();
    SY_TRY(sy_output_open(options));
    SY_TRY(options->command->main(options));
    SY_TRY(sy_out_flush());
done:
    return st;
}

/* If the standard streams are closed, the next file opened would take their place. What is put
 * there instead fails as a closed one does. */
static void hold_standard_streams(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0) open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
}

int sy_launch(int argc, char **argv) {
    sy_status st = SY_OK;
    sy_options options;
    bool handled = false;
    hold_standard_streams();
    st = sy_options_parse(argc, argv, &options, &handled);
    bool first = options.world_rank <= 0; /* all ranks find the same fault, this one says it */
    if (st != SY_OK && first) sy_output_final(st, sy_last_error());
    if (st != SY_OK || handled) goto done;
    /* A command that needs no ranks answers once, also under mpirun. */
    if (!options.command->parallel && options.under_launcher && !first) goto done;
    if (options.verbose && first && options.front_end == NULL) describe(&options);
    st = sy_frontend_wanted(&options) ? sy_frontend_run(&options) : run_here(&options);
    /* mpirun takes its time to end a job of which a rank exits with a failure. The front end has
     * been told and needs no exit code. */
    if (sy_output_final(st, sy_last_error())) st = SY_OK;
    sy_output_close();
done:
    sy_options_free(&options);
    return sy_status_exit_code(st);
}

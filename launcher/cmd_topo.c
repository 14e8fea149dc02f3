/* switchyard topo: what the machines of a run are made of, and where ranks go on them. */
#include "launcher/cmd_topo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/new_file.h"
#include "comm/liveness.h"
#include "launcher/commands.h"
#include "launcher/machines.h"
#include "launcher/output.h"
#include "launcher/topo_report.h"
#include "topology/binding_here.h"
#include "topology/machine_json.h"

const char sy_topo_help[] =
    "Shows the machines that the ranks run on (with -n, --hosts or --hostfile, or under "
    "mpirun;\n"
    "else this one): cores, memory, NVIDIA devices, network; where --bind cores puts a run's\n"
    "ranks, and why, and what keeps --bind auto from it; and what to change.\n"
    "\n"
    "Without -n it binds one rank for each device that CUDA sees, and one for each machine\n"
    "that has none. --load takes machines from a file and starts nothing; -n then says how "
    "many\n"
    "ranks to bind to them.\n"
    "\n"
    "--json prints one object: version (1), machines, ranks and advice. docs/topology.md\n"
    "describes them; --load reads such a file too.";

enum { MOST_LOADED_RANKS = 4096 };

/* ---- files ---- */

static sy_status write_file(const char *path, const char *text) {
    sy_new_file file;
    sy_status st = sy_new_file_open_path(path, &file);
    if (st != SY_OK) return st;
    fputs(text, file.f);
    return sy_new_file_close(&file, SY_OK);
}

static sy_status dump(const json_t *document, char **text) {
    *text = json_dumps(document, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    return *text != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory for the JSON text");
}

static sy_status save(const char *path, const sy_machines *machines) {
    json_t *document = NULL;
    char *text = NULL;
    sy_status st = sy_machines_to_json(machines, &document);
    if (st == SY_OK) st = dump(document, &text);
    if (st == SY_OK) st = write_file(path, text);
    free(text);
    json_decref(document);
    return st;
}

static sy_status print_json(const sy_topo_report *report) {
    json_t *document = NULL;
    char *text = NULL;
    sy_status st = sy_topo_to_json(report, &document);
    if (st == SY_OK) st = dump(document, &text);
    if (st == SY_OK) st = sy_out_printf("%s\n", text);
    free(text);
    json_decref(document);
    return st;
}

static sy_status draw(const char *path, const sy_topo_report *report) {
    char *text = NULL;
    sy_status st = sy_topo_draw_svg(report, &text);
    if (st == SY_OK) st = write_file(path, text);
    free(text);
    return st;
}

/* ---- the report ---- */

static sy_status report_on(const sy_options *options,
                           const sy_machines *machines,
                           int n_ranks,
                           const int *machine_of,
                           const sy_cpus *masks) {
    sy_status st = SY_OK;
    const sy_binding_wish wish = {false, 0, masks};
    sy_binding binding = {0};
    sy_advice *advice = NULL;
    bool use_devices = strcmp(options->device, "cpu") != 0;
    const char **obstacle = calloc((size_t)machines->n, sizeof *obstacle);
    if (obstacle == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the report");
    SY_TRY(sy_binding_plan(machines, n_ranks, machine_of, use_devices, &binding));
    SY_TRY(sy_advice_make(machines, &binding, &advice));
    for (int m = 0; m < machines->n; m++)
        obstacle[m] = sy_binding_obstacle(machines, m, &binding, &wish);
    sy_topo_report report = {machines, &binding, advice, obstacle};
    if (options->topo_save != NULL) SY_TRY(save(options->topo_save, machines));
    if (options->topo_svg != NULL) SY_TRY(draw(options->topo_svg, &report));
    SY_TRY(options->json ? print_json(&report) : sy_topo_print_tree(&report));
    SY_TRY(sy_out_flush());
done:
    sy_binding_free(&binding);
    free(advice);
    free(obstacle);
    return st;
}

/* Where no launcher has placed ranks; all of them may run where `mask` says, NULL: everywhere. */
static sy_status report_spread(const sy_options *options,
                               const sy_machines *machines,
                               int n,
                               const sy_cpus *mask) {
    sy_status st = SY_OK;
    if (n == 0) n = sy_binding_natural_ranks(machines);
    if (n > MOST_LOADED_RANKS) n = MOST_LOADED_RANKS;
    int *machine_of = calloc((size_t)n, sizeof *machine_of);
    sy_cpus *masks = mask != NULL ? calloc((size_t)n, sizeof *masks) : NULL;
    if (machine_of == NULL || (mask != NULL && masks == NULL))
        SY_FAIL(SY_ERR_MEMORY, "no memory for %d ranks", n);
    sy_binding_spread(machines, n, machine_of);
    for (int r = 0; masks != NULL && r < n; r++)
        masks[r] = *mask;
    st = report_on(options, machines, n, machine_of, masks);
done:
    free(masks);
    free(machine_of);
    return st;
}

/* Of a file; n ranks, 0: as many as fit it. */
static sy_status report_loaded(const sy_options *options, int n) {
    sy_machines machines = {0};
    sy_status st = sy_machines_load(options->topo_load, &machines);
    if (st == SY_OK) st = report_spread(options, &machines, n, NULL);
    sy_machines_free(&machines);
    return st;
}

/* Where this process may run, as sy_bind_rank would find it; the empty set if nobody knows. What
 * mpirun bound unasked is undone there. */
static sy_cpus own_mask(const sy_options *options) {
    sy_cpus mask = {{0}};
    sy_machine *machine = calloc(1, sizeof *machine);
    if (options->bound_unasked && machine != NULL && sy_machine_here(options, machine) == SY_OK)
        mask = sy_machine_cpus(machine);
    else if (sy_cpus_here(&mask) != SY_OK)
        mask = (sy_cpus){{0}};
    free(machine);
    return mask;
}

static sy_status report_real(const sy_options *options, sy_comm *comm) {
    sy_status st = SY_OK;
    sy_machines machines = {0};
    int *machine_of = NULL, R = sy_comm_size(comm);
    bool placed = R > 1 || options->under_launcher;
    sy_cpus mask = own_mask(options), *masks = calloc((size_t)R, sizeof *masks);
    if (masks == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for the ranks' cores");
    SY_TRY(sy_comm_agree(comm, st));
    SY_TRY(sy_machines_gather(options, comm, &machines, &machine_of));
    SY_TRY(sy_comm_all_gather(comm, &mask, sizeof mask, masks));
    if (sy_comm_rank(comm) == 0)
        st = placed ? report_on(options, &machines, R, machine_of, masks)
                    : report_spread(options, &machines, options->n_ranks, &mask);
    SY_TRY(sy_comm_agree(comm, st));
done:
    free(masks);
    sy_machines_free(&machines);
    free(machine_of);
    return st;
}

sy_status sy_cmd_topo(const sy_options *options) {
    sy_status st = SY_OK;
    sy_comm *comm = NULL;
    sy_liveness *live = NULL;
    sy_error_text text;
    if (options->topo_load != NULL && !options->under_launcher)
        return report_loaded(options, options->n_ranks);
    sy_comm_options how = {.virtual_hosts = options->virtual_hosts,
                           .no_shared_memory = options->no_shared_memory,
                           .threads_per_rank = 1};
    SY_TRY(sy_comm_create(&how, &comm));
    int rank = sy_comm_rank(comm), R = sy_comm_size(comm);
    sy_output_joined(rank, R, sy_comm_host_name(comm, rank));
    if (R > 1) {
        sy_liveness_options watch = {options->deadline, sy_output_peer_lost, NULL};
        SY_TRY(sy_liveness_start(comm, &watch, &live));
    }
    if (options->topo_load != NULL)
        SY_TRY(sy_comm_agree(comm, rank == 0 ? report_loaded(options, R) : SY_OK));
    else
        SY_TRY(report_real(options, comm));
done:
    sy_status_save(&text);
    sy_liveness_stop(live);
    sy_comm_destroy(comm);
    sy_status_restore(&text);
    return st;
}

#include "launcher/bind.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/pool.h"
#include "launcher/machines.h"
#include "topology/binding.h"
#include "topology/binding_here.h"

/* ---- whether and where to bind ---- */

/* Plans for the ranks of this machine, and binds this one. */
static sy_status bind_here(const sy_options *options,
                           const sy_comm *comm,
                           sy_machine *machine,
                           const sy_cpus *masks,
                           bool *bound) {
    sy_status st = SY_OK;
    int me = sy_comm_rank(comm), local = 0, n = sy_comm_machine_size(comm, me);
    int *machine_of = calloc((size_t)n, sizeof *machine_of); /* all on this one */
    sy_cpus *here_masks = calloc((size_t)n, sizeof *here_masks);
    sy_binding binding = {0};
    if (machine_of == NULL || here_masks == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for a binding");
    for (int r = 0, i = 0; r < sy_comm_size(comm); r++) {
        if (!sy_comm_same_machine(comm, r, me)) continue;
        if (r == me) local = i;
        here_masks[i++] = masks[r];
    }
    sy_machines here = {1, machine};
    bool cuda = strcmp(options->activations, "bf16") == 0; /* what devices compute with */
    SY_TRY(sy_binding_plan(&here, n, machine_of, cuda, &binding));
    const sy_bound_rank *mine = &binding.rank[local];
    const sy_binding_wish wish = {strcmp(options->bind, "cores") == 0, options->threads,
                                  here_masks};
    const char *obstacle = sy_binding_obstacle(&here, 0, &binding, &wish);
    if (obstacle != NULL) SY_FAIL(SY_ERR_UNSUPPORTED, "%s", obstacle);
    SY_TRY(sy_cpus_bind_here(&mine->cpus));
    *bound = true;
    char text[SY_CPUS_TEXT_MAX];
    SY_DEBUG("bound to CPUs %s. %s", sy_cpus_text(&mine->cpus, text, sizeof text),
             mine->reason);
done:
    sy_binding_free(&binding);
    free(here_masks);
    free(machine_of);
    return st;
}

/* The machine, for ranks that may be bound; what mpirun did unasked is undone, and said by one of
 * them, since mpirun does not tell the ranks what its parameter files ask for. */
static sy_status look_around(const sy_options *options, bool speaks, sy_machine *machine) {
    sy_cpus mine = {{0}};
    sy_status st = sy_machine_here(options, machine);
    if (st != SY_OK || !options->bound_unasked) return st;
    sy_cpus all = sy_machine_cpus(machine);
    bool known = sy_cpus_here(&mine) == SY_OK;
    st = sy_cpus_bind_here(&all);
    if (st == SY_OK && speaks && known && !sy_cpus_equal(&mine, &all))
        SY_INFO("mpirun's own binding is undone; --bind none keeps it");
    return st;
}

/* ---- threads ---- */

/* Ranks of this machine that may run on the same CPUs as this one, itself included; all, where a
 * limit on CPU time and not the CPUs decides. */
static int count_sharers(const sy_comm *comm, const sy_cpus *masks) {
    int me = sy_comm_rank(comm), n = 0;
    if (sy_cores_available() < sy_cpus_count(&masks[me])) return sy_comm_machine_size(comm, me);
    for (int r = 0; r < sy_comm_size(comm); r++)
        n += sy_comm_same_machine(comm, r, me) && sy_cpus_overlap(&masks[r], &masks[me]);
    return n;
}

static int choose_threads(const sy_options *options,
                          const sy_comm *comm,
                          const sy_cpus *masks,
                          bool bound) {
    if (options->threads > 0) return options->threads;
    int sharers = bound ? 1 : count_sharers(comm, masks);
    return (int)sy_max(1, sy_cores_available() / sy_max(1, sharers));
}

sy_status sy_bind_rank(const sy_options *options, sy_comm *comm, int *n_threads) {
    sy_status st = SY_OK, found = SY_ERR_UNSUPPORTED;
    sy_cpus mine, *masks = calloc((size_t)sy_comm_size(comm), sizeof *masks);
    sy_machine *machine = calloc(1, sizeof *machine);
    bool bound = false, wanted = strcmp(options->bind, "none") != 0;
    if (masks == NULL || machine == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the ranks' cores");
    SY_TRY(sy_comm_agree(comm, st));
    if (wanted) found = look_around(options, sy_comm_rank(comm) == 0, machine);
    if (sy_cpus_here(&mine) != SY_OK) found = SY_ERR_IO; /* mine is an empty set */
    SY_TRY(sy_comm_all_gather(comm, &mine, sizeof mine, masks));
    if (wanted && found == SY_OK) found = bind_here(options, comm, machine, masks, &bound);
    if (wanted && found != SY_OK) SY_DEBUG("not bound to cores: %s", sy_last_error());
    *n_threads = choose_threads(options, comm, masks, bound);
done:
    free(machine);
    free(masks);
    return st;
}

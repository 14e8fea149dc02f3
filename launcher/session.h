/* What the parallel commands share: ranks, backend, model, engine, opened in order and closed in
 * reverse. All calls are collective; a fault on one rank is agreed upon, so that every rank
 * returns the same status. */
#ifndef SY_LAUNCHER_SESSION_H
#define SY_LAUNCHER_SESSION_H

#include "comm/comm.h"
#include "comm/liveness.h"
#include "launcher/options.h"
#include "runtime/budget.h"
#include "runtime/engine.h"
#include "runtime/tokenizer.h"

typedef struct sy_session {
    const sy_options *options;
    sy_comm *comm;
    int rank, n_ranks;
    sy_liveness *live;
    sy_pool *pool;
    int n_threads;
    sy_backend *be;

    sy_model_spec *spec;
    sy_checkpoint *checkpoint; /* NULL with dummy weights */
    sy_placement *placement;
    sy_tokenizer *tokenizer; /* rank 0; NULL if the model has none */

    sy_budget budget;
    sy_load_report *reports; /* [R] on rank 0, NULL with dummy weights */
    sy_weights *weights;
    sy_engine_options engine_options; /* as fitted into memory */
    sy_engine *engine;
    bool broken; /* a step failed on this rank only: the others cannot be brought along */
} sy_session;

/* Ranks, threads, backend. */
sy_status sy_session_open(const sy_options *options, sy_session *s);
/* Spec, placement and checkpoint of options->model; no weights yet. Tokenizer on rank 0. */
sy_status sy_session_model(sy_session *s);
/* How results come home under --numerics. */
sy_combine_mode sy_session_combine(const sy_options *options);
/* Memory budget, weights, engine. wish.combine and wish.n_valid are filled in here. */
sy_status sy_session_engine(sy_session *s, sy_engine_options wish);
/* Closes what is open; with `broken`, reports `st` and takes all ranks down. NULL members are
 * fine. Returns st. */
sy_status sy_session_close(sy_session *s, sy_status st);

/* Ends the session as broken if a step of this rank failed; passes st on. */
sy_status sy_session_step(sy_session *s, sy_status st);

#endif

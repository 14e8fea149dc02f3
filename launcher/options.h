/* The command line: one table of options that parses and that also prints the help.
 *
 * Everything a user can set is read here, once, into sy_options; no other file looks at argv or
 * at the environment. */
#ifndef SY_LAUNCHER_OPTIONS_H
#define SY_LAUNCHER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct sy_options sy_options;

typedef struct sy_command {
    const char *name;     /* "run" */
    const char *synopsis; /* "MODEL [options]" */
    const char *summary;  /* one line for the list of commands */
    const char *text;     /* paragraphs printed by --help before the options */
    bool needs_model;     /* a MODEL argument is required */
    bool needs_target;    /* and an OUT argument behind it */
    bool takes_files;     /* any number of arguments, none of them a MODEL */
    bool takes_nothing;   /* no argument at all, only options */
    bool parallel;        /* takes -n N and runs on ranks; else one plain process */
    bool no_engine;       /* parallel, but computes with no model */
    sy_status (*main)(const sy_options *options); /* collective on parallel commands */
} sy_command;

/* Values of an option that may be repeated, in their order; the texts are borrowed. */
typedef struct sy_texts {
    int n;
    const char **text;
} sy_texts;

/* One row per command; ends with name NULL. */
extern const sy_command sy_commands[];

struct sy_options {
    const sy_command *command;
    const char *model;  /* path, or NULL */
    const char *target; /* OUT, of commands that need one; else NULL */
    sy_texts files;     /* arguments of a command that takes files */

    /* parallel run */
    int n_ranks;             /* -n N; 0 = not given                                     */
    const char *hosts;       /* --hosts a:2,b:2                                          */
    const char *hostfile;    /* --hostfile FILE                                          */
    int threads;             /* -t N; 0 = cores available to the rank, shared fairly     */
    const char *bind;        /* --bind auto | cores | none                               */
    int virtual_hosts;       /* --virtual-hosts H                                        */
    bool no_shared_memory;   /* --no-shared-memory: MPI inside a host too                */
    const char *activations; /* --activations bf16 | f32                                 */
    const char *numerics;    /* --numerics exact | fast | fast-bf16                      */
    const char *device;      /* --device auto | cpu | cuda                                */
    bool no_graphs;          /* --no-graphs: steps launch by launch on a device          */
    const char *isa;         /* --isa auto | generic | avx2 | ... (also SWITCHYARD_ISA)  */
    const char *placement;   /* --placement FILE, or NULL: contiguous experts            */
    double memory;           /* --memory GB: most that a rank may hold; 0 = no limit     */
    double deadline;         /* --deadline SECONDS of the liveness watch, default 10     */
    double start_limit;      /* --start-limit SECONDS for MPI's own start-up, default 60 */
    bool quiet, verbose;     /* -q, -v                                                   */
    bool json;               /* --json                                                   */

    /* run */
    const char *prompt;       /* -p TEXT */
    const char *prompt_file;  /* -f FILE */
    const char *prompts_file; /* --prompts FILE, one JSON string a line */
    const char *ids;          /* --ids "1 2 3" (run, logits) */
    int64_t max_tokens;       /* --max-tokens, default 128 */
    int64_t ctx;              /* --ctx: most tokens of a request, 0 = as the model's context */
    int64_t chunk;            /* --chunk: most prefill tokens per rank and step, default 512 */
    double temperature, top_p, min_p; /* defaults 0, 1, 0 */
    int64_t top_k;                    /* default 0 = off */
    uint64_t seed;
    const char *sampling; /* --sampling model: the model's values of what is not given */
    bool temperature_given, top_k_given, top_p_given, min_p_given;
    sy_texts stop;      /* --stop TEXT, may be repeated */
    const char *loads;  /* --loads FILE */
    const char *routes; /* --routes FILE: replay the router's choices (logits) */

    /* tokenize */
    bool decode, special; /* --decode, --special */

    /* logits */
    const char *out; /* --out FILE.npy */

    /* convert */
    const char *to;      /* --to bf16 | fp8 | q8 | mxfp4 | nvfp4; NULL = not given */
    bool all_matrices;   /* --all: not only routed experts */
    double shard_size;   /* --shard-size GB, default 4 */
    int convert_threads; /* -t N, default 2 */
    bool dry_run;        /* --dry-run */

    /* eval */
    const char *text_file; /* --text FILE, or NULL */
    const char *against;   /* --against MODEL2, or NULL */
    int64_t window;        /* --ctx N: tokens of a window, default 512 */

    /* profile, and --profile on run and bench */
    const char *profile_dir; /* --profile DIR, profile: --out DIR; NULL = no files */
    sy_texts label;          /* --label NAME=FILE, may be repeated */
    int64_t profile_events;  /* --profile-events N: of the trace, per rank */
    int64_t profile_routes;  /* --profile-routes N: sequences whose choices are kept */
    bool profile_pairs;      /* --profile-pairs: counts of all pairs of experts */
    const char *color;       /* --color auto | always | never (also NO_COLOR) */

    /* inspect */
    int ranks; /* --ranks N: bytes per rank as if on N ranks, default 1 */

    /* place */
    int place_ranks;            /* --ranks N, 0 = as in the loads                          */
    int place_slots;            /* --slots N of a rank, 0 = as few as hold all experts     */
    int max_copies;             /* --max-copies N of an expert, 0 = any with --slots, or 1 */
    const char *ranks_per_host; /* --ranks-per-host N[,N..], or NULL: one host             */
    const char *speeds;         /* --speeds X,X,.. of the ranks, or NULL: equal            */
    const char *place_against;  /* --against FILE: the placement before, or NULL           */
    const char *place_from;     /* --from FILE: only convert this placement                */
    const char *place_out;      /* --out FILE                                              */
    bool place_format_given;
    const char *place_format; /* --format switchyard | trtllm | sglang                   */

    /* plan */
    const char *cluster;    /* --cluster NAME[:N] | FILE | list; NULL = not given          */
    int64_t plan_ctx;       /* --ctx N: positions of a sequence, 0 = 4096 or the model's   */
    int64_t plan_batch;     /* --batch N: sequences at the same time, default 1            */
    const char *plan_loads; /* --loads FILE to read, or NULL                               */
    const char *precision;  /* --precision EXPERTS[+REST]; NULL = as published             */

    /* topo */
    const char *topo_load; /* --load FILE: machines from there; starts no ranks */
    const char *topo_save; /* --save FILE */
    const char *topo_svg;  /* --svg FILE */

    /* bench */
    const char *bench_prompt; /* -p 512[,..] */
    const char *bench_gen;    /* -g 128[,..] */
    const char *bench_batch;  /* -b 1,8      */
    int repetitions;          /* -r, default 3 */
    const char *format;       /* --format markdown | csv | json */
    bool dummy_weights;       /* --dummy-weights */
    const char *layers;       /* --layers N or dense:1,moe:2 */
    int vocab, experts;       /* --vocab N, --experts N; 0 = as the model */
    bool bench_exchange;      /* --exchange: the exchange alone */
    int64_t exchange_tokens;  /* --tokens N with --exchange: most tokens per rank */

    /* from the environment, also set if the command line is wrong */
    int world_rank;        /* as mpirun or srun say; -1: started by neither */
    bool under_launcher;   /* mpirun or an MPI-aware srun started this process */
    bool bound_unasked;    /* mpirun has bound it to cores, which nobody asked for */
    const char *front_end; /* where the front end listens, or NULL (launcher/frames.h) */

    /* What the ranks are started with: every option that was given, as "--name=value", less those
     * that only concern the front end, then "--" and the model. NULL-terminated, owned. */
    int n_rank_args;
    char **rank_args;
};

/* Fills *out from argv and the environment. Prints help or version itself when asked and then
 * sets *handled. On a usage error the text names the option and what was expected. */
sy_status sy_options_parse(int argc, char **argv, sy_options *out, bool *handled);
void sy_options_free(sy_options *options);

/* One line with the value of every option of the command, defaults included, as a command line;
 * in memory to be freed by the caller. */
sy_status sy_options_describe(const sy_options *options, char **line);

/* The numbers of a list such as "1,8,32" or "1 2 3", at least one, each within [min, max]; *out
 * to be freed by the caller. `what` names the list in the error text. */
sy_status sy_parse_int_list(const char *text,
                            const char *what,
                            int64_t min,
                            int64_t max,
                            int64_t **out,
                            int64_t *n);

#endif

#include "launcher/option_table.h"

#include <string.h>

#include "launcher/bench_table.h"
#include "runtime/profile.h"

#define FIELD(name) offsetof(sy_options, name)
#define MAX_TOKENS 16777216.0 /* 2^24 */

/* One row, one paragraph. */
/* clang-format off */
const sy_option sy_option_table[] = {
    /* generating text */
    {.name = "prompt", .letter = 'p', .argument = "TEXT", .kind = SY_OPTION_TEXT,
     .offset = FIELD(prompt), .commands = "run", .exclusive = 'p',
     .help = "the prompt"},
    {.name = "file", .letter = 'f', .argument = "FILE", .kind = SY_OPTION_TEXT,
     .offset = FIELD(prompt_file), .commands = "run", .exclusive = 'p',
     .help = "read the prompt from FILE as it is, - for stdin less its last newline"},
    {.name = "prompts", .argument = "FILE", .kind = SY_OPTION_TEXT,
     .offset = FIELD(prompts_file), .commands = "run profile", .exclusive = 'p',
     .help = "many prompts, one JSON string a line, - for stdin"},
    {.name = "ids", .argument = "\"1 2 3\"", .kind = SY_OPTION_LIST, .offset = FIELD(ids),
     .commands = "run logits", .max = 2147483647.0, .exclusive = 'p',
     .help = "token ids in place of text"},
    {.name = "max-tokens", .argument = "N", .kind = SY_OPTION_INT64,
     .offset = FIELD(max_tokens), .commands = "run profile", .initial = "128", .min = 1,
     .max = MAX_TOKENS,
     .help = "most tokens to generate per prompt"},
    {.name = "ctx", .argument = "N", .kind = SY_OPTION_INT64, .offset = FIELD(ctx),
     .commands = "run", .initial = "0", .min = 0, .max = MAX_TOKENS,
     .help = "refuse requests that need more context than this; 0: than the model's"},
    {.name = "chunk", .argument = "N", .kind = SY_OPTION_INT64, .offset = FIELD(chunk),
     .commands = "run logits eval bench profile plan", .initial = "512", .min = 1, .max = 65536,
     .help = "most prompt tokens of a rank in one step"},
    {.name = "temperature", .argument = "X", .kind = SY_OPTION_REAL,
     .offset = FIELD(temperature), .given = FIELD(temperature_given), .commands = "run",
     .initial = "0", .min = 0, .max = 100,
     .help = "sampling temperature; 0 takes the likeliest token"},
    {.name = "top-k", .argument = "N", .kind = SY_OPTION_INT64,
     .offset = FIELD(top_k), .given = FIELD(top_k_given),
     .commands = "run", .initial = "0", .min = 0, .max = MAX_TOKENS,
     .help = "sample among the N likeliest tokens; 0: all"},
    {.name = "top-p", .argument = "X", .kind = SY_OPTION_REAL,
     .offset = FIELD(top_p), .given = FIELD(top_p_given),
     .commands = "run", .initial = "1", .min = 0, .max = 1,
     .help = "sample among the fewest tokens whose probabilities reach X together"},
    {.name = "min-p", .argument = "X", .kind = SY_OPTION_REAL,
     .offset = FIELD(min_p), .given = FIELD(min_p_given),
     .commands = "run", .initial = "0", .min = 0, .max = 1,
     .help = "drop tokens less likely than X times the likeliest"},
    {.name = "seed", .argument = "N", .kind = SY_OPTION_UINT64, .offset = FIELD(seed),
     .commands = "run bench logits", .initial = "0",
     .help = "seed of sampling and of dummy weights; equal seeds give equal results"},
    {.name = "sampling", .argument = "model", .kind = SY_OPTION_CHOICE,
     .offset = FIELD(sampling), .commands = "run", .choices = "model",
     .help = "take sampling values that are not given from the model's own file"},
    {.name = "stop", .argument = "TEXT", .kind = SY_OPTION_REPEAT, .offset = FIELD(stop),
     .commands = "run",
     .help = "end the answer before TEXT; may be repeated"},
    {.name = "loads", .argument = "FILE", .kind = SY_OPTION_TEXT, .offset = FIELD(loads),
     .commands = "run",
     .help = "write the tokens per layer and expert to FILE (JSON)"},
    {.name = "routes", .argument = "FILE", .kind = SY_OPTION_TEXT, .offset = FIELD(routes),
     .commands = "logits",
     .help = "replay the router's choices from FILE"},
    {.name = "out", .letter = 'o', .argument = "FILE.npy", .kind = SY_OPTION_TEXT,
     .offset = FIELD(out), .commands = "logits",
     .help = "where the logits go"},

    /* tokenizing */
    {.name = "decode", .kind = SY_OPTION_FLAG, .offset = FIELD(decode),
     .commands = "tokenize",
     .help = "ids in, text out"},
    {.name = "special", .kind = SY_OPTION_FLAG, .offset = FIELD(special),
     .commands = "tokenize",
     .help = "add what begins and ends a text (BOS, ...); show special tokens when decoding"},

    /* converting */
    {.name = "to", .argument = "FORMAT", .kind = SY_OPTION_CHOICE, .offset = FIELD(to),
     .commands = "convert", .choices = "bf16 fp8 q8 mxfp4 nvfp4",
     .help = "precision of the new weights"},
    {.name = "all", .kind = SY_OPTION_FLAG, .offset = FIELD(all_matrices),
     .commands = "convert",
     .help = "attention, dense and shared FFN as well as routed experts"},
    {.name = "shard-size", .argument = "GB", .kind = SY_OPTION_REAL,
     .offset = FIELD(shard_size), .commands = "convert", .initial = "4", .min = 1e-6,
     .max = 1e6,
     .help = "most data in a file, unless a single tensor has more"},
    {.name = "threads", .letter = 't', .argument = "N", .kind = SY_OPTION_INT,
     .offset = FIELD(convert_threads), .commands = "convert", .initial = "2", .min = 1,
     .max = 64,
     .help = "threads that read, encode and write"},
    {.name = "dry-run", .kind = SY_OPTION_FLAG, .offset = FIELD(dry_run),
     .commands = "convert",
     .help = "say how large the result will be, and write nothing"},

    /* evaluating */
    {.name = "text", .argument = "FILE", .kind = SY_OPTION_TEXT, .offset = FIELD(text_file),
     .commands = "eval profile", .exclusive = 'p',
     .help = "the text that goes through the model"},
    {.name = "against", .argument = "MODEL2", .kind = SY_OPTION_TEXT,
     .offset = FIELD(against), .commands = "eval",
     .help = "compare with this model, the reference"},
    {.name = "ctx", .argument = "N", .kind = SY_OPTION_INT64, .offset = FIELD(window),
     .commands = "eval profile", .initial = "512", .min = 2, .max = MAX_TOKENS,
     .help = "tokens of a window"},

    /* profiles */
    {.name = "label", .argument = "NAME=FILE", .kind = SY_OPTION_REPEAT,
     .offset = FIELD(label), .commands = "profile", .exclusive = 'p',
     .help = "a text under a name, to be compared with others; may be repeated"},
    {.name = "out", .letter = 'o', .argument = "DIR", .kind = SY_OPTION_TEXT,
     .offset = FIELD(profile_dir), .commands = "profile",
     .help = "write the profile's files into DIR; other files there stay"},
    {.name = "profile", .argument = "DIR", .kind = SY_OPTION_TEXT,
     .offset = FIELD(profile_dir), .commands = "run bench",
     .help = "write expert loads and timings into DIR, which makes the run a little slower"},
    {.name = "profile-events", .argument = "N", .kind = SY_OPTION_INT64,
     .offset = FIELD(profile_events), .commands = "run bench profile", .initial = "200000",
     .min = 0, .max = 100000000,
     .help = "most events of a rank in the trace; later ones are dropped"},
    {.name = "profile-routes", .argument = "N", .kind = SY_OPTION_INT64,
     .offset = FIELD(profile_routes), .commands = "run bench profile", .initial = "0",
     .min = 0, .max = SY_PROFILE_MOST_ROUTES,
     .help = "write the router's choice of each token of the first N sequences"},
    {.name = "profile-pairs", .kind = SY_OPTION_FLAG, .offset = FIELD(profile_pairs),
     .commands = "run bench profile",
     .help = "write how often each pair of experts was chosen together"},

    /* inspecting */
    {.name = "ranks", .argument = "N", .kind = SY_OPTION_INT, .offset = FIELD(ranks),
     .commands = "inspect", .initial = "1", .min = 1, .max = 4096,
     .help = "count bytes per rank as on N ranks; starts nothing"},

    /* placing experts */
    {.name = "ranks", .argument = "N", .kind = SY_OPTION_INT, .offset = FIELD(place_ranks),
     .commands = "place", .initial = "0", .min = 0, .max = 4096,
     .help = "ranks to place the experts on; 0: as many as the loads were counted on"},
    {.name = "slots", .argument = "N", .kind = SY_OPTION_INT, .offset = FIELD(place_slots),
     .commands = "place", .initial = "0", .min = 0, .max = 65536,
     .help = "experts that a rank can hold in a layer; more than are needed get copies of hot "
             "experts; 0: as few as hold each expert once"},
    {.name = "max-copies", .argument = "N", .kind = SY_OPTION_INT, .offset = FIELD(max_copies),
     .commands = "place", .initial = "0", .min = 0, .max = 4096,
     .help = "most copies of an expert; 1: none but itself; 0: any number with --slots"},
    {.name = "ranks-per-host", .argument = "N[,N..]", .kind = SY_OPTION_LIST,
     .offset = FIELD(ranks_per_host), .commands = "place", .min = 1, .max = 4096,
     .help = "ranks share hosts: fewer bytes between hosts at equal balance than without this "
             "option"},
    {.name = "speeds", .argument = "X,X,..", .kind = SY_OPTION_TEXT, .offset = FIELD(speeds),
     .commands = "place",
     .help = "relative speed of each rank; a rank of 2 takes twice the load of a rank of 1"},
    {.name = "against", .argument = "FILE", .kind = SY_OPTION_TEXT,
     .offset = FIELD(place_against), .commands = "place",
     .help = "compare with this placement, not with contiguous experts"},
    {.name = "out", .letter = 'o', .argument = "FILE", .kind = SY_OPTION_TEXT,
     .offset = FIELD(place_out), .commands = "place",
     .help = "write the placement to FILE"},
    {.name = "format", .argument = "FORMAT", .kind = SY_OPTION_CHOICE,
     .offset = FIELD(place_format), .given = FIELD(place_format_given),
     .commands = "place", .initial = "switchyard",
     .choices = "switchyard trtllm sglang",
     .help = "form of FILE: our JSON, TensorRT-LLM's YAML, JSON as SGLang and vLLM have it"},
    {.name = "from", .argument = "FILE", .kind = SY_OPTION_TEXT, .offset = FIELD(place_from),
     .commands = "place",
     .help = "place nothing: write this placement, of any of the formats, to --out"},

    /* planning */
    {.name = "out", .letter = 'o', .argument = "FILE", .kind = SY_OPTION_TEXT,
     .offset = FIELD(out), .commands = "calibrate",
     .help = "write the description to FILE, not to stdout"},
    {.name = "cluster", .argument = "CLUSTER", .kind = SY_OPTION_TEXT, .offset = FIELD(cluster),
     .commands = "plan",
     .help = "spark, spark:4, h100:8, ..., a file, or list: print what is built in"},
    {.name = "ctx", .argument = "N", .kind = SY_OPTION_INT64, .offset = FIELD(plan_ctx),
     .commands = "plan", .initial = "0", .min = 0, .max = MAX_TOKENS,
     .help = "positions of a sequence; 0: 4096, or the model's if that is less"},
    {.name = "batch", .letter = 'b', .argument = "N", .kind = SY_OPTION_INT64,
     .offset = FIELD(plan_batch), .commands = "plan", .initial = "1", .min = 1, .max = 65536,
     .help = "sequences at the same time, over all ranks"},
    {.name = "loads", .argument = "FILE", .kind = SY_OPTION_TEXT, .offset = FIELD(plan_loads),
     .commands = "plan",
     .help = "choose experts as often as FILE says, written by run --loads"},
    {.name = "precision", .argument = "EXPERTS[+REST]", .kind = SY_OPTION_TEXT,
     .offset = FIELD(precision), .commands = "plan",
     .help = "weights in bf16, fp8, q8, int4, mxfp4 or nvfp4 (the latter two for experts), the "
             "rest in bf16 (with fp8: in fp8) or as told; else as published"},

    /* looking at machines */
    {.name = "load", .argument = "FILE", .kind = SY_OPTION_TEXT, .offset = FIELD(topo_load),
     .commands = "topo",
     .help = "machines from FILE, as --save or --json wrote it; starts nothing"},
    {.name = "save", .argument = "FILE", .kind = SY_OPTION_TEXT, .offset = FIELD(topo_save),
     .commands = "topo",
     .help = "write the machines to FILE, as JSON"},
    {.name = "svg", .argument = "FILE", .kind = SY_OPTION_TEXT, .offset = FIELD(topo_svg),
     .commands = "topo",
     .help = "draw machines and ranks into FILE"},

    /* measuring */
    {.name = "prompt-tokens", .letter = 'p', .argument = "N[,N..]", .kind = SY_OPTION_LIST,
     .offset = FIELD(bench_prompt), .commands = "bench", .initial = "512", .min = 0,
     .max = MAX_TOKENS,
     .help = "prompt lengths to measure"},
    {.name = "gen-tokens", .letter = 'g', .argument = "N[,N..]", .kind = SY_OPTION_LIST,
     .offset = FIELD(bench_gen), .commands = "bench", .initial = "128", .min = 0,
     .max = MAX_TOKENS,
     .help = "numbers of generated tokens to measure"},
    {.name = "batch", .letter = 'b', .argument = "N[,N..]", .kind = SY_OPTION_LIST,
     .offset = FIELD(bench_batch), .commands = "bench", .initial = "1", .min = 1,
     .max = 65536,
     .help = "numbers of sequences that run together"},
    {.name = "repetitions", .letter = 'r', .argument = "N", .kind = SY_OPTION_INT,
     .offset = FIELD(repetitions), .commands = "bench", .initial = "3", .min = 1,
     .max = SY_BENCH_MAX_REPETITIONS,
     .help = "runs of each measurement"},
    {.name = "format", .argument = "FORMAT", .kind = SY_OPTION_CHOICE,
     .offset = FIELD(format), .commands = "bench", .initial = "markdown",
     .choices = "markdown csv json", .exclusive = 'j',
     .help = "form of the table"},
    {.name = "dummy-weights", .kind = SY_OPTION_FLAG, .offset = FIELD(dummy_weights),
     .commands = "bench logits",
     .help = "make the weights up; only config.json is read"},
    {.name = "layers", .argument = "N", .kind = SY_OPTION_TEXT, .offset = FIELD(layers),
     .commands = "bench logits",
     .help = "with dummy weights: layers in all, or dense:N,moe:N of each kind"},
    {.name = "vocab", .argument = "N", .kind = SY_OPTION_INT, .offset = FIELD(vocab),
     .commands = "bench logits", .initial = "0", .min = 0, .max = MAX_TOKENS,
     .help = "with dummy weights: size of the vocabulary; 0: the model's"},
    {.name = "experts", .argument = "N", .kind = SY_OPTION_INT, .offset = FIELD(experts),
     .commands = "bench logits", .initial = "0", .min = 0, .max = 65536,
     .help = "with dummy weights: experts per layer; 0: the model's"},
    {.name = "exchange", .kind = SY_OPTION_FLAG, .offset = FIELD(bench_exchange),
     .commands = "bench",
     .help = "measure dispatch and combine alone, on 2, 4, 8, ... and all ranks"},
    {.name = "tokens", .argument = "N", .kind = SY_OPTION_INT64,
     .offset = FIELD(exchange_tokens), .commands = "bench", .initial = "512", .min = 1,
     .max = 65536,
     .help = "with --exchange: sweep from 1 to N tokens per rank"},

    /* computing */
    {.name = "activations", .argument = "TYPE", .kind = SY_OPTION_CHOICE,
     .offset = FIELD(activations), .commands = "@engine", .initial = "bf16",
     .choices = "bf16 f32",
     .help = "precision between the layers"},
    {.name = "numerics", .argument = "MODE", .kind = SY_OPTION_CHOICE,
     .offset = FIELD(numerics), .commands = "@engine", .initial = "exact",
     .choices = "exact fast fast-bf16",
     .help = "exact: equal bits on any number of ranks and in any batch; fast: results are "
             "added up before they travel home, on CPUs long prompts take latent attention in its "
             "naive form, and dense products of prompts are cuBLAS's on a GPU; fast-bf16: and "
             "rounded to bf16, on CPUs"},
    {.name = "device", .argument = "NAME", .kind = SY_OPTION_CHOICE, .offset = FIELD(device),
     .commands = "@parallel", .initial = "auto", .choices = "auto cpu cuda",
     .help = "what computes; auto: cuda where every rank has a GPU, else cpu"},
    {.name = "no-graphs", .kind = SY_OPTION_FLAG, .offset = FIELD(no_graphs),
     .commands = "@engine",
     .help = "on a GPU: launch each step kernel by kernel, not as a recorded graph"},
    {.name = "isa", .argument = "NAME", .kind = SY_OPTION_CHOICE, .offset = FIELD(isa),
     .commands = "@engine", .initial = "auto",
     .choices = "auto generic avx2 avx512 avx512bf16 neon",
     .help = "instruction set; SWITCHYARD_ISA in the environment sets the default"},
    {.name = "threads", .letter = 't', .argument = "N", .kind = SY_OPTION_INT,
     .offset = FIELD(threads), .commands = "@engine", .initial = "0", .min = 0, .max = 1024,
     .help = "threads of a rank; 0: its share of the cores"},

    {.name = "placement", .argument = "FILE", .kind = SY_OPTION_TEXT,
     .offset = FIELD(placement), .commands = "@engine inspect plan",
     .help = "which rank holds which experts, as place wrote it; else contiguous experts"},
    {.name = "memory", .argument = "GB", .kind = SY_OPTION_REAL, .offset = FIELD(memory),
     .commands = "@engine", .initial = "0", .min = 0, .max = 1e6,
     .help = "most memory of a rank: refuse before loading what plan forecasts above it; 0: "
             "what the machine has left"},

    {.name = "bind", .argument = "HOW", .kind = SY_OPTION_CHOICE, .offset = FIELD(bind),
     .commands = "@engine", .initial = "auto", .choices = "auto cores none",
     .help = "bind each rank to cores of its own, near its device; auto: where there are several "
             "NUMA nodes or kinds of cores, and mpirun has not bound it; switchyard topo shows "
             "which"},

    /* ranks */
    {.name = "ranks", .letter = 'n', .argument = "N", .kind = SY_OPTION_INT,
     .offset = FIELD(n_ranks), .commands = "@parallel", .initial = NULL, .min = 1,
     .max = 4096, .front_end = true,
     .help = "run on N ranks (starts mpirun if N is more than 1)"},
    {.name = "hosts", .argument = "HOST:N,..", .kind = SY_OPTION_TEXT, .offset = FIELD(hosts),
     .commands = "@parallel", .exclusive = 'h', .front_end = true,
     .help = "hosts and the ranks that each can take; all are used if -n is not given"},
    {.name = "hostfile", .argument = "FILE", .kind = SY_OPTION_TEXT,
     .offset = FIELD(hostfile), .commands = "@parallel", .exclusive = 'h', .front_end = true,
     .help = "hosts from FILE, in Open MPI's format"},
    {.name = "virtual-hosts", .argument = "H", .kind = SY_OPTION_INT,
     .offset = FIELD(virtual_hosts), .commands = "@parallel", .initial = "0", .min = 0,
     .max = 4096,
     .help = "treat the ranks of a host as if they were on H hosts"},
    {.name = "no-shared-memory", .kind = SY_OPTION_FLAG, .offset = FIELD(no_shared_memory),
     .commands = "@parallel",
     .help = "use MPI between the ranks of a host too"},
    {.name = "deadline", .argument = "SECONDS", .kind = SY_OPTION_REAL,
     .offset = FIELD(deadline), .commands = "@parallel", .initial = "10", .min = 0,
     .max = 86400,
     .help = "a rank that is silent for longer is taken for dead, and rows between GPUs for "
             "lost after 12 times that; 0: never"},
    {.name = "start-limit", .argument = "SECONDS", .kind = SY_OPTION_REAL,
     .offset = FIELD(start_limit), .commands = "@parallel", .initial = "60", .min = 0.1,
     .max = 86400, .front_end = true,
     .help = "most time for MPI to start the ranks"},

    /* what is printed */
    {.name = "json", .kind = SY_OPTION_FLAG, .offset = FIELD(json),
     .commands = "run bench inspect convert eval profile plan topo place", .exclusive = 'j',
     .help = "print JSON for other programs"},
    {.name = "color", .argument = "WHEN", .kind = SY_OPTION_CHOICE, .offset = FIELD(color),
     .commands = "profile", .initial = "auto", .choices = "auto always never",
     .help = "colours; auto: on a terminal, unless NO_COLOR is set"},
    {.name = "quiet", .letter = 'q', .kind = SY_OPTION_FLAG, .offset = FIELD(quiet),
     .commands = "@all", .exclusive = 'v',
     .help = "no progress, no notes"},
    {.name = "verbose", .letter = 'v', .kind = SY_OPTION_FLAG, .offset = FIELD(verbose),
     .commands = "@all", .exclusive = 'v',
     .help = "say more, the effective options first"},
    {.name = NULL},
};
/* clang-format on */

static bool has_word(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *p = words; (p = strstr(p, word)) != NULL; p += n) {
        bool starts = p == words || p[-1] == ' ';
        if (starts && (p[n] == ' ' || p[n] == '\0')) return true;
    }
    return false;
}

bool sy_option_applies(const sy_option *option, const sy_command *command) {
    return has_word(option->commands, "@all") ||
           (command->parallel && has_word(option->commands, "@parallel")) ||
           (command->parallel && !command->no_engine &&
            has_word(option->commands, "@engine")) ||
           has_word(option->commands, command->name);
}

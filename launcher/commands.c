#include "launcher/commands.h"
#include "launcher/cmd_inspect.h"
#include "launcher/cmd_plan.h"
#include "launcher/cmd_place.h"
#include "launcher/cmd_report.h"
#include "launcher/cmd_topo.h"
#include "launcher/cmd_plan.h"

#include <stddef.h>

const sy_command sy_commands[] = {
    {.name = "run",
     .synopsis = "MODEL [options]",
     .summary = "generate text from a prompt",
     .text =
         "The prompt comes from one of --prompt, --file, --prompts or --ids, else from stdin.\n"
         "The text is printed while it is made. Equal requests give equal text on any number\n"
         "of ranks. A prompt is raw text: no template is applied to it.\n"
         "\n"
         "--json prints one object per prompt: prompt (its number, from 0), prompt_ids, ids,\n"
         "text, finish_reason (length, end_token, stop_string, interrupted, output_closed or\n"
         "not_a_number) and timings\n"
         "(first_token_s and last_token_s, seconds from the start of the run).\n"
         "\n"
         "--loads writes a JSON object: version (1), model, ranks, tokens, and layers, a list\n"
         "of those with experts. A layer has its number layer, experts, top_k and counts:\n"
         "a row per expert with the tokens that each rank computed with it.",
     .needs_model = true,
     .parallel = true,
     .main = sy_cmd_run},
    {.name = "bench",
     .synopsis = "[MODEL] [options]",
     .summary = "measure the speed of prefill and decode",
     .text =
         "Prints one row per combination of the lists. --dummy-weights needs no weights on\n"
         "disk, --exchange measures the ranks' dispatch and combine alone and needs no model\n"
         "(with one, it takes its shape).",
     .needs_model = false,
     .parallel = true,
     .main = sy_cmd_bench},
    {.name = "logits",
     .synopsis = "MODEL --ids \"1 2 3\" --out FILE.npy [options]",
     .summary = "write the logits of every position, for comparisons",
     .text =
         "The file holds float32 [tokens][vocabulary], as the model computes them: nothing is\n"
         "masked.",
     .needs_model = true,
     .parallel = true,
     .main = sy_cmd_logits},
    {.name = "tokenize",
     .synopsis = "MODEL [options]",
     .summary = "JSON strings in, JSON arrays of ids out",
     .text =
         "Reads stdin, one JSON string a line (with --decode: one array of ids a line), and\n"
         "answers each line with one line.",
     .needs_model = true,
     .parallel = false,
     .main = sy_cmd_tokenize},
    {.name = "inspect",
     .synopsis = "MODEL [options]",
     .summary = "what a checkpoint is: spec, tensors, bytes per rank",
     .text = sy_inspect_help,
     .needs_model = true,
     .parallel = false,
     .main = sy_cmd_inspect},
    {.name = "plan",
     .synopsis = "MODEL --cluster CLUSTER [options]",
     .summary = "does a model fit, and how fast would it be; reads only its config",
     .text = sy_plan_help,
     .needs_model = false,
     .parallel = false,
     .main = sy_cmd_plan},
    {.name = "calibrate",
     .synopsis = "[-n N] [--out FILE] [options]",
     .summary = "measure this machine's constants, as a cluster description for plan",
     .text =
         "Runs small made-up models and the exchange on the given ranks, all at the same time,\n"
         "in under a minute on an idle machine, and writes what they reach as a cluster file\n"
         "(docs/plan.md): read bandwidth by threads, shares of it and of the multiply rate by\n"
         "format of weights, attention, overhead of a layer, and the exchange's latency and\n"
         "bandwidth. Then: plan CONFIG --cluster FILE. CPU ranks only.",
     .takes_nothing = true,
     .parallel = true,
     .main = sy_cmd_calibrate},
    {.name = "place",
     .synopsis = "LOADS.json [LOADS2.json ..] [options]",
     .summary = "from expert loads to a placement of the experts",
     .text = sy_place_help,
     .takes_files = true,
     .parallel = false,
     .main = sy_cmd_place},
    {.name = "convert",
     .synopsis = "MODEL OUT --to FORMAT [options]",
     .summary = "write a checkpoint in another precision",
     .text =
         "Writes the model to the new directory OUT. Routed experts become FORMAT; attention,\n"
         "dense and shared FFN do so with --all. Embeddings, lm_head, norms, routers, biases "
         "and\n"
         "kv_b_proj stay as they are, or become bf16 where they were quantised otherwise.\n"
         "\n"
         "  bf16    no quantisation\n"
         "  fp8     E4M3, one float32 scale for 128 x 128 values\n"
         "  q8      8-bit integers, one bf16 scale for 32 values; Switchyard's own\n"
         "  mxfp4   E2M1, one power of two for 32 values\n"
         "  nvfp4   E2M1, one E4M3 scale for 16 values, one float32 a matrix\n"
         "\n"
         "All is written to OUT.partial, which becomes OUT at the end. A conversion that was\n"
         "ended goes on when the same command is given again.\n"
         "\n"
         "--json prints one object: source_bytes, target_bytes, tensors, shards, encoded\n"
         "(matrices in the new format), kept_shards, written_bytes, seconds.",
     .needs_model = true,
     .needs_target = true,
     .parallel = false,
     .main = sy_cmd_convert},
    {.name = "eval",
     .synopsis = "MODEL --text FILE [options]",
     .summary = "perplexity of a text, and distance from another model",
     .text =
         "The text is cut into windows of --ctx tokens, each computed on its own; no special\n"
         "token is added, and the first token of a window is not scored. Perplexity is e to "
         "the\n"
         "mean negative log-likelihood of the scored tokens.\n"
         "\n"
         "--against adds, for the same tokens, the mean divergence KL(MODEL2 || MODEL) in "
         "nats,\n"
         "the share of positions where both find the same token likeliest, and MODEL2's\n"
         "perplexity. The two tokenizers must cut the text into the same ids.\n"
         "\n"
         "--json prints one object: model, text_bytes, tokens, scored_tokens, ctx, nll and\n"
         "perplexity; with --against also against, against_nll, against_perplexity, kl and\n"
         "same_top_1.",
     .needs_model = true,
     .parallel = true,
     .main = sy_cmd_eval},
    {.name = "profile",
     .synopsis = "MODEL --text FILE | --prompts FILE | --label NAME=FILE .. [options]",
     .summary = "which experts a text takes, how even the load is, where the time goes",
     .text =
         "A text is cut into windows of --ctx tokens, which are spread over the ranks. With\n"
         "--prompts the model answers each prompt with up to --max-tokens tokens.\n"
         "\n"
         "A line of the table is a layer: its experts from number 0 on, the darker the more\n"
         "tokens, and how even the load is. max/mean is 1 and (max-mean)/mean is 0 where all\n"
         "have the same. In brackets: what a router that chooses at random would have given for\n"
         "as many tokens.\n"
         "\n"
         "--out writes report.html to read, loads.json (input of a placement), loads.csv,\n"
         "trace.json (for Perfetto) and profile.json. docs/profile.md describes them; --json\n"
         "prints profile.json.",
     .needs_model = true,
     .parallel = true,
     .main = sy_cmd_profile},
    {.name = "report",
     .synopsis = "DIR [DIR2 ..] [options]",
     .summary = "a profile as a page to read, made anew from its files",
     .text = sy_report_help,
     .takes_files = true,
     .parallel = false,
     .main = sy_cmd_report},
    {.name = "topo",
     .synopsis = "[options]",
     .summary = "what is here: devices, network, cores; how ranks are bound to them",
     .text = sy_topo_help,
     .takes_nothing = true,
     .parallel = true,
     .no_engine = true,
     .main = sy_cmd_topo},
    {.name = NULL},
};

#include "launcher/commands.h"
#include "launcher/cmd_inspect.h"

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
    {.name = NULL},
};

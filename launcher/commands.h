/* The commands; each lives in launcher/cmd_<name>.c. */
#ifndef SY_LAUNCHER_COMMANDS_H
#define SY_LAUNCHER_COMMANDS_H

#include "launcher/options.h"

sy_status sy_cmd_run(const sy_options *options);
sy_status sy_cmd_bench(const sy_options *options);
sy_status sy_cmd_logits(const sy_options *options);
sy_status sy_cmd_tokenize(const sy_options *options);
sy_status sy_cmd_inspect(const sy_options *options);
sy_status sy_cmd_convert(const sy_options *options);
sy_status sy_cmd_eval(const sy_options *options);
sy_status sy_cmd_plan(const sy_options *options);
sy_status sy_cmd_calibrate(const sy_options *options);
sy_status sy_cmd_place(const sy_options *options);
sy_status sy_cmd_topo(const sy_options *options);
sy_status sy_cmd_profile(const sy_options *options);
sy_status sy_cmd_report(const sy_options *options);

#endif

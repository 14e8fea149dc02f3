/* The text of `switchyard inspect --help` that describes the output; for launcher/commands.c. */
#ifndef SY_LAUNCHER_CMD_INSPECT_H
#define SY_LAUNCHER_CMD_INSPECT_H

extern const char sy_inspect_help[];

#endif

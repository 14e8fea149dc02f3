/* The program, for any table of commands (launcher/options.h). */
#ifndef SY_LAUNCHER_LAUNCH_H
#define SY_LAUNCHER_LAUNCH_H

/* Parses the command line and runs the command, here or on ranks. Returns the exit code. */
int sy_launch(int argc, char **argv);

#endif

/* switchyard plan: the text behind --help. */
#ifndef SY_LAUNCHER_CMD_PLAN_H
#define SY_LAUNCHER_CMD_PLAN_H

extern const char sy_plan_help[];

#endif

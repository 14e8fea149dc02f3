/* The help text of switchyard topo. */
#ifndef SY_LAUNCHER_CMD_TOPO_H
#define SY_LAUNCHER_CMD_TOPO_H

extern const char sy_topo_help[];

#endif

/* Inside launcher/: the text of switchyard place --help. */
#ifndef SY_LAUNCHER_CMD_PLACE_H
#define SY_LAUNCHER_CMD_PLACE_H

extern const char sy_place_help[];

#endif

/* Inside launcher/: the text of switchyard report --help. */
#ifndef SY_LAUNCHER_CMD_REPORT_H
#define SY_LAUNCHER_CMD_REPORT_H

extern const char sy_report_help[];

#endif

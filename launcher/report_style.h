/* Inside launcher/report*: how the page looks, and the one script that it can do without. */
#ifndef SY_LAUNCHER_REPORT_STYLE_H
#define SY_LAUNCHER_REPORT_STYLE_H

extern const char *const sy_report_style[]; /* CSS in pieces, then NULL */
/* JavaScript that names the cell of a heat map under the pointer. */
extern const char sy_report_script[];

#endif

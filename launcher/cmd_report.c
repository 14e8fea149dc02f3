/* switchyard report DIR: report.html of a profile that was taken before. */
#include "launcher/cmd_report.h"

#include "base/log.h"
#include "launcher/commands.h"
#include "launcher/report.h"

const char sy_report_help[] = "Makes DIR/report.html anew from DIR/profile.json and, for the "
                              "time line, DIR/trace.json, as\n"
                              "`profile --out DIR` and `run --profile DIR` wrote them. The "
                              "page needs no other file and no\n"
                              "network. Several directories are done one after the other.";

sy_status sy_cmd_report(const sy_options *options) {
    sy_status st = SY_OK;
    if (options->files.n == 0)
        SY_FAIL(SY_ERR_USAGE, "no directory given: switchyard report DIR, as written by "
                              "switchyard profile --out DIR");
    for (int i = 0; i < options->files.n; i++) {
        SY_TRY(sy_report_write(options->files.text[i]));
        SY_INFO("report   written to %s/report.html", options->files.text[i]);
    }
done:
    return st;
}

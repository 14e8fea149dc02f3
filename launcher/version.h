/* What this build is. */
#ifndef SY_LAUNCHER_VERSION_H
#define SY_LAUNCHER_VERSION_H

#include "base/status.h"

/* --version, on stdout: version, commit, compiler, MPI library, instruction set. */
sy_status sy_version_print(void);

/* "0.4.0 (0123456789ab)": version and commit. */
const char *sy_version_text(void);

#endif

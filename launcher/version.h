/* What this build is. */
#ifndef SY_LAUNCHER_VERSION_H
#define SY_LAUNCHER_VERSION_H

#include "base/status.h"

/* --version, on stdout: version, commit, compiler, MPI library, instruction set. */
sy_status sy_version_print(void);

#endif

#include "launcher/version.h"

#include <errno.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cpu/isa.h"

#ifndef SY_VERSION
#define SY_VERSION "unknown"
#endif
#ifndef SY_COMMIT
#define SY_COMMIT "unknown"
#endif

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

const char *sy_version_text(void) {
    return SY_VERSION " (" SY_COMMIT ")";
}

sy_status sy_version_print(void) {
    /* This call is allowed before MPI_Init; the text names the vendor's package after a comma. */
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int n = 0;
    if (MPI_Get_library_version(mpi, &n) != MPI_SUCCESS || n == 0)
        snprintf(mpi, sizeof mpi, "unknown");
    mpi[strcspn(mpi, ",\n")] = '\0';

    const sy_cpu_isa *isa = sy_cpu_isa_find(NULL);
    printf("switchyard %s\ncommit     %s\ncompiler   %s\nMPI        %s\nISA        %s\n",
           SY_VERSION, SY_COMMIT, COMPILER, mpi, isa != NULL ? isa->name : "none");
    if (fflush(stdout) != 0 || ferror(stdout))
        return sy_fail(SY_ERR_IO, "writing to stdout: %s", strerror(errno));
    return SY_OK;
}

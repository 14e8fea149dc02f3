/* What a test may ask the emulated device, beside the CUDA runtime's own calls.
 *
 * Environment, read when the device is first used:
 *   SY_EMU_SEED=n         draws the order of blocks, warps, lanes and streams, and lets streams run
 *                         late; 0 (the default): all in ascending order, streams as submitted
 *   SY_EMU_MEMORY=bytes   how much memory the device has (4 GiB)
 *   SY_EMU_DEVICES=n      how many devices there are (1); they share the one memory
 *   SY_EMU_FAIL_MALLOC=n  the n-th cudaMalloc finds no memory
 *   SY_EMU_FAIL_LAUNCH=n  the n-th kernel that runs ends in cudaErrorIllegalAddress
 *   SY_EMU_FAIL_GRAPH=n[@r]  the n-th graph that is made ready to run finds no memory (on rank r
 *                         of Open MPI alone)
 *   SY_EMU_STATS=1        prints a table of memory accesses at exit (with the access checker)
 *
 * A *problem* is a fault that the emulation has reported on stderr. A process that ends with exit
 * code 0 in spite of problems, device memory never freed among them, gets exit code 86. */
#ifndef SY_EMULATION_H
#define SY_EMULATION_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int emu_problems(void);
/* The text of problem i, NULL if there are fewer. Valid until emu_forget_problems. */
const char *emu_problem(int i);
/* Forgets problems and the device's error (which on a real device stays for good). Waits for the
 * device first; no capture may be under way. */
void emu_forget_problems(void);

/* From here on the n-th cudaMalloc, or the n-th kernel that runs, fails; 0: none does. */
void emu_fail_malloc(int64_t n);
void emu_fail_launch(int64_t n);

/* Device allocations that have not been freed yet. */
int64_t emu_allocations(void);

/* Accesses of the kernels since the last reset. A request is one passage of the lanes of a warp
 * through one instruction. A sector is 32 bytes of global memory, a pass up to 128 bytes through
 * the 32 banks of shared memory; ideal is how many the same bytes would need at least. */
typedef struct emu_traffic {
    uint64_t requests, lanes;
    uint64_t bytes;        /* different ones of each request, added up */
    uint64_t units, ideal; /* sectors of global memory, passes of shared memory */
} emu_traffic;

typedef struct emu_stats {
    uint64_t launches;
    emu_traffic global_read, global_write, shared_read, shared_write;
} emu_stats;

/* True if accesses are seen at all: kernels built for the access checker, which is linked. */
bool emu_checks_accesses(void);
/* Counts from zero, from now on, and forgets areas. Slows kernels down by a factor of about
 * five. */
void emu_stats_reset(void);
/* Adds up all kernels whose name contains `kernel`. False if none of them ran. */
bool emu_stats_for(const char *kernel, emu_stats *out);
/* The name of the i-th of the kernels that ran, by name; NULL if there are fewer. Valid until the
 * next call. */
const char *emu_stats_kernel(int i);

/* Areas of device memory whose accesses are told apart, 1 .. EMU_AREAS - 1; area 0 is all the rest.
 * They must not overlap, and no request may reach into two. */
enum { EMU_AREAS = 16 };
void emu_stats_area(int area, const void *p, uint64_t bytes);
/* The same as emu_stats_for, of the global accesses to one area alone. */
bool emu_stats_in(const char *kernel, int area, emu_stats *out);

#ifdef __cplusplus
}
#endif
#endif

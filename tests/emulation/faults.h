/* Faults that the emulation must see (test_faults.c). Each is an ordinary use of the device that
 * `planted` makes wrong in one place. *wrong: how far the result is from the right one, NaN if it
 * is not a number. Returns the first error of the runtime. */
#ifndef SY_EMULATION_FAULTS_H
#define SY_EMULATION_FAULTS_H

#include <cuda_runtime.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef cudaError_t (*fault_fn)(bool planted, float *wrong);

/* In kernels. */
cudaError_t fault_missing_barrier(bool planted, float *wrong);
cudaError_t fault_divergent_barrier(bool planted, float *wrong);
cudaError_t fault_missing_copy_wait(bool planted, float *wrong);
cudaError_t fault_wrong_mask(bool planted, float *wrong);
cudaError_t fault_absent_lane(bool planted, float *wrong);
cudaError_t fault_uninitialised_shared(bool planted, float *wrong);
cudaError_t fault_past_shared(bool planted, float *wrong);
cudaError_t fault_read_past_end(bool planted, float *wrong);
cudaError_t fault_write_past_end(bool planted, float *wrong);
cudaError_t fault_illegal_address(bool planted, float *wrong);
cudaError_t fault_read_modify_write(bool planted, float *wrong);
cudaError_t fault_two_blocks(bool planted, float *wrong);
/* In host code. */
cudaError_t fault_pinned_reuse(bool planted, float *wrong);
cudaError_t fault_missing_event(bool planted, float *wrong);
cudaError_t fault_missing_wait(bool planted, float *wrong);
cudaError_t fault_host_touch(bool planted, float *wrong);
cudaError_t fault_allocation_in_capture(bool planted, float *wrong);
cudaError_t fault_wait_in_capture(bool planted, float *wrong);
cudaError_t fault_never_freed(bool planted, float *wrong);

#ifdef __cplusplus
}
#endif
#endif

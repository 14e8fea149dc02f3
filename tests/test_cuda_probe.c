/* The probes of what a CUDA device can do at most, emulated or real. timeout: 120, labels: cuda */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/device.h"
#ifdef SY_WITH_CUDA
#include "kernels/cuda/open.h"
#endif

#define MUST(call)                                                                             \
    do {                                                                                       \
        sy_status must_status = (call);                                                        \
        if (must_status != SY_OK) fail_msg("%s: %s", #call, sy_last_error());                  \
    } while (0)

static sy_backend *be;

/* A rate far from any device's would show bytes or seconds that were miscounted. */
static void bandwidth_is_measured(void **state) {
    (void)state;
    double rate = 0;
    MUST(be->ops->device->probe_bandwidth(be, 0.05, &rate));
    printf("a copy reads and writes %.2f GB/s\n", rate * 1e-9);
    assert_true(rate > 1e6 && rate < 1e14);
}

static void multiply_rate_is_measured(void **state) {
    (void)state;
    double flops = 0;
    sy_status st = be->ops->device->probe_gemm(be, 0.05, &flops);
    if (st == SY_ERR_UNSUPPORTED) {
        assert_non_null(strstr(sy_last_error(), "cuBLAS"));
        printf("skipped: %s\n", sy_last_error());
        skip();
    }
    assert_int_equal(st, SY_OK);
    printf("a BF16 product runs at %.3f TFLOP/s\n", flops * 1e-12);
    assert_true(flops > 1e4 && flops < 1e17);
}

/* And the recording is left as it is. */
static void probes_are_refused_within_a_recording(void **state) {
    (void)state;
    const sy_device_ops *device = be->ops->device;
    sy_recording *recording = NULL;
    double rate = -1;
    MUST(device->record_begin(be));
    assert_int_equal(device->probe_bandwidth(be, 0.01, &rate), SY_ERR_INTERNAL);
    assert_true(rate == 0);
    assert_int_equal(device->probe_gemm(be, 0.01, &rate), SY_ERR_INTERNAL);
    MUST(device->record_end(be, &recording));
    assert_int_equal(device->record_size(recording).nodes, 0);
    MUST(device->replay(be, recording));
    device->record_free(be, recording);
}

int main(void) {
    sy_status st = SY_ERR_UNSUPPORTED;
#ifdef SY_WITH_CUDA
    st = sy_cuda_open(SY_BF16, 0, &be);
#else
    sy_fail(st, "this program was built without CUDA");
#endif
    if (st == SY_ERR_UNSUPPORTED) {
        printf("skipped: %s\n", sy_last_error());
        return 77;
    }
    if (st != SY_OK) {
        printf("%s\n", sy_last_error());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bandwidth_is_measured),
        cmocka_unit_test(multiply_rate_is_measured),
        cmocka_unit_test(probes_are_refused_within_a_recording),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    be->ops->close(be);
    return failed;
}

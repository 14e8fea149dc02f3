#include "comm/device_wire.h"

#ifdef SY_NCCL
#include "comm/nccl_comm.h"

sy_status
sy_device_wire_open(sy_comm *comm, sy_backend *be, double deadline, sy_device_wire **out) {
    return sy_nccl_open(comm, be, deadline, out);
}
#else
sy_status
sy_device_wire_open(sy_comm *comm, sy_backend *be, double deadline, sy_device_wire **out) {
    (void)comm, (void)be, (void)deadline;
    *out = NULL;
    return sy_fail(SY_ERR_UNSUPPORTED,
                   "this program was built without NCCL: devices serve one rank only");
}
#endif

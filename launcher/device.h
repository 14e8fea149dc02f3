/* Which device a rank computes on. */
#ifndef SY_LAUNCHER_DEVICE_H
#define SY_LAUNCHER_DEVICE_H

#include "comm/comm.h"
#include "kernels/ops.h"
#include "launcher/options.h"

/* Opens the backend that --device asks for: "cpu", "cuda", or "auto": CUDA where every rank has a
 * device for it, else the CPU. Ranks of a machine take different devices, near ones first, until
 * all are taken. pool serves the CPU's steps. Collective. */
sy_status
sy_device_open(const sy_options *options, sy_comm *comm, sy_pool *pool, sy_backend **out);

/* What the rank computes with, for messages: the device's name, or the CPU's instruction set. */
const char *sy_device_describe(const sy_backend *be);

#endif

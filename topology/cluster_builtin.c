/* Clusters with published figures. What has no source beyond general knowledge of the vendor's data
 * sheets says so; nothing here was fitted to a measured run of a model. */
#include "topology/cluster.h"

/* clang-format off */
#define OF(number, text) {.value = (number), .source = (text)}

static const char sheet[] = "vendor's data sheet, not re-checked";
static const char assumed[] = "assumption: no published figure";
static const char launches[] =
    "10 kernels a layer, 2.5 us each even in a recorded graph (2 to 3 us, general knowledge)";
static const char recorded[] = "a recorded step is one launch: not counted";
static const char reads[] = "streaming kernels on HBM reach about 90 %: general knowledge";
static const char products[] = "kernels reach 55 to 75 % of the dense peak: general knowledge";
static const char kept[] = "the memory budget keeps one part in 20 free";

/* What all GPUs have in common. */
#define GPU_OVERHEADS                                                                          \
    .step_overhead = OF(0, recorded), .layer_overhead = OF(25e-6, launches)
#define HBM_SHARES                                                                             \
    .read_share = OF(0.9, reads), .rate_share = OF(0.65, products),                            \
    .grouped_share = OF(0.65, products)

/* NCCL between hosts over a 400 Gb/s port for each device. */
#define NIC_400                                                                                \
    {.bandwidth = OF(46e9, "two H100 hosts with 400 Gb/s ports, nccl-tests all-to-all "        \
                           "(deepseek-ai/DeepEP issue 3)"),                                    \
     .latency = OF(30e-6, "the same, short messages"),                                         \
     .peer_latency = OF(11e-6, "NCCL all-to-all of one token, 8 ranks in one host 24.4 us, "   \
                               "16 in two 109.7 us (pplx-kernels README)"),                    \
     .path = "nccl"}

static const sy_builtin_cluster builtin[] = {
    {.text = "NVIDIA DGX Spark and other GB10 machines, one to a host, ConnectX-7 between them",
     .unit_is_host = true,
     .cluster = {
         .name = "spark", .device = "NVIDIA GB10", .is_gpu = true,
         .n_devices = 1, .devices_per_host = 1,
         .memory = OF(130.7e9, "121.7 GiB visible to the system"),
         .usable = OF(105e9, "101.3 GiB free for CUDA at boot, headless, less working room "
                             "(GLM-5.3-Flash-EXL3-2x-DGX-Sparks issue 47)"),
         .bandwidth = OF(273e9, "256 bits of LPDDR5X at 8533 MT/s (chipsandcheese.com)"),
         .read_share = OF(0.846, "a read kernel reached 231 GB/s (antirez/ds4 issue 773)"),
         .rate = {[SY_OPERAND_BF16] = OF(125e12, sheet),
                  [SY_OPERAND_FP8] = OF(250e12, "half of FP4"),
                  [SY_OPERAND_FP4] = OF(500e12, "half of the sparse 1 P of the data sheet")},
         .rate_share = OF(0.712, "dense NVFP4 356 of 500 TFLOP/s with CUTLASS 4.4 "
                                 "(NVIDIA forum 359960)"),
         .grouped_share = OF(0.274, "grouped NVFP4 120 to 154 of 500 TFLOP/s, the same"),
         GPU_OVERHEADS,
         .between_hosts = {
             .bandwidth = OF(21.98e9, "NCCL all-gather over both halves of the port, mean "
                                      "(community guide for two Sparks)"),
             .latency = OF(30e-6, "NCCL all-reduce of 8 KB on two: 30 to 35 us "
                                  "(dgx-spark-playbooks PR 103)"),
             .peer_latency = OF(12e-6, "NCCL all-reduce of 48 KB on four: 54 us "
                                       "(local-inference-lab/b12x PR 295), less the above, "
                                       "over two more peers"),
             .path = "nccl"}}},
    {.text = "NVIDIA DGX Station GB300, one to a host, two 400 Gb/s ports between two of them",
     .unit_is_host = true,
     .cluster = {
         .name = "station-gb300", .device = "NVIDIA GB300", .is_gpu = true,
         .n_devices = 1, .devices_per_host = 1,
         .memory = OF(252e9, "HBM3e of retail units (dgx-spark-playbooks, Station notes); "
                             "LPDDR5X of the CPU is not counted"),
         .usable = OF(240e9, "less 12 GB of working room"),
         .bandwidth = OF(7.1e12, "retail units (dgx-spark-playbooks, Station notes)"),
         HBM_SHARES,
         .rate = {[SY_OPERAND_BF16] = OF(2.5e15, sheet), [SY_OPERAND_FP8] = OF(5e15, sheet),
                  [SY_OPERAND_FP4] = OF(10e15, "half of the sparse 20 P that are claimed")},
         GPU_OVERHEADS,
         .between_hosts = {
             .bandwidth = OF(56e9, "two rails at 225 Gb/s with one queue pair each "
                                   "(dgx-spark-playbooks, Station notes)"),
             .latency = OF(30e-6, "as measured on two Sparks, RoCE too; none for Stations"),
             .peer_latency = OF(12e-6, "as on Sparks; the guide links two only"),
             .path = "nccl"}}},
    {.text = "NVIDIA DGX Station A100: four GPUs of 80 GB, NVLink among them; one Station",
     .unit_is_host = true,
     .cluster = {
         .name = "station-a100", .device = "NVIDIA A100 80GB", .is_gpu = true,
         .n_devices = 4, .devices_per_host = 4,
         .memory = OF(80e9, sheet), .usable = OF(76e9, kept),
         .bandwidth = OF(2.0e12, sheet), HBM_SHARES,
         .rate = {[SY_OPERAND_BF16] = OF(312e12, sheet), [SY_OPERAND_INT8] = OF(624e12, sheet)},
         GPU_OVERHEADS,
         .in_host = {.bandwidth = OF(100e9, "NVLink3, 200 GB/s a pair in both directions"),
                     .latency = OF(6e-6, "NCCL on two H100, short (NVIDIA/nccl issue 1259)"),
                     .peer_latency = OF(3e-6, "as on H100"),
                     .path = "nccl"}}},
    {.text = "NVIDIA H100 SXM, up to eight in a host with NVLink, 400 Gb/s ports between hosts",
     .cluster = {
         .name = "h100", .device = "NVIDIA H100 SXM", .is_gpu = true,
         .n_devices = 1, .devices_per_host = 8,
         .memory = OF(80e9, "MLPerf Inference system descriptions"), .usable = OF(76e9, kept),
         .bandwidth = OF(3.35e12, sheet), HBM_SHARES,
         .rate = {[SY_OPERAND_BF16] = OF(989e12, sheet), [SY_OPERAND_FP8] = OF(1979e12, sheet)},
         GPU_OVERHEADS,
         .in_host = {.bandwidth = OF(450e9, "NVLink4, 900 GB/s in both directions"),
                     .latency = OF(6e-6, "NCCL on two, short (NVIDIA/nccl issue 1259)"),
                     .peer_latency = OF(3e-6, "NCCL all-to-all of one token on 8: 24.4 us "
                                              "(pplx-kernels README)"),
                     .path = "nccl"},
         .between_hosts = NIC_400}},
    {.text = "NVIDIA H200 SXM, up to eight in a host with NVLink, 400 Gb/s ports between hosts",
     .cluster = {
         .name = "h200", .device = "NVIDIA H200 SXM", .is_gpu = true,
         .n_devices = 1, .devices_per_host = 8,
         .memory = OF(141e9, "MLPerf Inference system descriptions"), .usable = OF(133.9e9, kept),
         .bandwidth = OF(4.8e12, sheet), HBM_SHARES,
         .rate = {[SY_OPERAND_BF16] = OF(989e12, sheet), [SY_OPERAND_FP8] = OF(1979e12, sheet)},
         GPU_OVERHEADS,
         .in_host = {.bandwidth = OF(450e9, "NVLink4, 900 GB/s in both directions"),
                     .latency = OF(6e-6, "as on H100"), .peer_latency = OF(3e-6, "as on H100"),
                     .path = "nccl"},
         .between_hosts = NIC_400}},
    {.text = "NVIDIA B200, up to eight in a host with NVLink, 400 Gb/s ports between hosts",
     .cluster = {
         .name = "b200", .device = "NVIDIA B200", .is_gpu = true,
         .n_devices = 1, .devices_per_host = 8,
         .memory = OF(180e9, "MLPerf Inference system descriptions: 180 to 192 GB"),
         .usable = OF(171e9, kept),
         .bandwidth = OF(8e12, sheet), HBM_SHARES,
         .rate = {[SY_OPERAND_BF16] = OF(2.25e15, sheet), [SY_OPERAND_FP8] = OF(4.5e15, sheet),
                  [SY_OPERAND_FP4] = OF(9e15, sheet)},
         GPU_OVERHEADS,
         .in_host = {.bandwidth = OF(900e9, "NVLink5, 1.8 TB/s in both directions"),
                     .latency = OF(6e-6, "as on H100"),
                     .peer_latency = OF(0.96e-6, "NCCL all-to-all of 16 B a pair on 8 GB200: "
                                                 "11.75 us (NVIDIA/nccl, contrib/custom_algos)"),
                     .path = "nccl"},
         .between_hosts = NIC_400}},
    {.text = "NVIDIA B300 or GB300 of a data centre, up to eight in a host with NVLink",
     .cluster = {
         .name = "gb300", .device = "NVIDIA GB300", .is_gpu = true,
         .n_devices = 1, .devices_per_host = 8,
         .memory = OF(288e9, sheet), .usable = OF(273.6e9, kept),
         .bandwidth = OF(8e12, sheet), HBM_SHARES,
         .rate = {[SY_OPERAND_BF16] = OF(2.5e15, sheet), [SY_OPERAND_FP8] = OF(5e15, sheet),
                  [SY_OPERAND_FP4] = OF(15e15, sheet)},
         GPU_OVERHEADS,
         .in_host = {.bandwidth = OF(900e9, "NVLink5, 1.8 TB/s in both directions"),
                     .latency = OF(6e-6, "as on H100"),
                     .peer_latency = OF(0.96e-6, "as on GB200"),
                     .path = "nccl"},
         .between_hosts = NIC_400}},
    {.text = "NVIDIA RTX PRO 6000 Blackwell, up to eight in a host, PCIe 5.0 x16 between them",
     .cluster = {
         .name = "rtx-pro-6000", .device = "NVIDIA RTX PRO 6000", .is_gpu = true,
         .n_devices = 1, .devices_per_host = 8,
         .memory = OF(96e9, sheet), .usable = OF(91.2e9, kept),
         .bandwidth = OF(1.792e12, sheet), HBM_SHARES,
         .rate = {[SY_OPERAND_BF16] = OF(0.5e15, sheet), [SY_OPERAND_FP8] = OF(1e15, sheet),
                  [SY_OPERAND_FP4] = OF(2e15, sheet)},
         GPU_OVERHEADS,
         .in_host = {.bandwidth = OF(55e9, "PCIe 5.0 x16, about 55 GB/s of 64 in practice"),
                     .latency = OF(20e-6, "NCCL over PCIe, 4 to 8 KB: 19 to 20 us "
                                          "(haohervchb/sglang-V100 issue 2)"),
                     .peer_latency = OF(3e-6, assumed),
                     .path = "nccl"}}},
    {.text = "a desktop with eight AVX2 cores, one rank a machine, 10 Gb/s Ethernet; "
             "better: a file by calibrate",
     .unit_is_host = true,
     .cluster = {
         .name = "cpu", .device = "CPU, 8 cores, two channels of DDR5-5600", .is_gpu = false,
         .n_devices = 1, .devices_per_host = 1,
         .memory = OF(64e9, "two or four modules of a desktop"), .usable = OF(60.8e9, kept),
         .bandwidth = OF(89.6e9, "5600 MT/s on two channels of 8 bytes"),
         .read_share = OF(0.8, "streaming reads on desktops: general knowledge"),
         .rate = {[SY_OPERAND_BF16] = OF(1.02e12, "8 cores, 4 GHz, two 256-bit FMA a cycle")},
         .rate_share = OF(0.65, products), .grouped_share = OF(0.65, products),
         .step_overhead = OF(0, assumed),
         .layer_overhead = OF(20e-6, "10 joins of threads a layer, 2 us each: assumption"),
         .between_hosts = {.bandwidth = OF(1.17e9, "10 Gb/s Ethernet less headers"),
                           .latency = OF(50e-6, "TCP and MPI, a round trip: general knowledge"),
                           .peer_latency = OF(10e-6, assumed),
                           .path = "mpi"}}},
};
/* clang-format on */

const sy_builtin_cluster *sy_cluster_builtin(int i) {
    return i >= 0 && (size_t)i < sizeof builtin / sizeof *builtin ? &builtin[i] : NULL;
}

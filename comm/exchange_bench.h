/* How fast the exchange is over the ranks of this run: dispatch and combine without any expert
 * between them, beside the same payload sent by plain MPI_Alltoallv.
 *
 * The comparison favours MPI: its buffers are packed beforehand, its counts are known, and what
 * arrives is neither sorted nor added up. With K experts per token that local work moves several
 * times the bytes that travel, and is reported beside. */
#ifndef SY_COMM_EXCHANGE_BENCH_H
#define SY_COMM_EXCHANGE_BENCH_H

#include <stdint.h>

#include "comm/exchange.h"
#include "comm/liveness.h"

typedef struct sy_exchange_bench_options {
    int hidden, experts, top_k;
    sy_combine_mode combine;
    int64_t max_tokens; /* per rank; the sweep doubles from 1 and ends with this */
    double seconds;     /* per measured number, about */
    sy_liveness *live;  /* its progress advances per batch; NULL: none */
} sy_exchange_bench_options;

typedef struct sy_exchange_bench_row {
    int64_t tokens;     /* per rank */
    uint64_t bytes;     /* sent to other ranks per round trip, mean over the ranks */
    double exchange_s;  /* dispatch + combine: median over batches of the slowest rank's mean */
    double local_s;     /* of it: gathering rows and adding results, the slowest rank's mean */
    double alltoallv_s; /* the two MPI_Alltoallv; 0 with one rank */
    double exchange_gbs; /* bytes / time / 1e9, per rank */
    double alltoallv_gbs;
} sy_exchange_bench_row;

/* Most rows that a sweep has. */
enum { SY_EXCHANGE_BENCH_ROWS = 64 };

/* Collective, allocates, blocks for about the asked time. Tokens choose their experts uniformly
 * at random, experts lie contiguously. Fills row[0 .. *n_rows), alike on all ranks. act is the
 * backend's; what was reserved in it is replaced. */
sy_status sy_exchange_bench(sy_comm *comm,
                            sy_backend *be,
                            const sy_exchange_bench_options *options,
                            sy_exchange_bench_row *row,
                            int *n_rows);

#endif

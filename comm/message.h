/* Inside comm/: the form of a dispatch message.
 *
 *   header | pairs | padding to 64 bytes | rows, padded to 64 bytes (only if they are packed)
 *
 * A receiver that reads the sender's block in place finds the rows there, and pairs point to
 * the sender's own rows; else the message carries the rows that the receiver needs, in order. */
#ifndef SY_COMM_MESSAGE_H
#define SY_COMM_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/plan.h"

enum { SY_MESSAGE_UNIT = 64, SY_MESSAGE_VERSION = 1 };
#define SY_MESSAGE_MAGIC 0x53594458u /* "SYDX" */

typedef struct sy_dispatch_header {
    uint32_t magic, version;
    uint64_t round;     /* rounds before this one */
    uint64_t step_hash; /* of the sender's plan of the step */
    int64_t n_rows;     /* rows that the pairs may point to */
    int64_t n_pairs;
    int64_t n_segments; /* rows that are to come home */
    int64_t n_tokens;   /* different rows among those of the pairs */
    uint64_t reserved;
} sy_dispatch_header;
_Static_assert(sizeof(sy_dispatch_header) == SY_MESSAGE_UNIT, "pairs follow on a cache line");
_Static_assert(sizeof(sy_pair) == 16, "four pairs to a cache line");

/* Header and pairs with padding. n_pairs is at most 2^31 (see sy_exchange_create). */
static inline uint64_t sy_message_head_bytes(uint64_t n_pairs) {
    uint64_t bytes = sizeof(sy_dispatch_header) + n_pairs * sizeof(sy_pair);
    return (bytes + SY_MESSAGE_UNIT - 1) / SY_MESSAGE_UNIT * SY_MESSAGE_UNIT;
}

typedef struct sy_message_limits {
    int64_t max_rows, max_pairs;
    uint64_t row_bytes;
} sy_message_limits;

/* Copies the header of what `source` sent and checks that its counts are within the limits and
 * make up exactly these bytes. The pairs are checked by sy_arrivals_build. */
sy_status sy_message_open(const sy_message_limits *limits,
                          int source,
                          const void *data,
                          uint64_t bytes,
                          bool packed,
                          sy_dispatch_header *out);

/* Whether all ranks are in the same round of the same plan; names the odd one out. */
sy_status sy_message_check_plans(const sy_dispatch_header *header, int n_ranks, int me);

#endif

/* Who needs which token: pure integer work, no communication and no memory of its own past
 * create.
 *
 * A sy_plan is the home's side: from the choice of K experts per row it makes the pairs that go
 * to each rank, and the tree that adds up what comes back. A sy_arrivals is the computing side:
 * from the pairs of all ranks it makes the rows of each slot, and the trees whose sums go home.
 *
 * SEGMENTS. The combine adds K weighted rows along the tree that halves [0, E) recursively (left
 * half ceil(n/2)). A segment is a maximal subtree in which all chosen experts of the token are
 * computed by one rank; that rank adds the segment and sends one row. The segments of a token
 * cover its experts, and each is a run of consecutive chosen experts. The home marks the first
 * pair of each segment, which is all that the computing rank has to know. In reduced mode the
 * pairs of a token on one rank are one segment, wherever they lie. */
#ifndef SY_COMM_PLAN_H
#define SY_COMM_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/ops.h"
#include "topology/placement.h"

/* One (token, expert) pair as it travels. */
typedef struct sy_pair {
    int32_t row;  /* within the rows that the sender shows to this receiver */
    int32_t slot; /* of the receiver */
    float weight;
    uint32_t opens; /* 1 if the pair is the first of a segment, else 0 */
} sy_pair;

typedef struct sy_plan_shape {
    int64_t max_rows; /* T of any rank */
    int n_ranks, top_k;
    int max_slots; /* of any rank */
    int max_experts;
    bool reduced;
} sy_plan_shape;

/* Most pairs and segments that one token has on one rank; most segments that it has in all. */
int sy_plan_pairs_per_token(const sy_plan_shape *shape);
int sy_plan_segments_per_token(const sy_plan_shape *shape);
int sy_plan_leaves_per_token(const sy_plan_shape *shape);

/* Most segments of one token on one rank under a placement, in all layers: K, or fewer where the
 * experts of every rank make up few whole subtrees. Equal on all ranks. */
int sy_plan_placed_segments(const sy_placement *placement, int top_k);

/* The home's side. Public members are valid after build, until the next build. */
typedef struct sy_plan {
    sy_plan_shape shape;
    int rank;
    int64_t n_rows;
    const int64_t *pair_first;  /* [R + 1]: pairs that go to each rank */
    const sy_pair *pair;        /* by rank, then row, then expert; row is the own row */
    const int64_t *token_first; /* [R + 1] */
    const int32_t *token;       /* by rank: the own rows that it needs, ascending */
    const int64_t *n_segments;  /* [R]: rows that each rank will send home */
    const int64_t *leaf_first;  /* [n_rows + 1] */
    const sy_tree_leaf *leaf;   /* chunk = rank, row = row among those it sends home */
    struct sy_plan_memory *memory;
} sy_plan;

uint64_t sy_plan_bytes(const sy_plan_shape *shape);
sy_status sy_plan_create(const sy_plan_shape *shape, int rank, sy_plan *plan);
void sy_plan_destroy(sy_plan *plan); /* zeroed is fine */

/* expert and weight [n_rows, K]; the experts of a row are distinct, in any order. An expert with
 * several copies is computed by the one at (rank + row) modulo their number: any choice gives
 * the same bits, and this one spreads the load. */
sy_status sy_plan_build(sy_plan *plan,
                        const sy_placement_layer *placement,
                        int64_t n_rows,
                        const int32_t *expert,
                        const float *weight);

/* What one rank sent. */
typedef struct sy_pair_list {
    const sy_pair *pair;
    int64_t n_pairs;
    int64_t n_rows; /* rows that the pairs may point to */
    int64_t n_segments;
} sy_pair_list;

/* The computing side. */
typedef struct sy_arrivals {
    sy_plan_shape shape;
    int n_slots;
    int64_t n_pairs;              /* P */
    const int64_t *slot_first;    /* [n_slots + 1] */
    const sy_row_ref *ref;        /* [P] by slot, then source rank, then row: chunk = source */
    const int64_t *segment_first; /* [S + 1] into leaf; segments by source rank, then row */
    const int64_t *source_first;  /* [R + 1] into the segments */
    const sy_tree_leaf *leaf;     /* [P] by segment, then expert: ref = {0, index into ref[]} */
    struct sy_arrivals_memory *memory;
} sy_arrivals;

uint64_t sy_arrivals_bytes(const sy_plan_shape *shape);
sy_status sy_arrivals_create(const sy_plan_shape *shape, sy_arrivals *arrivals);
void sy_arrivals_destroy(sy_arrivals *arrivals); /* zeroed is fine */

/* list [R]. Every member of a list, and every pair, is checked before it is used, and a pair is
 * read from the sender's memory only once: a broken peer is an SY_ERR_COMM that names it. */
sy_status sy_arrivals_build(sy_arrivals *arrivals,
                            const sy_placement_layer *placement,
                            int rank,
                            const sy_pair_list *list);

#endif

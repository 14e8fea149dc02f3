/* Inside comm/: an exchange, as its public calls (exchange.c) and its two forms share it. The
 * form for host memory is exchange_host.c, the one for devices exchange_device.c. */
#ifndef SY_COMM_EXCHANGE_FORM_H
#define SY_COMM_EXCHANGE_FORM_H

#include "comm/device_wire.h"
#include "comm/exchange.h"
#include "comm/exchange_sizes.h"
#include "comm/link.h"
#include "comm/message.h"
#include "comm/plan.h"

/* Which of the four calls comes next. */
typedef enum sy_exchange_phase {
    SY_PHASE_DISPATCH_BEGIN,
    SY_PHASE_DISPATCH_END,
    SY_PHASE_COMBINE_BEGIN,
    SY_PHASE_COMBINE_END,
    SY_PHASE_FAILED
} sy_exchange_phase;

/* What this rank brings to a round: the arguments of sy_dispatch_begin. */
typedef struct sy_exchange_input {
    const sy_placement_layer *placement;
    int64_t n_rows;
    const void *x;
    const int32_t *expert;
    const float *weight;
    uint64_t step_hash;
} sy_exchange_input;

/* The four calls of a form; turns are checked by the caller. create is local, after the link
 * stands; destroy takes what create left half made. */
typedef struct sy_exchange_form {
    sy_status (*create)(sy_exchange *ex);
    void (*destroy)(sy_exchange *ex);
    sy_status (*dispatch_begin)(sy_exchange *ex, sy_stream *s);
    sy_status (*dispatch_end)(sy_exchange *ex, sy_expert_rows *rows, sy_stream *s);
    sy_status (*combine_begin)(sy_exchange *ex, const float *y, sy_stream *s);
    sy_status (*combine_end)(sy_exchange *ex, const float *shared, float *x, sy_stream *s);
} sy_exchange_form;
extern const sy_exchange_form sy_exchange_host, sy_exchange_device;

struct sy_exchange {
    const sy_exchange_form *form;
    sy_comm *comm;
    sy_backend *be;
    sy_exchange_shape shape;
    sy_exchange_sizes size;
    sy_link *link;
    sy_plan plan;
    sy_arrivals arrivals;
    sy_exchange_phase phase;

    const void **chunk;         /* [R] where the rows of each rank lie */
    sy_dispatch_header *header; /* [R] private copies */
    sy_pair_list *list;         /* [R] */
    sy_link_message own;        /* the message to this rank itself */

    sy_exchange_input in; /* of the current round */
    sy_exchange_stats stats;
    sy_exchange_peer *peer; /* [R] */
    int64_t waited_until;

    struct sy_host_form *host; /* one of the two */
    struct sy_device_form *device;
};

/* Writes the head of the message to a rank, header and pairs, and returns its bytes. Pairs point
 * to rows of x, or (renumbered) to the rows that this rank needs, in order. */
uint64_t sy_exchange_write_head(const sy_exchange *ex, int rank, bool renumbered, char *at);
/* Opens what each rank sent: fills header, list and, as far as the rows are at hand, chunk; checks
 * that all run one plan. rows_follow: a message not read in place has its rows behind the pairs. */
sy_status sy_exchange_open_heads(sy_exchange *ex, bool rows_follow);
/* Count what went to a rank (dispatch, return) or came from it (arrival, home): tokens with their
 * pairs, or sums. `peer` may be this rank, whose rows do not travel. */
void sy_exchange_count_dispatch(sy_exchange *ex, int peer, uint64_t tokens, uint64_t pairs);
void sy_exchange_count_arrival(sy_exchange *ex, int peer, uint64_t tokens, uint64_t pairs);
void sy_exchange_count_return(sy_exchange *ex, int peer, uint64_t rows);
void sy_exchange_count_home(sy_exchange *ex, int peer, uint64_t rows);
/* Fixed rounds: in each every rank showed `tokens` rows to all and returned `results` sums to all. */
void sy_exchange_count_fixed_round(sy_exchange *ex,
                                   uint64_t rounds,
                                   uint64_t tokens,
                                   uint64_t results);
/* Waits until all peers' messages of a channel are here. */
sy_status sy_exchange_wait(sy_exchange *ex, sy_channel channel);

/* sy_exchange_create over a given wire (comm/device_wire.h), which the exchange then owns; NULL:
 * the one for devices is opened where needed. Tests pass their own. */
sy_status sy_exchange_create_over(sy_comm *comm,
                                  sy_backend *be,
                                  const sy_exchange_shape *shape,
                                  sy_device_wire *wire,
                                  sy_exchange **out);

#endif

/* Inside comm/: the exchange of a device backend. exchange_device.c is the sparse form and what
 * both share, exchange_fixed.c the fixed one; see exchange.h for the two. */
#ifndef SY_COMM_EXCHANGE_DEVICE_H
#define SY_COMM_EXCHANGE_DEVICE_H

#include "comm/exchange_form.h"
#include "kernels/device.h"

/* The arguments of one capacity's rows on the wire, kept for recordings that replay them. */
typedef struct sy_fixed_call {
    sy_exchange *ex;
    sy_device_wire_gather gather[3]; /* x, expert, weight; all bytes 0 until the first round */
    sy_device_wire_part *part;       /* [R] */
    int64_t rounds;                  /* made since this capacity was set last */
} sy_fixed_call;

struct sy_device_form {
    sy_device_wire *wire; /* NULL: one rank */
    uint64_t *load;
    bool captured;

    /* of the sparse form: device memory, but for the tables of the host */
    char *send, *arrived; /* rows to and from other ranks */
    void *x;              /* rows for the experts */
    float *sums, *home;   /* rows to return, returned rows */
    int32_t *expert;      /* [T, K] the choice read back, in host memory */
    float *weight;
    sy_row_ref *ref;
    sy_device_wire_part *part; /* [R] */

    /* of the fixed form */
    int64_t capacity;    /* of the rounds that come; 0: sparse */
    sy_fixed_call *call; /* [max_capacity + 1] */
    sy_device_wire_part *call_part;
    sy_device_placement *placement; /* [L], tables on the device */
    int32_t *homes;                 /* all those tables */
    uint64_t homes_bytes;
    uint64_t
        *passed; /* on the device, behind the tables: how often other ranks' rows have come */
    sy_device_rows rows; /* what dispatch_end hands out */
    sy_device_round round;
    char *block; /* what `round` points to */
};

/* Collective, at the end of create: the wire, where there are several ranks. Takes `wire`. */
sy_status sy_device_form_connect(sy_exchange *ex, sy_device_wire *wire);
void sy_device_form_set_capacity(sy_exchange *ex, int64_t capacity);
void sy_device_form_set_load(sy_exchange *ex, uint64_t *load);
void sy_device_form_set_captured(sy_exchange *ex, bool captured);
sy_status sy_device_form_probe(sy_exchange *ex, double deadline, bool *works);
void sy_device_form_count(sy_exchange *ex, int64_t capacity, int64_t step);
sy_status sy_device_form_wait(sy_exchange *ex);

/* exchange_fixed.c */
sy_status sy_fixed_create(sy_exchange *ex);
void sy_fixed_destroy(sy_exchange *ex);
sy_status sy_fixed_dispatch_begin(sy_exchange *ex);
sy_status sy_fixed_dispatch_end(sy_exchange *ex, sy_expert_rows *rows, sy_stream *s);
sy_status sy_fixed_combine_begin(sy_exchange *ex, const float *y, sy_stream *s);
sy_status sy_fixed_combine_end(sy_exchange *ex, const float *shared, float *x, sy_stream *s);

#endif

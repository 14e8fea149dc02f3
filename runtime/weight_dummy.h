/* Made-up weights, for runs that ask how fast and how large and not what is said: functions of the
 * run's seed, the weight's name and the place in it alone, so equal on every rank. */
#ifndef SY_RUNTIME_WEIGHT_DUMMY_H
#define SY_RUNTIME_WEIGHT_DUMMY_H

#include "runtime/bind.h"

/* Rows [row0, row0 + n_rows) of the item's part, in the format that it is bound in, into `slot`
 * (as large as sy_weight_slot_bytes says); *out points into it. Weights have mean 0 and variance
 * 1 / columns, which keeps that of activations; norms have the item's
 * value, biases are drawn. */
void sy_weight_dummy(const sy_bind_item *item,
                     uint64_t seed,
                     int64_t row0,
                     int64_t n_rows,
                     char *slot,
                     sy_weight_source *out);

/* The factor that made-up weights of k columns have in a format that wants one; 1 in others. */
float sy_weight_dummy_factor(sy_dtype codes, const sy_quant *quant, int64_t k);

#endif

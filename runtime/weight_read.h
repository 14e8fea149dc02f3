/* Reading weights: the rows of a bound part, from wherever its tensors have them to what a backend
 * packs. Used by weights.c. */
#ifndef SY_RUNTIME_WEIGHT_READ_H
#define SY_RUNTIME_WEIGHT_READ_H

#include "runtime/bind.h"

/* Rows that may be read at once, of about `bytes`; all of them where they lie across. A multiple
 * of SY_PACK_ROWS and of the rows of a block of scales, unless it is all. */
int64_t sy_weight_chunk_rows(const sy_bind_item *item, int64_t bytes);

/* Bytes of n_rows of the part (of a pair, of both) in the files, with the scales that each row has
 * for itself; what sy_weight_read needs of `slot` beyond that is for alignment. */
uint64_t sy_weight_bytes(const sy_bind_item *item, int64_t n_rows);
uint64_t sy_weight_slot_bytes(const sy_bind_item *item, int64_t n_rows);

/* Where codes (at 0), scales and zero points of n_rows go in a slot; of a pair, those of part 1
 * behind those of part 0. */
typedef struct sy_weight_slot {
    uint64_t scales, zeros, end;
} sy_weight_slot;
sy_weight_slot sy_weight_map(const sy_bind_item *item, int64_t n_rows);

/* Rows [row0, row0 + n_rows) of the item's part into `slot`; *out points into it. Of a pair, out[0]
 * and out[1] are those of the two parts. The first row is as sy_weight_chunk_rows cuts. `direct`:
 * the slot is aligned for reads past the page cache. */
sy_status sy_weight_read(const sy_checkpoint *checkpoint,
                         const sy_bind_item *item,
                         int64_t row0,
                         int64_t n_rows,
                         bool direct,
                         char *slot,
                         sy_weight_source *out);

/* Puts file and tensor before the text of the last error. */
void sy_weight_name_tensor(const sy_checkpoint *checkpoint, const sy_tensor_entry *tensor);

#endif

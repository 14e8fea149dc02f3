/* Inside attend: attend.c cuts a batch into tiles and shares them out, attend_tile.c computes the
 * softmax state of a tile. */
#ifndef SY_KERNELS_CPU_ATTEND_H
#define SY_KERNELS_CPU_ATTEND_H

#include "kernels/cpu/kv_page.h"

/* The softmax state of a tile's rows. */
typedef struct sy_attend_state {
    float *m, *l; /* [rows]            */
    float *o;     /* [rows, n_columns] */
} sy_attend_state;

typedef struct sy_attend_core {
    const sy_cpu *cpu;
    const sy_kv_layer *kv;
    sy_kv_layout layout;
    const char *q;      /* act [T, A, key_dim]   */
    char *o;            /* act [T, A, value_dim] */
    const float *sinks; /* [A] or NULL           */
    float scale;
    int heads, group; /* A, G */
    int64_t window;   /* keys that a row sees, itself included; far beyond any context if all */
} sy_attend_core;

/* Some consecutive tokens of a span, and one kv head; its rows are [token][G]. */
typedef struct sy_attend_tile {
    const sy_span *span;
    int head, n_rows;
    int64_t row;      /* of the first token in the batch */
    int64_t position; /* of the first token              */
    int64_t end;      /* position behind the last token  */
} sy_attend_tile;

/* The scratch of a thread. */
typedef struct sy_attend_workspace {
    char *q;      /* act [rows, key_stride]: the tile's queries side by side            */
    char *values; /* panels of a page's values, where the page has only keys            */
    float *score; /* [rows, 64], then p                                                 */
    uint16_t *p;  /* [rows, 64] p in BF16                                               */
    float *decay; /* [rows] exp(m - m')                                                 */
    float *other; /* [rows] the same for the second state of a merge                    */
    sy_attend_state total, leaf;
} sy_attend_workspace;

/* The leaves that some row of the tile sees are [first, end), by number. */
static inline int64_t sy_attend_first_leaf(const sy_attend_core *a, const sy_attend_tile *t) {
    return sy_max(t->position - a->window + 1, 0) / SY_ATTEND_LEAF;
}
static inline int64_t sy_attend_leaves(int64_t end) {
    return sy_ceil_div(end, SY_ATTEND_LEAF);
}

/* Queries of the tile into w->q: before the leaves of a tile. */
void sy_attend_gather(const sy_attend_core *a,
                      const sy_attend_tile *t,
                      const sy_attend_workspace *w);
/* The state of a leaf for the rows that see a key of it. */
void sy_attend_leaf(const sy_attend_core *a,
                    const sy_attend_tile *t,
                    const sy_attend_workspace *w,
                    int64_t leaf,
                    const sy_attend_state *s);
/* total = total joined with a leaf, for the rows that see a key of the leaf. */
void sy_attend_merge(const sy_attend_core *a,
                     const sy_attend_tile *t,
                     const sy_attend_workspace *w,
                     int64_t leaf,
                     const sy_attend_state *total,
                     const sy_attend_state *s);
/* Joins the sinks and stores o / l. */
void sy_attend_store(const sy_attend_core *a,
                     const sy_attend_tile *t,
                     const sy_attend_workspace *w,
                     const sy_attend_state *s);

/* What sy_cpu_attend needs, a part of sy_cpu_attention_scratch. */
void sy_cpu_attend_scratch(const sy_cpu *cpu,
                           const sy_limits *l,
                           uint64_t *thread,
                           uint64_t *shared);

#endif

/* Inside attend: attend.c cuts a batch into tiles and shares them out, attend_tile.c computes the
 * softmax state of a tile, attend_naive.c has the prompts that latent attention takes in its naive
 * form in fast numerics, by weights that attend_up.c gathers. */
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
    const char *q; /* act [T, q_stride], of each row [A, key_dim]   */
    char *o;       /* act [T, o_stride], of each row [A, value_dim] */
    int64_t q_stride, o_stride;
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
/* Takes one page more, in ascending order from the first that the tile sees, into a state that
 * knows no leaves; its keys and values are panels of their own. */
void sy_attend_expanded(const sy_attend_core *a,
                        const sy_attend_tile *t,
                        const sy_attend_workspace *w,
                        int64_t base,
                        const char *keys,
                        const char *values,
                        const sy_attend_state *s);
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

/* Whether latent attention takes the rows of a span in its naive form: in fast numerics, where
 * that is cheaper. Their rows of q are then [A, nope + rope], those of o [A, value], at the
 * beginning of the wider rows of the absorbed form. */
bool sy_cpu_takes_naive_form(const sy_cpu *cpu, const sy_attn_spec *attn, const sy_span *span);
bool sy_cpu_any_naive_form(const sy_cpu *cpu, const sy_attn_spec *attn, const sy_batch *b);

/* The spans of a step that take it, cut into strips; a strip and a head are a unit. */
typedef struct sy_naive_job {
    sy_attend_core core; /* keys and values are those that are made from latents */
    const sy_attn_spec *attn;
    const sy_layer_weights *w;
    const sy_batch *b;
    bool narrow; /* k_up and v_up are multiplied as BF16, else widened to float32 */
    int64_t strip_rows, n_units;
    _Atomic int64_t next_unit;
} sy_naive_job;

/* `core` is that of the absorbed form. */
sy_status sy_naive_plan(const sy_attend_core *core,
                        const sy_attn_spec *attn,
                        const sy_batch *b,
                        sy_naive_job *job);
/* Units until none is left; every thread calls it, in its scratch. */
void sy_naive_share(sy_naive_job *job, int thread);
/* Rows of c values, padded to an even number by a 0, one behind the other: the columns of a head's
 * k_up, then the rows of its v_up; BF16, which both must be, if narrow, else float32. */
void sy_naive_rows(const sy_matrix *k_up, const sy_matrix *v_up, bool narrow, void *to);
uint64_t sy_naive_scratch(const sy_cpu *cpu, const sy_attn_spec *attn, int64_t max_rows);

/* What sy_cpu_attend needs, a part of sy_cpu_attention_scratch. */
void sy_cpu_attend_scratch(const sy_cpu *cpu,
                           const sy_limits *l,
                           uint64_t *thread,
                           uint64_t *shared);

#endif

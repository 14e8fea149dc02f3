/* The inside of a KV page: 64 tokens of one layer, kv head after kv head. Keys are a panel whose
 * outputs are the tokens, values are panels whose reduction runs over the tokens, so that scores
 * and P V are calls of the same gemm kernels that serve the weights:
 *
 *            keys                     values, columns padded to a multiple of 64
 *   BF16     [D/2][64 tokens][2]      [ceil(D/64)][32 token pairs][64 columns][2]
 *   F32      [D][64 tokens]           [ceil(D/64)][64 tokens][64 columns]              */
#ifndef SY_KERNELS_CPU_KV_PAGE_H
#define SY_KERNELS_CPU_KV_PAGE_H

#include "base/checked.h"
#include "kernels/cpu/cpu.h"

typedef struct sy_kv_layout {
    int64_t n_columns;   /* D rounded up to whole panels of 64 */
    int64_t k_bytes;     /* keys of one kv head                */
    int64_t panel_bytes; /* one panel of values                */
    int64_t head_bytes;  /* keys and values of one kv head     */
} sy_kv_layout;

static inline sy_kv_layout sy_kv_layout_of(const sy_backend *be, int64_t head_dim) {
    sy_kv_layout l;
    int64_t act_bytes = sy_act_bytes(be);
    l.n_columns = sy_round_up(head_dim, SY_PANEL);
    l.k_bytes = head_dim * SY_PAGE_TOKENS * act_bytes;
    l.panel_bytes = SY_PAGE_TOKENS * SY_PANEL * act_bytes;
    l.head_bytes = l.k_bytes + l.n_columns / SY_PANEL * l.panel_bytes;
    return l;
}

/* What sy_cpu_attend needs, a part of sy_cpu_attention_scratch. */
void sy_cpu_attend_scratch(const sy_cpu *cpu,
                           const sy_limits *l,
                           uint64_t *thread,
                           uint64_t *shared);

/* The page that holds a position of a span's sequence. */
static inline char *sy_kv_page(const sy_kv_layer *kv, const sy_span *span, int64_t position) {
    return (char *)kv->data + span->pages[position / SY_PAGE_TOKENS] * kv->page_bytes;
}

#endif

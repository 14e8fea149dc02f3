/* The inside of a KV page: 64 tokens of one layer, kv head after kv head. Keys are a panel whose
 * outputs are the tokens, values are panels whose reduction runs over the tokens, so that scores
 * and P V are calls of the same gemm kernels that serve the weights:
 *
 *            keys                     values, columns padded to a multiple of 64
 *   BF16     [D/2][64 tokens][2]      [ceil(D/64)][32 token pairs][64 columns][2]
 *   F32      [D][64 tokens]           [ceil(D/64)][64 tokens][64 columns]
 *
 * Latent attention has one head whose keys are the latent of c values and the rotary part, and
 * whose values are the latent: only the keys are stored, and attend makes panels of values from
 * them. That is half the memory of two copies; the panels cost a few hundredths of the time of
 * many heads. */
#ifndef SY_KERNELS_CPU_KV_PAGE_H
#define SY_KERNELS_CPU_KV_PAGE_H

#include "base/checked.h"
#include "kernels/cpu/cpu.h"

typedef struct sy_kv_layout {
    int n_heads;         /* kv heads; MLA: 1                                           */
    bool values_in_keys; /* MLA: a value is the beginning of its key                   */
    int64_t key_dim;     /* values of a key and of a query: D; MLA: c + rope           */
    int64_t key_stride;  /* key_dim, for BF16 rounded up to whole pairs                */
    int64_t value_dim;   /* D; MLA: c                                                  */
    int64_t n_columns;   /* value_dim rounded up to whole panels of 64                 */
    int64_t k_bytes;     /* keys of one kv head                                        */
    int64_t panel_bytes; /* one panel of values                                        */
    int64_t head_bytes;  /* what is stored of one kv head                              */
} sy_kv_layout;

static inline sy_kv_layout sy_kv_layout_of(const sy_backend *be, const sy_attn_spec *attn) {
    bool latent = attn->kind == SY_ATTN_MLA;
    int64_t act_bytes = sy_act_bytes(be);
    sy_kv_layout l = {.n_heads = latent ? 1 : attn->kv_heads, .values_in_keys = latent};
    l.key_dim = latent ? sy_attn_cache_width(attn) : attn->head_dim;
    l.key_stride = be->act == SY_F32 ? l.key_dim : sy_round_up(l.key_dim, 2);
    l.value_dim = latent ? attn->mla.kv_rank : attn->head_dim;
    l.n_columns = sy_round_up(l.value_dim, SY_PANEL);
    l.k_bytes = l.key_stride * SY_PAGE_TOKENS * act_bytes;
    l.panel_bytes = SY_PAGE_TOKENS * SY_PANEL * act_bytes;
    l.head_bytes = l.k_bytes + (latent ? 0 : l.n_columns / SY_PANEL * l.panel_bytes);
    return l;
}

/* Keys and values of all heads of latent attention when they are made from the latents of a page
 * (attend_naive.c): each head has its own. */
static inline sy_kv_layout sy_kv_expanded_layout(const sy_backend *be,
                                                 const sy_attn_spec *attn) {
    sy_attn_spec heads = {
        .heads = attn->heads, .kv_heads = attn->heads, .head_dim = attn->mla.value};
    sy_kv_layout l = sy_kv_layout_of(be, &heads);
    l.key_dim = (int64_t)attn->mla.nope + attn->mla.rope;
    l.key_stride = be->act == SY_F32 ? l.key_dim : sy_round_up(l.key_dim, 2);
    l.k_bytes = l.key_stride * SY_PAGE_TOKENS * sy_act_bytes(be);
    l.head_bytes = 0; /* none are stored */
    return l;
}

/* The page that holds a position of a span's sequence. */
static inline char *sy_kv_page(const sy_kv_layer *kv, const sy_span *span, int64_t position) {
    return (char *)kv->data + span->pages[position / SY_PAGE_TOKENS] * kv->page_bytes;
}

/* A page that begins anew may hold anything from its last use. Keys of tokens that do not exist
 * yet are masked, but their values are multiplied by P = 0, and 0 * NaN is NaN: values are
 * cleared, so that a broken sequence can never reach into another one. */
void sy_kv_clear_values(const sy_kv_layout *layout, char *page);

/* Keys [n_heads, key_dim] or values [n_heads, value_dim] of one token into their slot. */
void sy_kv_put_keys_bf16(const sy_kv_layout *layout,
                         char *page,
                         int slot,
                         const uint16_t *keys);
void sy_kv_put_keys_f32(const sy_kv_layout *layout, char *page, int slot, const float *keys);
void sy_kv_put_values_bf16(const sy_kv_layout *layout,
                           char *page,
                           int slot,
                           const uint16_t *values);
void sy_kv_put_values_f32(const sy_kv_layout *layout,
                          char *page,
                          int slot,
                          const float *values);

#endif

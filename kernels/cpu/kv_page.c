/* Writing into KV pages. */
#include "kernels/cpu/kv_page.h"

#include <string.h>

void sy_kv_clear_values(const sy_kv_layout *layout, char *page) {
    int64_t begin = layout->values_in_keys ? 0 : layout->k_bytes;
    for (int h = 0; h < layout->n_heads; h++)
        memset(page + h * layout->head_bytes + begin, 0, (size_t)(layout->head_bytes - begin));
}

void sy_kv_put_keys_bf16(const sy_kv_layout *layout,
                         char *page,
                         int slot,
                         const uint16_t *keys) {
    for (int h = 0; h < layout->n_heads; h++, keys += layout->key_dim) {
        char *to = page + h * layout->head_bytes + slot * 4;
        int64_t d = layout->key_dim;
        for (int64_t i = 0; i < d; i += 2) {
            uint16_t pair[2] = {keys[i], 0};
            if (i + 1 < d) pair[1] = keys[i + 1];
            memcpy(to + i * (2 * SY_PAGE_TOKENS), pair, sizeof pair);
        }
    }
}

void sy_kv_put_keys_f32(const sy_kv_layout *layout, char *page, int slot, const float *keys) {
    for (int h = 0; h < layout->n_heads; h++, keys += layout->key_dim) {
        float *to = (float *)(void *)(page + h * layout->head_bytes);
        for (int64_t i = 0; i < layout->key_dim; i++)
            to[i * SY_PAGE_TOKENS + slot] = keys[i];
    }
}

void sy_kv_put_values_bf16(const sy_kv_layout *layout,
                           char *page,
                           int slot,
                           const uint16_t *values) {
    for (int h = 0; h < layout->n_heads; h++, values += layout->value_dim) {
        char *head = page + h * layout->head_bytes + layout->k_bytes;
        uint16_t *to = (uint16_t *)(void *)head;
        for (int64_t i = 0; i < layout->value_dim; i++)
            to[i / SY_PANEL * (SY_PAGE_TOKENS * SY_PANEL) + slot / 2 * (2 * SY_PANEL) +
               i % SY_PANEL * 2 + slot % 2] = values[i];
    }
}

void sy_kv_put_values_f32(const sy_kv_layout *layout,
                          char *page,
                          int slot,
                          const float *values) {
    for (int h = 0; h < layout->n_heads; h++, values += layout->value_dim) {
        float *to = (float *)(void *)(page + h * layout->head_bytes + layout->k_bytes);
        for (int64_t i = 0; i < layout->value_dim; i++)
            to[i / SY_PANEL * (SY_PAGE_TOKENS * SY_PANEL) + slot * SY_PANEL + i % SY_PANEL] =
                values[i];
    }
}

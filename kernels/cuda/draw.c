#include "kernels/cuda/draw.h"

#include <float.h>

#include "base/hash.h"

sy_draw sy_draw_of(const sy_sample_params *params) {
    uint64_t key = sy_hash_add(sy_hash_add(0, params->seed), params->sample);
    sy_draw d = {.top_p = SY_DRAW_ALL_MASS,
                 /* Denormals count as 0, as on the CPU, where they are flushed. */
                 .temperature = params->temperature >= FLT_MIN ? params->temperature : 0.0f,
                 .top_k = params->top_k > 0 ? params->top_k : 0,
                 .uniform = (uint32_t)(sy_hash_add(key, params->position) >> 40)};
    if (params->top_p < 1.0f)
        d.top_p = params->top_p > 0.0f ? (uint64_t)(params->top_p * 0x1p32f) : 0;
    if (params->min_p > 0.0f) d.min_p = params->min_p < 1.0f ? params->min_p : 1.0f;
    return d;
}

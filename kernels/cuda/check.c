/* What the steps on CUDA compute, and what they do not. */
#include "kernels/cuda/cuda.h"

/* The first thing that is asked for and missing; NULL: nothing. */
static const char *missing(const sy_attn_spec *a) {
    if (a->kind != SY_ATTN_MLA) {
        bool fits = a->head_dim <= SY_CUDA_MAX_HEAD_DIM && a->head_dim % 2 == 0;
        return fits ? NULL : "heads of an odd width or of more than 256 values";
    }
    if (a->qkv_bias) return "latent attention with biases of q, k and v";
    if (a->qk_norm != SY_QK_NORM_NONE) return "latent attention with norms of q and k";
    if (a->qk_clip != 0) return "latent attention with a clip of q, k and v";
    return NULL;
}

sy_status sy_cuda_check(const sy_backend *be, const sy_layer_spec *spec) {
    (void)be;
    const char *what = missing(&spec->attn);
    const sy_mla_spec *mla = &spec->attn.mla;
    bool wide = spec->attn.kind == SY_ATTN_MLA &&
                (mla->kv_rank > SY_CUDA_MAX_LATENT ||
                 (int64_t)mla->kv_rank + mla->rope > SY_CUDA_MAX_LATENT_KEY);
    if (wide)
        return sy_fail(
            SY_ERR_UNSUPPORTED,
            "--device cuda computes latents of up to %d values, %d with their rotary "
            "part, not %d and %lld; --device cpu does",
            (int)SY_CUDA_MAX_LATENT, (int)SY_CUDA_MAX_LATENT_KEY, mla->kv_rank,
            (long long)((int64_t)mla->kv_rank + mla->rope));
    if (what == NULL) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED, "--device cuda does not compute %s; --device cpu does",
                   what);
}

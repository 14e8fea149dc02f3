/* What the steps on CUDA compute, and what they do not. */
#include "kernels/cuda/cuda.h"

/* The first thing that is asked for and missing; NULL: nothing. */
static const char *missing(const sy_layer_spec *spec) {
    const sy_attn_spec *a = &spec->attn;
    const sy_ffn_spec *f = &spec->ffn;
    if (a->kind != SY_ATTN_GQA) return "multi-head latent attention";
    if (a->rope.layout != SY_ROPE_HALF && a->rope.dim > 0) return "interleaved rotary pairs";
    if (a->query_beta != 0) return "a query temperature";
    if (a->qkv_bias || a->o_bias) return "biases of attention";
    if (a->window > 0) return "sliding windows";
    if (a->sinks) return "attention sinks";
    if (f->act != SY_ACT_SWIGLU) return "the clamped SwiGLU";
    if (f->kind == SY_FFN_DENSE) return NULL;
    if (f->expert_bias) return "biases of experts";
    if (f->score != SY_SCORE_SOFTMAX) return "routers other than a softmax over all experts";
    if (f->router_bias || f->choice_bias) return "biases of the router";
    if (f->n_groups > 1) return "groups of experts";
    return NULL;
}

sy_status sy_cuda_check(const sy_backend *be, const sy_layer_spec *spec) {
    (void)be;
    const char *what = missing(spec);
    if (what == NULL) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED, "--device cuda does not compute %s; --device cpu does",
                   what);
}

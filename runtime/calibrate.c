#include "runtime/calibrate.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/hash.h"
#include "kernels/probe.h"
#include "runtime/engine.h"
#include "runtime/plan_model.h"

#define PROBE_SECONDS 0.1
enum { REPETITIONS = 3, CHUNK = 256, LONGEST = 2048 };

/* A made-up model and what is run on it. */
typedef struct sample {
    int layers, hidden, heads, experts, top_k, width;
    int64_t prompt; /* tokens of the prompt in prefill, and before the first decoded token */
    int64_t gen;
} sample;

/* Weights that no cache holds; a prompt of one chunk. */
static const sample weights_sample = {1, 2048, 32, 32, 8, 768, CHUNK, 24};
/* Hardly any work in many layers. */
static const sample bare_layers = {48, 64, 1, 2, 1, 32, 1, 12};
/* Attention over much more than the weights: twice, to take what else a token costs away. */
static const sample attention_long = {4, 256, 32, 2, 1, 64, LONGEST, 12},
                    attention_short = {4, 256, 32, 2, 1, 64, CHUNK, 12};

/* What runs on the samples. */
typedef struct bench {
    sy_backend *be;
    sy_pool *pool;
    sy_comm *comm;          /* of this rank alone */
    double bandwidth, rate; /* of the probes around the last run */
    sy_calibration *out;
} bench;

static sy_status make_spec(const sample *s, sy_model_spec **out) {
    char text[1024];
    int n = snprintf(text, sizeof text,
                     "{\"model_type\": \"qwen3_moe\", \"hidden_size\": %d, "
                     "\"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
                     "\"num_key_value_heads\": %d, \"head_dim\": 128, "
                     "\"intermediate_size\": 128, \"moe_intermediate_size\": %d, "
                     "\"num_experts\": %d, \"num_experts_per_tok\": %d, "
                     "\"norm_topk_prob\": true, \"decoder_sparse_step\": 1, "
                     "\"mlp_only_layers\": [], \"vocab_size\": 1024, \"rms_norm_eps\": 1e-6, "
                     "\"tie_word_embeddings\": false, \"max_position_embeddings\": 8192, "
                     "\"hidden_act\": \"silu\", \"attention_bias\": false, "
                     "\"rope_theta\": 10000, \"torch_dtype\": \"bfloat16\"}",
                     s->hidden, s->layers, s->heads, (int)sy_max(1, s->heads / 8), s->width,
                     s->experts, s->top_k);
    return sy_spec_parse(text, (size_t)n, "calibration", out);
}

/* The best of a few runs, in seconds: of the whole prompt, and of a decoded token. What disturbs
 * a run makes it slower only. */
typedef struct timing {
    double prefill, decode;
    double last; /* when the last token came; 0: none yet */
} timing;

static bool on_token(void *context, int request, const sy_token *token) {
    timing *t = context;
    double now = sy_now();
    (void)request;
    (void)token;
    if (t->last > 0) t->decode = fmin(t->decode, now - t->last);
    t->last = now;
    return false;
}

static sy_status run_once(sy_engine *engine, const sample *s, timing *t) {
    int32_t ids[LONGEST];
    const sy_engine_events events = {.token = on_token, .context = t};
    sy_engine_stats stats = {0};
    t->last = 0;
    for (int64_t i = 0; i < s->prompt; i++)
        ids[i] = (int32_t)(sy_hash_add(11, (uint64_t)i) % 1024);
    sy_request request = {ids, s->prompt, s->gen, {.top_p = 1}};
    sy_status st = sy_engine_generate(engine, &request, 1, &events, &stats);
    t->prefill = fmin(t->prefill, stats.prefill_seconds);
    return st;
}

static sy_status time_runs(sy_engine *engine, const sample *s, timing *out) {
    sy_status st = SY_OK;
    timing cold = {DBL_MAX, DBL_MAX, 0};
    *out = cold;
    SY_TRY(run_once(engine, s, &cold));
    for (int i = 0; i < REPETITIONS; i++)
        SY_TRY(run_once(engine, s, out));
done:
    return st;
}

static void probe(bench *b) {
    b->bandwidth = fmax(b->bandwidth, sy_cpu_probe_bandwidth(b->pool, PROBE_SECONDS));
    b->rate = fmax(b->rate, sy_cpu_probe_flops(b->be, PROBE_SECONDS));
}

static sy_status contiguous(const sy_model_spec *spec, int experts, sy_placement **out) {
    int list[64];
    for (int l = 0; l < spec->n_layers; l++)
        list[l] = experts;
    return sy_placement_contiguous(spec->n_layers, list, 1, out);
}

/* Runs a sample with made-up weights of a format; *known is false if the backend lacks it. */
static sy_status
measure(bench *b, const sy_model_spec *spec, const sample *s, timing *out, bool *known) {
    sy_status st = SY_OK;
    sy_placement *placement = NULL;
    sy_weights *weights = NULL;
    sy_engine *engine = NULL;
    int64_t context = s->prompt + s->gen;
    const sy_engine_options options = {.max_context = context,
                                       .max_pages = sy_kv_pages(context),
                                       .per_rank = 1,
                                       .chunk = CHUNK,
                                       .max_outputs = 1,
                                       .n_valid = spec->vocab,
                                       .ignore_eos = true};
    SY_TRY(contiguous(spec, s->experts, &placement));
    SY_TRY(sy_weights_dummy(b->be, spec, placement, 0, 1, sy_pool_threads(b->pool), NULL, NULL,
                            &weights));
    *known = spec->quant.method == SY_QUANT_NONE ||
             sy_is_quantised(weights->layer[0].gate_up[0].dtype);
    if (!*known) goto done;
    sy_engine_parts parts = {
        .comm = b->comm, .be = b->be, .spec = spec, .placement = placement, .weights = weights};
    SY_TRY(sy_engine_create(&parts, &options, &engine));
    b->bandwidth = b->rate = 0;
    probe(b);
    SY_TRY(time_runs(engine, s, out));
    probe(b);
done:
    sy_engine_destroy(engine);
    sy_weights_destroy(weights);
    sy_placement_destroy(placement);
    return st;
}

/* Bytes and FLOPs of a token by the forecast's own counting. */
typedef struct work {
    double rest_bytes, expert_bytes, rest_flops, expert_flops, kv_bytes, position_flops;
} work;

static sy_status count_work(const sy_plan_precision *precision, work *out) {
    sy_plan_model *m;
    sy_status st = sy_plan_model_create(precision, NULL, NULL, &m);
    *out = (work){0};
    if (st != SY_OK) return st;
    for (int i = 0; i < m->forecast.n_layers; i++) {
        const sy_forecast_layer *l = &m->layer[i];
        out->rest_bytes += l->count * l->rest_bytes;
        out->expert_bytes += l->count * l->top_k * l->expert_bytes;
        out->rest_flops += l->count * 2 * l->rest_weights;
        out->expert_flops += l->count * l->top_k * 2 * l->expert_weights;
        out->kv_bytes += l->count * l->kv_bytes;
        out->position_flops += l->count * l->position_flops;
    }
    out->rest_bytes += m->forecast.head_bytes;
    sy_plan_model_destroy(m);
    return SY_OK;
}

/* A share in (0, 1], or 0 for what cannot be one. */
static double as_share(double x) {
    return isfinite(x) && x > 0.001 ? fmin(x, 1) : 0;
}

/* The share of a format: what is left of the time after layers, and after the BF16 part of the
 * weights at BF16's share. Where all weights have the format that part is none. */
static double
share_of(double seconds, double plain, double plain_share, double coded, double rate) {
    double left = seconds - (plain_share > 0 ? plain / (plain_share * rate) : 0);
    return as_share(coded / (left * rate));
}

static const char *const precisions[SY_STORED_COUNT] = {
    [SY_STORED_BF16] = "bf16",      [SY_STORED_FP8] = "fp8",     [SY_STORED_Q8] = "q8+q8",
    [SY_STORED_INT4] = "int4+int4", [SY_STORED_MXFP4] = "mxfp4", [SY_STORED_NVFP4] = "nvfp4"};

static sy_status measure_format(bench *b, sy_stored format) {
    sy_status st = SY_OK;
    sy_model_spec *spec = NULL;
    sy_plan_precision precision;
    sy_calibration *c = b->out;
    bool mixed = format == SY_STORED_MXFP4 || format == SY_STORED_NVFP4, known;
    timing t;
    work w;
    SY_TRY(make_spec(&weights_sample, &spec));
    SY_TRY(sy_plan_precision_make(spec, precisions[format], &precision));
    SY_TRY(count_work(&precision, &w));
    spec->quant = precision.experts.quant;
    double layers = c->layer_overhead * spec->n_layers;
    SY_TRY(measure(b, spec, &weights_sample, &t, &known));
    if (!known) goto done;
    c->decode[format] =
        share_of(t.decode - layers, mixed ? w.rest_bytes : 0, c->decode[SY_STORED_BF16],
                 w.expert_bytes + (mixed ? 0 : w.rest_bytes), b->bandwidth);
    c->prefill[format] = share_of(
        t.prefill - layers, mixed ? CHUNK * w.rest_flops : 0, c->prefill[SY_STORED_BF16],
        CHUNK * (w.expert_flops + (mixed ? 0 : w.rest_flops)), b->rate);
done:
    sy_spec_destroy(spec);
    return st;
}

static sy_status measure_layers(bench *b) {
    sy_status st = SY_OK;
    sy_model_spec *spec = NULL;
    timing t;
    bool known;
    SY_TRY(make_spec(&bare_layers, &spec));
    SY_TRY(measure(b, spec, &bare_layers, &t, &known));
    b->out->layer_overhead = t.decode / bare_layers.layers;
done:
    sy_spec_destroy(spec);
    return st;
}

/* The difference of two prompts: a long one costs the square more, and its cache more reading. */
static sy_status measure_attention(bench *b) {
    sy_status st = SY_OK;
    sy_model_spec *spec = NULL;
    sy_plan_precision precision;
    timing far, near;
    work w;
    bool known;
    double n = (double)attention_long.prompt, m = (double)attention_short.prompt;
    SY_TRY(make_spec(&attention_long, &spec));
    SY_TRY(sy_plan_precision_make(spec, NULL, &precision));
    SY_TRY(count_work(&precision, &w));
    SY_TRY(measure(b, spec, &attention_short, &near, &known));
    SY_TRY(measure(b, spec, &attention_long, &far, &known));
    b->out->attention_decode =
        as_share((n - m) * w.kv_bytes / ((far.decode - near.decode) * b->bandwidth));
    /* T(n) = a n + b n^2, of which a is taken away. */
    double flops = (n * n - n * m) / 2 * w.position_flops;
    b->out->attention_prefill =
        as_share(flops / ((far.prefill - near.prefill * n / m) * b->rate));
done:
    sy_spec_destroy(spec);
    return st;
}

static sy_status measure_threads(bench *b) {
    sy_status st = SY_OK;
    sy_calibration *c = b->out;
    int most = sy_pool_threads(b->pool);
    for (int n = 1; c->n_threads < SY_CLUSTER_THREADS; n = (int)sy_min(2 * (int64_t)n, most)) {
        sy_pool *pool;
        SY_TRY(sy_pool_create(n, false, &pool));
        c->threads[c->n_threads] = n;
        c->bandwidth_of[c->n_threads++] = sy_cpu_probe_bandwidth(pool, PROBE_SECONDS);
        sy_pool_destroy(pool);
        if (n == most) break;
    }
    probe(b);
    c->bandwidth = b->bandwidth;
    c->rate = b->rate;
    if (c->bandwidth <= 0 || c->rate <= 0)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the probe of the read bandwidth");
done:
    return st;
}

sy_status sy_calibrate(sy_backend *be,
                       sy_pool *pool,
                       sy_calibrate_progress progress,
                       void *context,
                       sy_calibration *out) {
    enum { STEPS = SY_STORED_COUNT + 3 };
    sy_status st = SY_OK;
    bench b = {.be = be, .pool = pool, .out = out};
    *out = (sy_calibration){0};
    SY_TRY(sy_comm_create_planned(0, 1, 1, &b.comm));
    for (int step = 0; step < STEPS; step++) {
        if (progress != NULL && !progress(context, (double)step / STEPS))
            SY_FAIL(SY_ERR_INTERRUPTED, "interrupted while calibrating");
        if (step == 0)
            SY_TRY(measure_threads(&b));
        else if (step == 1)
            SY_TRY(measure_layers(&b));
        else if (step == 2)
            SY_TRY(measure_attention(&b));
        else
            SY_TRY(measure_format(&b, (sy_stored)(step - 3)));
    }
done:
    sy_comm_destroy(b.comm);
    return st;
}

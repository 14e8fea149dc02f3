/* The promise of exact numerics, as a program: a seed alone decides a model and its requests;
 * everything that must not matter (placement, replicas, batch mix, chunk, threads, instruction
 * set, sequences per rank) is drawn from the seed, the number of ranks and --variant. It prints
 * one line per request; runs of any rank count must print the same lines (cli_same_bits.sh).
 *
 *   same_bits FIRST_SEED N_CASES [--variant V] [--virtual-hosts H] [--no-shared-memory]
 *             [--reduced] [--flip RANK] [--cuda]
 *
 * --reduced and --flip are controls that must be found out: a combine that adds rank by rank, and
 * one flipped bit in one logit of one rank. --cuda: on a CUDA device, all in bf16; recorded steps
 * or not is drawn too. Exits 77 where there is none. */
#include "tests/model_fixture.h"

#include "base/log.h"

typedef struct draw {
    uint64_t key, n;
} draw;

/* Uniform in [least, most]. */
static int pick(draw *d, int least, int most) {
    return least + (int)(sy_hash_add(d->key, d->n++) % (uint64_t)(most - least + 1));
}

typedef struct settings {
    uint64_t first_seed, variant;
    int n_cases, flip_rank;
    bool cuda;
    sy_comm_options comm;
    sy_combine_mode combine;
} settings;

static void draw_attention(draw *d, sy_attn_spec *a) {
    *a = (sy_attn_spec){.kind = SY_ATTN_GQA,
                        .kv_heads = pick(d, 1, 3),
                        .head_dim = 2 * (pick(d, 0, 3) == 0 ? pick(d, 31, 70) : pick(d, 2, 20)),
                        .rope.layout = SY_ROPE_HALF,
                        .rope.attention_factor = 1,
                        .rope.theta = 10000};
    a->heads = a->kv_heads * pick(d, 1, 4);
    a->qk_norm = (sy_qk_norm)pick(d, 0, 2);
    a->qk_clip = pick(d, 0, 3) == 0 ? 1.5f : 0;
    a->rope.dim = pick(d, 0, 1) ? a->head_dim : a->head_dim / 4 * 2;
    if (a->rope.dim == 0) a->rope.dim = 2;
    a->softmax_scale = 1 / __builtin_sqrtf((float)a->head_dim);
}

static void draw_ffn(draw *d, bool moe, int experts, int k, sy_ffn_spec *f) {
    *f = (sy_ffn_spec){.kind = SY_FFN_DENSE,
                       .act = SY_ACT_SWIGLU,
                       .inter = pick(d, 1, 120),
                       .routed_scale = 1};
    if (!moe) return;
    f->kind = SY_FFN_MOE;
    f->inter = pick(d, 0, 4) == 0 ? pick(d, 257, 600) : pick(d, 1, 70);
    f->experts = experts;
    f->top_k = k;
    f->shared_inter = pick(d, 0, 2) == 0 ? pick(d, 1, 80) : 0;
    f->renorm = pick(d, 0, 1);
    f->routed_scale = pick(d, 0, 1) ? 1 : 2.5f;
}

static sy_model_spec *draw_spec(draw *d) {
    sy_model_spec *spec = calloc(1, sizeof *spec);
    spec->hidden = pick(d, 0, 5) == 0 ? pick(d, 257, 530) : pick(d, 3, 100);
    spec->vocab = pick(d, 17, 200);
    spec->n_layers = pick(d, 1, 3);
    spec->max_position = 1024;
    spec->tied = pick(d, 0, 1);
    spec->final_norm_eps = 1e-6f;
    spec->bos = -1;
    snprintf(spec->family, sizeof spec->family, "drawn");
    spec->layer = calloc((size_t)spec->n_layers, sizeof *spec->layer);
    int experts = pick(d, 0, 5) == 0 ? pick(d, 60, 140) : pick(d, 1, 20);
    int k = pick(d, 1, experts < 10 ? experts : 10);
    for (int l = 0; l < spec->n_layers; l++) {
        spec->layer[l].norm_eps = 1e-6f;
        draw_attention(d, &spec->layer[l].attn);
        draw_ffn(d, l == 0 || pick(d, 0, 2) > 0, experts, k, &spec->layer[l].ffn);
    }
    return spec;
}

/* ---- what not every family has, drawn apart ---- */

static void draw_latent(draw *d, sy_attn_spec *a) {
    sy_mla_spec m = {.q_rank = pick(d, 0, 1) ? pick(d, 3, 40) : 0,
                     .kv_rank = pick(d, 3, 80),
                     .nope = pick(d, 1, 24),
                     .rope = 2 * pick(d, 1, 12),
                     .value = pick(d, 1, 40),
                     .norm_eps = 1e-6f};
    if ((m.nope + m.rope) % 2 != 0) m.nope++;
    a->kind = SY_ATTN_MLA;
    a->mla = m;
    a->kv_heads = 1;
    a->head_dim = m.nope + m.rope;
    a->qk_norm = SY_QK_NORM_NONE;
    a->qk_clip = 0;
    a->rope.dim = m.rope;
    a->softmax_scale = 1 / __builtin_sqrtf((float)a->head_dim);
}

static void vary_attention(draw *d, bool latent, sy_attn_spec *a) {
    if (latent) draw_latent(d, a);
    a->rope.layout = pick(d, 0, 1) ? SY_ROPE_INTERLEAVED : SY_ROPE_HALF;
    if (pick(d, 0, 2) == 0) {
        a->rope.factor = pick(d, 2, 40);
        a->rope.original_positions = pick(d, 16, 128);
        a->rope.beta_fast = 32;
        a->rope.beta_slow = 1;
        a->rope.truncate = pick(d, 0, 1);
        a->rope.attention_factor = 1.25;
    }
    if (pick(d, 0, 2) == 0) {
        a->query_beta = 0.1f;
        a->query_positions = pick(d, 3, 70);
    }
    if (latent) return;
    a->qkv_bias = pick(d, 0, 1);
    a->o_bias = pick(d, 0, 1);
    a->sinks = pick(d, 0, 1);
    a->window = pick(d, 0, 1) ? pick(d, 1, 140) : 0;
}

static void vary_ffn(draw *d, sy_ffn_spec *f) {
    if (pick(d, 0, 1)) {
        f->act = SY_ACT_SWIGLU_CLAMPED;
        f->act_alpha = 1.702f;
        f->act_limit = 0.75f;
    }
    if (f->kind != SY_FFN_MOE) return;
    f->expert_bias = pick(d, 0, 1);
    f->score = (sy_router_score)pick(d, 0, 2);
    f->router_bias = pick(d, 0, 1);
    f->choice_bias = pick(d, 0, 1);
    f->renorm_eps = f->renorm ? 1e-20f : 0;
    for (int groups = 4; groups > 1; groups--)
        if (f->experts % groups == 0 && f->experts / groups >= 2 &&
            f->experts / groups * (groups - 1) >= f->top_k) {
            f->n_groups = groups;
            f->groups_kept = groups - 1;
            f->group_score = pick(d, 0, 1) ? SY_GROUP_TOP2 : SY_GROUP_MAX;
            break;
        }
}

static void draw_quantisation(draw *d, sy_quantization *q) {
    static const sy_quantization formats[] = {{.method = SY_QUANT_NONE},
                                              {.method = SY_QUANT_FP8,
                                               .values = SY_QUANT_E4M3,
                                               .scales = SY_QUANT_PER_BLOCK,
                                               .block_rows = 128,
                                               .block_cols = 128},
                                              {.method = SY_QUANT_COMPRESSED_TENSORS,
                                               .values = SY_QUANT_E4M3,
                                               .scales = SY_QUANT_PER_CHANNEL},
                                              {.method = SY_QUANT_MXFP4,
                                               .values = SY_QUANT_E2M1_MX,
                                               .scales = SY_QUANT_PER_GROUP,
                                               .group = 32},
                                              {.method = SY_QUANT_MODELOPT,
                                               .values = SY_QUANT_E2M1_NV,
                                               .scales = SY_QUANT_PER_GROUP,
                                               .group = 16},
                                              {.method = SY_QUANT_COMPRESSED_TENSORS,
                                               .values = SY_QUANT_INT4,
                                               .scales = SY_QUANT_PER_GROUP,
                                               .group = 32},
                                              {.method = SY_QUANT_SWITCHYARD_Q8,
                                               .values = SY_QUANT_INT8,
                                               .scales = SY_QUANT_PER_GROUP,
                                               .group = 32},
                                              {.method = SY_QUANT_COMPRESSED_TENSORS,
                                               .values = SY_QUANT_INT8,
                                               .scales = SY_QUANT_PER_CHANNEL}};
    *q = formats[pick(d, 0, (int)(sizeof formats / sizeof *formats) - 1)];
}

/* Half of all models get what the backend computes of this. */
static void vary_spec(draw *d, const sy_backend *be, sy_model_spec *spec) {
    if (pick(d, 0, 1)) return;
    bool latent = pick(d, 0, 1);
    draw_quantisation(d, &spec->quant);
    sy_layer_spec *all = calloc((size_t)spec->n_layers, sizeof *all);
    bool computed = true;
    for (int l = 0; l < spec->n_layers; l++) {
        all[l] = spec->layer[l];
        if (l > 0 && latent) all[l].attn = all[0].attn; /* one size of latents */
        if (l == 0 || !latent) vary_attention(d, latent, &all[l].attn);
        vary_ffn(d, &all[l].ffn);
        computed = computed && be->ops->check(be, &all[l]) == SY_OK;
    }
    if (computed) memcpy(spec->layer, all, (size_t)spec->n_layers * sizeof *all);
    free(all);
}

/* Every expert on a random rank, and now and then copies on others. */
static sy_placement *draw_placement(draw *d, const sy_model_spec *spec, int R) {
    int L = spec->n_layers, *experts = calloc((size_t)L, sizeof *experts);
    int32_t **n_slots = calloc((size_t)L, sizeof *n_slots);
    int32_t **slot = calloc((size_t)L, sizeof *slot);
    sy_placement *p;
    for (int l = 0; l < L; l++) {
        int E = experts[l] = spec->layer[l].ffn.experts, at = 0;
        n_slots[l] = calloc((size_t)R, sizeof **n_slots);
        slot[l] = calloc((size_t)(E * R) + 1, sizeof **slot);
        uint8_t *held = calloc((size_t)(E * R) + 1, 1);
        for (int e = 0; e < E; e++) {
            held[e * R + pick(d, 0, R - 1)] = 1;
            while (pick(d, 0, 3) == 0)
                held[e * R + pick(d, 0, R - 1)] = 1;
        }
        for (int r = 0; r < R; r++)
            for (int e = 0; e < E; e++)
                if (held[e * R + r]) {
                    slot[l][at++] = e;
                    n_slots[l][r]++;
                }
        free(held);
    }
    MUST(sy_placement_from_slots(L, experts, R, (const int32_t *const *)n_slots,
                                 (const int32_t *const *)slot, &p));
    for (int l = 0; l < L; l++) {
        free(n_slots[l]);
        free(slot[l]);
    }
    free(n_slots);
    free(slot);
    free(experts);
    return p;
}

/* Now and then a prompt is longer than a leaf of attention state or two. */
enum { MAX_REQUESTS = 6, MAX_CONTEXT = 1152, PAGES = MAX_CONTEXT / SY_PAGE_TOKENS };

typedef struct requests {
    int n;
    sy_request request[MAX_REQUESTS];
    int32_t ids[MAX_REQUESTS][MAX_CONTEXT];
    uint64_t hash[MAX_REQUESTS]; /* over tokens and logits, in order */
    int first;                   /* the request that event number 0 means */
    int64_t longest;             /* prompt */
} requests;

static void draw_requests(draw *d, int vocab, requests *q) {
    *q = (requests){.n = pick(d, 1, MAX_REQUESTS)};
    for (int i = 0; i < q->n; i++) {
        sy_request *r = &q->request[i];
        r->max_tokens = pick(d, 1, 9);
        r->n_prompt = pick(d, 0, 2) == 0 ? pick(d, 60, 150) : pick(d, 1, 20);
        if (pick(d, 0, 39) == 0) r->n_prompt = pick(d, 480, MAX_CONTEXT - 9);
        q->longest = sy_max(q->longest, r->n_prompt);
        r->prompt = q->ids[i];
        for (int64_t t = 0; t < r->n_prompt; t++)
            q->ids[i][t] = pick(d, 0, vocab - 1);
        r->sampling = (sy_sample_params){.temperature = pick(d, 0, 1) ? 0 : 0.8f,
                                         .top_k = pick(d, 0, 1) ? 0 : 5,
                                         .top_p = pick(d, 0, 1) ? 1 : 0.9f,
                                         .seed = (uint64_t)pick(d, 0, 1000)};
    }
}

static bool on_token(void *context, int i, const sy_token *token) {
    requests *q = context;
    uint64_t *hash = &q->hash[q->first + i];
    *hash = sy_hash_add(sy_hash_add(*hash, (uint64_t)token->id), token->logits_hash);
    return false;
}

/* The control: a table whose head step turns one bit of the first logit. */
static struct {
    sy_ops ops;
    const sy_ops *real;
} flipped;

static sy_status flipped_head(sy_backend *be,
                              const float *norm,
                              float eps,
                              const sy_matrix *m,
                              int64_t n,
                              const int32_t *row,
                              const float *x,
                              float *logits,
                              sy_stream *s) {
    sy_status st = flipped.real->head(be, norm, eps, m, n, row, x, logits, s);
    if (n > 0) logits[0] = sy_f32_from_bits(sy_bits_from_f32(logits[0]) ^ 1u);
    return st;
}

static void flip_one_bit(sy_backend *be) {
    flipped.real = be->ops;
    flipped.ops = *be->ops;
    flipped.ops.head = flipped_head;
    be->ops = &flipped.ops;
}

static const char *draw_isa(draw *d) {
    static const char *const names[] = {"auto", "generic", "avx2", "avx512", "avx512bf16"};
    for (;;) { /* one that this machine has */
        const char *name = names[pick(d, 0, 4)];
        sy_pool *pool;
        sy_backend *be;
        MUST(sy_pool_create(1, false, &pool));
        sy_status st = sy_cpu_open(SY_F32, pool, name, &be);
        if (st == SY_OK) be->ops->close(be);
        sy_pool_destroy(pool);
        if (st == SY_OK) return name;
    }
}

static void run_requests(fixture *f, requests *q, bool alone) {
    const sy_engine_events events = {on_token, NULL, NULL, q};
    sy_engine_stats stats;
    if (!alone) {
        MUST(sy_engine_generate(f->engine, q->request, q->n, &events, &stats));
        return;
    }
    for (q->first = 0; q->first < q->n; q->first++)
        MUST(sy_engine_generate(f->engine, q->request + q->first, 1, &events, &stats));
}

/* Tokens x top-k = sum over experts and ranks, in every MoE layer. */
static void check_conservation(fixture *f) {
    uint64_t *all, tokens;
    const sy_loads *loads = sy_engine_runner(f->engine)->loads;
    MUST(sy_loads_gather(f->comm, loads, &all, &tokens));
    for (int l = 0; all != NULL && l < f->spec->n_layers; l++) {
        uint64_t sum = 0, cells = (uint64_t)(loads->n_layers * loads->n_experts);
        for (int r = 0; r < sy_comm_size(f->comm); r++)
            for (int e = 0; e < loads->n_experts; e++)
                sum += all[(uint64_t)r * cells + (uint64_t)(l * loads->n_experts + e)];
        if (sum != tokens * (uint64_t)f->spec->layer[l].ffn.top_k) {
            fprintf(stderr, "layer %d: %llu pairs for %llu tokens\n", l,
                    (unsigned long long)sum, (unsigned long long)tokens);
            abort();
        }
    }
    free(all);
}

static void open_backend(const settings *set, draw *how, sy_dtype act, fixture *f) {
    if (set->cuda)
        MUST(open_cuda(SY_BF16, &f->be));
    else
        MUST(sy_cpu_open(act, f->pool, draw_isa(how), &f->be));
}

static void run_case(sy_comm *comm, const settings *set, uint64_t seed) {
    int R = sy_comm_size(comm), rank = sy_comm_rank(comm);
    draw model = {sy_hash_add(seed, 1), 0}; /* what decides the result */
    draw more = {sy_hash_add(seed, 3), 0};  /* that too */
    draw how = {sy_hash_add(sy_hash_add(seed, 2), set->variant * 100 + (uint64_t)R), 0};
    fixture f = {.comm = comm};
    requests q;

    f.spec = draw_spec(&model);
    draw_requests(&model, f.spec->vocab, &q);
    sy_dtype act = pick(&model, 0, 1) ? SY_F32 : SY_BF16;
    MUST(sy_pool_create(pick(&how, 1, 3), false, &f.pool));
    open_backend(set, &how, act, &f);
    vary_spec(&more, f.be, f.spec);
    if (rank == set->flip_rank) flip_one_bit(f.be);
    f.placement = draw_placement(&how, f.spec, R);
    MUST(sy_weights_dummy(f.be, f.spec, f.placement, rank, seed, 1, NULL, NULL, &f.weights));
    int per_rank = pick(&how, 1, 4), chunk = per_rank + pick(&how, 0, 1) * pick(&how, 0, 150);
    if (q.longest > 400)
        chunk = per_rank + pick(&how, 30, 300); /* few steps, or it takes long */
    sy_engine_options o = {.max_context = MAX_CONTEXT,
                           .max_pages = per_rank * PAGES,
                           .per_rank = per_rank,
                           .chunk = chunk,
                           .max_outputs = per_rank,
                           .n_valid = f.spec->vocab,
                           .combine = set->combine,
                           .hash_logits = true,
                           .no_graphs = set->cuda && pick(&how, 0, 3) == 0};
    fixture_engine(&f, &o);
    run_requests(&f, &q, pick(&how, 0, 3) == 0);
    check_conservation(&f);
    for (int i = 0; i < q.n && rank == 0; i++)
        printf("seed %llu request %d %016llx\n", (unsigned long long)seed, i,
               (unsigned long long)q.hash[i]);
    fixture_close(&f);
}

static void parse(int argc, char **argv, settings *set) {
    *set = (settings){.flip_rank = -1, .comm = {.threads_per_rank = 2}};
    if (argc < 3) {
        fprintf(stderr, "usage: same_bits FIRST_SEED N_CASES [options]\n");
        exit(2);
    }
    set->first_seed = strtoull(argv[1], NULL, 10);
    set->n_cases = atoi(argv[2]);
    for (int i = 3; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : "0";
        if (strcmp(argv[i], "--variant") == 0)
            set->variant = strtoull(next, NULL, 10), i++;
        else if (strcmp(argv[i], "--virtual-hosts") == 0)
            set->comm.virtual_hosts = atoi(next), i++;
        else if (strcmp(argv[i], "--no-shared-memory") == 0)
            set->comm.no_shared_memory = true;
        else if (strcmp(argv[i], "--cuda") == 0)
            set->cuda = true;
        else if (strcmp(argv[i], "--reduced") == 0)
            set->combine = SY_COMBINE_REDUCED;
        else if (strcmp(argv[i], "--flip") == 0)
            set->flip_rank = atoi(next), i++;
        else {
            fprintf(stderr, "same_bits: unknown option %s\n", argv[i]);
            exit(2);
        }
    }
}

int main(int argc, char **argv) {
    settings set;
    sy_comm *comm;
    parse(argc, argv, &set);
    if (set.cuda && !have_cuda()) return 77;
    MUST(sy_comm_create(&set.comm, &comm));
    for (int i = 0; i < set.n_cases; i++)
        run_case(comm, &set, set.first_seed + (uint64_t)i);
    fflush(stdout);
    sy_comm_destroy(comm);
    return 0;
}

/* The CUDA table's router against the CPU's and against float64: norm, choice, weights, ties,
 * scores that are no numbers, forced choices, rows that are not there.
 * timeout: 240 */
#include "tests/cuda_fixture.h"

typedef struct route_case {
    sy_layer_spec spec;
    sy_layer_weights cuda, cpu;
    twin router;
    int64_t hidden;
    float *norm, *x;       /* [hidden], [MOST_ROWS, hidden] */
    const int32_t *forced; /* [MOST_ROWS, K] or NULL */
} route_case;

/* What one table made of n rows. */
typedef struct routed {
    uint16_t *xn;
    int32_t *expert;
    float *weight;
} routed;

static void reserve_experts(int64_t hidden, int experts, int top_k) {
    reserve_both(&(sy_limits){.max_rows = MOST_ROWS,
                              .max_pairs = (int64_t)MOST_ROWS * top_k,
                              .max_context = 64,
                              .hidden = (int)hidden,
                              .heads = 1,
                              .kv_heads = 1,
                              .head_dim = 2,
                              .max_inter = 1,
                              .experts = experts,
                              .top_k = top_k,
                              .vocab = 1});
}

/* The rows of a step made for `bound` rows. */
static routed route_on_device(const route_case *c, int64_t first, int64_t n, int64_t bound) {
    int64_t k = c->spec.ffn.top_k, h = c->hidden;
    float *padded = host_block(bound * h * 4); /* rows that are not there hold NaN */
    memset(padded, POISON_BYTE, (size_t)(bound * h * 4));
    if (n > 0) memcpy(padded, c->x + first * h, (size_t)(n * h * 4));
    void *x = device_copy(padded, bound * h * 4);
    output xn = make_output(NULL, bound * h * 2), expert = make_output(NULL, bound * k * 4),
           weight = make_output(NULL, bound * k * 4);
    static const int32_t ids[MOST_ROWS];
    begin_step(&(sy_batch){.n_rows = (int)n, .ids = ids}, bound, 0, NULL);
    MUST(cuda_be->ops->route(cuda_be, &c->spec, &c->cuda, bound, x, xn.device,
                             c->forced == NULL ? NULL : c->forced + first * k, expert.device,
                             weight.device, NULL));
    return (routed){read_output(xn), read_output(expert), read_output(weight)};
}

static routed route_on_cpu(const route_case *c) {
    int64_t k = c->spec.ffn.top_k;
    routed r = {host_block(MOST_ROWS * c->hidden * 2), host_block(MOST_ROWS * k * 4),
                host_block(MOST_ROWS * k * 4)};
    MUST(cpu_be->ops->route(cpu_be, &c->spec, &c->cpu, MOST_ROWS, c->x, r.xn, c->forced,
                            r.expert, r.weight, NULL));
    return r;
}

static route_case
make_route(sy_dtype t, int64_t hidden, int experts, int top_k, bool renorm, float range) {
    snprintf(where, sizeof where, "route, %s, hidden %lld, %d experts, top %d, renorm %d",
             sy_dtype_name(t), (long long)hidden, experts, top_k, (int)renorm);
    reserve_experts(hidden, experts, top_k);
    route_case c = {.hidden = hidden};
    c.spec.norm_eps = 1e-6f;
    c.spec.ffn = (sy_ffn_spec){.kind = SY_FFN_MOE,
                               .inter = 1,
                               .experts = experts,
                               .top_k = top_k,
                               .renorm = renorm,
                               .routed_scale = renorm ? 1.0f : 2.5f};
    c.router = make_twin(t, 1, experts, hidden);
    c.norm = random_norm(hidden);
    for (int64_t i = 0; i < hidden; i++)
        c.norm[i] *= range;
    c.x = random_floats(MOST_ROWS * hidden, 20);
    c.cuda = (sy_layer_weights){.ffn_norm = device_copy(c.norm, hidden * 4),
                                .router = c.router.cuda};
    c.cpu = (sy_layer_weights){.ffn_norm = c.norm, .router = c.router.cpu};
    return c;
}

static void free_route(route_case *c) {
    free_twin(&c->router);
    end_case();
}

static int falling(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* One row in float64, from the xn that the table itself wrote: rounded inputs are then alike. */
typedef struct row64 {
    double logit[128], sorted[128], score[128], error; /* error: of a logit of this table */
    double gap; /* the smallest between neighbours of the top K + 1 */
} row64;

static void route64(const route_case *c, const uint16_t *xn, bool on_cuda, row64 *r) {
    int n = c->spec.ffn.experts, k = c->spec.ffn.top_k;
    float *x = widen(xn, c->hidden);
    double sum = 0;
    r->error = 0;
    for (int e = 0; e < n; e++) {
        sum64 s = dot64(c->router.value + e * c->hidden, x, c->hidden);
        double error = on_cuda ? cuda_bound(c->hidden, s.magnitude, c->router.file_dtype)
                               : cpu_bound(c->hidden, s.magnitude);
        r->logit[e] = r->sorted[e] = s.y;
        r->error = fmax(r->error, error);
    }
    qsort(r->sorted, (size_t)n, sizeof *r->sorted, falling);
    for (int e = 0; e < n; e++)
        sum += r->score[e] = exp(r->logit[e] - r->sorted[0]);
    for (int e = 0; e < n; e++)
        r->score[e] /= sum;
    r->gap = INFINITY;
    for (int i = 0; i < k && i + 1 < n; i++)
        r->gap = fmin(r->gap, r->sorted[i] - r->sorted[i + 1]);
}

/* The i-th largest of the table's own logits is within `error` of the i-th largest in float64,
 * and so is the logit of the expert that it chose there: twice the error covers every tie. */
static void expect_choice(const route_case *c,
                          const row64 *r,
                          int64_t row,
                          const int32_t *expert,
                          const float *weight,
                          const char *side) {
    int n = c->spec.ffn.experts, k = c->spec.ffn.top_k;
    double sum = 0;
    for (int i = 0; i < k; i++) {
        if (expert[i] < 0 || expert[i] >= n)
            fail_msg("%s: %s chose expert %d in row %lld", where, side, expert[i],
                     (long long)row);
        for (int j = 0; j < i; j++)
            if (expert[j] == expert[i])
                fail_msg("%s: %s chose expert %d twice in row %lld", where, side, expert[i],
                         (long long)row);
        if (c->forced == NULL && !(fabs(r->logit[expert[i]] - r->sorted[i]) <= 2 * r->error))
            fail_msg("%s: %s: choice %d of row %lld: expert %d of logit %.9g, expected %.9g",
                     where, side, i, (long long)row, expert[i], r->logit[expert[i]],
                     r->sorted[i]);
        sum += r->score[expert[i]];
    }
    double divisor = c->spec.ffn.renorm ? sum + (double)c->spec.ffn.renorm_eps : 1;
    for (int i = 0; i < k; i++) {
        double y = r->score[expert[i]] / divisor * (double)c->spec.ffn.routed_scale;
        /* A score moves by twice the error of the logits, the sums over experts and choices by
         * as much again; exp by a few ulp of its argument, the sum over E by a rounding each. */
        double range = r->sorted[0] - r->logit[expert[i]];
        double relative = 2 * expm1(2 * r->error) + (range + n / 4.0 + 16) * 0x1p-22;
        if (!(fabs((double)weight[i] - y) <= relative * y))
            fail_msg("%s: %s: weight %d of row %lld: %.9g, expected %.9g within %.3g", where,
                     side, i, (long long)row, (double)weight[i], y, relative * y);
    }
}

/* Rows compared with the CPU's choice, and how many had a near tie. */
static int64_t n_compared, n_near_ties;

static void check_rows(const route_case *c, const routed *cuda, const routed *cpu) {
    static row64 a, b;
    int64_t k = c->spec.ffn.top_k;
    for (int64_t r = 0; r < MOST_ROWS; r++) {
        const uint16_t *xn = cuda->xn + r * c->hidden;
        if (r % 9 == 0) {
            expect_normed(c->x + r * c->hidden, c->norm, (double)c->spec.norm_eps, c->hidden,
                          xn);
            route64(c, cpu->xn + r * c->hidden, false, &b);
            expect_choice(c, &b, r, cpu->expert + r * k, cpu->weight + r * k, "CPU");
        }
        route64(c, xn, true, &a);
        expect_choice(c, &a, r, cuda->expert + r * k, cuda->weight + r * k, "CUDA");
        bool alike = memcmp(xn, cpu->xn + r * c->hidden, (size_t)c->hidden * 2) == 0;
        n_compared++;
        if (!alike || a.gap <= 4 * a.error) {
            n_near_ties++;
            continue;
        }
        if (memcmp(cuda->expert + r * k, cpu->expert + r * k, (size_t)k * 4) != 0)
            fail_msg("%s: the choices of row %lld differ from the CPU's", where, (long long)r);
    }
}

/* Rows alone and in every smaller batch have the bits of the large one. */
static void check_batches(const route_case *c, const routed *all) {
    int64_t k = c->spec.ffn.top_k;
    for (int i = 0; i < N_ROW_COUNTS; i++) {
        int64_t n = row_counts[i], first = random_in(0, MOST_ROWS - n);
        routed r = route_on_device(c, first, n, n);
        assert_equal_bytes(r.xn, all->xn + first * c->hidden, n, c->hidden * 2, "xn alone");
        assert_equal_bytes(r.expert, all->expert + first * k, n, k * 4, "experts alone");
        assert_equal_bytes(r.weight, all->weight + first * k, n, k * 4, "weights alone");
    }
}

/* Rows behind the batch's go to no expert and leave the others as they are. */
static void check_padding(const route_case *c, const routed *all) {
    static const int64_t steps[][2] = {{0, 1}, {1, 2}, {5, 8}, {9, 64}, {64, 65}, {100, 130}};
    int64_t k = c->spec.ffn.top_k;
    for (int i = 0; i < 6; i++) {
        int64_t n = steps[i][0], bound = steps[i][1];
        routed r = route_on_device(c, 0, n, bound);
        assert_equal_bytes(r.xn, all->xn, n, c->hidden * 2, "xn in a padded step");
        assert_equal_bytes(r.expert, all->expert, n, k * 4, "experts in a padded step");
        assert_equal_bytes(r.weight, all->weight, n, k * 4, "weights in a padded step");
        for (int64_t j = n * k; j < bound * k; j++)
            if (r.expert[j] != -1 || r.weight[j] != 0.0f)
                fail_msg("%s: row %lld of %lld is not there, but goes to %d with %g", where,
                         (long long)(j / k), (long long)n, r.expert[j], (double)r.weight[j]);
    }
}

static void check_route(sy_dtype t, int64_t hidden, int experts, int top_k, bool renorm) {
    /* Logits of a spread of about 3, whatever the width. */
    route_case c = make_route(t, hidden, experts, top_k, renorm,
                              t == SY_F16 ? 1e-5f : 3 / sqrtf((float)hidden));
    routed cuda = route_on_device(&c, 0, MOST_ROWS, MOST_ROWS), cpu = route_on_cpu(&c);
    check_rows(&c, &cuda, &cpu);
    check_batches(&c, &cuda);
    check_padding(&c, &cuda);
    free_route(&c);
}

static void choices_and_weights_match_float64_and_the_cpu(void **state) {
    (void)state;
    static const int experts[] = {1, 2, 3, 5, 8, 60, 128}, widths[] = {17, 63, 65, 256, 300};
    static const sy_dtype dtypes[] = {SY_BF16, SY_F32, SY_F16};
    random_state = 31;
    n_compared = n_near_ties = 0;
    for (int e = 0; e < 7; e++)
        for (int i = 0; i < 3; i++) {
            int k = (int)random_in(1, sy_min(8, experts[e]));
            if (i == 0) k = (int)sy_min(8, experts[e]);
            check_route(dtypes[i], widths[(e + i) % 5], experts[e], k, i % 2 == 0);
        }
    check_route(SY_BF16, 2048, 128, 8, true);
    check_route(SY_BF16, 520, 60, 4, false);
    print_message("%lld of %lld rows had a near tie\n", (long long)n_near_ties,
                  (long long)n_compared);
    assert_true(n_near_ties * 5 < n_compared);
}

/* x of +-1 and a norm of 1 make xn exact, small multiples of `grain` as weights make every sum
 * exact: the logits are alike on both sides, with many ties if the grain is coarse, so the choice
 * must be the CPU's, lowest index first. */
static route_case make_exact(int experts, int top_k, float grain, int most) {
    enum { HIDDEN = 272 };
    route_case c = make_route(SY_F32, HIDDEN, experts, top_k, true, 1);
    c.spec.norm_eps = 0;
    for (int64_t i = 0; i < HIDDEN; i++)
        c.norm[i] = 1;
    for (int64_t i = 0; i < MOST_ROWS * HIDDEN; i++)
        c.x[i] = random64() % 2 == 0 ? 1.0f : -1.0f;
    free_twin(&c.router);
    c.router.source =
        (test_matrix){.file_dtype = SY_F32,
                      .block = malloc((size_t)experts * HIDDEN * 4),
                      .m = {.dtype = SY_BF16, .parts = 1, .n = experts, .k = HIDDEN}};
    float *w = (float *)(void *)c.router.source.block;
    for (int64_t i = 0; i < (int64_t)experts * HIDDEN; i++)
        w[i] = i % HIDDEN < 6 ? (float)random_in(-most, most) * grain : 0.0f;
    c.router.source.src[0] = c.router.source.block;
    return c;
}

static void pack_exact(route_case *c) {
    test_matrix *t = &c->router.source;
    t->bytes = cpu_be->ops->matrix_bytes(cpu_be, &t->m);
    MUST(cpu_be->ops->alloc(cpu_be, &t->m.data, t->bytes, "router"));
    sy_weight_source src = {.dtype = SY_F32, .codes = t->src[0]};
    MUST(cpu_be->ops->pack(cpu_be, &t->m, 0, 0, t->m.n, &src));
    c->cpu.router = t->m;
    c->cuda.router = pack_on_device(t);
    c->cuda.ffn_norm = device_copy(c->norm, c->hidden * 4);
}

static void ties_go_to_the_lowest_index(void **state) {
    (void)state;
    static const int experts[] = {2, 3, 8, 33, 60, 128};
    random_state = 32;
    for (int e = 0; e < 6; e++) {
        route_case c = make_exact(experts[e], (int)sy_min(8, experts[e]), 1, 1);
        pack_exact(&c);
        routed cuda = route_on_device(&c, 0, MOST_ROWS, MOST_ROWS), cpu = route_on_cpu(&c);
        int64_t k = c.spec.ffn.top_k;
        assert_equal_bytes(cuda.xn, cpu.xn, MOST_ROWS, c.hidden * 2, "exact xn");
        assert_equal_bytes(cuda.expert, cpu.expert, MOST_ROWS, k * 4, "experts among ties");
        check_batches(&c, &cuda);
        free_route(&c);
    }
}

/* A NaN counts as -inf: chosen after every other, lowest index first, with weight 0. */
static void scores_that_are_no_numbers_come_last(void **state) {
    (void)state;
    random_state = 33;
    for (int n_nan = 1; n_nan <= 8; n_nan++) {
        route_case c = make_exact(8, 6, 1, 1);
        float *w = (float *)(void *)c.router.source.block;
        for (int e = 0; e < n_nan; e++)
            w[(e * 3 % 8) * c.hidden + 20] = n_nan % 2 == 0 ? NAN : INFINITY;
        for (int e = 0; n_nan % 2 != 0 && e < n_nan; e++) /* inf - inf */
            w[(e * 3 % 8) * c.hidden + 21] = -INFINITY * c.x[0];
        for (int64_t r = 0; r < MOST_ROWS; r++)
            c.x[r * c.hidden + 20] = 1, c.x[r * c.hidden + 21] = c.x[0];
        pack_exact(&c);
        routed cuda = route_on_device(&c, 0, MOST_ROWS, MOST_ROWS), cpu = route_on_cpu(&c);
        assert_equal_bytes(cuda.expert, cpu.expert, MOST_ROWS, 6 * 4, "experts with NaN");
        for (int64_t i = 0; i < MOST_ROWS * 6; i++)
            if (!(fabsf(cuda.weight[i] - cpu.weight[i]) <= 1e-5f * cpu.weight[i]))
                fail_msg("%s, %d NaN: weight %g, CPU %g", where, n_nan, (double)cuda.weight[i],
                         (double)cpu.weight[i]);
        free_route(&c);
    }
}

/* Forced experts are taken as given; those that do not exist weigh nothing. */
static void forced_experts_get_this_runs_scores(void **state) {
    (void)state;
    random_state = 34;
    for (int renorm = 0; renorm < 2; renorm++) {
        enum { E = 60, K = 4 };
        static int32_t forced[MOST_ROWS * K];
        static row64 r64;
        route_case c = make_route(SY_BF16, 65, E, K, renorm != 0, 0.3f);
        for (int i = 0; i < MOST_ROWS * K; i++)
            forced[i] = (int32_t)((random_in(0, 14) * 4 + i % 4) % E);
        c.forced = forced;
        routed cuda = route_on_device(&c, 0, MOST_ROWS, MOST_ROWS);
        assert_equal_bytes(cuda.expert, forced, MOST_ROWS, K * 4, "forced experts");
        for (int64_t r = 0; r < MOST_ROWS; r++) {
            route64(&c, cuda.xn + r * c.hidden, true, &r64);
            expect_choice(&c, &r64, r, cuda.expert + r * K, cuda.weight + r * K, "CUDA");
        }
        check_batches(&c, &cuda);
        for (int i = 0; i < MOST_ROWS * K; i += 3)
            forced[i] = i % 2 == 0 ? -1 : E + i;
        cuda = route_on_device(&c, 0, MOST_ROWS, MOST_ROWS);
        routed cpu = route_on_cpu(&c);
        assert_equal_bytes(cuda.expert, forced, MOST_ROWS, K * 4, "forced experts");
        for (int i = 0; i < MOST_ROWS * K; i++) {
            bool there = forced[i] >= 0 && forced[i] < E;
            if (there != (cuda.weight[i] > 0) || fabsf(cuda.weight[i] - cpu.weight[i]) > 0.02f)
                fail_msg("%s: forced to %d with weight %g, CPU %g", where, forced[i],
                         (double)cuda.weight[i], (double)cpu.weight[i]);
        }
        free_route(&c);
    }
}

/* ---- the other kinds of scores, biases and groups: the CPU's bits from equal logits ---- */

/* Multiples of 1/8 within +-2, many alike; some that are no finite numbers. */
static float *random_bias(int n, bool strange) {
    static const float none[] = {NAN, INFINITY, -INFINITY};
    float *b = host_block(n * (int64_t)sizeof *b);
    for (int i = 0; i < n; i++)
        b[i] = strange && random_in(0, 5) == 0 ? none[random_in(0, 2)]
                                               : (float)random_in(-16, 16) / 8;
    return b;
}

static int random_divisor(int n) {
    int d = (int)random_in(1, n);
    while (n % d != 0)
        d--;
    return d;
}

static void draw_router(sy_ffn_spec *f, int score) {
    f->score = (sy_router_score)score;
    f->router_bias = random64() % 2 == 0;
    f->choice_bias = random64() % 2 == 0;
    f->n_groups = random64() % 3 == 0 ? 0 : random_divisor(f->experts);
    f->groups_kept = f->n_groups == 0 ? 0 : (int)random_in(1, f->n_groups);
    f->group_score = random64() % 2 == 0 ? SY_GROUP_TOP2 : SY_GROUP_MAX;
    f->renorm = random64() % 2 == 0;
    f->renorm_eps = random64() % 2 == 0 ? 1e-20f : 0;
    f->routed_scale = random64() % 2 == 0 ? 2.5f : 1;
    int most = f->n_groups > 1 ? f->experts / f->n_groups * f->groups_kept : f->experts;
    f->top_k = (int)random_in(1, sy_min(most, random64() % 4 == 0 ? SY_MAX_TOP_K : 8));
}

static void check_exact_router(int experts, const sy_ffn_spec *f, bool strange, float grain) {
    route_case c = make_exact(experts, f->top_k, grain, 8);
    float *bias = random_bias(experts, strange), *choice_bias = random_bias(experts, strange);
    float *weights = (float *)(void *)c.router.source.block;
    for (int e = 0; strange && e < experts; e += 3)
        weights[e * c.hidden + 7] = e % 2 == 0 ? NAN : c.x[7] * INFINITY;
    c.spec.ffn = *f;
    snprintf(where, sizeof where,
             "router of %d experts, top %d, score %d, biases %d %d, %d of %d groups by %d, "
             "renorm %d + %g, strange %d, grain %g",
             experts, f->top_k, (int)f->score, f->router_bias, f->choice_bias, f->groups_kept,
             f->n_groups, (int)f->group_score, f->renorm, (double)f->renorm_eps, strange,
             (double)grain);
    pack_exact(&c);
    c.cpu.router_bias = f->router_bias ? bias : NULL;
    c.cpu.choice_bias = f->choice_bias ? choice_bias : NULL;
    c.cuda.router_bias = f->router_bias ? device_copy(bias, experts * 4) : NULL;
    c.cuda.choice_bias = f->choice_bias ? device_copy(choice_bias, experts * 4) : NULL;
    static int32_t forced[MOST_ROWS * SY_MAX_TOP_K];
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < MOST_ROWS * f->top_k; i++)
            forced[i] = (int32_t)random_in(-1, experts);
        c.forced = pass == 1 ? forced : NULL;
        routed cuda = route_on_device(&c, 0, MOST_ROWS, MOST_ROWS), cpu = route_on_cpu(&c);
        assert_equal_bytes(cuda.expert, cpu.expert, MOST_ROWS, f->top_k * 4, "experts");
        assert_equal_bytes(cuda.weight, cpu.weight, MOST_ROWS, f->top_k * 4, "weights");
        if (pass == 0 && experts % 8 == 0) check_padding(&c, &cuda);
        if (pass == 0 && experts % 16 == 0) check_batches(&c, &cuda);
    }
    free_route(&c);
}

static void every_kind_of_router_chooses_and_weighs_as_the_cpu(void **state) {
    (void)state;
    static const int experts[] = {1, 2, 6, 8, 31, 32, 33, 60, 65, 96, 160};
    random_state = 36;
    for (int e = 0; e < 11; e++)
        for (int i = 0; i < 6; i++) {
            sy_ffn_spec f = {.kind = SY_FFN_MOE, .inter = 1, .experts = experts[e]};
            draw_router(&f, i % 3);
            check_exact_router(experts[e], &f, i % 4 == 3, i % 2 == 0 ? 0.0625f : 0.5f);
        }
}

static void routers_of_published_models(void **state) {
    (void)state;
    static const sy_ffn_spec routers[] = {
        /* DeepSeek-V3 */
        {.experts = 256,
         .top_k = 8,
         .score = SY_SCORE_SIGMOID,
         .choice_bias = true,
         .n_groups = 8,
         .groups_kept = 4,
         .renorm = true,
         .renorm_eps = 1e-20f,
         .routed_scale = 2.5f},
        /* DeepSeek-V2 */
        {.experts = 160,
         .top_k = 6,
         .n_groups = 8,
         .groups_kept = 3,
         .group_score = SY_GROUP_MAX,
         .routed_scale = 16},
        /* gpt-oss */
        {.experts = 128,
         .top_k = 4,
         .score = SY_SCORE_SOFTMAX_CHOSEN,
         .router_bias = true,
         .routed_scale = 1},
        /* GLM-4.5, one group */
        {.experts = 160,
         .top_k = 8,
         .score = SY_SCORE_SIGMOID,
         .choice_bias = true,
         .n_groups = 1,
         .groups_kept = 1,
         .renorm = true,
         .renorm_eps = 1e-20f,
         .routed_scale = 2.5f},
    };
    random_state = 37;
    for (int i = 0; i < 4; i++)
        check_exact_router(routers[i].experts, &routers[i], false, 0.0625f);
}

static void bad_routers_are_refused(void **state) {
    (void)state;
    random_state = 35;
    route_case c = make_route(SY_BF16, 17, 8, 2, true, 1);
    int32_t expert[2];
    float weight[2];
    begin_rows(1);
    c.spec.ffn.top_k = 9;
    assert_int_equal(
        cuda_be->ops->route(cuda_be, &c.spec, &c.cuda, 1, c.x, c.x, NULL, expert, weight, NULL),
        SY_ERR_INTERNAL);
    c.spec.ffn.top_k = 0;
    assert_int_equal(
        cuda_be->ops->route(cuda_be, &c.spec, &c.cuda, 1, c.x, c.x, NULL, expert, weight, NULL),
        SY_ERR_INTERNAL);
    static const int groups[][2] = {{3, 1}, {4, 0}, {4, 5}, {8, 1}, {16, 16}};
    for (int i = 0; i < 5; i++) { /* uneven, none or too many kept, too few experts kept */
        c.spec.ffn.top_k = 2;
        c.spec.ffn.n_groups = groups[i][0];
        c.spec.ffn.groups_kept = groups[i][1];
        assert_int_equal(cuda_be->ops->route(cuda_be, &c.spec, &c.cuda, 1, c.x, c.x, NULL,
                                             expert, weight, NULL),
                         SY_ERR_INTERNAL);
    }
    c.spec.ffn.n_groups = 0;
    c.spec.ffn.choice_bias = true; /* and no weights of it */
    assert_int_equal(
        cuda_be->ops->route(cuda_be, &c.spec, &c.cuda, 1, c.x, c.x, NULL, expert, weight, NULL),
        SY_ERR_INTERNAL);
    free_route(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_and_weights_match_float64_and_the_cpu),
        cmocka_unit_test(ties_go_to_the_lowest_index),
        cmocka_unit_test(scores_that_are_no_numbers_come_last),
        cmocka_unit_test(forced_experts_get_this_runs_scores),
        cmocka_unit_test(every_kind_of_router_chooses_and_weighs_as_the_cpu),
        cmocka_unit_test(routers_of_published_models),
        cmocka_unit_test(bad_routers_are_refused),
    };
    return cuda_main("router", tests, sizeof tests / sizeof *tests);
}

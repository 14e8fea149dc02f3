/* The fixed exchange on the device: 1 to 4 ranks take turns on one backend, blocks moved by hand.
 * Who computes what against comm/plan.c, sums bit for bit against the CPU's tree.
 * timeout: 240 */
#include "comm/plan.h"
#include "kernels/device.h"
#include "tests/cuda_fixture.h"

enum { MOST_RANKS = 4 };

typedef struct exchange_case {
    int n_ranks, experts, top_k, capacity, hidden, segments;
    int n_rows[MOST_RANKS]; /* of the capacity */
    sy_placement *placement;
    sy_plan plan[MOST_RANKS];
    int32_t *expert;          /* [R * C, K], -1 behind the rows of a rank */
    float *weight;            /* the same; NaN there */
    float *value;             /* [R * C, E, H]: what expert e makes of a token */
    float *shared, *residual; /* [R * C, H] */
    void *cuda_expert, *cuda_weight, *cuda_home_first, *cuda_home;
} exchange_case;

/* What rank q makes in its turn. */
typedef struct turn {
    int n_slots;
    int64_t n_pairs;
    int64_t *first;  /* [n_slots + 1] by the plans of all ranks */
    int32_t *row;    /* [n_pairs] token of a pair */
    int32_t *expert; /* [n_pairs] */
    int32_t *pair;   /* [R * C, K] */
    float *y;        /* [n_pairs, H] */
    float *returned; /* [R, C, S, H] as the device made it */
} turn;

static void reserve_exchange(const exchange_case *c) {
    reserve_both(&(sy_limits){.max_rows = c->capacity,
                              .max_pairs = (int64_t)c->n_ranks * c->capacity * c->top_k,
                              .max_context = 64,
                              .hidden = c->hidden,
                              .heads = 1,
                              .kv_heads = 1,
                              .head_dim = 2,
                              .max_inter = 1,
                              .experts = c->experts,
                              .top_k = c->top_k,
                              .vocab = 1});
}

/* Every expert on one rank, then copies on others with a chance of 1 in `rare` (0: none). The
 * last of several ranks may end up with nothing. */
static sy_placement *random_placement(int n_experts, int n_ranks, int rare) {
    int32_t n_slots[MOST_RANKS] = {0}, *slots = host_block(n_experts * n_ranks * 4), n = 0;
    int32_t *owner = host_block(n_experts * 4);
    for (int e = 0; e < n_experts; e++)
        owner[e] = (int32_t)random_in(0, n_ranks - (n_ranks > 2 ? 2 : 1));
    for (int r = 0; r < n_ranks; r++)
        for (int i = 0; i < n_experts; i++) {
            int e = r % 2 == 0 ? i : n_experts - 1 - i; /* slots need not ascend by expert */
            bool copy = rare > 0 && random_in(1, rare) == 1;
            if (owner[e] != r && !copy) continue;
            slots[n++] = e;
            n_slots[r]++;
        }
    const int32_t *one_n = n_slots, *one_slots = slots;
    sy_placement *p = NULL;
    MUST(sy_placement_from_slots(1, &n_experts, n_ranks, &one_n, &one_slots, &p));
    return p;
}

static void choose_experts(exchange_case *c) {
    int64_t tokens = (int64_t)c->n_ranks * c->capacity;
    c->expert = host_block(tokens * c->top_k * 4);
    c->weight = host_block(tokens * c->top_k * 4);
    for (int64_t t = 0; t < tokens; t++) {
        bool there = t % c->capacity < c->n_rows[t / c->capacity];
        for (int k = 0; k < c->top_k; k++) {
            int64_t at = t * c->top_k + k;
            c->expert[at] = -1;
            c->weight[at] = there ? uniform(1) : NAN;
            for (bool again = there; again;) {
                again = false;
                c->expert[at] = (int32_t)random_in(0, c->experts - 1);
                for (int j = 0; j < k; j++)
                    again |= c->expert[at] == c->expert[at - 1 - j];
            }
        }
    }
}

static void make_exchange(exchange_case *c) {
    const sy_placement_layer *layer = &c->placement->layer[0];
    int64_t rows = (int64_t)c->n_ranks * c->capacity;
    int max_slots = 0;
    for (int r = 0; r < c->n_ranks; r++)
        max_slots = (int)sy_max(max_slots, sy_placement_slots(layer, r));
    sy_plan_shape shape = {.max_rows = c->capacity,
                           .n_ranks = c->n_ranks,
                           .top_k = c->top_k,
                           .max_slots = max_slots,
                           .max_experts = c->experts};
    c->segments = sy_plan_segments_per_token(&shape);
    snprintf(where, sizeof where, "exchange of %d ranks, %d experts, top %d, %d rows of %d",
             c->n_ranks, c->experts, c->top_k, c->capacity, c->hidden);
    reserve_exchange(c);
    choose_experts(c);
    c->value = random_floats(rows * c->experts * c->hidden, 4);
    c->shared = random_floats(rows * c->hidden, 4);
    c->residual = random_floats(rows * c->hidden, 4);
    c->cuda_expert = device_copy(c->expert, rows * c->top_k * 4);
    c->cuda_weight = device_copy(c->weight, rows * c->top_k * 4);
    c->cuda_home_first = device_copy(layer->home_first, (c->experts + 1) * 4);
    c->cuda_home = device_copy(layer->home, layer->home_first[c->experts] * 8);
    for (int r = 0; r < c->n_ranks; r++) {
        int64_t at = (int64_t)r * c->capacity * c->top_k;
        MUST(sy_plan_create(&shape, r, &c->plan[r]));
        MUST(sy_plan_build(&c->plan[r], layer, c->n_rows[r], c->expert + at, c->weight + at));
    }
}

static void free_exchange(exchange_case *c) {
    for (int r = 0; r < c->n_ranks; r++)
        sy_plan_destroy(&c->plan[r]);
    sy_placement_destroy(c->placement);
    end_case();
}

/* The pairs of rank q by slot, then source rank, then row: the order that plan.h states. */
static turn plan_turn(const exchange_case *c, int q) {
    const sy_placement_layer *layer = &c->placement->layer[0];
    int64_t tokens = (int64_t)c->n_ranks * c->capacity;
    turn t = {.n_slots = sy_placement_slots(layer, q)};
    t.first = host_block((t.n_slots + 1) * 8);
    t.row = host_block(tokens * c->top_k * 4), t.expert = host_block(tokens * c->top_k * 4);
    t.pair = host_block(tokens * c->top_k * 4);
    memset(t.pair, 0xff, (size_t)(tokens * c->top_k * 4));
    t.first[0] = 0;
    for (int slot = 0; slot < t.n_slots; slot++) {
        int32_t e = layer->slot_expert[layer->slot_first[q] + slot];
        for (int r = 0; r < c->n_ranks; r++)
            for (int64_t p = c->plan[r].pair_first[q]; p < c->plan[r].pair_first[q + 1]; p++) {
                const sy_pair *pair = &c->plan[r].pair[p];
                if (pair->slot != slot) continue;
                int64_t token = (int64_t)r * c->capacity + pair->row;
                for (int k = 0; k < c->top_k; k++)
                    if (c->expert[token * c->top_k + k] == e)
                        t.pair[token * c->top_k + k] = (int32_t)t.n_pairs;
                t.row[t.n_pairs] = (int32_t)token;
                t.expert[t.n_pairs++] = e;
            }
        t.first[slot + 1] = t.n_pairs;
    }
    t.y = host_block(t.n_pairs * c->hidden * 4);
    for (int64_t p = 0; p < t.n_pairs; p++)
        memcpy(t.y + p * c->hidden,
               c->value + ((int64_t)t.row[p] * c->experts + t.expert[p]) * c->hidden,
               (size_t)c->hidden * 4);
    return t;
}

/* What the device writes for rank q. */
typedef struct round_outputs {
    output first, active, row, pair, load, returned, residual;
} round_outputs;

enum { MORE_SLOTS = 3 };

static round_outputs make_round(const exchange_case *c,
                                int q,
                                const turn *t,
                                sy_device_placement *p,
                                sy_device_round *round) {
    int64_t tokens = (int64_t)c->n_ranks * c->capacity, own = (int64_t)c->capacity * c->hidden;
    uint64_t load[512];
    assert_true(t->n_slots + MORE_SLOTS < 512);
    for (int i = 0; i < 512; i++)
        load[i] = (uint64_t)i * 1000003;
    round_outputs o = {
        .first = make_output(NULL, (t->n_slots + 1) * 4),
        .active = make_output(NULL, (t->n_slots + 1) * 4),
        .row = make_output(NULL, tokens * c->top_k * 4),
        .pair = make_output(NULL, tokens * c->top_k * 4),
        .load = make_output(load, (t->n_slots + MORE_SLOTS + 1) * 8),
        .returned = make_output(NULL, tokens * c->segments * c->hidden * 4),
        .residual = make_output(c->residual + q * own, own * 4),
    };
    *p = (sy_device_placement){.n_experts = c->experts,
                               .n_ranks = c->n_ranks,
                               .n_slots = t->n_slots,
                               .home_first = c->cuda_home_first,
                               .home = c->cuda_home};
    *round = (sy_device_round){.placement = p,
                               .rank = q,
                               .capacity = c->capacity,
                               .segments = c->segments,
                               .top_k = c->top_k,
                               .hidden = c->hidden,
                               .expert = c->cuda_expert,
                               .weight = c->cuda_weight,
                               .first = o.first.device,
                               .active = o.active.device,
                               .row = o.row.device,
                               .pair = o.pair.device,
                               .load = o.load.device,
                               .load_slots = t->n_slots + MORE_SLOTS,
                               .returned = o.returned.device,
                               .residual = o.residual.device};
    return o;
}

static void check_plan(const exchange_case *c, int q, const turn *t, const round_outputs *o) {
    int32_t *first = read_output(o->first), *active = read_output(o->active);
    uint64_t *load = read_output(o->load);
    int n_active = 0;
    for (int s = 0; s <= t->n_slots; s++)
        if (first[s] != t->first[s])
            fail_msg("%s: rank %d: slot %d begins at %d, expected %lld", where, q, s, first[s],
                     (long long)t->first[s]);
    for (int s = 0; s < t->n_slots + MORE_SLOTS; s++) {
        uint64_t rows = s < t->n_slots ? (uint64_t)(t->first[s + 1] - t->first[s]) : 0;
        if (rows > 0 && active[1 + n_active++] != s)
            fail_msg("%s: rank %d: active slot %d is %d, expected %d", where, q, n_active - 1,
                     active[n_active], s);
        if (load[s] != (uint64_t)s * 1000003 + rows)
            fail_msg("%s: rank %d: load of slot %d", where, q, s);
    }
    assert_int_equal(active[0], n_active);
    assert_true(load[t->n_slots + MORE_SLOTS] ==
                (uint64_t)(t->n_slots + MORE_SLOTS) * 1000003 + (uint64_t)n_active);
    int32_t *row = read_output(o->row), *pair = read_output(o->pair);
    assert_equal_bytes(row, t->row, t->n_pairs, 4, "rows of pairs");
    for (int64_t i = 0; i < (int64_t)c->n_ranks * c->capacity * c->top_k; i++)
        if (pair[i] != t->pair[i])
            fail_msg("%s: rank %d: choice %lld of token %lld is pair %d, expected %d", where, q,
                     (long long)(i % c->top_k), (long long)(i / c->top_k), pair[i], t->pair[i]);
}

/* The tree over some chosen experts of a token, by the CPU. */
static void cpu_tree(const exchange_case *c,
                     int64_t token,
                     const sy_tree_leaf *leaf,
                     int64_t n,
                     const float *shared,
                     float *out,
                     bool accumulate) {
    const float *chunk[1] = {c->value + token * c->experts * c->hidden};
    int64_t first[2] = {0, n};
    sy_tree_job job = {.n_rows = 1,
                       .width = c->hidden,
                       .n_experts = c->experts,
                       .first = first,
                       .leaf = leaf,
                       .chunk = chunk,
                       .weighted = true,
                       .shared = shared,
                       .out = out,
                       .accumulate = accumulate};
    MUST(cpu_be->ops->unpack(cpu_be, &job, NULL));
}

/* The segments that rank q returns to rank r: runs of its pairs of a row, cut where one opens. */
static void check_returned(const exchange_case *c, int q, int r, const float *block) {
    const sy_plan *plan = &c->plan[r];
    const sy_placement_layer *layer = &c->placement->layer[0];
    float *expected = malloc((size_t)c->hidden * 4);
    int64_t last_row = -1, segment = 0;
    for (int64_t p = plan->pair_first[q]; p < plan->pair_first[q + 1];) {
        const sy_pair *pair = &plan->pair[p];
        int64_t row = pair->row, n = 0;
        sy_tree_leaf leaf[SY_MAX_TOP_K];
        segment = row == last_row ? segment + 1 : 0;
        last_row = row;
        assert_true(pair->opens && segment < c->segments);
        do {
            int32_t e = layer->slot_expert[layer->slot_first[q] + pair->slot];
            leaf[n++] = (sy_tree_leaf){{0, e}, e, pair->weight};
            pair++;
        } while (p + n < plan->pair_first[q + 1] && pair->row == row && !pair->opens);
        p += n;
        cpu_tree(c, (int64_t)r * c->capacity + row, leaf, n, NULL, expected, false);
        char what[96];
        snprintf(what, sizeof what, "segment %lld of row %lld of rank %d, summed by rank %d",
                 (long long)segment, (long long)row, r, q);
        assert_equal_bytes(block + (row * c->segments + segment) * c->hidden, expected, 1,
                           c->hidden * 4, what);
    }
    free(expected);
}

static int by_expert(const void *a, const void *b) {
    const sy_tree_leaf *x = a, *y = b;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

/* residual += tree + shared: the whole tree at once, as one rank alone would add it. */
static void check_residual(const exchange_case *c,
                           int q,
                           bool shared,
                           const float *found,
                           const char *what) {
    for (int64_t row = 0; row < c->n_rows[q]; row++) {
        int64_t token = (int64_t)q * c->capacity + row;
        sy_tree_leaf leaf[SY_MAX_TOP_K];
        for (int k = 0; k < c->top_k; k++) {
            int32_t e = c->expert[token * c->top_k + k];
            leaf[k] = (sy_tree_leaf){{0, e}, e, c->weight[token * c->top_k + k]};
        }
        qsort(leaf, (size_t)c->top_k, sizeof *leaf, by_expert);
        float *out = malloc((size_t)c->hidden * 4);
        memcpy(out, c->residual + token * c->hidden, (size_t)c->hidden * 4);
        cpu_tree(c, token, leaf, c->top_k, shared ? c->shared + token * c->hidden : NULL, out,
                 true);
        assert_equal_bytes(found + row * c->hidden, out, 1, c->hidden * 4, what);
        free(out);
    }
}

static void run_exchange(exchange_case *c, bool shared) {
    const sy_device_ops *device = cuda_be->ops->device;
    turn t[MOST_RANKS];
    round_outputs o[MOST_RANKS];
    sy_device_placement p[MOST_RANKS];
    sy_device_round round[MOST_RANKS];
    make_exchange(c); /* which counts the segments */
    int64_t own = (int64_t)c->capacity * c->hidden, block = own * c->segments;
    for (int q = 0; q < c->n_ranks; q++) {
        t[q] = plan_turn(c, q);
        o[q] = make_round(c, q, &t[q], &p[q], &round[q]);
        round[q].y = device_copy(t[q].y, t[q].n_pairs * c->hidden * 4);
        if (shared) round[q].shared = device_copy(c->shared + q * own, own * 4);
        MUST(device->plan(cuda_be, &round[q], NULL));
        check_plan(c, q, &t[q], &o[q]);
        MUST(device->local_sums(cuda_be, &round[q], NULL));
        t[q].returned = read_output(o[q].returned);
        for (int r = 0; r < c->n_ranks; r++)
            check_returned(c, q, r, t[q].returned + r * block);
    }
    float *received = host_block(c->n_ranks * block * 4);
    for (int q = 0; q < c->n_ranks; q++) {
        for (int r = 0; r < c->n_ranks; r++)
            memcpy(received + r * block, t[r].returned + q * block, (size_t)block * 4);
        round[q].received = device_copy(received, c->n_ranks * block * 4);
        MUST(device->home_sums(cuda_be, &round[q], NULL));
        check_residual(c, q, shared, read_output(o[q].residual), "residual");
    }
    if (c->n_ranks == 1) {
        output alone = make_output(c->residual, own * 4);
        round[0].residual = alone.device;
        round[0].returned = NULL, round[0].received = NULL;
        MUST(device->combine_alone(cuda_be, &round[0], NULL));
        check_residual(c, 0, shared, read_output(alone), "residual of one rank");
    }
    free_exchange(c);
}

static void exchange(int n_ranks, int experts, int top_k, int capacity, int hidden, int rare) {
    exchange_case c = {.n_ranks = n_ranks,
                       .experts = experts,
                       .top_k = top_k,
                       .capacity = capacity,
                       .hidden = hidden};
    c.placement = random_placement(experts, n_ranks, rare);
    for (int r = 0; r < n_ranks; r++)
        c.n_rows[r] = r == 0 ? capacity : (int)random_in(0, capacity);
    if (rare == 1) c.n_rows[0] = (int)random_in(0, capacity);
    run_exchange(&c, random64() % 2 == 0);
}

static void random_placements_sum_the_bits_of_the_cpu(void **state) {
    (void)state;
    static const int shapes[][3] = {{1, 1, 3},  {2, 1, 1},   {2, 2, 9},   {3, 2, 7},  {5, 5, 4},
                                    {8, 4, 33}, {60, 4, 16}, {128, 8, 9}, {64, 6, 64}};
    random_state = 61;
    for (int n_ranks = 1; n_ranks <= MOST_RANKS; n_ranks++)
        for (int i = 0; i < 9; i++)
            for (int rare = 0; rare < 5; rare += 2)
                exchange(n_ranks, shapes[i][0], shapes[i][1], shapes[i][2],
                         (int)random_in(1, 80), rare);
}

static void wide_rows_and_contiguous_experts(void **state) {
    (void)state;
    random_state = 62;
    for (int n_ranks = 1; n_ranks <= MOST_RANKS; n_ranks++) {
        exchange_case c = {
            .n_ranks = n_ranks, .experts = 30, .top_k = 8, .capacity = 5, .hidden = 2049};
        MUST(sy_placement_contiguous(1, &c.experts, n_ranks, &c.placement));
        for (int r = 0; r < n_ranks; r++)
            c.n_rows[r] = 5 - r;
        run_exchange(&c, true);
    }
    exchange(4, 300, 16, 3, 20, 1); /* a copy of everything everywhere */
    exchange(2, 70, SY_MAX_TOP_K, 4, 12, 3);
}

static void nobody_has_rows(void **state) {
    (void)state;
    random_state = 63;
    for (int n_ranks = 1; n_ranks <= 2; n_ranks++) {
        exchange_case c = {
            .n_ranks = n_ranks, .experts = 8, .top_k = 2, .capacity = 6, .hidden = 10};
        c.placement = random_placement(8, n_ranks, 0);
        run_exchange(&c, true);
    }
}

/* Rows that are not there may stand anywhere: the others are as if those had been behind. */
static void gaps_among_the_rows_change_no_row(void **state) {
    (void)state;
    enum { C = 16, K = 3, E = 12, H = 24 };
    random_state = 64;
    exchange_case c = {.n_ranks = 1, .experts = E, .top_k = K, .capacity = C, .hidden = H};
    c.placement = random_placement(E, 1, 0);
    c.n_rows[0] = C;
    make_exchange(&c);
    for (int row = 0; row < C; row++)
        for (int k = 0; k < K && row % 3 == 1; k++)
            c.expert[row * K + k] = -1;
    c.cuda_expert = device_copy(c.expert, C * K * 4);
    turn t = {.n_slots = E};
    sy_device_placement p;
    sy_device_round round;
    round_outputs o = make_round(&c, 0, &t, &p, &round);
    MUST(cuda_be->ops->device->plan(cuda_be, &round, NULL));
    int32_t *pair = read_output(o.pair), *first = read_output(o.first), n = first[E];
    float *y = host_block(n * H * 4);
    for (int i = 0; i < C * K; i++) {
        assert_true(c.expert[i] < 0 ? pair[i] == -1 : pair[i] >= 0 && pair[i] < n);
        if (pair[i] >= 0)
            memcpy(y + pair[i] * H, c.value + ((i / K) * E + c.expert[i]) * H, H * 4);
    }
    round.y = device_copy(y, n * H * 4);
    MUST(cuda_be->ops->device->combine_alone(cuda_be, &round, NULL));
    float *found = read_output(o.residual);
    for (int row = 0; row < C; row++) {
        if (row % 3 == 1) continue;
        exchange_case one = c;
        one.n_rows[0] = 1;
        one.expert += row * K, one.weight += row * K;
        one.value += (int64_t)row * E * H, one.residual += row * H;
        check_residual(&one, 0, false, found + row * H, "rows between gaps");
    }
    free_exchange(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_placements_sum_the_bits_of_the_cpu),
        cmocka_unit_test(wide_rows_and_contiguous_experts),
        cmocka_unit_test(nobody_has_rows),
        cmocka_unit_test(gaps_among_the_rows_change_no_row),
    };
    return cuda_main("fixed exchange", tests, sizeof tests / sizeof *tests);
}

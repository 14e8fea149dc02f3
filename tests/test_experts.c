/* The expert steps against their definition: gate and up, SwiGLU, down in leaves; any split of the
 * rows over slots, any number of threads, every instruction set. timeout: 240 */
#include "tests/matrix_fixture.h"

enum { N_SLOTS = 5 };

typedef struct expert_case {
    sy_backend *be;
    int64_t hidden, inter, n_pairs;
    test_matrix up[N_SLOTS], down[N_SLOTS];
    int64_t first[N_SLOTS + 1];
    void *x;
    char *h, *h_expected;  /* act [P, F], canary behind */
    float *y, *y_expected; /* [P, H], canary behind */
} expert_case;

enum { CANARY = 16 };

/* By the definition, rows dealt to the threads. */
static void define_up(void *arg, int thread, int n_threads) {
    const expert_case *c = arg;
    int64_t elem = sy_act_bytes(c->be);
    float *g = malloc((size_t)c->inter * sizeof *g), *u = malloc((size_t)c->inter * sizeof *u);
    for (int slot = 0; slot < N_SLOTS; slot++)
        for (int64_t r = c->first[slot]; r < c->first[slot + 1]; r++) {
            if (r % n_threads != thread) continue;
            for (int64_t o = 0; o < c->inter; o++) {
                g[o] = plain_dot(c->be, &c->up[slot], 0, o, c->x, r, 0, 0, 1);
                u[o] = plain_dot(c->be, &c->up[slot], 1, o, c->x, r, 0, 0, 1);
            }
            void *out = c->h_expected + r * c->inter * elem;
            sy_isa_generic.vec.silu_mul(c->inter, g, u, elem == 2 ? out : NULL,
                                        elem == 4 ? out : NULL);
        }
    free(g);
    free(u);
}

static void define_down(void *arg, int thread, int n_threads) {
    const expert_case *c = arg;
    for (int slot = 0; slot < N_SLOTS; slot++)
        for (int64_t r = c->first[slot]; r < c->first[slot + 1]; r++)
            for (int64_t o = 0; o < c->hidden; o++)
                if ((r * c->hidden + o) % n_threads == thread)
                    c->y_expected[r * c->hidden + o] =
                        plain_dot(c->be, &c->down[slot], 0, o, c->h_expected, r, SY_LEAF, 0,
                                  sy_ceil_div(c->inter, SY_LEAF));
}

static expert_case
make_case(sy_backend *be, sy_dtype t, const int64_t *rows, int64_t hidden, int64_t inter) {
    expert_case c = {.be = be, .hidden = hidden, .inter = inter};
    for (int s = 0; s < N_SLOTS; s++) {
        c.up[s] = make_matrix(be, t, 2, inter, hidden, ORDINARY);
        c.down[s] = make_matrix(be, t, 1, hidden, inter, ORDINARY);
        c.first[s + 1] = c.first[s] + rows[s];
    }
    c.n_pairs = c.first[N_SLOTS];
    c.x = make_rows(be, c.n_pairs, hidden, ORDINARY);
    /* Small activations, so that silu is not all 0 or g. */
    for (int64_t i = 0; i < c.n_pairs * hidden; i++) {
        if (be->act == SY_F32)
            ((float *)c.x)[i] *= 0x1p-5f;
        else
            ((uint16_t *)c.x)[i] = (uint16_t)(((uint16_t *)c.x)[i] - (5u << 7));
    }
    size_t h_bytes = (size_t)(c.n_pairs * inter * sy_act_bytes(be));
    size_t n_y = (size_t)(c.n_pairs * hidden) + CANARY;
    c.h = malloc(h_bytes + CANARY);
    c.h_expected = malloc(h_bytes + CANARY);
    memset(c.h, 0x5a, h_bytes + CANARY);
    memset(c.h_expected, 0x5a, h_bytes + CANARY);
    c.y = malloc(n_y * sizeof *c.y);
    c.y_expected = malloc(n_y * sizeof *c.y);
    for (size_t i = 0; i < n_y; i++)
        c.y[i] = c.y_expected[i] = 12345.0f;
    return c;
}

static void free_case(expert_case *c) {
    for (int s = 0; s < N_SLOTS; s++) {
        free_matrix(c->be, &c->up[s]);
        free_matrix(c->be, &c->down[s]);
    }
    free(c->x);
    free(c->h);
    free(c->h_expected);
    free(c->y);
    free(c->y_expected);
}

static void check_results(const expert_case *c, const char *what) {
    size_t h_bytes = (size_t)(c->n_pairs * c->inter * sy_act_bytes(c->be)) + CANARY;
    if (memcmp(c->h, c->h_expected, h_bytes) != 0) fail_msg("%s: h differs", what);
    assert_same_bits(c->y, c->y_expected, c->n_pairs * c->hidden + CANARY, what);
}

static void
check_experts(sy_backend *be, sy_dtype t, const int64_t *rows, int64_t hidden, int64_t inter) {
    expert_case c = make_case(be, t, rows, hidden, inter);
    sy_matrix up[N_SLOTS], down[N_SLOTS];
    for (int s = 0; s < N_SLOTS; s++) {
        up[s] = c.up[s].m;
        down[s] = c.down[s].m;
    }
    sy_layer_spec spec = {.ffn = {.kind = SY_FFN_MOE, .inter = (int)inter}};
    sy_layer_weights w = {.n_slots = N_SLOTS, .gate_up = up, .down = down};
    sy_expert_rows er = {.n_slots = N_SLOTS, .n_pairs = c.n_pairs, .first = c.first, .x = c.x};
    sy_pool *pool = sy_cpu_of(be)->pool;
    sy_pool_run(pool, define_up, &c);
    sy_pool_run(pool, define_down, &c);
    assert_int_equal(be->ops->experts_up(be, &spec, &w, &er, c.h, NULL), SY_OK);
    assert_int_equal(be->ops->experts_down(be, &spec, &w, &er, c.h, c.y, NULL), SY_OK);
    char what[96];
    snprintf(what, sizeof what, "experts, %s, %d threads, %s weights, hidden %lld, inter %lld",
             sy_cpu_isa_name(be), sy_pool_threads(pool), sy_dtype_name(t), (long long)hidden,
             (long long)inter);
    check_results(&c, what);
    free_case(&c);
}

static const sy_dtype file_dtypes[] = {SY_BF16, SY_F16, SY_F32};
static const int64_t row_sets[][N_SLOTS] = {
    {1, 0, 2, 3, 1},  /* a slot without rows      */
    {0, 0, 13, 0, 0}, /* one slot takes all      */
    {0, 0, 0, 0, 0},  /* no rows at all           */
    {50, 1, 0, 0, 9}, /* very uneven, two blocks */
};

static void experts_equal_their_definition_for_every_table_and_thread_count(void **state) {
    (void)state;
    random_state = 11;
    for (int i = 0; i < N_ISA; i++)
        for (int threads = 1; threads <= 3; threads++)
            for (int act = 0; act < 2; act++) {
                sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, threads, isa_names[i]);
                if (be == NULL) continue;
                for (int set = 0; set < 4; set++)
                    check_experts(be, file_dtypes[(set + threads) % 3], row_sets[set],
                                  random_in(1, 130), random_in(1, 300));
                close_cpu(be);
            }
}

static void experts_with_several_leaves_and_odd_widths(void **state) {
    (void)state;
    random_state = 12;
    for (int act = 0; act < 2; act++) {
        sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, 2, NULL);
        check_experts(be, SY_BF16, row_sets[0], 97, 1281);
        check_experts(be, SY_F16, row_sets[0], 65, 769);
        check_experts(be, SY_F32, row_sets[1], 128, 640);
        close_cpu(be);
    }
}

static void dense_ffn_is_one_expert_that_takes_every_row(void **state) {
    (void)state;
    random_state = 13;
    static const int64_t rows[N_SLOTS] = {21, 0, 0, 0, 0};
    for (int threads = 1; threads <= 3; threads++)
        for (int act = 0; act < 2; act++) {
            sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, threads, NULL);
            expert_case c = make_case(be, file_dtypes[threads - 1], rows, 70, 530);
            sy_pool_run(sy_cpu_of(be)->pool, define_up, &c);
            sy_pool_run(sy_cpu_of(be)->pool, define_down, &c);
            sy_layer_spec spec = {.ffn = {.kind = SY_FFN_DENSE, .inter = 530}};
            sy_layer_weights w = {.ffn_gate_up = c.up[0].m, .ffn_down = c.down[0].m};
            assert_int_equal(be->ops->dense_ffn(be, &spec, &w, rows[0], c.x, c.h, c.y, NULL),
                             SY_OK);
            check_results(&c, "dense FFN");
            assert_int_equal(be->ops->dense_ffn(be, &spec, &w, 0, c.x, c.h, c.y, NULL), SY_OK);
            free_case(&c);
            close_cpu(be);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_equal_their_definition_for_every_table_and_thread_count),
        cmocka_unit_test(experts_with_several_leaves_and_odd_widths),
        cmocka_unit_test(dense_ffn_is_one_expert_that_takes_every_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

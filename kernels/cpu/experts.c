/* The expert steps and the dense FFN: grouped gate and up with their activation, grouped down.
 *
 * Work is a list of (slot, panel) units in address order. Each thread takes one contiguous share,
 * weighted by cost, so that it reads its weights as one forward stream; every output has one
 * owner, so the split does not reach a sum. */
#include "base/checked.h"
#include "kernels/cpu/cpu.h"

/* Rows from which a panel of 16-bit weights costs arithmetic rather than memory traffic: peak over
 * bandwidth (measured on Zen 5: 10 to 12; of 8 bits 4.5 to 5, of 4 bits 2.7). */
enum { RIDGE_ROWS = 10 };

/* What each panel of a matrix costs, in sixteenths of a row of BF16 products. With fewer bits there
 * is less to read for as many products; those of float32 take twice as long. */
static int64_t panel_cost(const sy_cpu *cpu, const sy_matrix *m, int64_t rows) {
    int64_t of_row = cpu->base.act == SY_F32 ? 32 : 16;
    return rows == 0 ? 0 : sy_max(rows * of_row, (int64_t)RIDGE_ROWS * sy_dtype_bits(m->dtype));
}

/* The panels of a slot that lie before `cut` on the axis of cost, where the slot begins at
 * `before`. */
static int64_t panels_before(int64_t cut, int64_t before, int64_t cost, int64_t panels) {
    if (cut <= before) return 0;
    return sy_min(sy_ceil_div(cut - before, cost), panels);
}

typedef struct expert_job expert_job;
typedef void (
    *units_fn)(const expert_job *job, int thread, int slot, int64_t begin, int64_t end);

struct expert_job {
    sy_cpu *cpu;
    const sy_matrix *matrix; /* [n_slots]: gate_up or down */
    int n_slots;
    const int64_t *first;   /* rows of slot s: [first[s], first[s + 1]) */
    const sy_ffn_spec *ffn; /* up: says which activation */
    const float *bias;      /* NULL, or up: [n_slots][2][F], down: [n_slots][H] */
    const void *x;          /* act [P, H] for up, [P, F] for down */
    void *h;                /* up: act [P, F] */
    float *y;               /* down: f32 [P, H] */
};

static int64_t slot_panel_cost(const expert_job *job, int slot) {
    return panel_cost(job->cpu, &job->matrix[slot], job->first[slot + 1] - job->first[slot]);
}

/* Calls fn for the panels of each slot that fall to this thread. */
static void for_share(const expert_job *job, int thread, int n_threads, units_fn fn) {
    int64_t total = 0, before = 0;
    for (int s = 0; s < job->n_slots; s++)
        total += slot_panel_cost(job, s) * sy_cpu_panels(&job->matrix[s]);
    int64_t cut_begin, cut_end;
    sy_pool_share(total, thread, n_threads, &cut_begin, &cut_end);
    for (int s = 0; s < job->n_slots && before < cut_end; s++) {
        int64_t cost = slot_panel_cost(job, s);
        if (cost == 0) continue;
        int64_t panels = sy_cpu_panels(&job->matrix[s]);
        int64_t begin = panels_before(cut_begin, before, cost, panels);
        int64_t end = panels_before(cut_end, before, cost, panels);
        if (begin < end) fn(job, thread, s, begin, end);
        before += cost * panels;
    }
}

/* h[at .. at + n) from gate and up in float32, with one rounding to act. */
static void
activate(const expert_job *job, int64_t n, const float *gate, const float *up, int64_t at) {
    const sy_vector_kernels *vec = &job->cpu->isa->vec;
    const sy_ffn_spec *ffn = job->ffn;
    bool f32 = job->cpu->base.act == SY_F32;
    uint16_t *h16 = f32 ? NULL : (uint16_t *)job->h + at;
    float *hf = f32 ? (float *)job->h + at : NULL;
    if (ffn->act == SY_ACT_SWIGLU_CLAMPED)
        vec->swiglu_clamped(n, gate, up, ffn->act_alpha, ffn->act_limit, h16, hf);
    else
        vec->silu_mul(n, gate, up, h16, hf);
}

/* Gate and up of one panel for some rows of a slot, their biases, then the activation. Behind up
 * comes stored panel `next`, if there is one (else -1). */
static void up_panel(const expert_job *job,
                     int thread,
                     int slot,
                     int64_t panel,
                     int64_t next,
                     int64_t row,
                     int64_t rows) {
    sy_cpu *cpu = job->cpu;
    const sy_matrix *m = &job->matrix[slot];
    const sy_vector_kernels *vec = &cpu->isa->vec;
    sy_cpu_tiles *tiles = &cpu->tiles[thread];
    const char *x = (const char *)job->x + row * m->k * sy_act_bytes(&cpu->base);
    sy_panel_range gate = {m, 2 * panel, 0, m->k, true, 2 * panel + 1, false};
    sy_panel_range up = {m, 2 * panel + 1, 0, m->k, next >= 0, next, false};
    sy_cpu_panel(cpu, thread, &gate, rows, x, m->k, tiles->gate, SY_PANEL, true);
    sy_cpu_panel(cpu, thread, &up, rows, x, m->k, tiles->up, SY_PANEL, true);
    int64_t column = panel * SY_PANEL, columns = sy_min(m->n - column, SY_PANEL);
    const float *gate_bias = job->bias == NULL ? NULL : job->bias + 2 * slot * m->n + column;
    for (int64_t r = 0; r < rows; r++) {
        float *g = tiles->gate + r * SY_PANEL, *u = tiles->up + r * SY_PANEL;
        if (gate_bias != NULL) {
            vec->add(columns, gate_bias, g);
            vec->add(columns, gate_bias + m->n, u);
        }
        activate(job, columns, g, u, (row + r) * m->n + column);
    }
}

/* Panels are read again for each tile of rows, gate first. */
static void up_units(const expert_job *job, int thread, int slot, int64_t begin, int64_t end) {
    int64_t last = job->first[slot + 1];
    for (int64_t panel = begin; panel < end; panel++)
        for (int64_t row = job->first[slot]; row < last; row += SY_TILE_ROWS) {
            bool last_rows = last - row <= SY_TILE_ROWS;
            int64_t next = !last_rows ? 2 * panel : panel + 1 < end ? 2 * panel + 2 : -1;
            up_panel(job, thread, slot, panel, next, row, sy_min(last - row, SY_TILE_ROWS));
        }
}

/* The bias is added behind the tree of leaves, so that it is part of what the router's weight
 * multiplies. */
static void
down_units(const expert_job *job, int thread, int slot, int64_t begin, int64_t end) {
    const sy_matrix *m = &job->matrix[slot];
    int64_t row = job->first[slot], rows = job->first[slot + 1] - row;
    const char *x = (const char *)job->x + row * m->k * sy_act_bytes(&job->cpu->base);
    float *y = job->y + row * m->n;
    sy_cpu_matmul(job->cpu, thread, m, begin, end, SY_LEAF, rows, x, m->k, y, m->n);
    if (job->bias == NULL) return;
    int64_t column = begin * SY_PANEL, columns = sy_min(m->n, end * SY_PANEL) - column;
    for (int64_t r = 0; r < rows; r++)
        job->cpu->isa->vec.add(columns, job->bias + slot * m->n + column,
                               y + r * m->n + column);
}

static void up_run(void *arg, int thread, int n_threads) {
    for_share(arg, thread, n_threads, up_units);
}

static void down_run(void *arg, int thread, int n_threads) {
    for_share(arg, thread, n_threads, down_units);
}

sy_status sy_cpu_experts_up(sy_backend *be,
                            const sy_layer_spec *spec,
                            const sy_layer_weights *w,
                            const sy_expert_rows *rows,
                            void *h,
                            sy_stream *s) {
    (void)s;
    if (rows->n_pairs > 0 && spec->ffn.expert_bias && w->gate_up_bias == NULL)
        return sy_fail(SY_ERR_INTERNAL, "experts_up: the biases are missing");
    expert_job job = {.cpu = sy_cpu_of(be),
                      .matrix = w->gate_up,
                      .n_slots = rows->n_slots,
                      .first = rows->first,
                      .ffn = &spec->ffn,
                      .bias = spec->ffn.expert_bias ? w->gate_up_bias : NULL,
                      .x = rows->x,
                      .h = h};
    if (rows->n_pairs > 0) sy_pool_run(job.cpu->pool, up_run, &job);
    return SY_OK;
}

sy_status sy_cpu_experts_down(sy_backend *be,
                              const sy_layer_spec *spec,
                              const sy_layer_weights *w,
                              const sy_expert_rows *rows,
                              const void *h,
                              float *y,
                              sy_stream *s) {
    (void)s;
    if (rows->n_pairs > 0 && spec->ffn.expert_bias && w->down_bias == NULL)
        return sy_fail(SY_ERR_INTERNAL, "experts_down: the biases are missing");
    expert_job job = {.cpu = sy_cpu_of(be),
                      .matrix = w->down,
                      .n_slots = rows->n_slots,
                      .first = rows->first,
                      .bias = spec->ffn.expert_bias ? w->down_bias : NULL,
                      .x = h,
                      .y = y};
    if (rows->n_pairs > 0) sy_pool_run(job.cpu->pool, down_run, &job);
    return SY_OK;
}

/* The dense FFN, or shared expert, is one expert without biases that takes every row: both halves
 * in one run of the pool. */
typedef struct dense_job {
    expert_job up, down;
} dense_job;

static void dense_run(void *arg, int thread, int n_threads) {
    const dense_job *job = arg;
    for_share(&job->up, thread, n_threads, up_units);
    sy_pool_barrier(job->up.cpu->pool);
    for_share(&job->down, thread, n_threads, down_units);
}

sy_status sy_cpu_dense_ffn(sy_backend *be,
                           const sy_layer_spec *spec,
                           const sy_layer_weights *w,
                           int64_t n_rows,
                           const void *xn,
                           void *h,
                           float *y,
                           sy_stream *s) {
    (void)s;
    sy_cpu *cpu = sy_cpu_of(be);
    const int64_t first[2] = {0, n_rows};
    dense_job job = {
        .up = {.cpu = cpu,
               .matrix = &w->ffn_gate_up,
               .n_slots = 1,
               .first = first,
               .ffn = &spec->ffn,
               .x = xn,
               .h = h},
        .down = {
            .cpu = cpu, .matrix = &w->ffn_down, .n_slots = 1, .first = first, .x = h, .y = y}};
    if (n_rows > 0) sy_pool_run(cpu->pool, dense_run, &job);
    return SY_OK;
}

void sy_cpu_experts_scratch(const sy_cpu *cpu,
                            const sy_limits *l,
                            uint64_t *thread,
                            uint64_t *shared) {
    (void)cpu;
    (void)l;
    *thread = *shared = 0;
}

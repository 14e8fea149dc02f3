/* The CUDA table's memory: fragments against a packer of plain loops, sizes, copies, exhaustion.
 * timeout: 120 */
#include "kernels/device.h"
#include "tests/cuda_fixture.h"

/* Where weight (output o of a part, input i) lies, from the table of operand A of mma.m16n8k16:
 * lane l holds rows l/4 and l/4 + 8, columns 2 (l%4) + {0, 1} and + 8: registers a0 = upper left,
 * a1 = lower left, a2 = upper right, a3 = lower right. 16 x 16 values, 512 bytes, a step of k;
 * the steps of a tile follow each other. With two parts, rows 0..7 are gate, 8..15 up. */
static int64_t fragment_index(const sy_matrix *m, int part, int64_t o, int64_t i) {
    int64_t per_tile = m->parts == 2 ? 8 : 16, steps = (m->k + 15) / 16;
    int64_t tile = o / per_tile, row = o % per_tile + (m->parts == 2 ? 8 * part : 0);
    int64_t column = i % 16, lane = row % 8 * 4 + column % 8 / 2;
    int64_t of_lane = (row / 8 + 2 * (column / 8)) * 2 + column % 2;
    return ((tile * steps + i / 16) * 32 + lane) * 8 + of_lane;
}

static uint16_t stored_code(const test_matrix *t, int part, int64_t at) {
    uint16_t h;
    if (t->file_dtype == SY_F32)
        return sy_bf16_from_f32(source_value(t->src[part], SY_F32, at));
    memcpy(&h, t->src[part] + 2 * at, sizeof h);
    return h;
}

static void check_pack(sy_dtype file_dtype, int parts, int64_t n, int64_t k, spread values) {
    snprintf(where, sizeof where, "pack, %s, %d parts, n %lld, k %lld",
             sy_dtype_name(file_dtype), parts, (long long)n, (long long)k);
    test_matrix t = make_matrix(cpu_be, file_dtype, parts, n, k, values);
    sy_matrix m = pack_on_device(&t);
    assert_int_equal(m.dtype, file_dtype == SY_F16 ? SY_F16 : SY_BF16);
    int64_t tiles = parts == 2 ? (n + 7) / 8 : (n + 15) / 16,
            bytes = tiles * ((k + 15) / 16) * 512;
    assert_int_equal(cuda_be->ops->matrix_bytes(cuda_be, &m), bytes);
    uint16_t *expected = host_block(bytes), *found = host_block(bytes);
    memset(expected, 0, (size_t)bytes);
    for (int part = 0; part < parts; part++)
        for (int64_t o = 0; o < n; o++)
            for (int64_t i = 0; i < k; i++)
                expected[fragment_index(&m, part, o, i)] = stored_code(&t, part, o * k + i);
    MUST(cuda_be->ops->read(cuda_be, found, m.data, (uint64_t)bytes, NULL));
    assert_equal_bytes(found, expected, bytes / 512, 512, "fragments");
    free_matrix(cpu_be, &t);
    end_case();
}

static void fragments_equal_those_of_a_plain_packer(void **state) {
    (void)state;
    static const sy_dtype dtypes[] = {SY_BF16, SY_F16, SY_F32};
    static const int64_t ns[] = {1, 7, 8, 9, 16, 17, 63, 64, 65, 130},
                         ks[] = {1, 15, 16, 17, 63, 257};
    random_state = 91;
    reserve_both(&(sy_limits){.max_rows = 1,
                              .max_pairs = 1,
                              .max_context = 64,
                              .hidden = 1,
                              .heads = 1,
                              .kv_heads = 1,
                              .head_dim = 2,
                              .max_inter = 1,
                              .experts = 1,
                              .top_k = 1,
                              .vocab = 1});
    for (int t = 0; t < 3; t++)
        for (int parts = 1; parts <= 2; parts++)
            for (int n = 0; n < 10; n++)
                check_pack(dtypes[t], parts, ns[n], ks[(n + t) % 6],
                           (n + t) % 3 == 0 ? WIDE : ORDINARY);
    check_pack(SY_BF16, 1, 500, 2048, ORDINARY);
    check_pack(SY_F32, 2, 300, 2050, ORDINARY);
}

/* Rows enter in groups of 64 from the slots of a stage, as the loader has them. */
static void packing_from_a_stage_gives_the_same_fragments(void **state) {
    (void)state;
    enum { N = 300, K = 50, GROUP = SY_PACK_ROWS };
    const sy_device_ops *device = cuda_be->ops->device;
    sy_stage *stage;
    random_state = 92;
    snprintf(where, sizeof where, "pack from a stage");
    test_matrix t = make_matrix(cpu_be, SY_F32, 2, N, K, ORDINARY);
    sy_matrix m = pack_on_device(&t);
    int64_t bytes = (int64_t)cuda_be->ops->matrix_bytes(cuda_be, &m);
    sy_matrix staged = m;
    output o = make_output(NULL, bytes);
    staged.data = o.device;
    MUST(device->stage_open(cuda_be, 2, GROUP * K * 4, &stage));
    for (int part = 0; part < 2; part++)
        for (int64_t row = 0; row < N; row += GROUP) {
            void *slot;
            int64_t rows = sy_min(GROUP, N - row);
            MUST(device->stage_take(stage, &slot));
            memcpy(slot, t.src[part] + row * K * 4, (size_t)(rows * K * 4));
            MUST(cuda_be->ops->pack(cuda_be, &staged, part, row, rows,
                                    &(sy_weight_source){.dtype = SY_F32, .codes = slot}));
            device->stage_give(stage, slot);
        }
    MUST(device->stage_close(stage));
    char *expected = host_block(bytes);
    MUST(cuda_be->ops->read(cuda_be, expected, m.data, (uint64_t)bytes, NULL));
    assert_equal_bytes(read_output(o), expected, bytes / 512, 512, "fragments");
    free_matrix(cpu_be, &t);
    end_case();
}

static void impossible_matrices_are_refused(void **state) {
    (void)state;
    const sy_ops *ops = cuda_be->ops;
    static const sy_matrix bad[] = {
        {.dtype = SY_BF16, .parts = 1, .n = -1, .k = 16},
        {.dtype = SY_BF16, .parts = 1, .n = 16, .k = -1},
        {.dtype = SY_BF16, .parts = 3, .n = 16, .k = 16},
        {.dtype = SY_BF16, .parts = 0, .n = 16, .k = 16},
        {.dtype = SY_I64, .parts = 1, .n = 16, .k = 16},
        {.dtype = SY_BF16, .parts = 1, .n = INT64_MAX, .k = 16},
        {.dtype = SY_BF16, .parts = 1, .n = 16, .k = INT64_MAX},
        {.dtype = SY_BF16, .parts = 2, .n = (int64_t)1 << 40, .k = (int64_t)1 << 40},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (ops->matrix_bytes(cuda_be, &bad[i]) != UINT64_MAX) fail_msg("matrix %zu", i);
    static const uint16_t src[64 * 16];
    random_state = 93;
    sy_matrix m = {.dtype = SY_BF16, .parts = 1, .n = 100, .k = 16};
    m.data = device_copy(src, 0);
    sy_weight_source bf16 = {.dtype = SY_BF16, .codes = src}, f16 = {SY_F16, src, NULL, NULL};
    assert_int_equal(ops->pack(cuda_be, &m, 1, 0, 64, &bf16), SY_ERR_INTERNAL);
    assert_int_equal(ops->pack(cuda_be, &m, 0, 1, 64, &bf16), SY_ERR_INTERNAL);
    assert_int_equal(ops->pack(cuda_be, &m, 0, 64, 64, &bf16), SY_ERR_INTERNAL);
    assert_int_equal(ops->pack(cuda_be, &m, 0, 0, 63, &bf16), SY_ERR_INTERNAL);
    assert_int_equal(ops->pack(cuda_be, &m, 0, 0, 64, &f16), SY_ERR_UNSUPPORTED);
    end_case();
}

static void memory_is_zeroed_aligned_and_copied_exactly(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 1, 255, 256, 257, 100001, 9 << 20};
    const sy_ops *ops = cuda_be->ops;
    random_state = 94;
    for (int i = 0; i < 7; i++) {
        unsigned char *device, *host = host_block(sizes[i]), *back = host_block(sizes[i]);
        MUST(ops->alloc(cuda_be, &device, (uint64_t)sizes[i], "block"));
        assert_true((uintptr_t)device % 256 == 0);
        MUST(ops->read(cuda_be, back, device, (uint64_t)sizes[i], NULL));
        for (int64_t j = 0; j < sizes[i]; j++) {
            if (back[j] != 0) fail_msg("byte %lld of new memory", (long long)j);
            host[j] = (unsigned char)random64();
        }
        MUST(ops->write(cuda_be, device, host, (uint64_t)sizes[i], NULL));
        MUST(ops->read(cuda_be, back, device, (uint64_t)sizes[i], NULL));
        assert_equal_bytes(back, host, 1, sizes[i], "copy");
        ops->free(cuda_be, device, (uint64_t)sizes[i]);
        end_case();
    }
    ops->free(cuda_be, NULL, 5);
}

static void more_memory_than_there_is_is_an_error_with_its_purpose(void **state) {
    (void)state;
    static const uint64_t sizes[] = {(uint64_t)1 << 60, UINT64_MAX, (uint64_t)1 << 63};
    for (int i = 0; i < 3; i++) {
        void *p = &p;
        assert_int_equal(cuda_be->ops->alloc(cuda_be, &p, sizes[i], "a whale"), SY_ERR_MEMORY);
        assert_null(p);
        assert_non_null(strstr(sy_last_error(), "a whale"));
    }
    void *p; /* and the next call is none the worse for it */
    MUST(cuda_be->ops->alloc(cuda_be, &p, 100, "block"));
    cuda_be->ops->free(cuda_be, p, 100);
    sy_limits l = {
        .max_rows = (int64_t)1 << 50, .max_pairs = 1, .max_context = 64, .hidden = 1 << 30};
    l.heads = l.kv_heads = 1 << 20, l.head_dim = 128, l.max_inter = l.experts = l.top_k = 1;
    l.vocab = 1;
    assert_int_equal(cuda_be->ops->reserve(cuda_be, &l), SY_ERR_MEMORY);
}

static void a_device_has_a_name_a_stream_and_memory(void **state) {
    (void)state;
    const sy_device_ops *device = cuda_be->ops->device;
    uint64_t identity[2] = {0, 0}, available = device->memory_available(cuda_be, &identity[0]);
    assert_true(available > (uint64_t)1 << 20 && available < (uint64_t)1 << 50);
    (void)device->memory_available(cuda_be, &identity[1]);
    assert_true(identity[0] == identity[1]);
    print_message("%s, %llu MiB available\n", device->device_name(cuda_be),
                  (unsigned long long)(available >> 20));
    assert_true(strlen(device->device_name(cuda_be)) > 0);
    assert_non_null(device->native_stream(cuda_be));
    MUST(device->synchronize(cuda_be, NULL));
    assert_int_equal(cuda_be->act, SY_BF16);
    assert_string_equal(cuda_be->ops->name, "cuda");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fragments_equal_those_of_a_plain_packer),
        cmocka_unit_test(packing_from_a_stage_gives_the_same_fragments),
        cmocka_unit_test(impossible_matrices_are_refused),
        cmocka_unit_test(memory_is_zeroed_aligned_and_copied_exactly),
        cmocka_unit_test(more_memory_than_there_is_is_an_error_with_its_purpose),
        cmocka_unit_test(a_device_has_a_name_a_stream_and_memory),
    };
    return cuda_main("memory", tests, sizeof tests / sizeof *tests);
}

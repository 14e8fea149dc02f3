/* All that attention of grouped queries can do, end to end on the CPU: against float64, and bit
 * for bit over chunkings, batches, threads, instruction sets and what pages held before.
 * timeout: 240 */
#include "tests/attention_reference.h"

static void chunks_batches_and_threads_do_not_change_a_bit(void **state) {
    (void)state;
    sy_layer_spec spec = small_spec();
    static const int chunks[] = {1, 7, 64, 100, CONTEXT};
    for (int act = 0; act < 2; act++) {
        sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
        float *expected =
            run_schedule(&spec, &(schedule){t, SY_BF16, "auto", 1, CONTEXT, false, 0});
        for (int i = 0; i < 5; i++)
            for (int n_threads = 1; n_threads <= 3; n_threads++)
                expect_same(
                    &spec, expected,
                    &(schedule){t, SY_BF16, "auto", n_threads, chunks[i], i % 2 == 0, 0});
        expect_same(&spec, expected, &(schedule){t, SY_BF16, "auto", 2, 1, false, 0});
        free(expected);
    }
}

static void every_table_gives_the_same_attention(void **state) {
    (void)state;
    sy_layer_spec spec = small_spec();
    for (int act = 0; act < 2; act++) {
        sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
        float *expected =
            run_schedule(&spec, &(schedule){t, SY_BF16, "auto", 1, CONTEXT, true, 0});
        for (int i = 0; i < N_ISA; i++)
            expect_same(&spec, expected, &(schedule){t, SY_BF16, isa_names[i], 2, 90, true, 0});
        free(expected);
    }
}

static void what_pages_held_before_does_not_matter(void **state) {
    (void)state;
    sy_layer_spec spec = small_spec();
    /* 0x7f7f is the largest finite BF16 value, 0xffff a NaN, 0xbf small and negative */
    static const unsigned char fills[] = {0x7f, 0xff, 0xbf};
    for (int act = 0; act < 2; act++) {
        sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
        float *expected =
            run_schedule(&spec, &(schedule){t, SY_BF16, "auto", 1, CONTEXT, false, 0});
        for (int i = 0; i < 3; i++) {
            expect_same(&spec, expected,
                        &(schedule){t, SY_BF16, "auto", 2, 13, true, fills[i]});
            expect_same(&spec, expected,
                        &(schedule){t, SY_BF16, "auto", 2, 64, true, fills[i]});
        }
        free(expected);
    }
}

enum { N_VARIANTS = 12 };

/* Small relatives of the published families; the scale makes scores of some units. */
static sy_layer_spec variant(int i) {
    sy_layer_spec spec = small_spec();
    sy_attn_spec *a = &spec.attn;
    static const int windows[N_VARIANTS] = {0, 0, 0, 0, 1, 20, 64, 100, 512, 600, 128, 65};
    a->window = windows[i];
    a->qk_clip = 0;
    if (i == 0) a->rope.layout = SY_ROPE_INTERLEAVED, a->rope.dim = 24;
    if (i == 1) a->rope.layout = SY_ROPE_INTERLEAVED, a->rope.dim = 6;
    if (i == 2) a->query_beta = 0.3f, a->query_positions = 100;
    if (i == 3 || i >= 9) a->sinks = true;
    if (i != 1 && i < 10) return spec;
    a->qk_norm = SY_QK_NORM_NONE;
    a->softmax_scale = 0.002f;
    a->qkv_bias = true;
    a->o_bias = true;
    return spec;
}

static void every_variant_matches_float64(void **state) {
    (void)state;
    for (int i = 0; i < N_VARIANTS; i++) {
        sy_layer_spec spec = variant(i);
        sy_dtype weights = i % 2 == 0 ? SY_F32 : SY_BF16;
        expect_near_f64(&spec, &(schedule){SY_F32, weights, "auto", 2, 100, true, 0xff}, 1e-5);
        expect_near_f64(&spec, &(schedule){SY_BF16, weights, "auto", 2, 100, true, 0xff}, 0.03);
    }
}

static void no_variant_changes_a_bit_with_the_cut(void **state) {
    (void)state;
    for (int i = 0; i < N_VARIANTS; i++) {
        sy_layer_spec spec = variant(i);
        expect_same_in_every_cut(&spec, SY_BF16);
        expect_same_in_every_cut(&spec, SY_F32);
    }
}

static void version_1_keeps_its_bits(void **state) {
    (void)state;
    assert_int_equal(SY_NUMERICS_VERSION, 1);
    sy_layer_spec first = small_spec(), all = variant(11);
    expect_bits(&first, SY_BF16, 0x2eedb1c5f9833529);
    expect_bits(&first, SY_F32, 0x7295105906da9541);
    expect_bits(&all, SY_BF16, 0xdbdc28d25bc8f2cc);
    expect_bits(&all, SY_F32, 0xdbd734463d820c44);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_matches_float64),
        cmocka_unit_test(no_variant_changes_a_bit_with_the_cut),
        cmocka_unit_test(chunks_batches_and_threads_do_not_change_a_bit),
        cmocka_unit_test(every_table_gives_the_same_attention),
        cmocka_unit_test(version_1_keeps_its_bits),
        cmocka_unit_test(what_pages_held_before_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

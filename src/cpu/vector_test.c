/* The small kernels of every feature set that this machine runs, over lengths with every kind of tail,
 * against the reference ones. */
#include "kernels.h"
#include "support.h"

#define MAX_N 600
#define GUARD 12345.0f

static const uint32_t lengths[] = {1, 2, 3, 7, 8, 9, 15, 16, 31, 32, 33, 63, 64, 100, 128, 255, 576, 599};

/* Buffers start one float off any alignment; a guard behind the end must survive. */
typedef struct bench {
    float x[MAX_N + 2], y[MAX_N + 2], got[MAX_N + 2], want[MAX_N + 2];
} bench;

static void fill(float *x, float scale) {
    for (uint32_t i = 0; i < MAX_N + 2; i++) x[i] = scale * random_float();
}

static void start(bench *b, uint32_t n, float scale) {
    fill(b->x, scale);
    fill(b->y, 2);
    b->got[n + 1] = GUARD;
}

static void near(const bench *b, uint32_t n, const char *what) {
    for (uint32_t i = 1; i <= n; i++)
        assert_close(b->got[i], (double)b->want[i], 1e-6 * fabs((double)b->want[i]) + 1e-7, what, i - 1);
    assert_true(b->got[n + 1] == GUARD);
}

static void for_each(void (*check)(const lm_kernels *k, uint32_t n)) {
    for (const char *const *f = lm_cpu_features(); *f; f++) {
        const lm_kernels *k = NULL;
        lm_err err = {0};
        expect_ok(lm_kernels_choose(*f, &k, &err), err);
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) check(k, lengths[i]);
    }
}

static void check_rms_norm(const lm_kernels *k, uint32_t n) {
    bench b;
    start(&b, n, 3);
    k->rms_norm(b.x + 1, b.y + 1, n, 1e-5f, b.got + 1);
    lm_kernels_reference.rms_norm(b.x + 1, b.y + 1, n, 1e-5f, b.want + 1);
    near(&b, n, "weighted norm");
    lm_kernels_reference.rms_norm(b.x + 1, NULL, n, 1e-5f, b.want + 1);
    memcpy(b.got, b.x, sizeof b.x);
    b.got[n + 1] = GUARD;
    k->rms_norm(b.got + 1, NULL, n, 1e-5f, b.got + 1);
    near(&b, n, "norm in place");
}

static void check_layer_norm(const lm_kernels *k, uint32_t n) {
    bench b;
    float bias[MAX_N + 2];
    start(&b, n, 3);
    fill(bias, 1);
    for (uint32_t i = 0; i < n; i++) b.x[i + 1] += 2; /* a mean to take away */
    k->layer_norm(b.x + 1, b.y + 1, bias + 1, n, 1e-3f, b.got + 1);
    lm_kernels_reference.layer_norm(b.x + 1, b.y + 1, bias + 1, n, 1e-3f, b.want + 1);
    for (uint32_t i = 1; i <= n; i++) assert_close(b.got[i], (double)b.want[i], 3e-6, "layer norm", i - 1);
    assert_true(b.got[n + 1] == GUARD);
}

static void check_add_scaled(const lm_kernels *k, uint32_t n) {
    bench b;
    start(&b, n, 3);
    memcpy(b.got, b.x, sizeof b.x);
    memcpy(b.want, b.x, sizeof b.x);
    b.got[n + 1] = GUARD;
    k->add_scaled(b.got + 1, b.y + 1, 0.37f, n);
    lm_kernels_reference.add_scaled(b.want + 1, b.y + 1, 0.37f, n);
    near(&b, n, "add_scaled");
}

static void check_glu(const lm_kernels *k, uint32_t n) {
    static const float scales[] = {0.01f, 1, 12, 200};
    bench b;
    for (lm_glu act = LM_GLU_SILU; act <= LM_GLU_OSS; act++) {
        for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
            start(&b, n, scales[i]);
            k->glu(act, b.x + 1, b.y + 1, n, b.got + 1);
            lm_kernels_reference.glu(act, b.x + 1, b.y + 1, n, b.want + 1);
            near(&b, n, "glu");
            k->glu(act, b.x + 1, b.y + 1, n, b.x + 1);
            assert_memory_equal(b.x + 1, b.got + 1, n * sizeof(float)); /* out may be gate */
        }
    }
}

static void check_rope(const lm_kernels *k, uint32_t n) {
    bench b;
    if (n % 2) return;
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        start(&b, n, 3);
        memcpy(b.got, b.x, sizeof b.x);
        memcpy(b.want, b.x, sizeof b.x);
        b.got[n + 1] = GUARD;
        k->rope(b.got + 1, n, interleaved, b.y + 1);
        lm_kernels_reference.rope(b.want + 1, n, interleaved, b.y + 1);
        for (uint32_t i = 1; i <= n; i++) assert_close(b.got[i], (double)b.want[i], 2e-6, "rope", i - 1);
        assert_true(b.got[n + 1] == GUARD);
    }
}

static void check_to_f16(const lm_kernels *k, uint32_t n) {
    static const float special[] = {0,     -0.0f, 1,      65504,    65520,         1e9f,
                                    6e-8f, 2e-8f, -1e-5f, INFINITY, 1.00048828125f};
    bench b;
    uint16_t got[MAX_N + 2], want[MAX_N + 2];
    start(&b, n, 70000);
    for (uint32_t i = 0; i < n && i < sizeof special / sizeof *special; i++) b.x[n - i] = special[i];
    got[n + 1] = 0xabcd;
    k->to_f16(b.x + 1, n, got + 1);
    lm_kernels_reference.to_f16(b.x + 1, n, want + 1);
    assert_memory_equal(got + 1, want + 1, n * sizeof *got);
    assert_int_equal(got[n + 1], 0xabcd);
}

static void layer_norm_is_the_reference_within_a_few_millionths(void **state) {
    (void)state;
    for_each(check_layer_norm);
}

static void rms_norm_is_the_reference_within_a_millionth(void **state) {
    (void)state;
    for_each(check_rms_norm);
}

static void add_scaled_is_the_reference_within_a_millionth(void **state) {
    (void)state;
    for_each(check_add_scaled);
}

static void glu_is_the_reference_within_a_millionth(void **state) {
    (void)state;
    for_each(check_glu);
}

static void rope_turns_as_the_reference(void **state) {
    (void)state;
    for_each(check_rope);
}

static void f16_is_rounded_to_the_bit(void **state) {
    (void)state;
    for_each(check_to_f16);
}

/* e^x is only seen through silu: up = 1 and a far negative gate leave gate * e^gate. */
static void silu_keeps_its_accuracy_over_the_whole_range(void **state) {
    (void)state;
    for (const char *const *f = lm_cpu_features(); *f; f++) {
        const lm_kernels *k = NULL;
        lm_err err = {0};
        expect_ok(lm_kernels_choose(*f, &k, &err), err);
        for (float x = -87; x < 87; x += 0.0171f) {
            float one = 1, got;
            k->glu(LM_GLU_SILU, &x, &one, 1, &got);
            double want = (double)x / (1 + exp(-(double)x));
            assert_close(got, want, fabs(want) * 4e-7, *f, 0);
        }
        float odd[2] = {NAN, -1e30f}, ones[2] = {1, 1}, got[2];
        k->glu(LM_GLU_SILU, odd, ones, 2, got);
        assert_true(isnan(got[0]));
        assert_true(fabsf(got[1]) < 1e-6f);
    }
}

static void unknown_and_foreign_feature_sets_are_named(void **state) {
    (void)state;
    const lm_kernels *k = NULL;
    lm_err err = {0};
    expect_fail(lm_kernels_choose("sse9", &k, &err), LM_INVALID, err, "sse9");
#if defined(__x86_64__)
    expect_fail(lm_kernels_choose("neon", &k, &err), LM_UNSUPPORTED, err, "neon");
#else
    expect_fail(lm_kernels_choose("avx2", &k, &err), LM_UNSUPPORTED, err, "avx2");
#endif
    assert_null(k);
    expect_ok(lm_kernels_choose(NULL, &k, &err), err);
    assert_string_equal(k->name, lm_cpu_features()[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layer_norm_is_the_reference_within_a_few_millionths),
        cmocka_unit_test(rms_norm_is_the_reference_within_a_millionth),
        cmocka_unit_test(add_scaled_is_the_reference_within_a_millionth),
        cmocka_unit_test(glu_is_the_reference_within_a_millionth),
        cmocka_unit_test(rope_turns_as_the_reference),
        cmocka_unit_test(f16_is_rounded_to_the_bit),
        cmocka_unit_test(silu_keeps_its_accuracy_over_the_whole_range),
        cmocka_unit_test(unknown_and_foreign_feature_sets_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The quantiser against MLX's own results (tests/golden/make_quantize.py), and where those end. */
#include "base/test.h"

#include <float.h>
#include <math.h>

#include "weights/quantize.h"

static const struct {
    const char *name;
    lm_dtype dtype;
} types[] = {{"f32", LM_F32}, {"f16", LM_F16}, {"bf16", LM_BF16}};

static lm_view find(const lm_weights *w, const char *type, const char *form, const char *part) {
    char name[64];
    lm_view v = {0};
    snprintf(name, sizeof name, form ? "%s.%s.%s" : "%s", type, form, part);
    if (!lm_weights_find(w, name, &v)) fail_msg("no tensor %s", name);
    return v;
}

static void expect_same(const lm_view *want, const uint8_t *got, const char *type, const char *form,
                        const char *part) {
    const uint8_t *bytes = want->data;
    for (uint64_t i = 0; i < want->bytes; i++)
        if (bytes[i] != got[i])
            fail_msg("%s %s: byte %llu of %s is %02x, MLX has %02x", type, form, (unsigned long long)i, part,
                     got[i], bytes[i]);
}

static void check_form(const lm_weights *w, uint32_t type, lm_quant_spec spec) {
    char form[32];
    const char *t = types[type].name;
    if (spec.kind == LM_QUANT_AFFINE)
        snprintf(form, sizeof form, "affine_%u_%u", spec.bits, spec.group);
    else
        snprintf(form, sizeof form, "%s", lm_quant_mode(spec.kind));
    lm_view numbers = find(w, t, NULL, NULL), codes = find(w, t, form, "weight"),
            scales = find(w, t, form, "scales"), biases = {0};
    if (spec.kind == LM_QUANT_AFFINE) biases = find(w, t, form, "biases");
    uint64_t n = numbers.bytes / lm_dtype_size(numbers.dtype);
    uint8_t *mine = malloc(codes.bytes), *s = malloc(scales.bytes), *b = malloc(biases.bytes + 1);
    assert_true(mine && s && b && n > 1000);
    assert_int_equal(numbers.dtype, types[type].dtype);
    assert_int_equal(codes.bytes, n * spec.bits / 8);
    assert_true(lm_quantize(spec, numbers.dtype, numbers.data, n, mine, s, b));
    expect_same(&scales, s, t, form, "the scales");
    expect_same(&biases, b, t, form, "the biases");
    expect_same(&codes, mine, t, form, "the codes");
    free(mine);
    free(s);
    free(b);
}

static void every_form_of_every_type_has_the_bytes_that_mlx_writes(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    const char *dir = getenv("LM_GOLDEN_QUANTIZE");
    expect_ok(lm_weights_open(&w, dir ? dir : LM_SOURCE_DIR "/tests/golden/quantize", &err), err);
    uint32_t n = 0;
    for (uint32_t t = 0; t < 3; t++) {
        for (uint32_t bits = 2; bits <= 8; bits++) {
            for (uint32_t group = 32; group <= 128; group *= 2) {
                lm_quant_spec spec = {LM_QUANT_AFFINE, bits, group};
                if (!lm_quant_known(spec)) continue;
                check_form(w, t, spec);
                n++;
            }
        }
        for (lm_quant k = LM_QUANT_MXFP4; k < LM_QUANT_KINDS; k++, n++)
            check_form(w, t, lm_quant_float_spec(k));
    }
    assert_int_equal(n, 3 * (6 * 3 + 3));
    lm_weights_close(w);
}

static void what_is_not_finite_is_told(void **state) {
    (void)state;
    static const float strange[] = {NAN, INFINITY, -INFINITY};
    static const uint16_t halves[] = {0x7c00, 0xfc00, 0x7e01}, brains[] = {0x7f80, 0xff80, 0x7fc1};
    const lm_quant_spec specs[] = {{LM_QUANT_AFFINE, 4, 64},
                                   lm_quant_float_spec(LM_QUANT_MXFP4),
                                   lm_quant_float_spec(LM_QUANT_MXFP8),
                                   lm_quant_float_spec(LM_QUANT_NVFP4)};
    uint8_t codes[128], scales[64], biases[64];
    for (uint32_t k = 0; k < 4; k++) {
        for (uint32_t i = 0; i < 3; i++) {
            float x[64] = {1};
            uint16_t h[64] = {1}, b[64] = {1};
            x[63] = strange[i];
            h[63] = halves[i];
            b[63] = brains[i];
            assert_false(lm_quantize(specs[k], LM_F32, x, 64, codes, scales, biases));
            assert_false(lm_quantize(specs[k], LM_F16, h, 64, codes, scales, biases));
            assert_false(lm_quantize(specs[k], LM_BF16, b, 64, codes, scales, biases));
            x[63] = 0;
            assert_true(lm_quantize(specs[k], LM_F32, x, 64, codes, scales, biases));
        }
    }
    float wide[64] = {FLT_MAX, -FLT_MAX};
    assert_false(
        lm_quantize((lm_quant_spec){LM_QUANT_AFFINE, 2, 64}, LM_F32, wide, 64, codes, scales, biases));
}

static void numbers_below_the_smallest_exponent_keep_it(void **state) {
    (void)state;
    float x[32] = {0x1p-140f};
    uint8_t codes[32], scale = 99;
    assert_true(lm_quantize(lm_quant_float_spec(LM_QUANT_MXFP4), LM_F32, x, 32, codes, &scale, NULL));
    assert_int_equal(scale, 0);
    for (uint32_t i = 0; i < 16; i++) assert_int_equal(codes[i], 0);
}

static void casts_round_to_nearest_even_and_tell_of_overflow(void **state) {
    (void)state;
    float x[300];
    uint16_t h[300];
    for (uint32_t i = 0; i < 300; i++) x[i] = 1.0f + (float)i / 2048;
    assert_true(lm_numbers_cast(LM_F32, x, 300, LM_F16, h));
    assert_int_equal(h[0], 0x3c00);
    assert_int_equal(h[1], 0x3c00);
    assert_int_equal(h[3], 0x3c02);
    assert_int_equal(h[299], lm_f32_to_f16(x[299]));
    x[299] = 70000;
    assert_false(lm_numbers_cast(LM_F32, x, 300, LM_F16, h));
    assert_true(lm_numbers_cast(LM_F32, x, 300, LM_BF16, h));
    assert_int_equal(h[299], lm_f32_to_bf16(70000));
    x[299] = -INFINITY;
    assert_true(lm_numbers_cast(LM_F32, x, 300, LM_F16, h));
    assert_int_equal(h[299], 0xfc00);
    float back[300];
    assert_true(lm_numbers_cast(LM_F16, h, 300, LM_F32, back));
    assert_true(back[3] == 1.0f + 2.0f / 1024 && back[299] == -INFINITY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_of_every_type_has_the_bytes_that_mlx_writes),
        cmocka_unit_test(what_is_not_finite_is_told),
        cmocka_unit_test(numbers_below_the_smallest_exponent_keep_it),
        cmocka_unit_test(casts_round_to_nearest_even_and_tell_of_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Readers against files written here by hand, good and bad, and against one that MLX wrote. */
#include "base/test.h"

#include <math.h>

#include "base/file.h"
#include "weights/weights.h"

static void put(const char *name, const void *bytes, size_t n) {
    char *path = lm_path_join(test_dir(), name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    free(path);
}

/* A safetensors file from its header text and n_data bytes of 0, 1, 2, ... */
static void put_tensors(const char *name, const char *header, size_t n_data) {
    size_t n = strlen(header);
    uint8_t *file = calloc(1, 8 + n + n_data);
    assert_non_null(file);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < n_data; i++) file[8 + n + i] = (uint8_t)i;
    put(name, file, 8 + n + n_data);
    free(file);
}

static void a_single_file_gives_views_into_its_data(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_view v;
    put_tensors("model.safetensors",
                "{\"__metadata__\":{\"format\":\"mlx\"},\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_"
                "offsets\":[12,13]},"
                "\"a\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]}}   ",
                13);
    expect_ok(lm_weights_open(&w, test_dir(), &err), err);
    assert_int_equal(lm_weights_count(w), 2);
    assert_int_equal(lm_weights_bytes(w), 13);
    assert_string_equal(lm_weights_name(w, 0, &v), "a"); /* file order */
    assert_int_equal(v.dtype, LM_BF16);
    assert_int_equal(v.n_dims, 2);
    assert_int_equal(v.dims[1], 3);
    assert_int_equal(((const uint8_t *)v.data)[11], 11);
    assert_true(lm_weights_find(w, "b", &v));
    assert_int_equal(v.n_dims, 0);
    assert_int_equal(v.bytes, 1);
    assert_int_equal(*(const uint8_t *)v.data, 12);
    assert_false(lm_weights_find(w, "c", &v));
    lm_weights_drop(w);
    assert_int_equal(*(const uint8_t *)v.data, 12);
    lm_weights_close(w);
}

static void an_index_joins_its_files(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_view v;
    put_tensors("m-2.safetensors", "{\"y\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    put_tensors("m-1.safetensors", "{\"x\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    put_tensors("other.safetensors", "not read", 0);
    const char *index = "{\"weight_map\":{\"y\":\"m-2.safetensors\",\"x\":\"m-1.safetensors\"}}";
    put("model.safetensors.index.json", index, strlen(index));
    expect_ok(lm_weights_open(&w, test_dir(), &err), err);
    assert_int_equal(lm_weights_count(w), 2);
    assert_string_equal(lm_weights_name(w, 0, &v), "x");
    assert_string_equal(lm_weights_name(w, 1, &v), "y");
    lm_weights_close(w);

    index = "{\"weight_map\":{\"y\":\"m-1.safetensors\",\"x\":\"m-1.safetensors\"}}";
    put("model.safetensors.index.json", index, strlen(index));
    expect_fail(lm_weights_open(&w, test_dir(), &err), LM_CORRUPT, err, "tensor y is not in m-1.safetensors");
    index = "{\"weight_map\":{\"y\":\"../m-1.safetensors\"}}";
    put("model.safetensors.index.json", index, strlen(index));
    expect_fail(lm_weights_open(&w, test_dir(), &err), LM_CORRUPT, err, "not a file name in this directory");
    index = "[]";
    put("model.safetensors.index.json", index, strlen(index));
    expect_fail(lm_weights_open(&w, test_dir(), &err), LM_CORRUPT, err, "no weight_map");
}

static void without_an_index_every_file_is_read_and_a_name_may_occur_once(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    expect_fail(lm_weights_open(&w, test_dir(), &err), LM_NOT_FOUND, err, "no *.safetensors file");
    put_tensors("a.safetensors", "{\"x\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    put_tensors("b.safetensors", "{\"y\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    expect_ok(lm_weights_open(&w, test_dir(), &err), err);
    assert_int_equal(lm_weights_count(w), 2);
    lm_weights_close(w);
    put_tensors("b.safetensors", "{\"x\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    expect_fail(lm_weights_open(&w, test_dir(), &err), LM_CORRUPT, err,
                "tensor x is in both a.safetensors and b.safetensors");
    expect_fail(lm_weights_open(&w, "/nonexistent/dir", &err), LM_NOT_FOUND, err, "/nonexistent/dir");
}

static void bad_headers_are_refused_with_the_reason(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_data;
        lm_status st;
        const char *words;
    } cases[] = {
        {"", 0, LM_CORRUPT, "bad header"},
        {"[]", 0, LM_CORRUPT, "not an object"},
        {"{\"a\":{}}", 0, LM_CORRUPT, "has no dtype"},
        {"{\"a\":5}", 0, LM_CORRUPT, "has no dtype"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[],\"data_offsets\":[0,0]}}", 0, LM_UNSUPPORTED, "of type F4"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0]}}", 0, LM_CORRUPT, "has no shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,0]}}", 0, LM_CORRUPT, "whole numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.5],\"data_offsets\":[0,0]}}", 0, LM_CORRUPT, "whole numbers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, LM_UNSUPPORTED,
         "dimensions"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         LM_CORRUPT, "impossibly large"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1, LM_CORRUPT,
         "its shape needs 2"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, LM_CORRUPT, "truncated?"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,1]}}", 3, LM_CORRUPT, "[begin, end]"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9223372036854775807,9223372036854775807]}"
         "}",
         3, LM_CORRUPT, "truncated?"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, LM_CORRUPT, "[begin, end]"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, LM_CORRUPT, "tensors a and b overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, LM_CORRUPT, "duplicate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lm_err err = {0};
        lm_weights *w = NULL;
        put_tensors("model.safetensors", cases[i].header, cases[i].n_data);
        expect_fail(lm_weights_open(&w, test_dir(), &err), cases[i].st, err, cases[i].words);
        assert_null(w);
    }
}

static void a_header_length_that_lies_is_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    put("model.safetensors", "\1\0\0", 3);
    expect_fail(lm_weights_open(&w, test_dir(), &err), LM_CORRUPT, err, "shorter than 8 bytes");
    put("model.safetensors", "\x40\0\0\0\0\0\0\0{}", 10);
    expect_fail(lm_weights_open(&w, test_dir(), &err), LM_CORRUPT, err, "truncated");
    put("model.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    expect_fail(lm_weights_open(&w, test_dir(), &err), LM_CORRUPT, err, "not a safetensors file");
}

/* As the blobs of Ollama's MLX models: one file for each tensor, a matrix with its scales. */
static void the_names_of_ollamas_tensors_become_mlxs(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_view v;
    lm_matrix m;
    lm_quant_spec q4 = {LM_QUANT_AFFINE, 4, 32};
    put_tensors("a.q_proj.weight.safetensors",
                "{\"__metadata__\":{\"quant_type\":\"int4\",\"group_size\":\"32\"},"
                "\"a.q_proj.weight\":{\"dtype\":\"U32\",\"shape\":[1,4],\"data_offsets\":[0,16]},"
                "\"a.q_proj.weight.bias\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[16,20]},"
                "\"a.q_proj.weight.scale\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[20,24]}}",
                24);
    put_tensors("a.q_proj.bias.safetensors",
                "{\"a.q_proj.bias\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    expect_ok(lm_weights_open(&w, test_dir(), &err), err);
    assert_int_equal(lm_weights_count(w), 4);
    assert_true(lm_weights_find(w, "a.q_proj.scales", &v) && lm_weights_find(w, "a.q_proj.biases", &v));
    assert_true(lm_weights_find(w, "a.q_proj.bias", &v)); /* the layer's own, added to its output */
    expect_ok(lm_weights_matrix(w, "a.q_proj", q4, 1, 1, 32, &m, &err), err);
    lm_weights_close(w);

    put_tensors("b.safetensors",
                "{\"a.q_proj.scales\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    expect_fail(lm_weights_open(&w, test_dir(), &err), LM_CORRUPT, err, "a.q_proj.scales is in both");
    put_tensors("b.safetensors",
                "{\"a.weight.global_scale\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    expect_fail(lm_weights_open(&w, test_dir(), &err), LM_UNSUPPORTED, err, "whole nvfp4 matrix");
}

static void every_f16_survives_the_way_through_f32(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = lm_f16_to_f32((uint16_t)h);
        if (isnan(f)) {
            assert_true((h & 0x7fff) > 0x7c00);
            assert_true(isnan(lm_f16_to_f32(lm_f32_to_f16(f))));
        } else {
            assert_int_equal(lm_f32_to_f16(f), h);
        }
    }
    assert_true(lm_f16_to_f32(0x3555) == 0.333251953125f);
    assert_true(lm_f16_to_f32(0x0001) == 0x1p-24f);
    assert_true(lm_f16_to_f32(0x7bff) == 65504.0f);
}

static void rounding_goes_to_the_nearest_and_ties_to_even(void **state) {
    (void)state;
    assert_int_equal(lm_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(lm_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(lm_f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(lm_f32_to_f16(0x1p-25f), 0);   /* a tie with 0 */
    assert_int_equal(lm_f32_to_f16(0x1.8p-24f), 2); /* a tie between 1 and 2 */
    assert_int_equal(lm_f32_to_f16(0x1.000002p-25f), 1);
    assert_int_equal(lm_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    assert_int_equal(lm_f32_to_f16(1.0f + 0x3p-11f), 0x3c02);
    assert_int_equal(lm_f32_to_f16(0x1.ffep-15f), 0x0400); /* up into the normals */
    assert_int_equal(lm_f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
    assert_int_equal(lm_f32_to_bf16(1.0f + 0x3p-8f), 0x3f82);
    assert_int_equal(lm_f32_to_bf16(INFINITY), 0x7f80);
    assert_true(isnan(lm_bf16_to_f32(lm_f32_to_bf16(NAN))));
}

/* ---- matrices -------------------------------------------------------------------------------------------- */

static lm_weights *open_golden(void) {
    lm_err err = {0};
    lm_weights *w = NULL;
    expect_ok(lm_weights_open(&w, LM_SOURCE_DIR "/tests/golden/weights", &err), err);
    return w;
}

static void check_rows(const lm_weights *w, const char *name, const lm_matrix *m) {
    char full[256];
    lm_view want;
    float *row = malloc(m->cols * sizeof *row);
    assert_non_null(row);
    snprintf(full, sizeof full, "%s.expected", name);
    assert_true(lm_weights_find(w, full, &want));
    assert_int_equal(want.bytes, (uint64_t)m->n_experts * m->rows * m->cols * 4);
    for (uint64_t r = 0; r < (uint64_t)m->n_experts * m->rows; r++) {
        lm_matrix_row(m, (uint32_t)(r / m->rows), (uint32_t)(r % m->rows), row);
        for (uint32_t i = 0; i < m->cols; i++) {
            float f;
            memcpy(&f, (const uint8_t *)want.data + (r * m->cols + i) * 4, 4);
            /* MLX may contract scale * q + bias into one rounding: a unit or two of the largest term. */
            if (fabsf(f - row[i]) > 1e-6f)
                fail_msg("%s row %d col %u: %g, MLX has %g", name, (int)r, i, row[i], f);
        }
    }
    free(row);
}

static void rows_of_every_form_are_what_mlx_dequantises(void **state) {
    (void)state;
    lm_weights *w = open_golden();
    lm_err err = {0};
    uint32_t forms = 0;
    for (uint32_t i = 0; i < lm_weights_count(w); i++) {
        lm_view v;
        char name[128];
        const char *full = lm_weights_name(w, i, &v);
        const char *dot = strstr(full, ".weight");
        if (!dot) continue;
        snprintf(name, sizeof name, "%.*s", (int)(dot - full), full);
        lm_quant_spec spec = {LM_QUANT_NONE, 0, 0};
        char kind[16];
        if (sscanf(name, "%15[a-z0-9]_%u_%u", kind, &spec.bits, &spec.group) == 3) {
            spec.kind = strstr(kind, "nv")   ? LM_QUANT_NVFP4
                        : strstr(kind, "mx") ? spec.bits == 8 ? LM_QUANT_MXFP8 : LM_QUANT_MXFP4
                                             : LM_QUANT_AFFINE;
        }
        bool stack = strncmp(name, "stack", 5) == 0;
        lm_matrix m;
        expect_ok(lm_weights_matrix(w, name, spec, stack ? 3 : 1, 2, 128, &m, &err), err);
        assert_int_equal(m.quant.kind, spec.kind);
        check_rows(w, name, &m);
        forms++;
    }
    assert_int_equal(forms, 6 * 3 * 3 + 1 + 2 + 3 + 4);
    lm_weights_close(w);
}

static void shapes_that_disagree_are_refused(void **state) {
    (void)state;
    lm_weights *w = open_golden();
    lm_err err = {0};
    lm_matrix m;
    lm_quant_spec q4 = {LM_QUANT_AFFINE, 4, 64}, mx = {LM_QUANT_MXFP4, 4, 32}, none = {0};
    const char *name = "affine_4_64_f16";
    expect_ok(lm_weights_matrix(w, name, q4, 1, 0, 0, &m, &err), err);
    assert_int_equal(m.rows, 2);
    assert_int_equal(m.cols, 128);
    expect_fail(lm_weights_matrix(w, name, q4, 1, 3, 128, &m, &err), LM_CORRUPT, err, "needs (3, 128)");
    expect_fail(lm_weights_matrix(w, name, q4, 4, 0, 0, &m, &err), LM_CORRUPT, err,
                "2 dimensions, expected 3");
    expect_fail(lm_weights_matrix(w, name, mx, 1, 0, 0, &m, &err), LM_CORRUPT, err, "expected (2, 4)");
    expect_fail(lm_weights_matrix(w, name, none, 1, 0, 0, &m, &err), LM_CORRUPT, err, "not quantised");
    q4.group = 32;
    expect_fail(lm_weights_matrix(w, name, q4, 1, 0, 0, &m, &err), LM_CORRUPT, err, "expected (2, 4)");
    q4.group = 16;
    expect_fail(lm_weights_matrix(w, name, q4, 1, 0, 0, &m, &err), LM_UNSUPPORTED, err, "groups of 16");
    q4.bits = 5, q4.group = 64;
    expect_fail(lm_weights_matrix(w, name, q4, 1, 0, 0, &m, &err), LM_CORRUPT, err, "whole groups");
    expect_fail(lm_weights_matrix(w, "nothing", q4, 1, 0, 0, &m, &err), LM_NOT_FOUND, err, "nothing.weight");
    q4.bits = 5;
    expect_fail(lm_weights_matrix(w, "stack_5_64_f16", q4, 2, 0, 0, &m, &err), LM_CORRUPT, err,
                "holds 3 experts");
    lm_weights_close(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_single_file_gives_views_into_its_data, make_test_dir,
                                        remove_test_dir),
        cmocka_unit_test_setup_teardown(an_index_joins_its_files, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(without_an_index_every_file_is_read_and_a_name_may_occur_once,
                                        make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(bad_headers_are_refused_with_the_reason, make_test_dir,
                                        remove_test_dir),
        cmocka_unit_test_setup_teardown(a_header_length_that_lies_is_refused, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(the_names_of_ollamas_tensors_become_mlxs, make_test_dir,
                                        remove_test_dir),
        cmocka_unit_test(every_f16_survives_the_way_through_f32),
        cmocka_unit_test(rounding_goes_to_the_nearest_and_ties_to_even),
        cmocka_unit_test(rows_of_every_form_are_what_mlx_dequantises),
        cmocka_unit_test(shapes_that_disagree_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

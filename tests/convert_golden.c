/* Conversions against mlx_lm.convert: the models and the sums that tests/golden/make_convert.py makes.
 *
 *     golden.convert                      every case of expected.json; the directories are in
 * LM_GOLDEN_MODELS golden.convert DIRECTORY OUT FORM   one conversion, to look at ("as it is" for no other
 * form) */
#include "base/test.h"

#include <openssl/evp.h>

#include "base/json.h"
#include "model/model.h"
#include "store/store.h"

static lm_status convert(const char *from, const char *to, const char *form, lm_err *err) {
    lm_conversion how;
    bool as_is = !strcmp(form, "as it is");
    lm_status st = as_is ? LM_OK : lm_conversion_parse(form, &how, err);
    if (st == LM_OK) st = lm_dir_make(to, err);
    return st == LM_OK ? lm_convert_dir(from, to, as_is ? NULL : &how, NULL, NULL, err) : st;
}

static void hex_of(const void *bytes, size_t n, char out[65]) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    assert_true(EVP_Digest(bytes, n, raw, &len, EVP_sha256(), NULL));
    for (unsigned i = 0; i < len; i++) snprintf(out + 2 * i, 3, "%02x", raw[i]);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* As make_convert.py sums a directory up. */
static void sum_of(const char *dir, char out[65]) {
    lm_weights *w = NULL;
    lm_err err = {0};
    lm_buf all;
    expect_ok(lm_weights_open(&w, dir, &err), err);
    uint32_t n = lm_weights_count(w);
    char **lines = malloc((n + 1) * sizeof *lines);
    assert_non_null(lines);
    for (uint32_t i = 0; i < n; i++) {
        lm_buf b;
        lm_view v;
        char hex[65];
        lm_buf_init(&b, 1000);
        const char *name = lm_weights_name(w, i, &v);
        lm_buf_printf(&b, "%s %s [", name, lm_dtype_name(v.dtype));
        for (uint32_t d = 0; d < v.n_dims; d++)
            lm_buf_printf(&b, d ? ", %llu" : "%llu", (unsigned long long)v.dims[d]);
        hex_of(v.data, v.bytes, hex);
        lm_buf_printf(&b, "] %s", hex);
        lines[i] = lm_buf_take(&b);
    }
    qsort(lines, n, sizeof *lines, by_text);
    lm_buf_init(&all, 1u << 20);
    for (uint32_t i = 0; i < n; i++) {
        lm_buf_printf(&all, "%s\n", lines[i]);
        free(lines[i]);
    }
    hex_of(all.ptr, all.len, out);
    lm_buf_release(&all);
    free(lines);
    lm_weights_close(w);
}

static void every_case_has_the_bytes_that_mlx_lm_writes_and_loads(void **state) {
    (void)state;
    const char *models = getenv("LM_GOLDEN_MODELS"), *key;
    lm_err err = {0};
    json_t *expected, *sum;
    if (!models)
        fail_msg("set LM_GOLDEN_MODELS to the directory that tests/golden/make_convert.py has written");
    expect_ok(lm_json_load(LM_SOURCE_DIR "/tests/golden/convert/expected.json", 1 << 20, &expected, &err),
              err);
    assert_true(json_object_size(expected) > 100);
    json_object_foreach(expected, key, sum) {
        char name[64], hex[65];
        const char *form = strchr(key, ' ') + 1;
        lm_model_info info;
        snprintf(name, sizeof name, "%.*s", (int)(form - 1 - key), key);
        char *from = lm_path_join(models, name), *to = lm_path_join(test_dir(), key);
        expect_ok(convert(from, to, form, &err), err);
        sum_of(to, hex);
        if (strcmp(hex, json_string_value(sum)))
            fail_msg("%s: other weights than mlx_lm.convert's: make_convert.py --check", key);
        lm_status st = lm_model_inspect(to, &info, &err);
        if (st != LM_OK) fail_msg("%s: %s", key, err.text);
        expect_ok(lm_dir_remove(to, &err), err);
        free(from);
        free(to);
    }
    json_decref(expected);
}

int main(int argc, char **argv) {
    lm_err err = {0};
    if (argc == 4) {
        if (convert(argv[1], argv[2], argv[3], &err) == LM_OK) return 0;
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_case_has_the_bytes_that_mlx_lm_writes_and_loads, make_test_dir,
                                        remove_test_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

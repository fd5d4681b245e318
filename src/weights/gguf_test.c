/* The GGUF reader over files made here, good, bad and cut at every byte. */
#include "base/test.h"

#include <unistd.h>

#include "base/file.h"
#include "weights/gguf.h"
#include "weights/gguf_make.h"

static char path[64];

static int make_path(void **state) {
    (void)state;
    strcpy(path, "/tmp/lm-gguf-XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state) {
    (void)state;
    return unlink(path);
}

static void put(const char *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void put_made(const gguf_make *m, uint32_t version) {
    lm_buf file;
    lm_buf_init(&file, 1u << 28);
    gguf_make_join(m, version, &file);
    put(file.ptr, file.len);
    lm_buf_release(&file);
}

static const uint64_t two_rows[] = {32, 2};

static void fill(gguf_make *m) {
    static const uint8_t blocks[2 * 18] = {1, 2, 3};
    static const float ones[4] = {1, 1, 1, 1};
    gguf_make_init(m);
    gguf_make_str(m, "general.architecture", "llama");
    gguf_make_u32(m, "llama.block_count", 30);
    gguf_make_f32(m, "llama.eps", 0.5f);
    gguf_make_bool(m, "flag", true);
    gguf_make_array(m, "tokens", 8, 3);
    gguf_make_text(&m->keys, "a");
    gguf_make_text(&m->keys, "");
    gguf_make_text(&m->keys, "\xff");
    gguf_make_array(m, "types", 5, 2);
    gguf_make_int(&m->keys, 7, 4);
    gguf_make_int(&m->keys, (uint64_t)-1, 4);
    gguf_make_tensor(m, "z.weight", LM_GGML_Q4_0, 2, two_rows, blocks, sizeof blocks);
    gguf_make_tensor(m, "a.weight", LM_GGML_F32, 1, (uint64_t[]){4}, ones, sizeof ones);
}

static void both_versions_give_metadata_and_tensors(void **state) {
    (void)state;
    gguf_make m;
    fill(&m);
    for (uint32_t version = 2; version <= 3; version++) {
        lm_err err = {0};
        lm_gguf *g = NULL;
        lm_str s = {0};
        uint32_t u = 0, n = 0;
        double d = 0;
        bool b = false;
        lm_str *strs = NULL;
        int32_t *ints = NULL;
        put_made(&m, version);
        expect_ok(lm_gguf_open(&g, path, &err), err);
        expect_ok(lm_gguf_str(g, "general.architecture", &s, &err), err);
        assert_true(lm_str_eq(s, LM_STR("llama")));
        expect_ok(lm_gguf_u32(g, "llama.block_count", &u, &err), err);
        assert_int_equal(u, 30);
        expect_ok(lm_gguf_float(g, "llama.eps", &d, &err), err);
        assert_true(d == 0.5);
        expect_ok(lm_gguf_float(g, "llama.block_count", &d, &err), err);
        assert_true(d == 30);
        expect_ok(lm_gguf_bool(g, "flag", &b, &err), err);
        assert_true(b);
        expect_ok(lm_gguf_u32(g, "absent", &u, &err), err);
        assert_int_equal(u, 30);
        expect_ok(lm_gguf_strs(g, "tokens", &strs, &n, &err), err);
        assert_int_equal(n, 3);
        assert_int_equal(strs[2].len, 1);
        expect_ok(lm_gguf_i32s(g, "types", &ints, &n, &err), err);
        assert_int_equal(ints[1], -1);
        expect_fail(lm_gguf_u32(g, "llama.eps", &u, &err), LM_CORRUPT, err,
                    "llama.eps must be a whole number");
        expect_fail(lm_gguf_str(g, "tokens", &s, &err), LM_CORRUPT, err, "must be a string");
        expect_fail(lm_gguf_strs(g, "types", &strs, &n, &err), LM_CORRUPT, err, "array of strings");
        free(strs);
        free(ints);

        assert_int_equal(lm_gguf_count(g), 2);
        const lm_gguf_tensor *t = lm_gguf_tensor_at(g, 0);
        assert_true(lm_str_eq(t->name, LM_STR("z.weight")));
        assert_int_equal(t->bytes, 36);
        assert_int_equal(t->row_bytes, 18);
        assert_int_equal(t->data[2], 3);
        t = lm_gguf_find(g, "a.weight");
        assert_non_null(t);
        assert_int_equal(t->dims[0], 4);
        assert_int_equal(t->dims[1], 1);
        assert_null(lm_gguf_find(g, "a.weigh"));
        lm_gguf_close(g);
    }
    gguf_make_release(&m);
}

static void a_file_cut_anywhere_is_refused(void **state) {
    (void)state;
    gguf_make m;
    lm_buf file;
    lm_buf_init(&file, 1u << 20);
    fill(&m);
    gguf_make_join(&m, 3, &file);
    for (size_t n = 0; n < file.len; n++) {
        lm_err err = {0};
        lm_gguf *g = NULL;
        put(file.ptr, n);
        if (lm_gguf_open(&g, path, &err) != LM_CORRUPT) fail_msg("cut at %zu: %s", n, err.text);
        assert_non_null(strstr(err.text, path));
    }
    lm_buf_release(&file);
    gguf_make_release(&m);
}

/* Applies `spoil` to a good file's parts and expects the failure. */
static void expect_bad(void (*spoil)(gguf_make *), uint32_t version, lm_status want, const char *words) {
    lm_err err = {0};
    lm_gguf *g = NULL;
    gguf_make m;
    fill(&m);
    if (spoil) spoil(&m);
    put_made(&m, version);
    expect_fail(lm_gguf_open(&g, path, &err), want, err, words);
    gguf_make_release(&m);
}

static void many_keys(gguf_make *m) {
    m->n_keys = UINT64_MAX;
}
static void many_tensors(gguf_make *m) {
    m->n_tensors = UINT64_MAX / 2;
}
static void nested(gguf_make *m) {
    gguf_make_array(m, "nest", 9, 1);
}
static void long_array(gguf_make *m) {
    gguf_make_array(m, "long", 8, UINT64_MAX);
}
static void wide_array(gguf_make *m) {
    gguf_make_array(m, "wide", 10, UINT64_MAX / 4);
}
static void odd_type(gguf_make *m) {
    gguf_make_key(m, "odd", 99);
}
static void twice(gguf_make *m) {
    gguf_make_u32(m, "flag", 1);
}
static void alignment(gguf_make *m) {
    gguf_make_u32(m, "general.alignment", 24);
}
static void same_name(gguf_make *m) {
    gguf_make_tensor(m, "a.weight", LM_GGML_F32, 1, (uint64_t[]){1}, "abcd", 4);
}
static void odd_rows(gguf_make *m) {
    gguf_make_tensor(m, "odd", LM_GGML_Q4_0, 1, (uint64_t[]){33}, "", 0);
}
static void no_rows(gguf_make *m) {
    gguf_make_tensor(m, "none", LM_GGML_F32, 1, (uint64_t[]){0}, "", 0);
}
static void five_dims(gguf_make *m) {
    gguf_make_tensor(m, "five", LM_GGML_F32, 5, (uint64_t[]){1, 1, 1, 1, 1}, "abcd", 4);
}
static void new_type(gguf_make *m) {
    gguf_make_tensor(m, "new", (lm_ggml_type)77, 1, (uint64_t[]){1}, "abcd", 4);
}
static void vast(gguf_make *m) {
    gguf_make_tensor(m, "vast", LM_GGML_F32, 3, (uint64_t[]){1ull << 40, 1ull << 40, 1ull << 40}, "", 0);
}
static void vast_bytes(gguf_make *m) {
    gguf_make_tensor(m, "vast", LM_GGML_F32, 2, (uint64_t[]){1ull << 40, 1ull << 20}, "", 0);
}
static void overlap(gguf_make *m) { /* the last tensor is moved back onto the one before it */
    gguf_make_tensor(m, "lap", LM_GGML_F32, 1, (uint64_t[]){1}, "abcd", 4);
    m->tensors.ptr[m->tensors.len - 8] = 32;
}
static void unaligned(gguf_make *m) {
    gguf_make_tensor(m, "off", LM_GGML_F32, 1, (uint64_t[]){1}, "abcdefgh", 8);
    m->tensors.ptr[m->tensors.len - 8]++;
}

static void lies_are_refused_and_named(void **state) {
    (void)state;
    expect_bad(NULL, 1, LM_UNSUPPORTED, "GGUF version 1");
    expect_bad(NULL, 0x03000000, LM_UNSUPPORTED, "big-endian");
    expect_bad(many_keys, 3, LM_CORRUPT, "metadata keys");
    expect_bad(many_tensors, 3, LM_CORRUPT, "tensors");
    expect_bad(nested, 3, LM_UNSUPPORTED, "nest is an array of arrays");
    expect_bad(long_array, 3, LM_CORRUPT, "long claims");
    expect_bad(wide_array, 3, LM_CORRUPT, "wide claims");
    expect_bad(odd_type, 3, LM_CORRUPT, "has type 99");
    expect_bad(twice, 3, LM_CORRUPT, "flag occurs twice");
    expect_bad(alignment, 3, LM_CORRUPT, "general.alignment is 24");
    expect_bad(same_name, 3, LM_CORRUPT, "a.weight occurs twice");
    expect_bad(odd_rows, 3, LM_CORRUPT, "whole Q4_0 blocks");
    expect_bad(no_rows, 3, LM_CORRUPT, "impossible shape");
    expect_bad(five_dims, 3, LM_CORRUPT, "5 dimensions");
    expect_bad(new_type, 3, LM_UNSUPPORTED, "GGML type 77");
    expect_bad(vast, 3, LM_CORRUPT, "impossible shape");
    expect_bad(vast_bytes, 3, LM_CORRUPT, "truncated: tensor vast");
    expect_bad(overlap, 3, LM_CORRUPT, "overlap");
    expect_bad(unaligned, 3, LM_CORRUPT, "multiple of 32");
    lm_err err = {0};
    lm_gguf *g = NULL;
    put("PK\3\4 something else entirely", 25);
    expect_fail(lm_gguf_open(&g, path, &err), LM_CORRUPT, err, "not a GGUF file");
    expect_fail(lm_gguf_open(&g, "/nonexistent.gguf", &err), LM_NOT_FOUND, err, "/nonexistent.gguf");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(both_versions_give_metadata_and_tensors, make_path, remove_path),
        cmocka_unit_test_setup_teardown(a_file_cut_anywhere_is_refused, make_path, remove_path),
        cmocka_unit_test_setup_teardown(lies_are_refused_and_named, make_path, remove_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

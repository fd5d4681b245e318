/* What the writer writes, our own reader (and so mlx-lm's) must read; a failed write leaves nothing. */
#include "base/test.h"

#include <sys/resource.h>
#include <signal.h>

#include "base/file.h"
#include "weights/safetensors_write.h"

static char *file;

static int make_dir(void **state) {
    if (make_test_dir(state)) return -1;
    file = lm_path_join(test_dir(), "model.safetensors");
    return 0;
}

static int remove_dir(void **state) {
    free(file);
    return remove_test_dir(state);
}

static const lm_tensor_spec specs[] = {
    {"odd", LM_U8, 1, {3}},       {"half \"quoted\"", LM_F16, 2, {3, 5}},
    {"even", LM_F32, 2, {4, 16}}, {"none", LM_F32, 1, {0}},
    {"wide", LM_F32, 1, {7}},
};

static void tensors_come_back_as_they_were_put(void **state) {
    (void)state;
    lm_err err = {0};
    lm_writer *out = NULL;
    lm_weights *w = NULL;
    lm_view v;
    uint8_t bytes[256];
    for (int i = 0; i < 256; i++) bytes[i] = (uint8_t)(i * 7);
    expect_ok(lm_writer_open(&out, file, specs, 5, &err), err);
    uint64_t header =
        lm_writer_front(out); /* it is written at once; then come "even", "wide" and the others */
    expect_ok(lm_writer_put(out, 2, 128, bytes + 128, 128, &err), err); /* pieces, in any order */
    expect_ok(lm_writer_put(out, 4, 0, bytes, 28, &err), err);
    assert_int_equal(lm_writer_front(out), header);
    expect_ok(lm_writer_put(out, 2, 0, bytes, 128, &err), err);
    assert_int_equal(lm_writer_front(out), header + 256 + 28);
    uint8_t back[256 + 28];
    expect_ok(lm_writer_read(out, header, back, sizeof back, &err), err);
    assert_memory_equal(back, bytes, 256);
    assert_memory_equal(back + 256, bytes, 28);
    expect_ok(lm_writer_put(out, 0, 0, bytes, 3, &err), err);
    expect_ok(lm_writer_put(out, 1, 0, bytes, 30, &err), err);
    expect_fail(lm_writer_put(out, 0, 2, bytes, 2, &err), LM_INVALID, err, "past the end");
    assert_int_equal(lm_writer_front(out), lm_writer_bytes(out));
    expect_ok(lm_writer_finish(out, &err), err);

    expect_ok(lm_weights_open(&w, test_dir(), &err), err);
    assert_int_equal(lm_weights_count(w), 5);
    assert_true(lm_weights_find(w, "even", &v));
    assert_memory_equal(v.data, bytes, 256);
    assert_int_equal((uintptr_t)v.data % 64, 0);
    assert_true(lm_weights_find(w, "wide", &v));
    assert_memory_equal(v.data, bytes, 28);
    assert_int_equal((uintptr_t)v.data % 4, 0);
    assert_true(lm_weights_find(w, "half \"quoted\"", &v));
    assert_int_equal(v.dims[1], 5);
    assert_memory_equal(v.data, bytes, 30);
    assert_true(lm_weights_find(w, "odd", &v));
    assert_memory_equal(v.data, bytes, 3);
    lm_weights_close(w);
    expect_fail(lm_writer_open(&out, file, specs, 5, &err), LM_IO, err, "exists");
}

static void a_file_with_holes_is_not_finished(void **state) {
    (void)state;
    lm_err err = {0};
    lm_writer *out = NULL;
    expect_ok(lm_writer_open(&out, file, specs, 5, &err), err);
    assert_true(lm_path_is_file(file));
    expect_fail(lm_writer_finish(out, &err), LM_INTERNAL, err, "got 0 of its 3 bytes");
    assert_false(lm_path_is_file(file));
}

static void impossible_requests_leave_nothing(void **state) {
    (void)state;
    lm_err err = {0};
    lm_writer *out = NULL;
    lm_tensor_spec same[] = {{"a", LM_U8, 1, {1}}, {"b", LM_U8, 1, {1}}, {"a", LM_U8, 1, {1}}};
    lm_tensor_spec vast = {"v", LM_F32, 3, {1ull << 40, 1ull << 40, 1}};
    lm_tensor_spec big = {"big", LM_U8, 1, {1ull << 60}};
    expect_fail(lm_writer_open(&out, file, same, 3, &err), LM_INVALID, err, "two tensors are called a");
    expect_fail(lm_writer_open(&out, file, &vast, 1, &err), LM_INVALID, err, "impossibly large");
    expect_fail(lm_writer_open(&out, file, &big, 1, &err), LM_NO_SPACE, err, "MB free");
    assert_false(lm_path_is_file(file));
    assert_null(out);
}

static void a_write_that_fails_half_way_removes_the_file(void **state) {
    (void)state;
    lm_err err = {0};
    lm_writer *out = NULL;
    struct rlimit old, small;
    expect_ok(lm_writer_open(&out, file, specs, 5, &err), err);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 0; /* the system now refuses every write to a file */
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    lm_status st = lm_writer_put(out, 0, 0, "abc", 3, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(st, LM_NO_SPACE); /* a quota, to the one who reads the message */
    lm_writer_abort(out);
    assert_false(lm_path_is_file(file));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tensors_come_back_as_they_were_put, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_file_with_holes_is_not_finished, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(impossible_requests_leave_nothing, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_write_that_fails_half_way_removes_the_file, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

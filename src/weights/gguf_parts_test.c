/* Models in several files: found by their names, given in any order, and the ways in which parts can be
 * wrong. */
#include "base/test.h"

#include <unistd.h>

#include "base/file.h"
#include "weights/gguf.h"
#include "weights/gguf_make.h"

/* Part `no` of `count`, as gguf-split writes it: metadata in the first, one tensor "t<no>" of four numbers in
 * each. */
typedef struct part {
    uint32_t no, count, tensors;
    const char *tensor, *arch;
} part;

static char *put(const char *name, const part *p) {
    static const float four[3][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}};
    gguf_make m;
    lm_buf file;
    lm_err err = {0};
    gguf_make_init(&m);
    if (p->arch) gguf_make_str(&m, "general.architecture", p->arch);
    if (p->count) {
        gguf_make_u32(&m, "split.no", p->no);
        gguf_make_u32(&m, "split.count", p->count);
        gguf_make_u32(&m, "split.tensors.count", p->tensors);
    }
    gguf_make_tensor(&m, p->tensor, LM_GGML_F32, 1, (uint64_t[]){4}, four[p->no % 3], 16);
    lm_buf_init(&file, 1 << 20);
    gguf_make_join(&m, 3, &file);
    char *path = lm_path_join(test_dir(), name);
    expect_ok(lm_file_write(path, lm_buf_view(&file), &err), err);
    lm_buf_release(&file);
    gguf_make_release(&m);
    return path;
}

static const part good[3] = {{0, 3, 3, "t0", "llama"}, {1, 3, 3, "t1", NULL}, {2, 3, 3, "t2", NULL}};
static const char *const names[3] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                     "m-00003-of-00003.gguf"};

static void check_whole(const lm_gguf *g) {
    lm_err err = {0};
    lm_str arch = {NULL, 0};
    uint64_t sum = 0;
    assert_int_equal(lm_gguf_count(g), 3);
    expect_ok(lm_gguf_str(g, "general.architecture", &arch, &err), err);
    assert_true(lm_str_eq(arch, LM_STR("llama")));
    for (uint32_t i = 0; i < 3; i++) {
        const lm_gguf_tensor *t = lm_gguf_tensor_at(g, i);
        char name[8];
        float first;
        snprintf(name, sizeof name, "t%u", i);
        assert_ptr_equal(lm_gguf_find(g, name), t);
        memcpy(&first, t->data, 4);
        assert_true(first == (float)(4 * i + 1));
        sum += t->bytes;
    }
    assert_true(lm_gguf_size(g) > sum);
    lm_gguf_drop(g);
}

static void parts_open_as_one_file(void **state) {
    (void)state;
    static const int orders[][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}};
    char *paths[3];
    for (int i = 0; i < 3; i++) paths[i] = put(names[i], &good[i]);
    for (int k = 0; k < 3; k++) {
        lm_err err = {0};
        lm_gguf *g = NULL;
        const char *given[3] = {paths[orders[k][0]], paths[orders[k][1]], paths[orders[k][2]]};
        expect_ok(lm_gguf_open_parts(&g, given, 3, &err), err);
        check_whole(g);
        lm_gguf_close(g);
        expect_ok(lm_gguf_open(&g, given[0], &err), err); /* any part, the others lie beside it */
        check_whole(g);
        lm_gguf_close(g);
    }
    for (int i = 0; i < 3; i++) free(paths[i]);
}

static void expect_bad(const char *first, const char *second, const char *third, lm_status want,
                       const char *text) {
    const char *given[3] = {first, second, third};
    lm_gguf *g = NULL;
    lm_err err = {0};
    expect_fail(lm_gguf_open_parts(&g, given, third ? 3 : second ? 2 : 1, &err), want, err, text);
    assert_null(g);
}

static void a_part_that_is_missing_is_named(void **state) {
    (void)state;
    char *a = put(names[0], &good[0]), *c = put(names[2], &good[2]);
    char *odd = put("odd.gguf", &good[1]);
    expect_bad(a, NULL, NULL, LM_NOT_FOUND, "m-00002-of-00003.gguf is missing");
    expect_bad(c, NULL, NULL, LM_NOT_FOUND, "part 3 of 3 of a model");
    expect_bad(odd, NULL, NULL, LM_NOT_FOUND, "NAME-00002-of-00003.gguf");
    expect_bad(a, c, NULL, LM_NOT_FOUND, "part 2 is missing");
    free(a);
    free(c);
    free(odd);
}

static void parts_that_do_not_belong_together_are_refused(void **state) {
    (void)state;
    char *a = put("a", &good[0]), *b = put("b", &good[1]), *c = put("c", &good[2]);
    char *more = put("more", &(part){2, 4, 3, "t2", NULL}), *sum = put("sum", &(part){2, 3, 4, "t2", NULL});
    char *whole = put("whole", &(part){0, 0, 0, "t2", "llama"});
    char *other = put("other", &(part){2, 3, 3, "t2", "qwen2"});
    char *twice = put("twice", &(part){2, 3, 3, "t1", NULL});
    char *beyond = put("beyond", &(part){3, 3, 3, "t1", NULL});
    char *vast = put("vast", &(part){0, 4000000000u, 3, "t1", NULL});
    expect_bad(a, b, b, LM_CORRUPT, "are both part 2 of 3");
    expect_bad(a, a, c, LM_CORRUPT, "are both part 1 of 3");
    expect_bad(a, b, more, LM_CORRUPT, "one of 4 parts with 3 tensors");
    expect_bad(a, b, sum, LM_CORRUPT, "one of 3 parts with 4 tensors");
    expect_bad(a, b, whole, LM_CORRUPT, "whole is a model of its own");
    expect_bad(whole, b, NULL, LM_CORRUPT, "is a whole model");
    expect_bad(a, b, other, LM_CORRUPT, "general.architecture differs");
    expect_bad(a, b, twice, LM_CORRUPT, "tensor t1 occurs twice");
    expect_bad(a, b, beyond, LM_CORRUPT, "part 4 of 3");
    expect_bad(vast, NULL, NULL, LM_CORRUPT, "part 1 of 4000000000");
    expect_bad(a, "/nonexistent", c, LM_NOT_FOUND, "/nonexistent");
    /* all of them say that there are more tensors than there are */
    char *x = put("x", &(part){0, 2, 9, "t0", "llama"}), *y = put("y", &(part){1, 2, 9, "t1", NULL});
    expect_bad(x, y, NULL, LM_CORRUPT, "hold 2 tensors, 9 are announced");
    char *all[] = {a, b, c, more, sum, whole, other, twice, beyond, vast, x, y};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* A part beside another one that its metadata does not fit. */
static void names_that_lie_are_refused(void **state) {
    (void)state;
    char *a = put("m-00001-of-00002.gguf", &(part){0, 2, 2, "t0", "llama"});
    char *b = put("m-00002-of-00002.gguf", &(part){0, 2, 2, "t1", NULL});
    char *c = put("m-00001-of-00004.gguf", &(part){0, 2, 2, "t0", "llama"});
    expect_bad(a, NULL, NULL, LM_CORRUPT, "are both part 1 of 2");
    expect_bad(c, NULL, NULL, LM_NOT_FOUND, "give all of them");
    free(a);
    free(b);
    free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(parts_open_as_one_file, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(a_part_that_is_missing_is_named, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(parts_that_do_not_belong_together_are_refused, make_test_dir,
                                        remove_test_dir),
        cmocka_unit_test_setup_teardown(names_that_lie_are_refused, make_test_dir, remove_test_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

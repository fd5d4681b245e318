/* cmocka.h (only for scripts/test-neon) - the few calls of cmocka that src/cpu/matmul_test.c makes, so that
 * the test needs no cross-compiled library. A failed check ends the program with status 1. */
#ifndef LM_NEON_CMOCKA_H
#define LM_NEON_CMOCKA_H

#include <stdio.h>
#include <stdlib.h>

struct CMUnitTest {
    const char *name;
    void (*test)(void **state);
};

#define cmocka_unit_test(f)                                                                                  \
    { #f, f }
#define fail_msg(...)                                                                                        \
    (fprintf(stderr, "%s:%d: ", __FILE__, __LINE__), fprintf(stderr, __VA_ARGS__), fputc('\n', stderr),      \
     exit(1))
#define assert_true(c)                               ((c) ? (void)0 : fail_msg("not true: %s", #c))
#define assert_non_null(p)                           assert_true((p) != NULL)
#define assert_int_equal(a, b)                       assert_true((a) == (b))
#define assert_int_not_equal(a, b)                   assert_true((a) != (b))
#define cmocka_run_group_tests(tests, before, after) lm_run_tests(tests, sizeof(tests) / sizeof((tests)[0]))

static inline int lm_run_tests(const struct CMUnitTest *tests, size_t n) {
    for (size_t i = 0; i < n; i++) {
        void *state = NULL;
        printf("%s\n", tests[i].name);
        fflush(stdout);
        tests[i].test(&state);
    }
    printf("%zu passed\n", n);
    return 0;
}

#endif

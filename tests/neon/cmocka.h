/* cmocka.h - the part of cmocka that the tests of the kernels use, for a processor whose cmocka nobody has
 * installed: scripts/test-neon compiles them for aarch64 with this in place of the library. The first failed
 * check ends the program. */
#ifndef LM_NEON_CMOCKA_H
#define LM_NEON_CMOCKA_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
} CMUnitTest;

#define cmocka_unit_test(f)                                                                                  \
    { #f, f }

static inline int cmocka_run(const struct CMUnitTest *tests, size_t n) {
    for (size_t i = 0; i < n; i++) {
        void *state = NULL;
        printf("[ RUN      ] %s\n", tests[i].name);
        fflush(stdout);
        tests[i].run(&state);
        printf("[       OK ] %s\n", tests[i].name);
    }
    return 0;
}
#define cmocka_run_group_tests(tests, setup, teardown) cmocka_run(tests, sizeof(tests) / sizeof *(tests))

#define fail_msg(...)                                                                                        \
    do {                                                                                                     \
        printf("%s:%d: ", __FILE__, __LINE__);                                                               \
        printf(__VA_ARGS__);                                                                                 \
        printf("\n");                                                                                        \
        exit(1);                                                                                             \
    } while (0)

#define check_that(cond)                                                                                     \
    do {                                                                                                     \
        if (!(cond)) fail_msg("%s", #cond);                                                                  \
    } while (0)

#define assert_true(x)               check_that(x)
#define assert_false(x)              check_that(!(x))
#define assert_null(x)               check_that((x) == NULL)
#define assert_non_null(x)           check_that((x) != NULL)
#define assert_int_equal(a, b)       check_that((unsigned long long)(a) == (unsigned long long)(b))
#define assert_int_not_equal(a, b)   check_that((unsigned long long)(a) != (unsigned long long)(b))
#define assert_ptr_equal(a, b)       check_that((const void *)(a) == (const void *)(b))
#define assert_string_equal(a, b)    check_that(strcmp(a, b) == 0)
#define assert_memory_equal(a, b, n) check_that(memcmp(a, b, n) == 0)

#define test_malloc(n)       malloc(n)
#define test_calloc(n, size) calloc(n, size)
#define test_free(p)         free(p)

#endif

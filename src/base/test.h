/* test.h - cmocka behind one include, the two checks that every test here uses, and a temporary directory. */
#ifndef LM_TEST_H
#define LM_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "base/file.h"

/* The call returned LM_OK; otherwise its error text is shown. */
#define expect_ok(call, err)                                                                                 \
    do {                                                                                                     \
        lm_status expect_st = (call);                                                                        \
        if (expect_st != LM_OK) fail_msg("%s: %s: %s", #call, lm_status_name(expect_st), (err).text);        \
    } while (0)

/* The call failed with this status and its text holds these words. */
#define expect_fail(call, want, err, words)                                                                  \
    do {                                                                                                     \
        lm_status expect_st = (call);                                                                        \
        if (expect_st != (want)) fail_msg("%s: got %s, want %s", #call, lm_status_name(expect_st), #want);   \
        if (!strstr((err).text, (words))) fail_msg("%s: text is '%s'", #call, (err).text);                   \
    } while (0)

/* The directory that make_test_dir made, as a setup of a test or of a group; remove_test_dir is its teardown.
 */
static inline char *test_dir(void) {
    static char path[] = "/tmp/lm-test-XXXXXX";
    return path;
}

static inline int make_test_dir(void **state) {
    (void)state;
    strcpy(test_dir(), "/tmp/lm-test-XXXXXX");
    return mkdtemp(test_dir()) ? 0 : -1;
}

static inline int remove_test_dir(void **state) {
    (void)state;
    return lm_dir_remove(test_dir(), NULL) == LM_OK ? 0 : -1;
}

/* A file in the directory dir. */
static inline void put_file(const char *dir, const char *name, lm_str bytes) {
    lm_err err = {0};
    char *path = lm_path_join(dir, name);
    expect_ok(lm_file_write(path, bytes, &err), err);
    free(path);
}

#endif

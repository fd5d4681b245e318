/* test.h - cmocka behind one include, with the two checks that every test here uses. */
#ifndef LM_TEST_H
#define LM_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"

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

#endif

/* golden.h - the tokenizers of tests/golden/text, for tests. */
#ifndef LM_TEXT_GOLDEN_H
#define LM_TEXT_GOLDEN_H

#include "base/test.h"

#define GOLDEN LM_SOURCE_DIR "/tests/golden/text/"

/* Copies the tokenizer.json of a golden tokenizer into dir. */
static inline void put_golden(const char *dir, const char *tokenizer) {
    lm_err err = {0};
    lm_buf file;
    char path[512];
    snprintf(path, sizeof path, GOLDEN "%s/tokenizer.json", tokenizer);
    lm_buf_init(&file, 1 << 20);
    expect_ok(lm_file_read(path, 1 << 20, &file, &err), err);
    put_file(dir, "tokenizer.json", lm_buf_view(&file));
    lm_buf_release(&file);
}

#endif

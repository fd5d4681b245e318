/* import_make.h - GGUF files made in a test's directory, and what the importer makes of them; for tests. */
#ifndef LM_STORE_IMPORT_MAKE_H
#define LM_STORE_IMPORT_MAKE_H

#include "base/file.h"
#include "base/json.h"
#include "base/test.h"
#include "store/import_private.h"
#include "weights/gguf_make.h"

/* F32, values are their own index. One row makes a vector. */
static inline void tiny_tensor(gguf_make *m, const char *name, uint32_t rows, uint32_t cols) {
    float *values = lm_alloc((size_t)rows * cols * sizeof *values);
    for (uint32_t i = 0; i < rows * cols; i++) values[i] = (float)i;
    gguf_make_tensor(m, name, LM_GGML_F32, rows > 1 ? 2 : 1, (uint64_t[]){cols, rows}, values,
                     (size_t)rows * cols * 4);
    free(values);
}

/* The file "in.gguf", its path. */
static inline char *put(const gguf_make *m) {
    lm_buf file;
    char *path = lm_path_join(test_dir(), "in.gguf");
    lm_buf_init(&file, 64u << 20);
    gguf_make_join(m, 3, &file);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(file.ptr, 1, file.len, f), file.len);
    assert_int_equal(fclose(f), 0);
    lm_buf_release(&file);
    return path;
}

static inline json_t *load_json(const char *model, const char *name) {
    lm_err err = {0};
    json_t *value = NULL;
    char *path = lm_path_join(model, name);
    expect_ok(lm_json_load(path, 1 << 20, &value, &err), err);
    free(path);
    return value;
}

static inline void leaves_nothing(const char *out) {
    char *temp = lm_path_join(test_dir(), ".importing-out");
    assert_false(lm_path_is_dir(out));
    assert_false(lm_path_is_dir(temp));
    free(temp);
}

static inline void expect_refused(const gguf_make *m, lm_status want, const char *text) {
    lm_err err = {0};
    char *in = put(m), *out = lm_path_join(test_dir(), "out");
    expect_fail(lm_import_gguf(in, out, NULL, NULL, &err), want, err, text);
    assert_non_null(strstr(err.text, in)); /* the file is named */
    leaves_nothing(out);
    free(in);
    free(out);
}

#endif

/* gguf_make.h - builds small GGUF files in memory, right or wrong on purpose: for tests and fuzz seeds only.
 */
#ifndef LM_WEIGHTS_GGUF_MAKE_H
#define LM_WEIGHTS_GGUF_MAKE_H

#include <string.h>

#include "base/base.h"
#include "weights/gguf.h"

/* Keys, then tensors, then data: each part grows on its own, gguf_make_join puts them together. */
typedef struct gguf_make {
    lm_buf keys, tensors, data;
    uint64_t n_keys, n_tensors;
} gguf_make;

static inline void gguf_make_int(lm_buf *b, uint64_t v, uint32_t size) {
    for (uint32_t i = 0; i < size; i++) lm_buf_char(b, (char)(v >> 8 * i));
}

static inline void gguf_make_text(lm_buf *b, const char *s) {
    gguf_make_int(b, strlen(s), 8);
    lm_buf_text(b, s);
}

static inline void gguf_make_init(gguf_make *m) {
    memset(m, 0, sizeof *m);
    lm_buf_init(&m->keys, 64u << 20);
    lm_buf_init(&m->tensors, 64u << 20);
    lm_buf_init(&m->data, 64u << 20);
}

static inline void gguf_make_release(gguf_make *m) {
    lm_buf_release(&m->keys);
    lm_buf_release(&m->tensors);
    lm_buf_release(&m->data);
}

/* The type numbers of the format: 4 u32, 5 i32, 6 f32, 7 bool, 8 string, 9 array. */
static inline void gguf_make_key(gguf_make *m, const char *key, uint32_t type) {
    gguf_make_text(&m->keys, key);
    gguf_make_int(&m->keys, type, 4);
    m->n_keys++;
}

static inline void gguf_make_u32(gguf_make *m, const char *key, uint32_t v) {
    gguf_make_key(m, key, 4);
    gguf_make_int(&m->keys, v, 4);
}

static inline void gguf_make_f32(gguf_make *m, const char *key, float v) {
    uint32_t u;
    memcpy(&u, &v, 4);
    gguf_make_key(m, key, 6);
    gguf_make_int(&m->keys, u, 4);
}

static inline void gguf_make_bool(gguf_make *m, const char *key, bool v) {
    gguf_make_key(m, key, 7);
    gguf_make_int(&m->keys, v, 1);
}

static inline void gguf_make_str(gguf_make *m, const char *key, const char *v) {
    gguf_make_key(m, key, 8);
    gguf_make_text(&m->keys, v);
}

/* The head of an array; n values of `type` must follow in m->keys. */
static inline void gguf_make_array(gguf_make *m, const char *key, uint32_t type, uint64_t n) {
    gguf_make_key(m, key, 9);
    gguf_make_int(&m->keys, type, 4);
    gguf_make_int(&m->keys, n, 8);
}

/* Lists a tensor whose data starts at the present end of m->data, aligned to 32; n_bytes of `bytes` are
 * appended. */
static inline void gguf_make_tensor(gguf_make *m, const char *name, lm_ggml_type type, uint32_t n_dims,
                                    const uint64_t *dims, const void *bytes, size_t n_bytes) {
    while (m->data.len % 32) lm_buf_char(&m->data, 0);
    gguf_make_text(&m->tensors, name);
    gguf_make_int(&m->tensors, n_dims, 4);
    for (uint32_t i = 0; i < n_dims; i++) gguf_make_int(&m->tensors, dims[i], 8);
    gguf_make_int(&m->tensors, (uint64_t)type, 4);
    gguf_make_int(&m->tensors, m->data.len, 8);
    lm_buf_add(&m->data, bytes, n_bytes);
    m->n_tensors++;
}

/* The whole file, appended to out. */
static inline void gguf_make_join(const gguf_make *m, uint32_t version, lm_buf *out) {
    lm_buf_text(out, "GGUF");
    gguf_make_int(out, version, 4);
    gguf_make_int(out, m->n_tensors, 8);
    gguf_make_int(out, m->n_keys, 8);
    lm_buf_str(out, lm_buf_view(&m->keys));
    lm_buf_str(out, lm_buf_view(&m->tensors));
    while (out->len % 32) lm_buf_char(out, 0);
    lm_buf_str(out, lm_buf_view(&m->data));
}

#endif

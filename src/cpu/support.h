/* support.h (tests of ops only) - random numbers, plain matrices and a device to try them on: of the CPU
 * backend, or where LM_TEST_BACKEND names a header, of another backend, which compiles the tests of the ops
 * once more. */
#ifndef LM_CPU_SUPPORT_H
#define LM_CPU_SUPPORT_H

#include <math.h>

#include "base/test.h"
#include "cpu/cpu.h"

#ifdef LM_TEST_BACKEND
#include LM_TEST_BACKEND
#else
static inline const lm_backend *test_backend(void) {
    return &lm_cpu_backend;
}

static inline const char *const *test_features(void) {
    return lm_cpu_features();
}
#endif
#define be test_backend()

/* LM_TEST_KV: the tests over another type of keys and values. */
#ifdef LM_TEST_KV
#define TEST_KV LM_TEST_KV
#else
#define TEST_KV LM_KV_F16
#endif

static uint32_t support_seed = 1;

static inline uint32_t random_u32(void) {
    support_seed ^= support_seed << 13;
    support_seed ^= support_seed >> 17;
    support_seed ^= support_seed << 5;
    return support_seed;
}

/* Even in [-1, 1). */
static inline float random_float(void) {
    return (float)(int32_t)random_u32() / 2147483648.0f;
}

static inline float *random_floats(size_t n, float scale) {
    float *x = test_malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = scale * random_float();
    return x;
}

static inline lm_matrix f32_matrix(const float *data, uint32_t rows, uint32_t cols) {
    return (lm_matrix){.quant = {LM_QUANT_NONE, 32, 0},
                       .dtype = LM_F32,
                       .n_experts = 1,
                       .rows = rows,
                       .cols = cols,
                       .codes = data,
                       .row_bytes = (uint64_t)cols * 4};
}

static inline lm_view f32_view(const float *data, uint32_t n) {
    return (lm_view){.dtype = LM_F32, .n_dims = 1, .dims = {n}, .data = data, .bytes = (uint64_t)n * 4};
}

static inline lm_device *open_device(const char *features, uint32_t n_threads, uint32_t max_batch,
                                     lm_kv_shape kv, uint64_t kv_bytes) {
    lm_err err = {0};
    lm_device *dev = NULL;
    lm_device_config config = {
        .n_threads = n_threads, .features = features, .kv_bytes = kv_bytes, .max_batch = max_batch, .kv = kv, .kv_type = TEST_KV};
    expect_ok(be->open(&dev, &config, &err), err);
    return dev;
}

static inline lm_linear *open_linear(lm_device *dev, const lm_matrix *m, const float *bias) {
    lm_err err = {0};
    lm_linear *w = NULL;
    lm_view view = f32_view(bias, m->rows * m->n_experts);
    expect_ok(be->linear(dev, m, bias ? &view : NULL, &w, &err), err);
    return w;
}

static inline lm_vector *open_vector(lm_device *dev, const float *data, uint32_t n) {
    lm_err err = {0};
    lm_vector *v = NULL;
    lm_view view = f32_view(data, n);
    expect_ok(be->vector(dev, &view, 0, &v, &err), err);
    return v;
}

static inline lm_seq *open_seq(lm_device *dev) {
    lm_err err = {0};
    lm_seq *seq = NULL;
    expect_ok(be->seq_open(dev, &seq, &err), err);
    return seq;
}

static inline void assert_close(float got, double want, double tolerance, const char *what, size_t index) {
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s[%zu] is %.9g, wanted %.9g", what, index, (double)got, want);
}

#endif

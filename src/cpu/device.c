#include "device.h"
#include "matmul.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_COLS (1u << 20) /* of a matrix: nobody's model is wider, and sizes stay far from overflow */

lm_status lm_device_scratch(lm_device *dev, size_t bytes, lm_err *err) {
    LM_ASSERT(!dev->in_step);
    bytes = (bytes + 4095) / 4096 * 4096;
    if (bytes <= dev->scratch_bytes) return LM_OK;
    uint8_t *scratch = aligned_alloc(4096, bytes * dev->n_threads);
    if (!scratch)
        return lm_fail(err, LM_NO_MEMORY, "no memory for %zu bytes of scratch on %u threads", bytes,
                       dev->n_threads);
    free(dev->scratch);
    dev->scratch = scratch;
    dev->scratch_bytes = bytes;
    return LM_OK;
}

uint8_t *lm_thread_scratch(const lm_device *dev, uint32_t thread) {
    return dev->scratch + (size_t)thread * dev->scratch_bytes;
}

static void cpu_close(lm_device *dev) {
    if (!dev) return;
    LM_ASSERT(!dev->in_step && dev->n_handles == 0);
    lm_pool_close(dev->pool);
    lm_kv_close(&dev->kv);
    lm_arena_release(&dev->step_arena);
    lm_arena_release(&dev->layer_arena);
    free(dev->scratch);
    free(dev);
}

static lm_status cpu_open(lm_device **out, const lm_device_config *config, lm_err *err) {
    if (config->max_batch == 0)
        return lm_fail(err, LM_INVALID, "max_batch is 0; a step needs at least one row");
    if (config->kv_type != LM_KV_F16)
        return lm_fail(err, LM_UNSUPPORTED,
                       "the CPU backend keeps keys and values in 16 bits, not as %s; use --kv-cache-type f16 "
                       "or --backend mlx",
                       lm_kv_type_name(config->kv_type));
    lm_device *dev = lm_try_alloc(1, sizeof *dev);
    if (!dev) return lm_fail(err, LM_NO_MEMORY, "no memory for a device");
    lm_status st = lm_kernels_choose(config->features, &dev->k, err);
    if (st != LM_OK) goto failed;
    st = lm_pool_open(&dev->pool, config->n_threads, err);
    if (st != LM_OK) goto failed;
    dev->n_threads = lm_pool_threads(dev->pool);
    dev->max_batch = config->max_batch;
    st = lm_kv_open(&dev->kv, config->kv, dev->k->kv_f32, config->kv_bytes, err);
    if (st != LM_OK) goto failed;
    snprintf(dev->description, sizeof dev->description, "cpu %s, %u thread%s", dev->k->name, dev->n_threads,
             dev->n_threads == 1 ? "" : "s");
    *out = dev;
    return LM_OK;
failed:
    cpu_close(dev);
    return st;
}

static uint64_t cpu_kv_token_bytes(const lm_device_config *config) {
    bool exact = config->features && !strcmp(config->features, lm_kernels_reference.name);
    const lm_kv_shape *kv = &config->kv;
    if (config->kv_type != LM_KV_F16) return 0;
    return 2ull * kv->n_layers * kv->n_kv_heads * kv->head_dim * (exact ? sizeof(float) : sizeof(uint16_t));
}

static void cpu_memory(const lm_device *dev, lm_memory *out) {
    *out = (lm_memory){.weights = dev->weight_bytes,
                       .kv = lm_kv_used(&dev->kv),
                       .kv_room = (uint64_t)dev->kv.n_pages * dev->kv.page_bytes,
                       .scratch = dev->step_arena.total + dev->layer_arena.total +
                                  dev->scratch_bytes * dev->n_threads};
}

static const char *cpu_describe(const lm_device *dev) {
    return dev->description;
}

/* ---- weights --------------------------------------------------------------------------------------------- */

static lm_status view_floats(const lm_view *v, float offset, float **out, uint32_t *n_out, lm_err *err) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < v->n_dims; i++) {
        if (v->dims[i] > INT32_MAX || (n *= v->dims[i]) > INT32_MAX)
            return lm_fail(err, LM_TOO_LARGE, "a vector of more than 2^31 elements");
    }
    if (v->dtype != LM_F32 && v->dtype != LM_F16 && v->dtype != LM_BF16)
        return lm_fail(err, LM_UNSUPPORTED, "a vector of %s; F32, F16 and BF16 are known",
                       lm_dtype_name(v->dtype));
    if (n == 0 || v->bytes < n * lm_dtype_size(v->dtype))
        return lm_fail(err, LM_CORRUPT, "a vector of %llu elements in %llu bytes", (unsigned long long)n,
                       (unsigned long long)v->bytes);
    float *data = aligned_alloc(64, ((size_t)n * sizeof(float) + 63) / 64 * 64);
    if (!data)
        return lm_fail(err, LM_NO_MEMORY, "no memory for a vector of %llu elements", (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) {
        float f;
        if (v->dtype == LM_F32) {
            memcpy(&f, (const uint8_t *)v->data + i * 4, 4);
        } else {
            uint16_t h;
            memcpy(&h, (const uint8_t *)v->data + i * 2, 2);
            f = v->dtype == LM_F16 ? lm_f16_to_f32(h) : lm_bf16_to_f32(h);
        }
        data[i] = f + offset;
    }
    *out = data;
    *n_out = (uint32_t)n;
    return LM_OK;
}

static lm_status check_matrix(const lm_matrix *m, lm_err *err) {
    if (!m->rows || !m->cols || m->cols > MAX_COLS || m->rows > INT32_MAX || !m->codes)
        return lm_fail(err, LM_INVALID, "a matrix of %u x %u", m->rows, m->cols);
    if (m->quant.kind == LM_QUANT_NONE) {
        if (m->dtype != LM_F32 && m->dtype != LM_F16 && m->dtype != LM_BF16)
            return lm_fail(err, LM_UNSUPPORTED, "a matrix of %s; F32, F16 and BF16 are known",
                           lm_dtype_name(m->dtype));
    } else if (!m->scales || !m->quant.group || m->cols % m->quant.group) {
        return lm_fail(err, LM_INVALID, "a quantised matrix of %u columns in groups of %u", m->cols,
                       m->quant.group);
    }
    return LM_OK;
}

static uint64_t matrix_bytes(const lm_matrix *m) {
    uint64_t rows = (uint64_t)m->rows * (m->n_experts ? m->n_experts : 1);
    uint64_t bytes = rows * m->row_bytes;
    if (m->quant.kind == LM_QUANT_AFFINE)
        bytes += rows * (m->cols / m->quant.group) * 2 * lm_dtype_size(m->dtype);
    if (lm_quant_is_float(m->quant.kind)) bytes += rows * (m->cols / m->quant.group);
    return bytes;
}

static void cpu_linear_free(lm_linear *w) {
    if (!w) return;
    w->dev->weight_bytes -= w->bytes;
    w->dev->n_handles--;
    free(w->bias);
    free(w);
}

static lm_status cpu_linear(lm_device *dev, const lm_matrix *m, const lm_view *bias, lm_linear **out,
                            lm_err *err) {
    lm_status st = check_matrix(m, err);
    if (st != LM_OK) return st;
    /* Products write their rows and read their acts elsewhere: the scratch is the kernel's alone. */
    st = lm_device_scratch(dev, dev->k->matmul_scratch(m->cols), err);
    if (st != LM_OK) return st;
    lm_linear *w = lm_try_alloc(1, sizeof *w);
    if (!w) return lm_fail(err, LM_NO_MEMORY, "no memory for a weight's handle");
    w->m = *m;
    if (!w->m.n_experts) w->m.n_experts = 1;
    w->by_definition = m->quant.kind == LM_QUANT_MXFP8 || m->quant.kind == LM_QUANT_NVFP4;
    w->act_kind = w->by_definition ? lm_act_kind_reference(&w->m) : dev->k->act_kind(&w->m);
    w->bytes = matrix_bytes(&w->m);
    if (bias) {
        uint32_t n = 0;
        st = view_floats(bias, 0, &w->bias, &n, err);
        if (st == LM_OK && n != (uint64_t)w->m.n_experts * m->rows)
            st = lm_fail(err, LM_CORRUPT, "a bias of %u elements for %u x %u outputs", n, w->m.n_experts,
                         m->rows);
        if (st != LM_OK) {
            free(w->bias);
            free(w);
            return st;
        }
        w->bytes += (uint64_t)n * sizeof(float);
    }
    w->dev = dev;
    dev->weight_bytes += w->bytes;
    dev->n_handles++;
    *out = w;
    return LM_OK;
}

static void cpu_vector_free(lm_vector *v) {
    if (!v) return;
    v->dev->weight_bytes -= (uint64_t)v->n * sizeof(float);
    v->dev->n_handles--;
    free(v->data);
    free(v);
}

static lm_status cpu_vector(lm_device *dev, const lm_view *view, float offset, lm_vector **out, lm_err *err) {
    lm_vector *v = lm_try_alloc(1, sizeof *v);
    if (!v) return lm_fail(err, LM_NO_MEMORY, "no memory for a vector's handle");
    lm_status st = view_floats(view, offset, &v->data, &v->n, err);
    if (st != LM_OK) {
        free(v);
        return st;
    }
    v->dev = dev;
    dev->weight_bytes += (uint64_t)v->n * sizeof(float);
    dev->n_handles++;
    *out = v;
    return LM_OK;
}

/* ---- sequences ------------------------------------------------------------------------------------------- */

static lm_status cpu_seq_open(lm_device *dev, lm_seq **out, lm_err *err) {
    return lm_kv_seq_open(&dev->kv, out, err);
}
static uint32_t cpu_seq_len(const lm_seq *seq) {
    return seq->len;
}

/* Blocks that stay are in the arenas and the pages: nothing is kept for the next step alone. */
static void cpu_idle(lm_device *dev) {
    (void)dev;
}

static void cpu_info(lm_backend_info *out) {
    *out = (lm_backend_info){.max_batch = 512};
    snprintf(out->device, sizeof out->device, "%s", lm_cpu_features()[0]);
}

/* ---- the table ------------------------------------------------------------------------------------------- */

const lm_backend lm_cpu_backend = {
    .name = "cpu",
    .info = cpu_info,
    .kv_token_bytes = cpu_kv_token_bytes,
    .open = cpu_open,
    .close = cpu_close,
    .memory = cpu_memory,
    .idle = cpu_idle,
    .describe = cpu_describe,
    .linear = cpu_linear,
    .vector = cpu_vector,
    .linear_free = cpu_linear_free,
    .vector_free = cpu_vector_free,
    .seq_open = cpu_seq_open,
    .seq_close = lm_kv_seq_close,
    .seq_len = cpu_seq_len,
    .seq_trim = lm_kv_seq_trim,
    .seq_fork = lm_kv_seq_fork,
    .seq_reserve = lm_kv_seq_reserve,
    .begin = lm_op_begin,
    .end = lm_op_end,
    .embed = lm_op_embed,
    .rms_norm = lm_op_rms_norm,
    .layer_norm = lm_op_layer_norm,
    .linears = lm_op_linears,
    .columns = lm_op_columns,
    .rows = lm_op_rows,
    .attention = lm_op_attention,
    .mlp = lm_op_mlp,
    .gated = lm_op_gated,
    .moe = lm_op_moe,
    .keep = lm_op_keep,
    .add = lm_op_add,
    .scale = lm_op_scale,
    .read = lm_op_read,
};

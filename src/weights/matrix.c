/* Matrices as views: finding the arrays of one, checking their shapes, and the plain meaning of each form. */
#include "weights/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool is_float(lm_dtype t) {
    return t == LM_F32 || t == LM_F16 || t == LM_BF16;
}

static lm_status find_part(const lm_weights *w, const char *name, const char *part, lm_view *out,
                           lm_err *err) {
    char full[512];
    int n = snprintf(full, sizeof full, "%s.%s", name, part);
    if (n < 0 || (size_t)n >= sizeof full || !lm_weights_find(w, full, out)) {
        return lm_fail(err, LM_NOT_FOUND, "the weights hold no tensor %s.%s", name, part);
    }
    return LM_OK;
}

/* Splits dims into (experts, rows, width) and holds them against what the caller knows. */
static lm_status check_dims(const char *name, const char *part, const lm_view *v, uint32_t experts,
                            uint64_t *rows, uint64_t *width, lm_err *err) {
    uint32_t want = experts > 1 ? 3 : 2;
    bool stacked_one = experts == 1 && v->n_dims == 3 && v->dims[0] == 1;

    if (v->n_dims != want && !stacked_one) {
        return lm_fail(err, LM_CORRUPT, "tensor %s.%s has %u dimensions, expected %u", name, part, v->n_dims,
                       want);
    }
    if (want == 3 && v->dims[0] != experts) {
        return lm_fail(err, LM_CORRUPT, "tensor %s.%s holds %llu experts, expected %u", name, part,
                       (unsigned long long)v->dims[0], experts);
    }
    *rows = v->dims[v->n_dims - 2];
    *width = v->dims[v->n_dims - 1];
    if (*rows == 0 || *width == 0 || *rows > UINT32_MAX || *width > UINT32_MAX) {
        return lm_fail(err, LM_CORRUPT, "tensor %s.%s: impossible shape (%llu, %llu)", name, part,
                       (unsigned long long)*rows, (unsigned long long)*width);
    }
    return LM_OK;
}

static lm_status check_scales(const char *name, const char *part, const lm_view *v, const lm_matrix *m,
                              lm_err *err) {
    uint64_t rows, width;
    lm_status st = check_dims(name, part, v, m->n_experts, &rows, &width, err);
    if (st != LM_OK) return st;
    if (rows != m->rows || width != m->cols / m->quant.group) {
        return lm_fail(err, LM_CORRUPT, "tensor %s.%s is (%llu, %llu), expected (%u, %u)", name, part,
                       (unsigned long long)rows, (unsigned long long)width, m->rows,
                       m->cols / m->quant.group);
    }
    if (lm_quant_is_float(m->quant.kind) ? v->dtype != LM_U8 : !is_float(v->dtype)) {
        return lm_fail(err, LM_CORRUPT, "tensor %s.%s: %s is not a type for %s scales", name, part,
                       lm_dtype_name(v->dtype), lm_quant_mode(m->quant.kind));
    }
    return LM_OK;
}

static lm_status quantised(const lm_weights *w, const char *name, lm_quant_spec quant, const lm_view *codes,
                           const lm_view *scales, uint64_t width, lm_matrix *m, lm_err *err) {
    if (!lm_quant_known(quant)) {
        return lm_fail(err, LM_UNSUPPORTED, "tensor %s: %u bits in groups of %u (%s) are not supported", name,
                       quant.bits, quant.group, lm_quant_mode(quant.kind));
    }
    if (codes->dtype != LM_U32) {
        return lm_fail(err, LM_CORRUPT, "tensor %s.weight is quantised but of type %s", name,
                       lm_dtype_name(codes->dtype));
    }
    uint64_t bits = width * 32;
    uint64_t cols = bits / quant.bits;
    if (bits % quant.bits || cols % quant.group || cols > UINT32_MAX) {
        return lm_fail(err, LM_CORRUPT,
                       "tensor %s.weight: rows of %llu words don't hold whole groups of %u %u-bit codes",
                       name, (unsigned long long)width, quant.group, quant.bits);
    }
    m->cols = (uint32_t)cols;
    m->quant = quant;
    m->dtype = scales->dtype;
    m->row_bytes = width * 4;
    m->scales = scales->data;
    lm_status st = check_scales(name, "scales", scales, m, err);
    if (st != LM_OK || lm_quant_is_float(quant.kind)) return st;

    lm_view biases;
    st = find_part(w, name, "biases", &biases, err);
    if (st == LM_OK) st = check_scales(name, "biases", &biases, m, err);
    if (st != LM_OK) return st;
    if (biases.dtype != scales->dtype) {
        return lm_fail(err, LM_CORRUPT, "tensor %s: scales are %s but biases are %s", name,
                       lm_dtype_name(scales->dtype), lm_dtype_name(biases.dtype));
    }
    m->biases = biases.data;
    return LM_OK;
}

lm_status lm_weights_matrix(const lm_weights *w, const char *name, lm_quant_spec quant, uint32_t n_experts,
                            uint32_t rows, uint32_t cols, lm_matrix *out, lm_err *err) {
    lm_matrix m = {.n_experts = n_experts ? n_experts : 1};
    lm_view codes, scales;
    uint64_t height = 0, width = 0;

    lm_status st = find_part(w, name, "weight", &codes, err);
    if (st == LM_OK) st = check_dims(name, "weight", &codes, m.n_experts, &height, &width, err);
    if (st != LM_OK) return st;
    m.codes = codes.data;
    m.rows = (uint32_t)height;

    bool has_scales = find_part(w, name, "scales", &scales, NULL) == LM_OK;
    if (has_scales) {
        if (quant.kind == LM_QUANT_NONE) {
            return lm_fail(err, LM_CORRUPT, "tensor %s has scales, but config.json says it is not quantised",
                           name);
        }
        st = quantised(w, name, quant, &codes, &scales, width, &m, err);
        if (st != LM_OK) return st;
    } else {
        if (!is_float(codes.dtype)) {
            return lm_fail(err, LM_CORRUPT, "tensor %s.weight is of type %s and has no scales", name,
                           lm_dtype_name(codes.dtype));
        }
        m.cols = (uint32_t)width;
        m.dtype = codes.dtype;
        m.row_bytes = width * lm_dtype_size(codes.dtype);
    }
    if ((rows && rows != m.rows) || (cols && cols != m.cols)) {
        return lm_fail(err, LM_CORRUPT, "tensor %s is (%u, %u), the model's config needs (%u, %u)", name,
                       m.rows, m.cols, rows ? rows : m.rows, cols ? cols : m.cols);
    }
    *out = m;
    return LM_OK;
}

/* ---- one row --------------------------------------------------------------------------------------------- */

static float number_at(const void *base, lm_dtype type, uint64_t i) {
    uint16_t h;
    float f;
    if (type == LM_F32) {
        memcpy(&f, (const uint8_t *)base + i * 4, 4);
        return f;
    }
    memcpy(&h, (const uint8_t *)base + i * 2, 2);
    return type == LM_F16 ? lm_f16_to_f32(h) : lm_bf16_to_f32(h);
}

/* Code i of a row: `bits` bits from bit i * bits of the stream, lowest first. A code crosses at most one byte
 * edge, and one that does is never the last: rows end on a word. */
static uint32_t code_at(const uint8_t *row, uint64_t i, uint32_t bits) {
    uint64_t at = i * bits;
    uint32_t shift = (uint32_t)(at & 7);
    uint32_t v = row[at >> 3];
    if (shift + bits > 8) v |= (uint32_t)row[(at >> 3) + 1] << 8;
    return v >> shift & ((1u << bits) - 1);
}

static const float e2m1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                               -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

/* E8M0, a power of two; its 255 is NaN. */
static float e8m0(uint8_t e) {
    return e == 255 ? NAN : ldexpf(1.0f, e - 127);
}

/* E4M3 has f16's layout with fewer bits and another bias; its 127 is NaN. */
static float e4m3(uint32_t code) {
    if ((code & 127) == 127) return NAN;
    float f = lm_f16_to_f32((uint16_t)((code & 127) << 7)) * 256.0f;
    return code & 128 ? -f : f;
}

/* Group g of a matrix: value = scale * meaning(code) + bias. */
static float scale_of(const lm_matrix *m, uint64_t g) {
    switch (m->quant.kind) {
    case LM_QUANT_AFFINE: return number_at(m->scales, m->dtype, g);
    case LM_QUANT_NVFP4: return e4m3(((const uint8_t *)m->scales)[g]);
    default: return e8m0(((const uint8_t *)m->scales)[g]);
    }
}

void lm_matrix_row(const lm_matrix *m, uint32_t expert, uint32_t row, float *out) {
    LM_ASSERT(expert < m->n_experts && row < m->rows);
    uint64_t r = (uint64_t)expert * m->rows + row;
    const uint8_t *codes = (const uint8_t *)m->codes + r * m->row_bytes;

    if (m->quant.kind == LM_QUANT_NONE) {
        for (uint32_t i = 0; i < m->cols; i++) out[i] = number_at(codes, m->dtype, i);
        return;
    }
    uint32_t group = m->quant.group;
    uint64_t first = r * (m->cols / group);
    for (uint32_t at = 0; at < m->cols; at += group) {
        float scale = scale_of(m, first + at / group), bias = 0;
        if (m->quant.kind == LM_QUANT_AFFINE) bias = number_at(m->biases, m->dtype, first + at / group);
        for (uint32_t i = at; i < at + group; i++) {
            uint32_t q = code_at(codes, i, m->quant.bits);
            switch (m->quant.kind) {
            case LM_QUANT_AFFINE: out[i] = scale * (float)q + bias; break;
            case LM_QUANT_MXFP8: out[i] = e4m3(q) * scale; break;
            default: out[i] = e2m1[q] * scale; break;
            }
        }
    }
}

#include "model/adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/model.h"

enum { MAX_TENSORS = 1 << 16 };

struct lm_adapter {
    lm_weights *w;
    bool *used; /* by tensor */
};

lm_status lm_adapter_open(lm_adapter **out, const char *dir, lm_err *err) {
    *out = NULL;
    char *path = lm_path_join(dir, LM_ADAPTER_FILE);
    bool there = lm_path_is_file(path);
    free(path);
    if (!there) return LM_OK;
    lm_adapter *a = lm_alloc(sizeof *a);
    lm_status st = lm_weights_open_file(&a->w, dir, LM_ADAPTER_FILE, err);
    if (st == LM_OK && lm_weights_count(a->w) > MAX_TENSORS)
        st = lm_fail(err, LM_CORRUPT, "an adapter of %u tensors", lm_weights_count(a->w));
    if (st != LM_OK) {
        lm_adapter_close(a);
        return st;
    }
    a->used = lm_alloc(lm_weights_count(a->w) + 1);
    *out = a;
    return LM_OK;
}

void lm_adapter_close(lm_adapter *a) {
    if (!a) return;
    lm_weights_close(a->w);
    free(a->used);
    free(a);
}

uint64_t lm_adapter_bytes(const lm_adapter *a) {
    return a ? lm_weights_bytes(a->w) : 0;
}

uint32_t lm_adapter_rank(const lm_adapter *a) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < lm_weights_count(a->w); i++) {
        lm_view v;
        const char *name = lm_weights_name(a->w, i, &v);
        uint64_t rank =
            v.n_dims > 1 && lm_str_ends(lm_str_of(name), LM_STR(".lora_a")) ? v.dims[v.n_dims - 2] : 0;
        if (rank > most) most = rank;
    }
    return most < UINT32_MAX ? (uint32_t)most : UINT32_MAX;
}

static bool find(lm_adapter *a, const char *name, const char *part, lm_view *out) {
    char full[256];
    int n = snprintf(full, sizeof full, "%s.%s", name, part);
    if (n < 0 || (size_t)n >= sizeof full) return false;
    uint32_t i = lm_weights_index(a->w, full);
    if (i == UINT32_MAX) return false;
    (void)lm_weights_name(a->w, i, out);
    a->used[i] = true;
    return true;
}

static bool is_float(lm_dtype t) {
    return t == LM_F32 || t == LM_F16 || t == LM_BF16;
}

/* As a matrix, or a stack of n_experts. False: it is none. */
static bool matrix_of(const lm_view *v, uint32_t n_experts, lm_matrix *out) {
    bool stack = n_experts > 1;
    if (v->n_dims != 2u + stack || !is_float(v->dtype) || (stack && v->dims[0] != n_experts)) return false;
    uint64_t rows = v->dims[stack], cols = v->dims[1 + stack];
    if (!rows || !cols || rows > UINT32_MAX || cols > UINT32_MAX) return false;
    *out = (lm_matrix){.quant = {.kind = LM_QUANT_NONE},
                       .dtype = v->dtype,
                       .n_experts = n_experts,
                       .rows = (uint32_t)rows,
                       .cols = (uint32_t)cols,
                       .codes = v->data,
                       .row_bytes = cols * lm_dtype_size(v->dtype)};
    return true;
}

lm_status lm_adapter_find(lm_adapter *a, const char *name, const lm_matrix *w, lm_adapter_pair *out,
                          bool *there, lm_err *err) {
    lm_view down, up, scale;
    lm_adapter_pair pair = {.scale = NAN};
    *there = false;
    if (!a) return LM_OK;
    bool has_a = find(a, name, "lora_a", &down), has_b = find(a, name, "lora_b", &up);
    bool has_scale = find(a, name, "scale", &scale);
    if (!has_a && !has_b && !has_scale) return LM_OK;
    if (!has_a || !has_b || !has_scale)
        return lm_fail(err, LM_CORRUPT, "the adapter has only a part of %s", name);
    if (!matrix_of(&down, w->n_experts, &pair.a) || !matrix_of(&up, w->n_experts, &pair.b) ||
        pair.a.rows != pair.b.cols)
        return lm_fail(err, LM_CORRUPT,
                       "the adapter's matrices of %s do not belong together, or not to %u experts", name,
                       w->n_experts);
    if (pair.a.cols != w->cols || pair.b.rows != w->rows)
        return lm_fail(
            err, LM_CORRUPT,
            "the adapter changes %s as a matrix of %u by %u, this model's is %u by %u: it was made for "
            "another model",
            name, pair.b.rows, pair.a.cols, w->rows, w->cols);
    if (scale.dtype == LM_F32 && scale.bytes == sizeof pair.scale)
        memcpy(&pair.scale, scale.data, sizeof pair.scale);
    if (!isfinite(pair.scale))
        return lm_fail(err, LM_CORRUPT, "the adapter's scale of %s is not one finite number", name);
    *out = pair;
    *there = true;
    return LM_OK;
}

lm_status lm_adapter_used_up(const lm_adapter *a, lm_err *err) {
    for (uint32_t i = 0; a && i < lm_weights_count(a->w); i++) {
        lm_view v;
        const char *name = lm_weights_name(a->w, i, &v);
        if (!a->used[i])
            return lm_fail(err, LM_UNSUPPORTED,
                           "the adapter changes %.200s, which is no matrix of this model that can be adapted",
                           name);
    }
    return LM_OK;
}

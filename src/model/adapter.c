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
        if (lm_str_ends(lm_str_of(name), LM_STR(".lora_a")) && v.n_dims == 2 && v.dims[0] > most)
            most = v.dims[0];
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

static lm_matrix matrix_of(const lm_view *v) {
    return (lm_matrix){.quant = {.kind = LM_QUANT_NONE},
                       .dtype = v->dtype,
                       .n_experts = 1,
                       .rows = (uint32_t)v->dims[0],
                       .cols = (uint32_t)v->dims[1],
                       .codes = v->data,
                       .row_bytes = v->dims[1] * lm_dtype_size(v->dtype)};
}

lm_status lm_adapter_find(lm_adapter *a, const char *name, uint32_t rows, uint32_t cols, lm_adapter_pair *out,
                          bool *there, lm_err *err) {
    lm_view down, up, scale;
    *there = false;
    if (!a) return LM_OK;
    bool has_a = find(a, name, "lora_a", &down), has_b = find(a, name, "lora_b", &up);
    bool has_scale = find(a, name, "scale", &scale);
    if (!has_a && !has_b && !has_scale) return LM_OK;
    if (!has_a || !has_b || !has_scale)
        return lm_fail(err, LM_CORRUPT, "the adapter has only a part of %s", name);
    if (down.n_dims != 2 || up.n_dims != 2 || !is_float(down.dtype) || !is_float(up.dtype) || !down.dims[0] ||
        down.dims[0] > UINT32_MAX || down.dims[0] != up.dims[1])
        return lm_fail(err, LM_CORRUPT, "the adapter's matrices of %s do not belong together", name);
    if (down.dims[1] != cols || up.dims[0] != rows)
        return lm_fail(err, LM_CORRUPT,
                       "the adapter changes %s as a matrix of %llu by %llu, this model's is %u by %u: it was "
                       "made for another model",
                       name, (unsigned long long)up.dims[0], (unsigned long long)down.dims[1], rows, cols);
    float strength = 0;
    if (scale.dtype == LM_F32 && scale.bytes == sizeof strength)
        memcpy(&strength, scale.data, sizeof strength);
    else
        strength = NAN;
    if (!isfinite(strength))
        return lm_fail(err, LM_CORRUPT, "the adapter's scale of %s is not one finite number", name);
    *out = (lm_adapter_pair){.a = matrix_of(&down), .b = matrix_of(&up), .scale = strength};
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

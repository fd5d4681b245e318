#include "weights/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

bool lm_dtype_parse(const char *name, lm_dtype *out) {
    for (lm_dtype t = LM_F32; t <= LM_F8; t++) {
        if (strcmp(name, lm_dtype_name(t)) == 0) {
            *out = t;
            return true;
        }
    }
    if (strcmp(name, "F8_E8M0") == 0) { /* the exponents of mxfp4: MLX calls the same bytes U8 */
        *out = LM_U8;
        return true;
    }
    return false;
}

static uint64_t load_u64(const uint8_t *p) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* A JSON integer that is not negative, and nothing else. */
static bool get_u64(const json_t *value, uint64_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static lm_status read_shape(const json_t *shape, const char *path, const char *name, lm_view *view,
                            lm_err *err) {
    if (!json_is_array(shape)) return lm_fail(err, LM_CORRUPT, "%s: tensor %s has no shape", path, name);
    if (json_array_size(shape) > LM_MAX_DIMS) {
        return lm_fail(err, LM_UNSUPPORTED, "%s: tensor %s has %zu dimensions, at most %d are known", path,
                       name, json_array_size(shape), LM_MAX_DIMS);
    }
    view->n_dims = (uint32_t)json_array_size(shape);
    view->bytes = lm_dtype_size(view->dtype);
    for (uint32_t i = 0; i < view->n_dims; i++) {
        if (!get_u64(json_array_get(shape, i), &view->dims[i])) {
            return lm_fail(err, LM_CORRUPT, "%s: tensor %s: shape must be whole numbers", path, name);
        }
        if (__builtin_mul_overflow(view->bytes, view->dims[i], &view->bytes)) {
            return lm_fail(err, LM_CORRUPT, "%s: tensor %s: shape is impossibly large", path, name);
        }
    }
    return LM_OK;
}

static lm_status read_entry(const char *path, const char *name, const json_t *item, const uint8_t *data,
                            uint64_t data_size, lm_view *view, lm_err *err) {
    const char *dtype = json_string_value(json_object_get(item, "dtype"));
    const json_t *offsets = json_object_get(item, "data_offsets");
    uint64_t begin = 0, end = 0;
    lm_status st;

    if (!dtype) return lm_fail(err, LM_CORRUPT, "%s: tensor %s has no dtype", path, name);
    if (!lm_dtype_parse(dtype, &view->dtype)) {
        return lm_fail(err, LM_UNSUPPORTED, "%s: tensor %s is of type %s, which is not supported", path, name,
                       dtype);
    }
    st = read_shape(json_object_get(item, "shape"), path, name, view, err);
    if (st != LM_OK) return st;
    if (json_array_size(offsets) != 2 || !get_u64(json_array_get(offsets, 0), &begin) ||
        !get_u64(json_array_get(offsets, 1), &end) || begin > end) {
        return lm_fail(err, LM_CORRUPT, "%s: tensor %s: data_offsets must be [begin, end]", path, name);
    }
    if (end > data_size) {
        return lm_fail(err, LM_CORRUPT,
                       "%s: tensor %s ends at byte %llu of the data, the file holds %llu: truncated?", path,
                       name, (unsigned long long)end, (unsigned long long)data_size);
    }
    if (end - begin != view->bytes) {
        return lm_fail(err, LM_CORRUPT, "%s: tensor %s has %llu bytes, its shape needs %llu", path, name,
                       (unsigned long long)(end - begin), (unsigned long long)view->bytes);
    }
    view->data = data + begin;
    return LM_OK;
}

static int by_place(const void *a, const void *b) {
    const lm_view *x = &((const lm_tensor_entry *)a)->view, *y = &((const lm_tensor_entry *)b)->view;
    const uint8_t *p = x->data, *q = y->data;
    if (p != q) return p < q ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* empty ones first */
}

static lm_status check_overlap(const char *path, lm_tensor_entry *entries, uint32_t n, lm_err *err) {
    qsort(entries, n, sizeof *entries, by_place);
    for (uint32_t i = 1; i < n; i++) {
        const lm_view *before = &entries[i - 1].view;
        if ((const uint8_t *)before->data + before->bytes > (const uint8_t *)entries[i].view.data) {
            return lm_fail(err, LM_CORRUPT, "%s: tensors %s and %s overlap", path, entries[i - 1].name,
                           entries[i].name);
        }
    }
    return LM_OK;
}

lm_status lm_safetensors_entries(const lm_map *map, const char *path, lm_tensor_entry **entries, uint32_t *n,
                                 lm_err *err) {
    if (map->size < 8)
        return lm_fail(err, LM_CORRUPT, "%s: not a safetensors file: it is shorter than 8 bytes", path);
    uint64_t header = load_u64(map->data);
    if (header > LM_SAFETENSORS_HEADER_MAX) {
        return lm_fail(err, LM_CORRUPT, "%s: not a safetensors file: the header claims %llu bytes", path,
                       (unsigned long long)header);
    }
    if (header > map->size - 8) {
        return lm_fail(err, LM_CORRUPT, "%s: truncated: the header has %llu bytes, the file %llu", path,
                       (unsigned long long)header, (unsigned long long)map->size);
    }
    const uint8_t *data = map->data + 8 + header;
    uint64_t data_size = map->size - 8 - header;

    json_error_t where;
    json_t *root = json_loadb((const char *)map->data + 8, header, JSON_REJECT_DUPLICATES, &where);
    if (!root) {
        return lm_fail(err, LM_CORRUPT, "%s: bad header at byte %d: %s", path, where.position + 8,
                       where.text);
    }
    lm_status st = LM_OK;
    uint32_t first = *n;
    if (!json_is_object(root)) {
        st = lm_fail(err, LM_CORRUPT, "%s: bad header: not an object", path);
        goto done;
    }
    size_t room = *n + json_object_size(root);
    lm_tensor_entry *grown = realloc(*entries, (room ? room : 1) * sizeof **entries);
    if (!grown) {
        st = lm_fail(err, LM_NO_MEMORY, "%s: no memory for %zu tensor entries", path, room);
        goto done;
    }
    *entries = grown;

    const char *name;
    json_t *item;
    json_object_foreach(root, name, item) {
        if (strcmp(name, "__metadata__") == 0) continue;
        lm_view view = {0};
        st = read_entry(path, name, item, data, data_size, &view, err);
        if (st != LM_OK) goto done;
        grown[(*n)++] = (lm_tensor_entry){.name = lm_strdup(name), .view = view};
    }
    st = check_overlap(path, grown + first, *n - first, err);
done:
    json_decref(root);
    return st;
}

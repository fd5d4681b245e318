/* One pass over the file builds two arrays, keys and tensors, that point into the map; both are then sorted
 * for lookup, which is also where duplicates are met. Nothing is trusted: a cursor that would pass the end of
 * the file fails, and stays failed. */
#include "weights/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

#define KEY_MAX   65535 /* bytes, the format's own limit */
#define NAME_MAX_ 256   /* bytes of a tensor name; the format says 64 */
#define ALIGN_MAX 65536
#define PARTS_MAX 1024 /* of one model; more is no model that anybody splits */

typedef enum value_type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    BOOL,
    STRING,
    ARRAY,
    U64,
    I64,
    F64,
    N_TYPES
} value_type;
static const uint8_t value_size[N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct entry {
    lm_str key;
    value_type type; /* of the value; of the elements when is_array */
    bool is_array;
    uint64_t n;        /* elements, 1 for a single value */
    const uint8_t *at; /* the first value */
    uint64_t bytes;    /* of all of them in the file */
} entry;

struct lm_gguf {
    lm_map map;
    char *path;
    entry *entries; /* n_entries, sorted by key */
    uint32_t n_entries;
    lm_gguf_tensor *tensors; /* n_tensors, in file order */
    uint32_t n_tensors;
    const lm_gguf_tensor **by_name; /* n_tensors, sorted */
    lm_gguf **more;                 /* the other parts, for their maps alone: their tensors are among ours */
    uint32_t n_more;
};

static const struct {
    const char *name;
    uint16_t block, bytes;
} ggml[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},
    [4] = {"MXFP4", 32, 17},
    [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 40},      [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},  [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},   [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},    [40] = {"NVFP4", 64, 36},
    [41] = {"Q1_0", 128, 18},
};
#define N_GGML (sizeof ggml / sizeof *ggml)

static bool known_type(uint32_t t) {
    return t < N_GGML && ggml[t].name;
}
const char *lm_ggml_name(lm_ggml_type t) {
    return known_type(t) ? ggml[t].name : "?";
}
uint32_t lm_ggml_block(lm_ggml_type t) {
    return known_type(t) ? ggml[t].block : 1;
}
uint32_t lm_ggml_block_bytes(lm_ggml_type t) {
    return known_type(t) ? ggml[t].bytes : 0;
}

/* ---- cursor ---------------------------------------------------------------------------------------------- */

typedef struct cursor {
    const uint8_t *at, *end;
    bool failed;
} cursor;

static uint64_t left(const cursor *c) {
    return (uint64_t)(c->end - c->at);
}

static const uint8_t *take(cursor *c, uint64_t n) {
    if (c->failed || n > left(c)) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *p = c->at;
    c->at += n;
    return p;
}

static uint64_t load(const uint8_t *p, uint32_t size) {
    uint64_t v = 0;
    for (uint32_t i = size; i-- > 0;) v = v << 8 | p[i];
    return v;
}

static uint64_t take_int(cursor *c, uint32_t size) {
    const uint8_t *p = take(c, size);
    return p ? load(p, size) : 0;
}

static lm_str take_str(cursor *c) {
    uint64_t n = take_int(c, 8);
    const uint8_t *p = take(c, n);
    return p ? (lm_str){(const char *)p, n} : (lm_str){NULL, 0};
}

/* ---- opening --------------------------------------------------------------------------------------------- */

static lm_status truncated(const lm_gguf *g, const char *where, lm_err *err) {
    return lm_fail(err, LM_CORRUPT, "%s: truncated or damaged: the file ends inside %s", g->path, where);
}

static lm_status read_entry(lm_gguf *g, cursor *c, entry *e, lm_err *err) {
    e->key = take_str(c);
    uint64_t type = take_int(c, 4);
    if (c->failed) return truncated(g, "the metadata", err);
    bool bad = false;
    if (e->key.len == 0 || e->key.len > KEY_MAX || lm_utf8_valid(e->key, &bad) != e->key.len) {
        return lm_fail(err, LM_CORRUPT, "%s: a metadata key of %zu bytes is not a name", g->path, e->key.len);
    }
    int shown = e->key.len > 100 ? 100 : (int)e->key.len;
    e->n = 1;
    if (type == ARRAY) {
        e->is_array = true;
        type = take_int(c, 4);
        e->n = take_int(c, 8);
        if (c->failed) return truncated(g, "the metadata", err);
        if (type == ARRAY) {
            return lm_fail(err, LM_UNSUPPORTED, "%s: metadata %.*s is an array of arrays", g->path, shown,
                           e->key.ptr);
        }
    }
    if (type >= N_TYPES) {
        return lm_fail(err, LM_CORRUPT, "%s: metadata %.*s has type %llu, which does not exist", g->path,
                       shown, e->key.ptr, (unsigned long long)type);
    }
    e->type = (value_type)type;
    e->at = c->at;
    if (e->type == STRING) {
        /* Each string takes 8 bytes at least, so this loop is bounded by the file whatever n claims. */
        for (uint64_t i = 0; i < e->n && !c->failed; i++) take_str(c);
    } else {
        uint64_t bytes;
        if (__builtin_mul_overflow(e->n, (uint64_t)value_size[e->type], &bytes)) bytes = UINT64_MAX;
        take(c, bytes);
    }
    if (c->failed || e->n > UINT32_MAX) {
        return lm_fail(err, LM_CORRUPT, "%s: truncated or damaged: metadata %.*s claims %llu values", g->path,
                       shown, e->key.ptr, (unsigned long long)e->n);
    }
    e->bytes = (uint64_t)(c->at - e->at);
    return LM_OK;
}

static int order(lm_str a, lm_str b) {
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n ? memcmp(a.ptr, b.ptr, n) : 0;
    return c ? c : (a.len > b.len) - (a.len < b.len);
}

static int entry_order(const void *a, const void *b) {
    return order(((const entry *)a)->key, ((const entry *)b)->key);
}

static int name_order(const void *a, const void *b) {
    return order((*(const lm_gguf_tensor *const *)a)->name, (*(const lm_gguf_tensor *const *)b)->name);
}

static lm_status read_metadata(lm_gguf *g, cursor *c, uint64_t n, lm_err *err) {
    /* The smallest entry is 8 + 1 + 4 + 1 bytes: a larger count can't be meant. */
    if (n > left(c) / 14) {
        return lm_fail(err, LM_CORRUPT, "%s: truncated or damaged: claims %llu metadata keys", g->path,
                       (unsigned long long)n);
    }
    g->entries = lm_try_alloc(n + 1, sizeof *g->entries);
    if (!g->entries)
        return lm_fail(err, LM_NO_MEMORY, "%s: no memory for %llu keys", g->path, (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) {
        lm_status st = read_entry(g, c, &g->entries[i], err);
        if (st != LM_OK) return st;
    }
    g->n_entries = (uint32_t)n;
    qsort(g->entries, n, sizeof *g->entries, entry_order);
    for (uint32_t i = 1; i < g->n_entries; i++) {
        if (order(g->entries[i - 1].key, g->entries[i].key) == 0) {
            return lm_fail(err, LM_CORRUPT, "%s: metadata key %.*s occurs twice", g->path,
                           (int)(g->entries[i].key.len > 100 ? 100 : g->entries[i].key.len),
                           g->entries[i].key.ptr);
        }
    }
    return LM_OK;
}

static lm_status read_tensor(lm_gguf *g, cursor *c, lm_gguf_tensor *t, uint64_t *offset, lm_err *err) {
    bool bad = false;
    t->name = take_str(c);
    t->n_dims = (uint32_t)take_int(c, 4);
    if (c->failed) return truncated(g, "the list of tensors", err);
    if (t->name.len == 0 || t->name.len > NAME_MAX_ || lm_utf8_valid(t->name, &bad) != t->name.len) {
        return lm_fail(err, LM_CORRUPT, "%s: a tensor name of %zu bytes is not a name", g->path, t->name.len);
    }
    int len = (int)t->name.len;
    const char *name = t->name.ptr;
    if (t->n_dims < 1 || t->n_dims > 4) {
        return lm_fail(err, LM_CORRUPT, "%s: tensor %.*s has %u dimensions", g->path, len, name, t->n_dims);
    }
    uint64_t rows = 1;
    for (uint32_t i = 0; i < 4; i++) {
        t->dims[i] = i < t->n_dims ? take_int(c, 8) : 1;
        if (c->failed) return truncated(g, "the list of tensors", err);
        if (t->dims[i] == 0 || (i && __builtin_mul_overflow(rows, t->dims[i], &rows))) {
            return lm_fail(err, LM_CORRUPT, "%s: tensor %.*s has an impossible shape", g->path, len, name);
        }
    }
    uint64_t type = take_int(c, 4);
    *offset = take_int(c, 8);
    if (c->failed) return truncated(g, "the list of tensors", err);
    if (!known_type((uint32_t)type)) {
        return lm_fail(err, LM_UNSUPPORTED,
                       "%s: tensor %.*s is of GGML type %u, which this version does not know", g->path, len,
                       name, (uint32_t)type);
    }
    t->type = (lm_ggml_type)type;
    if (t->dims[0] % ggml[type].block) {
        return lm_fail(err, LM_CORRUPT, "%s: tensor %.*s: rows of %llu don't hold whole %s blocks", g->path,
                       len, name, (unsigned long long)t->dims[0], ggml[type].name);
    }
    if (__builtin_mul_overflow(t->dims[0] / ggml[type].block, (uint64_t)ggml[type].bytes, &t->row_bytes) ||
        __builtin_mul_overflow(t->row_bytes, rows, &t->bytes)) {
        return lm_fail(err, LM_CORRUPT, "%s: tensor %.*s has an impossible shape", g->path, len, name);
    }
    return LM_OK;
}

static int place_order(const void *a, const void *b) {
    const lm_gguf_tensor *x = *(const lm_gguf_tensor *const *)a, *y = *(const lm_gguf_tensor *const *)b;
    return (x->data > y->data) - (x->data < y->data);
}

static lm_status sort_names(lm_gguf *g, lm_err *err) {
    qsort(g->by_name, g->n_tensors, sizeof *g->by_name, name_order);
    for (uint32_t i = 1; i < g->n_tensors; i++) {
        if (order(g->by_name[i - 1]->name, g->by_name[i]->name) == 0) {
            return lm_fail(err, LM_CORRUPT, "%s: tensor " LM_STR_FMT " occurs twice", g->path,
                           LM_STR_ARG(g->by_name[i]->name));
        }
    }
    return LM_OK;
}

static lm_status check_tensors(lm_gguf *g, lm_err *err) {
    qsort(g->by_name, g->n_tensors, sizeof *g->by_name, place_order);
    for (uint32_t i = 1; i < g->n_tensors; i++) {
        const lm_gguf_tensor *a = g->by_name[i - 1], *b = g->by_name[i];
        if (a->data + a->bytes > b->data) {
            return lm_fail(err, LM_CORRUPT, "%s: tensors " LM_STR_FMT " and " LM_STR_FMT " overlap", g->path,
                           LM_STR_ARG(a->name), LM_STR_ARG(b->name));
        }
    }
    return sort_names(g, err);
}

static lm_status read_tensors(lm_gguf *g, cursor *c, uint64_t n, lm_err *err) {
    uint32_t align = 32;
    lm_status st = lm_gguf_u32(g, "general.alignment", &align, err);
    if (st != LM_OK) return st;
    if (align < 8 || align > ALIGN_MAX || (align & (align - 1))) {
        return lm_fail(err, LM_CORRUPT, "%s: general.alignment is %u", g->path, align);
    }
    if (n > left(c) / (8 + 1 + 4 + 8 + 4 + 8)) {
        return lm_fail(err, LM_CORRUPT, "%s: truncated or damaged: claims %llu tensors", g->path,
                       (unsigned long long)n);
    }
    g->tensors = lm_try_alloc(n + 1, sizeof *g->tensors);
    g->by_name = lm_try_alloc(n + 1, sizeof *g->by_name);
    uint64_t *offsets = lm_try_alloc(n + 1, sizeof *offsets);
    if (!g->tensors || !g->by_name || !offsets) {
        st = lm_fail(err, LM_NO_MEMORY, "%s: no memory for %llu tensors", g->path, (unsigned long long)n);
    }
    for (uint64_t i = 0; i < n && st == LM_OK; i++) st = read_tensor(g, c, &g->tensors[i], &offsets[i], err);

    uint64_t start = st == LM_OK ? (uint64_t)(c->at - g->map.data) : 0;
    start += (align - start % align) % align;
    for (uint64_t i = 0; i < n && st == LM_OK; i++) {
        lm_gguf_tensor *t = &g->tensors[i];
        uint64_t room = g->map.size > start ? g->map.size - start : 0;
        if (offsets[i] > room || t->bytes > room - offsets[i]) {
            st = lm_fail(err, LM_CORRUPT,
                         "%s: truncated: tensor " LM_STR_FMT " needs %llu bytes, the file ends before",
                         g->path, LM_STR_ARG(t->name), (unsigned long long)t->bytes);
        } else if (offsets[i] % align) {
            st = lm_fail(err, LM_CORRUPT, "%s: tensor " LM_STR_FMT " does not start at a multiple of %u",
                         g->path, LM_STR_ARG(t->name), align);
        } else {
            t->data = g->map.data + start + offsets[i];
            g->by_name[i] = t;
        }
    }
    free(offsets);
    if (st != LM_OK) return st;
    g->n_tensors = (uint32_t)n;
    return check_tensors(g, err);
}

static lm_status open_file(lm_gguf **out, const char *path, lm_err *err) {
    lm_gguf *g = lm_alloc(sizeof *g);
    g->path = lm_strdup(path);
    lm_status st = lm_map_open(&g->map, path, err);
    if (st == LM_OK && g->map.size == 0)
        st = lm_fail(err, LM_CORRUPT, "%s: not a GGUF file: it is empty", path);
    if (st != LM_OK) goto done;

    cursor c = {g->map.data, g->map.data + g->map.size, false};
    const uint8_t *magic = take(&c, 4);
    uint32_t version = (uint32_t)take_int(&c, 4);
    uint64_t n_tensors = take_int(&c, 8);
    uint64_t n_keys = take_int(&c, 8);
    if (!magic || memcmp(magic, "GGUF", 4) != 0) {
        st = lm_fail(err, LM_CORRUPT, "%s: not a GGUF file", path);
    } else if (c.failed) {
        st = truncated(g, "the header", err);
    } else if ((version & 0xffff) == 0 && version != 0) {
        st = lm_fail(err, LM_UNSUPPORTED,
                     "%s: a big-endian GGUF file: convert it with gguf_convert_endian.py first", path);
    } else if (version != 2 && version != 3) {
        st = lm_fail(err, LM_UNSUPPORTED, "%s: GGUF version %u, only 2 and 3 are known", path, version);
    }
    if (st == LM_OK) st = read_metadata(g, &c, n_keys, err);
    if (st == LM_OK) st = read_tensors(g, &c, n_tensors, err);
done:
    if (st != LM_OK) {
        lm_gguf_close(g);
        return st;
    }
    *out = g;
    return LM_OK;
}

void lm_gguf_close(lm_gguf *g) {
    if (!g) return;
    for (uint32_t i = 0; i < g->n_more; i++) lm_gguf_close(g->more[i]);
    free(g->more);
    lm_map_close(&g->map);
    free(g->path);
    free(g->entries);
    free(g->tensors);
    free(g->by_name);
    free(g);
}

uint64_t lm_gguf_size(const lm_gguf *g) {
    uint64_t sum = g->map.size;
    for (uint32_t i = 0; i < g->n_more; i++) sum += g->more[i]->map.size;
    return sum;
}

void lm_gguf_drop(const lm_gguf *g) {
    lm_map_drop(&g->map);
    for (uint32_t i = 0; i < g->n_more; i++) lm_map_drop(&g->more[i]->map);
}

/* ---- parts ----------------------------------------------------------------------------------------------- */

typedef struct split {
    uint32_t no, count, tensors; /* a whole file: 0 of 1 */
} split;

static lm_status read_split(const lm_gguf *g, split *out, lm_err *err) {
    split s = {0, 1, g->n_tensors};
    lm_status st = lm_gguf_u32(g, "split.count", &s.count, err);
    if (st == LM_OK && s.count == 0) s.count = 1; /* so says a file that was merged */
    if (st == LM_OK && s.count > 1) {
        st = lm_gguf_u32(g, "split.no", &s.no, err);
        if (st == LM_OK) st = lm_gguf_u32(g, "split.tensors.count", &s.tensors, err);
    }
    if (st == LM_OK && (s.count > PARTS_MAX || s.no >= s.count))
        st = lm_fail(err, LM_CORRUPT, "%s: says that it is part %llu of %u", g->path,
                     (unsigned long long)s.no + 1, s.count);
    if (st == LM_OK) *out = s;
    return st;
}

/* Puts one into its place among `all` parts, parts[0] to parts[count - 1]. */
static lm_status place_part(lm_gguf **parts, const split *all, lm_gguf *g, const char *first, lm_err *err) {
    split s = {0, 0, 0};
    lm_status st = read_split(g, &s, err);
    if (st != LM_OK) return st;
    if (s.count == 1)
        return lm_fail(err, LM_CORRUPT, "%s is a model of its own and no part of that of %s", g->path, first);
    if (s.count != all->count || s.tensors != all->tensors)
        return lm_fail(
            err, LM_CORRUPT,
            "%s is not of the same model as %s: one of %u parts with %u tensors, the other of %u with %u",
            g->path, first, s.count, s.tensors, all->count, all->tensors);
    if (parts[s.no])
        return lm_fail(err, LM_CORRUPT, "%s and %s are both part %u of %u", parts[s.no]->path, g->path,
                       s.no + 1, s.count);
    parts[s.no] = g;
    return LM_OK;
}

/* A later part may repeat who it is; then it must be the same. */
static lm_status same_model(const lm_gguf *a, const lm_gguf *b, lm_err *err) {
    static const char *const keys[] = {"general.architecture", "general.name"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        lm_str x = {NULL, 0}, y = {NULL, 0};
        lm_status st = lm_gguf_str(a, keys[i], &x, err);
        if (st == LM_OK) st = lm_gguf_str(b, keys[i], &y, err);
        if (st != LM_OK) return st;
        if (y.ptr && !lm_str_eq(x, y))
            return lm_fail(err, LM_CORRUPT, "%s is not of the same model as %s: %s differs", b->path, a->path,
                           keys[i]);
    }
    return LM_OK;
}

/* Gives the first part the tensors of all. On failure all of them are still the caller's to close. */
static lm_status join(lm_gguf **parts, const split *all, lm_err *err) {
    lm_gguf *g = parts[0];
    uint64_t n = 0;
    for (uint32_t i = 0; i < all->count; i++) {
        lm_status st = i ? same_model(g, parts[i], err) : LM_OK;
        if (st != LM_OK) return st;
        n += parts[i]->n_tensors;
    }
    if (n != all->tensors)
        return lm_fail(err, LM_CORRUPT, "%s: its %u parts hold %llu tensors, %u are announced", g->path,
                       all->count, (unsigned long long)n, all->tensors);
    lm_gguf_tensor *tensors = lm_try_alloc(n + 1, sizeof *tensors);
    const lm_gguf_tensor **by_name = lm_try_alloc(n + 1, sizeof *by_name);
    lm_gguf **more = lm_try_alloc(all->count, sizeof *more);
    if (!tensors || !by_name || !more) {
        free(tensors);
        free(by_name);
        free(more);
        return lm_fail(err, LM_NO_MEMORY, "%s: no memory for %llu tensors", g->path, (unsigned long long)n);
    }
    n = 0;
    for (uint32_t i = 0; i < all->count; i++) {
        for (uint32_t k = 0; k < parts[i]->n_tensors; k++, n++) {
            tensors[n] = parts[i]->tensors[k];
            by_name[n] = &tensors[n];
        }
    }
    free(g->tensors);
    free(g->by_name);
    g->tensors = tensors;
    g->by_name = by_name;
    g->n_tensors = (uint32_t)n;
    lm_status st = sort_names(g, err);
    if (st != LM_OK) {
        free(more);
        return st;
    }
    memcpy(more, parts + 1, (all->count - 1) * sizeof *more);
    g->more = more;
    g->n_more = all->count - 1;
    return LM_OK;
}

/* The name of part i, of a file that is named as gguf-split names parts; NULL when it is not. */
static char *name_of_part(const char *path, const split *s, uint32_t i) {
    char tail[64];
    int n = snprintf(tail, sizeof tail, "-%05u-of-%05u.gguf", s->no + 1, s->count);
    size_t len = strlen(path), cut = len - (size_t)n;
    if (len <= (size_t)n || strcmp(path + cut, tail) != 0) return NULL;
    char *name = lm_alloc(cut + sizeof tail);
    memcpy(name, path, cut);
    snprintf(name + cut, sizeof tail, "-%05u-of-%05u.gguf", i + 1, s->count);
    return name;
}

/* The parts beside g, which is in its place already. */
static lm_status open_beside(lm_gguf **parts, const split *s, const char *path, lm_err *err) {
    for (uint32_t i = 0; i < s->count; i++) {
        if (i == s->no) continue;
        lm_gguf *other = NULL;
        char *name = name_of_part(path, s, i);
        if (!name)
            return lm_fail(err, LM_NOT_FOUND,
                           "%s is part %u of %u of a model: give all of them, or name it "
                           "NAME-%05u-of-%05u.gguf with the "
                           "others beside it",
                           path, s->no + 1, s->count, s->no + 1, s->count);
        lm_status st = open_file(&other, name, err);
        if (st == LM_NOT_FOUND)
            st = lm_fail(err, st, "%s is part %u of %u of a model: %s is missing", path, s->no + 1, s->count,
                         name);
        if (st == LM_OK) {
            st = place_part(parts, s, other, path, err);
            if (st != LM_OK) lm_gguf_close(other);
        }
        free(name);
        if (st != LM_OK) return st;
    }
    return LM_OK;
}

static lm_status open_given(lm_gguf **parts, const split *s, const char *const *paths, uint32_t n,
                            lm_err *err) {
    for (uint32_t i = 1; i < n; i++) {
        lm_gguf *other = NULL;
        lm_status st = open_file(&other, paths[i], err);
        if (st != LM_OK) return st;
        st = place_part(parts, s, other, paths[0], err);
        if (st != LM_OK) {
            lm_gguf_close(other);
            return st;
        }
    }
    for (uint32_t i = 0; i < s->count; i++) {
        if (!parts[i])
            return lm_fail(err, LM_NOT_FOUND, "%s is part %u of %u of a model: part %u is missing", paths[0],
                           s->no + 1, s->count, i + 1);
    }
    return LM_OK;
}

lm_status lm_gguf_open_parts(lm_gguf **out, const char *const *paths, uint32_t n, lm_err *err) {
    lm_gguf *g = NULL;
    split s = {0, 1, 0};
    LM_ASSERT(n > 0);
    lm_status st = open_file(&g, paths[0], err);
    if (st == LM_OK) st = read_split(g, &s, err);
    if (st == LM_OK && s.count == 1 && n > 1)
        st = lm_fail(err, LM_CORRUPT, "%s is a whole model, and %s another file", paths[0], paths[1]);
    if (st != LM_OK || s.count == 1) {
        if (st == LM_OK)
            *out = g;
        else
            lm_gguf_close(g);
        return st;
    }
    lm_gguf **parts = lm_alloc(s.count * sizeof *parts);
    parts[s.no] = g;
    st = n == 1 ? open_beside(parts, &s, paths[0], err) : open_given(parts, &s, paths, n, err);
    if (st == LM_OK) st = join(parts, &s, err);
    if (st == LM_OK) *out = parts[0];
    for (uint32_t i = 0; st != LM_OK && i < s.count; i++) lm_gguf_close(parts[i]);
    free(parts);
    return st;
}

lm_status lm_gguf_open(lm_gguf **out, const char *path, lm_err *err) {
    return lm_gguf_open_parts(out, &path, 1, err);
}

/* ---- metadata -------------------------------------------------------------------------------------------- */

static const entry *find_entry(const lm_gguf *g, const char *key) {
    entry want = {.key = lm_str_of(key)};
    return g->n_entries ? bsearch(&want, g->entries, g->n_entries, sizeof want, entry_order) : NULL;
}

static lm_status mistyped(const lm_gguf *g, const char *key, const char *want, lm_err *err) {
    return lm_fail(err, LM_CORRUPT, "%s: metadata %s must be %s", g->path, key, want);
}

static bool is_int(value_type t) {
    return t <= I32 || t == U64 || t == I64;
}

static bool is_signed(value_type t) {
    return t == I8 || t == I16 || t == I32 || t == I64;
}

/* The integer at p; false when it does not fit an int64. */
static bool int_at(const uint8_t *p, value_type t, int64_t *out) {
    uint32_t size = value_size[t];
    uint64_t v = load(p, size);
    if (is_signed(t)) {
        uint32_t shift = 64 - 8 * size;
        *out = (int64_t)(v << shift) >> shift;
        return true;
    }
    *out = (int64_t)v;
    return v <= INT64_MAX;
}

static double number_at(const uint8_t *p, value_type t) {
    if (t == F32) {
        float f;
        uint32_t u = (uint32_t)load(p, 4);
        memcpy(&f, &u, 4);
        return (double)f;
    }
    if (t == F64) {
        double d;
        uint64_t u = load(p, 8);
        memcpy(&d, &u, 8);
        return d;
    }
    if (t == U64) return (double)load(p, 8);
    int64_t v = 0;
    return int_at(p, t, &v) ? (double)v : NAN;
}

bool lm_gguf_has(const lm_gguf *g, const char *key) {
    return find_entry(g, key) != NULL;
}

lm_status lm_gguf_str(const lm_gguf *g, const char *key, lm_str *out, lm_err *err) {
    const entry *e = find_entry(g, key);
    bool bad = false;
    if (!e) return LM_OK;
    if (e->is_array || e->type != STRING) return mistyped(g, key, "a string", err);
    lm_str s = {(const char *)e->at + 8, e->bytes - 8};
    if (lm_utf8_valid(s, &bad) != s.len) return mistyped(g, key, "valid UTF-8", err);
    *out = s;
    return LM_OK;
}

lm_status lm_gguf_u32(const lm_gguf *g, const char *key, uint32_t *out, lm_err *err) {
    const entry *e = find_entry(g, key);
    int64_t v = 0;
    if (!e) return LM_OK;
    if (e->is_array || !is_int(e->type) || !int_at(e->at, e->type, &v) || v < 0 || v > UINT32_MAX) {
        return mistyped(g, key, "a whole number below 2^32", err);
    }
    *out = (uint32_t)v;
    return LM_OK;
}

lm_status lm_gguf_float(const lm_gguf *g, const char *key, double *out, lm_err *err) {
    const entry *e = find_entry(g, key);
    if (!e) return LM_OK;
    if (e->is_array || e->type == STRING || e->type == BOOL) return mistyped(g, key, "a number", err);
    double v = number_at(e->at, e->type);
    if (!isfinite(v)) return mistyped(g, key, "a finite number", err);
    *out = v;
    return LM_OK;
}

lm_status lm_gguf_bool(const lm_gguf *g, const char *key, bool *out, lm_err *err) {
    const entry *e = find_entry(g, key);
    if (!e) return LM_OK;
    if (e->is_array || e->type != BOOL) return mistyped(g, key, "true or false", err);
    *out = *e->at != 0;
    return LM_OK;
}

/* Memory for the n values of e; the file holds all of them, so this is no blind trust. */
static void *room_for(const lm_gguf *g, const char *key, const entry *e, size_t size, lm_status *st,
                      lm_err *err) {
    void *p = lm_try_alloc(e->n ? e->n : 1, size);
    if (!p)
        *st = lm_fail(err, LM_NO_MEMORY, "%s: no memory for %llu values of %s", g->path,
                      (unsigned long long)e->n, key);
    return p;
}

lm_status lm_gguf_strs(const lm_gguf *g, const char *key, lm_str **out, uint32_t *n, lm_err *err) {
    const entry *e = find_entry(g, key);
    lm_status st = LM_OK;
    if (!e) return LM_OK;
    if (!e->is_array || e->type != STRING) return mistyped(g, key, "an array of strings", err);
    lm_str *strs = room_for(g, key, e, sizeof *strs, &st, err);
    if (!strs) return st;
    cursor c = {e->at, e->at + e->bytes, false};
    for (uint64_t i = 0; i < e->n; i++) strs[i] = take_str(&c);
    *out = strs;
    *n = (uint32_t)e->n;
    return LM_OK;
}

lm_status lm_gguf_i32s(const lm_gguf *g, const char *key, int32_t **out, uint32_t *n, lm_err *err) {
    const entry *e = find_entry(g, key);
    lm_status st = LM_OK;
    if (!e) return LM_OK;
    if (!is_int(e->type) && e->type != BOOL) return mistyped(g, key, "an array of whole numbers", err);
    int32_t *values = room_for(g, key, e, sizeof *values, &st, err);
    if (!values) return st;
    for (uint64_t i = 0; i < e->n; i++) {
        int64_t v = 0;
        if (!int_at(e->at + i * value_size[e->type], e->type, &v) || v < INT32_MIN || v > INT32_MAX) {
            free(values);
            return mistyped(g, key, "an array of 32-bit numbers", err);
        }
        values[i] = (int32_t)v;
    }
    *out = values;
    *n = (uint32_t)e->n;
    return LM_OK;
}

lm_status lm_gguf_floats(const lm_gguf *g, const char *key, float **out, uint32_t *n, lm_err *err) {
    const entry *e = find_entry(g, key);
    lm_status st = LM_OK;
    if (!e) return LM_OK;
    if (e->type == STRING || e->type == BOOL) return mistyped(g, key, "an array of numbers", err);
    float *values = room_for(g, key, e, sizeof *values, &st, err);
    if (!values) return st;
    for (uint64_t i = 0; i < e->n; i++)
        values[i] = (float)number_at(e->at + i * value_size[e->type], e->type);
    *out = values;
    *n = (uint32_t)e->n;
    return LM_OK;
}

/* ---- tensors --------------------------------------------------------------------------------------------- */

uint32_t lm_gguf_count(const lm_gguf *g) {
    return g->n_tensors;
}

const lm_gguf_tensor *lm_gguf_tensor_at(const lm_gguf *g, uint32_t i) {
    LM_ASSERT(i < g->n_tensors);
    return &g->tensors[i];
}

const lm_gguf_tensor *lm_gguf_find(const lm_gguf *g, const char *name) {
    lm_gguf_tensor want = {.name = lm_str_of(name)};
    const lm_gguf_tensor *key = &want;
    if (g->n_tensors == 0) return NULL;
    const lm_gguf_tensor **hit = bsearch(&key, g->by_name, g->n_tensors, sizeof key, name_order);
    return hit ? *hit : NULL;
}

/* adapter.c - a LoRA adapter into a draft: which of the files are one, and into the one form that is kept. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "store/adapter_private.h"
#include "store/own.h"

#define MAX_CONFIG  (1u << 20) /* bytes */
#define MAX_PAIRS   8192
#define MAX_RANK    65536
#define PIECE_BYTES (1u << 20)

/* ---- which files */

static const char *last_part(const char *name) {
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

static const lm_named_blob *named(const lm_named_blob *files, uint32_t n, const char *name) {
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(last_part(files[i].name), name)) return &files[i];
    return NULL;
}

/* The one file of weights: under a maker's own name (a directory of mlx-lm's holds earlier states of it,
 * too), or the only one. */
static const lm_named_blob *weights_of(const lm_named_blob *files, uint32_t n, uint32_t *n_weights) {
    const lm_named_blob *own = named(files, n, "adapters.safetensors"), *found = NULL;
    if (!own) own = named(files, n, "adapter_model.safetensors");
    *n_weights = own != NULL;
    if (own) return own;
    for (uint32_t i = 0; i < n; i++) {
        if (!lm_str_ends(lm_str_of(files[i].name), LM_STR(".safetensors"))) continue;
        found = &files[i];
        ++*n_weights;
    }
    return found;
}

lm_status lm_adapter_source_of(lm_store *s, const lm_named_blob *files, uint32_t n, lm_adapter_source *out,
                               lm_err *err) {
    const char *own = s->places[0].dir;
    lm_adapter_source source = {0};
    uint32_t n_weights = 0;
    const lm_named_blob *weights = weights_of(files, n, &n_weights),
                        *config = named(files, n, "adapter_config.json");
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bytes;
        if (!lm_blob_look(own, files[i].digest, &bytes))
            return lm_fail(err, LM_NOT_FOUND, "blob %s of \"%.200s\" is missing: upload it first",
                           files[i].digest, files[i].name);
    }
    for (uint32_t i = 0; i < n && !weights; i++) {
        char *blob = lm_blob_path(own, files[i].digest);
        if (lm_file_is_gguf(blob)) {
            source.gguf = true;
            weights = &files[i];
        } else if (n == 1 && !lm_str_ends(lm_str_of(files[i].name), LM_STR(".json"))) {
            weights = &files[i]; /* as /api/show names it, without an ending */
        }
        free(blob);
    }
    if (!weights) return lm_fail(err, LM_INVALID, "unknown type");
    if (n_weights > 1 || (source.gguf && n > 1))
        return lm_fail(err, LM_INVALID, "only one adapter is currently supported");
    memcpy(source.weights, weights->digest, sizeof source.weights);
    if (config && !source.gguf) memcpy(source.config, config->digest, sizeof source.config);
    *out = source;
    return LM_OK;
}

/* ---- the list */

/* What stands before "layers." or "lm_head" in checkpoints of text models, with and without eyes. */
static lm_str without_prefix(lm_str module) {
    static const char *const known[] = {"base_model.model.", "language_model.", "model.", "language_model.",
                                        "model."};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        lm_str prefix = lm_str_of(known[i]);
        if (lm_str_starts(module, prefix))
            module = (lm_str){module.ptr + prefix.len, module.len - prefix.len};
    }
    return module;
}

lm_status lm_lora_of(lm_loras *l, lm_str module, lm_lora **out, lm_err *err) {
    lm_str name = without_prefix(module);
    bool known = lm_str_starts(name, LM_STR("layers.")) || lm_str_eq(name, LM_STR("lm_head"));
    if (!known || name.len >= sizeof l->items->name)
        return lm_fail(
            err, LM_UNSUPPORTED,
            "the adapter changes %.*s, which is none of the matrices in a model's layers: merge it into "
            "the model instead",
            module.len > 200 ? 200 : (int)module.len, module.ptr);
    for (uint32_t i = l->n; i-- > 0;) { /* both halves mostly stand together */
        if (!lm_str_eq(name, lm_str_of(l->items[i].name))) continue;
        *out = &l->items[i];
        return LM_OK;
    }
    if (!l->items) l->items = lm_alloc(MAX_PAIRS * sizeof *l->items);
    if (l->n == MAX_PAIRS) return lm_fail(err, LM_CORRUPT, "an adapter of more than %d matrices", MAX_PAIRS);
    *out = &l->items[l->n++];
    memcpy((*out)->name, name.ptr, name.len);
    return LM_OK;
}

void lm_loras_release(lm_loras *l) {
    free(l->items);
    *l = (lm_loras){0};
}

lm_status lm_lora_put(lm_lora_half *half, const char *tensor, const lm_view *v, bool turned, lm_err *err) {
    bool stack = v->n_dims == 3;
    if (stack) turned = false;
    if (v->n_dims != 2 && !stack)
        return lm_fail(err, LM_UNSUPPORTED, "the adapter's %.200s has %u dimensions: that is no matrix",
                       tensor, v->n_dims);
    if (v->dtype != LM_F32 && v->dtype != LM_F16 && v->dtype != LM_BF16)
        return lm_fail(err, LM_UNSUPPORTED, "the adapter's %.200s is of type %s: use one in F32, F16 or BF16",
                       tensor, lm_dtype_name(v->dtype));
    if (half->data) return lm_fail(err, LM_CORRUPT, "the adapter has %.200s twice", tensor);
    *half = (lm_lora_half){.data = v->data,
                           .dtype = v->dtype,
                           .rows = v->dims[stack + turned],
                           .cols = v->dims[stack + !turned],
                           .n_experts = stack ? v->dims[0] : 0,
                           .turned = turned};
    return LM_OK;
}

lm_status lm_loras_check(const lm_loras *l, lm_err *err) {
    if (!l->n) return lm_fail(err, LM_CORRUPT, "the adapter changes nothing: it holds no matrices");
    for (uint32_t i = 0; i < l->n; i++) {
        const lm_lora *p = &l->items[i];
        if (!p->a.data || !p->b.data || !p->scaled)
            return lm_fail(err, LM_CORRUPT, "the adapter has only a part of %s", p->name);
        if (!p->a.rows || p->a.rows > MAX_RANK || p->a.rows != p->b.cols || !p->a.cols || !p->b.rows)
            return lm_fail(
                err, LM_CORRUPT,
                "the adapter's matrices of %s are of rank %llu and %llu: they don't belong together", p->name,
                (unsigned long long)p->a.rows, (unsigned long long)p->b.cols);
        if (p->a.n_experts != p->b.n_experts || p->a.n_experts > UINT32_MAX)
            return lm_fail(err, LM_CORRUPT, "the adapter's matrices of %s are of %llu and %llu experts",
                           p->name, (unsigned long long)p->a.n_experts, (unsigned long long)p->b.n_experts);
        if (p->b.heads && p->b.rows % (2 * (uint64_t)p->b.heads))
            return lm_fail(err, LM_CORRUPT, "the adapter changes %llu rows of %s, which %u heads can't share",
                           (unsigned long long)p->b.rows, p->name, p->b.heads);
    }
    return LM_OK;
}

/* ---- the file */

/* All rows, of all experts. */
static uint64_t rows_in(const lm_lora_half *h) {
    return (h->n_experts ? h->n_experts : 1) * h->rows;
}

/* Rows [first, first + n) as they are kept. */
static void rows_of(const lm_lora_half *h, uint64_t first, uint64_t n, uint8_t *out) {
    uint64_t size = lm_dtype_size(h->dtype);
    for (uint64_t r = first; r < first + n; r++) {
        uint64_t from = lm_family_row(h->heads, r, h->rows);
        if (!h->turned) {
            memcpy(out, h->data + from * h->cols * size, h->cols * size);
            out += h->cols * size;
            continue;
        }
        for (uint64_t c = 0; c < h->cols; c++, out += size)
            memcpy(out, h->data + (c * h->rows + from) * size, size);
    }
}

static lm_status put_half(lm_writer *w, uint32_t at, const lm_lora_half *h, lm_err *err) {
    uint64_t row = h->cols * lm_dtype_size(h->dtype), n = row < PIECE_BYTES ? PIECE_BYTES / row : 1;
    uint8_t *piece = lm_try_alloc(n, row);
    lm_status st = piece ? LM_OK : lm_fail(err, LM_NO_MEMORY, "no memory to convert an adapter");
    for (uint64_t r = 0, rows = rows_in(h); r < rows && st == LM_OK; r += n) {
        if (rows - r < n) n = rows - r;
        rows_of(h, r, n, piece);
        st = lm_writer_put(w, at, r * row, piece, n * row, err);
    }
    free(piece);
    return st;
}

static lm_tensor_spec spec_of(const lm_lora *p, const char *part, const lm_lora_half *h) {
    char name[240];
    snprintf(name, sizeof name, "%s.%s", p->name, part);
    lm_tensor_spec spec = {.name = lm_strdup(name), .dtype = h->dtype};
    if (h->n_experts) spec.dims[spec.n_dims++] = h->n_experts;
    spec.dims[spec.n_dims++] = h->rows;
    spec.dims[spec.n_dims++] = h->cols;
    return spec;
}

lm_status lm_loras_write(const lm_loras *l, const char *path, lm_err *err) {
    lm_tensor_spec *specs = lm_alloc(3 * (size_t)l->n * sizeof *specs);
    lm_writer *w = NULL;
    for (uint32_t i = 0; i < l->n; i++) {
        const lm_lora *p = &l->items[i];
        specs[3 * i] = spec_of(p, "lora_a", &p->a);
        specs[3 * i + 1] = spec_of(p, "lora_b", &p->b);
        specs[3 * i + 2] = spec_of(p, "scale", &(lm_lora_half){.dtype = LM_F32});
        specs[3 * i + 2].n_dims = 1;
        specs[3 * i + 2].dims[0] = 1;
    }
    lm_status st = lm_writer_open(&w, path, specs, 3 * l->n, err);
    for (uint32_t i = 0; i < 3 * l->n; i++) free((char *)(uintptr_t)specs[i].name);
    free(specs);
    if (st != LM_OK) return st;
    for (uint32_t i = 0; i < l->n && st == LM_OK; i++) {
        const lm_lora *p = &l->items[i];
        st = put_half(w, 3 * i, &p->a, err);
        if (st == LM_OK) st = put_half(w, 3 * i + 1, &p->b, err);
        if (st == LM_OK) st = lm_writer_put(w, 3 * i + 2, 0, &p->scale, sizeof p->scale, err);
    }
    if (st == LM_OK) return lm_writer_finish(w, err);
    lm_writer_abort(w);
    return st;
}

static lm_status from_safetensors(const char *file, const char *config_file, const char *path, lm_err *err) {
    lm_loras l = {0};
    lm_weights *w = NULL;
    json_t *config = NULL;
    char *dir = lm_str_dup((lm_str){file, (size_t)(last_part(file) - file)});
    lm_status st = config_file ? lm_json_load(config_file, MAX_CONFIG, &config, err) : LM_OK;
    if (st == LM_OK) st = lm_weights_open_file(&w, dir[0] ? dir : ".", last_part(file), err);
    if (st == LM_OK) st = lm_loras_safetensors(&l, w, config, err);
    if (st == LM_OK) st = lm_loras_check(&l, err);
    if (st == LM_OK) st = lm_loras_write(&l, path, err);
    lm_loras_release(&l);
    lm_weights_close(w);
    json_decref(config);
    free(dir);
    return st;
}

static lm_status from_gguf(const char *file, const lm_model_info *base, const char *path, lm_err *err) {
    lm_loras l = {0};
    lm_gguf *g = NULL;
    lm_status st = lm_gguf_open(&g, file, err);
    if (st == LM_OK) st = lm_loras_gguf(&l, g, base, err);
    if (st == LM_OK) st = lm_loras_check(&l, err);
    if (st == LM_OK) st = lm_loras_write(&l, path, err);
    lm_loras_release(&l);
    lm_gguf_close(g);
    return st;
}

lm_status lm_import_adapter(const char *weights, const char *config, const char *base_dir, const char *path,
                            lm_err *err) {
    lm_model_info base;
    if (!lm_file_is_gguf(weights)) return from_safetensors(weights, config, path, err);
    lm_status st = lm_model_inspect(base_dir, &base, err);
    return st == LM_OK ? from_gguf(weights, &base, path, err) : st;
}

/* draft.c - a model in the making: layers are gathered, a manifest is written over them.
 *
 * Blobs are in the store before the manifest that names them, and each is on the disk before it has its name,
 * so there is no moment at which half a model could be seen. .users is held from the first blob to the
 * manifest.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "model/model.h"
#include "store/own.h"

#define MAX_TEXT    (16u << 20) /* of a Modelfile's part */
#define MAX_LICENSE (1u << 20)
#define MAX_CONFIG  (8u << 20)
#define TYPE_FILE   "application/vnd.mlx-ollama.image.file"

struct lm_draft {
    const char *own; /* the store's */
    lm_store *store;
    int users;
    lm_manifest m;
    json_t *config; /* of the model that it comes from, or NULL */
    char *requires;
    lm_buf adopted; /* the manifest as it came, or empty */
    char *staging;
    char *view; /* of lm_draft_check, in OWN/work */
    lm_model_info info;
    bool checked, committed;
};

lm_status lm_draft_open(lm_draft **out, lm_store *s, lm_err *err) {
    int users = -1;
    lm_status st = lm_own_use(s->places[0].dir, &users, err);
    if (st != LM_OK) return st;
    lm_draft *d = lm_alloc(sizeof *d);
    d->store = s;
    d->own = s->places[0].dir;
    d->users = users;
    lm_buf_init(&d->adopted, MAX_TEXT);
    *out = d;
    return LM_OK;
}

static void remove_tree(char **path) {
    if (*path && lm_dir_remove(*path, NULL) != LM_OK) (void)0; /* pruning takes it */
    free(*path);
    *path = NULL;
}

/* Blobs that came with a draft of which nothing became are noted as those of a removed model: pruned now, and
 * not in an hour. Best effort: where it fails the hour holds. */
static void give_up(lm_draft *d, const lm_layer *layers, uint32_t n) {
    lm_manifest gone = {0};
    lm_buf text;
    lm_buf_init(&text, 64u << 20);
    for (uint32_t i = 0; i < n; i++)
        if (!layers[i].existing) *lm_manifest_add(&gone, "", "") = layers[i];
    if (gone.n) {
        gone.config = gone.layers[0];
        lm_manifest_write(&gone, &text);
        lm_own_note_removed(d->own, lm_buf_view(&text));
    }
    free(gone.layers); /* their texts are the draft's */
    lm_buf_release(&text);
}

void lm_draft_close(lm_draft *d) {
    if (!d) return;
    if (!d->committed) give_up(d, d->m.layers, d->m.n);
    remove_tree(&d->staging);
    remove_tree(&d->view);
    close(d->users);
    lm_own_prune(d->own, time(NULL));
    lm_manifest_release(&d->m);
    lm_buf_release(&d->adopted);
    json_decref(d->config);
    free(d->requires);
    free(d);
}

/* ---- layers */

static lm_status add_layer(lm_draft *d, const char *type, const char *name, const char *digest, bool existing,
                           lm_err *err) {
    uint64_t size = 0;
    if (!lm_blob_look(d->own, digest, &size))
        return lm_fail(err, LM_NOT_FOUND, "blob %s is missing: upload it first", digest);
    for (uint32_t i = 0; name[0] && i < d->m.n; i++)
        if (!strcasecmp(d->m.layers[i].name, name))
            return lm_fail(err, LM_INVALID, "file \"%.200s\" is there twice", name);
    lm_layer *l = lm_manifest_add(&d->m, type, name);
    memcpy(l->digest, digest, LM_DIGEST_SIZE);
    l->size = size;
    l->existing = existing;
    return LM_OK;
}

static const char *type_of(lm_layer_kind kind, char type[96]) {
    snprintf(type, 96, LM_TYPE_IMAGE "%s", lm_layer_kind_name(kind));
    return type;
}

lm_status lm_draft_add(lm_draft *d, lm_layer_kind kind, lm_str text, lm_err *err) {
    char digest[LM_DIGEST_SIZE], type[96];
    bool existing = false;
    LM_ASSERT(kind != LM_LAYER_FILE && kind < LM_LAYER_KINDS);
    lm_status st = lm_blob_put(d->own, text, digest, &existing, err);
    return st == LM_OK ? add_layer(d, type_of(kind, type), "", digest, existing, err) : st;
}

void lm_draft_drop(lm_draft *d, lm_layer_kind kind) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->m.n; i++) {
        if (lm_layer_kind_of(&d->m.layers[i]) == kind)
            free(d->m.layers[i].from);
        else
            d->m.layers[n++] = d->m.layers[i];
    }
    d->m.n = n;
}

lm_status lm_draft_text(lm_draft *d, lm_layer_kind kind, lm_buf *out, lm_err *err) {
    for (uint32_t i = 0; i < d->m.n; i++) {
        if (lm_layer_kind_of(&d->m.layers[i]) != kind) continue;
        char *path = lm_blob_path(d->own, d->m.layers[i].digest);
        lm_status st = lm_file_read(path, MAX_TEXT, out, err);
        free(path);
        return st;
    }
    return LM_OK;
}

void lm_draft_requires(lm_draft *d, const char *version) {
    free(d->requires);
    d->requires = lm_strdup(version);
}

/* ---- files */

static bool ends(const char *name, const char *suffix) {
    size_t n = strlen(name), k = strlen(suffix);
    return n >= k && !strcasecmp(name + n - k, suffix);
}

/* Makers ship their terms under many names; a text becomes the layer that Ollama has for it. */
static bool is_license_text(const char *name, const char *blob) {
    lm_buf text;
    bool bad = false;
    if (strncasecmp(name, "license", 7)) return false;
    lm_buf_init(&text, MAX_LICENSE);
    bool ok = lm_file_read(blob, MAX_LICENSE, &text, NULL) == LM_OK && text.len &&
              !memchr(text.ptr, '\0', text.len) && lm_utf8_valid(lm_buf_view(&text), &bad) == text.len;
    lm_buf_release(&text);
    return ok;
}

/* A plain directory may hold what a Modelfile adds, under the names that views give it. */
static lm_layer_kind kind_of_file(const char *name, const char *blob) {
    for (int k = LM_LAYER_FILE + 1; k < LM_LAYER_LICENSE; k++)
        if (!strcmp(name, lm_layer_kind_name((lm_layer_kind)k))) return (lm_layer_kind)k;
    return is_license_text(name, blob) ? LM_LAYER_LICENSE : LM_LAYER_FILE;
}

static lm_status add_file(lm_draft *d, const char *name, const char *digest, bool existing, lm_err *err) {
    char type[96];
    char *blob = lm_blob_path(d->own, digest);
    lm_layer_kind kind = kind_of_file(name, blob);
    lm_status st = LM_OK;
    if (kind != LM_LAYER_FILE)
        st = add_layer(d, type_of(kind, type), "", digest, existing, err);
    else if (!lm_layer_file_ok(name))
        st = lm_fail(err, LM_INVALID, "\"%.200s\" cannot be the name of a model's file", name);
    else
        st =
            add_layer(d, ends(name, ".json") ? LM_TYPE_IMAGE "json" : TYPE_FILE, name, digest, existing, err);
    free(blob);
    return st;
}

lm_status lm_draft_file(lm_draft *d, const char *name, const char *path, lm_take take, const char *want,
                        lm_store_progress *progress, void *ctx, lm_err *err) {
    char digest[LM_DIGEST_SIZE];
    bool existing = false;
    lm_status st = lm_blob_take(d->own, path, take, want, progress, ctx, digest, &existing, err);
    return st == LM_OK ? add_file(d, name, digest, existing, err) : st;
}

lm_status lm_draft_blob(lm_draft *d, const char *name, const char *digest, lm_err *err) {
    uint64_t bytes;
    if (!lm_blob_look(d->own, digest, &bytes))
        return lm_fail(err, LM_NOT_FOUND, "blob %s of \"%.200s\" is missing: upload it first", digest, name);
    return add_file(d, name, digest, true, err);
}

/* ---- whole directories */

typedef struct sum {
    lm_store_progress *progress;
    void *ctx;
    uint64_t before, total;
} sum;

static bool add_up(void *ctx, uint64_t done, uint64_t total) {
    const sum *s = ctx;
    (void)total;
    return !s->progress || s->progress(s->ctx, s->before + done, s->total);
}

static lm_status take_requires(lm_draft *d, const char *path, lm_err *err) {
    lm_buf text;
    lm_buf_init(&text, 256);
    lm_status st = lm_file_read(path, 200, &text, err);
    if (st == LM_OK && text.len) {
        char *version = lm_str_dup(lm_str_trim(lm_buf_view(&text)));
        lm_draft_requires(d, version);
        free(version);
    }
    lm_buf_release(&text);
    return st;
}

/* others: only what a conversion does not write anew. */
static lm_status add_files(lm_draft *d, const char *dir, lm_take take, bool others,
                           lm_store_progress *progress, void *ctx, lm_err *err) {
    lm_files files = {0};
    sum s = {.progress = progress, .ctx = ctx};
    lm_status st = lm_files_list(dir, &files, err);
    s.total = files.bytes;
    for (uint32_t i = 0; st == LM_OK && i < files.n; i++) {
        char *path = lm_path_join(dir, files.items[i]);
        struct stat info;
        uint64_t bytes = stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
        if (!strcmp(files.items[i], "requires"))
            st = take_requires(d, path, err);
        else if (!others || !lm_file_is_converted(files.items[i]))
            st = lm_draft_file(d, files.items[i], path, take, NULL, add_up, &s, err);
        s.before += bytes;
        free(path);
    }
    lm_files_release(&files);
    return st;
}

static lm_status add_dir(lm_draft *d, const char *dir, lm_take take, lm_store_progress *progress, void *ctx,
                         lm_err *err) {
    return add_files(d, dir, take, false, progress, ctx, err);
}

/* ---- from a model */

typedef struct search {
    const char *digest;
    lm_buf text;
    lm_manifest m;
    bool found;
} search;

static bool try_manifest(void *ctx, const lm_name *name, const char *path) {
    search *s = ctx;
    char hex[65];
    (void)name;
    if (lm_manifest_load(path, &s->text, &s->m, NULL) != LM_OK) return true;
    lm_blob_hex(lm_buf_view(&s->text), hex);
    s->found = !strcmp(hex, s->digest);
    if (s->found) return false;
    lm_manifest_release(&s->m);
    lm_buf_release(&s->text);
    return true;
}

/* Its manifest, whichever name it is found by now; the caller releases text and m. */
static lm_status find_manifest(const char *own, const lm_entry *model, search *s, lm_err *err) {
    *s = (search){.digest = model->digest};
    lm_manifests_walk(own, NULL, try_manifest, s);
    return s->found ? LM_OK : lm_fail(err, LM_NOT_FOUND, "model '%s' not found", model->name);
}

static lm_status from_manifest(lm_draft *d, const lm_entry *model, lm_err *err) {
    search s;
    lm_status st = find_manifest(d->own, model, &s, err);
    if (st != LM_OK) return st;
    lm_buf_release(&s.text);
    d->m = s.m;
    for (uint32_t i = 0; i < d->m.n; i++) d->m.layers[i].existing = true;
    char *path = lm_blob_path(d->own, d->m.config.digest);
    st = lm_json_load(path, MAX_CONFIG, &d->config, err);
    free(path);
    return st;
}

static void note_from(lm_draft *d, const lm_entry *model) {
    for (uint32_t i = 0; i < d->m.n; i++) {
        lm_layer *l = &d->m.layers[i];
        if (lm_layer_kind_of(l) == LM_LAYER_FILE && !l->from) l->from = lm_strdup(model->name);
    }
}

lm_status lm_draft_from(lm_draft *d, const lm_entry *model, lm_store_progress *progress, void *ctx,
                        lm_err *err) {
    LM_ASSERT(d->m.n == 0);
    lm_status st = model->managed ? from_manifest(d, model, err)
                                  : add_dir(d, model->dir, LM_TAKE_LINK, progress, ctx, err);
    for (uint32_t i = 0; st == LM_OK && i < d->m.n; i++) {
        lm_layer *l = &d->m.layers[i];
        if (lm_layer_kind_of(l) != LM_LAYER_FILE) continue;
        free(l->from); /* the nearest one counts, as with Ollama: it is the one that a push may find at its
                          place */
        l->from = lm_strdup(model->name);
    }
    return st;
}

void lm_draft_note_origin(lm_draft *d, const char *origin) {
    for (uint32_t i = 0; i < d->m.n; i++) {
        lm_layer *l = &d->m.layers[i];
        if (lm_layer_kind_of(l) == LM_LAYER_FILE && !l->from) l->from = lm_strdup(origin);
    }
}

typedef struct origin {
    lm_draft *d;
    const char *text;
} origin;

/* All files of one manifest or none: a model that was made of it may have others beside some of them. */
static bool take_of_origin(void *ctx, const lm_name *name, const char *path) {
    const origin *o = ctx;
    lm_buf text;
    lm_manifest m = {0};
    bool ok = true;
    (void)name;
    if (lm_manifest_load(path, &text, &m, NULL) != LM_OK) return true;
    for (uint32_t i = 0; ok && i < m.n; i++) {
        const lm_layer *l = &m.layers[i];
        if (lm_layer_kind_of(l) != LM_LAYER_FILE) continue;
        ok = l->from && !strcmp(l->from, o->text) &&
             add_layer(o->d, l->type, l->name, l->digest, true, NULL) == LM_OK;
    }
    if (!ok) lm_draft_drop(o->d, LM_LAYER_FILE);
    lm_manifest_release(&m);
    lm_buf_release(&text);
    return o->d->m.n == 0;
}

bool lm_draft_from_origin(lm_draft *d, const char *text) {
    origin o = {d, text};
    LM_ASSERT(d->m.n == 0);
    lm_manifests_walk(d->own, NULL, take_of_origin, &o);
    lm_draft_note_origin(d, text);
    return d->m.n > 0;
}

lm_status lm_draft_staging(lm_draft *d, const char **dir, lm_err *err) {
    lm_status st = LM_OK;
    if (!d->staging) {
        st = lm_own_temp(d->own, &d->staging, err);
        if (st == LM_OK && mkdir(d->staging, 0755) != 0) st = lm_own_fail(err, "make directory", d->staging);
        if (st != LM_OK) {
            free(d->staging);
            d->staging = NULL;
        }
    }
    if (st == LM_OK) *dir = d->staging;
    return st;
}

lm_status lm_draft_import(lm_draft *d, const lm_gguf_file *files, uint32_t n, lm_store_progress *progress,
                          void *ctx, lm_err *err) {
    const char *staging = NULL;
    char **paths = lm_alloc((n + 1) * sizeof *paths);
    lm_status st = lm_draft_staging(d, &staging, err);
    for (uint32_t i = 0; i < n && st == LM_OK; i++) {
        uint64_t bytes;
        if (files[i].path)
            paths[i] = lm_strdup(files[i].path);
        else if (lm_blob_look(d->own, files[i].digest, &bytes))
            paths[i] = lm_blob_path(d->own, files[i].digest);
        else
            st = lm_fail(err, LM_NOT_FOUND, "blob %s is missing: upload it first", files[i].digest);
    }
    if (st == LM_OK) {
        char *made = lm_path_join(staging, "model"), *weights = lm_path_join(made, "model.safetensors");
        char digest[LM_DIGEST_SIZE];
        bool existing = false;
        st = lm_import_parts((const char *const *)paths, n, made, digest, progress, ctx, err);
        if (st == LM_OK) st = lm_blob_keep(d->own, weights, digest, &existing, err);
        if (st == LM_OK) st = add_file(d, "model.safetensors", digest, existing, err);
        if (st == LM_OK) st = add_dir(d, made, LM_TAKE_MOVE, NULL, NULL, err);
        free(weights);
        free(made);
    }
    for (uint32_t i = 0; i < n; i++) free(paths[i]);
    free(paths);
    return st;
}

/* The draft as the model directory that it would be, d->view. */
static lm_status make_view(lm_draft *d, lm_err *err) {
    remove_tree(&d->view);
    lm_status st = lm_own_temp(d->own, &d->view, err);
    return st == LM_OK ? lm_view_make(d->own, &d->m, d->view, err) : st;
}

/* ---- converted */

lm_status lm_draft_look(lm_draft *d, lm_form_info *out, lm_err *err) {
    lm_status st = make_view(d, err);
    return st == LM_OK ? lm_convert_look(d->view, out, err) : st;
}

static void drop_weights(lm_draft *d) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->m.n; i++) {
        lm_layer l = d->m.layers[i];
        if (lm_layer_kind_of(&l) == LM_LAYER_FILE && lm_file_is_converted(l.name)) {
            give_up(d, &l, 1);
            free(l.from);
        } else {
            d->m.layers[n++] = l;
        }
    }
    d->m.n = n;
}

/* The weights of dir in their new form, in place of those that the draft has. */
static lm_status add_converted(lm_draft *d, const char *dir, const lm_conversion *how,
                               lm_store_progress *progress, void *ctx, lm_err *err) {
    const char *staging = NULL;
    lm_status st = lm_draft_staging(d, &staging, err);
    if (st != LM_OK) return st;
    char *made = lm_path_join(staging, "converted");
    if (mkdir(made, 0755) != 0) st = lm_own_fail(err, "make directory", made);
    if (st == LM_OK) st = lm_convert_dir(dir, made, how, progress, ctx, err);
    if (st == LM_OK) {
        drop_weights(d);
        st = add_dir(d, made, LM_TAKE_MOVE, NULL, NULL, err);
    }
    free(made);
    if (st == LM_OK) st = lm_draft_check(d, err);
    if (st == LM_OK && json_is_object(d->config))
        json_object_set_new(d->config, "file_type", json_string(d->info.quantization));
    return st;
}

lm_status lm_draft_convert(lm_draft *d, const lm_conversion *how, lm_store_progress *progress, void *ctx,
                           lm_err *err) {
    lm_status st = make_view(d, err);
    return st == LM_OK ? add_converted(d, d->view, how, progress, ctx, err) : st;
}

lm_status lm_draft_from_converted(lm_draft *d, const lm_entry *model, const lm_conversion *how,
                                  lm_store_progress *progress, void *ctx, lm_err *err) {
    LM_ASSERT(d->m.n == 0 && !model->managed);
    lm_status st = add_files(d, model->dir, LM_TAKE_LINK, true, NULL, NULL, err);
    if (st == LM_OK) st = add_converted(d, model->dir, how, progress, ctx, err);
    if (st == LM_OK) note_from(d, model);
    return st;
}

/* ---- an adapter */

lm_status lm_draft_adapter(lm_draft *d, const lm_adapter_source *source, lm_err *err) {
    const char *staging = NULL;
    char digest[LM_DIGEST_SIZE], type[96];
    bool existing = false;
    for (uint32_t i = 0; i < d->m.n; i++) {
        if (lm_layer_kind_of(&d->m.layers[i]) != LM_LAYER_ADAPTER) continue;
        if (!strcmp(d->m.layers[i].digest, source->weights))
            return LM_OK; /* as /api/show says of the model */
        return lm_fail(
            err, LM_INVALID,
            "only one adapter is currently supported, and the model has one: create from the model "
            "that it was made of");
    }
    lm_status st = lm_draft_check(d, err); /* the view is of the model alone */
    if (st == LM_OK) st = lm_draft_staging(d, &staging, err);
    if (st != LM_OK) return st;
    char *weights = lm_blob_path(d->own, source->weights), *made = lm_path_join(staging, LM_ADAPTER_FILE);
    char *config = source->config[0] ? lm_blob_path(d->own, source->config) : NULL;
    st = lm_import_adapter(weights, config, d->view, made, err);
    if (st == LM_OK) st = lm_blob_take(d->own, made, LM_TAKE_MOVE, NULL, NULL, NULL, digest, &existing, err);
    if (st == LM_OK) st = add_layer(d, type_of(LM_LAYER_ADAPTER, type), "", digest, existing, err);
    if (st == LM_OK) st = lm_draft_check(d, err);
    free(config);
    free(made);
    free(weights);
    return st;
}

/* ---- as it was made elsewhere */

lm_status lm_draft_take(lm_draft *d, const char *path, lm_take take, const char *want,
                        lm_store_progress *progress, void *ctx, lm_err *err) {
    char digest[LM_DIGEST_SIZE];
    bool existing = false;
    return lm_blob_take(d->own, path, take, want, progress, ctx, digest, &existing, err);
}

lm_status lm_draft_adopt(lm_draft *d, lm_str text, lm_err *err) {
    LM_ASSERT(d->m.n == 0);
    lm_status st = lm_manifest_parse(text, &d->m, err);
    for (uint32_t i = 0; st == LM_OK && i <= d->m.n; i++) {
        const lm_layer *l = i < d->m.n ? &d->m.layers[i] : &d->m.config;
        uint64_t size = 0;
        if (!lm_blob_look(d->own, l->digest, &size) || size != l->size)
            st =
                lm_fail(err, LM_CORRUPT, "blob %s of the manifest is missing, or of another size", l->digest);
    }
    if (st == LM_OK) lm_buf_str(&d->adopted, text);
    return st == LM_OK ? lm_buf_status(&d->adopted, "the manifest", err) : st;
}

/* ---- the end */

lm_status lm_draft_check(lm_draft *d, lm_err *err) {
    lm_status st = make_view(d, err);
    if (st == LM_OK) st = lm_model_inspect(d->view, &d->info, err);
    d->checked = st == LM_OK;
    return st;
}

static json_t *load_config(lm_draft *d) {
    json_t *config = NULL;
    for (uint32_t i = 0; !config && i < d->m.n; i++) {
        if (strcmp(d->m.layers[i].name, "config.json")) continue;
        char *path = lm_blob_path(d->own, d->m.layers[i].digest);
        if (lm_json_load(path, MAX_CONFIG, &config, NULL) != LM_OK) config = NULL;
        free(path);
    }
    return config;
}

static json_t *new_config(lm_draft *d) {
    json_t *config = load_config(d), *out = json_object();
    const char *family = json_string_value(json_object_get(config, "model_type"));
    json_object_set_new(out, "model_format", json_string("safetensors"));
    json_object_set_new(out, "model_family", json_string(family ? family : "unknown"));
    json_object_set_new(out, "model_families", json_pack("[s]", family ? family : "unknown"));
    if (d->checked) json_object_set_new(out, "file_type", json_string(d->info.quantization));
    json_object_set_new(out, "architecture", json_string("amd64"));
    json_object_set_new(out, "os", json_string("linux"));
    json_decref(config);
    return out;
}

/* What Ollama keeps beside the layers. */
static lm_status add_config(lm_draft *d, lm_err *err) {
    json_t *out = json_is_object(d->config) ? json_copy(d->config) : new_config(d), *ids = json_array();
    if (d->requires) json_object_set_new(out, "requires", json_string(d->requires));
    for (uint32_t i = 0; i < d->m.n; i++) json_array_append_new(ids, json_string(d->m.layers[i].digest));
    json_object_set_new(out, "rootfs", json_pack("{s:s,s:o}", "type", "layers", "diff_ids", ids));

    lm_buf text;
    lm_buf_init(&text, MAX_TEXT);
    lm_json_write_value(&text, out);
    lm_status st = lm_buf_status(&text, "the model's config", err);
    d->m.config = (lm_layer){.type = LM_TYPE_CONFIG, .size = text.len};
    if (st == LM_OK)
        st = lm_blob_put(d->own, lm_buf_view(&text), d->m.config.digest, &d->m.config.existing, err);
    lm_buf_release(&text);
    json_decref(out);
    return st;
}

lm_status lm_draft_commit(lm_draft *d, const char *text, lm_draft_layer *layer, void *ctx, lm_err *err) {
    lm_name name;
    lm_buf b;
    lm_buf_init(&b, 64u << 20);
    lm_status st = lm_name_parse(lm_str_of(text), &name, err);
    if (st == LM_OK && !d->adopted.len) st = add_config(d, err);
    if (st != LM_OK) return st;
    for (uint32_t i = 0; layer && i < d->m.n; i++) layer(ctx, d->m.layers[i].digest, d->m.layers[i].existing);
    if (layer) layer(ctx, d->m.config.digest, d->m.config.existing);
    if (layer) layer(ctx, NULL, false);
    if (d->adopted.len)
        lm_buf_str(&b, lm_buf_view(&d->adopted));
    else
        lm_manifest_write(&d->m, &b);
    st = lm_buf_status(&b, "the manifest", err);
    if (st == LM_OK) st = lm_own_publish(d->store, &name, lm_buf_view(&b), err);
    d->committed = st == LM_OK;
    lm_buf_release(&b);
    return st;
}

/* ---- to send it elsewhere */

static void add_part(lm_contents *p, const char *own, const lm_layer *l) {
    lm_content *part = &p->items[p->n++];
    *part = (lm_content){.kind = lm_layer_kind_of(l), .size = l->size};
    memcpy(part->type, l->type, sizeof part->type);
    memcpy(part->name, l->name, sizeof part->name);
    memcpy(part->digest, l->digest, sizeof part->digest);
    part->path = lm_blob_path(own, l->digest);
    part->from = l->from ? lm_strdup(l->from) : NULL;
}

lm_status lm_draft_contents(lm_draft *d, const lm_entry *model, lm_store_progress *progress, void *ctx,
                            lm_contents *out, lm_err *err) {
    search s = {0};
    lm_status st = LM_OK;
    if (model->managed) { /* as it is, to the byte: its sha256 is the model's */
        st = find_manifest(d->own, model, &s, err);
        for (uint32_t i = 0; i < s.m.n; i++) s.m.layers[i].existing = true;
        d->m = s.m;
    } else {
        lm_buf_init(&s.text, MAX_TEXT);
        st = lm_draft_from(d, model, progress, ctx, err);
        for (uint32_t i = 0; i < d->m.n; i++) { /* nobody's but this disk's */
            free(d->m.layers[i].from);
            d->m.layers[i].from = NULL;
        }
        if (st == LM_OK) st = add_config(d, err);
        if (st == LM_OK) lm_manifest_write(&d->m, &s.text);
        if (st == LM_OK) st = lm_buf_status(&s.text, "the manifest", err);
    }
    if (st != LM_OK) {
        lm_buf_release(&s.text);
        return st;
    }
    *out = (lm_contents){.items = lm_alloc((d->m.n + 1) * sizeof *out->items), .manifest = s.text};
    for (uint32_t i = 0; i < d->m.n; i++) add_part(out, d->own, &d->m.layers[i]);
    add_part(out, d->own, &d->m.config);
    out->items[out->n - 1].kind = LM_LAYER_KINDS;
    return LM_OK;
}

void lm_contents_release(lm_contents *p) {
    for (uint32_t i = 0; i < p->n; i++) {
        free(p->items[i].path);
        free(p->items[i].from);
    }
    free(p->items);
    lm_buf_release(&p->manifest);
    *p = (lm_contents){0};
}

/* ---- in one */

lm_status lm_store_commit(lm_store *s, const char *name, const lm_store_file *files, uint32_t n,
                          lm_store_progress *progress, void *ctx, lm_err *err) {
    lm_draft *d = NULL;
    sum all = {.progress = progress, .ctx = ctx};
    lm_status st = lm_draft_open(&d, s, err);
    for (uint32_t i = 0; i < n; i++) {
        struct stat info;
        if (stat(files[i].path, &info) == 0) all.total += (uint64_t)info.st_size;
    }
    for (uint32_t i = 0; st == LM_OK && i < n; i++) {
        struct stat info;
        uint64_t bytes = stat(files[i].path, &info) == 0 ? (uint64_t)info.st_size : 0;
        st =
            lm_draft_file(d, files[i].name, files[i].path, files[i].take, files[i].digest, add_up, &all, err);
        all.before += bytes;
    }
    if (st == LM_OK) st = lm_draft_check(d, err);
    if (st == LM_OK) st = lm_draft_commit(d, name, NULL, NULL, err);
    lm_draft_close(d);
    return st;
}

static lm_status copy_manifest(lm_store *s, const lm_entry *model, const lm_name *to, lm_err *err) {
    search found;
    lm_status st = find_manifest(s->places[0].dir, model, &found, err);
    if (st != LM_OK) return st;
    st = lm_own_publish(s, to, lm_buf_view(&found.text), err);
    lm_buf_release(&found.text);
    lm_manifest_release(&found.m);
    return st;
}

lm_status lm_store_copy(lm_store *s, const char *source, const char *destination, lm_store_progress *progress,
                        void *ctx, lm_err *err) {
    lm_draft *d = NULL;
    lm_entry model;
    lm_name from, to;
    lm_status st = lm_store_find(s, source, &model, err);
    if (st == LM_NOT_FOUND) return lm_fail(err, st, "model \"%s\" not found", source);
    if (st == LM_OK) st = lm_name_parse(lm_str_of(destination), &to, err);
    if (st == LM_OK) st = lm_name_parse(lm_str_of(model.name), &from, err);
    if (st == LM_OK) st = lm_store_ready(s, &model, progress, ctx, err);
    if (st != LM_OK || (model.owned && lm_name_same(&from, &to))) return st;
    st = lm_draft_open(&d, s, err);
    if (st == LM_OK && model.managed) {
        st = copy_manifest(s, &model, &to, err);
    } else if (st == LM_OK) {
        st = lm_draft_from(d, &model, progress, ctx, err);
        if (st == LM_OK) st = lm_draft_commit(d, destination, NULL, NULL, err);
    }
    lm_draft_close(d);
    return st;
}

lm_status lm_store_partial(lm_store *s, const char *key, int *out, char **path, lm_err *err) {
    char hex[65];
    char *dir = lm_path_join(s->places[0].dir, LM_OWN_PARTIAL);
    lm_blob_hex(lm_str_of(key), hex);
    char *at = lm_path_join(dir, hex);
    lm_status st = lm_dir_make(dir, err);
    int fd = st == LM_OK ? open(at, O_RDWR | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (st == LM_OK && fd < 0) st = lm_own_fail(err, "open", at);
    if (st == LM_OK && flock(fd, LOCK_EX | LOCK_NB) != 0)
        st = lm_fail(err, LM_BUSY, "another process is fetching this file (%s)", at);
    free(dir);
    if (st != LM_OK) {
        if (fd >= 0) close(fd);
        free(at);
        return st;
    }
    *out = fd;
    *path = at;
    return LM_OK;
}

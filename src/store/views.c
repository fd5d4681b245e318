/* views.c - the model directory that a manifest describes: OWN/views/HEX, made of relative symbolic links.
 *
 * Symbolic, not hard: the store can be moved or copied as a whole without doubling the blobs, a link shows
 * what it stands for, and any file system that can hold the store will do. A view holds nothing of its own,
 * so one that is missing or damaged is made again, beside its place and then renamed into it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "store/own.h"

#define MAX_CONFIG (1u << 20)

/* Where a view's links lead: to the own store's blobs, relative, or to those of another store. */
typedef struct source {
    const char *own;        /* blobs of the own store, or NULL */
    const char *store;      /* the other store, or NULL */
    lm_view_config *config; /* writes config.json, or NULL: it is a link as others are */
} source;

/* The file of a layer: false when the layer is none of a view's. n_licenses counts those before. */
static bool file_of(const source *from, const lm_layer *l, uint32_t *n_licenses, char out[256]) {
    lm_layer_kind kind = lm_layer_kind_of(l);
    if (from->config && kind == LM_LAYER_FILE && !strcmp(l->name, "config.json")) return false;
    if (from->store && !strcmp(l->type, LM_TYPE_TENSOR))
        snprintf(out, 256, "%.200s.safetensors", l->name);
    else if (from->store && !strcmp(l->type, LM_TYPE_MODEL))
        snprintf(out, 256, LM_GGUF_FILE);
    else if (kind == LM_LAYER_KINDS)
        return false;
    else if (kind == LM_LAYER_FILE)
        snprintf(out, 256, "%s", l->name);
    else if (kind == LM_LAYER_LICENSE && (*n_licenses)++)
        snprintf(out, 256, "%s.%u", lm_layer_kind_name(kind), *n_licenses - 1);
    else
        snprintf(out, 256, "%s", lm_layer_kind_name(kind));
    return true;
}

/* Some models keep files in a directory of their own (1_Pooling/config.json). */
static lm_status make_above(const char *dir, const char *file, lm_err *err) {
    const char *slash = strrchr(file, '/');
    if (!slash) return LM_OK;
    char *above = lm_str_dup((lm_str){file, (size_t)(slash - file)}), *path = lm_path_join(dir, above);
    lm_status st = lm_dir_make(path, err);
    free(above);
    free(path);
    return st;
}

static lm_status link_to(const char *target, const char *dir, const char *file, lm_err *err) {
    char *path = lm_path_join(dir, file);
    lm_status st = make_above(dir, file, err);
    if (st == LM_OK && symlink(target, path) != 0) st = lm_own_fail(err, "link", path);
    free(path);
    return st;
}

static lm_status link_layer(const source *from, const lm_layer *l, const char *dir, const char *file,
                            lm_err *err) {
    if (from->store) {
        char *blob = lm_blob_path(from->store, l->digest);
        lm_status st = link_to(blob, dir, file, err);
        free(blob);
        return st;
    }
    lm_buf target;
    lm_buf_init(&target, 1024);
    for (const char *p = file; *p; p++)
        if (*p == '/') lm_buf_text(&target, "../");
    lm_buf_printf(&target, "../../" LM_OWN_BLOBS "/sha256-%s", l->digest + 7);
    lm_status st = link_to(target.ptr, dir, file, err);
    lm_buf_release(&target);
    return st;
}

/* "requires" is no layer: it stands in the config. */
static lm_status write_requires(const char *store, const lm_manifest *m, const char *dir, lm_err *err) {
    json_t *config = NULL;
    char *blob = lm_blob_path(store, m->config.digest), *path = lm_path_join(dir, "requires");
    lm_status st = lm_json_load(blob, MAX_CONFIG, &config, err);
    const char *requires = st == LM_OK ? json_string_value(json_object_get(config, "requires")) : NULL;
    if (requires && requires[0]) st = lm_file_write(path, lm_str_of(requires), err);
    json_decref(config);
    free(blob);
    free(path);
    return st;
}

static lm_status write_config(const source *from, const lm_manifest *m, const char *dir, lm_err *err) {
    lm_buf text;
    lm_buf_init(&text, 16u << 20);
    char *path = lm_path_join(dir, "config.json");
    lm_status st = from->config(from->store, m, &text)
                       ? lm_file_write(path, lm_buf_view(&text), err)
                       : lm_fail(err, LM_CORRUPT, "%s: there is no config.json to make it from", path);
    lm_buf_release(&text);
    free(path);
    return st;
}

static lm_status make_view(const source *from, const lm_manifest *m, const char *dir, lm_err *err) {
    lm_status st = mkdir(dir, 0755) == 0 ? LM_OK : lm_own_fail(err, "make directory", dir);
    uint32_t n_licenses = 0;
    for (uint32_t i = 0; st == LM_OK && i < m->n; i++) {
        char file[256];
        if (file_of(from, &m->layers[i], &n_licenses, file))
            st = link_layer(from, &m->layers[i], dir, file, err);
    }
    if (st == LM_OK && from->config) st = write_config(from, m, dir, err);
    return st == LM_OK && m->config.digest[0]
               ? write_requires(from->store ? from->store : from->own, m, dir, err)
               : st;
}

lm_status lm_view_make(const char *own, const lm_manifest *m, const char *dir, lm_err *err) {
    return make_view(&(source){.own = own}, m, dir, err);
}

/* All blobs are there and as long as the manifest says, and what runs is among them. */
static bool is_whole(const char *own, const lm_manifest *m, uint64_t *bytes) {
    bool config = false, weights = false;
    uint64_t size = 0;
    *bytes = m->config.size;
    if (!lm_blob_look(own, m->config.digest, &size) || size != m->config.size) return false;
    for (uint32_t i = 0; i < m->n; i++) {
        const lm_layer *l = &m->layers[i];
        if (!lm_blob_look(own, l->digest, &size) || size != l->size) return false;
        *bytes += size;
        if (lm_layer_kind_of(l) != LM_LAYER_FILE) continue;
        config = config || !strcmp(l->name, "config.json");
        weights = weights || (size && lm_str_ends(lm_str_of(l->name), LM_STR(".safetensors")));
    }
    return config && weights;
}

static bool is_ready(const source *from, const lm_manifest *m, const char *dir) {
    struct stat st;
    uint32_t n_licenses = 0;
    if (stat(dir, &st) != 0) return false;
    if (from->config) {
        char *path = lm_path_join(dir, "config.json");
        bool there = lm_path_is_file(path);
        free(path);
        if (!there) return false;
    }
    for (uint32_t i = 0; i < m->n; i++) {
        char file[256];
        if (!file_of(from, &m->layers[i], &n_licenses, file)) continue;
        char *path = lm_path_join(dir, file);
        bool there = stat(path, &st) == 0 && (uint64_t)st.st_size == m->layers[i].size;
        free(path);
        if (!there) return false;
    }
    return true;
}

/* Whoever else makes the same view makes the same: the first one stays. A damaged one is moved away. */
static bool put_in_place(const char *own, const source *from, const lm_manifest *m, const char *temp,
                         const char *dir) {
    if (rename(temp, dir) == 0) return true;
    if (is_ready(from, m, dir)) return true;
    char *away = NULL;
    bool ok = lm_own_temp(own, &away, NULL) == LM_OK && rename(dir, away) == 0 && rename(temp, dir) == 0;
    if (away && lm_dir_remove(away, NULL) != LM_OK) (void)0; /* pruning takes it */
    free(away);
    return ok || is_ready(from, m, dir);
}

/* Makes OWN/below/HEX, which is dir. */
static bool make_ready(const char *own, const source *from, const char *below, const lm_manifest *m,
                       const char *dir) {
    int users = -1;
    char *temp = NULL, *views = lm_path_join(own, below);
    bool ok = lm_own_use(own, &users, NULL) == LM_OK && lm_own_temp(own, &temp, NULL) == LM_OK &&
              lm_dir_make(views, NULL) == LM_OK && make_view(from, m, temp, NULL) == LM_OK &&
              put_in_place(own, from, m, temp, dir);
    if (temp && lm_dir_remove(temp, NULL) != LM_OK) (void)0; /* the same */
    if (users >= 0) close(users);
    free(temp);
    free(views);
    return ok;
}

bool lm_view_link(const char *own, const char *store, const lm_manifest *m, const char *hex,
                  lm_view_config *config) {
    source from = {.store = store, .config = config};
    char *linked = lm_path_join(own, LM_OWN_LINKED), *dir = lm_path_join(linked, hex);
    bool ok = is_ready(&from, m, dir) || make_ready(own, &from, LM_OWN_LINKED, m, dir);
    free(linked);
    free(dir);
    return ok;
}

bool lm_view_entry(const char *own, const char *path, lm_entry *out) {
    lm_buf text;
    lm_manifest m = {0};
    struct stat st;
    lm_entry e = {.owned = true, .managed = true};
    source from = {.own = own};
    if (lm_manifest_load(path, &text, &m, NULL) != LM_OK) return false;
    lm_blob_hex(lm_buf_view(&text), e.digest);
    int n = snprintf(e.dir, sizeof e.dir, "%s/" LM_OWN_VIEWS "/%s", own, e.digest);
    bool ok = n > 0 && (size_t)n < sizeof e.dir && stat(path, &st) == 0 && is_whole(own, &m, &e.size);
    if (ok) e.modified_ns = lm_file_time_ns(&st);
    ok = ok && (is_ready(&from, &m, e.dir) || make_ready(own, &from, LM_OWN_VIEWS, &m, e.dir));
    lm_manifest_release(&m);
    lm_buf_release(&text);
    if (ok) *out = e;
    return ok;
}

/* ollama.c - the models in Ollama's own store, which is read and never written to.
 *
 * OLLAMA_MODELS/manifests/HOST/NAMESPACE/MODEL/TAG names blobs/sha256-HEX. Newer versions have manifests-v2
 * beside it, links into blobs, and lists of manifests for several runners (its manifest/manifest.go). Two
 * kinds run here:
 *
 *     safetensors   a layer for each tensor, and the makers' JSON files. Runs in place: a view of links to
 *                   the blobs lies in our own store, OWN/linked/HEX; weights/ knows Ollama's names of tensors.
 *     GGUF          one layer with the file, and what a Modelfile said. Has to be imported (adopt.c); until
 *                   then it is listed with what the config blob says of it, and nobody looks into the file.
 *
 * A model is there when each of its blobs is, and is as long as the manifest says: one that Ollama is pulling
 * at this moment is passed over, as is everything else that is not whole.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "store/own.h"

#define MAX_MANIFEST (16u << 20) /* bytes */
#define MAX_CONFIG   (1u << 20)
#define MAX_CHECKED  (64u << 20) /* layers up to here are held against their digest: all but weights */
#define MAX_CHOICES  8           /* manifests of a list */
#define TYPE_LIST    "application/vnd.ollama.manifest.list.v2+json"

/* ---- manifests */

/* What one name stands for: a manifest, or those of a list, the one that runs in place first. */
typedef struct choices {
    lm_manifest items[MAX_CHOICES];
    uint32_t n;
    char hex[65]; /* sha256 of the file that the name leads to */
} choices;

static void release(choices *c) {
    for (uint32_t i = 0; i < c->n; i++) lm_manifest_release(&c->items[i]);
    *c = (choices){0};
}

/* A manifest of a list stands in it, or is a blob. */
static bool read_choice(const char *store, const json_t *one, lm_manifest *out) {
    char digest[LM_DIGEST_SIZE], hex[65];
    lm_buf text;
    lm_buf_init(&text, MAX_MANIFEST);
    const char *named = json_string_value(json_object_get(one, "digest"));
    bool ok = true;
    if (json_object_get(one, "layers")) {
        lm_json_write_value(&text, one);
    } else {
        ok = named && lm_digest_parse(lm_str_of(named), digest, NULL) == LM_OK;
        char *blob = ok ? lm_blob_path(store, digest) : NULL;
        ok = ok && lm_file_read(blob, MAX_MANIFEST - 1, &text, NULL) == LM_OK;
        if (ok) lm_blob_hex(lm_buf_view(&text), hex);
        ok = ok && !strcmp(hex, digest + 7);
        free(blob);
    }
    ok = ok && !text.failed && lm_manifest_parse(lm_buf_view(&text), out, NULL) == LM_OK;
    lm_buf_release(&text);
    return ok;
}

static void read_list(const char *store, lm_str text, choices *out) {
    json_t *root = NULL, *one;
    size_t i;
    if (lm_json_parse(text, &root, NULL) != LM_OK) return;
    const char *type = json_string_value(json_object_get(root, "mediaType"));
    json_t *list = type && !strcmp(type, TYPE_LIST) ? json_object_get(root, "manifests") : NULL;
    for (int other = 0; other < 2; other++) {
        json_array_foreach(list, i, one) {
            const char *runner = json_string_value(json_object_get(one, "runner"));
            bool mlx = runner && !strcasecmp(runner, "mlx");
            if (mlx == (other == 1) || out->n == MAX_CHOICES) continue;
            if (read_choice(store, one, &out->items[out->n])) out->n++;
        }
    }
    json_decref(root);
}

/* False: nothing that can be read. */
static bool load(const char *store, const char *path, choices *out) {
    lm_buf text;
    *out = (choices){0};
    lm_buf_init(&text, MAX_MANIFEST);
    if (lm_file_read(path, MAX_MANIFEST - 1, &text, NULL) == LM_OK) {
        lm_blob_hex(lm_buf_view(&text), out->hex);
        if (lm_manifest_parse(lm_buf_view(&text), &out->items[0], NULL) == LM_OK)
            out->n = 1;
        else
            read_list(store, lm_buf_view(&text), out);
    }
    lm_buf_release(&text);
    return out->n > 0;
}

/* ---- what a manifest describes */

static bool is_type(const lm_layer *l, const char *type) {
    return !strcmp(l->type, type);
}

/* As a file of its own it is called after the tensor. */
static bool tensor_name_ok(const char *name) {
    return strlen(name) <= 180 && !strchr(name, '/') && lm_layer_file_ok(name);
}

static bool is_whole(const char *store, const lm_manifest *m, uint64_t *bytes) {
    uint64_t size = 0;
    if (!lm_blob_look(store, m->config.digest, &size) || size != m->config.size) return false;
    *bytes = size;
    for (uint32_t i = 0; i < m->n; i++) {
        if (!lm_blob_look(store, m->layers[i].digest, &size) || size != m->layers[i].size) return false;
        *bytes += size;
    }
    return true;
}

static int by_digest(const void *a, const void *b) {
    return strcmp(((const lm_layer *)a)->digest, ((const lm_layer *)b)->digest);
}

/* Those layers that make a view: of each thing one, and the same tensor once. */
static void pick(const lm_manifest *m, bool gguf, lm_manifest *out) {
    bool seen[LM_LAYER_KINDS] = {0}, model = false;
    *out = (lm_manifest){.config = m->config};
    out->config.from = NULL;
    for (uint32_t i = 0; i < m->n; i++) {
        const lm_layer *l = &m->layers[i];
        lm_layer_kind kind = lm_layer_kind_of(l);
        bool take =
            kind != LM_LAYER_KINDS && kind != LM_LAYER_FILE && (kind == LM_LAYER_LICENSE || !seen[kind]);
        if (kind == LM_LAYER_ADAPTER) take = false; /* no form that a view has */
        if (kind == LM_LAYER_FILE) take = !gguf && strcmp(l->name, "model.safetensors.index.json") != 0;
        if (is_type(l, LM_TYPE_TENSOR)) take = !gguf;
        if (is_type(l, LM_TYPE_MODEL)) take = gguf && !model;
        if (!take) continue;
        if (kind != LM_LAYER_KINDS) seen[kind] = true;
        model = model || is_type(l, LM_TYPE_MODEL);
        lm_layer *copy = lm_manifest_add(out, "", "");
        *copy = *l;
        copy->from = NULL;
    }
    if (gguf || !out->n) return;
    qsort(out->layers, out->n, sizeof *out->layers, by_digest);
    uint32_t n = 0;
    for (uint32_t i = 0; i < out->n; i++) {
        bool again = n && is_type(&out->layers[i], LM_TYPE_TENSOR) &&
                     is_type(&out->layers[n - 1], LM_TYPE_TENSOR) &&
                     !by_digest(&out->layers[i], &out->layers[n - 1]);
        if (!again) out->layers[n++] = out->layers[i];
    }
    out->n = n;
}

/* Texts and JSON are what their digests say. Weights would take minutes; what is wrong in them shows in their
 * headers, or is what Ollama would run, too. */
static bool digests_hold(const char *store, const lm_manifest *m) {
    bool ok = true;
    for (uint32_t i = 0; ok && i < m->n; i++) {
        const lm_layer *l = &m->layers[i];
        if (l->size > MAX_CHECKED || is_type(l, LM_TYPE_TENSOR) || is_type(l, LM_TYPE_MODEL)) continue;
        char *blob = lm_blob_path(store, l->digest), hex[65] = "";
        lm_buf text;
        lm_buf_init(&text, MAX_CHECKED + 1);
        ok = lm_file_read(blob, MAX_CHECKED, &text, NULL) == LM_OK;
        if (ok) lm_blob_hex(lm_buf_view(&text), hex);
        ok = ok && !strcmp(hex, l->digest + 7);
        lm_buf_release(&text);
        free(blob);
    }
    return ok;
}

static bool make_view(const lm_place *p, const lm_manifest *m, bool gguf, const lm_entry *e) {
    lm_manifest view;
    pick(m, gguf, &view);
    bool ok = (lm_path_is_dir(e->dir) || digests_hold(p->dir, &view)) &&
              lm_view_link(p->own, p->dir, &view, e->digest, gguf ? NULL : lm_ollama_config);
    lm_manifest_release(&view);
    return ok;
}

/* One that runs in place. */
static bool mlx_entry(const lm_place *p, const lm_manifest *m, lm_entry *e) {
    bool config = false, tensors = false;
    for (uint32_t i = 0; i < m->n; i++) {
        const lm_layer *l = &m->layers[i];
        if (is_type(l, LM_TYPE_TENSOR)) {
            tensors = true;
            if (!tensor_name_ok(l->name)) return false;
        }
        if (is_type(l, LM_TYPE_MODEL)) return false;
        config = config || (lm_layer_kind_of(l) == LM_LAYER_FILE && !strcmp(l->name, "config.json"));
    }
    return config && tensors && is_whole(p->dir, m, &e->size) && make_view(p, m, false, e);
}

static void take_text(const json_t *config, const char *key, char *out, size_t room) {
    const char *text = json_string_value(json_object_get(config, key));
    if (text && strlen(text) < room) memcpy(out, text, strlen(text) + 1);
}

/* What Ollama itself shows in lists comes from there. */
static void take_details(const char *store, const lm_manifest *m, lm_entry *e) {
    char *blob = lm_blob_path(store, m->config.digest);
    json_t *config = NULL;
    if (lm_json_load(blob, MAX_CONFIG, &config, NULL) == LM_OK) {
        take_text(config, "model_family", e->family, sizeof e->family);
        take_text(config, "model_type", e->parameters, sizeof e->parameters);
        take_text(config, "file_type", e->quantization, sizeof e->quantization);
    }
    json_decref(config);
    free(blob);
}

static bool gguf_entry(const lm_place *p, const lm_manifest *m, bool view, lm_entry *e) {
    const lm_layer *model = NULL;
    for (uint32_t i = 0; i < m->n && !model; i++)
        if (is_type(&m->layers[i], LM_TYPE_MODEL)) model = &m->layers[i];
    if (!model || !is_whole(p->dir, m, &e->size)) return false;
    char *file = lm_blob_path(p->dir, model->digest);
    bool ok = strlen(file) < sizeof e->file && lm_file_is_gguf(file);
    if (ok) strcpy(e->file, file);
    free(file);
    if (!ok || (view && !make_view(p, m, true, e))) return false;
    e->gguf = true;
    take_details(p->dir, m, e);
    return true;
}

/* ---- the walk */

typedef struct walk {
    const lm_place *place;
    bool gguf, one; /* one: a single name is wanted */
    lm_place_visit *visit;
    void *ctx;
    bool stop;
} walk;

static bool visit_manifest(void *ctx, const lm_name *name, const char *path) {
    walk *w = ctx;
    const lm_place *p = w->place;
    choices c;
    struct stat st;
    lm_entry e = {0};
    if (stat(path, &st) != 0 || !load(p->dir, path, &c)) return true;
    memcpy(e.digest, c.hex, sizeof e.digest);
    e.modified_ns = lm_file_time_ns(&st);
    int n = snprintf(e.dir, sizeof e.dir, "%s/" LM_OWN_LINKED "/%s", p->own, c.hex);
    bool found = false;
    for (uint32_t i = 0; i < c.n && !found && n > 0 && (size_t)n < sizeof e.dir; i++)
        found = w->gguf ? gguf_entry(p, &c.items[i], w->one, &e) : mlx_entry(p, &c.items[i], &e);
    release(&c);
    if (!found) return true;
    lm_name_short(name, e.name);
    w->stop = !w->visit(w->ctx, name, &e);
    return !w->stop;
}

static const char *const places[] = {"manifests-v2", "manifests"};

void lm_ollama_walk(const lm_place *place, bool gguf, const lm_name *want, lm_place_visit *visit, void *ctx) {
    walk w = {.place = place, .gguf = gguf, .one = want != NULL, .visit = visit, .ctx = ctx};
    for (size_t i = 0; i < sizeof places / sizeof *places && !w.stop; i++) {
        char *dir = lm_path_join(place->dir, places[i]);
        lm_manifests_walk_dir(dir, want, visit_manifest, &w);
        free(dir);
    }
}

typedef struct search {
    const char *store, *hex;
    lm_manifest *out;
    bool found;
} search;

static bool try_manifest(void *ctx, const lm_name *name, const char *path) {
    search *s = ctx;
    choices c;
    (void)name;
    if (!load(s->store, path, &c)) return true;
    for (uint32_t i = 0; i < c.n && !s->found && !strcmp(c.hex, s->hex); i++) {
        for (uint32_t k = 0; k < c.items[i].n; k++)
            s->found = s->found || is_type(&c.items[i].layers[k], LM_TYPE_MODEL);
        if (!s->found) continue;
        *s->out = c.items[i];
        c.items[i] = (lm_manifest){0};
    }
    release(&c);
    return !s->found;
}

lm_status lm_ollama_manifest(const lm_place *place, const lm_name *name, const char *hex, lm_manifest *m,
                             lm_err *err) {
    search s = {.store = place->dir, .hex = hex, .out = m};
    for (size_t i = 0; i < sizeof places / sizeof *places && !s.found; i++) {
        char *dir = lm_path_join(place->dir, places[i]);
        lm_manifests_walk_dir(dir, name, try_manifest, &s);
        free(dir);
    }
    return s.found ? LM_OK
                   : lm_fail(err, LM_NOT_FOUND, "model '%s' is no longer in %s", name->model, place->dir);
}

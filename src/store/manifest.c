/* manifest.c - manifests as Ollama and container registries write them, and where they lie.
 *
 * Layers of the makers' files have a name: JSON documents the media type that Ollama gives them in its own
 * safetensors models, all others one of ours. What a Modelfile adds has Ollama's types.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/json.h"
#include "model/model.h"
#include "store/own.h"

#define MAX_MANIFEST (16u << 20) /* bytes */
#define MAX_LAYERS   16384
#define MAX_PARTS    4 /* of a file's path */

/* ---- layers */

static const char *const kind_names[LM_LAYER_KINDS] = {"file",     "template",      "system", "params",
                                                       "messages", LM_ADAPTER_FILE, "license"};

const char *lm_layer_kind_name(lm_layer_kind kind) {
    return kind_names[kind];
}

lm_layer_kind lm_layer_kind_of(const lm_layer *l) {
    size_t n = strlen(LM_TYPE_IMAGE);
    if (!strcmp(l->type, "application/vnd.mlx-ollama.image.file")) return LM_LAYER_FILE;
    if (strncmp(l->type, LM_TYPE_IMAGE, n)) return LM_LAYER_KINDS;
    if (!strcmp(l->type + n, "json")) return LM_LAYER_FILE;
    for (int k = LM_LAYER_FILE + 1; k < LM_LAYER_KINDS; k++)
        if (!strcmp(l->type + n, kind_names[k])) return (lm_layer_kind)k;
    return LM_LAYER_KINDS;
}

/* Names that a view gives to something else. */
static bool taken(const char *name) {
    for (int k = LM_LAYER_FILE + 1; k < LM_LAYER_KINDS; k++) {
        size_t n = strlen(kind_names[k]);
        if (strncasecmp(name, kind_names[k], n)) continue;
        if (!name[n] || (k == LM_LAYER_LICENSE && name[n] == '.' && name[n + 1] >= '0' && name[n + 1] <= '9'))
            return true;
    }
    return !strcasecmp(name, "requires");
}

/* One part of a file's path within the model directory. */
static bool part_ok(const char *part, size_t n) {
    bool bad = false;
    if (n == 0 || part[0] == '.' || lm_utf8_valid((lm_str){part, n}, &bad) != n) return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)part[i] < 32 || part[i] == '\\' || part[i] == 127) return false;
    return true;
}

bool lm_layer_file_ok(const char *name) {
    uint32_t parts = 0;
    if (strlen(name) > 200) return false;
    for (const char *p = name;; p++) {
        size_t n = strcspn(p, "/");
        char part[201];
        snprintf(part, sizeof part, "%.*s", (int)n, p);
        if (++parts > MAX_PARTS || !part_ok(p, n) || (p == name && taken(part))) return false;
        p += n;
        if (!*p) return true;
    }
}

lm_layer *lm_manifest_add(lm_manifest *m, const char *type, const char *name) {
    if (m->n == m->room) {
        m->room = m->room ? m->room * 2 : 16;
        m->layers = lm_realloc(m->layers, m->room * sizeof *m->layers);
    }
    lm_layer *l = &m->layers[m->n++];
    *l = (lm_layer){0};
    snprintf(l->type, sizeof l->type, "%s", type);
    snprintf(l->name, sizeof l->name, "%s", name);
    return l;
}

void lm_manifest_release(lm_manifest *m) {
    for (uint32_t i = 0; i < m->n; i++) free(m->layers[i].from);
    free(m->layers);
    *m = (lm_manifest){0};
}

/* ---- text */

static const char *text_of(const json_t *object, const char *key, size_t max) {
    const json_t *v = json_object_get(object, key);
    const char *text = json_string_value(v);
    return text && strlen(text) == json_string_length(v) && strlen(text) < max ? text : "";
}

static lm_status read_layer(const json_t *v, lm_layer *out, lm_err *err) {
    json_t *size = json_object_get(v, "size");
    lm_layer l = {0};
    const char *digest = text_of(v, "digest", 100), *from = text_of(v, "from", 1024);
    snprintf(l.type, sizeof l.type, "%s", text_of(v, "mediaType", sizeof l.type));
    snprintf(l.name, sizeof l.name, "%s", text_of(v, "name", sizeof l.name));
    lm_status st = lm_digest_parse(lm_str_of(digest), l.digest, err);
    if (st != LM_OK || !json_is_integer(size) || json_integer_value(size) < 0 || !l.type[0])
        return lm_fail(err, LM_CORRUPT, "a layer has no media type, digest or size");
    l.size = (uint64_t)json_integer_value(size);
    if (from[0]) l.from = lm_strdup(from);
    *out = l;
    return LM_OK;
}

/* Names are unique without regard to case: some file systems are so. */
static bool named_before(const lm_manifest *m, const char *name) {
    for (uint32_t i = 0; i < m->n; i++)
        if (!strcasecmp(m->layers[i].name, name)) return true;
    return false;
}

static lm_status read_layers(const json_t *list, lm_manifest *m, lm_err *err) {
    lm_status st = LM_OK;
    json_t *one;
    size_t i;
    uint32_t n_files = 0;
    if (!json_is_array(list) || json_array_size(list) > MAX_LAYERS)
        return lm_fail(err, LM_CORRUPT, "there are no layers, or more than %d", MAX_LAYERS);
    json_array_foreach(list, i, one) {
        lm_layer l;
        st = read_layer(one, &l, err);
        if (st != LM_OK) return st;
        bool file = lm_layer_kind_of(&l) == LM_LAYER_FILE;
        if (file && (++n_files > 4096 || !lm_layer_file_ok(l.name) || named_before(m, l.name))) {
            free(l.from);
            return lm_fail(err, LM_CORRUPT, "layer %zu has a name that no file of a model can have", i);
        }
        *lm_manifest_add(m, "", "") = l;
    }
    return LM_OK;
}

lm_status lm_manifest_parse(lm_str text, lm_manifest *out, lm_err *err) {
    json_t *root = NULL;
    lm_manifest m = {0};
    lm_status st = lm_json_parse(text, &root, err);
    if (st == LM_OK) {
        st = read_layer(json_object_get(root, "config"), &m.config, err);
        free(m.config.from);
        m.config.from = NULL;
    }
    if (st == LM_OK) st = read_layers(json_object_get(root, "layers"), &m, err);
    json_decref(root);
    if (st != LM_OK) {
        lm_manifest_release(&m);
        return lm_fail_in(err, st == LM_NO_MEMORY ? st : LM_CORRUPT, "not a manifest");
    }
    *out = m;
    return LM_OK;
}

static void write_layer(lm_buf *b, const lm_layer *l) {
    lm_buf_text(b, "{\"mediaType\":");
    lm_json_write_string(b, lm_str_of(l->type));
    lm_buf_printf(b, ",\"digest\":\"%s\",\"size\":%llu", l->digest, (unsigned long long)l->size);
    if (l->from) {
        lm_buf_text(b, ",\"from\":");
        lm_json_write_string(b, lm_str_of(l->from));
    }
    if (l->name[0]) {
        lm_buf_text(b, ",\"name\":");
        lm_json_write_string(b, lm_str_of(l->name));
    }
    lm_buf_char(b, '}');
}

void lm_manifest_write(const lm_manifest *m, lm_buf *b) {
    lm_buf_text(b, "{\"schemaVersion\":2,\"mediaType\":\"" LM_TYPE_MANIFEST "\",\"config\":");
    write_layer(b, &m->config);
    lm_buf_text(b, ",\"layers\":[");
    for (uint32_t i = 0; i < m->n; i++) {
        if (i) lm_buf_char(b, ',');
        write_layer(b, &m->layers[i]);
    }
    lm_buf_text(b, "]}\n");
}

lm_status lm_manifest_load(const char *path, lm_buf *text, lm_manifest *out, lm_err *err) {
    lm_buf_init(text, MAX_MANIFEST);
    lm_status st = lm_file_read(path, MAX_MANIFEST - 1, text, err);
    if (st == LM_OK) {
        st = lm_manifest_parse(lm_buf_view(text), out, err);
        if (st != LM_OK) st = lm_fail_in(err, st, "%s", path);
    }
    if (st != LM_OK) lm_buf_release(text);
    return st;
}

/* ---- places */

typedef struct walk {
    const lm_name *want;
    lm_manifest_visit *visit;
    void *ctx;
    bool stop;
    const char *parts[4];
} walk;

static void walk_dir(walk *w, const char *dir, uint32_t depth) {
    const char *want[4] = {0};
    if (w->want) {
        want[0] = w->want->host, want[1] = w->want->ns, want[2] = w->want->model, want[3] = w->want->tag;
    }
    DIR *d = opendir(dir);
    uint32_t seen = 0;
    for (struct dirent *e; d && !w->stop && seen < LM_MAX_ENTRIES && (e = readdir(d)); seen++) {
        if (e->d_name[0] == '.' || (want[depth] && strcasecmp(want[depth], e->d_name))) continue;
        char *path = lm_path_join(dir, e->d_name);
        w->parts[depth] = e->d_name;
        if (depth < 3) {
            walk_dir(w, path, depth + 1);
        } else {
            char text[1100];
            lm_name name;
            int n = snprintf(text, sizeof text, "%s/%s/%s:%s", w->parts[0], w->parts[1], w->parts[2],
                             w->parts[3]);
            if (n > 0 && (size_t)n < sizeof text &&
                lm_name_parse((lm_str){text, (size_t)n}, &name, NULL) == LM_OK && lm_path_is_file(path))
                w->stop = !w->visit(w->ctx, &name, path);
        }
        free(path);
    }
    if (d) closedir(d);
}

void lm_manifests_walk_dir(const char *dir, const lm_name *want, lm_manifest_visit *visit, void *ctx) {
    walk w = {.want = want, .visit = visit, .ctx = ctx};
    walk_dir(&w, dir, 0);
}

void lm_manifests_walk(const char *own, const lm_name *want, lm_manifest_visit *visit, void *ctx) {
    char *dir = lm_path_join(own, LM_OWN_MANIFESTS);
    lm_manifests_walk_dir(dir, want, visit, ctx);
    free(dir);
}

/* The entry of dir that is `part` in the spelling that is there already. The caller frees. */
static char *spelled_as_stored(const char *dir, const char *part) {
    DIR *d = opendir(dir);
    char *path = NULL;
    for (struct dirent *e; d && !path && (e = readdir(d));) {
        if (strcasecmp(e->d_name, part) == 0) path = lm_path_join(dir, e->d_name);
    }
    if (d) closedir(d);
    return path ? path : lm_path_join(dir, part);
}

char *lm_manifest_path(const char *own, const lm_name *name) {
    const char *parts[] = {name->host, name->ns, name->model, name->tag};
    char *path = lm_path_join(own, LM_OWN_MANIFESTS);
    for (int i = 0; i < 4; i++) {
        char *next = spelled_as_stored(path, parts[i]);
        free(path);
        path = next;
    }
    return path;
}

/* registry.c - a model of an Ollama registry: a manifest, and blobs by their digest. Its weights are a GGUF
 * file, which is imported; what a Modelfile said comes with it as layers of their own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"
#include "hub/private.h"

#define MAX_MANIFEST (4u << 20)
#define MAX_TEXT     (8u << 20) /* of a layer that is no file */
#define TYPE         "application/vnd.ollama.image."

static const struct {
    const char *type;
    lm_layer_kind kind;
} texts[] = {{TYPE "template", LM_LAYER_TEMPLATE},
             {TYPE "system", LM_LAYER_SYSTEM},
             {TYPE "params", LM_LAYER_PARAMS},
             {TYPE "messages", LM_LAYER_MESSAGES},
             {TYPE "license", LM_LAYER_LICENSE}};

static lm_layer_kind kind_of(const lm_remote *f) {
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!strcmp(f->type, texts[i].type)) return texts[i].kind;
    return LM_LAYER_FILE;
}

/* This machine, where nobody listens in: localhost or 127.x.x.x, with a port or without. */
static bool is_here(const char *host) {
    size_t n = strcspn(host, ":");
    if (n == 9 && !strncasecmp(host, "localhost", n)) return true;
    return !strncmp(host, "127.", 4) && strspn(host, "0123456789.") == n;
}

static lm_status check_layers(lm_listing *l, lm_remote **gguf, lm_err *err) {
    *gguf = NULL;
    for (uint32_t i = 0; i < l->n; i++) {
        lm_remote *f = &l->files[i];
        bool model = !strcmp(f->type, TYPE "model");
        lm_layer_kind kind = kind_of(f);
        if (!model && kind == LM_LAYER_FILE)
            return lm_fail(
                err, LM_UNSUPPORTED,
                "the model has a layer %s, which cannot be imported: pull it in MLX format from the hub "
                "(hf.co/mlx-community/...)",
                f->type);
        if (model && *gguf)
            return lm_fail(err, LM_UNSUPPORTED, "the model has several GGUF files: only one can be imported");
        if (!model && f->size > MAX_TEXT)
            return lm_fail(err, LM_CORRUPT, "a layer %s of %llu bytes is no text", f->type,
                           (unsigned long long)f->size);
        snprintf(f->name, sizeof f->name, "%s", strrchr(f->type, '.') + 1);
        if (model) *gguf = f;
    }
    return *gguf ? LM_OK : lm_fail(err, LM_UNSUPPORTED, "the model has no weights of its own");
}

static lm_status get_manifest(const lm_origin *o, const lm_name *name, lm_listing *out, char hex[65],
                              lm_err *err) {
    const char *headers[] = {"Accept: application/vnd.docker.distribution.manifest.v2+json", NULL};
    lm_client *c = NULL;
    lm_answer a = {0};
    lm_buf url;
    lm_status st = lm_client_open(&c, err);
    if (st != LM_OK) return st;
    lm_buf_init(&url, 4096);
    lm_buf_printf(&url, "%s/v2/%s/%s/manifests/%s", o->base, name->ns, name->model, name->tag);
    lm_ask ask = {.url = url.ptr, .headers = headers, .max_body = MAX_MANIFEST};
    st = lm_hub_get(c, o, &ask, &a, err);
    if (st == LM_OK && a.status == 404)
        st = lm_fail(err, LM_NOT_FOUND, LM_HUB_UNKNOWN);
    else if (st == LM_OK && a.status != 200)
        st = a.status == 401 || a.status == 403
                 ? lm_fail(err, LM_DENIED,
                           "%s is not for everybody (%d), and this version cannot sign in to a registry",
                           url.ptr, a.status)
                 : lm_hub_refused(o, url.ptr, &a, err);
    if (st == LM_OK) st = lm_oci_parse(lm_buf_view(&a.body), out, err);
    if (st == LM_OK) lm_hub_sha256(lm_buf_view(&a.body), hex);
    lm_answer_release(&a);
    lm_client_close(c);
    lm_buf_release(&url);
    return st;
}

/* ---- layers that are texts */

static lm_status take_text(lm_store *s, lm_draft *d, const lm_origin *o, lm_remote *f, lm_err *err) {
    char digest[LM_DIGEST_SIZE];
    lm_buf text;
    const char *path = f->same ? f->same->path : f->path;
    (void)s;
    if (!path) return lm_draft_blob(d, f->name, f->digest, err); /* known by its name as what it is */
    lm_status st = lm_hub_hash(path, f->size, "", digest, o, err);
    if (st == LM_OK && strcmp(digest, f->digest)) {
        unlink(path);
        st = lm_fail(err, LM_CORRUPT, "digest mismatch, file must be downloaded again: want %s, got %s",
                     f->digest, digest);
    }
    if (st != LM_OK) return st;
    lm_buf_init(&text, MAX_TEXT);
    st = lm_file_read(path, MAX_TEXT, &text, err);
    if (st == LM_OK) st = lm_draft_add(d, kind_of(f), lm_buf_view(&text), err);
    lm_buf_release(&text);
    return st;
}

/* What the registry says takes the place of what the GGUF file said. */
static lm_status take_texts(lm_store *s, lm_draft *d, const lm_origin *o, lm_listing *l, lm_err *err) {
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < l->n; i++)
        if (kind_of(&l->files[i]) != LM_LAYER_FILE) lm_draft_drop(d, kind_of(&l->files[i]));
    for (uint32_t i = 0; st == LM_OK && i < l->n; i++)
        if (kind_of(&l->files[i]) != LM_LAYER_FILE) st = take_text(s, d, o, &l->files[i], err);
    for (uint32_t i = 0; st == LM_OK && i < l->n; i++)
        if (kind_of(&l->files[i]) != LM_LAYER_FILE && l->files[i].path) unlink(l->files[i].path);
    return st;
}

static lm_status make_model(lm_store *s, const lm_origin *o, const lm_name *name, lm_listing *l,
                            const char *manifest, lm_err *err) {
    const lm_pull *pull = o->pull;
    lm_remote *gguf = NULL;
    lm_draft *d = NULL;
    lm_status st = check_layers(l, &gguf, err);
    if (st != LM_OK || lm_hub_is_made_of(s, pull->name, manifest)) return st;
    st = lm_draft_open(&d, s, err);
    for (uint32_t i = 0; st == LM_OK && i < l->n; i++) {
        lm_buf url;
        lm_buf_init(&url, 4096);
        lm_buf_printf(&url, "%s/v2/%s/%s/blobs/%s", o->base, name->ns, name->model, l->files[i].digest);
        l->files[i].url = lm_buf_take(&url);
    }
    if (st == LM_OK) st = lm_hub_fetch(s, o, l->files, l->n, err);
    if (st == LM_OK) pull->status(pull->ctx, "verifying sha256 digest");
    if (st == LM_OK) st = lm_hub_import(d, gguf, 1, pull, err);
    if (st == LM_OK) st = take_texts(s, d, o, l, err);
    if (st == LM_OK) st = lm_hub_note_source(d, o->base, manifest, err);
    if (st == LM_OK) st = lm_draft_check(d, err);
    if (st == LM_OK) pull->status(pull->ctx, "writing manifest");
    if (st == LM_OK) st = lm_draft_commit(d, pull->name, NULL, NULL, err);
    lm_draft_close(d);
    return st;
}

lm_status lm_registry_pull(lm_store *s, const lm_pull *pull, const lm_name *name, lm_err *err) {
    char base[400], manifest[LM_DIGEST_SIZE] = "sha256:";
    bool plain = !strncmp(pull->name, "http://", 7);
    if (plain && !pull->insecure && !is_here(name->host))
        return lm_fail(err, LM_DENIED, "insecure protocol http: say insecure to pull from %s without https",
                       name->host);
    snprintf(base, sizeof base, "%s://%s",
             plain || (pull->insecure && is_here(name->host)) ? "http" : "https", name->host);
    lm_origin o = {.base = base, .pull = pull};
    lm_listing l = {0};
    lm_status st = get_manifest(&o, name, &l, manifest + 7, err);
    if (st == LM_OK) st = make_model(s, &o, name, &l, manifest, err);
    lm_listing_release(&l);
    return st;
}

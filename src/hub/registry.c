/* registry.c - a model of an Ollama registry: a manifest, and blobs by their digest. Where its weights are a
 * GGUF file, that is imported, and what a Modelfile said comes with it as layers of their own. A model in
 * files, as a push of ours sends it, is taken as it is, to the byte. */
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

/* A LoRA adapter, beside a GGUF model a GGUF file, too. */
static bool is_adapter(const lm_remote *f) {
    return !strcmp(f->type, TYPE "adapter");
}

/* This machine, where nobody listens in: localhost or 127.x.x.x, with a port or without. */
static bool is_here(const char *host) {
    size_t n = strcspn(host, ":");
    if (n == 9 && !strncasecmp(host, "localhost", n)) return true;
    return !strncmp(host, "127.", 4) && strspn(host, "0123456789.") == n;
}

#define FILES "application/vnd.mlx-ollama.image.file"

/* Made of files with names. */
static bool is_in_files(const lm_listing *l) {
    for (uint32_t i = 0; i < l->n; i++)
        if (!strcmp(l->files[i].type, FILES) || !strcmp(l->files[i].type, TYPE "json")) return true;
    return false;
}

static void drop_config(lm_listing *l) {
    if (l->n && !strcmp(l->files[l->n - 1].type, "application/vnd.docker.container.image.v1+json")) l->n--;
}

static lm_status check_layers(lm_listing *l, lm_remote **gguf, lm_err *err) {
    *gguf = NULL;
    drop_config(l);
    for (uint32_t i = 0; i < l->n; i++) {
        lm_remote *f = &l->files[i];
        bool model = !strcmp(f->type, TYPE "model");
        lm_layer_kind kind = kind_of(f);
        if (is_adapter(f)) continue;
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

static lm_status get_manifest(const lm_origin *o, const lm_name *name, lm_listing *out, lm_buf *text,
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
                 ? lm_fail(err, LM_DENIED, "%s is not for everybody (%d), and not for you", url.ptr, a.status)
                 : lm_hub_refused(o, url.ptr, &a, err);
    if (st == LM_OK) st = lm_oci_parse(lm_buf_view(&a.body), out, err);
    if (st == LM_OK) lm_buf_str(text, lm_buf_view(&a.body));
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
    if (st == LM_OK && strcmp(digest, f->digest)) st = lm_hub_mismatch(f->same ? f->same : f, err);
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
        if (kind_of(&l->files[i]) != LM_LAYER_FILE && l->files[i].path && !l->files[i].have)
            unlink(l->files[i].path);
    return st;
}

static lm_status fetch(lm_store *s, const lm_origin *o, const lm_name *name, lm_listing *l, lm_err *err) {
    for (uint32_t i = 0; i < l->n; i++) {
        lm_buf url;
        lm_buf_init(&url, 4096);
        lm_buf_printf(&url, "%s/v2/%s/%s/blobs/%s", o->base, name->ns, name->model, l->files[i].digest);
        l->files[i].url = lm_buf_take(&url);
    }
    lm_status st = lm_hub_fetch(s, o, l->files, l->n, err);
    if (st == LM_OK) o->pull->status(o->pull->ctx, "verifying sha256 digest");
    return st;
}

static bool take_goes_on(void *ctx, uint64_t done, uint64_t total) {
    const lm_origin *o = ctx;
    (void)done;
    (void)total;
    return !lm_hub_stopped(o);
}

/* One layer into the store, as it came; nothing where it is there already. */
static lm_status take_layer(lm_draft *d, const lm_origin *o, const lm_remote *f, lm_err *err) {
    if (f->have || f->same) return LM_OK;
    lm_status st =
        lm_draft_take(d, f->path, LM_TAKE_MOVE, f->digest, take_goes_on, (void *)(uintptr_t)o, err);
    return st == LM_CORRUPT ? lm_hub_mismatch(f, err) : st;
}

static lm_status take_adapters(lm_draft *d, const lm_origin *o, const lm_listing *l, lm_err *err) {
    lm_status st = LM_OK;
    for (uint32_t i = 0; st == LM_OK && i < l->n; i++) {
        lm_adapter_source source = {.gguf = true};
        if (!is_adapter(&l->files[i])) continue;
        memcpy(source.weights, l->files[i].digest, sizeof source.weights);
        st = take_layer(d, o, &l->files[i], err);
        if (st == LM_OK) st = lm_draft_adapter(d, &source, err);
    }
    return st;
}

static lm_status import_model(lm_store *s, lm_draft *d, const lm_origin *o, const lm_name *name,
                              lm_listing *l, const char *manifest, lm_err *err) {
    lm_remote *gguf = NULL;
    lm_status st = check_layers(l, &gguf, err);
    if (st == LM_OK) st = fetch(s, o, name, l, err);
    if (st == LM_OK) st = lm_hub_import(d, gguf, 1, o->pull, err);
    if (st == LM_OK) st = take_adapters(d, o, l, err);
    if (st == LM_OK) st = take_texts(s, d, o, l, err);
    return st == LM_OK ? lm_hub_note_source(d, o->base, manifest, err) : st;
}

static lm_status adopt_model(lm_store *s, lm_draft *d, const lm_origin *o, const lm_name *name, lm_listing *l,
                             lm_str manifest, lm_err *err) {
    lm_status st = fetch(s, o, name, l, err);
    for (uint32_t i = 0; st == LM_OK && i < l->n; i++) st = take_layer(d, o, &l->files[i], err);
    return st == LM_OK ? lm_draft_adopt(d, manifest, err) : st;
}

static lm_status make_model(lm_store *s, const lm_origin *o, const lm_name *name, lm_listing *l,
                            lm_str manifest, lm_err *err) {
    const lm_pull *pull = o->pull;
    char digest[LM_DIGEST_SIZE] = "sha256:";
    lm_draft *d = NULL;
    lm_entry old;
    lm_hub_sha256(manifest, digest + 7);
    if (lm_hub_is_made_of(s, pull->name, digest)) return LM_OK;
    if (lm_store_find_own(s, pull->name, &old, NULL) == LM_OK && !strcmp(old.digest, digest + 7))
        return LM_OK;
    lm_status st = lm_draft_open(&d, s, err);
    if (st == LM_OK)
        st = is_in_files(l) ? adopt_model(s, d, o, name, l, manifest, err)
                            : import_model(s, d, o, name, l, digest, err);
    if (st == LM_OK) st = lm_draft_check(d, err);
    if (st == LM_OK) pull->status(pull->ctx, "writing manifest");
    if (st == LM_OK) st = lm_draft_commit(d, pull->name, NULL, NULL, err);
    lm_draft_close(d);
    return st;
}

lm_status lm_registry_base(const lm_pull *pull, const lm_name *name, char out[400], lm_err *err) {
    bool plain = !strncasecmp(pull->name, "http://", 7), here = is_here(name->host);
    if (plain && !pull->insecure && !here)
        return lm_fail(err, LM_DENIED, "insecure protocol http: say insecure to use %s without https",
                       name->host);
    snprintf(out, 400, "%s://%s", plain || (pull->insecure && here) ? "http" : "https", name->host);
    return LM_OK;
}

lm_status lm_registry_pull(lm_store *s, const lm_pull *pull, const lm_name *name, lm_err *err) {
    char base[400];
    lm_status st = lm_registry_base(pull, name, base, err);
    if (st != LM_OK) return st;
    lm_origin o = {.base = base, .auth = lm_auth_open(), .pull = pull};
    lm_listing l = {0};
    lm_buf manifest;
    lm_buf_init(&manifest, MAX_MANIFEST + 1);
    st = get_manifest(&o, name, &l, &manifest, err);
    if (st == LM_OK) st = make_model(s, &o, name, &l, lm_buf_view(&manifest), err);
    lm_buf_release(&manifest);
    lm_listing_release(&l);
    lm_auth_close(o.auth);
    return st;
}

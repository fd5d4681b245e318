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

static lm_status fetch_files(lm_store *s, const lm_origin *o, const lm_name *name, lm_listing *l,
                             lm_err *err) {
    for (uint32_t i = 0; i < l->n; i++) {
        lm_buf url;
        lm_buf_init(&url, 4096);
        lm_buf_printf(&url, "%s/v2/%s/%s/blobs/%s", o->base, name->ns, name->model, l->files[i].digest);
        l->files[i].url = lm_buf_take(&url);
    }
    return lm_hub_fetch(s, o, l->files, l->n, err);
}

static lm_status fetch(lm_store *s, const lm_origin *o, const lm_name *name, lm_listing *l, lm_err *err) {
    if (l->n > LM_HUB_MAX_FILES)
        return lm_fail(err, LM_TOO_LARGE, "the model has more than %d files", LM_HUB_MAX_FILES);
    lm_status st = fetch_files(s, o, name, l, err);
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

/* ---- Ollama's MLX models: a layer for each tensor, the makers' JSON files, what a Modelfile said */

static bool is_tensor(const lm_remote *f) {
    return !strcmp(f->type, TYPE "tensor");
}

static bool is_in_tensors(const lm_listing *l) {
    for (uint32_t i = 0; i < l->n; i++)
        if (is_tensor(&l->files[i])) return true;
    return false;
}

/* Told as one, as Ollama does: "pulling model". */
typedef struct sum {
    const lm_pull *pull;
    const lm_listing *l;
    uint64_t total, shown_ns;
} sum;

static void sum_status(void *ctx, const char *text) {
    const sum *s = ctx;
    s->pull->status(s->pull->ctx, text);
}

static void sum_bytes(void *ctx, const char *digest, uint64_t total, uint64_t completed) {
    sum *s = ctx;
    uint64_t done = 0, now = lm_now_ns();
    (void)digest;
    (void)total;
    (void)completed;
    for (uint32_t i = 0; i < s->l->n; i++) done += atomic_load(&s->l->files[i].done);
    if (done < s->total && now - s->shown_ns < 60000000) return;
    s->shown_ns = now;
    s->pull->bytes(s->pull->ctx, "sha256:model", s->total, done);
}

static bool sum_goes_on(void *ctx) {
    const sum *s = ctx;
    return !s->pull->go_on || s->pull->go_on(s->pull->ctx);
}

/* The same tensor once; the index names files that are none of these. Names become those of files. */
static lm_status check_tensors(lm_listing *l, uint64_t *total, lm_err *err) {
    uint32_t n = 0;
    drop_config(l);
    *total = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        lm_remote *f = &l->files[i];
        bool json = !strcmp(f->type, TYPE "json"), skip = !strcmp(f->name, "model.safetensors.index.json");
        if (!is_tensor(f) && !json && kind_of(f) == LM_LAYER_FILE)
            return lm_fail(err, LM_UNSUPPORTED, "the model has a layer %s, which cannot be run here",
                           f->type);
        if ((is_tensor(f) || json) && (!f->name[0] || strlen(f->name) > 180))
            return lm_fail(err, LM_CORRUPT, "a layer of the model has no name that a file can have");
        for (uint32_t k = 0; k < n && !skip && is_tensor(f); k++)
            skip = is_tensor(&l->files[k]) && !strcmp(l->files[k].digest, f->digest);
        if (skip) continue;
        if (is_tensor(f)) strcat(f->name, ".safetensors");
        if (!is_tensor(f) && !json) snprintf(f->name, sizeof f->name, "%s", strrchr(f->type, '.') + 1);
        *total += f->size;
        if (i != n) memmove(&l->files[n], f, sizeof *f);
        n++;
    }
    l->n = n;
    return LM_OK;
}

static lm_status check_room(lm_store *s, const lm_listing *l, lm_err *err) {
    lm_blob *b = NULL;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < l->n; i++)
        if (!lm_store_has_blob(s, l->files[i].digest)) bytes += l->files[i].size;
    lm_status st = lm_blob_open(&b, s, bytes, err);
    lm_blob_close(st == LM_OK ? b : NULL);
    return st;
}

/* Some at a time: each is an open file meanwhile. */
static lm_status take_tensors(lm_store *s, lm_draft *d, const lm_origin *o, const lm_name *name,
                              lm_listing *l, lm_err *err) {
    lm_status st = LM_OK;
    for (uint32_t from = 0; st == LM_OK && from < l->n; from += 128) {
        lm_listing some = {.files = l->files + from, .n = l->n - from < 128 ? l->n - from : 128};
        st = fetch_files(s, o, name, &some, err);
        for (uint32_t i = 0; st == LM_OK && i < some.n; i++) {
            lm_remote *f = &some.files[i];
            st = take_layer(d, o, f, err);
            if (st == LM_OK) st = lm_draft_blob(d, f->name, f->digest, err);
            if (f->fd >= 0) close(f->fd);
            f->fd = -1;
        }
    }
    return st;
}

static lm_status tensor_model(lm_store *s, lm_draft *d, const lm_origin *o, const lm_name *name,
                              lm_listing *l, const char *manifest, lm_err *err) {
    sum all = {.pull = o->pull, .l = l};
    lm_pull told = *o->pull;
    lm_origin as_one = *o;
    told.status = sum_status;
    told.bytes = o->pull->bytes ? sum_bytes : NULL;
    told.go_on = sum_goes_on;
    told.ctx = &all;
    as_one.pull = &told;
    lm_status st = check_tensors(l, &all.total, err);
    if (st == LM_OK) st = check_room(s, l, err);
    if (st == LM_OK) st = take_tensors(s, d, &as_one, name, l, err);
    return st == LM_OK ? lm_hub_note_source(d, o->base, manifest, err) : st;
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
        st = is_in_tensors(l) ? tensor_model(s, d, o, name, l, digest, err)
             : is_in_files(l) ? adopt_model(s, d, o, name, l, manifest, err)
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

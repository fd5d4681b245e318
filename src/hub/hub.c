/* hub.c - which place a name stands for; one pull of a model at a time; models that are made of a GGUF file;
 * pushes. */
#include "hub/hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "hub/private.h"

#define MAX_REPOS 8
#define SOURCE    "pulled.json"

/* ---- models that are made of a GGUF file */

bool lm_hub_is_made_of(lm_store *s, const char *name, const char *digest) {
    lm_entry e;
    json_t *v = NULL;
    if (lm_store_find_own(s, name, &e, NULL) != LM_OK) return false;
    char *path = lm_path_join(e.dir, SOURCE);
    const char *have = NULL;
    if (lm_path_is_file(path) && lm_json_load(path, 65536, &v, NULL) == LM_OK)
        have = json_string_value(json_object_get(v, "digest"));
    bool same = have && !strcmp(have, digest);
    json_decref(v);
    free(path);
    return same;
}

lm_status lm_hub_note_source(lm_draft *d, const char *source, const char *digest, lm_err *err) {
    const char *dir = NULL;
    lm_buf b;
    lm_status st = lm_draft_staging(d, &dir, err);
    if (st != LM_OK) return st;
    lm_buf_init(&b, 65536);
    lm_buf_text(&b, "{\"source\":");
    lm_json_write_string(&b, lm_str_of(source));
    lm_buf_printf(&b, ",\"digest\":\"%s\"}\n", digest);
    char *path = lm_path_join(dir, SOURCE);
    st = lm_file_write(path, lm_buf_view(&b), err);
    if (st == LM_OK) st = lm_draft_file(d, SOURCE, path, LM_TAKE_MOVE, NULL, NULL, NULL, err);
    lm_buf_release(&b);
    free(path);
    return st;
}

static bool import_goes_on(void *ctx, uint64_t done, uint64_t total) {
    const lm_pull *pull = ctx;
    (void)done;
    (void)total;
    return !pull->go_on || pull->go_on(pull->ctx);
}

lm_status lm_hub_mismatch(const lm_remote *f, lm_err *err) {
    if (f->have)
        return lm_fail(err, LM_CORRUPT, "%s is not what its name promises: remove it and pull again",
                       f->path);
    unlink(f->path); /* going on from it would never become right */
    return lm_fail(err, LM_CORRUPT, "%s: digest mismatch, file must be downloaded again: want %s", f->name,
                   f->digest);
}

static lm_status check_digest(lm_remote *f, const lm_pull *pull, lm_err *err) {
    lm_origin o = {.pull = pull};
    char digest[LM_DIGEST_SIZE];
    lm_status st = lm_hub_hash(f->path, f->size, "", digest, &o, err);
    return st == LM_OK && strcmp(digest, f->digest) ? lm_hub_mismatch(f, err) : st;
}

lm_status lm_hub_import(lm_draft *d, lm_remote *files, uint32_t n, const lm_pull *pull, lm_err *err) {
    lm_gguf_file *ggufs = lm_alloc(n * sizeof *ggufs);
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < n && st == LM_OK; i++) {
        lm_remote *f = &files[i];
        if (f->same)
            st = lm_fail(err, LM_CORRUPT, "%s and %s are the same file, not two parts of a model",
                         f->same->name, f->name);
        else if (f->path)
            st = check_digest(f, pull, err);
        ggufs[i] = (lm_gguf_file){.path = f->path, .digest = f->digest};
    }
    if (st == LM_OK) st = lm_draft_import(d, ggufs, n, import_goes_on, (void *)(uintptr_t)pull, err);
    for (uint32_t i = 0; i < n && st == LM_OK; i++)
        if (files[i].path && !files[i].have) unlink(files[i].path); /* its tensors are in the model now */
    free(ggufs);
    return st;
}

/* ---- names */

static bool is_hub(const lm_name *n) {
    return !strcasecmp(n->host, "hf.co") || !strcasecmp(n->host, "huggingface.co");
}

static const char *without_scheme(const char *name) {
    if (!strncasecmp(name, "https://", 8)) return name + 8;
    return strncasecmp(name, "http://", 7) ? name : name + 7;
}

/* Whether the host is written down, as in registry.ollama.ai/ns/model. */
static bool names_host(const char *name, const lm_name *n) {
    size_t k = strlen(n->host);
    name = without_scheme(name);
    return !strncasecmp(name, n->host, k) && name[k] == '/';
}

/* The repositories behind an alias, in their order; the first failure counts when none of them is there. */
static lm_status pull_repos(lm_store *s, const lm_pull *pull, const lm_name *repos, uint32_t n, lm_err *err) {
    lm_status first = LM_OK;
    lm_err why = {0};
    for (uint32_t i = 0; i < n; i++) {
        lm_status st = lm_hf_pull(s, pull, &repos[i], err);
        if (st != LM_NOT_FOUND && st != LM_DENIED) return st;
        if (first == LM_OK || first == LM_NOT_FOUND) {
            first = st;
            if (err) why = *err;
        }
    }
    return lm_fail(err, first, "%s", why.text);
}

static lm_status pull_from(lm_store *s, const lm_pull *pull, const lm_name *name, lm_err *err) {
    lm_name repos[MAX_REPOS];
    if (names_host(pull->name, name) && !is_hub(name)) return lm_registry_pull(s, pull, name, err);
    uint32_t n = lm_store_repos(s, name, repos, MAX_REPOS);
    if (n) return pull_repos(s, pull, repos, n, err);
    return lm_registry_pull(s, pull, name, err);
}

static bool is_offline(void) {
    static const char *const yes[] = {"1", "on", "yes", "true"};
    const char *v = getenv("HF_HUB_OFFLINE");
    for (size_t i = 0; v && i < sizeof yes / sizeof *yes; i++)
        if (!strcasecmp(v, yes[i])) return true;
    return false;
}

lm_status lm_hub_pull(lm_store *s, const lm_pull *pull, lm_err *err) {
    lm_name name;
    char full[700], key[720], *lock_path = NULL;
    int lock = -1;
    lm_origin o = {.pull = pull};
    lm_status st = lm_name_parse(lm_str_of(pull->name), &name, err);
    if (st != LM_OK) return st;
    pull->status(pull->ctx, "pulling manifest");
    if (is_offline())
        return lm_fail(err, LM_DENIED, "HF_HUB_OFFLINE is set, so nothing is pulled: unset it first");
    lm_name_full(&name, full);
    for (char *p = full; *p; p++)
        if (*p >= 'A' && *p <= 'Z') *p = (char)(*p + 32);
    snprintf(key, sizeof key, "pull %s", full);
    /* Who comes second waits, and finds all of it there. */
    st = lm_hub_partial(s, &o, key, &lock, &lock_path, err);
    if (st != LM_OK) return st;
    st = pull_from(s, pull, &name, err);
    free(lock_path);
    close(lock);
    return st;
}

/* ---- push */

/* A repository of the hub, as pulls have it; what an alias stands for is somebody else's. */
static bool goes_to_hub(const char *text, const lm_name *n) {
    if (is_hub(n)) return true;
    return !names_host(text, n) && strcasecmp(n->ns, "library") && !strcasecmp(n->host, "registry.ollama.ai");
}

static bool reading_goes_on(void *ctx, uint64_t done, uint64_t total) {
    const lm_pull *push = ctx;
    (void)done;
    (void)total;
    return !push->go_on || push->go_on(push->ctx);
}

lm_status lm_hub_push(lm_store *s, const lm_pull *push, lm_err *err) {
    lm_name name;
    lm_entry model;
    lm_draft *d = NULL;
    lm_contents parts = {0};
    lm_status st = lm_name_parse(lm_str_of(push->name), &name, err);
    if (st != LM_OK) return st;
    push->status(push->ctx, "retrieving manifest");
    if (is_offline())
        return lm_fail(err, LM_DENIED, "HF_HUB_OFFLINE is set, so nothing is pushed: unset it first");
    st = lm_store_find(s, push->name, &model, err);
    if (st == LM_NOT_FOUND) push->status(push->ctx, "couldn't retrieve manifest");
    if (st == LM_OK) st = lm_store_ready(s, &model, reading_goes_on, (void *)(uintptr_t)push, err);
    if (st == LM_OK) st = lm_draft_open(&d, s, err);
    if (st == LM_OK) st = lm_draft_contents(d, &model, reading_goes_on, (void *)(uintptr_t)push, &parts, err);
    if (st == LM_OK)
        st = goes_to_hub(push->name, &name) ? lm_hf_push(push, &name, &parts, err)
                                            : lm_registry_push(push, &name, &parts, err);
    lm_contents_release(&parts);
    lm_draft_close(d);
    return st;
}

/* hf.c - a repository of the Hugging Face hub: its listing, the files of a model, and the model of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "hub/private.h"

#define ENDPOINT    "https://huggingface.co"
#define MAX_LISTING (32u << 20) /* bytes, unpacked */
#define MAX_TOKEN   512

/* ---- the environment */

static const char *env(const char *name) {
    const char *v = getenv(name);
    return v && v[0] ? v : NULL;
}

/* As the hub's own tools look for it. */
static void read_token_file(lm_buf *out) {
    char *path = env("HF_TOKEN_PATH")    ? lm_strdup(env("HF_TOKEN_PATH"))
                 : env("HF_HOME")        ? lm_path_join(env("HF_HOME"), "token")
                 : env("XDG_CACHE_HOME") ? lm_path_join(env("XDG_CACHE_HOME"), "huggingface/token")
                                         : lm_path_home(".cache/huggingface/token");
    if (lm_file_read(path, MAX_TOKEN, out, NULL) != LM_OK) lm_buf_clear(out);
    free(path);
}

/* Letters that a header can carry, or it is none. */
char *lm_hf_token(void) {
    const char *given = env("HF_TOKEN") ? env("HF_TOKEN") : env("HUGGING_FACE_HUB_TOKEN");
    lm_buf b;
    lm_buf_init(&b, MAX_TOKEN + 1);
    if (given)
        lm_buf_text(&b, given);
    else
        read_token_file(&b);
    lm_str s = lm_str_trim(lm_buf_view(&b));
    bool ok = s.len > 0 && !b.failed;
    for (size_t i = 0; i < s.len; i++) ok = ok && s.ptr[i] > 32 && s.ptr[i] < 127;
    char *token = ok ? lm_str_dup(s) : NULL;
    lm_buf_release(&b);
    return token;
}

char *lm_hf_endpoint(void) {
    char *base = lm_strdup(env("HF_ENDPOINT") ? env("HF_ENDPOINT") : ENDPOINT);
    for (size_t n = strlen(base); n && base[n - 1] == '/'; n--) base[n - 1] = '\0';
    return base;
}

/* ---- the listing */

static char *print(const char *format, const char *a, const char *b, const char *c, const char *d) {
    lm_buf out;
    lm_buf_init(&out, 8192);
    lm_buf_printf(&out, format, a, b, c, d);
    return lm_buf_take(&out);
}

lm_status lm_hf_listing(const lm_origin *o, const lm_name *repo, const char *revision, lm_listing *out,
                        lm_err *err) {
    lm_client *c = NULL;
    lm_answer a = {0};
    lm_status st = lm_client_open(&c, err);
    if (st != LM_OK) return st;
    char rest[200];
    snprintf(rest, sizeof rest, "%s/revision/%s", repo->model, revision);
    char *url = print("%s/api/models/%s/%s%s", o->base, repo->ns, rest, "?blobs=true");
    lm_ask ask = {.url = url, .max_body = MAX_LISTING, .compressed = true};
    st = lm_hub_get(c, o, &ask, &a, err);
    if (st == LM_OK && a.status != 200) {
        char *page = print("%s/%s/%s%s", o->base, repo->ns, repo->model, "");
        st = lm_hub_refused(o, page, &a, err);
        free(page);
    }
    if (st == LM_OK) st = lm_listing_parse(lm_buf_view(&a.body), out, err);
    lm_answer_release(&a);
    lm_client_close(c);
    free(url);
    return st;
}

/* A tag is a revision, or names a form of a repository of GGUF files. */
static lm_status find_files(const lm_origin *o, const lm_name *repo, lm_listing *out, bool *gguf,
                            lm_err *err) {
    bool plain = !strcasecmp(repo->tag, "latest");
    lm_status st = lm_hf_listing(o, repo, plain ? "main" : repo->tag, out, err);
    if (st == LM_OK) return lm_listing_choose(out, "latest", gguf, err);
    if (plain || st != LM_NOT_FOUND) return st;
    st = lm_hf_listing(o, repo, "main", out, err);
    if (st != LM_OK) return st;
    st = lm_listing_choose(out, repo->tag, gguf, err);
    if (st == LM_NOT_FOUND || (st == LM_OK && !*gguf)) st = lm_fail(err, LM_NOT_FOUND, LM_HUB_UNKNOWN);
    return st;
}

static char *file_url(const char *base, const lm_name *repo, const char *commit, const char *file) {
    lm_buf b;
    lm_buf_init(&b, 8192);
    lm_buf_printf(&b, "%s/%s/%s/resolve/%s/", base, repo->ns, repo->model, commit);
    for (; *file; file++) {
        bool plain = (*file >= 'a' && *file <= 'z') || (*file >= 'A' && *file <= 'Z') ||
                     (*file >= '0' && *file <= '9') || strchr("-_.~/", *file);
        if (plain)
            lm_buf_char(&b, *file);
        else
            lm_buf_printf(&b, "%%%02X", (unsigned char)*file);
    }
    return lm_buf_take(&b);
}

/* ---- what is there already: small files of the model that has this name now, and what the Hugging Face
 * tools have fetched of this repository */

static void look_for(lm_remote *f, const char *dir, const char *name, const lm_origin *o) {
    char *path = lm_path_join(dir, name), digest[LM_DIGEST_SIZE];
    struct stat info;
    if (!f->have && stat(path, &info) == 0 && S_ISREG(info.st_mode) && (uint64_t)info.st_size == f->size &&
        lm_hub_hash(path, f->size, f->oid, digest, o, NULL) == LM_OK) {
        memcpy(f->digest, digest, sizeof digest);
        atomic_store(&f->hashed, true);
        f->have = true;
        f->path = lm_strdup(path);
    }
    free(path);
}

static void look_at_old(lm_store *s, const lm_origin *o, lm_listing *l) {
    lm_entry old;
    if (lm_store_find_own(s, o->pull->name, &old, NULL) != LM_OK) return;
    for (uint32_t i = 0; i < l->n; i++) {
        if (!l->files[i].oid[0]) continue;
        look_for(&l->files[i], old.dir, l->files[i].name, o);
        if (!strncasecmp(l->files[i].name, "license", 7)) look_for(&l->files[i], old.dir, "license", o);
    }
}

/* CACHE/models--ORG--REPO/blobs/CHECKSUM: whole files, under the name that the listing gives their content.
 */
static void look_in_cache(const lm_origin *o, const lm_name *repo, lm_listing *l) {
    char below[200];
    char *cache = lm_store_hub_cache();
    snprintf(below, sizeof below, "models--%s--%s/blobs", repo->ns, repo->model);
    char *blobs = lm_path_join(cache, below);
    for (uint32_t i = 0; i < l->n; i++) {
        lm_remote *f = &l->files[i];
        struct stat info;
        if (f->oid[0]) {
            look_for(f, blobs, f->oid, o);
            continue;
        }
        char *path = lm_path_join(blobs, f->digest + 7);
        f->have = stat(path, &info) == 0 && S_ISREG(info.st_mode) && (uint64_t)info.st_size == f->size;
        if (f->have)
            f->path = path;
        else
            free(path);
    }
    free(blobs);
    free(cache);
}

/* ---- the model */

static bool take_goes_on(void *ctx, uint64_t done, uint64_t total) {
    const lm_origin *o = ctx;
    (void)done;
    (void)total;
    return !lm_hub_stopped(o);
}

static lm_status take_file(lm_draft *d, const lm_origin *o, lm_remote *f, lm_err *err) {
    if (f->same) return lm_draft_blob(d, f->name, f->same->digest, err);
    if (f->have && !f->path) return lm_draft_blob(d, f->name, f->digest, err);
    lm_take take = f->have ? LM_TAKE_LINK : LM_TAKE_MOVE;
    lm_status st =
        lm_draft_file(d, f->name, f->path, take, f->digest, take_goes_on, (void *)(uintptr_t)o, err);
    return st == LM_CORRUPT ? lm_hub_mismatch(f, err) : st;
}

static lm_status take_files(lm_draft *d, const lm_origin *o, lm_listing *l, lm_err *err) {
    lm_status st = LM_OK;
    for (int same = 0; same < 2; same++)
        for (uint32_t i = 0; st == LM_OK && i < l->n; i++)
            if ((l->files[i].same != NULL) == same) st = take_file(d, o, &l->files[i], err);
    return st;
}

/* Which GGUF file a model was made of, or which parts. */
static void source_digest(const lm_listing *l, char out[LM_DIGEST_SIZE]) {
    lm_buf all;
    if (l->n == 1) {
        memcpy(out, l->files[0].digest, LM_DIGEST_SIZE);
        return;
    }
    lm_buf_init(&all, LM_HUB_MAX_FILES * LM_DIGEST_SIZE);
    for (uint32_t i = 0; i < l->n; i++) lm_buf_text(&all, l->files[i].digest);
    memcpy(out, "sha256:", 7);
    lm_hub_sha256(lm_buf_view(&all), out + 7);
    lm_buf_release(&all);
}

/* One snapshot of a repository, whose files became others here. */
static void commit_digest(const lm_listing *l, const lm_name *repo, char out[LM_DIGEST_SIZE]) {
    lm_buf text;
    lm_buf_init(&text, 1024);
    lm_buf_printf(&text, "%s/%s@%s", repo->ns, repo->model, l->commit);
    memcpy(out, "sha256:", 7);
    lm_hub_sha256(lm_buf_view(&text), out + 7);
    lm_buf_release(&text);
}

/* A checkpoint as its makers publish it gets the form that runs here. Its own weights are not kept, so what
 * is noted is which snapshot it was: the same one is not fetched again. */
static lm_status make_ready(lm_draft *d, const lm_origin *o, const lm_listing *l, const char *source,
                            lm_err *err) {
    lm_form_info is;
    if (lm_draft_look(d, &is, NULL) != LM_OK || !is.foreign) return lm_draft_check(d, err);
    o->pull->status(o->pull->ctx, "converting model");
    lm_status st = lm_draft_convert(d, NULL, take_goes_on, (void *)(uintptr_t)o, err);
    return st == LM_OK ? lm_hub_note_source(d, l->files[0].url, source, err) : st;
}

static lm_status make_model(lm_store *s, const lm_origin *o, const lm_name *repo, lm_listing *l, bool gguf,
                            lm_err *err) {
    const lm_pull *pull = o->pull;
    lm_draft *d = NULL;
    char source[LM_DIGEST_SIZE];
    if (gguf)
        source_digest(l, source);
    else
        commit_digest(l, repo, source);
    if (lm_hub_is_made_of(s, pull->name, source)) return LM_OK;
    lm_status st = lm_draft_open(&d, s, err); /* from here on nothing that we count on is pruned */
    if (st == LM_OK && !gguf) look_at_old(s, o, l);
    if (st == LM_OK) look_in_cache(o, repo, l);
    for (uint32_t i = 0; st == LM_OK && i < l->n; i++)
        l->files[i].url = file_url(o->base, repo, l->commit, l->files[i].name);
    if (st == LM_OK) st = lm_hub_fetch(s, o, l->files, l->n, err);
    if (st == LM_OK) pull->status(pull->ctx, "verifying sha256 digest");
    if (st == LM_OK) st = gguf ? lm_hub_import(d, l->files, l->n, pull, err) : take_files(d, o, l, err);
    if (st == LM_OK && gguf) st = lm_hub_note_source(d, l->files[0].url, source, err);
    if (st == LM_OK) st = gguf ? lm_draft_check(d, err) : make_ready(d, o, l, source, err);
    if (st == LM_OK) pull->status(pull->ctx, "writing manifest");
    if (st == LM_OK) st = lm_draft_commit(d, pull->name, NULL, NULL, err);
    lm_draft_close(d);
    return st;
}

lm_status lm_hf_pull(lm_store *s, const lm_pull *pull, const lm_name *repo, lm_err *err) {
    char *base = lm_hf_endpoint(), *token = lm_hf_token();
    lm_origin o = {.base = base, .token = token, .pull = pull};
    lm_listing l = {0};
    bool gguf = false;
    lm_status st = find_files(&o, repo, &l, &gguf, err);
    if (st == LM_OK) st = make_model(s, &o, repo, &l, gguf, err);
    lm_listing_release(&l);
    free(base);
    free(token);
    return st;
}

/* registry_push.c - a model to a registry: its blobs, those that are not there, and then its manifest.
 *
 *     HEAD  /v2/NS/MODEL/blobs/DIGEST      200: it is there
 *     POST  /v2/NS/MODEL/blobs/uploads/    202, Location: the upload; 201: taken from another model there
 *     PATCH LOCATION                       with Content-Range: FIRST-LAST
 *                                          202, Location: where it goes on
 *                                          307, Location: PUT this part there; Docker-Upload-Location
 *     GET   LOCATION                       204, Range: 0-LAST, what has arrived
 *     PUT   LOCATION&digest=..             201
 *     PUT   /v2/NS/MODEL/manifests/TAG     201
 *
 * Sources: https://github.com/opencontainers/distribution-spec (push), Ollama's server/upload.go for the
 * redirect of parts and the etag, md5 over the parts' md5.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "hub/private.h"

#define MAX_BLOB_PARTS 100000
#define TYPE_MANIFEST  "Content-Type: application/vnd.docker.distribution.manifest.v2+json"

typedef struct job {
    char at[600]; /* "https://HOST/v2/NS/MODEL" */
    lm_remote *files;
    const lm_contents *parts;
    const lm_name *name;
} job;

/* One blob on its way. */
typedef struct upload {
    lm_remote *f;
    int fd;
    char *location; /* where the next part goes */
    uint64_t at;    /* bytes that have arrived */
    EVP_MD_CTX *sums; /* over the md5 of n_parts parts, the first `summed` bytes of the blob */
    uint32_t n_parts;
    uint64_t summed;
    uint32_t n_sent; /* parts, again and again ones too */
} upload;

/* ---- one request */

static lm_status ask(lm_client *c, const lm_origin *o, const char *method, const char *url, lm_str body,
                     const char *header, lm_answer *out, lm_err *err) {
    const char *headers[] = {header, NULL};
    lm_ask a = {
        .method = method, .url = url, .body = body, .headers = headers, .silent_ms = LM_HUB_PROCESS_MS};
    return lm_hub_get(c, o, &a, out, err);
}

static bool take_location(upload *u, const char *base, const lm_answer *a) {
    lm_str where = lm_answer_header(a, "Docker-Upload-Location");
    char *next = NULL;
    if (!where.len) where = lm_answer_header(a, "Location");
    if (lm_url_join(base, where, &next, NULL) != LM_OK) return false;
    free(u->location);
    u->location = next;
    return true;
}

static lm_status no_location(const char *url, lm_err *err) {
    return lm_fail(err, LM_CORRUPT, "%s does not say where to send a blob", url);
}

/* ---- the parts of a blob */

static lm_status is_there(lm_client *c, const lm_origin *o, const job *j, const lm_remote *f, bool *there,
                          lm_err *err) {
    char url[800];
    lm_answer a = {0};
    snprintf(url, sizeof url, "%s/blobs/%s", j->at, f->digest);
    lm_status st = ask(c, o, "HEAD", url, (lm_str){0}, NULL, &a, err);
    *there = st == LM_OK && a.status == 200;
    if (st == LM_OK && a.status != 200 && a.status != 404) st = lm_hub_not_taken(o, url, &a, err);
    lm_answer_release(&a);
    return st;
}

/* A model that this one was made of may have the blob there already. */
static void offer_mount(const job *j, uint32_t i, char *out, size_t room) {
    const char *from = j->parts->items[i].from;
    lm_name n;
    out[0] = '\0';
    if (from && lm_name_parse(lm_str_of(from), &n, NULL) == LM_OK && !strcasecmp(n.host, j->name->host))
        snprintf(out, room, "?mount=%s&from=%s/%s", j->files[i].digest, n.ns, n.model);
}

static lm_status begin(lm_client *c, const lm_origin *o, const job *j, uint32_t i, upload *u, bool *mounted,
                       lm_err *err) {
    char url[1200], mount[400];
    lm_answer a = {0};
    offer_mount(j, i, mount, sizeof mount);
    snprintf(url, sizeof url, "%s/blobs/uploads/%s", j->at, mount);
    lm_status st = ask(c, o, "POST", url, LM_STR(""), "Content-Type: application/octet-stream", &a, err);
    *mounted = st == LM_OK && a.status == 201;
    if (st == LM_OK && a.status != 201 && a.status != 202) st = lm_hub_not_taken(o, url, &a, err);
    if (st == LM_OK && !*mounted && !take_location(u, url, &a)) st = no_location(url, err);
    if (st == LM_OK && !EVP_DigestInit_ex(u->sums, EVP_md5(), NULL)) st = lm_hub_no_md5(err);
    lm_answer_release(&a);
    u->at = u->summed = 0;
    u->n_parts = 0;
    return st;
}

/* How much of it has arrived, as the registry has it: after a lost connection. */
static lm_status ask_how_far(lm_client *c, const lm_origin *o, upload *u, bool *lost, lm_err *err) {
    lm_answer a = {0};
    unsigned long long last = 0;
    char text[64], *url = lm_strdup(u->location);
    lm_status st = ask(c, o, "GET", url, (lm_str){0}, NULL, &a, err);
    *lost = st == LM_OK && a.status == 404;
    if (st == LM_OK && (a.status == 204 || a.status == 202)) {
        lm_str range = lm_answer_header(&a, "Range");
        snprintf(text, sizeof text, "%.*s", LM_STR_ARG(range));
        if (sscanf(text, "0-%llu", &last) == 1 && last < u->f->size) u->at = last ? last + 1 : 0;
        if (lm_answer_header(&a, "Location").len && !take_location(u, url, &a)) st = no_location(url, err);
    }
    lm_answer_release(&a);
    free(url);
    return st;
}

/* After a part that was cut off nobody knows which parts the registry counts: then there is no sum of them. */
static void add_sum(upload *u, const unsigned char md5[16], uint64_t size) {
    if (u->summed != u->at || !EVP_DigestUpdate(u->sums, md5, 16)) return;
    u->n_parts++;
    u->summed += size;
}

static lm_status send_part(lm_client *c, const lm_origin *o, upload *u, uint64_t size, bool *again,
                           uint64_t *wait_ms, bool *lost, lm_err *err) {
    char range[96], *url = lm_strdup(u->location), *elsewhere = NULL;
    unsigned char md5[16];
    lm_piece p = {.fd = u->fd, .from = u->at, .size = size, .f = u->f, .md5 = md5};
    lm_answer a = {0};
    snprintf(range, sizeof range, "Content-Range: %llu-%llu", (unsigned long long)u->at,
             (unsigned long long)(u->at + size - 1));
    const char *headers[] = {"Content-Type: application/octet-stream", "X-Redirect-Uploads: 1", range, NULL};
    lm_status st = lm_hub_send(c, o, "PATCH", url, headers, &p, &a, again, wait_ms, err);
    *lost = st == LM_OK && (a.status == 404 || a.status == 416);
    if (st == LM_OK && a.status == 307) {
        st = lm_url_join(url, lm_answer_header(&a, "Location"), &elsewhere, err);
        if (st == LM_OK &&
            (!lm_answer_header(&a, "Docker-Upload-Location").len || !take_location(u, url, &a)))
            st = no_location(url, err);
        /* To where the registry keeps its blobs: no token goes there. */
        static const char *const plain[] = {"Content-Type: application/octet-stream", NULL};
        if (st == LM_OK) st = lm_hub_put(c, o, elsewhere, plain, &p, NULL, err);
    } else if (st == LM_OK && a.status / 100 != 2) {
        st = lm_hub_not_taken(o, url, &a, err);
    } else if (st == LM_OK && !take_location(u, url, &a)) {
        st = no_location(url, err);
    }
    if (st == LM_OK) {
        add_sum(u, md5, size);
        u->at += size;
    }
    lm_answer_release(&a);
    free(elsewhere);
    free(url);
    return st;
}

static lm_status send_parts(lm_client *c, const lm_origin *o, const job *j, uint32_t i, upload *u,
                            lm_err *err) {
    uint64_t most = lm_hub_part_size(u->f->size);
    uint32_t attempt = 0;
    while (u->at < u->f->size) {
        bool again = false, lost = false, mounted = false;
        uint64_t wait_ms = 0, before = u->at, left = u->f->size - u->at;
        if (u->n_sent++ > MAX_BLOB_PARTS)
            return lm_fail(err, LM_IO, "%s arrives in too small parts", u->f->digest);
        lm_status st = send_part(c, o, u, left < most ? left : most, &again, &wait_ms, &lost, err);
        if (st == LM_OK) {
            attempt = 0;
            continue;
        }
        if ((!again && !lost) || ++attempt == LM_HUB_ATTEMPTS) return st;
        if (!lm_hub_pause(o, attempt, wait_ms)) return lm_fail(err, LM_CANCELLED, "cancelled");
        st = ask_how_far(c, o, u, &lost, err);
        if (st == LM_OK && lost) st = begin(c, o, j, i, u, &mounted, err);
        if (st != LM_OK) return st;
        if (mounted) u->at = u->f->size;
        if (u->at > before) attempt = 0;
        atomic_store(&u->f->done, u->at);
    }
    return LM_OK;
}

/* An answer that is lost on its way does not make a blob less there. */
static lm_status end(lm_client *c, const lm_origin *o, const job *j, upload *u, lm_err *err) {
    unsigned char sum[EVP_MAX_MD_SIZE];
    lm_answer a = {0};
    bool there = false;
    lm_buf url;
    lm_buf_init(&url, 16384);
    lm_buf_printf(&url, "%s%cdigest=sha256%%3A%s", u->location, strchr(u->location, '?') ? '&' : '?',
                  u->f->digest + 7);
    if (u->n_parts && u->summed == u->f->size && EVP_DigestFinal_ex(u->sums, sum, NULL)) {
        lm_buf_text(&url, "&etag=");
        for (int i = 0; i < 16; i++) lm_buf_printf(&url, "%02x", sum[i]);
        lm_buf_printf(&url, "-%u", u->n_parts);
    }
    lm_status st = lm_buf_status(&url, "the registry's address", err);
    if (st == LM_OK)
        st = ask(c, o, "PUT", url.ptr, LM_STR(""), "Content-Type: application/octet-stream", &a, err);
    if ((st == LM_OK && a.status / 100 != 2) || st == LM_IO || st == LM_TIMEOUT) {
        lm_err none = {0};
        if (is_there(c, o, j, u->f, &there, &none) == LM_OK && there)
            st = LM_OK;
        else if (st == LM_OK)
            st = lm_hub_not_taken(o, url.ptr, &a, err);
    }
    lm_answer_release(&a);
    lm_buf_release(&url);
    return st;
}

static lm_status push_blob(void *ctx, lm_client *c, const lm_origin *o, uint32_t i, lm_err *err) {
    job *j = ctx;
    upload u = {.f = &j->files[i], .fd = -1};
    bool there = false;
    if (u.f->same) return LM_OK;
    lm_status st = is_there(c, o, j, u.f, &there, err);
    if (st == LM_OK && !there && !(u.sums = EVP_MD_CTX_new())) st = lm_hub_no_md5(err);
    if (st == LM_OK && !there) st = begin(c, o, j, i, &u, &there, err);
    if (st == LM_OK && !there) {
        st = lm_hub_source(u.f, &u.fd, err);
        if (st == LM_OK) st = send_parts(c, o, j, i, &u, err);
        if (st == LM_OK) st = end(c, o, j, &u, err);
    }
    EVP_MD_CTX_free(u.sums);
    if (st == LM_OK) atomic_store(&u.f->done, u.f->size);
    if (u.fd >= 0) close(u.fd);
    free(u.location);
    return st;
}

/* ---- the model */

static lm_status push_manifest(const lm_origin *o, const job *j, lm_err *err) {
    lm_client *c = NULL;
    lm_answer a = {0};
    char url[800];
    lm_status st = lm_client_open(&c, err);
    if (st != LM_OK) return st;
    snprintf(url, sizeof url, "%s/manifests/%s", j->at, j->name->tag);
    st = ask(c, o, "PUT", url, lm_buf_view(&j->parts->manifest), TYPE_MANIFEST, &a, err);
    if (st == LM_OK && a.status / 100 != 2) st = lm_hub_not_taken(o, url, &a, err);
    lm_answer_release(&a);
    lm_client_close(c);
    return st;
}

lm_status lm_registry_push(const lm_pull *push, const lm_name *name, const lm_contents *parts, lm_err *err) {
    char base[400];
    lm_status st = lm_registry_base(push, name, base, err);
    if (st != LM_OK) return st;
    lm_origin o = {.base = base, .auth = lm_auth_open(), .pull = push};
    job j = {.files = lm_alloc((parts->n + 1) * sizeof *j.files), .parts = parts, .name = name};
    snprintf(j.at, sizeof j.at, "%s/v2/%s/%s", base, name->ns, name->model);
    for (uint32_t i = 0; i < parts->n; i++) {
        lm_hub_outgoing(&parts->items[i], &j.files[i]);
        for (uint32_t k = 0; k < i && !j.files[i].same; k++)
            if (!strcmp(j.files[k].digest, j.files[i].digest)) j.files[i].same = &j.files[k];
        j.files[i].told = j.files[i].same != NULL; /* once is enough */
    }
    st = lm_crew_run(&o, j.files, parts->n, push_blob, &j, err);
    if (st == LM_OK) push->status(push->ctx, "pushing manifest");
    if (st == LM_OK) st = push_manifest(&o, &j, err);
    for (uint32_t i = 0; i < parts->n; i++) free(j.files[i].path);
    free(j.files);
    lm_auth_close(o.auth);
    return st;
}

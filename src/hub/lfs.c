/* lfs.c - large files to the Hugging Face hub: a batch of checksums goes there, and what comes back says for
 * each file whether it is there already, or where its bytes go, in one piece or in parts.
 *
 *     POST /ORG/REPO.git/info/lfs/objects/batch
 *     {"operation":"upload","transfers":["basic","multipart"],"hash_algo":"sha256","ref":{"name":"main"},
 *      "objects":[{"oid":"HEX","size":1}]}
 *     {"objects":[{"oid":"HEX","size":1,"actions":{"upload":{"href":"..","header":{..}},"verify":{"href":".."}}}]}
 *
 * With parts, header has chunk_size and an address for each: "00001", "00002" ... What came of them, their
 * ETags, goes to href. None of the addresses outside of the hub sees a token.
 *
 * Sources: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md, huggingface_hub's lfs.py.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/json.h"
#include "hub/private.h"

#define MAX_HEADERS 8
#define MAX_PARTS   10000
#define MAX_ANSWER  (32u << 20)
#define TYPE        "application/vnd.git-lfs+json"

/* ---- the answer */

void lm_lfs_release(lm_lfs *l) {
    for (uint32_t i = 0; i < l->n_headers; i++) free(l->headers[i]);
    for (uint32_t i = 0; l->parts && i < l->n_parts; i++) free(l->parts[i]);
    free(l->href);
    free(l->verify);
    free(l->headers);
    free(l->parts);
    *l = (lm_lfs){0};
}

/* An address of theirs, NULL when it is none. */
static char *address(const char *base, const json_t *v) {
    char *url = NULL;
    lm_str text = {json_string_value(v), json_string_length(v)};
    return text.ptr && lm_url_join(base, text, &url, NULL) == LM_OK ? url : NULL;
}

static bool is_number(const char *key) {
    return key[0] && strlen(key) <= 5 && strspn(key, "0123456789") == strlen(key);
}

static bool read_parts(const json_t *header, const char *base, uint64_t size, lm_lfs *l) {
    const json_t *chunk = json_object_get(header, "chunk_size");
    const char *text = json_string_value(chunk);
    l->chunk = json_is_integer(chunk) && json_integer_value(chunk) > 0 ? (uint64_t)json_integer_value(chunk)
               : text                                                  ? strtoull(text, NULL, 10)
                                                                       : 0;
    if (!l->chunk || l->chunk > LM_HUB_MAX_BYTES || (size - 1) / l->chunk >= MAX_PARTS) return false;
    l->n_parts = (uint32_t)((size - 1) / l->chunk + 1);
    l->parts = lm_alloc(l->n_parts * sizeof *l->parts);
    for (void *at = json_object_iter((json_t *)(uintptr_t)header); at;
         at = json_object_iter_next((json_t *)(uintptr_t)header, at)) {
        const char *key = json_object_iter_key(at);
        unsigned long k = is_number(key) ? strtoul(key, NULL, 10) : 0;
        if (!k || k > l->n_parts || l->parts[k - 1]) continue;
        l->parts[k - 1] = address(base, json_object_iter_value(at));
    }
    for (uint32_t i = 0; i < l->n_parts; i++)
        if (!l->parts[i]) return false;
    return true;
}

/* Headers of theirs for a request of ours: none that says who we are, or how long the body is. */
static bool read_headers(const json_t *header, lm_lfs *l) {
    static const char *const ours[] = {"authorization",     "host",       "cookie", "content-length",
                                       "transfer-encoding", "connection", "expect"};
    l->headers = lm_alloc((MAX_HEADERS + 1) * sizeof *l->headers);
    for (void *at = json_object_iter((json_t *)(uintptr_t)header); at;
         at = json_object_iter_next((json_t *)(uintptr_t)header, at)) {
        const char *key = json_object_iter_key(at), *value = json_string_value(json_object_iter_value(at));
        bool skip = false;
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) skip = skip || !strcasecmp(key, ours[i]);
        if (skip) continue;
        if (!value || !key[0] || strlen(key) > 100 || strlen(value) > 2000 || l->n_headers == MAX_HEADERS)
            return false;
        for (const char *p = key; *p; p++)
            if (*p <= 32 || *p > 126 || *p == ':') return false;
        for (const char *p = value; *p; p++)
            if (*p < 32 || *p > 126) return false;
        char *line = lm_alloc(strlen(key) + strlen(value) + 3);
        sprintf(line, "%s: %s", key, value);
        l->headers[l->n_headers++] = line;
    }
    return true;
}

static lm_status read_object(const json_t *v, const char *url, const lm_remote *f, lm_lfs *out, lm_err *err) {
    const json_t *error = json_object_get(v, "error"), *actions = json_object_get(v, "actions");
    const json_t *upload = json_object_get(actions, "upload"), *verify = json_object_get(actions, "verify");
    const json_t *header = json_object_get(upload, "header");
    const char *why = json_string_value(json_object_get(error, "message"));
    if (error)
        return lm_fail(err, LM_DENIED, "the hub does not take %s: %.200s", f->name,
                       why ? why : "it does not say why");
    if (!upload) return LM_OK;
    out->href = address(url, json_object_get(upload, "href"));
    bool ok = out->href && f->size > 0;
    if (ok && json_object_get(header, "chunk_size"))
        ok = read_parts(header, url, f->size, out);
    else if (ok)
        ok = read_headers(header, out);
    if (ok && verify) ok = (out->verify = address(url, json_object_get(verify, "href"))) != NULL;
    return ok ? LM_OK : lm_fail(err, LM_CORRUPT, "the hub does not say where to send %s", f->name);
}

lm_status lm_lfs_parse(lm_str text, const char *url, lm_remote *const *files, uint32_t n, lm_lfs *out,
                       lm_err *err) {
    json_t *root = NULL, *one;
    size_t k;
    uint32_t found = 0;
    memset(out, 0, n * sizeof *out);
    bool *seen = lm_alloc(n + 1);
    lm_status st = lm_json_parse(text, &root, err);
    if (st != LM_OK) st = lm_fail_in(err, LM_CORRUPT, "the hub's answer about large files");
    json_array_foreach(json_object_get(root, "objects"), k, one) {
        const char *oid = json_string_value(json_object_get(one, "oid"));
        for (uint32_t i = 0; st == LM_OK && oid && i < n; i++) {
            if (seen[i] || strcmp(oid, files[i]->digest + 7)) continue;
            seen[i] = true;
            found++;
            st = read_object(one, url, files[i], &out[i], err);
        }
    }
    if (st == LM_OK && found < n)
        st = lm_fail(err, LM_CORRUPT, "the hub's answer says nothing of some large files");
    if (st != LM_OK)
        for (uint32_t i = 0; i < n; i++) lm_lfs_release(&out[i]);
    json_decref(root);
    free(seen);
    return st;
}

lm_status lm_lfs_ask(lm_client *c, const lm_origin *o, const char *repo, const char *revision,
                     lm_remote *const *files, uint32_t n, lm_lfs *out, lm_err *err) {
    static const char *const headers[] = {"Accept: " TYPE, "Content-Type: " TYPE, NULL};
    char url[700];
    lm_answer a = {0};
    lm_buf b;
    lm_buf_init(&b, 1u << 20);
    snprintf(url, sizeof url, "%s/%s.git/info/lfs/objects/batch", o->base, repo);
    lm_buf_text(&b,
                "{\"operation\":\"upload\",\"transfers\":[\"basic\",\"multipart\"],\"hash_algo\":\"sha256\","
                "\"ref\":{\"name\":");
    lm_json_write_string(&b, lm_str_of(revision));
    lm_buf_text(&b, "},\"objects\":[");
    for (uint32_t i = 0; i < n; i++)
        lm_buf_printf(&b, "%s{\"oid\":\"%s\",\"size\":%llu}", i ? "," : "", files[i]->digest + 7,
                      (unsigned long long)files[i]->size);
    lm_buf_text(&b, "]}");
    lm_ask ask = {
        .method = "POST", .url = url, .headers = headers, .body = lm_buf_view(&b), .max_body = MAX_ANSWER};
    lm_status st = lm_buf_status(&b, "a batch of large files", err);
    if (st == LM_OK) st = lm_hub_get(c, o, &ask, &a, err);
    if (st == LM_OK && a.status != 200) st = lm_hub_not_taken(o, url, &a, err);
    if (st == LM_OK) st = lm_lfs_parse(lm_buf_view(&a.body), url, files, n, out, err);
    lm_answer_release(&a);
    lm_buf_release(&b);
    return st;
}

/* ---- one file */

static lm_status post(lm_client *c, const lm_origin *o, const char *url, const lm_buf *body, lm_err *err) {
    static const char *const headers[] = {"Accept: " TYPE, "Content-Type: " TYPE, NULL};
    lm_answer a = {0};
    lm_ask ask = {.method = "POST",
                  .url = url,
                  .headers = headers,
                  .body = lm_buf_view(body),
                  .silent_ms = LM_HUB_PROCESS_MS};
    lm_status st = lm_buf_status(body, "a request to the hub", err);
    if (st == LM_OK) st = lm_hub_get(c, o, &ask, &a, err);
    if (st == LM_OK && a.status / 100 != 2) st = lm_hub_not_taken(o, url, &a, err);
    lm_answer_release(&a);
    return st;
}

static lm_status send_parts(lm_client *c, const lm_origin *o, lm_remote *f, const lm_lfs *how, int fd,
                            lm_err *err) {
    lm_status st = LM_OK;
    lm_buf b;
    lm_buf_init(&b, 16u << 20);
    lm_buf_printf(&b, "{\"oid\":\"%s\",\"parts\":[", f->digest + 7);
    for (uint32_t i = 0; st == LM_OK && i < how->n_parts; i++) {
        char *etag = NULL;
        uint64_t from = i * how->chunk, left = f->size - from;
        lm_piece p = {.fd = fd, .from = from, .size = left < how->chunk ? left : how->chunk, .f = f};
        st = lm_hub_put(c, o, how->parts[i], NULL, &p, &etag, err);
        if (st != LM_OK) break;
        lm_buf_printf(&b, "%s{\"partNumber\":%u,\"etag\":", i ? "," : "", i + 1);
        lm_json_write_string(&b, lm_str_of(etag));
        lm_buf_char(&b, '}');
        free(etag);
    }
    lm_buf_text(&b, "]}");
    if (st == LM_OK) st = post(c, o, how->href, &b, err);
    lm_buf_release(&b);
    return st;
}

lm_status lm_lfs_send(lm_client *c, const lm_origin *o, lm_remote *f, const lm_lfs *how, lm_err *err) {
    int fd = -1;
    lm_status st = how->href ? lm_hub_source(f, &fd, err) : LM_OK;
    if (st == LM_OK && how->n_parts) {
        st = send_parts(c, o, f, how, fd, err);
    } else if (st == LM_OK && how->href) {
        lm_piece p = {.fd = fd, .size = f->size, .f = f};
        st = lm_hub_put(c, o, how->href, (const char *const *)how->headers, &p, NULL, err);
    }
    if (st == LM_OK && how->verify) {
        lm_buf b;
        lm_buf_init(&b, 1024);
        lm_buf_printf(&b, "{\"oid\":\"%s\",\"size\":%llu}", f->digest + 7, (unsigned long long)f->size);
        st = post(c, o, how->verify, &b, err);
        lm_buf_release(&b);
    }
    if (fd >= 0) close(fd);
    return st == LM_OK ? st : lm_fail_in(err, st, "%s", f->name);
}

/* client.c - each request is one easy handle in a multi handle of the client's: that one keeps the
 * connections, and can be woken from other threads. */
#include "http/client.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MAX_BODY   (UINT64_C(16) << 20)
#define DEFAULT_CONNECT_MS 5000
#define MAX_HEADERS        (256u << 10) /* bytes of an answer's head */
#define WAIT_MS            100

struct lm_client {
    CURLM *multi;
    atomic_bool cancel;
};

/* One request while it runs. */
typedef struct transfer {
    const lm_ask *ask;
    lm_answer *answer;
    CURL *easy;
    uint64_t started_ns, last_byte_ns;
    uint64_t max_body;
    uint64_t sent;  /* bytes of ask->send's */
    bool unread;    /* it could not be read */
    bool left;      /* on_body said so */
    bool too_large; /* body or head */
} transfer;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode library; /* of curl_global_init */

static void start_library(void) {
    library = curl_global_init(CURL_GLOBAL_DEFAULT);
}

lm_status lm_client_open(lm_client **out, lm_err *err) {
    pthread_once(&once, start_library);
    if (library != CURLE_OK) return lm_fail(err, LM_INTERNAL, "libcurl: %s", curl_easy_strerror(library));
    lm_client *c = lm_alloc(sizeof *c);
    c->multi = curl_multi_init();
    if (!c->multi) {
        free(c);
        return lm_fail(err, LM_NO_MEMORY, "no memory for an HTTP client");
    }
    *out = c;
    return LM_OK;
}

void lm_client_close(lm_client *c) {
    if (!c) return;
    curl_multi_cleanup(c->multi);
    free(c);
}

void lm_client_cancel(lm_client *c) {
    atomic_store(&c->cancel, true);
    curl_multi_wakeup(c->multi);
}

/* ---- what comes */

static size_t take_header(char *bytes, size_t one, size_t n, void *ctx) {
    transfer *t = ctx;
    n *= one;
    t->last_byte_ns = lm_now_ns();
    /* A new status line: what came before belonged to a 100 Continue. */
    if (lm_str_starts((lm_str){bytes, n}, LM_STR("HTTP/"))) lm_buf_clear(&t->answer->headers);
    lm_buf_add(&t->answer->headers, bytes, n);
    t->too_large |= t->answer->headers.failed;
    return t->too_large ? 0 : n;
}

static size_t take_body(char *bytes, size_t one, size_t n, void *ctx) {
    transfer *t = ctx;
    lm_answer *a = t->answer;
    n *= one;
    t->last_byte_ns = lm_now_ns();
    if (!a->n_body) a->first_ns = t->last_byte_ns - t->started_ns;
    if (n > t->max_body - a->n_body) {
        t->too_large = true;
        return 0;
    }
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    a->status = (int)status;
    if (!a->n_body && t->ask->on_head && status < 300) t->left = !t->ask->on_head(t->ask->ctx, a);
    if (t->left) return 0;
    a->n_body += n;
    if (t->ask->on_body && status < 300) {
        t->left = !t->ask->on_body(t->ask->ctx, (lm_str){bytes, n});
        return t->left ? 0 : n;
    }
    lm_buf_add(&a->body, bytes, n);
    t->too_large |= a->body.failed;
    return a->body.failed ? 0 : n;
}

/* ---- what goes */

static size_t give_body(char *out, size_t one, size_t n, void *ctx) {
    transfer *t = ctx;
    uint64_t left = t->ask->n_send - t->sent;
    n *= one;
    if (n > left) n = (size_t)left;
    t->last_byte_ns = lm_now_ns();
    if (!n) return 0;
    n = t->ask->send(t->ask->ctx, t->sent, out, n);
    t->sent += n;
    t->unread = !n;
    return n ? n : CURL_READFUNC_ABORT;
}

/* A kept connection that was closed at the other end: curl sends again over a new one. */
static int seek_body(void *ctx, curl_off_t at, int origin) {
    transfer *t = ctx;
    if (origin != SEEK_SET || at < 0 || (uint64_t)at > t->ask->n_send) return CURL_SEEKFUNC_FAIL;
    t->sent = (uint64_t)at;
    return CURL_SEEKFUNC_OK;
}

/* Whether it is an address for us, and whether one of this machine, which is never behind a proxy. */
static bool read_url(const char *url, bool *here) {
    CURLU *u = curl_url();
    char *host = NULL, *scheme = NULL;
    bool ok = u && !curl_url_set(u, CURLUPART_URL, url, 0) &&
              !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) && !curl_url_get(u, CURLUPART_HOST, &host, 0) &&
              (!strcmp(scheme, "http") || !strcmp(scheme, "https"));
    *here = ok && (!strcmp(host, "localhost") || !strncmp(host, "127.", 4) || !strcmp(host, "[::1]"));
    curl_free(scheme);
    curl_free(host);
    curl_url_cleanup(u);
    return ok;
}

static char *url_part(CURLU *u, CURLUPart part, unsigned flags) {
    char *text = NULL;
    if (curl_url_get(u, part, &text, flags)) return NULL;
    return text;
}

lm_status lm_url_join(const char *base, lm_str relative, char **out, lm_err *err) {
    CURLU *u = curl_url();
    char *text = lm_str_dup(relative);
    bool clean = u && relative.len && strlen(text) == relative.len && relative.len < 16384;
    bool ok = clean && !curl_url_set(u, CURLUPART_URL, base, 0);
    char *before = ok ? url_part(u, CURLUPART_SCHEME, 0) : NULL;
    ok = before && !curl_url_set(u, CURLUPART_URL, text, 0);
    char *after = ok ? url_part(u, CURLUPART_SCHEME, 0) : NULL;
    char *url = after ? url_part(u, CURLUPART_URL, 0) : NULL;
    ok = url && (!strcmp(after, "https") || (!strcmp(after, "http") && !strcmp(before, "http")));
    lm_status st =
        ok ? LM_OK : lm_fail(err, LM_INVALID, "%s sends on to \"%.200s\", which is not followed", base, text);
    if (ok) *out = lm_strdup(url);
    curl_free(before);
    curl_free(after);
    curl_free(url);
    curl_url_cleanup(u);
    free(text);
    return st;
}

static bool same_part(CURLU *a, CURLU *b, CURLUPart part) {
    char *x = url_part(a, part, CURLU_DEFAULT_PORT), *y = url_part(b, part, CURLU_DEFAULT_PORT);
    bool same = x && y && lm_str_eq_nocase(lm_str_of(x), lm_str_of(y));
    curl_free(x);
    curl_free(y);
    return same;
}

bool lm_url_same_origin(const char *a, const char *b) {
    CURLU *x = curl_url(), *y = curl_url();
    bool same = x && y && !curl_url_set(x, CURLUPART_URL, a, 0) && !curl_url_set(y, CURLUPART_URL, b, 0) &&
                same_part(x, y, CURLUPART_SCHEME) && same_part(x, y, CURLUPART_HOST) &&
                same_part(x, y, CURLUPART_PORT);
    curl_url_cleanup(x);
    curl_url_cleanup(y);
    return same;
}

static struct curl_slist *request_headers(const lm_ask *ask) {
    struct curl_slist *list = NULL;
    bool has_type = false;
    for (const char *const *h = ask->headers; h && *h; h++) {
        list = curl_slist_append(list, *h);
        lm_str line = lm_str_of(*h);
        if (line.len > 13) line.len = 13;
        has_type |= lm_str_eq_nocase(line, LM_STR("content-type:"));
    }
    if (ask->body.ptr && !has_type) list = curl_slist_append(list, "Content-Type: application/json");
    /* Our bodies are small: asking first whether the server wants one costs a round trip. */
    return curl_slist_append(list, "Expect:");
}

/* Certificates to trust in place of the system's, as curl's own program has it: libcurl by itself does not
 * look. */
static void choose_trust(CURL *e) {
    const char *file = getenv("CURL_CA_BUNDLE"), *dir = getenv("SSL_CERT_DIR");
    if (!file || !file[0]) file = getenv("SSL_CERT_FILE");
    if (file && file[0]) curl_easy_setopt(e, CURLOPT_CAINFO, file);
    if (dir && dir[0]) curl_easy_setopt(e, CURLOPT_CAPATH, dir);
}

static void prepare(transfer *t, struct curl_slist *headers, bool here, char error[CURL_ERROR_SIZE]) {
    const lm_ask *ask = t->ask;
    CURL *e = t->easy;
    curl_easy_setopt(e, CURLOPT_URL, ask->url);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, error);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS,
                     (long)(ask->connect_ms ? ask->connect_ms : DEFAULT_CONNECT_MS));
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    if (ask->compressed) curl_easy_setopt(e, CURLOPT_ACCEPT_ENCODING, "gzip");
    if (here) curl_easy_setopt(e, CURLOPT_PROXY, "");
    choose_trust(e);
    if (ask->send) {
        curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, 262144L);
        curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)ask->n_send);
        curl_easy_setopt(e, CURLOPT_READFUNCTION, give_body);
        curl_easy_setopt(e, CURLOPT_READDATA, t);
        curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, seek_body);
        curl_easy_setopt(e, CURLOPT_SEEKDATA, t);
    } else if (ask->body.ptr) {
        curl_easy_setopt(e, CURLOPT_POSTFIELDS, ask->body.ptr);
        curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)ask->body.len);
    }
    if (!strcmp(ask->method, "HEAD")) curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
    curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, ask->method);
}

/* ---- the run */

static lm_status over_time(const transfer *t, lm_err *err) {
    const lm_ask *ask = t->ask;
    uint64_t now = lm_now_ns();
    if (ask->total_ms && now - t->started_ns > ask->total_ms * UINT64_C(1000000))
        return lm_fail(err, LM_TIMEOUT, "%s took longer than %.1f s", ask->url, ask->total_ms / 1e3);
    if (ask->silent_ms && now - t->last_byte_ns > ask->silent_ms * UINT64_C(1000000))
        return lm_fail(err, LM_TIMEOUT, "%s sent nothing for %.1f s", ask->url, ask->silent_ms / 1e3);
    return LM_OK;
}

/* Until the transfer is over, with its result, or somebody ends it. */
static lm_status run(lm_client *c, transfer *t, CURLcode *result, lm_err *err) {
    for (;;) {
        if (atomic_exchange(&c->cancel, false) || (t->ask->on_wait && !t->ask->on_wait(t->ask->ctx)))
            return lm_fail(err, LM_CANCELLED, "the request to %s was cancelled", t->ask->url);
        lm_status st = over_time(t, err);
        if (st != LM_OK) return st;
        int running = 0, left = 0;
        CURLMcode code = curl_multi_perform(c->multi, &running);
        for (CURLMsg *m; code == CURLM_OK && (m = curl_multi_info_read(c->multi, &left));) {
            if (m->msg != CURLMSG_DONE) continue;
            *result = m->data.result;
            return LM_OK;
        }
        if (code == CURLM_OK) code = curl_multi_poll(c->multi, NULL, 0, WAIT_MS, NULL);
        if (code != CURLM_OK) return lm_fail(err, LM_INTERNAL, "libcurl: %s", curl_multi_strerror(code));
    }
}

static lm_status not_an_address(const char *url, lm_err *err) {
    return lm_fail(err, LM_INVALID, "%s is no http:// or https:// address", url);
}

static lm_status explain(const transfer *t, CURLcode code, const char *why, lm_err *err) {
    const char *url = t->ask->url;
    if (!why[0]) why = curl_easy_strerror(code);
    if (t->unread) return lm_fail(err, LM_IO, "what goes to %s cannot be read", url);
    if (t->left) return lm_fail(err, LM_CANCELLED, "left %s in the middle of its answer", url);
    if (t->too_large) return lm_fail(err, LM_TOO_LARGE, "the answer of %s is larger than expected", url);
    switch (code) {
    case CURLE_URL_MALFORMAT: return not_an_address(url, err);
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT: return lm_fail(err, LM_NOT_FOUND, "nothing answers at %s: %s", url, why);
    case CURLE_OPERATION_TIMEDOUT: return lm_fail(err, LM_TIMEOUT, "%s does not answer: %s", url, why);
    case CURLE_UNSUPPORTED_PROTOCOL: /* no status line: curl takes it for HTTP/0.9 */
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_HTTP2: return lm_fail(err, LM_CORRUPT, "%s does not speak HTTP: %s", url, why);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return lm_fail(
            err, LM_DENIED,
            "the certificate of %s is not trusted: %s: SSL_CERT_FILE may name a file of certificates "
            "to trust",
            url, why);
    case CURLE_GOT_NOTHING: return lm_fail(err, LM_IO, "%s closed the connection without an answer", url);
    case CURLE_PARTIAL_FILE:
        return lm_fail(err, LM_IO, "%s closed the connection in the middle of its answer", url);
    default: return lm_fail(err, LM_IO, "the connection to %s broke: %s", url, why);
    }
}

/* "Application/JSON; charset=utf-8" as "application/json". */
static void note_type(transfer *t) {
    const char *type = NULL;
    curl_easy_getinfo(t->easy, CURLINFO_CONTENT_TYPE, &type);
    lm_str s = lm_str_of(type);
    const char *end = s.len ? memchr(s.ptr, ';', s.len) : NULL;
    if (end) s.len = (size_t)(end - s.ptr);
    s = lm_str_trim(s);
    char *out = t->answer->content_type;
    snprintf(out, sizeof t->answer->content_type, "%.*s", LM_STR_ARG(s));
    for (; *out; out++)
        if (*out >= 'A' && *out <= 'Z') *out = (char)(*out - 'A' + 'a');
}

static void note_facts(transfer *t) {
    long status = 0;
    curl_off_t connected_us = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(t->easy, CURLINFO_CONNECT_TIME_T, &connected_us);
    t->answer->status = (int)status;
    t->answer->connected_ns = (uint64_t)connected_us * 1000;
    t->answer->total_ns = lm_now_ns() - t->started_ns;
    note_type(t);
}

lm_status lm_client_ask(lm_client *c, const lm_ask *ask, lm_answer *out, lm_err *err) {
    *out = (lm_answer){0};
    transfer t = {.ask = ask, .answer = out, .max_body = ask->max_body ? ask->max_body : DEFAULT_MAX_BODY};
    lm_buf_init(&out->headers, MAX_HEADERS);
    lm_buf_init(&out->body, t.max_body);
    bool here = false;
    if (!read_url(ask->url, &here)) return not_an_address(ask->url, err);
    t.easy = curl_easy_init();
    if (!t.easy) return lm_fail(err, LM_NO_MEMORY, "no memory for a request to %s", ask->url);

    char why[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = request_headers(ask);
    prepare(&t, headers, here, why);
    t.started_ns = t.last_byte_ns = lm_now_ns();
    CURLcode code = CURLE_OK;
    CURLMcode added = curl_multi_add_handle(c->multi, t.easy);
    lm_status st = added == CURLM_OK ? run(c, &t, &code, err)
                                     : lm_fail(err, LM_INTERNAL, "libcurl: %s", curl_multi_strerror(added));
    note_facts(&t);
    if (added == CURLM_OK) curl_multi_remove_handle(c->multi, t.easy);
    if (st == LM_OK && code != CURLE_OK) st = explain(&t, code, why, err);
    curl_slist_free_all(headers);
    curl_easy_cleanup(t.easy);
    return st;
}

void lm_answer_release(lm_answer *a) {
    lm_buf_release(&a->headers);
    lm_buf_release(&a->body);
}

lm_str lm_answer_header(const lm_answer *a, const char *name) {
    lm_str rest = lm_buf_view(&a->headers), key = lm_str_of(name);
    while (rest.len) {
        const char *end = memchr(rest.ptr, '\n', rest.len);
        lm_str line = {rest.ptr, end ? (size_t)(end - rest.ptr) : rest.len};
        rest.ptr += line.len + (end != NULL);
        rest.len -= line.len + (end != NULL);
        if (line.len <= key.len || line.ptr[key.len] != ':') continue;
        if (!lm_str_eq_nocase((lm_str){line.ptr, key.len}, key)) continue;
        return lm_str_trim((lm_str){line.ptr + key.len + 1, line.len - key.len - 1});
    }
    return (lm_str){0};
}

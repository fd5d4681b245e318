/* client.c - each request is one easy handle in a multi handle of the client's: that one keeps the
 * connections, and can be woken from other threads. */
#include "http/easy.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

#define DEFAULT_MAX_BODY (UINT64_C(16) << 20)
#define WAIT_MS          100

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
    bool has_head;
} transfer;

lm_status lm_client_open(lm_client **out, lm_err *err) {
    lm_status st = lm_easy_library(err);
    if (st != LM_OK) return st;
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
    easy_head head = lm_easy_header(t->answer, (lm_str){bytes, n});
    t->has_head |= head == EASY_HEAD_WHOLE;
    t->too_large |= head == EASY_HEAD_TOO_LARGE;
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
    t->unread = n == LM_SEND_FAILED || (!n && t->ask->n_send != UINT64_MAX);
    if (t->unread) return CURL_READFUNC_ABORT;
    t->sent += n;
    return n;
}

/* A kept connection that was closed at the other end: curl sends again over a new one. */
static int seek_body(void *ctx, curl_off_t at, int origin) {
    transfer *t = ctx;
    if (origin != SEEK_SET || at < 0 || (uint64_t)at > t->ask->n_send) return CURL_SEEKFUNC_FAIL;
    t->sent = (uint64_t)at;
    return CURL_SEEKFUNC_OK;
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

/* What is done with the bytes that come and go. */
static void connect_callbacks(transfer *t, char error[CURL_ERROR_SIZE]) {
    const lm_ask *ask = t->ask;
    CURL *e = t->easy;
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, error);
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    if (ask->compressed) curl_easy_setopt(e, CURLOPT_ACCEPT_ENCODING, "gzip");
    if (!ask->send) return;
    curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, 262144L);
    curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)ask->n_send);
    curl_easy_setopt(e, CURLOPT_READFUNCTION, give_body);
    curl_easy_setopt(e, CURLOPT_READDATA, t);
    curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, seek_body);
    curl_easy_setopt(e, CURLOPT_SEEKDATA, t);
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

static lm_status explain(const transfer *t, CURLcode code, const char *why, lm_err *err) {
    const char *url = t->ask->url;
    if (t->unread) return lm_fail(err, LM_IO, "what goes to %s cannot be read", url);
    if (t->left) return lm_fail(err, LM_CANCELLED, "left %s in the middle of its answer", url);
    if (t->too_large) return lm_fail(err, LM_TOO_LARGE, "the answer of %s is larger than expected", url);
    return lm_easy_explain(code, url, why, err);
}

static void note_facts(transfer *t) {
    curl_off_t connected_us = 0;
    curl_easy_getinfo(t->easy, CURLINFO_CONNECT_TIME_T, &connected_us);
    t->answer->connected_ns = (uint64_t)connected_us * 1000;
    t->answer->total_ns = lm_now_ns() - t->started_ns;
    lm_easy_note(t->easy, t->answer);
}

lm_status lm_client_ask(lm_client *c, const lm_ask *ask, lm_answer *out, lm_err *err) {
    *out = (lm_answer){0};
    transfer t = {.ask = ask, .answer = out, .max_body = ask->max_body ? ask->max_body : DEFAULT_MAX_BODY};
    lm_buf_init(&out->headers, EASY_MAX_HEADERS);
    lm_buf_init(&out->body, t.max_body);
    t.easy = curl_easy_init();
    if (!t.easy) return lm_fail(err, LM_NO_MEMORY, "no memory for a request to %s", ask->url);

    char why[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = NULL;
    easy_ask common = {.method = ask->method,
                       .url = ask->url,
                       .headers = ask->headers,
                       .body = ask->send ? (lm_str){0} : ask->body,
                       .connect_ms = ask->connect_ms};
    lm_status st = lm_easy_prepare(t.easy, &common, &headers, err);
    if (st != LM_OK) goto done;
    connect_callbacks(&t, why);
    t.started_ns = t.last_byte_ns = lm_now_ns();
    CURLcode code = CURLE_OK;
    CURLMcode added = curl_multi_add_handle(c->multi, t.easy);
    st = added == CURLM_OK ? run(c, &t, &code, err)
                           : lm_fail(err, LM_INTERNAL, "libcurl: %s", curl_multi_strerror(added));
    note_facts(&t);
    if (added == CURLM_OK) curl_multi_remove_handle(c->multi, t.easy);
    if (code == CURLE_OK && !t.has_head) code = CURLE_PARTIAL_FILE; /* the end came within the head */
    if (st == LM_OK && code != CURLE_OK) st = explain(&t, code, why, err);
done:
    curl_slist_free_all(headers);
    curl_easy_cleanup(t.easy);
    return st;
}

void lm_answer_release(lm_answer *a) {
    lm_buf_release(&a->headers);
    lm_buf_release(&a->body);
}

void lm_answer_error(const lm_answer *a, char *out, size_t room) {
    json_t *o = NULL;
    const char *said = NULL;
    if (a->body.len && lm_json_parse(lm_buf_view(&a->body), &o, NULL) == LM_OK) {
        const json_t *e = json_object_get(o, "error");
        said = json_string_value(json_is_object(e) ? json_object_get(e, "message") : e);
    }
    size_t n = a->body.len < 150 ? a->body.len : 150;
    if (said)
        snprintf(out, room, "%s", said);
    else
        snprintf(out, room, "%.*s", (int)n, a->body.ptr ? a->body.ptr : "");
    json_decref(o);
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

#include "http/easy.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode library; /* of curl_global_init */

static void start_library(void) {
    library = curl_global_init(CURL_GLOBAL_DEFAULT);
}

lm_status lm_easy_library(lm_err *err) {
    pthread_once(&once, start_library);
    if (library != CURLE_OK) return lm_fail(err, LM_INTERNAL, "libcurl: %s", curl_easy_strerror(library));
    return LM_OK;
}

/* ---- the request */

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

static struct curl_slist *request_headers(const easy_ask *ask) {
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

lm_status lm_easy_prepare(CURL *e, const easy_ask *ask, struct curl_slist **list, lm_err *err) {
    bool here = false;
    *list = NULL;
    if (!read_url(ask->url, &here)) return lm_easy_explain(CURLE_URL_MALFORMAT, ask->url, NULL, err);
    *list = request_headers(ask);
    curl_easy_setopt(e, CURLOPT_URL, ask->url);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L); /* what was checked is what is asked for: no dots are resolved */
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS,
                     (long)(ask->connect_ms ? ask->connect_ms : EASY_CONNECT_MS));
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, *list);
    curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    if (here) curl_easy_setopt(e, CURLOPT_PROXY, "");
    choose_trust(e);
    if (ask->body.ptr) {
        curl_easy_setopt(e, CURLOPT_POSTFIELDS, ask->body.ptr);
        curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)ask->body.len);
    }
    if (!strcmp(ask->method, "HEAD")) curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
    curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, ask->method);
    return LM_OK;
}

/* ---- the answer */

easy_head lm_easy_header(lm_answer *a, lm_str line) {
    /* A new status line: what came before belonged to a 100 Continue. */
    if (lm_str_starts(line, LM_STR("HTTP/"))) lm_buf_clear(&a->headers);
    lm_buf_str(&a->headers, line);
    if (a->headers.failed) return EASY_HEAD_TOO_LARGE;
    if (lm_str_trim(line).len) return EASY_HEAD_GOES_ON;
    const char *status = strchr(a->headers.ptr, ' ');
    return status && status[1] == '1' ? EASY_HEAD_GOES_ON
                                      : EASY_HEAD_WHOLE; /* behind 1xx, the real one follows */
}

/* "Application/JSON; charset=utf-8" as "application/json". */
static void note_type(CURL *e, lm_answer *a) {
    const char *type = NULL;
    curl_easy_getinfo(e, CURLINFO_CONTENT_TYPE, &type);
    lm_str s = lm_str_of(type);
    const char *end = s.len ? memchr(s.ptr, ';', s.len) : NULL;
    if (end) s.len = (size_t)(end - s.ptr);
    s = lm_str_trim(s);
    char *out = a->content_type;
    snprintf(out, sizeof a->content_type, "%.*s", LM_STR_ARG(s));
    for (; *out; out++)
        if (*out >= 'A' && *out <= 'Z') *out = (char)(*out - 'A' + 'a');
}

void lm_easy_note(CURL *e, lm_answer *a) {
    long status = 0;
    curl_off_t retry_after = 0;
    curl_easy_getinfo(e, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(e, CURLINFO_RETRY_AFTER, &retry_after);
    a->status = (int)status;
    a->retry_after_s = retry_after > 0 ? (uint32_t)(retry_after < 86400 ? retry_after : 86400) : 0;
    note_type(e, a);
}

lm_status lm_easy_explain(CURLcode code, const char *who, const char *why, lm_err *err) {
    if (!why || !why[0]) why = curl_easy_strerror(code);
    switch (code) {
    case CURLE_URL_MALFORMAT: return lm_fail(err, LM_INVALID, "%s is no http:// or https:// address", who);
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT: return lm_fail(err, LM_NOT_FOUND, "nothing answers at %s: %s", who, why);
    case CURLE_OPERATION_TIMEDOUT: return lm_fail(err, LM_TIMEOUT, "%s does not answer: %s", who, why);
    case CURLE_UNSUPPORTED_PROTOCOL: /* no status line: curl takes it for HTTP/0.9 */
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_HTTP2: return lm_fail(err, LM_CORRUPT, "%s does not speak HTTP: %s", who, why);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return lm_fail(
            err, LM_DENIED,
            "the certificate of %s is not trusted: %s: SSL_CERT_FILE may name a file of certificates "
            "to trust",
            who, why);
    case CURLE_GOT_NOTHING: return lm_fail(err, LM_IO, "%s closed the connection without an answer", who);
    case CURLE_PARTIAL_FILE:
        return lm_fail(err, LM_IO, "%s closed the connection in the middle of its answer", who);
    default: return lm_fail(err, LM_IO, "the connection to %s broke: %s", who, why);
    }
}

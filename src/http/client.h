/* client.h - an HTTP/1.1 client (libcurl): one request at a time, its answer as it comes or whole.
 *
 * A client keeps its connection between requests, as clients of a server do. It goes to the address that the
 * URL says: redirects are not followed, and proxies of the environment are not used for this machine's own
 * addresses.
 *
 * Over https the certificate must be one that the system trusts, or CURL_CA_BUNDLE, SSL_CERT_FILE (a file) or
 * SSL_CERT_DIR.
 *
 * Nothing waits without an end: a request has a limit for connecting, one for silence and one for the whole,
 * and lm_client_cancel ends it from any other thread. An answer's body has a cap, whether it is kept or
 * handed on.
 *
 * Threads: a client belongs to one thread at a time; lm_client_cancel alone may come from any.
 */
#ifndef LM_HTTP_CLIENT_H
#define LM_HTTP_CLIENT_H

#include "base/base.h"

typedef struct lm_client lm_client;
typedef struct lm_answer lm_answer;

#define LM_SEND_FAILED SIZE_MAX

typedef struct lm_ask {
    const char *method;         /* "GET", "HEAD", "POST", "DELETE" ... */
    const char *url;            /* http:// or https:// */
    const char *const *headers; /* "Name: value", ended by NULL; NULL: none */
    lm_str body;                /* ptr NULL: none; it is JSON unless headers say another Content-Type */
    /* Instead of body, one of n_send bytes that is read as it goes out: up to room bytes from `at` on into out.
     * Returns how many, 0 when it cannot be read any more (LM_IO). It may be asked for the beginning again.
     * n_send UINT64_MAX: nobody knows how many; 0 is the end then, LM_SEND_FAILED what 0 means otherwise. */
    size_t (*send)(void *ctx, uint64_t at, char *out, size_t room);
    uint64_t n_send;
    uint64_t max_body;   /* bytes of the answer's body; 0: 16 MiB */
    uint32_t connect_ms; /* 0: 5 seconds */
    uint32_t silent_ms;  /* without a byte of the answer, or of send's; 0: no limit */
    uint32_t total_ms;   /* 0: no limit */
    /* Pieces of a body with a status below 300, as they arrive; false leaves the request (LM_CANCELLED).
     * NULL: the body is kept in the answer. The body of an error is always kept. */
    bool (*on_body)(void *ctx, lm_str piece);
    /* About ten times a second while the request runs, and before its first byte goes out; false leaves. May
     * be NULL. */
    bool (*on_wait)(void *ctx);
    /* Before the first piece of such a body, with its status and headers; false leaves. May be NULL. */
    bool (*on_head)(void *ctx, const lm_answer *a);
    void *ctx;
    bool compressed; /* the answer may come gzip'd; body, n_body and max_body are of what it unpacks to */
} lm_ask;

struct lm_answer {
    int status;             /* 0: none came */
    char content_type[128]; /* without its parameters, small letters; empty when the server named none */
    uint32_t retry_after_s; /* its Retry-After, as seconds or as a date, at most a day; 0: not said, or now */
    lm_buf headers;         /* as they came, lines ended by CRLF */
    lm_buf body;
    uint64_t n_body; /* bytes, also of a body that on_body took */
    uint64_t
        connected_ns;  /* from the start of the request; 0 on a kept connection, or when none came about */
    uint64_t first_ns; /* to the body's first byte; 0: none came */
    uint64_t total_ns;
};

/* What `relative` (a Location header, say) means at the address base; the caller frees. LM_INVALID: nothing
 * that could be asked over HTTP, or a step from https to http. */
lm_status lm_url_join(const char *base, lm_str relative, char **out, lm_err *err) LM_CHECKED;
/* Scheme, host and port are the same: what may see the same credentials. */
bool lm_url_same_origin(const char *a, const char *b);

lm_status lm_client_open(lm_client **out, lm_err *err) LM_CHECKED;
void lm_client_close(lm_client *c); /* NULL allowed */

/* out is always filled, as far as the request came, and the caller's to release; any HTTP status is LM_OK.
 *   LM_INVALID    the URL is none
 *   LM_DENIED     https, and its certificate is not to be trusted
 *   LM_NOT_FOUND  nobody is there: refused, unknown host, no route
 *   LM_TIMEOUT    a limit above; the text says which
 *   LM_CANCELLED  on_body or on_wait said so, or lm_client_cancel
 *   LM_TOO_LARGE  over max_body
 *   LM_IO         the connection broke, or ended in the middle of the answer
 *   LM_CORRUPT    what came is no HTTP */
lm_status lm_client_ask(lm_client *c, const lm_ask *ask, lm_answer *out, lm_err *err) LM_CHECKED;
void lm_answer_release(lm_answer *a);
/* Value of the first header of that name; empty when there is none. Borrowed from a. */
lm_str lm_answer_header(const lm_answer *a, const char *name);
/* What the body of an error says to people: its "error", or "message" there, else its beginning. NUL-terminated. */
void lm_answer_error(const lm_answer *a, char *out, size_t room);

/* Ends the request that runs, or else the next one. From any thread. */
void lm_client_cancel(lm_client *c);

/* An address as Ollama takes it: "host", "host:port", ":port", "http://host", "[::1]:port", with a path. A
 * port that is none counts as default_port; http:// without one is 80, https:// 443; no host is 127.0.0.1,
 * ":port" every address. */
void lm_address_parse(const char *text, uint16_t default_port, char host[256], uint16_t *port);
/* The same as what a client asks: an URL without a slash at its end. Blanks and quotes around the text do not count, no text
 * is this machine, and servers that listen on every address are asked on this one. port 0: as the text says.
 * LM_INVALID: neither http nor https, or no address. */
lm_status lm_address_url(const char *text, uint16_t default_port, uint16_t port, char out[512],
                         lm_err *err) LM_CHECKED;

#endif

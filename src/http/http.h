/* http.h - an HTTP/1.1 server (libmicrohttpd) that hands requests to a handler and streams what comes back.
 *
 * The http thread does the sockets only. Handlers run on a few worker threads, may read files and parse, and end in
 * one of two ways: lm_http_reply, or lm_http_stream followed by writes from any thread (an engine's sink) and one
 * lm_http_end. Writes never block; what a slow client has not taken waits in a buffer with a cap.
 *
 * A client that leaves is noticed within 100 ms, also while nothing flows; the exchange's on_gone callback then runs once
 * on the http thread.
 *
 * Threads: functions on lm_http (exchange) may be called from any thread; an exchange is reference-counted.
 */
#ifndef LM_HTTP_H
#define LM_HTTP_H

#include "base/base.h"

typedef struct lm_server lm_server;
typedef struct lm_http lm_http; /* one request and its answer */

typedef struct lm_server_config {
    const char *host;          /* "127.0.0.1", "::1", "0.0.0.0" */
    uint16_t port;             /* 0: any free one */
    uint64_t max_body;         /* bytes; more is answered 413 */
    uint32_t max_connections;
    uint32_t idle_seconds;     /* half a request and silence */
    uint32_t n_workers;
    void (*handle)(void *ctx, lm_http *x); /* on a worker thread */
    void *ctx;
} lm_server_config;

/* LM_IO: the address is taken, or not ours; the text names it and the remedy. */
lm_status lm_server_open(lm_server **out, const lm_server_config *config, lm_err *err) LM_CHECKED;
uint16_t lm_server_port(const lm_server *s);
/* Stops listening; running exchanges go on. */
void lm_server_quiesce(lm_server *s);
uint32_t lm_server_open_exchanges(const lm_server *s);
void lm_server_close(lm_server *s); /* cuts what is left; on_gone callbacks run */

/* ---- the request; views live as long as the exchange */
lm_str lm_http_method(const lm_http *x);
lm_str lm_http_path(const lm_http *x);               /* without the query, percent-decoded */
lm_str lm_http_query(const lm_http *x, const char *key); /* empty when absent */
lm_str lm_http_header(const lm_http *x, const char *name); /* case-insensitive; empty when absent */
lm_str lm_http_body(const lm_http *x);
lm_str lm_http_peer(const lm_http *x);               /* "127.0.0.1" */
uint64_t lm_http_started_ns(const lm_http *x);

/* ---- the answer */
void lm_http_set_header(lm_http *x, const char *name, const char *value); /* before reply or stream */
/* The whole answer at once. HEAD gives the headers alone. */
void lm_http_reply(lm_http *x, int status, const char *content_type, lm_str body);
/* Begins a chunked answer; the head goes out with the first write. */
void lm_http_stream(lm_http *x, int status, const char *content_type);
/* One flushed piece. LM_CANCELLED: the client has gone. LM_TOO_LARGE: it reads too slowly, the exchange is being cut. */
lm_status lm_http_write(lm_http *x, lm_str bytes);
void lm_http_end(lm_http *x);
/* cb runs once if the client leaves before the answer is complete, at once when it already has. */
void lm_http_on_gone(lm_http *x, void (*cb)(void *ctx), void *ctx);
bool lm_http_gone(const lm_http *x);
int lm_http_status(const lm_http *x);      /* what was answered, for the log */
uint64_t lm_http_bytes_out(const lm_http *x);

lm_http *lm_http_ref(lm_http *x);
void lm_http_unref(lm_http *x);

#endif

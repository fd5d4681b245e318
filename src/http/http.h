/* http.h - an HTTP/1.1 server (libmicrohttpd) that hands requests to a handler and streams what comes back.
 *
 * The http thread does the sockets only. Handlers run on a few worker threads, may read files and parse, and
 * end in one of two ways: lm_http_reply (from this or any thread, also later), or lm_http_stream followed by
 * writes from any thread (an engine's sink) and one lm_http_end. Writes never block; what a slow client has
 * not taken waits in a buffer with a cap. Whoever can make its own source wait (a proxy) asks lm_http_waiting
 * how much that is, and lm_http_on_room to hear when it has become less.
 *
 * A client that leaves is noticed within 100 ms, also while nothing flows. One that closes its sending half
 * counts as gone, as with Go's server.
 *
 * A body that config.streams chooses is not collected: the handler is called after the head and takes the
 * bytes with lm_http_body_read, which holds the client back while nobody reads. Memory stays bounded however
 * long it is. An answer given before its end goes out when the client has sent the rest, at once to one that
 * waits for our word
 * ("Expect: 100-continue") or still has more than a gigabyte to send.
 *
 * Bodies over the limit reach the handler as well, without their bytes: lm_http_body_status says so, and the
 * handler words the error in the form that its clients read. An exchange that everybody has dropped without
 * an answer is answered 500 by the server, so that no client waits for ever.
 *
 * Threads: functions on lm_http (exchange) may be called from any thread; an exchange is reference-counted.
 */
#ifndef LM_HTTP_H
#define LM_HTTP_H

#include "base/base.h"

typedef struct lm_server lm_server;
typedef struct lm_http lm_http; /* one request and its answer */

typedef struct lm_server_config {
    const char *host;     /* "127.0.0.1", "::1", "0.0.0.0", a name */
    uint16_t port;        /* 0: any free one */
    int listen_fd;        /* above 0: a listening socket in place of host and port, taken over; others may hold it too,
                             and it goes on listening for them when this server has stopped */
    uint64_t max_body;    /* bytes; all bodies together may hold four times as much */
    uint64_t max_backlog; /* bytes that a slow reader may leave waiting; 0: 4 MiB */
    uint32_t max_connections;
    uint32_t idle_seconds; /* half a request and silence, or a reader that takes nothing */
    uint32_t n_workers;
    void (*handle)(void *ctx, lm_http *x); /* on a worker thread; x is borrowed: lm_http_ref to keep it */
    bool (*streams)(void *ctx, const lm_http *x); /* on the http thread: must not block; NULL: none does */
    void *ctx;
} lm_server_config;

/* LM_IO: the address is taken, or not ours; the text names it and the remedy. */
lm_status lm_server_open(lm_server **out, const lm_server_config *config, lm_err *err) LM_CHECKED;
uint16_t lm_server_port(const lm_server *s);
/* Stops listening; running exchanges go on, and answers ask for the connection's end. */
void lm_server_quiesce(lm_server *s);
/* Requests that have reached the handler and are not completely answered yet. */
uint32_t lm_server_open_exchanges(lm_server *s);
/* Cuts what is left; on_end callbacks run. Waits for handlers that are running. NULL allowed. */
void lm_server_close(lm_server *s);

/* ---- listening sockets, for whoever hands them on */
/* A bound, listening, non-blocking socket; *bound: its port. LM_IO with a text that names the remedy. */
lm_status lm_listen(const char *host, uint16_t port, int *fd, uint16_t *bound, lm_err *err) LM_CHECKED;
/* The one that an init system has for this process (LISTEN_FDS and LISTEN_PID as systemd has them; of launchd, the
 * socket that is called name); the variables are taken away. LM_NOT_FOUND: there is none. LM_INVALID: not exactly one. */
lm_status lm_listen_given(const char *name, int *fd, lm_err *err) LM_CHECKED;
/* Where a listening socket does: an address in digits. LM_INVALID: it is no listening TCP socket. */
lm_status lm_listen_address(int fd, char host[64], uint16_t *port, lm_err *err) LM_CHECKED;

/* Adds s with all but letters, digits and the bytes of `plain` as %XX. */
void lm_percent_encode(lm_buf *out, lm_str s, const char *plain);

/* ---- the request; views live as long as the exchange */
lm_str lm_http_method(const lm_http *x);
lm_str lm_http_path(const lm_http *x);                     /* without the query, percent-decoded */
lm_str lm_http_query(const lm_http *x, const char *key);   /* decoded; empty when absent */
/* The whole query in its order, as an URL has it: "a=1&b=x%20y", encoded anew; nothing when there is none. "a" alone is "a=". */
void lm_http_write_query(const lm_http *x, lm_buf *out);
lm_str lm_http_header(const lm_http *x, const char *name); /* case-insensitive; empty when absent */
lm_str lm_http_body(const lm_http *x);
/* LM_TOO_LARGE: over max_body. LM_NO_MEMORY: no room for it now. The body is empty then. */
lm_status lm_http_body_status(const lm_http *x, lm_err *err) LM_CHECKED;
/* The next bytes of a streamed body, at most room; *n 0: that was all. Waits for them, so not on a worker of
 * a server that others need. LM_CANCELLED: the client has gone. One thread at a time. */
lm_status lm_http_body_read(lm_http *x, void *bytes, size_t room, size_t *n, lm_err *err) LM_CHECKED;
uint64_t lm_http_body_length(const lm_http *x); /* as announced; UINT64_MAX: not said */
void lm_http_body_drop(
    lm_http *x); /* frees the body early, for answers that stream long; by the handler only */
/* The body as it was before the client packed it (Content-Encoding: zstd, or none), in *body. What had to be
 * unpacked lies in out, whose cap bounds it: LM_TOO_LARGE. LM_INVALID: damaged, or packed in another way. */
lm_status lm_http_unpack(const lm_http *x, lm_buf *out, lm_str *body, lm_err *err) LM_CHECKED;
lm_str lm_http_peer(const lm_http *x); /* "127.0.0.1" */
uint64_t lm_http_started_ns(const lm_http *x);

/* ---- the answer */
/* Before reply or stream. At most 16; name and value are copied. A Content-Type here is not for you: pass it
 * there. */
void lm_http_set_header(lm_http *x, const char *name, const char *value);
/* The whole answer at once; the body is copied. HEAD gives the headers alone. content_type NULL: none.
 * Only the first answer to an exchange counts. */
void lm_http_reply(lm_http *x, int status, const char *content_type, lm_str body);
/* Begins a chunked answer; the head goes out with the first write, or with the end. */
void lm_http_stream(lm_http *x, int status, const char *content_type);
/* One flushed piece. LM_CANCELLED: the client has gone. LM_TOO_LARGE: it reads too slowly, the exchange has
 * been cut. */
lm_status lm_http_write(lm_http *x, lm_str bytes);
void lm_http_end(lm_http *x);
/* Closes the client's connection without the answer's end, for one that cannot be finished honestly. */
void lm_http_cut(lm_http *x);
/* cb runs exactly once, when the exchange is over: on the http thread, or at once when it already is. gone:
 * the client left before it had the whole answer. cb must not block. One per exchange. */
void lm_http_on_end(lm_http *x, void (*cb)(void *ctx, bool gone), void *ctx);
/* Bytes written and not yet taken by the client's connection; 0 when the client has gone. */
size_t lm_http_waiting(lm_http *x);
/* cb runs exactly once: as soon as fewer than `below` bytes wait, or when the client has gone or has
 * everything (before on_end's callback); at once when either is so already, else on the http thread. cb must not block and must
 * not write. One at a time: false when another one still waits, and cb never runs. */
bool lm_http_on_room(lm_http *x, size_t below, void (*cb)(void *ctx), void *ctx);
bool lm_http_gone(lm_http *x);
bool lm_http_too_slow(
    lm_http *x);                /* gone because it left too much waiting: set before on_end's callback runs */
int lm_http_status(lm_http *x); /* what was answered, for the log; 0: nothing yet */
uint64_t lm_http_bytes_out(lm_http *x); /* of the answer's body */

lm_http *lm_http_ref(lm_http *x);
void lm_http_unref(lm_http *x);

#endif

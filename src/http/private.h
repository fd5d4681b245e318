/* private.h - the two halves of an exchange: what the server (http thread) and the handlers (any thread)
 * share.
 *
 * Life of an exchange: the http thread reads head and body (nobody else knows the exchange), suspends the
 * connection, puts it into `live` and the workers' queue. Whoever answers marks the answer and resumes the
 * connection; the http thread queues the response, pulls a stream's bytes out of `out`, and suspends again
 * whenever there are none. When libmicrohttpd says that the request is over, `over` is set and the connection
 * is never touched again.
 *
 * A streamed body: the exchange is handed over after the head, suspended. The first read lets libmicrohttpd
 * go on; bytes come into `in`, and the connection is suspended again while that is full.
 *
 * Locks: server->lock before exchange->lock; neither is held while a callback of the user's runs.
 */
#ifndef LM_HTTP_PRIVATE_H
#define LM_HTTP_PRIVATE_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "http/http.h"

#define MAX_ANSWER_HEADERS 16
#define STREAM_ROOM        (256u << 10) /* bytes of a streamed body that wait for their reader */

typedef struct pair {
    struct pair *next;
    lm_str key, value; /* both NUL-terminated, in `bytes` */
    char bytes[];
} pair;

struct lm_server {
    lm_server_config config;
    char *host;
    uint16_t port;
    struct MHD_Daemon *daemon;
    atomic_bool closing; /* no suspension may begin any more */
    atomic_bool quiesced;
    atomic_uint_fast64_t bodies; /* bytes held in request bodies */

    pthread_mutex_t lock;
    pthread_cond_t work;  /* the queue is not empty, or stop_workers */
    pthread_cond_t watch; /* live is not empty, or stop_watcher */
    lm_http *queue_head, *queue_tail;
    lm_http *live; /* handed to a worker and not over */
    uint32_t n_live;
    bool stop_workers, stop_watcher;

    pthread_t watcher;
    pthread_t *workers;
    uint32_t n_workers;
    bool has_watcher;
};

struct lm_http {
    lm_server *server; /* used by the http thread, and by others only while connection is set */

    /* written by the http thread before the exchange is handed over, read-only afterwards */
    char *method;
    char *path;
    size_t path_len;
    pair *headers, *query;
    char peer[64];
    uint64_t started_ns;
    bool head;
    uint8_t *body;
    size_t body_len, body_room;
    uint64_t body_seen; /* bytes that arrived, kept or not */
    lm_status body_status;
    int fd;
    bool handed;
    bool streamed; /* the handler reads the body as it comes */

    /* guarded by server->lock */
    lm_http *queue_next;
    lm_http *live_prev, *live_next;

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t input; /* streamed: in has grown, in_done, gone */
    bool in_wanted;       /* somebody reads: the client may go on */
    bool in_begun;        /* libmicrohttpd is past the head */
    bool in_done;         /* all of the body is in `in`, or taken */
    uint8_t *in;          /* STREAM_ROOM bytes once something came */
    size_t in_at, in_end; /* what has not been taken yet */
    uint32_t refs;
    struct MHD_Connection *connection; /* NULL once over */
    bool suspended;
    bool answered;  /* reply or stream was called */
    bool streaming; /* it was stream */
    bool ended;     /* nothing more will be written */
    bool gone;      /* no use in writing */
    bool too_slow;  /* gone because it left too much waiting */
    bool over;
    int status;
    char *content_type;
    pair *answer_headers;
    uint32_t n_answer_headers;
    lm_buf out; /* reply: the body; stream: what has not been taken yet starts at out_read */
    size_t out_read;
    uint64_t bytes_out;
    void (*on_end)(void *ctx, bool gone);
    void *on_end_ctx;
    void (*on_room)(void *ctx); /* NULL: nobody waits for room */
    void *on_room_ctx;
    size_t room_below;
};

/* A callback that is due, to be run once x->lock is free. */
typedef struct due {
    void (*run)(void *ctx);
    void *ctx;
} due;

pair *lm_pair_new(pair *next, const char *key, size_t key_len, const char *value, size_t value_len);
void lm_pair_free(pair *list);
const pair *lm_pair_find(const pair *list, const char *key, bool nocase);
size_t lm_percent_decode(char *s,
                         size_t len); /* in place; gives the new length; broken escapes stay as they are */

lm_http *lm_exchange_new(lm_server *s, struct MHD_Connection *c, const char *url, const char *method);
void lm_exchange_wake(lm_http *x); /* x->lock is held: resumes the connection if it is suspended */

due lm_exchange_room(lm_http *x);  /* the same: on_room's callback, if its moment has come */
void lm_exchange_tell(lm_http *x); /* the same: somebody who waits for input looks again */
uint64_t lm_announced(const lm_http *x, bool *waits); /* body's length; waits: for "100 Continue" */

#endif

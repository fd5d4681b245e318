/* The http thread's side: libmicrohttpd's callbacks, the workers, and the watcher that notices clients who
 * leave.
 *
 * libmicrohttpd does not look at a suspended connection, so a client that hangs up while a model thinks would
 * go unnoticed. The watcher polls the sockets of all exchanges that are being worked on every WATCH_MS and
 * resumes those whose peer has gone; the callbacks then end the connection. It sleeps while there are none.
 */
#include "http/private.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WATCH_MS 40
#define CONNECTION_POOL                                                                                      \
    (32 * 1024) /* bytes for head and send buffer of a connection: also the longest head */
#define SWALLOW_MAX                                                                                          \
    (UINT64_C(1) << 30) /* of a body that is refused, so that the client gets to read the answer */
#define STREAM_BLOCK    4096
#define FIRST_BODY_ROOM 4096

/* ---- request in */

static bool refuse_body(lm_http *x, lm_status st) {
    x->body_status = st;
    free(x->body);
    atomic_fetch_sub(&x->server->bodies, x->body_room);
    x->body = NULL;
    x->body_len = x->body_room = 0;
    return false;
}

static bool body_room(lm_http *x, size_t need) {
    if (need <= x->body_room) return true;
    lm_server *s = x->server;
    size_t room = x->body_room ? x->body_room : FIRST_BODY_ROOM;
    while (room < need) room *= 2;
    if (room > s->config.max_body) room = (size_t)s->config.max_body;
    uint64_t held = atomic_fetch_add(&s->bodies, room - x->body_room) + room - x->body_room;
    if (held <= 4 * s->config.max_body) {
        uint8_t *bigger = realloc(x->body, room);
        if (bigger) {
            x->body = bigger;
            x->body_room = room;
            return true;
        }
    }
    atomic_fetch_sub(&s->bodies, room - x->body_room);
    return refuse_body(x, LM_NO_MEMORY);
}

static enum MHD_Result take_body(lm_http *x, const char *bytes, size_t len) {
    x->body_seen += len;
    if (x->body_status != LM_OK) return x->body_seen > SWALLOW_MAX ? MHD_NO : MHD_YES;
    if (x->body_seen > x->server->config.max_body) {
        refuse_body(x, LM_TOO_LARGE);
        return MHD_YES;
    }
    if (!body_room(x, x->body_len + len)) return MHD_YES;
    memcpy(x->body + x->body_len, bytes, len);
    x->body_len += len;
    return MHD_YES;
}

/* True when the answer must not wait for the body: the client announces too much and waits for our word. */
static bool refused_at_once(lm_http *x) {
    bool waits;
    uint64_t announced = lm_announced(x, &waits);
    if (announced == UINT64_MAX || announced <= x->server->config.max_body) return false;
    x->body_status = LM_TOO_LARGE;
    return waits || announced > SWALLOW_MAX;
}

/* From here on the workers know the exchange. Both locks: lm_server_close must not see a connection that is
 * suspended and not yet in the list. */
static enum MHD_Result hand_over(lm_http *x) {
    lm_server *s = x->server;
    pthread_mutex_lock(&s->lock);
    bool closing = atomic_load(&s->closing);
    if (!closing) {
        pthread_mutex_lock(&x->lock);
        x->handed = true;
        x->suspended = true;
        x->refs++; /* the worker's */
        MHD_suspend_connection(x->connection);
        pthread_mutex_unlock(&x->lock);

        x->live_next = s->live;
        if (s->live) s->live->live_prev = x;
        s->live = x;
        if (s->n_live++ == 0) pthread_cond_signal(&s->watch);
        if (s->queue_tail)
            s->queue_tail->queue_next = x;
        else
            s->queue_head = x;
        s->queue_tail = x;
        pthread_cond_signal(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
    return closing ? MHD_NO : MHD_YES;
}

/* ---- answer out */

/* Gives libmicrohttpd what is there; suspends the connection when there is nothing. */
static ssize_t read_stream(void *ctx, uint64_t pos, char *out, size_t max) {
    (void)pos;
    lm_http *x = ctx;
    ssize_t n = 0;
    due room = {0};
    pthread_mutex_lock(&x->lock);
    size_t ready = x->out.len - x->out_read;
    if (x->gone || atomic_load(&x->server->closing)) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (ready) {
        size_t take = ready < max ? ready : max;
        memcpy(out, x->out.ptr + x->out_read, take);
        x->out_read += take;
        x->bytes_out += take;
        if (x->out_read == x->out.len) {
            lm_buf_clear(&x->out);
            x->out_read = 0;
        }
        room = lm_exchange_room(x);
        n = (ssize_t)take;
    } else if (x->ended) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    if (room.run) room.run(room.ctx);
    return n;
}

static struct MHD_Response *make_response(lm_http *x) {
    /* 0.9.75 would end a chunked answer to HEAD with a last chunk, which the client takes for its next
     * answer. */
    if (x->streaming && !x->head)
        return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, x, NULL);
    if (x->out.len == 0)
        return MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    size_t len = x->out.len;
    char *bytes = lm_buf_take(&x->out);
    struct MHD_Response *r = MHD_create_response_from_buffer(len, bytes, MHD_RESPMEM_MUST_FREE);
    if (!r) free(bytes);
    return r;
}

/* What it reads is settled once `answered` is set, so it needs no lock; holding one would turn
 * libmicrohttpd's own lock of the response and ours around against read_stream. */
static enum MHD_Result queue_answer(lm_http *x) {
    struct MHD_Response *r = make_response(x);
    if (!r) return MHD_NO;
    if (x->content_type) MHD_add_response_header(r, "Content-Type", x->content_type);
    for (const pair *p = x->answer_headers; p; p = p->next)
        MHD_add_response_header(r, p->key.ptr, p->value.ptr);
    if (atomic_load(&x->server->quiesced)) MHD_add_response_header(r, "Connection", "close");
    enum MHD_Result ok = MHD_queue_response(x->connection, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return ok;
}

/* Called again after a resume: somebody has answered, or the client has gone. */
static enum MHD_Result go_on(lm_http *x) {
    pthread_mutex_lock(&x->lock);
    bool dead = x->gone || atomic_load(&x->server->closing);
    bool answered = x->answered;
    if (!dead && !answered) {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    if (!dead && answered && !x->streaming) {
        if (!x->head) x->bytes_out = x->out.len;
    }
    pthread_mutex_unlock(&x->lock);
    if (dead) return MHD_NO;
    return answered ? queue_answer(x) : MHD_YES;
}

static void suspend(lm_http *x) {
    x->suspended = true;
    MHD_suspend_connection(x->connection);
}

/* x->lock is held. Takes what there is room for; what stays comes again after a resume. */
static void take_piece(lm_http *x, const char *data, size_t *size) {
    if (!x->in) x->in = lm_alloc(STREAM_ROOM);
    if (x->in_at == x->in_end) x->in_at = x->in_end = 0;
    size_t n = *size < STREAM_ROOM - x->in_end ? *size : STREAM_ROOM - x->in_end;
    memcpy(x->in + x->in_end, data, n);
    x->in_end += n;
    *size -= n;
    if (*size) suspend(x);
    lm_exchange_tell(x);
}

/* The steps of a streamed exchange, in libmicrohttpd's order: after the head (again after each resume),
 * pieces, the end. *answer: the moment has come to queue what was answered. */
static enum MHD_Result stream_step(lm_http *x, const char *data, size_t *size, bool *answer) {
    if (x->gone || atomic_load(&x->server->closing)) return MHD_NO;
    if (!x->in_begun) {
        bool waits;
        uint64_t announced = lm_announced(x, &waits);
        bool early = waits || (announced != UINT64_MAX && announced > SWALLOW_MAX);
        if (x->answered && early) {
            *answer = true;
        } else if (x->answered || x->in_wanted) {
            x->in_begun = true;
        } else {
            suspend(x);
        }
    } else if (*size && x->answered) { /* nobody wants it; whoever sends it gets to read why */
        x->body_seen += *size;
        *size = 0;
        if (x->body_seen > SWALLOW_MAX) return MHD_NO;
    } else if (*size) {
        take_piece(x, data, size);
    } else {
        x->in_done = true;
        lm_exchange_tell(x);
        if (x->answered)
            *answer = true;
        else
            suspend(x);
    }
    if (*answer && !x->streaming && !x->head) x->bytes_out = x->out.len;
    return MHD_YES;
}

static enum MHD_Result go_on_streamed(lm_http *x, const char *data, size_t *size) {
    bool answer = false;
    pthread_mutex_lock(&x->lock);
    enum MHD_Result ok = stream_step(x, data, size, &answer);
    pthread_mutex_unlock(&x->lock);
    return answer ? queue_answer(x) : ok;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **slot) {
    (void)version;
    lm_server *s = ctx;
    lm_http *x = *slot;
    if (!x) {
        if (atomic_load(&s->closing)) return MHD_NO;
        *slot = x = lm_exchange_new(s, c, url, method);
        x->streamed = s->config.streams && s->config.streams(s->config.ctx, x);
        return x->streamed || refused_at_once(x) ? hand_over(x) : MHD_YES;
    }
    if (x->streamed) return go_on_streamed(x, data, size);
    if (x->handed) return go_on(x);
    if (*size) {
        enum MHD_Result ok = take_body(x, data, *size);
        *size = 0;
        return ok;
    }
    return hand_over(x);
}

static void leave_live(lm_server *s, lm_http *x) {
    pthread_mutex_lock(&s->lock);
    if (x->live_next) x->live_next->live_prev = x->live_prev;
    if (x->live_prev)
        x->live_prev->live_next = x->live_next;
    else
        s->live = x->live_next;
    s->n_live--;
    pthread_mutex_unlock(&s->lock);
}

static void on_completed(void *ctx, struct MHD_Connection *c, void **slot,
                         enum MHD_RequestTerminationCode code) {
    (void)c;
    lm_server *s = ctx;
    lm_http *x = *slot;
    *slot = NULL;
    if (!x) return;
    pthread_mutex_lock(&x->lock);
    x->over = true;
    x->connection = NULL;
    x->suspended = false;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK || !x->answered) x->gone = true;
    bool gone = x->gone;
    atomic_fetch_sub(&s->bodies, x->body_room);
    lm_exchange_tell(x);
    void (*on_end)(void *, bool) = x->on_end;
    void *on_end_ctx = x->on_end_ctx;
    due room = lm_exchange_room(x);
    pthread_mutex_unlock(&x->lock);
    if (x->handed) leave_live(s, x);
    if (room.run) room.run(room.ctx);
    if (on_end) on_end(on_end_ctx, gone);
    lm_http_unref(x);
}

/* We decode paths and queries ourselves: a %00 must not end them. */
static size_t keep_escapes(void *ctx, struct MHD_Connection *c, char *s) {
    (void)ctx;
    (void)c;
    return strlen(s);
}

/* ---- watcher and workers */

/* s->lock is held. A peer that is in the list but over is harmless: libmicrohttpd closes its socket only
 * after on_completed has taken it out. */
static void look_once(lm_server *s, struct pollfd *fds, uint32_t room) {
    uint32_t n = 0;
    for (lm_http *x = s->live; x && n < room; x = x->live_next) {
#ifdef POLLRDHUP
        fds[n++] = (struct pollfd){.fd = x->fd, .events = POLLRDHUP};
#else
        fds[n++] = (struct pollfd){.fd = x->fd, .events = POLLIN};
#endif
    }
    if (poll(fds, n, 0) <= 0) return;
    uint32_t i = 0;
    for (lm_http *x = s->live; x && i < n; x = x->live_next, i++) {
        if (!fds[i].revents) continue;
#ifndef POLLRDHUP
        char byte;
        if (!(fds[i].revents & (POLLHUP | POLLERR | POLLNVAL)) &&
            recv(x->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 0)
            continue;
#endif
        pthread_mutex_lock(&x->lock);
        /* One that libmicrohttpd is sending to is in its own hands, and may still be reading; one whose
         * body is still to be read has more to say, and is found out then. */
        if (x->suspended && (!x->streamed || x->in_done)) {
            x->gone = true;
            lm_exchange_wake(x);
        }
        pthread_mutex_unlock(&x->lock);
    }
}

static void *watch(void *arg) {
    lm_server *s = arg;
    struct pollfd *fds = NULL;
    uint32_t room = 0;
    pthread_mutex_lock(&s->lock);
    while (!s->stop_watcher) {
        if (s->n_live == 0) {
            pthread_cond_wait(&s->watch, &s->lock);
            continue;
        }
        if (s->n_live > room) {
            room = s->n_live * 2;
            fds = lm_realloc(fds, room * sizeof *fds);
        }
        look_once(s, fds, room);
        pthread_mutex_unlock(&s->lock);
        poll(NULL, 0, WATCH_MS);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    free(fds);
    return NULL;
}

static void *work(void *arg) {
    lm_server *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->queue_head && !s->stop_workers) pthread_cond_wait(&s->work, &s->lock);
        lm_http *x = s->queue_head;
        if (!x) break; /* told to stop, and nothing is left */
        s->queue_head = x->queue_next;
        if (!s->queue_head) s->queue_tail = NULL;
        pthread_mutex_unlock(&s->lock);
        s->config.handle(s->config.ctx, x);
        lm_http_unref(x);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- life */

static lm_status start_threads(lm_server *s, lm_err *err) {
    uint32_t want = s->config.n_workers ? s->config.n_workers : 4;
    s->workers = lm_alloc(want * sizeof *s->workers);
    while (s->n_workers < want) {
        if (pthread_create(&s->workers[s->n_workers], NULL, work, s)) break;
        s->n_workers++;
    }
    if (s->n_workers == want) s->has_watcher = !pthread_create(&s->watcher, NULL, watch, s);
    if (!s->has_watcher)
        return lm_fail(err, LM_INTERNAL,
                       "cannot start the server's threads: the system's limit of threads is reached");
    return LM_OK;
}

lm_status lm_server_open(lm_server **out, const lm_server_config *config, lm_err *err) {
    lm_server *s = lm_alloc(sizeof *s);
    s->config = *config;
    if (!s->config.max_backlog) s->config.max_backlog = 4 << 20;
    s->host = lm_strdup(config->host);
    s->config.host = s->host;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->watch, NULL);

    int fd = -1;
    lm_status st = LM_OK;
    if (config->listen_fd > 0) {
        char host[64];
        fd = config->listen_fd;
        st = lm_listen_address(fd, host, &s->port, err);
    } else {
        st = lm_listen(s->host, config->port, &fd, &s->port, err);
    }
    if (st == LM_OK) st = start_threads(s, err);
    if (st != LM_OK) goto done;

    /* Not epoll: libmicrohttpd takes it edge-triggered and misses an end that comes together with data. */
    unsigned flags = MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC;
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, s, MHD_OPTION_CONNECTION_LIMIT, (unsigned)config->max_connections,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)config->idle_seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_POOL, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, s, MHD_OPTION_END);
    if (!s->daemon) {
        st = lm_fail(err, LM_INTERNAL,
                     "cannot start the HTTP server: raise the limit of open files (ulimit -n) above %u",
                     config->max_connections);
        goto done;
    }
    fd = -1; /* the daemon's now */
    *out = s;
done:
    if (fd >= 0) close(fd);
    if (st != LM_OK) lm_server_close(s);
    return st;
}

uint16_t lm_server_port(const lm_server *s) {
    return s->port;
}

void lm_server_quiesce(lm_server *s) {
    if (atomic_exchange(&s->quiesced, true)) return;
    MHD_socket fd = MHD_quiesce_daemon(s->daemon);
    if (fd == MHD_INVALID_SOCKET) return;
    /* Closing alone waits until the http thread's poll lets go of it. One that others hold must go on listening. */
    if (s->config.listen_fd <= 0) shutdown(fd, SHUT_RDWR);
    close(fd);
}

uint32_t lm_server_open_exchanges(lm_server *s) {
    pthread_mutex_lock(&s->lock);
    uint32_t n = s->n_live;
    pthread_mutex_unlock(&s->lock);
    return n;
}

static void stop_watcher(lm_server *s) {
    if (!s->has_watcher) return;
    pthread_mutex_lock(&s->lock);
    s->stop_watcher = true;
    pthread_cond_signal(&s->watch);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->watcher, NULL);
}

/* libmicrohttpd must not be stopped with suspended connections: `closing` keeps new ones from being
 * suspended, and those that are get resumed here. */
static void stop_daemon(lm_server *s) {
    if (!s->daemon) return;
    lm_server_quiesce(s); /* the socket may not be ours to shut down, as libmicrohttpd would */
    atomic_store(&s->closing, true);
    pthread_mutex_lock(&s->lock);
    for (lm_http *x = s->live; x; x = x->live_next) {
        pthread_mutex_lock(&x->lock);
        x->gone = true;
        lm_exchange_tell(x);
        lm_exchange_wake(x);
        pthread_mutex_unlock(&x->lock);
    }
    pthread_mutex_unlock(&s->lock);
    MHD_stop_daemon(s->daemon);
}

static void stop_workers(lm_server *s) {
    pthread_mutex_lock(&s->lock);
    s->stop_workers = true;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < s->n_workers; i++) pthread_join(s->workers[i], NULL);
    free(s->workers);
}

void lm_server_close(lm_server *s) {
    if (!s) return;
    stop_watcher(s);
    stop_daemon(s);
    stop_workers(s);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->watch);
    pthread_mutex_destroy(&s->lock);
    free(s->host);
    free(s);
}

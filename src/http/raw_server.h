/* raw_server.h - for tests: a server over plain sockets, with a thread for each connection, that answers what a test's function
 * says, byte by byte: nothing, half a line, a lie. */
#ifndef LM_HTTP_RAW_SERVER_H
#define LM_HTTP_RAW_SERVER_H

#include <pthread.h>

#include "http/raw_client.h"

typedef struct raw_server raw_server;

typedef struct raw_ask { /* a request that was read whole */
    raw_server *server;
    int fd;
    char *head, *body;
    unsigned nth; /* of its connection, from 0 */
} raw_ask;

struct raw_server {
    uint16_t port;
    bool (*serve)(void *ctx, const raw_ask *q); /* true: the connection stays; on the connection's thread */
    void *ctx;
    atomic_uint n_connections, n_asked;
    atomic_uint n_left; /* clients seen to leave by raw_hang */
    atomic_uint n_open;
    atomic_bool stop;
    int fd;
    pthread_t thread;
    pthread_mutex_t lock;
    int fds[1024]; /* open connections */
    unsigned n_fds;
};

typedef struct raw_connection {
    raw_server *server;
    int fd;
} raw_connection;

/* Keeps the connection open and silent until the client leaves, or the server stops. */
static inline bool raw_hang(const raw_ask *q) {
    char byte;
    while (recv(q->fd, &byte, 1, 0) > 0) continue;
    if (!atomic_load(&q->server->stop)) atomic_fetch_add(&q->server->n_left, 1);
    return false;
}

/* false: the end came first. */
static inline bool raw_read(int fd, lm_buf *b, size_t want, const char *until) {
    while (until ? !b->len || !strstr(b->ptr, until) : b->len < want) {
        char bytes[4096];
        ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n <= 0) return false;
        lm_buf_add(b, bytes, (size_t)n);
    }
    return true;
}

/* Requests must not be pipelined. */
static inline bool raw_serve_one(raw_server *s, int fd, unsigned nth) {
    lm_buf b;
    lm_buf_init(&b, 64 << 20);
    bool stays = raw_read(fd, &b, 0, "\r\n\r\n");
    if (stays) {
        size_t head = (size_t)(strstr(b.ptr, "\r\n\r\n") + 4 - b.ptr);
        const char *length = strstr(b.ptr, "Content-Length: ");
        size_t body = length ? strtoul(length + 16, NULL, 10) : 0;
        stays = raw_read(fd, &b, head + body, NULL);
        if (stays) {
            char *text = lm_str_dup((lm_str){b.ptr, head});
            atomic_fetch_add(&s->n_asked, 1);
            stays = s->serve(s->ctx, &(raw_ask){s, fd, text, b.ptr + head, nth});
            free(text);
        }
    }
    lm_buf_release(&b);
    return stays;
}

static inline void *raw_connection_run(void *arg) {
    raw_connection *c = arg;
    raw_server *s = c->server;
    for (unsigned nth = 0; !atomic_load(&s->stop) && raw_serve_one(s, c->fd, nth); nth++) continue;
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->n_fds; i++)
        if (s->fds[i] == c->fd) {
            s->fds[i] = s->fds[--s->n_fds];
            break;
        }
    pthread_mutex_unlock(&s->lock);
    close(c->fd);
    free(c);
    atomic_fetch_sub(&s->n_open, 1);
    return NULL;
}

static inline void *raw_accept_run(void *arg) {
    raw_server *s = arg;
    for (;;) {
        int fd = accept(s->fd, NULL, NULL);
        if (fd < 0 || atomic_load(&s->stop)) {
            if (fd >= 0) close(fd);
            if (atomic_load(&s->stop)) return NULL;
            continue;
        }
        raw_connection *c = lm_alloc(sizeof *c);
        *c = (raw_connection){s, fd};
        pthread_mutex_lock(&s->lock);
        s->fds[s->n_fds++] = fd;
        pthread_mutex_unlock(&s->lock);
        atomic_fetch_add(&s->n_connections, 1);
        atomic_fetch_add(&s->n_open, 1);
        pthread_t t;
        if (pthread_create(&t, NULL, raw_connection_run, c)) abort();
        pthread_detach(t);
    }
}

static inline void raw_open(raw_server *s, bool (*serve)(void *ctx, const raw_ask *q), void *ctx) {
    memset(s, 0, sizeof *s);
    s->serve = serve;
    s->ctx = ctx;
    pthread_mutex_init(&s->lock, NULL);
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof a;
    if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&a, sizeof a) || listen(s->fd, 1024) ||
        getsockname(s->fd, (struct sockaddr *)&a, &len))
        fail_msg("cannot listen");
    s->port = ntohs(a.sin_port);
    if (pthread_create(&s->thread, NULL, raw_accept_run, s)) fail_msg("no thread");
}

static inline void raw_close(raw_server *s) {
    atomic_store(&s->stop, true);
    int fd = dial_port(s->port); /* lets accept return, on every system */
    pthread_join(s->thread, NULL);
    close(fd);
    close(s->fd);
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->n_fds; i++) shutdown(s->fds[i], SHUT_RDWR);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; atomic_load(&s->n_open) && i < PATIENCE_MS; i++) usleep(1000);
    if (atomic_load(&s->n_open)) fail_msg("a connection does not end");
    pthread_mutex_destroy(&s->lock);
}

/* A port on which nobody listens. */
static inline uint16_t raw_refusing_port(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof a;
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || getsockname(fd, (struct sockaddr *)&a, &len))
        fail_msg("cannot bind");
    close(fd);
    return ntohs(a.sin_port);
}

#endif

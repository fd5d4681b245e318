/* link.c - the control link: one thread that listens to the peers, beats and notices who has gone.
 *
 * Rank 0 has a peer for each other rank, the others have one peer, rank 0. Frames are sent by the caller's
 * thread; beats by the link's, when nobody else is sending. What arrives for the caller waits in a queue. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cluster/frame.h"

enum { TICK_MS = 200, MAX_QUEUE = 64 << 20 };
#define GRACE_NS UINT64_C(3000000000) /* for the caller to end by itself after a goodbye */
#define SEEN_NS                                                                                              \
    UINT64_C(2000000000) /* a connection that closes is seen within milliseconds, on a busy machine somewhat \
                            later */

typedef struct peer {
    int fd; /* -1: not here yet; open until the link is freed */
    uint32_t rank;
    pthread_mutex_t sending;
    bool gone;                    /* the link thread's: nothing more comes */
    uint64_t heard_ns, beaten_ns; /* the link thread's */
    lm_buf in;                    /* the link thread's */
    bool answered;                /* guarded by the link's lock */
    lm_err answer;
} peer;

struct lm_link {
    lm_link_config config;
    char *secret;
    int listener;
    uint16_t port;
    peer peers[LM_MAX_RANKS];
    uint32_t n_peers;
    pthread_t thread;
    bool running;
    atomic_bool stop;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    bool is_lost, told_lost, bye;
    uint32_t lost_rank;
    lm_err lost;
    uint64_t bye_ns;
    lm_buf queue; /* rank 1..: [u32 length, bytes] for lm_link_next */

    lm_buf out; /* rank 1.., the caller's: what it reads from */
    size_t out_at;
};

/* ---- sockets */

static void set_cloexec(int fd) {
    int flags = fcntl(fd, F_GETFD);
    if (flags >= 0) (void)fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
}

static lm_status resolve(const char *address, uint16_t port, struct sockaddr_in *out, lm_err *err) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found = NULL;
    int e = getaddrinfo(address, NULL, &hints, &found);
    if (e) return lm_fail(err, LM_INVALID, "%s is no address: %s", address, gai_strerror(e));
    memcpy(out, found->ai_addr, sizeof *out);
    out->sin_port = htons(port);
    freeaddrinfo(found);
    return LM_OK;
}

static int new_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd >= 0) set_cloexec(fd);
    return fd;
}

static void no_delay(int fd) {
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* ---- life */

static lm_link *new_link(const lm_link_config *config) {
    lm_link *l = lm_alloc(sizeof *l);
    l->config = *config;
    l->secret = lm_strdup(config->secret);
    l->listener = -1;
    LM_ASSERT(pthread_mutex_init(&l->lock, NULL) == 0 && pthread_cond_init(&l->changed, NULL) == 0);
    lm_buf_init(&l->queue, MAX_QUEUE);
    lm_buf_init(&l->out, MAX_QUEUE);
    return l;
}

static void add_peer(lm_link *l, uint32_t at, int fd, uint32_t rank) {
    peer *p = &l->peers[at];
    p->fd = fd;
    p->rank = rank;
    p->heard_ns = p->beaten_ns = lm_now_ns();
    no_delay(fd);
}

static void free_link(lm_link *l) {
    for (uint32_t i = 0; i < l->n_peers; i++) {
        if (l->peers[i].fd >= 0) close(l->peers[i].fd);
        pthread_mutex_destroy(&l->peers[i].sending);
        lm_buf_release(&l->peers[i].in);
    }
    if (l->listener >= 0) close(l->listener);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->changed);
    lm_buf_release(&l->queue);
    lm_buf_release(&l->out);
    memset(l->secret, 0, strlen(l->secret));
    free(l->secret);
    free(l);
}

static void init_peers(lm_link *l, uint32_t n, size_t max_frame) {
    l->n_peers = n;
    for (uint32_t i = 0; i < n; i++) {
        l->peers[i].fd = -1;
        LM_ASSERT(pthread_mutex_init(&l->peers[i].sending, NULL) == 0);
        lm_buf_init(&l->peers[i].in, max_frame + LM_FRAME_HEAD + 65536);
    }
}

/* ---- losing somebody */

/* Under the lock. The first loss is the one that counts. */
static void lose(lm_link *l, uint32_t rank, const char *why) {
    if (l->is_lost || l->bye) return;
    const lm_hosts *h = l->config.hosts;
    const char *where =
        h && rank < h->n ? h->host[rank].n_ips ? h->host[rank].ips[0] : h->host[rank].ssh : "";
    l->is_lost = true;
    l->lost_rank = rank;
    if (*where)
        (void)lm_fail(&l->lost, LM_BUSY, "rank %u (%s) was lost: %.300s; restart the server", rank, where,
                      why);
    else
        (void)lm_fail(&l->lost, LM_BUSY, "rank %u was lost: %.300s; restart the server", rank, why);
    pthread_cond_broadcast(&l->changed);
}

/* Under the lock, a second at most. */
static void wait_for_change(lm_link *l) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += 1;
    pthread_cond_timedwait(&l->changed, &l->lock, &ts);
}

void lm_link_broke(lm_link *l, const char *why) {
    uint64_t end = lm_now_ns() + SEEN_NS;
    pthread_mutex_lock(&l->lock);
    while (!l->is_lost && !l->bye && lm_now_ns() < end) wait_for_change(l);
    lose(l, 0, why);
    pthread_mutex_unlock(&l->lock);
}

static void lose_peer(lm_link *l, uint32_t rank, const char *why) {
    pthread_mutex_lock(&l->lock);
    lose(l, rank, why);
    pthread_mutex_unlock(&l->lock);
}

uint32_t lm_link_lost(lm_link *l, uint32_t ranks[LM_MAX_RANKS], lm_err *text) {
    pthread_mutex_lock(&l->lock);
    uint32_t n = l->is_lost;
    if (n) {
        ranks[0] = l->lost_rank;
        *text = l->lost;
    }
    pthread_mutex_unlock(&l->lock);
    return n;
}

/* ---- the thread */

/* An answer or a giving up: a status and a text. */
static void take_answer(lm_link *l, peer *p, const lm_frame *f) {
    pthread_mutex_lock(&l->lock);
    if (f->kind == LM_LINK_GIVE_UP) {
        char why[LM_LINK_MAX_ANSWER + 1];
        snprintf(why, sizeof why, LM_STR_FMT, LM_STR_ARG(f->body));
        lose(l, p->rank, why);
    } else {
        uint8_t st = f->body.len ? (uint8_t)f->body.ptr[0] : LM_STATUS_COUNT;
        p->answered = true;
        (void)lm_fail(&p->answer, st < LM_STATUS_COUNT ? (lm_status)st : LM_INTERNAL, "%.*s",
                      f->body.len ? (int)f->body.len - 1 : 0, f->body.len ? f->body.ptr + 1 : "");
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
}

static void enqueue(lm_link *l, const lm_frame *f) {
    uint32_t n = (uint32_t)f->body.len;
    pthread_mutex_lock(&l->lock);
    lm_buf_add(&l->queue, &n, sizeof n);
    lm_buf_str(&l->queue, f->body);
    if (l->queue.failed) lose(l, 0, "it says more than this rank can do");
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static void take_bye(lm_link *l) {
    pthread_mutex_lock(&l->lock);
    l->bye = true;
    l->bye_ns = lm_now_ns();
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

/* False: the peer says what it may not. */
static bool take_frames(lm_link *l, peer *p, lm_err *err) {
    bool zero = l->config.rank == 0;
    size_t at = 0;
    for (;;) {
        lm_frame f;
        lm_str rest = {p->in.ptr + at, p->in.len - at};
        lm_status st = lm_frame_parse(rest, zero ? LM_LINK_MAX_ANSWER : LM_LINK_MAX_FRAME, &f, err);
        if (st != LM_OK) return false;
        if (!f.total) break;
        at += f.total;
        if (f.kind == LM_LINK_BEAT) continue;
        if (zero && (f.kind == LM_LINK_ANSWER || f.kind == LM_LINK_GIVE_UP)) {
            take_answer(l, p, &f);
        } else if (!zero && f.kind == LM_LINK_DATA) {
            enqueue(l, &f);
        } else if (!zero && f.kind == LM_LINK_BYE) {
            take_bye(l);
        } else {
            (void)lm_fail(err, LM_CORRUPT, "a frame of kind %u from the wrong side", f.kind);
            return false;
        }
    }
    if (at) {
        memmove(p->in.ptr, p->in.ptr + at, p->in.len - at);
        p->in.len -= at;
    }
    return true;
}

static void hear(lm_link *l, peer *p) {
    char bytes[65536];
    lm_err err = {0};
    ssize_t n = recv(p->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (n <= 0) {
        (void)lm_fail(&err, LM_IO, "%s", n ? strerror(errno) : "the connection was closed");
    } else {
        p->heard_ns = lm_now_ns();
        lm_buf_add(&p->in, bytes, (size_t)n);
        if (take_frames(l, p, &err)) return;
    }
    p->gone = true;
    (void)shutdown(p->fd, SHUT_RDWR); /* what somebody is sending fails */
    lose_peer(l, p->rank, err.text);
}

static void beat(lm_link *l, peer *p) {
    uint64_t now = lm_now_ns();
    lm_err err = {0};
    if (now - p->heard_ns > (uint64_t)LM_LINK_SILENCE_NS) {
        lose_peer(l, p->rank, "it has been silent for ten seconds");
        return;
    }
    if (now - p->beaten_ns < (uint64_t)LM_LINK_BEAT_NS || pthread_mutex_trylock(&p->sending)) return;
    lm_status st = lm_frame_send(p->fd, LM_LINK_BEAT, NULL, 0, now + LM_LINK_BEAT_NS, &err);
    pthread_mutex_unlock(&p->sending);
    p->beaten_ns = now;
    if (st == LM_IO)
        lose_peer(l, p->rank, err.text); /* when it merely does not read, silence tells in the end */
}

/* Says goodbye to everybody who is there. */
static void send_away(lm_link *l) {
    lm_err ignored = {0};
    for (uint32_t i = 0; i < l->n_peers; i++) {
        peer *p = &l->peers[i];
        if (p->fd < 0 || l->config.rank) continue;
        pthread_mutex_lock(&p->sending);
        if (lm_frame_send(p->fd, LM_LINK_BYE, NULL, 0, lm_now_ns() + (uint64_t)LM_LINK_BEAT_NS, &ignored) ==
            LM_OK)
            (void)shutdown(p->fd, SHUT_WR); /* who cannot be told sees the end when the socket is closed */
        pthread_mutex_unlock(&p->sending);
    }
}

/* Tells the owner of a loss, once; true when there is nothing more to listen to. */
static bool notice(lm_link *l) {
    pthread_mutex_lock(&l->lock);
    bool late = l->bye && l->config.rank && lm_now_ns() - l->bye_ns > GRACE_NS;
    bool tell = (l->is_lost || late) && !l->told_lost;
    lm_err lost = l->lost;
    uint32_t rank = l->lost_rank;
    if (tell) l->told_lost = true;
    pthread_mutex_unlock(&l->lock);
    if (tell) send_away(l);
    if (tell && l->config.lost)
        l->config.lost(l->config.ctx, rank, late ? "rank 0 has said goodbye" : lost.text);
    return tell;
}

static void *link_main(void *arg) {
    lm_link *l = arg;
    while (!atomic_load(&l->stop) && !notice(l)) {
        struct pollfd fds[LM_MAX_RANKS];
        peer *of[LM_MAX_RANKS];
        nfds_t n = 0;
        for (uint32_t i = 0; i < l->n_peers; i++) {
            if (l->peers[i].gone) continue;
            fds[n] = (struct pollfd){.fd = l->peers[i].fd, .events = POLLIN};
            of[n++] = &l->peers[i];
        }
        (void)poll(fds, n, TICK_MS);
        for (nfds_t i = 0; i < n; i++)
            if (fds[i].revents) hear(l, of[i]);
        for (nfds_t i = 0; i < n; i++)
            if (!of[i]->gone) beat(l, of[i]);
    }
    return NULL;
}

static lm_status run(lm_link *l, lm_err *err) {
    for (uint32_t i = 0; i < l->n_peers; i++) l->peers[i].heard_ns = lm_now_ns();
    l->running = pthread_create(&l->thread, NULL, link_main, l) == 0;
    return l->running
               ? LM_OK
               : lm_fail(err, LM_NO_MEMORY, "the system gives no more threads: raise its limit (ulimit -u)");
}

/* ---- rank 0 */

static lm_status check_secret(const lm_link_config *c, lm_err *err) {
    if (!c->secret || strlen(c->secret) < LM_LEAST_SECRET)
        return lm_fail(err, LM_INVALID, "the secret of the ranks must have %d characters at least",
                       LM_LEAST_SECRET);
    if (c->size < 2 || c->size > LM_MAX_RANKS || c->rank >= c->size)
        return lm_fail(err, LM_INVALID, "rank %u of %u: 2 to %d ranks are possible", c->rank, c->size,
                       LM_MAX_RANKS);
    return LM_OK;
}

lm_status lm_link_listen(lm_link **out, const lm_link_config *config, lm_err *err) {
    struct sockaddr_in at;
    socklen_t n = sizeof at;
    int one = 1;
    lm_status st = check_secret(config, err);
    if (st == LM_OK) st = resolve(config->address, config->port, &at, err);
    if (st != LM_OK) return st;
    lm_link *l = new_link(config);
    init_peers(l, config->size - 1, LM_LINK_MAX_ANSWER);
    l->listener = new_socket();
    if (l->listener >= 0) (void)setsockopt(l->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (l->listener < 0 || bind(l->listener, (struct sockaddr *)&at, sizeof at) ||
        listen(l->listener, LM_MAX_RANKS) || getsockname(l->listener, (struct sockaddr *)&at, &n)) {
        st = lm_fail(err, LM_IO, "cannot wait for the other ranks on %s port %u: %s", config->address,
                     config->port, strerror(errno));
        free_link(l);
        return st;
    }
    l->port = ntohs(at.sin_port);
    *out = l;
    return LM_OK;
}

uint16_t lm_link_port(const lm_link *l) {
    return l->port;
}

/* One connection: a rank that was missing, or somebody who is sent away. */
static bool admit(lm_link *l, int fd) {
    lm_err err = {0};
    uint32_t rank = 0;
    lm_status st = lm_handshake_accept(fd, l->secret, l->config.size, &rank, &err);
    if (st == LM_OK && l->peers[rank - 1].fd >= 0)
        st = lm_fail(&err, LM_DENIED, "rank %u is here already", rank);
    if (st == LM_OK) {
        add_peer(l, rank - 1, fd, rank);
        return true;
    }
    if (l->config.refused) l->config.refused(l->config.ctx, err.text);
    close(fd);
    return false;
}

static lm_status who_is_missing(const lm_link *l, lm_err *err) {
    lm_buf b;
    lm_buf_init(&b, 300);
    for (uint32_t i = 0; i < l->n_peers; i++)
        if (l->peers[i].fd < 0) lm_buf_printf(&b, "%s%u", b.len ? ", " : "", i + 1);
    lm_status st =
        lm_fail(err, LM_TIMEOUT, "rank %s did not join: is it running, and can it reach %s port %u?",
                b.ptr ? b.ptr : "", l->config.address, l->port);
    lm_buf_release(&b);
    return st;
}

lm_status lm_link_accept(lm_link *l, int64_t wait_ns, lm_status (*check)(void *, lm_err *), void *ctx,
                         lm_err *err) {
    uint64_t end = lm_now_ns() + (uint64_t)wait_ns;
    uint32_t n = 0;
    lm_status st = LM_OK;
    while (n < l->n_peers && st == LM_OK) {
        struct pollfd p = {.fd = l->listener, .events = POLLIN};
        if (poll(&p, 1, TICK_MS) > 0) {
            int fd = accept(l->listener, NULL, NULL);
            if (fd >= 0) set_cloexec(fd);
            if (fd >= 0) n += admit(l, fd);
        }
        if (n < l->n_peers && check) st = check(ctx, err);
        if (st == LM_OK && n < l->n_peers && lm_now_ns() > end) st = who_is_missing(l, err);
    }
    close(l->listener);
    l->listener = -1;
    return st == LM_OK ? run(l, err) : st;
}

/* LM_OK: nobody is lost. */
static lm_status still_whole(lm_link *l, lm_err *err) {
    pthread_mutex_lock(&l->lock);
    lm_status st = l->is_lost ? lm_fail(err, LM_BUSY, "%s", l->lost.text) : LM_OK;
    pthread_mutex_unlock(&l->lock);
    return st;
}

lm_status lm_link_tell(lm_link *l, const void *frame, size_t n, lm_err *err) {
    lm_status st = still_whole(l, err);
    if (st == LM_OK && n > LM_LINK_MAX_FRAME)
        st = lm_fail(err, LM_TOO_LARGE, "a frame of %zu bytes for the other ranks", n);
    for (uint32_t i = 0; i < l->n_peers && st == LM_OK; i++) {
        peer *p = &l->peers[i];
        lm_err why = {0};
        pthread_mutex_lock(&l->lock);
        p->answered = false;
        pthread_mutex_unlock(&l->lock);
        pthread_mutex_lock(&p->sending);
        st = lm_frame_send(p->fd, LM_LINK_DATA, frame, n, lm_now_ns() + (uint64_t)LM_LINK_SILENCE_NS, &why);
        pthread_mutex_unlock(&p->sending);
        if (st != LM_OK) lose_peer(l, p->rank, why.text);
    }
    return st == LM_OK || st == LM_TOO_LARGE ? st : still_whole(l, err);
}

lm_status lm_link_answers(lm_link *l, int64_t wait_ns, lm_err *err) {
    uint64_t end = lm_now_ns() + (uint64_t)wait_ns;
    lm_status st = LM_OK;
    pthread_mutex_lock(&l->lock);
    for (uint32_t i = 0; i < l->n_peers && st == LM_OK; i++) {
        peer *p = &l->peers[i];
        while (!p->answered && !l->is_lost && lm_now_ns() < end) wait_for_change(l);
        /* An answer that comes later would be taken for one to something else. */
        if (!p->answered && !l->is_lost) lose(l, p->rank, "it did not answer in time");
        if (l->is_lost)
            st = lm_fail(err, LM_BUSY, "%s", l->lost.text);
        else if (p->answer.status != LM_OK)
            st = lm_fail(err, p->answer.status, "rank %u: %s", p->rank, p->answer.text);
    }
    pthread_mutex_unlock(&l->lock);
    return st;
}

void lm_link_close(lm_link *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->bye = true; /* whoever closes its end now is not lost */
    pthread_mutex_unlock(&l->lock);
    atomic_store(&l->stop, true);
    if (l->running) pthread_join(l->thread, NULL);
    send_away(l);
    free_link(l);
}

/* ---- the other ranks */

static lm_status connect_once(const struct sockaddr_in *to, int *out, lm_err *err) {
    int fd = new_socket();
    if (fd < 0) return lm_fail(err, LM_IO, "no socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)to, sizeof *to)) {
        lm_status st = lm_fail(err, LM_IO, "%s", strerror(errno));
        close(fd);
        return st;
    }
    *out = fd;
    return LM_OK;
}

lm_status lm_link_join(lm_link **out, const lm_link_config *config, int64_t wait_ns, lm_err *err) {
    uint64_t end = lm_now_ns() + (uint64_t)wait_ns;
    struct sockaddr_in to;
    int fd = -1;
    lm_status st = check_secret(config, err);
    if (st == LM_OK) st = resolve(config->address, config->port, &to, err);
    if (st != LM_OK) return st;
    while ((st = connect_once(&to, &fd, err)) != LM_OK && lm_now_ns() < end) usleep(100000);
    if (st == LM_OK) st = lm_handshake_join(fd, config->secret, config->rank, config->size, err);
    if (st != LM_OK) {
        if (fd >= 0) close(fd);
        return lm_fail_in(err, st, "rank 0 at %s port %u", config->address, config->port);
    }
    lm_link *l = new_link(config);
    init_peers(l, 1, LM_LINK_MAX_FRAME);
    add_peer(l, 0, fd, 0);
    st = run(l, err);
    if (st == LM_OK)
        *out = l;
    else
        free_link(l);
    return st;
}

lm_status lm_link_next(lm_link *l, lm_str *frame, lm_err *err) {
    if (l->out_at == l->out.len) {
        pthread_mutex_lock(&l->lock);
        while (!l->queue.len && !l->is_lost && !l->bye) pthread_cond_wait(&l->changed, &l->lock);
        lm_buf read = l->out;
        l->out = l->queue;
        l->queue = read;
        lm_buf_clear(&l->queue);
        l->out_at = 0;
        bool lost = l->is_lost, empty = !l->out.len;
        lm_err why = l->lost;
        pthread_mutex_unlock(&l->lock);
        if (lost) return lm_fail(err, LM_IO, "%s", why.text);
        if (empty) return lm_fail(err, LM_CANCELLED, "rank 0 has ended");
    }
    uint32_t n = 0;
    memcpy(&n, l->out.ptr + l->out_at, sizeof n);
    *frame = (lm_str){l->out.ptr + l->out_at + sizeof n, n};
    l->out_at += sizeof n + n;
    return LM_OK;
}

static lm_status say(lm_link *l, lm_frame_type kind, const void *body, size_t n, lm_err *err) {
    peer *p = &l->peers[0];
    pthread_mutex_lock(&p->sending);
    lm_status st = lm_frame_send(p->fd, kind, body, n, lm_now_ns() + (uint64_t)LM_LINK_SILENCE_NS, err);
    pthread_mutex_unlock(&p->sending);
    return st;
}

lm_status lm_link_answer(lm_link *l, lm_status st, const char *text, lm_err *err) {
    char body[LM_LINK_MAX_ANSWER];
    int n = snprintf(body + 1, sizeof body - 1, "%s", text);
    body[0] = (char)st;
    size_t len = n < 0 ? 0 : (size_t)n < sizeof body - 1 ? (size_t)n : sizeof body - 2;
    return say(l, LM_LINK_ANSWER, body, 1 + len, err);
}

void lm_link_give_up(lm_link *l, const char *why) {
    lm_err ignored = {0};
    size_t n = strlen(why);
    (void)say(l, LM_LINK_GIVE_UP, why, n < LM_LINK_MAX_ANSWER ? n : LM_LINK_MAX_ANSWER, &ignored);
}

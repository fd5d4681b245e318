/* pump.c - one thread around curl_multi_socket_action and what ready.h tells.
 *
 * Other threads only put work into lists under the lock and wake the thread; everything of libcurl's happens on it. A flow's easy
 * handle is made where it is started and handed over with the list.
 *
 * Limits of time are looked after together: `look_ns` is no later than the next moment at which one may be over. Bytes
 * that come move a flow's own moment away, which is found out when look_ns has come; so it costs nothing per byte.
 *
 * A request that is not safe to repeat is on the wire at most once: libcurl would send it again by itself when a kept connection
 * closes before an answer, and then nobody knows whether the server had begun. The pre-request callback refuses that
 * unless nothing of it had gone out. Connections that were idle for long are not used again, so that such an
 * end is hardly met.
 */
#include "http/pump.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "http/easy.h"
#include "http/ready.h"

#define MAX_KEPT    256L /* connections */
#define KEEP_IDLE_S 3L /* after so much idle time a connection is not used again: shorter than servers wait */
#define MAX_READY   256 /* sockets that are looked at before the others' wishes are */
#define NEVER       UINT64_MAX
#define MS          UINT64_C(1000000) /* in ns */

struct lm_flow {
    lm_pump *pump;
    atomic_uint refs;
    lm_flow_ask ask; /* its callbacks, limits, body; what is copied is in easy */

    /* guarded by pump->lock */
    lm_flow *queue_next;
    bool queued, want_start, want_resume, want_cancel;

    /* the pump's thread alone, once queued */
    lm_flow *prev, *next; /* of pump->running */
    CURL *easy;           /* NULL: ended, or could not be made */
    struct curl_slist *headers;
    lm_answer answer; /* its head */
    lm_err err;       /* why it cannot begin; LM_OK otherwise */
    bool may_repeat;
    bool began, ended, paused;
    bool has_head, left, too_large, repeated;
    uint32_t n_sent;   /* times that it was about to go out */
    uint64_t since_ns; /* of its start, then of its last byte */
};

typedef struct timer {
    struct timer *next;
    uint64_t due_ns;
    void (*run)(void *ctx);
    void *ctx;
} timer;

struct lm_pump {
    pthread_t thread;
    int wake[2]; /* pipe: a byte in it ends the wait */

    pthread_mutex_t lock; /* guards these */
    lm_flow *queue_head, *queue_tail;
    timer *timers; /* sorted by due_ns, those of one moment in the order in which they came */
    timer *last;   /* of them, while there are any: most come behind it */
    bool woken;    /* a byte is in the pipe */
    bool closing;

    /* the thread's own */
    CURLM *multi;
    lm_flow *running;
    uint64_t curl_ns; /* when libcurl wants to be called, NEVER: not */
    uint64_t look_ns;
    int ready; /* ready.h: the pipe, and libcurl's sockets */
    ready_socket sockets[MAX_READY];
};

/* ---- flows, as others see them */

static _Thread_local const lm_pump *own; /* whose thread this is */

/* p->lock is held. The thread itself looks before it waits. */
static void wake(lm_pump *p) {
    if (p->woken || own == p) return;
    p->woken = true;
    while (write(p->wake[1], "", 1) < 0 && errno == EINTR) continue;
}

static void post(lm_flow *f, bool *want) {
    lm_pump *p = f->pump;
    pthread_mutex_lock(&p->lock);
    *want = true;
    if (!f->queued) {
        f->queued = true;
        lm_flow_ref(f);
        f->queue_next = NULL;
        if (p->queue_tail)
            p->queue_tail->queue_next = f;
        else
            p->queue_head = f;
        p->queue_tail = f;
        wake(p);
    }
    pthread_mutex_unlock(&p->lock);
}

lm_flow *lm_flow_ref(lm_flow *f) {
    atomic_fetch_add(&f->refs, 1);
    return f;
}

static void let_go(lm_flow *f) {
    if (f->easy) curl_easy_cleanup(f->easy);
    curl_slist_free_all(f->headers);
    lm_answer_release(&f->answer);
    f->easy = NULL;
    f->headers = NULL;
}

void lm_flow_unref(lm_flow *f) {
    if (!f || atomic_fetch_sub(&f->refs, 1) != 1) return;
    let_go(f);
    free(f);
}

void lm_flow_resume(lm_flow *f) {
    post(f, &f->want_resume);
}

void lm_flow_cancel(lm_flow *f) {
    post(f, &f->want_cancel);
}

/* ---- what libcurl calls; on the thread, within it */

static void watch(lm_flow *f) {
    uint32_t ms = f->has_head ? f->ask.silent_ms : f->ask.first_ms;
    uint64_t until = ms ? f->since_ns + ms * MS : NEVER;
    if (!f->paused && until < f->pump->look_ns) f->pump->look_ns = until;
}

static size_t take_header(char *bytes, size_t one, size_t n, void *ctx) {
    lm_flow *f = ctx;
    n *= one;
    f->since_ns = f->has_head ? lm_now_ns() : f->since_ns;
    easy_head head = lm_easy_header(&f->answer, (lm_str){bytes, n});
    f->too_large = head == EASY_HEAD_TOO_LARGE;
    if (f->too_large) return 0;
    if (f->has_head || head == EASY_HEAD_GOES_ON) return n;
    lm_easy_note(f->easy, &f->answer);
    f->has_head = true;
    f->since_ns = lm_now_ns();
    watch(f);
    if (f->ask.on_head) f->left = !f->ask.on_head(f->ask.ctx, &f->answer);
    return f->left ? 0 : n;
}

static size_t take_body(char *bytes, size_t one, size_t n, void *ctx) {
    lm_flow *f = ctx;
    n *= one;
    f->since_ns = lm_now_ns();
    if (f->ask.on_body && !f->ask.on_body(f->ask.ctx, (lm_str){bytes, n})) {
        f->paused = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    return n;
}

static int about_to_send(void *ctx, char *their, char *our, int their_port, int our_port) {
    (void)their, (void)our, (void)their_port, (void)our_port;
    lm_flow *f = ctx;
    long gone_out = 0;
    curl_easy_getinfo(f->easy, CURLINFO_REQUEST_SIZE, &gone_out);
    f->repeated = f->n_sent++ && gone_out && !f->may_repeat;
    return f->repeated ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

/* One that cannot be watched would stand still: its flow ends instead. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx) {
    (void)socket_ctx;
    lm_pump *p = ctx;
    lm_flow *f = NULL;
    if (lm_ready_watch(p->ready, fd, what == CURL_POLL_REMOVE ? 0 : what)) return 0;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &f);
    if (!f) return 0; /* libcurl's own */
    if (f->err.status == LM_OK)
        lm_fail(&f->err, LM_NO_MEMORY,
                "the system cannot watch one more connection: %s: ask again when others are done",
                strerror(errno));
    lm_flow_cancel(f);
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *ctx) {
    (void)multi;
    lm_pump *p = ctx;
    p->curl_ns = ms < 0 ? NEVER : lm_now_ns() + (uint64_t)ms * MS;
    return 0;
}

/* ---- a flow's life on the thread */

static void finish(lm_flow *f, lm_status st, const char *text) {
    lm_pump *p = f->pump;
    f->ended = true;
    if (f->began) {
        curl_multi_remove_handle(p->multi, f->easy);
        if (f->prev)
            f->prev->next = f->next;
        else
            p->running = f->next;
        if (f->next) f->next->prev = f->prev;
    }
    let_go(f);
    f->ask.on_end(f->ask.ctx, st, text);
    lm_flow_unref(f);
}

static void finish_error(lm_flow *f, const lm_err *err) {
    finish(f, err->status, err->text);
}

static void finish_done(lm_flow *f, CURLcode code) {
    lm_err err = {0};
    if (code == CURLE_OK && f->has_head) {
        finish(f, LM_OK, "");
        return;
    }
    if (code == CURLE_OK) code = CURLE_PARTIAL_FILE; /* the end came within the head */
    if (f->repeated) code = CURLE_GOT_NOTHING;       /* what made libcurl want to send it again */
    if (f->left)
        lm_fail(&err, LM_CANCELLED, "left in the middle of the answer");
    else if (f->too_large)
        lm_fail(&err, LM_CORRUPT, "the head of the server's answer is too large");
    else
        lm_easy_explain(code, "the server", NULL, &err);
    finish_error(f, &err);
}

static void begin(lm_flow *f) {
    lm_pump *p = f->pump;
    if (f->err.status == LM_OK) {
        f->since_ns = lm_now_ns();
        CURLMcode code = curl_multi_add_handle(p->multi, f->easy);
        if (code != CURLM_OK) lm_fail(&f->err, LM_INTERNAL, "libcurl: %s", curl_multi_strerror(code));
    }
    if (f->err.status != LM_OK) {
        finish_error(f, &f->err);
        return;
    }
    f->began = true;
    f->next = p->running;
    if (f->next) f->next->prev = f;
    p->running = f;
    watch(f);
}

static void resume(lm_flow *f) {
    if (!f->paused) return;
    f->paused = false;
    f->since_ns = lm_now_ns();
    watch(f);
    /* The bytes that were refused come from within. */
    CURLcode code = curl_easy_pause(f->easy, CURLPAUSE_CONT);
    if (code != CURLE_OK) finish_done(f, code);
}

/* ---- the thread */

/* All that others asked for since the last time. */
static void do_commands(lm_pump *p) {
    for (;;) {
        pthread_mutex_lock(&p->lock);
        lm_flow *f = p->queue_head;
        bool start = false, again = false, cancel = false;
        if (f) {
            p->queue_head = f->queue_next;
            if (!p->queue_head) p->queue_tail = NULL;
            start = f->want_start, again = f->want_resume, cancel = f->want_cancel;
            f->queued = f->want_start = f->want_resume = f->want_cancel = false;
        }
        bool closing = p->closing;
        pthread_mutex_unlock(&p->lock);
        if (!f) return;
        if (!f->ended && f->began && f->err.status != LM_OK)
            finish_error(f, &f->err);
        else if (!f->ended && (cancel || (start && closing)))
            finish(f, LM_CANCELLED, "cancelled");
        else if (start)
            begin(f);
        if (again && f->began && !f->ended) resume(f);
        lm_flow_unref(f);
    }
}

/* Those of now; ones that are added meanwhile come the next time, so that they cannot keep the thread. */
static void run_timers(lm_pump *p) {
    uint64_t now = lm_now_ns();
    pthread_mutex_lock(&p->lock);
    timer *due = NULL, **end = &due;
    while (p->timers && (p->timers->due_ns <= now || p->closing)) {
        *end = p->timers;
        p->timers = p->timers->next;
        end = &(*end)->next;
        *end = NULL;
    }
    pthread_mutex_unlock(&p->lock);
    while (due) {
        timer *next = due->next;
        due->run(due->ctx);
        free(due);
        due = next;
    }
}

static void read_results(lm_pump *p) {
    int left = 0;
    for (CURLMsg *m; (m = curl_multi_info_read(p->multi, &left));) {
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode code = m->data.result;
        lm_flow *f = NULL;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &f);
        finish_done(f, code);
    }
}

/* Flows that end here may start others, which go into the queue and not into the list that is walked. */
static void look_at_limits(lm_pump *p) {
    uint64_t now = lm_now_ns();
    if (now < p->look_ns) return;
    p->look_ns = NEVER;
    for (lm_flow *f = p->running, *next; f; f = next) {
        next = f->next;
        uint32_t ms = f->has_head ? f->ask.silent_ms : f->ask.first_ms;
        if (f->paused || !ms) continue;
        if (now - f->since_ns < ms * MS) {
            watch(f);
            continue;
        }
        lm_err err = {0};
        lm_fail(&err, LM_TIMEOUT,
                f->has_head ? "the server sent nothing for %.1f s"
                            : "the server did not begin to answer within %.1f s",
                ms / 1e3);
        finish_error(f, &err);
    }
}

static void cancel_all(lm_pump *p) {
    while (p->running) finish(p->running, LM_CANCELLED, "cancelled");
}

/* How long the thread may wait: not at all when it has put something into the queue itself. */
static int patience_ms(lm_pump *p) {
    uint64_t until = p->curl_ns < p->look_ns ? p->curl_ns : p->look_ns;
    pthread_mutex_lock(&p->lock);
    if (p->timers && p->timers->due_ns < until) until = p->timers->due_ns;
    if (p->queue_head) until = 0;
    pthread_mutex_unlock(&p->lock);
    if (until == NEVER) return -1;
    uint64_t now = lm_now_ns();
    if (until <= now) return 0;
    uint64_t ms = (until - now + MS - 1) / MS;
    return ms < 60000 ? (int)ms : 60000;
}

static void answer_wake(lm_pump *p) {
    char bytes[16];
    pthread_mutex_lock(&p->lock);
    (void)!read(p->wake[0], bytes, sizeof bytes); /* there is one at most */
    p->woken = false;
    pthread_mutex_unlock(&p->lock);
}

/* A socket that libcurl has closed meanwhile, it ignores. */
static void serve_sockets(lm_pump *p, int ms) {
    int running = 0;
    size_t n = lm_ready_wait(p->ready, ms, p->sockets, MAX_READY);
    for (size_t i = 0; i < n; i++) {
        if (p->sockets[i].fd == p->wake[0])
            answer_wake(p);
        else
            curl_multi_socket_action(p->multi, p->sockets[i].fd, p->sockets[i].what, &running);
    }
    if (lm_now_ns() >= p->curl_ns) {
        p->curl_ns = NEVER;
        curl_multi_socket_action(p->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
}

static bool has_work(lm_pump *p, bool *closing) {
    pthread_mutex_lock(&p->lock);
    bool work = p->queue_head || p->timers || p->running;
    *closing = p->closing;
    pthread_mutex_unlock(&p->lock);
    return work;
}

static void *run(void *arg) {
    lm_pump *p = arg;
    own = p;
    for (bool closing = false; has_work(p, &closing) || !closing;) {
        if (closing) cancel_all(p);
        run_timers(p);
        do_commands(p); /* those of the timers, too */
        read_results(p);
        look_at_limits(p);
        serve_sockets(p, closing ? 0 : patience_ms(p));
        read_results(p);
    }
    return NULL;
}

/* ---- life */

static lm_status make_pipe(lm_pump *p, lm_err *err) {
    if (pipe(p->wake))
        return lm_fail(err, LM_IO, "cannot make a pipe: %s: raise the limit of open files (ulimit -n)",
                       strerror(errno));
    for (int i = 0; i < 2; i++) {
        (void)fcntl(p->wake[i], F_SETFD, FD_CLOEXEC);
        (void)fcntl(p->wake[i], F_SETFL, O_NONBLOCK);
    }
    p->ready = lm_ready_open();
    if (p->ready < 0 || !lm_ready_watch(p->ready, p->wake[0], READY_IN))
        return lm_fail(err, LM_IO, "cannot watch sockets: %s: raise the limit of open files (ulimit -n)",
                       strerror(errno));
    return LM_OK;
}

static void free_pump(lm_pump *p) {
    if (p->multi) curl_multi_cleanup(p->multi);
    for (int i = 0; i < 2; i++)
        if (p->wake[i] >= 0) close(p->wake[i]);
    if (p->ready >= 0) close(p->ready);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

lm_status lm_pump_open(lm_pump **out, lm_err *err) {
    lm_status st = lm_easy_library(err);
    if (st != LM_OK) return st;
    lm_pump *p = lm_alloc(sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    p->wake[0] = p->wake[1] = p->ready = -1;
    p->curl_ns = p->look_ns = NEVER;
    st = make_pipe(p, err);
    if (st == LM_OK && !(p->multi = curl_multi_init()))
        st = lm_fail(err, LM_NO_MEMORY, "no memory for HTTP requests");
    if (st == LM_OK) {
        curl_multi_setopt(p->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
        curl_multi_setopt(p->multi, CURLMOPT_SOCKETDATA, p);
        curl_multi_setopt(p->multi, CURLMOPT_TIMERFUNCTION, on_timer);
        curl_multi_setopt(p->multi, CURLMOPT_TIMERDATA, p);
        curl_multi_setopt(p->multi, CURLMOPT_MAXCONNECTS, MAX_KEPT);
        if (pthread_create(&p->thread, NULL, run, p))
            st = lm_fail(err, LM_INTERNAL, "cannot start a thread: the system's limit of threads is reached");
    }
    if (st != LM_OK) {
        free_pump(p);
        return st;
    }
    *out = p;
    return LM_OK;
}

void lm_pump_close(lm_pump *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    wake(p);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    free_pump(p);
}

/* May be asked again without harm (RFC 9110 section 9.2.2, as far as this project's servers know them). */
static bool is_safe(const char *method) {
    return !strcmp(method, "GET") || !strcmp(method, "HEAD");
}

lm_flow *lm_pump_start(lm_pump *p, const lm_flow_ask *ask) {
    lm_flow *f = lm_alloc(sizeof *f);
    f->pump = p;
    f->ask = *ask;
    f->may_repeat = is_safe(ask->method);
    atomic_init(&f->refs, 2); /* the caller's, and the one that ends with on_end */
    lm_buf_init(&f->answer.headers, EASY_MAX_HEADERS);
    f->easy = curl_easy_init();
    /* A POST of nothing says so: servers refuse one without a length. */
    bool empty = !ask->body.ptr && !is_safe(ask->method) && strcmp(ask->method, "DELETE");
    easy_ask common = {.method = ask->method,
                       .url = ask->url,
                       .headers = ask->headers,
                       .body = empty ? LM_STR("") : ask->body,
                       .connect_ms = ask->connect_ms};
    if (!f->easy)
        lm_fail(&f->err, LM_NO_MEMORY, "no memory for a request");
    else
        f->err.status = lm_easy_prepare(f->easy, &common, &f->headers, NULL);
    if (f->err.status == LM_INVALID) lm_fail(&f->err, LM_INVALID, "no http:// or https:// address");
    if (f->err.status == LM_OK) {
        curl_easy_setopt(f->easy, CURLOPT_PRIVATE, f);
        curl_easy_setopt(f->easy, CURLOPT_HEADERFUNCTION, take_header);
        curl_easy_setopt(f->easy, CURLOPT_HEADERDATA, f);
        curl_easy_setopt(f->easy, CURLOPT_WRITEFUNCTION, take_body);
        curl_easy_setopt(f->easy, CURLOPT_WRITEDATA, f);
        curl_easy_setopt(f->easy, CURLOPT_PREREQFUNCTION, about_to_send);
        curl_easy_setopt(f->easy, CURLOPT_PREREQDATA, f);
        curl_easy_setopt(f->easy, CURLOPT_MAXAGE_CONN, KEEP_IDLE_S);
    }
    post(f, &f->want_start);
    return f;
}

void lm_pump_later(lm_pump *p, uint32_t delay_ms, void (*run_it)(void *ctx), void *ctx) {
    timer *t = lm_alloc(sizeof *t);
    *t = (timer){.due_ns = lm_now_ns() + delay_ms * MS, .run = run_it, .ctx = ctx};
    pthread_mutex_lock(&p->lock);
    timer **at = p->timers && p->last->due_ns <= t->due_ns ? &p->last->next : &p->timers;
    while (*at && (*at)->due_ns <= t->due_ns) at = &(*at)->next;
    t->next = *at;
    *at = t;
    if (!t->next) p->last = t;
    if (at == &p->timers) wake(p);
    pthread_mutex_unlock(&p->lock);
}

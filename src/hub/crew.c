/* crew.c - several files at a time: a few threads, each with one file and one connection, and the caller's,
 * which tells how far they are and asks whether to go on. */
#include <stdlib.h>
#include <time.h>

#include "hub/private.h"

#define STREAMS     4
#define MAX_STREAMS 64
#define TELL_MS     60

typedef struct crew {
    const lm_origin *origin; /* the caller's */
    lm_remote *files;
    uint32_t n;
    lm_crew_work *work;
    void *ctx;
    atomic_uint next;
    atomic_bool stop;
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t over;
    uint32_t running;
    lm_status st; /* of who failed first */
    lm_err err;
} crew;

static void *work(void *arg) {
    crew *w = arg;
    lm_client *c = NULL;
    lm_err err = {0};
    lm_origin o = *w->origin;
    o.pull = NULL;
    o.stop = &w->stop;
    lm_status st = lm_client_open(&c, &err);
    while (st == LM_OK && !atomic_load(&w->stop)) {
        uint32_t i = atomic_fetch_add(&w->next, 1);
        if (i >= w->n) break;
        st = w->work(w->ctx, c, &o, i, &err);
    }
    lm_client_close(c);
    pthread_mutex_lock(&w->lock);
    if (st != LM_OK && w->st == LM_OK) {
        w->st = st;
        w->err = err;
        atomic_store(&w->stop, true);
    }
    w->running--;
    pthread_cond_signal(&w->over);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void tell(const lm_pull *pull, lm_remote *files, uint32_t n) {
    for (uint32_t i = 0; pull->bytes && i < n; i++) {
        lm_remote *f = &files[i];
        uint64_t done = atomic_load(&f->done);
        if (f->oid[0] && !atomic_load(&f->hashed)) continue; /* small: told when it is whole */
        if (f->told && done == f->shown) continue;
        f->told = true;
        f->shown = done;
        pull->bytes(pull->ctx, f->digest, f->size, done);
    }
}

static uint32_t streams(uint32_t n) {
    const char *text = getenv("OLLAMA_MAX_TRANSFER_STREAMS");
    long want = text && text[0] ? strtol(text, NULL, 10) : STREAMS;
    if (want < 1) want = 1;
    if (want > MAX_STREAMS) want = MAX_STREAMS;
    return (uint32_t)want < n ? (uint32_t)want : n;
}

/* Until the last thread has ended. */
static void watch(crew *w, const lm_pull *pull) {
    pthread_mutex_lock(&w->lock);
    while (w->running) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += TELL_MS * 1000000L;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&w->over, &w->lock, &t);
        pthread_mutex_unlock(&w->lock);
        tell(pull, w->files, w->n);
        bool on = !pull->go_on || pull->go_on(pull->ctx);
        pthread_mutex_lock(&w->lock);
        if (!on && w->st == LM_OK) w->st = lm_fail(&w->err, LM_CANCELLED, "cancelled");
        if (!on) atomic_store(&w->stop, true);
    }
    pthread_mutex_unlock(&w->lock);
}

static lm_status run(crew *w, lm_err *err) {
    pthread_t threads[MAX_STREAMS];
    uint32_t n = 0, want = streams(w->n);
    w->running = want;
    while (n < want && pthread_create(&threads[n], NULL, work, w) == 0) n++;
    pthread_mutex_lock(&w->lock);
    w->running -= want - n; /* fewer do as well */
    pthread_mutex_unlock(&w->lock);
    if (!n && want) return lm_fail(err, LM_BUSY, "the system's limit of threads is reached: try again");
    watch(w, w->origin->pull);
    for (uint32_t i = 0; i < n; i++) pthread_join(threads[i], NULL);
    if (w->st != LM_OK) return lm_fail(err, w->st, "%s", w->err.text);
    tell(w->origin->pull, w->files, w->n);
    return LM_OK;
}

lm_status lm_crew_run(const lm_origin *o, lm_remote *files, uint32_t n, lm_crew_work *job, void *ctx,
                      lm_err *err) {
    crew w = {.origin = o, .files = files, .n = n, .work = job, .ctx = ctx};
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.over, NULL);
    lm_status st = run(&w, err);
    pthread_mutex_destroy(&w.lock);
    pthread_cond_destroy(&w.over);
    return st;
}

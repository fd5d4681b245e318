/* manager.c - the dispatcher: which models are loaded, and which jobs may go to them.
 *
 * One pass after whatever happened (a job came, was cancelled, ended; a model is loaded or gone; a timer ran
 * out): answer cancelled jobs that lie in a queue, free runners that have ended, close those that are due,
 * then look at the pending jobs in the order they came. A job for a loaded model goes there. A job that needs
 * a model loaded may have to wait for room; then nobody behind it may load anything before, and the model
 * that has to go takes no new jobs.
 */
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "engine/core.h"

/* ---- sweeping */

static lm_job *find_cancelled(lm_job_list *l) {
    for (lm_job *j = l->head; j; j = j->next) {
        if (lm_job_cancelled(j)) {
            lm_list_remove(l, j);
            return j;
        }
    }
    return NULL;
}

/* Takes one cancelled job out of whatever queue it lies in. */
static lm_job *take_cancelled(lm_engine *e) {
    lm_job *j = find_cancelled(&e->pending);
    for (lm_runner *r = e->runners; r && !j; r = r->next) {
        j = find_cancelled(&r->inbox);
        if (!j) j = find_cancelled(&r->ready);
    }
    return j;
}

/* Lock held, given up while the sink runs. */
static void fail_job(lm_engine *e, lm_job *j, lm_status st, const char *text) {
    pthread_mutex_unlock(&e->lock);
    lm_sequence_free(j->seq);
    j->seq = NULL;
    lm_job_fail(j, st, text);
    pthread_mutex_lock(&e->lock);
}

/* ---- a lost rank */

/* Somebody who has to hear of it, out of wherever the job is. NULL: everybody has. */
static lm_job *take_lost(lm_engine *e) {
    lm_job *j = lm_list_pop(&e->pending);
    for (lm_runner *r = e->runners; r && !j; r = r->next) {
        j = lm_list_pop(&r->inbox);
        if (!j) j = lm_list_pop(&r->ready);
        if (!j && r->computing) r->abandoned = true;
        if (!j && r->abandoned && r->core->n_running) {
            j = r->core->running[--r->core->n_running]->job;
            j->seq = NULL; /* the thread that is left behind may still look at it */
        }
    }
    return j;
}

/* ---- runners that end */

static uint64_t deadline(const lm_runner *r) {
    return r->keep_alive_ns < 0 || (uint64_t)r->keep_alive_ns > UINT64_MAX - r->used_ns
               ? UINT64_MAX
               : r->used_ns + (uint64_t)r->keep_alive_ns;
}

static void close_runner(lm_runner *r) {
    r->state = LM_RUNNER_CLOSING;
    r->quit = true;
    pthread_cond_signal(&r->front_cond);
    pthread_cond_signal(&r->step_cond);
}

/* Begins to close every idle runner that has to go; returns when the next timer runs out. */
static uint64_t close_due(lm_engine *e) {
    uint64_t now = e->clock(), next = UINT64_MAX;
    for (lm_runner *r = e->runners; r; r = r->next) {
        if (r->n_jobs || r->state == LM_RUNNER_LOADING || r->state == LM_RUNNER_CLOSING) continue;
        uint64_t at = deadline(r);
        if (r->draining || e->stopping || r->state == LM_RUNNER_FAILED || at <= now) {
            close_runner(r);
        } else if (at < next) {
            next = at;
        }
    }
    return next;
}

/* Frees one runner whose threads have ended; false: none. */
static bool reap(lm_engine *e) {
    for (lm_runner **p = &e->runners; *p; p = &(*p)->next) {
        lm_runner *r = *p;
        if (!r->front_gone || !r->step_gone) continue;
        *p = r->next;
        pthread_mutex_unlock(&e->lock);
        lm_runner_free(r);
#ifdef __GLIBC__
        malloc_trim(0); /* a tokenizer is a million small pieces: without this they stay ours */
#endif
        pthread_mutex_lock(&e->lock);
        return true;
    }
    return false;
}

/* ---- placing jobs */

static lm_runner *find_runner(lm_engine *e, const lm_job *j) {
    for (lm_runner *r = e->runners; r; r = r->next) {
        if (strcmp(r->name, j->name) == 0) return r;
    }
    return NULL;
}

static uint32_t wanted_ctx(const lm_engine *e, const lm_job *j, uint32_t ctx_train) {
    return lm_engine_ctx(&e->config, j->request->options.num_ctx, ctx_train);
}

/* Reads what a load would take. The lock is given up meanwhile; the job stays in its queue, which only this
 * thread takes jobs from. */
static lm_status size_job(lm_engine *e, lm_job *j, lm_err *err) {
    pthread_mutex_unlock(&e->lock);
    lm_engine_need need = {0};
    lm_status st = lm_engine_need_of(&e->config, j->dir, j->request->options.num_ctx, &need, err);
    pthread_mutex_lock(&e->lock);
    if (st != LM_OK) return st;
    j->sized = true;
    j->ctx_train = need.n_ctx_train;
    j->bytes = need.model.weights + need.model.kv + need.model.scratch;
    return LM_OK;
}

static double gib(uint64_t bytes) {
    return (double)bytes / (double)(1u << 30);
}

/* Room for one more model of j's size? LM_OK: yes, now. LM_BUSY: not yet, models are on their way out.
 * LM_NO_MEMORY: never. */
static lm_status make_room(lm_engine *e, const lm_job *j, lm_err *err) {
    uint64_t budget = e->config.memory_budget, used = 0, leaving = 0;
    uint32_t n = 0, n_leaving = 0;
    if (j->bytes > budget) {
        return lm_fail(err, LM_NO_MEMORY,
                       "model requires more system memory (%.1f GiB) than is available (%.1f GiB): %s with "
                       "%u sequences of %u "
                       "tokens; lower num_ctx or the number of parallel requests, or use a smaller model",
                       gib(j->bytes), gib(budget), j->name, e->config.n_parallel,
                       wanted_ctx(e, j, j->ctx_train));
    }
    for (lm_runner *r = e->runners; r; r = r->next) {
        bool goes = r->draining || r->state == LM_RUNNER_CLOSING || r->state == LM_RUNNER_FAILED;
        used += r->bytes;
        leaving += goes ? r->bytes : 0;
        n++;
        n_leaving += goes;
    }
    uint32_t most = e->config.max_models ? e->config.max_models : UINT32_MAX;
    if (n < most && used + j->bytes <= budget) return LM_OK;
    while (n - n_leaving >= most || used - leaving + j->bytes > budget) {
        /* Idle ones first, then the one that has been idle or without a new job longest. */
        lm_runner *victim = NULL;
        for (lm_runner *r = e->runners; r; r = r->next) {
            if (r->draining || r->state == LM_RUNNER_CLOSING || r->state == LM_RUNNER_FAILED) continue;
            bool better = !victim || (!r->n_jobs && victim->n_jobs) ||
                          (!r->n_jobs == !victim->n_jobs && r->used_ns < victim->used_ns);
            if (better) victim = r;
        }
        LM_ASSERT(victim);
        victim->draining = true;
        leaving += victim->bytes;
        n_leaving++;
    }
    return lm_fail(err, LM_BUSY, "waiting for room");
}

typedef enum placed {
    PLACED,
    WAITS_OWN,  /* for its own model to end, which keeps nobody else */
    WAITS_ROOM, /* nobody behind it may load anything */
    FAILED,
} placed;

/* Tries to hand j on. may_load: nobody before it waits for room. */
static placed place(lm_engine *e, lm_job *j, bool may_load, lm_err *err) {
    lm_runner *r = find_runner(e, j);
    if (r) {
        bool usable = !r->draining && (r->state == LM_RUNNER_LOADING || r->state == LM_RUNNER_READY);
        if (!usable) return WAITS_OWN;
        bool same = strcmp(r->digest, j->digest) == 0 && strcmp(r->dir, j->dir) == 0;
        if (same && wanted_ctx(e, j, r->ctx_train) <= r->n_ctx) {
            lm_list_remove(&e->pending, j);
            lm_runner_give(r, j);
            return PLACED;
        }
    }
    if (!may_load) return WAITS_ROOM;
    /* Before anything is unloaded for it: does what it asks for exist, and would it fit at all? */
    if (!j->sized) {
        if (size_job(e, j, err) != LM_OK) return FAILED;
        e->dirty = true; /* the lock was given up: look at everything again, with the size known */
        return WAITS_ROOM;
    }
    if (j->bytes > e->config.memory_budget) return make_room(e, j, err) == LM_OK ? WAITS_ROOM : FAILED;
    if (r) {
        r->draining = true;
        return WAITS_OWN;
    }
    lm_status st = make_room(e, j, err);
    if (st == LM_BUSY) return WAITS_ROOM;
    if (st == LM_OK) st = lm_runner_start(e, j, wanted_ctx(e, j, j->ctx_train), &r, err);
    if (st != LM_OK) return FAILED;
    lm_list_remove(&e->pending, j);
    lm_runner_give(r, j);
    return PLACED;
}

/* One pass over the pending jobs; true when it has to be done again. Only this thread takes jobs out of the
 * list, so the next one stays where it is while place has given the lock up; new ones come at the end. */
static bool place_all(lm_engine *e) {
    bool may_load = true;
    for (lm_job *j = e->pending.head, *next; j; j = next) {
        lm_err err = {0};
        next = j->next;
        placed p = place(e, j, may_load, &err);
        if (p == WAITS_ROOM) may_load = false;
        if (p == FAILED) {
            lm_list_remove(&e->pending, j);
            fail_job(e, j, err.status, err.text);
            return true;
        }
    }
    return false;
}

/* Whether a runner is there that will end. */
static bool stays(const lm_engine *e) {
    for (const lm_runner *r = e->runners; r; r = r->next)
        if (!r->abandoned) return true;
    return false;
}

/* ---- the thread */

void *lm_dispatcher_main(void *arg) {
    lm_engine *e = arg;
    pthread_mutex_lock(&e->lock);
    for (;;) {
        e->dirty = false;
        lm_job *j;
        while ((j = take_cancelled(e))) fail_job(e, j, LM_CANCELLED, "request canceled");
        while (e->lost && (j = take_lost(e))) fail_job(e, j, LM_BUSY, e->lost_text);
        while (reap(e)) continue;
        while (place_all(e)) continue;
        uint64_t next = close_due(e); /* last: placing may have decided that somebody has to go */
        if (e->stopping && !stays(e) && !e->n_live) break;
        if (e->dirty) continue;
        uint64_t now = e->clock();
        lm_cond_wait(&e->dispatch, &e->lock,
                     next == UINT64_MAX ? -1
                     : next > now       ? (int64_t)(next - now)
                                        : 0);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

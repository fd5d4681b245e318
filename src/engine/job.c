/* job.c - a job's lists, references and last event. */
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"

/* ---- lists */

void lm_list_push(lm_job_list *l, lm_job *j) {
    j->next = NULL;
    j->prev = l->tail;
    if (l->tail) {
        l->tail->next = j;
    } else {
        l->head = j;
    }
    l->tail = j;
    l->n++;
}

void lm_list_remove(lm_job_list *l, lm_job *j) {
    if (j->prev) {
        j->prev->next = j->next;
    } else {
        l->head = j->next;
    }
    if (j->next) {
        j->next->prev = j->prev;
    } else {
        l->tail = j->prev;
    }
    j->next = j->prev = NULL;
    l->n--;
}

lm_job *lm_list_pop(lm_job_list *l) {
    lm_job *j = l->head;
    if (j) lm_list_remove(l, j);
    return j;
}

/* ---- references */

void lm_engine_unref(lm_engine *e) {
    if (atomic_fetch_sub(&e->refs, 1) != 1) return;
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->dispatch);
    pthread_cond_destroy(&e->idle);
    free(e->cpu_features);
    free(e);
}

void lm_engine_poke(lm_engine *e) {
    e->dirty = true;
    pthread_cond_signal(&e->dispatch);
}

lm_job *lm_job_new(lm_engine *e, const lm_model_ref *m, lm_request *r, lm_sink *sink, void *ctx) {
    lm_job *j = lm_alloc(sizeof(*j));
    atomic_init(&j->refs, 2); /* the caller's and the engine's */
    atomic_init(&j->cancelled, false);
    atomic_fetch_add(&e->refs, 1);
    j->engine = e;
    j->request = r;
    j->sink = sink;
    j->ctx = ctx;
    j->name = lm_strdup(m->name);
    j->dir = lm_strdup(m->dir);
    if (m->digest) strncpy(j->digest, m->digest, sizeof(j->digest) - 1);
    j->submitted_ns = lm_now_ns();
    return j;
}

void lm_job_unref(lm_job *j) {
    if (!j || atomic_fetch_sub(&j->refs, 1) != 1) return;
    LM_ASSERT(!j->seq);
    lm_request_free(j->request);
    free(j->name);
    free(j->dir);
    lm_engine_unref(j->engine);
    free(j);
}

void lm_job_cancel(lm_job *j) {
    lm_engine *e = j->engine;
    pthread_mutex_lock(&e->lock);
    if (!j->finished) {
        atomic_store(&j->cancelled, true);
        lm_engine_poke(e);
    }
    pthread_mutex_unlock(&e->lock);
}

/* ---- the end */

/* Everything is counted and given back before the sink hears of it: whoever reacts to the last event sees an
 * engine without this job. */
void lm_job_done(lm_job *j, lm_event *event) {
    lm_engine *e = j->engine;
    lm_runner *r = j->runner;
    j->metrics.total_ns = lm_now_ns() - j->submitted_ns;
    event->metrics = j->metrics;

    pthread_mutex_lock(&e->lock);
    j->finished = true;
    if (j->live_prev) {
        j->live_prev->live_next = j->live_next;
    } else {
        e->live = j->live_next;
    }
    if (j->live_next) j->live_next->live_prev = j->live_prev;
    e->n_live--;
    if (r) {
        r->n_jobs--;
        if (j->running) r->n_running--;
        r->used_ns = e->clock();
    }
    if (event->kind == LM_EVENT_ERROR) {
        if (event->status == LM_CANCELLED) {
            e->stats.n_cancelled++;
        } else {
            e->stats.n_failed++;
        }
    }
    if (!j->request->count_only) e->stats.n_prompt_tokens += j->metrics.n_prompt;
    e->stats.n_eval_tokens += j->metrics.n_eval;
    lm_engine_poke(e);
    if (!e->n_live) pthread_cond_broadcast(&e->idle);
    pthread_mutex_unlock(&e->lock);

    j->sink(j->ctx, event);
    lm_job_unref(j);
}

void lm_job_fail(lm_job *j, lm_status st, const char *text) {
    lm_event event = {.kind = LM_EVENT_ERROR, .status = st, .text = lm_str_of(text)};
    lm_job_done(j, &event);
}

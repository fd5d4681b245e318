/* runner.c - one loaded model: its two threads' beginning and end, and the front thread's work.
 *
 * The two sides load at the same time, tokenizer and template here, weights on the step thread. A failure of
 * either fails the jobs that wait for this load and nothing else; the runner then goes away, and the next job
 * starts a new one.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/sequence.h"

#define PROMPT_BYTES (256u << 20) /* of a rendered prompt, at most */

void lm_runner_give(lm_runner *r, lm_job *j) {
    int64_t keep = j->request->keep_alive_ns;
    if (keep != LM_KEEP_ALIVE_DEFAULT) r->keep_alive_ns = keep;
    j->runner = r;
    r->n_jobs++;
    r->used_ns = r->engine->clock();
    lm_list_push(&r->inbox, j);
    pthread_cond_signal(&r->front_cond);
}

void lm_runner_free(lm_runner *r) {
    LM_ASSERT(!r->n_jobs && !r->inbox.n && !r->ready.n);
    pthread_join(r->front, NULL);
    if (r->joinable_step) pthread_join(r->step, NULL);
    pthread_cond_destroy(&r->front_cond);
    pthread_cond_destroy(&r->step_cond);
    free(r->name);
    free(r->dir);
    free(r);
}

/* ---- the front thread's work */

/* One job from request to ready; jobs that need no sequence end here. */
static void serve(lm_runner *r, lm_job *j) {
    lm_engine *e = r->engine;
    lm_event loaded = {.kind = LM_EVENT_LOADED};
    if (!lm_job_cancelled(j)) {
        j->metrics.load_ns = lm_now_ns() - j->submitted_ns;
        j->sink(j->ctx, &loaded);
    }
    if (lm_job_cancelled(j)) {
        lm_job_fail(j, LM_CANCELLED, "request canceled");
        return;
    }
    if (j->request->kind == LM_REQUEST_LOAD) {
        lm_event done = {.kind = LM_EVENT_DONE, .reason = LM_DONE_LOAD};
        lm_job_done(j, &done);
        return;
    }
    lm_err err = {0};
    lm_buf prompt;
    lm_buf_init(&prompt, PROMPT_BYTES);
    lm_status st = lm_prepare(r, j, &j->seq, &prompt, &err);
    if (st == LM_OK && lm_job_cancelled(j)) st = lm_fail(&err, LM_CANCELLED, "request canceled");
    if (st != LM_OK) {
        lm_sequence_free(j->seq);
        j->seq = NULL;
        lm_job_fail(j, st, err.text);
    } else if (!j->seq) {
        lm_event done = {.kind = LM_EVENT_DONE, .reason = LM_DONE_STOP, .text = lm_buf_view(&prompt)};
        lm_job_done(j, &done);
    } else {
        j->ready_ns = lm_now_ns();
        pthread_mutex_lock(&e->lock);
        lm_list_push(&r->ready, j);
        pthread_cond_signal(&r->step_cond);
        /* It may have looked while the job was in no queue. */
        if (lm_job_cancelled(j) || e->lost) lm_engine_poke(e);
        pthread_mutex_unlock(&e->lock);
    }
    lm_buf_release(&prompt);
}

/* Under the lock: the load has failed, everybody who waited for it hears why. */
static void fail_inbox(lm_runner *r) {
    lm_job *j;
    while ((j = lm_list_pop(&r->inbox))) {
        lm_err err = r->load_err;
        pthread_mutex_unlock(&r->engine->lock);
        lm_job_fail(j, err.status, err.text);
        pthread_mutex_lock(&r->engine->lock);
    }
}

static void *front_main(void *arg) {
    lm_runner *r = arg;
    lm_engine *e = r->engine;
    lm_err err = {0};
    lm_status st = lm_text_open(&r->text, r->dir, &err);

    pthread_mutex_lock(&e->lock);
    while (!r->core_open) pthread_cond_wait(&r->front_cond, &e->lock);
    if (st != LM_OK) {
        r->load_err = err;
        r->load_err.status = st;
    }
    r->state = r->load_err.status == LM_OK ? LM_RUNNER_READY : LM_RUNNER_FAILED;
    lm_engine_poke(e);
    if (r->state == LM_RUNNER_FAILED) fail_inbox(r);
    while (!r->quit) {
        lm_job *j = lm_list_pop(&r->inbox);
        if (!j) {
            pthread_cond_wait(&r->front_cond, &e->lock);
            continue;
        }
        r->front_since_ns = lm_now_ns();
        pthread_mutex_unlock(&e->lock);
        serve(r, j);
        pthread_mutex_lock(&e->lock);
        r->front_since_ns = 0;
    }
    pthread_mutex_unlock(&e->lock);

    lm_grammar_factory_close(r->grammar);
    lm_text_close(r->text);
    pthread_mutex_lock(&e->lock);
    r->front_gone = true;
    lm_engine_poke(e);
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* ---- beginning */

lm_status lm_runner_start(lm_engine *e, const lm_job *j, uint32_t n_ctx, lm_runner **out, lm_err *err) {
    lm_runner *r = lm_alloc(sizeof(*r));
    r->engine = e;
    r->name = lm_strdup(j->name);
    r->dir = lm_strdup(j->dir);
    memcpy(r->digest, j->digest, sizeof(r->digest));
    r->n_ctx = n_ctx;
    r->ctx_train = j->ctx_train;
    r->bytes = j->bytes;
    r->keep_alive_ns = e->config.keep_alive_ns;
    r->used_ns = e->clock();
    r->load_since_ns = lm_now_ns();
    lm_cond_init(&r->front_cond);
    lm_cond_init(&r->step_cond);
    if (pthread_create(&r->front, NULL, front_main, r) != 0) {
        pthread_cond_destroy(&r->front_cond);
        pthread_cond_destroy(&r->step_cond);
        free(r->name);
        free(r->dir);
        free(r);
        return lm_fail(err, LM_NO_MEMORY, "the system gives no more threads: raise its limit (ulimit -u)");
    }
    if (pthread_create(&r->step, NULL, lm_step_main, r) == 0) {
        r->joinable_step = true;
    } else {
        (void)lm_fail(&r->load_err, LM_NO_MEMORY,
                      "the system gives no more threads: raise its limit (ulimit -u)");
        r->core_open = r->step_gone = true; /* the front thread, which waits for the lock, fails the jobs */
    }
    r->next = e->runners;
    e->runners = r;
    *out = r;
    return LM_OK;
}

/* places.c - a sequence gets its place in the batch, and leaves it. */
#include <stdlib.h>
#include <string.h>

#include "engine/core.h"

static void forget(lm_batch *b, const lm_sequence *q) {
    for (uint32_t i = 0; i < b->n_slices; i++)
        if (b->in_step[i] == q) b->in_step[i] = NULL;
    for (uint32_t i = 0; i < b->n_out; i++)
        if (b->out_seq[i] == q) b->out_seq[i] = NULL;
}

static void leave(lm_core *c, lm_sequence *q) {
    forget(c->now, q);
    forget(c->next, q);
    for (uint32_t i = 0; i < c->n_running; i++) {
        if (c->running[i] != q) continue;
        memmove(&c->running[i], &c->running[i + 1], (c->n_running - i - 1) * sizeof(*c->running));
        c->n_running--;
        return;
    }
}

/* Takes q off the engine; its KV is kept for the next turn unless it can't be trusted. */
static lm_job *retire(lm_core *c, lm_sequence *q, bool keep, int32_t **context) {
    lm_job *j = q->job;
    uint64_t now = lm_now_ns();
    leave(c, q);
    if (q->embedding) lm_core_drop_embedding(c, q, keep);
    j->metrics.n_prompt = q->n_prompt;
    j->metrics.n_cached = q->n_cached;
    j->metrics.n_eval = q->n_new;
    if (q->started_ns) {
        j->metrics.prompt_ns = (q->first_ns ? q->first_ns : now) - q->started_ns;
        j->metrics.eval_ns = q->first_ns ? now - q->first_ns : 0;
    }
    if (q->first_ns) j->metrics.first_ns = q->first_ns - j->submitted_ns;
    if (q->n_kv > q->n_tokens) { /* a token that nobody wants any more was computed ahead */
        q->n_kv = q->n_tokens;
        if (q->kv) lm_model_seq_trim(c->model, q->kv, q->n_kv);
    }
    if (keep) {
        lm_prefix_keep(&c->prefix, q);
    } else if (q->kv) {
        lm_model_seq_close(c->model, q->kv);
        q->kv = NULL;
    }
    if (context) {
        *context = q->context;
        q->context = NULL;
    }
    j->seq = NULL;
    lm_sequence_free(q);
    return j;
}

void lm_core_fail(lm_core *c, lm_sequence *q, bool keep, lm_status st, const char *text) {
    lm_job_fail(retire(c, q, keep, NULL), st, text);
}

void lm_core_finish(lm_core *c, lm_sequence *q, lm_done_reason reason) {
    lm_sequence_flush(q);
    char *stop = lm_str_dup(lm_stream_stop(q->stream)); /* the stream goes before the event is sent */
    lm_event event = {.kind = LM_EVENT_DONE, .reason = reason, .n_context = q->n_context};
    int32_t *context = NULL;
    lm_job *j = retire(c, q, true, &context);
    event.context = context;
    event.stop = lm_str_of(stop);
    lm_job_done(j, &event);
    free(stop);
    free(context);
}

void lm_core_give_vectors(lm_core *c, lm_sequence *q) {
    lm_event event = {.kind = LM_EVENT_DONE, .reason = LM_DONE_STOP};
    lm_embedding *made = q->embedding;
    lm_core_drop_embedding(c, q, true);
    q->embedding = NULL;
    lm_job *j = retire(c, q, true, NULL);
    event.vectors = made->vectors;
    event.n_vectors = made->n_inputs;
    event.vector_width = made->dimensions;
    lm_job_done(j, &event);
    lm_embedding_free(made);
}

void lm_core_admit(lm_core *c, lm_sequence *q) {
    lm_err err = {0};
    q->started_ns = lm_now_ns();
    q->job->metrics.queue_ns = q->started_ns - q->job->ready_ns;
    c->running[c->n_running++] = q;
    if (q->embedding) return; /* its texts are admitted one by one */
    lm_status st = lm_core_enter(c, &err);
    if (st != LM_OK) {
        lm_core_fail(c, q, false, st, err.text);
        return;
    }
    lm_prefix_find(&c->prefix, c->running, c->n_running, q);
    while (!q->kv && (st = lm_model_seq_open(c->model, &q->kv, &err)) != LM_OK) {
        if (!lm_prefix_evict(&c->prefix)) break;
    }
    if (st == LM_BUSY) st = LM_NO_MEMORY;
    st = lm_core_leave(c, st, &err);
    if (st != LM_OK) lm_core_fail(c, q, false, st, err.text);
}

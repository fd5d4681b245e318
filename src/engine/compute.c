/* compute.c - a step of the batch, and what it means for its sequences.
 *
 * A backend that computes at once gives logits, and the sampler chooses. One that computes ahead chooses by
 * itself:
 *
 *     device   [ step n ......... ][ step n+1 ....... ][ step n+2 ...
 *     host      hands over n+1, waits for n's tokens |  hands over n+2, ...
 *
 * so the device never waits for the host. Step n+1 takes its tokens from step n without anybody having read
 * them. A sequence that turns out to have ended has one row too many in it, which is trimmed away. Where a
 * grammar rules, the choice of step n+1 needs the token of step n: its forward pass is handed over, the
 * choice follows.
 */
#include <string.h>
#include <unistd.h>

#include "engine/core.h"

#define LINK_NS                                                                                              \
    2000000000u /* a closed connection is seen within milliseconds, on a busy machine somewhat later */

/* ---- where this thread may be left behind
 *
 * When another rank is lost, what MLX waits for may never come. The dispatcher then takes the jobs of a
 * thread that is between these two; should it ever come back, it finds that nothing is its own any more. */

lm_status lm_core_enter(lm_core *c, lm_err *err) {
    lm_engine *e = c->e;
    if (!e->config.world) return LM_OK;
    pthread_mutex_lock(&e->lock);
    lm_status st = e->lost ? lm_fail(err, LM_BUSY, "%s", e->lost_text) : LM_OK;
    c->r->computing = st == LM_OK;
    pthread_mutex_unlock(&e->lock);
    return st;
}

lm_status lm_core_leave(lm_core *c, lm_status st, lm_err *err) {
    lm_engine *e = c->e;
    if (!e->config.world) return st;
    pthread_mutex_lock(&e->lock);
    uint64_t now = lm_now_ns(), until = now + LINK_NS;
    for (; st == LM_INTERNAL && !e->lost && now < until; now = lm_now_ns())
        lm_cond_wait(&c->r->step_cond, &e->lock, (int64_t)(until - now));
    if (st == LM_INTERNAL && e->lost) st = lm_fail(err, LM_BUSY, "%s", e->lost_text);
    c->r->computing = false;
    bool left = c->r->abandoned;
    pthread_mutex_unlock(&e->lock);
    while (left) pause();
    return st;
}

/* ---- */

/* What a chosen token means for its sequence. */
static void digest(lm_core *c, lm_sequence *q, const lm_picked *p) {
    lm_err err = {0};
    lm_verdict v = {.ended = false};
    lm_status st = lm_sequence_take(q, p, c->model, &v, &err);
    if (st != LM_OK) {
        lm_core_fail(c, q, false, st, err.text);
    } else if (v.ended) {
        lm_core_finish(c, q, v.reason);
    }
}

/* ---- at once */

/* Outputs [first, first + n) of b, whose rows are `logits`. */
static void digest_logits(lm_core *c, lm_batch *b, const float *logits, uint32_t first, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        lm_sequence *q = b->out_seq[first + i];
        lm_err err = {0};
        lm_picked p;
        if (q->max_new == 0) { /* asked for nothing but to read the prompt */
            lm_core_finish(c, q, LM_DONE_LENGTH);
            continue;
        }
        lm_status st = lm_sequence_pick(q, &c->scratch, logits + (size_t)i * c->n_vocab, &p, &err);
        if (st == LM_OK) {
            digest(c, q, &p);
        } else {
            lm_core_fail(c, q, false, st, err.text);
        }
    }
}

/* Somebody's slice made the whole step fail, which left all sequences as they were: each alone, so that the
 * others go on. */
static void run_alone(lm_core *c, lm_batch *b) {
    uint32_t out = 0;
    for (uint32_t i = 0; i < b->n_slices; i++) {
        lm_sequence *q = b->in_step[i];
        uint32_t n = b->slices[i].n_tokens, last = n - 1;
        bool wants = out < b->n_out && b->out_seq[out] == q;
        const float *logits = NULL;
        lm_err err = {0};
        if (!q) { /* has left since */
            while (out < b->n_out && !b->out_seq[out]) out++;
            continue;
        }
        lm_status st = lm_core_enter(c, &err);
        if (st == LM_OK) {
            st = lm_model_step(c->model, &b->slices[i], 1, q->tokens + q->n_kv, &last, wants ? 1 : 0, &logits,
                               &err);
            st = lm_core_leave(c, st, &err);
        }
        if (st == LM_OK) {
            q->n_kv += n;
            digest_logits(c, b, logits, out, wants ? 1 : 0);
        } else {
            lm_core_fail(c, q, false, st, err.text);
        }
        out += wants ? 1 : 0;
    }
}

void lm_core_note_time(lm_core *c, uint64_t start_ns, uint32_t n_rows) {
    uint64_t now = lm_now_ns(), from = start_ns > c->seen_ns ? start_ns : c->seen_ns;
    c->seen_ns = now;
    if (n_rows < 16) return;
    double each = (double)(now - from) / n_rows;
    c->row_ns = c->row_ns > 0 ? 0.75 * c->row_ns + 0.25 * each : each;
}

static void compute(lm_core *c) {
    lm_batch *b = c->next;
    const float *logits = NULL;
    lm_err err = {0};
    uint64_t start = lm_now_ns();
    lm_status st = lm_core_enter(c, &err);
    if (st == LM_OK) {
        st = lm_model_step(c->model, b->slices, b->n_slices, b->tokens, b->out_rows, b->n_out, &logits, &err);
        st = lm_core_leave(c, st, &err);
    }
    if (st != LM_OK) {
        if (b->n_slices > 1) {
            run_alone(c, b);
        } else {
            lm_core_fail(c, b->in_step[0], false, st, err.text);
        }
        return;
    }
    lm_core_note_time(c, start, b->n_rows);
    for (uint32_t i = 0; i < b->n_slices; i++) b->in_step[i]->n_kv += b->slices[i].n_tokens;
    digest_logits(c, b, logits, 0, b->n_out);
}

/* ---- ahead */

/* Fills b's orders; one whose sequence has left (or fails here) is anything that costs little. */
static void make_orders(lm_core *c, lm_batch *b) {
    for (uint32_t i = 0; i < b->n_out; i++) {
        lm_sequence *q = b->out_seq[i];
        lm_err err = {0};
        lm_status st = q ? lm_sequence_order(q, &b->orders[i], &err) : LM_OK;
        if (st != LM_OK) {
            LM_ASSERT(b->flight); /* only a grammar fails, and its orders come late: nobody leaves before the
                                     launch */
            lm_core_fail(c, q, false, st, err.text);
        }
        if (!q || st != LM_OK) b->orders[i] = (lm_pick){.top_k = 1};
    }
}

/* True: what a token may be depends on the one before, which has not been read. */
static bool needs_last_token(const lm_batch *b) {
    for (uint32_t i = 0; i < b->n_out; i++)
        if (lm_sequence_needs_last_token(b->out_seq[i])) return true;
    return false;
}

static lm_status launch(lm_core *c, lm_batch *b, const lm_flight *before, lm_err *err) {
    b->ordered = !needs_last_token(b);
    if (b->ordered) make_orders(c, b);
    b->start_ns = lm_now_ns();
    lm_status st = lm_core_enter(c, err);
    if (st == LM_OK) {
        st = lm_model_launch(c->model, b->slices, b->n_slices, b->tokens, b->out_rows, b->n_out, before,
                             b->ordered ? b->orders : NULL, &b->flight, err);
        st = lm_core_leave(c, st, err);
    }
    for (uint32_t i = 0; i < b->n_slices && st == LM_OK; i++)
        if (b->in_step[i]) b->in_step[i]->n_kv += b->slices[i].n_tokens;
    return st;
}

static void drop(lm_core *c, lm_batch *b) {
    lm_model_flight_free(c->model, b->flight);
    b->flight = NULL;
    b->n_slices = b->n_out = 0;
}

/* Everybody who is still in b. */
static void fail_all(lm_core *c, lm_batch *b, lm_status st, const char *text) {
    for (uint32_t i = 0; i < b->n_slices; i++)
        if (b->in_step[i]) lm_core_fail(c, b->in_step[i], false, st, text);
}

/* Waits for b's tokens and gives them to their sequences. */
static void collect(lm_core *c, lm_batch *b) {
    lm_err err = {0};
    lm_status st = lm_core_enter(c, &err);
    if (st == LM_OK) {
        st = lm_model_wait(c->model, b->flight, c->picked, &err);
        st = lm_core_leave(c, st, &err);
    }
    if (st == LM_OK) lm_core_note_time(c, b->start_ns, b->n_rows);
    if (st != LM_OK) {
        fail_all(c, b, st, err.text);
        /* Some of them may have been written by it, for sequences that have left since. */
        while (lm_prefix_evict(&c->prefix)) continue;
    }
    for (uint32_t i = 0; i < b->n_out; i++) {
        lm_sequence *q = b->out_seq[i];
        if (!q) continue;
        q->ahead = false;
        if (q->max_new == 0) {
            lm_core_finish(c, q, LM_DONE_LENGTH);
            continue;
        }
        st = lm_sampler_check(&c->picked[i], b->orders[i].mask, &err);
        if (st == LM_OK) {
            digest(c, q, &c->picked[i]);
        } else {
            lm_core_fail(c, q, false, st, err.text);
        }
    }
    drop(c, b);
}

/* b is the step on its way now: its sequences know that a token comes, and from where. */
static void expect_tokens(lm_batch *b) {
    for (uint32_t i = 0; i < b->n_out; i++) {
        lm_sequence *q = b->out_seq[i];
        if (!q) continue;
        q->ahead = true;
        if (q->n_tokens < q->limit) q->tokens[q->n_tokens] = LM_FROM_BEFORE(i);
    }
}

static void compute_ahead(lm_core *c) {
    lm_batch *now = c->now, *next = c->next;
    lm_err err = {0};
    lm_status st = LM_OK;
    if (next->n_slices) st = launch(c, next, now->flight, &err);
    if (now->flight) collect(c, now);
    if (st != LM_OK) {
        run_alone(c, next);
        next->n_slices = next->n_out = 0;
    }
    if (!next->flight) return;
    if (!next->ordered && next->n_out) {
        make_orders(c, next);
        st = lm_core_enter(c, &err);
        if (st == LM_OK) {
            st = lm_model_pick(c->model, next->flight, next->orders, &err);
            st = lm_core_leave(c, st, &err);
        }
        if (st != LM_OK) {
            fail_all(c, next, st, err.text);
            drop(c, next);
            return;
        }
    }
    expect_tokens(next);
    c->now = next;
    c->next = now;
}

/* ---- a step */

static lm_sequence *last_generating(const lm_core *c) {
    for (uint32_t i = c->n_running; i-- > 0;)
        if (!c->running[i]->embedding) return c->running[i];
    return NULL;
}

void lm_core_step(lm_core *c) {
    /* A client that has gone leaves before anything more is computed for it. */
    for (uint32_t i = c->n_running; i-- > 0;) {
        if (lm_job_cancelled(c->running[i]->job))
            lm_core_fail(c, c->running[i], true, LM_CANCELLED, "request canceled");
    }
    lm_batch_build(c);
    bool stuck = !c->next->n_slices && !c->now->flight;
    if (lm_model_computes_ahead(c->model)) {
        compute_ahead(c);
    } else if (c->next->n_slices) {
        compute(c);
    }
    lm_sequence *youngest = last_generating(c);
    if (lm_core_embed(c, youngest) || !stuck) return;
    /* Everybody waits for pages that only they hold: the youngest gives way. */
    if (!youngest && c->n_running) youngest = c->running[c->n_running - 1];
    if (youngest)
        lm_core_fail(c, youngest, false, LM_NO_MEMORY,
                     "no room left for keys and values: lower num_ctx or the number of parallel requests");
}

void lm_core_rest(lm_core *c) {
    if (c->now->flight) drop(c, c->now);
    lm_err nobody;
    if (lm_core_enter(c, &nobody) != LM_OK) return;
    lm_model_idle(c->model);
    lm_core_leave(c, LM_OK, &nobody);
}

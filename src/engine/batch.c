/* batch.c - which rows go into the next step: one for each sequence that decodes, and a chunk of the prompts
 * that are being read, oldest first. When keys and values run out of pages, idle prefixes are given up; when
 * that is not enough a sequence sits a step out.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/core.h"

#define SHARED_GOAL_NS 150e6 /* what a running answer may have to wait for somebody's prompt */
#define ALONE_GOAL_NS  1e9   /* what a hang-up may have to wait */

lm_status lm_batch_init(lm_batch *b, uint32_t n_places, uint32_t max_batch, lm_err *err) {
    *b = (lm_batch){
        .in_step = lm_try_alloc(n_places, sizeof(*b->in_step)),
        .slices = lm_try_alloc(n_places, sizeof(*b->slices)),
        .tokens = lm_try_alloc(max_batch, sizeof(*b->tokens)),
        .out_rows = lm_try_alloc(n_places, sizeof(*b->out_rows)),
        .out_seq = lm_try_alloc(n_places, sizeof(*b->out_seq)),
        .orders = lm_try_alloc(n_places, sizeof(*b->orders)),
    };
    if (b->in_step && b->slices && b->tokens && b->out_rows && b->out_seq && b->orders) return LM_OK;
    return lm_fail(err, LM_NO_MEMORY, "no memory for steps of %u rows", max_batch);
}

void lm_batch_release(lm_batch *b) {
    LM_ASSERT(!b->flight);
    free(b->in_step);
    free(b->slices);
    free(b->tokens);
    free(b->out_rows);
    free(b->out_seq);
    free(b->orders);
}

uint32_t lm_chunk_rows(double row_ns, uint32_t max_batch, bool shared) {
    double goal = shared ? SHARED_GOAL_NS : ALONE_GOAL_NS;
    uint32_t rows = shared ? 16 : 64, most = shared ? 256 : max_batch;
    if (row_ns <= 0) rows = shared ? 64 : 128; /* not measured yet */
    /* Doubling, so that a prompt is cut alike from one run to the next. */
    while (row_ns > 0 && rows * 2 <= most && rows * 2 * row_ns <= goal) rows *= 2;
    return rows < max_batch ? rows : max_batch;
}

/* Tokens to compute; the one that is on its way counts when it may be followed without having been read. */
static uint32_t to_compute(const lm_sequence *q) {
    if (!q->ahead) return q->n_tokens - q->n_kv;
    return q->n_tokens + lm_sequence_may_run_ahead(q) - q->n_kv;
}

/* Puts n of q's tokens into the step. False: no pages now (or q has failed and is gone). */
static bool add_slice(lm_core *c, lm_sequence *q, uint32_t n) {
    lm_batch *b = c->next;
    lm_err err = {0};
    lm_status st;
    while ((st = c->b->seq_reserve(q->kv, n, &err)) == LM_BUSY && lm_prefix_evict(&c->prefix)) continue;
    if (st == LM_BUSY) return false;
    if (st != LM_OK) {
        lm_core_fail(c, q, true, st, err.text);
        return false;
    }
    memcpy(b->tokens + b->n_rows, q->tokens + q->n_kv, n * sizeof(*b->tokens));
    b->in_step[b->n_slices] = q;
    b->slices[b->n_slices++] = (lm_slice){.seq = q->kv, .n_tokens = n};
    b->n_rows += n;
    if (q->n_kv + n == q->n_tokens + q->ahead) {
        b->out_seq[b->n_out] = q;
        b->out_rows[b->n_out++] = b->n_rows - 1;
    }
    return true;
}

void lm_batch_build(lm_core *c) {
    lm_batch *b = c->next;
    b->n_slices = b->n_rows = b->n_out = 0;
    for (uint32_t i = 0; i < c->n_running;) {
        lm_sequence *q = c->running[i];
        if (to_compute(q) == 1) add_slice(c, q, 1);
        if (i < c->n_running && c->running[i] == q) i++; /* else it has failed and left */
    }
    uint32_t left = c->max_batch - b->n_rows;
    uint32_t chunk = lm_chunk_rows(c->row_ns, c->max_batch, b->n_rows > 0);
    if (chunk < left) left = chunk;
    for (uint32_t i = 0; i < c->n_running && left;) {
        lm_sequence *q = c->running[i];
        uint32_t n = to_compute(q);
        if (n > 1) {
            n = n < left ? n : left;
            if (add_slice(c, q, n)) left -= n;
        }
        if (i < c->n_running && c->running[i] == q) i++;
    }
}

/* mirror.c - rank 0 tells the others what it does with its model.
 *
 * A frame is one byte that says what, then numbers of 32 bits, little-endian. Sequences and flights are known
 * by the number of their place in a table. Only a load is answered: everything else either works on every
 * rank or leaves the ranks out of step, which the link notices.
 */
#include <stdlib.h>
#include <string.h>

#include "model/frames.h"
#include "model/graph.h"

static void put(lm_buf *b, uint32_t n) {
    uint8_t bytes[4] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};
    lm_buf_add(b, bytes, sizeof bytes);
}

static void begin(lm_model *m, lm_frame_kind kind) {
    lm_buf_clear(&m->frame);
    lm_buf_char(&m->frame, (char)kind);
}

static lm_status tell(lm_model *m, lm_err *err) {
    const lm_mirror *to = m->world->mirror;
    lm_status st = lm_buf_status(&m->frame, "a message to the other ranks", err);
    return st == LM_OK ? to->tell(to->ctx, m->frame.ptr, m->frame.len, err) : st;
}

/* For what has no way to fail here: who does not hear it is lost, which the next step says. */
static void tell_only(lm_model *m) {
    lm_err ignored = {0};
    (void)tell(m, &ignored);
}

/* ---- life */

lm_status lm_mirror_open(lm_model *m, const char *dir, const lm_model_config *config, lm_err *err) {
    const lm_mirror *to = m->world->mirror;
    m->seqs = lm_try_alloc(LM_MAX_SEQS, sizeof *m->seqs);
    if (!m->seqs) return lm_fail(err, LM_NO_MEMORY, "no memory for the list of sequences");
    begin(m, LM_FRAME_OPEN);
    put(&m->frame, m->share.split);
    put(&m->frame, config->n_threads);
    put(&m->frame, config->n_ctx);
    put(&m->frame, config->n_parallel);
    put(&m->frame, config->max_batch);
    put(&m->frame, config->kv_type);
    /* what the others' files must agree with */
    put(&m->frame, m->config.n_layers);
    put(&m->frame, m->config.width);
    put(&m->frame, m->config.n_vocab);
    put(&m->frame, (uint32_t)m->info.weight_bytes);
    put(&m->frame, (uint32_t)(m->info.weight_bytes >> 32));
    lm_buf_text(&m->frame, dir);
    lm_status st = tell(m, err);
    return st == LM_OK ? to->answers(to->ctx, err) : st;
}

void lm_mirror_close(lm_model *m) {
    if (!lm_mirror_of(m) || !m->seqs) return;
    begin(m, LM_FRAME_CLOSE);
    tell_only(m);
}

void lm_mirror_broken(lm_model *m, const lm_err *err) {
    const lm_mirror *to = lm_mirror_of(m);
    if (to) to->broken(to->ctx, err->text);
}

void lm_model_idle(lm_model *m) {
    if (lm_mirror_of(m)) {
        begin(m, LM_FRAME_IDLE);
        tell_only(m);
    }
    m->backend->idle(m->device);
}

/* ---- sequences */

static uint32_t number_of(const lm_model *m, const lm_seq *seq) {
    uint32_t i = 0;
    while (i < m->n_seqs && m->seqs[i] != seq) i++;
    LM_ASSERT(i < m->n_seqs);
    return i;
}

/* A free number, LM_MAX_SEQS when there is none. */
static uint32_t free_number(lm_model *m) {
    uint32_t i = 0;
    while (i < m->n_seqs && m->seqs[i]) i++;
    return i;
}

/* A new sequence, number `at`, of which the frame that is ready tells. */
static lm_status add(lm_model *m, uint32_t at, lm_seq *seq, lm_seq **out, lm_err *err) {
    lm_status st = tell(m, err);
    if (st != LM_OK) {
        m->backend->seq_close(seq);
        return st;
    }
    m->seqs[at] = seq;
    if (at == m->n_seqs) m->n_seqs++;
    *out = seq;
    return LM_OK;
}

lm_status lm_model_seq_open(lm_model *m, lm_seq **out, lm_err *err) {
    if (!lm_mirror_of(m)) return m->backend->seq_open(m->device, out, err);
    uint32_t at = free_number(m);
    if (at == LM_MAX_SEQS) return lm_fail(err, LM_BUSY, "%u sequences are open, no more are possible", at);
    lm_seq *seq = NULL;
    lm_status st = m->backend->seq_open(m->device, &seq, err);
    if (st != LM_OK) return st;
    begin(m, LM_FRAME_SEQ_OPEN);
    put(&m->frame, at);
    return add(m, at, seq, out, err);
}

void lm_model_seq_close(lm_model *m, lm_seq *seq) {
    if (seq && lm_mirror_of(m)) {
        uint32_t at = number_of(m, seq);
        begin(m, LM_FRAME_SEQ_CLOSE);
        put(&m->frame, at);
        tell_only(m);
        m->seqs[at] = NULL;
    }
    m->backend->seq_close(seq);
}

void lm_model_seq_trim(lm_model *m, lm_seq *seq, uint32_t n_tokens) {
    if (lm_mirror_of(m)) {
        begin(m, LM_FRAME_SEQ_TRIM);
        put(&m->frame, number_of(m, seq));
        put(&m->frame, n_tokens);
        tell_only(m);
    }
    m->backend->seq_trim(seq, n_tokens);
}

lm_status lm_model_seq_fork(lm_model *m, lm_seq *src, uint32_t n_tokens, lm_seq **out, lm_err *err) {
    if (!lm_mirror_of(m)) return m->backend->seq_fork(src, n_tokens, out, err);
    uint32_t at = free_number(m);
    if (at == LM_MAX_SEQS) return lm_fail(err, LM_BUSY, "%u sequences are open, no more are possible", at);
    lm_seq *seq = NULL;
    lm_status st = m->backend->seq_fork(src, n_tokens, &seq, err);
    if (st != LM_OK) return st;
    begin(m, LM_FRAME_SEQ_FORK);
    put(&m->frame, number_of(m, src));
    put(&m->frame, n_tokens);
    put(&m->frame, at);
    return add(m, at, seq, out, err);
}

/* ---- steps */

static void put_step(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                     const uint32_t *out_rows, uint32_t n_out) {
    lm_buf *b = &m->frame;
    uint32_t n = 0;
    put(b, n_slices);
    for (uint32_t i = 0; i < n_slices; i++) {
        put(b, number_of(m, slices[i].seq));
        put(b, slices[i].n_tokens);
        n += slices[i].n_tokens;
    }
    for (uint32_t i = 0; i < n; i++) put(b, (uint32_t)tokens[i]);
    put(b, n_out);
    for (uint32_t i = 0; i < n_out; i++) put(b, out_rows[i]);
}

lm_status lm_mirror_step(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                         const uint32_t *out_rows, uint32_t n_out, lm_wanted want, lm_err *err) {
    if (!lm_mirror_of(m)) return LM_OK;
    begin(m, want == LM_WANT_STATES ? LM_FRAME_STATES : LM_FRAME_STEP);
    put_step(m, slices, n_slices, tokens, out_rows, n_out);
    return tell(m, err);
}

static uint32_t flight_number(const lm_model *m, const lm_flight *f) {
    uint32_t i = 0;
    while (i < LM_MAX_FLIGHTS && m->flights[i] != f) i++;
    return i;
}

lm_status lm_mirror_launch(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                           const uint32_t *out_rows, uint32_t n_out, const lm_flight *before, bool picks,
                           uint32_t *slot, lm_err *err) {
    if (!lm_mirror_of(m)) return LM_OK;
    *slot = flight_number(m, NULL);
    if (*slot == LM_MAX_FLIGHTS) return lm_fail(err, LM_INTERNAL, "more than %u steps computed ahead", *slot);
    begin(m, LM_FRAME_LAUNCH);
    put(&m->frame, *slot);
    put(&m->frame, before ? flight_number(m, before) : LM_FRAME_NO_FLIGHT);
    put(&m->frame, picks);
    put_step(m, slices, n_slices, tokens, out_rows, n_out);
    return tell(m, err);
}

lm_status lm_mirror_pick(lm_model *m, const lm_flight *f, lm_err *err) {
    if (!lm_mirror_of(m)) return LM_OK;
    begin(m, LM_FRAME_PICK);
    put(&m->frame, flight_number(m, f));
    return tell(m, err);
}

void lm_mirror_flight_free(lm_model *m, const lm_flight *f) {
    if (!f || !lm_mirror_of(m)) return;
    uint32_t at = flight_number(m, f);
    begin(m, LM_FRAME_FLIGHT_FREE);
    put(&m->frame, at);
    tell_only(m);
    m->flights[at] = NULL;
}

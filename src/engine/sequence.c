/* sequence.c - from a chosen token to events.
 *
 * A token's text goes through the stream (whole characters, stop strings) and, for models that think or call
 * tools, through the parser, which says what is thinking, content or a call. Both hold text back; log
 * probabilities wait with it, counted in bytes.
 */
#include "engine/embed.h"

#include <stdlib.h>
#include <string.h>

void lm_sequence_free(lm_sequence *q) {
    if (!q) return;
    LM_ASSERT(!q->kv);
    lm_embedding_free(q->embedding);
    free(q->tokens);
    lm_matcher_close(q->matcher);
    free(q->mask);
    lm_stream_close(q->stream);
    lm_parser_close(q->parser);
    lm_buf_release(&q->out);
    free(q->context);
    free(q->held);
    free(q->held_top);
    free(q->held_at);
    free(q);
}

/* ---- choosing */

/* Tokens that may come after the next one. */
static uint32_t left_after_next(const lm_sequence *q) {
    uint32_t left = q->max_new > q->n_new ? q->max_new - q->n_new - 1 : 0;
    if (!q->shift && q->limit - q->n_tokens < left) left = q->limit - q->n_tokens;
    return left;
}

/* So few tokens are left that the end of the document has to be kept in sight: each token is then taken only if an ending
 * fits behind it. The ending is that of now, and what a token opens may need more to be closed: hence twice, and some. */
#define SIGHT 128
static bool end_is_near(const lm_sequence *q) {
    return q->ending != LM_NO_ENDING && left_after_next(q) <= 2 * (uint64_t)q->ending + SIGHT;
}

/* The thinking has had its budget, or has left just enough for the document that is to follow. */
static bool must_close(const lm_sequence *q) {
    bool spent = q->think_budget && q->n_new >= q->think_budget;
    bool late = q->constraint == LM_CONSTRAINT_THINKING && q->think_end >= 0 && q->ending != LM_NO_ENDING &&
                left_after_next(q) <= (uint64_t)q->ending + q->ending / 4 + 8;
    return (spent || late) && lm_parser_in_thinking(q->parser);
}

/* What the grammar, or the end of the thinking's budget, allows now; NULL where none rules. */
static lm_status mask_of(lm_sequence *q, const uint32_t **mask, lm_err *err) {
    *mask = NULL;
    if (must_close(q)) {
        memset(q->mask, 0, q->n_mask * sizeof(*q->mask));
        q->mask[q->think_end / 32] |= 1u << (q->think_end % 32);
        *mask = q->mask;
        return LM_OK;
    }
    if (q->constraint != LM_CONSTRAINT_ACTIVE && q->constraint != LM_CONSTRAINT_OFFERED &&
        q->constraint != LM_CONSTRAINT_CALL)
        return LM_OK;
    lm_status st = lm_matcher_mask(q->matcher, q->mask, q->n_mask, err);
    if (st != LM_OK) return st;
    if (q->constraint == LM_CONSTRAINT_OFFERED) q->mask[q->think_id / 32] |= 1u << (q->think_id % 32);
    *mask = q->mask;
    return LM_OK;
}

lm_status lm_sequence_pick(lm_sequence *q, lm_scratch *w, const float *logits, lm_picked *p, lm_err *err) {
    const uint32_t *mask;
    lm_status st = mask_of(q, &mask, err);
    *p = (lm_picked){0};
    if (st == LM_OK) st = lm_sampler_pick(&q->sampler, w, logits, q->tokens, q->n_tokens, mask, &p->id, err);
    if (st == LM_OK && q->logprobs) lm_sampler_logprobs(w, logits, q->n_top, p);
    return st;
}

lm_status lm_sequence_order(lm_sequence *q, lm_pick *out, lm_err *err) {
    const uint32_t *mask;
    lm_status st = mask_of(q, &mask, err);
    if (st != LM_OK) return st;
    q->sampler.n_drawn = q->n_new + q->ahead;
    lm_sampler_order(&q->sampler, q->tokens, q->n_tokens + q->ahead, mask, out);
    out->logprobs = q->logprobs;
    out->n_top = q->n_top;
    return LM_OK;
}

bool lm_sequence_may_run_ahead(const lm_sequence *q) {
    bool ruled = q->constraint == LM_CONSTRAINT_ACTIVE || q->constraint == LM_CONSTRAINT_OFFERED ||
                 q->constraint == LM_CONSTRAINT_CALL;
    return q->n_new + 1 < q->max_new && q->n_tokens < q->limit && !(ruled && end_is_near(q));
}

bool lm_sequence_needs_last_token(const lm_sequence *q) {
    return q->constraint != LM_CONSTRAINT_NONE || (q->think_budget && q->n_new + 1 >= q->think_budget);
}

/* Tells the grammar about a token that is not a stop token. *refused: it has chosen to end instead. */
static lm_status follow_constraint(lm_sequence *q, int32_t id, bool *refused, lm_err *err) {
    bool taken = true;
    lm_status st = LM_OK;
    if (q->constraint == LM_CONSTRAINT_OFFERED)
        q->constraint = id == q->think_id ? LM_CONSTRAINT_THINKING : LM_CONSTRAINT_ACTIVE;
    if (q->constraint != LM_CONSTRAINT_ACTIVE && q->constraint != LM_CONSTRAINT_CALL) return LM_OK;
    bool look = !q->closing && (end_is_near(q) || q->n_new % 32 == 0);
    /* What has been computed behind it already cannot be taken back. */
    if (look && q->n_kv <= q->n_tokens) {
        st = lm_matcher_take_within(q->matcher, id, left_after_next(q), &taken, &q->ending, err);
        q->closing = !taken;
    } else {
        st = lm_matcher_take(q->matcher, id, err);
        if (st == LM_OK && look) q->ending = lm_matcher_ending(q->matcher, left_after_next(q));
    }
    *refused = !taken;
    if (st == LM_OK && q->constraint == LM_CONSTRAINT_CALL && lm_matcher_done(q->matcher)) {
        q->constraint = LM_CONSTRAINT_CALLS;
        q->closing = false;
    }
    return st;
}

/* The grammar takes over where the parser has seen the beginning of a call, with all that has been written since. */
static lm_status watch_calls(lm_sequence *q, lm_err *err) {
    lm_str opening, body;
    if (q->constraint != LM_CONSTRAINT_CALLS) return LM_OK;
    bool begun = lm_parser_in_call(q->parser, &opening, &body), fits = false;
    if (!begun || q->call_seen) {
        q->call_seen = begun;
        return LM_OK;
    }
    q->call_seen = true;
    lm_buf_str(&q->out, opening);
    lm_buf_str(&q->out, body);
    lm_stream_pending(q->stream, &q->out);
    lm_status st = lm_buf_status(&q->out, "the beginning of a tool call", err);
    if (st == LM_OK) st = lm_matcher_begin(q->matcher, lm_buf_view(&q->out), &fits, err);
    lm_buf_clear(&q->out);
    if (st != LM_OK || !fits || lm_matcher_done(q->matcher)) return st;
    q->constraint = LM_CONSTRAINT_CALL;
    q->ending = lm_matcher_ending(q->matcher, left_after_next(q) + 1);
    return LM_OK;
}

/* The grammar begins where the thinking has ended. Until the parser has seen its beginning the tag may still
 * be on its way through the stream. */
static void watch_thinking(lm_sequence *q, int32_t id) {
    if (q->think_budget &&
        (id == q->think_end || (q->n_new >= q->think_budget && !lm_parser_in_thinking(q->parser))))
        q->think_budget = 0; /* it is over, or was never begun */
    if (q->constraint != LM_CONSTRAINT_THINKING) return;
    bool thinking = lm_parser_in_thinking(q->parser);
    if (q->was_thinking && !thinking) q->constraint = LM_CONSTRAINT_ACTIVE;
    q->was_thinking = q->was_thinking || thinking;
}

/* ---- log probabilities */

static lm_status hold_logprobs(lm_sequence *q, const lm_picked *p, lm_str bytes, lm_err *err) {
    if (q->n_held == q->held_room) {
        /* Grows only while a parser holds text back, a tool call for instance. */
        uint32_t room = q->held_room ? q->held_room * 2 : 64;
        void *held = realloc(q->held, room * sizeof(*q->held));
        if (held) q->held = held;
        void *top = realloc(q->held_top, (size_t)room * (q->n_top ? q->n_top : 1) * sizeof(*q->held_top));
        if (top) q->held_top = top;
        void *at = realloc(q->held_at, room * sizeof(*q->held_at));
        if (at) q->held_at = at;
        if (!held || !top || !at)
            return lm_fail(err, LM_NO_MEMORY, "no memory for %u log probabilities", room);
        q->held_room = room;
    }
    lm_logprob *top = q->held_top + (size_t)q->n_held * q->n_top;
    for (uint32_t i = 0; i < p->n_top; i++)
        top[i] = (lm_logprob){.id = p->top_ids[i],
                              .logprob = p->top_logprobs[i],
                              .bytes = lm_tokenizer_bytes(q->text->tokenizer, p->top_ids[i])};
    q->held[q->n_held] = (lm_token_logprobs){.chosen = {.id = p->id, .logprob = p->logprob, .bytes = bytes},
                                             .n_top = p->n_top};
    q->held_at[q->n_held++] = q->n_pushed;
    return LM_OK;
}

/* The tokens whose text begins within what the stream has let out so far may leave. */
static void free_logprobs(lm_sequence *q, size_t released, bool all) {
    q->n_released += released;
    if (q->n_released > q->n_pushed || all)
        q->n_released = q->n_pushed; /* replacement characters are longer than bytes */
    while (q->n_free < q->n_held && (all || q->held_at[q->n_free] < q->n_released)) q->n_free++;
}

static void drop_logprobs(lm_sequence *q, uint32_t n) {
    q->n_held -= n;
    q->n_free -= n;
    memmove(q->held, q->held + n, q->n_held * sizeof(*q->held));
    memmove(q->held_at, q->held_at + n, q->n_held * sizeof(*q->held_at));
    memmove(q->held_top, q->held_top + (size_t)n * q->n_top,
            (size_t)q->n_held * q->n_top * sizeof(*q->held_top));
}

/* ---- events */

/* n_prompt and n_cached are settled before the first token. */
static lm_event event_of(const lm_sequence *q, lm_event_kind kind, lm_str text) {
    return (lm_event){
        .kind = kind, .text = text, .metrics = {.n_prompt = q->n_prompt, .n_cached = q->n_cached}};
}

static void send_text(lm_sequence *q, lm_event_kind kind, lm_str text) {
    if (!text.len) return;
    lm_event event = event_of(q, kind, text);
    if (q->n_free) {
        for (uint32_t i = 0; i < q->n_free; i++) q->held[i].top = q->held_top + (size_t)i * q->n_top;
        event.logprobs = q->held;
        event.n_logprobs = q->n_free;
    }
    q->job->sink(q->job->ctx, &event);
    if (q->n_free) drop_logprobs(q, q->n_free);
}

static void send_part(void *ctx, lm_part part, lm_str name, lm_str text) {
    lm_sequence *q = ctx;
    if (part == LM_PART_TOOL_CALL) {
        lm_event event = event_of(q, LM_EVENT_TOOL_CALL, text);
        event.name = name;
        q->job->sink(q->job->ctx, &event);
        if (q->n_free) drop_logprobs(q, q->n_free);
        return;
    }
    send_text(q, part == LM_PART_THINKING ? LM_EVENT_THINKING : LM_EVENT_TEXT, text);
}

static void send_out(lm_sequence *q) {
    if (q->out.len) {
        lm_str text = lm_buf_view(&q->out);
        if (q->parser) {
            lm_parser_push(q->parser, text, send_part, q);
        } else {
            send_text(q, LM_EVENT_TEXT, text);
        }
    }
    lm_buf_clear(&q->out);
}

void lm_sequence_flush(lm_sequence *q) {
    lm_stream_finish(q->stream, &q->out);
    if (q->out.len) free_logprobs(q, q->out.len, true);
    send_out(q);
    if (q->parser) lm_parser_finish(q->parser, send_part, q);
}

/* ---- a token */

static lm_status note_context(lm_sequence *q, int32_t id, lm_err *err) {
    if (q->n_context == q->context_room) {
        size_t room = (size_t)q->context_room * 2 + 256;
        int32_t *more = realloc(q->context, room * sizeof(*more));
        if (!more) return lm_fail(err, LM_NO_MEMORY, "no memory to return a context of %zu tokens", room);
        q->context = more;
        q->context_room = (uint32_t)room;
    }
    q->context[q->n_context++] = id;
    return LM_OK;
}

uint32_t lm_sequence_shift(lm_sequence *q, lm_model *m) {
    uint32_t drop = (q->n_tokens - q->n_keep) / 2;
    if (!drop) drop = 1;
    uint32_t tail = q->n_tokens - q->n_keep - drop;
    memmove(q->tokens + q->n_keep, q->tokens + q->n_keep + drop, tail * sizeof(*q->tokens));
    q->n_tokens -= drop;
    /* Keys hold their position, so what follows the gap is computed again: exact, and the same on every
     * backend. */
    if (q->n_kv > q->n_keep) {
        lm_model_seq_trim(m, q->kv, q->n_keep);
        q->n_kv = q->n_keep;
    }
    return drop;
}

lm_status lm_sequence_take(lm_sequence *q, const lm_picked *p, lm_model *m, lm_verdict *v, lm_err *err) {
    int32_t id = p->id;
    bool stop = lm_text_is_stop(q->text, id);
    *v = (lm_verdict){.ended = stop, .reason = LM_DONE_STOP};
    if (!q->first_ns) q->first_ns = lm_now_ns();
    lm_status st = stop ? LM_OK : follow_constraint(q, id, &v->refused, err);
    if (st == LM_OK && v->refused) {
        lm_model_seq_trim(m, q->kv, q->n_tokens - 1);
        q->n_kv = q->n_tokens - 1;
        return LM_OK;
    }
    q->n_new++;
    if (st == LM_OK && !stop && q->context) st = note_context(q, id, err);
    if (st != LM_OK || stop) return st;

    if (q->logprobs) {
        lm_str bytes = lm_tokenizer_bytes(q->text->tokenizer, id);
        st = hold_logprobs(q, p, bytes, err);
        if (st != LM_OK) return st;
        q->n_pushed += bytes.len;
    }
    bool stopped = false;
    st = lm_stream_push(q->stream, id, &q->out, &stopped, err);
    if (st == LM_OK) st = lm_buf_status(&q->out, "the text of one step", err);
    if (st != LM_OK) return st;
    if (q->logprobs && q->out.len) free_logprobs(q, q->out.len, false);
    send_out(q);
    watch_thinking(q, id);
    st = watch_calls(q, err);
    if (st != LM_OK) return st;
    if (stopped) {
        *v = (lm_verdict){.ended = true, .reason = LM_DONE_STOP};
        return LM_OK;
    }
    if (q->n_new >= q->max_new || (q->n_tokens == q->limit && !q->shift)) {
        bool whole = q->constraint == LM_CONSTRAINT_ACTIVE && lm_matcher_accepts(q->matcher);
        *v = (lm_verdict){.ended = true, .reason = whole ? LM_DONE_STOP : LM_DONE_LENGTH};
        return LM_OK;
    }
    if (q->n_tokens == q->limit) lm_sequence_shift(q, m);
    q->tokens[q->n_tokens++] = id;
    return LM_OK;
}

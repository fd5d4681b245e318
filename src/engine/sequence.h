/* sequence.h - one job while it generates: its tokens, how far they are computed, and the way from each new
 * token to events. Made by the front thread, then the step thread's alone.
 *
 *     tokens  [0 ........... n_kv | ....... n_tokens)     n_tokens <= limit
 *              in the KV cache      still to compute
 *
 * One token to compute is a decode step, more are a prompt (or what a context shift left of it). With a token
 * on its way n_kv may be one beyond n_tokens: its step has been handed over before anybody has read it.
 */
#ifndef LM_ENGINE_SEQUENCE_H
#define LM_ENGINE_SEQUENCE_H

#include "engine/internal.h"

/* When the grammar rules: with a thinking model only after the thinking; with tools from where a call begins to its end,
 * as often as there is one. */
typedef enum lm_constraint {
    LM_CONSTRAINT_NONE,
    LM_CONSTRAINT_OFFERED,  /* next token: the grammar's, or the one that opens a thinking block */
    LM_CONSTRAINT_THINKING, /* free until the thinking ends */
    LM_CONSTRAINT_ACTIVE,
    LM_CONSTRAINT_CALLS, /* free until a call begins */
    LM_CONSTRAINT_CALL,  /* within one */
} lm_constraint;

typedef struct lm_embedding lm_embedding;

struct lm_sequence {
    lm_job *job;
    const lm_text *text;
    lm_embedding *embedding; /* not NULL: it wants vectors (embed.h) and generates nothing; of what follows it has
                                n_prompt and the times only */

    int32_t *tokens; /* (limit) */
    uint32_t n_tokens, n_kv, limit;
    bool ahead; /* a further token is being chosen on the device: tokens[n_tokens] is its LM_FROM_BEFORE */
    uint32_t n_prompt, n_cached, n_keep;
    uint32_t n_new, max_new; /* tokens generated, and at most */
    bool shift;
    lm_seq *kv;

    lm_sampler sampler;
    lm_constraint constraint;
    lm_matcher *matcher;
    uint32_t *mask; /* (n_mask) */
    uint32_t n_mask;
    int32_t think_id; /* the token that opens a thinking block */
    bool was_thinking;
    bool call_seen;  /* the parser is in a call that the matcher has been asked about */
    uint32_t ending; /* tokens after which what the grammar rules can be complete, as last seen; LM_NO_ENDING: no way
                        was found */
    bool closing;    /* the matcher leads to the end, because few tokens are left */
    uint32_t think_budget;     /* tokens after which a thinking block is closed; 0: no bound, or it is over */
    int32_t think_end;         /* the token that closes it, -1: none */

    lm_stream *stream;
    lm_parser *parser; /* NULL: all text is content */
    lm_buf out;        /* text between stream and parser */

    /* the answer's ids for DONE, want_context only */
    int32_t *context;
    uint32_t n_context, context_room;

    /* log probabilities of tokens whose text has not been given yet */
    uint32_t n_top; /* per token */
    bool logprobs;
    lm_token_logprobs *held; /* (held_room) */
    lm_logprob *held_top;    /* (held_room, n_top) */
    uint64_t *held_at;       /* (held_room) where in the text of all tokens each begins, bytes */
    uint32_t n_held, held_room;
    uint64_t n_pushed, n_released; /* bytes of tokens taken, of text given */
    uint32_t n_free;               /* of held: may go with the next text event */

    uint64_t started_ns, first_ns; /* admitted; first token */
};

typedef struct lm_verdict {
    bool ended;
    bool refused; /* the token was not taken: another will be chosen in its place, from the same context */
    lm_done_reason reason;
} lm_verdict;

void lm_sequence_free(lm_sequence *q); /* NULL allowed; the KV must have been taken out */

/* Chooses the next token from a row of logits; with log probabilities when they are wanted. *p is valid until
 * the next call with w. */
lm_status lm_sequence_pick(lm_sequence *q, lm_scratch *w, const float *logits, lm_picked *p,
                           lm_err *err) LM_CHECKED;
/* The same as an order for the backend, valid until the next token is taken. */
lm_status lm_sequence_order(lm_sequence *q, lm_pick *out, lm_err *err) LM_CHECKED;
/* False: the token may be the last one, may be refused, or not be followed without a context shift; nothing can be
 * computed ahead. */
bool lm_sequence_may_run_ahead(const lm_sequence *q);
/* What the token after the next may be depends on the next one. */
bool lm_sequence_needs_last_token(const lm_sequence *q);
/* Takes a chosen token: text events, stop rules, limits. When it goes on the token is appended, after a
 * context shift if there was no room. */
lm_status lm_sequence_take(lm_sequence *q, const lm_picked *p, lm_model *m, lm_verdict *v,
                           lm_err *err) LM_CHECKED;
/* Gives the text that was held back, before DONE. */
void lm_sequence_flush(lm_sequence *q);

/* Drops half of what lies after n_keep; the rest is to be computed again. Returns tokens dropped. */
uint32_t lm_sequence_shift(lm_sequence *q, lm_model *m);

#endif

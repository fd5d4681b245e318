/* core.h (the step thread's own) - places, batches, and what computes them.
 *
 *     scheduler.c   the thread: jobs come and go between steps
 *     places.c      a sequence gets its place, and leaves it
 *     batch.c       which rows go into the next step
 *     compute.c     the step itself, at once or ahead, and what it means for its sequences
 *     embed.c       steps that give vectors instead of tokens
 */
#ifndef LM_ENGINE_CORE_H
#define LM_ENGINE_CORE_H

#include "engine/embed.h"
#include "engine/prefix.h"

/* One forward pass: a row for each sequence that decodes, and a chunk of the prompts that are being read. */
typedef struct lm_batch {
    lm_sequence **in_step; /* (n_places) whose slices they are; NULL: has left since */
    lm_slice *slices;      /* (n_places) */
    int32_t *tokens;       /* (max_batch) */
    uint32_t *out_rows;    /* (n_places) */
    lm_sequence **out_seq; /* (n_places) whose row each output is, NULL as above */
    uint32_t n_slices, n_rows, n_out;
    /* computed ahead only */
    lm_flight *flight; /* NULL: not handed over */
    lm_pick *orders;   /* (n_places) how each output's token is chosen */
    bool ordered;      /* they have been given */
    uint64_t start_ns;
} lm_batch;

struct lm_core {
    lm_runner *r;
    lm_engine *e;
    lm_model *model;
    const lm_backend *b;
    lm_scratch scratch;
    lm_prefix prefix;
    uint32_t n_places, max_batch, n_vocab;
    lm_sequence **running; /* (n_places) in the order they came */
    uint32_t n_running;
    double row_ns; /* measured time of one row of a prompt, 0: not known yet */
    /* Where the backend computes ahead, `now` may be on the device while `next` is built. */
    lm_batch batches[2], *now, *next;
    lm_picked *picked; /* (n_places) */
    uint64_t seen_ns;  /* when the last step was known to be done */
    lm_embed_batch embed;
};

/* -- places.c */
void lm_core_admit(lm_core *c,
                   lm_sequence *q); /* gets a place and the longest prefix that is there already */
/* The sequence leaves; keep: its keys and values serve the next turn. */
void lm_core_fail(lm_core *c, lm_sequence *q, bool keep, lm_status st, const char *text);
void lm_core_finish(lm_core *c, lm_sequence *q, lm_done_reason reason);
void lm_core_give_vectors(lm_core *c, lm_sequence *q); /* the same for one that wanted those */

/* -- batch.c */
lm_status lm_batch_init(lm_batch *b, uint32_t n_places, uint32_t max_batch, lm_err *err) LM_CHECKED;
void lm_batch_release(lm_batch *b);
/* Fills c->next. Sequences that find no pages sit it out. */
void lm_batch_build(lm_core *c);

/* -- compute.c */
/* Around every call that may wait for other ranks. LM_BUSY: one of them is lost. */
lm_status lm_core_enter(lm_core *c, lm_err *err) LM_CHECKED;
/* st, err: what came of it. A backend that broke off because a rank is gone may know it before the link does: this waits for
 * the link's word, and returns LM_BUSY with that as the reason. */
lm_status lm_core_leave(lm_core *c, lm_status st, lm_err *err);
void lm_core_step(lm_core *c);
/* Learns how long a row takes from a step that began at `start_ns` and is done now. */
void lm_core_note_time(lm_core *c, uint64_t start_ns, uint32_t n_rows);
/* Nobody is left: forgets a step that nobody waits for any more, and lets the backend tidy up. */
void lm_core_rest(lm_core *c);


/* -- embed.c */
/* One step for those who want vectors. False: nothing could be computed, for want of pages. */
bool lm_core_embed(lm_core *c, bool shared);
/* What q holds of the device is given back; keep: some of it may serve others. */
void lm_core_drop_embedding(lm_core *c, lm_sequence *q, bool keep);

#endif

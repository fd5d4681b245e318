/* embed.h - a job that wants vectors: its texts, how far they are, and the steps that compute them.
 *
 * A job is one place among the running ones, however many texts it has. They are computed in order, as many
 * in one step as there is room for; at most one of them is cut between two steps, and only where a model
 * reads from left to right.
 *
 *     inputs  [ done ....... | next (its first n_read tokens) | to come ... n_inputs )
 *
 * prepare_embed.c makes it on the front thread, then it is the step thread's alone (embed.c).
 */
#ifndef LM_ENGINE_EMBED_H
#define LM_ENGINE_EMBED_H

#include "engine/sequence.h"

struct lm_embedding {
    lm_pooling pooling;
    bool normalize;
    bool whole; /* an encoder's: a text is read in one step, and nothing is kept of it */
    uint32_t width, dimensions; /* numbers of a state, of a vector: at most width */

    int32_t *ids;   /* tokens of all inputs, back to back */
    uint32_t *ends; /* (n_inputs) where each input's end */
    uint32_t n_inputs;
    float *vectors; /* (n_inputs, dimensions) */

    uint32_t next;   /* the first that is not done */
    uint32_t n_read; /* tokens of it that have been read */
    double *sum;     /* (width) of the states that have been read; CLS: the first one */
    lm_seq *kv;      /* of `next`; NULL: not begun */
    lm_seq *last; /* of input next - 1, for the beginning that the next ones may share with it; NULL: none */

    /* of the step that is being built */
    uint32_t n_parts; /* inputs next ... next + n_parts - 1 are in it */
    bool full;        /* no more of this job goes into it */
};

void lm_embedding_free(lm_embedding *e); /* NULL allowed; the KV must have been taken out */

/* A part of a text in a step. */
typedef struct lm_embed_part {
    lm_sequence *q; /* NULL: has left since */
    uint32_t input, first_row, n_rows, first_out, n_out;
    bool ends; /* with these rows the text has been read */
    lm_seq *kv;
} lm_embed_part;

/* A step for vectors. All arrays (room). */
typedef struct lm_embed_batch {
    lm_embed_part *parts;
    lm_slice *slices; /* of parts, in their order */
    int32_t *tokens;
    uint32_t *out_rows;
    uint32_t room, n_parts, n_rows, n_out;
    uint32_t turn; /* who is asked first: everybody comes first in his turn */
} lm_embed_batch;

lm_status lm_embed_batch_init(lm_embed_batch *b, uint32_t room, lm_err *err) LM_CHECKED;
void lm_embed_batch_release(lm_embed_batch *b);

/* Request to sequence, on the front thread: tokenises every input and makes it fit. LM_INVALID: too long,
 * empty, tokens that the model has not. LM_UNSUPPORTED: this model gives no embeddings. */
lm_status lm_prepare_embedding(lm_runner *r, lm_job *j, uint32_t limit, lm_sequence **out,
                               lm_err *err) LM_CHECKED;

#endif

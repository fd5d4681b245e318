/* prefix.h - the keys and values of finished sequences, kept so that a prompt that begins like one of them
 * need not be computed again. A handful of entries, least recently used goes first; all of it is the step
 * thread's.
 */
#ifndef LM_ENGINE_PREFIX_H
#define LM_ENGINE_PREFIX_H

#include "engine/sequence.h"

typedef struct lm_prefix_entry {
    lm_seq *kv;
    int32_t *tokens; /* (n) what kv was computed from */
    uint32_t n;
    uint64_t used; /* tick of the last use */
} lm_prefix_entry;

typedef struct lm_prefix {
    lm_model *model;
    lm_prefix_entry *entries; /* (room) */
    uint32_t n, room;
    uint64_t tick;
} lm_prefix;

void lm_prefix_init(lm_prefix *p, lm_model *m, uint32_t room);
void lm_prefix_release(lm_prefix *p); /* closes what is kept */

/* Gives q a KV sequence that already holds as much of its prompt as anybody has: an idle entry, or one of the
 * running sequences, shared. At least one token is left to compute. Leaves q->kv NULL when nothing fits. */
void lm_prefix_find(lm_prefix *p, lm_sequence *const *running, uint32_t n_running, lm_sequence *q);
/* Keeps q's KV and takes its tokens over; q has none afterwards. */
void lm_prefix_keep(lm_prefix *p, lm_sequence *q);
/* Closes the least recently used entry; false when there is none. */
bool lm_prefix_evict(lm_prefix *p);

#endif

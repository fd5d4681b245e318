/* arena.h (private to cpu/) - a step's memory: taken in order, given back all at once or down to a mark.
 *
 * Memory is never moved, and is kept from step to step: after the first steps of a kind nothing is asked of
 * the system any more. When a step needed several chunks, the next reset makes one of them. Everything is
 * aligned to 64 bytes.
 */
#ifndef LM_CPU_ARENA_H
#define LM_CPU_ARENA_H

#include "base/base.h"

#define LM_ARENA_CHUNKS 24 /* each at least as large as all before it together */

typedef struct lm_arena {
    struct {
        uint8_t *ptr;
        size_t size;
    } chunks[LM_ARENA_CHUNKS];
    uint32_t n_chunks;
    uint32_t at;  /* chunk in use */
    size_t used;  /* bytes of it */
    size_t total; /* bytes of all chunks */
} lm_arena;

typedef struct lm_arena_mark {
    uint32_t at;
    size_t used;
} lm_arena_mark;

void *lm_arena_take(lm_arena *a, size_t bytes); /* not cleared; NULL: no memory */
lm_arena_mark lm_arena_mark_now(const lm_arena *a);
void lm_arena_back(lm_arena *a, lm_arena_mark mark); /* everything taken since is free */
void lm_arena_reset(lm_arena *a);
void lm_arena_release(lm_arena *a);

#endif

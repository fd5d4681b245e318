/* sse.h - a stream of server-sent events on its way to a client: what is written into `out` leaves in one
 * piece with lm_sse_send, the head of the answer before the first. Format: HTML Living Standard, 9.2.
 *
 * Threads: one at a time. */
#ifndef LM_API_SSE_H
#define LM_API_SSE_H

#include "api/private.h"

typedef struct lm_sse {
    lm_call *call;    /* borrowed */
    const char *type; /* Content-Type */
    bool started;     /* the head is on its way: an error has to be an event from now on */
    bool dead;        /* the client does not take anything any more: its jobs have been cancelled */
    lm_buf out;
} lm_sse;

void lm_sse_init(lm_sse *s, lm_call *call, const char *type);
void lm_sse_release(lm_sse *s);
void lm_sse_send(lm_sse *s); /* empties out */
void lm_sse_end(lm_sse *s);  /* sends what is left, and ends the answer */

#endif

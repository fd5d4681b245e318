/* fan.h - the same question to several backends at once. Private to the room.
 *
 * Threads: fan_start from any; `done` runs once on the pump's thread, and must not block. */
#ifndef LM_ROUTER_FAN_H
#define LM_ROUTER_FAN_H

#include "router/proxy.h"

typedef struct fan_answer {
    bool asked;
    bool whole; /* an answer came, of any status */
    int status;
    lm_buf body;
    char error[200]; /* why it is not whole; names no address */
} fan_answer;

typedef struct fan_ask {
    const char *method;
    lm_str path;
    lm_str body;       /* JSON; len 0: none. Copied */
    uint32_t backends; /* bits */
    uint32_t limit_ms; /* who has not answered by then is left */
    uint32_t max_body; /* bytes of an answer */
} fan_ask;

/* answers[i] is backend i's; they live for the call of done. The call's generation must live until then. */
void fan_start(call *c, const fan_ask *ask, void (*done)(call *c, fan_answer *answers, void *ctx), void *ctx);

#endif

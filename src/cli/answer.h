/* answer.h - a model's answer, shown while it comes. Private to the room.
 *
 * On a terminal: thinking dim, words wrapped. Elsewhere stdout gets the answer alone, and thinking goes to stderr.
 */
#ifndef LM_CLI_ANSWER_H
#define LM_CLI_ANSWER_H

#include <jansson.h>

#include "cli/progress.h"
#include "cli/wrap.h"

#define ANSWER_MAX (64u << 20)

typedef struct answer {
    /* the caller's */
    bool quiet; /* nothing is shown: the whole is wanted (--json) */
    bool wrap_words, hide_thinking;
    /* what has come */
    lm_buf text, thinking;
    json_t *calls; /* array of tool calls, NULL: none */
    json_t *last;  /* the event with done: true, NULL: it has not come */
    /* how it is shown */
    bool terminal, thinks; /* thinks: the thinking's beginning was shown, its end wasn't */
    char end;              /* the last letter on stdout; 0: none */
    wrap lines;
    spinner wait;
} answer;

/* A spinner turns until the first word; answer_idle is wire's idle. */
void answer_start(answer *a);
void answer_idle(void *a);
bool answer_event(void *a, const json_t *event); /* of /api/generate or /api/chat; as wire_event */
/* What is open on the terminal is closed, also after a failure. */
void answer_end(answer *a);
/* The same behind the stream that ended with st: whether the answer is whole after all. LM_IO: it was never said to be;
 * LM_TOO_LARGE; LM_CANCELLED: Ctrl-C, or nobody reads. */
lm_status answer_finish(answer *a, lm_status st, lm_err *err) LM_CHECKED;
void answer_release(answer *a);

/* The figures of --verbose, as ollama shows them, on stderr. */
void answer_say_timings(const answer *a);

#endif

/* backends.h - what is known of each backend: its health, its models, what it is doing. Private to the room.
 *
 * States (health.h has the rules):
 *   healthy   answers its checks
 *   busy      said 503 or 429 lately: not asked until its Retry-After, or a moment, is over
 *   warming   came back a moment ago: takes what nobody better can serve
 *   degraded  a check or a request of the last `fall` failed; takes requests, after the healthy ones
 *   down      refused, or failed `fall` times in a row, at last a check; checked at growing, jittered intervals; back after `rise` good checks
 *   unknown   not checked yet
 *
 * Breaker, by backend and model: `breaker_failures` in a row open it for breaker_ms; then exactly one request may try.
 *
 * Checks ask GET /api/version, /api/tags and /api/ps, and once for each digest whose abilities nobody told POST /api/show:
 * none loads a model. A check is good when all were answered, so who is back has its models looked up. One thread for each
 * backend, so that a slow one holds nobody back.
 *
 * Threads: everything locks inside; views are copies.
 */
#ifndef LM_ROUTER_BACKENDS_H
#define LM_ROUTER_BACKENDS_H

#include "names/names.h"
#include "router/facts.h"
#include "router/router.h"

typedef enum backend_state {
    BACKEND_UNKNOWN,
    BACKEND_HEALTHY,
    BACKEND_BUSY,
    BACKEND_WARMING,
    BACKEND_DEGRADED,
    BACKEND_DOWN
} backend_state;
const char *backend_state_name(backend_state s);

/* How one attempt ended. */
typedef enum attempt_end {
    ATTEMPT_OK,
    ATTEMPT_REFUSED,  /* nobody listens: down at once */
    ATTEMPT_TIMEOUT,  /* no head, or silence */
    ATTEMPT_BROKE,    /* the connection, or an answer that is none, or that ends before its end */
    ATTEMPT_BUSY,     /* 429, 503 */
    ATTEMPT_NO_MODEL, /* 404: what we knew of its models is old */
    ATTEMPT_FAILED,   /* 5xx, or an error inside a 200 stream: of this model, not of the host */
    ATTEMPT_CLIENT,   /* 4xx that the request itself deserves */
    ATTEMPT_LEFT      /* the client has gone: says nothing about the backend */
} attempt_end;

typedef struct attempt {
    attempt_end end;
    int status;             /* HTTP; 0: none came */
    uint32_t retry_after_s; /* 0: not said */
    uint64_t first_ns;      /* from the attempt to the first event; 0: none */
    uint64_t total_ns;
    bool committed;  /* bytes went to the client */
    char error[256]; /* for the log and for an honest error line; names no address */
} attempt;

typedef struct backends backends;

/* Starts the checking thread; copies config. aliases are borrowed. */
lm_status backends_open(backends **out, const lm_router_config *config, const lm_aliases *aliases,
                        lm_err *err) LM_CHECKED;
/* The same for who looks once: changes of state are not logged, and all abilities are asked for at once. */
lm_status backends_open_quiet(backends **out, const lm_router_config *config, const lm_aliases *aliases,
                              lm_err *err) LM_CHECKED;
void backends_close(backends *b); /* NULL allowed */
/* Waits until each backend was checked once, and some abilities were asked for, at most for so long. */
void backends_wait_first(backends *b, uint32_t ms);
/* A model was pulled, created, deleted there: look again soon. */
void backends_look_again(backends *b, uint32_t backend);

/* One who could serve a request, best first. */
typedef struct candidate {
    uint32_t backend; /* index in the configuration */
    char model[700];  /* its name there */
    bool
        renamed; /* that is another name than the client's: the body's must be replaced, and the answer's back */
    double score;     /* higher is better; only for people */
    char reason[160]; /* why it stands here, or why it is out; for headers, log and explain */
    bool listed;      /* it has this model, as far as we know */
    bool usable;      /* it may be asked now */
    uint32_t wait_ms; /* not usable, but could serve it: ask again in so long. 0: it can't, however long one waits */
    bool probe;       /* set by backends_take: the one request that tries an open breaker */
} candidate;

/* All backends in the order in which they are to be tried, those that cannot serve it now last (usable
 * false). choose.h has the rules. Returns how many; out has room for them. */
uint32_t backends_choose(backends *b, const router_facts *f, candidate *out);

/* Before an attempt: counts it as running; false: not now (down in the meantime, breaker open or its one probe is under way, full). */
bool backends_take(backends *b, candidate *c);
/* After it, exactly once for each take. A good one notes the conversation for stickiness. */
void backends_give(backends *b, const candidate *c, const router_facts *f, const attempt *a);

/* The owner of a model of this very name, for writes; -1: nobody has it. kind: see writes.c. */
int backends_owner(backends *b, const char *model);
/* Where new models go: the first in the user's order that is up and (pull of an MLX repository: mlx only) can have it; "" is
 * a blob, which has no name yet. -1: none. */
int backends_for_new(backends *b, const char *model);

const lm_router_config *backends_config(const backends *b);
/* {"backends": [...]} as lm_router_status has it. */
json_t *backends_json(backends *b);
/* The same without the models, for what is asked often. */
json_t *backends_states(backends *b);
json_t *backends_explain(backends *b, const router_facts *f);

#endif

/* health.h - what the checks and the attempts say about one backend, and about one model on it: two small state machines.
 * Private to the room. Nothing here reads a clock, sleeps or locks: `now` comes from the caller, in nanoseconds.
 *
 * A backend
 *
 *     unknown --good check--> healthy      any --refused, or a failed check that is the `fall`th failure in a row--> down
 *     healthy --failure--> degraded --`fall` good ones in a row--> healthy
 *     down --`rise` good checks in a row--> warming --one more good one, or a good attempt--> healthy
 *
 * Failures are checks that got no proper answer and attempts whose connection broke. Attempts count, so that it takes fewer checks;
 * but without a check that fails none but a refused one takes a server down: one model that crashes is not the server. An
 * attempt that timed out makes degraded at most: the model may be slow, and whether the server hangs is for the checks to say. An
 * error that a model's runner gave says nothing about the server; it counts for the breaker. busy lies over the other
 * states: it said 429 or 503.
 *
 * While something changes, checks come faster (a fifth of the interval); while it is down, ever slower: from there doubling up to six
 * intervals. All with a jitter of a tenth, so that the backends' checks do not fall together.
 *
 * The breaker of a model on a backend
 *
 *     closed --`breaker_failures` in a row--> open --breaker_ms--> half-open: one probe --good--> closed, --bad--> open
 *
 * Only the probe's own end closes it: attempts that began before it opened tell old news.
 */
#ifndef LM_ROUTER_HEALTH_H
#define LM_ROUTER_HEALTH_H

#include "router/backends.h"

#define HEALTH_MAX_BUSY_S 300                       /* of a Retry-After */
#define HEALTH_MOMENT_NS  (UINT64_C(250) * 1000000) /* busy, and did not say for how long */

typedef struct health_rules {
    uint64_t check_ns, breaker_ns;
    uint32_t fall, rise, breaker_failures;
} health_rules;

typedef struct health {
    backend_state state; /* without busy */
    uint32_t bad, good;  /* in a row */
    uint32_t back_off;   /* checks that failed since it went down */
    uint64_t down_ns;    /* when it went down */
    uint64_t busy_until_ns;
    uint64_t next_check_ns;
    uint64_t random; /* of the jitter */
} health;

typedef enum check_end {
    CHECK_OK,
    CHECK_BUSY /* answered 429 or 503: it is there */,
    CHECK_FAILED,
    CHECK_REFUSED
} check_end;

health_rules health_rules_of(const lm_router_config *c);
void health_init(health *h, uint64_t seed, uint64_t now);
/* A check has ended; sets when the next one is due. CHECK_OK only after its models were looked up. */
void health_check(health *h, const health_rules *r, check_end end, uint32_t retry_after_s, uint64_t now);
void health_attempt(health *h, const health_rules *r, const attempt *a, uint64_t now);
/* A check is wanted soon. */
void health_check_soon(health *h, uint64_t now);
/* With busy; how long that lasts into *busy_ns (NULL allowed). */
backend_state health_state(const health *h, uint64_t now, uint64_t *busy_ns);
bool health_takes(backend_state s); /* requests go there */

typedef struct breaker {
    uint32_t bad; /* in a row */
    bool open, probing;
    uint64_t until_ns;
} breaker;

/* A request may go there now; changes nothing. */
bool breaker_lets(const breaker *b, uint64_t now);
/* Before an attempt that was let: true: it is the probe, and its end belongs to breaker_give with probe set. */
bool breaker_take(breaker *b);
void breaker_give(breaker *b, const health_rules *r, attempt_end end, bool probe, uint64_t now);

/* The breakers of one backend, by catalog key; the least telling one goes when there is no room. */
#define BREAKERS_MAX 256
typedef struct breakers {
    struct {
        char *key;
        breaker b;
    } items[BREAKERS_MAX];
    uint32_t n;
} breakers;

const breaker *breakers_find(const breakers *t, const char *key); /* NULL: closed, nothing to tell */
/* Makes one; NULL: all places hold an open one. */
breaker *breakers_at(breakers *t, const char *key);
void breakers_release(breakers *t);

#endif

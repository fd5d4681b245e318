/* health.c - see health.h. */
#include "router/health.h"

#include <stdlib.h>
#include <string.h>

#define SECOND_NS UINT64_C(1000000000)
#define MS_NS     UINT64_C(1000000)
#define SLOWEST   6 /* intervals between checks of one that is down */
#define FASTER    5 /* checks in an interval while something changes */

static const char *const names[] = {
    [BACKEND_UNKNOWN] = "unknown", [BACKEND_HEALTHY] = "healthy",   [BACKEND_BUSY] = "busy",
    [BACKEND_WARMING] = "warming", [BACKEND_DEGRADED] = "degraded", [BACKEND_DOWN] = "down"};

const char *backend_state_name(backend_state s) {
    return (size_t)s < sizeof names / sizeof *names ? names[s] : "unknown";
}

health_rules health_rules_of(const lm_router_config *c) {
    return (health_rules){.check_ns = c->check_ms * MS_NS,
                          .breaker_ns = c->breaker_ms * MS_NS,
                          .fall = c->fall,
                          .rise = c->rise,
                          .breaker_failures = c->breaker_failures};
}

void health_init(health *h, uint64_t seed, uint64_t now) {
    *h = (health){.state = BACKEND_UNKNOWN, .next_check_ns = now, .random = seed * 2 + 1};
}

bool health_takes(backend_state s) {
    return s == BACKEND_HEALTHY || s == BACKEND_DEGRADED || s == BACKEND_WARMING;
}

/* Between nine and eleven tenths of ns. */
static uint64_t jittered(health *h, uint64_t ns) {
    h->random ^= h->random << 13;
    h->random ^= h->random >> 7;
    h->random ^= h->random << 17;
    uint64_t fifth = ns / 5;
    return ns - ns / 10 + (fifth ? h->random % fifth : 0);
}

static uint64_t until_next(health *h, const health_rules *r) {
    uint64_t fast = r->check_ns / FASTER, slowest = r->check_ns * SLOWEST, wait = fast;
    if (h->state == BACKEND_HEALTHY) return jittered(h, r->check_ns);
    if (h->state == BACKEND_DOWN && !h->good)
        for (uint32_t i = 1; i < h->back_off && wait < slowest; i++) wait *= 2;
    return jittered(h, wait < slowest ? wait : slowest);
}

static void note_good(health *h, const health_rules *r, bool check) {
    if (h->state == BACKEND_DOWN && !check)
        return; /* an old stream that still ran; the checks say when it is back */
    h->bad = 0;
    h->good++;
    switch (h->state) {
    case BACKEND_UNKNOWN:
        if (check) h->state = BACKEND_HEALTHY; /* an attempt does not look its models up */
        break;
    case BACKEND_WARMING: h->state = BACKEND_HEALTHY; break;
    case BACKEND_DEGRADED:
        if (h->good >= r->fall) h->state = BACKEND_HEALTHY;
        break;
    case BACKEND_DOWN:
        if (h->good >= r->rise) h->state = BACKEND_WARMING;
        break;
    case BACKEND_HEALTHY:
    case BACKEND_BUSY: break;
    }
}

static void note_bad(health *h, bool down, uint64_t now) {
    h->good = 0;
    h->bad++;
    if (h->state == BACKEND_DOWN) return;
    if (down) {
        h->state = BACKEND_DOWN;
        h->back_off = 0;
        h->down_ns = now;
    } else if (h->state != BACKEND_UNKNOWN) {
        h->state = BACKEND_DEGRADED;
    }
}

static void note_busy(health *h, uint32_t retry_after_s, uint64_t now) {
    uint64_t s = retry_after_s < HEALTH_MAX_BUSY_S ? retry_after_s : HEALTH_MAX_BUSY_S;
    uint64_t until = now + (s ? s * SECOND_NS : HEALTH_MOMENT_NS);
    if (until > h->busy_until_ns) h->busy_until_ns = until;
}

void health_check(health *h, const health_rules *r, check_end end, uint32_t retry_after_s, uint64_t now) {
    if (end == CHECK_OK) note_good(h, r, true);
    if (end == CHECK_BUSY) note_busy(h, retry_after_s, now);
    if (end == CHECK_FAILED || end == CHECK_REFUSED)
        note_bad(h, end == CHECK_REFUSED || h->bad + 1 >= r->fall, now);
    if (h->state == BACKEND_DOWN) h->back_off = end == CHECK_OK ? 0 : h->back_off + (h->back_off < 32);
    h->next_check_ns = now + until_next(h, r);
}

void health_check_soon(health *h, uint64_t now) {
    if (h->next_check_ns > now) h->next_check_ns = now;
}

void health_attempt(health *h, const health_rules *r, const attempt *a, uint64_t now) {
    backend_state before = h->state;
    switch (a->end) {
    case ATTEMPT_OK:
    case ATTEMPT_CLIENT: note_good(h, r, false); break;
    case ATTEMPT_REFUSED: note_bad(h, true, now); break;
    case ATTEMPT_BROKE: note_bad(h, false, now); break;
    case ATTEMPT_TIMEOUT:
        h->good = 0;
        if (h->state == BACKEND_HEALTHY || h->state == BACKEND_WARMING) h->state = BACKEND_DEGRADED;
        break;
    case ATTEMPT_BUSY: note_busy(h, a->retry_after_s, now); break;
    case ATTEMPT_NO_MODEL: health_check_soon(h, now); break;
    case ATTEMPT_FAILED:
    case ATTEMPT_LEFT: break;
    }
    /* It got worse: the next check must not take its time. One that is down has a time of its own. */
    if (h->state != before && (h->state == BACKEND_DEGRADED || h->state == BACKEND_DOWN)) {
        uint64_t soon = now + jittered(h, r->check_ns / FASTER);
        if (h->next_check_ns > soon) h->next_check_ns = soon;
    }
}

backend_state health_state(const health *h, uint64_t now, uint64_t *busy_ns) {
    bool busy = health_takes(h->state) && h->busy_until_ns > now;
    if (busy_ns) *busy_ns = busy ? h->busy_until_ns - now : 0;
    return busy ? BACKEND_BUSY : h->state;
}

/* ---- breaker */

bool breaker_lets(const breaker *b, uint64_t now) {
    return !b->open || (now >= b->until_ns && !b->probing);
}

bool breaker_take(breaker *b) {
    if (!b->open) return false;
    b->probing = true;
    return true;
}

void breaker_give(breaker *b, const health_rules *r, attempt_end end, bool probe, uint64_t now) {
    bool good = end == ATTEMPT_OK || end == ATTEMPT_CLIENT;
    bool bad = end == ATTEMPT_FAILED || end == ATTEMPT_TIMEOUT || end == ATTEMPT_BROKE;
    if (probe)
        b->probing = false; /* whatever its end was: one that says nothing leaves the place to another */
    if (b->open && !probe) return;
    if (good) *b = (breaker){0};
    if (!bad) return;
    b->bad++;
    if (!b->open && b->bad < r->breaker_failures) return;
    b->open = true;
    b->until_ns = now + r->breaker_ns;
}

static uint32_t place_of(const breakers *t, const char *key) {
    uint32_t i = 0;
    while (i < t->n && strcmp(t->items[i].key, key) != 0) i++;
    return i;
}

const breaker *breakers_find(const breakers *t, const char *key) {
    uint32_t i = t ? place_of(t, key) : 0;
    return t && i < t->n ? &t->items[i].b : NULL;
}

breaker *breakers_at(breakers *t, const char *key) {
    uint32_t i = place_of(t, key);
    if (i < t->n) return &t->items[i].b;
    if (t->n < BREAKERS_MAX) {
        i = t->n++;
    } else {
        uint32_t least = UINT32_MAX;
        for (uint32_t k = 0; k < t->n; k++) {
            if (t->items[k].b.open || t->items[k].b.bad >= least) continue;
            least = t->items[k].b.bad;
            i = k;
        }
        if (i == t->n) return NULL;
        free(t->items[i].key);
    }
    t->items[i].key = lm_strdup(key);
    t->items[i].b = (breaker){0};
    return &t->items[i].b;
}

void breakers_release(breakers *t) {
    for (uint32_t i = 0; i < t->n; i++) free(t->items[i].key);
    t->n = 0;
}

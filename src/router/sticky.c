/* sticky.c - a table of hashes with a list through it, the last used first. */
#include "router/sticky.h"

#include <stdlib.h>

#define N_SLOTS 16384 /* chains; a power of two */
#define NONE    UINT32_MAX
/* Beginnings that a request leaves behind. The next turn, an answer that is asked for again and an edited question differ in the last
 * few messages. Not all: what only a system prompt has in common would hold every conversation of a program on one backend. */
#define NOTED 4

typedef struct node {
    uint64_t hash;
    uint64_t used_ns;
    uint32_t backend;
    uint32_t chain;        /* next of the same slot */
    uint32_t newer, older; /* by use */
} node;

struct sticky {
    node nodes[STICKY_MAX];
    uint32_t slots[N_SLOTS];
    uint32_t n, newest, oldest;
};

sticky *sticky_open(void) {
    sticky *s = lm_alloc(sizeof *s);
    for (uint32_t i = 0; i < N_SLOTS; i++) s->slots[i] = NONE;
    s->newest = s->oldest = NONE;
    return s;
}

void sticky_close(sticky *s) {
    free(s);
}

uint32_t sticky_count(const sticky *s) {
    return s->n;
}

static uint32_t *slot_of(sticky *s, uint64_t hash) {
    return &s->slots[(hash ^ hash >> 32) & (N_SLOTS - 1)];
}

static uint32_t look(sticky *s, uint64_t hash) {
    uint32_t i = *slot_of(s, hash);
    while (i != NONE && s->nodes[i].hash != hash) i = s->nodes[i].chain;
    return i;
}

static void unlink_use(sticky *s, uint32_t i) {
    node *n = &s->nodes[i];
    *(n->newer == NONE ? &s->newest : &s->nodes[n->newer].older) = n->older;
    *(n->older == NONE ? &s->oldest : &s->nodes[n->older].newer) = n->newer;
}

static void link_use(sticky *s, uint32_t i) {
    node *n = &s->nodes[i];
    n->newer = NONE;
    n->older = s->newest;
    *(s->newest == NONE ? &s->oldest : &s->nodes[s->newest].newer) = i;
    s->newest = i;
}

static void unchain(sticky *s, uint32_t i) {
    uint32_t *at = slot_of(s, s->nodes[i].hash);
    while (*at != i) at = &s->nodes[*at].chain;
    *at = s->nodes[i].chain;
}

static void put(sticky *s, uint64_t hash, uint32_t backend, uint64_t now) {
    uint32_t i = look(s, hash);
    if (i != NONE) {
        unlink_use(s, i);
    } else {
        i = s->n;
        if (s->n < STICKY_MAX) {
            s->n++;
        } else {
            i = s->oldest;
            unlink_use(s, i);
            unchain(s, i);
        }
        uint32_t *slot = slot_of(s, hash);
        s->nodes[i] = (node){.hash = hash, .chain = *slot};
        *slot = i;
    }
    s->nodes[i].backend = backend;
    s->nodes[i].used_ns = now;
    link_use(s, i);
}

int sticky_find(sticky *s, const router_facts *f, uint64_t now, uint32_t *depth) {
    uint32_t n = f->n_prefixes < FACTS_PREFIXES ? f->n_prefixes : FACTS_PREFIXES;
    for (uint32_t k = n; k-- > 0;) {
        uint32_t i = look(s, f->prefixes[k]);
        if (i == NONE || now - s->nodes[i].used_ns > STICKY_TTL_NS) continue;
        *depth = k + 1;
        return (int)s->nodes[i].backend;
    }
    *depth = 0;
    return -1;
}

void sticky_note(sticky *s, const router_facts *f, uint32_t backend, uint64_t now) {
    uint32_t n = f->n_prefixes < FACTS_PREFIXES ? f->n_prefixes : FACTS_PREFIXES;
    uint32_t from = n > NOTED ? n - NOTED : 0;
    if (n > 1 && !from) from = 1; /* the first alone is what others have, too */
    for (uint32_t k = from; k < n; k++) put(s, f->prefixes[k], backend, now);
}

/* prefix.c - linear search over a few entries: comparing token ids costs nothing next to computing them. */
#include "engine/prefix.h"

#include <stdlib.h>
#include <string.h>

/* An entry is taken over instead of shared when no more than this many of its own tokens are lost: usually
 * the last turn's end, which the template writes differently. */
#define TAIL_TOKENS 16

void lm_prefix_init(lm_prefix *p, lm_model *m, uint32_t room) {
    *p = (lm_prefix){.model = m, .room = room};
    p->entries = lm_alloc(room * sizeof(*p->entries));
}

static void forget(lm_prefix *p, uint32_t i) {
    lm_model_seq_close(p->model, p->entries[i].kv);
    free(p->entries[i].tokens);
    p->entries[i] = p->entries[--p->n];
}

void lm_prefix_release(lm_prefix *p) {
    while (p->n) forget(p, p->n - 1);
    free(p->entries);
    *p = (lm_prefix){0};
}

bool lm_prefix_evict(lm_prefix *p) {
    if (!p->n) return false;
    uint32_t oldest = 0;
    for (uint32_t i = 1; i < p->n; i++) {
        if (p->entries[i].used < p->entries[oldest].used) oldest = i;
    }
    forget(p, oldest);
    return true;
}

static uint32_t common(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b) {
    uint32_t n = n_a < n_b ? n_a : n_b, i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

/* The entry leaves the list, cut to n tokens. */
static void take_over(lm_prefix *p, uint32_t i, uint32_t n, lm_sequence *q) {
    q->kv = p->entries[i].kv;
    if (n < p->entries[i].n) lm_model_seq_trim(p->model, q->kv, n);
    free(p->entries[i].tokens);
    p->entries[i] = p->entries[--p->n];
    q->n_kv = q->n_cached = n;
}

void lm_prefix_find(lm_prefix *p, lm_sequence *const *running, uint32_t n_running, lm_sequence *q) {
    uint32_t most = q->n_tokens - 1, best = 0, where = 0;
    lm_sequence *donor = NULL;
    for (uint32_t i = 0; i < p->n; i++) {
        uint32_t n = common(p->entries[i].tokens, p->entries[i].n, q->tokens, most);
        if (n > best) {
            best = n;
            where = i;
        }
    }
    for (uint32_t i = 0; i < n_running; i++) {
        if (running[i] == q) continue;
        uint32_t n = common(running[i]->tokens, running[i]->n_kv, q->tokens, most);
        if (n > best) {
            best = n;
            donor = running[i];
        }
    }
    if (!best) return;
    if (donor) {
        if (lm_model_seq_fork(p->model, donor->kv, best, &q->kv, NULL) == LM_OK) q->n_kv = q->n_cached = best;
        return; /* no pages to share into: it starts from nothing */
    }
    lm_prefix_entry *e = &p->entries[where];
    e->used = ++p->tick;
    if (e->n - best > TAIL_TOKENS && lm_model_seq_fork(p->model, e->kv, best, &q->kv, NULL) == LM_OK) {
        q->n_kv = q->n_cached = best;
    } else {
        take_over(p, where, best, q);
    }
}

void lm_prefix_keep(lm_prefix *p, lm_sequence *q) {
    lm_seq *kv = q->kv;
    q->kv = NULL;
    if (!kv) return;
    bool keep = q->n_kv > 0 && p->room > 0;
    /* What another entry holds already, and what this one holds of others, is not kept twice. */
    for (uint32_t i = p->n; keep && i-- > 0;) {
        uint32_t n = common(p->entries[i].tokens, p->entries[i].n, q->tokens, q->n_kv);
        if (n == q->n_kv) {
            p->entries[i].used = ++p->tick;
            keep = false;
        } else if (n == p->entries[i].n) {
            forget(p, i);
        }
    }
    if (!keep) {
        lm_model_seq_close(p->model, kv);
        return;
    }
    if (p->n == p->room) lm_prefix_evict(p);
    p->entries[p->n++] = (lm_prefix_entry){.kv = kv, .tokens = q->tokens, .n = q->n_kv, .used = ++p->tick};
    q->tokens = NULL;
}

/* backends_state.h - what backends.c keeps and tell.c tells. Private to these two. */
#ifndef LM_ROUTER_BACKENDS_STATE_H
#define LM_ROUTER_BACKENDS_STATE_H

#include <pthread.h>

#include "base/cond.h"
#include "router/choose.h"
#include "router/order.h"
#include "router/probe.h"
#include "router/sticky.h"

typedef struct backend {
    backends *all;
    const lm_router_backend *config;
    uint32_t index;
    probe *probe; /* its thread's */
    pthread_t thread;
    bool has_thread;
    pthread_cond_t wake; /* a check is wanted, or all is over */
    /* under the lock; models are replaced by its thread alone, which may therefore read them without it */
    health health;
    catalog *models;
    breakers breakers;
    uint32_t running;
    bool checked; /* once at least */
    char version[64];
    uint64_t latency_ns, checked_ns;
    char error[256]; /* why the last check, or attempt, was bad; empty: it was good */
} backend;

struct backends {
    lm_router_config config; /* its own copy */
    const lm_aliases *aliases;
    twin_index *twins;
    health_rules rules;
    bool quiet;
    backend items[LM_ROUTER_MAX_BACKENDS];
    uint32_t n;

    pthread_mutex_t lock; /* guards what follows, and in items what is said there */
    pthread_cond_t checked;
    bool stop;
    sticky *sticky;
    orders orders;
    orders_stamp orders_stamp;
    uint64_t orders_looked_ns;
};

/* Under the lock. */
backend_state backend_state_now(const backend *b, uint64_t now, uint64_t *busy_ns);
/* Reads the state file again when it was written. Not under the lock. */
void backends_refresh_orders(backends *b);

#endif

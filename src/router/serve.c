/* serve.c - the proxy's life: open everything from the bottom up, wait for signals, drain, close from the top down. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "router/proxy.h"

#define MAX_CONNECTIONS 4096
#define IDLE_SECONDS    120
#define FIRST_CHECK_MS  1500 /* a request that comes before anybody was checked would find nobody */
#define DRAIN_NS        UINT64_C(30000000000)
#define FLUSH_NS        UINT64_C(5000000000)

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_ADDRESS = 3 };

static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    rlim_t want = 4 * MAX_CONNECTIONS; /* two sides */
    if (limit.rlim_cur >= want) return;
    limit.rlim_cur = limit.rlim_max < want ? limit.rlim_max : want;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* ---- generations */

static void generation_close(generation *g) {
    if (!g) return;
    backends_close(g->backends);
    lm_guard_close(g->guard);
    listings_close(g->listings);
    free(g);
}

static lm_status generation_open(router *r, const lm_router_config *config, generation **out, lm_err *err) {
    generation *g = lm_alloc(sizeof *g);
    g->refs = 1;
    g->listings = listings_open();
    lm_status st = lm_guard_open(&g->guard, config->host, config->origins, err);
    if (st == LM_OK) st = backends_open(&g->backends, config, &r->aliases, err);
    if (st == LM_OK)
        *out = g;
    else
        generation_close(g);
    return st;
}

static void close_retired(router *r) {
    for (;;) {
        pthread_mutex_lock(&r->lock);
        generation *g = r->retired;
        if (g) r->retired = g->next;
        pthread_mutex_unlock(&r->lock);
        if (!g) return;
        generation_close(g);
    }
}

static void reload(router *r, const lm_router_config *first) {
    lm_router_config config = {0};
    lm_err err = {0};
    generation *fresh = NULL;
    lm_status st = lm_router_config_read(r->config_path, &config, &err);
    if (st == LM_OK) st = generation_open(r, &config, &fresh, &err);
    if (st != LM_OK) {
        lm_buf b;
        lm_buf_init(&b, 1024);
        lm_log_field(&b, "error", lm_str_of(err.text));
        lm_log(LM_LOG_ERROR, "the configuration stays as it was", "%s", b.ptr ? b.ptr : "");
        lm_buf_release(&b);
    } else {
        backends_wait_first(fresh->backends, FIRST_CHECK_MS);
        pthread_mutex_lock(&r->lock);
        generation *old = r->now;
        r->now = fresh;
        pthread_mutex_unlock(&r->lock);
        generation_unref(r, old);
        lm_log(LM_LOG_INFO, "configuration read again", "backends=%u", config.n_backends);
        if (strcmp(config.host, first->host) != 0 || config.port != first->port ||
            config.max_body != first->max_body)
            lm_log(LM_LOG_WARN, "host, port and max_body hold from the next start on", NULL);
    }
    lm_router_config_release(&config);
}

/* ---- up */

static lm_status open_all(router *r, const lm_router_config *config, lm_err *err) {
    lm_status st = lm_aliases_open(&r->aliases, NULL, err);
    if (st == LM_NOT_FOUND) { /* an installation without its table: names mean themselves */
        lm_buf b;
        lm_buf_init(&b, 1024);
        lm_log_field(&b, "why", lm_str_of(err ? err->text : ""));
        lm_log(LM_LOG_WARN, "no table of aliases: models are known by their own names only", "%s",
               b.ptr ? b.ptr : "");
        lm_buf_release(&b);
    } else if (st != LM_OK) {
        return st;
    }
    if ((st = lm_pump_open(&r->pump, err)) != LM_OK) return st;
    if ((st = generation_open(r, config, &r->now, err)) != LM_OK) return st;
    backends_wait_first(r->now->backends, FIRST_CHECK_MS);
    lm_server_config server = {.host = config->host,
                               .port = config->port,
                               .max_body = config->max_body,
                               .max_backlog = RELAY_BACKLOG,
                               .max_connections = MAX_CONNECTIONS,
                               .idle_seconds = IDLE_SECONDS,
                               .n_workers = 4,
                               .handle = router_handle,
                               .streams = router_streams,
                               .ctx = r};
    return lm_server_open(&r->server, &server, err);
}

/* ---- down */

static void wait_for(router *r, uint64_t limit_ns) {
    uint64_t end = lm_now_ns() + limit_ns;
    while (lm_server_open_exchanges(r->server) && lm_now_ns() < end) usleep(5000);
}

/* The server first: exchanges that end tell the pump's thread so, and calls end there. */
static void close_all(router *r) {
    lm_server_close(r->server);
    pthread_mutex_lock(&r->lock);
    while (r->n_uploads) pthread_cond_wait(&r->idle, &r->lock);
    pthread_mutex_unlock(&r->lock);
    for (uint64_t end = lm_now_ns() + FLUSH_NS; atomic_load(&r->n_calls) && lm_now_ns() < end;) usleep(2000);
    lm_pump_close(r->pump);
    if (r->now) generation_unref(r, r->now);
    close_retired(r);
    lm_aliases_release(&r->aliases);
    metrics_release(&r->metrics);
    pthread_cond_destroy(&r->idle);
    pthread_mutex_destroy(&r->lock);
}

/* Until SIGTERM or SIGINT. */
static void wait_for_signals(router *r, const sigset_t *signals, const lm_router_config *config) {
    for (;;) {
        int got = 0;
        if (sigwait(signals, &got) != 0) continue;
        if (got == SIGTERM || got == SIGINT) return;
        if (got == SIGHUP) reload(r, config);
        close_retired(r);
    }
}

int lm_router_serve(const lm_router_config *config, const char *config_path, bool verbose) {
    /* All threads inherit this mask: only sigwait sees these signals. */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGUSR2); /* generation_unref: there is one to close */
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    lm_log_level(verbose ? LM_LOG_DEBUG : LM_LOG_INFO);
    raise_file_limit();

    router r = {.config_path = config_path, .id_seed = (uint64_t)lm_wall_ns()};
    lm_err err = {0};
    pthread_mutex_init(&r.lock, NULL);
    pthread_cond_init(&r.idle, NULL);
    metrics_init(&r.metrics);
    lm_status st = open_all(&r, config, &err);
    if (st != LM_OK) {
        bool address = r.now && st == LM_IO; /* only the socket is left to fail then */
        fprintf(stderr, "ollama-to-mlx-router: %s\n", err.text);
        close_all(&r);
        return address ? EXIT_ADDRESS : EXIT_FAILED;
    }
    lm_log(LM_LOG_INFO, "listening", "address=%s port=%u version=%s backends=%u", config->host,
           lm_server_port(r.server), LM_VERSION, config->n_backends);

    wait_for_signals(&r, &signals, config);
    /* A second signal ends the program at once. */
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    sigset_t end;
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &end, NULL);
    lm_log(LM_LOG_INFO, "stopping", "running=%u", lm_server_open_exchanges(r.server));
    atomic_store(&r.refusing, true);
    lm_server_quiesce(r.server);
    wait_for(&r, DRAIN_NS);
    close_all(&r);
    lm_log(LM_LOG_INFO, "stopped", NULL);
    return EXIT_OK;
}

/* serve.c - the server's life: open everything from the bottom up, wait for a signal, drain, close from the
 * top down. */
#include "bridge/bridge.h"
#include "bridge/cluster.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api/api.h"
#include "cpu/cpu.h"
#include "engine/engine.h"
#include "http/http.h"
#include "store/store.h"

#define MAX_BODY        (128u << 20) /* bytes: a few photographs in base64 */
#define MAX_CONNECTIONS 4096
#define IDLE_SECONDS    120
#define LAST_NS         INT64_C(300000000)  /* for requests on connections that were accepted already */
#define FLUSH_NS        INT64_C(2000000000) /* for the last words of cancelled answers */

typedef struct bridge {
    lm_store *store;
    lm_engine *engine;
    lm_api *api;
    lm_server *server;
    bridge_cluster *cluster; /* NULL: alone */
    bridge_notify *notify;   /* NULL: nobody wants to hear */
    lm_buf devices;          /* JSON, for /health */
    int listen_fd;           /* 0: none was given */
    char host[256];          /* where it listens */
} bridge;

static const lm_route *const tables[] = {lm_ollama_routes, lm_openai_routes, lm_anthropic_routes,
                                         lm_health_routes, NULL};

/* ---- one line for a request */

static void log_request(void *ctx, const lm_api_record *r) {
    (void)ctx;
    bridge_notify_request();
    lm_buf b;
    lm_buf_init(&b, 4096);
    lm_log_field(&b, "method", r->method);
    lm_log_field(&b, "path", r->path);
    lm_buf_printf(&b, " status=%d ms=%.1f", r->status, (double)r->ns / 1e6);
    if (r->model.len) lm_log_field(&b, "model", r->model);
    if (r->n_prompt) lm_buf_printf(&b, " prompt_tokens=%u", r->n_prompt);
    if (r->n_eval) lm_buf_printf(&b, " tokens=%u", r->n_eval);
    if (r->first_ns) lm_buf_printf(&b, " ttft_ms=%.1f", (double)r->first_ns / 1e6);
    if (r->n_eval > 1 && r->eval_ns)
        lm_buf_printf(&b, " tokens_per_s=%.1f", r->n_eval / ((double)r->eval_ns / 1e9));
    lm_buf_printf(&b, " bytes=%llu", (unsigned long long)r->bytes_out);
    lm_log_field(&b, "peer", r->peer);
    if (r->gone) lm_buf_text(&b, " gone=true");
    if (r->error.len) lm_log_field(&b, "error", r->error);
    lm_log(r->status >= 500 && r->status != 503 ? LM_LOG_ERROR : LM_LOG_INFO, "request", "%s",
           b.ptr ? b.ptr : "");
    lm_buf_release(&b);
}

/* ---- up */

static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    rlim_t want = 2 * MAX_CONNECTIONS;
    if (limit.rlim_cur >= want) return;
    limit.rlim_cur = limit.rlim_max < want ? limit.rlim_max : want;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* The socket that was given, if there is one, and where it listens. */
static lm_status take_socket(bridge *b, const bridge_config *c, lm_err *err) {
    int fd = c->listen_fd;
    if (!fd) {
        lm_status st = lm_listen_given("bridge", &fd, err);
        if (st == LM_NOT_FOUND) return LM_OK;
        if (st != LM_OK) return st;
    }
    uint16_t port;
    lm_status st = lm_listen_address(fd, b->host, &port, err);
    if (st == LM_OK) b->listen_fd = fd;
    return st;
}

/* What the backend can't do is said once, here, and is not asked of it. */
static lm_kv_type kv_type_for(const lm_backend *backend, lm_kv_type wanted) {
    lm_backend_info info;
    backend->info(&info);
    if (wanted == LM_KV_F16 || info.kv_quantised) return wanted;
    lm_log(LM_LOG_WARN, "keys and values stay f16: this backend has no quantised ones",
           "backend=%s asked=%s has_them=\"--backend mlx\"", backend->name, lm_kv_type_name(wanted));
    return LM_KV_F16;
}

lm_engine_config bridge_engine_config(const bridge_config *c, const lm_backend *backend) {
    return (lm_engine_config){.backend = backend,
                              .cpu_features = backend == &lm_cpu_backend ? c->cpu_features : NULL,
                              .n_threads = c->n_threads,
                              .n_parallel = c->n_parallel,
                              .max_queue = c->max_queue,
                              .max_models = c->max_models,
                              .default_ctx = c->default_ctx,
                              .keep_alive_ns = c->keep_alive_ns,
                              .kv_type = kv_type_for(backend, c->kv_type)};
}

static lm_status open_all(bridge *b, const bridge_config *c, lm_err *err) {
    snprintf(b->host, sizeof b->host, "%s", c->host);
    lm_store_config store = {
        .own_dir = c->models, .roots = c->roots, .n_roots = c->n_roots, .gguf = c->import_gguf};
    lm_status st = take_socket(b, c, err);
    if (st == LM_OK) st = lm_store_open(&b->store, &store, err);
    if (st != LM_OK) return st;
    lm_store_prune(b->store); /* what a server that was killed has left */

    const lm_backend *backend = NULL;
    if (b->cluster && (st = bridge_cluster_prepare(c, b->cluster, err)) != LM_OK) return st;
    if ((st = bridge_choose_backend(c, &backend, err)) != LM_OK) return st;
    if (b->cluster && (st = bridge_cluster_start(c, b->cluster, backend, err)) != LM_OK) return st;
    lm_engine_config engine = bridge_engine_config(c, backend);
    if (b->cluster) engine.world = &b->cluster->world;
    st = lm_engine_open(&b->engine, &engine, err);
    if (st != LM_OK) return st;
    if (b->cluster) bridge_cluster_serves(b->cluster, b->engine);

    bridge_devices_json(c, backend, &b->devices);
    lm_api_config api = {.engine = b->engine,
                         .store = b->store,
                         .ollama_version = LM_OLLAMA_VERSION,
                         .version = LM_VERSION,
                         .devices = b->devices.ptr,
                         .tables = tables,
                         .host = b->host,
                         .origins = c->origins,
                         .log = log_request};
    st = lm_api_open(&b->api, &api, err);
    if (st != LM_OK) return st;

    lm_server_config server = {.host = c->host,
                               .port = c->port,
                               .listen_fd = b->listen_fd,
                               .max_body = MAX_BODY,
                               .max_connections = MAX_CONNECTIONS,
                               .idle_seconds = IDLE_SECONDS,
                               .n_workers = 4,
                               .handle = lm_api_handle,
                               .streams = lm_api_streams,
                               .ctx = b->api};
    return lm_server_open(&b->server, &server, err);
}

/* ---- down */

static void wait_for_answers(bridge *b, int64_t limit_ns) {
    uint64_t end = lm_now_ns() + (uint64_t)limit_ns;
    while (lm_server_open_exchanges(b->server) && lm_now_ns() < end) usleep(5000);
}

/* Nothing may call down into what is closed: the server's workers first, then the engine's sinks, then what
 * they used. */
static void close_all(bridge *b) {
    bridge_notify_close(b->notify);
    lm_server_close(b->server);
    if (b->engine) lm_engine_close(b->engine, 0);
    lm_api_close(b->api);
    if (b->store) lm_store_close(b->store);
    lm_buf_release(&b->devices);
}

static void drain(bridge *b, int64_t drain_ns) {
    lm_server_quiesce(b->server);
    /* Whoever listens on this socket after us answers those who come now, so nobody is turned away who came just before. */
    if (b->listen_fd) usleep(LAST_NS / 1000);
    lm_api_refuse(b->api);
    wait_for_answers(b, drain_ns);
    if (!lm_server_open_exchanges(b->server)) return;
    lm_api_cancel_all(b->api);
    wait_for_answers(b, FLUSH_NS);
}

/* The others go home. Threads of MLX's may wait for a rank that has gone, so nothing of ours is waited for,
 * or tidied up. */
LM_NORETURN static void end_cluster(bridge *b, int code) {
    bridge_cluster_end(b->cluster);
    lm_log(LM_LOG_INFO, "stopped", NULL);
    _exit(code);
}

int bridge_serve(const bridge_config *c) {
    /* All threads inherit this mask: only sigwait below sees these signals. */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes is an error of that write, not the server's end */
    raise_file_limit();

    bridge_cluster cluster = {0};
    bridge b = {.cluster = c->distributed ? &cluster : NULL};
    b.notify = bridge_notify_open(c);
    lm_err err = {0};
    lm_status st = open_all(&b, c, &err);
    if (st != LM_OK) {
        bool address = b.api && st == LM_IO; /* only the socket is left to fail then */
        fprintf(stderr, "mlx-ollama-bridge: %s\n", err.text);
        if (b.cluster) end_cluster(&b, address ? EXIT_ADDRESS : EXIT_FAILED);
        close_all(&b);
        return address ? EXIT_ADDRESS : EXIT_FAILED;
    }
    lm_log(LM_LOG_INFO, "listening", "address=%s port=%u version=%s parallel=%u", b.host,
           lm_server_port(b.server), LM_VERSION, c->n_parallel);

    bridge_notify_ready(b.notify, b.engine);

    int got = 0;
    while (sigwait(&signals, &got) != 0) continue;
    /* A second signal ends the program at once. */
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    lm_log(LM_LOG_INFO, "stopping", "running=%u", lm_server_open_exchanges(b.server));
    bridge_notify_stopping(b.notify);
    drain(&b, c->drain_ns);
    if (b.cluster) end_cluster(&b, bridge_cluster_lost(b.cluster) ? EXIT_FAILED : EXIT_OK);
    close_all(&b);
    lm_log(LM_LOG_INFO, "stopped", NULL);
    return EXIT_OK;
}

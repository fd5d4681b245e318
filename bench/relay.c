/* lm-relay: what the router costs: a stand-in backend, the router and a client, each a process of its own on this machine.
 *
 *     lm-relay [--requests 2000] [--streams 1000] [--tokens 100] [--pace-ms 50] [--json]
 *
 * Latency: one request after the other, the same one directly and through the router in turn; how much longer the router's takes.
 * Streams: all at once, a token each pace-ms, each with the time at which it was written; how late they come, how many in all, and
 * what memory the router took. At last the same streams without a pace: tokens per second. The processor time of the router, over all,
 * says more than the others on a machine that is not quiet.
 * Exit: 0 nothing was lost, 1 something was. */
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "http/http.h"
#include "http/pump.h"
#include "router/router.h"

enum { MAX_STREAMS = 4000, MAX_SAMPLES = 4000000 };

typedef struct options {
    uint32_t requests, streams, tokens, pace_ms;
    bool json;
} options;

static LM_NORETURN void die(const char *what, const char *why) {
    fprintf(stderr, "lm-relay: %s: %s\n", what, why);
    exit(1);
}

/* ---- the stand-in backend */

typedef struct stream {
    lm_http *x;
    uint32_t left;
    uint64_t next_ns, pace_ns;
} stream;

static struct {
    pthread_mutex_t lock;
    stream list[MAX_STREAMS];
    uint32_t n;
} streams = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void add_token(lm_buf *b, bool done) {
    lm_buf_printf(
        b,
        "{\"model\":\"bench\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\","
        "\"content\":\" token\"},\"done\":%s,\"t\":%llu}\n",
        done ? "true" : "false", (unsigned long long)lm_now_ns());
}

static bool write_token(stream *s) {
    lm_buf b;
    lm_buf_init(&b, 4096);
    add_token(&b, s->left == 1);
    lm_status st = lm_http_write(s->x, lm_buf_view(&b));
    lm_buf_release(&b);
    if (--s->left && st == LM_OK) return true;
    lm_http_end(s->x);
    lm_http_unref(s->x);
    return false;
}

static void *tick(void *arg) {
    (void)arg;
    for (;; usleep(500)) {
        pthread_mutex_lock(&streams.lock);
        uint64_t now = lm_now_ns();
        for (uint32_t i = 0; i < streams.n;) {
            stream *s = &streams.list[i];
            if (s->next_ns > now) {
                i++;
                continue;
            }
            s->next_ns += s->pace_ns;
            if (write_token(s))
                i++;
            else
                *s = streams.list[--streams.n];
        }
        pthread_mutex_unlock(&streams.lock);
    }
    return NULL;
}

static uint32_t number(const char *body, const char *key) {
    const char *at = strstr(body, key);
    return at ? (uint32_t)strtoul(at + strlen(key), NULL, 10) : 0;
}

/* num_predict: tokens; seed: milliseconds between them, 0: all at once. */
static void chat(lm_http *x) {
    char *body = lm_str_dup(lm_http_body(x));
    uint32_t tokens = number(body, "\"num_predict\":"), pace_ms = number(body, "\"seed\":");
    lm_buf b;
    lm_buf_init(&b, 64 << 20);
    if (strstr(body, "\"stream\":false")) {
        add_token(&b, true);
        lm_http_reply(x, 200, "application/json; charset=utf-8", lm_buf_view(&b));
    } else if (!pace_ms) {
        for (uint32_t i = 0; i < tokens; i++) add_token(&b, i + 1 == tokens);
        lm_http_stream(x, 200, "application/x-ndjson");
        lm_http_write(x, lm_buf_view(&b));
        lm_http_end(x);
    } else {
        lm_http_stream(x, 200, "application/x-ndjson");
        pthread_mutex_lock(&streams.lock);
        if (streams.n < MAX_STREAMS)
            streams.list[streams.n++] =
                (stream){lm_http_ref(x), tokens, lm_now_ns(), pace_ms * UINT64_C(1000000)};
        pthread_mutex_unlock(&streams.lock);
    }
    lm_buf_release(&b);
    free(body);
}

static void handle(void *ctx, lm_http *x) {
    (void)ctx;
    static const struct {
        const char *path, *body;
    } said[] = {
        {"/api/version", "{\"version\":\"0.30.0\"}"},
        {"/api/tags",
         "{\"models\":[{\"name\":\"bench:latest\",\"model\":\"bench:latest\",\"modified_at\":\"2026-01-01T00:"
         "00:00Z\",\"size\":1,"
         "\"digest\":\"0123456789012345678901234567890123456789012345678901234567890123\",\"details\":{}}]}"},
        {"/api/ps", "{\"models\":[]}"},
        {"/api/show", "{\"capabilities\":[\"completion\"],\"details\":{},\"model_info\":{}}"},
    };
    lm_str path = lm_http_path(x);
    if (lm_str_eq(path, LM_STR("/api/chat"))) {
        chat(x);
        return;
    }
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        if (lm_str_eq(path, lm_str_of(said[i].path)))
            lm_http_reply(x, 200, "application/json; charset=utf-8", lm_str_of(said[i].body));
    lm_http_reply(x, 404, "application/json", LM_STR("{\"error\":\"no\"}")); /* the first answer counts */
}

static LM_NORETURN void run_backend(uint16_t port) {
    lm_server *server = NULL;
    lm_err err = {0};
    pthread_t ticker;
    lm_server_config c = {.host = "127.0.0.1",
                          .port = port,
                          .max_body = 1 << 20,
                          .max_backlog = 64 << 20,
                          .max_connections = MAX_STREAMS + 100,
                          .idle_seconds = 600,
                          .n_workers = 2,
                          .handle = handle};
    if (lm_server_open(&server, &c, &err) != LM_OK) die("backend", err.text);
    if (pthread_create(&ticker, NULL, tick, NULL)) die("backend", "no thread");
    for (;;) pause();
}

/* ---- the router */

static LM_NORETURN void run_router(const char *home, uint16_t port, uint16_t backend) {
    lm_router_config config = {0};
    lm_err err = {0};
    char text[256];
    snprintf(text, sizeof text, "[router]\nport = %u\n[ollama]\nurl = http://127.0.0.1:%u\n", port, backend);
    char *path = lm_path_join(home, "router.ini"), *log = lm_path_join(home, "log");
    if (lm_file_write(path, lm_str_of(text), &err) != LM_OK) die(path, err.text);
    if (!freopen(log, "w", stderr) || !freopen(log, "a", stdout)) exit(1);
    setenv("HOME", home, 1);
    if (lm_router_config_read(path, &config, &err) != LM_OK) die(path, err.text);
    int code = lm_router_serve(&config, path, false);
    lm_router_config_release(&config);
    free(path);
    free(log);
    exit(code);
}

static uint16_t free_port(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof a;
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || getsockname(fd, (struct sockaddr *)&a, &len))
        die("socket", "no free port");
    close(fd);
    return ntohs(a.sin_port);
}

/* ---- figures */

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

typedef struct samples {
    uint64_t *ns;
    size_t n;
} samples;

static void add(samples *s, uint64_t ns) {
    if (!s->ns) s->ns = lm_alloc(MAX_SAMPLES * sizeof *s->ns);
    if (s->n < MAX_SAMPLES) s->ns[s->n++] = ns;
}

/* Sorts. */
static double ms_at(samples *s, double share) {
    if (!s->n) return 0;
    qsort(s->ns, s->n, sizeof *s->ns, by_size);
    return (double)s->ns[(size_t)((double)(s->n - 1) * share)] / 1e6;
}

static void report(const options *o, const char *metric, double direct, double router, const char *unit) {
    if (o->json)
        printf("{\"metric\":\"%s\",\"unit\":\"%s\",\"direct\":%.4f,\"router\":%.4f}\n", metric, unit, direct,
               router);
    else
        printf("%-38s %12.3f %12.3f  %s\n", metric, direct, router, unit);
    fflush(stdout);
}

/* ---- latency */

static uint64_t ask_once(lm_client *c, uint16_t port, const char *body) {
    char url[64];
    lm_answer a;
    lm_err err = {0};
    snprintf(url, sizeof url, "http://127.0.0.1:%u/api/chat", port);
    lm_ask q = {.method = "POST", .url = url, .body = lm_str_of(body), .total_ms = 60000};
    uint64_t from = lm_now_ns();
    lm_status st = lm_client_ask(c, &q, &a, &err);
    uint64_t ns = lm_now_ns() - from;
    if (st != LM_OK || a.status != 200) die(url, st == LM_OK ? a.body.ptr : err.text);
    lm_answer_release(&a);
    return ns;
}

static void measure_latency(const options *o, uint16_t backend, uint16_t router, const char *name,
                            const char *body) {
    lm_client *direct = NULL, *through = NULL;
    lm_err err = {0};
    samples d = {0}, r = {0};
    if (lm_client_open(&direct, &err) != LM_OK || lm_client_open(&through, &err) != LM_OK)
        die("client", err.text);
    for (uint32_t i = 0; i < o->requests + 100; i++) {
        uint64_t a = ask_once(direct, backend, body), b = ask_once(through, router, body);
        if (i < 100) continue; /* both have found their pace */
        add(&d, a);
        add(&r, b);
    }
    static const double shares[] = {0.5, 0.99};
    for (int i = 0; i < 2; i++) {
        char metric[64];
        snprintf(metric, sizeof metric, "%s, p%.0f", name, shares[i] * 100);
        report(o, metric, ms_at(&d, shares[i]), ms_at(&r, shares[i]), "ms");
    }
    lm_client_close(direct);
    lm_client_close(through);
    free(d.ns);
    free(r.ns);
}

/* ---- many streams */

typedef struct reader {
    char part[256]; /* of a line that is not whole yet */
    size_t n_part;
    uint32_t tokens;
    bool done;
    struct crowd *crowd;
} reader;

typedef struct crowd {
    samples late;
    atomic_uint ended;
    uint32_t failed;
} crowd;

static void take_line(reader *r, const char *line) {
    const char *at = strstr(line, "\"t\":");
    if (!at) return;
    uint64_t now = lm_now_ns(), then = strtoull(at + 4, NULL, 10);
    add(&r->crowd->late, now > then ? now - then : 0);
    r->tokens++;
    r->done |= strstr(line, "\"done\":true") != NULL;
}

static bool on_body(void *ctx, lm_str piece) {
    reader *r = ctx;
    for (size_t i = 0; i < piece.len; i++) {
        if (piece.ptr[i] != '\n') {
            if (r->n_part + 1 < sizeof r->part) r->part[r->n_part++] = piece.ptr[i];
            continue;
        }
        r->part[r->n_part] = '\0';
        take_line(r, r->part);
        r->n_part = 0;
    }
    return true;
}

static void on_end(void *ctx, lm_status st, const char *text) {
    reader *r = ctx;
    if (st != LM_OK && !r->crowd->failed++) fprintf(stderr, "lm-relay: a stream failed: %s\n", text);
    atomic_fetch_add(&r->crowd->ended, 1);
}

typedef struct result {
    double p50, p99, per_second;
    uint64_t tokens;
    uint32_t whole; /* streams that came to their end */
} result;

static result run_streams(const options *o, uint16_t port, uint32_t pace_ms) {
    lm_pump *pump = NULL;
    lm_err err = {0};
    char url[64], body[256];
    crowd c = {0};
    result out = {0};
    if (lm_pump_open(&pump, &err) != LM_OK) die("client", err.text);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/api/chat", port);
    snprintf(body, sizeof body,
             "{\"model\":\"bench\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"options\":{\"num_"
             "predict\":%u,\"seed\":%u}}",
             o->tokens, pace_ms);
    reader *readers = lm_alloc(o->streams * sizeof *readers);
    uint64_t from = lm_now_ns();
    for (uint32_t i = 0; i < o->streams; i++) {
        readers[i].crowd = &c;
        lm_flow_unref(lm_pump_start(pump, &(lm_flow_ask){.method = "POST",
                                                         .url = url,
                                                         .body = lm_str_of(body),
                                                         .first_ms = 60000,
                                                         .silent_ms = 60000,
                                                         .on_body = on_body,
                                                         .on_end = on_end,
                                                         .ctx = &readers[i]}));
    }
    while (atomic_load(&c.ended) < o->streams) usleep(1000);
    double seconds = (double)(lm_now_ns() - from) / 1e9;
    lm_pump_close(pump);
    for (uint32_t i = 0; i < o->streams; i++) {
        out.tokens += readers[i].tokens;
        out.whole += readers[i].done && readers[i].tokens == o->tokens;
    }
    out.p50 = ms_at(&c.late, 0.5);
    out.p99 = ms_at(&c.late, 0.99);
    out.per_second = (double)out.tokens / seconds;
    free(c.late.ns);
    free(readers);
    return out;
}

static bool measure_streams(const options *o, uint16_t backend, uint16_t router) {
    char name[64];
    bool lost = false;
    for (int paced = 1; paced >= 0; paced--) {
        uint32_t pace = paced ? o->pace_ms : 0;
        result d = run_streams(o, backend, pace), r = run_streams(o, router, pace);
        const char *how = paced ? "paced" : "at once";
        snprintf(name, sizeof name, "%u streams %s, whole", o->streams, how);
        report(o, name, d.whole, r.whole, "streams");
        snprintf(name, sizeof name, "%u streams %s, tokens", o->streams, how);
        report(o, name, d.per_second, r.per_second, "tokens/s");
        if (paced) {
            report(o, "a token's way, p50", d.p50, r.p50, "ms");
            report(o, "a token's way, p99", d.p99, r.p99, "ms");
        }
        lost |= r.whole < o->streams || d.whole < o->streams;
    }
    return !lost;
}

/* ---- all of it */

static void wait_for(uint16_t port) {
    lm_client *c = NULL;
    lm_err err = {0};
    if (lm_client_open(&c, &err) != LM_OK) die("client", err.text);
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/api/version", port);
    for (int i = 0;; i++, usleep(50000)) {
        lm_answer a;
        lm_status st = lm_client_ask(c, &(lm_ask){.method = "GET", .url = url, .total_ms = 5000}, &a, &err);
        bool up = st == LM_OK && a.status == 200;
        lm_answer_release(&a);
        if (up) break;
        if (i == 200) die(url, err.text);
    }
    lm_client_close(c);
}

static void read_options(int argc, char **argv, options *o) {
    struct {
        const char *name;
        uint32_t *value;
    } numbers[] = {{"--requests", &o->requests},
                   {"--streams", &o->streams},
                   {"--tokens", &o->tokens},
                   {"--pace-ms", &o->pace_ms}};
    for (int i = 1; i < argc; i++) {
        bool known = !strcmp(argv[i], "--json");
        o->json |= known;
        for (size_t k = 0; !known && k < sizeof numbers / sizeof *numbers; k++)
            if (!strcmp(argv[i], numbers[k].name) && i + 1 < argc) {
                *numbers[k].value = (uint32_t)strtoul(argv[++i], NULL, 10);
                known = true;
            }
        if (!known)
            die(argv[i],
                "lm-relay [--requests 2000] [--streams 1000] [--tokens 100] [--pace-ms 50] [--json]");
    }
    if (!o->streams || o->streams > MAX_STREAMS || !o->tokens || !o->requests) die("options", "out of range");
}

static pid_t fork_child(void) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) die("fork", "the system's limit of processes is reached");
    return pid;
}

int main(int argc, char **argv) {
    options o = {.requests = 2000, .streams = 1000, .tokens = 100, .pace_ms = 50};
    read_options(argc, argv, &o);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < 16384 ? limit.rlim_max : 16384;
    setrlimit(RLIMIT_NOFILE, &limit);
    char home[] = "/tmp/lm-relay-XXXXXX";
    if (!mkdtemp(home)) die(home, "cannot be made");
    uint16_t backend_port = free_port(), router_port = free_port();
    pid_t backend = fork_child();
    if (!backend) run_backend(backend_port);
    wait_for(backend_port);
    pid_t router = fork_child();
    if (!router) run_router(home, router_port, backend_port);
    wait_for(router_port);

    if (!o.json) printf("%-38s %12s %12s\n", "", "direct", "router");
    measure_latency(
        &o, backend_port, router_port, "a whole answer",
        "{\"model\":\"bench\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"stream\":false}");
    measure_latency(&o, backend_port, router_port, "a stream of one token",
                    "{\"model\":\"bench\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"options\":{"
                    "\"num_predict\":1}}");
    bool whole = measure_streams(&o, backend_port, router_port);

    struct rusage used = {0};
    int status = 0;
    kill(router, SIGTERM);
    wait4(router, &status, 0, &used);
    kill(backend, SIGKILL);
    waitpid(backend, NULL, 0);
#ifdef __APPLE__
    double mib = (double)used.ru_maxrss / 1048576;
#else
    double mib = (double)used.ru_maxrss / 1024;
#endif
    report(&o, "the router's memory, at most", 0, mib, "MiB");
    report(&o, "the router's processor time", 0,
           (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
               (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
           "s");
    lm_err err = {0};
    if (lm_dir_remove(home, &err) != LM_OK) die(home, err.text);
    return whole && WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : 1;
}

/* notify.c - says READY, STOPPING, and while there is work that gets on: WATCHDOG.
 *
 * The word of the watchdog hangs on the engine, not on this thread: a step that takes longer than its limit, or a lock
 * that is never given back, ends it, and whoever listens starts the server anew. What a slow processor makes of a long
 * prompt is one step after the other, so the limit is for one of them.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/notify.h"
#include "bridge/bridge.h"

#define TICK_NS    UINT64_C(1000000000)
#define LEAST_TICK UINT64_C(10000000)

struct bridge_notify {
    char *address;
    uint64_t watchdog_ns; /* 0: none is wanted */
    uint64_t step_ns, load_ns;
    pid_t supervisor; /* 0: ends without it are nobody's business here */
    pthread_t thread;
    bool running;

    /* the thread's */
    uint64_t told_ns; /* the last WATCHDOG */
    unsigned long long told_requests;
    char told_status[200];
    bool stuck;        /* and it has been said */
    uint32_t orphaned; /* ticks */

    lm_engine *engine;
    int wake[2]; /* a pipe: closed at its writing end when the thread shall end */
    atomic_bool stopping;
};

static atomic_ullong n_requests;

void bridge_notify_request(void) {
    atomic_fetch_add_explicit(&n_requests, 1, memory_order_relaxed);
}

static void say(bridge_notify *n, const char *text) {
    lm_err err = {0};
    if (lm_notify_send(n->address, lm_str_of(text), &err) == LM_IO)
        lm_log(LM_LOG_DEBUG, "nobody hears how this server is", "error=\"%s\"", err.text);
}

/* Work that does not get on is said once, and that it does again. */
static bool gets_on(bridge_notify *n, const lm_engine_pulse *p) {
    bool stuck = p->turn_ns > n->step_ns || p->load_ns > n->load_ns;
    if (stuck && !n->stuck)
        lm_log(LM_LOG_ERROR, "no progress: the watchdog hears nothing more",
               "step_s=%llu load_s=%llu steps=%llu", (unsigned long long)(p->turn_ns / TICK_NS),
               (unsigned long long)(p->load_ns / TICK_NS), (unsigned long long)p->n_steps);
    if (!stuck && n->stuck) lm_log(LM_LOG_WARN, "it gets on again", NULL);
    n->stuck = stuck;
    return !stuck;
}

static void tell(bridge_notify *n, lm_engine *engine) {
    lm_engine_pulse pulse;
    lm_engine_stats stats;
    lm_engine_get_pulse(engine, &pulse);
    lm_engine_get_stats(engine, &stats);
    char message[400] = "", status[sizeof n->told_status];
    int len = 0;
    uint64_t now = lm_now_ns();
    if (gets_on(n, &pulse) && n->watchdog_ns && now - n->told_ns >= n->watchdog_ns / 2) {
        len = snprintf(message, sizeof message, "WATCHDOG=1\n");
        n->told_ns = now;
    }
    unsigned long long requests = atomic_load_explicit(&n_requests, memory_order_relaxed);
    if (requests != n->told_requests)
        len += snprintf(message + len, sizeof message - (size_t)len, "X_REQUESTS=%llu\n", requests);
    n->told_requests = requests;
    snprintf(status, sizeof status, "%u models loaded, %u requests running, %u waiting%s", stats.n_models,
             stats.n_running, stats.n_waiting,
             n->stuck     ? ", no progress"
             : stats.lost ? ", a rank is lost"
                          : "");
    if (strcmp(status, n->told_status) != 0)
        len += snprintf(message + len, sizeof message - (size_t)len, "STATUS=%s\n", status);
    strcpy(n->told_status, status);
    if (len) say(n, message);
}

/* A supervisor that was killed cannot end us; the system may have (mlx-server-startup asks Linux to), so it has a tick for
 * that: a second SIGTERM would cut the answers that are on their way. */
static void look_after_supervisor(bridge_notify *n) {
    if (!n->supervisor || getppid() == n->supervisor || atomic_load(&n->stopping)) return;
    if (++n->orphaned != 2) return;
    lm_log(LM_LOG_ERROR, "the supervisor has gone, and so does this server", NULL);
    kill(getpid(), SIGTERM);
}

/* Not by a condition's clock: that one may be set back, and the watchdog would think that we hang. */
static void *tick(void *arg) {
    bridge_notify *n = arg;
    uint64_t ns = n->watchdog_ns && n->watchdog_ns / 4 < TICK_NS ? n->watchdog_ns / 4 : TICK_NS;
    struct pollfd end = {.fd = n->wake[0], .events = POLLIN};
    do {
        tell(n, n->engine);
        look_after_supervisor(n);
    } while (poll(&end, 1, (int)((ns < LEAST_TICK ? LEAST_TICK : ns) / 1000000)) <= 0);
    return NULL;
}

bridge_notify *bridge_notify_open(const bridge_config *c) {
    const char *address = getenv("NOTIFY_SOCKET"), *supervisor = getenv("MLX_BRIDGE_SUPERVISOR");
    bridge_notify *n = NULL;
    if (address && address[0]) {
        n = lm_alloc(sizeof *n);
        n->address = lm_strdup(address);
        n->watchdog_ns = lm_notify_watchdog_ns();
        n->step_ns = (uint64_t)c->step_ns;
        n->load_ns = (uint64_t)c->load_ns;
        n->supervisor = supervisor ? (pid_t)strtol(supervisor, NULL, 10) : 0;
        atomic_init(&n->stopping, false);
    }
    const char *const ours[] = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "MLX_BRIDGE_SUPERVISOR"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) unsetenv(ours[i]);
    return n;
}

void bridge_notify_ready(bridge_notify *n, lm_engine *engine) {
    if (!n) return;
    say(n, "READY=1\nSTATUS=ready\n");
    n->engine = engine;
    bool piped = !pipe(n->wake);
    for (int i = 0; i < 2 && piped; i++) (void)fcntl(n->wake[i], F_SETFD, FD_CLOEXEC);
    n->running = piped && !pthread_create(&n->thread, NULL, tick, n);
    if (!n->running && piped) {
        close(n->wake[0]);
        close(n->wake[1]);
    }
    if (!n->running)
        lm_log(LM_LOG_ERROR, "no thread for the watchdog: raise the limit of threads (ulimit -u)", NULL);
}

void bridge_notify_stopping(bridge_notify *n) {
    if (!n) return;
    atomic_store(&n->stopping, true);
    say(n, "STOPPING=1\nSTATUS=finishing what runs\n");
}

void bridge_notify_close(bridge_notify *n) {
    if (!n) return;
    if (n->running) {
        close(n->wake[1]);
        pthread_join(n->thread, NULL);
        close(n->wake[0]);
    }
    free(n->address);
    free(n);
}

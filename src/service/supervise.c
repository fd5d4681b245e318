/* supervise.c - the command `run`: a bridge is started, listened to, and started again when it ends or hangs.
 *
 *                     READY=1                    asked to end, or silent
 *     STARTING ---------------------> READY ------------------------------> STOPPING
 *        |  ends, or takes too long     | ends                                 | ended
 *        v                              v                                      v
 *     WAITING (back-off) <--------------+---------------------- failure, a new start, or the end
 *        |                                                                (GAVE_UP: too many failures)
 *        +--> STARTING
 *
 * One thread, one poll. Nothing in it waits for the bridge: its output must be read at all times, or it would stand still.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/notify.h"
#include "http/http.h"
#include "service/service.h"

#define KILL_AFTER_NS  (5 * SERVICE_SECOND_NS) /* beyond the drain */
#define ORPHAN_NS      (5 * SERVICE_SECOND_NS)
#define STATE_NS       (10 * SERVICE_SECOND_NS) /* between notes of what is no change of phase */
#define LONGEST_POLL   SERVICE_SECOND_NS
#define SLEPT_NS       (5 * SERVICE_SECOND_NS) /* a turn that is so late: this machine, or we, stood still */
#define READ_AT_A_TIME 65536
#define READS_PER_TURN 16 /* then it is the others' turn */

typedef enum after { AFTER_END, AFTER_START, AFTER_FAILURE } after;

typedef struct supervisor {
    service_config *c;
    const service_run *how;
    int tell_fd, lock_fd, listen_fd;
    char *pid_path, *state_path; /* as they were at the beginning */
    bool given;                  /* the socket belongs to the init system */
    service_pipes pipes;
    service_log log, errors;
    service_split split;
    service_state s;
    bool dirty; /* s is not what the file says */
    uint64_t written_ns;

    pid_t child; /* 0: none */
    after next;  /* what comes when a bridge that is STOPPING has ended */
    bool ever_ready, done;
    int code;
    uint64_t until_ns; /* of STARTING, STOPPING, WAITING */
    uint64_t word_ns;  /* the last WATCHDOG */
    uint64_t ready_ns;
    uint64_t requests, requests_before; /* of this bridge, of those before */

    uint64_t *failures; /* when; the last `failures` of them, a ring */
    uint32_t n_failures, in_row;

    service_probe probe;
    uint64_t probe_ns, probe_requests; /* when the next is due; how many requests there were at the last */
    uint32_t n_ill;

    char *init_socket; /* systemd's, NULL: none */
    uint64_t init_watchdog_ns, init_told_ns;
    uint64_t turn_ns;
} supervisor;

/* ---- signals come through a pipe */

static int signal_pipe[2] = {-1, -1};

static void on_signal(int sig) {
    int saved = errno;
    char byte = (char)sig;
    if (write(signal_pipe[1], &byte, 1) < 0) (void)0; /* full: enough of them are waiting */
    errno = saved;
}

static lm_status catch_signals(lm_err *err) {
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD};
    if (pipe(signal_pipe)) return lm_fail(err, LM_IO, "cannot make a pipe: %s", strerror(errno));
    for (int i = 0; i < 2; i++) {
        (void)fcntl(signal_pipe[i], F_SETFD, FD_CLOEXEC);
        (void)fcntl(signal_pipe[i], F_SETFL, O_NONBLOCK);
    }
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &a, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes is a full disk, not our end */
    return LM_OK;
}

/* ---- telling */

static void say(supervisor *v, lm_level level, const char *msg, const char *fields, ...) LM_PRINTF(4, 5);
static void say(supervisor *v, lm_level level, const char *msg, const char *fields, ...) {
    lm_buf line;
    lm_buf_init(&line, 16384);
    va_list args;
    va_start(args, fields);
    lm_log_line(&line, level, msg, fields, args);
    va_end(args);
    if (!v->how->tell_fd && write(STDERR_FILENO, line.ptr, line.len) < 0) (void)0;
    service_log *to = level <= LM_LOG_INFO ? &v->log : &v->errors;
    if (to->path) service_log_add(to, lm_buf_view(&line));
    lm_buf_release(&line);
}

/* To `start`, which waits for one word. */
static void tell(supervisor *v, const char *format, ...) LM_PRINTF(2, 3);
static void tell(supervisor *v, const char *format, ...) {
    if (v->tell_fd <= 0) return;
    char text[800];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n >= (int)sizeof text) n = sizeof text - 1;
    if (write(v->tell_fd, text, (size_t)n) < 0) (void)0; /* it has gone: nobody is curious */
    close(v->tell_fd);
    v->tell_fd = 0;
}

static void tell_init(supervisor *v, const char *message) {
    if (!v->init_socket) return;
    lm_err err = {0};
    if (lm_notify_send(v->init_socket, lm_str_of(message), &err) != LM_OK)
        say(v, LM_LOG_WARN, "the init system does not listen", "error=\"%s\"", err.text);
}

static void note(supervisor *v) {
    lm_err err = {0};
    v->dirty = false;
    v->written_ns = lm_now_ns();
    if (service_state_write(v->state_path, &v->s, &err) == LM_OK) return;
    v->dirty = true; /* there may be room later */
    say(v, LM_LOG_WARN, "the state cannot be noted", "error=\"%s\"", err.text);
}

static void enter(supervisor *v, service_phase phase) {
    v->s.phase = phase;
    v->s.since_ns = lm_wall_ns();
    v->s.bridge = v->child;
    v->s.bridge_began = v->child ? service_process_began(v->child) : 0;
    note(v);
}

/* ---- a bridge's life */

static void give_up(supervisor *v, const char *why) {
    snprintf(v->s.trouble, sizeof v->s.trouble, "%s", why);
    say(v, LM_LOG_ERROR, "gave up: the bridge is not started again", "why=\"%s\" log=%s", why,
        service_text(v->c, SET_ERROR_LOG));
    enter(v, PHASE_GAVE_UP);
    tell(v, "failed: %s\n", why);
    v->code = v->how->give_up_ok ? EXIT_DONE : EXIT_GAVE_UP;
    v->done = true;
}

static bool too_many(supervisor *v) {
    uint32_t most = (uint32_t)service_number(v->c, SET_FAILURES);
    v->failures[v->n_failures++ % most] = lm_now_ns();
    if (v->n_failures < most) return false;
    uint64_t oldest = v->failures[v->n_failures % most];
    return lm_now_ns() - oldest <= (uint64_t)service_number(v->c, SET_FAILURES_WITHIN);
}

/* hopeless: another attempt would end the same. */
static void fail(supervisor *v, bool hopeless, const char *why) {
    int64_t wait = service_number(v->c, SET_BACKOFF), most = service_number(v->c, SET_BACKOFF_MAX);
    if (v->ready_ns && lm_now_ns() - v->ready_ns > (uint64_t)most) v->in_row = 0;
    v->ready_ns = 0;
    v->s.n_failures++;
    snprintf(v->s.trouble, sizeof v->s.trouble, "%s", why);
    if (hopeless || (v->how->tell_fd && !v->ever_ready)) {
        give_up(v, why);
        return;
    }
    if (too_many(v)) {
        char text[400];
        snprintf(text, sizeof text, "%lld failures within %s, the last: %.250s",
                 (long long)service_number(v->c, SET_FAILURES), service_text(v->c, SET_FAILURES_WITHIN), why);
        give_up(v, text);
        return;
    }
    for (uint32_t i = 0; i < v->in_row && wait < most; i++) wait *= 2;
    if (wait > most) wait = most;
    v->in_row++;
    v->until_ns = lm_now_ns() + (uint64_t)wait;
    say(v, LM_LOG_ERROR, "the bridge failed", "why=\"%s\" failures=%u next_attempt_s=%.1f", why,
        v->s.n_failures, (double)wait / 1e9);
    enter(v, PHASE_WAITING);
}

static void start(supervisor *v) {
    lm_err err = {0};
    lm_status st = service_child_start(v->c, &v->pipes, v->listen_fd, &v->child, &err);
    if (st != LM_OK) {
        fail(v, false, err.text);
        return;
    }
    v->s.n_starts++;
    v->requests_before += v->requests;
    v->requests = v->probe_requests = 0;
    v->n_ill = 0;
    v->s.status[0] = '\0';
    v->until_ns = lm_now_ns() + (uint64_t)service_number(v->c, SET_START_LIMIT);
    say(v, LM_LOG_INFO, "the bridge starts", "pid=%d url=%s", (int)v->child, v->s.url);
    enter(v, PHASE_STARTING);
}

/* Asks it to end; what runs may go on for the drain. */
static void ask_to_end(supervisor *v, after next) {
    service_probe_stop(&v->probe);
    v->next = next;
    v->until_ns = lm_now_ns() + (uint64_t)(service_number(v->c, SET_DRAIN) + KILL_AFTER_NS);
    kill(v->child, SIGTERM);
    enter(v, PHASE_STOPPING);
}

/* It hangs: nothing that it could still do is waited for. */
static void put_down(supervisor *v, const char *why) {
    service_probe_stop(&v->probe);
    say(v, LM_LOG_ERROR, "the bridge hangs and is killed", "pid=%d why=\"%s\"", (int)v->child, why);
    snprintf(v->s.trouble, sizeof v->s.trouble, "%s", why);
    v->next = AFTER_FAILURE;
    v->until_ns = UINT64_MAX;
    kill(v->child, SIGKILL);
    enter(v, PHASE_STOPPING);
}

static void ready(supervisor *v) {
    v->ready_ns = v->word_ns = lm_now_ns();
    v->probe_ns = v->ready_ns + (uint64_t)service_number(v->c, SET_HEALTH);
    say(v, LM_LOG_INFO, "the bridge is ready", "pid=%d url=%s", (int)v->child, v->s.url);
    if (!v->ever_ready) tell_init(v, "READY=1\nSTATUS=ready\n");
    v->ever_ready = true;
    enter(v, PHASE_READY);
    tell(v, "ready\n");
}

/* ---- what the bridge says */

static void read_output(supervisor *v, int fd, bool errors) {
    char piece[READ_AT_A_TIME];
    for (int i = 0; i < READS_PER_TURN; i++) {
        ssize_t n = read(fd, piece, sizeof piece);
        if (n <= 0) return;
        if (errors)
            service_split_add(&v->split, (lm_str){piece, (size_t)n});
        else
            service_log_add(&v->log, (lm_str){piece, (size_t)n});
    }
}

static void take_status(supervisor *v, lm_str text) {
    size_t n = 0;
    for (size_t i = 0; i < text.len && n < sizeof v->s.status - 1; i++)
        v->s.status[n++] = text.ptr[i] >= ' ' && text.ptr[i] < 127 ? text.ptr[i] : '?';
    v->s.status[n] = '\0';
    v->dirty = true;
    char message[400];
    snprintf(message, sizeof message, "STATUS=%s\n", v->s.status);
    tell_init(v, message);
}

static void take_requests(supervisor *v, lm_str text) {
    uint64_t n = 0;
    for (size_t i = 0; i < text.len && i < 18; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9') return;
        n = n * 10 + (uint64_t)(text.ptr[i] - '0');
    }
    v->requests = n;
    v->s.n_requests = v->requests_before + n;
    v->dirty = true;
}

static void take_message(supervisor *v, lm_str message) {
    lm_str name, value;
    while (lm_notify_next(&message, &name, &value)) {
        if (lm_str_eq(name, LM_STR("READY")) && v->s.phase == PHASE_STARTING) ready(v);
        if (lm_str_eq(name, LM_STR("WATCHDOG"))) v->word_ns = lm_now_ns();
        if (lm_str_eq(name, LM_STR("STATUS"))) take_status(v, value);
        if (lm_str_eq(name, LM_STR("X_REQUESTS"))) take_requests(v, value);
    }
}

static void read_messages(supervisor *v) {
    char message[LM_NOTIFY_MAX];
    for (int i = 0; i < 1000; i++) {
        ssize_t n = recv(v->pipes.notify, message, sizeof message, 0);
        if (n < 0) return;
        take_message(v, (lm_str){message, (size_t)n});
    }
}

/* ---- it ended */

static void describe_end(int status, char out[200]) {
    if (WIFSIGNALED(status))
        snprintf(out, 200, "the bridge was ended by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(out, 200, "the bridge ended with exit status %d", WEXITSTATUS(status));
}

static void ended(supervisor *v, int status) {
    char how[200], why[sizeof v->s.trouble];
    describe_end(status, how);
    service_probe_stop(&v->probe);
    v->child = 0;
    /* Its last words; they are in the pipes already. */
    read_messages(v);
    read_output(v, v->pipes.out[0], false);
    read_output(v, v->pipes.err[0], true);
    service_log_end_line(&v->log);
    service_split_end_line(&v->split);
    if (v->s.phase != PHASE_STOPPING) {
        fail(v, WIFEXITED(status) && WEXITSTATUS(status) == EXIT_USAGE, how);
        return;
    }
    if (v->next == AFTER_FAILURE) {
        snprintf(why, sizeof why, "%s", v->s.trouble);
        fail(v, false, why);
        return;
    }
    bool well = WIFEXITED(status) && !WEXITSTATUS(status);
    say(v, well ? LM_LOG_INFO : LM_LOG_WARN, "the bridge has ended", "how=\"%s\"", how);
    if (v->next == AFTER_START)
        start(v);
    else
        v->done = true;
}

static void reap(supervisor *v) {
    int status = 0;
    if (v->child && waitpid(v->child, &status, WNOHANG) == v->child) ended(v, status);
    /* Others' orphans come to us in a container, where we are process 1. */
    if (getpid() == 1)
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
            if (pid == v->child) ended(v, status);
}

/* ---- what it is asked to do */

static void stop(supervisor *v) {
    say(v, LM_LOG_INFO, "stopping", NULL);
    tell_init(v, "STOPPING=1\n");
    tell(v, "failed: it was stopped before it was ready\n");
    if (v->listen_fd >= 0) close(v->listen_fd); /* who comes now is refused, not left waiting */
    v->listen_fd = -1;
    if (!v->child) {
        v->done = true;
    } else if (v->s.phase == PHASE_STOPPING) {
        v->next = AFTER_END;
    } else {
        ask_to_end(v, AFTER_END);
    }
}

static bool stops(const supervisor *v) {
    return v->done || (v->s.phase == PHASE_STOPPING && v->next == AFTER_END);
}

static void restart(supervisor *v) {
    if (stops(v)) return;
    say(v, LM_LOG_INFO, "restarting", "pid=%d", (int)v->child);
    v->in_row = 0;
    if (!v->child)
        start(v);
    else if (v->s.phase == PHASE_STOPPING)
        v->next = AFTER_START;
    else
        ask_to_end(v, AFTER_START);
}

static void write_url(supervisor *v) {
    char host[64];
    uint16_t port;
    if (lm_listen_address(v->listen_fd, host, &port, NULL) != LM_OK) return;
    const char *shown = !strcmp(host, "0.0.0.0") || !strcmp(host, "::") ? "127.0.0.1" : host;
    snprintf(v->s.url, sizeof v->s.url, strchr(shown, ':') ? "http://[%s]:%u" : "http://%s:%u", shown, port);
}

/* Of the new configuration, what can fail comes first: on failure everything is as it was. */
static lm_status take_over(supervisor *v, service_config *fresh, lm_err *err) {
    const service_config *old = v->c;
    bool moved = strcmp(service_text(old, SET_HOST), service_text(fresh, SET_HOST)) != 0 ||
                 service_number(old, SET_PORT) != service_number(fresh, SET_PORT);
    if (strcmp(service_text(old, SET_PID), service_text(fresh, SET_PID)) != 0 ||
        strcmp(service_text(old, SET_STATE), service_text(fresh, SET_STATE)) != 0)
        return lm_fail(err, LM_INVALID, "`pid` and `state` change with stop and start only");
    if (moved && v->given)
        return lm_fail(err, LM_INVALID,
                       "the init system holds the socket: run install-service to move it to another address");
    char *program = NULL;
    lm_status st = service_bridge_program(fresh, &program, err);
    free(program);
    service_log log = {.fd = -1}, errors = {.fd = -1};
    uint64_t rotate = (uint64_t)service_number(fresh, SET_ROTATE);
    if (st == LM_OK) st = service_log_open(&log, service_text(fresh, SET_LOG), rotate, err);
    if (st == LM_OK) st = service_log_open(&errors, service_text(fresh, SET_ERROR_LOG), rotate, err);
    int fd = -1;
    uint16_t port;
    if (st == LM_OK && moved)
        st = lm_listen(service_text(fresh, SET_HOST), (uint16_t)service_number(fresh, SET_PORT), &fd, &port,
                       err);
    if (st != LM_OK) {
        service_log_close(&log);
        service_log_close(&errors);
        return st;
    }
    service_log_close(&v->log);
    service_log_close(&v->errors);
    v->log = log;
    v->errors = errors;
    if (fd >= 0) {
        close(v->listen_fd);
        v->listen_fd = fd;
        write_url(v);
    }
    return LM_OK;
}

static void limits_of(supervisor *v) {
    v->failures = lm_realloc(v->failures, (size_t)service_number(v->c, SET_FAILURES) * sizeof *v->failures);
    v->n_failures = 0;
    v->s.stop_ns = service_number(v->c, SET_DRAIN) + 2 * KILL_AFTER_NS;
    snprintf(v->s.error_log, sizeof v->s.error_log, "%.399s", service_text(v->c, SET_ERROR_LOG));
}

static void reload(supervisor *v) {
    if (stops(v)) return;
    lm_err err = {0};
    service_config fresh = {0};
    /* A file that has gone since is no reason to take the defaults over. */
    lm_status st = service_config_read(v->c->found ? v->c->path : NULL, &fresh, &err);
    if (st == LM_OK) st = take_over(v, &fresh, &err);
    v->s.n_reloads++;
    if (st != LM_OK) {
        snprintf(v->s.reload, sizeof v->s.reload, "failed: %.480s", err.text);
        say(v, LM_LOG_ERROR, "the configuration stays as it was", "error=\"%s\"", err.text);
        service_config_release(&fresh);
        note(v);
        return;
    }
    bool other = service_config_other_bridge(v->c, &fresh);
    service_config_release(v->c);
    *v->c = fresh;
    limits_of(v);
    snprintf(v->s.reload, sizeof v->s.reload, "%s",
             other ? "the bridge is restarted" : "the bridge goes on, nothing that it knows has changed");
    say(v, LM_LOG_INFO, "configuration read", "file=%s bridge=%s", v->c->path, other ? "restarts" : "stays");
    if (other)
        restart(v);
    else
        note(v);
}

static void take_signals(supervisor *v) {
    char sig[64];
    ssize_t n = read(signal_pipe[0], sig, sizeof sig);
    for (ssize_t i = 0; i < n; i++) {
        switch (sig[i]) {
        case SIGTERM:
        case SIGINT:
            if (!stops(v)) stop(v);
            break;
        case SIGHUP: reload(v); break;
        case SIGUSR1: restart(v); break;
        default: break; /* SIGCHLD: every turn looks */
        }
    }
}

/* ---- time */

static void check_health(supervisor *v) {
    char why[200];
    service_verdict got = service_probe_go_on(&v->probe, why);
    if (got == PROBE_RUNS) return;
    v->probe_ns = lm_now_ns() + (uint64_t)service_number(v->c, SET_HEALTH);
    if (got == PROBE_WELL) {
        v->n_ill = 0;
        return;
    }
    say(v, LM_LOG_WARN, "a health check failed", "why=\"%s\" in_a_row=%u", why, ++v->n_ill);
    if (v->n_ill >= service_number(v->c, SET_HEALTH_FAILURES))
        put_down(v, why);
    else if (!service_number(v->c, SET_HEALTH))
        v->probe_ns = lm_now_ns(); /* by requests only: ask again at once */
}

static void start_probe(supervisor *v, uint64_t now) {
    int64_t every = service_number(v->c, SET_HEALTH), requests = service_number(v->c, SET_HEALTH_REQUESTS);
    bool due = (every || v->n_ill) && now >= v->probe_ns;
    if (requests && v->requests - v->probe_requests >= (uint64_t)requests) due = true;
    if (!due) return;
    v->probe_requests = v->requests;
    service_probe_start(&v->probe, v->listen_fd, service_number(v->c, SET_HEALTH_LIMIT));
    if (v->probe.fd < 0) check_health(v); /* it could not even begin */
}

static void look_at_clock(supervisor *v) {
    uint64_t now = lm_now_ns();
    int64_t watchdog = service_number(v->c, SET_WATCHDOG);
    char why[200];
    switch (v->s.phase) {
    case PHASE_STARTING:
        if (now < v->until_ns) break;
        snprintf(why, sizeof why, "the bridge was not ready within %s", service_text(v->c, SET_START_LIMIT));
        put_down(v, why);
        break;
    case PHASE_READY:
        if (watchdog && now - v->word_ns > (uint64_t)watchdog) {
            snprintf(why, sizeof why, "no progress: the bridge was silent for %.1f s",
                     (double)(now - v->word_ns) / 1e9);
            put_down(v, why);
        } else if (v->probe.fd >= 0) {
            check_health(v);
        } else {
            start_probe(v, now);
        }
        break;
    case PHASE_STOPPING:
        if (now < v->until_ns) break;
        say(v, LM_LOG_WARN, "the bridge did not end in time and is killed", "pid=%d", (int)v->child);
        v->until_ns = UINT64_MAX;
        kill(v->child, SIGKILL);
        break;
    case PHASE_WAITING:
        if (now >= v->until_ns) start(v);
        break;
    default: break;
    }
    if (v->init_watchdog_ns && now - v->init_told_ns >= v->init_watchdog_ns / 2) {
        v->init_told_ns = now; /* a bridge that hangs is ours to restart: this is the word that we do not */
        tell_init(v, "WATCHDOG=1\n");
    }
    if (v->dirty && now - v->written_ns > (uint64_t)STATE_NS) note(v);
}

/* While the machine slept, or we were stopped, nobody can have heard the bridge. */
static void forgive_sleep(supervisor *v, uint64_t asked_ns) {
    uint64_t now = lm_now_ns(), late = v->turn_ns ? now - v->turn_ns : 0;
    if (late > asked_ns + (uint64_t)SLEPT_NS) {
        v->word_ns = now;
        if (v->until_ns < UINT64_MAX - late) v->until_ns += late;
        if (v->probe.fd >= 0) v->probe.until_ns += late;
    }
}

static uint64_t next_turn(const supervisor *v) {
    uint64_t now = lm_now_ns(), wait = (uint64_t)LONGEST_POLL;
    int64_t watchdog = service_number(v->c, SET_WATCHDOG);
    if (v->s.phase != PHASE_READY && v->until_ns < now + wait)
        wait = v->until_ns > now ? v->until_ns - now : 0;
    if (v->s.phase == PHASE_READY && watchdog && (uint64_t)watchdog / 4 < wait) wait = (uint64_t)watchdog / 4;
    if (v->init_watchdog_ns && v->init_watchdog_ns / 4 < wait) wait = v->init_watchdog_ns / 4;
    return wait;
}

static void turn(supervisor *v) {
    enum { SIGNALS, OUT, ERR, NOTIFY, PROBE, N_FDS };
    struct pollfd fds[N_FDS] = {[SIGNALS] = {.fd = signal_pipe[0], .events = POLLIN},
                                [OUT] = {.fd = v->pipes.out[0], .events = POLLIN},
                                [ERR] = {.fd = v->pipes.err[0], .events = POLLIN},
                                [NOTIFY] = {.fd = v->pipes.notify, .events = POLLIN},
                                [PROBE] = {.fd = v->probe.fd, .events = service_probe_events(&v->probe)}};
    uint64_t wait = next_turn(v);
    v->turn_ns = lm_now_ns();
    poll(fds, N_FDS, (int)((wait + 999999) / 1000000));
    forgive_sleep(v, wait);
    if (fds[OUT].revents) read_output(v, v->pipes.out[0], false);
    if (fds[ERR].revents) read_output(v, v->pipes.err[0], true);
    read_messages(v);
    reap(v);
    if (!v->done && fds[SIGNALS].revents) take_signals(v);
    if (!v->done) look_at_clock(v);
}

/* ---- beginning and end */

static bool is_gone(pid_t pid, uint64_t began, int64_t limit_ns) {
    for (uint64_t end = lm_now_ns() + (uint64_t)limit_ns;;) {
        if (service_process_began(pid) != began) return true;
        if (lm_now_ns() >= end) return false;
        usleep(20000);
    }
}

/* A supervisor that was killed has left a bridge: it ends, so that it holds neither port nor memory. False: there was none. */
static bool end_orphan(supervisor *v) {
    service_state old;
    if (service_state_read(v->state_path, &old, NULL) != LM_OK) return false;
    service_notify_remove(old.notify);
    if (!old.bridge || !old.bridge_began) return false;
    if (service_process_began(old.bridge) != old.bridge_began) return true;
    say(v, LM_LOG_WARN, "an earlier supervisor has left its bridge behind: it is ended", "pid=%d",
        (int)old.bridge);
    kill(old.bridge, SIGTERM);
    if (is_gone(old.bridge, old.bridge_began, ORPHAN_NS)) return true;
    kill(old.bridge, SIGKILL);
    if (!is_gone(old.bridge, old.bridge_began, ORPHAN_NS))
        say(v, LM_LOG_ERROR, "it does not end", "pid=%d", (int)old.bridge);
    return true;
}

/* orphaned: an earlier bridge has just ended. The system counts a process as ended when its first thread is, and its sockets
 * are open until the last one is. */
static lm_status listen_where_told(supervisor *v, bool orphaned, lm_err *err) {
    uint64_t end = lm_now_ns() + (orphaned ? (uint64_t)ORPHAN_NS : 0);
    for (;;) {
        uint16_t port;
        lm_status st = lm_listen(service_text(v->c, SET_HOST), (uint16_t)service_number(v->c, SET_PORT),
                                 &v->listen_fd, &port, err);
        if (st != LM_IO || lm_now_ns() >= end) return st;
        usleep(20000);
    }
}

static lm_status open_socket(supervisor *v, bool orphaned, lm_err *err) {
    lm_status st = lm_listen_given("bridge", &v->listen_fd, err);
    v->given = st == LM_OK;
    if (st == LM_NOT_FOUND) st = listen_where_told(v, orphaned, err);
    if (st == LM_OK) write_url(v);
    return st == LM_OK ? LM_OK : lm_fail_in(err, st, "[bridge] in %s", v->c->path);
}

static lm_status open_all(supervisor *v, lm_err *err) {
    char *program = NULL;
    lm_status st = service_bridge_program(v->c, &program, err);
    free(program);
    if (st != LM_OK) return st;
    pid_t holder = 0;
    if ((st = service_lock_take(v->pid_path, &v->lock_fd, &holder, err)) != LM_OK) return st;
    uint64_t rotate = (uint64_t)service_number(v->c, SET_ROTATE);
    if ((st = service_log_open(&v->log, service_text(v->c, SET_LOG), rotate, err)) != LM_OK) return st;
    if ((st = service_log_open(&v->errors, service_text(v->c, SET_ERROR_LOG), rotate, err)) != LM_OK)
        return st;
    bool orphaned = end_orphan(v);
    if ((st = open_socket(v, orphaned, err)) != LM_OK) return st;
    if ((st = service_pipes_open(&v->pipes, err)) != LM_OK) return st;
    snprintf(v->s.notify, sizeof v->s.notify, "%s", v->pipes.notify_dir);
    return catch_signals(err);
}

static void close_all(supervisor *v) {
    service_probe_stop(&v->probe);
    service_pipes_close(&v->pipes);
    if (v->listen_fd >= 0) close(v->listen_fd);
    service_split_end_line(&v->split);
    lm_buf_release(&v->split.held);
    service_log_close(&v->log);
    service_log_close(&v->errors);
    if (v->lock_fd >= 0) {
        if (v->s.phase != PHASE_GAVE_UP) unlink(v->state_path);
        service_lock_give(v->pid_path, v->lock_fd);
    }
    for (int i = 0; i < 2; i++)
        if (signal_pipe[i] >= 0) close(signal_pipe[i]);
    free(v->failures);
    free(v->init_socket);
    free(v->pid_path);
    free(v->state_path);
}

static void ask_init(supervisor *v) {
    const char *address = getenv("NOTIFY_SOCKET");
    v->init_socket = address && address[0] ? lm_strdup(address) : NULL;
    v->init_watchdog_ns = v->init_socket ? lm_notify_watchdog_ns() : 0;
}

int service_supervise(service_config *c, const service_run *how) {
    supervisor v = {.c = c,
                    .how = how,
                    .tell_fd = how->tell_fd,
                    .lock_fd = -1,
                    .listen_fd = -1,
                    .pid_path = lm_strdup(service_text(c, SET_PID)),
                    .state_path = lm_strdup(service_text(c, SET_STATE)),
                    .probe = {.fd = -1},
                    .pipes = {.out = {-1, -1}, .err = {-1, -1}, .notify = -1}};
    v.split = (service_split){.log = &v.log, .errors = &v.errors};
    v.log.fd = v.errors.fd = -1;
    lm_err err = {0};
    umask(077);
    ask_init(&v);
    limits_of(&v);
    v.s.supervisor = getpid();
    v.s.supervisor_began = service_process_began(getpid());
    lm_status st = open_all(&v, &err);
    if (st != LM_OK) {
        bool other = st == LM_BUSY;
        if (!how->tell_fd) fprintf(stderr, "mlx-server-startup: %s\n", err.text);
        if (v.errors.path) say(&v, LM_LOG_ERROR, "cannot start", "error=\"%s\"", err.text);
        if (other)
            tell(&v, "busy\n");
        else
            tell(&v, "failed: %s\n", err.text);
        close_all(&v);
        return EXIT_FAILED;
    }
    say(&v, LM_LOG_INFO, "supervisor", "pid=%d version=%s configuration=%s", (int)getpid(), LM_VERSION,
        c->path);
    start(&v);
    while (!v.done) turn(&v);
    say(&v, LM_LOG_INFO, "supervisor ends", NULL);
    close_all(&v);
    return v.code;
}

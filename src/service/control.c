/* control.c - what people and scripts ask for: start, stop, restart, reload, status. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "http/client.h"
#include "service/init.h"
#include "service/service.h"

#define LOOK_US     50000
#define HEALTH_MS   5000
#define LATEST_END  (10 * SERVICE_SECOND_NS) /* of a supervisor that has said that it failed */
#define LATEST_STOP (60 * SERVICE_SECOND_NS) /* where nobody has noted how long it may take */

static int fail(const lm_err *err) {
    fprintf(stderr, "mlx-server-startup: %s\n", err->text);
    return EXIT_FAILED;
}

/* ---- a line while it lasts */

typedef struct progress {
    const char *what;
    uint64_t since_ns, shown_ns;
    bool shown;
} progress;

static void tick(progress *p) {
    uint64_t now = lm_now_ns();
    if (!p->since_ns) p->since_ns = now;
    uint64_t passed = now - p->since_ns;
    if (passed < (uint64_t)SERVICE_SECOND_NS) return;
    bool terminal = isatty(STDERR_FILENO);
    if (p->shown && (!terminal || now - p->shown_ns < (uint64_t)SERVICE_SECOND_NS)) return;
    if (terminal)
        fprintf(stderr, "\r%s ... %llu s", p->what,
                (unsigned long long)(passed / (uint64_t)SERVICE_SECOND_NS));
    else
        fprintf(stderr, "%s ...\n", p->what);
    p->shown = true;
    p->shown_ns = now;
}

static void quiet(progress *p) {
    if (p->shown && isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    p->shown = false;
}

/* ---- looking */

/* The supervisor and what it has noted; state.phase is PHASE_COUNT when that cannot be read. */
typedef struct seen {
    pid_t supervisor; /* 0: none */
    bool left;        /* a PID file without an owner */
    service_state state;
} seen;

static lm_status look(const service_config *c, seen *out, lm_err *err) {
    seen s = {0};
    lm_status st = service_lock_holder(service_text(c, SET_PID), &s.supervisor, &s.left, err);
    if (st != LM_OK) return st;
    if (service_state_read(service_text(c, SET_STATE), &s.state, NULL) != LM_OK ||
        (s.supervisor > 0 && s.state.supervisor != s.supervisor)) /* an earlier one's */
        s.state = (service_state){.phase = PHASE_COUNT};
    *out = s;
    return LM_OK;
}

static bool healthy(const char *url, char why[300]) {
    char whole[400];
    lm_client *client = NULL;
    lm_answer answer = {0};
    lm_err err = {0};
    snprintf(whole, sizeof whole, "%s/health", url);
    lm_ask ask = {.method = "GET",
                  .url = whole,
                  .connect_ms = HEALTH_MS,
                  .silent_ms = HEALTH_MS,
                  .total_ms = HEALTH_MS};
    lm_status st = lm_client_open(&client, &err);
    if (st == LM_OK) {
        st = lm_client_ask(client, &ask, &answer, &err);
        if (st == LM_OK && answer.status != 200)
            st = lm_fail(&err, LM_IO, "%s answers %d", whole, answer.status);
        lm_answer_release(&answer);
        lm_client_close(client);
    }
    if (st != LM_OK && why) snprintf(why, 300, "%.290s", err.text);
    return st == LM_OK;
}

/* ---- start */

static int say_running(const service_config *c, const seen *s, const char *how) {
    char why[300];
    if (!healthy(s->state.url, why)) {
        fprintf(stderr, "mlx-server-startup: the bridge says that it is ready, but %s\n", why);
        service_say_last_words(c, 0);
        return EXIT_FAILED;
    }
    printf("mlx-ollama-bridge %s at %s (process %d, its supervisor %d)\nlog: %s\n", how, s->state.url,
           (int)s->state.bridge, (int)s->supervisor, service_text(c, SET_LOG));
    return EXIT_DONE;
}

/* Until a bridge is ready that is not among the first n_starts ones. from: where the error log ended before. */
static int wait_ready(const service_config *c, uint32_t n_starts, const char *what, const char *how,
                      uint64_t from) {
    progress p = {.what = what};
    lm_err err = {0};
    int missing = 0;
    for (;;) {
        seen s;
        if (look(c, &s, &err) != LM_OK) return fail(&err);
        if (s.supervisor && s.state.phase == PHASE_READY && s.state.n_starts > n_starts) {
            quiet(&p);
            return say_running(c, &s, how);
        }
        bool waits = s.state.phase == PHASE_WAITING && s.state.n_starts > n_starts;
        if (waits || (!s.supervisor && ++missing > 20)) { /* it may be between lock and start */
            quiet(&p);
            const char *why = s.state.phase != PHASE_COUNT && s.state.trouble[0] ? s.state.trouble
                                                                                 : "its supervisor has ended";
            fprintf(stderr, "mlx-server-startup: the bridge did not start: %s%s\n", why,
                    waits ? " (it is tried again; `mlx-server-startup stop` ends that)" : "");
            service_say_last_words(c, from);
            return EXIT_FAILED;
        }
        tick(&p);
        usleep(LOOK_US);
    }
}

LM_NORETURN static void become_supervisor(const service_config *c, int tell_fd) {
    char self[PATH_MAX], fd[16];
    setsid(); /* the terminal's end is not ours */
    snprintf(fd, sizeof fd, "%d", tell_fd);
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < 3; i++) dup2(null, i);
    if (null > 2) close(null);
    if (chdir("/") || !lm_program_path(self)) _exit(EXIT_FAILED);
    if (c->found)
        execl(self, self, "run", "--config", c->path, "--tell-fd", fd, (char *)NULL);
    else
        execl(self, self, "run", "--tell-fd", fd, (char *)NULL);
    _exit(EXIT_FAILED);
}

/* Its one word, "" when it ended without. */
static void hear(int fd, char word[900]) {
    progress p = {.what = "starting mlx-ollama-bridge"};
    size_t n = 0;
    for (;;) {
        struct pollfd in = {.fd = fd, .events = POLLIN};
        tick(&p);
        if (poll(&in, 1, 100) <= 0) continue;
        ssize_t got = read(fd, word + n, 899 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        n += (size_t)got;
    }
    word[n] = '\0';
    quiet(&p);
}

/* It has said that it failed, and lives for a moment more: who asks for the status now must not find it any longer. */
static void await_end(pid_t supervisor) {
    uint64_t end = lm_now_ns() + (uint64_t)LATEST_END;
    while (waitpid(supervisor, NULL, WNOHANG) == 0 && lm_now_ns() < end) usleep(LOOK_US / 10);
}

static int start_ourselves(const service_config *c, uint64_t from) {
    int ends[2];
    if (pipe(ends)) {
        fprintf(stderr, "mlx-server-startup: cannot make a pipe: %s\n", strerror(errno));
        return EXIT_FAILED;
    }
    (void)fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    pid_t pid = fork();
    if (pid == 0) become_supervisor(c, ends[1]);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        fprintf(stderr, "mlx-server-startup: cannot make a process: %s\n", strerror(errno));
        return EXIT_FAILED;
    }
    char word[900];
    hear(ends[0], word);
    close(ends[0]);
    if (!strcmp(word, "ready\n")) {
        seen s;
        lm_err err = {0};
        if (look(c, &s, &err) != LM_OK) return fail(&err);
        if (s.state.phase == PHASE_COUNT) { /* no room for its notes */
            s.state.bridge = 0;
            snprintf(s.state.url, sizeof s.state.url, "http://%.200s:%s", service_text(c, SET_HOST),
                     service_text(c, SET_PORT));
        }
        return say_running(c, &s, "is ready");
    }
    if (!strcmp(word, "busy\n"))
        return wait_ready(c, 0, "another start is under way", "is running already", from);
    const char *why = !strncmp(word, "failed: ", 8) ? word + 8 : "its supervisor ended without a word\n";
    fprintf(stderr, "mlx-server-startup: the bridge did not start: %s", why);
    if (why[0] && why[strlen(why) - 1] != '\n') fputc('\n', stderr);
    await_end(pid);
    service_say_last_words(c, from);
    return EXIT_FAILED;
}

int service_start(service_config *c, const service_options *o) {
    lm_err err = {0};
    seen s;
    if (look(c, &s, &err) != LM_OK) return fail(&err);
    uint64_t from = service_log_size(service_text(c, SET_ERROR_LOG));
    if (s.supervisor) return wait_ready(c, 0, "waiting for mlx-ollama-bridge", "is running already", from);
    service_init init;
    if (service_init_find(o, &init)) {
        if (service_init_do(&init, "start", &err) != LM_OK) {
            fail(&err);
            service_say_last_words(c, from);
            return EXIT_FAILED;
        }
        return wait_ready(c, 0, "starting mlx-ollama-bridge", "is ready", from);
    }
    if (o->system) {
        fputs("mlx-server-startup: there is no service of the machine: sudo mlx-server-startup "
              "install-service --system\n",
              stderr);
        return EXIT_FAILED;
    }
    return start_ourselves(c, from);
}

/* ---- stop */

/* Until the lock is free, or in other hands, and the process that had it has ended, too. */
static bool wait_gone(const service_config *c, pid_t supervisor, int64_t limit_ns, progress *p) {
    uint64_t began = service_process_began(supervisor);
    for (uint64_t end = lm_now_ns() + (uint64_t)limit_ns;;) {
        pid_t now = 0;
        bool held =
            service_lock_holder(service_text(c, SET_PID), &now, NULL, NULL) != LM_OK || now == supervisor;
        if (!held && (!began || service_process_began(supervisor) != began)) return true;
        if (lm_now_ns() >= end) return false;
        tick(p);
        usleep(LOOK_US);
    }
}

/* A supervisor that does not react, and the bridge that it leaves. */
static void end_by_force(const service_config *c, const seen *s, progress *p) {
    kill(s->supervisor, SIGKILL);
    wait_gone(c, s->supervisor, 5 * SERVICE_SECOND_NS, p);
    if (s->state.phase != PHASE_COUNT) service_notify_remove(s->state.notify);
    if (s->state.phase != PHASE_COUNT && s->state.bridge && s->state.bridge_began &&
        service_process_began(s->state.bridge) == s->state.bridge_began)
        kill(s->state.bridge, SIGKILL);
}

static int invisible(const service_config *c) {
    fprintf(stderr,
            "mlx-server-startup: %s is locked by a process that cannot be seen from here (in another "
            "container?)\n",
            service_text(c, SET_PID));
    return EXIT_UNKNOWN;
}

int service_stop(service_config *c, const service_options *o) {
    lm_err err = {0};
    seen s;
    if (look(c, &s, &err) != LM_OK) return fail(&err);
    if (s.supervisor < 0) return invisible(c);
    service_init init;
    bool has_init = service_init_find(o, &init);
    if (!s.supervisor && !has_init) {
        puts("mlx-ollama-bridge is not running");
        return EXIT_DONE;
    }
    int64_t limit = s.state.phase != PHASE_COUNT && s.state.stop_ns ? s.state.stop_ns : LATEST_STOP;
    progress p = {.what = "stopping mlx-ollama-bridge: running answers are finished"};
    if (has_init) {
        if (service_init_do(&init, "stop", &err) != LM_OK) return fail(&err);
        if (!s.supervisor) return EXIT_DONE;
        wait_gone(c, s.supervisor, 2 * SERVICE_SECOND_NS,
                  &p); /* it may be one that the init system knows nothing of */
    }
    pid_t now = 0;
    if (service_lock_holder(service_text(c, SET_PID), &now, NULL, &err) != LM_OK) return fail(&err);
    if (now == s.supervisor && kill(s.supervisor, SIGTERM) && errno != ESRCH) {
        fprintf(stderr, "mlx-server-startup: cannot stop process %d: %s\n", (int)s.supervisor,
                strerror(errno));
        return EXIT_FAILED;
    }
    bool gone = wait_gone(c, s.supervisor, limit, &p);
    if (!gone) end_by_force(c, &s, &p);
    quiet(&p);
    printf("mlx-ollama-bridge has %s\n", gone ? "stopped" : "not reacted and was killed");
    return EXIT_DONE;
}

/* ---- restart, reload */

int service_restart(service_config *c, const service_options *o) {
    lm_err err = {0};
    seen s;
    if (look(c, &s, &err) != LM_OK) return fail(&err);
    if (s.supervisor < 0) return invisible(c);
    if (!s.supervisor) return service_start(c, o);
    uint64_t from = service_log_size(service_text(c, SET_ERROR_LOG));
    uint32_t n = s.state.phase == PHASE_COUNT ? 0 : s.state.n_starts;
    uint32_t n_reloads = s.state.n_reloads;
    /* What the configuration says now is what it starts with. */
    if (kill(s.supervisor, SIGHUP)) return service_start(c, o);
    for (uint64_t end = lm_now_ns() + (uint64_t)LATEST_STOP; lm_now_ns() < end; usleep(LOOK_US)) {
        if (look(c, &s, &err) != LM_OK) return fail(&err);
        if (!s.supervisor || s.state.phase == PHASE_COUNT || s.state.n_reloads != n_reloads) break;
    }
    if (s.supervisor && !strncmp(s.state.reload, "failed: ", 8)) {
        fprintf(stderr, "mlx-server-startup: nothing was restarted: %s\n", s.state.reload + 8);
        return EXIT_FAILED;
    }
    bool on_its_way = s.state.phase == PHASE_STOPPING || s.state.n_starts > n;
    if (s.supervisor && !on_its_way) kill(s.supervisor, SIGUSR1);
    return wait_ready(c, n, "restarting mlx-ollama-bridge: running answers are finished",
                      "has been restarted and is ready", from);
}

int service_reload(service_config *c, const service_options *o) {
    (void)o;
    lm_err err = {0};
    seen s;
    if (look(c, &s, &err) != LM_OK) return fail(&err);
    if (s.supervisor < 0) return invisible(c);
    if (!s.supervisor) {
        fprintf(stderr, "mlx-server-startup: mlx-ollama-bridge is not running: start it\n");
        return EXIT_STOPPED;
    }
    uint32_t n_reloads = s.state.n_reloads, n_starts = s.state.n_starts;
    uint64_t from = service_log_size(service_text(c, SET_ERROR_LOG));
    if (kill(s.supervisor, SIGHUP)) {
        fprintf(stderr, "mlx-server-startup: cannot reach process %d: %s\n", (int)s.supervisor,
                strerror(errno));
        return EXIT_FAILED;
    }
    progress p = {.what = "reloading"};
    do {
        tick(&p);
        usleep(LOOK_US);
        if (look(c, &s, &err) != LM_OK) return fail(&err);
    } while (s.supervisor && s.state.n_reloads == n_reloads);
    quiet(&p);
    if (!strncmp(s.state.reload, "failed: ", 8)) {
        fprintf(stderr, "mlx-server-startup: the configuration stays as it was: %s\n", s.state.reload + 8);
        return EXIT_FAILED;
    }
    printf("configuration read: %s\n", s.state.reload);
    bool restarts = !strcmp(s.state.reload, "the bridge is restarted");
    return wait_ready(c, restarts ? n_starts : n_starts - 1,
                      "restarting mlx-ollama-bridge: running answers are finished", "is ready", from);
}

/* ---- status */

static const char *phase_name(const seen *s, bool well) {
    if (!s->supervisor) return s->state.phase == PHASE_GAVE_UP ? "gave up" : s->left ? "dead" : "stopped";
    if (s->state.phase == PHASE_COUNT) return "unknown";
    return s->state.phase == PHASE_READY && !well ? "not answering" : service_phase_names[s->state.phase];
}

static int status_code(const seen *s, bool well) {
    if (s->supervisor < 0) return EXIT_UNKNOWN;
    if (!s->supervisor) return s->left ? EXIT_FAILED : EXIT_STOPPED;
    if (s->state.phase == PHASE_COUNT) return EXIT_UNKNOWN;
    return s->state.phase == PHASE_READY && well ? EXIT_DONE : EXIT_NOT_READY;
}

static void print_status(const service_config *c, const service_options *o, const seen *s, bool well,
                         const char *why) {
    char since[40];
    const service_state *t = &s->state;
    bool known = t->phase != PHASE_COUNT;
    lm_time_rfc3339(t->since_ns / SERVICE_SECOND_NS * SERVICE_SECOND_NS, since);
    printf("mlx-ollama-bridge: %s", phase_name(s, well));
    if (s->supervisor && known) printf(", %s, since %s", t->url, since);
    putchar('\n');
    if (s->supervisor > 0) printf("  supervisor  process %d\n", (int)s->supervisor);
    if (s->supervisor && known) {
        if (t->bridge)
            printf("  bridge      process %d%s%s\n", (int)t->bridge, t->status[0] ? ": " : "", t->status);
        printf("  requests    %llu\n  starts      %u, failures %u\n", (unsigned long long)t->n_requests,
               t->n_starts, t->n_failures);
    }
    if (known && t->trouble[0]) printf("  trouble     %s\n", t->trouble);
    if (why[0]) printf("  health      %s\n", why);
    if (!s->supervisor && s->left)
        printf("  PID file    %s was left behind: the supervisor was killed; `start` cleans up\n",
               service_text(c, SET_PID));
    service_init init;
    if (service_init_find(o, &init)) printf("  service     %s (%s)\n", init.label, init.path);
    printf("  log         %s\n  error log   %s\n", service_text(c, SET_LOG), service_text(c, SET_ERROR_LOG));
}

static void print_status_json(const service_config *c, const service_options *o, const seen *s, bool well,
                              const char *why) {
    const service_state *t = &s->state;
    bool known = t->phase != PHASE_COUNT, runs = s->supervisor != 0;
    json_t *doc = json_pack("{s:b,s:s,s:b}", "running", runs, "phase", phase_name(s, well), "healthy", well);
    if (s->supervisor > 0) json_object_set_new(doc, "supervisor", json_integer(s->supervisor));
    if (runs && known) {
        json_object_set_new(doc, "url", json_string(t->url));
        if (t->bridge) json_object_set_new(doc, "bridge", json_integer(t->bridge));
        json_object_set_new(doc, "since", json_integer((json_int_t)(t->since_ns / SERVICE_SECOND_NS)));
        json_object_set_new(doc, "starts", json_integer(t->n_starts));
        json_object_set_new(doc, "failures", json_integer(t->n_failures));
        json_object_set_new(doc, "reloads", json_integer(t->n_reloads));
        json_object_set_new(doc, "requests", json_integer((json_int_t)t->n_requests));
        json_object_set_new(doc, "status", json_string(t->status));
    }
    if (known && t->trouble[0]) json_object_set_new(doc, "trouble", json_string(t->trouble));
    if (why[0]) json_object_set_new(doc, "health", json_string(why));
    json_object_set_new(doc, "pid_file_left", json_boolean(!runs && s->left));
    service_init init;
    if (service_init_find(o, &init)) json_object_set_new(doc, "service", json_string(init.path));
    json_object_set_new(doc, "log", json_string(service_text(c, SET_LOG)));
    json_object_set_new(doc, "error_log", json_string(service_text(c, SET_ERROR_LOG)));
    json_dumpf(doc, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(doc);
}

int service_status(service_config *c, const service_options *o) {
    lm_err err = {0};
    seen s;
    char why[300] = "";
    if (look(c, &s, &err) != LM_OK) {
        fail(&err);
        return EXIT_UNKNOWN;
    }
    bool well = s.supervisor && s.state.phase == PHASE_READY && healthy(s.state.url, why);
    if (o->json)
        print_status_json(c, o, &s, well, why);
    else
        print_status(c, o, &s, well, why);
    return status_code(&s, well);
}
